"""Tests of `mcpguard.observe.audit.feed`."""

from itertools import pairwise
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.audit.feed import Feed, FeedBounds
from mcpguard.observe.audit.thread import ThreadedSink
from tests.observe.doubles import InlineWorker, LogBook, Paper

BOUNDS = FeedBounds(
    batch_bytes=100, batch_secs=1.0, held_bytes=300, retry_secs=1.0, retry_limit_secs=30.0
)


def line(number: int) -> bytes:
    """Return a line of ten bytes."""
    return f"{number:09d}\n".encode()


class Desk:
    """A feed with everything around it under the test's control."""

    def __init__(self, bounds: FeedBounds = BOUNDS) -> None:
        self.paper = Paper()
        self.worker = InlineWorker()
        self.clock = Clock()
        self.lost: list[int] = []
        self.rotated = 0
        self.book = LogBook()
        self.feed = Feed(
            "file",
            ThreadedSink(self.paper, self.worker),
            self.clock,
            bounds,
            lost_line=lambda output, lost: f"{output} lost {lost}\n".encode(),
            on_lost=self.lost.append,
            on_rotated=self.note_rotation,
            log=Logger("audit", observer=self.book),
        )

    def note_rotation(self) -> None:
        """Count."""
        self.rotated += 1

    def put(self, *numbers: int, urgent: bool = False) -> None:
        """Put lines."""
        for number in numbers:
            self.feed.put(line(number), urgent=urgent)

    def said(self, level: str) -> list[Any]:
        """Return the log events of a level."""
        return [event for event in self.book.events if event["log_level"].name == level]


class BatchTests(SynchronousTestCase):
    """`Feed`: when lines are written."""

    def setUp(self) -> None:
        """A feed that batches 100 bytes or one second."""
        self.desk = Desk()

    def test_together_after_a_second(self) -> None:
        """Lines that are not urgent wait for others, a second from the first one on."""
        self.desk.put(1)
        self.desk.clock.advance(0.9)
        self.desk.put(2)
        self.assertEqual(self.desk.paper.lines, [])
        self.desk.clock.advance(0.1)
        self.assertEqual(self.desk.paper.batches, [2])
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_full_batch(self) -> None:
        """A full batch does not wait."""
        self.desk.put(*range(9))
        self.assertEqual(self.desk.paper.lines, [])
        self.desk.put(9)
        self.assertEqual(self.desk.paper.batches, [10])
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_urgent(self) -> None:
        """An urgent line takes those before it along at once."""
        self.desk.put(1)
        self.desk.put(2, urgent=True)
        self.assertEqual(self.desk.paper.lines, [line(1), line(2)])

    def test_one_at_a_time(self) -> None:
        """While the output works, lines gather; an urgent one among them goes right after."""
        self.desk.worker.held = True
        self.desk.put(1, urgent=True)
        self.desk.put(2)
        self.desk.put(3, urgent=True)
        self.assertEqual(len(self.desk.worker.jobs), 1)
        self.desk.worker.release()
        self.assertEqual(len(self.desk.worker.jobs), 1)
        self.desk.worker.release()
        self.assertEqual(self.desk.paper.batches, [1, 2])

    def test_ordinary_lines_after_a_batch(self) -> None:
        """Ordinary lines that came while the output worked wait their second."""
        self.desk.worker.held = True
        self.desk.put(1, urgent=True)
        self.desk.put(2)
        self.desk.worker.release()
        self.assertEqual(self.desk.worker.jobs, [])
        self.desk.clock.advance(1)
        self.desk.worker.release()
        self.assertEqual(self.desk.paper.lines, [line(1), line(2)])

    def test_batch_bound(self) -> None:
        """No batch is larger than the bound, however much waits."""
        self.desk.worker.held = True
        self.desk.put(*range(30))
        self.desk.worker.held = False
        self.desk.worker.release()
        self.assertEqual(self.desk.paper.batches, [10, 10, 10])
        self.assertEqual(self.desk.paper.lines, [line(n) for n in range(30)])

    def test_rotation_is_told(self) -> None:
        """The trail hears that a file was put aside."""
        self.desk.paper.rotates = True
        self.desk.put(1, urgent=True)
        self.assertEqual(self.desk.rotated, 1)


