"""Tests of all workers together."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import Settings
from mcpguard.ops.workers.control import Peer
from mcpguard.ops.workers.place import StartFailed
from mcpguard.ops.workers.pool import WORKER_CRASHES, Pool
from tests.ops.workers.doubles import Launcher, WorkerDouble


class PoolTestCase(SynchronousTestCase):
    """Three places."""

    def setUp(self) -> None:
        """A pool that has not started."""
        self.clock = Clock()
        self.launch = Launcher(self.clock)
        self.pool = Pool(
            3, self.clock, self.launch, WORKER_CRASHES, lambda: 0.0, lambda *args, **more: None
        )
        self.launch.came, self.launch.went = self.pool.came, self.pool.went

    def worker(self, life: int) -> WorkerDouble:
        """The worker that was started as the ``life``-th."""
        return self.launch.workers[life - 1]

    def run_it(self, coroutine: Any) -> Deferred[Any]:
        """Begin a coroutine."""
        return Deferred.fromCoroutine(coroutine)

    def started(self) -> None:
        """All three serve."""
        starting = self.run_it(self.pool.start(Settings()))
        for worker in self.launch.workers:
            worker.ready()
        self.assertEqual(self.successResultOf(starting), [])

    def states(self) -> list[str]:
        """One word for each place."""
        return [row["state"] for row in self.pool.describe()]


class PoolTests(PoolTestCase):
    """Start, crashes, replacement, stop."""

    def test_start(self) -> None:
        """All at once; over when the last is ready."""
        starting = self.run_it(self.pool.start(Settings()))
        self.assertEqual(self.launch.living(), [(1, 1), (2, 2), (3, 3)])
        self.assertEqual([one.settle for one in self.launch.workers], [False] * 3)
        self.worker(3).ready()
        self.worker(1).ready()
        self.assertEqual(self.states(), ["serving", "starting", "serving"])
        self.assertNoResult(starting)
        self.worker(2).ready()
        self.assertEqual(self.successResultOf(starting), [])

    def test_one_cannot_start(self) -> None:
        """Why is told once all first attempts are over; it is tried again."""
        starting = self.run_it(self.pool.start(Settings()))
        self.worker(1).ready()
        self.worker(2).ends("no memory (status 1)")
        self.assertNoResult(starting)
        self.worker(3).ready()
        self.assertEqual(self.successResultOf(starting), ["no memory (status 1)"])
        self.worker(4).ready()
        self.assertEqual(self.states(), ["serving"] * 3)

    def test_crash_of_one(self) -> None:
        """The others are not touched."""
        self.started()
        self.worker(2).ends()
        self.assertEqual(self.states(), ["serving", "starting", "serving"])
        self.assertEqual(self.launch.living(), [(1, 1), (3, 3), (2, 4)])
        self.assertTrue(self.worker(4).settle)
        self.assertEqual(self.worker(1).asked + self.worker(3).asked, [])
        self.worker(4).ready()
        self.assertEqual([row["restarts"] for row in self.pool.describe()], [0, 1, 0])

    def test_replace(self) -> None:
        """One after the other, each once its successor is ready."""
        self.started()
        replacing = self.run_it(self.pool.replace(Settings()))
        for number in (1, 2, 3):
            self.assertEqual(len(self.launch.workers), 3 + number)
            self.assertEqual(self.worker(number).asked, [])
            self.worker(3 + number).ready()
            self.assertEqual(self.worker(number).asked, ["replaced"])
        self.successResultOf(replacing)
        self.assertEqual([row["draining"] for row in self.pool.describe()], [1, 1, 1])
        for number in (1, 2, 3):
            self.worker(number).ends("status 0")
        self.assertEqual([row["draining"] for row in self.pool.describe()], [0, 0, 0])

    def test_first_successor_fails(self) -> None:
        """Nothing has changed, and nothing is tried again."""
        self.started()
        replacing = self.run_it(self.pool.replace(Settings()))
        self.worker(4).ends("bad (status 1)")
        self.failureResultOf(replacing, StartFailed)
        self.clock.advance(1_000)
        self.assertEqual(self.launch.living(), [(1, 1), (2, 2), (3, 3)])
        self.assertEqual([one.asked for one in self.launch.workers[:3]], [[], [], []])

    def test_later_successor_fails(self) -> None:
        """It is tried again while its predecessor serves, and the rest goes on."""
        self.started()
        replacing = self.run_it(self.pool.replace(Settings()))
        self.worker(4).ready()
        self.worker(5).ends("no memory (status 1)")
        self.assertEqual(self.worker(2).asked, [])
        last = next(one for one in self.launch.workers[5:] if one.peer.number == 3)
        last.ready()
        self.successResultOf(replacing)
        again = next(one for one in self.launch.workers[5:] if one.peer.number == 2)
        again.ready()
        self.assertEqual(self.worker(2).asked, ["replaced"])

    def test_stop(self) -> None:
        """Over when nobody is left."""
        self.started()
        stopping = self.pool.stop(keep=True)
        for number in (1, 2, 3):
            self.assertEqual(self.worker(number).asked, ["keep"])
            self.assertNoResult(stopping)
            self.worker(number).ends("status 0")
        self.successResultOf(stopping)
        self.assertEqual(self.states(), ["waiting"] * 3)


class PeerTests(PoolTestCase):
    """What the rest of the parent sees of the workers."""

    def test_peers(self) -> None:
        """Those that are ready or drain, until they are gone."""
        self.run_it(self.pool.start(Settings()))
        self.assertEqual(self.pool.peers(), ())
        for worker in self.launch.workers:
            worker.ready()
        self.run_it(self.pool.replace(Settings()))
        self.worker(4).ready()
        self.assertEqual([peer.life for peer in self.pool.peers()], [4, 1, 2, 3])
        self.worker(1).ends("status 0")
        self.assertEqual([peer.life for peer in self.pool.peers()], [4, 2, 3])

    def test_services(self) -> None:
        """Each is there for every worker, whenever that one started, and knows who asks."""
        asked: list[tuple[int, int, Any]] = []

        def serve(peer: Peer, payload: Any) -> None:
            asked.append((peer.number, peer.life, payload))

        self.pool.register("early", serve)
        self.run_it(self.pool.start(Settings()))
        self.pool.register("late", serve)
        for name in ("early", "late"):
            for worker in self.launch.workers:
                control: Any = worker.peer.control
                control._services[name](name)
        self.assertEqual(asked[:3], [(1, 1, "early"), (2, 2, "early"), (3, 3, "early")])
        self.assertEqual(asked[3:], [(1, 1, "late"), (2, 2, "late"), (3, 3, "late")])

    def test_gone(self) -> None:
        """Each end is told once, whether the worker was ready or not; a fault harms nobody."""
        gone: list[int] = []

        def broken(peer: Peer) -> None:
            raise RuntimeError("no")

        self.pool.on_gone(broken)
        self.pool.on_gone(lambda peer: gone.append(peer.life))
        self.run_it(self.pool.start(Settings()))
        self.worker(2).ends()
        self.worker(1).ready()
        self.worker(1).ends()
        self.assertEqual(gone, [2, 1])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
