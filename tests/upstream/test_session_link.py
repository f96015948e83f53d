"""Sessions with a child of their own: requests, and everything that can end them."""

from mcpguard.errors import Reason
from mcpguard.upstream.correlation import PROGRESS_BURST
from mcpguard.upstream.link import InitializeRejected, Message, Outbound
from tests.upstream.stdio_rig import (
    ALICE,
    BOB,
    CLIENT_PARAMS,
    InboxDouble,
    ScriptedServer,
    Sink,
    StdioCase,
)


class HandshakeTests(StdioCase):
    """Opening a session."""

    def test_initialize_is_the_clients(self) -> None:
        """The child hears the client's own params, and the client the child's own result."""
        _, inbox = self.open()
        (server,) = self.servers
        self.assertEqual(server.last("initialize")["params"], CLIENT_PARAMS)
        self.assertEqual(server.methods(), ["initialize", "notifications/initialized"])
        self.assertEqual(inbox.closings, [])

    def test_each_session_has_its_child(self) -> None:
        """Two sessions never share a process, not even of one principal."""
        self.open()
        self.open()
        self.assertEqual(len(self.alive), 2)
        self.assertEqual(self.upstream.child_count, 2)

    def test_rejected(self) -> None:
        """The server's error reaches the client; the child is stopped, which is no crash."""
        self.new_server = lambda: ScriptedServer(legacy=False)
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.turn()
        failure = self.failureResultOf(opening, InitializeRejected)
        self.assertEqual(failure.value.error["code"], -32022)
        self.assertEqual(self.alive, [])
        self.assertEqual([event.status for event in self.books.events], ["spawned", "exited"])

    def test_silent_server(self) -> None:
        """A server that never answers initialize fails the opening in time, uncancelled."""
        self.new_server = lambda: ScriptedServer(hold={"initialize"})
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.turn(61)
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.alive, [])
        self.assertEqual(self.servers[0].methods(), ["initialize"])

    def test_death_during_initialize(self) -> None:
        """A child that dies in the handshake fails the opening at once."""
        self.new_server = lambda: ScriptedServer(hold={"initialize"})
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.turn()
        self.reactor.children[0].exits(1)
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_FAILED)

    def test_given_up(self) -> None:
        """A client that leaves during the handshake leaves no child behind."""
        self.new_server = lambda: ScriptedServer(hold={"initialize"})
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.turn()
        opening.cancel()
        self.failureResultOf(opening)
        self.assertEqual(self.alive, [])

    def test_unknown_version(self) -> None:
        """A result with a version nobody knows is a failure."""

        class Odd(ScriptedServer):
            def _initialize(self, gid: object) -> dict[str, object]:
                return {"jsonrpc": "2.0", "id": gid, "result": {"protocolVersion": "1999-01-01"}}

        self.new_server = Odd
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.alive, [])

    def test_missing_command(self) -> None:
        """A command that is not there fails every opening, and nothing is started."""
        self.make(command="no-such-command-anywhere")
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.reactor.children, [])


