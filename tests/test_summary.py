"""Tests of what the command line says about settings and servers."""

from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mcpguard import __version__
from mcpguard.config.settings import (
    AdminSettings,
    ApiKeySettings,
    AuditSettings,
    AuthSettings,
    JwtSettings,
    ListenerSettings,
    MtlsSettings,
    RateLimitSettings,
    RedisSettings,
    Secret,
    SecretText,
    ServerSettings,
    Settings,
    TlsSettings,
    UpstreamSettings,
)
from mcpguard.summary import startup_summary, upstream_findings, upstream_heading
from mcpguard.upstream.report import UpstreamReport

STDIO = UpstreamSettings(command="npx", args=("-y", "server", "/tmp"))
HTTP = UpstreamSettings(
    name="web", transport="http", url="https://h:8/mcp?token=hush", path_prefix="/w"
)
JWT = JwtSettings("jwks", "https://login.example", ("mcp",))
KEY = ApiKeySettings("a", b"x" * 32)
SETTINGS = Settings(upstreams=(STDIO,), auth=AuthSettings((KEY,)))
REPORT = UpstreamReport(
    name="default",
    transport="stdio",
    ok=True,
    error="",
    server_name="@modelcontextprotocol/server-filesystem",
    server_version="0.6.2",
    protocol="2025-11-25",
    eras=("handshake",),
    tools=("read_file", "write_file"),
    seconds=0.1,
)


class StartupTests(SynchronousTestCase):
    """The startup summary."""

    def test_terminal(self) -> None:
        """The form of the user guide."""
        bar = "─" * 46
        title = f"MCP Guard v{__version__}".ljust(44)
        self.assertEqual(
            startup_summary(SETTINGS, ("http://127.0.0.1:3000",)),
            f"╭{bar}╮\n"
            f"│  {title}│\n"
            f"╰{bar}╯\n"
            "\n"
            "✓ Server:     http://127.0.0.1:3000\n"
            "✓ Auth:       API Keys (1)\n"
            "✓ Transport:  stdio → npx\n"
            "✓ Rate Limit: 100 req/s, burst 50\n"
            "✓ Audit:      Enabled\n"
            "\n"
            "Ready for requests!",
        )

    def test_plain(self) -> None:
        """Where there is no terminal: ASCII only."""
        text = startup_summary(SETTINGS, ("http://[::1]:1",), plain=True)
        self.assertTrue(text.isascii())
        self.assertEqual(
            text.split("\n")[:6],
            [
                f"MCP Guard v{__version__}",
                "",
                "ok Server:     http://[::1]:1",
                "ok Auth:       API Keys (1)",
                "ok Transport:  stdio -> npx",
                "ok Rate Limit: 100 req/s, burst 50",
            ],
        )

    def test_workers(self) -> None:
        """How many processes serve, where it is more than this one."""
        text = startup_summary(SETTINGS, ("http://h:1",), workers=3, plain=True)
        self.assertIn("ok Server:     http://h:1\nok Workers:    3\nok Auth:", text)
        self.assertNotIn("Workers", startup_summary(SETTINGS, (), workers=1, plain=True))

    def test_listeners(self) -> None:
        """Each with what it speaks, and whose certificates it wants."""
        own = TlsSettings(Path("/c"), Path("/k"))
        asking = evolve(own, client_ca_path=Path("/ca"))
        server = ServerSettings(
            listeners=(
                ListenerSettings(1, tls=own),
                ListenerSettings(2, tls=asking),
                ListenerSettings(3, tls=evolve(asking, client_auth="optional")),
            )
        )
        urls = ("http://h:0", "https://h:1", "https://h:2", "https://h:3")
        text = startup_summary(evolve(SETTINGS, server=server), urls, plain=True)
        self.assertIn(
            "ok Server:     http://h:0\n"
            "ok Server:     https://h:1 (TLS)\n"
            "ok Server:     https://h:2 (TLS, client certificates required)\n"
            "ok Server:     https://h:3 (TLS, client certificates optional)\n",
            text,
        )

    def test_several_servers(self) -> None:
        """Each with its path; a query, which may hold a token, is not shown."""
        settings = evolve(SETTINGS, upstreams=(STDIO, HTTP, evolve(STDIO, name="fs")))
        text = startup_summary(settings, (), plain=True)
        self.assertIn("Transport:  stdio -> npx at /mcp\n", text)
        self.assertIn("Transport:  http -> https://h:8/mcp at /mcp/w\n", text)
        self.assertIn("Transport:  stdio -> npx at /mcp/fs\n", text)
        self.assertNotIn("hush", text)

    def test_what_deserves_a_second_look(self) -> None:
        """No authentication, no limits, no audit; and the operator listener."""
        settings = Settings(
            upstreams=(STDIO,),
            admin=AdminSettings(),
            rate_limit=RateLimitSettings(enabled=False),
            audit=AuditSettings(enabled=False),
        )
        text = startup_summary(settings, ())
        for line in (
            "✓ Admin:      127.0.0.1 port 9090",
            "! Auth:       none configured: every MCP request is refused",
            "! Rate Limit: Disabled",
            "! Audit:      Disabled",
        ):
            self.assertIn(line + "\n", text)

    def test_ways_to_sign_in(self) -> None:
        """All that are configured and on, in the order they are asked."""
        for auth, words in (
            (evolve(SETTINGS.auth, jwt=JWT), "API Keys (1), JWT (jwks)"),
            (AuthSettings(jwt=evolve(JWT, mode="simple")), "JWT (simple)"),
            (AuthSettings(mtls=MtlsSettings(enabled=True)), "Client Certificates"),
            (
                evolve(SETTINGS.auth, jwt=JWT, mtls=MtlsSettings(enabled=True)),
                "Client Certificates, API Keys (1), JWT (jwks)",
            ),
            (evolve(SETTINGS.auth, mtls=MtlsSettings()), "API Keys (1)"),
        ):
            text = startup_summary(evolve(SETTINGS, auth=auth), (), plain=True)
            self.assertIn(f"ok Auth:       {words}\n", text)

    def test_shared_limits(self) -> None:
        """That limits are shared is said, and not with whom: the URL may hold a password."""
        redis = RedisSettings(Secret("redis://:hush@cache"))
        settings = evolve(SETTINGS, rate_limit=RateLimitSettings(redis=redis))
        text = startup_summary(settings, (), plain=True)
        self.assertIn("ok Rate Limit: 100 req/s, burst 50, shared through Redis\n", text)
        self.assertNotIn("hush", text)

    def test_secrets(self) -> None:
        """A command or URL given by reference is shown as its source."""
        for upstream in (
            evolve(STDIO, command=SecretText("hush", "file /s")),
            evolve(HTTP, url=SecretText("https://hush/", "file /s")),
        ):
            text = startup_summary(evolve(SETTINGS, upstreams=(upstream,)), ())
            self.assertNotIn("hush", text)
            self.assertIn("<file /s>", text)


