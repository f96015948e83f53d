"""HTTP+SSE on the client's side: what a client of 2024 is to find."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings, ServerSettings, ToolLimit
from mcpguard.errors import Reason
from mcpguard.gateway.corridor import SSE
from mcpguard.pipeline.admission import Admission
from mcpguard.upstream.link import Eras, InitializeRejected, Opening, UpstreamFailure
from tests.pipeline.rig import MODERN, MemoryUpstream, Rig, api_key
from tests.pipeline.sse_rig import PARAMS, SseCase, SseClient
from tests.pipeline.test_departures import SlowUpstream

PROBE = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}


class StreamTests(SseCase):
    """The stream and what starts it."""

    def test_endpoint(self) -> None:
        """The first event says where to post, with a session id that cannot be guessed."""
        client = SseClient(self.rig)
        self.assertEqual(client.outlet.status, 200)
        self.assertEqual(client.outlet.headers["content-type"], "text/event-stream")
        self.assertIn("x-ratelimit-limit", client.outlet.headers)
        self.assertNotIn("mcp-session-id", client.outlet.headers)
        self.assertRegex(client.endpoint, r"\A/messages\?sessionId=[A-Za-z0-9_-]{43}\Z")
        self.assertNotEqual(client.session_id, self.client.session_id)

    def test_public_path(self) -> None:
        """The address to post to is below the path that clients know the gateway by."""
        for url, path, expected in (
            ("https://mcp.example.com", "/sse", "/messages"),
            ("https://example.com/guard", "/sse", "/guard/messages"),
            ("https://example.com/guard", "/mcp/fs/sse", "/guard/mcp/fs/messages"),
            ("https://example.com/mcp", "/sse", "/mcp/messages"),
            ("https://example.com/mcp", "/mcp/fs/sse", "/mcp/fs/messages"),
            (None, "/mcp/sse", "/mcp/messages"),
        ):
            server = ServerSettings(public_url=url)
            rig = Rig(server=server, others={"/mcp/fs": MemoryUpstream("fs")})
            client = SseClient(rig, path=path)
            self.assertEqual(client.endpoint.partition("?")[0], expected)

    def test_public_path_of_an_endpoint_is_served(self) -> None:
        """Where ``public_url`` is the MCP endpoint itself, what it makes of ours leads here."""
        rig = Rig(server=ServerSettings(public_url="https://127.0.0.1:3000/mcp"))
        SseClient(rig).initialize()
        self.assertEqual(len(rig.upstream.links), 1)

    def test_public_path_of_the_listener(self) -> None:
        """Each listener may be known by a path of its own."""
        rig = Rig()
        asked: list[int] = []

        def public_url(port: int) -> str:
            asked.append(port)
            return "https://example.com/guard"

        rig.pipeline.sse.public_url = public_url
        self.assertTrue(SseClient(rig).endpoint.startswith("/guard/messages?"))
        self.assertEqual(asked, [0])

    def test_accept(self) -> None:
        """Whoever does not take an event stream is told so; a wildcard takes one."""
        for accept, status in ((None, 406), ("application/json", 406), ("*/*", 200)):
            outlet = self.rig.send(b"", method="GET", path="/sse", accept=accept)
            self.assertEqual(outlet.status, status)
            if status == 406:
                self.assertIn("text/event-stream", outlet.json["error"])

    def test_servers_of_their_own(self) -> None:
        """Each server has its two places; a session of one is not there for another."""
        other = MemoryUpstream("fs")
        rig = Rig(others={"/mcp/fs": other, "/mcp/web": MemoryUpstream("web")})
        client = SseClient(rig, path="/mcp/fs/sse").initialize()
        self.assertTrue(client.endpoint.startswith("/mcp/fs/messages?sessionId="))
        self.assertEqual((len(other.links), len(rig.upstream.links)), (1, 0))
        for path in ("/messages", "/mcp/messages", "/mcp/web/messages"):
            self.assertEqual(client.ask("tools/list", path=path).status, 404)
        self.assertEqual(other.asked, [])

    def test_no_server_no_places(self) -> None:
        """Below what is no server's path there is nothing."""
        for path in ("/mcp/nobody/sse", "/mcp/a/b/sse", "/mcp/sse/sse", "/x/sse"):
            outlet = self.rig.send(b"", method="GET", path=path, accept="text/event-stream")
            self.assertEqual(outlet.status, 404, path)

    def test_methods(self) -> None:
        """Each place knows one method, and says which; names of servers are not given away."""
        rig = Rig(others={"/mcp/fs": MemoryUpstream("fs")})
        for method, path, who, status, allow in (
            ("PUT", "/sse", None, 405, "GET"),
            ("HEAD", "/sse", None, 405, "GET"),
            ("POST", "/sse", "alice", 405, "GET"),
            ("DELETE", "/sse", "alice", 405, "GET"),
            ("HEAD", "/messages", None, 405, "POST"),
            ("GET", "/messages", "alice", 405, "POST"),
            ("PUT", "/mcp/fs/sse", "alice", 405, "GET"),
            ("GET", "/mcp/fs/messages", "alice", 405, "POST"),
            ("PUT", "/mcp/fs/messages", None, 401, None),
            ("PUT", "/mcp/nobody/messages", None, 401, None),
            ("PUT", "/mcp/nobody/messages", "alice", 404, None),
            ("PUT", "/mcp/fs", None, 405, "GET, POST, DELETE"),
        ):
            outlet = rig.send(b"", method=method, path=path, who=who)
            self.assertEqual((outlet.status, outlet.headers.get("allow")), (status, allow), path)

    def test_authentication(self) -> None:
        """Nobody opens a stream without credentials, or on a server that is not theirs."""
        rig = Rig(keys=(api_key("carol", allowed_servers=("other",)),))
        keys: dict[str, Any] = {"method": "GET", "path": "/sse", "accept": "text/event-stream"}
        self.assertEqual(rig.send(b"", who=None, **keys).status, 401)
        self.assertEqual(rig.send(b"", who="mallory", **keys).status, 401)
        self.assertEqual(rig.send(b"", who="carol", **keys).status, 403)
        evil = {"Origin": "https://evil.example"}
        self.assertEqual(rig.send(b"", who="carol", headers=evil, **keys).status, 403)
        self.assertEqual((len(rig.pipeline.sse), rig.clock.getDelayedCalls()), (0, []))


