"""What servers hand out to be brought back: cursors, request states, and tasks."""

from collections.abc import Callable
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings, ToolLimit
from mcpguard.errors import Reason, Refused
from mcpguard.gateway.corridor import OPAQUE
from mcpguard.pipeline.opaque import Custody, Opaque
from mcpguard.protocol.sealing import KEY_BYTES, Seal
from mcpguard.upstream.link import Eras, Message, Outbound
from tests.pipeline.rig import META, MODERN, MemoryOutlet, MemoryUpstream, Rig

LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
BOTH = Eras(legacy=True, modern=(MODERN,), discovered={"supportedVersions": [MODERN]})
CAPABLE = {
    **META,
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "roots": {}},
}
FORM = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}

Ask = Callable[..., MemoryOutlet]


def pages(outbound: Outbound) -> Message:
    """A server whose first page leads to ``next``, wherever that leads."""
    params = outbound.params or {}
    more = {} if "cursor" in params else {"nextCursor": "next"}
    return {"result": {LISTS[outbound.method]: [], **more}}


class CursorTests(SynchronousTestCase):
    """Cursors of every list on every wire."""

    def wires(self, rig: Rig) -> dict[str, Ask]:
        """How a client asks in a session, without one, and statelessly."""
        session = {"Mcp-Session-Id": rig.handshake()}
        return {
            "session": lambda *args, **more: rig.call(*args, headers=session, **more),
            "bare": lambda *args, **more: rig.call(*args, accept="*/*", **more),
            "stateless": rig.modern,
        }

    def asked(self, upstream: MemoryUpstream, method: str) -> Any:
        """The cursor of the last such request that reached the server."""
        (*_, last) = (sent for sent in upstream.asked if sent.method == method)
        return (last.params or {}).get("cursor")

    def test_every_list_on_every_wire(self) -> None:
        """The client never sees the server's cursor, the server never the client's."""
        for eras in (BOTH, Eras(legacy=True), Eras(legacy=True, modern=(MODERN,))):
            upstream = MemoryUpstream(known_eras=eras, reply=pages)
            rig = Rig(upstream=upstream)
            for wire, ask in self.wires(rig).items():
                if wire == "stateless" and not eras.modern:
                    continue
                for method in LISTS:
                    cursor = ask(method).json["result"]["nextCursor"]
                    self.assertNotIn("next", cursor)
                    self.assertNotIn("nextCursor", ask(method, {"cursor": cursor}).json["result"])
                    self.assertEqual(self.asked(upstream, method), "next", (wire, method))

    def test_foreign_cursors(self) -> None:
        """Another principal's, another list's, another server's and made-up ones are unknown."""
        upstream = MemoryUpstream(known_eras=BOTH, reply=pages)
        rig = Rig(
            upstream=upstream,
            others={"/mcp/b": MemoryUpstream(name="b", known_eras=BOTH, reply=pages)},
        )
        foreign = (
            rig.modern("tools/list", who="bob").json["result"]["nextCursor"],
            rig.modern("prompts/list").json["result"]["nextCursor"],
            rig.modern("tools/list", path="/mcp/b").json["result"]["nextCursor"],
        )
        for wire, ask in self.wires(rig).items():
            count = len(upstream.asked)
            bad: list[Any] = [*foreign, "next", "", 5, None, ["next"], {}]
            for cursor in bad:
                outlet = ask("tools/list", {"cursor": cursor})
                self.assertEqual(outlet.json["error"]["code"], -32602, (wire, cursor))
                self.assertEqual(outlet.status, 400 if wire == "stateless" else 200)
                self.assertEqual(rig.trail.outcomes[-1].reason, "invalid_params")
            self.assertEqual(len(upstream.asked), count)

    def test_too_old(self) -> None:
        """A cursor counts for a day."""
        rig = Rig(upstream=MemoryUpstream(reply=pages))
        cursor = rig.call("tools/list", accept="*/*").json["result"]["nextCursor"]
        rig.clock.advance(86_399)
        again = rig.call("tools/list", {"cursor": cursor}, accept="*/*")
        self.assertIn("result", again.json)
        rig.clock.advance(1)
        late = rig.call("tools/list", {"cursor": cursor}, accept="*/*")
        self.assertEqual(late.json["error"]["code"], -32602)

    def test_cursors_that_are_none(self) -> None:
        """A server's null ends its list; no string, or too long to come back: a failure."""
        rig = Rig()
        for cursor, status in ((None, 200), (5, 502), ("x" * 262_144, 200), ("x" * 262_145, 502)):
            rig.upstream.reply = lambda _, cursor=cursor: {  # type: ignore[misc]
                "result": {"tools": [], "nextCursor": cursor}
            }
            self.assertEqual(rig.call("tools/list", accept="*/*").status, status)

    def test_names_that_mean_no_cursor(self) -> None:
        """Only lists have cursors: a tool's own ``cursor`` argument is its own."""
        rig = Rig()
        rig.upstream.reply = lambda _: {"result": {"content": [], "nextCursor": "x"}}
        outlet = rig.call("tools/call", {"name": "t", "cursor": 5}, accept="*/*")
        self.assertEqual(outlet.json["result"]["nextCursor"], "x")
        self.assertEqual((rig.upstream.asked[-1].params or {})["cursor"], 5)


