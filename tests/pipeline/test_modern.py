"""The stateless wire."""

from datetime import UTC, datetime

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.link import Eras
from tests.pipeline.rig import META, MODERN, MemoryUpstream, Rig, api_key

DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": [MODERN],
    "capabilities": {"tools": {"listChanged": True}, "tasks": {}},
    "ttlMs": 3_600_000,
    "cacheScope": "public",
}


class ModernCase(SynchronousTestCase):
    """A corridor before a stateless server."""

    def setUp(self) -> None:
        """Build it."""
        self.upstream = MemoryUpstream(
            known_eras=Eras(legacy=False, modern=(MODERN,), discovered=DISCOVERED)
        )
        self.rig = Rig(
            keys=(api_key("alice"), api_key("reader", allowed_tools=("read_file",))),
            upstream=self.upstream,
        )
        self.tools = [
            {"name": "read_file", "inputSchema": {"type": "object"}},
            {
                "name": "query",
                "inputSchema": {
                    "type": "object",
                    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
                },
            },
        ]
        self.upstream.reply = lambda outbound: (
            {
                "result": {
                    "resultType": "complete",
                    "tools": self.tools,
                    "ttlMs": 3_600_000,
                    "cacheScope": "public",
                }
            }
            if outbound.method == "tools/list"
            else None
        )


class LadderTests(ModernCase):
    """The validation ladder, first failure first."""

    def test_good_call(self) -> None:
        """A request with all its headers reaches the server with its own metadata."""
        outlet = self.rig.modern("tools/call", {"name": "read_file", "arguments": {}}, id="x")
        sent = self.upstream.links[-1].requests[-1][0]
        self.assertEqual((sent.method, sent.version), ("tools/call", MODERN))
        self.upstream.links[-1].answer(
            len(self.upstream.links[-1].requests) - 1,
            result={"resultType": "complete", "content": []},
        )
        self.assertEqual((outlet.status, outlet.json["id"]), (200, "x"))

    def test_refusals(self) -> None:
        """Each rung has its own status and code, and carries the request's id."""
        version, method = "MCP-Protocol-Version", "Mcp-Method"
        rungs = [
            ({"Content-Type": "text/plain"}, "tools/list", {"_meta": META}, 415, 415),
            ({"Accept": "application/json"}, "tools/list", {"_meta": META}, 406, None),
            ({}, "tools/list", {}, 400, -32602),
            ({method: "tools/call"}, "tools/list", {"_meta": META}, 400, -32020),
            ({version: "2027-01-01"}, "tools/list", {"_meta": META}, 400, -32020),
            ({}, "initialize", {"_meta": META}, 404, -32601),
            ({}, "ping", {"_meta": META}, 404, -32601),
            ({}, "no/such", {"_meta": META}, 404, -32601),
            ({}, "tools/call", {"_meta": META, "name": 5}, 400, None),
        ]
        for extra, name, params, status, code in rungs:
            headers = {version: MODERN, method: name, **extra}
            outlet = self.rig.call(name, params, id=7, headers=headers)
            self.assertEqual(outlet.status, status, (extra, name, outlet.body))
            if code is not None and "error" in outlet.json:
                self.assertEqual(outlet.json["error"]["code"], code, (extra, name))
        self.assertEqual(self.upstream.asked, [])

    def test_unsupported_version_lists_what_is_served(self) -> None:
        """-32022 names the versions of this route, handshake ones where the server has them."""
        newer = dict(META)
        newer["io.modelcontextprotocol/protocolVersion"] = "2027-01-01"
        outlet = self.rig.call(
            "tools/list",
            {"_meta": newer},
            headers={"MCP-Protocol-Version": "2027-01-01", "Mcp-Method": "tools/list"},
        )
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (400, -32022))
        self.assertEqual(outlet.json["error"]["data"]["supported"], [MODERN])
        rig = Rig()
        outlet = rig.modern("server/discover")
        self.assertEqual(outlet.json["error"]["code"], -32022)
        self.assertIn("2025-11-25", outlet.json["error"]["data"]["supported"])

    def test_modern_body_without_header(self) -> None:
        """A body of this era under no version header is a mismatch, not a bare request."""
        outlet = self.rig.call("tools/list", {"_meta": META})
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (400, -32020))

    def test_methods_and_bodies_of_other_eras(self) -> None:
        """GET and DELETE are 405, responses 400, notifications 202 and honoured by nobody."""
        headers = {"MCP-Protocol-Version": MODERN}
        for method in ("GET", "DELETE"):
            outlet = self.rig.send(b"", method=method, headers=headers)
            self.assertEqual((outlet.status, outlet.headers["allow"]), (405, "POST"))
        response = {"jsonrpc": "2.0", "id": 1, "result": {}}
        self.assertEqual(self.rig.send(response, headers=headers).status, 400)
        self.assertEqual(self.rig.send([], headers=headers).status, 400)
        running = self.rig.modern("prompts/get", {"name": "p"})
        cancel = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": 1},
        }
        self.assertEqual(self.rig.send(cancel, headers=headers).status, 202)
        self.assertIsNone(self.upstream.links[-1].requests[0][2].cancelled)
        self.assertIsNone(running.status)

    def test_session_id_is_ignored(self) -> None:
        """This era has no sessions: a stray id neither helps nor hurts, none is given out."""
        outlet = self.rig.modern("server/discover", headers={"Mcp-Session-Id": "junk"})
        self.assertEqual(outlet.status, 200)
        self.assertNotIn("mcp-session-id", outlet.headers)


