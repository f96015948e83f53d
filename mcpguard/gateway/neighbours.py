"""A worker among others: connections go to the one that they belong to."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from mcpguard.errors import Reason, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.front.handover import Parcel
from mcpguard.front.moving import Handover, HandoverBounds, Notes
from mcpguard.front.site import GuardSite
from mcpguard.gateway.serving import fresh_token
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.observe.events import Meter
from mcpguard.ops.workers.switchboard import Switchboard, SwitchboardBounds
from mcpguard.pipeline.bridge.upstream import BridgingUpstream
from mcpguard.pipeline.callers import attempts_of
from mcpguard.pipeline.corridor import Pipeline
from mcpguard.pipeline.places import place_of
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.protocol.mcp import MODERN_VERSIONS
from mcpguard.protocol.ownership import home_of, marked

log = Logger()

HANDOVERS = "mcp_guard_handovers_total"
_NOTE = "home"
MAX_GUESSING = 10_000
"""Addresses whose failures are remembered here."""
CERTIFICATE_PROVIDER = "mtls"
INLINE_BYTES = 32_768
READ_AHEAD = 262_144
"""More than the channels read before they are told that the rest belongs elsewhere."""


@frozen
class Seat:
    """One worker's place among all."""

    number: int
    """1 to ``workers``."""
    workers: int
    directory: Path
    """Private (mode 0700), and the same for all of them."""

    def new_token(self) -> str:
        """What nobody can guess, with the number in front."""
        return marked(self.number, fresh_token())


@define(eq=False)
class Neighbours:
    """Passes on what comes here for other workers, and takes what they have for this one."""

    reactor: Any
    seat: Seat
    site: GuardSite
    pipeline: Pipeline
    wall: Callable[[], float]
    meter: Meter
    monotonic: Callable[[], float] = time.monotonic
    _guesses: MemoryLimiter = field(init=False)
    """Who failed to sign in before it was known whose the request is. The limit of failed attempts
    may have to be asked for, and nothing waits here."""
    _switchboard: Switchboard = field(init=False)
    _handover: Handover = field(init=False)

    def __attrs_post_init__(self) -> None:
        seat, limits = self.seat, self.site.limits
        self._guesses = MemoryLimiter(self.monotonic, self.wall, max_keys=MAX_GUESSING)
        one = limits.header_bytes + limits.body_bytes + READ_AHEAD
        self._switchboard = Switchboard(
            self.reactor,
            seat.directory,
            seat.number,
            seat.workers,
            SwitchboardBounds(
                inline_bytes=INLINE_BYTES,
                unread_bytes=one,
                waiting=1_000,
                waiting_secs=5.0,
                batch=32,
            ),
            deliver=self._take,
            on_return=self._returned,
        )
        self._handover = Handover(
            self.reactor,
            self._switchboard,
            HandoverBounds(connections=2_000, unread_bytes=max(67_108_864, 2 * one)),
            self._count,
            self.home_of,
        )

    def start(self) -> None:
        """Take this place; raises OSError."""
        self._switchboard.start()
        self.site.share(self._handover)

    def retire(self) -> None:
        """Take nothing more than what was sent here already; what comes is still passed on."""
        self._switchboard.retire()

    def stop(self) -> None:
        """Serve here whatever comes from now on."""
        self._switchboard.stop()
        self._handover.close()

    def _take(self, descriptor: int, parcel: Parcel) -> None:
        self._handover.adopt(self.site, descriptor, parcel)

    def home_of(
        self,
        path: str,
        headers: Mapping[str, tuple[str, ...]],
        peer: str,
        certificate: PeerCertificate | None,
        notes: Notes,
    ) -> int | None:
        """The one place of a principal whose requests go on where the last one ended."""
        place = place_of(path, self.pipeline.directory)
        upstream = None if place is None else place.route.upstream
        if not isinstance(upstream, BridgingUpstream):
            return None
        version = headers.get("mcp-protocol-version", ("",))[0]
        if not (upstream.remembers if version in MODERN_VERSIONS else upstream.one_for_sessions):
            return None
        if certificate is not None:
            # Notes are of a head, whoever's connection it comes on; a certificate is of one.
            notes = None
        home = notes.get(_NOTE) if notes is not None else None
        if home is None:
            home = self._home_of_principal(path, headers, peer, certificate, notes)
        return home if home != self.seat.number and self._switchboard.passes_on else None

    def _home_of_principal(
        self,
        path: str,
        headers: Mapping[str, tuple[str, ...]],
        peer: str,
        certificate: PeerCertificate | None,
        notes: Notes,
    ) -> int | None:
        asked = Incoming("", "POST", path, "", headers, b"", peer, 0.0, certificate=certificate)
        callers = self.pipeline.callers
        key, rate = attempts_of(peer), callers.failed_rate
        try:
            if self.pipeline.screen(asked) is not None:
                return None
            if callers.is_barred(peer) or not self._guesses.peek(key, rate).allowed:
                return None
            found = callers.authenticator.authenticate(asked, self.wall())
        except Refused as refused:
            # It is refused here, where it counts.
            if refused.refusal.reason is not Reason.NO_CREDENTIALS:
                self._guesses.take(key, rate)
            return None
        except Exception:
            # Here too: what fails outside of the corridor would be a lost connection.
            log.failure("where a request has its home cannot be told")
            return None
        if isinstance(found, Deferred):
            # Whoever has to be asked first is asked once, for the request itself.
            found.addErrback(lambda failure: failure.trap(Refused, CancelledError))
            found.cancel()
            self._guesses.take(key, rate)
            return None
        home = home_of(found.key, self.seat.workers)
        if notes is not None and found.provider != CERTIFICATE_PROVIDER:
            # A proxy's word about a certificate counts by who the proxy is, not by the head.
            notes[_NOTE] = home
        return home

    def _returned(self, number: int) -> None:
        # This one may have stood in for it.
        self.pipeline.table.leave_to(
            lambda session_id: self._switchboard.owner_of(session_id) == number
        )

    def _count(self, outcome: str) -> None:
        self.meter.count(HANDOVERS, result=outcome)
