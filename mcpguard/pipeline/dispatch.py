"""One authorized request's trip to a server and back, the same for every era.

`authorize` must have answered None before `RunningCall.start`; the corridor's order test shows
over generated requests that nothing else leads to an upstream.
"""

from collections.abc import Callable

from attrs import define, field
from msgspec.structs import replace
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mcpguard.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    Reason,
    Refusal,
    Refused,
)
from mcpguard.pipeline.patience import Patience
from mcpguard.pipeline.streams import Reply, stop_timer
from mcpguard.pipeline.trip import Trip
from mcpguard.policy.filters import filter_list
from mcpguard.policy.principal import Principal
from mcpguard.policy.rules import Kind, Operation, Verdict, decide
from mcpguard.policy.scopes import needed
from mcpguard.protocol.answers import error_object
from mcpguard.protocol.jsonrpc import Request
from mcpguard.protocol.mcp import METHODS, touched
from mcpguard.upstream.link import Call, Id, Link, Message, Outbound, UpstreamFailure

log = Logger()

_BAD_REQUEST_CODES = frozenset(
    {
        PARSE_ERROR,
        INVALID_REQUEST,
        INVALID_PARAMS,
        HEADER_MISMATCH,
        MISSING_CLIENT_CAPABILITY,
        UNSUPPORTED_PROTOCOL_VERSION,
    }
)

_DENIED = {
    "tool": "Identity '{who}' is not authorized to call tool '{what}'",
    "prompt": "Identity '{who}' is not authorized to use prompt '{what}'",
    "resource": "Identity '{who}' is not authorized to access resource '{what}'",
    "method": "Identity '{who}' is not authorized to use server '{what}'",
}


STRAYS = "mcp_guard_upstream_stray_messages_total"

CLIENT_CLOSED = 499
"""What the meters count for a request whose client left first (as nginx does)."""


def clip(text: str, limit: int = 200) -> str:
    """A name from the wire, short enough to be shown."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def may_touch(principal: Principal, server: str, kind: Kind, name: str) -> bool:
    """The rule engine's yes or no for one thing."""
    return decide(principal.rights, Operation(kind, name, server, "")).allowed


def authorize(principal: Principal, server: str, request: Request) -> Refusal | None:
    """Decide one request by the rules; None allows it.

    An exception in here is a denial (the corridor turns it into one).
    """
    method = METHODS.get(request.method)
    if method is None or not method.relayed:
        return Refusal(Reason.UNKNOWN_METHOD)
    verdict = decide(principal.rights, Operation("method", request.method, server, request.method))
    if not verdict.allowed:
        return _denied(principal, "method", server, verdict)
    for kind, name in touched(request.method, request.params):
        verdict = decide(principal.rights, Operation(kind, name, server, request.method))
        if not verdict.allowed:
            return _needs_scope(principal, server, name, verdict) or _denied(
                principal, kind, name, verdict
            )
    return None


def _needs_scope(principal: Principal, server: str, tool: str, verdict: Verdict) -> Refusal | None:
    """The refusal that a scope would cure; None where none would, or something else forbids it."""
    if verdict.reason != Reason.INSUFFICIENT_SCOPE.value or principal.scopes is None:
        return None
    scopes = needed(principal.scopes, server, tool)
    if scopes is None:
        return None
    who, what, missing = clip(principal.name), clip(tool), scopes[-1]
    text = f"Identity '{who}' needs the scope '{missing}' to call tool '{what}'"
    return Refusal(
        Reason.INSUFFICIENT_SCOPE,
        text,
        data={"scope": " ".join(scopes)},
        detail=f"{verdict.reason} ({verdict.rule}: {missing})",
    )


def _denied(principal: Principal, kind: str, name: str, verdict: Verdict) -> Refusal:
    text = _DENIED[kind].format(who=clip(principal.name), what=clip(name))
    reason = Reason.SERVER_DENIED if kind == "method" else Reason.DENIED
    return Refusal(reason, text, detail=f"{verdict.reason} ({verdict.rule})")


_OF_A_REQUEST = frozenset({"notifications/progress", "notifications/message"})


def of_a_request(message: Message) -> bool:
    """Whether a notification is one that a server sends while it works on a request."""
    return message.get("method") in _OF_A_REQUEST


_HEARD_BY_LISTENERS = frozenset(
    {
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
    }
)


