"""Tests of judging raw paths and joining them to a URL."""

from urllib.parse import unquote

from hypothesis import given, settings, strategies
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.paths import split_path
from mcpguard.upstream.target import Target


class SplitPathTests(SynchronousTestCase):
    """`split_path`."""

    def test_plain(self) -> None:
        """Segments stand as they were written, percent-encoding and all."""
        self.assertEqual(split_path("/mcp"), ("mcp",))
        self.assertEqual(split_path("/mcp/a%20b/c;v=1/~x"), ("mcp", "a%20b", "c;v=1", "~x"))

    def test_two_readings(self) -> None:
        """Nothing passes that another reader could split otherwise."""
        for bad in (
            "",
            "mcp",
            "/",
            "//",
            "/mcp/",
            "/mcp//x",
            "/mcp/.",
            "/mcp/..",
            "/mcp/../x",
            "/mcp/..;/x",
            "/mcp/.;a=b",
            "/mcp/;x",
            "/mcp/%2e%2E/x",
            "/mcp/a%2fb",
            "/mcp/a%5Cb",
            "/mcp/a\\b",
            "/mcp/%252e",
            "/mcp/%00",
            "/mcp/%0d%0a",
            "/mcp/%7f",
            "/mcp/%",
            "/mcp/%2",
            "/mcp/%zz",
            "/mcp/a b",
            "/mcp/a?b",
            "/mcp/a#b",
            "/mcp/é",
            "/mcp/\r\nX: y",
        ):
            self.assertIsNone(split_path(bad), bad)

    @settings(deadline=None, max_examples=200)
    @given(strategies.text(alphabet="/.%25efEF;amcp\\", max_size=20))
    def test_segments_are_segments(self, path: str) -> None:
        """Whatever passes, decoded as often as one likes, has the same number of segments."""
        segments = split_path(path)
        if segments is None:
            return
        for _ in range(3):
            path = unquote(path)
            self.assertEqual(len(path.split("/")) - 1, len(segments))
            self.assertFalse({"", ".", ".."} & set(path.split("/")[1:]))


class TargetTests(SynchronousTestCase):
    """`Target`."""

    def test_as_written(self) -> None:
        """Without a remainder the URL is used as it is written."""
        for url in (
            "http://h/mcp",
            "http://h/mcp/",
            "https://h.example:8443/a/b?x=1&y=%2F",
            "http://[::1]:8080/mcp",
            "http://127.0.0.1:3000/",
            "http://h_1.local/mcp",
        ):
            self.assertEqual(Target.parse(url).url(), url)

    def test_canonical(self) -> None:
        """Default ports go, hosts become lower case, an empty path becomes a slash."""
        self.assertEqual(Target.parse("http://Host:80").url(), "http://host/")
        self.assertEqual(Target.parse("https://h:443/x").url(), "https://h/x")
        self.assertEqual(Target.parse("http://[0:0::1]/x").url(), "http://[::1]/x")

    def test_remainder(self) -> None:
        """A remainder goes behind the path and before the query."""
        for url, whole in (
            ("http://h/mcp", "http://h/mcp/fs/a%20b"),
            ("http://h/mcp/", "http://h/mcp/fs/a%20b"),
            ("http://h", "http://h/fs/a%20b"),
            ("http://h/mcp?k=v", "http://h/mcp/fs/a%20b?k=v"),
        ):
            self.assertEqual(Target.parse(url).url("/fs/a%20b"), whole)

    def test_bad_remainder(self) -> None:
        """No remainder climbs, brings a query or changes the host."""
        target = Target.parse("http://h/mcp")
        for bad in ("/..", "/a/../b", "x", "@evil/", "/a?b", "/a#b", "//evil", "/%2e%2e/a"):
            self.assertRaises(ValueError, target.url, bad)

    def test_bad_urls(self) -> None:
        """What cannot be an MCP server's URL is refused with words, without quoting it."""
        for bad in (
            "",
            "mcp",
            "ftp://h/",
            "unix:///run/x",
            "http://",
            "http:///mcp",
            "http://user:secret@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://h:x/",
            "http://h/#secret",
            "http://h/?",
            "http://h/ secret",
            "http://é/",
            "http://h\r\nX: y/",
            "http://[::1",
            "http://[fe80::1%25eth0]/",
            "http://-h/",
            "http://h%41/",
        ):
            error = self.assertRaises(ValueError, Target.parse, bad)
            self.assertNotIn("secret", str(error))

    def test_repr(self) -> None:
        """A URL may hold a secret; its repr does not show it."""
        self.assertNotIn("hush", repr(Target.parse("http://h/hush?key=hush")))