class StateCase(SynchronousTestCase):
    """A stateless server that wants to know something before it goes on."""

    limits = RateLimitSettings(requests_per_second=1000, burst_size=1000)

    def setUp(self) -> None:
        """Build it."""
        self.state: Any = "srv:1"
        self.asks: Any = {"who": FORM}
        self.upstream = MemoryUpstream(known_eras=BOTH, reply=self.answer)
        self.rig = Rig(upstream=self.upstream, limits=self.limits)

    def answer(self, outbound: Outbound) -> Message:
        """Ask first, then answer."""
        if outbound.method == "tools/list":
            return {"result": {"resultType": "complete", "tools": []}}
        if "inputResponses" in (outbound.params or {}):
            return {"result": {"resultType": "complete", "content": [], "ttlMs": 5000}}
        asked = {"inputRequests": self.asks, "requestState": self.state}
        kept = {key: value for key, value in asked.items() if value is not ...}
        return {"result": {"resultType": "input_required", **kept}}

    def first(self, method: str = "tools/call", **params: Any) -> Any:
        """The result of a first round."""
        params = {"name": "t", **params} if method != "resources/read" else params
        return self.rig.modern(method, {"_meta": CAPABLE, **params}).json["result"]

    def again(
        self, state: Any, method: str = "tools/call", who: str = "alice", **params: Any
    ) -> MemoryOutlet:
        """Another round."""
        params = {"name": "t", **params} if method != "resources/read" else params
        answers = {"who": {"action": "decline"}}
        return self.rig.modern(
            method,
            {"_meta": CAPABLE, **params, "inputResponses": answers, "requestState": state},
            who=who,
        )

    def assert_refused(self, outlet: MemoryOutlet) -> None:
        """Bad params by HTTP and JSON-RPC, on the record, and nothing reached the server."""
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (400, -32602))
        event = self.rig.trail.outcomes[-1]
        self.assertEqual((event.event_type, event.reason), ("RequestRefused", "invalid_params"))
        brought = [one.params or {} for one in self.upstream.asked]
        self.assertFalse([params for params in brought if "requestState" in params])


