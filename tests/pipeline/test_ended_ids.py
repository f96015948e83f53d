"""The memory of ended sessions."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.pipeline.ended_ids import EndedIds


class EndedIdsTests(SynchronousTestCase):
    """`EndedIds`."""

    def test_own_oldest_first(self) -> None:
        """A principal at its bound forgets its own oldest, although another's is older."""
        ended = EndedIds(total=10, per_principal=2)
        for one, key in (("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b")):
            ended.add(one, key)
        self.assertEqual([x in ended for x in ("a1", "b1", "b2", "b3")], [True, False, True, True])

    def test_oldest_of_all(self) -> None:
        """At the bound of all the oldest goes, whose ever it is."""
        ended = EndedIds(total=2, per_principal=2)
        for one, key in (("a1", "a"), ("b1", "b"), ("c1", "c")):
            ended.add(one, key)
        self.assertEqual([x in ended for x in ("a1", "b1", "c1")], [False, True, True])

    def test_only_one(self) -> None:
        """The newest is always known, also where there is room for one only."""
        ended = EndedIds(total=1, per_principal=1)
        for one in ("a1", "a2", "b1", "a3"):
            ended.add(one, one[0])
            self.assertIn(one, ended)
            self.assertEqual(len(ended), 1)

    @settings(deadline=None, max_examples=50)
    @given(ends=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60))
    def test_bounds(self, ends: list[tuple[str, int]]) -> None:
        """Whatever ends in whatever order: both bounds hold, and the newest is known."""
        ended = EndedIds(total=8, per_principal=4)
        names = {f"{key}{number}" for key, number in ends}
        for key, number in ends:
            ended.add(f"{key}{number}", key)
            self.assertIn(f"{key}{number}", ended)
            self.assertLessEqual(len(ended), 8)
            self.assertEqual(len(ended), sum(name in ended for name in names))
            for owner in "abc":
                self.assertLessEqual(sum(name in ended for name in names if name[0] == owner), 4)
