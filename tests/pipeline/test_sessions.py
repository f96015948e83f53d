"""Sessions of handshake-era clients."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings
from mcpguard.errors import Reason
from mcpguard.pipeline.sessions import Session
from mcpguard.upstream.link import Eras, UpstreamFailure
from tests.pipeline.rig import MODERN, MemoryLink, MemoryOutlet, MemoryUpstream, Rig


class SessionCase(SynchronousTestCase):
    """A corridor with one session of alice's."""

    def setUp(self) -> None:
        """Shake hands."""
        self.rig = Rig()
        self.session = self.rig.handshake(
            capabilities={"sampling": {}, "elicitation": {}, "tasks": {}}
        )
        self.headers = {"Mcp-Session-Id": self.session}

    @property
    def link(self) -> MemoryLink:
        """The session's link."""
        return self.rig.upstream.links[0]

    @property
    def inbox(self) -> Session:
        """The session as its server sees it."""
        inbox = self.rig.upstream.inboxes[0]
        assert isinstance(inbox, Session)
        return inbox

    def call(self, method: str, params: Any = None, id: Any = 1, **more: Any) -> MemoryOutlet:
        """A request in the session."""
        return self.rig.call(method, params, id, headers=self.headers, **more)

    def get(self, last: str | None = None) -> MemoryOutlet:
        """A GET in the session."""
        headers = dict(self.headers)
        if last is not None:
            headers["Last-Event-ID"] = last
        return self.rig.send(b"", method="GET", headers=headers, accept="text/event-stream")


class HandshakeTests(SessionCase):
    """initialize."""

    def test_capabilities_that_are_not_relayed_are_not_offered(self) -> None:
        """Tasks are taken out on both sides; what is relayed stays."""
        sent = self.rig.upstream.initialized_with[0]["capabilities"]
        self.assertEqual(sent, {"sampling": {}, "elicitation": {}})
        answer = self.rig.call(
            "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
        )
        self.assertEqual(answer.json["result"]["capabilities"], {"tools": {}})
        self.assertEqual(answer.json["result"]["protocolVersion"], "2025-06-18")

    def test_unknown_version_is_offered_as_our_latest(self) -> None:
        """A version nobody knows is negotiated down, as the protocol says."""
        self.rig.call(
            "initialize", {"protocolVersion": "2031-01-01", "capabilities": {}, "clientInfo": {}}
        )
        self.assertEqual(self.rig.upstream.initialized_with[-1]["protocolVersion"], "2025-11-25")

    def test_malformed_params(self) -> None:
        """Initialize without a version is an in-band error, and no server is bothered."""
        answer = self.rig.call("initialize", {"capabilities": {}})
        self.assertEqual((answer.status, answer.json["error"]["code"]), (200, -32602))
        self.assertEqual(len(self.rig.upstream.initialized_with), 1)

    def test_server_that_speaks_only_the_stateless_era(self) -> None:
        """A handshake before a stateless-only server fails with the versions it has."""
        rig = Rig(upstream=MemoryUpstream(known_eras=Eras(legacy=False, modern=(MODERN,))))
        answer = rig.call(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        )
        self.assertEqual(answer.json["error"]["code"], -32022)
        self.assertEqual(answer.json["error"]["data"]["supported"], [MODERN])

    def test_server_is_down(self) -> None:
        """A server that cannot be reached is a 503 that says nothing of it."""
        self.rig.upstream.failure = UpstreamFailure(
            Reason.UPSTREAM_UNAVAILABLE, "cannot run /opt/secret/path"
        )
        answer = self.rig.call(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        )
        self.assertEqual(answer.status, 503)
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(self.rig.trail.outcomes[-1].status, "failed")

    def test_second_initialize_in_a_session(self) -> None:
        """A session is initialized once: some servers would change it for everybody."""
        answer = self.call(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        )
        self.assertEqual(answer.status, 400)

    def test_caps_per_principal(self) -> None:
        """At the cap a session idle for a minute makes room, otherwise 503 with Retry-After."""
        bounds = self.rig.pipeline.table.bounds
        for _ in range(bounds.per_principal - 1):
            self.rig.handshake()
        full = self.rig.call(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        )
        self.assertEqual(full.status, 503)
        self.assertIn("retry-after", full.headers)
        self.rig.handshake(who="bob")
        self.rig.clock.advance(61)
        self.rig.handshake()
        self.assertEqual(len(self.rig.pipeline.table), bounds.per_principal + 1)
        self.assertEqual(self.link.closed, 1)


