"""Tests of `mcpguard.pipeline.bridge.handshake_sessions` and of the links it gives."""

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.handshake_link import HandshakeLink
from mcpguard.pipeline.bridge.listen_stream import LISTEN
from mcpguard.protocol.mcp import (
    META_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_SERVER_INFO,
)
from mcpguard.upstream.link import Eras, Link, Message, UpstreamFailure
from tests.pipeline.bridge.handshake_rig import (
    CAN_ALL,
    FORM,
    MODERN,
    OFFERS,
    ClientInbox,
    ClientSink,
    HandshakeCase,
    StatelessServer,
)
from tests.pipeline.rig import MemoryOutlet, Rig

ECHO: Message = {
    "name": "echo",
    "inputSchema": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
}


class OpeningTests(HandshakeCase):
    """``initialize``, and sessions of an earlier life."""

    def test_result(self) -> None:
        """The client gets what the server said to the probe, in its own version."""
        self.server.known_eras = evolve(
            self.server.known_eras,
            discovered={
                "capabilities": OFFERS,
                "instructions": "Be careful",
                "_meta": {META_SERVER_INFO: {"name": "s", "version": "2"}},
            },
        )
        opening = self.opening(ClientInbox(), protocolVersion="2025-03-26")
        self.assertEqual(
            opening.result,
            {
                "protocolVersion": "2025-03-26",
                "capabilities": OFFERS,
                "serverInfo": {"name": "s", "version": "2"},
                "instructions": "Be careful",
            },
        )
        self.assertTrue(opening.ephemeral)
        self.assertTrue(opening.resumable)
        self.assertIsNone(opening.session_id)
        self.assertEqual(self.server.exchanges, [])

    def test_server_that_is_not_told_of(self) -> None:
        """Where the probe got an error, the server is asked now."""
        self.server.known_eras = Eras(legacy=False, modern=(MODERN,))
        opening = Deferred.fromCoroutine(
            self.sessions.open(self.server.known_eras, "key:alice", {}, ClientInbox(), "")
        )
        self.assertNoResult(opening)
        self.assertEqual(self.server.last.outbound.method, "server/discover")
        self.server.last.complete(capabilities={"tools": {}})
        self.assertEqual(self.successResultOf(opening).result["capabilities"], {"tools": {}})

    def test_server_that_cannot_be_asked(self) -> None:
        """No session without knowing what the server offers."""
        self.server.known_eras = Eras(legacy=False, modern=(MODERN,))
        for code, reason in ((-32022, Reason.UPSTREAM_CHANGED), (-32603, Reason.UPSTREAM_FAILED)):
            opening = Deferred.fromCoroutine(
                self.sessions.open(self.server.known_eras, "key:alice", {}, ClientInbox(), "")
            )
            self.server.last.answer(error={"code": code, "message": "no"})
            failure = self.failureResultOf(opening, UpstreamFailure)
            self.assertIs(failure.value.reason, reason)
        self.assertEqual(len(self.sessions), 1)

    def test_version_nobody_speaks(self) -> None:
        """A server whose stateless versions are all unknown here cannot be translated to."""
        eras = Eras(legacy=False, modern=("2099-01-01",), discovered={})
        opening = Deferred.fromCoroutine(
            self.sessions.open(eras, "key:alice", {}, ClientInbox(), "")
        )
        failure = self.failureResultOf(opening, UpstreamFailure)
        self.assertIs(failure.value.reason, Reason.UPSTREAM_ERA)

    def test_resume(self) -> None:
        """A session goes on from its params alone, and hears of changes at once."""
        params: Message = {
            "protocolVersion": "2030-01-01",
            "capabilities": CAN_ALL,
            "clientInfo": {"name": "c", "version": "1"},
        }
        inbox = ClientInbox()
        link = self.successResultOf(
            Deferred.fromCoroutine(
                self.sessions.resume(
                    self.server.known_eras, "key:alice", params, "2025-06-18", inbox, ""
                )
            )
        )
        assert isinstance(link, HandshakeLink)
        self.assertEqual(link.client.version, "2025-06-18")
        self.server.last.acknowledge()
        self.server.last.note("tools/list_changed")
        self.assertEqual(inbox.changes, ["tools/list_changed"])
        sink, _ = self.call("tools/list", link=link)
        meta = self.server.last.params["_meta"]
        self.assertEqual(meta[META_CLIENT_INFO], params["clientInfo"])
        self.assertEqual(meta[META_CAPABILITIES]["elicitation"], {"form": {}})
        self.server.last.complete(tools=[])
        self.assertEqual(sink.result, {"tools": []})

    def test_end_all(self) -> None:
        """The end of the gateway is the end of every session, and there are no others."""
        other = self.open(ClientInbox())
        sinks = [self.call("tools/list", link=link)[0] for link in (self.link, other)]
        self.successResultOf(self.sessions.end_all())
        self.assertEqual(len(self.sessions), 0)
        for sink in sinks:
            self.assertIs(sink.failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        opening = Deferred.fromCoroutine(
            self.sessions.open(self.server.known_eras, "key:alice", {}, ClientInbox(), "")
        )
        failure = self.failureResultOf(opening, UpstreamFailure)
        self.assertIs(failure.value.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assert_idle()

    def test_close(self) -> None:
        """A closed link takes nothing more, and is not kept."""
        self.successResultOf(self.link.close())
        self.successResultOf(self.link.close())
        self.assertEqual(len(self.sessions), 0)
        sink, call = self.call("tools/list")
        call.hold()
        call.cancel("late")
        call.release()
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.server.exchanges, [])


class AnsweredHereTests(HandshakeCase):
    """What never reaches the server."""

    def test_ping(self) -> None:
        """The gateway answers a ping."""
        sink, _ = self.call("ping", id="p")
        self.assertEqual(sink.ends, [{"jsonrpc": "2.0", "id": "p", "result": {}}])
        self.assertEqual(self.server.exchanges, [])

    def test_log_level(self) -> None:
        """A level is kept and sent with each request from then on, with none before."""
        self.call("tools/list")
        self.assertNotIn(META_LOG_LEVEL, self.server.last.params["_meta"])
        for level in ("warning", "debug"):
            sink, _ = self.call("logging/setLevel", level=level)
            self.assertEqual(sink.result, {})
            self.call("tools/list")
            self.assertEqual(self.server.last.params["_meta"][META_LOG_LEVEL], level)

    def test_unknown_level(self) -> None:
        """A level that is none is refused and changes nothing."""
        self.call("logging/setLevel", level="error")
        odd: list[Any] = ["loud", "", None, 5, ["error"], {}]
        for level in odd:
            sink, _ = self.call("logging/setLevel", level=level)
            self.assertEqual(sink.error["code"], -32602)
        self.assertEqual(self.link.log_level, "error")

    def test_unknown_methods(self) -> None:
        """What the bridge does not know reaches no server, nor what only one era has."""
        for method in ("tasks/list", "server/discover", "subscriptions/listen", "initialize", "x"):
            sink, _ = self.call(method)
            self.assertEqual(sink.error["code"], -32601)
        self.assertEqual(self.server.exchanges, [])

    def test_responses_to_nobody(self) -> None:
        """A response that nobody waits for is dropped, whatever its id is."""
        ids: list[Any] = ["bridge-1", 1, None, ["x"]]
        for id in ids:
            self.link.respond({"jsonrpc": "2.0", "id": id, "result": {}})
        self.assertEqual(self.strays(), ["late"] * 4)

    def test_response_to_another_session(self) -> None:
        """The questions of one session cannot be answered in another."""
        self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM)
        self.reply(0, link=self.open(ClientInbox()), result={"action": "decline"})
        self.assertEqual(len(self.server.exchanges), 1)


