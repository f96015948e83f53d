"""What sessions with handshake-era servers behind a URL have in common, over either transport."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.protocol.eras import refuses_handshake
from mcpguard.protocol.jsonrpc import encode
from mcpguard.upstream.correlation import Progress, ServerNotification, ServerRequest, Stray
from mcpguard.upstream.http_call import HttpCall
from mcpguard.upstream.http_oneway import OneWay
from mcpguard.upstream.http_reader import may_answer, refusal_of
from mcpguard.upstream.http_remote import Remote
from mcpguard.upstream.http_sinks import Handshake
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Inbox,
    InitializeRejected,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from mcpguard.upstream.wire import Head, Headers

log = Logger()

INITIALIZED = "notifications/initialized"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


@define(eq=False, repr=False)
class UrlSession(ABC):
    """The part of `link.Link` and `http_call.CallLink` that is the same for either transport.

    Requests made while ``notifications/initialized`` is on its way wait for it: over HTTP a later
    POST may well arrive first. They wait for the server's own stream, too, where there is one to
    open. ``on_end`` is called once the session is over.
    """

    remote: Remote
    url: str
    """Where its messages are posted."""
    inbox: Inbox
    on_end: Callable[["UrlSession"], None]
    one_stream_each: bool = field(init=False, default=False)
    answers_aside: bool = field(init=False, default=False)
    _version: str | None = field(init=False, default=None)
    _handshake: HttpCall | None = field(init=False, default=None)
    _calls: set[HttpCall] = field(init=False, factory=set)
    _held: list[HttpCall] | None = field(init=False, default=None)
    """Requests that wait for ``initialized`` and the stream; None while nothing has to wait."""
    _posts: set[OneWay] | None = field(init=False, default=None)
    """Those under way; None while there are none, as mostly."""
    _over: UpstreamFailure | None = field(init=False, default=None)

    # what a transport adds

    @abstractmethod
    def _begin(self, handshake: HttpCall) -> None:
        """Get the prepared ``initialize`` under way."""

    @abstractmethod
    def _opening(self, result: Message) -> Opening:
        """What is told of a session whose handshake has gone well."""

    @abstractmethod
    def _post_headers(self) -> Headers:
        """The headers of everything that is posted."""

    @abstractmethod
    def _tells_loss(self, head: Head, message: Message | None, words: str) -> bool:
        """Whether the refusal of a message says that the server knows the session no more."""

    @abstractmethod
    def _taken(self) -> None:
        """The server has taken a message of the session."""

    @abstractmethod
    def _listen(self) -> bool:
        """The server has taken ``initialized``: from now on it may speak.

        True if requests wait on until `_release` is called.
        """

    @abstractmethod
    def _cease(self) -> None:
        """The session is over: stop what belongs to the transport alone."""

    @abstractmethod
    def _farewell(self) -> Deferred[None]:
        """Tell the server of the end; fires when that is done."""

    # Link

    def open(self, principal_key: str, params: Message) -> Deferred[Opening]:
        """Shake hands; errbacks with `UpstreamFailure` or `InitializeRejected`."""
        opening: Deferred[Opening] = Deferred(self._given_up)
        outbound = Outbound(0, "initialize", params, "", principal_key)
        call = HttpCall(self.remote, self, outbound, Handshake(self, opening))
        if call.prepare():
            self._handshake = call
            self._calls.add(call)
            self._begin(call)
        return opening

    def established(self, message: Message) -> Opening:
        """Take the answer to ``initialize``; raises as `open` errbacks."""
        self._handshake = None
        if "error" in message:
            self._abandon("the handshake was refused")
            raise InitializeRejected(message["error"])
        result = message["result"]
        version = result.get("protocolVersion")
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            self._abandon("no usable protocolVersion")
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, "no usable protocolVersion")
        self._version = version
        return self._opening(result)

    def unopened(self, failure: UpstreamFailure) -> None:
        """The handshake has failed; a session the server has begun is ended there too."""
        self._handshake = None
        self._abandon(failure.detail)

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """See `link.Link`."""
        call = HttpCall(self.remote, self, outbound, sink)
        if self._over is not None:
            call.refuse(self._over)
        elif call.prepare():
            self._calls.add(call)
            if self._held is None:
                call.send()
            else:
                self._held.append(call)
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """See `link.Link`."""
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        if method != INITIALIZED:
            self._post(message, self._posted)
        elif self._held is None and self._over is None:
            self._held = []
            self._post(message, self._initialized)

    def respond(self, message: Message) -> None:
        """See `link.Link`."""
        self._post(message, self._posted)

    def close(self) -> Deferred[None]:
        """See `link.Link`: the server is told, whatever it says to that."""
        return self._abandon("the session was closed")

    def leave(self) -> Deferred[None]:
        """End it here alone, where it can be taken up again; otherwise as `close`."""
        return self.close()

    # CallLink

    def request_headers(self, outbound: Outbound, message: Message) -> Headers:
        """See `http_call.CallLink`."""
        return self._post_headers()

    def resume_headers(self, event_id: str) -> Headers | None:
        """See `http_call.CallLink`."""
        return None

    @abstractmethod
    def opened(self, call: HttpCall, head: Head) -> None:
        """See `http_call.CallLink`."""

    def aside(self, message: ServerRequest | ServerNotification, call: HttpCall) -> None:
        """See `http_call.CallLink`."""
        if call is self._handshake:
            # Before the handshake is over the client could not be asked anything.
            self.remote.stray("early")
        elif isinstance(message, ServerRequest):
            self.inbox.request(message.message, call)
        else:
            call.sink.notification(message.message)

    def error_answers(self, head: Head, message: Message, call: HttpCall) -> bool:
        """See `http_call.CallLink`; a server without handshakes may not have read our id."""
        key, error = message.get("id"), message.get("error")
        ours = type(key) is int and key == call.gid
        if call is self._handshake and isinstance(error, dict):
            ours = ours or refuses_handshake(error)
        return ours and may_answer(head) and not self._is_lost(head, message, "")

    def refused(self, head: Head, message: Message | None, words: str) -> UpstreamFailure:
        """See `http_call.CallLink`."""
        if self._is_lost(head, message, words):
            return UpstreamFailure(Reason.SESSION_NOT_FOUND, f"HTTP {head.status}: session unknown")
        return refusal_of(head, self.remote.clock.seconds())

    def withdraw(self, message: Message) -> None:
        """See `http_call.CallLink`: a closed connection alone means nothing in this era."""
        self._post(message, self._posted)

    def ended(self, call: HttpCall) -> None:
        """See `http_call.CallLink`."""
        self._calls.discard(call)

    def forgotten(self, failure: UpstreamFailure) -> None:
        """See `http_call.CallLink`: all is over, and there is nothing left to end there."""
        if self._end(failure, HttpCall.abandoned):
            self.inbox.closed(failure)

    # inside

    def _is_lost(self, head: Head, message: Message | None, words: str) -> bool:
        return self._handshake is None and self._tells_loss(head, message, words)

    def _post(
        self,
        message: Message,
        over: Callable[[OneWay, Head | None, Message | None, UpstreamFailure | None], None],
    ) -> None:
        if self._over is not None:
            return
        body = encode(message)
        posts = self._posts or set()
        full = len(posts) >= self.remote.bounds.max_posts
        if full or len(body) > self.remote.reader.max_message_size:
            self.remote.stray("unsent")
            log.warn(
                "upstream {name}: a notification or response was not sent: {why}",
                name=self.remote.name,
                why="too many at once" if full else "over max_message_size",
            )
            if message.get("method") == INITIALIZED:
                self._release()
            return
        post = OneWay(self.remote, self.remote.timeout, over)
        posts.add(post)
        self._posts = posts
        post.send("POST", self.url, self._post_headers(), body)

    def _posted(
        self,
        post: OneWay,
        head: Head | None,
        message: Message | None,
        failure: UpstreamFailure | None,
    ) -> None:
        """Nobody waits for it: 202 and 200 are well, anything else is for the log."""
        if self._posts is not None:
            self._posts.discard(post)
            self._posts = self._posts or None
        if head is not None and head.status >= 300:
            failure = self.refused(head, message, post.words)
        elif head is not None:
            self._taken()
        if failure is None:
            return
        log.warn(
            "upstream {name}: a notification or response was not taken: {detail}",
            name=self.remote.name,
            detail=failure.detail,
        )
        if failure.reason is Reason.SESSION_NOT_FOUND:
            self.forgotten(failure)

    def _initialized(
        self,
        post: OneWay,
        head: Head | None,
        message: Message | None,
        failure: UpstreamFailure | None,
    ) -> None:
        self._posted(post, head, message, failure)
        if self._over is not None or not self._listen():
            self._release()

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for call in held:
            call.send()

    def hear(self, message: Message) -> None:
        """Take a message of the session's own stream."""
        received = self.remote.receive(message, self, None)
        if isinstance(received, ServerRequest):
            self.inbox.request(received.message, None)
        elif isinstance(received, ServerNotification):
            self.inbox.notification(received.message)
        elif isinstance(received, Progress):
            received.pending.sink.progressed(received.message, received.due)
        else:
            self.remote.stray(received.kind if isinstance(received, Stray) else "foreign")

    def _given_up(self, _: Deferred[Opening]) -> None:
        self._abandon("given up")

    def _abandon(self, why: str) -> Deferred[None]:
        """End it from our side."""
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, why)
        if self._end(failure):
            return self._farewell()
        for call in tuple(self._calls):
            call.fail(failure)
        return succeed(None)

    def _end(
        self,
        failure: UpstreamFailure,
        stop: Callable[[HttpCall, UpstreamFailure], None] = HttpCall.fail,
    ) -> bool:
        """Stop everything that runs; False when that was done before."""
        if self._over is not None:
            return False
        self._over = failure
        self._cease()
        posts, self._posts = self._posts or (), None
        for post in posts:
            post.stop()
        for call in tuple(self._calls):
            stop(call, failure)
        self._held = None
        self.on_end(self)
        return True