class HandshakeTests(SynchronousTestCase):
    """What comes before, with and instead of ``initialize``."""

    def setUp(self) -> None:
        """A stream without a session at the server."""
        self.rig = Rig()
        self.client = SseClient(self.rig)

    def error(self) -> Any:
        """The newest message, an error."""
        return self.client.messages[-1]["error"]

    def test_handshake(self) -> None:
        """It is accepted, answered on the stream, and goes upstream as by any transport."""
        posted = self.client.ask("initialize", PARAMS, id="one")
        self.assertEqual((posted.status, posted.body), (202, b"Accepted"))
        self.assertIn("x-ratelimit-limit", posted.headers)
        (answer,) = self.client.messages
        self.assertEqual(answer["id"], "one")
        self.assertEqual(answer["result"]["protocolVersion"], "2024-11-05")
        self.assertEqual(answer["result"]["capabilities"], {"tools": {}})
        (sent,) = self.rig.upstream.initialized_with
        self.assertEqual(sent["capabilities"], {"sampling": {}, "roots": {}})
        self.client.tell("notifications/initialized")
        link = self.rig.upstream.links[0]
        self.assertEqual([name for name, _ in link.notifications], ["notifications/initialized"])

    def test_probe(self) -> None:
        """A client that asks for the stateless versions first is told to shake hands."""
        self.assertEqual(self.client.ask("server/discover", PROBE, id="probe-1").status, 202)
        self.assertEqual(self.client.messages[-1]["id"], "probe-1")
        self.assertEqual(self.error()["code"], -32601)
        self.client.initialize()

    def test_stateless_request(self) -> None:
        """A client that speaks a stateless version without asking learns which ones there are."""
        for initialized in (False, True):
            self.client.ask("tools/list", PROBE)
            self.assertEqual(self.error()["code"], -32022)
            self.assertIn("2024-11-05", self.error()["data"]["supported"])
            self.assertEqual(self.error()["data"]["requested"], MODERN)
            if not initialized:
                self.client.initialize()
        self.assertEqual(self.rig.upstream.asked, [])

    def test_anything_else_first(self) -> None:
        """No other request comes before it, and nothing of it reaches a server."""
        for method in ("tools/list", "ping", "nonsense"):
            self.assertEqual(self.client.ask(method).status, 202)
            self.assertEqual(self.error()["code"], -32600)
        for method in ("notifications/initialized", "notifications/cancelled", "tools/call"):
            self.assertEqual(self.client.tell(method).status, 202)
        self.client.post({"jsonrpc": "2.0", "id": "mg-1", "result": {}})
        self.assertEqual(self.rig.upstream.links, [])
        self.assertEqual(len(self.rig.trail.outcomes), 8)

    def test_twice(self) -> None:
        """A session is initialized once, also while the first time is still on its way."""
        upstream = SlowUpstream(Eras(legacy=True))
        upstream.slow = {"open_session"}
        self.client = SseClient(Rig(upstream=upstream))
        self.client.ask("initialize", PARAMS, id=1)
        self.client.ask("initialize", PARAMS, id=2)
        self.assertEqual((self.client.messages[-1]["id"], self.error()["code"]), (2, -32600))
        self.client.ask("tools/list", id=3)
        self.assertEqual((self.client.messages[-1]["id"], self.error()["code"]), (3, -32600))
        upstream.let_go()
        self.assertEqual(self.client.messages[-1]["id"], 1)
        self.client.ask("initialize", PARAMS, id=4)
        self.assertEqual((self.client.messages[-1]["id"], self.error()["code"]), (4, -32600))
        self.assertEqual(len(upstream.links), 1)

    def test_bad_params(self) -> None:
        """What is malformed bothers no server, and may be said better."""
        self.client.ask("initialize", {"capabilities": {}})
        self.assertEqual(self.error()["code"], -32602)
        self.client.initialize()

    def test_denied(self) -> None:
        """A server that may not be used says so where the stream is opened."""
        rig = Rig(keys=(api_key("alice", allowed_servers=()),))
        self.assertEqual(SseClient(rig).outlet.status, 403)

    def test_server_is_down(self) -> None:
        """The client is told why, without the server's words, then the session is over."""
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "cannot run /opt/secret")
        self.rig.upstream.failure = failure
        self.assertEqual(self.client.ask("initialize", PARAMS).status, 202)
        self.assertEqual(self.error()["code"], 503)
        self.assertNotIn(b"secret", self.client.outlet.body)
        self.rig.clock.advance(0)
        self.assertTrue(self.client.outlet.finished)
        self.assertEqual((len(self.rig.pipeline.sse), len(self.rig.pipeline.table)), (0, 0))
        self.assertEqual(self.rig.trail.outcomes[-1].status, "failed")
        self.assertEqual(self.rig.meter.requests[-1], ("initialize", 202))

    def test_server_of_another_era(self) -> None:
        """The versions that a stateless server has are named."""
        self.rig.upstream.known_eras = Eras(legacy=False, modern=(MODERN,))
        self.client.ask("initialize", PARAMS)
        self.assertEqual(self.error()["data"]["supported"], [MODERN])

    def test_server_that_rejects(self) -> None:
        """The server's own error is passed on."""

        class Rejecting(MemoryUpstream):
            def open_session(self, *args: Any) -> Deferred[Opening]:
                raise InitializeRejected({"code": -32602, "message": "not today"})

        self.client = SseClient(Rig(upstream=Rejecting()))
        self.client.ask("initialize", PARAMS, id=5)
        self.assertEqual(
            self.client.messages,
            [{"jsonrpc": "2.0", "id": 5, "error": {"code": -32602, "message": "not today"}}],
        )
        self.assertEqual(self.client.rig.trail.outcomes[-1].status, "error")
        self.client.rig.clock.advance(0)
        self.assertTrue(self.client.outlet.finished)

    def test_server_that_ends_in_its_handshake(self) -> None:
        """A link that died before it was known is a failure that the client hears of."""
        upstream = SlowUpstream(Eras(legacy=True))
        upstream.slow = {"open_session"}
        self.client = SseClient(Rig(upstream=upstream))
        self.client.ask("initialize", PARAMS)
        upstream.inboxes[0].closed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        upstream.let_go()
        self.assertEqual(self.error()["code"], 502)
        self.client.rig.clock.advance(0)
        self.assertTrue(self.client.outlet.finished)
        self.assertEqual(upstream.links[0].closed, 1)

    def test_client_that_leaves_in_its_handshake(self) -> None:
        """What was opened for it is closed again, and the request is a cancelled one."""
        for what in ("eras", "open_session"):
            with self.subTest(what):
                upstream = SlowUpstream(Eras(legacy=True))
                upstream.slow = {what}
                client = SseClient(Rig(upstream=upstream))
                client.ask("initialize", PARAMS)
                client.outlet.leave()
                upstream.let_go()
                client.rig.clock.advance(0)
                self.assertEqual([link.closed for link in upstream.links], [1])
                self.assertEqual(len(client.rig.pipeline.table), 0)
                self.assertEqual(client.rig.trail.outcomes[-1].status, "cancelled")
                self.assertEqual(client.rig.clock.getDelayedCalls(), [])

    def test_time_to_shake_hands(self) -> None:
        """A stream on which nobody shakes hands is ended; one on which it was done stays."""
        idle = SseClient(self.rig)
        self.client.initialize()
        self.rig.clock.advance(SSE.handshake_secs - 1)
        self.assertFalse(idle.outlet.finished)
        idle.ask("tools/list")
        self.rig.clock.advance(2)
        self.assertTrue(idle.outlet.finished)
        self.assertFalse(self.client.outlet.finished)
        self.assertEqual(len(self.rig.pipeline.table), 1)

    def test_slow_server_is_not_cut_by_that_time(self) -> None:
        """Once it was asked for, the server's own deadlines hold."""
        upstream = SlowUpstream(Eras(legacy=True))
        upstream.slow = {"open_session"}
        self.client = SseClient(Rig(upstream=upstream))
        self.client.ask("initialize", PARAMS)
        self.client.rig.clock.advance(SSE.handshake_secs + 1)
        upstream.let_go()
        self.assertIn("result", self.client.messages[-1])