class QuietServerTests(HandshakeCase):
    """A server that sends no log messages."""

    offers = {"tools": {}}

    def test_log_level(self) -> None:
        """It takes no level either."""
        sink, _ = self.call("logging/setLevel", level="debug")
        self.assertEqual(sink.error["code"], -32601)


class HeaderTests(HandshakeCase):
    """``Mcp-Param-*``: headers that a handshake-era client knows nothing of."""

    def test_built(self) -> None:
        """They are made from the arguments, by the tool's schema, which is asked for once."""
        self.server.tools = [ECHO]
        for region, sent in (("eu", (("Mcp-Param-Region", "eu"),)), (None, ())):
            self.call("tools/call", name="echo", arguments={"region": region})
            self.assertEqual(self.server.last.outbound.headers, sent)
        self.call("tools/call", name="other", arguments={"region": "eu"})
        self.assertEqual(self.server.last.outbound.headers, ())
        self.call("tools/call", name="echo", arguments=[1])
        self.assertEqual(self.server.last.outbound.headers, ())
        self.assertEqual(self.server.schema_lists, 1)

    def test_in_each_round(self) -> None:
        """A further round is a request like the first."""
        self.server.tools = [ECHO]
        self.call("tools/call", name="echo", arguments={"region": "eu"})
        self.server.last.ask("s", q=FORM)
        self.reply(0, result={"action": "decline"})
        self.assertEqual(self.server.last.outbound.headers, (("Mcp-Param-Region", "eu"),))

    def test_learned_from_lists(self) -> None:
        """A list of tools that passes by tells of new ones; broken ones are taken out of it."""
        self.call("tools/call", name="echo")
        broken = {"name": "b", "inputSchema": {"x-mcp-header": "X"}}
        sink, _ = self.call("tools/list")
        self.server.last.complete(tools=[ECHO, broken])
        self.assertEqual(sink.result, {"tools": [ECHO]})
        self.call("tools/call", name="echo", arguments={"region": "eu"})
        self.assertEqual(self.server.last.outbound.headers, (("Mcp-Param-Region", "eu"),))
        self.assertEqual(self.server.schema_lists, 1)

    def test_tool_that_changed(self) -> None:
        """A server that refuses the headers has other tools by now: they are asked for, once."""
        sink, _ = self.call("tools/call", name="echo", arguments={"region": "eu"})
        self.assertEqual(self.server.last.outbound.headers, ())
        self.server.tools = [ECHO]
        mismatch = {"code": -32020, "message": "Header mismatch"}
        self.server.last.answer(error=mismatch)
        again = self.server.last
        self.assertEqual(again.outbound.headers, (("Mcp-Param-Region", "eu"),))
        self.assertEqual(again.params, self.server.exchanges[0].params)
        again.answer(error=mismatch)
        self.assertEqual(sink.error["code"], -32603)
        self.assertEqual((len(self.server.exchanges), self.server.schema_lists), (2, 2))
        self.assert_idle()

    def test_tools_that_changed(self) -> None:
        """A server that tells of new tools is asked for them before the next call."""
        self.call("tools/call", name="echo", arguments={"region": "eu"})
        self.link.notify("notifications/initialized", None)
        self.server.last.acknowledge()
        self.server.tools = [ECHO]
        self.server.last.note("tools/list_changed")
        self.call("tools/call", name="echo", arguments={"region": "eu"})
        self.assertEqual(self.server.last.outbound.headers, (("Mcp-Param-Region", "eu"),))

    def test_one_leaves_while_all_wait(self) -> None:
        """Who gives up takes nothing from those who wait for the same list."""
        self.server.slow_lists = []
        _, first = self.call("tools/call", name="echo")
        sink, _ = self.call("tools/call", name="echo")
        first.cancel("enough")
        (listing,) = self.server.slow_lists
        self.assertEqual(listing.link.closed, 0)
        listing.complete(tools=[])
        self.assertEqual(listing.link.closed, 1)
        self.server.last.complete()
        self.assertEqual(sink.result, {})
        self.assert_idle()

    def test_server_that_cannot_list(self) -> None:
        """Without the schema nobody can say which headers are missing: the call fails."""
        self.server.slow_lists = []
        sink, _ = self.call("tools/call", name="echo")
        self.server.slow_lists[0].answer(error={"code": -32603, "message": "no"})
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.server.exchanges, [])
        self.assert_idle()

    def test_error_of_the_gateway(self) -> None:
        """Whatever goes wrong on the way to the server ends the request."""
        wrong: Deferred[Link] = fail(RuntimeError("an error of a test"))
        self.patch(self.server, "stateless", lambda principal_key, path: wrong)
        sink, _ = self.call("tools/list")
        self.assertIs(sink.failure.reason, Reason.INTERNAL)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_hold(self) -> None:
        """Holds of a request on its way reach it when it is there."""
        self.call("tools/list")
        self.server.held = []
        call = self.link.way.call(self.server.last.outbound, ClientSink())
        call.send()
        call.hold()
        call.hold()
        call.release()
        self.server.held[0].callback(self.server.link())
        self.assertEqual(self.server.last.call.held, 1)
        call.release()
        self.assertEqual(self.server.last.call.held, 0)


