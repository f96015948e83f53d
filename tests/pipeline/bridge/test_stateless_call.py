"""Single requests of stateless clients before a server that shakes hands."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.schemas import gateway_meta
from mcpguard.upstream.link import Call, Message, Opening, UpstreamFailure
from tests.pipeline.bridge.stateless_rig import FORMS, LOG_LEVEL, StatelessRig
from tests.pipeline.rig import MemoryLink

INFO = {"io.modelcontextprotocol/serverInfo": {"name": "double", "version": "1"}}
GONE = UpstreamFailure(Reason.SESSION_NOT_FOUND)


class RequestTests(SynchronousTestCase):
    """What goes to the server and what comes back."""

    def setUp(self) -> None:
        """A rig."""
        self.rig = StatelessRig()

    def test_request(self) -> None:
        """Nothing of the stateless era reaches the server; its result becomes a complete one."""
        heard = self.rig.call(id="x", meta={"progressToken": 7, "traceparent": "00-1"})
        self.assertEqual(
            self.rig.upstream.initialized_with[0],
            {
                "protocolVersion": "2025-11-25",
                "capabilities": FORMS,
                "clientInfo": {"name": "mcp-guard", "version": "1"},
            },
        )
        link = self.rig.link()
        self.assertEqual(link.notifications, [("notifications/initialized", None)])
        outbound, _, _ = link.requests[0]
        self.assertEqual(
            (outbound.method, outbound.params, outbound.version),
            (
                "tools/call",
                {
                    "name": "tool",
                    "arguments": {},
                    "_meta": {"progressToken": 7, "traceparent": "00-1"},
                },
                "2025-11-25",
            ),
        )
        link.answer(0, result={"content": []})
        self.assertEqual(
            heard.answers,
            [
                {
                    "jsonrpc": "2.0",
                    "id": "x",
                    "result": {"content": [], "resultType": "complete", "_meta": INFO},
                }
            ],
        )

    def test_discover(self) -> None:
        """What a server can do is told from its handshake, without a request to it."""
        self.rig.upstream.result["instructions"] = "Be kind."
        heard = self.rig.send("server/discover")
        self.assertEqual(
            heard.result,
            {
                "capabilities": self.rig.upstream.result["capabilities"],
                "instructions": "Be kind.",
                "resultType": "complete",
                "_meta": INFO,
            },
        )
        self.assertEqual(self.rig.upstream.asked, [])
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)

    def test_sessions_are_shared_by_likes_only(self) -> None:
        """Requests of one principal with the same capabilities on one path share a session."""
        for who, capabilities, path in (
            ("alice", FORMS, ""),
            ("alice", {"elicitation": {}, "tasks": {}}, ""),
            ("alice", {}, ""),
            ("alice", FORMS, "/x"),
            ("bob", FORMS, ""),
        ):
            self.rig.call(who=who, capabilities=capabilities, path=path)
        self.assertEqual([len(one.requests) for one in self.rig.upstream.links], [2, 1, 1, 1])

    def test_own_list_opens_no_session(self) -> None:
        """The gateway's own look at the tools takes whatever session there is."""
        self.rig.call()
        own = gateway_meta()
        self.rig.send("tools/list", capabilities={}, meta=own)
        self.assertEqual([len(one.requests) for one in self.rig.upstream.links], [2])
        self.rig.send("tools/list", capabilities={}, meta=own, who="bob")
        self.assertEqual(self.rig.upstream.initialized_with[1]["capabilities"], {})
        # The same of a client that merely has no capabilities.
        self.rig.send("tools/list", capabilities={})
        self.assertEqual(len(self.rig.upstream.links), 3)

    def test_own_list_comes_before_the_first_call(self) -> None:
        """What the look at the tools has to open is the session of the call it is for."""
        self.rig.send("tools/list", meta=gateway_meta(FORMS))
        self.rig.call()
        self.assertEqual([len(one.requests) for one in self.rig.upstream.links], [2])

    def test_foreign_principal(self) -> None:
        """A link sends nothing for anybody but its principal."""
        link = self.rig.links.link("bob", "")
        heard = self.rig.call()
        outbound = self.rig.upstream.asked[0]
        link.request(outbound, heard)
        self.assertEqual(heard.failures[0].reason, Reason.INTERNAL)

    def test_no_session(self) -> None:
        """Why there is none is told in the terms of a link."""
        self.rig.upstream.failure = UpstreamFailure(Reason.UPSTREAM_BUSY, "full", 3.0)
        failure = self.rig.call().failures[0]
        self.assertEqual((failure.reason, failure.retry_after), (Reason.UPSTREAM_BUSY, 3.0))
        self.rig.upstream.failure = None
        self.rig.call()
        self.assertEqual(len(self.rig.upstream.asked), 1)

    def test_handshake_under_way(self) -> None:
        """Requests wait for one handshake; who leaves meanwhile asks the server nothing."""
        opening: Deferred[Opening] = Deferred()
        self.rig.upstream.open_session = lambda *_: opening  # type: ignore[method-assign]
        staying, leaving = self.rig.call(), self.rig.call()
        assert leaving.call is not None
        leaving.call.cancel("gone")
        link = MemoryLink()
        opening.callback(
            Opening(link, self.rig.upstream.result | {"protocolVersion": "2024-11-05"})
        )
        self.assertEqual(len(link.requests), 1)
        self.assertEqual(link.requests[0][0].version, "2024-11-05")
        self.assertEqual(self.rig.pool.sessions[0].in_use, 1)
        self.assertFalse(staying.over or leaving.over)

    def test_client_leaves(self) -> None:
        """Its call is cancelled at the server; nothing is heard of it any more."""
        heard = self.rig.call()
        assert heard.call is not None
        heard.call.cancel("the client closed the connection")
        heard.call.cancel("again")
        self.assertEqual(self.rig.running().cancelled, "the client closed the connection")
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)
        self.rig.link().answer(0, result={})
        self.assertFalse(heard.over)

    def test_session_lost_before_the_call(self) -> None:
        """A call that may run on without its session is given up: nobody hears its answer."""
        heard = self.rig.call()
        self.rig.upstream.inboxes[-1].closed(UpstreamFailure(Reason.SESSION_NOT_FOUND))
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.rig.running().cancelled, "its session was lost")
        self.rig.link().answer(0, result={})

    def test_time_for_the_answer(self) -> None:
        """Whoever holds the request holds the server's."""
        heard = self.rig.call()
        assert heard.call is not None
        heard.call.hold()
        self.assertEqual(self.rig.running().held, 1)
        heard.call.release()
        self.assertEqual(self.rig.running().held, 0)

    def test_errors(self) -> None:
        """A missing resource has the code of the client's era; a failure stays one."""
        read = self.rig.send("resources/read", {"uri": "x://y"})
        error = {"code": -32002, "message": "Resource not found"}
        self.rig.link().answer(0, error=error)
        self.assertEqual(
            read.error, {"code": -32602, "message": "Resource not found", "data": {"uri": "x://y"}}
        )
        call = self.rig.call()
        self.rig.link().requests[1][1].failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
        self.assertEqual(call.failures[0].reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)

    def test_url_elicitation_required(self) -> None:
        """The URLs are put to a client that can open them; its retry is a new call."""
        urls: Message = {"elicitation": {"form": {}, "url": {}}}
        listed = [{"mode": "url", "url": "https://x", "message": "m", "elicitationId": "1"}]
        error = {"code": -32042, "message": "Visit", "data": {"elicitations": listed}}
        self.rig.upstream.reply = lambda outbound: {"error": error}
        heard = self.rig.call(capabilities=urls)
        self.assertEqual(heard.result["resultType"], "input_required")
        self.assertNotIn("requestState", heard.result)
        ((key, asked),) = heard.result["inputRequests"].items()
        self.assertEqual(asked["params"], {"mode": "url", "url": "https://x", "message": "m"})
        self.assertEqual(len(self.rig.links.lot), 0)
        accepted = {"inputResponses": {key: {"action": "accept"}}}
        again = self.rig.call(capabilities=urls, params=accepted)
        self.assertNotIn("inputResponses", self.rig.upstream.asked[1].params or {})
        self.assertIn("inputRequests", again.result)
        declined = {"inputResponses": {key: {"action": "decline"}}}
        self.assertEqual(self.rig.call(capabilities=urls, params=declined).error["code"], -32603)
        missing = self.rig.call().error
        self.assertEqual(missing["code"], -32021)
        self.assertEqual(missing["data"], {"requiredCapabilities": {"elicitation": {"url": {}}}})


