"""The requests that run on one child: sent, answered, timed out, cancelled, failed with it."""

from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen
from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mcpguard.errors import METHOD_NOT_FOUND, Reason
from mcpguard.observe.events import Meter
from mcpguard.protocol.jsonrpc import Malformed, encode
from mcpguard.protocol.mcp import META_LOG_LEVEL
from mcpguard.upstream.child import Child
from mcpguard.upstream.correlation import (
    Answer,
    Broken,
    Correlator,
    Pending,
    Progress,
    Received,
    Saturated,
    ServerNotification,
    ServerRequest,
    Stray,
    SubscriptionNotice,
)
from mcpguard.upstream.ended_call import refused
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure

log = Logger()

STRAY = "mcp_guard_upstream_stray_messages_total"
BUSY_RETRY_SECS = 1.0

GATEWAY = "gateway:mcp-guard"
"""The principal key of what the gateway does on its own account, which is not metered."""


@frozen
class CallBounds:
    """How many requests one child may have, and how long each may take."""

    max_pending: int
    timeout_secs: float
    """Started again by each progress notification."""
    max_timeout_secs: float
    progress_interval: float
    """Seconds between two progress notifications of one request, in the long run."""
    progress_burst: int
    """How many of them may come at once."""
    max_message: int
    """Bytes of one message."""


@define
class Slots:
    """The concurrent requests of an upstream, over all its children."""

    limit: int
    used: int = 0

    def take(self) -> bool:
        """Take one; False when all are taken."""
        if self.used >= self.limit:
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """Give one back."""
        self.used -= 1


class Listener(Protocol):
    """Who hears what a child says on its own initiative."""

    def told(self, message: Message) -> None:
        """A notification that belongs to no request."""
        ...

    def asked(self, message: Message) -> None:
        """A request, pings too."""
        ...

    def over(self, failure: UpstreamFailure) -> None:
        """The child is gone; every request on it has failed."""
        ...


class _Waiting(Struct, frozen=True, eq=False):
    sink: CallSink
    slots: Slots | None


