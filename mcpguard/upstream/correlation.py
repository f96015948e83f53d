"""The translation between the clients' ids and the gateway's, one `Correlator` for each link.

No client id, progress token or subscription id ever reaches a server: two clients that both use
id 1 would otherwise receive each other's answers. Pure: time is an argument, nothing is sent here.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from mcpguard.protocol.mcp import META_SUBSCRIPTION_ID
from mcpguard.upstream.link import Id, Message, Outbound

LISTEN = "subscriptions/listen"
PROGRESS = "notifications/progress"
CANCELLED = "notifications/cancelled"

PROGRESS_INTERVAL = 0.05
PROGRESS_BURST = 20
"""What every upstream uses: 20 progress notifications a second for each request."""

Sink = TypeVar("Sink")


class Saturated(Exception):
    """As many requests are waiting as the link may have; nothing was opened."""


class Pending(Struct, Generic[Sink], eq=False):
    """One request that waits for its answer."""

    gid: int
    """The id it has on the server's side."""
    outbound: Outbound
    sink: Sink
    opened_at: float
    """Seconds of the clock whose reading was passed to `Correlator.open`."""
    deadline: float
    """When to give up; moved on by progress, never past ``hard_deadline``."""
    hard_deadline: float
    token: Id | None = None
    """The progress token the client gave, None when it gave none."""
    token_sent: bool = False
    progress_due: float = float("-inf")
    """When the next progress would come at an even pace (the rate meter's state)."""
    held: Message | None = None
    """The newest progress that came too soon after the one before."""
    holds: int = 0
    """How many wait for a person in its course; while any does, only ``hard_deadline`` counts."""


class Answer(Struct, Generic[Sink], frozen=True):
    """The response to a request, under the client's id; the request is over."""

    pending: Pending[Sink]
    message: Message
    held: Message | None = None
    """Progress held back by the rate cap; deliver it first."""


class Broken(Struct, Generic[Sink], frozen=True):
    """A response that names a request but is none by JSON-RPC; the request is over."""

    pending: Pending[Sink]
    detail: str


class Progress(Struct, Generic[Sink], frozen=True):
    """Progress of a request, under the client's token."""

    pending: Pending[Sink]
    message: Message | None
    """None while the rate cap holds it back."""
    due: float | None = None
    """Call `Correlator.flush` at this time (seconds); None when a call is already due."""


class SubscriptionNotice(Struct, Generic[Sink], frozen=True):
    """A notification on a ``subscriptions/listen`` stream, under the client's id of it."""

    pending: Pending[Sink]
    message: Message


class ServerRequest(Struct, frozen=True):
    """A request of the server, its id untouched: the session layer maps it."""

    message: Message


class ServerNotification(Struct, frozen=True):
    """A notification that names no request of ours, untouched."""

    message: Message


class Stray(Struct, frozen=True):
    """What belongs to nothing: to be dropped and counted."""

    kind: str
    """A bounded label: ``late``, ``unknown``, ``progress``, ``subscription``, ``unaddressed``
    or ``malformed``."""


Received = (
    Answer[Sink]
    | Broken[Sink]
    | Progress[Sink]
    | SubscriptionNotice[Sink]
    | ServerRequest
    | ServerNotification
    | Stray
)


