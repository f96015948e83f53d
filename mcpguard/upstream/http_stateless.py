"""Links to stateless servers (2026-07-28): every request stands for itself."""

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.protocol.eras import refuses_version, wants_handshake
from mcpguard.protocol.headers import routing_headers
from mcpguard.protocol.mcp import MODERN_VERSIONS
from mcpguard.upstream.correlation import ServerNotification, ServerRequest
from mcpguard.upstream.http_call import HttpCall
from mcpguard.upstream.http_reader import may_answer, refusal_of
from mcpguard.upstream.http_remote import POST_HEADERS, Remote
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure
from mcpguard.upstream.versed import Versed
from mcpguard.upstream.wire import Head, Headers

log = Logger()

PARAM_PREFIX = "mcp-param-"


@define(eq=False, repr=False)
class StatelessHttpLink:
    """Implements `link.Link`: one POST for each request, cancelled by closing its stream."""

    remote: Remote
    url: str
    one_stream_each: bool = field(init=False, default=True)
    answers_aside: bool = field(init=False, default=False)
    _calls: set[HttpCall] = field(init=False, factory=set)
    _closed: bool = field(init=False, default=False)

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """See `link.Link`."""
        call = HttpCall(self.remote, self, outbound, Versed(outbound, sink, self.remote.doubt))
        if self._closed:
            call.refuse(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the link is closed"))
        elif call.prepare():
            self._calls.add(call)
            call.send()
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """Drop it: a stateless server takes no notification over HTTP."""
        log.debug("{method} is not sent to a stateless server", method=method)

    def respond(self, message: Message) -> None:
        """Drop it: a stateless server asks nothing."""
        log.debug("a response is not sent to a stateless server")

    def close(self) -> Deferred[None]:
        """See `link.Link`: what still runs is ended."""
        self._closed = True
        for call in tuple(self._calls):
            call.fail(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the link was closed"))
        return succeed(None)

    # CallLink

    def request_headers(self, outbound: Outbound, message: Message) -> Headers:
        """See `http_call.CallLink`: rebuilt from the body, so that they cannot disagree."""
        params = message.get("params")
        return (
            *POST_HEADERS,
            *routing_headers(outbound.version, outbound.method, params),
            *(pair for pair in outbound.headers if pair[0].lower().startswith(PARAM_PREFIX)),
        )

    def resume_headers(self, event_id: str) -> Headers | None:
        """See `http_call.CallLink`: streams of this era cannot be taken up again."""
        return None

    def opened(self, call: HttpCall, head: Head) -> None:
        """See `http_call.CallLink`."""

    def aside(self, message: ServerRequest | ServerNotification, call: HttpCall) -> None:
        """See `http_call.CallLink`: a notification belongs to the request of its stream."""
        if isinstance(message, ServerNotification):
            call.sink.notification(message.message)
        else:
            # 2026-07-28 has no requests in this direction.
            self.remote.stray("request")

    def error_answers(self, head: Head, message: Message, call: HttpCall) -> bool:
        """See `http_call.CallLink`: protocol errors come as 400 and 404, ``id: null`` or none
        only when the server could not read ours.
        """
        key, error = message.get("id"), message.get("error")
        if type(key) is not int and isinstance(error, dict) and wants_handshake(error):
            # What its transport says of a request without a session.
            return False
        return may_answer(head) and (key is None or (type(key) is int and key == call.gid))

    def refused(self, head: Head, message: Message | None, words: str) -> UpstreamFailure:
        """See `http_call.CallLink`."""
        error = {} if message is None else message.get("error")
        if head.status == 400 and isinstance(error, dict) and _is_of_another_era(error):
            return self.remote.doubt("it wants a handshake")
        return refusal_of(head, self.remote.clock.seconds())

    def withdraw(self, message: Message) -> None:
        """See `http_call.CallLink`: the closed stream says it all."""

    def ended(self, call: HttpCall) -> None:
        """See `http_call.CallLink`."""
        self._calls.discard(call)

    def forgotten(self, failure: UpstreamFailure) -> None:
        """See `http_call.CallLink`: there is no session to forget."""


def _is_of_another_era(error: Message) -> bool:
    return wants_handshake(error) or refuses_version(error, MODERN_VERSIONS[0])
