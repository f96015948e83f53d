"""Tests of finding the upstream of a path."""

from typing import Any

from hypothesis import given, settings, strategies
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import UpstreamSettings
from mcpguard.errors import ConfigurationError
from mcpguard.upstream.directory import UpstreamDirectory
from mcpguard.upstream.link import Standing, Upstream


class NamedUpstream:
    """An upstream that is only named."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.name = settings.name
        self.transport = settings.transport
        self.standing = Standing(settings.name != "down")


def directory(*entries: dict[str, Any]) -> UpstreamDirectory:
    """A directory of upstreams with these settings; http unless said otherwise."""
    pairs: list[tuple[UpstreamSettings, Upstream]] = []
    for entry in entries:
        settings = UpstreamSettings(**{"transport": "http", **entry})
        pairs.append((settings, NamedUpstream(settings)))  # type: ignore[arg-type]
    return UpstreamDirectory(pairs)


def where(found: UpstreamDirectory, path: str) -> tuple[str, str, str] | None:
    """Name, remainder and public path of a route."""
    route = found.resolve(path)
    return None if route is None else (route.upstream.name, route.path, route.public_path)


class ResolveTests(SynchronousTestCase):
    """`UpstreamDirectory.resolve`."""

    def setUp(self) -> None:
        """One of each kind."""
        self.all = directory(
            {"name": "default", "transport": "stdio"},
            {"name": "filesystem", "path_prefix": "/fs", "transport": "stdio"},
            {"name": "github", "path_prefix": "/gh"},
            {"name": "enterprise", "path_prefix": "/gh/enterprise", "strip_prefix": True},
            {"name": "plain"},
        )

    def test_root(self) -> None:
        """``/mcp`` is the server named default without a prefix."""
        self.assertEqual(where(self.all, "/mcp"), ("default", "", "/mcp"))
        self.assertEqual(where(self.all, "/mcp/default"), ("default", "", "/mcp/default"))

    def test_no_root(self) -> None:
        """Without such a server there is nothing at ``/mcp``."""
        self.assertIsNone(where(directory({"name": "a", "path_prefix": "/a"}), "/mcp"))
        self.assertIsNone(where(directory({"name": "a"}), "/mcp"))
        self.assertIsNone(where(directory({"name": "default", "path_prefix": "/d"}), "/mcp"))

    def test_prefix_and_name(self) -> None:
        """A server is found by its prefix and by its name, each on its own path."""
        self.assertEqual(where(self.all, "/mcp/fs"), ("filesystem", "", "/mcp/fs"))
        self.assertEqual(where(self.all, "/mcp/filesystem"), ("filesystem", "", "/mcp/filesystem"))
        self.assertEqual(where(self.all, "/mcp/plain"), ("plain", "", "/mcp/plain"))

    def test_remainder(self) -> None:
        """A remainder goes up with the prefix, unless it is to be stripped."""
        self.assertEqual(where(self.all, "/mcp/gh/a/b"), ("github", "/gh/a/b", "/mcp/gh"))
        self.assertEqual(where(self.all, "/mcp/github/a"), ("github", "/gh/a", "/mcp/github"))
        self.assertEqual(where(self.all, "/mcp/plain/a%20b")[1:], ("/plain/a%20b", "/mcp/plain"))  # type: ignore[index]
        self.assertEqual(
            where(self.all, "/mcp/gh/enterprise/a"), ("enterprise", "/a", "/mcp/gh/enterprise")
        )

    def test_exact_prefix_is_no_remainder(self) -> None:
        """At the exact prefix nothing goes behind the URL, stripped or not."""
        self.assertEqual(where(self.all, "/mcp/gh"), ("github", "", "/mcp/gh"))
        self.assertEqual(
            where(self.all, "/mcp/gh/enterprise"), ("enterprise", "", "/mcp/gh/enterprise")
        )

    def test_longest_prefix(self) -> None:
        """The longest prefix wins, on segment boundaries."""
        self.assertEqual(where(self.all, "/mcp/gh/enterprises")[0], "github")  # type: ignore[index]
        self.assertEqual(where(self.all, "/mcp/gh/enterprise/x")[0], "enterprise")  # type: ignore[index]

    def test_every_url_takes_a_remainder(self) -> None:
        """Whichever transport is spoken at it."""
        for transport, taken in (("http", True), ("sse", True), ("stdio", False)):
            found = where(directory({"name": "a", "transport": transport}), "/mcp/a/x")
            self.assertEqual(found is not None, taken, transport)

    def test_stdio_takes_no_remainder(self) -> None:
        """There is nothing to append to a child process."""
        self.assertIsNone(where(self.all, "/mcp/fs/x"))
        self.assertIsNone(where(self.all, "/mcp/default/x"))

    def test_unknown(self) -> None:
        """What nobody serves is not given to the default server."""
        for path in ("/mcp/other", "/mcpx", "/mc", "/other", "/MCP", "/mcp/FS", "/mcp/f%73"):
            self.assertIsNone(where(self.all, path), path)

    def test_two_readings(self) -> None:
        """A path that could be read in two ways leads nowhere."""
        for path in (
            "/mcp/",
            "//mcp",
            "/mcp//fs",
            "/mcp/gh/",
            "/mcp/gh/../fs",
            "/mcp/gh/%2e%2e/fs",
            "/mcp/gh%2fenterprise",
            "/mcp/plain/..;/x",
            "/mcp/plain\\x",
        ):
            self.assertIsNone(where(self.all, path), path)

    @settings(deadline=None, max_examples=150)
    @given(
        strategies.lists(
            strategies.lists(strategies.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3),
            min_size=1,
            max_size=5,
            unique_by=tuple,
        ),
        strategies.lists(strategies.sampled_from(["a", "b", "ab", "aba"]), max_size=4),
    )
    def test_never_inside_a_segment(self, prefixes: list[list[str]], rest: list[str]) -> None:
        """The route's prefix is a whole number of the path's segments, and none longer fits."""
        entries = [
            {"name": f"server{number}", "path_prefix": "/" + "/".join(prefix)}
            for number, prefix in enumerate(prefixes)
        ]
        found = where(directory(*entries), "/".join(["/mcp", *rest]))
        fitting = [prefix for prefix in prefixes if prefix == rest[: len(prefix)]]
        if not fitting:
            self.assertIsNone(found)
            return
        longest = max(fitting, key=len)
        remainder = "/".join(["", *rest]) if len(rest) > len(longest) else ""
        expected = (
            f"server{prefixes.index(longest)}",
            remainder,
            "/".join(["/mcp", *longest]),
        )
        self.assertEqual(found, expected)


class BuildTests(SynchronousTestCase):
    """What a directory may hold, and what it tells."""

    def test_describe(self) -> None:
        """One row for each server, in file order, telling whether it can be used."""
        found = directory(
            {"name": "default", "transport": "stdio"},
            {"name": "down", "path_prefix": "/gh"},
            {"name": "plain"},
        )
        self.assertEqual(
            found.describe(),
            (
                {"name": "default", "path": "/mcp", "transport": "stdio", "usable": True},
                {"name": "down", "path": "/mcp/gh", "transport": "http", "usable": False},
                {"name": "plain", "path": "/mcp/plain", "transport": "http", "usable": True},
            ),
        )
        self.assertEqual([one.name for one in found.upstreams], ["default", "down", "plain"])

    def test_collisions(self) -> None:
        """Two servers at one path, by name or prefix, are refused."""
        for entries in (
            ({"name": "a"}, {"name": "a"}),
            ({"name": "a", "path_prefix": "/x"}, {"name": "b", "path_prefix": "/x"}),
            ({"name": "a", "path_prefix": "/b"}, {"name": "b"}),
        ):
            self.assertRaises(ConfigurationError, directory, *entries)

    def test_own_name_as_prefix(self) -> None:
        """A prefix may be the server's own name."""
        self.assertEqual(
            where(directory({"name": "a", "path_prefix": "/a"}), "/mcp/a"), ("a", "", "/mcp/a")
        )

    def test_unusable_prefixes(self) -> None:
        """A prefix that could be read in two ways is refused, all of them at once."""
        error = self.assertRaises(
            ConfigurationError,
            directory,
            {"name": "a", "path_prefix": "/"},
            {"name": "b", "path_prefix": "/x/../y"},
            {"name": "c", "path_prefix": "/x/"},
            {"name": "d", "path_prefix": "x"},
            {"name": "with space"},
        )
        self.assertEqual(len(error.problems), 5)

    def test_odd_name_with_prefix(self) -> None:
        """A name that cannot stand in a path is no problem where there is a prefix."""
        found = directory({"name": "with space", "path_prefix": "/x"})
        self.assertEqual(where(found, "/mcp/x"), ("with space", "", "/mcp/x"))
