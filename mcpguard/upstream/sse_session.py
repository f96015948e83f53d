"""Sessions with servers of the first HTTP transport (HTTP with SSE, MCP 2024-11-05)."""

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from mcpguard.errors import Reason
from mcpguard.upstream.correlation import Stray
from mcpguard.upstream.endpoint import endpoint_url
from mcpguard.upstream.http_call import HttpCall
from mcpguard.upstream.http_reader import JSON
from mcpguard.upstream.link import Message, Opening, UpstreamFailure
from mcpguard.upstream.sse_stream import SseBounds, SseStream
from mcpguard.upstream.url_session import UrlSession
from mcpguard.upstream.wire import Head, Headers

POST_HEADERS: Headers = (("Accept", "*/*"), ("Content-Type", JSON))
"""As the SDKs' clients of this transport send them: it has no further headers."""


@define(eq=False, repr=False)
class SseSession(UrlSession):
    """Implements `link.Link` and `sse_stream.StreamOwner` for one session.

    ``url`` is where its event stream is opened, from then on where its messages go. The session
    lives as long as the stream: there is no reconnecting within one.
    """

    limits: SseBounds
    answers_aside: bool = field(init=False, default=True)
    _stream: SseStream | None = field(init=False, default=None)

    # StreamOwner

    def located(self, reference: str) -> None:
        """See `sse_stream.StreamOwner`: now ``initialize`` can be sent."""
        remote, handshake = self.remote, self._handshake
        try:
            self.url = endpoint_url(
                remote.target, self.url, reference, self.limits.max_endpoint_bytes
            )
        except ValueError as problem:
            self._end(UpstreamFailure(Reason.UPSTREAM_FAILED, str(problem)))
            return
        if handshake is not None:
            handshake.send()

    def heard(self, message: Message) -> None:
        """See `sse_stream.StreamOwner`: an answer, or something the server says by itself."""
        if "method" not in message:
            answered = self.remote.answered(message, self)
            if isinstance(answered, Stray):
                self.remote.stray(answered.kind)
            else:
                answered.receive(message)
        elif self._handshake is None:
            self.hear(message)
        elif message["method"] == "ping" and type(message.get("id")) in (int, str):
            # All that a server may ask this early, and nobody else is there to answer.
            self.respond({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        else:
            self.remote.stray("early")

    def stream_over(self, failure: UpstreamFailure) -> None:
        """See `sse_stream.StreamOwner`: so is the session, and its requests fail.

        They may have been carried out, except those that were not sent yet.
        """
        if self._handshake is not None:
            self._end(failure)
            return
        if failure.reason is Reason.ANSWER_TOO_LARGE:
            # Whose answer it was cannot be told.
            for call in self._calls.difference(self._held or ()):
                call.fail(failure)
        self.forgotten(UpstreamFailure(Reason.SESSION_NOT_FOUND, failure.detail))

    # CallLink

    def opened(self, call: HttpCall, head: Head) -> None:
        """See `http_call.CallLink`."""

    # UrlSession

    def _begin(self, handshake: HttpCall) -> None:
        """Open the stream; the time of ``initialize`` runs already."""
        self._stream = SseStream(self.remote, self.limits, self)
        self._stream.start(self.url)

    def _opening(self, result: Message) -> Opening:
        return Opening(self, result)

    def _post_headers(self) -> Headers:
        return POST_HEADERS

    def _tells_loss(self, head: Head, message: Message | None, words: str) -> bool:
        """See `UrlSession`.

        The SDKs' servers answer 404 "Could not find session" and 400 "Invalid session ID", those
        after their examples 400 "No transport found for sessionId", all of it in plain words.
        """
        if head.status != 400:
            return head.status == 404
        error = None if message is None else message.get("error")
        if isinstance(error, dict):
            words = str(error.get("message", ""))[:200]
        return "session" in words.lower()

    def _taken(self) -> None:
        pass

    def _listen(self) -> bool:
        return False

    def _cease(self) -> None:
        if self._stream is not None:
            self._stream.stop()

    def _farewell(self) -> Deferred[None]:
        """The end of the stream is all that is said."""
        return succeed(None)
