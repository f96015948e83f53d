"""Tests of the demo server's board of changes."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.changes import Changes, Watcher


class ChangesTests(SynchronousTestCase):
    """`Changes` tells exactly those who asked."""

    def setUp(self) -> None:
        """A board for two watchers."""
        self.changes = Changes(max_watchers=2)
        self.heard: list[tuple[str, str, object]] = []

    def watcher(self, name: str, *uris: str, lists: bool = False) -> Watcher:
        """A watcher that notes what it hears under ``name``."""
        return Watcher(
            lambda method, params: self.heard.append((name, method, params.get("uri"))),
            lists=lists,
            uris=uris,
            end=lambda: self.heard.append((name, "end", None)),
        )

    def test_interest(self) -> None:
        """A change reaches the watchers of its resource, a new list those of the list."""
        self.changes.watch(self.watcher("a", "demo://counter"))
        self.changes.watch(self.watcher("b", "demo://files/x", lists=True))
        self.changes.counted()
        self.changes.updated("demo://files/x")
        self.changes.relisted()
        self.assertEqual(
            self.heard,
            [
                ("a", "notifications/resources/updated", "demo://counter"),
                ("b", "notifications/resources/updated", "demo://files/x"),
                ("b", "notifications/resources/list_changed", None),
            ],
        )
        self.assertEqual(self.changes.count, 1)

    def test_bound(self) -> None:
        """There is no room for a third watcher until one has gone; it is not opened either."""
        first = self.watcher("a", "u")
        self.assertTrue(self.changes.watch(first))
        self.assertTrue(self.changes.watch(self.watcher("b")))
        opened: list[None] = []
        self.assertFalse(self.changes.watch(self.watcher("c"), lambda: opened.append(None)))
        self.changes.forget(first)
        self.changes.updated("u")
        self.assertEqual(self.heard, [])
        self.assertTrue(self.changes.watch(self.watcher("c"), lambda: opened.append(None)))
        self.assertEqual(len(opened), 1)

    def test_end(self) -> None:
        """Everyone is told when the server stops."""
        self.changes.watch(self.watcher("a"))
        self.changes.end()
        self.assertEqual(self.heard, [("a", "end", None)])
