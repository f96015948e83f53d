"""Tests of the one timer for answers that are waited for."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.pipeline.patience import Patience


@define(eq=False)
class Answer:
    """Notes when it had to show life, and may be ended by that."""

    clock: Clock
    then: Callable[[], None] = lambda: None
    shown: list[float] = field(factory=list)

    def show_life(self) -> None:
        """Note the time, then do something else."""
        self.shown.append(self.clock.seconds())
        self.then()


class PatienceTests(SynchronousTestCase):
    """`Patience`."""

    def setUp(self) -> None:
        """Ten seconds of it."""
        self.clock = Clock()
        self.patience = Patience(self.clock, 10.0)

    def begin(self) -> Answer:
        """Wait for a further answer."""
        answer = Answer(self.clock)
        self.patience.begin(answer)
        return answer

    def test_each_in_its_time(self) -> None:
        """Each shows life once, as long after its own beginning as any other."""
        answers = []
        for _ in range(3):
            answers.append(self.begin())
            self.clock.pump([1] * 4)
        self.clock.pump([1] * 30)
        self.assertEqual([answer.shown for answer in answers], [[10], [14], [18]])
        self.assertEqual((len(self.patience), self.clock.getDelayedCalls()), (0, []))

    @given(st.lists(st.floats(0.001, 5.0), min_size=2, max_size=5), st.floats(0.0, 1e7))
    @settings(deadline=None, max_examples=300)
    def test_any_moments(self, pauses: list[float], start: float) -> None:
        """Whatever the clock rounds, few timers are set, and each shows life in its time."""
        self.setUp()
        self.clock.advance(start)
        answers, timers, set_timer = [], [], self.clock.callLater

        def count(*given: Any) -> Any:
            timers.append(given)
            self.assertLess(len(timers), 4 * len(pauses))
            return set_timer(*given)

        self.patch(self.clock, "callLater", count)
        for pause in pauses:
            answers.append((self.clock.seconds(), self.begin()))
            self.clock.advance(pause)
        for _ in range(40):
            self.clock.advance(0.7)
        for began, answer in answers:
            (shown,) = answer.shown
            self.assertGreaterEqual(shown - began, 10.0 - 1e-6)
            self.assertLess(shown - began, 10.0 + 5.0 + 1e-6)

    def test_ended(self) -> None:
        """What has ended shows nothing, and no timer runs for nothing."""
        first, second = self.begin(), self.begin()
        self.patience.end(first)
        self.patience.end(first)
        self.clock.advance(5)
        self.patience.end(second)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        third = self.begin()
        self.clock.advance(10)
        self.assertEqual((first.shown, second.shown, third.shown), ([], [], [15]))

    def test_one_timer(self) -> None:
        """A thousand answers have one timer."""
        for _ in range(1000):
            self.begin()
        self.assertEqual((len(self.patience), len(self.clock.getDelayedCalls())), (1000, 1))

    def test_begun_again(self) -> None:
        """Who begins once more waits from then on."""
        answer = self.begin()
        self.clock.advance(6)
        self.patience.begin(answer)
        self.clock.advance(6)
        self.assertEqual(answer.shown, [])
        self.clock.advance(4)
        self.assertEqual(answer.shown, [16])

    def test_ends_another(self) -> None:
        """One that shows life may end another that is due at the same time."""
        first, second = self.begin(), self.begin()
        first.then = lambda: self.patience.end(second)
        self.clock.advance(10)
        self.assertEqual((second.shown, self.clock.getDelayedCalls()), ([], []))
