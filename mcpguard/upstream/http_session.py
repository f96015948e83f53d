"""Sessions with handshake-era servers over Streamable HTTP (2025-03-26 to 2025-11-25)."""

import re

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from mcpguard.errors import INVALID_REQUEST, Reason
from mcpguard.protocol.eras import refuses_version, wants_metadata
from mcpguard.upstream.http_call import HttpCall
from mcpguard.upstream.http_oneway import OneWay
from mcpguard.upstream.http_remote import GET_HEADERS, POST_HEADERS
from mcpguard.upstream.http_sinks import Nobody
from mcpguard.upstream.http_stream import ServerStream
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from mcpguard.upstream.url_session import UrlSession
from mcpguard.upstream.wire import FixedHeaders, Head, Headers

_SESSION_ID = re.compile(r"[\x21-\x7e]+")
_SERVER_ERROR = -32000
"""What the TypeScript SDK's transport calls its own refusals."""


@define(eq=False, repr=False)
class HttpSession(UrlSession):
    """Implements `link.Link` for one session; `open` shakes hands, `resume` has no need to."""

    session_id: str | None = field(init=False, default=None, repr=False)
    _stream: ServerStream | None = field(init=False, default=None)
    _doubt: IDelayedCall | None = field(init=False, default=None)
    """Set while nobody knows whether the server still has the session."""
    _awaited: IDelayedCall | None = field(init=False, default=None)
    """Ends the wait for the first answer to the stream's GET."""
    _fixed: FixedHeaders | None = field(init=False, default=None)
    """Those of everything that is posted, once they are known."""

    def leave(self) -> Deferred[None]:
        """See `url_session.UrlSession`: the server keeps an open session for who has its id."""
        if self._version is None:
            return self.close()
        self._end(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the gateway stops"))
        return succeed(None)

    def resume(self, version: str, session_id: str | None) -> None:
        """Go on with a session of an earlier life; nothing is sent until it is used.

        The server's own stream is opened by its first use. One that only waits for that stream
        asks by a ping after ``doubt_secs``: a 404 to the stream itself would not tell a forgotten
        session from a server that has no such stream.
        """
        self._version, self.session_id = version, session_id
        if session_id is not None:
            remote = self.remote
            self._doubt = remote.clock.callLater(remote.bounds.doubt_secs, self.doubt_session)

    # Link

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """See `link.Link`."""
        if self._doubt is not None and self._over is None and self._held is None:
            self._dispel()
            self._held = []
            call = super().request(outbound, sink)
            if not self._listen():
                self._release()
            return call
        return super().request(outbound, sink)

    # CallLink

    def request_headers(self, outbound: Outbound, message: Message) -> Headers:
        """See `http_call.CallLink`."""
        return self._fixed or self._post_headers()

    def resume_headers(self, event_id: str) -> Headers | None:
        """See `http_call.CallLink` (2025-11-25 lets a server cut a stream and be polled)."""
        return self.stream_headers(event_id)

    def opened(self, call: HttpCall, head: Head) -> None:
        """See `http_call.CallLink`: the head of ``initialize``'s answer names the session."""
        if head.status == 200 and self._doubt is not None:
            self._taken()
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

    # UrlSession

    def _begin(self, handshake: HttpCall) -> None:
        handshake.send()

    def _opening(self, result: Message) -> Opening:
        return Opening(
            self,
            result,
            ephemeral=self.session_id is None,
            session_id=self.session_id,
            resumable=True,
        )

    def _post_headers(self) -> Headers:
        if self._fixed:
            return self._fixed
        headers = self.remote.fix((*POST_HEADERS, *self._session_headers()))
        if self._version is not None:
            # Neither it nor the session's id changes any more.
            self._fixed = headers
        return headers

    def _tells_loss(self, head: Head, message: Message | None, words: str) -> bool:
        """See `UrlSession`.

        404 by the specification. Servers built on the TypeScript SDK's examples
        (server-everything) answer 400 with -32000 "No valid session ID provided" or, restarted,
        "Server not initialized", under the request's own id.
        """
        if self._is_replaced(head, message):
            return True
        if self.session_id is None:
            return False
        if head.status == 404:
            return True
        error = {} if message is None else message.get("error")
        if head.status != 400 or not isinstance(error, dict):
            return False
        words = str(error.get("message", ""))[:200].lower()
        told = "session" in words or "not initialized" in words
        return error.get("code") in (_SERVER_ERROR, INVALID_REQUEST) and told

    def refused(self, head: Head, message: Message | None, words: str) -> UpstreamFailure:
        """See `http_call.CallLink`."""
        if self._handshake is None and self._is_replaced(head, message):
            self.remote.doubt(f"it does not speak {self._version} any more")
        return super().refused(head, message, words)

    def _is_replaced(self, head: Head, message: Message | None) -> bool:
        """Whether a server answers that does not speak the session's version."""
        error = None if message is None else message.get("error")
        if head.status != 400 or not isinstance(error, dict):
            return False
        return wants_metadata(error) or refuses_version(error, self._version or "")

    def _taken(self) -> None:
        if self._doubt is not None:
            self._dispel()
            self._listen()

    def _listen(self) -> bool:
        """See `UrlSession`.

        What a server asks in the course of a request but not on its stream (``server.request`` of
        the TypeScript SDK without a related id) is lost when nobody reads the session's own one:
        the request that it belongs to would never end.
        """
        if self._over is not None or self.session_id is None or self._stream is not None:
            # Without a session the server has nobody to tell anything later.
            return False
        patient = not self.remote.late_streams
        self._stream = ServerStream(self.remote, self.url, self)
        self._awaited = self.remote.clock.callLater(
            self.remote.bounds.listen_secs, self._stream_is_late
        )
        self._stream.start()
        return patient and self._awaited is not None

    def _cease(self) -> None:
        self._dispel()
        self._await_no_more()
        if self._stream is not None:
            self._stream.stop()

    def _farewell(self) -> Deferred[None]:
        if self.session_id is None:
            return succeed(None)
        over: Deferred[None] = Deferred()
        farewell = OneWay(
            self.remote, self.remote.bounds.close_secs, lambda *_: over.callback(None)
        )
        farewell.send("DELETE", self.url, self._session_headers(), None)
        return over

    # inside

    def _session_headers(self) -> Headers:
        headers = []
        if self.session_id is not None:
            headers.append(("Mcp-Session-Id", self.session_id))
        if self._version is not None:
            headers.append(("MCP-Protocol-Version", self._version))
        return headers

    def stream_headers(self, event_id: str | None) -> Headers:
        """See `http_stream.StreamOwner`."""
        resuming = () if event_id is None else (("Last-Event-ID", event_id),)
        return (*GET_HEADERS, *self._session_headers(), *resuming)

    def stream_tried(self) -> None:
        """See `http_stream.StreamOwner`."""
        if self._awaited is not None:
            self.remote.late_streams = False
            self._await_no_more()
            self._release()

    def _stream_is_late(self) -> None:
        """Some servers send the head with the first event only."""
        self.remote.late_streams = True
        self._awaited = None
        self._release()

    def _await_no_more(self) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.cancel()

    def _dispel(self) -> None:
        doubt, self._doubt = self._doubt, None
        if doubt is not None and doubt.active():
            doubt.cancel()

    def doubt_session(self) -> None:
        """See `http_stream.StreamOwner`: ask the server, unless a request is asking already."""
        if not self._calls:
            self.request(Outbound(0, "ping", None, self._version or "", ""), Nobody())
