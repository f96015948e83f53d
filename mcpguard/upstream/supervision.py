"""Every child of one upstream: who may be started and when, who is idle, how each one ended."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.policy.buckets import Level, Rate, take
from mcpguard.upstream.chatter import Chatter, cleaner, margin_for
from mcpguard.upstream.child import Child, ChildBounds, Exit
from mcpguard.upstream.conversation import CallBounds, Conversation, Listener
from mcpguard.upstream.crashes import CrashBook
from mcpguard.upstream.guarding import Wardship
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.spawning import Program, SignalGroup, spawn

log = Logger()

RESTARTS = "mcp_guard_upstream_restarts_total"
FULL_RETRY_SECS = 5.0


class Seat(Protocol):
    """Something that holds a child and can do without it when nothing happens."""

    principal_key: str

    def idle_since(self) -> float | None:
        """When it was last used (seconds of the reactor's clock); None while it is in use."""
        ...

    def evict(self) -> None:
        """Stop its child, which is idle."""
        ...


@frozen
class SupervisionBounds:
    """How many children there may be, and how fast they may come."""

    max_children: int
    """Children that hold a seat (probes do not)."""
    spawn_rate: Rate
    idle_secs: float
    """A seat idle so long loses its child."""
    evictable_secs: float
    """At the limit, a seat idle so long makes room for another."""
    sweep_secs: float
    chatter_rate: Rate
    chatter_line: int
    child: ChildBounds
    calls: CallBounds


@frozen(eq=False)
class _Life:
    """One running child."""

    conversation: Conversation
    key: str
    principal_key: str
    born_at: float


@define(eq=False)
class Supervision:
    """Starts the children of one upstream, and keeps the books of them."""

    name: str
    program: Program
    reactor: Any
    """IReactorTime and IReactorProcess."""
    meter: Meter
    recorder: Recorder
    crashes: CrashBook
    bounds: SupervisionBounds
    signal_group: SignalGroup
    on_loop: Callable[[str], None]
    """Told the key whose children begin to crash again and again."""
    _wardship: Wardship = field(init=False)
    _lives: dict[Child, _Life] = field(init=False, factory=dict)
    _blamed: set[Child] = field(init=False, factory=set)
    _level: Level | None = field(init=False, default=None)
    _sweeping: LoopingCall | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)
    _seated: dict[Child, Seat] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._wardship = Wardship(self.reactor, self.reactor, self.bounds.child.grace_secs)

    @property
    def child_count(self) -> int:
        """Child processes that are running, those on their way out included."""
        return len(self._lives)

    def spawn(
        self, key: str, principal_key: str, listener: Listener | None, seat: Seat | None
    ) -> Conversation:
        """Start a child; raises `UpstreamFailure` when there may be none now.

        ``key`` says whose crashes count together. ``seat`` holds the child; None is a probe.
        """
        now = self.reactor.seconds()
        if self._stopped:
            raise UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        wait = self.crashes.wait(key, now)
        if wait > 0.0:
            detail = "crash loop" if self.crashes.looping(key) else "pause after a crash"
            raise UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, detail, wait)
        if seat is not None:
            self._make_room(seat, now)
        self._level, wait = take(self.bounds.spawn_rate, self._level, now, 1.0)
        if wait > 0.0:
            raise UpstreamFailure(Reason.UPSTREAM_BUSY, "children are started too fast", wait)
        child = Child(self.name, self.reactor, self.bounds.child, self._chatter, self.signal_group)
        conversation = Conversation(
            self.name, self.reactor, self.meter, self.bounds.calls, child, listener
        )
        try:
            spawn(self.reactor, self.program, child)
        except UpstreamFailure as failure:
            log.error("{name}: {why}", name=self.name, why=failure.detail)
            self._crashed(key, principal_key, now, 0.0)
            raise
        if self.crashes.of(key).restart():
            self.meter.count(RESTARTS, server=self.name)
        self._lives[child] = _Life(conversation, key, principal_key, now)
        if seat is not None:
            self._seated[child] = seat
        self._wardship.born(child.pid)
        self._record("spawned", principal_key, pid=child.pid)
        child.ended().addCallback(self._ended, child).addErrback(
            lambda failure: log.failure("the end of a child", failure=failure)
        )
        self._sweep_regularly()
        return conversation

    def dismiss(self, conversation: Conversation) -> Deferred[Exit]:
        """Stop a child that did nothing wrong; it gives its seat up at once."""
        self._seated.pop(conversation.child, None)
        return conversation.child.stop()

    def reject(self, conversation: Conversation) -> Deferred[Exit]:
        """Stop a child that failed to do what it is for; its end counts as a crash."""
        self._blamed.add(conversation.child)
        return self.dismiss(conversation)

    def stop(self) -> Deferred[None]:
        """Stop every child; fires when no process is left."""
        self._stopped = True
        if self._sweeping is not None and self._sweeping.running:
            self._sweeping.stop()
        endings = [self.dismiss(life.conversation) for life in list(self._lives.values())]
        done: Deferred[None] = DeferredList(endings).addCallback(lambda _: self._wardship.stop())
        return done

    # -- room ------------------------------------------------------------------------------

    def _make_room(self, seat: Seat, now: float) -> None:
        """Free a seat if all are taken; raises `UpstreamFailure` when none can be."""
        bounds = self.bounds
        if len(self._seated) >= bounds.max_children:
            self._evict_for(seat, now)
        # Children on their way out still cost memory; a stubborn one takes a few seconds.
        full = len(self._seated) >= bounds.max_children
        if full or len(self._lives) >= 2 * bounds.max_children:
            raise UpstreamFailure(Reason.UPSTREAM_BUSY, "max_children is reached", FULL_RETRY_SECS)

    def _evict_for(self, newcomer: Seat, now: float) -> None:
        """Evict what is idle for long: the newcomer's own first, then the longest idle."""
        idle: list[tuple[bool, float, Seat]] = []
        for seat in self._seated.values():
            since = seat.idle_since()
            # Or one caller could push the others out between two of their calls.
            if since is not None and now - since >= self.bounds.evictable_secs:
                idle.append((seat.principal_key != newcomer.principal_key, since, seat))
        if idle:
            _, _, seat = min(idle, key=lambda one: one[:2])
            seat.evict()

    def _sweep_regularly(self) -> None:
        if self._sweeping is None:
            self._sweeping = LoopingCall(self._sweep)
            self._sweeping.clock = self.reactor
        if not self._sweeping.running and not self._stopped:
            self._sweeping.start(self.bounds.sweep_secs, now=False)

    def _sweep(self) -> None:
        now = self.reactor.seconds()
        for seat in list(self._seated.values()):
            since = seat.idle_since()
            if since is not None and now - since >= self.bounds.idle_secs:
                seat.evict()
        if not self._lives and self._sweeping is not None:
            self._sweeping.stop()

    # -- books -----------------------------------------------------------------------------

    def _ended(self, exit: Exit, child: Child) -> None:
        life = self._lives.pop(child)
        self._seated.pop(child, None)
        self._wardship.gone(child.pid)
        now = self.reactor.seconds()
        lived = now - life.born_at
        crashed = not exit.wanted or child in self._blamed
        self._blamed.discard(child)
        self._record(
            "crashed" if crashed else "exited",
            life.principal_key,
            pid=child.pid,
            exit=str(exit),
            lived_secs=round(lived, 3),
        )
        if crashed:
            log.warn("{name}: child {pid} ended: {exit}", name=self.name, pid=child.pid, exit=exit)
            self._crashed(life.key, life.principal_key, now, lived)
        elif lived >= self.crashes.bounds.healthy_secs:
            self.crashes.of(life.key).healthy()

    def _crashed(self, key: str, principal_key: str, now: float, lived: float) -> None:
        if self.crashes.of(key).crashed(now, lived):
            log.error("{name}: children crash again and again", name=self.name)
            self._record("crash_loop", principal_key)
            self.on_loop(key)

    def _record(self, status: str, principal_key: str, **details: Any) -> None:
        provider, _, identity = principal_key.partition(":")
        known: Mapping[str, Any] = details
        self.recorder.record(
            Event(
                event_type="UpstreamEvent",
                timestamp=self.reactor.seconds(),
                identity_id=identity or None,
                provider=provider or None,
                server=self.name,
                status=status,
                details=known,
            )
        )

    def _chatter(self, stream: str) -> Chatter:
        def emit(line: str) -> None:
            log.info("{name} {stream}: {line}", name=self.name, stream=stream, line=line)

        secrets, bounds = self.program.secrets, self.bounds
        return Chatter(
            emit,
            cleaner(secrets),
            bounds.chatter_line,
            bounds.chatter_rate,
            margin=margin_for(secrets),
        )