class Correlator(Generic[Sink]):
    """The waiting requests of one link, by the gateway's own ids.

    ``timeout`` and ``max_timeout`` (seconds) set each request's deadlines. Progress of one request
    passes in bursts of up to ``progress_burst`` notifications and at one in each
    ``progress_interval`` (seconds) in the long run; of what comes faster the newest is kept.
    """

    def __init__(
        self,
        *,
        max_pending: int,
        timeout: float,
        max_timeout: float,
        progress_interval: float,
        progress_burst: int,
    ) -> None:
        self._max_pending = max_pending
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._progress_interval = progress_interval
        # A trifle more than the burst needs: sums of floats do not come out even.
        self._progress_slack = (progress_burst - 1 + 1e-6) * progress_interval
        self._pending: dict[int, Pending[Sink]] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Pending[Sink]]:
        return iter(tuple(self._pending.values()))

    def get(self, gid: int) -> Pending[Sink] | None:
        """The waiting request with the gateway's id ``gid``."""
        return self._pending.get(gid)

    def open(self, outbound: Outbound, sink: Sink, now: float) -> tuple[int, Message]:
        """Register a request; returns its gateway id and the message to send.

        Raises `Saturated` when ``max_pending`` requests wait already.
        """
        if len(self._pending) >= self._max_pending:
            raise Saturated
        gid = self._next
        self._next += 1
        token, params = None, outbound.params
        if params is not None and "_meta" in params:
            token, params = _swap_token(params, gid)
        hard = float("inf") if outbound.endless else now + self._max_timeout
        # An endless one has no deadline once it has begun, but must begin in time.
        soft = min(hard, now + self._timeout)
        self._pending[gid] = Pending(
            gid, outbound, sink, now, soft, hard, token, params is not outbound.params
        )
        message: Message = {"jsonrpc": "2.0", "id": gid, "method": outbound.method}
        if params is not None:
            message["params"] = params
        return gid, message

    def cancel(self, gid: int, reason: str) -> Message | None:
        """Give a request up; returns the notification that tells the server, if any.

        None when nothing waits under ``gid``, and for ``initialize``, which must not be cancelled
        (MCP lifecycle). A reply that still comes is a `Stray`.
        """
        pending = self._pending.pop(gid, None)
        if pending is None or pending.outbound.method == "initialize":
            return None
        params: Message = {"requestId": gid}
        if reason:
            params["reason"] = reason
        return {"jsonrpc": "2.0", "method": CANCELLED, "params": params}

    def hold(self, gid: int) -> None:
        """Stop the time for an answer to ``gid`` (`link.Call.hold`); counts."""
        pending = self._pending.get(gid)
        if pending is not None:
            pending.holds += 1
            pending.deadline = pending.hard_deadline

    def release(self, gid: int, now: float) -> float | None:
        """Take one `hold` back; the new deadline when it was the last, else None."""
        pending = self._pending.get(gid)
        if pending is None or pending.holds == 0:
            return None
        pending.holds -= 1
        if pending.holds:
            return None
        self._start_anew(pending, now)
        return pending.deadline

    def _start_anew(self, pending: Pending[Sink], now: float) -> None:
        if pending.deadline < float("inf") and not pending.holds:
            pending.deadline = min(pending.hard_deadline, now + self._timeout)

    def fail_all(self) -> list[Pending[Sink]]:
        """Forget every waiting request and return them, oldest first."""
        pending = list(self._pending.values())
        self._pending.clear()
        return pending

    def next_deadline(self) -> float:
        """The earliest deadline; infinity when there is none."""
        return min((one.deadline for one in self._pending.values()), default=float("inf"))

    def overdue(self, now: float) -> list[Pending[Sink]]:
        """The requests whose deadline has passed; they still wait until cancelled."""
        return [one for one in self._pending.values() if one.deadline <= now]

    def receive(self, message: Message, now: float) -> Received[Sink]:
        """Say what a message of the server is, by its shape, ids restored."""
        if "method" in message:
            return self._receive_call(message, now)
        if "id" in message:
            gid = _own(message["id"])
            if gid is not None:
                return self.answered(gid, message)
            # An error with a null id: the server could not read something we sent.
            return Stray("unaddressed" if message["id"] is None else "unknown")
        return Stray("malformed")

    def flush(self, gid: int, now: float) -> Message | None:
        """The progress held back for ``gid``, now due; None when there is none."""
        pending = self._pending.get(gid)
        if pending is None or pending.held is None:
            return None
        message, pending.held = pending.held, None
        self._spend_progress(pending, now)
        return message

    def _spend_progress(self, pending: Pending[Sink], now: float) -> None:
        # The generic cell rate algorithm: one number instead of a bucket.
        pending.progress_due = max(pending.progress_due, now) + self._progress_interval

    def answered(self, gid: int, message: Message) -> Received[Sink]:
        """The same for a response whose id is ``gid``."""
        pending = self._pending.pop(gid, None)
        if pending is None:
            return Stray("late" if 0 < gid < self._next else "unknown")
        failed = "error" in message
        if ("result" in message) == failed:
            return Broken(pending, "a response with both or neither of result and error")
        if not isinstance(message["error" if failed else "result"], dict):
            return Broken(pending, "a response whose result or error is not an object")
        restored = {**message, "id": pending.outbound.id}
        if pending.outbound.method == LISTEN and not failed:
            restored["result"] = _restore_subscription(message["result"], pending.outbound.id)
        return Answer(pending, restored, pending.held)

    def _receive_call(self, message: Message, now: float) -> Received[Sink]:
        method, params = message["method"], message.get("params")
        well_formed = (
            isinstance(method, str)
            and "result" not in message
            and "error" not in message
            and ("params" not in message or isinstance(params, dict))
        )
        if not well_formed:
            return Stray("malformed")
        if "id" in message:
            return ServerRequest(message) if _is_id(message["id"]) else Stray("malformed")
        if params is None:
            return ServerNotification(message)
        if method == PROGRESS:
            return self._receive_progress(message, params, now)
        if method == CANCELLED:
            return self._receive_cancelled(message, params)
        meta = params.get("_meta")
        if isinstance(meta, dict) and META_SUBSCRIPTION_ID in meta:
            pending = self._waiting(meta[META_SUBSCRIPTION_ID])
            if pending is None or pending.outbound.method != LISTEN:
                return Stray("subscription")
            if pending.outbound.endless:
                pending.deadline = pending.hard_deadline
            restored = _restore_subscription(params, pending.outbound.id)
            return SubscriptionNotice(pending, {**message, "params": restored})
        return ServerNotification(message)

    def _receive_progress(self, message: Message, params: Message, now: float) -> Received[Sink]:
        pending = self._waiting(params.get("progressToken"))
        if pending is None or not pending.token_sent:
            return Stray("progress")
        self._start_anew(pending, now)
        restored = {**message, "params": {**params, "progressToken": pending.token}}
        due = pending.progress_due - self._progress_slack
        if now >= due and pending.held is None:
            self._spend_progress(pending, now)
            return Progress(pending, restored)
        scheduled = pending.held is not None
        pending.held = restored
        return Progress(pending, None, None if scheduled else due)

    def _receive_cancelled(self, message: Message, params: Message) -> Received[Sink]:
        pending = self._waiting(params.get("requestId"))
        if pending is None or pending.outbound.method != LISTEN:
            # A handshake-era server takes one of its own requests back, under its own id.
            return ServerNotification(message)
        # Over stdio a stateless server ends a listen this way (2026-07-28); over HTTP the client
        # is owed a normal result, so it gets one.
        del self._pending[pending.gid]
        result = {
            "resultType": "complete",
            "_meta": {META_SUBSCRIPTION_ID: pending.outbound.id},
        }
        answer = {"jsonrpc": "2.0", "id": pending.outbound.id, "result": result}
        return Answer(pending, answer)

    def _waiting(self, key: object) -> Pending[Sink] | None:
        gid = _own(key)
        return None if gid is None else self._pending.get(gid)


def _own(key: object) -> int | None:
    """``key`` as an id the gateway may have given; True and 1.0 equal 1 in a dict but are not."""
    return key if type(key) is int else None


def _is_id(key: object) -> bool:
    return type(key) in (int, str)


def _swap_token(params: Message, gid: int) -> tuple[Id | None, Message]:
    """The client's progress token, and params with ``gid`` in its place; copies only if it must."""
    meta = params["_meta"]
    if not isinstance(meta, dict) or "progressToken" not in meta:
        return None, params
    return meta["progressToken"], {**params, "_meta": {**meta, "progressToken": gid}}


def _restore_subscription(holder: Message, client_id: Id) -> Message:
    """A copy of params or result whose ``_meta`` names the subscription as the client does."""
    meta = holder.get("_meta")
    if not isinstance(meta, dict) or META_SUBSCRIPTION_ID not in meta:
        return holder
    return {**holder, "_meta": {**meta, META_SUBSCRIPTION_ID: client_id}}
