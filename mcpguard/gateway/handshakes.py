"""What the gateway makes of TLS handshakes: who may begin one, and which failures are told."""

from collections.abc import Callable
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Refused
from mcpguard.limits.limiter import Grant
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.pipeline.callers import Callers
from mcpguard.tls.handshake import Ended
from mcpguard.tls.words import LIMITS_UNAVAILABLE, OURS, SUCCESS, TOO_MANY_FAILURES

log = Logger()

HANDSHAKES = "mcp_guard_tls_handshakes_total"
_UNTOLD = frozenset({SUCCESS, "abandoned"})
"""Counted, but no events: nobody was refused. A probe that connects and leaves is one of these."""


@define(eq=False)
class Handshakes:
    """The handshakes of one listener; ``callers`` has the limits, which those of requests share.

    A certificate that is refused is a failed attempt to sign in, and counts as one: an address
    with too many of them does not get as far as a handshake. Nobody can fill the log or the trail
    either: at the same rate an address's failures are told, those without a certificate too.
    """

    listener: str
    asks: bool
    """Whether certificates are asked for; where not, a handshake is no attempt to sign in."""
    callers: Callers
    recorder: Recorder
    meter: Meter
    wall: Callable[[], float]

    def admits(self, peer: str) -> str | Deferred[str]:
        """Whether a handshake may begin: "", or the word why not; see `Doorkeeping`."""
        if not self.asks:
            return ""
        try:
            found = self.callers.may_attempt(peer)
        except Refused:
            return LIMITS_UNAVAILABLE
        if isinstance(found, Deferred):
            return found.addCallbacks(_verdict, _undecided)
        return _verdict(found)

    def ended(self, ended: Ended) -> None:
        """One has ended, well or not."""
        self.meter.count(HANDSHAKES, result=ended.word)
        if ended.word in _UNTOLD:
            return
        if ended.presented is not None and ended.word not in OURS:
            _consume(lambda: self.callers.attempt_failed(ended.peer))
        try:
            told = self.callers.may_be_told("handshake", ended.peer)
        except Refused:
            return
        if isinstance(told, Deferred):
            told.addCallbacks(self._tell, lambda failure: failure.trap(Refused), (ended,))
            told.addErrback(lambda failure: log.failure("a failed handshake", failure=failure))
        else:
            self._tell(told, ended)

    def _tell(self, grant: Grant, ended: Ended) -> None:
        if not grant.allowed:
            return
        details: dict[str, Any] = {"listener": self.listener}
        if ended.presented is not None:
            shown = ended.presented
            details |= {"subject": shown.subject, "serial": shown.serial, "depth": shown.depth}
        log.info(
            "TLS handshake of {peer} at {listener} failed: {word}",
            peer=ended.peer,
            listener=self.listener,
            word=ended.word,
        )
        self.recorder.record(
            Event(
                event_type="HandshakeFailed",
                timestamp=self.wall(),
                status="denied",
                reason=ended.word,
                client_ip=ended.peer,
                details=details,
            )
        )


def _verdict(grant: Grant) -> str:
    return "" if grant.allowed else TOO_MANY_FAILURES


def _undecided(failure: Failure) -> str:
    if failure.check(Refused) is None:
        log.failure("whether a handshake may begin cannot be told", failure=failure)
    return LIMITS_UNAVAILABLE


def _consume(charge: Callable[[], Grant | Deferred[Grant]]) -> None:
    """Charge, whatever comes of it: the handshake has failed in any case."""
    try:
        charged = charge()
    except Refused:
        return
    if isinstance(charged, Deferred):
        charged.addErrback(lambda failure: failure.trap(Refused))
