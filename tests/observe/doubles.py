"""Stand-ins for what the observers talk to."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from mcpguard.observe.audit.outputs import Appended

T = TypeVar("T")


@define(eq=False)
class InlineWorker:
    """A worker that does each job at once, or when told to."""

    name: str = "worker"
    held: bool = False
    """True keeps jobs until `release`."""
    stopped: bool = False
    jobs: list[Callable[[], None]] = field(factory=list)

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Do the job now, or keep it."""
        if not self.held:
            return execute(job)
        done: Deferred[T] = Deferred()

        def work() -> None:
            execute(job).chainDeferred(done)

        self.jobs.append(work)
        return done

    def release(self) -> None:
        """Do the jobs kept so far."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()

    def stop(self) -> None:
        """Remember being stopped."""
        self.stopped = True


@define(eq=False, slots=False)
class Paper:
    """An output that keeps its lines and fails on demand."""

    lines: list[bytes] = field(factory=list)
    batches: list[int] = field(factory=list)
    broken: bool = False
    rotates: bool = False
    closed: bool = False

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Take all lines, or none when broken."""
        if self.broken:
            return Appended(0, OSError(28, "No space left on device"))
        self.lines.extend(lines)
        self.batches.append(len(lines))
        return Appended(len(lines), rotated=self.rotates)

    def close(self) -> None:
        """Remember being closed."""
        self.closed = True


@implementer(ILogObserver)
@define(eq=False)
class LogBook:
    """A log observer that keeps what it sees."""

    events: list[LogEvent] = field(factory=list)

    def __call__(self, event: LogEvent) -> None:
        """Keep the event."""
        self.events.append(event)


@define(eq=False)
class Tally:
    """A meter that remembers what it was told."""

    calls: list[tuple[Any, ...]] = field(factory=list)

    def request(self, method: str, status: int, seconds: float) -> None:
        """Remember."""
        self.calls.append(("request", method, status, seconds))

    def auth(self, provider: str, result: str) -> None:
        """Remember."""
        self.calls.append(("auth", provider, result))

    def rate_limit(self, allowed: bool) -> None:
        """Remember."""
        self.calls.append(("rate_limit", allowed))

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Remember."""
        self.calls.append(("upstream", server, transport, result, seconds))

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Remember."""
        self.calls.append((name, amount, labels))
