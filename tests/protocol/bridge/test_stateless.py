"""Stateless clients' requests for handshake-era servers, and the answers back."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.bridge import stateless
from mcpguard.protocol.input_requests import InputBounds, input_problem
from mcpguard.protocol.mcp import META_PREFIX

INITIALIZED = {"serverInfo": {"name": "s", "version": "1"}, "capabilities": {"tools": {}}}
INFO = META_PREFIX + "serverInfo"
CAPABILITIES = META_PREFIX + "clientCapabilities"
JSON: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.just([{}])
)
KEYS = st.sampled_from(
    [
        "_meta",
        "inputResponses",
        "requestState",
        "resultType",
        "name",
        INFO,
        META_PREFIX + "logLevel",
        "progressToken",
        "traceparent",
    ]
)
OBJECTS = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=4), max_size=5)
DECLARED: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["sampling", "elicitation", "roots", "tasks", "extensions"]),
    JSON
    | st.dictionaries(
        st.sampled_from(["form", "url", "tools", "context", "listChanged"]),
        st.just({}) | st.booleans() | st.none(),
        max_size=4,
    ),
)


class RequestTests(SynchronousTestCase):
    """What goes to the server."""

    def test_params(self) -> None:
        """The client's own metadata stays, the protocol's and the rounds' does not."""
        params = {
            "name": "t",
            "inputResponses": {},
            "requestState": "x",
            "_meta": {CAPABILITIES: {}, "progressToken": 0, "tracestate": "t", "x.y/z": 1},
        }
        self.assertEqual(
            stateless.handshake_params(params),
            {"name": "t", "_meta": {"progressToken": 0, "tracestate": "t", "x.y/z": 1}},
        )
        self.assertIsNone(stateless.handshake_params({"_meta": {CAPABILITIES: {}}}))
        self.assertIsNone(stateless.handshake_params(None))

    @settings(deadline=None, max_examples=100)
    @given(params=OBJECTS)
    def test_any_params(self, params: dict[str, Any]) -> None:
        """Nothing of the stateless era passes, whatever came; everything else does."""
        given_params = dict(params)
        sent = stateless.handshake_params(params) or {}
        self.assertEqual(params, given_params)
        self.assertFalse(sent.keys() & {"inputResponses", "requestState"})
        meta = sent.get("_meta", {})
        self.assertFalse([key for key in meta if key.startswith(META_PREFIX)])
        for key, value in params.items():
            if key not in ("_meta", "inputResponses", "requestState"):
                self.assertEqual(sent[key], value)

    def test_capabilities(self) -> None:
        """They are the handshake's, in one form for all that mean the same."""
        for declared, expected in (
            (None, {}),
            ([], {}),
            ({"tasks": {}, "extensions": {}, "experimental": {}}, {}),
            ({"elicitation": {}}, {"elicitation": {"form": {}}}),
            ({"elicitation": {"form": {"x": 1}}}, {"elicitation": {"form": {}}}),
            ({"elicitation": {"url": {}}}, {"elicitation": {"url": {}}}),
            ({"elicitation": {"url": True}}, {}),
            ({"elicitation": None, "roots": True, "sampling": "yes"}, {}),
            ({"roots": {"listChanged": True}}, {"roots": {}}),
            ({"sampling": {"tools": {}, "x": {}}}, {"sampling": {"tools": {}}}),
        ):
            self.assertEqual(stateless.handshake_capabilities(declared), expected)

    @settings(deadline=None, max_examples=200)
    @given(declared=DECLARED, mode=st.sampled_from(["form", "url", None, 7]), tools=st.booleans())
    def test_nobody_is_asked_what_the_wire_would_refuse(
        self, declared: dict[str, Any], mode: Any, tools: bool
    ) -> None:
        """What may be asked by these capabilities, may by those the client declared."""
        capabilities = stateless.handshake_capabilities(declared)
        self.assertEqual(stateless.handshake_capabilities(capabilities), capabilities)
        for method, params in (
            ("elicitation/create", {} if mode is None else {"mode": mode}),
            ("sampling/createMessage", {"tools": []} if tools else {}),
            ("roots/list", {}),
        ):
            message = {"id": 1, "method": method, "params": params}
            if stateless.question_problem(message, capabilities) is None:
                asked = {"inputRequests": {"q": stateless.question(method, params)}}
                self.assertIsNone(input_problem(asked, declared, InputBounds(1, 1)))

    def test_opened(self) -> None:
        """A level nobody knows is none, and so is a token of the wrong type."""
        meta = {META_PREFIX + "logLevel": "notice", "progressToken": "t"}
        read = stateless.opened({"_meta": meta})
        self.assertEqual((read.log_level, read.token), (2, "t"))
        for params in (None, {}, {"_meta": 1}, {"_meta": {"progressToken": True}}):
            read = stateless.opened(params)
            self.assertEqual((read.log_level, read.token, read.capabilities), (None, None, {}))


