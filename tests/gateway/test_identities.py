"""Tests of the ways of signing in as they are configured."""

from ipaddress import ip_network
from typing import Any

from attrs import evolve
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import (
    AuthSettings,
    JwtSettings,
    ListenerSettings,
    MtlsSettings,
    Secret,
    TlsSettings,
    UpstreamSettings,
)
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.gateway.identities import Identities, identities_for, public_listener, resources_for
from mcpguard.identity.jwt import FixedKeys
from mcpguard.identity.resources import PublicListener
from mcpguard.policy.jwks import KeySet
from mcpguard.policy.principal import Principal
from mcpguard.upstream.directory import UpstreamDirectory
from tests import tokens
from tests.identity.certificates import NOW, PROXY, certificate, facts, pem_header, request
from tests.pipeline.rig import MemoryUpstream, api_key
from tests.pki import Authority

KNOWN = "/.well-known/oauth-protected-resource"
ISSUER = JwtSettings("jwks", "https://login.example.com/", ("a",), jwks_url="https://k")
SIMPLE = JwtSettings("simple", tokens.ISSUER, ("a",), secret=Secret(tokens.SECRET.decode()))
KEYS = FixedKeys(KeySet(()))
LISTENERS = (PublicListener(3000, "https://h", False),)


def directory() -> UpstreamDirectory:
    """A server at ``/mcp``, one with a prefix and a name, one by HTTP."""
    settings = (
        UpstreamSettings(command="x"),
        UpstreamSettings(name="files", path_prefix="/fs", command="x"),
        UpstreamSettings(name="web", transport="http", url="http://127.0.0.1:1/mcp"),
    )
    return UpstreamDirectory([(one, MemoryUpstream(one.name)) for one in settings])


def identities(**auth: Any) -> Identities:
    """What is made of these settings."""
    return identities_for(
        AuthSettings(**auth), directory(), lambda: LISTENERS, lambda: NOW, keys=KEYS
    )


def token_of(**claims: Any) -> str:
    """A token of alice that is good now but for these claims."""
    usual = {"aud": "a", "iat": NOW - 9, "exp": NOW + 9}
    return tokens.shared(tokens.good(**{**usual, **claims}))