class LossTests(SynchronousTestCase):
    """`Feed`: an output that fails or is slow."""

    def setUp(self) -> None:
        """A feed that holds 300 bytes."""
        self.desk = Desk()

    def test_held_and_written_later(self) -> None:
        """What an output does not take is kept and written in order once it does."""
        self.desk.paper.broken = True
        self.desk.put(1, urgent=True)
        self.desk.put(2)
        self.desk.paper.broken = False
        self.desk.clock.advance(1)
        self.assertEqual(self.desk.paper.lines, [line(1), line(2)])
        self.assertEqual(self.desk.lost, [])

    def test_retries_slow_down(self) -> None:
        """Pauses double up to the bound; urgent lines do not shorten them."""
        self.desk.paper.broken = True
        attempts: list[float] = []
        real = self.desk.paper.append

        def append(lines: Any) -> Any:
            attempts.append(self.desk.clock.seconds())
            return real(lines)

        self.patch(self.desk.paper, "append", append)
        self.desk.put(1, urgent=True)
        for _ in range(1200):
            self.desk.clock.advance(0.1)
            self.desk.feed.put(b"", urgent=True)
        gaps = [round(b - a) for a, b in pairwise(attempts)]
        self.assertEqual(gaps, [1, 2, 4, 8, 16, 30, 30])

    def test_log_says_it_once(self) -> None:
        """A failing output is one line in the log, and its recovery another."""
        self.desk.paper.broken = True
        self.desk.put(1, urgent=True)
        self.desk.clock.pump([1, 2, 4])
        self.assertEqual(len(self.desk.said("error")), 1)
        self.desk.paper.broken = False
        self.desk.clock.advance(8)
        self.assertEqual(len(self.desk.said("info")), 1)

    def test_bound_and_event(self) -> None:
        """Beyond the bound lines are lost, counted at once, and an event says how many."""
        self.desk.paper.broken = True
        self.desk.put(*range(35), urgent=True)
        self.assertEqual(sum(self.desk.lost), 5)
        self.desk.paper.broken = False
        self.desk.clock.advance(1)
        self.assertEqual(self.desk.paper.lines, [*(line(n) for n in range(30)), b"file lost 5\n"])
        self.desk.put(99, urgent=True)
        self.assertEqual(self.desk.paper.lines[-1], line(99))

    def test_slow_output(self) -> None:
        """An output that is only slow loses what does not fit, and says so as well."""
        self.desk.worker.held = True
        self.desk.put(*range(31), urgent=True)
        self.desk.worker.held = False
        self.desk.worker.release()
        self.assertEqual(self.desk.paper.lines[-1], b"file lost 1\n")
        self.assertEqual(self.desk.lost, [1])

    def test_output_with_a_bug(self) -> None:
        """An output that raises counts as one that fails."""
        real = self.desk.paper.append

        def explode(_: Any) -> Any:
            raise ValueError("a bug")

        self.patch(self.desk.paper, "append", explode)
        self.desk.put(1, urgent=True)
        self.assertEqual(len(self.desk.said("critical")), 1)
        self.patch(self.desk.paper, "append", real)
        self.desk.clock.advance(1)
        self.assertEqual(self.desk.paper.lines, [line(1)])

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.sampled_from(["put", "urgent", "break", "mend", "tick", "hold", "free"])))
    def test_nothing_lost_silently(self, steps: list[str]) -> None:
        """Whatever happens, each line is written once and in order, or counted as lost."""
        desk = Desk(evolve(BOUNDS, held_bytes=60))
        count = 0
        for step in steps:
            if step in ("put", "urgent"):
                desk.put(count, urgent=step == "urgent")
                count += 1
            elif step in ("break", "mend"):
                desk.paper.broken = step == "break"
            elif step == "tick":
                desk.clock.advance(1)
            else:
                desk.worker.held = step == "hold"
                desk.worker.release()
        desk.paper.broken = desk.worker.held = False
        desk.worker.release()
        desk.clock.pump([30, 30, 30])
        written = [text for text in desk.paper.lines if not text.startswith(b"file lost")]
        told = [int(text.split()[2]) for text in desk.paper.lines if b"lost" in text]
        self.assertEqual(written, sorted(set(written)))
        self.assertEqual(len(written) + sum(desk.lost), count)
        self.assertEqual(sum(told), sum(desk.lost))


class StopTests(SynchronousTestCase):
    """`Feed.stop`: the end."""

    def setUp(self) -> None:
        """A feed with one line waiting."""
        self.desk = Desk()
        self.desk.put(1)

    def test_everything_is_written(self) -> None:
        """What waits is written and the output closed, before the end is told."""
        self.desk.worker.held = True
        done = self.desk.feed.stop()
        self.assertNoResult(done)
        self.desk.worker.release()
        self.assertEqual(self.desk.paper.lines, [line(1)])
        self.assertNoResult(done)
        self.desk.worker.release()
        self.successResultOf(done)
        self.assertTrue(self.desk.paper.closed)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_while_writing(self) -> None:
        """A batch under way is awaited, and what came meanwhile is written too."""
        self.desk.worker.held = True
        self.desk.put(2, urgent=True)
        done = self.desk.feed.stop()
        self.desk.put(3)
        self.desk.worker.held = False
        self.desk.worker.release()
        self.successResultOf(done)
        self.assertEqual(self.desk.paper.lines, [line(1), line(2), line(3)])

    def test_losses_are_told_at_the_end(self) -> None:
        """A loss not yet written about is written about before the end."""
        self.desk.feed.lose(7)
        self.successResultOf(self.desk.feed.stop())
        self.assertEqual(self.desk.paper.lines, [line(1), b"file lost 7\n"])

    def test_broken_output(self) -> None:
        """An output that fails at the end is not waited for; the log says how many were lost."""
        self.desk.paper.broken = True
        self.successResultOf(self.desk.feed.stop())
        self.assertEqual(self.desk.lost, [1])
        self.assertEqual(self.desk.said("critical")[0]["lost"], 1)

    def test_abandoned(self) -> None:
        """Abandoned while the output hangs, it ends, and a late answer changes nothing."""
        self.desk.worker.held = True
        done = self.desk.feed.stop()
        self.assertEqual(self.desk.feed.abandon(), 1)
        self.successResultOf(done)
        self.desk.worker.release()
        self.assertEqual(self.desk.feed.abandon(), 0)
        self.assertEqual(self.desk.lost, [1])

    def test_after_the_end(self) -> None:
        """A line put after the end is lost, and counted."""
        self.successResultOf(self.desk.feed.stop())
        self.desk.put(2, urgent=True)
        self.assertEqual(self.desk.lost, [1])
        self.assertEqual(self.desk.paper.lines, [line(1)])

    def test_close_that_fails(self) -> None:
        """A file that cannot be synced is reported, and the end still comes."""

        def refuse() -> None:
            raise OSError(5, "Input/output error")

        self.patch(self.desk.paper, "close", refuse)
        self.successResultOf(self.desk.feed.stop())
        self.assertEqual(len(self.desk.said("error")), 1)

    def test_twice(self) -> None:
        """Stopping twice is stopping once."""
        self.assertIs(self.desk.feed.stop(), self.desk.feed.stop())
