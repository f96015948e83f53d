"""Sessions with handshake-era servers over Streamable HTTP (2025-03-26 to 2025-11-25)."""

import re
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.errors import INVALID_REQUEST, Reason
from mcpguard.protocol.jsonrpc import encode
from mcpguard.upstream.correlation import (
    Progress,
    ServerNotification,
    ServerRequest,
    Stray,
)
from mcpguard.upstream.http_call import HttpCall
from mcpguard.upstream.http_oneway import OneWay
from mcpguard.upstream.http_reader import may_answer, refusal_of
from mcpguard.upstream.http_remote import GET_HEADERS, POST_HEADERS, Remote
from mcpguard.upstream.http_sinks import Handshake, Nobody
from mcpguard.upstream.http_stream import ServerStream
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
_SESSION_ID = re.compile(r"[\x21-\x7e]+")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_SERVER_ERROR = -32000
"""What the TypeScript SDK's transport calls its own refusals."""


@define(eq=False, repr=False)
class HttpSession:
    """Implements `link.Link` for one session; `open` shakes hands, `resume` has no need to.

    Requests made while ``notifications/initialized`` is on its way wait for it: over HTTP a later
    POST may well arrive first. ``on_end`` is called once the session is over.
    """

    remote: Remote
    url: str
    inbox: Inbox
    on_end: Callable[["HttpSession"], None]
    one_stream_each: bool = field(init=False, default=False)
    session_id: str | None = field(init=False, default=None, repr=False)
    _version: str | None = field(init=False, default=None)
    _handshake: HttpCall | None = field(init=False, default=None)
    _calls: set[HttpCall] = field(init=False, factory=set)
    _held: list[HttpCall] | None = field(init=False, default=None)
    """Requests that wait for ``initialized`` to be taken; None while nothing has to wait."""
    _posts: set[OneWay] = field(init=False, factory=set)
    _stream: ServerStream | None = field(init=False, default=None)
    _doubt: IDelayedCall | None = field(init=False, default=None)
    """Set while nobody knows whether the server still has the session."""
    _over: UpstreamFailure | None = field(init=False, default=None)

    def open(self, principal_key: str, params: Message) -> Deferred[Opening]:
        """Shake hands; errbacks with `UpstreamFailure` or `InitializeRejected`."""
        opening: Deferred[Opening] = Deferred(self._given_up)
        outbound = Outbound(0, "initialize", params, "", principal_key)
        call = HttpCall(self.remote, self, outbound, Handshake(self, opening))
        if call.prepare():
            self._handshake = call
            self._calls.add(call)
            call.send()
        return opening

    def resume(self, version: str, session_id: str | None) -> None:
        """Go on with a session of an earlier life; nothing is sent until it is used.

        The server's own stream is opened once it has shown that it knows the session. One that
        only waits for that stream asks by a ping after ``doubt_secs``: a 404 to the stream itself
        would not tell a forgotten session from a server that has no such stream.
        """
        self._version, self.session_id = version, session_id
        if session_id is not None:
            remote = self.remote
            self._doubt = remote.clock.callLater(remote.bounds.doubt_secs, self._ping)

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
        return Opening(
            self,
            result,
            ephemeral=self.session_id is None,
            session_id=self.session_id,
            resumable=True,
        )

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
        """See `link.Link`: DELETEs the session, whatever the server says to that."""
        if self._over is not None:
            return succeed(None)
        return self._abandon("the session was closed")

    # CallLink

    def request_headers(self, outbound: Outbound, message: Message) -> Headers:
        """See `http_call.CallLink`."""
        return (*POST_HEADERS, *self._session_headers())

    def resume_headers(self, event_id: str) -> Headers | None:
        """See `http_call.CallLink` (2025-11-25 lets a server cut a stream and be polled)."""
        return self._stream_headers(event_id)

    def opened(self, call: HttpCall, head: Head) -> None:
        """See `http_call.CallLink`: the head of ``initialize``'s answer names the session."""
        if head.status == 200 and self._doubt is not None:
            self._known()
        if call is not self._handshake or head.status != 200:
            return
        given = head.headers.get("mcp-session-id", ())
        if not given:
            return
        session_id = head.one("mcp-session-id") or ""
        fit = len(session_id) <= self.remote.bounds.max_id_bytes
        if fit and _SESSION_ID.fullmatch(session_id):
            self.session_id = session_id
        else:
            call.fail(UpstreamFailure(Reason.UPSTREAM_FAILED, "an unusable Mcp-Session-Id"))

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
        """See `http_call.CallLink`."""
        key = message.get("id")
        ours = type(key) is int and key == call.gid
        return ours and may_answer(head) and not self._is_forgotten(head, message)

    def refused(self, head: Head, message: Message | None) -> UpstreamFailure:
        """See `http_call.CallLink`."""
        if self._is_forgotten(head, message):
            return UpstreamFailure(Reason.SESSION_NOT_FOUND, f"HTTP {head.status}: session unknown")
        return refusal_of(head, self.remote.clock.seconds())

    def withdraw(self, message: Message) -> None:
        """See `http_call.CallLink`: a closed stream alone means nothing in this era."""
        self._post(message, self._posted)

    def ended(self, call: HttpCall) -> None:
        """See `http_call.CallLink`."""
        self._calls.discard(call)

    def forgotten(self, failure: UpstreamFailure) -> None:
        """See `http_call.CallLink`: all is over, and there is nothing left to DELETE."""
        if self._end(failure):
            self.inbox.closed(failure)

    # inside

    def _session_headers(self) -> Headers:
        headers = []
        if self.session_id is not None:
            headers.append(("Mcp-Session-Id", self.session_id))
        if self._version is not None:
            headers.append(("MCP-Protocol-Version", self._version))
        return headers

    def _stream_headers(self, event_id: str | None) -> Headers:
        resuming = () if event_id is None else (("Last-Event-ID", event_id),)
        return (*GET_HEADERS, *self._session_headers(), *resuming)

    def _is_forgotten(self, head: Head, message: Message | None) -> bool:
        """Whether an answer says that the server knows the session no more.

        404 by the specification. Servers built on the TypeScript SDK's examples
        (server-everything) answer 400 with -32000 "No valid session ID provided" or, restarted,
        "Server not initialized", under the request's own id.
        """
        if self.session_id is None or self._handshake is not None:
            return False
        if head.status == 404:
            return True
        error = {} if message is None else message.get("error")
        if head.status != 400 or not isinstance(error, dict):
            return False
        words = str(error.get("message", ""))[:200].lower()
        told = "session" in words or "not initialized" in words
        return error.get("code") in (_SERVER_ERROR, INVALID_REQUEST) and told

    def _post(
        self,
        message: Message,
        over: Callable[[OneWay, Head | None, Message | None, UpstreamFailure | None], None],
    ) -> None:
        if self._over is not None:
            return
        body = encode(message)
        full = len(self._posts) >= self.remote.bounds.max_posts
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
        self._posts.add(post)
        headers = (*POST_HEADERS, *self._session_headers())
        post.send("POST", self.url, headers, body)

    def _posted(
        self,
        post: OneWay,
        head: Head | None,
        message: Message | None,
        failure: UpstreamFailure | None,
    ) -> None:
        """Nobody waits for it: 202 and 200 are well, anything else is for the log."""
        self._posts.discard(post)
        if head is not None and head.status >= 300:
            failure = self.refused(head, message)
        elif head is not None and self._doubt is not None:
            self._known()
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
        self._release()
        self._listen()

    def _listen(self) -> None:
        if self._over is None and self.session_id is not None and self._stream is None:
            # Without a session the server has nobody to tell anything later.
            self._stream = ServerStream(
                self.remote, self.url, self._stream_headers, self._hear, self.forgotten
            )
            self._stream.start()

    def _known(self) -> None:
        """The server knows the session that was resumed."""
        self._dispel()
        self._listen()

    def _dispel(self) -> None:
        doubt, self._doubt = self._doubt, None
        if doubt is not None and doubt.active():
            doubt.cancel()

    def _ping(self) -> None:
        """Ask whether the server knows the session, unless a request is asking that already."""
        if not self._calls:
            self.request(Outbound(0, "ping", None, self._version or "", ""), Nobody())

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for call in held:
            call.send()

    def _hear(self, message: Message) -> None:
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
        """End it from our side, the server told if it keeps a session."""
        over: Deferred[None] = Deferred()
        headers = self._session_headers()
        if not self._end(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, why)):
            return succeed(None)
        if self.session_id is None:
            return succeed(None)
        farewell = OneWay(
            self.remote, self.remote.bounds.close_secs, lambda *_: over.callback(None)
        )
        farewell.send("DELETE", self.url, headers, None)
        return over

    def _end(self, failure: UpstreamFailure) -> bool:
        """Stop everything that runs; False when that was done before."""
        if self._over is not None:
            return False
        self._over = failure
        self._dispel()
        if self._stream is not None:
            self._stream.stop()
        for post in tuple(self._posts):
            post.stop()
        self._posts.clear()
        for call in tuple(self._calls):
            call.fail(failure)
        self._held = None
        self.on_end(self)
        return True
