"""How a connection leaves for another process, and how one that was sent here begins."""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer, ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.front.handover import Colleagues, Outcome, Parcel, session_named
from mcpguard.front.head import Head
from mcpguard.front.relay import Addressed, Arrival, Once, Relay, Relayed
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.protocol.ownership import marked_state

_log = Logger()


Notes = dict[str, Any] | None
"""As in `exchange.Incoming`."""
Home = Callable[
    [str, Mapping[str, tuple[str, ...]], str, PeerCertificate | None, Notes], int | None
]
"""Of a request: path, headers, peer, its certificate and notes in; the process where it has its
home out, None when that is here, or it has none."""


def _nowhere(
    path: str,
    headers: Mapping[str, tuple[str, ...]],
    peer: str,
    certificate: PeerCertificate | None,
    notes: Notes,
) -> int | None:
    return None


@frozen
class HandoverBounds:
    """What may be on its way from one listener at a time."""

    connections: int
    unread_bytes: int
    """Of all of them together."""


class Movable(Relayed, Protocol):
    """A client's connection in the hands of its channel."""

    certificate: PeerCertificate | None
    """The client's."""

    def moved(self) -> None:
        """It is another process's now: nothing of it is left here."""
        ...

    def relayed(self, relay: Relay) -> None:
        """Another process serves it from now on, by this relay."""
        ...

    def stay(self, outcome: Outcome, unread: bytes) -> None:
        """It could not move: go on here, with all that is unread."""
        ...

    def resumeProducing(self) -> None:
        """As the producer of its transport: what was written is sent."""
        ...


def is_movable(transport: Any) -> bool:
    """Whether the socket itself can move: TLS has its state in this process."""
    return ISSLTransport(transport, None) is None


@define(eq=False)
class Handover:
    """Moves the connections of one listener, and takes those that come. ``on_outcome`` counts.

    ``reactor`` gives `IReactorSocket`.
    """

    reactor: Any
    colleagues: Colleagues
    bounds: HandoverBounds
    on_outcome: Callable[[str], None]
    home_of: Home = _nowhere
    """Where requests of no session have their home, if they have any."""
    _moves: dict["Move", int] = field(init=False, factory=dict)
    """Those under way, and the bytes each of them holds."""
    _arriving: bool = field(init=False, default=False)
    _blank: socket.socket | None = field(init=False, default=None)

    # -- whose it is -----------------------------------------------------------------------

    def owner_of_head(
        self, head: Head, peer: str, certificate: PeerCertificate | None
    ) -> int | None:
        """Where a request from ``peer`` belongs, by its head; None: here."""
        session = session_named(head)
        if session is not None:
            return self._owner_of(session)
        return self._home_of(head.path, head.headers, peer, certificate, None)

    def owner_of_body(self, head: Head, body: bytes) -> int | None:
        """Where a request belongs that was read whole: to what it goes on with, if to nothing
        that its head says. None: here.
        """
        if session_named(head) is not None:
            return None
        state = marked_state(body)
        return None if state is None else self._owner_of(state)

    def is_elsewhere(self, session: str) -> bool:
        """Whether a session is another process's."""
        return self._owner_of(session) is not None

    def is_at_home_elsewhere(
        self,
        path: str,
        headers: Mapping[str, tuple[str, ...]],
        peer: str,
        certificate: PeerCertificate | None,
        notes: Notes,
    ) -> bool:
        """Whether a request that names no session has its home in another process."""
        return self._home_of(path, headers, peer, certificate, notes) is not None

    def is_parked_elsewhere(self, body: bytes) -> bool:
        """Whether a request that names no session goes on with what another process holds."""
        state = marked_state(body)
        return state is not None and self._owner_of(state) is not None

    def _owner_of(self, token: str) -> int | None:
        if self._arriving:
            # It is the request that a connection was sent here for, and no sender is asked
            # again: whatever two processes think of each other, nothing goes round.
            self._arriving = False
            return None
        return self.colleagues.owner_of(token)

    def _home_of(
        self,
        path: str,
        headers: Mapping[str, tuple[str, ...]],
        peer: str,
        certificate: PeerCertificate | None,
        notes: Notes,
    ) -> int | None:
        home = self.home_of(path, headers, peer, certificate, notes)
        if home is None or not self._arriving:
            return home
        self._arriving = False
        return None

    # -- away ------------------------------------------------------------------------------

    def move(self, channel: Movable, owner: int, unread: bytes) -> "Move | None":
        """Prepare a connection to move, whose reading must be paused; `Move.begin` follows.

        None when too much is on its way already: it has to stay.
        """
        held = sum(self._moves.values()) + len(unread)
        if len(self._moves) >= self.bounds.connections or held > self.bounds.unread_bytes:
            self.on_outcome(Outcome.BUSY.value)
            return None
        move = Move(self, channel, owner, unread)
        self._moves[move] = len(unread)
        return move

    def holds(self, move: "Move", size: int) -> None:
        """A move has as many bytes now."""
        self._moves[move] = size

    def over(self, move: "Move", outcome: Outcome | None) -> None:
        """A move has ended; None: its connection did."""
        self._moves.pop(move, None)
        if outcome is not None:
            self.on_outcome(outcome.value)

    def vacate(self, transport: Any) -> None:
        """Give up our copy of a connection that has moved: no FIN, no RST.

        Twisted ends every connection with shutdown(2), which ends it for all processes. So its
        descriptor stands for a socket that was never connected when it does.
        """
        if self._blank is None:
            self._blank = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain: Any = transport.transport if isinstance(transport, Addressed) else transport
        # First, while the descriptor means what the reactor has registered: epoll would go on
        # to report the connection for as long as the other process has it open.
        plain.stopReading()
        plain.stopWriting()
        os.dup2(self._blank.fileno(), plain.fileno(), inheritable=False)
        plain.connectionLost(Failure(ConnectionDone()))

    def close(self) -> None:
        """Release what is kept for moving."""
        if self._blank is not None:
            self._blank.close()
            self._blank = None

    # -- here ------------------------------------------------------------------------------

    def adopt(self, factory: Any, descriptor: int, parcel: Parcel) -> None:
        """Go on with a connection that another process has sent, as ``factory`` does.

        The descriptor is taken.
        """
        behind = None if parcel.direct else (parcel.peer, parcel.host, parcel.certificate)
        arrival = Arrival(factory, behind)
        try:
            with socket.socket(fileno=descriptor) as sent:
                if sent.type != socket.SOCK_STREAM:
                    raise OSError("no stream")
                self.reactor.adoptStreamConnection(sent.fileno(), sent.family, arrival)
        except OSError as error:
            # The client may have left on the way.
            _log.info("a connection that was sent here is lost: {error}", error=error)
            return
        if arrival.inner is None:
            return
        self._arriving = True
        try:
            arrival.inner.dataReceived(parcel.unread)
        except Exception:
            _log.failure("a connection that was sent here could not be served")
            arrival.inner.transport.abortConnection()
        finally:
            self._arriving = False
        self.on_outcome("arrived")


