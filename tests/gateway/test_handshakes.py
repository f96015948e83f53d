"""Handshakes at the gateway: what they cost an address, and what is told of them."""

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.gateway.handshakes import HANDSHAKES, Handshakes
from mcpguard.limits.limiter import Grant
from mcpguard.policy.buckets import Rate
from mcpguard.tls.handshake import Ended, Presented
from tests.pipeline.rig import Rig

PEER = "203.0.113.9"
SHOWN = Presented("CN=eve", "ab12", 0)
LIMITS = RateLimitSettings(failed_auth_per_minute=3)
YES = Grant(True, 3, 2, 0.0, 0.0)
NO = Grant(False, 3, 0, 0.0, 20.0)


class Waiting:
    """A limiter whose answers come later, or never."""

    def __init__(self) -> None:
        self.answers: list[Deferred[Grant]] = []

    def _answer(self, key: str, rate: Rate) -> Deferred[Grant]:
        self.answers.append(Deferred())
        return self.answers[-1]

    peek = take = _answer


class Away:
    """A limiter that cannot be asked."""

    def _refuse(self, key: str, rate: Rate) -> Grant:
        raise Refused(Refusal(Reason.LIMITS_UNAVAILABLE))

    peek = take = _refuse


class HandshakeTests(SynchronousTestCase):
    """`Handshakes` over the corridor's own limits."""

    def setUp(self) -> None:
        """Three failures a minute."""
        self.rig = Rig(limits=LIMITS)
        self.handshakes = self.made()

    def made(self, *, asks: bool = True) -> Handshakes:
        """Those of one listener."""
        return Handshakes(
            "0.0.0.0:8443",
            asks,
            self.rig.pipeline.callers,
            self.rig.trail,
            self.rig.meter,
            self.rig.clock.seconds,
        )

    def fail(self, word: str, shown: Presented | None = None, peer: str = PEER) -> None:  # type: ignore[override]
        """One that has failed."""
        self.handshakes.ended(Ended(peer, word, shown))

    def words(self) -> list[str]:
        """What was counted."""
        return [labels["result"] for name, labels in self.rig.meter.counts if name == HANDSHAKES]

    def test_told(self) -> None:
        """Who was refused, where, why, and by which certificate."""
        self.fail("unknown_ca", SHOWN)
        (event,) = self.rig.trail.events
        self.assertEqual(
            (event.event_type, event.status, event.reason, event.client_ip),
            ("HandshakeFailed", "denied", "unknown_ca", PEER),
        )
        self.assertEqual(
            dict(event.details),
            {"listener": "0.0.0.0:8443", "subject": "CN=eve", "serial": "ab12", "depth": 0},
        )
        self.fail("no_certificate")
        self.assertEqual(dict(self.rig.trail.events[1].details), {"listener": "0.0.0.0:8443"})
        self.assertEqual(self.words(), ["unknown_ca", "no_certificate"])

    def test_not_told(self) -> None:
        """Good ones, and those whose client has left, are counted alone."""
        self.fail("success")
        self.fail("abandoned")
        self.assertEqual(self.rig.trail.events, [])
        self.assertEqual(self.words(), ["success", "abandoned"])

    def test_refused_certificates_are_failed_attempts(self) -> None:
        """An address with too many of them begins no handshake, nor signs in otherwise."""
        for _ in range(3):
            self.assertEqual(self.handshakes.admits(PEER), "")
            self.fail("unknown_ca", SHOWN)
        self.assertEqual(self.handshakes.admits(PEER), "too_many_failures")
        self.assertEqual(self.handshakes.admits("203.0.113.10"), "")
        self.assertEqual(self.rig.send({}, peer=PEER).status, 429)
        self.rig.clock.advance(20)
        self.assertEqual(self.handshakes.admits(PEER), "")

    def test_failed_requests_count_as_well(self) -> None:
        """It is one limit for both."""
        for _ in range(3):
            self.assertEqual(self.rig.send({}, who="nobody", peer=PEER).status, 401)
        self.assertEqual(self.handshakes.admits(PEER), "too_many_failures")

    def test_network_of_ipv6(self) -> None:
        """A /64 is one address."""
        for number in range(3):
            self.fail("expired", SHOWN, f"2001:db8::{number}")
        self.assertEqual(self.handshakes.admits("2001:db8::ffff"), "too_many_failures")

    def test_what_is_no_attempt(self) -> None:
        """Who shows no certificate has guessed nothing; nor has who cannot help it."""
        for word, shown in (
            *((word, None) for word in ("no_certificate", "not_tls", "version", "timeout")),
            ("crl_expired", SHOWN),
            ("crl_missing", SHOWN),
        ):
            for _ in range(5):
                self.fail(word, shown)
        self.assertEqual(self.handshakes.admits(PEER), "")

    def test_no_flood(self) -> None:
        """One address cannot fill the trail, whatever it does; everything is counted."""
        for number in range(1_000):
            self.fail(("no_certificate", "not_tls", "unknown_ca")[number % 3], SHOWN)
        self.assertEqual(len(self.rig.trail.events), 3)
        self.assertEqual(len(self.words()), 1_000)
        self.fail("not_tls", peer="203.0.113.10")
        self.assertEqual(len(self.rig.trail.events), 4)
        self.rig.clock.advance(60)
        self.fail("not_tls")
        self.assertEqual(len(self.rig.trail.events), 5)

    def test_listener_that_does_not_ask(self) -> None:
        """Where no certificate is asked for, failed keys do not cut off the 429 that says so."""
        handshakes = self.made(asks=False)
        for _ in range(5):
            self.fail("unknown_ca", SHOWN)
        self.assertEqual(handshakes.admits(PEER), "")

    def test_asked_elsewhere(self) -> None:
        """The limit may be another process's to know."""
        limiter = Waiting()
        self.rig.pipeline.callers.limiter = limiter
        for grant, word in ((YES, ""), (NO, "too_many_failures")):
            found = self.handshakes.admits(PEER)
            assert isinstance(found, Deferred)
            self.assertNoResult(found)
            limiter.answers.pop().callback(grant)
            self.assertEqual(self.successResultOf(found), word)
        self.fail("unknown_ca", SHOWN)
        charged, told = limiter.answers
        charged.callback(YES)
        self.assertEqual(self.rig.trail.events, [])
        told.callback(YES)
        self.assertEqual(len(self.rig.trail.events), 1)
        self.fail("unknown_ca", SHOWN)
        for answer in limiter.answers[2:]:
            answer.callback(NO)
        self.assertEqual(len(self.rig.trail.events), 1)

    def test_nobody_can_tell(self) -> None:
        """Without who keeps the limit no handshake begins, and nothing is told but counted."""
        self.rig.pipeline.callers.limiter = Away()
        self.assertEqual(self.handshakes.admits(PEER), "limits_unavailable")
        self.fail("unknown_ca", SHOWN)
        self.assertEqual((self.rig.trail.events, self.words()), ([], ["unknown_ca"]))
        limiter = Waiting()
        self.rig.pipeline.callers.limiter = limiter
        found = self.handshakes.admits(PEER)
        assert isinstance(found, Deferred)
        self.fail("unknown_ca", SHOWN)
        for answer in limiter.answers:
            answer.errback(Refused(Refusal(Reason.LIMITS_UNAVAILABLE)))
        self.assertEqual(self.successResultOf(found), "limits_unavailable")
        self.assertEqual(self.rig.trail.events, [])

    def test_fault(self) -> None:
        """A fault while deciding is a no, and is logged."""
        limiter = Waiting()
        limiter.peek = lambda key, rate: fail(ValueError("broken"))  # type: ignore[method-assign]
        self.rig.pipeline.callers.limiter = limiter
        found = self.handshakes.admits(PEER)
        assert isinstance(found, Deferred)
        self.assertEqual(self.successResultOf(found), "limits_unavailable")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
