"""Bare requests: a key, a POST and nothing else."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.upstream.link import Eras, Opening, UpstreamFailure
from tests.pipeline.rig import MODERN, MemoryLink, MemoryUpstream, Rig


class BareTests(SynchronousTestCase):
    """The quick start's curl, before each kind of server."""

    def setUp(self) -> None:
        """A corridor whose server lists two tools."""
        self.rig = Rig()
        self.upstream = self.rig.upstream
        self.upstream.reply = lambda outbound: {"result": {"tools": [{"name": "echo"}]}}

    def test_lists_tools_as_json(self) -> None:
        """Curl with */* and no MCP header gets the tools as one JSON object."""
        outlet = self.rig.call("tools/list", accept="*/*")
        self.assertEqual(outlet.status, 200)
        self.assertEqual(outlet.headers["content-type"], "application/json")
        self.assertEqual(outlet.json["result"]["tools"], [{"name": "echo"}])
        self.assertNotIn("mcp-session-id", outlet.headers)

    def test_one_session_per_principal(self) -> None:
        """A principal's requests share a session; another principal never does."""
        for who in ("alice", "alice", "bob", "alice"):
            self.rig.call("tools/list", accept="*/*", who=who)
        self.assertEqual(len(self.upstream.links), 2)
        self.assertEqual(
            [len(link.requests) for link in self.upstream.links],
            [3, 1],
        )
        self.assertEqual(self.upstream.initialized_with[0]["capabilities"], {})
        self.assertEqual(
            self.upstream.links[0].notifications, [("notifications/initialized", None)]
        )

    def test_requests_that_come_during_the_handshake_wait_for_it(self) -> None:
        """Two at once open one session."""
        waiting: list[Deferred[Opening]] = []

        def slow(*args: object) -> Deferred[Opening]:
            waiting.append(Deferred())
            return waiting[-1]

        self.upstream.open_session = slow  # type: ignore[method-assign, assignment]
        first, second = (self.rig.call("tools/list", accept="*/*") for _ in range(2))
        self.assertEqual((len(waiting), first.status), (1, None))
        link = MemoryLink(reply=self.upstream.reply)
        waiting[0].callback(Opening(link, {"protocolVersion": "2025-11-25"}))
        self.assertEqual((first.status, second.status), (200, 200))
        self.assertEqual(len(link.requests), 2)

    def test_failed_handshake(self) -> None:
        """Who caused a handshake that fails is told; the next request tries again."""
        self.upstream.failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.rig.call("tools/list", accept="*/*").status, 503)
        self.upstream.failure = None
        self.assertEqual(self.rig.call("tools/list", accept="*/*").status, 200)

    def test_session_that_died(self) -> None:
        """After the pooled session dies the next request opens another."""
        self.rig.call("tools/list", accept="*/*")
        self.upstream.inboxes[0].closed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.assertEqual(self.rig.call("tools/list", accept="*/*").status, 200)
        self.assertEqual(len(self.upstream.links), 2)

    def test_forgotten_session(self) -> None:
        """A server that forgot the session (404) has not looked at the request: once more."""
        self.upstream.reply = lambda outbound: None
        outlet = self.rig.call("tools/list", accept="*/*")
        gone = UpstreamFailure(Reason.SESSION_NOT_FOUND)
        for number in range(2):
            self.assertEqual((len(self.upstream.links), outlet.status), (number + 1, None))
            self.upstream.links[number].requests[0][1].failed(gone)
            self.upstream.inboxes[number].closed(gone)
            self.rig.clock.advance(0)
        self.assertEqual((len(self.upstream.links), outlet.status), (2, 404))
        self.assertEqual(len(self.rig.trail.outcomes), 1)

    def test_idle_session_is_closed(self) -> None:
        """The pool lets go of what is not used, never of what is in use."""
        self.rig.call("tools/list", accept="*/*")
        self.upstream.reply = lambda outbound: None
        self.rig.call("tools/list", accept="*/*", who="bob")
        self.rig.clock.advance(1000)
        self.rig.pipeline.bare.pool.sweep()
        self.assertEqual([link.closed for link in self.upstream.links], [1, 0])

    def test_server_that_asks_back(self) -> None:
        """Nobody can be asked: a server's request is refused at once."""
        self.rig.call("tools/list", accept="*/*")
        self.upstream.inboxes[0].request(
            {"jsonrpc": "2.0", "id": 3, "method": "sampling/createMessage"}, None
        )
        self.assertEqual(self.upstream.links[0].responses[0]["error"]["code"], -32601)

    def test_client_that_leaves(self) -> None:
        """Without a session to come back to, leaving is giving up."""
        self.upstream.reply = lambda outbound: None
        outlet = self.rig.call("tools/call", {"name": "slow"}, accept="*/*")
        outlet.leave()
        self.assertIsNotNone(self.upstream.links[0].requests[0][2].cancelled)

    def test_stateless_server(self) -> None:
        """Before a stateless server the gateway adds the metadata and takes off the results'."""
        upstream = MemoryUpstream(known_eras=Eras(legacy=False, modern=(MODERN,)))
        upstream.reply = lambda outbound: {
            "result": {"resultType": "complete", "ttlMs": 5, "cacheScope": "public", "tools": []}
        }
        rig = Rig(upstream=upstream)
        outlet = rig.call("tools/list", accept="*/*")
        self.assertEqual(outlet.json["result"], {"tools": []})
        params = upstream.asked[0].params
        assert params is not None
        self.assertEqual(params["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN)

    def test_stateless_server_with_header_parameters(self) -> None:
        """What a stateless HTTP server wants repeated in headers is built from the body."""
        upstream = MemoryUpstream(transport="http", known_eras=Eras(legacy=False, modern=(MODERN,)))
        schema = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
        tool = {"name": "query", "inputSchema": schema}
        upstream.reply = lambda outbound: {
            "result": {"tools": [tool]} if outbound.method == "tools/list" else {"content": []}
        }
        rig = Rig(upstream=upstream)
        params = {"name": "query", "arguments": {"region": "ü"}}
        forged = {"Mcp-Param-Region": "us", "Mcp-Param-Other": "1"}
        for _ in range(2):
            outlet = rig.call("tools/call", params, accept="*/*", headers=forged)
            self.assertEqual(outlet.json["result"], {"content": []})
        self.assertEqual(
            [sent.method for sent in upstream.asked], ["tools/list", "tools/call", "tools/call"]
        )
        built = (("Mcp-Param-Region", "=?base64?w7w=?="), ("mcp-param-other", "1"))
        self.assertEqual([sent.headers for sent in upstream.asked[1:]], [built, built])

    def test_stateless_server_that_does_not_list(self) -> None:
        """Without the schemas nobody knows the headers: the call is not sent."""
        upstream = MemoryUpstream(transport="http", known_eras=Eras(legacy=False, modern=(MODERN,)))
        upstream.reply = lambda outbound: {"error": {"code": -32603, "message": "no"}}
        rig = Rig(upstream=upstream)
        outlet = rig.call("tools/call", {"name": "query"}, accept="*/*")
        self.assertEqual(outlet.status, 502)
        self.assertEqual([sent.method for sent in upstream.asked], ["tools/list"])
        self.assertEqual([link.closed for link in upstream.links], [1])

    def test_curl_without_content_type(self) -> None:
        """Curl -d announces a form; a page could do so too, but then it has an Origin."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        self.assertEqual(self.rig.call("tools/list", accept="*/*", headers=form).status, 200)
        form["Origin"] = "http://localhost:3000"
        self.assertEqual(self.rig.call("tools/list", accept="*/*", headers=form).status, 415)

    def test_version_header_without_session(self) -> None:
        """A client that names a handshake version must have shaken hands."""
        outlet = self.rig.call("tools/list", headers={"MCP-Protocol-Version": "2025-11-25"})
        self.assertEqual(outlet.status, 400)

    def test_bare_notification(self) -> None:
        """There is nobody to notify."""
        outlet = self.rig.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.assertEqual(outlet.status, 400)
