"""Tests of coroutines that are run without a Deferred until they must wait."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.pipeline.walking import walk


class WalkTests(SynchronousTestCase):
    """`walk`."""

    def setUp(self) -> None:
        """Nothing has happened."""
        self.seen: list[object] = []
        self.failures: list[BaseException] = []

    async def steps(self, *waits: Deferred[object]) -> None:
        """Note each value, or the exception, in its turn; the exception ValueError(0) ends it."""
        for wait in waits:
            try:
                self.seen.append(await wait)
            except KeyError as error:
                self.seen.append(repr(error))
        self.seen.append("end")

    def test_at_once(self) -> None:
        """What need not wait is over when the call returns."""
        walk(self.steps(), self.failures.append)
        walk(self.steps(succeed(1), succeed(None)), self.failures.append)
        self.assertEqual((self.seen, self.failures), (["end", 1, None, "end"], []))

    def test_waits(self) -> None:
        """Every value arrives where it is awaited, None too, in the order of the waits."""
        first, second, third = Deferred[object](), Deferred[object](), Deferred[object]()
        walk(self.steps(first, second, third), self.failures.append)
        second.callback(None)
        self.assertEqual(self.seen, [])
        first.callback("one")
        self.assertEqual(self.seen, ["one", None])
        third.callback(3)
        self.assertEqual((self.seen, self.failures), (["one", None, 3, "end"], []))

    def test_thrown_in(self) -> None:
        """A failure that is awaited is raised there, before and after a wait."""
        late = Deferred[object]()
        walk(self.steps(fail(KeyError("a")), late, succeed(2)), self.failures.append)
        late.errback(KeyError("b"))
        self.assertEqual(self.seen, ["KeyError('a')", "KeyError('b')", 2, "end"])
        self.assertEqual(self.failures, [])

    def test_fails(self) -> None:
        """Its own exception is told, before and after a wait, once."""
        error, late = ValueError("x"), Deferred[object]()
        walk(self.steps(fail(error)), self.failures.append)
        walk(self.steps(late), self.failures.append)
        late.errback(error)
        self.assertEqual((self.seen, self.failures), ([], [error, error]))
        self.assertEqual(self.flushLoggedErrors(), [])
