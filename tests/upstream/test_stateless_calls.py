"""Stateless requests of many callers on one child."""

from typing import Any

from mcpguard.errors import Reason
from mcpguard.protocol.mcp import META_LOG_LEVEL, META_SUBSCRIPTION_ID
from mcpguard.upstream.link import Link, Message, UpstreamFailure
from mcpguard.upstream.stateless_calls import StatelessCalls
from tests.upstream.stdio_rig import ALICE, BOB, ScriptedServer, Sink, StdioCase

LOG_LINE: Message = {
    "jsonrpc": "2.0",
    "method": "notifications/message",
    "params": {"level": "info", "data": "x"},
}
ACK = "notifications/subscriptions/acknowledged"


class StatelessCase(StdioCase):
    """An upstream before a stateless server."""

    def make(self, **changes: Any) -> Any:
        """Stateless only."""
        self.new_server = lambda: ScriptedServer(legacy=False, modern=True)
        upstream = super().make(**{"era": "modern", **changes})
        self.result(upstream.eras())
        return upstream

    @property
    def server(self) -> ScriptedServer:
        """The server that serves now."""
        return self.servers[-1]

    def listen(self, link: Link, client_id: str = "l") -> Sink:
        """Open a subscription stream."""
        params = {"notifications": {"toolsListChanged": True}}
        return self.ask(
            link, "subscriptions/listen", params, client_id, stateless=True, endless=True
        )

    def change(self) -> Message:
        """A notification on the newest stream, as the server sends it."""
        gid = self.server.last("subscriptions/listen")["id"]
        return {
            "jsonrpc": "2.0",
            "method": "notifications/tools/list_changed",
            "params": {"_meta": {META_SUBSCRIPTION_ID: gid}},
        }


class SharingTests(StatelessCase):
    """Whose child answers."""

    def test_one_child_for_all(self) -> None:
        """Principals share a child, which was sent nothing but server/discover before."""
        alice, bob = self.stateless(), self.stateless(BOB)
        first = self.ask(alice, client_id="a", stateless=True)
        second = self.ask(bob, client_id="a", stateless=True)
        self.assertEqual((first.answered["id"], second.answered["id"]), ("a", "a"))
        self.assertEqual(len(self.alive), 1)
        self.assertEqual(self.server.methods(), ["server/discover", "tools/call", "tools/call"])

    def test_child_per_principal(self) -> None:
        """``per_principal`` gives each its own, and so does ``per_session``, which has none."""
        for isolation in ("per_principal", "per_session"):
            self.make(isolation=isolation)
            before = len(self.alive)
            for key in (ALICE, ALICE, BOB):
                self.ask(self.stateless(key), stateless=True)
            self.assertEqual(len(self.alive) - before, 2)

    def test_closing_a_link_leaves_the_child(self) -> None:
        """A link is given back; the request it sent goes on."""
        link = self.stateless()
        sink = self.ask(link, "hold", stateless=True)
        self.successResultOf(link.close())
        gid = self.server.last("hold")["id"]
        self.alive[0].says({"jsonrpc": "2.0", "id": gid, "result": {}})
        self.assertIn("result", sink.answered)

    def test_server_that_does_not_discover(self) -> None:
        """A child that fails its first question is not used."""
        self.new_server = lambda: ScriptedServer(legacy=True, modern=False)
        link = self.stateless()
        self.assertEqual(self.ask(link, stateless=True).failure.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.alive, [])

    def test_no_sessions(self) -> None:
        """A server of this era cannot hold a handshake session."""
        opening = self.upstream.open_session(ALICE, {}, None, "")  # type: ignore[arg-type]
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_ERA)


