"""Where answers leave: an `Outlet` that is as fast as its client reads."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.http import NO_BODY_CODES
from zope.interface import implementer

from mcpguard.front.exchange import Headers

if TYPE_CHECKING:
    from mcpguard.front.connection import Connection
    from mcpguard.front.site import GuardSite

_log = Logger()

SECURITY_HEADERS: Headers = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
CACHE_WHOLE = "no-store"
CACHE_STREAM = "no-store, no-transform"
KEEPALIVE = b":\r\n\r\n"
"""An SSE comment: keeps proxies from closing a silent stream, and finds dead clients."""

SLICE = 65_536
"""Bytes handed to the transport at a time: what it buffers before it says stop."""

CONNECTION_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Belong to this connection, so nobody else may set them."""


def phrase(status: int) -> bytes:
    """The words behind a status; Twisted's own table lacks 421 and 431, among others."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b"Unknown"


@implementer(IPushProducer)
class PacedOutlet(ABC):
    """The answer to one request, as fast as its client reads; the base of the outlets.

    Bytes wait here, not in the transport, until the client reads. What waits behind the piece
    being sent is bounded by `Limits.stream_buffer_bytes`; a single piece has the bound of
    whoever made it. Whoever does not read at all is dropped by the channel's stall deadline.
    """

    # Defaults stand on the class: there is an outlet for every request, and most change few.
    request_id: str = ""
    cross_origin: Headers = ()
    begun: bool = False
    """True once `answer` or `open` was called."""
    complete: bool = False
    """True once everything was handed to the transport."""
    held: int = 0
    """Bytes that count against `Limits.answer_bytes_total`: all in the queue."""
    standable: bool = False
    """Whether a stream can be the kind that waits for nothing in particular: that of a GET."""
    _left: bool = False
    """Cut short: the client left, was dropped, or the stream was ended by a drain."""
    _streaming: bool = False
    _standing: bool = False
    """A stream that waits for nothing in particular."""
    _event_stream: bool = False
    _ending: bool = False
    _lost: bool = False
    _paused: bool = False
    _queue: deque[bytes] | None = None
    _sent: int = 0
    """Bytes of the first piece in the queue that are on their way."""
    _behind: int = 0
    """Bytes in the queue behind the first piece."""
    _last_write: float = 0.0
    _callbacks: list[Callable[[], None]] | None = None

    def __init__(self, channel: "Connection", site: "GuardSite") -> None:
        self._channel = channel
        self._site = site

    # -- for the pipeline

    @property
    def gone(self) -> bool:
        """True once nothing more reaches the client."""
        return self._left or self._ending

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once if the answer is cut short; at once when it already was."""
        if self._left:
            callback()
        elif not self.complete:
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer; RuntimeError when one was begun before."""
        if not self._begin():
            return
        self._take_head(status, headers, len(body))
        if body:
            self._push(body)
        self._end()

    def open(self, status: int, headers: Headers, *, ends_in_drain: bool = True) -> None:
        """Start a streamed answer; RuntimeError when one was begun before."""
        if not self._begin():
            return
        kinds = [value for name, value in headers if name.lower() == "content-type"]
        self._streaming = True
        self._standing = ends_in_drain and self.standable
        self._event_stream = any(kind.startswith("text/event-stream") for kind in kinds)
        self._take_head(status, headers, None)
        self._last_write = self._site.reactor.seconds()
        # The head goes out now: the client may wait for it before anything else happens.
        self._send_head()

    def write(self, chunk: bytes) -> None:
        """Send a piece of a streamed answer; RuntimeError before ``open``."""
        if self.gone:
            return
        if not self._streaming:
            raise RuntimeError("write outside of a streamed answer")
        if self._queue and self._behind + len(chunk) > self._site.limits.stream_buffer_bytes:
            self.cut("slow_reader")
            return
        self._last_write = self._site.reactor.seconds()
        if chunk:
            self._push(chunk)

    def finish(self) -> None:
        """End a streamed answer; RuntimeError before ``open``."""
        if self.gone:
            return
        if not self._streaming:
            raise RuntimeError("finish outside of a streamed answer")
        self._end()

    # -- for the channel

    def beat(self, now: float) -> None:
        """Send a comment on an event stream that was silent for `Limits.keepalive_secs`."""
        silent = self._event_stream and not (self._ending or self._paused or self._queue)
        if silent and now - self._last_write >= self._site.limits.keepalive_secs:
            self._last_write = now
            self._send(KEEPALIVE)

    def end_standing_stream(self) -> None:
        """End the stream of a GET, which waits for nothing in particular; for a drain."""
        if self._standing and not self._ending:
            self._leave()
            self._end()

    def client_left(self) -> None:
        """The connection is lost."""
        self._lost = True
        self._queue = None
        self._count_held()
        self._leave()

    def cut(self, word: str) -> None:
        """Drop the connection in the middle of the answer; counts as gone at once."""
        if not self._lost:
            self._channel.abort(word)
            self.client_left()

    # -- IPushProducer, called by the channel

    def pauseProducing(self) -> None:
        """The client does not read fast enough: hold back."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The client has read everything: go on."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:  # noqa: B027 - of IPushProducer, and nothing to do
        """Nothing to do: the request reports the lost connection."""

    # -- inside

    def _begin(self) -> bool:
        if self._left:
            return False
        if self.begun:
            raise RuntimeError("a request is answered once")
        self.begun = True
        # A pipelined request may be answered while the client still leaves the answer before
        # it unread; the transport says so only at the next write.
        self._paused = self._channel.congested
        return True

    def _push(self, chunk: bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        elif self._queue:
            self._behind += len(chunk)
        self._queue.append(chunk)
        self._pump()
        self._site.relieve()

    def _end(self) -> None:
        self._ending = True
        self._pump()

    def _pump(self) -> None:
        while self._queue and not self._paused:
            chunk = self._queue[0]
            piece = chunk[self._sent : self._sent + SLICE]
            self._sent += len(piece)
            if self._sent == len(chunk):
                self._queue.popleft()
                self._sent = 0
                if self._queue:
                    self._behind -= len(self._queue[0])
            self._send(piece)
        self._count_held()
        if self._ending and not (self.complete or self._lost or self._queue or self._paused):
            self._complete()

    def _count_held(self) -> None:
        held = len(self._queue[0]) + self._behind if self._queue else 0
        self._site.answers.held += held - self.held
        self.held = held

    def _complete(self) -> None:
        self.complete = True
        self._callbacks = None
        self._close()

    def _leave(self) -> None:
        if self._left or self.complete:
            return
        self._left = True
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                _log.failure("A callback failed when the client had left")

    # -- the wire, which differs between channels

    @abstractmethod
    def _take_head(self, status: int, headers: Headers, length: int | None) -> None:
        """Note the head to send; ``length`` is None for a stream."""

    @abstractmethod
    def _send_head(self) -> None:
        """Hand the head to the transport."""

    @abstractmethod
    def _send(self, piece: bytes) -> None:
        """Hand a piece of the body to the transport, after the head."""

    @abstractmethod
    def _close(self) -> None:
        """Hand over what ends the answer, and let the channel go on."""


class RequestOutlet(PacedOutlet):
    """An outlet over a twisted.web request."""

    def __init__(self, request: Any, channel: "Connection", site: "GuardSite") -> None:
        super().__init__(channel, site)
        self._request = request

    def _begin(self) -> bool:
        if not super()._begin():
            return False
        self._request.registerProducer(self, True)
        self.standable = self._request.method == b"GET"
        return True

    def _take_head(self, status: int, headers: Headers, length: int | None) -> None:
        self._request.setResponseCode(status, phrase(status))
        out = self._request.responseHeaders
        if length is None:
            out.setRawHeaders("X-Accel-Buffering", ["no"])
        elif status not in NO_BODY_CODES:
            out.setRawHeaders("Content-Length", [str(length)])
        for name, value in headers:
            if name.lower() not in CONNECTION_HEADERS:
                out.addRawHeader(name, value)
        for name, value in self.cross_origin:
            out.addRawHeader(name, value)
        for name, value in SECURITY_HEADERS:
            out.setRawHeaders(name, [value])
        out.setRawHeaders("Cache-Control", [CACHE_STREAM if length is None else CACHE_WHOLE])
        out.setRawHeaders("X-Request-ID", [self.request_id])
        out.setRawHeaders(b"Date", [self._site.date()])
        if not self._channel.persistent:
            out.setRawHeaders("Connection", ["close"])

    def _send_head(self) -> None:
        self._request.write(b"")

    def _send(self, piece: bytes) -> None:
        self._request.write(piece)

    def _close(self) -> None:
        self._request.unregisterProducer()
        self._request.finish()
