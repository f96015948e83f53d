"""Tests of the Host and Origin rules."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import CorsSettings, ListenerSettings, ServerSettings
from mcpguard.errors import ConfigurationError
from mcpguard.policy.origins import (
    Authority,
    OriginRules,
    build_rules,
    check_host,
    check_origin,
    normal_origin,
    parse_authority,
)

LOOPBACK = build_rules(ServerSettings(), 3000)
PUBLIC = build_rules(
    ServerSettings(host="0.0.0.0", public_url="https://mcp.example.com:8443/mcp"), 3000
)
ANY = build_rules(ServerSettings(host="0.0.0.0"), 3000)


class ParseTests(SynchronousTestCase):
    """`parse_authority` and `normal_origin` read one form, or nothing."""

    def test_authorities(self) -> None:
        """Names and addresses with and without ports, in their one form."""
        for text, authority in (
            ("localhost", Authority("localhost")),
            ("LocalHost:3000", Authority("localhost", 3000)),
            ("example.com.", Authority("example.com")),
            ("example.com.:80", Authority("example.com", 80)),
            ("127.0.0.1:0", Authority("127.0.0.1", 0)),
            ("[::1]", Authority("::1")),
            ("[0:0:0:0:0:0:0:1]:65535", Authority("::1", 65535)),
            ("a" * 253, Authority("a" * 253)),
        ):
            self.assertEqual(parse_authority(text), authority)

    def test_none(self) -> None:
        """Anything else is no authority."""
        for text in (
            "",
            ":80",
            "a b",
            " localhost",
            "user@localhost",
            "localhost/",
            "localhost:",
            "localhost:x",
            "localhost:+1",
            "localhost:65536",
            "localhost:000080",
            "localhost:\u0661",
            "localhost:80:80",
            "::1",
            "[::1",
            "[::1]x",
            "[localhost]",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "localhost,evil.com",
            "ex\u00e4mple.com",
            "a" * 254,
            "localhost\0",
        ):
            self.assertIsNone(parse_authority(text), text)

    def test_origins(self) -> None:
        """Case, root dot and default port go; what is no origin is nothing."""
        for text, origin in (
            ("http://Example.com:80", "http://example.com"),
            ("HTTPS://example.com.:443/", "https://example.com"),
            ("http://example.com:443", "http://example.com:443"),
            ("http://[::0001]:80", "http://[::1]"),
            ("vscode-webview://AbC", "vscode-webview://abc"),
            ("null", None),
            ("", None),
            ("example.com", None),
            ("http://", None),
            ("http://a/b", None),
            ("http://u@a", None),
            ("http://a b", None),
        ):
            self.assertEqual(normal_origin(text), origin)


class ListenerTests(SynchronousTestCase):
    """Several listeners have one set of rules: what each of them is known by."""

    def test_names_of_all(self) -> None:
        """The names of loopback, and the public hosts of the others."""
        rules = build_rules(
            ServerSettings(
                listeners=(
                    ListenerSettings(8443, "0.0.0.0", "https://mcp.example.com"),
                    ListenerSettings(8444, "10.0.0.1", "https://internal.example.com:8444"),
                )
            ),
            3000,
        )
        for host in ("localhost:3000", "mcp.example.com", "internal.example.com:8444"):
            self.assertTrue(check_host([host], rules), host)
        for host in ("10.0.0.1:8444", "evil.com"):
            self.assertFalse(check_host([host], rules), host)
        for origin in ("https://mcp.example.com", "https://internal.example.com:8444"):
            self.assertTrue(check_origin([origin], ["localhost"], rules), origin)
        # A page of any local application is a stranger's at a listener for everybody.
        self.assertFalse(check_origin(["http://localhost:9"], ["mcp.example.com"], rules))

    def test_the_url_of_the_server(self) -> None:
        """A listener without a URL of its own is known by the one of ``[server]``."""
        rules = build_rules(
            ServerSettings(
                public_url="https://mcp.example.com", listeners=(ListenerSettings(8443, "::"),)
            ),
            3000,
        )
        self.assertTrue(check_host(["mcp.example.com"], rules))
        self.assertFalse(check_host(["evil.com"], rules))

    def test_one_is_known_by_any_name(self) -> None:
        """Where one of them has no name, every name may be its."""
        rules = build_rules(ServerSettings(listeners=(ListenerSettings(8443, "0.0.0.0"),)), 3000)
        self.assertIsNone(rules.hosts)

    def test_all_on_loopback(self) -> None:
        """Local applications are let in where nobody else can come."""
        rules = build_rules(ServerSettings(listeners=(ListenerSettings(3001, "::1"),)), 3000)
        self.assertTrue(check_origin(["http://localhost:9"], ["localhost:3001"], rules))


class HostTests(SynchronousTestCase):
    """`check_host` lets in the names we are known by."""

    def test_loopback(self) -> None:
        """Bound to loopback, its names on any port."""
        for host in ("localhost", "127.0.0.1:3000", "[::1]:9", "LOCALHOST.:1"):
            self.assertTrue(check_host([host], LOOPBACK), host)
        for host in ("evil.com", "localhost.evil.com", "127.0.0.1.nip.io", "127.0.0.2", "127.1"):
            self.assertFalse(check_host([host], LOOPBACK), host)

    def test_other_loopback_addresses(self) -> None:
        """The address bound is a name too."""
        rules = build_rules(ServerSettings(host="127.0.0.2"), 3000)
        self.assertTrue(check_host(["127.0.0.2:3000"], rules))
        for host in ("localhost", "LOCALHOST", "::1", "127.0.0.53"):
            self.assertIsNotNone(build_rules(ServerSettings(host=host), 3000).hosts)

    def test_loopback_behind_a_proxy(self) -> None:
        """A proxy on the same machine may pass the public name on."""
        rules = build_rules(ServerSettings(public_url="https://mcp.example.com/"), 3000)
        self.assertTrue(check_host(["mcp.example.com"], rules))
        self.assertTrue(check_host(["localhost:3000"], rules))
        self.assertFalse(check_host(["evil.com"], rules))

    def test_public_url(self) -> None:
        """Bound elsewhere, the public host on any port."""
        for host in ("mcp.example.com:8443", "MCP.example.com", "mcp.example.com:3000"):
            self.assertTrue(check_host([host], PUBLIC), host)
        for host in ("example.com", "localhost", "10.0.0.1:3000"):
            self.assertFalse(check_host([host], PUBLIC), host)

    def test_any(self) -> None:
        """Bound elsewhere without a public name, any host that is one."""
        self.assertIsNone(ANY.hosts)
        self.assertTrue(check_host(["whatever.example"], ANY))
        self.assertFalse(check_host(["what ever"], ANY))
        self.assertIsNone(build_rules(ServerSettings(host="box.example"), 3000).hosts)
        self.assertFalse(check_origin(["http://localhost:5"], ["a.example"], ANY))

    def test_listed(self) -> None:
        """A list is the whole truth; an entry with a port means that port only."""
        rules = build_rules(
            ServerSettings(
                allowed_hosts=("a.example", "b.example:8443", "::1", "[fd00::1]:1"),
                public_url="https://c.example",
            ),
            3000,
        )
        for host in ("a.example", "a.example:1", "b.example:8443", "[::1]:5", "[fd00::1]:1"):
            self.assertTrue(check_host([host], rules), host)
        for host in ("b.example", "b.example:8444", "localhost", "c.example", "[fd00::1]"):
            self.assertFalse(check_host([host], rules), host)
        nobody = build_rules(ServerSettings(allowed_hosts=()), 3000)
        self.assertFalse(check_host(["localhost"], nobody))

    def test_exactly_one(self) -> None:
        """A request without a Host, or with two, is refused everywhere."""
        for rules in (LOOPBACK, PUBLIC, ANY):
            self.assertFalse(check_host([], rules))
            self.assertFalse(check_host(["localhost", "localhost"], rules))

    def test_bad_entries(self) -> None:
        """Entries that are no host or origin stop the start, all of them named."""
        server = ServerSettings(
            allowed_hosts=("a/b", "*"), allowed_origins=("example.com", "http://a/b", "https://ok")
        )
        with self.assertRaises(ConfigurationError) as caught:
            build_rules(server, 3000)
        self.assertEqual(len(caught.exception.problems), 4)


class OriginTests(SynchronousTestCase):
    """`check_origin` lets in our own pages, listed ones and local applications."""

    def assertOrigins(
        self, rules: OriginRules, host: str, good: tuple[str, ...], bad: tuple[str, ...]
    ) -> None:
        """With this Host, these origins pass and those do not."""
        for origin in good:
            self.assertTrue(check_origin([origin], [host], rules), origin)
        for origin in bad:
            self.assertFalse(check_origin([origin], [host], rules), origin)

    def test_absent(self) -> None:
        """Who is no browser sends none."""
        self.assertTrue(check_origin([], ["localhost"], LOOPBACK))

    def test_never(self) -> None:
        """Two of them, ``null``, and what is no origin are refused everywhere."""
        for rules in (LOOPBACK, PUBLIC, ANY):
            for origins in (["null"], [""], ["x"], ["http://localhost", "http://localhost"]):
                self.assertFalse(check_origin(origins, ["localhost"], rules), origins)

    def test_loopback(self) -> None:
        """Pages of local applications on any port, and nobody else's."""
        self.assertOrigins(
            LOOPBACK,
            "localhost:3000",
            ("http://localhost:6274", "http://127.0.0.1", "https://[::1]:8"),
            (
                "http://evil.com",
                "http://localhost.evil.com",
                "http://127.0.0.2:3000",
                "http://evil.com:3000",
                "file://localhost",
                "vscode-webview://localhost",
            ),
        )

    def test_rebinding(self) -> None:
        """A name that was made to point here brings its own origin, and fails by its Host."""
        evil = "evil.com:3000"
        self.assertFalse(check_host([evil], LOOPBACK))
        self.assertFalse(check_origin([f"http://{evil}"], [evil], LOOPBACK))

    def test_same_origin(self) -> None:
        """The Host's own origin passes, whatever the scheme; another port is another origin."""
        self.assertOrigins(
            PUBLIC,
            "mcp.example.com:3000",
            ("http://mcp.example.com:3000", "https://MCP.example.com:3000"),
            ("http://mcp.example.com", "https://mcp.example.com:3001", "http://localhost:3000"),
        )
        self.assertOrigins(
            PUBLIC,
            "mcp.example.com",
            ("http://mcp.example.com", "https://mcp.example.com:443"),
            ("http://mcp.example.com:443", "https://mcp.example.com:80"),
        )

    def test_public_origin(self) -> None:
        """The public URL's origin passes even where a proxy rewrites the Host."""
        rules = build_rules(ServerSettings(public_url="https://u:p@mcp.example.com/mcp"), 3000)
        self.assertOrigins(
            rules,
            "127.0.0.1:3000",
            ("https://mcp.example.com",),
            ("http://mcp.example.com", "https://mcp.example.com:8443"),
        )

    def test_any_host(self) -> None:
        """Where any host will do, an origin must still be the request's own."""
        self.assertOrigins(
            ANY, "a.example:3000", ("http://a.example:3000",), ("http://b.example:3000",)
        )

    def test_listed(self) -> None:
        """A list replaces what loopback would let in by itself."""
        server = ServerSettings(
            allowed_origins=("https://app.example:443", "vscode-webview://x"),
            public_url="https://mcp.example.com",
        )
        self.assertOrigins(
            build_rules(server, 3000),
            "localhost:3000",
            ("https://app.example", "vscode-webview://X", "http://localhost:3000"),
            ("http://app.example", "http://localhost:6274", "https://mcp.example.com"),
        )

    def test_cors(self) -> None:
        """Origins for CORS count when it is on, and only then."""
        for enabled in (True, False):
            cors = CorsSettings(enabled=enabled, allowed_origins=("https://app.example",))
            rules = build_rules(ServerSettings(cors=cors), 3000)
            passed = check_origin(["https://app.example"], ["localhost:3000"], rules)
            self.assertEqual(passed, enabled)
            self.assertTrue(check_origin(["http://localhost:5"], ["localhost:3000"], rules))

    def test_star(self) -> None:
        """A star lists every origin, but ``null`` is none."""
        rules = build_rules(ServerSettings(allowed_origins=("*",)), 3000)
        self.assertTrue(check_origin(["https://evil.com"], ["localhost"], rules))
        self.assertFalse(check_origin(["null"], ["localhost"], rules))

    @settings(deadline=None, max_examples=200)
    @given(st.text("localhost:/[]1.@%", max_size=20), st.text("localhost:/[]1.@%", max_size=20))
    def test_noise(self, host: str, origin: str) -> None:
        """Noise never breaks the checks, and passes only as a loopback name."""
        if check_host([host], LOOPBACK):
            named = parse_authority(host)
            assert named is not None
            self.assertIn(named.host, ("localhost", "127.0.0.1", "::1"))
        if check_origin([f"http://{origin}"], ["localhost"], LOOPBACK):
            asking = parse_authority(origin.removesuffix("/"))
            assert asking is not None
            self.assertIn(asking.host, ("localhost", "127.0.0.1", "::1"))
