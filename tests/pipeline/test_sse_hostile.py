"""HTTP+SSE and those who want what is not theirs."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings
from mcpguard.gateway.corridor import SESSIONS
from mcpguard.protocol.mcp import METHODS
from tests.pipeline.rig import MemoryOutlet, MemoryUpstream, Rig, api_key
from tests.pipeline.sse_rig import PARAMS, SseClient


class OwnershipTests(SynchronousTestCase):
    """A session is its principal's, on its route, while its stream is open."""

    def setUp(self) -> None:
        """A session of alice's, with a question of the server and a running call."""
        self.rig = Rig(others={"/mcp/fs": MemoryUpstream("fs")})
        self.alice = SseClient(self.rig).initialize()
        self.alice.ask("tools/call", {"name": "t"}, id=1)
        self.inbox = self.rig.upstream.inboxes[0]
        self.inbox.request({"jsonrpc": "2.0", "id": 5, "method": "roots/list"}, None)
        self.link = self.rig.upstream.links[0]

    def refused(self, outlet: MemoryOutlet) -> tuple[int | None, Any]:
        """Status and words."""
        return outlet.status, outlet.json["error"]

    def test_foreign_session(self) -> None:
        """Another principal's session looks like one that does not exist, whatever is posted."""
        unknown = self.refused(self.alice.ask("ping", query="sessionId=guessed", who="bob"))
        self.assertEqual(unknown, (404, "Session not found"))
        said = self.alice.outlet.body
        question = self.alice.messages[-1]["id"]
        for body in (
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t"}},
            {"jsonrpc": "2.0", "id": question, "result": {"roots": []}},
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
            b"{",
        ):
            self.assertEqual(self.refused(self.alice.post(body, who="bob")), unknown)
        self.assertEqual(self.alice.outlet.body, said)
        self.assertEqual((len(self.link.requests), self.link.responses), (1, []))
        self.assertIsNone(self.link.requests[0][2].cancelled)

    def test_answers_of_another(self) -> None:
        """Bob cannot answer in his own session what alice was asked in hers."""
        bob = SseClient(self.rig, who="bob").initialize()
        question = self.alice.messages[-1]["id"]
        bob.post({"jsonrpc": "2.0", "id": question, "result": {"roots": []}})
        self.assertEqual([link.responses for link in self.rig.upstream.links], [[], []])

    def test_no_credentials_no_session(self) -> None:
        """The session id is no credential; nor is a token in the query."""
        self.assertEqual(self.alice.ask("ping", who=None).status, 401)
        self.assertEqual(self.alice.ask("ping", who="wrong").status, 401)
        query = f"sessionId={self.alice.session_id}&access_token=mcp_alice"
        self.assertEqual(self.alice.ask("ping", query=query).status, 401)
        opened = self.rig.send(b"", method="GET", path="/sse", query="access_token=mcp_alice")
        self.assertEqual(opened.status, 401)

    def test_session_parameter(self) -> None:
        """Exactly one names the session; others, and other spellings, mean nothing."""
        mine = self.alice.session_id
        for query, status in (
            ("", 400),
            ("session_id=" + mine, 400),
            ("SessionId=" + mine, 400),
            ("sessionId", 404),
            ("sessionId=", 404),
            (f"sessionId={mine}&sessionId={mine}", 400),
            (f"sessionId={mine}&sessionId=", 400),
            (f"sessionId={mine}&%73essionId=x", 400),
            (f"sessionId={mine}x", 404),
            (f"sessionId={mine}&x=1", 202),
            (f"x=1&%73essionId={mine}", 202),
            ("&".join(["x=1"] * 200 + [f"sessionId={mine}"]), 401),
        ):
            self.assertEqual(self.alice.ask("tools/list", query=query).status, status, query)

    def test_other_transport(self) -> None:
        """No id of one transport is a session of the other, in either direction."""
        streamable = self.rig.handshake()
        self.assertEqual(self.alice.ask("ping", query=f"sessionId={streamable}").status, 404)
        headers = {"Mcp-Session-Id": self.alice.session_id}
        for method in ("POST", "GET", "DELETE"):
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            outlet = self.rig.send(body, method=method, headers=headers)
            self.assertEqual(outlet.status, 404)
        self.assertFalse(self.alice.outlet.finished)

    def test_after_the_end(self) -> None:
        """Once the stream is closed there is no session, for its owner either."""
        self.alice.outlet.leave()
        self.assertEqual(self.alice.ask("tools/list").status, 404)
        again = SseClient(self.rig)
        self.assertEqual(
            again.ask("tools/list", query=f"sessionId={self.alice.session_id}").status, 404
        )

    def test_two_streams_of_one_principal(self) -> None:
        """Each has its own session: neither reads, answers or cancels what is the other's."""
        second = SseClient(self.rig).initialize()
        second.ask("tools/call", {"name": "t"}, id=1)
        before = (self.alice.outlet.body, second.outlet.body)
        second.tell("notifications/cancelled", {"requestId": 1})
        self.assertIsNone(self.link.requests[0][2].cancelled)
        self.assertIsNotNone(self.rig.upstream.links[1].requests[0][2].cancelled)
        second.post({"jsonrpc": "2.0", "id": self.alice.messages[-1]["id"], "result": {}})
        self.assertEqual(self.link.responses, [])
        self.link.answer(0, result={"content": []})
        self.assertEqual(second.outlet.body, before[1])
        self.assertNotEqual(self.alice.outlet.body, before[0])
        second.outlet.leave()
        self.assertEqual(self.alice.ask("tools/list").status, 202)

    def test_only_a_digest_is_written_down(self) -> None:
        """The session id stands in no event, and the events of a session can be joined."""
        secret = self.alice.session_id
        self.assertNotIn(secret, repr(self.rig.trail.events))
        digests = {
            event.session_id
            for event in self.rig.trail.events
            if event.event_type in ("SessionStarted", "McpRequest")
        }
        self.assertEqual(len(digests), 1)


