"""The queue before one output: batches lines, holds them while the output fails, counts losses."""

from collections import deque
from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.observe.audit.outputs import Appended, Sink


@frozen
class FeedBounds:
    """How long and how much a feed waits and holds."""

    batch_bytes: int
    """Bytes that are written at once."""
    batch_secs: float
    """How long a line that is not urgent waits for others."""
    held_bytes: int
    """Bytes held in memory while the output is slow or fails; what comes on top is lost."""
    retry_secs: float
    """Pause after the first failure; doubled with each, up to `retry_limit_secs`."""
    retry_limit_secs: float


@define(eq=False)
class Feed:
    """Lines on their way to one output; lives on the reactor's thread."""

    name: str
    """``file``, ``stdout`` or ``parent``, for the log and the event about losses."""
    sink: Sink
    clock: IReactorTime
    bounds: FeedBounds
    lost_line: Callable[[str, int], bytes]
    """Renders the event that says how many lines of this output were lost."""
    on_lost: Callable[[int], None]
    """Told of every loss when it happens."""
    on_rotated: Callable[[], None]
    log: Logger
    _waiting: deque[bytes] = field(init=False, factory=deque)
    _held: int = field(init=False, default=0)
    _urgent: bool = field(init=False, default=False)
    """True while an urgent line waits that no batch has taken along yet."""
    _busy: bool = field(init=False, default=False)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _lost: int = field(init=False, default=0)
    """Lines lost since the last event about it."""
    _failures: int = field(init=False, default=0)
    """Failed attempts in a row."""
    _ending: Deferred[None] | None = field(init=False, default=None)
    _ended: bool = field(init=False, default=False)

    def put(self, line: bytes, *, urgent: bool) -> None:
        """Take one line; it is written with the next batch, or at once when urgent."""
        bounds = self.bounds
        held = self._held + len(line)
        if held > bounds.held_bytes or self._ended:
            self.lose(1)
            return
        self._waiting.append(line)
        self._held = held
        if urgent or held >= bounds.batch_bytes:
            self.flush()
        elif self._timer is None and not self._busy:
            self._timer = self.clock.callLater(bounds.batch_secs, self._due)

    def flush(self) -> None:
        """Have what waits written soon: at once, or after what is under way."""
        if self._waiting:
            self._urgent = True
            if not self._failures:
                self.write()

    def has_room(self, size: int) -> bool:
        """Tell whether a line of so many bytes would be taken."""
        return not self._ended and self._held + size <= self.bounds.held_bytes

    def lose(self, count: int) -> None:
        """Count lines that could not be taken; the trail says so once it can be written to."""
        self._lost += count
        self.on_lost(count)

    def write(self) -> None:
        """Give the output everything that waits, one batch at a time."""
        if self._busy or self._ended:
            return
        self._stop_timer()
        self._busy = True
        batch: list[bytes] = []
        size = 0
        for line in self._waiting:
            if batch and size + len(line) > self.bounds.batch_bytes:
                break
            batch.append(line)
            size += len(line)
        else:
            self._urgent = False
        self.sink.append(batch).addCallbacks(self._wrote, self._broke)

    def stop(self) -> Deferred[None]:
        """Write what is left, make it durable, let go; fires when over, also if that failed."""
        if self._ending is None:
            self._ending = Deferred()
            if not self._busy:
                self.write()
        return self._ending

    def abandon(self) -> int:
        """Stop waiting for the output; returns the number of lines that are lost by it."""
        left = len(self._waiting)
        self._waiting.clear()
        self._held = 0
        self._stop_timer()
        if left:
            self.on_lost(left)
        if not self._ended:
            self._ended = True
            if self._ending is not None:
                self._ending.callback(None)
        return left

    def _due(self) -> None:
        self._timer = None
        self.write()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wrote(self, appended: Appended) -> None:
        self._busy = False
        if self._ended:
            return
        for _ in range(appended.taken):
            self._held -= len(self._waiting.popleft())
        for note in appended.notes:
            self.log.error("audit {output}: {note}", output=self.name, note=note)
        if appended.rotated:
            self.on_rotated()
        if appended.error is not None:
            self._failed(appended.error.strerror or str(appended.error))
            return
        if self._failures:
            self._failures = 0
            self.log.info("audit {output}: written again", output=self.name)
        if self._lost:
            line = self.lost_line(self.name, self._lost)
            self._lost = 0
            self._waiting.append(line)
            self._held += len(line)
            self._urgent = True
        self._go_on()

    def _go_on(self) -> None:
        if self._ending is not None:
            if self._waiting:
                self.write()
            else:
                self._close()
        elif self._urgent or self._held >= self.bounds.batch_bytes:
            self.write()
        elif self._waiting:
            self._timer = self.clock.callLater(self.bounds.batch_secs, self._due)

    def _broke(self, failure: Failure) -> None:
        """An output raised what it must not raise: keep the lines all the same."""
        self._busy = False
        if not self._ended:
            self.log.failure("audit {output}: unexpected", failure=failure, output=self.name)
            self._failed(failure.getErrorMessage())

    def _failed(self, reason: str) -> None:
        if not self._failures:
            self.log.error(
                "audit {output}: cannot be written ({reason}); events are held in memory",
                output=self.name,
                reason=reason,
            )
        self._failures += 1
        if self._ending is not None:
            lost = self.abandon()
            self.log.critical(
                "audit {output}: {lost} events were never written", output=self.name, lost=lost
            )
            return
        pause = self.bounds.retry_secs * 2 ** min(self._failures - 1, 16)
        self._timer = self.clock.callLater(min(pause, self.bounds.retry_limit_secs), self._due)

    def _close(self) -> None:
        self._busy = True
        self.sink.close().addCallbacks(lambda _: self.abandon(), self._not_durable)

    def _not_durable(self, failure: Failure) -> None:
        self.log.error(
            "audit {output}: could not be closed ({reason})",
            output=self.name,
            reason=failure.getErrorMessage(),
        )
        self.abandon()
