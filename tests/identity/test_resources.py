"""Tests of the resource metadata (RFC 9728)."""

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import AuthSettings, JwtSettings
from mcpguard.front.exchange import Incoming
from mcpguard.identity.resources import PublicListener, Resources, servers_and_scopes
from tests.identity.certificates import request

KNOWN = "/.well-known/oauth-protected-resource"
ENDPOINTS = {"/mcp": "/mcp", "/mcp/fs": "/mcp/fs", "/sse": "/mcp", "/mcp/fs/sse": "/mcp/fs"}


def asking(path: str, port: int = 0) -> Incoming:
    """A request at a path."""
    return replace(request(), path=path, local_port=port)


def resources(*listeners: PublicListener, **changed: object) -> Resources:
    """Some endpoints on these listeners."""
    parts: dict[str, object] = {
        "endpoints": ENDPOINTS,
        "endpoint_of": lambda path: path if path in ENDPOINTS else None,
        "listeners": lambda: listeners or (PublicListener(3000, "https://h", False),),
        "authorization_servers": ("https://login.example.com/",),
        "scopes": ("mcp:read",),
    }
    return Resources(**{**parts, **changed})  # type: ignore[arg-type]


class DocumentTests(SynchronousTestCase):
    """The documents."""

    def resource(self, found: Resources, path: str, port: int = 0) -> str | None:
        """What the document at a path describes."""
        document = found.document(asking(path, port))
        return None if document is None else document["resource"]

    def test_document(self) -> None:
        """Exactly what RFC 9728 has for us."""
        self.assertEqual(
            resources().document(asking(f"{KNOWN}/mcp/fs")),
            {
                "resource": "https://h/mcp/fs",
                "authorization_servers": ["https://login.example.com/"],
                "bearer_methods_supported": ["header"],
                "resource_name": "mcp-guard",
                "scopes_supported": ["mcp:read"],
            },
        )

    def test_optional_members(self) -> None:
        """No empty list, and bound tokens only where the listener asks for certificates."""
        plain, asks = PublicListener(1, "https://h", False), PublicListener(2, "https://m", True)
        found = resources(plain, asks, scopes=())
        documents = [found.document(asking(f"{KNOWN}/mcp", port)) or {} for port in (1, 2)]
        self.assertNotIn("scopes_supported", documents[0])
        name = "tls_client_certificate_bound_access_tokens"
        self.assertEqual([one.get(name) for one in documents], [None, True])

    def test_every_endpoint(self) -> None:
        """One for each endpoint, and the fallback for that at ``/mcp``; nothing else."""
        found = resources()
        for path in ENDPOINTS:
            self.assertEqual(self.resource(found, KNOWN + path), f"https://h{path}")
        self.assertEqual(self.resource(found, KNOWN), "https://h/mcp")
        for path in ("/", "/mcp/other", "/mcp/fs/x", "/mcp/", "/health", "x", "/MCP"):
            self.assertIsNone(found.document(asking(KNOWN + path)), path)

    def test_public_path(self) -> None:
        """A public path in front of ours is understood, and so is ours."""
        for url in ("https://h/gw", "https://h/gw/mcp"):
            found = resources(PublicListener(3000, url, False))
            for path in ("/gw/mcp/fs", "/mcp/fs"):
                self.assertEqual(self.resource(found, KNOWN + path), "https://h/gw/mcp/fs")
            self.assertEqual(self.resource(found, KNOWN), "https://h/gw/mcp")

    def test_listeners(self) -> None:
        """Each listener has its own URLs; an unknown port is the first one's."""
        found = resources(
            PublicListener(1, "https://a", False), PublicListener(2, "http://127.0.0.1:2", False)
        )
        self.assertEqual(self.resource(found, f"{KNOWN}/mcp", 2), "http://127.0.0.1:2/mcp")
        for port in (1, 0, 9):
            self.assertEqual(self.resource(found, f"{KNOWN}/mcp", port), "https://a/mcp")

    def test_never_by_the_request(self) -> None:
        """Host and what proxies add say nothing of our URL."""
        headers = {
            "host": ("evil.example",),
            "x-forwarded-host": ("evil.example",),
            "x-forwarded-proto": ("http",),
            "forwarded": ("host=evil.example",),
        }
        incoming = replace(asking(f"{KNOWN}/mcp"), headers=headers)
        found = resources()
        self.assertNotIn("evil", f"{found.document(incoming)} {found.metadata_url(incoming)}")

    def test_metadata_url(self) -> None:
        """Each request is told where its endpoint's document is; others get the fallback."""
        found = resources(PublicListener(1, "https://h/gw", False))
        for path, behind in (("/mcp/fs", "/gw/mcp/fs"), ("/sse", "/gw/sse"), ("/metrics", "")):
            self.assertEqual(found.metadata_url(asking(path)), f"https://h{KNOWN}{behind}")

    def test_metadata_urls_lead_to_their_documents(self) -> None:
        """What a challenge names describes the endpoint that the request was for."""
        for url in ("https://h", "https://h/gw", "https://h/gw/mcp", "http://[::1]:1"):
            found = resources(PublicListener(1, url, False))
            for path in ENDPOINTS:
                where = found.metadata_url(asking(path))
                origin = "/".join(url.split("/")[:3])
                document = found.document(asking(where.removeprefix(origin)))
                assert document is not None
                self.assertIn(document["resource"], found.urls())

    def test_one_url_for_two(self) -> None:
        """Behind ``https://h/mcp`` the stream at ``/sse`` has the URL of a server named sse: tokens
        for that one are good for nothing else.
        """
        endpoints = {"/mcp": "/mcp", "/mcp/sse": "/mcp/sse", "/sse": "/mcp"}
        found = resources(PublicListener(1, "https://h/mcp", False), endpoints=endpoints)
        self.assertEqual(found.urls(), {"https://h/mcp": "/mcp", "https://h/mcp/sse": "/mcp/sse"})

    def test_urls(self) -> None:
        """All URLs of all listeners, with the path of ours that a token for each is good for."""
        listeners = [PublicListener(1, "https://a/gw", False)]
        found = resources(listeners=lambda: listeners)
        self.assertEqual(len(found.urls()), len(ENDPOINTS))
        listeners.append(PublicListener(2, "x://b", True))
        urls = found.urls()
        self.assertEqual(urls["https://a/gw/mcp/fs"], "/mcp/fs")
        self.assertEqual(urls["x://b/mcp"], "/mcp")
        self.assertEqual(urls["https://a/gw/mcp/fs/sse"], "/mcp/fs")
        self.assertIs(found.urls(), urls)
        self.assertEqual(len(urls), 2 * len(ENDPOINTS))


