"""Tests of the demo server's HTTP sessions."""

from mcpguard.demo.sessions import IDLE, Visit, Visits
from tests.demo.support import ServerCase


class VisitsTests(ServerCase):
    """`Visits` is bounded and forgets what is not used."""

    def setUp(self) -> None:
        """Room for two sessions."""
        super().setUp()
        self.visits = Visits(self.server, limit=2)

    def visit(self, age: float = 0.0) -> Visit:
        """A session last used ``age`` seconds ago, added."""
        visit = Visit(max_running=1, ask_timeout=1, max_waiting=1)
        visit.used -= age
        self.added = self.visits.add(visit)
        return visit

    def test_ids(self) -> None:
        """Ids are long, visible and different; only known ones are found."""
        first, second = self.visit(), self.visit()
        self.assertRegex(first.id, "^[0-9a-f]{64}$")
        self.assertNotEqual(first.id, second.id)
        self.assertIs(self.visits.find(first.id), first)
        self.assertIsNone(self.visits.find("other"))

    def test_remove(self) -> None:
        """A removed session is unknown and its stream has ended."""
        visit = self.visit()
        self.visits.remove(visit)
        self.assertIsNone(self.visits.find(visit.id))
        self.assertTrue(visit.outbox.ended)

    def test_idle(self) -> None:
        """Sessions nobody used for long are forgotten when another comes."""
        old = self.visit(age=IDLE + 1)
        self.visit()
        self.assertTrue(old.outbox.ended)
        self.assertIsNone(self.visits.find(old.id))

    def test_full(self) -> None:
        """At the limit the longest unused session makes room, but none that is listening."""
        older, newer = self.visit(age=2), self.visit(age=1)
        older.listening.acquire()
        self.visit()
        self.assertTrue(self.added)
        self.assertIsNone(self.visits.find(newer.id))
        self.assertIsNotNone(self.visits.find(older.id))

    def test_all_in_use(self) -> None:
        """When every session is listening there is no room."""
        self.visit().listening.acquire()
        self.visit().listening.acquire()
        self.visit()
        self.assertFalse(self.added)

    def test_end(self) -> None:
        """When the server stops every stream ends."""
        visit = self.visit()
        self.visits.end()
        self.assertTrue(visit.outbox.ended)