class OwnershipTests(SessionCase):
    """Whose session it is."""

    def test_foreign_and_unknown_look_the_same(self) -> None:
        """Bob with alice's session id gets byte for byte what an unknown id gets, but ids."""
        foreign = self.call("tools/list", who="bob")
        unknown = self.rig.call("tools/list", headers={"Mcp-Session-Id": "x" * 43}, who="bob")
        self.assertEqual(foreign.status, 404)
        self.assertEqual(foreign.json["error"]["message"], unknown.json["error"]["message"])
        self.assertEqual(set(foreign.headers), set(unknown.headers))
        for method in ("GET", "DELETE"):
            outlet = self.rig.send(
                b"", method=method, headers=self.headers, who="bob", accept="text/event-stream"
            )
            self.assertEqual(outlet.status, 404)
        self.assertEqual(self.link.requests, [])

    def test_foreign_response_is_not_taken(self) -> None:
        """Bob cannot answer what the server asked alice."""
        self.get()
        self.inbox.request(
            {"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {}}, None
        )
        outlet = self.rig.send(
            {"jsonrpc": "2.0", "id": "mg-1", "result": {}}, headers=self.headers, who="bob"
        )
        self.assertEqual(outlet.status, 404)
        self.assertEqual(self.link.responses, [])

    def test_delete_ends_it(self) -> None:
        """DELETE closes the link, ends streams and running calls; afterwards 404."""
        stream = self.get()
        running = self.call("tools/call", {"name": "slow"})
        outlet = self.rig.send(b"", method="DELETE", headers=self.headers)
        self.assertEqual(outlet.status, 200)
        self.assertTrue(stream.finished)
        self.assertEqual(running.status, 404)
        self.assertEqual(self.link.closed, 1)
        self.assertEqual(self.call("tools/list").status, 404)

    def test_idle_expiry(self) -> None:
        """A session nobody uses ends after its idle time; one with an open stream does not."""
        watched = self.rig.handshake()
        self.rig.send(
            b"", method="GET", headers={"Mcp-Session-Id": watched}, accept="text/event-stream"
        )
        self.rig.clock.advance(self.rig.pipeline.table.bounds.idle_secs + 1)
        self.rig.pipeline.table.sweep()
        self.assertEqual(self.call("tools/list").status, 404)
        self.assertIsNone(self.rig.call("tools/list", headers={"Mcp-Session-Id": watched}).status)

    def test_dead_link(self) -> None:
        """When the child dies the session is gone, and says so with 404."""
        self.inbox.closed(UpstreamFailure(Reason.UPSTREAM_FAILED, "exit 1"))
        self.assertEqual(self.call("tools/list").status, 404)


class AnswerTests(SessionCase):
    """Answers to requests in a session."""

    def test_plain_answer_is_json(self) -> None:
        """With nothing to say before the answer, the answer is one JSON object."""
        outlet = self.call("tools/call", {"name": "echo"}, id="a")
        self.link.answer(0, result={"content": []})
        self.assertEqual(outlet.headers["content-type"], "application/json")
        self.assertEqual(outlet.json, {"jsonrpc": "2.0", "id": "a", "result": {"content": []}})

    def test_progress_makes_it_a_stream(self) -> None:
        """A notification first makes it an event stream that ends with the answer."""
        outlet = self.call("tools/call", {"name": "slow", "_meta": {"progressToken": 7}})
        _, sink, _ = self.link.requests[0]
        progress = {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": 7, "progress": 1},
        }
        sink.notification(progress)
        self.assertEqual(outlet.headers["content-type"], "text/event-stream")
        self.assertFalse(outlet.finished)
        self.link.answer(0, result={"content": []})
        self.assertEqual(outlet.events[0], progress)
        self.assertEqual(outlet.events[1]["id"], 1)
        self.assertTrue(outlet.finished)

    def test_silence_opens_the_stream(self) -> None:
        """After a long silence the stream opens, so that proxies see life."""
        outlet = self.call("tools/call", {"name": "slow"})
        self.rig.clock.advance(16)
        self.assertTrue(outlet.streamed)
        self.link.answer(0, result={"content": []})
        self.assertEqual(len(outlet.events), 1)

    def test_failure_before_and_after_the_stream_opened(self) -> None:
        """A failed upstream is a 502 while that can still be said, an error event afterwards."""
        early = self.call("tools/call", {"name": "a"}, id=1)
        late = self.call("tools/call", {"name": "b"}, id=2)
        self.rig.clock.advance(16)
        early_again = self.call("tools/call", {"name": "c"}, id=3)
        for _, sink, _ in self.link.requests[1:]:
            sink.failed(UpstreamFailure(Reason.UPSTREAM_FAILED, "stack trace"))
        self.assertEqual(early_again.status, 502)
        self.assertEqual(late.events[-1]["error"]["code"], 502)
        self.assertNotIn(b"stack", late.body)
        self.assertEqual(early.streamed, True)

    def test_error_result_passes(self) -> None:
        """The server's own error reaches the client as it is; the audit says error."""
        outlet = self.call("tools/call", {"name": "x"})
        self.link.answer(0, error={"code": -32602, "message": "Unknown tool: x"})
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (200, -32602))
        self.assertEqual(self.rig.trail.outcomes[-1].status, "error")

    def test_result_that_cannot_be_filtered(self) -> None:
        """A list that is no object is an error, never passed on unfiltered."""
        outlet = self.call("tools/list")
        self.link.answer(0, result=["secret_tool"])
        self.assertEqual(outlet.status, 500)
        self.assertNotIn(b"secret_tool", outlet.body)
        self.flushLoggedErrors(TypeError)

    def test_unknown_method_is_an_answer(self) -> None:
        """An unknown method is -32601 with 200: a 404 would end the client's session."""
        outlet = self.call("no/such")
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (200, -32601))
        self.assertEqual(self.link.requests, [])

    def test_disconnect_is_not_a_cancellation(self) -> None:
        """A client of these eras that loses its connection has not cancelled."""
        outlet = self.call("tools/call", {"name": "slow"})
        outlet.leave()
        self.assertIsNone(self.link.requests[0][2].cancelled)

    def test_cancellation(self) -> None:
        """notifications/cancelled stops the newest request of that id, typed."""
        first = self.call("tools/call", {"name": "slow"}, id=1)
        second = self.call("tools/call", {"name": "slow"}, id=1)
        other = self.call("tools/call", {"name": "slow"}, id="1")
        outlet = self.rig.send(
            {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": 1, "reason": "enough"},
            },
            headers=self.headers,
        )
        self.assertEqual(outlet.status, 202)
        calls = [call for _, _, call in self.link.requests]
        self.assertEqual([call.cancelled for call in calls], [None, "enough", None])
        self.assertTrue(second.finished)
        self.assertEqual(second.events, [])
        self.assertFalse(first.finished or other.finished)
        self.assertEqual(self.rig.trail.outcomes[-2].status, "cancelled")


