"""What every link to one HTTP server shares: its address, the wire, the ids, the limits."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import Factory, define, field, frozen
from twisted.internet.interfaces import IReactorTime

from mcpguard.errors import Reason
from mcpguard.observe.events import Meter
from mcpguard.protocol.mcp import META_SUBSCRIPTION_ID
from mcpguard.protocol.sse import ServerEvent
from mcpguard.upstream.correlation import (
    CANCELLED,
    LISTEN,
    PROGRESS,
    Correlator,
    Received,
    ServerNotification,
    Stray,
)
from mcpguard.upstream.deadlines import Deadlines
from mcpguard.upstream.http_reader import (
    EVENT_STREAM,
    JSON,
    MessageReader,
    ReaderBounds,
    ReaderOwner,
)
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.target import Target
from mcpguard.upstream.wire import FixedHeaders, Headers, Wire

if TYPE_CHECKING:
    from mcpguard.upstream.http_call import HttpCall

STRAYS = "mcp_guard_upstream_stray_messages_total"


@frozen
class HttpBounds:
    """Limits of the links to one server that are not the operator's to set."""

    max_resumptions: int
    """Attempts in a row to take an interrupted event stream up again, with nothing heard."""
    first_delay: float
    """Seconds before the first of them where the server names none; doubled for each further."""
    min_delay: float
    max_delay: float
    """Seconds between which any such wait lies, whatever the server's ``retry`` says."""
    max_id_bytes: int
    """Of a session id or event id of the server."""
    max_posts: int
    """Notifications and responses of one session under way at once; further ones are dropped."""
    close_secs: float
    """For the DELETE of a session."""
    listen_secs: float
    """How long a session's first requests wait for the head of the server's own stream."""
    doubt_secs: float
    """How long a resumed session may go unused before the server is asked whether it knows it."""
    busy_secs: float
    """``Retry-After`` when ``max_concurrency`` is reached."""