class RequestTests(StdioCase):
    """Requests of a session."""

    def test_answer(self) -> None:
        """The client's id comes back with its type; the child saw another."""
        link, _ = self.open()
        sink = self.ask(link, client_id="7")
        self.assertEqual(sink.answered["id"], "7")
        self.assertIsInstance(self.servers[0].last("tools/call")["id"], int)
        self.assertEqual(self.books.results[-1], "success")

    def test_progress_reaches_its_request(self) -> None:
        """Progress carries the client's token, a burst whole, the last before the answer."""
        link, _ = self.open()
        sink = self.ask(link, "hold", {"_meta": {"progressToken": "t"}})
        gid = self.servers[0].last("hold")["params"]["_meta"]["progressToken"]
        child = self.reactor.children[0]

        def progress(amount: int) -> None:
            child.says(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": gid, "progress": amount},
                }
            )

        burst = list(range(PROGRESS_BURST))
        for amount in range(PROGRESS_BURST + 10):
            progress(amount)
        self.assertEqual([note["params"]["progress"] for note in sink.notes], burst)
        self.turn(0.06)
        self.assertEqual([note["params"]["progress"] for note in sink.notes], [*burst, 29])
        progress(30)
        progress(31)
        child.says({"jsonrpc": "2.0", "id": gid, "result": {}})
        self.assertEqual([note["params"]["progress"] for note in sink.notes], [*burst, 29, 31])
        self.assertEqual({note["params"]["progressToken"] for note in sink.notes}, {"t"})
        self.turn(1)
        self.assertEqual(len(sink.ends), 1)

    def test_timeout(self) -> None:
        """After the timeout the child and the client are told, a late answer is dropped."""
        link, _ = self.open()
        sink = self.ask(link, "hold")
        self.turn(59)
        self.assertEqual(sink.ends, [])
        self.turn(2)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)
        gid = self.servers[0].last("hold")["id"]
        self.assertEqual(
            self.servers[0].last("notifications/cancelled")["params"]["requestId"], gid
        )
        self.reactor.children[0].says({"jsonrpc": "2.0", "id": gid, "result": {}})
        self.assertEqual(self.books.strays(), ["late"])
        self.assertEqual(self.books.results[-1], "timeout")

    def test_held(self) -> None:
        """While a person is asked no time runs but the hard limit; then another timeout does."""
        link, _ = self.open()
        asking, other = self.ask(link, "hold"), self.ask(link, "hold")
        assert asking.call is not None
        self.turn(50)
        asking.call.hold()
        self.turn(11)
        self.assertEqual(other.failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.turn(200)
        asking.call.release()
        self.turn(59)
        self.assertEqual(asking.ends, [])
        self.turn(2)
        self.assertEqual(asking.failure.reason, Reason.UPSTREAM_TIMEOUT)

    def test_held_for_good(self) -> None:
        """Nobody may be waited for beyond the hard limit."""
        link, _ = self.open()
        asking = self.ask(link, "hold")
        assert asking.call is not None
        asking.call.hold()
        self.turn(899)
        self.assertEqual(asking.ends, [])
        self.turn(2)
        self.assertEqual(asking.failure.reason, Reason.UPSTREAM_TIMEOUT)

    def test_progress_extends_the_timeout_to_a_limit(self) -> None:
        """A call that reports progress lives on, but never beyond the hard limit."""
        link, _ = self.open()
        sink = self.ask(link, "hold", {"_meta": {"progressToken": 1}})
        gid = self.servers[0].last("hold")["id"]
        note = {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": gid, "progress": 1},
        }
        for _ in range(17):
            self.turn(50)
            self.reactor.children[0].says(note)
        self.assertEqual(sink.ends, [])
        self.turn(51)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)

    def test_cancel(self) -> None:
        """Cancelling tells the child and silences the sink; again it does nothing."""
        link, _ = self.open()
        sink = self.ask(link, "hold")
        assert sink.call is not None
        sink.call.cancel("no more")
        sink.call.cancel("no more")
        self.assertEqual(self.servers[0].methods().count("notifications/cancelled"), 1)
        self.assertEqual(self.servers[0].heard[-1]["params"]["reason"], "no more")
        self.turn(100)
        self.assertEqual(sink.ends, [])
        self.assertEqual(self.books.results[-1], "cancelled")

    def test_concurrency_is_bounded_over_all_children(self) -> None:
        """Above max_concurrency a request is refused with a time to come back."""
        self.make(max_concurrency=2)
        first, _ = self.open()
        second, _ = self.open(BOB)
        held = self.ask(first, "hold")
        self.ask(second, "hold")
        busy = self.ask(first)
        self.assertEqual(busy.failure.reason, Reason.UPSTREAM_BUSY)
        self.assertIsNotNone(busy.failure.retry_after)
        assert held.call is not None
        held.call.cancel("")
        self.assertIn("result", self.ask(second).answered)

    def test_child_that_does_not_read(self) -> None:
        """When the queue is full requests are refused; their slots are free again."""
        self.make(max_message_size=2_000_000, max_concurrency=50)
        link, _ = self.open()
        self.reactor.children[0].protocol.pauseProducing()  # type: ignore[attr-defined]
        big = {"data": "x" * 900_000}
        sinks = [self.ask(link, params=big, turn=False) for _ in range(100)]
        busy = [sink for sink in sinks if sink.ends]
        self.assertEqual(len(busy), 98)
        self.assertEqual(
            {(sink.failure.reason, sink.failure.detail) for sink in busy},
            {(Reason.UPSTREAM_BUSY, "the child does not read fast enough")},
        )

    def test_request_too_large(self) -> None:
        """A message above the bound never reaches the child."""
        self.make(max_message_size=1000)
        link, _ = self.open()
        sink = self.ask(link, params={"x": "y" * 1000})
        self.assertEqual(sink.failure.reason, Reason.TOO_LARGE)
        self.assertNotIn("tools/call", self.servers[0].methods())

    def test_malformed_answer_fails_at_once(self) -> None:
        """An answer that cannot be accepted ends its request, not the child."""
        link, _ = self.open()
        first, second = self.ask(link, "hold"), self.ask(link, "hold")
        gids = [m["id"] for m in self.servers[0].heard if m["method"] == "hold"]
        child = self.reactor.children[0]
        child.says({"jsonrpc": "2.0", "id": gids[0], "result": None})
        child.says(b'{"jsonrpc":"2.0","id":%d,"result":{"a":1,"a":2}}\n' % gids[1])
        self.assertEqual(first.failure.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(second.failure.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.alive), 1)

    def test_raising_sink_harms_nobody(self) -> None:
        """A sink that raises loses its own answer; the next one arrives."""
        link, _ = self.open()

        class Broken(Sink):
            def answer(self, message: Message) -> None:
                raise ZeroDivisionError

        link.request(Outbound(1, "hold", None, "2025-06-18", ALICE), Broken())
        self.turn()
        gid = self.servers[0].last("hold")["id"]
        self.reactor.children[0].says({"jsonrpc": "2.0", "id": gid, "result": {}})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("result", self.ask(link).answered)


