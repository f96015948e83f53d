"""Listens of stateless clients, fed from a session."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.upstream.link import Message, UpstreamFailure
from tests.pipeline.bridge.stateless_rig import BOUNDS, SUBSCRIPTION, Heard, StatelessRig

ALL: Message = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["a://x", "a://y"],
}
LOST = UpstreamFailure(Reason.UPSTREAM_FAILED, "exit 1")


class ListenTests(SynchronousTestCase):
    """`subscriptions/listen` before a double that accepts what is not called bad."""

    def setUp(self) -> None:
        """A rig."""
        self.rig = StatelessRig()
        self.rig.upstream.reply = lambda outbound: (
            {"error": {"code": -32002, "message": "none"}}
            if "bad" in (outbound.params or {}).get("uri", "")
            else {"result": {}}
        )

    def asked(self, session: int = -1) -> list[tuple[str, Any]]:
        """What the server was asked on a session."""
        return [
            (outbound.method, (outbound.params or {}).get("uri"))
            for outbound, _, _ in self.rig.link(session).requests
        ]

    def heard(self, listen: Heard) -> list[str]:
        """What a listen has heard since it was acknowledged."""
        told = listen.notifications[1:]
        return [
            one["params"].get("uri") or one["method"].removeprefix("notifications/") for one in told
        ]

    def test_acknowledged(self) -> None:
        """The first message tells what will be heard: what the server can do, and accepts."""
        asked = {**ALL, "resourceSubscriptions": ["a://x", "bad://y"]}
        listen = self.rig.listen(asked, id="L")
        self.rig.clock.advance(0)
        self.assertEqual(
            listen.notifications,
            [
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/subscriptions/acknowledged",
                    "params": {
                        "notifications": {
                            "toolsListChanged": True,
                            "resourcesListChanged": True,
                            "resourceSubscriptions": ["a://x"],
                        },
                        "_meta": {SUBSCRIPTION: "L"},
                    },
                }
            ],
        )
        self.assertFalse(listen.over)

    def test_server_without_any(self) -> None:
        """A server that tells of no changes leaves nothing to hear, and is asked for nothing."""
        self.rig.upstream.result["capabilities"] = {"tools": {}, "resources": {}}
        listen = self.rig.listen(ALL)
        self.assertEqual(listen.notifications[0]["params"]["notifications"], {})
        self.assertEqual(self.asked(), [])

    def test_each_hears_its_own(self) -> None:
        """Changes go to those who asked, under their own ids."""
        tools = self.rig.listen({"toolsListChanged": True}, id=1)
        x = self.rig.listen({"resourceSubscriptions": ["a://x"]}, id="1")
        everything = self.rig.listen(ALL, id=2)
        self.assertEqual(len(self.rig.upstream.links), 1)
        self.rig.tell("tools/list_changed")
        self.rig.tell("prompts/list_changed", {})
        self.rig.tell("resources/list_changed", {"_meta": {SUBSCRIPTION: "forged", "k": 1}})
        self.rig.tell("resources/updated", {"uri": "a://x/part"})
        self.rig.tell("resources/updated", {"uri": "a://y"})
        self.rig.tell("resources/updated", {"uri": "a://xy"})
        self.rig.tell("resources/updated", {"uri": 7})
        self.assertEqual(self.heard(tools), ["tools/list_changed"])
        self.assertEqual(self.heard(x), ["a://x/part"])
        self.assertEqual(
            self.heard(everything),
            ["tools/list_changed", "resources/list_changed", "a://x/part", "a://y"],
        )
        for listen, id in ((tools, 1), (x, "1"), (everything, 2)):
            ids = [one["params"]["_meta"][SUBSCRIPTION] for one in listen.notifications]
            self.assertEqual(set(map(repr, ids)), {repr(id)})
        self.assertEqual(everything.notifications[2]["params"]["_meta"], {SUBSCRIPTION: 2, "k": 1})

    def test_shared_subscriptions(self) -> None:
        """The first listen subscribes, the last one that leaves unsubscribes."""
        wanted: Message = {"resourceSubscriptions": ["a://x", "a://x"]}
        first, second = self.rig.listen(wanted), self.rig.listen(wanted)
        self.assertEqual(self.asked(), [("resources/subscribe", "a://x")])
        for listen in (first, second):
            self.assertEqual(len(self.asked()), 1)
            assert listen.call is not None
            listen.call.cancel("closed")
            listen.call.cancel("again")
        self.assertEqual(self.asked()[1:], [("resources/unsubscribe", "a://x")])
        self.rig.tell("resources/updated", {"uri": "a://x"})
        self.assertEqual((self.heard(first), first.over), ([], False))
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)

    def test_principals(self) -> None:
        """Another principal's session feeds its own listens only."""
        alice, bob = self.rig.listen(ALL), self.rig.listen(ALL, who="bob")
        self.rig.tell("tools/list_changed", session=1)
        self.rig.tell("resources/updated", {"uri": "a://x"}, session=1)
        self.assertEqual((self.heard(alice), len(self.heard(bob))), ([], 2))

    def test_nothing_before_the_acknowledgement(self) -> None:
        """What comes while the server is still asked is not heard yet."""
        self.rig.upstream.reply = lambda outbound: None
        listen = self.rig.listen(ALL)
        self.rig.tell("tools/list_changed")
        self.assertEqual(listen.notifications, [])
        for number in range(2):
            self.rig.link().answer(number, result={})
        self.rig.tell("tools/list_changed")
        self.assertEqual(self.heard(listen), ["tools/list_changed"])

    def test_leaves_while_the_server_is_asked(self) -> None:
        """What is accepted too late is given back."""
        self.rig.upstream.reply = lambda outbound: None
        listen = self.rig.listen(ALL)
        assert listen.call is not None
        listen.call.hold()
        listen.call.release()
        listen.call.cancel("closed")
        self.rig.link().answer(0, result={})
        self.assertEqual(
            self.asked(), [("resources/subscribe", "a://x"), ("resources/unsubscribe", "a://x")]
        )
        self.assertEqual((listen.notifications, self.rig.pool.sessions[0].in_use), ([], 0))

    def test_keeps_its_session(self) -> None:
        """A session with a listen never idles out; it is used now and then."""
        listen = self.rig.listen({"toolsListChanged": True})
        for _ in range(10):
            self.rig.clock.advance(15)
            self.rig.links.sweep()
        self.assertEqual(self.asked(), [("ping", None)] * 5)
        assert listen.call is not None
        listen.call.cancel("closed")
        self.rig.clock.advance(61)
        self.rig.links.sweep()
        self.assertEqual((len(self.asked()), len(self.rig.pool), self.rig.link().closed), (5, 0, 1))

    def test_ping_without_an_answer(self) -> None:
        """It is the link that finds out, so nothing follows."""
        self.rig.listen({"toolsListChanged": True})
        self.rig.upstream.reply = lambda outbound: None
        self.rig.clock.advance(30)
        self.rig.links.sweep()
        self.rig.link().requests[0][1].failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
        self.assertEqual(len(self.rig.pool), 1)

    def test_attended(self) -> None:
        """The link below can tell whether anybody listens."""
        session = self.rig.pool.sessions
        self.rig.call()
        self.assertFalse(self.rig.pool.sessions[0].attended)
        self.assertEqual(session, [])
        listen = self.rig.listen({})
        self.assertTrue(self.rig.pool.sessions[0].attended)
        assert listen.call is not None
        listen.call.cancel("closed")
        self.assertFalse(self.rig.pool.sessions[0].attended)

    def test_session_lost(self) -> None:
        """The listen stays, and is fed from a new session without a second acknowledgement."""
        listen = self.rig.listen(ALL)
        self.rig.tell("tools/list_changed")
        self.rig.upstream.inboxes[-1].closed(LOST)
        self.rig.clock.advance(1.2)
        self.assertEqual(len(self.rig.upstream.links), 1)
        self.rig.clock.advance(0.1)
        self.assertEqual(
            self.asked(1), [("resources/subscribe", "a://x"), ("resources/subscribe", "a://y")]
        )
        self.rig.tell("resources/updated", {"uri": "a://y"})
        self.assertEqual(self.heard(listen), ["tools/list_changed", "a://y"])
        self.assertFalse(listen.over)

    def test_no_more_than_acknowledged(self) -> None:
        """A new session that could tell more than the first does not: nobody was told so."""
        self.rig.upstream.result["capabilities"] = {"resources": {"subscribe": True}}
        listen = self.rig.listen({**ALL, "resourceSubscriptions": ["a://x", "bad://y"]})
        self.rig.clock.advance(0)
        self.rig.upstream.result["capabilities"] = {
            "tools": {"listChanged": True},
            "resources": {"subscribe": True},
        }
        self.rig.upstream.reply = lambda outbound: {"result": {}}
        self.rig.upstream.inboxes[-1].closed(LOST)
        self.rig.clock.advance(2)
        self.assertEqual(self.asked(1), [("resources/subscribe", "a://x")])
        self.rig.tell("tools/list_changed")
        self.rig.tell("resources/updated", {"uri": "a://x"})
        self.assertEqual(self.heard(listen), ["a://x"])

    def test_backoff(self) -> None:
        """Losses in a row make the wait longer, up to a bound; a long life makes it short again."""
        self.rig.listen({"toolsListChanged": True})
        waits = []

        def lose() -> None:
            known = len(self.rig.upstream.links)
            self.rig.upstream.inboxes[-1].closed(LOST)
            (due,) = self.rig.clock.getDelayedCalls()
            waits.append(due.getTime() - self.rig.clock.seconds())
            self.rig.clock.advance(waits[-1])
            self.assertEqual(len(self.rig.upstream.links), known + 1)

        for _ in range(9):
            lose()
        self.rig.clock.advance(60)
        lose()
        expected = [1.25, 2.5, 5, 10, 20, 40, 75, 75, 75, 1.25]
        for wait, right in zip(waits, expected, strict=True):
            self.assertAlmostEqual(wait, right, places=5)

    def test_server_that_stays_away(self) -> None:
        """An open listen goes on trying; one that has not begun fails."""
        listen = self.rig.listen({"toolsListChanged": True})
        self.rig.upstream.failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE)
        self.rig.upstream.inboxes[-1].closed(LOST)
        self.rig.clock.pump([5] * 10)
        self.assertFalse(listen.over)
        late = self.rig.listen({"toolsListChanged": True})
        self.assertEqual(late.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.rig.upstream.failure = None
        self.rig.clock.pump([60] * 2)
        self.assertEqual(len(self.rig.upstream.links), 2)
        self.rig.tell("tools/list_changed")
        self.assertEqual(self.heard(listen), ["tools/list_changed"])

    def test_leaves_while_there_is_no_session(self) -> None:
        """Nothing is looked for any more."""
        listen = self.rig.listen({"toolsListChanged": True})
        self.rig.upstream.inboxes[-1].closed(LOST)
        assert listen.call is not None
        listen.call.cancel("closed")
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])

    def test_server_that_says_nothing(self) -> None:
        """A listen that has not begun fails with it, however much it wants, and what it has is
        given back; one that was open before tries again until it hears of all of it.
        """
        old = self.rig.listen(ALL)
        self.rig.upstream.reply = lambda outbound: None
        self.rig.upstream.inboxes[-1].closed(LOST)
        self.rig.clock.advance(2)
        late = self.rig.listen({"resourceSubscriptions": [f"a://{number}" for number in range(9)]})
        for reason in (Reason.UPSTREAM_TIMEOUT, Reason.UPSTREAM_BUSY):
            self.rig.link().requests[-1][1].failed(UpstreamFailure(reason))
            self.rig.clock.advance(0)
            self.assertIs(late.failures[0].reason, Reason.UPSTREAM_TIMEOUT)
            self.assertEqual((old.over, len(self.rig.upstream.links)), (False, 2))
            self.assertEqual(self.rig.pool.sessions[0].in_use, 0)
            self.rig.clock.advance(10)
        self.rig.link().answer(-1, result={})
        self.rig.link().answer(-1, result={})
        self.rig.tell("resources/updated", {"uri": "a://y"})
        self.assertEqual(self.heard(old), ["a://y"])
        self.assertEqual(len(old.notifications), 2)

    def test_forgotten_while_the_server_is_asked(self) -> None:
        """A session that turns out to be unknown is left for another one."""
        self.rig.upstream.reply = lambda outbound: None
        listen = self.rig.listen({"resourceSubscriptions": ["a://x"]})
        unknown = UpstreamFailure(Reason.SESSION_NOT_FOUND)
        self.rig.link().requests[-1][1].failed(unknown)
        self.rig.clock.pump([0, 2])
        self.assertEqual((listen.over, len(self.rig.upstream.links)), (False, 2))
        self.rig.link().answer(0, result={})
        self.assertEqual(len(listen.notifications), 1)

    def test_lost_while_the_server_is_asked(self) -> None:
        """Also a listen that was not acknowledged yet finds another session."""
        self.rig.upstream.reply = lambda outbound: None
        listen = self.rig.listen({"resourceSubscriptions": ["a://x"]})
        self.rig.lose(LOST)
        self.rig.clock.advance(2)
        self.assertEqual(listen.notifications, [])
        self.rig.link(1).answer(0, result={})
        told = listen.notifications[0]["params"]["notifications"]
        self.assertEqual(told, {"resourceSubscriptions": ["a://x"]})

    def test_news_on_the_stream_of_a_call(self) -> None:
        """An HTTP server may tell of a change there; those who listen hear it."""
        self.rig.upstream.reply = lambda outbound: None
        listen = self.rig.listen({"toolsListChanged": True})
        call = self.rig.call()
        message = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        self.rig.link().requests[0][1].notification(message)
        self.assertEqual((self.heard(listen), call.notifications), (["tools/list_changed"], []))

    def test_bound(self) -> None:
        """So many listens at once, of all principals; each that ends makes room."""
        rig = StatelessRig(bounds=evolve(BOUNDS, listens=2))
        first = rig.listen({})
        rig.listen({}, who="bob")
        self.assertEqual(rig.listen({}).failures[0].reason, Reason.OVERLOADED)
        assert first.call is not None
        first.call.cancel("closed")
        self.assertEqual(rig.listen({}).failures, [])
