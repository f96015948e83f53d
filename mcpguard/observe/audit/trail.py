"""The audit trail: told of everything that happens, decides nothing (product: audit)."""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.config.settings import AuditSettings
from mcpguard.errors import ConfigurationError
from mcpguard.observe.audit.feed import Feed, FeedBounds
from mcpguard.observe.audit.files import AuditFile
from mcpguard.observe.audit.outputs import Output, Sink, StreamOutput
from mcpguard.observe.audit.rendering import Renderer
from mcpguard.observe.audit.thread import ThreadedSink, Worker
from mcpguard.observe.audit.values import LineBounds, Values
from mcpguard.observe.events import ALWAYS_WRITTEN, SYSTEM_TYPES, Event, Meter
from mcpguard.observe.redaction import Redactor

_WITHOUT_VALUES = Event._fields.index("arguments")

_URGENT = ALWAYS_WRITTEN | SYSTEM_TYPES
"""Written at once instead of with the next batch."""


@frozen
class AuditBounds:
    """Every limit of the trail."""

    line: LineBounds
    feed: FeedBounds
    unrendered: int
    """Ordinary events that wait to be rendered together: in a row it takes half of the time."""
    stop_secs: float
    """How long `AuditTrail.stop` waits for an output that does not take its lines."""


AUDIT_BOUNDS = AuditBounds(
    line=LineBounds(text=2048, depth=4, items=64, line=32_768),
    feed=FeedBounds(
        batch_bytes=65_536,
        batch_secs=1.0,
        held_bytes=8_388_608,
        retry_secs=1.0,
        retry_limit_secs=30.0,
    ),
    unrendered=100,
    stop_secs=5.0,
)
"""What the gateway uses."""