class StateTests(StateCase):
    """The states of requests."""

    def test_rounds(self) -> None:
        """For each method that has rounds: sealed for the client, the server's own for it."""
        for method, params in (
            ("tools/call", {}),
            ("prompts/get", {"arguments": {"a": "b"}}),
            ("resources/read", {"uri": "demo://a"}),
        ):
            result = self.first(method, **params)
            self.assertEqual(result["inputRequests"], {"who": FORM})
            self.assertNotIn("srv:1", result["requestState"])
            outlet = self.again(result["requestState"], method, **params)
            self.assertEqual(outlet.json["result"]["resultType"], "complete")
            sent = self.upstream.asked[-1].params or {}
            self.assertEqual(sent["requestState"], "srv:1")
            self.assertEqual(sent["inputResponses"], {"who": {"action": "decline"}})

    def test_not_cacheable(self) -> None:
        """A result that answers what only one caller said may be kept by nobody."""
        state = self.first("resources/read", uri="demo://a")["requestState"]
        result = self.again(state, "resources/read", uri="demo://a").json["result"]
        self.assertEqual((result["ttlMs"], result["cacheScope"]), (0, "private"))

    def test_foreign(self) -> None:
        """Only who was given a state can use it, for the same request, at the same server."""
        state = self.first(arguments={"x": 1})["requestState"]
        self.assert_refused(self.again(state, who="bob", arguments={"x": 1}))
        self.assert_refused(self.again(state, arguments={"x": 2}))
        self.assert_refused(self.again(state, name="other", arguments={"x": 1}))
        self.assert_refused(self.again(state, "prompts/get", arguments={"x": 1}))

    def test_made_up(self) -> None:
        """A state that was changed, the server's own, and what is no string are refused."""
        state = self.first()["requestState"]
        cursor = self.rig.modern("tools/list").json["result"].get("nextCursor", "")
        changed = [state + "-TAMPERED", state[:-1], "srv:1", "", cursor]
        for made_up in (*changed, 5, None, [state]):
            self.assert_refused(self.again(made_up))

    def test_too_old(self) -> None:
        """A state counts for a quarter of an hour."""
        state = self.first()["requestState"]
        self.rig.clock.advance(899)
        self.assertEqual(self.again(state).status, 200)
        self.rig.clock.advance(1)
        self.upstream.links.clear()
        self.assert_refused(self.again(state))

    def test_no_state(self) -> None:
        """A server without a state gets none; one may also want nothing but to be asked again."""
        self.state = ...
        self.assertNotIn("requestState", self.first())
        self.state, self.asks = "s", ...
        self.assertEqual(set(self.first()), {"resultType", "requestState"})

    def test_every_round_is_a_new_one(self) -> None:
        """The same state is never sealed alike twice."""
        states = {self.first()["requestState"] for _ in range(3)}
        self.assertEqual(len(states), 3)

    def test_methods_without_rounds(self) -> None:
        """A state does not get to the server of any other method."""
        state = self.first()["requestState"]
        for method in ("tools/list", "completion/complete"):
            params = {"ref": {"type": "ref/prompt", "name": "t"}, "requestState": state}
            self.assert_refused(self.rig.modern(method, params))

    def test_other_eras_bring_none(self) -> None:
        """Members that mean something to stateless servers only do not come from other clients."""
        bare = {"name": "t", "requestState": "srv:1", "inputResponses": {"who": {}}}
        self.rig.call("tools/call", bare, accept="*/*")
        self.rig.call("tools/call", bare, headers={"Mcp-Session-Id": self.rig.handshake()})
        calls = [one.params or {} for one in self.upstream.asked if one.method == "tools/call"]
        self.assertEqual(len(calls), 2)
        for params in calls:
            self.assertFalse(params.keys() & {"requestState", "inputResponses"})


class RoundLimitTests(StateCase):
    """Every round is a request like the first."""

    limits = RateLimitSettings(
        requests_per_second=1000,
        burst_size=1000,
        tool_limits=(ToolLimit(tool_pattern="t", requests_per_second=0.001, burst_size=2),),
    )

    def test_counted(self) -> None:
        """A retry takes from the tool's bucket, whatever it carries."""
        state = self.first()["requestState"]
        self.assertEqual(self.again(state).status, 200)
        outlet = self.again(state)
        self.assertEqual((outlet.status, outlet.json["error"]["code"]), (429, 429))

    def test_authorized(self) -> None:
        """Who may not call the tool any more may not go on with a call of it either."""
        state = self.first()["requestState"]
        chain = self.rig.pipeline.callers.authenticator
        found = chain.authenticate

        def less(incoming: Any, now: float) -> Any:
            principal: Any = found(incoming, now)
            return evolve(principal, rights=evolve(principal.rights, denied_tools=("t",)))

        self.patch(type(chain), "authenticate", lambda _, incoming, now: less(incoming, now))
        count = len(self.upstream.asked)
        self.assertEqual(self.again(state).status, 403)
        self.assertEqual(len(self.upstream.asked), count)


