"""Tests of token buckets."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.buckets import Level, Rate, fill, take, until_full, wait

RATES = st.builds(
    Rate,
    per_second=st.floats(0.001, 10_000, allow_nan=False),
    burst=st.integers(1, 1_000),
)


class TakeTests(SynchronousTestCase):
    """`take` spends what is there and tells how long to wait for the rest."""

    def test_burst_then_wait(self) -> None:
        """A new bucket gives its burst, then one token per interval."""
        rate, level = Rate(2.0, 3), None
        for left in (2.0, 1.0, 0.0):
            level, seconds = take(rate, level, 10.0)
            self.assertEqual((level, seconds), (Level(left, 10.0), 0.0))
        self.assertEqual(take(rate, level, 10.0), (Level(0.0, 10.0), 0.5))
        self.assertEqual(take(rate, level, 10.25), (Level(0.5, 10.25), 0.25))
        self.assertEqual(take(rate, level, 10.5), (Level(0.0, 10.5), 0.0))

    def test_never_above_burst(self) -> None:
        """However long it waits, a bucket holds its burst and no more."""
        self.assertEqual(fill(Rate(5.0, 3), Level(0.0, 0.0), 1e9), Level(3.0, 1e9))

    def test_smaller_burst(self) -> None:
        """A level kept from a bigger burst is cut to the present one."""
        self.assertEqual(fill(Rate(1.0, 3), Level(50.0, 0.0), 0.0).tokens, 3.0)

    def test_clock_running_back(self) -> None:
        """Time that runs back takes nothing away, and gives nothing twice."""
        rate = Rate(1.0, 10)
        level = Level(0.0, 100.0)
        self.assertEqual(fill(rate, level, 50.0), level)
        self.assertEqual(fill(rate, fill(rate, level, 50.0), 101.0).tokens, 1.0)

    def test_impossible(self) -> None:
        """A cost above the burst is never paid, nor one at no rate."""
        self.assertEqual(take(Rate(1.0, 3), None, 0.0, 4.0), (Level(3.0, 0.0), math.inf))
        self.assertEqual(wait(Rate(0.0, 3), Level(0.0, 0.0)), math.inf)

    def test_until_full(self) -> None:
        """The seconds to a full bucket."""
        self.assertEqual(until_full(Rate(2.0, 10), Level(4.0, 0.0)), 3.0)
        self.assertEqual(until_full(Rate(2.0, 10), Level(10.0, 0.0)), 0.0)
        self.assertEqual(until_full(Rate(0.0, 10), Level(4.0, 0.0)), math.inf)

    @settings(deadline=None, max_examples=100)
    @given(
        RATES,
        st.lists(
            st.tuples(st.floats(0, 100, allow_nan=False), st.sampled_from([1.0, 2.0])), max_size=60
        ),
    )
    def test_never_more_than_promised(self, rate: Rate, steps: list[tuple[float, float]]) -> None:
        """Over any span no more is granted than the burst and what was refilled."""
        level, now = None, 1_000.0
        granted: list[tuple[float, float]] = []
        for pause, cost in steps:
            now += pause
            level, seconds = take(rate, level, now, cost)
            if seconds == 0.0:
                granted.append((now, cost))
        for first, (start, _) in enumerate(granted):
            spent = 0.0
            for at, cost in granted[first:]:
                spent += cost
                promised = rate.burst + rate.per_second * (at - start)
                self.assertLessEqual(spent, promised * (1 + 1e-9) + 1e-6)

    @settings(deadline=None, max_examples=200)
    @given(RATES, st.floats(0, 1e6, allow_nan=False), st.integers(1, 30))
    def test_waiting_helps(self, rate: Rate, now: float, times: int) -> None:
        """Who waits as long as told is served, and not earlier."""
        level: Level | None = None
        for _ in range(times + rate.burst):
            level, seconds = take(rate, level, now)
            if seconds > 0.0:
                _, early = take(rate, level, now + seconds * 0.9)
                self.assertGreater(early, 0.0)
                # A reading of the clock is no finer than this.
                now = math.nextafter(now + seconds, math.inf)
                level, seconds = take(rate, level, now)
                self.assertEqual(seconds, 0.0)
