"""Tests of what follows from a doubt about a server's eras."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import EraChoice
from mcpguard.errors import Reason
from mcpguard.upstream.doubts import Doubts


class DoubtTests(SynchronousTestCase):
    """`Doubts.raised`."""

    def setUp(self) -> None:
        """Time stands still."""
        self.clock = Clock()

    def doubts(self, choice: EraChoice = "auto") -> Doubts:
        """About one server, with consequences every ten seconds."""
        return Doubts("s", choice, self.clock, least_secs=10.0, retry_secs=1.0)

    def test_once_in_a_while(self) -> None:
        """The first has consequences at once, the next ones only when the time is over."""
        doubts = self.doubts()
        found = []
        for wait in (0, 0, 4, 5.5, 0.5, 0):
            self.clock.advance(wait)
            asks, failure = doubts.raised("odd")
            self.assertIs(failure.reason, Reason.UPSTREAM_CHANGED)
            found.append((asks, failure.retry_after))
        expected = [(True, 1), (False, 10), (False, 6), (False, 1), (True, 1), (False, 10)]
        self.assertEqual(found, expected)

    def test_pinned(self) -> None:
        """Where the configuration says what it speaks nothing is asked, nor may be retried."""
        for choice in ("legacy", "modern"):
            asks, failure = self.doubts(choice).raised("odd")
            self.assertEqual((asks, failure.reason), (False, Reason.UPSTREAM_FAILED))
            self.assertIsNone(failure.retry_after)
            self.assertIn(f"era = {choice}", failure.detail)