class InputTests(StateCase):
    """What servers ask for."""

    def test_not_declared(self) -> None:
        """A question that the request's client never said it could answer is a failed call."""
        for asks in (
            {"who": {"method": "sampling/createMessage", "params": {"messages": []}}},
            {"ok": FORM, "url": {**FORM, "params": {"mode": "url", "url": "https://x.test"}}},
            {"who": {"method": "tools/call", "params": {"name": "rm"}}},
            {"k" * 257: FORM},
            {str(number): FORM for number in range(101)},
            {},
        ):
            self.asks, self.state = asks, ...
            outlet = self.rig.modern("tools/call", {"name": "t", "_meta": CAPABLE})
            self.assertEqual((outlet.status, outlet.json["error"]["code"]), (502, 502))
            self.assertNotIn("x.test", outlet.body.decode())
            event = self.rig.trail.outcomes[-1]
            self.assertEqual((event.status, event.reason), ("failed", "upstream_failed"))

    def test_where_nobody_can_be_asked(self) -> None:
        """A bare request has no client that could answer, a list has no rounds."""
        outlet = self.rig.call("tools/call", {"name": "t"}, accept="*/*")
        self.assertEqual(outlet.status, 502)
        self.upstream.reply = lambda _: {
            "result": {"resultType": "input_required", "requestState": "s", "tools": []}
        }
        self.assertEqual(self.rig.modern("tools/list", {"_meta": CAPABLE}).status, 502)

    def test_states_that_are_none(self) -> None:
        """What is no string, or too long to come back, is a failed call."""
        for state, status in ((None, 200), (5, 502), ("x" * 262_144, 200), ("x" * 262_145, 502)):
            self.state = state
            outlet = self.rig.modern("tools/call", {"name": "t", "_meta": CAPABLE})
            self.assertEqual(outlet.status, status, type(state))


