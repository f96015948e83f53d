"""Tests of the URLs that clients know us by."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.public_urls import comparable, endpoint_url, metadata_url, public_path


class PublicUrlTests(SynchronousTestCase):
    """A path of ours behind a public URL."""

    def test_endpoints(self) -> None:
        """The path goes behind that of the URL, and ``/mcp`` is not said twice."""
        for url, path, expected in (
            ("https://h", "/mcp", "https://h/mcp"),
            ("https://h/", "/mcp/fs", "https://h/mcp/fs"),
            ("https://h:8443", "/sse", "https://h:8443/sse"),
            ("http://[::1]:3000", "/mcp", "http://[::1]:3000/mcp"),
            ("https://h/gw", "/mcp", "https://h/gw/mcp"),
            ("https://h/mcp", "/mcp", "https://h/mcp"),
            ("https://h/gw/mcp", "/mcp/fs", "https://h/gw/mcp/fs"),
            ("https://h/gw/mcp", "/mcp/fs/sse", "https://h/gw/mcp/fs/sse"),
            ("https://h/mcp", "/sse", "https://h/mcp/sse"),
            ("https://h/xmcp", "/mcp", "https://h/xmcp/mcp"),
            ("https://h/mcp/fs", "/mcp/fs", "https://h/mcp/fs/mcp/fs"),
        ):
            self.assertEqual(endpoint_url(url, path), expected)

    def test_metadata(self) -> None:
        """The well-known part stands right behind the host (RFC 9728, section 3.1)."""
        known = "/.well-known/oauth-protected-resource"
        for url, path, expected in (
            ("https://h", "/mcp", f"https://h{known}/mcp"),
            ("https://h/gw", "/mcp/fs", f"https://h{known}/gw/mcp/fs"),
            ("https://h/gw/mcp", "/mcp", f"https://h{known}/gw/mcp"),
            ("https://h/gw", None, f"https://h{known}"),
        ):
            self.assertEqual(metadata_url(url, path), expected)

    def test_comparable(self) -> None:
        """What leads to one place is one text; what does not stays apart."""
        same = ("https://h/mcp/fs", "HTTPS://H:443/mcp/fs/", "https://h/mcp/fs//")
        self.assertEqual({comparable(url) for url in same}, {"https://h/mcp/fs"})
        for url, expected in (
            ("http://h:80", "http://h/"),
            ("http://h/", "http://h/"),
            ("http://[::A]:80/x", "http://[::a]/x"),
            ("https://h:80/x", "https://h:80/x"),
            ("https://h/MCP", "https://h/MCP"),
            ("https://h/mcp?x/", "https://h/mcp?x"),
        ):
            self.assertEqual(comparable(url), expected)
            self.assertEqual(comparable(expected), expected)
        for other in ("api", "api://H/", "", "/", "https://", "https://[", "https://h:x/", "H:443"):
            self.assertEqual(comparable(other), other)

    def test_without_a_public_url(self) -> None:
        """A path is what it is."""
        self.assertEqual(public_path(None, "/mcp/fs"), "/mcp/fs")
