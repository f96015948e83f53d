"""Sessions that share one handshake-era child."""

from typing import Any

from mcpguard.errors import Reason
from mcpguard.upstream.link import Link, Message, Outbound, UpstreamFailure
from tests.upstream.stdio_rig import (
    ALICE,
    BOB,
    CLIENT_PARAMS,
    InboxDouble,
    ScriptedServer,
    Sink,
    StdioCase,
)

LIST_CHANGED: Message = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


def updated(uri: str) -> Message:
    """What a server says of a changed resource."""
    return {
        "jsonrpc": "2.0",
        "method": "notifications/resources/updated",
        "params": {"uri": uri},
    }


class SharedCase(StdioCase):
    """An upstream with ``isolation = "shared"`` before a handshake-era server."""

    def make(self, **changes: Any) -> Any:
        """Shared unless a test says otherwise."""
        return super().make(**{"isolation": "shared", **changes})

    def subscribe(self, link: Link, uri: str, client_id: int = 1) -> Message:
        """Subscribe; the answer."""
        return self.ask(link, "resources/subscribe", {"uri": uri}, client_id).answered

    def unsubscribe(self, link: Link, uri: str) -> Message:
        """Unsubscribe; the answer."""
        return self.ask(link, "resources/unsubscribe", {"uri": uri}).answered

    def heard(self, number: int = -1) -> list[str]:
        """The methods a server heard after its handshake."""
        return self.servers[number].methods()[2:]


class HoldTests(SharedCase):
    """Calls whose client is being asked by somebody else than the child."""

    def test_held(self) -> None:
        """A call on a shared child can be held as any other."""
        link, _ = self.open()
        sink = self.ask(link, "hold")
        assert sink.call is not None
        sink.call.hold()
        self.turn(self.settings.timeout_secs + 1)
        self.assertEqual(sink.ends, [])
        sink.call.release()
        self.turn(self.settings.timeout_secs + 1)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)


class HandshakeTests(SharedCase):
    """One child, one handshake."""

    def test_greeted_once_by_the_gateway(self) -> None:
        """The child is told of the gateway alone, without capabilities, whoever comes."""
        self.open()
        self.open(BOB)
        (server,) = self.servers
        self.assertEqual(server.methods(), ["initialize", "notifications/initialized"])
        params = server.last("initialize")["params"]
        self.assertEqual(params["capabilities"], {})
        self.assertEqual(params["clientInfo"]["name"], "mcp-guard")

    def test_cached_result(self) -> None:
        """A client reads the child's result, under the version it asked for if that is known."""
        for asked, given in (("2025-03-26", "2025-03-26"), ("2099-01-01", "2025-11-25")):
            params = {**CLIENT_PARAMS, "protocolVersion": asked}
            opening = self.result(self.upstream.open_session(ALICE, params, InboxDouble(), ""))
            self.assertEqual(opening.result["protocolVersion"], given)
            self.assertEqual(opening.result["serverInfo"]["name"], "scripted")

    def test_child_per_principal(self) -> None:
        """With ``per_principal`` a principal's sessions share a child that nobody else uses."""
        self.make(isolation="per_principal")
        self.open()
        self.open()
        self.assertEqual(len(self.alive), 1)
        self.open(BOB)
        self.assertEqual(len(self.alive), 2)

    def test_rejected_handshake(self) -> None:
        """A server that refuses the gateway is a failure for every session that wants in."""
        self.new_server = lambda: ScriptedServer(legacy=False)
        openings = [
            self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "") for _ in range(2)
        ]
        for opening in openings:
            self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.alive, [])
        # A child that cannot be used is as good as one that crashed.
        self.assertEqual(self.books.events[-1].status, "crashed")

    def test_error_of_our_own(self) -> None:
        """Whatever goes wrong while the child is started, those who wait are told."""
        self.reactor.refuses = RuntimeError("not foreseen")
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.reactor.refuses = None
        self.turn(2)
        self.open()