class ServerTests(StdioCase):
    """What the child says on its own initiative."""

    def test_everything_goes_to_the_session(self) -> None:
        """Notifications and requests reach this session's inbox and no other; answers go back."""
        link, inbox = self.open()
        _, other = self.open(BOB)
        child = self.reactor.children[0]
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}
        request = {"jsonrpc": "2.0", "id": "s-1", "method": "sampling/createMessage", "params": {}}
        cancelled = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": "s-1"},
        }
        child.says(note, request, cancelled)
        self.assertEqual(inbox.notes, [note, cancelled])
        self.assertEqual(inbox.requests, [request])
        self.assertEqual((other.notes, other.requests), ([], []))
        link.respond({"jsonrpc": "2.0", "id": "s-1", "result": {"ok": 1}})
        self.assertEqual(self.servers[0].heard[-1]["id"], "s-1")

    def test_ping_is_answered_here(self) -> None:
        """The client is not bothered with the child's ping."""
        _, inbox = self.open()
        self.reactor.children[0].says({"jsonrpc": "2.0", "id": 5, "method": "ping"})
        self.assertEqual(self.servers[0].heard[-1], {"jsonrpc": "2.0", "id": 5, "result": {}})
        self.assertEqual(inbox.requests, [])

    def test_request_before_the_handshake(self) -> None:
        """A server that asks before its handshake is done is told no, since nobody is there."""
        self.new_server = lambda: ScriptedServer(hold={"initialize"})
        inbox = InboxDouble()
        self.upstream.open_session(ALICE, CLIENT_PARAMS, inbox, "")
        self.turn()
        self.reactor.children[0].says({"jsonrpc": "2.0", "id": 9, "method": "roots/list"})
        self.assertEqual(self.servers[0].heard[-1]["error"]["code"], -32601)
        self.assertEqual(inbox.requests, [])

    def test_client_messages_pass(self) -> None:
        """The session's notifications reach its child."""
        link, _ = self.open()
        link.notify("notifications/roots/list_changed", None)
        self.assertEqual(
            self.servers[0].heard[-1],
            {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
        )


class EndTests(StdioCase):
    """The end of a session's child."""

    def test_death_fails_everything_at_once(self) -> None:
        """Every waiting call fails, the inbox is closed once, later calls fail too."""
        link, inbox = self.open()
        sinks = [self.ask(link, "hold") for _ in range(3)]
        self.reactor.children[0].exits(signal=9)
        self.assertEqual([sink.failure.reason for sink in sinks], [Reason.UPSTREAM_FAILED] * 3)
        self.assertEqual(len(inbox.closings), 1)
        self.assertEqual(self.ask(link).failure.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.upstream.child_count, 0)
        # Tools are not idempotent: nothing is sent again, and no other child is started.
        self.turn(60)
        self.assertEqual(len(self.reactor.children), 1)

    def test_close(self) -> None:
        """Closing climbs the ladder, fires when the process is gone, and is no surprise."""
        self.reactor.obeys = ("TERM",)
        link, inbox = self.open()
        closing = link.close()
        self.assertNoResult(closing)
        self.turn(2.1)
        self.successResultOf(closing)
        self.assertEqual(self.reactor.children[0].asked, ["EOF", "TERM"])
        self.assertEqual(inbox.closings, [])
        self.assertEqual(self.books.events[-1].status, "exited")

    def test_oversized_answer(self) -> None:
        """A line above max_message_size kills the child and names the reason."""
        self.make(max_message_size=10_000)
        link, inbox = self.open()
        sink = self.ask(link, "hold")
        self.reactor.children[0].says(b"x" * 20_000)
        self.assertEqual(sink.failure.reason, Reason.ANSWER_TOO_LARGE)
        self.assertEqual(inbox.closings[0].reason, Reason.ANSWER_TOO_LARGE)
        self.assertEqual(self.alive, [])


class PipesFirstHandshakeTests(HandshakeTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True


class PipesFirstEndTests(EndTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True
