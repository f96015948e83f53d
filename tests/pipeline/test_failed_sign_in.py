"""Tests of what becomes of requests whose sender is not known."""

from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import MtlsSettings, RateLimitSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import Authenticator
from mcpguard.identity.certificate_headers import CertificateHeaders
from mcpguard.identity.chain import Chain
from mcpguard.identity.mutual_tls import MutualTls, Presented
from mcpguard.limits.limiter import Grant
from mcpguard.policy.buckets import Rate
from mcpguard.policy.principal import Principal
from tests.identity.certificates import certificate
from tests.pipeline.rig import Rig

STRICT = RateLimitSettings(requests_per_second=1000, burst_size=1000, failed_auth_per_minute=3)
SHOWN = certificate(not_before=0.0, not_after=50.0)


@define
class Fails:
    """Knows nobody, for one reason; or breaks."""

    error: Exception
    later: bool = False
    tries: int = 0

    def authenticate(
        self, token: str, incoming: Incoming, now: float
    ) -> Principal | Deferred[Principal]:
        """Fail."""
        self.tries += 1
        if self.later:
            return fail(self.error)
        raise self.error


@define(eq=False)
class FarLimiter:
    """A limiter that is asked over a wire, of a bucket in which ``remaining`` are left."""

    remaining: int
    charges: int = 0
    _looking: list[Deferred[Grant]] = field(factory=list)
    _taking: list[Deferred[Grant]] = field(factory=list)

    def peek(self, key: str, rate: Rate) -> Deferred[Grant]:
        """Ask."""
        self._looking.append(Deferred())
        return self._looking[-1]

    def take(self, key: str, rate: Rate) -> Deferred[Grant]:
        """Ask for one."""
        self.charges += 1
        self._taking.append(Deferred())
        return self._taking[-1]

    def looked(self) -> None:
        """Everybody who looked is told the same, in one turn."""
        looking, self._looking = self._looking, []
        for one in looking:
            one.callback(Grant(True, 1, self.remaining, 0.0, 0.0))

    def charged(self) -> None:
        """Everything is charged."""
        for one in self._taking:
            one.callback(Grant(True, 1, 0, 0.0, 0.0))


def refused(reason: Reason, detail: str = "") -> Refused:
    """A refusal."""
    return Refused(Refusal(reason, detail=detail))


def rig(authenticator: Authenticator | None = None, **more: Any) -> Rig:
    """A corridor that knows certificates, and tokens as ``authenticator`` does."""
    headers = CertificateHeaders(max_chars=1, max_kept=1)
    presented = Presented((), lambda one: None, headers, max_peers=1)
    mtls = MutualTls(MtlsSettings(enabled=True), presented, max_principals=10)
    chain = Chain(*([authenticator] if authenticator else []), certificates=mtls)
    return Rig(authenticator=chain, **more)


class AuditTests(SynchronousTestCase):
    """What the trail says."""

    def test_cause(self) -> None:
        """It says why, which the client is not told."""
        one = rig(Fails(refused(Reason.BAD_CREDENTIALS, "the signature does not fit")))
        answer = one.call("tools/list")
        self.assertEqual(answer.status, 401)
        self.assertNotIn(b"signature", answer.body)
        event = one.trail.outcomes[0]
        self.assertEqual((event.event_type, event.reason), ("AuthFailure", "bad_credentials"))
        self.assertEqual(event.details, {"cause": "the signature does not fit"})

    def test_without_cause(self) -> None:
        """Nothing to tell is nothing in the line."""
        one = rig(Fails(refused(Reason.BAD_CREDENTIALS)))
        one.call("tools/list")
        self.assertEqual(one.trail.outcomes[0].details, {})

    def test_only_failures_to_sign_in(self) -> None:
        """Other refusals keep their details to the log."""
        one = Rig()
        one.pipeline.draining = True
        one.send({}, method="PUT")
        one.pipeline.draining = False
        one.send({}, path="/mcp/nowhere")
        self.assertEqual([event.details for event in one.trail.outcomes], [{}, {}])

    def test_certificate(self) -> None:
        """A certificate that has expired is named by its serial."""
        one = rig()
        one.clock.advance(51.0)
        self.assertEqual(one.call("tools/list", who=None, certificate=SHOWN).status, 401)
        event = one.trail.outcomes[0]
        self.assertEqual(event.reason, "expired_credentials")
        self.assertEqual(event.details, {"cause": "certificate 7 has expired"})

    def test_broken(self) -> None:
        """A check that breaks is a denial with a record, at once or later."""
        for later in (False, True):
            one = rig(Fails(RuntimeError("broken"), later))
            answer = one.call("tools/list")
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
            self.assertEqual(answer.status, 500)
            self.assertNotIn(b"broken", answer.body)
            self.assertEqual([event.reason for event in one.trail.outcomes], ["internal_error"])
            self.assertEqual(one.upstream.asked, [])
            asking = Incoming("r", "GET", "/metrics", "", AUTHORIZED, b"", "192.0.2.1", 0.0)
            failure = self.failureResultOf(one.pipeline.authenticate(asking), Refused)
            self.assertIs(failure.value.refusal.reason, Reason.INTERNAL)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


