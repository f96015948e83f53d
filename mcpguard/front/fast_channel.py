"""The hot path: canonical requests to MCP paths, served without twisted.web's machinery.

This channel decides nothing and refuses nothing. A request in the one plain form of `fast_head`
whose body is small enough goes to the corridor as any other does. Whatever else a client does
(another request, a fault, a body that is too slow or has no room), the connection goes over to
a `GuardChannel` with every byte that was not served, and stays there.
"""

import math
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection as TcpConnection
from twisted.python.failure import Failure

from mcpguard.front.connection import Connection, Phase
from mcpguard.front.exchange import Corridor, Incoming
from mcpguard.front.fast_head import FastHead
from mcpguard.front.fast_outlet import FastOutlet
from mcpguard.front.request import fail_closed

if TYPE_CHECKING:
    from mcpguard.front.site import GuardSite

_READ_AHEAD = 16_384
"""Bytes of further requests that are kept while one is answered; as in twisted.web."""


class FastChannel(Protocol, Connection):
    """The connection of one client, as long as all it sends is plain."""

    transport: Any

    def __init__(self, site: "GuardSite", corridor: Corridor) -> None:
        Connection.__init__(self, site)
        self._corridor = corridor
        self._heads = site.heads
        self.persistent = True
        self.outlet: FastOutlet | None = None
        self._rest = b""
        """Read but not served, from the first byte of a request on."""
        self._reading = False
        """Inside the loop over what was read."""
        self._held_back = False
        """The transport was told not to read."""
        self._head: tuple[FastHead, str] | None = None
        """Of the request whose body is being read."""
        self._head_bytes = b""
        self._body = bytearray()
        """What has come of it; not a list: many small pieces would take up far more than counts."""
        self._missing = 0
        """Bytes of the body that have not come yet."""
        self._counted = 0
        """Bytes of the listener's `Limits.body_bytes_total` that the present request takes up."""
        self._direct = False
        self._local_port = 0

    # -- the connection's life

    def connectionMade(self) -> None:
        """Enter the site's registry, or be dropped at once when it is full or draining."""
        transport = self.transport
        if self._over_tcp():
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        # By its class, not by its attributes: a TLS transport passes on those of the socket
        # beneath it, and what is sent there is not encrypted.
        self._direct = isinstance(transport, TcpConnection) and not transport.TLS
        self._local_port = getattr(transport.getHost(), "port", 0)
        self._begin()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Leave the registry and let the corridor know."""
        self.phase = Phase.CLOSING
        self._guard.forget(self)
        self._forget_body()
        self._rest = b""
        if self.outlet is not None:
            self.outlet.client_left()

    def loseConnection(self) -> None:
        """Close once everything is sent; after `Limits.linger_secs` anyway."""
        if self.phase is not Phase.CLOSING:
            self._enter(Phase.CLOSING, self._limits.linger_secs)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _expire(self) -> None:
        if self.phase is Phase.HEAD or self.phase is Phase.BODY:
            # It answers 408, or whatever is wrong with what did come.
            self._hand_over(self._rest).check(self._guard.reactor.seconds())
        else:
            super()._expire()

    # -- reading requests

    def dataReceived(self, data: bytes) -> None:
        """Serve the requests that these bytes complete."""
        phase = self.phase
        if phase is Phase.BODY:
            self._take_body(data)
        elif phase is Phase.ANSWERING:
            self._rest += data
            if len(self._rest) > _READ_AHEAD:
                self._hold_back()
        elif phase is Phase.HEAD and self._heads.may_grow(self._rest, data):
            self._rest += data
        elif phase is not Phase.CLOSING and data:
            self._read(self._rest + data if self._rest else data)

    def _read(self, data: bytes) -> None:
        """Serve one request after the other, until one is not whole or has no answer yet."""
        self._reading = True
        while data:
            self._rest = b""
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._wait_for_head(data)
                break
            found = self._heads.read(data[:end])
            if found is None or not self._may_serve(found):
                self._hand_over(data)
                break
            length = int(found[1])
            body = data[end : end + length]
            if not self._count(len(body)):
                self._hand_over(data)
                break
            if len(body) < length:
                self._wait_for_body(found, data[:end], body, length)
                break
            if self._is_parked_elsewhere(found, body):
                self._hand_over(data)
                break
            self._rest = data[end + length :]
            self._serve(found, body)
            if self.phase is not Phase.WAITING:
                break
            data = self._rest
        self._reading = False

    def _may_serve(self, found: tuple[FastHead, str]) -> bool:
        head, digits = found
        length, site = int(digits), self._guard
        if length > self._limits.body_bytes or not site.bodies.fits(length):
            return False
        if head.session_id is not None:
            return not site.is_elsewhere(head.session_id)
        return not site.is_at_home_elsewhere(
            head.path, head.headers, self.peer, self.certificate, head.notes
        )

    def _is_parked_elsewhere(self, found: tuple[FastHead, str], body: bytes) -> bool:
        return bool(body) and found[0].session_id is None and self._guard.is_parked_elsewhere(body)

    def _wait_for_head(self, data: bytes) -> None:
        if not self._heads.may_come(data):
            self._hand_over(data)
            return
        self._rest = data
        if self.phase is Phase.WAITING:
            self._enter(Phase.HEAD, self._limits.head_secs)

    def _wait_for_body(
        self, found: tuple[FastHead, str], head: bytes, body: bytes, length: int
    ) -> None:
        self._head, self._head_bytes = found, head
        self._body, self._missing = bytearray(body), length - len(body)
        self._enter(Phase.BODY, self._limits.body_secs)

    def _take_body(self, data: bytes) -> None:
        piece = data[: self._missing]
        if not self._count(len(piece)):
            self._hand_over(data)
            return
        self._body += piece
        self._missing -= len(piece)
        if not self._missing and self._head is not None:
            found, body = self._head, bytes(self._body)
            if self._is_parked_elsewhere(found, body):
                self._hand_over(data[len(piece) :])
                return
            self._head, self._head_bytes, self._body = None, b"", bytearray()
            self._rest = data[len(piece) :]
            self._reading = True
            self._serve(found, body)
            self._reading = False
            if self.phase is Phase.WAITING and self._rest:
                self._read(self._rest)

    def _serve(self, found: tuple[FastHead, str], body: bytes) -> None:
        head, _ = found
        site = self._guard
        self._due = math.inf
        self.phase = Phase.ANSWERING
        self.persistent = head.persistent and not self._last
        incoming = Incoming(
            site.new_id(),
            head.method,
            head.path,
            "",
            head.headers,
            body,
            self.peer,
            site.reactor.seconds(),
            self._local_port,
            self.certificate,
            head.notes,
        )
        self.outlet = outlet = FastOutlet(self, site, incoming.request_id)
        if head.method == "GET":
            outlet.standable = True
        try:
            if site.cors is not None:
                outlet.cross_origin = site.cors.headers(incoming)
            refusal = site.gate.screen(incoming)
            if refusal is None:
                self._corridor.handle(incoming, outlet)
            else:
                site.gate.refuse(incoming, refusal, outlet)
        except Exception:
            fail_closed(site.gate, incoming, outlet, Failure())

    # -- answering

    def send(self, data: bytes) -> None:
        """Hand bytes to the transport, or to the socket itself when nothing waits before them.

        Twisted's own `write` waits for the reactor to find the socket writable: two system calls
        and a turn of the loop more for each answer.
        """
        transport = self.transport
        if (
            self._direct
            and self.phase is Phase.ANSWERING
            and not transport.dataBuffer
            and not transport._tempDataBuffer
        ):
            sent = transport.writeSomeData(data)
            # An exception is a lost connection; the transport finds that out again by itself.
            if type(sent) is int:
                if sent == len(data):
                    return
                data = data[sent:]
        transport.write(data)

    def send_later(self, data: bytes) -> None:
        """Hand bytes to the transport, to leave at the end of this turn of the reactor."""
        self.transport.write(data)

    def answered(self) -> None:
        """Close, or go on with the next request; called by the outlet when all was handed on."""
        self.outlet = None
        self._forget_body()
        if self.phase is not Phase.ANSWERING:
            return
        if not self.persistent:
            self.loseConnection()
            return
        self._enter(Phase.WAITING, self._limits.idle_secs)
        if self._held_back and not self.congested:
            self._go_on_reading()
        if self._rest and not self._reading:
            self._read(self._rest)

    # -- IPushProducer, called by the transport

    def pauseProducing(self) -> None:
        """The client leaves the transport's buffer full: hold back, and read no further request."""
        self._note_congestion()
        if self.outlet is not None:
            self.outlet.pauseProducing()
        else:
            self._hold_back()

    def resumeProducing(self) -> None:
        """The buffer is empty again."""
        self._congested_since = None
        if self.outlet is not None:
            self.outlet.resumeProducing()
        if self._held_back and len(self._rest) <= _READ_AHEAD:
            self._go_on_reading()

    def _hold_back(self) -> None:
        if not self._held_back:
            self._held_back = True
            self.transport.pauseProducing()

    def _go_on_reading(self) -> None:
        self._held_back = False
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Nothing to do: the connection is reported lost."""

    # -- bounds

    def _count(self, size: int) -> bool:
        """Take up room for so much of a body, if all bodies leave it."""
        if not self._guard.bodies.take(size):
            return False
        self._counted += size
        return True

    def _forget_body(self) -> None:
        self._guard.bodies.give(self._counted)
        self._counted = 0

    # -- everything else

    def _hand_over(self, data: bytes) -> Connection:
        """Give the connection with all that was not served to a general channel, for good."""
        self._forget_body()
        self._rest = b""
        general = self._guard.general_channel()
        self.transport.unregisterProducer()
        # The transport knows this protocol and goes on calling it.
        self.dataReceived = general.dataReceived  # type: ignore[method-assign]
        self.connectionLost = general.connectionLost  # type: ignore[method-assign]
        if self.phase is Phase.BODY:
            general.take_over(self, self._head_bytes, bytes(self._body) + data)
        else:
            general.take_over(self, data, b"")
        self._body = bytearray()
        self.phase = Phase.CLOSING
        return general