@define(eq=False)
class Conversation:
    """What is said to and by one child; is the child's `Owner`."""

    name: str
    """The upstream's."""
    clock: IReactorTime
    meter: Meter
    bounds: CallBounds
    child: Child
    listener: Listener | None = None
    last_used: float = field(init=False)
    _correlator: Correlator[_Waiting] = field(init=False)
    _deadline: IDelayedCall | None = field(init=False, default=None)
    _flushes: dict[int, IDelayedCall] = field(init=False, factory=dict)
    _unheeded: dict[str, float] = field(init=False, factory=dict)
    """Principals who gave up a request with log lines -> until when it may run all the same."""

    def __attrs_post_init__(self) -> None:
        self.last_used = self.clock.seconds()
        self._correlator = Correlator(
            max_pending=self.bounds.max_pending,
            timeout=self.bounds.timeout_secs,
            max_timeout=self.bounds.max_timeout_secs,
            progress_interval=self.bounds.progress_interval,
            progress_burst=self.bounds.progress_burst,
        )
        self.child.owner = self

    # -- what links use --------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a request can still be sent."""
        return self.child.alive

    @property
    def busy(self) -> bool:
        """Whether any request is waiting for its answer."""
        return len(self._correlator) > 0

    def request(self, outbound: Outbound, sink: CallSink, slots: Slots | None) -> Call:
        """Send a request; it occupies one of ``slots``. Failures reach the sink, maybe at once."""
        now = self.last_used = self.clock.seconds()
        if not self.alive:
            return self._refuse(sink, Reason.UPSTREAM_FAILED, "the child is gone")
        if slots is not None and not slots.take():
            return self._refuse(sink, Reason.UPSTREAM_BUSY, "max_concurrency is reached")
        refused: tuple[Reason, str] | None = None
        try:
            gid, message = self._correlator.open(outbound, _Waiting(sink, slots), now)
        except Saturated:
            refused = Reason.UPSTREAM_BUSY, "too many requests wait for this child"
        else:
            line = encode(message)
            if len(line) > self.bounds.max_message:
                refused = Reason.TOO_LARGE, f"a request of {len(line)} bytes"
            elif not self.child.send(line):
                refused = Reason.UPSTREAM_BUSY, "the child does not read fast enough"
            if refused is not None:
                self._correlator.cancel(gid, "")
        if refused is not None:
            if slots is not None:
                slots.give()
            return self._refuse(sink, *refused)
        pending = self._correlator.get(gid)
        if pending is not None:
            self._arm(pending.deadline)
        return RunningCall(self, gid)

    def cancel(self, gid: int, reason: str) -> None:
        """Give a running request up; nothing happens when it is over."""
        self._give_up(gid, reason, "cancelled")

    def hold(self, gid: int) -> None:
        """Stop the time for an answer to a running request."""
        self._correlator.hold(gid)

    def release(self, gid: int) -> None:
        """Start it anew after the last `hold` was taken back."""
        deadline = self._correlator.release(gid, self.clock.seconds())
        if deadline is not None:
            self._arm(deadline)

    def notify(self, method: str, params: Message | None) -> None:
        """Send a notification."""
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        self._send(message)

    def respond(self, message: Message) -> None:
        """Send the response to a request of the child."""
        self._send(message)

    def answer_ping(self, message: Message) -> bool:
        """Answer the child's request if it is a ping; False when it is none."""
        if message["method"] != "ping":
            return False
        self._send({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        return True

    def refuse_request(self, message: Message) -> None:
        """Tell the child that nobody here knows the method it asked for."""
        error = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        self._send({"jsonrpc": "2.0", "id": message["id"], "error": error})

    def stray(self, kind: str) -> None:
        """Count a message that was dropped; ``kind`` is one of a bounded set."""
        self.meter.count(STRAY, server=self.name, kind=kind)

    def log_reader(self) -> CallSink | None:
        """The sink of the one running stateless request that opted in to log messages.

        None when there are several, or when another principal has given such a request up: the
        child may not have heeded that, and still speak of it.
        """
        now = self.clock.seconds()
        self._unheeded = {key: end for key, end in self._unheeded.items() if end > now}
        readers = [one for one in self._correlator if _wants_log(one.outbound)]
        if len(readers) != 1 or self._unheeded.keys() - {readers[0].outbound.principal_key}:
            return None
        return readers[0].sink.sink

    # -- Owner: what the child says --------------------------------------------------------

    def message(self, message: Message) -> None:
        """Bring one message to whom it belongs."""
        now = self.last_used = self.clock.seconds()
        self._deliver(self._correlator.receive(message, now))

    def unreadable(self, problem: Malformed) -> None:
        """A line was dropped; if it was an answer, its request must not wait for it."""
        self.stray("unreadable")
        if problem.id is not None:
            broken = self._correlator.receive({"id": problem.id}, self.clock.seconds())
            if isinstance(broken, Broken):
                self._deliver(broken)

    def over(self, failure: UpstreamFailure) -> None:
        """The child is gone: fail what waits, then tell the listener."""
        for timer in (self._deadline, *self._flushes.values()):
            if timer is not None and timer.active():
                timer.cancel()
        self._flushes.clear()
        for pending in self._correlator.fail_all():
            self._end(pending, "failed", lambda sink: sink.failed(failure))
        if self.listener is not None:
            self.listener.over(failure)

    # -- inside ----------------------------------------------------------------------------

    def _deliver(self, found: Received[_Waiting]) -> None:
        if isinstance(found, Answer):
            self._answered(found)
        elif isinstance(found, Progress):
            if found.message is not None:
                found.pending.sink.sink.notification(found.message)
            elif found.due is not None:
                delay = max(0.0, found.due - self.clock.seconds())
                gid = found.pending.gid
                self._flushes[gid] = self.clock.callLater(delay, self._flush, gid)
        elif isinstance(found, SubscriptionNotice):
            found.pending.sink.sink.notification(found.message)
        elif isinstance(found, ServerNotification):
            if self.listener is not None:
                self.listener.told(found.message)
        elif isinstance(found, ServerRequest):
            if self.listener is not None:
                self.listener.asked(found.message)
        elif isinstance(found, Broken):
            failure = UpstreamFailure(Reason.UPSTREAM_FAILED, found.detail)
            self.stray("malformed")
            self._end(found.pending, "failed", lambda sink: sink.failed(failure))
        else:
            assert isinstance(found, Stray)
            self.stray(found.kind)

    def _answered(self, found: Answer[_Waiting]) -> None:
        sink = self._ended(found.pending, "error" if "error" in found.message else "success")
        try:
            if found.held is not None:
                sink.notification(found.held)
            sink.answer(found.message)
        except Exception:
            log.failure("{name}: an answer was not dealt with", name=self.name)

    def _end(
        self, pending: Pending[_Waiting], result: str, deliver: Callable[[CallSink], None]
    ) -> None:
        """Book the end of a request, then tell its sink; one sink's error harms no other."""
        sink = self._ended(pending, result)
        try:
            deliver(sink)
        except Exception:
            log.failure("{name}: the end of a request was not dealt with", name=self.name)

    def _ended(self, pending: Pending[_Waiting], result: str) -> CallSink:
        """Book the end of a request; gives the sink that is to be told."""
        if self._flushes:
            flush = self._flushes.pop(pending.gid, None)
            if flush is not None and flush.active():
                flush.cancel()
        waiting = pending.sink
        if waiting.slots is not None:
            waiting.slots.give()
        if pending.outbound.principal_key != GATEWAY:
            seconds = max(0.0, self.clock.seconds() - pending.opened_at)
            self.meter.upstream(self.name, "stdio", result, seconds)
        return waiting.sink

    def _give_up(self, gid: int, reason: str, result: str) -> None:
        pending = self._correlator.get(gid)
        if pending is None:
            return
        message = self._correlator.cancel(gid, reason)
        if message is not None:
            self._send(message)
        if _wants_log(pending.outbound):
            self._note_unheeded(pending)
        if result == "timeout":
            seconds = self.clock.seconds() - pending.opened_at
            failure = UpstreamFailure(Reason.UPSTREAM_TIMEOUT, f"no answer in {seconds:.1f} s")
            self._end(pending, result, lambda sink: sink.failed(failure))
        else:
            self._end(pending, result, lambda sink: None)

    def _note_unheeded(self, pending: Pending[_Waiting]) -> None:
        key = pending.outbound.principal_key
        end = min(pending.hard_deadline, self.clock.seconds() + self.bounds.max_timeout_secs)
        self._unheeded[key] = max(end, self._unheeded.get(key, end))

    def _send(self, message: Message) -> None:
        line = encode(message)
        self.last_used = self.clock.seconds()
        if len(line) > self.bounds.max_message or not self.child.send(line):
            self.stray("unsent")

    def _refuse(self, sink: CallSink, reason: Reason, detail: str) -> Call:
        wait = BUSY_RETRY_SECS if reason is Reason.UPSTREAM_BUSY else None
        return refused(sink, UpstreamFailure(reason, detail, wait))

    def _arm(self, deadline: float) -> None:
        """See to it that something happens at ``deadline``, with one timer for all requests."""
        if deadline == float("inf"):
            return
        if self._deadline is not None and self._deadline.active():
            # Mostly it comes early enough: every request gets the same time, so later ones end
            # later. But one sent while others expire is before those that still wait.
            if self._deadline.getTime() <= deadline:
                return
            self._deadline.cancel()
        delay = max(0.0, deadline - self.clock.seconds())
        self._deadline = self.clock.callLater(delay, self._expire)

    def _expire(self) -> None:
        for pending in self._correlator.overdue(self.clock.seconds()):
            self._give_up(pending.gid, "timeout", "timeout")
        self._arm(self._correlator.next_deadline())

    def _flush(self, gid: int) -> None:
        self._flushes.pop(gid, None)
        pending = self._correlator.get(gid)
        message = self._correlator.flush(gid, self.clock.seconds())
        if pending is not None and message is not None:
            pending.sink.sink.notification(message)


class RunningCall(Struct, frozen=True, eq=False):
    """A request that runs on a conversation."""

    conversation: Conversation
    gid: int

    def cancel(self, reason: str) -> None:
        """Stop it: the child is told by notification, the sink hears nothing more."""
        self.conversation.cancel(self.gid, reason)

    def hold(self) -> None:
        """See `link.Call`."""
        self.conversation.hold(self.gid)

    def release(self) -> None:
        """See `link.Call`."""
        self.conversation.release(self.gid)


def _wants_log(outbound: Outbound) -> bool:
    meta = (outbound.params or {}).get("_meta")
    return isinstance(meta, dict) and META_LOG_LEVEL in meta
