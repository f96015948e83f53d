"""Tests of the arithmetic of leases."""

import math

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import (
    HORIZON,
    MAX_HOLDERS,
    MAX_LASTS,
    Ask,
    Bucket,
    Demand,
    Lease,
    dry_for,
    full_in,
    in_advance,
    lend,
    take_back,
)


def ask(
    holder: str = "a", least: int = 0, extra: int = 0, held: int = 0, lasts: float = 2.0
) -> Ask:
    """A question with what matters."""
    return Ask(holder, least, extra, held, lasts)


class LendTests(SynchronousTestCase):
    """What an authority grants."""

    def test_one_at_a_time(self) -> None:
        """Tokens for requests that wait are granted as in a plain bucket, and nothing is noted."""
        bucket, rate = Bucket(2.0, 0.0), Rate(0.5, 2)
        self.assertEqual(lend(bucket, rate, 0.0, ask(least=1)), Lease(1, 0, 1.0, 0, 0.0))
        self.assertEqual(lend(bucket, rate, 0.0, ask(least=1)), Lease(1, 0, 0.0, 0, 2.0))
        self.assertEqual(lend(bucket, rate, 1.0, ask(least=1)), Lease(0, 0, 0.5, 0, 1.0))
        self.assertEqual(lend(bucket, rate, 2.0, ask(least=1)), Lease(1, 0, 0.0, 0, 2.0))
        self.assertEqual(bucket.loans, {})

    def test_as_far_as_they_are_there(self) -> None:
        """More waiting than tokens: each token is granted, and nothing in advance."""
        bucket = Bucket(3.0, 0.0)
        lease = lend(bucket, Rate(1.0, 10), 0.0, ask(least=5, extra=50))
        self.assertEqual((lease.granted, lease.remaining, lease.wait), (3, 0.0, 1.0))
        self.assertEqual(bucket.loans, {})

    def test_half_in_advance(self) -> None:
        """In advance there is half of what is left at most, and half of the bucket in all."""
        bucket, rate = Bucket(100.0, 0.0), Rate(10.0, 100)
        self.assertEqual(lend(bucket, rate, 0.0, ask(least=20, extra=40)).granted, 60)
        self.assertEqual(lend(bucket, rate, 0.0, ask("b", extra=1_000)).granted, 10)
        self.assertEqual(bucket.lent, 50)
        self.assertEqual(lend(bucket, rate, 0.0, ask("c", extra=1_000)).granted, 0)

    def test_held_down(self) -> None:
        """The bucket does not refill over what is lent, until the loan ends."""
        bucket, rate = Bucket(10.0, 0.0), Rate(10.0, 10)
        self.assertEqual(lend(bucket, rate, 0.0, ask(extra=5, lasts=2.0)).granted, 5)
        self.assertEqual(lend(bucket, rate, 1.9, ask("b")).remaining, 5.0)
        self.assertEqual(lend(bucket, rate, 1.9, ask("b")).elsewhere, 5)
        # What comes from the end on, and not what would have come before it.
        self.assertAlmostEqual(lend(bucket, rate, 2.1, ask("b")).remaining, 6.0)
        self.assertEqual(bucket.loans, {})

    def test_kept(self) -> None:
        """A holder keeps what it says it still has, as far as it was lent and has not lapsed."""
        bucket, rate = Bucket(100.0, 0.0), Rate(1.0, 100)
        lend(bucket, rate, 0.0, ask(extra=20))
        self.assertEqual(lend(bucket, rate, 1.0, ask(held=8)).kept, 8)
        self.assertEqual(lend(bucket, rate, 1.0, ask(held=90)).kept, 8)
        self.assertEqual(lend(bucket, rate, 2.9, ask(held=8)).kept, 8)
        self.assertEqual(lend(bucket, rate, 5.0, ask(held=8)).kept, 0)
        self.assertEqual(lend(bucket, rate, 5.0, ask("stranger", held=8)).kept, 0)

    def test_taken_back(self) -> None:
        """What comes back is there again, once, and only what was lent."""
        bucket, rate = Bucket(10.0, 0.0), Rate(0.001, 10)
        lend(bucket, rate, 0.0, ask(extra=4))
        take_back(bucket, rate, 0.0, "stranger", 4)
        self.assertEqual(bucket.tokens, 6.0)
        take_back(bucket, rate, 0.0, "a", 40)
        take_back(bucket, rate, 0.0, "a", 4)
        self.assertEqual((bucket.tokens, bucket.loans), (10.0, {}))

    def test_many_holders(self) -> None:
        """Whoever comes after the most holders gets what waits, and nothing in advance."""
        bucket, rate = Bucket(10_000.0, 0.0), Rate(1.0, 10_000)
        for number in range(MAX_HOLDERS):
            self.assertEqual(lend(bucket, rate, 0.0, ask(f"h{number}", extra=1)).granted, 1)
        self.assertEqual(lend(bucket, rate, 0.0, ask("late", least=2, extra=9)).granted, 2)
        self.assertEqual(len(bucket.loans), MAX_HOLDERS)

    def test_longest_lease(self) -> None:
        """No lease outlasts the longest, whatever is asked for."""
        bucket, rate = Bucket(10.0, 0.0), Rate(1.0, 10)
        lend(bucket, rate, 0.0, ask(extra=2, lasts=1e9))
        self.assertEqual(bucket.loans["a"].end, MAX_LASTS)

    def test_clock_set_back(self) -> None:
        """It grants nothing, locks nobody out, and no loan lasts longer for it."""
        bucket, rate = Bucket(2.0, 10_000.0), Rate(1.0, 2)
        lend(bucket, rate, 10_000.0, ask(least=2))
        self.assertEqual(lend(bucket, rate, 100.0, ask(least=1)).granted, 0)
        self.assertEqual(lend(bucket, rate, 101.0, ask(least=1)).granted, 1)
        bucket, rate = Bucket(8.0, 10_000.0), Rate(1.0, 8)
        lend(bucket, rate, 10_000.0, ask(extra=4))
        lend(bucket, rate, 100.0, ask("b"))
        self.assertEqual(bucket.loans["a"].end, 100.0 + MAX_LASTS)

    def test_smaller_bucket(self) -> None:
        """A burst that was made smaller holds at once."""
        bucket = Bucket(100.0, 0.0)
        self.assertEqual(lend(bucket, Rate(1.0, 3), 0.0, ask(least=50)).granted, 3)

    def test_full_in(self) -> None:
        """After this time it is as good as new, not sooner."""
        rate = Rate(2.0, 10)
        self.assertEqual(full_in(Bucket(10.0, 0.0), rate), 0.0)
        self.assertEqual(full_in(Bucket(4.0, 0.0), rate), 3.0)
        bucket = Bucket(10.0, 0.0)
        lend(bucket, rate, 0.0, ask(extra=4, lasts=5.0))
        seconds = full_in(bucket, rate)
        lease = lend(bucket, rate, seconds, ask("b"))
        self.assertEqual((lease.remaining, lease.elsewhere), (10.0, 0))


