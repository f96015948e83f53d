"""Tests of the limiter in memory."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.limits.limiter import Grant, Limiter
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.policy.buckets import Rate

WALL = 1_800_000_000.0


class MemoryCase(SynchronousTestCase):
    """A limiter on a clock of the test's."""

    def setUp(self) -> None:
        """Start at a moment that is not zero."""
        self.clock = Clock()
        self.clock.advance(5_000.0)

    def limiter(self, max_keys: int = 100) -> MemoryLimiter:
        """A limiter whose wall clock runs with its own."""
        return MemoryLimiter(
            self.clock.seconds, lambda: WALL + self.clock.seconds() - 5_000.0, max_keys=max_keys
        )


class GrantTests(MemoryCase):
    """What a caller is told."""

    def test_interface(self) -> None:
        """It is a limiter."""
        limiter: Limiter = self.limiter()
        self.assertIsInstance(limiter.take("a", Rate(1.0, 1)), Grant)

    def test_numbers(self) -> None:
        """Limit is the rate rounded up, remaining whole tokens, reset when the bucket is full."""
        limiter = self.limiter()
        rate = Rate(2.5, 3)
        self.assertEqual(limiter.take("a", rate), Grant(True, 3, 2, WALL + 0.4, 0.0))
        self.assertEqual(limiter.take("a", rate), Grant(True, 3, 1, WALL + 0.8, 0.0))
        self.clock.advance(0.2)
        self.assertEqual(limiter.take("a", rate), Grant(True, 3, 0, WALL + 0.2 + 1.0, 0.0))
        refused = limiter.take("a", rate)
        self.assertEqual((refused.allowed, refused.remaining), (False, 0))
        self.assertAlmostEqual(refused.retry_after, 0.2)
        self.clock.advance(refused.retry_after)
        self.assertTrue(limiter.take("a", rate).allowed)

    def test_cost(self) -> None:
        """Several tokens at once, all or none."""
        limiter = self.limiter()
        rate = Rate(1.0, 5)
        self.assertTrue(limiter.take("a", rate, 4.0).allowed)
        self.assertFalse(limiter.take("a", rate, 2.0).allowed)
        self.assertTrue(limiter.take("a", rate, 1.0).allowed)

    def test_keys_apart(self) -> None:
        """What one key spends, no other lacks."""
        limiter = self.limiter()
        rate = Rate(1.0, 1)
        self.assertTrue(limiter.take("a", rate).allowed)
        self.assertFalse(limiter.take("a", rate).allowed)
        self.assertTrue(limiter.take("b", rate).allowed)

    def test_peek(self) -> None:
        """Looking spends nothing and remembers nobody."""
        limiter = self.limiter()
        rate = Rate(1.0, 2)
        for _ in range(5):
            self.assertEqual(limiter.peek("a", rate), Grant(True, 1, 2, WALL, 0.0))
        self.assertEqual(len(limiter), 0)
        limiter.take("a", rate)
        limiter.take("a", rate)
        refused = limiter.peek("a", rate)
        self.assertEqual((refused.allowed, refused.retry_after), (False, 1.0))

    def test_changed_rate(self) -> None:
        """A key whose rate was changed goes on under the new one."""
        limiter = self.limiter()
        limiter.take("a", Rate(0.001, 1))
        self.assertFalse(limiter.take("a", Rate(0.001, 1)).allowed)
        self.clock.advance(1.0)
        self.assertTrue(limiter.take("a", Rate(10.0, 5)).allowed)


