"""Tests of the one timer for the deadlines of requests."""

from collections.abc import Callable

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.deadlines import Deadlines


@define(eq=False)
class Request:
    """Notes when it expired."""

    clock: Clock
    then: Callable[[], None] = lambda: None
    expiries: list[float] = field(factory=list)

    def expired(self) -> None:
        """Note the time, then do something else."""
        self.expiries.append(self.clock.seconds())
        self.then()


class DeadlinesTests(SynchronousTestCase):
    """`Deadlines`."""

    def setUp(self) -> None:
        """No deadline yet."""
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)

    def request(self, at: float) -> Request:
        """A request with a deadline."""
        request = Request(self.clock)
        self.deadlines.set(request, at)
        return request

    def test_in_time(self) -> None:
        """Each expires at its own deadline, whatever the order in which they were set."""
        requests = [self.request(at) for at in (5, 3, 9, 3)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.pump([1] * 10)
        self.assertEqual([one.expiries for one in requests], [[5], [3], [9], [3]])
        self.assertEqual((len(self.deadlines), self.clock.getDelayedCalls()), (0, []))

    def test_dropped(self) -> None:
        """A request without a deadline does not expire, and leaves no timer behind."""
        first, second = self.request(5), self.request(6)
        self.deadlines.drop(first)
        self.deadlines.drop(first)
        self.clock.advance(5)
        self.deadlines.drop(second)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(5)
        self.assertEqual(first.expiries + second.expiries, [])

    def test_ends_another(self) -> None:
        """One that expires may end another that is due, or put it off, or set one anew."""
        first, second, third = self.request(5), self.request(5), self.request(5)

        def then() -> None:
            self.deadlines.drop(second)
            self.deadlines.set(third, 8)
            self.deadlines.set(first, 7)
            first.then = lambda: None

        first.then = then
        self.clock.pump([1] * 9)
        expiries = first.expiries, second.expiries, third.expiries
        self.assertEqual(expiries, ([5, 7], [], [8]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_put_off_before_others(self) -> None:
        """One that is put off when it expires holds up none that is due before it."""
        first, second = self.request(1), self.request(5)

        def then() -> None:
            if len(first.expiries) == 1:
                self.deadlines.set(first, 60)

        first.then = then
        self.clock.pump([1] * 6)
        self.assertEqual((first.expiries, second.expiries), ([1], [5]))

    def test_one_raises(self) -> None:
        """An error in one's end keeps no other from its own, now or later."""
        first, second, third = self.request(1), self.request(1), self.request(5)

        def then() -> None:
            raise RuntimeError("as planned")

        first.then = then
        self.clock.pump([1] * 6)
        self.assertEqual((second.expiries, third.expiries), ([1], [5]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    @given(
        st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from(("set", "drop")), st.integers(0, 9)),
            max_size=40,
        )
    )
    @settings(deadline=None, max_examples=60)
    def test_any_story(self, story: list[tuple[int, str, int]]) -> None:
        """Whatever is set and dropped, each expires when its last deadline passes, and only then.

        One step of the story a second.
        """
        self.setUp()
        requests = [Request(self.clock) for _ in range(5)]
        wanted: dict[int, float] = {}
        expected: dict[int, list[float]] = {number: [] for number in range(5)}
        for number, what, delay in [*story, *((0, "drop", 0) for _ in range(12))]:
            if what == "set":
                wanted[number] = self.clock.seconds() + 1 + delay
                self.deadlines.set(requests[number], wanted[number])
            else:
                wanted.pop(number, None)
                self.deadlines.drop(requests[number])
            self.clock.advance(1)
            for one, at in list(wanted.items()):
                if at <= self.clock.seconds():
                    expected[one].append(at)
                    del wanted[one]
            self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual({n: requests[n].expiries for n in range(5)}, expected)
        self.assertEqual((len(self.deadlines), self.clock.getDelayedCalls()), (0, []))
