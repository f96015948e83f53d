"""The issuer as the gateway puts it together, on a reactor in memory."""

from typing import Any

from attrs import evolve
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import BrowserLikePolicyForHTTPS

from mcpguard.config.settings import AuthSettings, JwtSettings, MtlsSettings
from mcpguard.gateway.issuer import ANSWER_BYTES, MAX_KEYS, TOTAL_SECS, Issuer, issuer_of
from mcpguard.identity.keyset import FETCHES
from mcpguard.observe.metrics import Metrics
from tests.pipeline.rig import MemoryTrail, api_key
from tests.tokens import ec_key, published
from tests.upstream.socket_doubles import SocketReactor

JWT = JwtSettings(
    "jwks",
    "https://login.example/",
    ("mcp",),
    jwks_url="http://127.0.0.1:81/keys",
    cache_duration_secs=600.0,
)
KEYS = published(ec_key())


class IssuerTests(SynchronousTestCase):
    """`issuer_of`, with a provider that the test plays."""

    def setUp(self) -> None:
        """Make the reactor."""
        self.reactor = SocketReactor()
        self.metrics = Metrics(
            active_identities=lambda: (),
            sessions=lambda: 0,
            connections=lambda: 0,
            children=dict,
        )
        self.asked_for: list[JwtSettings] = []

    def issuer(self, jwt: JwtSettings | None = JWT, **others: Any) -> Issuer:
        """One, started."""
        issuer = issuer_of(
            AuthSettings(jwt=jwt, **others),
            policy=self.policy,
            reactor=self.reactor,
            recorder=MemoryTrail(),
            metrics=self.metrics,
            wall=lambda: 0.0,
        )
        issuer.start()
        self.addCleanup(issuer.stop)
        return issuer

    def policy(self, jwt: JwtSettings) -> BrowserLikePolicyForHTTPS:
        """Trust in the platform's CAs."""
        self.asked_for.append(jwt)
        return BrowserLikePolicyForHTTPS()

    def answer(self, body: bytes) -> None:
        """Answer the last fetch."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        self.reactor.accept().receive(head.encode() + body)
        self.reactor.advance(0)

    def results(self) -> dict[str, float]:
        """What came of the fetches so far."""
        counted = self.metrics.numbers().counters[FETCHES]
        return {labels[0]: number for labels, number in counted.items()}

    def gauge(self, name: str) -> float:
        """The value of a gauge."""
        return self.metrics.numbers().gauges[name][()]

    def test_ready_with_keys(self) -> None:
        """Where tokens are the only way to sign in, nobody can before there are keys."""
        issuer = self.issuer()
        waiting = (False, "no keys of the identity provider yet")
        self.assertEqual(issuer.readiness(), waiting)
        self.reactor.refuse(ConnectionRefusedError())
        self.assertEqual(issuer.readiness(), waiting)
        self.reactor.advance(2)
        self.answer(KEYS)
        self.assertEqual(issuer.readiness(), (True, ""))
        self.assertEqual(self.results(), {"unreachable": 1, "changed": 1})
        self.assertEqual(self.gauge("mcp_guard_jwks_keys"), 1)
        self.reactor.advance(100)
        self.assertEqual(self.gauge("mcp_guard_jwks_age_seconds"), 100)

    def test_ready_without_keys(self) -> None:
        """With another way to sign in the gateway can serve."""
        for others in (
            {"api_keys": (api_key("alice"),)},
            {"mtls": MtlsSettings(enabled=True)},
        ):
            self.assertEqual(self.issuer(**others).readiness(), (True, ""))
        self.assertFalse(self.issuer(mtls=MtlsSettings(enabled=False)).readiness()[0])

    def test_nothing_to_fetch(self) -> None:
        """Without tokens, or with a shared secret, nobody is asked."""
        for jwt in (None, evolve(JWT, mode="simple")):
            issuer = self.issuer(jwt)
            self.assertEqual((issuer.keys, issuer.readiness()), (None, (True, "")))
        self.assertEqual((self.reactor.dialled, self.asked_for), ([], []))
        self.assertNotIn("mcp_guard_jwks_keys", self.metrics.numbers().gauges)

    def test_renewed(self) -> None:
        """After three quarters of their life, a little earlier by chance."""
        self.issuer()
        self.answer(KEYS)
        self.reactor.advance(0.9 * 450 - 1)
        self.assertEqual(len(self.reactor.dialled), 1)
        self.reactor.advance(0.1 * 450 + 2)
        self.assertEqual(len(self.reactor.dialled), 2)
        self.answer(KEYS)
        self.assertEqual(self.results(), {"changed": 1, "unchanged": 1})

    def test_bounds(self) -> None:
        """Time, size and number of keys of an answer; keys for other algorithms are none."""
        self.issuer()
        self.reactor.accept()
        self.reactor.advance(TOTAL_SECS)
        one = ec_key().jwk()
        many = published(*[{**one, "kid": str(index)} for index in range(MAX_KEYS + 1)])
        for body in (b" " * ANSWER_BYTES, many, published(ec_key("P-384")), published()):
            self.reactor.advance(60)
            self.answer(body)
        self.assertEqual(self.results(), {"timeout": 1, "too_large": 1, "unusable": 3})
        self.reactor.advance(60)
        self.answer(published(*[{**one, "kid": str(index)} for index in range(MAX_KEYS)]))
        self.assertEqual(self.gauge("mcp_guard_jwks_keys"), MAX_KEYS)

    def test_trust_and_private_networks(self) -> None:
        """By the CAs and the rules that are configured."""
        self.reactor.resolver.table["login.example"] = ["10.0.0.5"]
        url = "https://login.example/keys"
        inside = evolve(JWT, jwks_url=url)
        self.issuer(inside)
        self.assertEqual((self.asked_for, self.results()), ([inside], {"refused": 1}))
        self.issuer(evolve(inside, allow_private_networks=True))
        self.assertEqual(self.reactor.dialled, [("10.0.0.5", 443)])

    def test_stopped(self) -> None:
        """A stop leaves nothing behind."""
        issuer = self.issuer()
        self.answer(KEYS)
        issuer.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