class ChainTests(SynchronousTestCase):
    """Who is asked."""

    def refusal(self, found: Identities, incoming: Incoming, now: float = NOW) -> Refusal:
        """The refusal of a request."""
        refused = self.assertRaises(Refused, found.chain.authenticate, incoming, now)
        refusal: Refusal = refused.refusal
        return refusal

    def test_nothing(self) -> None:
        """Nothing configured lets nobody in."""
        for auth in ({}, {"mtls": MtlsSettings(enabled=False)}):
            refusal = self.refusal(identities(**auth), request(shown=certificate()))
            self.assertIs(refusal.reason, Reason.NO_AUTHENTICATION_CONFIGURED)

    def test_certificates_switched_off(self) -> None:
        """Certificates then sign nobody in, though they were verified."""
        off = MtlsSettings(enabled=False, trusted_proxy_ips=(ip_network(PROXY),))
        found = identities(api_keys=(api_key("alice"),), mtls=off)
        for incoming in (
            request(shown=certificate()),
            request({"x-ssl-client-verify": ("FAILED",)}, peer=PROXY),
        ):
            self.assertIs(self.refusal(found, incoming).reason, Reason.NO_CREDENTIALS)

    def test_certificate_then_key(self) -> None:
        """Both configured: the certificate first, then the key."""
        found = identities(api_keys=(api_key("bob"),), mtls=MtlsSettings(enabled=True))
        headers = {"authorization": ("Bearer mcp_bob",)}
        for shown, key in ((certificate(), "mtls:alice"), (None, "api_key:bob")):
            principal = found.chain.authenticate(request(headers, shown=shown), NOW)
            assert isinstance(principal, Principal)
            self.assertEqual(principal.key, key)

    def test_headers_of_a_proxy(self) -> None:
        """By headers from there, and from nowhere else."""
        issued = Authority("CA").issue("carol")
        headers = {
            "x-ssl-client-verify": ("SUCCESS",),
            "x-ssl-client-cert": (pem_header(issued),),
        }
        mtls = MtlsSettings(enabled=True, trusted_proxy_ips=(ip_network("10.0.0.0/8"),))
        now = (facts(issued).not_before + facts(issued).not_after) / 2
        found = identities(mtls=mtls)
        principal = found.chain.authenticate(request(headers, peer=PROXY), now)
        assert isinstance(principal, Principal)
        self.assertEqual(principal.key, "mtls:carol")
        self.assertIs(self.refusal(found, request(headers), now).reason, Reason.NO_CREDENTIALS)

    def test_key_then_token(self) -> None:
        """What is no key is looked at as a token; both sorts keep their names apart."""
        found = identities(api_keys=(api_key("alice"),), jwt=SIMPLE)
        for token, key in (("mcp_alice", "api_key:alice"), (token_of(), "jwt:alice")):
            headers = {"authorization": (f"Bearer {token}",)}
            principal = found.chain.authenticate(request(headers), NOW)
            assert isinstance(principal, Principal)
            self.assertEqual(principal.key, key)
        late = {"authorization": (f"Bearer {token_of(exp=NOW)}",)}
        refusal = self.refusal(found, request(late))
        self.assertIs(refusal.reason, Reason.EXPIRED_CREDENTIALS)
        self.assertIn("jwt: expired", refusal.detail)
        self.assertIn('error="invalid_token"', refusal.headers[0][1])

    def test_bound_token(self) -> None:
        """The certificate of the connection is the one that a token's binding is held to."""
        found = identities(jwt=SIMPLE)
        mine, other = certificate(), certificate(thumbprint="other")
        headers = {
            "authorization": (f"Bearer {token_of(cnf={'x5t#S256': mine.thumbprint})}",),
        }
        principal = found.chain.authenticate(request(headers, shown=mine), NOW)
        assert isinstance(principal, Principal)
        self.assertEqual(principal.key, "jwt:alice")
        for shown in (other, None):
            refusal = self.refusal(found, request(headers, shown=shown))
            self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)

    def test_token_of_one_endpoint(self) -> None:
        """The URLs of the gateway's own endpoints are what tokens are held to."""
        audience = "https://h/mcp/fs"
        found = identities(jwt=evolve(SIMPLE, audience=("a", audience)))
        headers = {"authorization": (f"Bearer {token_of(aud=audience)}",)}
        for path, good in (("/mcp/fs", True), ("/mcp/fs/sse", True), ("/mcp/web", False)):
            incoming = replace(request(headers), path=path)
            if good:
                self.assertIsInstance(found.chain.authenticate(incoming, NOW), Principal)
            else:
                self.assertIn("resource", self.refusal(found, incoming).detail)

    def test_bound_token_by_a_proxy(self) -> None:
        """Behind a proxy it is the certificate in its headers, also if those sign nobody in."""
        issued = Authority("CA").issue("x")
        mine = facts(issued)
        now = (mine.not_before + mine.not_after) / 2
        token = token_of(cnf={"x5t#S256": mine.thumbprint}, iat=int(now) - 9, exp=int(now) + 9)
        bearer = {"authorization": (f"Bearer {token}",)}
        verified = {
            "x-ssl-client-verify": ("SUCCESS",),
            "x-ssl-client-cert": (pem_header(issued),),
            **bearer,
        }
        mtls = MtlsSettings(enabled=False, trusted_proxy_ips=(ip_network(PROXY),))
        auth = AuthSettings(jwt=SIMPLE, mtls=mtls)
        found = identities_for(auth, directory(), lambda: LISTENERS, lambda: now)
        principal = found.chain.authenticate(request(verified, peer=PROXY), now)
        assert isinstance(principal, Principal)
        self.assertEqual(principal.key, "jwt:alice")
        for incoming in (
            # What the proxy shows itself is not its client's.
            request(bearer, peer=PROXY, shown=mine),
            request(verified),
            request({**verified, "x-ssl-client-verify": ("FAILED:x",)}, peer=PROXY),
        ):
            refusal = self.refusal(found, incoming, now)
            self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)

    def test_challenge(self) -> None:
        """Refused clients are told where to sign in, if they are signed in anywhere."""
        headers = self.refusal(identities(api_keys=(api_key("a"),)), request()).headers
        self.assertEqual(headers, (("WWW-Authenticate", 'Bearer realm="mcp-guard"'),))
        elsewhere = identities(api_keys=(api_key("a"),), jwt=ISSUER)
        headers = self.refusal(elsewhere, replace(request(), path="/mcp/fs")).headers
        self.assertIn(f'resource_metadata="https://h{KNOWN}/mcp/fs"', headers[0][1])


