"""One request to an HTTP server: from the POST to its answer, timeout, failure or cancellation."""

from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.protocol.jsonrpc import encode
from mcpguard.upstream.correlation import (
    Answer,
    Broken,
    Progress,
    Saturated,
    ServerNotification,
    ServerRequest,
    Stray,
    SubscriptionNotice,
)
from mcpguard.upstream.http_reader import Form, MessageReader
from mcpguard.upstream.http_remote import Remote
from mcpguard.upstream.http_stream import usable_event_id
from mcpguard.upstream.link import CallSink, Message, Outbound, UpstreamFailure
from mcpguard.upstream.wire import Head, Headers

log = Logger()


class CallLink(Protocol):
    """The link a call runs on, as the call sees it."""

    @property
    def url(self) -> str:
        """Where its requests go."""
        ...

    @property
    def one_stream_each(self) -> bool:
        """True in the stateless era: what belongs to a request comes on its own stream only."""
        ...

    @property
    def answers_aside(self) -> bool:
        """True over HTTP+SSE: a POST is only taken, its answer comes on the session's stream."""
        ...

    def request_headers(self, outbound: Outbound, message: Message) -> Headers:
        """The headers of a request, rebuilt from what is sent."""
        ...

    def resume_headers(self, event_id: str) -> Headers | None:
        """The headers of a GET that takes a stream up again; None where there is no such thing."""
        ...

    def opened(self, call: "HttpCall", head: Head) -> None:
        """The head of a call's answer is there."""
        ...

    def aside(self, message: ServerRequest | ServerNotification, call: "HttpCall") -> None:
        """A request or notification of the server on a call's stream."""
        ...

    def error_answers(self, head: Head, message: Message, call: "HttpCall") -> bool:
        """Whether the JSON-RPC error of an HTTP error is the answer to the call."""
        ...

    def refused(self, head: Head, message: Message | None, words: str) -> UpstreamFailure:
        """What an HTTP status without an answer means.

        ``message`` is a body that was no answer, ``words`` the beginning of one that was no JSON.
        """
        ...

    def withdraw(self, message: Message) -> None:
        """Tell the server that a request was cancelled, where closing the stream does not."""
        ...

    def ended(self, call: "HttpCall") -> None:
        """The call is over; its sink is told next."""
        ...

    def forgotten(self, failure: UpstreamFailure) -> None:
        """The server does not know the session any more."""
        ...