class IsolationTests(SharedCase):
    """What one session does or hears must not concern another."""

    def test_same_ids_and_tokens(self) -> None:
        """Two sessions with the same id and token get their own answers and progress."""
        alice, bob = self.open()[0], self.open(BOB)[0]
        meta = {"_meta": {"progressToken": 1}}
        first, second = self.ask(alice, "hold", meta), self.ask(bob, "hold", meta)
        gids = [m["id"] for m in self.servers[0].heard if m["method"] == "hold"]
        child = self.reactor.children[0]
        for gid, amount in zip(reversed(gids), (2, 1), strict=True):
            child.says(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": gid, "progress": amount},
                },
                {"jsonrpc": "2.0", "id": gid, "result": {"number": amount}},
            )
        self.assertEqual(first.answered, {"jsonrpc": "2.0", "id": 1, "result": {"number": 1}})
        self.assertEqual(second.answered, {"jsonrpc": "2.0", "id": 1, "result": {"number": 2}})
        self.assertEqual([n["params"]["progress"] for n in first.notes], [1])
        self.assertEqual([n["params"]["progress"] for n in second.notes], [2])

    def test_log_level_stays_here(self) -> None:
        """One session must not change what the child logs for all; it is told it worked."""
        link, _ = self.open()
        answer = self.ask(link, "logging/setLevel", {"level": "debug"}, 4).answered
        self.assertEqual(answer, {"jsonrpc": "2.0", "id": 4, "result": {}})
        self.assertEqual(self.heard(), [])

    def test_log_lines_reach_nobody(self) -> None:
        """A log line cannot be attributed, so it is dropped and counted."""
        _, inbox = self.open()
        self.reactor.children[0].says(
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "secret"}},
            {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": {}},
        )
        self.assertEqual(inbox.notes, [])
        self.assertEqual(self.books.strays(), ["log", "unattributable"])

    def test_requests_are_refused(self) -> None:
        """No client stands behind the child: a ping is answered, all else unknown."""
        _, inbox = self.open()
        child, server = self.reactor.children[0], self.servers[0]
        child.says({"jsonrpc": "2.0", "id": "p", "method": "ping"})
        self.assertEqual(server.heard[-1], {"jsonrpc": "2.0", "id": "p", "result": {}})
        child.says({"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage"})
        self.assertEqual((server.heard[-1]["id"], server.heard[-1]["error"]["code"]), ("q", -32601))
        self.assertEqual(inbox.requests, [])

    def test_client_notifications_stay_here(self) -> None:
        """Nothing a client announces or responds reaches a child that others use."""
        link, _ = self.open()
        link.notify("notifications/roots/list_changed", None)
        link.respond({"jsonrpc": "2.0", "id": "q", "result": {}})
        self.assertEqual(self.heard(), [])

    def test_list_changes_reach_everybody(self) -> None:
        """Every session hears of changed lists, even after one session's inbox broke."""
        _, first = self.open()
        _, second = self.open(BOB)
        first.notes = None  # type: ignore[assignment]
        self.reactor.children[0].says(LIST_CHANGED)
        self.assertEqual(second.notes, [LIST_CHANGED])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_close_leaves_the_child(self) -> None:
        """A session that ends cancels its own calls and nobody else's."""
        (alice, _), (bob, _) = self.open(), self.open(BOB)
        gone, stays = self.ask(alice, "hold"), self.ask(bob, "hold")
        self.successResultOf(alice.close())
        gids = [m["id"] for m in self.servers[0].heard if m["method"] == "hold"]
        cancelled = self.servers[0].last("notifications/cancelled")
        self.assertEqual(cancelled["params"]["requestId"], gids[0])
        self.reactor.children[0].says({"jsonrpc": "2.0", "id": gids[1], "result": {}})
        self.assertIn("result", stays.answered)
        self.assertEqual(gone.ends, [])
        self.assertEqual(self.ask(alice).failure.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(len(self.alive), 1)


class SubscriptionTests(SharedCase):
    """Subscriptions are counted per URI."""

    def test_first_and_last_reach_the_child(self) -> None:
        """Two subscribers make one subscription, which ends with the second."""
        alice, bob = self.open()[0], self.open(BOB)[0]
        self.assertEqual(self.subscribe(alice, "file:///a", 5)["id"], 5)
        self.assertEqual(self.subscribe(bob, "file:///a", 6)["result"], {})
        self.assertEqual(self.heard(), ["resources/subscribe"])
        self.unsubscribe(alice, "file:///a")
        self.assertEqual(self.heard(), ["resources/subscribe"])
        self.unsubscribe(bob, "file:///a")
        self.assertEqual(self.heard(), ["resources/subscribe", "resources/unsubscribe"])

    def test_updates_reach_subscribers_only(self) -> None:
        """An update goes to who subscribed to it, or to something above it."""
        (alice, a_box), (bob, b_box) = self.open(), self.open(BOB)
        self.subscribe(alice, "file:///a")
        self.subscribe(bob, "file:///a/b")
        child = self.reactor.children[0]
        for uri in ("file:///a", "file:///a/b", "file:///a/b/c", "file:///ab", "file:///"):
            child.says(updated(uri))
        self.assertEqual(
            [note["params"]["uri"] for note in a_box.notes],
            ["file:///a", "file:///a/b", "file:///a/b/c"],
        )
        self.assertEqual(
            [note["params"]["uri"] for note in b_box.notes], ["file:///a/b", "file:///a/b/c"]
        )

    def test_others_subscriptions_cannot_be_ended(self) -> None:
        """Unsubscribing from what one never subscribed to changes nothing for the others."""
        (alice, a_box), (bob, _) = self.open(), self.open(BOB)
        self.subscribe(alice, "file:///a")
        self.assertEqual(self.unsubscribe(bob, "file:///a")["result"], {})
        self.assertEqual(self.heard(), ["resources/subscribe"])
        self.reactor.children[0].says(updated("file:///a"))
        self.assertEqual(len(a_box.notes), 1)

    def test_nothing_to_unsubscribe(self) -> None:
        """Unsubscribing from what nobody subscribed to is answered here."""
        link, _ = self.open()
        self.assertEqual(self.unsubscribe(link, "file:///a")["result"], {})
        self.assertEqual(self.unsubscribe(link, 7)["result"], {})  # type: ignore[arg-type]
        self.assertEqual(self.heard(), [])

    def test_refused_subscription(self) -> None:
        """When the child says no, nobody is subscribed."""
        link, inbox = self.open()
        self.servers[0].hold.add("resources/subscribe")
        sink = self.ask(link, "resources/subscribe", {"uri": "x:y"})
        gid = self.servers[0].last("resources/subscribe")["id"]
        child = self.reactor.children[0]
        child.says({"jsonrpc": "2.0", "id": gid, "error": {"code": -32002, "message": "no"}})
        self.assertIn("error", sink.answered)
        child.says(updated("x:y"))
        self.assertEqual(inbox.notes, [])

    def test_closing_unsubscribes(self) -> None:
        """A session's end gives up what only it had subscribed to."""
        alice, bob = self.open()[0], self.open(BOB)[0]
        self.subscribe(alice, "a:1")
        self.subscribe(alice, "a:2")
        self.subscribe(bob, "a:2")
        alice.close()
        self.turn()
        gone = self.servers[0].last("resources/unsubscribe")
        self.assertEqual(gone["params"], {"uri": "a:1"})
        self.assertEqual(self.heard().count("resources/unsubscribe"), 1)

    def test_long_uris_are_not_remembered(self) -> None:
        """What a session subscribes to is kept for its whole life, so a URI has a bound too."""
        link, _ = self.open()
        answer = self.subscribe(link, "a:" + "x" * 8191)
        self.assertEqual(answer["error"]["code"], -32602)
        self.assertEqual(self.heard(), [])
        self.assertIn("result", self.subscribe(link, "a:" + "x" * 8190))

    def test_bounded(self) -> None:
        """A session cannot subscribe without end."""
        link, _ = self.open()
        for number in range(1000):
            self.ask(link, "resources/subscribe", {"uri": f"a:{number}"}, turn=number % 50 == 49)
        self.turn()
        over = self.ask(link, "resources/subscribe", {"uri": "a:one-more"})
        self.assertEqual(over.failure.reason, Reason.UPSTREAM_BUSY)


class RestartTests(SharedCase):
    """Sessions outlive their child."""

    def test_calls_fail_and_sessions_live(self) -> None:
        """A crash fails what runs, at once and for good; the next call runs on a new child."""
        link, inbox = self.open()
        self.subscribe(link, "a:1")
        running = self.ask(link, "hold")
        self.reactor.children[0].exits(signal=11)
        self.assertEqual(running.failure.reason, Reason.UPSTREAM_FAILED)
        self.assertIn("result", self.ask(link).answered)
        self.assertEqual(inbox.closings, [])
        self.assertEqual(len(self.reactor.children), 2)
        self.assertEqual(
            self.servers[1].methods(),
            ["initialize", "notifications/initialized", "resources/subscribe", "tools/call"],
        )
        self.reactor.children[1].says(updated("a:1"))
        self.assertEqual(len(inbox.notes), 1)
        self.assertIn(("mcp_guard_upstream_restarts_total", {"server": "files"}), self.books.counts)

    def test_waiting_for_a_new_child(self) -> None:
        """Calls that come while the child starts wait for it, and can be given up."""
        link, _ = self.open()
        self.reactor.children[0].exits(1)
        waits = self.ask(link, turn=False)
        leaves = self.ask(link, turn=False)
        self.assertEqual((waits.ends, leaves.ends), ([], []))
        assert leaves.call is not None
        leaves.call.cancel("")
        self.turn()
        self.assertIn("result", waits.answered)
        self.assertEqual(leaves.ends, [])
        self.assertEqual(self.heard().count("tools/call"), 1)

    def test_child_that_closed_its_input(self) -> None:
        """A child that no longer reads is given up with the next call, which gets another."""
        link, _ = self.open()
        running = self.ask(link, "hold")
        self.reactor.children[0].closes(0)
        self.assertIn("result", self.ask(link).answered)
        self.assertEqual(len(running.ends), 1)
        self.assertEqual(self.reactor.children[0].asked, ["EOF"])
        self.assertEqual(len(self.alive), 1)

    def test_waiting_calls_that_end_each_other(self) -> None:
        """A call that is given up while others are being served is simply not served."""
        self.make(max_concurrency=1)
        link, _ = self.open()
        for fails in (False, True):
            if fails:
                self.new_server = lambda: ScriptedServer(legacy=False)
            self.turn(11)
            self.alive[0].exits(1)
            first = self.ask(link, "hold", turn=False)
            second, third = self.ask(link, turn=False), self.ask(link, turn=False)
            assert third.call is not None
            cancel = third.call.cancel

            def failed(sink: Sink, failure: UpstreamFailure, cancel: Any = cancel) -> None:
                sink.ends.append(failure)
                cancel("")

            self.patch(Sink, "failed", failed)
            self.turn()
            self.assertEqual([len(sink.ends) for sink in (second, third)], [1, 0])
            if not fails:
                assert first.call is not None
                first.call.cancel("")

    def test_calling_again_from_the_failure(self) -> None:
        """A caller that tries again the moment its call failed gets the next child."""
        link, _ = self.open()
        again = []
        self.ask(link, "hold")
        retrying = Sink()

        def retry(failure: UpstreamFailure) -> None:
            again.append(failure)
            link.request(Outbound(2, "tools/call", None, "2025-06-18", ALICE), retrying)

        self.patch(Sink, "failed", lambda _, failure: retry(failure))
        self.alive[0].exits(signal=9)
        self.turn()
        self.assertEqual(len(again), 1)
        self.assertIn("result", retrying.answered)

    def test_crash_loop(self) -> None:
        """A child that dies again and again is given a rest, and readiness says so."""
        self.upstream.start()
        self.turn()
        link, _ = self.open()
        self.assertTrue(self.upstream.standing.usable)
        for _ in range(5):
            self.assertEqual(len(self.alive), 1, len(self.reactor.children))
            self.alive[0].exits(1)
            self.turn(6)
        self.assertEqual(self.alive, [])
        self.assertEqual(
            (self.upstream.standing.usable, self.upstream.standing.reason), (False, "crash loop")
        )
        failure = self.ask(link).failure
        self.assertEqual(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        assert failure.retry_after is not None
        self.assertGreater(failure.retry_after, 30)
        self.assertIn("crash_loop", [event.status for event in self.books.events])
        self.turn(61)
        self.assertEqual(len(self.alive), 1)
        self.assertTrue(self.upstream.standing.usable)
        self.assertIn("result", self.ask(link).answered)

    def test_idle_child_is_evicted_and_comes_back(self) -> None:
        """An idle child is stopped though sessions are open; the next call starts another."""
        self.make(idle_timeout_secs=10)
        link, inbox = self.open()
        self.turn(15)
        self.assertEqual(self.alive, [])
        self.assertIn("result", self.ask(link).answered)
        self.assertEqual(inbox.closings, [])
        self.assertNotIn("crashed", [event.status for event in self.books.events])

    def test_subscribers_keep_the_child(self) -> None:
        """Who waits for news keeps the child running."""
        self.make(idle_timeout_secs=10)
        link, _ = self.open()
        self.subscribe(link, "a:1")
        self.turn(30)
        self.assertEqual(len(self.alive), 1)

    def test_gone_principals_are_forgotten(self) -> None:
        """What is kept of a principal ends with its sessions and its child."""
        self.make(isolation="per_principal", idle_timeout_secs=10)
        for number in range(5):
            link, _ = self.open(f"api_key:{number}")
            link.close()
            self.turn(15)
        self.open()
        self.assertEqual(list(self.upstream._sessions), [ALICE])

    def test_stop(self) -> None:
        """Stopping the upstream ends sessions and calls, and starts nothing again."""
        link, inbox = self.open()
        sink = self.ask(link, "hold")
        self.successResultOf(self.upstream.stop())
        self.assertEqual(len(sink.ends), 1)
        self.assertEqual(len(inbox.closings), 1)
        self.turn(100)
        self.assertEqual(self.alive, [])
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class PipesFirstRestartTests(RestartTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True