class ScopeTests(SynchronousTestCase):
    """What clients are told to ask for, and whom."""

    def jwt(self, **mapping: tuple[str, ...]) -> JwtSettings:
        """Tokens whose scopes are mapped so."""
        return JwtSettings("jwks", "https://i/", ("a",), scope_tool_mapping=mapping)

    def scopes(self, **auth: object) -> tuple[str, ...]:
        """The scopes."""
        return servers_and_scopes(AuthSettings(**auth))[1]  # type: ignore[arg-type]

    def test_servers(self) -> None:
        """Those configured, else the issuer of the tokens."""
        jwt = self.jwt()
        for servers, expected in ((None, ("https://i/",)), (("https://o",), ("https://o",))):
            auth = AuthSettings(jwt=jwt, authorization_servers=servers)
            self.assertEqual(servers_and_scopes(auth)[0], expected)
        self.assertEqual(servers_and_scopes(AuthSettings()), ((), ()))

    def test_least(self) -> None:
        """Not the scope that allows everything, if there is another one."""
        both = self.jwt(read=("read_*",), admin=("*",), write=("write_*", "x:*"))
        self.assertEqual(self.scopes(jwt=both), ("read", "write"))
        self.assertEqual(self.scopes(jwt=self.jwt(admin=("a", "*"))), ("admin",))
        self.assertEqual(self.scopes(jwt=self.jwt()), ())
        self.assertEqual(self.scopes(jwt=JwtSettings("jwks", "https://i/", ("a",))), ())

    def test_configured(self) -> None:
        """What is configured is said, but never ``offline_access``."""
        jwt = self.jwt(read=("read_*",), offline_access=("x",))
        self.assertEqual(self.scopes(jwt=jwt), ("read",))
        self.assertEqual(self.scopes(jwt=jwt, scopes_supported=("a", "offline_access")), ("a",))
        self.assertEqual(self.scopes(jwt=jwt, scopes_supported=()), ())
