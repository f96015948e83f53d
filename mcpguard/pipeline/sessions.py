"""Sessions of handshake-era clients: who owns them, their streams, what the server asks of them."""

from collections.abc import Callable
from typing import Any

from attrs import Factory, define, evolve, field, frozen
from twisted.internet.defer import Deferred, succeed

from mcpguard.errors import METHOD_NOT_FOUND, Reason, Refusal, Refused
from mcpguard.front.exchange import Headers, Outlet
from mcpguard.observe.events import Meter
from mcpguard.pipeline.dispatch import STRAYS, RunningCall, may_touch
from mcpguard.pipeline.streams import EventStream, ReplayLog
from mcpguard.pipeline.trip import digest_of
from mcpguard.policy.principal import Principal
from mcpguard.protocol.jsonrpc import encode
from mcpguard.protocol.tasks import without_task
from mcpguard.upstream.link import Call, Id, Link, Message, Route, UpstreamFailure

GET_STREAM = 0
"""The number of a session's stream for messages that belong to no request."""

_NEEDED_CAPABILITY = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a client must have declared for a server to ask it; every other request is refused."""

_GET_STREAM_ONLY = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
_RELAYED = _GET_STREAM_ONLY | {
    "notifications/message",
    "notifications/progress",
    "notifications/elicitation/complete",
}
"""Server notifications that reach a client; what the protocol does not know is dropped."""


@frozen
class SessionBounds:
    """How much one session, one principal and the gateway may hold."""

    total: int
    per_principal: int
    idle_secs: float
    replay_events: int
    replay_bytes: int
    queued_messages: int
    queued_bytes: int
    queued_secs: float
    remembered: int
    """Sessions that have ended and must not be revived, in all."""
    remembered_per_principal: int
    asked: int
    """Server requests waiting for the client's answer, per session."""
    asked_secs: float


@frozen
class Asked:
    """A server's request that the client has not answered yet."""

    id: Id
    """The server's. The rest of the question is not kept: it may be megabytes."""
    stream: EventStream | None
    asked_at: float
    held: Call | None = field(default=None, repr=False)
    """The request in whose course it is asked: its time stands still meanwhile."""


