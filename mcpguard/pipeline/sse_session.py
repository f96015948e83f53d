"""A session of HTTP+SSE (2024-11-05): its one stream, and answers as events on it."""

from collections.abc import Callable
from enum import Enum

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall

from mcpguard.front.exchange import Headers, Outlet
from mcpguard.pipeline.sessions import Session
from mcpguard.pipeline.streams import STREAM_TYPE, EventStream
from mcpguard.protocol.jsonrpc import encode
from mcpguard.protocol.sse import encode_event
from mcpguard.upstream.link import Message


@frozen
class SseBounds:
    """How much one session of HTTP+SSE may hold, and how long."""

    handshake_secs: float
    """From the opening of the stream to ``initialize``."""
    idle_secs: float
    """Without a message in either direction, though the stream is read."""
    requests: int
    """Requests under way at once: their POSTs are over, so nothing else bounds them."""


class Stage(Enum):
    """How far the handshake is."""

    NEW = "new"
    OPENING = "opening"
    OPEN = "open"


@define(eq=False)
class MessageStream(EventStream):
    """The one stream of a session: no event ids, no replay."""

    monotonic: Callable[[], float] = field(kw_only=True)
    on_end: Callable[[], None] = field(kw_only=True)
    used_at: float = field(init=False, default=0.0)
    """When a message last went out."""

    def begin(self, outlet: Outlet, headers: Headers, endpoint: str) -> None:
        """Open it, and say where to post."""
        self._outlet = outlet
        self.used_at = self.monotonic()
        # The wire itself ends it in a drain, once the running requests have their answers.
        outlet.open(200, [STREAM_TYPE, *headers], ends_in_drain=False)
        outlet.write(encode_event(endpoint.encode(), event="endpoint"))

    def send(self, message: Message) -> None:
        """Write one message; dropped once the client has left."""
        if self._outlet is not None and self.attached:
            self.used_at = self.monotonic()
            self._outlet.write(encode_event(encode(message), event="message"))

    def end(self) -> None:
        """End it, and with it the session."""
        if not self.ended:
            super().end()
            self.on_end()


@define(eq=False)
class StreamReply:
    """The answer to a POST that was answered already: events on the session's stream."""

    outlet: Outlet
    resumable: EventStream | None
    """The session's stream."""
    may_stream: bool = True
    streaming: bool = False
    ended: bool = False
    opening: Callable[[], bool] | None = None

    @property
    def reachable(self) -> bool:
        """See `streams.Reply`."""
        return not self.ended and self.resumable is not None and self.resumable.attached

    def commit(self) -> None:
        """Nothing to do: the stream is open."""

    def send(self, message: Message) -> bool:
        """See `streams.Reply`."""
        if self.ended or self.resumable is None:
            return False
        self.resumable.send(message)
        return True

    def end(self, message: Message, status: int = 200) -> int:
        """See `streams.Reply`; the POST has seen 202."""
        self.send(message)
        self.ended = True
        return 202

    def abandon(self) -> None:
        """Say nothing more."""
        self.ended = True

    def part(self) -> bool:
        """Nothing to do: the session ends with the credentials, and this with it."""
        return True


@define(eq=False)
class SseSession:
    """A session, its stream, and how far its handshake is."""

    session: Session
    stream: MessageStream
    outlet: Outlet
    stage: Stage = Stage.NEW
    dead: bool = False
    """The link ended while the handshake was on its way."""
    requests: int = 0
    """Accepted and without an outcome yet."""
    expires_at: float | None = None
    """Unix seconds: when the credentials last shown expire."""
    waiting: IDelayedCall | None = None
    """Ends it if ``initialize`` does not come."""
    expiring: IDelayedCall | None = None
    """Ends it with the credentials."""