class AnswerTests(ModernCase):
    """Answers of stateless servers."""

    def test_discover(self) -> None:
        """server/discover is answered from what the server said, private and short-lived."""
        result = self.rig.modern("server/discover").json["result"]
        self.assertEqual(result["supportedVersions"], [MODERN])
        self.assertEqual(result["capabilities"], {"tools": {"listChanged": True}})
        self.assertEqual((result["cacheScope"], result["ttlMs"]), ("private", 60_000))
        self.assertEqual(self.upstream.asked, [])

    def test_results_say_their_type(self) -> None:
        """A result whose server left its type out, which means complete, says so to the client."""
        self.upstream.reply = lambda outbound: {"result": {"completion": {"values": []}}}
        reference = {"type": "ref/prompt", "name": "greet"}
        params = {"ref": reference, "argument": {"name": "name", "value": ""}}
        result = self.rig.modern("completion/complete", params).json["result"]
        self.assertEqual(result, {"completion": {"values": []}, "resultType": "complete"})

    def test_filtered_list_is_private(self) -> None:
        """A list is filtered and never cached for others, whatever the server said."""
        result = self.rig.modern("tools/list", who="reader").json["result"]
        self.assertEqual([tool["name"] for tool in result["tools"]], ["read_file"])
        self.assertEqual((result["cacheScope"], result["ttlMs"]), ("private", 60_000))

    def test_invalid_annotations(self) -> None:
        """A tool whose header annotation is invalid is left out, the others stay."""
        schema = {"type": "object", "properties": {"n": {"type": "number", "x-mcp-header": "N"}}}
        self.tools.append({"name": "bad", "inputSchema": schema})
        result = self.rig.modern("tools/list").json["result"]
        self.assertEqual([tool["name"] for tool in result["tools"]], ["read_file", "query"])

    def test_error_statuses(self) -> None:
        """Protocol errors of the server get the HTTP status this wire has for them."""
        for code, status in ((-32602, 400), (-32601, 404), (-32603, 200), (5, 200)):
            outlet = self.rig.modern("prompts/get", {"name": "p"})
            self.upstream.links[-1].answer(0, error={"code": code, "message": "no"})
            self.assertEqual(outlet.status, status, code)

    def test_disconnect_is_the_cancellation(self) -> None:
        """A closed connection cancels upstream; nothing more is sent, the audit says so."""
        outlet = self.rig.modern("prompts/get", {"name": "p"})
        outlet.leave()
        self.assertIsNotNone(self.upstream.links[-1].requests[0][2].cancelled)
        self.assertEqual(self.rig.trail.outcomes[-1].status, "cancelled")
        self.assertEqual(self.upstream.links[-1].closed, 1)

    def test_link_is_given_back(self) -> None:
        """The link of a request is closed at its end, also when it was refused late."""
        self.rig.modern("prompts/get", {"name": "p"})
        self.upstream.links[-1].answer(0, result={})
        self.rig.modern("tools/call", {"name": "query", "arguments": {"region": "eu"}})
        self.assertEqual([link.closed for link in self.upstream.links], [1, 1])


class CapabilityTests(ModernCase):
    """What a client may offer a server."""

    def test_tasks_are_not_offered(self) -> None:
        """A server must not answer with a task that nobody could ask about."""
        meta = {
            **META,
            "io.modelcontextprotocol/clientCapabilities": {
                "sampling": {},
                "extensions": {"io.modelcontextprotocol/tasks": {}, "x.example/y": {}},
            },
        }
        self.rig.modern("prompts/get", {"name": "p", "_meta": meta})
        params = self.upstream.asked[0].params
        assert params is not None
        self.assertEqual(
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"],
            {"sampling": {}, "extensions": {"x.example/y": {}}},
        )