@define(eq=False)
class Session:
    """One handshake-era session, bound to one principal and one route. Is the link's `Inbox`."""

    id: str
    principal: Principal
    route: Route
    version: str
    client_capabilities: Message
    bounds: SessionBounds
    meter: Meter
    monotonic: Callable[[], float]
    on_dead: Callable[["Session"], None]
    first_event: int = 0
    """Above zero for a session of an earlier life: event ids below this one are of that life."""
    lasting: bool = False
    """Whether it could be revived from its id, had it not ended."""
    link: Link | None = None
    ended: bool = False
    last_used: float = 0.0
    running: dict[RunningCall, None] = field(factory=dict)  # in order of start
    log: ReplayLog = Factory(
        lambda self: ReplayLog(self.bounds.replay_events, self.bounds.replay_bytes),
        takes_self=True,
    )
    _digest: tuple[str, str] = field(init=False, default=("", ""))  # of which id, and what
    _streams: dict[int, EventStream] = field(init=False, factory=dict)
    _next_stream: int = field(init=False, default=GET_STREAM + 1)
    _asked: dict[str, Asked] = field(init=False, factory=dict)
    _next_ask: int = field(init=False, default=1)
    _queue: list[tuple[float, int, Message, str | None]] = field(init=False, factory=list)
    _queue_bytes: int = field(init=False, default=0)

    @property
    def digest(self) -> str:
        """Its name in the audit trail."""
        if self._digest[0] is not self.id:
            self._digest = self.id, digest_of(self.id)
        return self._digest[1]

    @property
    def resumed(self) -> bool:
        """Whether it was opened in an earlier life, or by another process."""
        return self.first_event > 0

    # -- streams ---------------------------------------------------------------------------

    def new_stream(self) -> EventStream:
        """A stream for one POST's answer, resumable while its events are kept."""
        stream = EventStream(self._next_stream, self.log, first=self.first_event)
        self._next_stream += 1
        self._streams[stream.number] = stream
        self._prune_streams()
        return stream

    def _prune_streams(self) -> None:
        # Ended streams stay for a client that resumes; the replay log bounds what they hold, and
        # this bounds how many are remembered.
        while len(self._streams) > self.bounds.replay_events:
            for number, stream in self._streams.items():
                if stream.ended:
                    del self._streams[number]
                    self.log.forget(number)
                    break
            else:
                return

    def attach_get(self, outlet: Outlet, headers: Headers) -> EventStream:
        """Open the stream for unrelated messages; raises Refused when one is open already."""
        stream = self._streams.get(GET_STREAM)
        if stream is not None and stream.attached:
            raise Refused(Refusal(Reason.STREAM_CONFLICT))
        if stream is None:
            stream = self._get_stream()
        stream.attach(outlet, headers, prime=self.version >= "2025-11-25", after=None)
        self._flush_queue(stream)
        return stream

    def use_stream(self, stream: EventStream) -> None:
        """Send what belongs to no request on this stream, which its maker opens and ends."""
        self._streams[GET_STREAM] = stream

    def resume(self, outlet: Outlet, headers: Headers, number: int, seq: int) -> EventStream:
        """Continue a stream after the event a client saw last; raises Refused if unknown."""
        stream = self._streams.get(number)
        if seq < self.first_event:
            # SDK clients name the last event they saw for ever, also that of an earlier life. The
            # stream for unrelated messages goes on as far as this life knows it; the answer that
            # another stream waited for is lost.
            seq, stream = self.first_event, None
            if number == GET_STREAM:
                stream = self._streams.get(GET_STREAM) or self._get_stream()
        if stream is None:
            # Gone from memory: a client that gets an empty stream knows it missed the rest.
            raise Refused(Refusal(Reason.NOT_FOUND, "This event stream can no longer be resumed"))
        stream.attach(outlet, headers, prime=False, after=seq)
        if number == GET_STREAM:
            self._flush_queue(stream)
        return stream

    def _get_stream(self) -> EventStream:
        stream = EventStream(GET_STREAM, self.log, first=self.first_event)
        self._streams[GET_STREAM] = stream
        return stream

    def call_ended(self, call: RunningCall) -> None:
        """One of the running requests is over."""
        self.running.pop(call, None)
        self.last_used = self.monotonic()

    @property
    def streaming(self) -> bool:
        """Whether any client connection is reading from this session."""
        return any(stream.attached for stream in self._streams.values())

    @property
    def attended(self) -> bool:
        """See `link.Attended`: whether the client reads the stream for unrelated messages."""
        stream = self._streams.get(GET_STREAM)
        return stream is not None and stream.attached

    # -- what the client says --------------------------------------------------------------

    def find_running(self, client_id: Id) -> RunningCall | None:
        """The newest running request with this client id (ids may be reused over HTTP)."""
        for call in reversed(self.running):
            if call.client_id == client_id and type(call.client_id) is type(client_id):
                return call
        return None

    def take_response(self, fields: Message) -> bool:
        """Pass the client's answer to the server that asked; False when nobody asked."""
        asked = self._asked.pop(fields["id"], None) if isinstance(fields["id"], str) else None
        if asked is None or self.link is None:
            return False
        self.link.respond({**fields, "id": asked.id})
        _release(asked)
        return True

    # -- Inbox: what the server says -------------------------------------------------------

    def notification(self, message: Message) -> None:
        """Pass a server notification on, to exactly one stream."""
        method, params = message.get("method"), message.get("params", {})
        if method == "notifications/cancelled" and isinstance(params, dict):
            self._server_cancelled(message, params)
            return
        if method not in _RELAYED or not isinstance(params, dict):
            self.meter.count(STRAYS, server=self.route.upstream.name, kind="notification")
            return
        if method == "notifications/resources/updated":
            uri = params.get("uri")
            if not isinstance(uri, str) or not may_touch(
                self.principal, self.route.upstream.name, "resource", uri
            ):
                return
        if method in _GET_STREAM_ONLY:
            self._to_get_stream(message, None)
        else:
            self._to_client(message, self._target_of(None), None)

    def request(self, message: Message, related: Call | None) -> None:
        """Put a server's request to the client, or answer it here when it may not be asked."""
        self._expire()
        method = str(message.get("method"))
        if method == "ping":
            # It asks whether somebody is there; a client may have no connection open right now.
            self._respond({"jsonrpc": "2.0", "id": message["id"], "result": {}})
            return
        needed = _NEEDED_CAPABILITY.get(method)
        if needed is None or needed not in self.client_capabilities:
            self._reject(message["id"], METHOD_NOT_FOUND, "Method not found")
            return
        if len(self._asked) >= self.bounds.asked:
            self._reject(message["id"], -32603, "Too many requests to the client are unanswered")
            return
        ours = f"mg-{self._next_ask}"
        self._next_ask += 1
        if isinstance(message.get("params"), dict):
            message = {**message, "params": without_task(message["params"])}
        target = self._target_of(related)
        held = related
        if held is None and self.running:
            held = (target or next(reversed(self.running))).call
        if held is not None:
            # A person may think longer than a server may take for an answer.
            held.hold()
        # Noted first: it is taken back at once when it fits nowhere.
        self._asked[ours] = Asked(message["id"], None, self.monotonic(), held)
        stream = self._to_client({**message, "id": ours}, target, ours)
        if ours in self._asked:
            self._asked[ours] = evolve(self._asked[ours], stream=stream)

    def closed(self, failure: UpstreamFailure) -> None:
        """The link is dead: so is the session; the next request is answered 404."""
        self.on_dead(self)

    # -- choosing a stream -----------------------------------------------------------------

    def _target_of(self, related: Call | None) -> RunningCall | None:
        """The request a message belongs to: the related one, else the latest with a stream."""
        if related is not None:
            for call in self.running:
                if call.call is related and call.reply.may_stream:
                    return call
        latest = reversed(self.running)
        return next((call for call in latest if call.reply.reachable), None)

    def _to_client(
        self, message: Message, target: RunningCall | None, asked: str | None
    ) -> EventStream | None:
        """Send on the stream of the request it belongs to, or the GET's."""
        if target is not None and target.reply.send(message):
            return target.reply.resumable
        return self._to_get_stream(message, asked)

    def _to_get_stream(self, message: Message, asked: str | None) -> EventStream | None:
        stream = self._streams.get(GET_STREAM)
        if stream is not None and stream.attached:
            stream.send(message)
            return stream
        size = len(encode(message))
        bounds = self.bounds
        while self._queue and (
            len(self._queue) >= bounds.queued_messages
            or self._queue_bytes + size > bounds.queued_bytes
        ):
            self._drop_oldest()
        if size <= bounds.queued_bytes:
            self._queue.append((self.monotonic(), size, message, asked))
            self._queue_bytes += size
        elif asked is not None:
            self._reject_asked(asked)
        return stream

    def _flush_queue(self, stream: EventStream) -> None:
        self._expire()
        while self._queue:
            _, size, message, _ = self._queue.pop(0)
            self._queue_bytes -= size
            stream.send(message)

    def _drop_oldest(self) -> None:
        _, size, _, asked = self._queue.pop(0)
        self._queue_bytes -= size
        if asked is not None:
            self._reject_asked(asked)

    def _expire(self) -> None:
        now = self.monotonic()
        while self._queue and now - self._queue[0][0] > self.bounds.queued_secs:
            self._drop_oldest()
        for ours, asked in list(self._asked.items()):
            if now - asked.asked_at > self.bounds.asked_secs:
                self._reject_asked(ours)

    def _reject_asked(self, ours: str) -> None:
        asked = self._asked.pop(ours, None)
        if asked is not None:
            self._reject(asked.id, -32603, "The client did not answer")
            _release(asked)

    def _reject(self, theirs: Id, code: int, text: str) -> None:
        error = {"code": code, "message": text}
        self._respond({"jsonrpc": "2.0", "id": theirs, "error": error})

    def _respond(self, message: Message) -> None:
        if self.link is not None and not self.ended:
            self.link.respond(message)

    def _server_cancelled(self, message: Message, params: dict[str, Any]) -> None:
        theirs = params.get("requestId")
        for ours, asked in self._asked.items():
            if asked.id == theirs and type(asked.id) is type(theirs):
                del self._asked[ours]
                _release(asked)
                if self._unqueue(ours):
                    return
                told = {**message, "params": {**params, "requestId": ours}}
                if asked.stream is not None and not asked.stream.ended:
                    asked.stream.send(told)
                return

    def _unqueue(self, ours: str) -> bool:
        """Take a request that nobody has read yet out of the queue."""
        for one in self._queue:
            if one[3] == ours:
                self._queue.remove(one)
                self._queue_bytes -= one[1]
                return True
        return False

    # -- life ------------------------------------------------------------------------------

    def idle_since(self) -> float | None:
        """When it was last used; None while something runs or reads."""
        return None if self.running or self.streaming else self.last_used

    def sweep(self) -> None:
        """Drop what waited too long."""
        self._expire()

    def end(self, failure: UpstreamFailure, *, leave: bool = False) -> Deferred[None]:
        """End everything of this session; fires when its link is closed.

        With ``leave`` the link is not closed, which would end the session at the server.
        """
        if self.ended:
            return succeed(None)
        self.ended = True
        for call in list(self.running):
            call.abort(failure)
        for stream in self._streams.values():
            stream.end()
        self._asked.clear()
        self._queue.clear()
        return succeed(None) if self.link is None or leave else self.link.close()


def _release(asked: Asked) -> None:
    if asked.held is not None:
        asked.held.release()