class DemandTests(SynchronousTestCase):
    """How much a holder has in advance."""

    def test_rate_seen(self) -> None:
        """What was asked for in a horizon is expected of the next."""
        demand = Demand(0.0)
        for n in range(1, 401):
            demand.note(n / 1_000)
        self.assertAlmostEqual(demand.expected(0.4), 1_000 * HORIZON, delta=2)

    def test_pause_ends_it(self) -> None:
        """Nothing is expected after two horizons of silence."""
        demand = Demand(0.0)
        for _ in range(50):
            demand.note(0.1)
        self.assertEqual(demand.expected(0.2), 50)
        self.assertEqual(demand.expected(2 * HORIZON), 0)
        demand.note(10.0)
        self.assertEqual(demand.expected(10.0), 1)

    def test_in_advance(self) -> None:
        """One at a time when few come, never more than a quarter of the bucket."""
        rate = Rate(1_000.0, 400)
        self.assertEqual([in_advance(rate, n) for n in (0, 3, 4, 60, 5_000)], [0, 0, 4, 60, 100])
        self.assertEqual(in_advance(Rate(1_000.0, 3), 5_000), 0)

    def test_dry_for(self) -> None:
        """Who waits loses nothing: the bucket cannot overflow meanwhile."""
        for rate in (Rate(1_000.0, 500), Rate(1_000.0, 1), Rate(0.1, 5), Rate(1e6, 1)):
            self.assertGreater(dry_for(rate), 0.0)
            self.assertLessEqual(dry_for(rate) * rate.per_second, rate.burst / 4)
            self.assertLessEqual(dry_for(rate), 0.02)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "spend", "spend", "back", "lose", "crash", "late"]),
        st.integers(0, 2),
        st.integers(0, 6),
        st.integers(0, 12),
        # Just before and just after the ends of leases, and anything else.
        st.sampled_from([0.0, 0.01, 0.22, 1.79]) | st.floats(0.0, 1.5, allow_nan=False),
    ),
    max_size=80,
)