@define(eq=False)
class AuditTrail:
    """Renders each event once and hands the line to every output; implements `Recorder`.

    Nothing here blocks: each output has a worker of its own, made by ``spawn`` from a name.
    Raises `ConfigurationError` for a redaction rule that is not an RE2 expression.
    """

    settings: AuditSettings
    clock: IReactorTime = field(kw_only=True)
    wall: Callable[[], float] = field(kw_only=True)
    """Unix seconds."""
    meter: Meter = field(kw_only=True)
    spawn: Callable[[str], Worker] = field(kw_only=True)
    stdout: int = field(kw_only=True)
    """The file descriptor that ``[audit] stdout`` means."""
    bounds: AuditBounds = field(kw_only=True)
    relay: Sink | None = field(kw_only=True, default=None)
    """Takes the lines of this process in place of the outputs, which another process has."""
    _log: Logger = field(init=False, factory=Logger)
    _renderer: Renderer = field(init=False)
    _wanted: frozenset[str] | None = field(init=False, default=None)
    _feeds: tuple[Feed, ...] = field(init=False, default=())
    _unrendered: list[tuple[Any, ...]] = field(init=False, factory=list)
    """Events without what they may hold of a caller's values, and none with long words of a
    caller's: both could be megabytes."""
    _due: IDelayedCall | None = field(init=False, default=None)
    _recorded: frozenset[str] | None = field(init=False, default=None)
    """The arguments that are recorded; None: all."""
    _workers: list[Worker] = field(init=False, factory=list)
    _file: AuditFile | None = field(init=False, default=None)
    _tidier: Worker | None = field(init=False, default=None)
    _tidying: bool = field(init=False, default=False)
    _tidy_again: bool = field(init=False, default=False)
    _stopping: Deferred[None] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        rules = [(r.name, r.pattern, r.replacement) for r in self.settings.redaction_rules]
        values = Values(self.settings.log_arguments, Redactor(rules), self.bounds.line)
        self._renderer = Renderer(values)
        named = self.settings.log_arguments
        if named is not True:
            self._recorded = frozenset(named or ())
        if self.settings.events is not None:
            self._wanted = frozenset(self.settings.events) | ALWAYS_WRITTEN

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is written to: any of ``file`` and ``stdout``."""
        return tuple(feed.name for feed in self._feeds)

    def start(self) -> None:
        """Open the outputs; raises `ConfigurationError` when the audit file cannot be written."""
        if not self.settings.enabled:
            return
        feeds: list[Feed] = []
        if self.relay is not None:
            if self.settings.file is not None or self.settings.stdout:
                self._feeds = (self._feed("parent", self.relay),)
            return
        if self.settings.file is not None:
            rotation = self.settings.rotation
            file = AuditFile(self.settings.file, rotation, self.wall, self.bounds.feed.batch_bytes)
            try:
                file.open()
            except OSError as error:
                reason = error.strerror
                if not self.settings.file.parent.is_dir():
                    reason = "its directory does not exist"
                raise ConfigurationError(
                    (f"audit.file: cannot write {self.settings.file}: {reason}",)
                ) from error
            self._file = file
            feeds.append(self._feed("file", self._threaded("file", file)))
            if rotation.enabled:
                self._tidier = self.spawn("audit-backups")
                self._workers.append(self._tidier)
                self._tidy()
        if self.settings.stdout:
            stdout = self._threaded("stdout", StreamOutput(self.stdout))
            feeds.append(self._feed("stdout", stdout))
        if not feeds:
            self._log.warn("audit is enabled but goes nowhere: set audit.file or audit.stdout")
        self._feeds = tuple(feeds)

    def record(self, event: Event) -> None:
        """Take one event; never raises, never blocks."""
        feeds, wanted, event_type = self._feeds, self._wanted, event.event_type
        if not feeds or (wanted is not None and event_type not in wanted):
            return
        arguments = event.arguments
        if (
            event_type in _URGENT
            or (arguments and (self._recorded is None or not self._recorded.isdisjoint(arguments)))
            or event.details
            or self._is_long(event)
            or self._stopping is not None
        ):
            # In the order of the events, and these not later than now.
            if self._unrendered:
                self._render()
            self._put(event, urgent=event_type in _URGENT)
            return
        self._unrendered.append(event[:_WITHOUT_VALUES])
        if len(self._unrendered) >= self.bounds.unrendered:
            self._render()
        elif self._due is None:
            self._due = self.clock.callLater(self.bounds.feed.batch_secs, self._render_due)

    def _is_long(self, event: Event) -> bool:
        """Whether it holds more of a caller's words than its line will."""
        most, method, tool = self.bounds.line.text, event.method, event.tool
        return (tool is not None and len(tool) > most) or (
            method is not None and len(method) > most
        )

    def _render_due(self) -> None:
        self._due = None
        self._render()
        for feed in self._feeds:
            feed.flush()

    def _render(self) -> None:
        """Render what waits; the lines go with the next batch."""
        waiting, self._unrendered = self._unrendered, []
        for fields in waiting:
            self._put(Event(*fields), urgent=False)

    def _put(self, event: Event, *, urgent: bool) -> None:
        try:
            line = self._renderer.line(event)
            for feed in self._feeds:
                feed.put(line, urgent=urgent)
        except Exception:
            self._log.failure("an audit event could not be recorded")
            for feed in self._feeds:
                feed.lose(1)

    def take(self, lines: Sequence[bytes]) -> int:
        """Take lines that another process has rendered, to be written at once.

        Returns how many were taken, counted from the first: the others are to be offered again,
        because no output has room for them. One that alone has none loses them, as it does when
        this process records.
        """
        feeds = self._feeds
        if not feeds:
            # The other process follows other settings than this one.
            self.meter.count("mcp_guard_audit_dropped_total", len(lines))
            return len(lines)
        taken = 0
        for line in lines:
            if not any(feed.has_room(len(line)) for feed in feeds):
                break
            for feed in feeds:
                feed.put(line, urgent=False)
            taken += 1
        for feed in feeds:
            feed.flush()
        return taken

    def reopen(self) -> None:
        """Open the audit file anew, after something else has moved it (SIGUSR1, logrotate)."""
        if self._file is not None:
            self._render()
            self._file.ask_reopen()
            self._feeds[0].write()

    def stop(self) -> Deferred[None]:
        """Write and sync what is left; fires when over, after ``stop_secs`` at the latest."""
        if self._stopping is None:
            self._stopping = stopping = Deferred[None]()
            self._render()
            if self._due is not None:
                self._due.cancel()
                self._due = None
            deadline = self.clock.callLater(self.bounds.stop_secs, self._give_up)

            def over(_: object) -> None:
                if deadline.active():
                    deadline.cancel()
                for worker in self._workers:
                    worker.stop()
                stopping.callback(None)

            DeferredList([feed.stop() for feed in self._feeds]).addCallback(over)
        return self._stopping

    def _threaded(self, name: str, output: Output) -> Sink:
        worker = self.spawn(f"audit-{name}")
        self._workers.append(worker)
        return ThreadedSink(output, worker)

    def _feed(self, name: str, sink: Sink) -> Feed:
        return Feed(
            name,
            sink,
            self.clock,
            self.bounds.feed,
            lost_line=self._lost_line,
            on_lost=lambda count: self.meter.count("mcp_guard_audit_dropped_total", count),
            on_rotated=self._tidy,
            log=self._log,
        )

    def _lost_line(self, output: str, lost: int) -> bytes:
        details = {"output": output, "lost": lost}
        return self._renderer.line(Event("AuditLost", self.wall(), details=details))

    def _tidy(self) -> None:
        """Compress and prune, once at a time, on a thread that no line waits for."""
        if self._file is None or self._tidier is None or self._stopping is not None:
            return
        if self._tidying:
            self._tidy_again = True
            return
        self._tidying = True
        self._tidier.run(self._file.tidy).addBoth(self._tidied)

    def _tidied(self, problems: tuple[str, ...] | Failure) -> None:
        self._tidying = False
        if isinstance(problems, Failure):
            self._log.failure("audit backups: unexpected", failure=problems)
        else:
            for problem in problems:
                self._log.error("audit backups: {problem}", problem=problem)
        if self._tidy_again:
            self._tidy_again = False
            self._tidy()

    def _give_up(self) -> None:
        for feed in self._feeds:
            lost = feed.abandon()
            if lost:
                self._log.critical(
                    "audit {output}: {lost} events were not written before the end",
                    output=feed.name,
                    lost=lost,
                )
