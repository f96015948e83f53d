"""The event stream that an HTTP+SSE session (MCP 2024-11-05) consists of."""

from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall

from mcpguard.errors import Reason
from mcpguard.protocol.sse import ServerEvent
from mcpguard.upstream.http_reader import Form, MessageReader, refusal_of
from mcpguard.upstream.http_remote import GET_HEADERS, Remote
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.wire import Head

ENDPOINT = "endpoint"
_OTHER_TRANSPORT = frozenset({400, 404, 405, 406})
"""What Streamable HTTP servers, among others, say to a GET without a session."""


@frozen
class SseBounds:
    """Limits of a session's beginning."""

    endpoint_secs: float
    """From the GET to the ``endpoint`` event, whatever else is sent meanwhile."""
    max_endpoint_bytes: int


class StreamOwner(Protocol):
    """The session: hears `located` once, then any `heard`, and at last `stream_over`."""

    def located(self, reference: str) -> None:
        """The ``endpoint`` event, as it came."""
        ...

    def heard(self, message: Message) -> None:
        """A ``message`` event."""
        ...

    def stream_over(self, failure: UpstreamFailure) -> None:
        """The stream has ended, broken, or was none; not called after `SseStream.stop`."""
        ...


@define(eq=False, repr=False)
class SseStream:
    """One GET, opened once. Implements `http_reader.ReaderOwner`.

    It is never opened again: what a server sends on another stream is another session, for the
    transport knows no event ids to resume from. A lost stream is a lost session.
    """

    remote: Remote
    bounds: SseBounds
    owner: StreamOwner
    _reader: MessageReader | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _events: bool = field(init=False, default=False)
    _located: bool = field(init=False, default=False)
    _over: bool = field(init=False, default=False)

    def start(self, url: str) -> None:
        """Open it."""
        self._timer = self.remote.clock.callLater(self.bounds.endpoint_secs, self._expire)
        self._reader = self.remote.ask("GET", url, GET_HEADERS, None, self, self._event)
        if self._over:
            # It ended while the wire was still at it.
            self._reader.abort()

    def stop(self) -> None:
        """Close it, which ends the session at the server; the owner hears no more."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._reader is not None:
            self._reader.abort()

    # ReaderOwner

    def opened(self, head: Head, form: Form) -> None:
        """See `http_reader.ReaderOwner`."""
        if head.status == 200 and form == "events":
            self._events = True
            return
        failure = refusal_of(head, self.remote.clock.seconds())
        if head.status == 200:
            failure = UpstreamFailure(Reason.UPSTREAM_FAILED, "HTTP 200 without an event stream")
        elif head.status in _OTHER_TRANSPORT:
            detail = f'{failure.detail} to the event stream; is it a server for transport = "http"?'
            failure = UpstreamFailure(failure.reason, detail)
        self._fail(failure)

    def message(self, message: Message) -> None:
        """See `http_reader.ReaderOwner`."""
        if self._over or not self._events:
            return
        if self._located:
            self.owner.heard(message)
        else:
            self.remote.stray("early")

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """See `http_reader.ReaderOwner`: there is nothing to resume."""

    def closed(self) -> None:
        """See `http_reader.ReaderOwner`."""
        self._fail(UpstreamFailure(Reason.UPSTREAM_FAILED, "the event stream has ended"))

    def lost(self, failure: UpstreamFailure) -> None:
        """See `http_reader.ReaderOwner`."""
        self._fail(failure)

    # inside

    def _event(self, event: ServerEvent) -> None:
        if self._over or event.event != ENDPOINT:
            return
        if self._located:
            # Messages go where the first one said; whoever can inject an event must not move them.
            self.remote.stray("endpoint")
            return
        self._located = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.owner.located(event.data)

    def _expire(self) -> None:
        seconds = self.bounds.endpoint_secs
        self._fail(
            UpstreamFailure(Reason.UPSTREAM_TIMEOUT, f"no endpoint event within {seconds:g} s")
        )

    def _fail(self, failure: UpstreamFailure) -> None:
        if not self._over:
            self.stop()
            self.owner.stream_over(failure)