class ResourceTests(SynchronousTestCase):
    """The endpoints as resources."""

    def test_endpoints(self) -> None:
        """Every server by prefix and by name, each with its stream."""
        found = resources_for(AuthSettings(jwt=ISSUER), directory(), lambda: LISTENERS)
        paths = ["/mcp", "/mcp/default", "/mcp/files", "/mcp/fs", "/mcp/web"]
        self.assertCountEqual(found.endpoints, [*paths, "/sse", *(f"{path}/sse" for path in paths)])

    def test_no_stream_without_its_server(self) -> None:
        """Without a server at ``/mcp`` there is no ``/sse`` either."""
        one = UpstreamSettings(name="fs", command="x")
        lonely = UpstreamDirectory([(one, MemoryUpstream("fs"))])
        found = resources_for(AuthSettings(jwt=ISSUER), lonely, lambda: LISTENERS)
        self.assertCountEqual(found.endpoints, ["/mcp/fs", "/mcp/fs/sse"])
        # The fallback is for all of them together.
        document = found.document(replace(request(), path=KNOWN))
        self.assertEqual(document and document["resource"], "https://h/mcp")

    def test_endpoint_of(self) -> None:
        """Whatever is below an endpoint is its own; messages are of their stream."""
        found = resources_for(AuthSettings(jwt=ISSUER), directory(), lambda: LISTENERS)
        for path, endpoint in (
            ("/mcp", "/mcp"),
            ("/mcp/fs", "/mcp/fs"),
            ("/mcp/files", "/mcp/files"),
            ("/mcp/web/a/b", "/mcp/web"),
            ("/sse", "/sse"),
            ("/messages", "/sse"),
            ("/mcp/fs/messages", "/mcp/fs/sse"),
            ("/mcp/nowhere", None),
            ("/mcp/fs/x", None),
            ("/metrics", None),
        ):
            self.assertEqual(found.endpoint_of(path), endpoint, path)

    def test_documents(self) -> None:
        """Only where clients are signed in elsewhere."""
        at = replace(request(), path=f"{KNOWN}/mcp/web")
        for auth, expected in (
            ({"jwt": ISSUER}, "https://h/mcp/web"),
            ({"authorization_servers": ("https://o",)}, "https://h/mcp/web"),
            ({"jwt": ISSUER, "authorization_servers": ()}, None),
            ({"jwt": evolve(ISSUER, issuer="me")}, None),
            ({"api_keys": (api_key("a"),)}, None),
        ):
            document = identities(**auth).document(at)
            self.assertEqual(document and document["resource"], expected)

    def test_listeners(self) -> None:
        """The URL of a listener: its own, that of ``[server]``, or where it is bound."""
        tls = TlsSettings("c", "k", client_ca_path="ca")  # type: ignore[arg-type]
        for one, public_url, expected in (
            (ListenerSettings(1), None, PublicListener(9, "http://127.0.0.1:9", False)),
            (ListenerSettings(1, "::1"), None, PublicListener(9, "http://[::1]:9", False)),
            (ListenerSettings(1, tls=tls), None, PublicListener(9, "https://127.0.0.1:9", True)),
            (ListenerSettings(1), "https://h", PublicListener(9, "https://h", False)),
            (
                ListenerSettings(1, public_url="https://own"),
                "https://h",
                PublicListener(9, "https://own", False),
            ),
        ):
            self.assertEqual(public_listener(one, 9, public_url), expected)