class AttributionTests(StatelessCase):
    """Whose a message of the child is."""

    def ask_with_log(self, link: Link, principal: str = ALICE) -> Sink:
        """A running request that asks for log lines."""
        params = {"_meta": {META_LOG_LEVEL: "info"}}
        return self.ask(link, "hold", params, stateless=True, principal=principal)

    def test_log_for_the_only_reader(self) -> None:
        """One reader among any number of requests gets the line."""
        link = self.stateless()
        other, reader = self.ask(link, "hold", stateless=True), self.ask_with_log(link)
        self.alive[0].says(LOG_LINE)
        self.assertEqual(reader.notes, [LOG_LINE])
        self.assertEqual(other.notes, [])

    def test_log_for_none_of_two_readers(self) -> None:
        """With two readers nobody can tell whose it is, so nobody gets it."""
        first, second = self.ask_with_log(self.stateless()), self.ask_with_log(self.stateless(BOB))
        self.alive[0].says(LOG_LINE)
        self.assertEqual((first.notes, second.notes), ([], []))
        self.assertEqual(self.books.strays(), ["log"])

    def test_log_of_a_call_given_up(self) -> None:
        """A call that was cancelled may still log: its lines must not reach another principal."""
        alice, bob = self.stateless(), self.stateless(BOB)
        gone = self.ask_with_log(alice)
        assert gone.call is not None
        gone.call.cancel("enough")
        other = self.ask_with_log(bob, BOB)
        self.alive[0].says(LOG_LINE)
        self.assertEqual((gone.notes, other.notes), ([], []))
        self.assertEqual(self.books.strays(), ["log"])

    def test_log_after_a_call_timed_out(self) -> None:
        """Silence lasts as long as that call might have run; its own principal reads on."""
        alice, bob = self.stateless(), self.stateless(BOB)
        self.ask_with_log(alice)
        self.turn(self.settings.timeout_secs + 1)
        mine = self.ask_with_log(alice)
        self.alive[0].says(LOG_LINE)
        self.assertEqual(mine.notes, [LOG_LINE])
        assert mine.call is not None
        mine.call.cancel("enough")
        self.turn(self.settings.max_timeout_secs + 1)
        theirs = self.ask_with_log(bob, BOB)
        self.alive[0].says(LOG_LINE)
        self.assertEqual(theirs.notes, [LOG_LINE])

    def test_log_for_no_reader(self) -> None:
        """A line nobody asked for is dropped."""
        sink = self.ask(self.stateless(), "hold", stateless=True)
        self.alive[0].says(LOG_LINE)
        self.assertEqual(sink.notes, [])
        self.assertEqual(self.books.strays(), ["log"])

    def test_requests_of_the_server(self) -> None:
        """A stateless server must not ask; it gets no answer, not even to a ping."""
        self.ask(self.stateless(), stateless=True)
        heard = len(self.server.heard)
        for method in ("ping", "sampling/createMessage"):
            self.alive[0].says({"jsonrpc": "2.0", "id": 1, "method": method})
        self.assertEqual(len(self.server.heard), heard)
        self.assertEqual(self.books.strays(), ["request", "request"])

    def test_changes_without_a_stream(self) -> None:
        """A change that names no stream is nobody's."""
        sink = self.listen(self.stateless())
        self.alive[0].says({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        self.assertEqual([note["method"] for note in sink.notes], [ACK])
        self.assertEqual(self.books.strays(), ["unattributable"])


class DeadlineTests(StatelessCase):
    """One timer serves all requests of a child."""

    def test_request_sent_while_another_expires(self) -> None:
        """Who asks again at once after a timeout does not put off the timeouts of the others."""
        link = self.stateless()
        failed = Sink.failed

        def ask_again(sink: Sink, failure: UpstreamFailure) -> None:
            failed(sink, failure)
            self.patch(Sink, "failed", failed)
            self.ask(link, "hold", stateless=True, turn=False)

        self.patch(Sink, "failed", ask_again)
        first = self.ask(link, "hold", stateless=True)
        self.turn(5)
        second = self.ask(link, "hold", stateless=True)
        self.turn(self.settings.timeout_secs - 4)
        self.assertEqual(first.failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(second.ends, [])
        self.turn(5)
        self.assertEqual(second.failure.reason, Reason.UPSTREAM_TIMEOUT)

    def test_held_before_it_is_sent(self) -> None:
        """A call held while its child is being started is held when it runs, until released."""
        link = self.stateless()
        sink = self.ask(link, "hold", stateless=True, turn=False)
        assert sink.call is not None
        for step in (sink.call.hold, sink.call.hold, sink.call.release):
            step()
        self.turn(self.settings.timeout_secs + 10)
        self.assertEqual(sink.ends, [])
        sink.call.release()
        self.turn(self.settings.timeout_secs - 1)
        self.assertEqual(sink.ends, [])
        self.turn(2)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)


class ListenTests(StatelessCase):
    """Subscription streams, which outlive the child."""

    def test_stream(self) -> None:
        """Acknowledgement and changes name the stream as the client does; it has no deadline."""
        sink = self.listen(self.stateless(), "mine")
        self.turn(2000)
        self.alive[0].says(self.change())
        self.assertEqual(len(sink.notes), 2)
        for note in sink.notes:
            self.assertEqual(note["params"]["_meta"][META_SUBSCRIPTION_ID], "mine")

    def test_restart(self) -> None:
        """A new child is asked again, its acknowledgement is kept back, changes go on."""
        link = self.stateless()
        sink, call = self.listen(link), self.ask(link, "hold", stateless=True)
        self.alive[0].exits(signal=9)
        self.assertEqual(call.failure.reason, Reason.UPSTREAM_FAILED)
        self.turn(1)
        self.assertEqual(self.server.methods(), ["server/discover", "subscriptions/listen"])
        self.alive[0].says(self.change())
        self.assertEqual(sink.ends, [])
        self.assertEqual(
            [note["method"] for note in sink.notes], [ACK, "notifications/tools/list_changed"]
        )

    def test_cancel(self) -> None:
        """A client that leaves ends its stream at the child, and is not asked for again."""
        sink = self.listen(self.stateless())
        assert sink.call is not None
        sink.call.cancel("gone")
        self.assertEqual(self.server.methods()[-1], "notifications/cancelled")
        self.alive[0].exits(1)
        self.turn(5)
        self.assertEqual(self.server.methods(), ["server/discover"])
        self.assertEqual(sink.ends, [])

    def test_cancel_while_the_child_is_gone(self) -> None:
        """Leaving between two children leaves nothing to ask for again."""
        sink = self.listen(self.stateless())
        self.alive[0].exits(1)
        assert sink.call is not None
        sink.call.cancel("gone")
        self.turn(5)
        self.assertEqual(self.server.methods(), ["server/discover"])

    def test_server_ends_it(self) -> None:
        """The server's result ends the stream for good."""
        sink = self.listen(self.stateless(), "mine")
        gid = self.server.last("subscriptions/listen")["id"]
        result = {"resultType": "complete", "_meta": {META_SUBSCRIPTION_ID: gid}}
        self.alive[0].says({"jsonrpc": "2.0", "id": gid, "result": result})
        self.assertEqual(sink.answered["id"], "mine")
        self.assertEqual(sink.answered["result"]["_meta"], {META_SUBSCRIPTION_ID: "mine"})
        self.alive[0].exits(1)
        self.turn(5)
        self.assertEqual(len(sink.ends), 1)

    def test_crash_loop_ends_it(self) -> None:
        """When the child cannot be kept alive the streams end with a failure."""
        sink = self.listen(self.stateless())
        for _ in range(5):
            self.alive[0].exits(1)
            self.turn(6)
        self.assertEqual(self.alive, [])
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_UNAVAILABLE)

    def test_first_child_dies(self) -> None:
        """A stream that was never acknowledged fails with its child."""
        link = self.stateless()
        self.new_server = lambda: ScriptedServer(
            legacy=False, modern=True, hold={"subscriptions/listen"}
        )
        sink = self.listen(link)
        self.alive[0].exits(1)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_FAILED)

    def test_never_acknowledged(self) -> None:
        """A stream must begin in the time for an answer, also at a child that took another's
        place; the child is told that nobody waits for it any more.
        """
        link = self.stateless()
        old = self.listen(link)
        self.new_server = lambda: ScriptedServer(
            legacy=False, modern=True, hold={"subscriptions/listen"}
        )
        self.alive[0].exits(1)
        self.turn(1)
        new = self.listen(link)
        self.turn(self.settings.timeout_secs - 2)
        self.assertEqual((old.ends, new.ends), ([], []))
        self.turn(3)
        for sink in (old, new):
            self.assertEqual(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.server.methods().count("notifications/cancelled"), 2)

    def test_bounded(self) -> None:
        """There can be so many streams and no more, and they leave room for calls."""
        link = self.stateless()
        sinks = [self.listen(link) for _ in range(1000)]
        self.assertEqual([sink.ends for sink in sinks], [[]] * 1000)
        self.assertEqual(self.listen(link).failure.reason, Reason.UPSTREAM_BUSY)
        self.assertIn("result", self.ask(link, stateless=True).answered)

    def test_stop(self) -> None:
        """Stopping the upstream ends the streams once."""
        sink = self.listen(self.stateless())
        self.successResultOf(self.upstream.stop())
        self.turn(10)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_UNAVAILABLE)

    def test_error_of_our_own_at_the_restart(self) -> None:
        """What goes wrong with the streams keeps nobody waiting for the new child."""
        self.patch(StatelessCalls, "ready", lambda *_: 1 // 0)
        sink = self.ask(self.stateless(), stateless=True)
        self.assertIn("result", sink.answered)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class PipesFirstListenTests(ListenTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True