def heard_by_listener(principal: Principal, server: str, message: Message) -> bool:
    """Whether a subscription's notification is for this principal: updates are what it may read."""
    method = message.get("method")
    if method != "notifications/resources/updated":
        return method in _HEARD_BY_LISTENERS
    params = message.get("params")
    uri = params.get("uri") if isinstance(params, dict) else None
    return isinstance(uri, str) and may_touch(principal, server, "resource", uri)


def refusal_of(failure: UpstreamFailure) -> Refusal:
    """What a client is told of an upstream's failure: never its words."""
    return Refusal(failure.reason, retry_after=failure.retry_after, detail=failure.detail)


def modern_status(message: Message) -> int:
    """The HTTP status of a JSON-RPC response on the 2026-07-28 wire (mcp-requirements 1.2)."""
    error = message.get("error")
    if not isinstance(error, dict):
        return 200
    code = error.get("code")
    if code in _BAD_REQUEST_CODES:
        return 400
    return 404 if code == METHOD_NOT_FOUND else 200


def legacy_status(message: Message) -> int:
    """Handshake eras answer every JSON-RPC response with 200."""
    return 200


@define(eq=False)
class RunningCall:
    """A request that policy allowed, under way at a server. Is the link's `CallSink`."""

    trip: Trip
    reply: Reply
    client_id: Id
    principal: Principal
    server: str
    method: str
    clock: IReactorTime
    patience: Patience
    """After how much silence the event stream is opened, so that proxies see life."""
    status_of: Callable[[Message], int] = legacy_status
    shape: Callable[[Message], Message] | None = None
    """What the client's era wants changed in a result."""
    on_end: Callable[["RunningCall"], object] | None = None
    observe: Callable[[Message], None] | None = None
    """Told of each unfiltered result (tool schemas)."""
    retry: Callable[[], None] | None = None
    """Sends it once more, if the server says that it has forgotten the session (404): then it
    has not looked at the request, so nothing can happen twice."""
    hears: Callable[[Message], bool] = of_a_request
    """Whether a notification on its stream is for its client as it is."""
    aside: Callable[[Message], None] | None = None
    """Takes every other notification; without it they are dropped."""
    last_words: Message | None = None
    """The result of a request that ends in order with its caller's credentials."""
    call: Call | None = None
    _params: Message | None = field(init=False, default=None)
    """As the server has seen them."""
    _ended: bool = field(init=False, default=False)
    _begun: bool = field(init=False, default=False)
    _expiring: IDelayedCall | None = field(init=False, default=None)

    @property
    def ended(self) -> bool:
        """True once it has its outcome."""
        return self._ended

    def start(self, link: Link, outbound: Outbound) -> None:
        """Send it. The answer, in whatever form, comes back to this object.

        Does nothing when the client has left in the meantime.
        """
        if self._ended:
            return
        if self.reply.may_stream and not self._begun:
            self._begun = True
            self.patience.begin(self)
            if self.principal.expires_at is not None:
                self.reply.opening = self._may_open
        try:
            assert self.trip.custody is not None, "not admitted"
            self._params = self.trip.custody.opened(outbound.params)
            call = link.request(replace(outbound, params=self._params), self)
            if not self._ended:
                self.call = call
        except Refused as refused:
            if self._end():
                self._refuse(refused.refusal)
        except Exception:
            # No link may raise; if one does, its caller's place must be given back all the same.
            log.failure(
                "sending to {server} went wrong",
                server=self.server,
                request_id=self.trip.incoming.request_id,
            )
            self.failed(UpstreamFailure(Reason.INTERNAL, "an error of the gateway"))

    def show_life(self) -> None:
        """Open the event stream if nothing has come yet."""
        if not self._ended and not self.reply.outlet.gone:
            self.reply.commit()

    def _may_open(self) -> bool:
        """Whether an event stream may be opened: it lasts as long as the caller's credentials."""
        expires_at = self.principal.expires_at
        if expires_at is not None:
            left = expires_at - self.trip.books.clocks.wall()
            if left <= 0.0:
                return False
            self._expiring = self.clock.callLater(left, self.expire)
        return True

    # -- CallSink --------------------------------------------------------------------------

    def notification(self, message: Message) -> None:
        """Pass on what the server says while it works.

        An HTTP server may put anything on the stream of a request, so what else there is to
        relay goes the way that the session, or the caller's rights, have for it.
        """
        if self._ended:
            return
        if self.hears(message):
            self.reply.send(message)
        elif self.aside is not None:
            self.aside(message)
        else:
            self.trip.books.meter.count(STRAYS, server=self.server, kind="notification")

    def answer(self, message: Message) -> None:
        """The server's response has come: filter it, shape it, send it, write it down."""
        if not self._end():
            return
        try:
            message, failed = self._prepare(message)
            status = self.reply.end(message, self.status_of(message))
        except Refused as refused:
            self._refuse(refused.refusal)
        except Exception:
            # Nothing that was not filtered may go out, so the client gets an error instead.
            log.failure(
                "answer of {server} could not be passed on",
                server=self.server,
                request_id=self.trip.incoming.request_id,
            )
            self._refuse(Refusal(Reason.INTERNAL))
        else:
            self.trip.settle("error" if failed else "success", status)

    def _prepare(self, message: Message) -> tuple[Message, bool]:
        result = message.get("result")
        if "error" in message:
            return message, True
        if not isinstance(result, dict):
            raise TypeError("a result that is not an object cannot be filtered")
        if self.observe is not None:
            self.observe(result)
        failed = result.get("isError") is True
        if METHODS[self.method].lists is not None:
            result, _ = filter_list(self.principal.rights, self.server, self.method, result)
        assert self.trip.custody is not None
        result = self.trip.custody.sealed(self._params, result)
        if self.shape is not None:
            result = self.shape(result)
        return {**message, "result": result}, failed

    def failed(self, failure: UpstreamFailure) -> None:
        """Tell the client that no answer will come."""
        if (
            failure.reason is Reason.SESSION_NOT_FOUND
            and self.retry is not None
            and not (self._ended or self.reply.streaming)
        ):
            # In a turn of its own: the link is still telling its other calls, then its session.
            retry, self.retry = self.retry, None
            self.clock.callLater(0, retry)
            return
        if self._end():
            self._refuse(refusal_of(failure))

    # -- ends ------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """The client wants it no more: stop it at the server, answer nothing."""
        if not self._end(reason):
            return
        left = self.reply.outlet.gone
        self.reply.abandon()
        self.trip.settle("cancelled", CLIENT_CLOSED if left else 200)

    def conclude(self, result: Message) -> None:
        """End a stream that has no end of its own, in order (the gateway stops, rights end)."""
        if not self._end("the gateway ends the stream"):
            return
        status = self.reply.end({"jsonrpc": "2.0", "id": self.client_id, "result": result})
        self.trip.settle("success", status)

    def expire(self) -> None:
        """The caller's credentials have ended, and with them the stream of this request.

        What a session keeps for a client that comes back goes on; so does a request that has no
        stream, to its one answer: it came in time.
        """
        if self.last_words is not None:
            self.conclude(self.last_words)
            return
        if self._ended or not self.reply.streaming or self.reply.part():
            return
        self._end("the caller's credentials have ended")
        error_id = self.trip.books.clocks.new_id()
        refusal = Refusal(Reason.EXPIRED_CREDENTIALS)
        error = error_object(refusal, error_id)
        self.reply.end({"jsonrpc": "2.0", "id": self.client_id, "error": error})
        # As what it was: it has reached a server, and is no failed attempt to sign in.
        self.trip.settle("cancelled", 200, reason=refusal.reason.value, error_id=error_id)

    def abort(self, failure: UpstreamFailure) -> None:
        """The session ends under it."""
        if not self._end("session ended"):
            return
        self._refuse(refusal_of(failure))

    def _end(self, cancel: str | None = None) -> bool:
        """Whether it ends now; with ``cancel`` for that reason, before the server is through."""
        if self._ended:
            return False
        self._ended = True
        if self._begun:
            self.patience.end(self)
        stop_timer(self._expiring)
        # They know this object: what has ended must not wait for the garbage collector.
        self.reply.opening = self._expiring = None
        if cancel is not None and self.call is not None:
            # Before the link is given back: one that closes fails what still runs on it.
            self.call.cancel(cancel)
        if self.on_end is not None:
            self.on_end(self)
        self.call = None
        return True

    def _refuse(self, refusal: Refusal) -> None:
        if not self.reply.streaming:
            self.reply.ended = True
            self.trip.refuse(refusal)
            return
        error_id = self.trip.books.clocks.new_id()
        message: Message = {
            "jsonrpc": "2.0",
            "id": self.client_id,
            "error": error_object(refusal, error_id),
        }
        self.reply.end(message)
        self.trip.settle_refusal(refusal, 200, error_id)
