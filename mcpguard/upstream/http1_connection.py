"""One connection to an HTTP/1.1 server."""

from collections.abc import Callable, Sequence
from errno import EAGAIN, ENOBUFS
from select import POLLIN
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IProtocol, IPullProducer, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.errors import Reason
from mcpguard.upstream.http1_answer import AnswerBounds, AnswerReader
from mcpguard.upstream.http1_exchange import Http1Exchange, Keeper, tell_loss
from mcpguard.upstream.http1_failures import explain
from mcpguard.upstream.http1_head import AnswerHead, AnswerHeads, BadAnswer
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.wire import Receiver

log = Logger()

_PIECE = 131_072
"""Bytes handed to the transport at a time, as many as it gives the kernel at once."""


class Dialler(Protocol):
    """Who opens a connection; hears one of these."""

    def usable(self, connection: "Http1Connection") -> None:
        """It can carry its first request."""
        ...

    def unusable(self, failure: Failure) -> None:
        """It was lost before."""
        ...


class Poller(Protocol):
    """What of `select.poll` is used."""

    def register(self, handle: Any, events: int) -> None:
        """Watch a socket."""
        ...

    def poll(self, timeout: int) -> Sequence[object]:
        """What there is to be told of it now."""
        ...


@implementer(IPullProducer)
@define(eq=False, repr=False)
class _Remainder:
    """What the kernel did not take of a request at once; `IPullProducer` of a TCP transport."""

    connection: "Http1Connection"
    rest: memoryview

    def resumeProducing(self) -> None:
        """What was written last has left."""
        piece, self.rest = self.rest[:_PIECE], self.rest[_PIECE:]
        if piece:
            self.connection.transport.write(bytes(piece))
        else:
            self.connection.flushed()

    def stopProducing(self) -> None:
        """The connection is lost."""


