"""Carries HTTP requests to one server over a pool of persistent HTTP/1.1 connections."""

import select
from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mcpguard.errors import Reason
from mcpguard.upstream.egress import Endpoint
from mcpguard.upstream.http1_answer import AnswerBounds
from mcpguard.upstream.http1_connection import Http1Connection, Poller
from mcpguard.upstream.http1_dial import Dial
from mcpguard.upstream.http1_exchange import Http1Exchange
from mcpguard.upstream.http1_failures import undialled
from mcpguard.upstream.http1_head import AnswerHeads, RequestHeads
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.wire import Exchange, Headers, Receiver


@frozen
class WireBounds:
    """What the connections to one server may cost."""

    max_connections: int
    """Open or being opened at once, those of event streams (GET) not counted."""
    max_streams: int
    """GETs at once; further ones are refused."""
    max_waiting: int
    """Requests that wait for a connection; further ones are refused."""
    wait_secs: float
    """How long a request may wait for a connection."""
    max_idle: int
    """Connections kept while nothing runs on them."""
    idle_secs: float
    """How long each of them is kept."""
    handshake_secs: float
    """For the TLS handshake of a new connection."""
    busy_secs: float
    """``Retry-After`` of what is refused."""
    max_heads: int
    """Heads remembered in each direction."""
    max_remembered_head: int
    """Bytes of a head that is remembered."""
    answer: AnswerBounds


