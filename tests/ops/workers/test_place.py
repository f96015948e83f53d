"""Tests of one worker's place."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import Settings
from mcpguard.ops.workers.place import Generation, Place, StartFailed
from mcpguard.upstream.crashes import CrashBounds, Crashes
from tests.ops.workers.doubles import Launcher, WorkerDouble

CRASHES = CrashBounds(
    first_secs=1.0,
    most_secs=8.0,
    jitter=0.5,
    loop=4,
    window_secs=100.0,
    cooldown_secs=50.0,
    healthy_secs=20.0,
)

EVENTS = ("want", "ready", "end", "wait")


class PlaceTestCase(SynchronousTestCase):
    """A place whose workers do what the test says."""

    def setUp(self) -> None:
        """An empty place."""
        self.clock = Clock()
        self.launch = Launcher(self.clock)
        self.recorded: list[str] = []
        self.others = False
        self.place = Place(
            1,
            self.clock,
            self.launch,
            Crashes(CRASHES, lambda: 0.0),
            lambda: self.others,
            lambda number, what, **details: self.recorded.append(what),
        )
        self.old, self.new = Generation(Settings()), Generation(Settings())

    def worker(self, life: int) -> WorkerDouble:
        """The worker that was started as the ``life``-th."""
        return self.launch.workers[life - 1]

    def serving(self) -> Deferred[None]:
        """A place whose first worker serves."""
        wanted = self.place.want(self.old)
        self.worker(1).ready()
        return wanted


class StartTests(PlaceTestCase):
    """From nothing to a worker that serves."""

    def test_ready(self) -> None:
        """What is wanted is there when the worker is ready."""
        wanted = self.place.want(self.old)
        self.assertNoResult(wanted)
        self.assertIsNone(self.place.serving)
        self.worker(1).ready()
        self.successResultOf(wanted)
        self.assertIs(self.place.serving, self.worker(1))
        self.assertEqual(self.recorded, ["ready"])

    def test_wanted_again(self) -> None:
        """What serves already need not be started."""
        self.serving()
        self.successResultOf(self.place.want(self.old))
        self.assertEqual(len(self.launch.workers), 1)

    def test_failed(self) -> None:
        """The first attempt's end is told; further ones follow by themselves, after pauses."""
        wanted = self.place.want(self.old)
        self.worker(1).ends("no audit file (status 1)")
        failure = self.failureResultOf(wanted, StartFailed)
        self.assertEqual(failure.getErrorMessage(), "no audit file (status 1)")
        self.assertEqual(len(self.launch.workers), 2)
        self.worker(2).ends()
        self.clock.advance(0.9)
        self.assertEqual(len(self.launch.workers), 2)
        self.clock.advance(0.2)
        self.worker(3).ready()
        self.assertIs(self.place.serving, self.worker(3))

    def test_settle(self) -> None:
        """A worker waits for its upstreams only where others serve meanwhile."""
        self.serving()
        self.assertFalse(self.worker(1).settle)
        self.place.want(self.new)
        self.assertTrue(self.worker(2).settle)
        self.worker(2).ready()
        self.worker(2).ends()
        self.assertFalse(self.worker(3).settle)
        self.others = True
        self.worker(3).ends()
        self.clock.advance(10)
        self.assertTrue(self.worker(4).settle)


class CrashTests(PlaceTestCase):
    """A worker that ends by itself."""

    def test_restarted(self) -> None:
        """The first time at once; it is counted, recorded and in the log."""
        self.serving()
        self.clock.advance(5)
        with capturedLogs() as events:
            self.worker(1).ends("signal 9")
        self.assertEqual(len(self.launch.workers), 2)
        self.assertIsNone(self.place.serving)
        self.worker(2).ready()
        self.assertEqual(self.place.restarts, 1)
        self.assertEqual(self.recorded, ["ready", "crashed", "ready"])
        self.assertEqual([event["how"] for event in events], ["ended: signal 9"])

    def test_loop(self) -> None:
        """Again and again: said aloud once, tried after the long pause, and good in the end."""
        self.place.want(self.old).addErrback(lambda _: None)
        with capturedLogs() as events:
            for life in range(1, 5):
                self.worker(life).ready()
                self.worker(life).ends()
                self.clock.advance(4.1)
        loud = [event for event in events if event["log_level"].name == "critical"]
        self.assertEqual([event["pause"] for event in loud], [50])
        self.assertEqual(len(self.launch.workers), 4)
        self.assertIn("crash_loop", self.recorded)
        self.clock.advance(46)
        self.worker(5).ready()
        self.clock.advance(21)
        self.worker(5).ends()
        self.assertEqual(len(self.launch.workers), 6)