class ResultTests(SynchronousTestCase):
    """What comes back."""

    @settings(deadline=None, max_examples=100)
    @given(result=OBJECTS)
    def test_complete(self, result: dict[str, Any]) -> None:
        """Every result is complete and names the server, whatever it says of itself."""
        made = stateless.complete(result, INITIALIZED)
        self.assertEqual(made["resultType"], "complete")
        self.assertEqual(made["_meta"][INFO], INITIALIZED["serverInfo"])
        told = [key for key in made["_meta"] if key.startswith(META_PREFIX)]
        self.assertEqual(told, [INFO])
        for key, value in result.items():
            if key not in ("resultType", "_meta"):
                self.assertEqual(made[key], value)

    def test_nameless_server(self) -> None:
        """One that does not say its name leaves nothing to tell."""
        self.assertEqual(stateless.complete({}, {}), {"resultType": "complete"})

    def test_discover(self) -> None:
        """Broken parts of a handshake are left out."""
        broken = {"capabilities": 7, "instructions": {}, "serverInfo": "x"}
        self.assertEqual(
            stateless.discover_result(broken), {"capabilities": {}, "resultType": "complete"}
        )

    def test_errors(self) -> None:
        """Codes of the handshake era become those of the stateless one, others stay."""
        for error, params, expected in (
            ({"code": -32002, "message": "m"}, None, {"code": -32602, "message": "m"}),
            (
                {"code": -32002, "message": "m", "data": {"uri": "a", "x": 1}},
                {"uri": "b"},
                {"code": -32602, "message": "m", "data": {"uri": "b", "x": 1}},
            ),
            ({"code": -32042, "message": "m"}, None, {"code": -32603, "message": "m"}),
            ({"code": -32601, "message": "m"}, None, {"code": -32601, "message": "m"}),
            ({"code": 7, "message": "m", "data": 1}, None, {"code": 7, "message": "m", "data": 1}),
        ):
            self.assertEqual(stateless.stateless_error(error, params), expected)

    def test_required_urls(self) -> None:
        """Only a whole list of URLs is put to a client."""
        whole = {"url": "https://x", "message": "m", "elicitationId": "1", "mode": "url"}

        def urls(*listed: Any, code: int = -32042) -> Any:
            error = {"code": code, "message": "m", "data": {"elicitations": list(listed)}}
            return stateless.required_urls(error)

        self.assertEqual(
            urls(whole, whole),
            {
                f"url-{number}": {
                    "method": "elicitation/create",
                    "params": {"mode": "url", "url": "https://x", "message": "m"},
                }
                for number in (1, 2)
            },
        )
        self.assertEqual(len(urls(*[whole] * stateless.MAX_ELICITATIONS)), 16)
        for broken in (
            urls(),
            urls(*[whole] * (stateless.MAX_ELICITATIONS + 1)),
            urls(whole, {"url": "https://x"}),
            urls({**whole, "mode": "form"}),
            urls("x"),
            urls(whole, code=-32602),
            stateless.required_urls({"code": -32042, "data": 7}),
        ):
            self.assertIsNone(broken)

    def test_response_to_a_method_without_rounds(self) -> None:
        """Where the stateless era lets nobody ask, an error stays one."""
        listed = [{"url": "https://x", "message": "m"}]
        message = {"error": {"code": -32042, "message": "m", "data": {"elicitations": listed}}}
        both: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
        made = stateless.stateless_response(message, {}, both, INITIALIZED, may_ask=False)
        self.assertEqual(made["error"]["code"], -32603)


class QuestionTests(SynchronousTestCase):
    """What servers ask."""

    def test_entries(self) -> None:
        """What the stateless era does not have is left out, all else stays."""
        for method, params, expected in (
            ("roots/list", None, {}),
            (
                "elicitation/create",
                {"mode": "url", "url": "u", "elicitationId": "1", "message": "m", "task": {}},
                {"mode": "url", "url": "u", "message": "m"},
            ),
            (
                "sampling/createMessage",
                {"messages": [], "maxTokens": 1, "task": {"ttl": 1}, "_meta": {}, "x": 1},
                {"messages": [], "maxTokens": 1, "x": 1},
            ),
        ):
            self.assertEqual(
                stateless.question(method, params), {"method": method, "params": expected}
            )

    def test_problems(self) -> None:
        """What is malformed or was not declared is refused, with the code that says so."""
        everything: dict[str, Any] = {
            "elicitation": {"form": {}, "url": {}},
            "sampling": {"tools": {}},
        }
        for method, params, capabilities, code in (
            ("elicitation/create", {}, everything, None),
            ("elicitation/create", {"mode": "url"}, everything, None),
            ("elicitation/create", {"mode": []}, everything, -32602),
            ("elicitation/create", [], everything, -32602),
            ("elicitation/create", {}, {"elicitation": {"url": {}}}, -32602),
            ("sampling/createMessage", {"toolChoice": {}}, everything, None),
            ("sampling/createMessage", {"toolChoice": {}}, {"sampling": {}}, -32602),
            ("roots/list", {}, everything, -32601),
            (["roots/list"], {}, everything, -32601),
        ):
            problem = stateless.question_problem({"method": method, "params": params}, capabilities)
            self.assertEqual(problem and problem.code, code, (method, params))

    def test_responses(self) -> None:
        """An answer is a result under the server's id; what is no object is none."""
        self.assertEqual(
            stateless.response("s", {"action": "accept", "resultType": "complete"}),
            {"jsonrpc": "2.0", "id": "s", "result": {"action": "accept"}},
        )
        answers: tuple[Any, ...] = (None, "x", [], 7)
        for given_answer in answers:
            self.assertIsNone(stateless.response(1, given_answer))

    def test_declined(self) -> None:
        """One refusal is enough; a missing answer is none."""
        for responses, expected in (
            (None, False),
            ({}, False),
            ({"a": {"action": "accept"}}, False),
            ({"a": {"action": "accept"}, "b": {"action": "cancel"}}, True),
            ({"c": {"action": "decline"}}, False),
        ):
            self.assertEqual(stateless.declined(responses, ("a", "b")), expected)

    def test_log_levels(self) -> None:
        """A message is wanted from its level on."""
        message = {"params": {"level": "warning"}}
        self.assertEqual(
            [stateless.is_wanted(message, least) for least in (None, 0, 3, 4)],
            [False, True, True, False],
        )
        others: tuple[dict[str, Any], ...] = (
            {},
            {"params": []},
            {"params": {"level": ["x"]}},
        )
        for broken in others:
            self.assertFalse(stateless.is_wanted(broken, 0))