class MemoryTests(MemoryCase):
    """How much is remembered."""

    def test_bounded(self) -> None:
        """No number of keys makes it remember more than its bound, notes included."""
        limiter = self.limiter(max_keys=1_000)
        rate = Rate(0.001, 5)
        for n in range(50_000):
            limiter.take(f"key {n}", rate)
            if n % 5_000 == 0:
                self.clock.advance(1.0)
        self.assertEqual(len(limiter), 1_000)
        self.assertLessEqual(len(limiter._shelf._filling), 2_001)

    def test_full_ones_go_first(self) -> None:
        """A refilled bucket is forgotten before one that still owes, however recent its use."""
        limiter = self.limiter(max_keys=3)
        slow, quick = Rate(0.001, 1), Rate(10.0, 1)
        limiter.take("owing 1", slow)
        limiter.take("owing 2", slow)
        limiter.take("refilled", quick)
        self.clock.advance(1.0)
        for n in range(20):
            limiter.take(f"visitor {n}", quick)
            self.clock.advance(1.0)
        self.assertEqual(len(limiter), 3)
        self.assertFalse(limiter.take("owing 1", slow).allowed)
        self.assertFalse(limiter.take("owing 2", slow).allowed)

    def test_used_again(self) -> None:
        """A bucket spent from again is full later than was first noted."""
        limiter = self.limiter(max_keys=2)
        rate = Rate(1.0, 3)
        for _ in range(3):
            limiter.take("a", rate)
        limiter.take("b", rate)
        self.clock.advance(1.5)
        # Noted as full by now, but it owes 1.5 tokens; "b" is full.
        limiter.take("c", rate)
        self.assertEqual(limiter.peek("a", rate).remaining, 1)
        self.assertEqual(limiter.peek("b", rate).remaining, 3)
        self.assertEqual(len(limiter), 2)

    def test_oldest_goes(self) -> None:
        """When all owe, the one used longest ago is forgotten."""
        limiter = self.limiter(max_keys=2)
        rate = Rate(0.001, 1)
        limiter.take("a", rate)
        limiter.take("b", rate)
        limiter.take("a", rate)
        limiter.take("c", rate)
        self.assertFalse(limiter.peek("a", rate).allowed)
        self.assertTrue(limiter.peek("b", rate).allowed)

    def test_forgotten_and_back(self) -> None:
        """Notes left by a forgotten key do not touch the key when it returns."""
        limiter = self.limiter(max_keys=1)
        rate = Rate(1.0, 2)
        limiter.take("a", rate)
        limiter.take("b", rate)
        self.clock.advance(0.5)
        limiter.take("a", rate)
        limiter.take("a", rate)
        self.clock.advance(0.6)
        # The first note of "a" has come due, the bucket of today has not.
        self.assertFalse(limiter._shelf._forget_full(self.clock.seconds()))
        self.assertEqual(len(limiter), 1)

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3, allow_nan=False)), max_size=60),
        st.floats(0.1, 5, allow_nan=False),
        st.integers(1, 5),
    )
    def test_never_more_than_promised(
        self, steps: list[tuple[str, float]], per_second: float, burst: int
    ) -> None:
        """With room for all keys, each gets its burst and its rate and no more."""
        clock = Clock()
        limiter = MemoryLimiter(clock.seconds, clock.seconds, max_keys=3)
        rate = Rate(per_second, burst)
        granted: dict[str, list[float]] = {}
        for key, pause in steps:
            clock.advance(pause)
            looked = limiter.peek(key, rate)
            grant = limiter.take(key, rate)
            self.assertEqual(looked.allowed, grant.allowed)
            if grant.allowed:
                granted.setdefault(key, []).append(clock.seconds())
            else:
                self.assertGreater(grant.retry_after, 0.0)
        for times in granted.values():
            for first, start in enumerate(times):
                for last in range(first, len(times)):
                    promised = burst + per_second * (times[last] - start)
                    self.assertLessEqual(last - first + 1, promised + 1e-6)

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=150), st.integers(1, 8)
    )
    def test_never_above_the_bound(self, steps: list[tuple[int, int]], max_keys: int) -> None:
        """Any sequence of keys and pauses stays within the bound."""
        clock = Clock()
        limiter = MemoryLimiter(clock.seconds, clock.seconds, max_keys=max_keys)
        for key, pause in steps:
            clock.advance(pause)
            limiter.take(str(key), Rate(0.5, 2))
            self.assertLessEqual(len(limiter), max_keys)
            self.assertLessEqual(len(limiter._shelf._filling), 2 * max_keys + 1)
