"""Tests of the count of requests in progress."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.limits.limiter import Places
from mcpguard.limits.places import MemoryPlaces, PlaceBook


class MemoryPlacesTests(SynchronousTestCase):
    """One process."""

    def test_limit(self) -> None:
        """So many at once and no more; a place given back is there again."""
        places: Places = MemoryPlaces()
        taken = [places.take_place("a", 2) for _ in range(3)]
        self.assertEqual(taken, [True, True, False])
        self.assertTrue(places.take_place("b", 1))
        places.give_place("a")
        self.assertEqual([places.take_place("a", 2) for _ in range(2)], [True, False])

    def test_nothing_stays(self) -> None:
        """Keys without a place are forgotten."""
        places = MemoryPlaces()
        for n in range(100):
            places.take_place(str(n), 5)
            places.give_place(str(n))
        self.assertEqual(places._taken, {})


class PlaceBookTests(SynchronousTestCase):
    """Many processes."""

    def test_limit_over_all(self) -> None:
        """Holders share the places of a key."""
        book = PlaceBook(max_places=100)
        self.assertTrue(book.take(1, 1, "a", 2))
        self.assertTrue(book.take(2, 1, "a", 2))
        self.assertFalse(book.take(1, 2, "a", 2))
        book.give(2, 1)
        self.assertTrue(book.take(1, 2, "a", 2))

    def test_gone(self) -> None:
        """The places of a holder that is gone are free; the others' are not."""
        book = PlaceBook(max_places=100)
        for number in range(3):
            book.take(1, number, "a", 4)
        book.take(2, 0, "a", 4)
        book.forget(1)
        book.forget(1)
        taken = [book.take(2, number, "a", 4) for number in range(1, 6)]
        self.assertEqual(taken, [True, True, True, False, False])

    def test_given_back_once(self) -> None:
        """What was never taken, or given back already, is no place."""
        book = PlaceBook(max_places=100)
        book.take(1, 7, "a", 2)
        for _ in range(3):
            book.give(1, 7)
            book.give(1, 99)
            book.give(5, 7)
        self.assertEqual(len(book), 0)

    def test_number_used_twice(self) -> None:
        """A number that is in use takes no second place, which nobody could give back."""
        book = PlaceBook(max_places=100)
        self.assertTrue(book.take(1, 1, "a", 5))
        self.assertFalse(book.take(1, 1, "a", 5))
        self.assertEqual(len(book), 1)

    def test_bounded(self) -> None:
        """No more than the bound over all keys."""
        book = PlaceBook(max_places=3)
        taken = [book.take(1, number, str(number), 1) for number in range(5)]
        self.assertEqual(taken, [True, True, True, False, False])

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["take", "take", "give", "forget"]),
                st.integers(0, 2),
                st.integers(0, 6),
                st.sampled_from("ab"),
            ),
            max_size=60,
        )
    )
    def test_like_a_list(self, steps: list[tuple[str, int, int, str]]) -> None:
        """It counts what a list of places would."""
        book, taken = PlaceBook(max_places=100), dict[tuple[int, int], str]()
        for kind, holder, number, key in steps:
            if kind == "take":
                free = sum(one == key for one in taken.values()) < 3
                granted = book.take(holder, number, key, 3)
                self.assertEqual(granted, free and (holder, number) not in taken)
                if granted:
                    taken[holder, number] = key
            elif kind == "give":
                book.give(holder, number)
                taken.pop((holder, number), None)
            else:
                book.forget(holder)
                taken = {at: one for at, one in taken.items() if at[0] != holder}
            self.assertEqual(len(book), len(taken))
        for holder in range(3):
            book.forget(holder)
        self.assertEqual((book._taken, book._held, len(book)), ({}, {}, 0))