@define(eq=False, repr=False)
class HttpCall:
    """Implements `link.Call` and `http_reader.ReaderOwner`. The sink hears exactly one end."""

    remote: Remote
    link: CallLink
    outbound: Outbound
    sink: CallSink
    gid: int = field(init=False, default=0)
    _body: bytes = field(init=False, default=b"")
    _headers: Headers = field(init=False, default=())
    _opened_at: float = field(init=False, default=0.0)
    _reader: MessageReader | None = field(init=False, default=None)
    _head: Head | None = field(init=False, default=None)
    _form: Form = field(init=False, default="other")
    _refusal: Message | None = field(init=False, default=None)
    _flush: IDelayedCall | None = field(init=False, default=None)
    _resume: IDelayedCall | None = field(init=False, default=None)
    _event_id: str | None = field(init=False, default=None)
    _retry: int | None = field(init=False, default=None)
    _resumed: bool = field(init=False, default=False)
    _silent: int = field(init=False, default=0)
    """Resumptions in a row on which nothing was heard."""
    _taken: bool = field(init=False, default=False)
    """The server has taken the request and will answer it elsewhere."""
    _refused: bool = field(init=False, default=False)
    """The server's answer was that it does not know the session."""
    _done: bool = field(init=False, default=False)

    def prepare(self) -> bool:
        """Register the request and start its clock; False when it has failed at once."""
        remote, outbound = self.remote, self.outbound
        self._opened_at = now = remote.clock.seconds()
        try:
            remote.enter(outbound.endless)
        except UpstreamFailure as busy:
            self.refuse(busy)
            return False
        try:
            self.gid, message = remote.correlator.open(outbound, self, now)
        except Saturated:
            remote.leave(outbound.endless)
            self.refuse(
                UpstreamFailure(Reason.UPSTREAM_BUSY, "too many waiting", remote.bounds.busy_secs)
            )
            return False
        # An endless request has no deadline of its own, but must begin within the timeout.
        remote.deadlines.set(self, now + remote.timeout)
        self._body = body = encode(message)
        if len(body) > remote.reader.max_message_size:
            self._fail(UpstreamFailure(Reason.UPSTREAM_FAILED, "a request over max_message_size"))
            return False
        self._headers = self.link.request_headers(outbound, message)
        return True

    def send(self) -> None:
        """Let it go, unless it has ended while it was held."""
        if self._done:
            return
        body, self._body = self._body, b""
        self._connected(self.remote.ask("POST", self.link.url, self._headers, body, self))

    def refuse(self, failure: UpstreamFailure) -> None:
        """Fail it before anything of it was begun."""
        self._done = True
        self.sink.failed(failure)

    def cancel(self, reason: str) -> None:
        """See `link.Call`."""
        if not self._done:
            self._withdraw(reason)
            self._finish("cancelled")

    def hold(self) -> None:
        """See `link.Call`: the timer looks at the deadline when it fires."""
        self.remote.correlator.hold(self.gid)

    def release(self) -> None:
        """See `link.Call`."""
        clock = self.remote.clock
        deadline = self.remote.correlator.release(self.gid, clock.seconds())
        if deadline is not None and not self._done and not self.outbound.endless:
            self.remote.deadlines.set(self, deadline)

    def abandoned(self, failure: UpstreamFailure) -> None:
        """The server has said to somebody that it knows the session no more.

        What it may have looked at before that has an answer of its own coming: the result, the
        same word, or the end of the connection. Over HTTP+SSE there is no way left for one.
        """
        if self.link.answers_aside or not self._may_have_begun:
            self.fail(failure)

    def fail(self, failure: UpstreamFailure) -> None:
        """End it because its link has ended."""
        if self._done:
            return
        if failure.reason is Reason.SESSION_NOT_FOUND and self._may_have_begun:
            # Another request found the session forgotten. This one may have been carried out
            # before that, so it must not look like one that can be sent again.
            detail = f"it ran when the session was lost: {failure.detail}"
            failure = UpstreamFailure(Reason.UPSTREAM_FAILED, detail)
        self._fail(failure)

    # ReaderOwner

    def opened(self, head: Head, form: Form) -> None:
        """See `http_reader.ReaderOwner`."""
        self._head, self._form = head, form
        if self._resumed and (head.status != 200 or form != "events"):
            self._fail(
                UpstreamFailure(Reason.UPSTREAM_FAILED, f"HTTP {head.status} to a resumption")
            )
            return
        self.link.opened(self, head)
        if self.link.answers_aside and 200 <= head.status < 300:
            self._taken = True
            if self._reader is not None:
                self._reader.discard()

    def message(self, message: Message) -> None:
        """See `http_reader.ReaderOwner`."""
        if self._done or self._head is None or self._taken:
            return
        if self._head.status == 200:
            self.receive(message)
        elif "error" in message and self.link.error_answers(self._head, message, self):
            self.receive({**message, "id": self.gid})
        else:
            self._refusal = message

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """See `http_reader.ReaderOwner`."""
        if event_id is not None:
            self._event_id = usable_event_id(event_id, self.remote.bounds.max_id_bytes)
        if retry is not None:
            self._retry = retry
        self._silent = 0

    def closed(self) -> None:
        """See `http_reader.ReaderOwner`."""
        if self._done or self._head is None or self._taken:
            return
        if self._form == "events":
            self._interrupted(
                UpstreamFailure(Reason.UPSTREAM_FAILED, "the event stream ended before the answer")
            )
        elif 200 <= self._head.status < 300:
            detail = f"HTTP {self._head.status} without a JSON-RPC answer"
            self._fail(UpstreamFailure(Reason.UPSTREAM_FAILED, detail))
        else:
            words = "" if self._reader is None else self._reader.words
            failure = self.link.refused(self._head, self._refusal, words)
            if failure.reason is Reason.SESSION_NOT_FOUND:
                # The server has not looked at it. The others of the session fail with it, so that
                # nobody retries on a dead link.
                self._refused = True
                self.link.forgotten(failure)
            self.fail(failure)

    def lost(self, failure: UpstreamFailure) -> None:
        """See `http_reader.ReaderOwner`."""
        if self._done or self._taken:
            return
        if failure.reason is Reason.ANSWER_TOO_LARGE:
            self._withdraw("answer too large")
            self._fail(failure)
        elif (self._form == "events" or self._resumed) and not self.remote.stopped:
            self._interrupted(failure)
        else:
            self._fail(failure)

    # the link

    def receive(self, message: Message) -> None:
        """Take a message that came on this request's stream, or its answer from elsewhere."""
        received = self.remote.receive(message, self.link, self)
        if self.outbound.endless:
            # It has begun; from here on there is no deadline.
            self.remote.deadlines.drop(self)
        if isinstance(received, Answer):
            self._finish("success" if "result" in received.message else "error")
            if received.held is not None:
                self.sink.notification(received.held)
            self.sink.answer(received.message)
        elif isinstance(received, Broken):
            self._fail(UpstreamFailure(Reason.UPSTREAM_FAILED, received.detail))
        elif isinstance(received, Progress):
            received.pending.sink.progressed(received.message, received.due)
        elif isinstance(received, SubscriptionNotice):
            self.sink.notification(received.message)
        elif isinstance(received, Stray):
            self.remote.stray(received.kind)
        else:
            self.link.aside(received, self)

    # inside

    def _connected(self, reader: MessageReader) -> None:
        if self._done:
            # It ended while the wire was still at it: the address was refused, say.
            reader.abort()
        else:
            self._reader = reader

    def progressed(self, message: Message | None, due: float | None) -> None:
        """Progress of this request: to be passed on now, or at ``due``."""
        if message is not None:
            self.sink.notification(message)
        elif due is not None:
            clock = self.remote.clock
            self._flush = clock.callLater(max(0.0, due - clock.seconds()), self._flush_progress)

    def _flush_progress(self) -> None:
        self._flush = None
        message = self.remote.correlator.flush(self.gid, self.remote.clock.seconds())
        if message is not None:
            self.sink.notification(message)

    def expired(self) -> None:
        """See `deadlines.Expiring`; progress has put it off if the request's own is later."""
        remote = self.remote
        pending = remote.correlator.get(self.gid)
        put_off = pending is not None and pending.deadline > remote.clock.seconds()
        if pending is not None and put_off and not self.outbound.endless:
            remote.deadlines.set(self, pending.deadline)
            return
        self._withdraw("timeout")
        self._finish("timeout")
        self.sink.failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "no answer in time"))

    def _interrupted(self, failure: UpstreamFailure) -> None:
        """The event stream broke off: take it up again if the server said how."""
        event_id = self._event_id
        headers = None if event_id is None else self.link.resume_headers(event_id)
        if headers is None or self._silent >= self.remote.bounds.max_resumptions:
            self._fail(failure)
            return
        self._resumed = True
        self._silent += 1
        delay = self.remote.delay(self._silent, self._retry)
        self._resume = self.remote.clock.callLater(delay, self._take_up, headers)

    def _take_up(self, headers: Headers) -> None:
        self._resume = None
        self._connected(self.remote.ask("GET", self.link.url, headers, None, self))

    @property
    def _sent(self) -> bool:
        """Whether any of it may have reached the server."""
        exchange = None if self._reader is None else self._reader.exchange
        return exchange is not None and exchange.sent

    @property
    def _may_have_begun(self) -> bool:
        """Whether the server may have looked at it."""
        return self._sent and not self._refused

    def _withdraw(self, reason: str) -> None:
        """Forget the request, and tell the server if it may know of it."""
        notice = self.remote.correlator.cancel(self.gid, reason)
        if notice is not None and self._sent:
            self.link.withdraw(notice)

    def _fail(self, failure: UpstreamFailure) -> None:
        self.remote.correlator.cancel(self.gid, "")
        self._finish("failed")
        self.sink.failed(failure)

    def _finish(self, result: str) -> None:
        self._done = True
        self.remote.deadlines.drop(self)
        if self._flush is not None or self._resume is not None:
            for timer in (self._flush, self._resume):
                if timer is not None and timer.active():
                    timer.cancel()
            self._flush = self._resume = None
        self._body = b""
        # Without it nothing is left here that only the garbage collection could free.
        reader, self._reader = self._reader, None
        if reader is not None and not reader.over:
            if result in ("success", "error"):
                # Its end is all that is missing before the connection can be used again.
                reader.discard()
            else:
                reader.abort()
        self.remote.over(self.outbound.endless, result, self._opened_at)
        self.link.ended(self)
