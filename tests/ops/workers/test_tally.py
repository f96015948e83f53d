"""Tests of who accepts a connection."""

from pathlib import Path

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.ops.workers.tally import Tally, Turns

PAUSE, BATCH = 0.003, 4


@define(eq=False)
class Queue:
    """The connections that wait on the one socket."""

    length: int = 0


@define(eq=False, slots=False)
class PortDouble:
    """A listening port of one process."""

    queue: Queue
    held: int = 0
    numberAccepts: int = 100
    connected: bool = True
    disconnecting: bool = False
    reading: bool = True

    def doRead(self) -> None:
        """Accept as many as it may."""
        taken = min(self.numberAccepts, self.queue.length)
        self.queue.length -= taken
        self.held += taken

    def stopReading(self) -> None:
        """Do not wake up for connections."""
        self.reading = False

    def startReading(self) -> None:
        """Wake up again."""
        self.reading = True


@define(eq=False)
class Company:
    """Workers that share a socket."""

    tally: Tally
    count: int
    clock: Clock = field(factory=Clock)
    queue: Queue = field(factory=Queue)
    ports: list[PortDouble] = field(init=False)
    turns: list[Turns] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ports = [PortDouble(self.queue) for _ in range(self.count)]
        self.turns = [
            Turns(
                port,
                self.clock,
                self.tally,
                number,
                lambda port=port: port.held,  # type: ignore[misc]
                PAUSE,
                BATCH,
            )
            for number, port in enumerate(self.ports, 1)
        ]
        for turns in self.turns:
            turns.begin()

    def wake(self, *numbers: int) -> None:
        """Let workers look, in this order, as the kernel would."""
        for number in numbers:
            port = self.ports[number - 1]
            if port.reading and port.connected and self.queue.length:
                port.doRead()

    @property
    def held(self) -> list[int]:
        """Connections of each."""
        return [port.held for port in self.ports]


class TallyTestCase(SynchronousTestCase):
    """Memory in a file."""

    def company(self, count: int) -> Company:
        """Workers that share a socket."""
        tally = Tally.create(Path(self.mktemp()), count)
        self.addCleanup(tally.close)
        return Company(tally, count)


class TallyTests(TallyTestCase):
    """What is shared."""

    def test_shared(self) -> None:
        """What one process notes, another reads."""
        path = Path(self.mktemp())
        parent, worker = Tally.create(path, 3), Tally.open(path, 3)
        self.addCleanup(parent.close)
        self.addCleanup(worker.close)
        self.assertIsNone(worker.lowest_but(1))
        worker.note(1, 7)
        self.assertEqual(parent.lowest_but(2), 7)
        self.assertIsNone(parent.lowest_but(1))
        parent.note(3, 0)
        self.assertEqual(worker.lowest_but(1), 0)
        parent.clear(3)
        self.assertIsNone(worker.lowest_but(1))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertRaises(FileExistsError, Tally.create, path, 3)

    def test_too_small(self) -> None:
        """A file that has no room for all places is refused."""
        path = Path(self.mktemp())
        Tally.create(path, 1).close()
        self.assertRaises(ValueError, Tally.open, path, 2)


class TurnsTests(TallyTestCase):
    """Who accepts."""

    def test_in_turn(self) -> None:
        """The one that always wakes up first gets no more than the others."""
        company = self.company(3)
        for _ in range(30):
            company.queue.length += 1
            for _ in range(3):
                company.wake(1, 2, 3)
            company.clock.advance(PAUSE)
        self.assertEqual(company.held, [10, 10, 10])

    def test_burst(self) -> None:
        """So it is when many come at once, one at a time."""
        company = self.company(2)
        company.queue.length = 60
        for _ in range(60):
            company.wake(1, 2)
            company.clock.advance(PAUSE)
        self.assertLessEqual(abs(company.held[0] - company.held[1]), BATCH)
        self.assertEqual(sum(company.held), 60)

    def test_other_is_busy(self) -> None:
        """Nobody's connection waits longer than the pause for a worker that does not look."""
        company = self.company(2)
        company.ports[0].held = 5
        company.queue.length = 10
        company.wake(1)
        self.assertEqual((company.held, company.ports[0].reading), ([5, 0], False))
        company.clock.advance(PAUSE)
        self.assertEqual(company.held, [5 + BATCH, 0])
        self.assertTrue(company.ports[0].reading)

    def test_other_has_ended(self) -> None:
        """Nobody waits for a worker that is gone."""
        company = self.company(2)
        company.ports[0].held = 5
        company.tally.clear(2)
        company.queue.length = 1
        company.wake(1)
        self.assertEqual(company.held[0], 6)

    def test_alone(self) -> None:
        """One worker accepts whatever comes."""
        company = self.company(1)
        company.queue.length = 3
        company.wake(1, 1, 1)
        self.assertEqual(company.held, [3])

    def test_end(self) -> None:
        """A worker that stops leaves no timer, and is not waited for."""
        company = self.company(2)
        company.ports[0].held = 5
        company.queue.length = 1
        company.wake(1)
        company.turns[0].end()
        self.assertEqual(company.clock.getDelayedCalls(), [])
        self.assertIsNone(company.tally.lowest_but(2))

    def test_stopped_while_it_waits(self) -> None:
        """A port that was closed meanwhile does not look again."""
        company = self.company(2)
        company.ports[0].held = 5
        company.queue.length = 1
        company.wake(1)
        company.ports[0].disconnecting = True
        company.clock.advance(PAUSE)
        self.assertFalse(company.ports[0].reading)

    @settings(deadline=None, max_examples=100)
    @given(
        st.integers(1, 4),
        st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(1, 4), max_size=6))),
    )
    def test_any_order(self, count: int, steps: list[tuple[int, list[int]]]) -> None:
        """Whoever wakes up when, every connection is accepted soon once they look again."""
        company = self.company(count)
        total = 0
        for arrived, woken in steps:
            company.queue.length += arrived
            total += arrived
            company.wake(*(number for number in woken if number <= count))
            company.clock.advance(PAUSE / 2)
        for _ in range(2 * total + 4):
            company.wake(*range(1, count + 1))
            company.clock.advance(PAUSE)
        self.assertEqual(sum(company.held), total)
        self.assertEqual(company.queue.length, 0)
