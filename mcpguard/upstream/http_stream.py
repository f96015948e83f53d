"""The event stream of a session: what a handshake-era server says on its own initiative."""

from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.upstream.http_reader import Form, MessageReader
from mcpguard.upstream.http_remote import Remote
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.wire import Head, Headers

log = Logger()

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which another try makes sense; 409: the server still sees the last stream."""


class StreamOwner(Protocol):
    """The session, as its stream sees it. One reference: five callbacks take 320 bytes."""

    def stream_headers(self, event_id: str | None) -> Headers:
        """The GET's headers, given the id of the last event."""
        ...

    def stream_tried(self) -> None:
        """The server has answered the GET, or could not be asked."""
        ...

    def hear(self, message: Message) -> None:
        """Take a message."""
        ...

    def forgotten(self, failure: UpstreamFailure) -> None:
        """The server does not know the session any more."""
        ...

    def doubt_session(self) -> None:
        """A stream that once worked was given up, which may mean the same."""
        ...


@define(eq=False, repr=False)
class ServerStream:
    """A GET stream that is opened again when it ends. Implements `http_reader.ReaderOwner`.

    It gives up when the server has no such stream, and after ``max_resumptions`` tries in a row
    on which nothing was heard.
    """

    remote: Remote
    url: str
    owner: StreamOwner
    _reader: MessageReader | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _event_id: str | None = field(init=False, default=None)
    _retry: int | None = field(init=False, default=None)
    _silent: int = field(init=False, default=0)
    _worked: bool = field(init=False, default=False)
    _opened_at: float | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)

    def start(self) -> None:
        """Open it."""
        self._timer = None
        self._opened_at = None
        reader = self.remote.ask(
            "GET", self.url, self.owner.stream_headers(self._event_id), None, self
        )
        self._reader = reader
        if self._stopped:
            reader.abort()

    def stop(self) -> None:
        """Close it for good."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._reader is not None:
            self._reader.abort()

    def opened(self, head: Head, form: Form) -> None:
        """See `http_reader.ReaderOwner`."""
        if head.status == 200 and form == "events":
            self._worked = True
            self._opened_at = self.remote.clock.seconds()
        elif head.status == 404 and self._worked:
            self.stop()
            self.owner.forgotten(
                UpstreamFailure(Reason.SESSION_NOT_FOUND, "HTTP 404 to the session's stream")
            )
        elif head.status not in _PASSING:
            # 405 by the specification, 404 and 400 in practice: it has none.
            log.debug(
                "upstream {name}: no event stream (HTTP {status})",
                name=self.remote.name,
                status=head.status,
            )
            self._stopped = True
            if self._reader is not None:
                self._reader.discard()
            if self._worked:
                # The TypeScript SDK's examples answer 400 once they have been restarted.
                self.owner.doubt_session()
        self.owner.stream_tried()

    def message(self, message: Message) -> None:
        """See `http_reader.ReaderOwner`."""
        if not self._stopped and self._opened_at is not None:
            self._silent = 0
            self.owner.hear(message)

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """See `http_reader.ReaderOwner`."""
        self._silent = 0
        if event_id is not None:
            self._event_id = usable_event_id(event_id, self.remote.bounds.max_id_bytes)
        if retry is not None:
            self._retry = retry

    def closed(self) -> None:
        """See `http_reader.ReaderOwner`."""
        self._again()

    def lost(self, failure: UpstreamFailure) -> None:
        """See `http_reader.ReaderOwner`."""
        log.debug(
            "upstream {name}: event stream lost: {detail}",
            name=self.remote.name,
            detail=failure.detail,
        )
        self._again()

    def _again(self) -> None:
        self.owner.stream_tried()
        if self._stopped:
            return
        bounds, clock = self.remote.bounds, self.remote.clock
        if self._opened_at is not None and clock.seconds() - self._opened_at >= bounds.max_delay:
            # A quiet stream that some proxy cuts now and then is no broken one.
            self._silent = 0
        if self._silent >= bounds.max_resumptions:
            self._stopped = True
            log.warn(
                "upstream {name}: a session's event stream cannot be kept open, given up",
                name=self.remote.name,
            )
            return
        self._silent += 1
        self._timer = clock.callLater(self.remote.delay(self._silent, self._retry), self.start)


def usable_event_id(event_id: str, max_bytes: int) -> str | None:
    """An event id fit for a ``Last-Event-ID`` header, else None; an empty one takes it back."""
    fit = event_id.isascii() and event_id.isprintable() and 0 < len(event_id) <= max_bytes
    return event_id if fit else None
