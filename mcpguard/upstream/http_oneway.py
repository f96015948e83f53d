"""HTTP requests whose answer is only a status: notifications, responses, the end of a session."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

from mcpguard.errors import Reason
from mcpguard.upstream.http_reader import Form, MessageReader
from mcpguard.upstream.http_remote import Remote
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.wire import Head, Headers


@define(eq=False, repr=False)
class OneWay:
    """One such request, over within ``timeout`` seconds. Implements `http_reader.ReaderOwner`.

    ``over`` is called once: with the head and the JSON body, if any, or with the failure; never
    after `stop`.
    """

    remote: Remote
    timeout: float
    over: Callable[["OneWay", Head | None, Message | None, UpstreamFailure | None], None]
    _reader: MessageReader | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _head: Head | None = field(init=False, default=None)
    _message: Message | None = field(init=False, default=None)
    _done: bool = field(init=False, default=False)

    @property
    def words(self) -> str:
        """The beginning of a body that was no JSON."""
        return "" if self._reader is None else self._reader.words

    def send(self, method: str, url: str, headers: Headers, body: bytes | None) -> None:
        """Send it."""
        self._timer = self.remote.clock.callLater(self.timeout, self._expire)
        self._reader = self.remote.ask(method, url, headers, body, self)

    def stop(self) -> None:
        """Close its connection and say nothing."""
        self._finish()
        if self._reader is not None:
            self._reader.abort()

    def opened(self, head: Head, form: Form) -> None:
        """See `http_reader.ReaderOwner`."""
        self._head = head
        if form == "events":
            # The status says it; an event stream might go on for ever.
            if self._reader is not None:
                self._reader.discard()
            self._end(head, None, None)

    def message(self, message: Message) -> None:
        """See `http_reader.ReaderOwner`."""
        self._message = message

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """See `http_reader.ReaderOwner`."""

    def closed(self) -> None:
        """See `http_reader.ReaderOwner`."""
        self._end(self._head, self._message, None)

    def lost(self, failure: UpstreamFailure) -> None:
        """See `http_reader.ReaderOwner`."""
        self._end(None, None, failure)

    def _expire(self) -> None:
        if self._reader is not None:
            self._reader.abort()
        self._end(None, None, UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "no answer in time"))

    def _end(
        self, head: Head | None, message: Message | None, failure: UpstreamFailure | None
    ) -> None:
        if not self._done:
            self._finish()
            self.over(self, head, message, failure)

    def _finish(self) -> None:
        self._done = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