@implementer(IProtocol, IHandshakeListener)
@define(eq=False, repr=False)
class Http1Connection:
    """Carries one exchange at a time.

    Its dialler is told once it can be used (over TLS: its server is verified), or that it is lost
    before that. Whatever a server sends that nobody asked for ends the connection: it
    must not be taken for the answer to the next request.
    """

    keeper: Keeper
    heads: AnswerHeads
    bounds: AnswerBounds
    dialler: Dialler | None
    """None once it was told."""
    tls: bool
    poller: Callable[[], Poller]
    idle_until: float = field(init=False, default=0.0)
    transport: Any = field(init=False, default=None)
    _lost: bool = field(init=False, default=False)
    _dead: bool = field(init=False, default=False)
    """Given up by us; its end is still to be told."""
    _socket: Any = field(init=False, default=None)
    """Of a plain TCP connection whose transport shows it."""
    _poll: Callable[[int], Sequence[object]] | None = field(init=False, default=None)
    _flushed: bool = field(init=False, default=True)
    _exchange: Http1Exchange | None = field(init=False, default=None)
    _answer: AnswerReader = field(init=False)
    _on_lost: list[Callable[[], None]] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._answer = AnswerReader(self.heads, self.bounds)

    # the pool

    @property
    def dead(self) -> bool:
        """Whether it was lost or given up."""
        return self._lost or self._dead

    def begin(self, exchange: Http1Exchange, *, fresh: bool) -> bool:
        """Send a request; False when the connection proves dead and not a byte of it has left.

        The keeper is not told of that again. A ``fresh`` connection is not asked: what happens on
        it is the exchange's fate.
        """
        if not fresh and (self._lost or self._dead or self._has_come()):
            self._drop()
            return False
        if exchange.stream:
            # It may stand for hours, and is mostly the last one here.
            self._poll = None
        request, exchange.request = exchange.request, b""
        exchange.connection = self
        self._exchange = exchange
        if self._socket is None:
            exchange.sent = True
            self.transport.write(request)
            return True
        # Past Twisted's queue, which is empty: that costs two changes of what epoll watches and a
        # turn of the reactor for each request.
        try:
            count = self._socket.send(request)
        except OSError as problem:
            if problem.errno not in (EAGAIN, ENOBUFS):
                return self._unsent(exchange, request, problem, fresh=fresh)
            count = 0
        exchange.sent = True
        if count < len(request):
            self._flushed = False
            self.transport.registerProducer(_Remainder(self, memoryview(request)[count:]), False)
        return True

    def _unsent(
        self, exchange: Http1Exchange, request: bytes, problem: OSError, *, fresh: bool
    ) -> bool:
        """The kernel has taken nothing, and never will; gives what `begin` gives."""
        if fresh:
            self._break(explain(Failure(problem)))
            return True
        self._exchange = None
        exchange.connection, exchange.request = None, request
        self._drop()
        return False

    def flushed(self) -> None:
        """The whole request has left."""
        self._flushed = True
        self.transport.unregisterProducer()

    def close(self) -> None:
        """Close it politely while nothing runs."""
        if self.tls:
            # A polite end waits for a peer that may be stalled.
            self.cut()
        elif not self.dead:
            self._dead = True
            self.transport.loseConnection()

    def cut(self) -> None:
        """Give it up at once, whatever runs; the exchange is told nothing."""
        self._exchange = None
        if not self.dead:
            self._drop()
            self.keeper.gone(self)

    def _drop(self) -> None:
        if not self.dead:
            self._dead = True
            if self.transport is not None:
                self.transport.abortConnection()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Call back once it is closed, now if it is."""
        if self._lost:
            call()
        else:
            self._on_lost.append(call)

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """See `IProtocol`."""
        self.transport = transport
        if self._dead:
            transport.abortConnection()
            return
        if ITCPTransport.providedBy(transport):
            # A server that vanished without a FIN leaves an endless stream open for ever otherwise.
            transport.setTcpKeepAlive(True)
            transport.setTcpNoDelay(True)
        self.connectionMade()

    def connectionMade(self) -> None:
        """See `IProtocol`."""
        if self.tls:
            return
        # A TLS transport passes unknown attributes through to the TCP one below it: writing past
        # the queue there would be writing in the clear.
        handle = getattr(self.transport, "getHandle", None)
        if handle is not None:
            self._socket = handle()
        self._opened()

    def _has_come(self) -> bool:
        """Whether anything has come since the reactor looked: its end, or bytes not asked for."""
        poll = self._poll
        if poll is None:
            if self._socket is None:
                return False
            # Not before the second request: a connection with an event stream never has one.
            poller = self.poller()
            poller.register(self._socket, POLLIN)
            self._poll = poll = poller.poll
        # Asked without a wait. A look into the socket would cost an exception each time.
        return bool(poll(0))

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`: the server is who it should be."""
        if not self.transport.disconnecting:
            self._opened()

    def _opened(self) -> None:
        dialler = self.dialler
        if not self.dead and dialler is not None:
            self.dialler = None
            dialler.usable(self)

    def connectionLost(self, reason: Failure) -> None:
        """See `IProtocol`."""
        if self._lost:
            return
        told, self._lost = self._dead, True
        self._socket = self._poll = None
        exchange, self._exchange = self._exchange, None
        dialler, self.dialler = self.dialler, None
        if not told:
            if dialler is None:
                self.keeper.gone(self)
            else:
                dialler.unusable(reason)
        waiting, self._on_lost = self._on_lost, []
        for call in waiting:
            call()
        if exchange is None:
            return
        if self._answer.ends_with_connection and reason.check(ConnectionDone):
            _tell_end(exchange.finish(), None)
        else:
            exchange.lose(explain(reason))

    def dataReceived(self, data: bytes) -> None:
        """See `IProtocol`."""
        exchange = self._exchange
        if exchange is None:
            self.cut()
            return
        try:
            whole = self._answer.whole(data)
            over = whole is not None or self._feed(exchange, data)
        except BadAnswer as bad:
            self._break(UpstreamFailure(Reason.UPSTREAM_FAILED, str(bad)))
        except Exception:
            # A receiver's. It must not kill the connection silently.
            log.failure("receiving an HTTP answer")
            self._break(UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway"))
        else:
            if over and self._exchange is exchange:
                self._complete(exchange, whole)

    def _feed(self, exchange: Http1Exchange, data: bytes) -> bool:
        """Pass on what has come of an answer; gives whether that was the last of it."""
        head, body, over = self._answer.feed(data)
        if head is not None and exchange.receiver is not None:
            exchange.receiver.head(head)
        # Whoever hears it may give the exchange up.
        if body and exchange.receiver is not None:
            exchange.receiver.data(body)
        return over

    def _complete(self, exchange: Http1Exchange, whole: tuple[AnswerHead, bytes] | None) -> None:
        """The answer is complete; ``whole`` where nothing of it has been told yet."""
        self._exchange = None
        # It has to be over before the next one begins here.
        receiver = exchange.finish()
        if whole is None:
            keeps, clean = self._answer.keeps, not self._answer.rest
            self._answer.begin()
        else:
            keeps, clean = whole[0].keep, True
        if not clean or not self._flushed:
            # Nobody asked for more; or the server does not want to read what is still to be sent.
            self.cut()
        elif keeps:
            self.keeper.rest(self)
        else:
            self.close()
            self.keeper.gone(self)
        _tell_end(receiver, whole)

    def _break(self, failure: UpstreamFailure) -> None:
        """Give up the connection, and tell the exchange why."""
        exchange = self._exchange
        self.cut()
        if exchange is not None:
            exchange.lose(failure)


def _tell_end(receiver: Receiver | None, whole: tuple[AnswerHead, bytes] | None) -> None:
    if receiver is None:
        return
    try:
        if whole is None:
            receiver.end()
        else:
            receiver.whole(whole[0].head, whole[1])
    except Exception:
        log.failure("receiving the end of an HTTP answer")
        if whole is not None:
            # It may not have got as far as the end.
            tell_loss(receiver, UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway"))