@define(eq=False, repr=False)
class Remote:
    """One HTTP server, as its links use it."""

    name: str
    transport: str
    """``http`` or ``sse``, for metrics."""
    target: Target
    own_headers: Headers = field(repr=False)
    """The configured ones; they may be secrets."""
    wire: Wire
    clock: IReactorTime
    meter: Meter
    random: Callable[[], float]
    bounds: HttpBounds
    reader: ReaderBounds
    timeout: float
    """Seconds, for each request."""
    max_concurrency: int
    correlator: "Correlator[HttpCall]"
    """One for all links: a server that mixes up its sessions still sees no id twice."""
    contact: Callable[[UpstreamFailure | None], None]
    """Told None when the server answers at all, and the failure when it cannot be reached."""
    doubt: Callable[[str], UpstreamFailure]
    """Told what shows that it speaks another era than it did; gives what its caller is told."""
    stopped: bool = field(init=False, default=False)
    late_streams: bool = field(init=False, default=False)
    """The last session's own stream had no head within ``listen_secs``: do not wait for it."""
    deadlines: Deadlines = field(
        init=False, default=Factory(lambda self: Deadlines(self.clock), takes_self=True)
    )
    _readers: set[MessageReader] = field(init=False, factory=set)
    _forget: Callable[[MessageReader], None] = field(
        init=False, default=Factory(lambda self: self._readers.discard, takes_self=True)
    )
    _running: int = field(init=False, default=0)
    _listening: int = field(init=False, default=0)

    def ask(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes | None,
        owner: ReaderOwner,
        on_event: Callable[[ServerEvent], None] | None = None,
    ) -> MessageReader:
        """Send one HTTP request; its answer goes to the owner, possibly before this returns.

        ``on_event`` is told of the events of an event stream that are no messages.
        """
        reader = MessageReader(
            owner, self.reader, self.deadlines, self.contact, self._forget, on_event
        )
        if self.stopped:
            reader.cut(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped"))
            return reader
        self._readers.add(reader)
        whole = headers if type(headers) is FixedHeaders else (*self.own_headers, *headers)
        reader.exchange = self.wire.send(method, url, whole, body, reader)
        if reader.over:
            # Given up while the wire was still at it.
            reader.exchange.abort()
        return reader

    def fix(self, headers: Headers) -> FixedHeaders:
        """Headers for `ask` that go with many requests."""
        # Should the configuration name one of the protocol's headers, the protocol's is sent.
        return FixedHeaders((*self.own_headers, *headers))

    def stop(self) -> None:
        """Close every connection in use, telling who waits, and open none any more."""
        self.stopped = True
        for reader in tuple(self._readers):
            reader.cut(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream was stopped"))

    def enter(self, endless: bool) -> None:
        """Take a place among the running requests (or endless ones); raises `UpstreamFailure`."""
        if (self._listening if endless else self._running) >= self.max_concurrency:
            raise UpstreamFailure(
                Reason.UPSTREAM_BUSY, "max_concurrency reached", self.bounds.busy_secs
            )
        if endless:
            self._listening += 1
        else:
            self._running += 1

    def leave(self, endless: bool) -> None:
        """Give the place back."""
        if endless:
            self._listening -= 1
        else:
            self._running -= 1

    def receive(
        self, message: Message, link: object, call: "HttpCall | None"
    ) -> "Received[HttpCall]":
        """Say what a message on the stream of ``call`` (None: the session's own stream) is.

        An answer counts on the stream of its own request only, progress on the streams of its own
        link, so that a server cannot speak into another caller's conversation.
        """
        if "method" not in message:
            key = message.get("id")
            if call is None or type(key) is not int or key != call.gid:
                return Stray("foreign")
            return self.correlator.answered(key, message)
        method, params = message["method"], message.get("params")
        params = params if isinstance(params, dict) else {}
        if method == PROGRESS:
            if self._belongs_elsewhere(params.get("progressToken"), link, call):
                return Stray("foreign")
        elif method == CANCELLED:
            if call is None or call.outbound.method != LISTEN:
                # One of the server's own requests, taken back under the server's own id.
                return ServerNotification(message)
            if params.get("requestId") != call.gid:
                return Stray("foreign")
        else:
            meta = params.get("_meta")
            if isinstance(meta, dict) and META_SUBSCRIPTION_ID in meta:
                key = meta[META_SUBSCRIPTION_ID]
                if call is None or type(key) is not int or key != call.gid:
                    return Stray("foreign")
        return self.correlator.receive(message, self.clock.seconds())

    def answered(self, message: Message, link: object) -> "HttpCall | Stray":
        """The request of ``link`` that a response on the link's own stream (HTTP+SSE) answers."""
        key = message.get("id")
        pending = self.correlator.get(key) if type(key) is int else None
        if pending is None:
            stray = self.correlator.receive(message, self.clock.seconds())
            return stray if isinstance(stray, Stray) else Stray("unknown")
        return pending.sink if pending.sink.link is link else Stray("foreign")

    def stray(self, kind: str) -> None:
        """Count a message that was dropped."""
        self.meter.count(STRAYS, server=self.name, kind=kind)

    def over(self, endless: bool, result: str, opened_at: float) -> None:
        """Give the place of a finished request back, and count it."""
        if endless:
            self._listening -= 1
        else:
            self._running -= 1
        seconds = max(0.0, self.clock.seconds() - opened_at)
        self.meter.upstream(self.name, self.transport, result, seconds)

    def delay(self, attempt: int, retry: int | None) -> float:
        """Seconds before the ``attempt``-th try (from 1) to open a stream again, with jitter.

        ``retry``: the server's wish in milliseconds.
        """
        base = self.bounds.first_delay if retry is None else retry / 1000.0
        wish = max(base, self.bounds.min_delay) * 2.0 ** min(attempt - 1, 16)
        return min(wish, self.bounds.max_delay) * (1.0 + 0.25 * self.random())

    def _belongs_elsewhere(self, token: object, link: object, call: "HttpCall | None") -> bool:
        pending = self.correlator.get(token) if type(token) is int else None
        if pending is None:
            return False
        if call is not None and call.link.one_stream_each:
            return pending.sink is not call
        return pending.sink.link is not link


POST_HEADERS: Headers = (
    ("Accept", f"{JSON}, {EVENT_STREAM}"),
    ("Content-Type", JSON),
)
GET_HEADERS: Headers = (("Accept", EVENT_STREAM),)