class ParamHeaderTests(ModernCase):
    """Mcp-Param-* against the tool's schema."""

    def test_missing_header(self) -> None:
        """An annotated argument without its header never reaches the server."""
        outlet = self.rig.modern("tools/call", {"name": "query", "arguments": {"region": "eu"}})
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (400, -32020))
        self.assertEqual([sent.method for sent in self.upstream.asked], ["tools/list"])

    def test_matching_header_is_passed_on(self) -> None:
        """A header that matches goes up with the call; the schema is asked for once."""
        for _ in range(2):
            self.rig.modern(
                "tools/call",
                {"name": "query", "arguments": {"region": "eu"}},
                headers={"Mcp-Param-Region": "eu"},
            )
        calls = [sent for sent in self.upstream.asked if sent.method == "tools/call"]
        self.assertEqual(len(self.upstream.asked), 3)
        self.assertEqual(calls[0].headers, (("Mcp-Param-Region", "eu"),))

    def test_rebuilt_from_the_body(self) -> None:
        """What goes up is spelled by the gateway; headers of no argument are passed unchanged."""
        self.rig.modern(
            "tools/call",
            {"name": "query", "arguments": {"region": "eu"}},
            headers={"mcp-param-REGION": "=?base64?ZXU=?=", "Mcp-Param-Later": " =?base64?x"},
        )
        self.assertEqual(
            self.upstream.asked[-1].headers,
            (("Mcp-Param-Region", "eu"), ("mcp-param-later", " =?base64?x")),
        )

    def test_mismatch(self) -> None:
        """A header that says something else than the body is refused."""
        outlet = self.rig.modern(
            "tools/call",
            {"name": "query", "arguments": {"region": "eu"}},
            headers={"Mcp-Param-Region": "us"},
        )
        self.assertEqual(outlet.json["error"]["code"], -32020)


class ListenTests(ModernCase):
    """subscriptions/listen."""

    def test_only_what_the_caller_may_read(self) -> None:
        """URIs the caller may not read are taken out before the server hears of them."""
        rig = Rig(keys=(api_key("r", allowed_resources=("demo://a",)),), upstream=self.upstream)
        rig.modern(
            "subscriptions/listen",
            {
                "notifications": {
                    "toolsListChanged": True,
                    "resourceSubscriptions": ["demo://a", "demo://b"],
                    "unknownThing": True,
                }
            },
            who="r",
        )
        sent = self.upstream.links[-1].requests[0][0]
        self.assertTrue(sent.endless)
        self.assertEqual(
            sent.params["notifications"] if sent.params else None,
            {"toolsListChanged": True, "resourceSubscriptions": ["demo://a"]},
        )

    def test_bounded_per_principal(self) -> None:
        """A principal holds so many listens and no more; leaving frees the place."""
        body: dict[str, object] = {"notifications": {}}
        open_ = [self.rig.modern("subscriptions/listen", body) for _ in range(20)]
        self.assertEqual(self.rig.modern("subscriptions/listen", body).status, 429)
        open_[0].leave()
        self.assertIsNone(self.rig.modern("subscriptions/listen", body).status)

    def test_ended_when_the_gateway_stops(self) -> None:
        """A listen ends with its result and the subscription's id, and upstream too."""
        outlet = self.rig.modern("subscriptions/listen", {"notifications": {}}, id="L")
        self.rig.clock.advance(16)
        self.rig.pipeline.drain()
        self.assertTrue(outlet.finished)
        last = outlet.events[-1]
        self.assertEqual(
            (last["id"], last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"]),
            ("L", "L"),
        )
        self.assertIsNotNone(self.upstream.links[-1].requests[0][2].cancelled)

    def test_ended_with_the_credentials(self) -> None:
        """A key that expires takes its open listen with it."""
        soon = datetime.fromtimestamp(60, UTC)
        rig = Rig(keys=(evolve(api_key("k"), expires_at=soon),), upstream=self.upstream)
        outlet = rig.modern("subscriptions/listen", {"notifications": {}}, who="k")
        rig.clock.advance(61)
        self.assertTrue(outlet.finished)

    def test_bounded_uris(self) -> None:
        """A listen may name so many resources and no more."""
        uris = [f"demo://{n}" for n in range(101)]
        outlet = self.rig.modern(
            "subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}}
        )
        self.assertEqual(outlet.status, 400)