@define(eq=False, repr=False)
class Http1Wire:
    """Implements `wire.Wire` for one origin (``scheme://host[:port]``).

    The connection that was used last is used first, so that what is not needed grows idle and is
    closed. Nothing is ever sent twice: a request moves on to another connection only when the
    kernel has not taken a byte of it.
    """

    origin: str
    endpoint: Endpoint
    clock: IReactorTime
    bounds: WireBounds
    poller: Callable[[], Poller] = select.poll
    _requests: RequestHeads = field(init=False)
    _answers: AnswerHeads = field(init=False)
    _tls: bool = field(init=False)
    _open: set[Http1Connection] = field(init=False, factory=set)
    _idle: list[Http1Connection] = field(init=False, factory=list)
    """Those of the open ones that rest, the longest first."""
    _dials: dict[Dial, Http1Exchange | None] = field(init=False, factory=dict)
    """With whom each is for: None once that one has got another connection."""
    _waiting: OrderedDict[Http1Exchange, Dial | None] = field(init=False, factory=OrderedDict)
    """In the order of their deadlines, with the dialling for each."""
    _uncovered: OrderedDict[Http1Exchange, None] = field(init=False, factory=OrderedDict)
    """Those of them for whom nobody dials, because there is no room."""
    _streams: int = field(init=False, default=0)
    _timer: IDelayedCall | None = field(init=False, default=None)
    """One for all: the next idle connection or waiting request whose time is over."""
    _due: float = field(init=False, default=0.0)
    _covering: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._requests = RequestHeads(
            self.origin, self.bounds.max_heads, self.bounds.max_remembered_head
        )
        self._answers = AnswerHeads(self.bounds.max_heads, self.bounds.max_remembered_head)
        self._tls = self.origin.startswith("https://")

    # Wire

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, receiver: Receiver
    ) -> Exchange:
        """See `wire.Wire`."""
        stream = method == "GET"
        exchange = Http1Exchange(self, receiver, b"", stream)
        self._streams += stream
        try:
            head = self._requests.render(method, url, headers)
        except ValueError as unfit:
            exchange.lose(UpstreamFailure(Reason.UPSTREAM_FAILED, str(unfit)))
            return exchange
        if stream and self._streams > self.bounds.max_streams:
            self._refuse(exchange, "too many event streams")
            return exchange
        if body is None:
            exchange.request = head + b"\r\n"
        else:
            exchange.request = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        while self._idle:
            connection = self._idle.pop()
            if connection.begin(exchange, fresh=False):
                return exchange
            self._open.discard(connection)
        self._wait(exchange)
        return exchange

    def reach(self, url: str) -> Deferred[None]:
        """See `wire.Wire`; over TLS the server is verified too."""
        reaching: Deferred[None] = Deferred(lambda _: dial.cancel())

        def opened(_: Dial, connection: Http1Connection) -> None:
            connection.close()
            reaching.callback(None)

        def failed(_: Dial, failure: Failure) -> None:
            reaching.errback(undialled(failure))

        dial = self._dial(opened, failed)
        dial.start()
        return reaching

    def close(self) -> Deferred[None]:
        """See `wire.Wire`."""
        idle, self._idle = self._idle, []
        closing = []
        for connection in idle:
            closed: Deferred[None] = Deferred()
            connection.when_lost(lambda closed=closed: closed.callback(None))  # type: ignore[misc]
            closing.append(closed)
            self._open.discard(connection)
            connection.close()
        for dial in [dial for dial, exchange in self._dials.items() if exchange is None]:
            del self._dials[dial]
            dial.cancel()
        self._arm()
        return gatherResults(closing).addCallback(lambda _: None)

    # http1_connection.Keeper

    def rest(self, connection: Http1Connection) -> None:
        """See `http1_connection.Keeper`."""
        if self._waiting:
            # Who has waited longest.
            self._serve(connection, next(iter(self._waiting)), fresh=False)
            return
        bounds = self.bounds
        if len(self._idle) >= bounds.max_idle:
            # The one that has rested longest: its server is likeliest to close it.
            oldest = self._idle.pop(0)
            self._open.discard(oldest)
            oldest.close()
        connection.idle_until = self.clock.seconds() + bounds.idle_secs
        self._idle.append(connection)
        if self._timer is None or connection.idle_until < self._due:
            self._arm()

    def gone(self, connection: Http1Connection) -> None:
        """See `http1_connection.Keeper`."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._cover()

    def given_up(self, exchange: Http1Exchange) -> None:
        """See `http1_connection.Keeper`."""
        self._leave(exchange)
        self._cover()

    def over(self, exchange: Http1Exchange) -> None:
        """See `http1_connection.Keeper`."""
        self._streams -= 1

    # waiting

    def _wait(self, exchange: Http1Exchange) -> None:
        bounds = self.bounds
        if len(self._waiting) >= bounds.max_waiting:
            self._refuse(exchange, "too many wait for a connection")
        else:
            exchange.deadline = self.clock.seconds() + bounds.wait_secs
            self._waiting[exchange] = self._uncovered[exchange] = None
            if self._timer is None or exchange.deadline < self._due:
                self._arm()
            self._cover()

    def _refuse(self, exchange: Http1Exchange, why: str) -> None:
        exchange.lose(UpstreamFailure(Reason.UPSTREAM_BUSY, why, self.bounds.busy_secs))

    def _leave(self, exchange: Http1Exchange) -> bool:
        """Wait no more and stop dialling for it; gives whether somebody did."""
        dial = self._waiting.pop(exchange, None)
        self._uncovered.pop(exchange, None)
        if dial is None:
            return False
        del self._dials[dial]
        dial.cancel()
        return True

    def _serve(self, connection: Http1Connection, exchange: Http1Exchange, *, fresh: bool) -> None:
        """Give a usable connection to one that waits."""
        dial = self._waiting.pop(exchange)
        self._uncovered.pop(exchange, None)
        if connection.begin(exchange, fresh=fresh):
            if dial in self._dials:
                self._dials[dial] = None
            return
        self._waiting[exchange] = dial
        self._waiting.move_to_end(exchange, last=False)
        if dial is None:
            self._uncovered[exchange] = None
            self._uncovered.move_to_end(exchange, last=False)
        self.gone(connection)

    # dialling

    def _cover(self) -> None:
        """Dial for those that wait and for whom nobody dials yet, while there is room."""
        if self._covering:
            # A dialling that fails at once comes back here; the loop below goes on with it.
            return
        self._covering = True
        try:
            while self._uncovered and (
                len(self._open) + len(self._dials) < self.bounds.max_connections + self._streams
            ):
                exchange, _ = self._uncovered.popitem(last=False)
                dial = self._dial(self._opened, self._undialled)
                self._dials[dial] = exchange
                self._waiting[exchange] = dial
                dial.start()
        finally:
            self._covering = False

    def _dial(
        self,
        opened: Callable[[Dial, Http1Connection], None],
        failed: Callable[[Dial, Failure], None],
    ) -> Dial:
        return Dial(
            self.endpoint, self.clock, self.bounds.handshake_secs, self._build, opened, failed
        )

    def _build(self, dial: Dial) -> Http1Connection:
        return Http1Connection(
            self, self._answers, self.bounds.answer, dial, self._tls, self.poller
        )

    def _opened(self, dial: Dial, connection: Http1Connection) -> None:
        exchange = self._dials.pop(dial)
        self._open.add(connection)
        if exchange is not None:
            self._serve(connection, exchange, fresh=True)
        else:
            self.rest(connection)

    def _undialled(self, dial: Dial, failure: Failure) -> None:
        # It says nothing of the other diallings: `HostnameEndpoint` tells of a refusal only up to
        # 0.3 s later, when the server may have been started and others may have reached it.
        exchange = self._dials.pop(dial)
        if exchange is not None:
            del self._waiting[exchange]
            exchange.lose(undialled(failure))
        self._cover()

    # time

    def _arm(self) -> None:
        """Set the timer for what is due next."""
        due = [one.idle_until for one in self._idle[:1]]
        due.extend(one.deadline for one in list(self._waiting)[:1])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due:
            self._due = min(due)
            delay = max(0.0, self._due - self.clock.seconds())
            self._timer = self.clock.callLater(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        while self._idle and self._idle[0].idle_until <= now:
            connection = self._idle.pop(0)
            self._open.discard(connection)
            connection.close()
        why = "no connection in time"
        for exchange in list(self._waiting):
            if exchange.deadline > now:
                break
            if self._leave(exchange):
                exchange.lose(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, why))
            else:
                self._refuse(exchange, why)
        self._cover()
        self._arm()