AUTHORIZED = {"authorization": ("Bearer token",)}


class ChargeTests(SynchronousTestCase):
    """What is charged to the address."""

    def statuses(self, one: Rig, **how: Any) -> list[int | None]:
        """The answers to five attempts."""
        return [one.call("tools/list", **how).status for _ in range(5)]

    def test_bad_certificates(self) -> None:
        """Bad certificates are failed attempts, like bad tokens."""
        one = rig(limits=STRICT)
        one.clock.advance(60.0)
        how = {"who": None, "certificate": SHOWN}
        self.assertEqual(self.statuses(one, **how), [401, 401, 401, 429, 429])

    def test_bad_certificate_good_token(self) -> None:
        """Whoever is known in the end has not failed."""

        class Known:
            """Knows everybody."""

            def authenticate(self, token: str, incoming: Incoming, now: float) -> Principal:
                """Say so."""
                return Principal("alice", "api_key", "Alice")

        one = rig(Known(), limits=STRICT)
        one.upstream.reply = lambda outbound: {"result": {"tools": []}}
        one.clock.advance(60.0)
        self.assertEqual(self.statuses(one, certificate=SHOWN), [200] * 5)

    def test_unavailable(self) -> None:
        """That the issuer cannot be asked is nobody's guess."""
        one = rig(Fails(refused(Reason.IDENTITY_UNAVAILABLE, "keys: timeout")), limits=STRICT)
        self.assertEqual(self.statuses(one), [503] * 5)
        event = one.trail.outcomes[0]
        self.assertEqual(event.event_type, "AuthFailure")
        self.assertEqual(event.details, {"cause": "keys: timeout"})

    def test_many_at_once(self) -> None:
        """Where the limit is kept elsewhere, many look at it before the first one is charged: of
        these as many are tried as there are tokens.
        """
        for remaining, tried in ((0, 1), (1, 1), (3, 3), (50, 9)):
            guesses = Fails(refused(Reason.BAD_CREDENTIALS))
            one = rig(guesses)
            one.pipeline.callers.limiter = far = FarLimiter(remaining)
            answers = [one.call("tools/list") for _ in range(9)]
            far.looked()
            self.assertEqual(guesses.tries, tried)
            self.assertEqual([answer.status for answer in answers].count(429), 9 - tried)
            other = one.call("tools/list", peer="192.0.2.99")
            far.looked()
            self.assertEqual((guesses.tries, other.status), (tried + 1, None))
            far.charged()
            self.assertEqual(
                sorted(answer.status or 0 for answer in answers),
                [401] * tried + [429] * (9 - tried),
            )
            self.assertEqual(one.pipeline.callers._charging, {})

    def test_hanging_up(self) -> None:
        """Whoever is gone before the answer is charged all the same."""
        one = rig(Fails(refused(Reason.BAD_CREDENTIALS)))
        one.pipeline.callers.limiter = far = FarLimiter(9)
        asking = Incoming("r", "GET", "/metrics", "", AUTHORIZED, b"", "192.0.2.1", 0.0)
        answer = one.pipeline.authenticate(asking)
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        far.looked()
        far.charged()
        self.assertEqual((far.charges, one.meter.auths), (1, [("none", "failure")]))

    def test_nothing_presented(self) -> None:
        """Who has shown nothing has not tried."""
        self.assertEqual(self.statuses(rig(limits=STRICT), who=None), [401] * 5)