class CheckTests(SynchronousTestCase):
    """The words of check-upstream."""

    def test_heading(self) -> None:
        """The form of the user guide; the name only where there are several."""
        self.assertEqual(
            upstream_heading(STDIO, several=False),
            'Transport: stdio\nCommand:   npx\nArgs:      ["-y", "server", "/tmp"]',
        )
        self.assertEqual(
            upstream_heading(HTTP, several=True),
            "Upstream:  web\nTransport: http\nURL:       https://h:8/mcp",
        )

    def test_secret_argument(self) -> None:
        """An argument given by reference is shown as its source."""
        upstream = evolve(STDIO, args=("-k", SecretText("hush", "environment variable K")))
        self.assertIn(
            'Args:      ["-k", "<environment variable K>"]',
            upstream_heading(upstream, several=False),
        )

    def test_findings(self) -> None:
        """Name, version, protocol, tools, and the good news."""
        self.assertEqual(
            upstream_findings(REPORT, plain=False),
            "Server: @modelcontextprotocol/server-filesystem v0.6.2\n"
            "Protocol: 2025-11-25 (handshake)\n"
            "Tools (2): read_file, write_file\n"
            "✓ Upstream is reachable and responding",
        )
        self.assertTrue(
            upstream_findings(REPORT, plain=True).endswith(
                "\nok Upstream is reachable and responding"
            )
        )

    def test_no_tools(self) -> None:
        """A server without tools is not a broken line."""
        found = upstream_findings(evolve(REPORT, tools=()), plain=True)
        self.assertIn("\nTools (0)\n", found)

    def test_failure(self) -> None:
        """The reason, on one line."""
        report = evolve(REPORT, ok=False, error="exit status 1\nTraceback")
        self.assertEqual(
            upstream_findings(report, plain=False),
            "✗ Upstream did not answer: exit status 1?Traceback",
        )
        self.assertTrue(upstream_findings(report, plain=True).startswith("failed Upstream"))

    def test_a_server_that_talks_to_the_terminal(self) -> None:
        """What the server says of itself is cut and cannot steer the terminal."""
        report = evolve(
            REPORT,
            server_name="x\x1b[2J\n",
            tools=("t\r\u202e", "y" * 5000, *(f"t{n}" for n in range(1000))),
        )
        found = upstream_findings(report, plain=True)
        self.assertTrue(all(c.isprintable() or c == "\n" for c in found))
        self.assertIn("Server: x?[2J? v", found)
        self.assertIn("and 502 more", found)
        self.assertLess(len(found), 6000)
