"""One HTTP answer of an MCP server, turned into JSON-RPC messages or the reason there are none."""

import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol

from attrs import define, field, frozen
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.protocol.jsonrpc import Bounds, Malformed, parse_object
from mcpguard.protocol.sse import EventFramer, EventTooLong, ServerEvent
from mcpguard.upstream.deadlines import Deadlines
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.wire import Exchange, Head

log = Logger()

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
Form = Literal["json", "events", "other"]

MAX_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for more is believed this far."""
_SECONDS = re.compile(r"[0-9]{1,9}")


@frozen
class ReaderBounds:
    """What one HTTP answer may cost."""

    max_message_size: int
    """Bytes of a JSON body, and of one event of a stream."""
    max_discarded: int
    """Bytes of a body nobody wants that are read so that the connection can be kept."""
    discard_secs: float
    """How long that may take."""
    max_words: int
    """Bytes kept of a body that is neither JSON nor events: some servers refuse in plain words."""
    structure: Bounds


class ReaderOwner(Protocol):
    """Who asked: hears `opened`, any `message` and `mark`, then one of `closed` and `lost`."""

    def opened(self, head: Head, form: Form) -> None:
        """The status and the kind of body are known."""
        ...

    def message(self, message: Message) -> None:
        """A JSON-RPC object of the body or of one event."""
        ...

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """What an event says about resuming: its id, and the milliseconds to wait."""
        ...

    def closed(self) -> None:
        """The body has ended as it should."""
        ...

    def lost(self, failure: UpstreamFailure) -> None:
        """The body is broken, too large or not JSON-RPC; the exchange is over."""
        ...


@define(eq=False, repr=False)
class MessageReader:
    """Implements `wire.Receiver` for a `ReaderOwner`.

    Bodies that are neither JSON nor events are read up to a bound and thrown away, so that the
    connection can be used again; `discard` does the same with the rest of any body.
    """

    owner: ReaderOwner
    bounds: ReaderBounds
    deadlines: Deadlines
    contact: Callable[[UpstreamFailure | None], None]
    """Told None when the server answers (neither fails nor refuses us), and the failure when it
    cannot be reached.
    """
    on_over: Callable[["MessageReader"], None]
    """Told once that the exchange is over, whoever ended it."""
    on_event: Callable[[ServerEvent], None] | None = None
    """Told of each event of another type than ``message``."""
    exchange: Exchange | None = field(init=False, default=None)
    """Set by whoever sent the request, as soon as there is one."""
    _form: Form = field(init=False, default="other")
    _parts: list[bytes] | None = field(init=False, default=None)
    _held: int = field(init=False, default=0)
    _words: bytes = field(init=False, default=b"")
    _framer: EventFramer | None = field(init=False, default=None)
    _discarding: bool = field(init=False, default=False)
    over: bool = field(init=False, default=False)
    """The exchange has ended, or was aborted."""

    @property
    def words(self) -> str:
        """The beginning of a body that is neither JSON nor events; not for clients, nor the log."""
        return self._words.decode("utf-8", "replace")

    def discard(self) -> None:
        """Tell the owner no more; read on within the bounds, then cut the connection."""
        if self.over or self._discarding:
            return
        self._parts = None
        self._held = 0
        self._discarding = True
        deadlines = self.deadlines
        deadlines.set(self, deadlines.clock.seconds() + self.bounds.discard_secs)

    def expired(self) -> None:
        """See `deadlines.Expiring`."""
        self.abort()

    def abort(self) -> None:
        """Tell the owner no more and close the connection."""
        self._finish()
        if self.exchange is not None:
            self.exchange.abort()

    def cut(self, failure: UpstreamFailure) -> None:
        """End it from outside: tell the owner, unless it has stopped listening."""
        listening = not self.over and not self._discarding
        self.abort()
        if listening:
            self.owner.lost(failure)

    def _finish(self) -> None:
        if self.over:
            return
        self.over = True
        self._parts = None
        if self._discarding:
            self.deadlines.drop(self)
        self.on_over(self)

    def head(self, head: Head) -> None:
        """See `wire.Receiver`."""
        if self.over:
            self.abort()
            return
        if head.status < 500 and head.status not in (401, 403):
            # A proxy's 502 says nothing about the server behind it.
            self.contact(None)
        if head.media_type == JSON:
            self._form = "json"
            if head.length is not None and head.length > self.bounds.max_message_size:
                self._fail(Reason.ANSWER_TOO_LARGE, f"a body of {head.length} bytes")
                return
        elif head.media_type == EVENT_STREAM and head.status == 200:
            self._form = "events"
            self._framer = EventFramer(self.bounds.max_message_size)
        self.owner.opened(head, self._form)

    def data(self, chunk: bytes) -> None:
        """See `wire.Receiver`."""
        if self.over:
            self.abort()
        elif self._discarding or self._form == "other":
            self._held += len(chunk)
            self._words += chunk[: self.bounds.max_words - len(self._words)]
            if self._held > self.bounds.max_discarded:
                discarding = self._discarding
                self.abort()
                if not discarding:
                    self.owner.closed()
        elif self._form == "json":
            self._held += len(chunk)
            if self._held > self.bounds.max_message_size:
                self._fail(Reason.ANSWER_TOO_LARGE, "a body over max_message_size")
            elif self._parts is None:
                self._parts = [chunk]
            else:
                self._parts.append(chunk)
        else:
            self._events(chunk)

    def whole(self, head: Head, body: bytes) -> None:
        """See `wire.Receiver`."""
        plain = head.status == 200 and head.media_type == JSON
        if not plain or self.over or not 0 < len(body) <= self.bounds.max_message_size:
            self.head(head)
            if body and not self.over:
                self.data(body)
            self.end()
            return
        self.contact(None)
        self._form = "json"
        self.owner.opened(head, "json")
        if not self.over:
            self._conclude(body)

    def end(self) -> None:
        """See `wire.Receiver`."""
        if not self.over:
            self._conclude(b"".join(self._parts or ()))

    def _conclude(self, body: bytes) -> None:
        """The body is complete."""
        self._finish()
        if self._discarding:
            return
        if self._form == "json" and body:
            message = self._parse(body)
            if message is not None:
                self.owner.message(message)
        self.owner.closed()

    def lost(self, failure: UpstreamFailure) -> None:
        """See `wire.Receiver`."""
        if self.over:
            return
        self._finish()
        if failure.reason is Reason.UPSTREAM_UNAVAILABLE:
            self.contact(failure)
        if not self._discarding:
            self.owner.lost(failure)

    def _events(self, chunk: bytes) -> None:
        assert self._framer is not None, "the body is no event stream"
        try:
            for event in self._framer.feed(chunk):
                self._event(event)
                if self.over or self._discarding:
                    return
        except EventTooLong:
            self._fail(Reason.ANSWER_TOO_LARGE, "an event over max_message_size")

    def _event(self, event: ServerEvent) -> None:
        if event.id is not None or event.retry is not None:
            self.owner.mark(event.id, event.retry)
        if self.over:
            return
        if event.event not in (None, "message"):
            if self.on_event is not None:
                self.on_event(event)
        elif event.data:
            message = self._parse(event.data.encode("utf-8"))
            if message is not None:
                self.owner.message(message)

    def _parse(self, data: bytes) -> Message | None:
        try:
            return parse_object(data, self.bounds.structure)
        except Malformed as malformed:
            log.warn("an HTTP upstream's message was dropped: {text}", text=malformed.text)
            return None

    def _fail(self, reason: Reason, detail: str) -> None:
        self.cut(UpstreamFailure(reason, detail))


def refusal_of(head: Head, now: float) -> UpstreamFailure:
    """What an HTTP status that is no success means where no JSON-RPC answer came with it.

    Details are for the log: the status, never the body. ``now`` in Unix seconds.
    """
    status = head.status
    if status in (401, 403):
        return UpstreamFailure(
            Reason.UPSTREAM_FAILED, f"HTTP {status}: check the upstream credentials in `headers`"
        )
    if 300 <= status < 400:
        return UpstreamFailure(Reason.UPSTREAM_FAILED, f"HTTP {status}: redirects are not followed")
    wait = retry_after(head.one("retry-after"), now)
    if status == 429 or (status == 503 and wait is not None):
        return UpstreamFailure(Reason.UPSTREAM_BUSY, f"HTTP {status}", wait or 1.0)
    return UpstreamFailure(Reason.UPSTREAM_FAILED, f"HTTP {status}")


def not_heard(head: Head) -> bool:
    """Whether a status says that the server has not looked at the request at all.

    Our credentials, its load, or another place to ask: no body changes that.
    """
    return (
        head.status in (401, 403, 429)
        or 300 <= head.status < 400
        or (head.status == 503 and "retry-after" in head.headers)
    )


def may_answer(head: Head) -> bool:
    """Whether a JSON-RPC error under this status is the server's answer to the request."""
    return head.status >= 400 and not not_heard(head)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a ``Retry-After`` header (RFC 9110 10.2.3), None when it says nothing."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - now, 0.0), MAX_RETRY_AFTER)
