"""Tests of the authority in memory."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.limits.authority import Authority, Returned
from mcpguard.limits.memory_authority import MemoryAuthority
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Bucket, Lease, lend

SLOW = Rate(0.001, 1)
QUICK = Rate(10.0, 1)


def one(holder: str = "h") -> Ask:
    """One token for now."""
    return Ask(holder, 1, 0, 0, 1.0)


class AuthorityTests(SynchronousTestCase):
    """Buckets by key."""

    def setUp(self) -> None:
        """Start at a moment that is not zero."""
        self.clock = Clock()
        self.clock.advance(5_000.0)

    def authority(self, max_keys: int = 100) -> MemoryAuthority:
        """An authority on the test's clock."""
        return MemoryAuthority(self.clock.seconds, max_keys=max_keys)

    def test_interface(self) -> None:
        """It is an authority, and answers at once."""
        authority: Authority = self.authority()
        lease = self.successResultOf(authority.lease("a", Rate(1.0, 3), one()))
        self.assertEqual(lease, Lease(1, 0, 2.0, 0, 0.0))

    def test_keys_apart(self) -> None:
        """What one key spends, no other lacks."""
        authority = self.authority()
        self.assertEqual(authority.decide("a", SLOW, one()).granted, 1)
        self.assertEqual(authority.decide("a", SLOW, one()).granted, 0)
        self.assertEqual(authority.decide("b", SLOW, one()).granted, 1)

    def test_given_back(self) -> None:
        """What comes back is there for others; of a key that is forgotten it is nothing."""
        authority, rate = self.authority(), Rate(0.001, 10)
        authority.decide("a", rate, Ask("h", 0, 5, 0, 5.0))
        authority.give_back([Returned("a", rate, "h", 5), Returned("nobody", rate, "h", 5)])
        self.assertEqual(authority.decide("a", rate, Ask("x", 20, 0, 0, 1.0)).granted, 10)
        self.assertEqual(len(authority), 1)

    def test_looking_remembers_nothing(self) -> None:
        """A full bucket that is looked at is not kept."""
        authority = self.authority()
        lease = authority.decide("a", Rate(1.0, 7), Ask("h", 0, 0, 0, 0.0))
        self.assertEqual((lease.remaining, len(authority)), (7.0, 0))

    def test_fault(self) -> None:
        """It never raises."""
        failing = self.authority().lease("a", None, one())  # type: ignore[arg-type]
        self.failureResultOf(failing, AttributeError)

    def test_bounded(self) -> None:
        """No number of keys makes it remember more than its bound, notes included."""
        authority = self.authority(max_keys=1_000)
        for n in range(20_000):
            authority.decide(f"key {n}", SLOW, one())
        self.assertEqual(len(authority), 1_000)
        self.assertLessEqual(len(authority._shelf._filling), 2_001)

    def test_full_ones_go_first(self) -> None:
        """A refilled bucket is forgotten before one that still owes, however recent its use."""
        authority = self.authority(max_keys=3)
        authority.decide("owing 1", SLOW, one())
        authority.decide("owing 2", SLOW, one())
        for n in range(20):
            authority.decide(f"visitor {n}", QUICK, one())
            self.clock.advance(1.0)
        self.assertEqual(len(authority), 3)
        self.assertEqual(authority.decide("owing 1", SLOW, one()).granted, 0)
        self.assertEqual(authority.decide("owing 2", SLOW, one()).granted, 0)

    def test_lent_is_not_full(self) -> None:
        """A bucket that somebody holds tokens of is not forgotten as a full one."""
        authority, rate = self.authority(max_keys=2), Rate(1_000.0, 10)
        authority.decide("a", SLOW, one())
        authority.decide("lent", rate, Ask("h", 0, 5, 0, 30.0))
        self.clock.advance(1.0)
        authority.decide("b", SLOW, one())
        look = Ask("x", 0, 0, 0, 0.0)
        self.assertEqual(authority.decide("lent", rate, look).elsewhere, 5)
        self.assertEqual(authority.decide("a", SLOW, look).remaining, 1.0)

    def test_oldest_goes(self) -> None:
        """When all owe, the one used longest ago is forgotten."""
        authority = self.authority(max_keys=2)
        for key in ("a", "b", "a", "c"):
            authority.decide(key, SLOW, one())
        look = Ask("h", 0, 0, 0, 0.0)
        self.assertEqual(authority.decide("a", SLOW, look).remaining, 0.0)
        self.assertEqual(authority.decide("b", SLOW, look).remaining, 1.0)

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 9), st.floats(0, 3)),
            max_size=80,
        ),
        st.integers(1, 4),
    )
    def test_like_buckets(self, steps: list[tuple[int, int, int, float]], max_keys: int) -> None:
        """It stays within its bound; with room for all it decides as the buckets alone do."""
        self.setUp()
        small, large = self.authority(max_keys), self.authority(10)
        rate, buckets = Rate(0.7, 12), dict[int, Bucket]()
        for key, least, extra, pause in steps:
            self.clock.advance(pause)
            ask = Ask(str(least), least, extra, 0, 2.0)
            now = self.clock.seconds()
            small.decide(str(key), rate, ask)
            self.assertLessEqual(len(small), max_keys)
            self.assertLessEqual(len(small._shelf._filling), 2 * max_keys + 1)
            bucket = buckets.setdefault(key, Bucket(12.0, now))
            self.assertEqual(large.decide(str(key), rate, ask), lend(bucket, rate, now, ask))