class MessageTests(SseCase):
    """Requests, notifications and answers in a session."""

    def test_call(self) -> None:
        """The POST is accepted at once; progress and the answer are messages on the stream."""
        self.call(id="a")
        before = len(self.client.messages)
        _, sink, _ = self.link.requests[0]
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
        sink.notification(progress)
        self.link.answer(0, result={"content": []})
        self.assertEqual(
            self.client.messages[before:],
            [progress, {"jsonrpc": "2.0", "id": "a", "result": {"content": []}}],
        )
        self.assertEqual(self.rig.meter.requests[-1], ("tools/call", 202))
        self.assertEqual(self.last_outcome(), ("tools/call", "success", None))

    def test_no_event_ids(self) -> None:
        """Nothing can be resumed, so no event has an id."""
        self.call()
        self.link.answer(0, result={"content": []})
        self.assertEqual({event.id for event in self.client.raw}, {None})

    def test_side_by_side(self) -> None:
        """Answers come in whatever order the server gives them."""
        self.call(id=1)
        self.call(id="1")
        self.link.answer(1, result={"content": []})
        self.link.answer(0, result={"content": []})
        self.assertEqual([one["id"] for one in self.client.messages[-2:]], ["1", 1])

    def test_headers_of_other_transports_mean_nothing(self) -> None:
        """The SDK of npm names the version; a session header of Streamable HTTP is ignored too."""
        headers = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": "whatever"}
        self.assertEqual(self.client.ask("tools/list", headers=headers).status, 202)
        self.assertEqual(len(self.link.requests), 1)
        headers = {"MCP-Protocol-Version": MODERN}
        self.assertEqual(self.client.ask("tools/list", headers=headers).status, 202)
        self.assertEqual(len(self.link.requests), 2)

    def test_lists_are_filtered(self) -> None:
        """What may not be called is not shown."""
        self.rig = Rig(keys=(api_key("alice", allowed_tools=("read_*",)),))
        self.client = SseClient(self.rig).initialize()
        self.client.ask("tools/list")
        self.link.answer(0, result={"tools": [{"name": "read_file"}, {"name": "write_file"}]})
        self.assertEqual(
            [tool["name"] for tool in self.client.messages[-1]["result"]["tools"]], ["read_file"]
        )

    def test_refusals_are_said_on_the_stream(self) -> None:
        """Denials, tool limits, unknown methods, bad params: accepted, then an error event."""
        limits = RateLimitSettings(
            requests_per_second=1000, burst_size=1000, tool_limits=(ToolLimit("read_*", 0.1, 1),)
        )
        self.rig = Rig(keys=(api_key("alice", allowed_tools=("read_*",)),), limits=limits)
        self.client = SseClient(self.rig).initialize()
        self.call("read_file", id=1)
        for number, method, params, code, event_type in (
            (2, "tools/call", {"name": "write_file"}, 403, "AuthorizationDenied"),
            (3, "tools/call", {"name": "read_file"}, 429, "RateLimited"),
            (4, "tasks/list", {}, -32601, "RequestRefused"),
            (5, "tools/call", {}, -32602, "RequestRefused"),
            (6, "server/discover", {}, -32601, "RequestRefused"),
        ):
            outcomes = len(self.rig.trail.outcomes)
            posted = self.client.ask(method, params, id=number)
            self.assertEqual((posted.status, posted.body), (202, b"Accepted"))
            answer = self.client.messages[-1]
            self.assertEqual((answer["id"], answer["error"]["code"]), (number, code))
            self.assertIn("error_id", answer["error"]["data"])
            self.assertEqual(len(self.rig.trail.outcomes), outcomes + 1)
            self.assertEqual(self.rig.trail.outcomes[-1].event_type, event_type)
            self.assertEqual(self.rig.meter.requests[-1][1], 202)
        self.assertEqual(len(self.link.requests), 1)
        self.assertEqual(len(self.rig.meter.requests), len(self.rig.trail.outcomes))

    def test_failures_are_said_on_the_stream(self) -> None:
        """A server that does not answer is an error with the id, without its words."""
        self.call(id=9)
        _, sink, _ = self.link.requests[0]
        sink.failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "10.0.0.7 is asleep"))
        answer = self.client.messages[-1]
        self.assertEqual((answer["id"], answer["error"]["code"]), (9, 504))
        self.assertNotIn(b"10.0.0.7", self.client.outlet.body)
        self.assertEqual(self.last_outcome(), ("tools/call", "failed", "upstream_timeout"))

    def test_error_of_a_check(self) -> None:
        """A mistake of the gateway's own is said where the client waits for it."""
        self.patch(Admission, "admit", lambda *args, **more: 1 / 0)
        self.client.ask("tools/list", id=3)
        self.assertEqual(self.client.messages[-1]["error"]["code"], -32603)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cancelled_by_the_client(self) -> None:
        """The call is cancelled at the server, and nothing more is said of it."""
        self.call(id=7)
        before = len(self.client.messages)
        self.client.tell("notifications/cancelled", {"requestId": 7, "reason": "enough"})
        self.assertEqual(self.link.requests[0][2].cancelled, "enough")
        self.assertEqual(len(self.client.messages), before)
        statuses = [one.status for one in self.rig.trail.outcomes[-2:]]
        self.assertEqual(statuses, ["cancelled", "success"])

    def test_notifications(self) -> None:
        """What a client may tell is passed on; a call without an id is not."""
        self.client.tell("notifications/roots/list_changed")
        self.assertEqual(self.link.notifications[-1][0], "notifications/roots/list_changed")
        self.client.tell("tools/call", {"name": "x"})
        self.assertEqual(self.last_outcome()[1], "dropped")
        self.assertEqual(self.link.requests, [])

    def test_places_of_an_identity(self) -> None:
        """A running call takes one; an answer to the server, and a cancellation, need none."""
        self.rig = Rig(keys=(api_key("alice", max_concurrency=1),))
        self.client = SseClient(self.rig).initialize()
        self.call(id=1)
        self.client.ask("tools/list", id=2)
        self.assertEqual(self.client.messages[-1]["error"]["code"], 429)
        self.inbox.request({"jsonrpc": "2.0", "id": 5, "method": "roots/list"}, None)
        ours = self.client.messages[-1]["id"]
        self.client.post({"jsonrpc": "2.0", "id": ours, "result": {"roots": []}})
        self.assertEqual(self.link.responses[-1]["id"], 5)
        self.client.tell("notifications/cancelled", {"requestId": 1})
        self.assertIsNotNone(self.link.requests[0][2].cancelled)
        self.client.ask("tools/list", id=3)
        self.assertEqual(len(self.link.requests), 2)

    def test_requests_at_once(self) -> None:
        """Their POSTs are over, so the session bounds them; each gives its place back."""
        for number in range(SSE.requests):
            self.call(id=number)
        self.client.ask("tools/list", id="more")
        answer = self.client.messages[-1]
        self.assertEqual((answer["id"], answer["error"]["code"]), ("more", 503))
        self.link.answer(0, result={"content": []})
        self.client.ask("tools/list", id="again")
        self.assertEqual(len(self.link.requests), SSE.requests + 1)

    def test_unreadable_bodies(self) -> None:
        """What has no id that could be answered keeps its status; what has one is answered."""
        for body, status in (
            (b"{", 400),
            (b"[]", 400),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', 400),
        ):
            self.assertEqual(self.client.post(body).status, status, body)
        posted = self.client.post(b'{"jsonrpc":"2.0","id":4,"method":"ping","params":[]}')
        answer = self.client.messages[-1]
        self.assertEqual((posted.status, answer["id"], answer["error"]["code"]), (202, 4, -32600))

    def test_content_type(self) -> None:
        """Only JSON is read: a page of another origin cannot send it without being asked for."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            posted = self.client.ask("tools/list", headers={"Content-Type": kind})
            self.assertEqual(posted.status, 415)
        charset = {"Content-Type": "application/json; charset=utf-8"}
        self.assertEqual(self.client.ask("tools/list", headers=charset).status, 202)


class ServerTests(SseCase):
    """What the server says by itself: all of it on the one stream."""

    def said(self) -> Any:
        """The newest message."""
        return self.client.messages[-1]

    def test_notifications(self) -> None:
        """Logs, changed lists, updates: with and without a running call."""
        for running in (False, True):
            if running:
                self.call()
            for method, params in (
                ("notifications/message", {"level": "info", "data": "x"}),
                ("notifications/tools/list_changed", {}),
                ("notifications/resources/updated", {"uri": "demo://x"}),
            ):
                message = {"jsonrpc": "2.0", "method": method, "params": params}
                self.inbox.notification(message)
                self.assertEqual(self.said(), message)
        heard = [one.get("method") for one in self.client.messages]
        self.assertEqual(heard.count("notifications/message"), 2)

    def test_updates_are_filtered(self) -> None:
        """An update of what may not be read is not told."""
        self.rig = Rig(keys=(api_key("alice", allowed_resources=("demo://*",)),))
        self.client = SseClient(self.rig).initialize()
        before = len(self.client.messages)
        self.inbox.notification(
            {"method": "notifications/resources/updated", "params": {"uri": "file:///secret"}}
        )
        self.assertEqual(len(self.client.messages), before)

    def test_question(self) -> None:
        """A question is asked under an id of ours, and its answer goes back under the server's."""
        for related in (False, True):
            if related:
                self.call()
            call = self.link.requests[0][2] if related else None
            question = {"jsonrpc": "2.0", "id": 1, "method": "roots/list"}
            self.inbox.request(question, call)
            ours = self.said()["id"]
            self.assertEqual(self.said()["method"], "roots/list")
            answer = {"jsonrpc": "2.0", "id": ours, "result": {"roots": []}}
            posted = self.client.post(answer)
            self.assertEqual((posted.status, posted.body), (202, b"Accepted"))
            self.assertEqual(self.link.responses[-1], {**answer, "id": 1})
            # A replayed answer goes nowhere.
            told = len(self.link.responses)
            self.assertEqual(self.client.post(answer).status, 202)
            self.assertEqual(len(self.link.responses), told)

    def test_question_that_is_taken_back(self) -> None:
        """The server's cancellation names the id that the client knows."""
        self.inbox.request({"jsonrpc": "2.0", "id": 8, "method": "roots/list"}, None)
        ours = self.said()["id"]
        taken_back = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        self.inbox.notification({**taken_back, "params": {"requestId": 8}})
        self.assertEqual(self.said(), {**taken_back, "params": {"requestId": ours}})

    def test_undeclared_question(self) -> None:
        """What the client did not say it can do, it is not asked."""
        self.inbox.request({"jsonrpc": "2.0", "id": 8, "method": "elicitation/create"}, None)
        self.assertEqual(self.link.responses[-1]["error"]["code"], -32601)
