"""The order of a request's steps."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings, ServerSettings, ToolLimit
from mcpguard.policy.principal import Rights
from mcpguard.policy.rules import Operation, decide
from mcpguard.protocol.mcp import METHODS
from mcpguard.upstream.link import Eras
from tests.pipeline.rig import MODERN, MemoryUpstream, Rig, api_key
from tests.pipeline.sse_rig import PARAMS, SseClient

PATTERNS = st.lists(
    st.sampled_from(
        ["read_file", "write_*", "*", "?cho", "default:echo", "other:echo", "delete_file"]
    ),
    max_size=3,
).map(tuple)
TOOLS = st.sampled_from(
    ["read_file", "write_file", "delete_file", "echo", "Echo", "", "default:echo"]
)


class NothingBeforeAnAllowTests(SynchronousTestCase):
    """Nothing reaches a server before an allow."""

    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
    @given(
        allowed=st.none() | PATTERNS,
        denied=PATTERNS,
        servers=st.none() | PATTERNS,
        method=st.sampled_from([*sorted(METHODS), "unknown/method", "Tools/call", "tools/Call"]),
        name=TOOLS | st.none() | st.integers(),
        who=st.sampled_from(["carol", "stranger", None]),
        era=st.sampled_from(["bare", "session", "modern", "sse"]),
        with_id=st.booleans(),
    )
    def test_every_request_that_arrives_was_allowed(
        self,
        allowed: tuple[str, ...] | None,
        denied: tuple[str, ...],
        servers: tuple[str, ...] | None,
        method: str,
        name: object,
        who: str | None,
        era: str,
        with_id: bool,
    ) -> None:
        """Whatever is sent by whomever, what reaches the server is what the rules allow."""
        upstream = MemoryUpstream(known_eras=Eras(legacy=True, modern=(MODERN,)))
        carol = api_key(
            "carol", allowed_tools=allowed, denied_tools=denied, allowed_servers=servers
        )
        rig = Rig(keys=(carol,), upstream=upstream)
        rights = Rights(tools=allowed, denied_tools=denied, servers=servers)
        params = {} if name is None else {"name": name, "arguments": {}, "uri": "demo://x"}
        if method == "completion/complete":
            params = {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {}}
        headers = {}
        keys: dict[str, Any] = {}
        if era == "sse":
            client = SseClient(rig, who="carol")
            if client.outlet.status == 200:
                client.ask("initialize", PARAMS)
                keys = {"path": "/messages", "query": f"sessionId={client.session_id}"}
        if era == "session":
            opened = rig.call(
                "initialize",
                {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}},
                who="carol",
            )
            if opened.status == 200:
                headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
        if not with_id:
            body = {"jsonrpc": "2.0", "method": method, "params": params}
            rig.send(body, who=who, headers=headers, **keys)
            for link in upstream.links:
                for notified, _ in link.notifications:
                    self.assertEqual(METHODS[notified].kind, "notification")
        elif era == "modern":
            rig.modern(method, params, who=who)
        else:
            rig.call(method, params, who=who, headers=headers, **keys)
        for outbound in upstream.asked:
            if outbound.method == "tools/list" and outbound.principal_key == "api_key:carol":
                continue
            self.assertEqual(who, "carol")
            known = METHODS[outbound.method]
            self.assertTrue(known.relayed)
            self.assertTrue(
                decide(rights, Operation("method", outbound.method, "default", "")).allowed
            )
            if outbound.method == "tools/call":
                tool = (outbound.params or {})["name"]
                self.assertTrue(
                    decide(rights, Operation("tool", tool, "default", "tools/call")).allowed
                )
        if who != "carol":
            self.assertEqual(upstream.asked, [])

    @settings(deadline=None, max_examples=100)
    @given(allowed=st.none() | PATTERNS, denied=PATTERNS, listed=st.lists(TOOLS, max_size=6))
    def test_the_list_shows_exactly_what_a_call_may_use(
        self, allowed: tuple[str, ...] | None, denied: tuple[str, ...], listed: list[str]
    ) -> None:
        """A tool is in the filtered list if and only if calling it reaches the server."""
        upstream = MemoryUpstream()
        upstream.reply = lambda outbound: (
            {"result": {"tools": [{"name": name} for name in listed]}}
            if outbound.method == "tools/list"
            else {"result": {"content": []}}
        )
        carol = api_key("carol", allowed_tools=allowed, denied_tools=denied)
        rig = Rig(keys=(carol,), upstream=upstream)
        answer = rig.call("tools/list", who="carol", accept="application/json")
        shown = [tool["name"] for tool in answer.json["result"]["tools"]]
        callable_ = []
        for name in listed:
            before = len(upstream.asked)
            rig.call("tools/call", {"name": name, "arguments": {}}, who="carol")
            if len(upstream.asked) > before:
                callable_.append(name)
        self.assertEqual(shown, callable_)


class StepTests(SynchronousTestCase):
    """Each step refuses before the next one looks."""

    def setUp(self) -> None:
        """A corridor with two principals."""
        self.rig = Rig()

    def test_foreign_host(self) -> None:
        """A Host that is not ours is 421 before anybody is asked who they are."""
        outlet = self.rig.call("tools/list", headers={"Host": "evil.example"}, who="stranger")
        self.assertEqual(outlet.status, 421)
        self.assertEqual(self.rig.meter.auths, [])

    def test_foreign_origin(self) -> None:
        """A page of another origin is 403."""
        outlet = self.rig.call("tools/list", headers={"Origin": "https://evil.example"})
        self.assertEqual(outlet.status, 403)
        self.assertEqual(self.rig.upstream.asked, [])

    def test_no_credentials(self) -> None:
        """No key: 401 with a challenge, recorded as AuthFailure."""
        outlet = self.rig.call("tools/list", who=None)
        self.assertEqual(outlet.status, 401)
        self.assertTrue(outlet.headers["www-authenticate"].startswith("Bearer "))
        self.assertEqual([e.event_type for e in self.rig.trail.outcomes], ["AuthFailure"])

    def test_failed_attempts_are_limited_per_address(self) -> None:
        """After a minute's worth of wrong keys the address waits, other addresses do not."""
        rig = Rig(limits=RateLimitSettings(failed_auth_per_minute=3))
        statuses = [rig.call("tools/list", who="wrong").status for _ in range(4)]
        self.assertEqual(statuses, [401, 401, 401, 429])
        self.assertEqual(rig.call("tools/list", who="alice").status, 429)
        rig.upstream.reply = lambda outbound: {"result": {"tools": []}}
        self.assertEqual(rig.call("tools/list", who="alice", peer="192.0.2.2").status, 200)

    def test_one_ipv6_host_is_one_address(self) -> None:
        """Whoever commands a /64 has no more attempts than whoever has one address."""
        rig = Rig(limits=RateLimitSettings(failed_auth_per_minute=3))
        peers = [f"2001:db8::{number}" for number in range(4)]
        statuses = [rig.call("tools/list", who="wrong", peer=peer).status for peer in peers]
        self.assertEqual(statuses, [401, 401, 401, 429])
        other = rig.call("tools/list", who="wrong", peer="2001:db8:0:1::1")
        self.assertEqual(other.status, 401)

    def test_honest_callers_are_not_charged(self) -> None:
        """Successes and missing keys do not use up an address's failed attempts."""
        rig = Rig(limits=RateLimitSettings(failed_auth_per_minute=1))
        rig.upstream.reply = lambda outbound: {"result": {"tools": []}}
        for _ in range(5):
            self.assertEqual(rig.call("tools/list", who=None).status, 401)
            self.assertEqual(rig.call("tools/list").status, 200)

    def test_identity_limit(self) -> None:
        """The bucket of an identity empties: 429 with Retry-After, and true headers before."""
        rig = Rig(limits=RateLimitSettings(requests_per_second=1, burst_size=2))
        rig.upstream.reply = lambda outbound: {"result": {"tools": []}}
        first, second, third = (rig.call("tools/list") for _ in range(3))
        self.assertEqual([first.status, second.status, third.status], [200, 200, 429])
        self.assertEqual(first.headers["x-ratelimit-remaining"], "1")
        self.assertEqual(second.headers["x-ratelimit-remaining"], "0")
        self.assertEqual(third.headers["retry-after"], "1")
        self.assertEqual(rig.call("tools/list", who="bob").status, 200)
        rig.clock.advance(1)
        self.assertEqual(rig.call("tools/list").status, 200)

    def test_own_rate_scales_the_burst(self) -> None:
        """An identity with its own rate and no burst gets the default's seconds of burst."""
        rig = Rig(keys=(api_key("slow", rate_limit=2.0),), limits=RateLimitSettings())
        rig.upstream.reply = lambda outbound: {"result": {"tools": []}}
        statuses = [rig.call("tools/list", who="slow").status for _ in range(2)]
        self.assertEqual(statuses, [200, 429])

    def test_tool_limit(self) -> None:
        """A tool's own bucket is per identity and tool, and charged only by allowed calls."""
        rig = Rig(
            limits=RateLimitSettings(
                requests_per_second=1000,
                burst_size=1000,
                tool_limits=(ToolLimit("write_*", 1.0, 1),),
            )
        )
        rig.upstream.reply = lambda outbound: {"result": {"content": []}}
        call = {"name": "write_file", "arguments": {}}
        self.assertEqual(rig.call("tools/call", call).status, 200)
        refused = rig.call("tools/call", call)
        self.assertEqual(refused.status, 429)
        self.assertEqual(refused.headers["retry-after"], "1")
        self.assertEqual(rig.call("tools/call", call, who="bob").status, 200)
        other = {"name": "read_file", "arguments": {}}
        self.assertEqual(rig.call("tools/call", other).status, 200)
        self.assertEqual(rig.trail.outcomes[1].event_type, "RateLimited")

    def test_concurrency_of_an_identity(self) -> None:
        """A running request holds one of the identity's slots until its outcome."""
        rig = Rig(keys=(api_key("one", max_concurrency=1),))
        first = rig.call("tools/call", {"name": "slow"}, who="one")
        self.assertIsNone(first.status)
        self.assertEqual(rig.call("tools/list", who="one").status, 429)
        rig.upstream.links[0].answer(0, result={"content": []})
        self.assertEqual(first.status, 200)
        self.assertIsNone(rig.call("tools/list", who="one").status)

    def test_only_requests_take_a_place(self) -> None:
        """With its one place taken, an identity can still answer its server, and cancel."""
        rig = Rig(keys=(api_key("one", max_concurrency=1),))
        session = {"Mcp-Session-Id": rig.handshake(who="one", capabilities={"roots": {}})}
        running = rig.call("tools/call", {"name": "slow"}, who="one", headers=session)
        question = {"jsonrpc": "2.0", "id": 5, "method": "roots/list"}
        rig.upstream.inboxes[0].request(question, None)
        answer = {"jsonrpc": "2.0", "id": running.events[-1]["id"], "result": {"roots": []}}
        self.assertEqual(rig.send(answer, who="one", headers=session).status, 202)
        self.assertEqual(rig.upstream.links[0].responses, [{**answer, "id": 5}])
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        cancelled["params"] = {"requestId": 1}  # type: ignore[assignment]
        self.assertEqual(rig.send(cancelled, who="one", headers=session).status, 202)
        self.assertIsNotNone(rig.upstream.links[0].requests[0][2].cancelled)

    def test_denied_call_is_legible(self) -> None:
        """A denied call names the identity and the tool, in either kind of body."""
        rig = Rig(keys=(api_key("reader", allowed_tools=("read_file",)),))
        call = {"name": "delete_file", "arguments": {"path": "x"}}
        words = "Identity 'reader' is not authorized to call tool 'delete_file'"
        mcp = rig.call("tools/call", call, id="seven", who="reader")
        self.assertEqual((mcp.status, mcp.json["id"]), (403, "seven"))
        self.assertEqual(mcp.json["error"]["message"], words)
        self.assertEqual(mcp.json["error"]["code"], 403)
        plain = rig.call("tools/call", call, who="reader", accept="*/*")
        self.assertEqual((plain.status, plain.json["error"]), (403, words))
        self.assertEqual(
            [(e.event_type, e.tool, e.status) for e in rig.trail.outcomes],
            [("AuthorizationDenied", "delete_file", "denied")] * 2,
        )
        self.assertEqual(rig.upstream.asked, [])

    def test_denial_status(self) -> None:
        """denial_status = 200 reaches MCP clients only."""
        rig = Rig(
            keys=(api_key("none", allowed_tools=()),), server=ServerSettings(denial_status=200)
        )
        self.assertEqual(rig.call("tools/call", {"name": "x"}, who="none").status, 200)
        self.assertEqual(
            rig.call("tools/call", {"name": "x"}, who="none", accept="*/*").status, 403
        )

    def test_a_check_that_breaks_denies(self) -> None:
        """An exception in a check is a refusal with an audit record, and nothing goes out."""

        def broken(incoming: object, now: float) -> object:
            raise RuntimeError("secret words")

        self.rig.pipeline.callers.authenticator.authenticate = broken  # type: ignore[method-assign, assignment]
        outlet = self.rig.call("tools/list")
        self.assertEqual(outlet.status, 500)
        self.assertNotIn(b"secret words", outlet.body)
        self.assertEqual(self.rig.upstream.asked, [])
        self.assertEqual([e.reason for e in self.rig.trail.outcomes], ["internal_error"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_draining(self) -> None:
        """While the gateway stops, new requests are told to come back."""
        self.rig.pipeline.draining = True
        outlet = self.rig.call("tools/list")
        self.assertEqual(outlet.status, 503)
        self.assertIn("retry-after", outlet.headers)

    def test_unknown_path(self) -> None:
        """A path without a server is 404, known only to those who may ask."""
        self.assertEqual(self.rig.call("tools/list", path="/mcp/none").status, 404)
        self.assertEqual(self.rig.call("tools/list", path="/mcp/none", who=None).status, 401)

    def test_other_http_methods(self) -> None:
        """PUT is 405 and says what is allowed."""
        outlet = self.rig.send(b"", method="PUT")
        self.assertEqual(outlet.status, 405)
        self.assertEqual(outlet.headers["allow"], "GET, POST, DELETE")

    def test_every_request_leaves_one_outcome(self) -> None:
        """Good, bad and odd requests each leave exactly one outcome event and one count."""
        rig = self.rig
        rig.upstream.reply = lambda outbound: {"result": {"tools": []}}
        session = rig.handshake()
        in_session = {"Mcp-Session-Id": session}
        sent = [
            rig.call("tools/list"),
            rig.call("tools/list", headers=in_session),
            rig.send(b"{", headers=in_session),
            rig.send([], headers=in_session),
            rig.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=in_session),
            rig.send({"jsonrpc": "2.0", "id": "mg-9", "result": {}}, headers=in_session),
            rig.call("no/such", headers=in_session),
            rig.call("tools/list", headers={"Mcp-Session-Id": "unknown"}),
            rig.modern("tools/list"),
            rig.send(b"", method="GET", headers=in_session),
            rig.send(b"", method="DELETE", headers=in_session),
            rig.send(b"", method="GET"),
            rig.call("tools/list", headers={"Content-Type": "text/plain"}),
        ]
        self.assertEqual(
            [outlet.status for outlet in sent],
            [200, 200, 400, 400, 202, 202, 200, 404, 400, 200, 200, 400, 415],
        )
        # The handshake of `setUp` is the first.
        self.assertEqual(len(rig.trail.outcomes), len(sent) + 1)
        self.assertEqual(len(rig.meter.requests), len(sent) + 1)
