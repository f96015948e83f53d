"""One thread that does the blocking work of one output, so that the reactor never waits for it."""

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from mcpguard.observe.audit.outputs import Appended, Output

T = TypeVar("T")


class Worker(Protocol):
    """Runs blocking jobs one after the other, off the reactor's thread."""

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Run the job after those before it; fires on the reactor's thread with its result."""
        ...

    def stop(self) -> None:
        """Take no more jobs; those already given are done."""
        ...


class WorkerThread:
    """A worker with a thread of its own, made when the first job comes.

    A pool shared with name resolution would let a slow resolver hold up the audit trail. The
    thread is a daemon: a job stuck in a dead file system cannot keep the process from ending.
    Whoever gives jobs bounds them by waiting for each.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Run the job after those before it; fires on the reactor's thread with its result."""
        done: Deferred[T] = Deferred()

        def work() -> None:
            try:
                result = job()
            except Exception:
                failure = Failure()
                self._reactor.callFromThread(done.errback, failure)
            else:
                self._reactor.callFromThread(done.callback, result)

        self._jobs.put(work)
        if self._thread is None:
            # Not earlier: twistd forks into the background before services start.
            self._thread = Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        return done

    def stop(self) -> None:
        """Take no more jobs; the thread ends after those already given."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _loop(self) -> None:
        while (work := self._jobs.get()) is not None:
            work()


@define(eq=False)
class ThreadedSink:
    """An output that blocks, on a worker of its own. Implements `Sink`."""

    output: Output
    worker: Worker

    def append(self, lines: Sequence[bytes]) -> Deferred[Appended]:
        """Write whole lines, in order."""
        return self.worker.run(lambda: self.output.append(lines))

    def close(self) -> Deferred[None]:
        """Make what was written durable and let go of it; errbacks with `OSError`."""
        return self.worker.run(self.output.close)