class LostSessionTests(SynchronousTestCase):
    """Sessions that are lost under a request."""

    def setUp(self) -> None:
        """A rig."""
        self.rig = StatelessRig()

    def test_forgotten(self) -> None:
        """A request the server has not looked at is sent once more, on a new session."""
        heard = self.rig.call()
        self.rig.lose(GONE)
        self.rig.clock.advance(0)
        self.assertEqual([len(one.requests) for one in self.rig.upstream.links], [1, 1])
        self.rig.link().answer(0, result={"content": []})
        self.assertEqual(heard.result["resultType"], "complete")

    def test_forgotten_twice(self) -> None:
        """The second time it is over; it is no 404 of the client's, who has no session."""
        heard = self.rig.call()
        for _ in range(2):
            self.rig.lose(GONE)
            self.rig.clock.advance(0)
        self.assertEqual(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.rig.upstream.links), 2)

    def test_forgotten_without_a_word(self) -> None:
        """A link that only fails the request is not used again; others on it hear of it."""
        first, other = self.rig.call(), self.rig.call()
        self.rig.link().requests[0][1].failed(GONE)
        self.assertEqual(len(self.rig.upstream.links), 1)
        self.rig.clock.advance(0)
        self.assertEqual([len(one.requests) for one in self.rig.upstream.links], [2, 1])
        self.assertEqual(self.rig.link(0).closed, 1)
        self.assertEqual(other.failures[0].reason, Reason.UPSTREAM_FAILED)
        self.assertFalse(first.over)

    def test_leaves_before_the_second_try(self) -> None:
        """Who left meanwhile is not served."""
        heard = self.rig.call()
        self.rig.lose(GONE)
        assert heard.call is not None
        heard.call.cancel("gone")
        self.rig.clock.advance(0)
        self.assertEqual(len(self.rig.upstream.links), 1)

    def test_crashed(self) -> None:
        """A request that may have been carried out fails; the next finds a new session."""
        heard = self.rig.call()
        self.rig.lose(UpstreamFailure(Reason.UPSTREAM_FAILED, "exit 1"))
        self.assertEqual(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
        self.rig.clock.advance(10)
        self.assertEqual(len(self.rig.upstream.links), 1)
        self.rig.call()
        self.assertEqual(len(self.rig.upstream.links), 2)

    def test_lost_before_it_was_sent(self) -> None:
        """While the log level is being set, the session is lost: another is looked for, once."""
        heard = self.rig.call(meta={LOG_LEVEL: "info"})
        self.assertEqual(self.rig.upstream.asked[0].method, "logging/setLevel")
        for _ in range(2):
            self.rig.lose(UpstreamFailure(Reason.UPSTREAM_FAILED))
            self.rig.clock.advance(0)
        self.assertEqual([one.method for one in self.rig.upstream.asked], ["logging/setLevel"] * 2)
        self.assertEqual(heard.failures[0].reason, Reason.UPSTREAM_FAILED)


class ToldTests(SynchronousTestCase):
    """Progress and log messages."""

    def setUp(self) -> None:
        """A server that takes every log level."""
        self.rig = StatelessRig()
        self.rig.upstream.reply = lambda outbound: (
            {"result": {}} if outbound.method == "logging/setLevel" else None
        )

    def levels(self) -> list[str]:
        """The levels the server was asked for."""
        asked = [one for one in self.rig.upstream.asked if one.method == "logging/setLevel"]
        return [(one.params or {})["level"] for one in asked]

    def log(self, level: str, related: int | None = None) -> None:
        """The server logs, in the course of a request where that is told."""
        params = {"level": level, "data": level}
        if related is None:
            self.rig.tell("message", params)
        else:
            message = {"jsonrpc": "2.0", "method": "notifications/message", "params": params}
            self.rig.link().requests[related][1].notification(message)

    def test_progress(self) -> None:
        """It comes under the client's token, and not at all to who gave none."""
        with_token, without = self.rig.call(meta={"progressToken": "t"}), self.rig.call()
        for _, sink, _ in self.rig.link().requests:
            params = {"progressToken": "t", "progress": 1}
            sink.notification(
                {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            )
        self.assertEqual(with_token.notifications[0]["params"]["progressToken"], "t")
        self.assertEqual(without.notifications, [])

    def test_level_only_becomes_more_verbose(self) -> None:
        """It is set when a request wants more than any before, and before that is sent."""
        for level in ("warning", "error", "info", "warning", "debug", "nonsense"):
            self.rig.call(meta={LOG_LEVEL: level})
        self.assertEqual(self.levels(), ["warning", "info", "debug"])
        self.assertEqual(
            [one.method for one in self.rig.upstream.asked][:2], ["logging/setLevel", "tools/call"]
        )

    def test_level_is_set_once_for_all_who_wait(self) -> None:
        """Requests wait for the answer; the second wants nothing more."""
        self.rig.upstream.reply = lambda outbound: None
        for _ in range(2):
            self.rig.call(meta={LOG_LEVEL: "info"})
        self.assertEqual(len(self.rig.link().requests), 1)
        self.rig.link().answer(0, error={"code": -32601, "message": "no"})
        self.assertEqual([one.method for one in self.rig.upstream.asked][1:], ["tools/call"] * 2)

    def test_level_that_was_not_set(self) -> None:
        """Without a place for that the call goes on, and the next one tries again."""
        self.rig.upstream.reply = lambda outbound: None
        for number in (0, 2):
            self.rig.call(meta={LOG_LEVEL: "info"})
            failure = UpstreamFailure(Reason.UPSTREAM_BUSY)
            self.rig.link().requests[number][1].failed(failure)
            self.rig.clock.advance(0)
        self.assertEqual(
            [one.method for one in self.rig.upstream.asked],
            ["logging/setLevel", "tools/call"] * 2,
        )

    def test_level_without_an_answer(self) -> None:
        """A server that does not answer that in time answers nothing: whoever waited is told so
        then, all at once, and not after as many timeouts as there are of them.
        """
        self.rig.upstream.reply = lambda outbound: None
        waiting = [self.rig.call(meta={LOG_LEVEL: "info"}) for _ in range(3)]
        silence = UpstreamFailure(Reason.UPSTREAM_TIMEOUT)
        self.rig.link().requests[0][1].failed(silence)
        for one in waiting:
            self.assertIs(one.failures[0].reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)
        late = self.rig.call(meta={LOG_LEVEL: "info"})
        self.rig.link().answer(1, result={})
        self.rig.link().answer(2, result={"content": []})
        self.rig.clock.advance(1)
        self.assertEqual(late.result["content"], [])
        self.assertEqual(self.levels(), ["info", "info"])

    def test_lost_while_the_level_is_set(self) -> None:
        """The request was not sent yet, so it goes to another session, whatever the link says of
        its own request.
        """
        for reason in (Reason.UPSTREAM_FAILED, Reason.UPSTREAM_TIMEOUT):
            rig = self.rig = StatelessRig()
            rig.upstream.reply = lambda outbound: None
            heard = rig.call(meta={LOG_LEVEL: "info"})
            rig.upstream.inboxes[-1].closed(UpstreamFailure(reason))
            rig.link().requests[0][1].failed(UpstreamFailure(reason))
            rig.clock.advance(0)
            self.assertEqual(len(rig.upstream.links), 2)
            rig.link().answer(0, result={})
            rig.link().answer(1, result={"content": []})
            rig.clock.advance(1)
            self.assertEqual(heard.result["content"], [])

    def test_asked_right_before_the_answer(self) -> None:
        """An answer that waits a moment for log messages is not overtaken by a question."""
        heard = self.rig.call(meta={LOG_LEVEL: "info"})
        self.rig.ask(1, gather=False)
        self.rig.link().answer(-1, result={"content": []})
        self.rig.clock.pump([0.01] * 10)
        self.assertEqual(heard.result["content"], [])
        self.assertEqual(len(self.rig.links.lot), 0)

    def test_server_that_does_not_log(self) -> None:
        """It is not asked to."""
        self.rig.upstream.result["capabilities"] = {}
        self.rig.call(meta={LOG_LEVEL: "info"})
        self.assertEqual(self.levels(), [])

    def test_related(self) -> None:
        """What belongs to a request is heard by it from its level on, without one not at all."""
        wants, others = self.rig.call(meta={LOG_LEVEL: "warning"}), self.rig.call()
        for level in ("info", "warning", "alert"):
            self.log(level, related=1)
            self.log(level, related=2)
        self.log("strange", related=1)
        self.assertEqual(
            [one["params"]["level"] for one in wants.notifications], ["warning", "alert"]
        )
        self.assertEqual(others.notifications, [])

    def test_unrelated(self) -> None:
        """What could be anybody's is heard only while just one request wants any."""
        self.rig.call()
        self.log("error")
        first = self.rig.call(meta={LOG_LEVEL: "warning"})
        self.log("error")
        self.log("debug")
        self.assertEqual(len(first.notifications), 1)
        second = self.rig.call(meta={LOG_LEVEL: "warning"})
        self.log("error")
        self.assertEqual((len(first.notifications), len(second.notifications)), (1, 0))
        dropped = [labels["kind"] for _, labels in self.rig.meter.counts]
        self.assertEqual(dropped, ["log", "log"])

    def test_on_another_stream(self) -> None:
        """Over HTTP a message may come right after the answer that it was sent before."""
        self.rig.upstream.transport = "http"
        first, plain = self.rig.call(meta={LOG_LEVEL: "info"}), self.rig.call()
        for number in (1, 2):
            self.rig.link().answer(number, result={})
        self.assertEqual((first.over, plain.over), (False, True))
        self.log("error")
        self.rig.clock.advance(0.05)
        self.log("error")
        self.assertEqual(len(first.notifications), 1)
        self.assertEqual(first.result["resultType"], "complete")
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)

    def test_end_on_another_stream(self) -> None:
        """Who leaves meanwhile gets nothing; when the session ends there is nothing to wait for."""
        self.rig.upstream.transport = "http"
        leaves = self.rig.call(meta={LOG_LEVEL: "info"})
        stays = self.rig.call(meta={LOG_LEVEL: "info"})
        for number in (1, 2):
            self.rig.link().answer(number, result={})
        assert leaves.call is not None
        leaves.call.cancel("closed")
        self.rig.upstream.inboxes[0].closed(GONE)
        self.assertEqual(stays.result["resultType"], "complete")
        self.rig.clock.advance(1)
        self.assertEqual((leaves.over, self.rig.clock.getDelayedCalls()), (False, []))
        self.assertEqual(len(self.rig.upstream.links), 1)

    def test_unknown_notifications(self) -> None:
        """What nobody knows is counted, what the stateless era has no use for is passed over."""
        self.rig.call()
        self.rig.tell("strange")
        self.rig.tell("elicitation/complete", {"elicitationId": "1"})
        self.rig.tell("cancelled", {"requestId": True})
        self.rig.tell("message", [])  # type: ignore[arg-type]
        self.assertEqual(
            [labels["kind"] for _, labels in self.rig.meter.counts], ["notification"] * 2
        )


class EndTests(SynchronousTestCase):
    """The gateway stops."""

    def test_end(self) -> None:
        """Everything ends, and nothing begins any more."""
        rig = StatelessRig()
        call, parked = rig.call("a"), rig.call("b")
        rig.ask(1)
        listen = rig.listen({"toolsListChanged": True}, id="l")
        self.successResultOf(rig.links.end_all())
        self.assertEqual(call.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(parked.result["resultType"], "input_required")
        self.assertEqual(listen.result["resultType"], "complete")
        self.assertEqual([one.cancelled is None for _, _, one in rig.link().requests], [False] * 2)
        self.assertEqual((rig.link().closed, len(rig.pool), len(rig.links.lot)), (1, 0, 0))
        self.assertEqual(rig.call().failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_calls_are_calls(self) -> None:
        """Whatever a link gives back can be cancelled and held, also when it is over."""
        rig = StatelessRig()
        unknown = rig.call(params={"requestState": "x"})
        over: Call | None = unknown.call
        assert over is not None
        over.hold()
        over.release()
        over.cancel("whatever")
        self.assertEqual(unknown.error["code"], -32602)
