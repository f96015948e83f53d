"""When a crashed child may be started again."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.crashes import CrashBook, CrashBounds, Crashes

BOUNDS = CrashBounds(
    first_secs=1,
    most_secs=8,
    jitter=0.5,
    loop=6,
    window_secs=60,
    cooldown_secs=100,
    healthy_secs=10,
)


class CrashesTests(SynchronousTestCase):
    """The crashes of one kind of child."""

    def setUp(self) -> None:
        """No crash yet, no jitter."""
        self.crashes = Crashes(BOUNDS, lambda: 0.0)

    def test_pauses_grow(self) -> None:
        """The first restart is at once, then the pauses double up to the most, then cool down."""
        pauses = []
        for _ in range(7):
            self.crashes.crashed(0, 1)
            pauses.append(self.crashes.wait(0))
        self.assertEqual(pauses, [0, 1, 2, 4, 8, 100, 100])

    def test_jitter_only_adds(self) -> None:
        """Jitter spreads restarts, and never makes them earlier."""
        late = Crashes(BOUNDS, lambda: 0.999)
        for _ in range(2):
            late.crashed(0, 1)
        self.assertGreater(late.wait(0), 1.4)
        self.assertLess(late.wait(0), 1.5)

    def test_loop_begins_once(self) -> None:
        """Only the crash that makes it a loop says so."""
        self.assertEqual(
            [self.crashes.crashed(0, 1) for _ in range(8)], [False] * 5 + [True] + [False] * 2
        )
        self.assertTrue(self.crashes.looping)

    def test_loop_outlasts_its_cooldown(self) -> None:
        """The first crash after a cool-down means another cool-down, not a fresh start."""
        for _ in range(6):
            self.crashes.crashed(0, 1)
        self.assertEqual(self.crashes.wait(100), 0)
        self.crashes.crashed(101, 1)
        self.assertEqual(self.crashes.wait(101), 100)

    def test_a_healthy_child_ends_the_loop(self) -> None:
        """A crash after a long life counts as the first one."""
        for _ in range(6):
            self.crashes.crashed(0, 1)
        self.crashes.crashed(200, 10)
        self.assertFalse(self.crashes.looping)
        self.assertEqual(self.crashes.wait(200), 0)

    def test_old_crashes_are_forgotten(self) -> None:
        """Only crashes within the window add up."""
        for now in range(0, 600, 30):
            self.assertFalse(self.crashes.crashed(now, 1))

    def test_restart_is_told_once(self) -> None:
        """Each crash makes one start a restart."""
        self.assertFalse(self.crashes.restart())
        self.crashes.crashed(0, 1)
        self.assertTrue(self.crashes.restart())
        self.assertFalse(self.crashes.restart())

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100)), max_size=300))
    def test_bounded_for_any_history(self, history: list[tuple[float, float]]) -> None:
        """Whatever happens, the pause is between nothing and the longest."""
        now = 0.0
        crashes = Crashes(BOUNDS, lambda: 0.5)
        for gap, lived in history:
            now += gap
            crashes.crashed(now, lived)
            self.assertLessEqual(0, crashes.wait(now))
            self.assertLessEqual(crashes.wait(now), 100 * 1.5)


class CrashBookTests(SynchronousTestCase):
    """Crashes by key."""

    def test_bounded(self) -> None:
        """The least recently used key is forgotten, the others are kept apart."""
        book = CrashBook(BOUNDS, lambda: 0.0, max_keys=2)
        for key in ("a", "a", "b"):
            book.of(key).crashed(0, 1)
        self.assertEqual((book.wait("a", 0), book.wait("b", 0)), (1, 0))
        book.of("a")
        book.of("c")
        self.assertEqual(len(book), 2)
        self.assertEqual(book.wait("a", 0), 1)

    def test_asking_keeps_nothing(self) -> None:
        """Looking a key up does not make room for it."""
        book = CrashBook(BOUNDS, lambda: 0.0, max_keys=2)
        self.assertEqual(book.wait("x", 0), 0)
        self.assertFalse(book.looping("x"))
        self.assertEqual(len(book), 0)
