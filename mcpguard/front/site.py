"""A listener's factory: one `GuardChannel` for each client, their number, their deadlines."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource
from twisted.web.server import Site

from mcpguard.front.bounds import Budget, Limits
from mcpguard.front.channel import GuardChannel
from mcpguard.front.connection import Connection, Phase
from mcpguard.front.cors import Cors
from mcpguard.front.exchange import Corridor, Gate
from mcpguard.front.fast_channel import FastChannel
from mcpguard.front.fast_head import MAX_FAST_HEAD, FastHeads
from mcpguard.front.fast_outlet import HeadLines
from mcpguard.front.moving import Handover
from mcpguard.front.request import GuardRequest
from mcpguard.policy.addresses import address_block
from mcpguard.policy.certificates import PeerCertificate, Withdrawn

_log = Logger()

DROP_WORDS = frozenset(
    {
        "malformed",
        "head_too_large",
        "slow_head",
        "slow_reader",
        "too_many_connections",
        "too_many_from_address",
        "draining",
        "drain_limit",
        "certificate_expired",
        *(one.value for one in Withdrawn),
        "bad_certificate",
        "failed",
    }
)
"""Why a connection was dropped, or turned away before there was a request to refuse."""

_SWEEP_SECS = 0.5
"""How often deadlines are looked at: the most by which one is late."""
_MAX_KEPT_HEADS = 512
_MAX_KEPT_HEAD = 2_048
_KEPT_HEADS_SECS = 30.0
"""Heads of requests are remembered for at most twice as long."""


class GuardSite(Site):
    """Twisted's `Site` with bounds, without its access log, banner, sessions and HTTP/2.

    Args:
        reactor: clock of every deadline.
        wall: Unix seconds, for the Date header.
        gate: screens every request and renders what is refused here.
        resource: the routes; it answers by ``request.outlet``.
        limits: every bound.
        cors: the rules for browsers on other origins; None refuses preflights.
        new_id: mints request ids.
        on_dropped: told one of `DROP_WORDS` for what never became a request.
        corridor: where canonical POSTs to MCP paths go without passing the routes, which must
            lead there as well; None for a listener that has no MCP paths.
    """

    requestFactory = GuardRequest

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        wall: Callable[[], float],
        gate: Gate,
        resource: IResource,
        limits: Limits,
        cors: Cors | None,
        new_id: Callable[[], str],
        on_dropped: Callable[[str], None],
        corridor: Corridor | None = None,
    ) -> None:
        # Twisted reads the Content-Type of every POST with the email package unless told not to.
        super().__init__(resource, reactor=reactor, parsePOSTFormSubmission=False)
        # Twisted's one timeout starts again with every byte and stops with the head; ours do not.
        self.timeOut = None
        # Without Twisted's wrapper that changes to HTTP/2; Factory only calls what stands here.
        self.protocol = lambda: GuardChannel(self)  # type: ignore[method-assign,assignment,return-value]
        self.wall = wall
        self.gate = gate
        self.limits = limits
        self.bodies = Budget(limits.body_bytes_total)
        self.answers = Budget(limits.answer_bytes_total)
        self.cors = cors
        self.new_id = new_id
        self.on_dropped = on_dropped
        self.heads = FastHeads(
            max_head=min(MAX_FAST_HEAD, limits.header_bytes),
            max_fields=limits.header_count,
            max_kept=_MAX_KEPT_HEADS,
            max_kept_bytes=_MAX_KEPT_HEAD,
        )
        self.lines = HeadLines()
        self.is_elsewhere: Callable[[str], bool] = _never
        """Whether the session with this id belongs to another process."""
        self.is_at_home_elsewhere: Callable[..., bool] = _never
        """Whether a request of no session has its home there; see `moving.Handover`."""
        self.is_parked_elsewhere: Callable[[bytes], bool] = _never
        """Whether a request with this body, of no session, goes on with what another one holds."""
        self.withdrawn: Callable[[PeerCertificate], Withdrawn | None] = lambda one: None
        """Why a client's certificate counts no more since it was verified; None: it does."""
        self.handover: Handover | None = None
        self._corridor = corridor
        self._heads_age_at = 0.0
        self._channels: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._sweeping: IDelayedCall | None = None
        self._drains: list[Deferred[int]] = []
        self._draining = False
        self._aborted = 0
        self._date = (0, b"")

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Give a new connection its channel."""
        if self._corridor is None:
            return self.general_channel()
        channel = FastChannel(self, self._corridor)
        channel.factory = self
        return channel

    def share(self, handover: Handover) -> None:
        """Let connections move to other processes behind the same listener."""
        self.handover = handover
        self.is_elsewhere = handover.is_elsewhere
        self.is_at_home_elsewhere = handover.is_at_home_elsewhere
        self.is_parked_elsewhere = handover.is_parked_elsewhere

    def general_channel(self) -> GuardChannel:
        """A channel that serves whatever HTTP/1.1 has."""
        channel: GuardChannel = super().buildProtocol(None)
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        """Pin ALPN: under HTTP/2 the client's certificate is out of reach of a request."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Open no access log, and tick no clock for it: the audit trail is the log."""

    def log(self, request: Any) -> None:
        """Write no access log."""

    def date(self) -> bytes:
        """The Date header's value, formatted once a second."""
        now = int(self.wall())
        if self._date[0] != now or not self._date[1]:
            self._date = (now, datetimeToString(now))
        return self._date[1]

    # -- the registry of connections

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._channels)

    def admit(self, channel: Connection) -> str:
        """Register a connection; gives the word of refusal when it may not stay."""
        if self._draining:
            return "draining"
        if len(self._channels) >= self.limits.connections:
            return "too_many_connections"
        block = address_block(channel.peer)
        if block and self._per_address[block] >= self.limits.connections_per_address:
            return "too_many_from_address"
        self._per_address[block] += 1
        self._channels.add(channel)
        if self._sweeping is None:
            self._sweeping = self.reactor.callLater(_SWEEP_SECS, self._sweep)
        return ""

    def forget(self, channel: Connection) -> None:
        """Take a lost connection out of the registry."""
        if channel not in self._channels:
            return
        self._channels.remove(channel)
        block = address_block(channel.peer)
        self._per_address[block] -= 1
        if not self._per_address[block]:
            del self._per_address[block]
        if not self._channels:
            self._forget_heads()
            self._finish_drain()

    def replace(self, old: Connection, new: Connection) -> None:
        """Put the channel that goes on with a connection in the place of the one that had it."""
        if old in self._channels:
            self._channels.remove(old)
            self._channels.add(new)

    def relieve(self) -> None:
        """Drop clients that do not read until the answers that wait are within their bound."""
        if self.answers.fits(0):
            return
        stuck = [channel for channel in self._channels if channel.congested]
        for channel in sorted(stuck, key=lambda one: one.congested_since):
            if self.answers.fits(0):
                return
            channel.drop_answer()

    def cut_withdrawn(self) -> int:
        """Drop every connection whose client's certificate is `withdrawn` by now; how many."""
        found = [
            (channel, why)
            for channel in self._channels
            if channel.certificate is not None
            and channel.phase is not Phase.CLOSING
            and (why := self.withdrawn(channel.certificate)) is not None
        ]
        for channel, why in found:
            channel.revoke(why.value)
        return len(found)

    def wind_down(self) -> None:
        """Serve every connection's next request, as its last; idle ones stay open for it.

        For a listener whose connections others take over: a client whose request is on its way
        is not met by a closed connection.
        """
        for channel in tuple(self._channels):
            channel.wind_down()

    def drain(self, timeout: float) -> Deferred[int]:
        """Let running requests finish, within ``timeout`` seconds; new connections are dropped.

        Idle connections are closed at once, GET streams are ended, every answer from now on says
        ``Connection: close``. Fires with the number of connections cut at the limit. Listening
        is stopped by whoever listens.
        """
        drained: Deferred[int] = Deferred()
        self._draining = True
        self._drains.append(drained)
        for channel in tuple(self._channels):
            channel.drain()
        if not self._channels:
            self._finish_drain()
        else:
            limit = self.reactor.callLater(timeout, self._abort_all)
            drained.addBoth(_cancel, limit)
        return drained

    def _abort_all(self) -> None:
        for channel in tuple(self._channels):
            self._aborted += 1
            channel.abort("drain_limit")

    def _forget_heads(self) -> None:
        self.heads.age()
        self.heads.age()

    def _finish_drain(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        drains, self._drains = self._drains, []
        for drained in drains:
            drained.callback(self._aborted)

    def _sweep(self) -> None:
        self._sweeping = self.reactor.callLater(_SWEEP_SECS, self._sweep)
        now = self.reactor.seconds()
        if now >= self._heads_age_at:
            self._heads_age_at = now + _KEPT_HEADS_SECS
            self.heads.age()
        for channel in tuple(self._channels):
            try:
                channel.check(now)
            except Exception:
                _log.failure("A connection's deadlines could not be checked")
                channel.abort("failed")


def _never(*of: object) -> bool:
    return False


def _cancel(result: int, call: IDelayedCall) -> int:
    if call.active():
        call.cancel()
    return result
