"""Tests of buckets that are remembered by key."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.limits.shelf import Kept, Shelf


class ShelfTests(SynchronousTestCase):
    """`Shelf`."""

    def test_full_ones_first(self) -> None:
        """Of several buckets one that is full again goes, though others were used longer ago."""
        shelf: Shelf[str] = Shelf(3)
        for key, full_at in (("a", 90.0), ("b", 5.0), ("c", 80.0)):
            shelf.put(key, Kept(key, full_at), 0.0)
        shelf.put("d", Kept("d", 99.0), 10.0)
        self.assertEqual(list(shelf.kept), ["a", "c", "d"])

    def test_longest_unused_next(self) -> None:
        """With none full, the one goes that was used longest ago."""
        shelf: Shelf[str] = Shelf(2)
        shelf.put("a", Kept("a", 50.0), 0.0)
        shelf.put("b", Kept("b", 50.0), 0.0)
        shelf.kept.move_to_end("a")
        shelf.put("c", Kept("c", 50.0), 1.0)
        self.assertEqual(list(shelf.kept), ["a", "c"])

    def test_spent_again(self) -> None:
        """A bucket that was spent from since is not full at the moment noted first."""
        shelf: Shelf[str] = Shelf(2)
        shelf.put("a", Kept("a", 5.0), 0.0)
        shelf.put("b", Kept("b", 50.0), 0.0)
        shelf.kept["a"].full_at = 60.0
        shelf.kept.move_to_end("a")
        shelf.put("c", Kept("c", 50.0), 10.0)
        self.assertEqual(list(shelf.kept), ["a", "c"])

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=60))
    def test_bounded(self, steps: list[tuple[int, int]]) -> None:
        """Neither the buckets nor the notes about them grow beyond their bounds."""
        shelf: Shelf[int] = Shelf(4)
        for now, (key, wait) in enumerate(steps):
            if str(key) not in shelf.kept:
                shelf.put(str(key), Kept(key, float(now + wait)), float(now))
            self.assertLessEqual(len(shelf), 4)
            self.assertLessEqual(len(shelf._filling), 9)
