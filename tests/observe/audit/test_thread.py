"""Tests of `mcpguard.observe.audit.thread`."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.audit.thread import WorkerThread


class Mailbox:
    """The one method of a reactor a worker thread calls; the test takes the calls out."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def callFromThread(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Keep the call."""
        self.calls.put(lambda: f(*args, **kwargs))

    def turn(self) -> None:
        """Do the next call, waiting for it."""
        self.calls.get(timeout=10)()


class WorkerThreadTests(SynchronousTestCase):
    """`WorkerThread`: jobs off the reactor's thread."""

    def setUp(self) -> None:
        """A worker whose thread ends with the test."""
        self.mailbox = Mailbox()
        self.worker = WorkerThread(self.mailbox, "test-worker")  # type: ignore[arg-type]
        self.addCleanup(self.worker.stop)

    def test_result(self) -> None:
        """A job runs on the worker's thread, and its result comes to the reactor's."""
        done = self.worker.run(lambda: threading.current_thread().name)
        self.assertNoResult(done)
        self.mailbox.turn()
        self.assertEqual(self.successResultOf(done), "test-worker")

    def test_failure(self) -> None:
        """What a job raises comes as a failure, and the next job runs."""
        done = self.worker.run(lambda: 1 // 0)
        after = self.worker.run(lambda: 2)
        self.mailbox.turn()
        self.mailbox.turn()
        self.failureResultOf(done, ZeroDivisionError)
        self.assertEqual(self.successResultOf(after), 2)

    def test_order(self) -> None:
        """Jobs run one after the other, in the order given."""
        seen: list[int] = []
        for number in range(50):
            self.worker.run(lambda number=number: seen.append(number))  # type: ignore[misc]
        for _ in range(50):
            self.mailbox.turn()
        self.assertEqual(seen, list(range(50)))

    def test_no_thread_before_work(self) -> None:
        """No thread exists before the first job: twistd forks after services are made."""
        WorkerThread(self.mailbox, "idle-worker")  # type: ignore[arg-type]
        names = [thread.name for thread in threading.enumerate()]
        self.assertNotIn("idle-worker", names)

    def test_stop(self) -> None:
        """The thread ends after the jobs given before."""
        seen: list[threading.Thread] = []
        self.worker.run(lambda: seen.append(threading.current_thread()))
        self.worker.stop()
        self.mailbox.turn()
        seen[0].join(10)
        self.assertFalse(seen[0].is_alive())
        self.assertTrue(seen[0].daemon)