class ServerRequestTests(SessionCase):
    """What the server asks of the client."""

    ASK = {"jsonrpc": "2.0", "id": 5, "method": "elicitation/create", "params": {"message": "?"}}

    def test_on_the_stream_of_the_only_request(self) -> None:
        """With one request running, its stream carries the question, the answer goes back."""
        outlet = self.call("tools/call", {"name": "ask"})
        stream = self.get()
        self.inbox.request(self.ASK, None)
        self.assertEqual(outlet.events, [{**self.ASK, "id": "mg-1"}])
        self.assertEqual(stream.events, [])
        answered = self.rig.send(
            {"jsonrpc": "2.0", "id": "mg-1", "result": {"action": "accept"}},
            headers=self.headers,
        )
        self.assertEqual(answered.status, 202)
        self.assertEqual(
            self.link.responses, [{"jsonrpc": "2.0", "id": 5, "result": {"action": "accept"}}]
        )

    def test_an_answer_counts_once(self) -> None:
        """A second answer to the same question is dropped, with 202."""
        self.get()
        self.inbox.request(self.ASK, None)
        for _ in range(2):
            outlet = self.rig.send(
                {"jsonrpc": "2.0", "id": "mg-1", "result": {}}, headers=self.headers
            )
            self.assertEqual(outlet.status, 202)
        self.assertEqual(len(self.link.responses), 1)

    def test_related_request(self) -> None:
        """Where the transport tells, the question goes to its own request's stream."""
        first = self.call("tools/call", {"name": "ask"}, id=1)
        second = self.call("tools/call", {"name": "ask"}, id=2)
        self.inbox.request(self.ASK, self.link.requests[0][2])
        self.assertEqual(len(first.events), 1)
        self.assertEqual(second.events, [])

    def test_latest_request_when_several_run(self) -> None:
        """Without a hint the newest reachable request carries it, and no other stream."""
        first = self.call("tools/call", {"name": "ask"}, id=1)
        second = self.call("tools/call", {"name": "ask"}, id=2)
        self.inbox.request(self.ASK, None)
        self.assertEqual((first.events, len(second.events)), ([], 1))

    def reply(self, ours: str) -> None:
        """The client answers a question."""
        self.rig.send({"jsonrpc": "2.0", "id": ours, "result": {}}, headers=self.headers)

    def test_time_stands_still_while_a_person_thinks(self) -> None:
        """The request asked for is held until the answer has been passed on, others are not."""
        self.call("tools/call", {"name": "ask"}, id=1)
        self.call("tools/call", {"name": "slow"}, id=2)
        first, second = (call for _, _, call in self.link.requests)
        self.inbox.request(self.ASK, first)
        self.inbox.request({**self.ASK, "id": 6}, first)
        self.assertEqual((first.held, second.held), (2, 0))
        self.reply("mg-1")
        self.reply("mg-1")
        self.assertEqual(first.held, 1)
        self.reply("mg-2")
        self.assertEqual(first.held, 0)

    def test_time_stands_still_where_the_transport_tells_nothing(self) -> None:
        """Then it is the request whose stream carries it, or the latest if none does."""
        outlets = [self.call("tools/call", {"name": "ask"}, id=number) for number in (1, 2)]
        first, second = (call for _, _, call in self.link.requests)
        outlets[1].leave()
        self.inbox.request(self.ASK, None)
        self.assertEqual((first.held, second.held), (1, 0))
        outlets[0].leave()
        self.inbox.request({**self.ASK, "id": 6}, None)
        self.assertEqual((first.held, second.held), (1, 1))

    def test_time_goes_on_when_nobody_answers(self) -> None:
        """A question that expires, or is taken back, holds nothing any more."""
        self.call("tools/call", {"name": "ask"})
        (_, _, call) = self.link.requests[0]
        self.inbox.request(self.ASK, call)
        self.rig.clock.advance(301)
        self.rig.pipeline.table.sweep()
        self.assertEqual((call.held, len(self.link.responses)), (0, 1))
        self.inbox.request(self.ASK, call)
        self.inbox.notification(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
        )
        self.assertEqual(call.held, 0)

    def test_capability_not_declared(self) -> None:
        """A client that declared no roots is not asked for any."""
        self.inbox.request({"jsonrpc": "2.0", "id": 9, "method": "roots/list"}, None)
        self.assertEqual(self.link.responses[0]["error"]["code"], -32601)

    def test_nobody_listens(self) -> None:
        """With no stream open the question waits, and is refused after its time."""
        self.inbox.request(self.ASK, None)
        self.assertEqual(self.link.responses, [])
        self.rig.clock.advance(61)
        self.rig.pipeline.table.sweep()
        self.assertEqual(self.link.responses[0]["error"]["code"], -32603)
        self.assertEqual(self.link.responses[0]["id"], 5)

    def test_waiting_question_reaches_a_stream_that_opens(self) -> None:
        """A GET that comes in time carries what waited."""
        self.inbox.request(self.ASK, None)
        stream = self.get()
        self.assertEqual(stream.events, [{**self.ASK, "id": "mg-1"}])

    def test_queue_is_bounded(self) -> None:
        """What waits is bounded in number; the oldest question is refused to make room."""
        for number in range(150):
            self.inbox.request({**self.ASK, "id": number}, None)
        refused = [response["id"] for response in self.link.responses]
        self.assertEqual(len(refused), 50)

    def test_server_cancels_its_question(self) -> None:
        """The server's cancellation reaches the client under the id the client knows."""
        stream = self.get()
        self.inbox.request(self.ASK, None)
        self.inbox.notification(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
        )
        self.assertEqual(stream.events[-1]["params"]["requestId"], "mg-1")


