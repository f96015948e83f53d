"""The resources a session is subscribed to, for all who want them."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.subscriptions import Subscriptions
from mcpguard.upstream.link import Message, UpstreamFailure


class Server:
    """Accepts what is not called bad, once the test lets it."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.waiting: list[tuple[str, str, Deferred[Message]]] = []

    def ask(self, method: str, uri: str) -> Deferred[Message]:
        """Note it."""
        assert not self.waiting, "one at a time"
        answer: Deferred[Message] = Deferred()
        self.asked.append((method.removeprefix("resources/"), uri))
        self.waiting.append((method, uri, answer))
        return answer

    def answer(self, failure: Exception | None = None) -> bool:
        """Answer what waits; False when nothing does."""
        if not self.waiting:
            return False
        method, uri, answer = self.waiting.pop()
        if failure is not None:
            answer.errback(failure)
        elif uri.startswith("bad"):
            answer.callback({"error": {"code": -32602}})
        else:
            (self.there.add if method == "resources/subscribe" else self.there.discard)(uri)
            answer.callback({"result": {}})
        return True


class SubscriptionTests(SynchronousTestCase):
    """`Subscriptions` before a server that takes its time."""

    def setUp(self) -> None:
        """Nothing subscribed."""
        self.server = Server()
        self.subscriptions = Subscriptions(self.server.ask)

    def test_first_and_last(self) -> None:
        """Only the first subscribes and only the last unsubscribes."""
        first, second = self.subscriptions.add("a"), self.subscriptions.add("a")
        self.assertNoResult(first)
        self.server.answer()
        third = self.subscriptions.add("a")
        for one in (first, second, third):
            self.assertTrue(self.successResultOf(one))
        for _ in range(3):
            self.assertEqual(self.server.asked, [("subscribe", "a")])
            self.assertEqual(self.subscriptions.uris, {"a"})
            self.subscriptions.remove("a")
        self.server.answer()
        self.assertEqual(self.server.asked[1:], [("unsubscribe", "a")])
        self.assertEqual((self.subscriptions.uris, self.server.there), (frozenset(), set()))

    def test_refused(self) -> None:
        """Who is refused has nothing to give back; the next one tries again."""
        for _ in range(2):
            both = [self.subscriptions.add("bad"), self.subscriptions.add("bad")]
            self.server.answer()
            self.assertEqual([self.successResultOf(one) for one in both], [False, False])
        self.subscriptions.remove("bad")
        self.assertEqual(self.server.asked, [("subscribe", "bad")] * 2)

    def test_no_word(self) -> None:
        """That the server says nothing is no refusal; the next one tries again."""
        for failure, reason in (
            (UpstreamFailure(Reason.UPSTREAM_TIMEOUT), Reason.UPSTREAM_TIMEOUT),
            (ValueError("bug"), Reason.INTERNAL),
        ):
            both = [self.subscriptions.add("a"), self.subscriptions.add("a")]
            self.server.answer(failure)
            told = [self.failureResultOf(one, UpstreamFailure).value for one in both]
            self.assertEqual([one.reason for one in told], [reason] * 2)
        self.flushLoggedErrors(ValueError)
        self.subscriptions.remove("a")
        again = self.subscriptions.add("a")
        self.server.answer()
        self.assertTrue(self.successResultOf(again))

    def test_nobody_waits_for_the_silence_of_others(self) -> None:
        """One request that is not answered in time ends all that is due: it would be the same."""
        for uri in ("kept", "left"):
            self.subscriptions.add(uri)
            self.server.answer()
        waiting = [self.subscriptions.add(uri) for uri in ("a", "b", "c")]
        self.subscriptions.remove("left")
        self.subscriptions.remove("kept")
        kept = self.subscriptions.add("kept")
        self.server.answer(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
        for one in waiting:
            self.failureResultOf(one, UpstreamFailure)
        self.assertTrue(self.successResultOf(kept))
        self.assertEqual(self.server.waiting, [])
        self.assertEqual(self.subscriptions.uris, {"kept"})
        again = self.subscriptions.add("left")
        self.server.answer()
        self.assertTrue(self.successResultOf(again))
        self.assertEqual(self.server.asked[-1], ("subscribe", "left"))

    def test_wanted_again_while_it_is_given_up(self) -> None:
        """Requests do not overtake each other."""
        self.subscriptions.add("a")
        self.server.answer()
        self.subscriptions.remove("a")
        again = self.subscriptions.add("a")
        self.assertNoResult(again)
        self.server.answer()
        self.server.answer()
        self.assertTrue(self.successResultOf(again))
        self.assertEqual(
            [method for method, _ in self.server.asked],
            ["subscribe", "unsubscribe"] * 1 + ["subscribe"],
        )
        self.assertEqual(self.server.there, {"a"})

    @settings(deadline=None, max_examples=60)
    @given(seed=st.integers(0, 2**32), steps=st.integers(1, 60))
    def test_any_order(self, seed: int, steps: int) -> None:
        """Whatever the order: in the end the server has what somebody holds, and nothing else."""
        random, server = Random(seed), Server()
        subscriptions = Subscriptions(server.ask)
        held: list[str] = []

        def told(accepted: bool, uri: str) -> None:
            if accepted:
                held.append(uri)

        def silent(failure: Failure) -> None:
            failure.trap(UpstreamFailure)

        for _ in range(steps):
            choice = random.randrange(3)
            if choice == 0:
                uri = random.choice(("a", "b", "bad"))
                subscriptions.add(uri).addCallbacks(told, silent, callbackArgs=(uri,))
            elif choice == 1 and held:
                subscriptions.remove(held.pop(random.randrange(len(held))))
            else:
                lost = random.random() < 0.2
                server.answer(UpstreamFailure(Reason.UPSTREAM_TIMEOUT) if lost else None)
            self.assertLessEqual(set(held), set(subscriptions.uris) | server.there)
        while server.answer():
            pass
        self.assertEqual(subscriptions.uris, set(held))
        self.assertLessEqual(set(held), server.there)
