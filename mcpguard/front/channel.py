"""One client connection: twisted.web's HTTP/1.1 channel behind a strict reader and deadlines.

The head of each request is read here first (`head`), then handed to Twisted line by line. A
request that is refused before its body was read goes the same way as any other, only without
its body: so there is one path on which answers leave.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from mcpguard.errors import Reason, Refusal
from mcpguard.front.connection import Connection, Phase
from mcpguard.front.handover import Outcome, head_bytes, request_bytes
from mcpguard.front.head import Garbage, Head, HeadReader
from mcpguard.front.moving import Move
from mcpguard.front.outlet import PacedOutlet, phrase
from mcpguard.front.relay import Relay
from mcpguard.front.request import BODIES_FULL

if TYPE_CHECKING:
    from mcpguard.front.fast_channel import FastChannel
    from mcpguard.front.site import GuardSite

_FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~\r\n") | frozenset(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
"""What a request can start with; a TLS hello on a plain port, for one, does not."""

_OWNER_BUSY = Refusal(Reason.OVERLOADED, retry_after=1.0, detail="its session's worker is busy")


class GuardChannel(HTTPChannel, Connection):
    """The connection of one client."""

    transport: Any

    def __init__(self, site: "GuardSite") -> None:
        HTTPChannel.__init__(self)
        Connection.__init__(self, site)
        # Twisted keeps caps of its own behind ours; they only have to be no smaller.
        self.MAX_LENGTH = site.limits.header_bytes
        self.totalHeadersSize = site.limits.header_bytes
        self.maxHeaders = site.limits.header_count
        self._reader = self._new_reader()
        self._refused_unread = False
        self._move: Move | None = None
        self._stay: tuple[Callable[[Refusal | None], None], int] | None = None
        """How to go on if it cannot move, and how much of what is unread that deals with."""
        self._relay: Relay | None = None

    @property
    def outlet(self) -> PacedOutlet | None:  # type: ignore[override]
        """Of the first request that has no answer yet."""
        return self.requests[0].outlet if self.requests else None

    # -- the connection's life

    def connectionMade(self) -> None:
        """Enter the site's registry, or be dropped at once when it is full or draining."""
        super().connectionMade()
        self._begin()

    def take_over(self, other: "FastChannel", data: bytes, body: bytes) -> None:
        """Go on with the connection of another channel, which no answer is pending on.

        ``data`` starts with the first byte of a request; ``body`` is what came of its body when
        ``other`` has read the head already. The deadlines that run go on: no client gains time
        by being passed on.
        """
        self.transport, self.peer, self.connected = other.transport, other.peer, 1
        self.certificate = other.certificate
        self._draining, self._last = other.draining, other.winding_down
        super().connectionMade()
        if other.congested:
            self._congested_since = other.congested_since
            super().pauseProducing()
        self._guard.replace(other, self)
        if other.phase is Phase.HEAD:
            self.phase, self._due = Phase.HEAD, other.due
        self.dataReceived(data)
        if other.phase is Phase.BODY and self.phase is Phase.BODY:
            self._due = other.due
        self.dataReceived(body)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Leave the registry and let the requests know."""
        self.phase = Phase.CLOSING
        if self._move is not None:
            self._move.cancel()
        if self._relay is not None:
            self._relay.client_lost()
        self._guard.forget(self)
        super().connectionLost(reason)

    def abort(self, word: str) -> None:
        """Drop the connection with whatever is unsent; ``word`` goes to the counter."""
        if self._move is not None:
            self._move.cancel()
        super().abort(word)

    def loseConnection(self) -> None:
        """Close once everything is sent; after `Limits.linger_secs` anyway.

        When the request was refused before it was read whole, only our half is closed at first
        and the rest of it is read and dropped: closing a socket with unread bytes resets it, and
        a client still sending was observed to fail there, with the 413 unread. TLS has no halves.
        """
        if self.phase is Phase.CLOSING:
            return
        unread = self.phase is Phase.HEAD or self._refused_unread
        self._enter(Phase.CLOSING, self._limits.linger_secs)
        if unread and self._over_tcp() and not self._over_tls():
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
        else:
            super().loseConnection()

    def _expire(self) -> None:
        if self.phase is Phase.HEAD:
            self._turn_away(Garbage(408, "slow_head"))
        elif self.phase is Phase.BODY:
            self.refuse_unread(Refusal(Reason.SLOW_REQUEST))
        elif self.phase is Phase.MOVING:
            # The answer before is not read to its end.
            self.abort("slow_reader")
        else:
            super()._expire()

    def pauseProducing(self) -> None:
        """Note since when the client leaves the transport's buffer full."""
        self._note_congestion()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The buffer is empty again."""
        self._congested_since = None
        super().resumeProducing()

    # -- reading requests

    def dataReceived(self, data: bytes) -> None:
        """Take bytes, unless the connection is being closed.

        Over TLS bytes still arrive after `loseConnection`; Twisted alone would go on parsing.
        """
        if self.phase is Phase.CLOSING or not data:
            return
        if self._move is not None:
            self._move.take(data)
            return
        if self._relay is not None:
            self._relay.forward(data)
            return
        if self.phase is Phase.WAITING:
            self._enter(Phase.HEAD, self._limits.head_secs)
            if data[0] not in _FIRST_BYTES:
                self._turn_away(Garbage(400, "malformed"))
                return
        super().dataReceived(data)
        if self.phase is Phase.WAITING:
            # Behind a request without a body stands the beginning of another one's first line.
            begun = self.clearLineBuffer()
            if begun:
                self.dataReceived(begun)

    def rawDataReceived(self, data: bytes) -> None:
        """Take bytes of a body, or of what follows it, unless the connection is being closed."""
        # A half-closed connection does not stop Twisted's loop over what it has read; its
        # buffer for pipelined requests would fill and pause the reading that lingering needs.
        if self.phase is not Phase.CLOSING:
            super().rawDataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Read a head; when it is whole and sound, hand it on."""
        if self.phase is Phase.CLOSING:
            return
        if self.phase is Phase.WAITING:
            self._enter(Phase.HEAD, self._limits.head_secs)
        try:
            head = self._reader.line(line)
        except Garbage as garbage:
            self._turn_away(garbage)
            return
        if head is not None:
            self._reader = self._new_reader()
            owner = self._owner_of(head)
            if owner is None:
                self._hand_on(head, None)
            else:
                begun = head_bytes(head)
                self._send_to(
                    owner,
                    begun + self.clearLineBuffer(),
                    lambda refusal: self._hand_on(head, refusal),
                    len(begun),
                )

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line beyond the bound; Twisted alone closes without a word."""
        self._turn_away(self._reader.too_large())

    def _new_reader(self) -> HeadReader:
        return HeadReader(self._limits.header_bytes, self._limits.header_count)

    def _hand_on(self, head: Head, refusal: Refusal | None) -> None:
        if head.fault:
            refusal = Refusal(Reason.MALFORMED_HTTP, f"Malformed HTTP request: {head.fault}")
        elif head.length is not None and head.length > self._limits.body_bytes:
            refusal = Refusal(Reason.TOO_LARGE)
        elif head.length and not self._guard.bodies.fits(head.length):
            refusal = BODIES_FULL
        super().lineReceived(head.lines[0])
        self.requests[-1].take_head(self._guard, head, refusal)
        self._refused_unread = refusal is not None
        # Without its header lines a refused request has no body: it is answered at once.
        fields = head.lines[1:] if refusal is None else ()
        for line in (*fields, b""):
            # Twisted sends 100 Continue whether or not a body is announced.
            if head.length == 0 and line.lower().startswith(b"expect:"):
                continue
            if self.phase is Phase.HEAD:  # unless Twisted found fault with a line
                super().lineReceived(line)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Whether another request may follow; a refused or draining one is the last."""
        head: Head = request.head
        return head.persistent and request.refusal is None and not self._last

    def allHeadersReceived(self) -> None:
        """The body comes next, or the answer when there is none."""
        self._enter(Phase.BODY, self._limits.body_secs)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Process the request, once: a decoder may still deliver the end of a refused body."""
        if self.phase is not Phase.BODY:
            return
        owner = self._owner_of_body()
        if owner is None:
            self._process(None)
            return
        request = self.requests[-1]
        # What came after the body Twisted keeps under this name until the request is answered.
        rest = b"".join(self._dataBuffer)
        unread = request_bytes(request.head, request.content.getvalue()) + rest
        self._send_to(owner, unread, self._process, len(unread))

    def _process(self, refusal: Refusal | None) -> None:
        if refusal is not None:
            self.requests[-1].refusal = refusal
        self._enter(Phase.ANSWERING, math.inf)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """Close, or wait for the next request."""
        if self.persistent and self.phase is Phase.ANSWERING:
            self._enter(Phase.WAITING, self._limits.idle_secs)
        super().requestDone(request)

    # -- to another process, and what `handover.Movable` wants for it

    def _owner_of(self, head: Head) -> int | None:
        handover = self._guard.handover
        too_large = head.length is not None and head.length > self._limits.body_bytes
        if handover is None or head.fault or too_large:
            return None
        return handover.owner_of_head(head, self.peer, self.certificate)

    def _owner_of_body(self) -> int | None:
        handover, request = self._guard.handover, self.requests[-1]
        if handover is None or request.refusal is not None:
            return None
        return handover.owner_of_body(request.head, request.content.getvalue())

    def _send_to(
        self, owner: int, unread: bytes, stay: Callable[[Refusal | None], None], known: int
    ) -> None:
        """Let the connection move; ``stay`` goes on without the first ``known`` unread bytes."""
        assert self._guard.handover is not None
        self._enter(Phase.MOVING, self._limits.stall_secs)
        self._stay = stay, known
        self.transport.pauseProducing()
        self._move = self._guard.handover.move(self, owner, unread)
        if self._move is None:
            self.stay(Outcome.BUSY, unread)
        else:
            self._move.begin()

    def moved(self) -> None:
        """It is another process's now."""
        self._move = None
        self.phase = Phase.CLOSING

    def relayed(self, relay: Relay) -> None:
        """Another process serves it from now on."""
        self._move, self._relay = None, relay
        self._congested_since = None
        self._enter(Phase.RELAYED, math.inf)
        for request in self.requests:
            request.connectionLost(Failure(ConnectionDone()))
        self.requests.clear()

    def relay_lost(self) -> None:
        """The other process has ended it."""
        self._relay = None
        self.loseConnection()

    def relay_waits(self, waits: bool) -> None:
        """The client leaves unread what is passed on, or has read it."""
        if waits:
            self._note_congestion()
        else:
            self._congested_since = None

    def stay(self, outcome: Outcome, unread: bytes) -> None:
        """It could not move: serve it here, or say that its session's worker is busy."""
        assert self._stay is not None
        (go_on, known), self._stay, self._move = self._stay, None, None
        refusal = _OWNER_BUSY if outcome is Outcome.BUSY else None
        if not self.congested:
            self.transport.resumeProducing()
        self._enter(Phase.HEAD, self._limits.head_secs)
        go_on(refusal)
        self.dataReceived(unread[known:])

    # -- refusing

    def refuse_unread(self, refusal: Refusal) -> None:
        """Answer the request whose body is being read with a refusal, and close."""
        self.persistent = False
        self._refused_unread = True
        self.requests[-1].refusal = refusal
        self.allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's own verdict: bad chunks (the one it reaches), or a head it refuses.

        A private name, but the only place every parser error of `HTTPChannel` passes. Its own
        answer has neither Date nor Content-Length.
        """
        if self.phase is Phase.BODY:
            self.refuse_unread(
                Refusal(Reason.MALFORMED_HTTP, "Malformed HTTP request: the chunks are not valid")
            )
        elif self.phase is Phase.HEAD:
            self._turn_away(Garbage(400, "malformed"))

    def _turn_away(self, garbage: Garbage) -> None:
        """Answer what is not a request with a bare status, and close."""
        self._guard.on_dropped(garbage.word)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            % (garbage.status, phrase(garbage.status), self._guard.date())
        )
        self.loseConnection()