@implementer(IPullProducer)
class Move:
    """One connection on its way. As its transport's producer it hears when all is sent."""

    def __init__(self, handover: Handover, channel: Movable, owner: int, unread: bytes) -> None:
        self._handover = handover
        self._channel = channel
        self._owner = owner
        self._unread = unread
        self._flushing = False
        self._sending: Deferred[Outcome] | None = None
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._parcel: Parcel | None = None
        self._over = False

    def begin(self) -> None:
        """Move once everything that was answered before is sent.

        What TLS is spoken on stays, so it moves now: the channel may hear of it in this call.
        """
        transport = self._channel.transport
        if not is_movable(transport):
            self._send()
            return
        transport.unregisterProducer()
        # Twisted asks a pull producer at once, and again whenever its buffer is empty: also when
        # it was before, if it is made to look.
        transport.registerProducer(self, False)
        self._flushing = True
        transport.startWriting()

    def take(self, data: bytes) -> None:
        """The client has sent more."""
        self._unread += data
        self._handover.holds(self, len(self._unread))

    def cancel(self) -> None:
        """The connection has ended."""
        if self._over:
            return
        self._finish(None)
        if self._sending is not None:
            self._sending.cancel()

    # -- IPullProducer

    def resumeProducing(self) -> None:
        """Everything that was written is sent."""
        if self._flushing and not self._over:
            self._flushing = False
            self._send()

    def stopProducing(self) -> None:
        """The connection has ended."""
        self.cancel()

    # -- inside

    def _send(self) -> None:
        transport = self._channel.transport
        direct = is_movable(transport)
        try:
            if direct:
                descriptor = transport.getHandle().fileno()
            else:
                self._pair = near, far = socket.socketpair()
                near.setblocking(False)
                far.setblocking(False)
                descriptor = far.fileno()
        except OSError:
            _log.failure("a connection could not be passed on")
            self._stay(Outcome.BUSY)
            return
        direct = direct and not isinstance(transport, Addressed)
        peer, host = _pair_of(transport.getPeer()), _pair_of(transport.getHost())
        self._parcel = Parcel(peer, host, direct, self._unread, self._channel.certificate)
        self._sending = self._handover.colleagues.send(self._owner, self._parcel, descriptor)
        self._sending.addCallbacks(self._sent, lambda failure: failure.trap(CancelledError))
        self._sending.addErrback(self._failed)

    def _sent(self, outcome: Outcome) -> None:
        if self._over:
            return
        if outcome is not Outcome.SENT:
            self._stay(outcome)
            return
        self._finish(outcome)
        if self._pair is None:
            self._channel.moved()
            self._handover.vacate(self._channel.transport)
            return
        near, far = self._pair
        far.close()
        assert self._parcel is not None
        relay = Relay(self._channel, self._unread[len(self._parcel.unread) :])
        self._handover.reactor.adoptStreamConnection(near.fileno(), near.family, Once(relay))
        near.close()
        self._channel.relayed(relay)

    def _stay(self, outcome: Outcome) -> None:
        self._finish(outcome)
        self._close_pair()
        transport = self._channel.transport
        if is_movable(transport):
            transport.unregisterProducer()
            transport.registerProducer(self._channel, True)
            # Everything was sent, or the connection would still be waiting for that.
            self._channel.resumeProducing()
        self._channel.stay(outcome, self._unread)

    def _finish(self, outcome: Outcome | None) -> None:
        self._over = True
        self._handover.over(self, outcome)
        if outcome is None:
            self._close_pair()

    def _close_pair(self) -> None:
        for end in self._pair or ():
            end.close()

    def _failed(self, failure: Failure) -> None:
        _log.failure("a connection could not be passed on", failure=failure)
        self._channel.transport.abortConnection()


def _pair_of(address: Any) -> tuple[str, int]:
    return str(getattr(address, "host", "")), int(getattr(address, "port", 0))