class TaskTests(SynchronousTestCase):
    """No task exists for anybody."""

    TASKS = "io.modelcontextprotocol/tasks"

    def setUp(self) -> None:
        """A server that would love to hand out tasks."""
        self.body: Message = {"content": []}
        self.upstream = MemoryUpstream(known_eras=BOTH, reply=lambda _: {"result": self.body})
        self.upstream.result["capabilities"] = {"tools": {}, "tasks": {"requests": {}}}
        self.rig = Rig(upstream=self.upstream)
        self.session = {"Mcp-Session-Id": self.rig.handshake(capabilities={"tasks": {}})}
        related = {"io.modelcontextprotocol/related-task": {"taskId": "t"}}
        able: Message = {"tasks": {}, "extensions": {self.TASKS: {}, "x.test/other": {}}}
        meta = {**META, **related, "io.modelcontextprotocol/clientCapabilities": able}
        params = {"name": "x", "task": {"ttl": 1}}
        self.stateless: Message = {**params, "_meta": meta}
        self.other: Message = {**params, "_meta": related}

    def call(self) -> list[MemoryOutlet]:
        """The same call on every wire."""
        return [
            self.rig.modern("tools/call", self.stateless),
            self.rig.call("tools/call", self.other, accept="*/*"),
            self.rig.call("tools/call", self.other, headers=self.session),
        ]

    def test_nobody_offers_them(self) -> None:
        """Neither side hears that the other knows tasks."""
        self.assertEqual(self.upstream.initialized_with[0]["capabilities"], {})
        outlet = self.rig.modern("server/discover")
        self.assertNotIn("task", outlet.body.decode())

    def test_nobody_asks_for_one(self) -> None:
        """The wish for a task is taken out of a request, and so is the id of one."""
        self.call()
        sent = [one.params or {} for one in self.upstream.asked if one.method == "tools/call"]
        self.assertEqual(len(sent), 3)
        for params in sent:
            self.assertNotIn("task", str(params).lower())

    def test_nobody_is_asked_for_one(self) -> None:
        """What a server asks a client for is no task either, nor are its tasks told of."""
        rig = Rig()
        session = {"Mcp-Session-Id": rig.handshake(capabilities={"sampling": {}, "tasks": {}})}
        stream = rig.send(b"", method="GET", headers=session, accept="text/event-stream")
        asked = {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage"}
        inbox = rig.upstream.inboxes[0]
        inbox.request({**asked, "params": {"messages": [], "task": {"ttl": 1}}}, None)
        inbox.request({**asked, "method": "tasks/get", "params": {"taskId": "T-1"}}, None)
        inbox.notification(
            {
                "jsonrpc": "2.0",
                "method": "notifications/tasks/status",
                "params": {"taskId": "T-1", "status": "working"},
            }
        )
        self.assertEqual([event["params"] for event in stream.events], [{"messages": []}])
        self.assertEqual(rig.upstream.links[0].responses[0]["error"]["code"], -32601)

    def test_nobody_gets_one(self) -> None:
        """A task that a server hands out all the same is a failure that does not name it."""
        for body in ({"resultType": "task", "taskId": "T-1"}, {"task": {"taskId": "T-1"}}):
            self.body = body
            for outlet in self.call():
                self.assertEqual(outlet.status, 502)
                self.assertNotIn(b"T-1", outlet.body)

    def test_no_tool_is_one(self) -> None:
        """No list says that a tool may be called as a task."""
        self.body = {"tools": [{"name": "x", "execution": {"taskSupport": "required"}}]}
        for outlet in (
            self.rig.modern("tools/list"),
            self.rig.call("tools/list", accept="*/*"),
            self.rig.call("tools/list", headers=self.session),
        ):
            self.assertEqual(outlet.json["result"]["tools"][0]["name"], "x")
            self.assertNotIn(b"taskSupport", outlet.body)

    def test_no_method_names_one(self) -> None:
        """Every method of tasks is refused on every wire, whatever id it names."""
        count = len(self.upstream.asked)
        for verb in ("get", "result", "list", "update", "cancel"):
            method, params = f"tasks/{verb}", {"taskId": "T-1"}
            headers = {"Mcp-Name": "T-1"}
            outlets = (
                self.rig.modern(method, params, headers=headers),
                self.rig.call(method, params, accept="*/*"),
                self.rig.call(method, params, headers=self.session),
            )
            for outlet in outlets:
                self.assertEqual(outlet.json["error"]["code"], -32601, (method, outlet.body))
        self.assertEqual(len(self.upstream.asked), count)


class CustodyTests(SynchronousTestCase):
    """One request's tokens, for all words and places."""

    PLACE = ("api_key:a", "server", "/path", "tools/call")

    def custody(self, place: tuple[str, str, str, str], key: bytes = bytes(KEY_BYTES)) -> Custody:
        """The custody of a stateless request at a place."""
        states, cursors = (Seal(key, purpose, bytes) for purpose in ("state", "cursor"))
        return Opaque(states, cursors, lambda: 1000.0, OPAQUE).custody(*place, modern=True)

    def sealed(self, words: str, place: tuple[str, str, str, str], params: Message) -> Message:
        """Params that bring the state back which was given for them."""
        result = {"resultType": "input_required", "requestState": words}
        sealed = self.custody(place).sealed(params, result)
        return {**params, "requestState": sealed["requestState"]}

    @settings(deadline=None, max_examples=50)
    @given(st.text(max_size=40), st.dictionaries(st.text(max_size=5), st.integers()))
    def test_exact(self, words: str, arguments: dict[str, int]) -> None:
        """For all words the server gets exactly its own back."""
        params = {"name": "t", "arguments": arguments}
        opened = self.custody(self.PLACE).opened(self.sealed(words, self.PLACE, params))
        self.assertEqual(opened, {**params, "requestState": words})

    def test_every_part_of_the_place_counts(self) -> None:
        """Another principal, server, path or method, and another key: unknown."""
        params = self.sealed("s", self.PLACE, {"name": "t"})
        for part in range(4):
            place = list(self.PLACE)
            place[part] = "prompts/get" if part == 3 else place[part] + "x"
            with self.assertRaises(Refused) as caught:
                self.custody((place[0], place[1], place[2], place[3])).opened(params)
            self.assertIs(caught.exception.refusal.reason, Reason.INVALID_PARAMS)
        with self.assertRaises(Refused):
            self.custody(self.PLACE, b"k" * KEY_BYTES).opened(params)
        self.assertIsNotNone(self.custody(self.PLACE).opened(params))