class StreamTests(SessionCase):
    """GET streams and resumption."""

    CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}

    def test_unrelated_notifications_use_the_get_stream_only(self) -> None:
        """list_changed never lands on a request's stream."""
        outlet = self.call("tools/call", {"name": "slow"})
        stream = self.get()
        self.inbox.notification(self.CHANGED)
        self.assertEqual(stream.events, [self.CHANGED])
        self.assertIsNone(outlet.status)

    def test_second_stream(self) -> None:
        """A second GET while one is open is 409."""
        self.get()
        self.assertEqual(self.get().status, 409)

    def test_get_needs_the_media_type(self) -> None:
        """A GET that accepts only JSON is 406."""
        outlet = self.rig.send(b"", method="GET", headers=self.headers, accept="application/json")
        self.assertEqual(outlet.status, 406)

    def test_resume_get(self) -> None:
        """What was sent while the client was away is replayed after its last event, once."""
        stream = self.get()
        self.inbox.notification(self.CHANGED)
        last = stream.event_ids[-1]
        stream.leave()
        self.inbox.notification({**self.CHANGED, "method": "notifications/prompts/list_changed"})
        again = self.get(last)
        self.assertEqual(
            [event["method"] for event in again.events],
            ["notifications/prompts/list_changed"],
        )
        self.inbox.notification(self.CHANGED)
        self.assertEqual(len(again.events), 2)

    def test_resume_post(self) -> None:
        """A request whose connection broke is finished on a GET that names its last event."""
        outlet = self.call("tools/call", {"name": "slow"})
        self.rig.clock.advance(16)
        last = outlet.event_ids[-1]
        outlet.leave()
        self.link.answer(0, result={"content": []})
        again = self.get(last)
        self.assertEqual(again.events[0]["result"], {"content": []})
        self.assertTrue(again.finished)

    def test_resume_is_for_the_owner(self) -> None:
        """Another principal with the event id gets nothing."""
        stream = self.get()
        self.inbox.notification(self.CHANGED)
        outlet = self.rig.send(
            b"",
            method="GET",
            headers={**self.headers, "Last-Event-ID": stream.event_ids[-1]},
            who="bob",
            accept="text/event-stream",
        )
        self.assertEqual(outlet.status, 404)

    def test_strange_event_ids(self) -> None:
        """An id that is not ours, or of a stream long gone, is refused."""
        for text in ("x", "1", "99-1", "-", "1-2-3", "\u0663-\u0661"):
            self.assertEqual(self.get(text).status, 404, text)

    def test_replay_is_bounded(self) -> None:
        """The replay log keeps the newest events within both bounds."""
        stream = self.get()
        stream.leave()
        for _ in range(1000):
            self.inbox.notification(self.CHANGED)
        kept = len(self.inbox.log)
        self.assertLessEqual(kept, self.inbox.bounds.replay_events)

    def test_streams_are_bounded(self) -> None:
        """Hundreds of requests, streamed or not, leave a bounded number of streams behind."""
        for number in range(700):
            self.call("tools/call", {"name": "x"}, id=number)
            if number % 2:
                self.link.requests[number][1].notification(
                    {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
                )
            self.link.answer(number, result={"content": []})
        self.assertLessEqual(len(self.inbox._streams), self.inbox.bounds.replay_events)
        self.assertEqual(self.inbox.running, {})

    def test_priming_only_where_it_is_known(self) -> None:
        """Clients before 2025-11-25 get no event without data."""
        old = self.rig.handshake(version="2025-06-18")
        stream = self.rig.send(
            b"", method="GET", headers={"Mcp-Session-Id": old}, accept="text/event-stream"
        )
        self.assertEqual(stream.body, b"")
        self.assertNotEqual(self.get().body, b"")

    def test_updated_only_for_those_still_allowed(self) -> None:
        """A resource that may not be read is not heard of either."""
        from tests.pipeline.rig import api_key

        rig = Rig(
            keys=(api_key("alice", allowed_resources=("demo://a",)),),
            limits=RateLimitSettings(),
        )
        session = rig.handshake()
        stream = rig.send(
            b"", method="GET", headers={"Mcp-Session-Id": session}, accept="text/event-stream"
        )
        for uri in ("demo://a", "demo://b"):
            rig.upstream.inboxes[0].notification(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/resources/updated",
                    "params": {"uri": uri},
                }
            )
        self.assertEqual([event["params"]["uri"] for event in stream.events], ["demo://a"])
