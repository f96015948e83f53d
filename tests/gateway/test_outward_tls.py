"""Tests of the trust and credentials that a configuration gives to each https server."""

from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import (
    ClientTlsSettings,
    JwtSettings,
    Settings,
    UpstreamSettings,
)
from mcpguard.errors import ConfigurationError
from mcpguard.gateway.outward_tls import EXPIRY, WATCH_SECS, OutwardTls
from mcpguard.gateway.upstreams import check_upstreams
from mcpguard.observe.events import Event
from mcpguard.observe.metrics import Metrics
from tests.pki import Authority

ONE = UpstreamSettings(transport="http", url="https://localhost:9/mcp")
JWT = JwtSettings("jwks", "https://i.example", ("a",), jwks_url="https://i.example/keys")


class OutwardTlsTests(SynchronousTestCase):
    """Of one process."""

    def setUp(self) -> None:
        """A CA in a file."""
        self.reactor = MemoryReactorClock()
        self.events: list[Event] = []
        self.metrics = Metrics(
            active_identities=tuple, sessions=lambda: 0, connections=lambda: 0, children=dict
        )
        self.tls = OutwardTls(self.reactor, self, self.metrics)
        self.ca = Authority("CA")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.path = directory / "ca.crt"
        self.path.write_bytes(self.ca.pem)
        self.own = ClientTlsSettings(ca_path=self.path)

    def record(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def test_whom(self) -> None:
        """Servers in the clear need none; those with nothing of their own share one."""
        self.assertIsNone(self.tls.upstream(UpstreamSettings(command="x")))
        self.assertIsNone(self.tls.upstream(evolve(ONE, url="http://localhost:9/")))
        platform = self.tls.upstream(ONE)
        self.assertIsNotNone(platform)
        self.assertIs(self.tls.upstream(evolve(ONE, name="b", transport="sse")), platform)
        self.assertIs(self.tls.key_set(JWT), platform)
        own = self.tls.upstream(evolve(ONE, name="c", tls=self.own))
        self.assertIsNot(own, platform)
        self.assertIsNot(self.tls.upstream(evolve(ONE, name="d", tls=self.own)), own)

    def test_unusable(self) -> None:
        """The problem names the key, as the file has it."""
        self.path.write_bytes(b"")
        for words, make in (
            ("upstream.tls.ca_path: ", lambda: self.tls.upstream(evolve(ONE, tls=self.own))),
            (
                'upstream.servers "b".tls.ca_path: ',
                lambda: self.tls.upstream(evolve(ONE, name="b", tls=self.own)),
            ),
            (
                "auth.jwt.jwks_ca_path: ",
                lambda: self.tls.key_set(evolve(JWT, jwks_ca_path=self.path)),
            ),
        ):
            error: ConfigurationError = self.assertRaises(ConfigurationError, make)
            self.assertTrue(error.problems[0].startswith(f"{words}{self.path} has no PEM"))

    def test_watched(self) -> None:
        """From start to stop; what has changed is told with the upstream's name."""
        self.tls.upstream(evolve(ONE, name="b", tls=self.own))
        self.tls.key_set(evolve(JWT, jwks_ca_path=self.path))
        self.tls.start()
        self.path.write_bytes(Authority("Other").pem)
        self.reactor.pump([WATCH_SECS] * 2)
        self.assertEqual([one.server for one in self.events], ["b", None])
        self.assertEqual(self.events[1].details, {"of": "jwks"})
        self.tls.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_checked(self) -> None:
        """``check-upstream`` says of unusable files what is wrong, and leaves no timer."""
        self.path.write_bytes(b"")
        settings = Settings(upstreams=(evolve(ONE, tls=self.own),))
        checking = check_upstreams(self.reactor, settings, timeout=5.0)
        (report,) = self.successResultOf(Deferred.fromCoroutine(checking))
        self.assertFalse(report.ok)
        self.assertIn("upstream.tls.ca_path: ", report.error)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_metrics(self) -> None:
        """When they end is a gauge, beside what other parts of the gateway show under it."""
        self.tls.upstream(evolve(ONE, name="b", tls=self.own))
        metrics = self.metrics
        metrics.show(EXPIRY, self.tls.ends, part="outward")
        other: dict[tuple[str, ...], float] = {("127.0.0.1:3000", "server"): 5.0}
        metrics.show(EXPIRY, lambda: other)
        end = self.ca.certificate.not_valid_after_utc.timestamp()
        found = metrics.numbers().gauges[EXPIRY]
        self.assertEqual(found, {("upstream:b", "ca"): end, **other})
        self.assertIn('listener="upstream:b"', metrics.render().decode())
