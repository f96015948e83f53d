"""One request's walk through the corridor: what is known of it so far, and its one outcome."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger, LogLevel

from mcpguard.errors import Reason, Refusal
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.limits.limiter import Grant
from mcpguard.observe.events import NOTHING, Event, Meter, Recorder
from mcpguard.pipeline.opaque import Custody
from mcpguard.policy.principal import Principal
from mcpguard.protocol.answers import error_object, render
from mcpguard.protocol.jsonrpc import encode
from mcpguard.protocol.mcp import metric_label
from mcpguard.upstream.link import Id, Message, Route

log = Logger()


@frozen
class Clocks:
    """The three sources of the outside that the corridor may ask."""

    monotonic: Callable[[], float]
    """Seconds that never go back."""
    wall: Callable[[], float]
    """Unix seconds."""
    new_id: Callable[[], str]
    """A fresh random identifier (UUID 4) for errors."""


@frozen
class Books:
    """Where outcomes are written: the audit trail and the meters."""

    recorder: Recorder
    meter: Meter
    clocks: Clocks
    denial_status: int


def digest_of(session_id: str) -> str:
    """What the audit shows of a session id: enough to join lines, useless to steal it."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


@define(eq=False)
class Trip:
    """One request under way. `settle` and `refuse` write its only outcome, once."""

    books: Books
    incoming: Incoming
    outlet: Outlet
    principal: Principal | None = None
    grant: Grant | None = None
    custody: Custody | None = None
    """Set by `admission.Admission`: what the request brings of a server's opaque words."""
    route: Route | None = None
    rpc_id: Id | None = None
    method: str | None = None
    """The JSON-RPC method once the body was read."""
    target: str | None = None
    """The tool, prompt or resource asked for."""
    arguments: Mapping[str, Any] = field(factory=dict)
    session_digest: str | None = None
    in_band: bool = False
    """True for the handshake eras, where an unknown method or bad params is an answer like any
    other (200): a 404 there would tell the client that its session is gone."""
    elsewhere: Callable[[Message], None] | None = None
    """Takes the error of a request whose POST was answered already, as HTTP+SSE answers."""
    on_settled: list[Callable[[], None]] = field(factory=list)
    """Called once at the outcome, such as giving a concurrency slot back."""
    _settled: bool = field(init=False, default=False)

    @property
    def settled(self) -> bool:
        """True once the outcome is written."""
        return self._settled

    @property
    def accept(self) -> str | None:
        """The request's ``Accept`` in one string."""
        values = self.incoming.headers.get("accept")
        return ", ".join(values) if values else None

    def answer_headers(self) -> list[tuple[str, str]]:
        """The headers every answer after authentication carries: the true limits."""
        grant = self.grant
        if grant is None:
            return []
        return [
            ("x-ratelimit-limit", str(grant.limit)),
            ("x-ratelimit-remaining", str(max(0, grant.remaining))),
            ("x-ratelimit-reset", str(int(-(-grant.reset_at // 1)))),
        ]

    def step(self, event_type: str) -> None:
        """Record a step (``AuthSuccess``, ``Authorized``)."""
        self.books.recorder.record(self._event(event_type, "success"))

    def settle(
        self,
        status: str,
        http_status: int,
        *,
        event_type: str | None = None,
        reason: str | None = None,
        error_id: str | None = None,
        cause: str = "",
    ) -> None:
        """Write the outcome; later calls do nothing. ``cause`` is for the audit alone."""
        if self._settled:
            return
        self._settled = True
        seconds = max(0.0, self.books.clocks.monotonic() - self.incoming.received_at)
        if event_type is None:
            event_type = "ToolCall" if self.method == "tools/call" else "McpRequest"
        self.books.recorder.record(
            self._event(
                event_type,
                status,
                reason,
                error_id,
                seconds * 1000,
                self.arguments,
                {"cause": cause} if cause else NOTHING,
            )
        )
        label = metric_label(self.method) if self.method else "other"
        self.books.meter.request(label, http_status, seconds)
        if reason is not None:
            self.books.meter.count("mcp_guard_refusals_total", reason=reason)
        for callback in self.on_settled:
            callback()

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal and write it as the outcome."""
        try:
            self._refuse(refusal)
        except Exception:
            log.failure("a refusal could not be sent", request_id=self.incoming.request_id)
            self.settle("failed", 500, reason=Reason.INTERNAL.value)
            self.hang_up()

    def hang_up(self) -> None:
        """Let the client wait no longer when its answer cannot be made or sent."""
        try:
            self.outlet.answer(500, (), b"")
        except RuntimeError:
            # Something was sent already; if it is a stream, this is its end.
            try:
                self.outlet.finish()
            except RuntimeError:
                log.failure("no end of an answer", request_id=self.incoming.request_id)

    def _refuse(self, refusal: Refusal) -> None:
        error_id = self.books.clocks.new_id()
        if self.elsewhere is not None:
            self.settle_refusal(refusal, 202, error_id)
            if self.rpc_id is not None:
                error = error_object(refusal, error_id)
                self.elsewhere({"jsonrpc": "2.0", "id": self.rpc_id, "error": error})
            return
        if self.in_band and self.rpc_id is not None and refusal.reason in _IN_BAND:
            message = {
                "jsonrpc": "2.0",
                "id": self.rpc_id,
                "error": error_object(refusal, error_id),
            }
            self.settle_refusal(refusal, 200, error_id)
            headers = [("Content-Type", "application/json"), *self.answer_headers()]
            self.outlet.answer(200, headers, encode(message))
            return
        rendered = render(
            refusal,
            accept=self.accept,
            request_id=self.rpc_id,
            error_id=error_id,
            denial_status=self.books.denial_status,
        )
        self.settle_refusal(refusal, rendered.status, error_id)
        self.outlet.answer(
            rendered.status, [*self.answer_headers(), *rendered.headers], rendered.body
        )

    def settle_refusal(self, refusal: Refusal, http_status: int, error_id: str) -> None:
        """Write a refusal's outcome without answering (the stream is already open)."""
        event_type = refusal.shape.event_type
        failed = event_type == "RequestRefused" and refusal.reason in _FAILURES
        if failed or refusal.detail:
            # The client is shown the error_id and not the detail; here they stand together.
            log.emit(
                LogLevel.warn if failed else LogLevel.info,
                # Not "{reason}: {detail}": what follows "credentials:" would be taken for some.
                "{method}: {reason} ({error_id}): {detail}",
                method=metric_label(self.method) if self.method else "-",
                reason=refusal.reason.value,
                detail=refusal.detail or refusal.message,
                error_id=error_id,
                request_id=self.incoming.request_id,
                server=self.route.upstream.name if self.route else None,
            )
        self.settle(
            "failed" if failed else "denied",
            http_status,
            event_type=None if failed else event_type,
            reason=refusal.reason.value,
            error_id=error_id,
            # Whoever guards the trail must see what was tried, not only that it failed.
            cause=refusal.detail if event_type == "AuthFailure" else "",
        )

    def _event(
        self,
        event_type: str,
        status: str,
        reason: str | None = None,
        error_id: str | None = None,
        duration_ms: float | None = None,
        arguments: Mapping[str, Any] = NOTHING,
        details: Mapping[str, Any] = NOTHING,
    ) -> Event:
        incoming, principal, route = self.incoming, self.principal, self.route
        # In the order of the fields: by their names it takes twice as long, and this is done
        # three times for each request.
        return Event(
            event_type,
            self.books.clocks.wall(),
            None if principal is None else principal.id,
            None if principal is None else principal.provider,
            self.method or f"HTTP {incoming.method}",
            None if route is None else route.upstream.name,
            self.target,
            duration_ms,
            status,
            reason,
            error_id,
            incoming.request_id,
            self.session_digest,
            None,
            incoming.peer,
            arguments,
            details,
        )


_IN_BAND = frozenset({Reason.UNKNOWN_METHOD, Reason.INVALID_PARAMS})

_FAILURES = frozenset(
    {
        Reason.UPSTREAM_UNAVAILABLE,
        Reason.UPSTREAM_FAILED,
        Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_BUSY,
        Reason.UPSTREAM_CHANGED,
        Reason.ANSWER_TOO_LARGE,
        Reason.INTERNAL,
    }
)
"""Reasons where the request was allowed and then failed: a ``failed`` call, not a refusal."""