class SessionTests(SynchronousTestCase):
    """A whole corridor before a stateless server: the client's wire, its session, its link."""

    def setUp(self) -> None:
        """A client with a session."""
        self.server = self.new_server()
        self.rig = Rig(upstream=self.server, bridge="translate", session_key=bytes(32))
        capabilities: Message = {"elicitation": {}}
        self.headers = {"Mcp-Session-Id": self.rig.handshake(capabilities=capabilities)}
        self.rig.send(self.message("notifications/initialized"), headers=self.headers)
        self.server.last.acknowledge()

    @staticmethod
    def new_server() -> StatelessServer:
        """A server that offers everything."""
        discovered = {"capabilities": OFFERS}
        return StatelessServer(
            known_eras=Eras(legacy=False, modern=(MODERN,), discovered=discovered)
        )

    @staticmethod
    def message(method: str, **params: Any) -> Message:
        """A notification of the client."""
        return {"jsonrpc": "2.0", "method": method, "params": params}

    def call(self, method: str, id: str | int = 1, **params: Any) -> MemoryOutlet:
        """A request of the client."""
        return self.rig.call(method, params, id, headers=self.headers)

    def stream(self) -> MemoryOutlet:
        """The client's event stream."""
        return self.rig.send(b"", method="GET", headers=self.headers, accept="text/event-stream")

    def test_question(self) -> None:
        """The client is asked on the stream of its own request, and answers by a POST."""
        other = self.call("prompts/get", id=2, name="p")
        outlet = self.call("tools/call", name="x")
        self.call("prompts/get", id=3, name="p")
        self.server.exchanges[2].ask("state", q=FORM)
        (question,) = outlet.events
        self.assertEqual(question["method"], "elicitation/create")
        self.assertIsNone(other.status)
        response = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        for who, status in (("bob", 404), ("alice", 202), ("alice", 202)):
            sent = self.rig.send(response, who=who, headers=self.headers)
            self.assertEqual(sent.status, status)
        again = self.server.last
        self.assertEqual(again.params["inputResponses"], {"q": {"action": "decline"}})
        self.assertEqual(len(self.server.exchanges), 5)
        again.complete(content=[])
        self.assertEqual(outlet.events[-1]["result"], {"content": []})

    def test_unanswered_question(self) -> None:
        """A client that does not answer has cancelled, as far as the server knows."""
        self.call("tools/call", name="x")
        self.server.last.ask("state", q=FORM)
        self.rig.clock.advance(301)
        self.rig.pipeline.table.sweep()
        self.assertEqual(self.server.last.params["inputResponses"], {"q": {"action": "cancel"}})

    def test_cancel(self) -> None:
        """A cancelled request takes its question back on the same stream."""
        outlet = self.call("tools/call", name="x")
        self.server.last.ask("state", q=FORM)
        cancelled = self.message("notifications/cancelled", requestId=1)
        self.rig.send(cancelled, headers=self.headers)
        asked, taken_back = outlet.events
        self.assertEqual(taken_back["method"], "notifications/cancelled")
        self.assertEqual(taken_back["params"]["requestId"], asked["id"])
        self.assertTrue(outlet.finished)

    def test_client_that_leaves(self) -> None:
        """A connection that breaks off cancels nothing."""
        outlet = self.call("tools/call", name="x")
        outlet.leave()
        self.assertIsNone(self.server.last.call.cancelled)

    def test_subscription(self) -> None:
        """Updates come on the client's event stream, of what it may read."""
        outlet = self.call("resources/subscribe", uri="demo://a")
        self.assertIsNone(outlet.status)
        self.server.last.acknowledge()
        self.assertEqual(outlet.json["result"], {})
        stream = self.stream()
        self.server.last.note("resources/updated", uri="demo://a")
        self.server.last.note("tools/list_changed")
        self.assertEqual(
            [one["method"] for one in stream.events],
            ["notifications/resources/updated", "notifications/tools/list_changed"],
        )

    def test_end(self) -> None:
        """The end of the session leaves nothing at the server."""
        self.call("tools/call", name="x")
        self.rig.send(b"", method="DELETE", headers=self.headers)
        self.assertEqual(self.server.open, [])
        self.assertIsNotNone(self.server.last.call.cancelled)
        self.assertEqual(self.call("ping").status, 404)

    def test_server_that_changed_its_era(self) -> None:
        """The session is over then: the client shakes hands again, with whoever is there."""
        self.call("tools/call", name="x")
        self.server.last.answer(error={"code": -32022, "message": "no"})
        self.assertEqual(self.call("ping").status, 404)

    def test_another_life(self) -> None:
        """A session goes on before another gateway that has the key."""
        self.server = self.new_server()
        self.rig = Rig(upstream=self.server, bridge="translate", session_key=bytes(32))
        outlet = self.call("tools/call", name="x")
        self.assertEqual(self.server.exchanges[0].outbound.method, LISTEN)
        self.server.last.ask("state", q=FORM)
        self.assertEqual(outlet.events[0]["method"], "elicitation/create")