class CapTests(SynchronousTestCase):
    """Streams count as sessions, shaken hands or not."""

    def test_per_principal(self) -> None:
        """At the cap the next stream is refused and may come back; open ones are left alone."""
        rig = Rig()
        clients = [SseClient(rig) for _ in range(SESSIONS.per_principal)]
        refused = SseClient(rig).outlet
        self.assertEqual(refused.status, 503)
        self.assertIn("retry-after", refused.headers)
        self.assertEqual(rig.call("initialize", PARAMS).status, 503)
        self.assertEqual(SseClient(rig, who="bob").outlet.status, 200)
        clients[0].outlet.leave()
        self.assertEqual(SseClient(rig).outlet.status, 200)

    def test_streams_that_are_read_are_not_taken_away(self) -> None:
        """A client that is there keeps its session, however many its principal wants to open."""
        rig = Rig()
        clients = [SseClient(rig).initialize() for _ in range(SESSIONS.per_principal)]
        rig.clock.advance(3600)
        self.assertEqual(SseClient(rig).outlet.status, 503)
        self.assertFalse(any(client.outlet.finished for client in clients))

    def test_identity_limit(self) -> None:
        """Opening and posting cost what every request costs, and answer with HTTP's own status."""
        rig = Rig(limits=RateLimitSettings(requests_per_second=0.001, burst_size=2))
        client = SseClient(rig)
        self.assertEqual(client.ask("initialize", PARAMS).status, 202)
        refused = client.ask("tools/list")
        self.assertEqual(refused.status, 429)
        self.assertIn("retry-after", refused.headers)
        self.assertEqual(SseClient(rig).outlet.status, 429)


class AnyOrderTests(SynchronousTestCase):
    """Whatever two principals post, in whatever order."""

    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    @given(
        moves=st.lists(
            st.tuples(
                st.sampled_from(["alice", "bob"]),
                st.sampled_from(["mine", "yours", "none"]),
                st.sampled_from(["initialize", "leave", "answer", "open", *sorted(METHODS)]),
            ),
            max_size=25,
        )
    )
    def test_nothing_crosses(self, moves: list[tuple[str, str, str]]) -> None:
        """Each request leaves one outcome, only its owner's link is asked, nobody else hears."""
        rig = Rig(keys=(api_key("alice"), api_key("bob")))
        clients = {who: SseClient(rig, who=who) for who in ("alice", "bob")}
        opened = list(clients.values())
        sent = 2
        for who, whose, method in moves:
            client = clients[who]
            other = clients["bob" if who == "alice" else "alice"]
            if method == "leave":
                client.outlet.leave()
                continue
            if method == "answer":
                for link in rig.upstream.links:
                    for outbound, sink, call in link.requests:
                        if call.cancelled is None:
                            call.cancelled = "answered"
                            mark = {"for": outbound.principal_key}
                            sink.answer({"jsonrpc": "2.0", "id": outbound.id, "result": mark})
                continue
            sent += 1
            if method == "open":
                clients[who] = SseClient(rig, who=who)
                opened.append(clients[who])
                continue
            query = {"mine": client, "yours": other}.get(whose)
            named = "" if query is None else f"sessionId={query.session_id}"
            params = {
                **PARAMS,
                "name": "x",
                "uri": "demo://x",
                "ref": {"type": "ref/prompt", "name": "p"},
            }
            params["requestId"] = 1
            body: Any = {"jsonrpc": "2.0", "method": method, "params": params}
            if not method.startswith("notifications/"):
                body["id"] = 1
            posted = client.post(body, query=named)
            allowed = {"mine": (202, 404), "yours": (404,), "none": (400,)}[whose]
            self.assertIn(posted.status, allowed)
        for client in opened:
            client.outlet.leave()
        rig.clock.advance(0)
        self.assertEqual(len(rig.trail.outcomes), sent)
        self.assertEqual(len(rig.meter.requests), sent)
        for client in opened:
            for message in client.messages:
                theirs = message.get("result", {}).get("for", f"api_key:{client.who}")
                self.assertEqual(theirs, f"api_key:{client.who}")
        self.assertEqual((len(rig.pipeline.sse), len(rig.pipeline.table)), (0, 0))