class ReplaceTests(PlaceTestCase):
    """A new generation."""

    def test_replaced(self) -> None:
        """The old worker serves until its successor is ready, then it leaves."""
        self.serving()
        wanted = self.place.want(self.new)
        self.assertEqual(self.worker(1).asked, [])
        self.assertIs(self.place.serving, self.worker(1))
        self.worker(2).ready()
        self.successResultOf(wanted)
        self.assertEqual(self.worker(1).asked, ["replaced"])
        self.assertEqual(self.place.workers, (self.worker(2), self.worker(1)))
        self.worker(1).ends("status 0")
        self.assertEqual(self.place.workers, (self.worker(2),))
        self.assertEqual(self.place.restarts, 0)
        self.assertNotIn("crashed", self.recorded)

    def test_successor_fails(self) -> None:
        """The old worker is not touched; it stays when what it serves is wanted again."""
        self.serving()
        wanted = self.place.want(self.new)
        self.worker(2).ends("bad (status 1)")
        self.failureResultOf(wanted, StartFailed)
        self.assertEqual(len(self.launch.workers), 3)
        self.successResultOf(self.place.want(self.old))
        self.assertEqual(self.worker(3).asked, ["keep"])
        self.worker(3).ends("signal 15")
        self.clock.advance(100)
        self.assertEqual(self.launch.living(), [(1, 1)])
        self.assertEqual(self.worker(1).asked, [])

    def test_old_one_ends_meanwhile(self) -> None:
        """Its successor takes over all the same."""
        self.serving()
        wanted = self.place.want(self.new)
        self.worker(1).ends()
        self.assertEqual(len(self.launch.workers), 2)
        self.worker(2).ready()
        self.successResultOf(wanted)
        self.assertIs(self.place.serving, self.worker(2))

    def test_wanted_while_starting(self) -> None:
        """A worker that starts with what is not wanted any more is given up for the next."""
        first = self.place.want(self.old)
        second = self.place.want(self.new)
        self.failureResultOf(first, StartFailed)
        self.assertEqual(self.worker(1).asked, ["keep"])
        self.worker(1).ends("signal 15")
        self.assertNoResult(second)
        self.worker(2).ready()
        self.successResultOf(second)
        self.assertEqual(self.recorded, ["ready"])

    def test_ready_although_outdated(self) -> None:
        """One that is ready at the same moment serves until the next is."""
        self.place.want(self.old).addErrback(lambda _: None)
        wanted = self.place.want(self.new)
        self.worker(1).ready()
        self.assertIs(self.place.serving, self.worker(1))
        self.assertNoResult(wanted)
        self.worker(2).ready()
        self.successResultOf(wanted)


class StopTests(PlaceTestCase):
    """The end of everything."""

    def stopped(self, **how: Any) -> Deferred[None]:
        """Ask the place to stop."""
        return self.place.stop(keep=False)

    def test_empty(self) -> None:
        """Nothing to wait for."""
        self.successResultOf(self.stopped())

    def test_every_worker(self) -> None:
        """The one that serves, the one that starts and those that leave."""
        self.serving()
        self.place.want(self.new)
        self.worker(2).ready()
        self.place.want(self.old).addErrback(lambda _: None)
        stopping = self.stopped()
        self.assertEqual(
            [one.asked for one in self.launch.workers], [["replaced", "end"], *[["end"]] * 2]
        )
        for worker in self.launch.workers[:2]:
            worker.ends("status 0")
        self.assertNoResult(stopping)
        self.worker(3).ends("signal 15")
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_it_pauses(self) -> None:
        """Nothing is started any more."""
        wanted = self.place.want(self.old)
        self.worker(1).ends()
        self.failureResultOf(wanted)
        self.worker(2).ends()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.successResultOf(self.stopped())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waiting(self) -> None:
        """Who waits for a worker is told."""
        wanted = self.place.want(self.old)
        self.stopped()
        self.failureResultOf(wanted, StartFailed)
        self.worker(1).ends()
        self.assertEqual(len(self.launch.workers), 1)

    def test_ready_too_late(self) -> None:
        """A worker that becomes ready after all is asked to end."""
        self.place.want(self.old).addErrback(lambda _: None)
        stopping = self.stopped()
        self.worker(1).ready()
        self.assertEqual(self.worker(1).asked[-1], "end")
        self.worker(1).ends("status 0")
        self.successResultOf(stopping)


class AnyOrderTests(SynchronousTestCase):
    """Whatever happens in whatever order."""

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 3))))
    def test_invariants(self, events: list[tuple[str, int]]) -> None:
        """One serves and one starts at most, none is forgotten, and the wanted one comes."""
        clock = Clock()
        launch = Launcher(clock)
        place = Place(
            1,
            clock,
            launch,
            Crashes(CRASHES, lambda: 0.5),
            lambda: False,
            lambda number, what, **details: None,
        )
        generations = [Generation(Settings()) for _ in range(4)]
        place.want(generations[0]).addErrback(lambda _: None)
        for what, which in events:
            living = [one for one in launch.workers if not one.ended]
            if what == "want":
                place.want(generations[which]).addErrback(lambda _: None)
            elif what == "wait":
                clock.advance(which * 3.0)
            elif living:
                worker = living[which % len(living)]
                worker.ready() if what == "ready" else worker.ends()
            held = place.workers
            self.assertEqual(set(held), {one for one in launch.workers if not one.ended})
            self.assertEqual(len(held), len(set(held)))
            for one in place.leaving:
                self.assertLessEqual(set(one.asked), {"keep", "replaced"})  # type: ignore[attr-defined]
        for _ in range(20):
            # In the end nothing fails any more, and who is asked to leave does.
            for worker in [one for one in launch.workers if not one.ended]:
                worker.ends() if worker.asked else worker.ready()
            clock.advance(60.0)
        serving = place.serving
        assert serving is not None
        self.assertIs(serving.generation, place.wanted)
        self.assertEqual(place.workers, (serving,))
        stopping = place.stop(keep=True)
        self.assertNoResult(stopping)
        next(one for one in launch.workers if one is serving).ends()
        self.successResultOf(stopping)
        self.assertEqual(clock.getDelayedCalls(), [])
