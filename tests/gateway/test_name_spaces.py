"""Tests of identities of one name that signed in differently: they share nothing."""

from typing import Any

from attrs import define, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import (
    AuthSettings,
    JwtSettings,
    MtlsSettings,
    RateLimitSettings,
    Secret,
    UpstreamSettings,
)
from mcpguard.gateway.identities import identities_for
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.upstream.directory import UpstreamDirectory
from tests.identity.certificates import certificate
from tests.pipeline.rig import MemoryOutlet, MemoryUpstream, Rig, api_key
from tests.pipeline.sse_rig import SseClient
from tests.tokens import AUDIENCE, ISSUER, NOW, SECRET, good, shared

AUTH = AuthSettings(
    api_keys=(api_key("alice"),),
    jwt=JwtSettings("simple", ISSUER, (AUDIENCE,), secret=Secret(SECRET.decode())),
    mtls=MtlsSettings(enabled=True),
)
DIRECTORY = UpstreamDirectory([(UpstreamSettings(command="x"), MemoryUpstream())])


@define
class Alice:
    """One of those who are called alice."""

    provider: str
    token: str | None = None
    certificate: PeerCertificate | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """How she signs in."""
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {"who": None, "headers": headers, "certificate": self.certificate}


ALICES = (
    Alice("api_key", "mcp_alice"),
    Alice("jwt", shared(good(sub="alice"))),
    Alice("mtls", certificate=certificate(not_before=NOW - 100, not_after=NOW + 1e6)),
)


@define(eq=False)
class Company:
    """A corridor where all of them may sign in."""

    limits: RateLimitSettings = field(factory=RateLimitSettings)
    rig: Rig = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock = Clock()
        clock.advance(NOW)
        identities = identities_for(AUTH, DIRECTORY, lambda: (), clock.seconds)
        self.rig = Rig(clock=clock, authenticator=identities.chain, limits=self.limits)
        self.rig.upstream.reply = lambda outbound: {"result": {"tools": []}}

    def ask(self, who: Alice, method: str = "tools/list", **more: Any) -> MemoryOutlet:
        """One of them asks something."""
        shown = who.shown
        shown["headers"] = {**shown["headers"], **more.pop("headers", {})}
        return self.rig.call(method, more.pop("params", None), **shown, **more)


class NameSpaceTests(SynchronousTestCase):
    """``api_key:alice``, ``jwt:alice`` and ``mtls:alice``."""

    def test_audit(self) -> None:
        """Each leaves lines with her own provider."""
        company = Company()
        for alice in ALICES:
            self.assertEqual(company.ask(alice).status, 200, alice.provider)
        for events in (company.rig.trail.outcomes, company.rig.trail.events):
            found = {(event.identity_id, event.provider) for event in events if event.identity_id}
            self.assertEqual(found, {("alice", alice.provider) for alice in ALICES})
        self.assertEqual(company.rig.meter.auths, [(alice.provider, "success") for alice in ALICES])

    def test_sessions(self) -> None:
        """A session is found by the one who opened it, and by nobody of the same name."""
        for owner in ALICES:
            company = Company()
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
            opened = company.ask(owner, "initialize", params=params)
            session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            for alice in ALICES:
                answer = company.ask(alice, headers=session)
                self.assertEqual(answer.status, 200 if alice is owner else 404)

    def test_streams(self) -> None:
        """Nor can anybody else post to her event stream."""
        company = Company()
        client = SseClient(company.rig)
        path, _, query = client.endpoint.partition("?")
        for alice in ALICES:
            answer = company.ask(alice, path=path, query=query)
            self.assertEqual(answer.status, 202 if alice.provider == "api_key" else 404)

    def test_limits(self) -> None:
        """Each has a bucket of her own."""
        company = Company(RateLimitSettings(requests_per_second=0.001, burst_size=2))
        for alice in ALICES:
            found = [company.ask(alice).status for _ in range(3)]
            self.assertEqual(found, [200, 200, 429], alice.provider)

    def test_heads_are_shared_by_connections(self) -> None:
        """One head on two connections, of which one has shown a certificate."""
        company = Company()
        key, cert = ALICES[0], ALICES[2]
        for _ in range(2):
            for shown in (None, cert.certificate):
                both = Alice("both", key.token, shown)
                self.assertEqual(company.ask(both).status, 200)
        providers = [event.provider for event in company.rig.trail.outcomes]
        self.assertEqual(providers, ["api_key", "mtls"] * 2)