class Holders:
    """Three holders by the rules, over a channel that loses, and delays, what it likes."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.now = 0.0
        self.bucket = Bucket(float(rate.burst), 0.0)
        self.tokens = [0, 0, 0]
        self.ends = [0.0, 0.0, 0.0]
        self.names = ["0", "1", "2"]
        self.serial = 3
        self.lost: list[Ask] = []
        self.spent: list[float] = []

    def rename(self, who: int) -> None:
        """What the last question did is not known."""
        self.names[who] = str(self.serial)
        self.serial += 1
        self.tokens[who] = 0

    def held(self, who: int) -> int:
        """What it may still spend, by its own clock, which runs a tenth slow or not."""
        return self.tokens[who] if self.now < self.ends[who] else 0

    def step(self, kind: str, who: int, least: int, extra: int) -> None:
        """One thing happens."""
        question = ask(self.names[who], least, extra, self.held(who), 2.0)
        if kind == "ask":
            lease = lend(self.bucket, self.rate, self.now, question)
            needed = min(lease.granted, least)
            self.spent += [self.now] * needed
            self.tokens[who] = min(self.held(who), lease.kept) + lease.granted - needed
            self.ends[who] = self.now + 1.8
        elif kind == "spend" and self.held(who):
            count = min(self.held(who), extra)
            self.tokens[who] -= count
            self.spent += [self.now] * count
        elif kind == "back":
            tokens = self.held(who)
            take_back(self.bucket, self.rate, self.now, self.names[who], tokens)
            self.rename(who)
        elif kind == "lose":
            if least % 2:
                lend(self.bucket, self.rate, self.now, question)
            else:
                self.lost.append(question)
            self.rename(who)
        elif kind == "crash":
            self.rename(who)
        elif kind == "late" and self.lost:
            lend(self.bucket, self.rate, self.now, self.lost.pop(extra % len(self.lost)))


class SumTests(SynchronousTestCase):
    """The property that leases are for."""

    @settings(deadline=None, max_examples=150)
    @given(STEPS, st.floats(0.05, 20.0, allow_nan=False), st.integers(1, 30))
    @example(  # all of a lease spent just before its end, then all that the others can get
        [
            ("ask", 0, 0, 12, 0.0),
            ("spend", 0, 0, 12, 1.79),
            *(("ask", 1, 6, 0, pause) for pause in (0.22, 0.0, 0.0)),
        ],
        10.0,
        20,
    )
    def test_never_more_than_the_bucket(
        self,
        steps: list[tuple[str, int, int, int, float]],
        per_second: float,
        burst: int,
    ) -> None:
        """Over any window all holders spend no more than the burst and what came in it."""
        holders = Holders(Rate(per_second, burst))
        for kind, who, least, extra, pause in steps:
            holders.now += pause
            holders.step(kind, who, least, extra)
            bucket = holders.bucket
            self.assertLessEqual(bucket.tokens + bucket.lent, burst + 1e-6)
            self.assertGreaterEqual(bucket.tokens, -1e-6)
            self.assertLessEqual(bucket.lent, burst // 2)
        times = holders.spent
        for first, start in enumerate(times):
            if first and times[first - 1] == start:
                continue
            for last in range(first, len(times)):
                promised = burst + per_second * (times[last] - start)
                self.assertLessEqual(last - first + 1, promised + 1e-6)

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.tuples(st.floats(-50.0, 5.0, allow_nan=False), st.integers(0, 5), st.integers(0, 9)),
            max_size=40,
        ),
        st.floats(0.1, 10.0, allow_nan=False),
        st.integers(1, 20),
    )
    def test_clock_of_the_authority(
        self, steps: list[tuple[float, int, int]], per_second: float, burst: int
    ) -> None:
        """A clock set back again and again gives no more than the time that went forward."""
        rate, bucket, now, forward, granted = (
            Rate(per_second, burst),
            Bucket(burst, 0.0),
            0.0,
            0.0,
            0,
        )
        for pause, least, extra in steps:
            now += pause
            forward += max(0.0, pause)
            granted += lend(bucket, rate, now, ask(least=least, extra=extra)).granted
            self.assertLessEqual(granted, burst + per_second * forward + 1e-6)

    @settings(deadline=None, max_examples=100)
    @given(st.floats(0.05, 100.0, allow_nan=False), st.integers(1, 50))
    def test_nothing_withheld(self, per_second: float, burst: int) -> None:
        """One holder that asks for one at a time gets all that the rate has."""
        rate, bucket, now, granted = Rate(per_second, burst), Bucket(burst, 0.0), 0.0, 0
        for _ in range(200):
            lease = lend(bucket, rate, now, ask(least=1))
            granted += lease.granted
            now += lease.wait
        self.assertGreaterEqual(granted, math.floor(burst + per_second * now - 1e-6) - 1)
