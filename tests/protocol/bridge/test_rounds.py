"""Tests of `mcpguard.protocol.bridge.rounds`."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.bridge.handshake import Untranslatable
from mcpguard.protocol.bridge.rounds import (
    RoundBounds,
    answer_to,
    is_input_required,
    next_params,
    read_round,
)
from mcpguard.protocol.mcp import META_SERVER_INFO

BOUNDS = RoundBounds(rounds=3, entries=3, size=300)
EVERYTHING: dict[str, Any] = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {"tools": {}},
    "roots": {},
}
FORM = {"method": "elicitation/create", "params": {"message": "who?"}}
URL = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "there", "url": "https://example.com"},
}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ROOTS = {"method": "roots/list"}

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(
            ["elicitation/create", "sampling/createMessage", "roots/list", "ping"]
        )
        | JSON,
        "params": st.dictionaries(
            st.sampled_from(["mode", "task", "tools", "_meta"]) | st.text(max_size=3), JSON
        )
        | JSON,
    },
)
ROUNDS = st.fixed_dictionaries(
    {},
    optional={
        "inputRequests": st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=5) | JSON,
        "requestState": st.text(max_size=5) | JSON,
    },
)


def one(entry: object, **more: Any) -> dict[str, Any]:
    """A round with one question."""
    return {"resultType": "input_required", "inputRequests": {"q": entry}, **more}


class ReadTests(SynchronousTestCase):
    """What a server asks for."""

    def test_questions(self) -> None:
        """Each question becomes a request to the client under an id of its own."""
        asked = {"a": FORM, "b": SAMPLE, "c": ROOTS}
        result = {"resultType": "input_required", "inputRequests": asked, "requestState": "s"}
        self.assertTrue(is_input_required(result))
        found = read_round(result, EVERYTHING, BOUNDS)
        self.assertEqual(found.state, "s")
        requests = [question.request(question.key) for question in found.questions]
        expected = [
            {"jsonrpc": "2.0", "id": key, "params": {}, **entry}  # type: ignore[dict-item]
            for key, entry in asked.items()
        ]
        self.assertEqual(requests, expected)

    def test_url(self) -> None:
        """A client of 2025-11-25 wants an id with a URL, which the stateless era has no more."""
        (question,) = read_round(one(URL), EVERYTHING, BOUNDS).questions
        self.assertEqual(question.request("7")["params"]["elicitationId"], "7")
        (question,) = read_round(one(FORM), EVERYTHING, BOUNDS).questions
        self.assertNotIn("elicitationId", question.request("7")["params"])

    def test_what_is_taken_out(self) -> None:
        """Neither tasks nor what names the stateless era's server reach the client."""
        params = {"message": "who?", "task": {"ttl": 1}, "_meta": {META_SERVER_INFO: {}, "own": 1}}
        (question,) = read_round(one({**FORM, "params": params}), EVERYTHING, BOUNDS).questions
        self.assertEqual(question.params, {"message": "who?", "_meta": {"own": 1}})

    def test_only_a_state(self) -> None:
        """A server may ask for nothing but to be asked again."""
        found = read_round({"requestState": "s"}, {}, BOUNDS)
        self.assertEqual((found.questions, found.state), ((), "s"))
        found = read_round({"requestState": "", "inputRequests": {}}, {}, BOUNDS)
        self.assertEqual((found.questions, found.state), ((), ""))

    def refused(self, result: dict[str, Any], capabilities: Any = None) -> str:
        """Why a round is not put to the client."""
        with self.assertRaises(Untranslatable) as raised:
            read_round(result, EVERYTHING if capabilities is None else capabilities, BOUNDS)
        return str(raised.exception.text)

    def test_undeclared(self) -> None:
        """Nothing is asked that the client did not say it could answer, to the mode."""
        self.assertIn("elicitation/create", self.refused(one(FORM), {"sampling": {}}))
        self.refused(one(FORM), {"elicitation": {"url": {}}})
        self.refused(one(URL), {"elicitation": {"form": {}}})
        self.refused(one(SAMPLE), {"elicitation": {"form": {}}})
        self.refused(one(ROOTS), {})
        tools = {**SAMPLE, "params": {"messages": [], "tools": []}}
        self.refused(one(tools), {"sampling": {}})
        self.assertEqual(len(read_round(one(tools), EVERYTHING, BOUNDS).questions), 1)

    def test_malformed(self) -> None:
        """What is no round by the specification ends the request."""
        for entry in (5, None, {}, {"method": "ping"}, {"method": 5}, {**FORM, "params": []}):
            self.refused(one(entry))
        self.refused(one({**FORM, "params": {"mode": ["form"]}}))
        self.refused(one({"method": ["roots/list"]}))
        self.refused({"inputRequests": {}})
        self.refused({})
        self.refused({"inputRequests": [FORM]})
        self.refused({"inputRequests": {"q": FORM}, "requestState": 5})

    def test_bounds(self) -> None:
        """Questions and bytes of a round are bounded."""
        many = {"inputRequests": {str(number): ROOTS for number in range(4)}}
        self.assertIn("too many", self.refused(many))
        del many["inputRequests"]["3"]
        self.assertEqual(len(read_round(many, EVERYTHING, BOUNDS).questions), 3)
        self.assertIn("too much", self.refused(one(FORM, requestState="x" * 300)))

    @settings(deadline=None, max_examples=100)
    @given(ROUNDS, st.sampled_from([EVERYTHING, {"elicitation": {"form": {}}}, {}]))
    def test_anything(self, result: dict[str, Any], capabilities: dict[str, Any]) -> None:
        """Whatever a server sends is a round within the client's capabilities, or refused."""
        try:
            found = read_round(result, capabilities, BOUNDS)
        except Untranslatable:
            return
        self.assertLessEqual(len(found.questions), BOUNDS.entries)
        needed = {"elicitation/create": "elicitation", "roots/list": "roots"}
        for question in found.questions:
            self.assertIn(needed.get(question.method, "sampling"), capabilities)
            self.assertNotIn("task", question.params)


class AnswerTests(SynchronousTestCase):
    """What the client says, on its way to the server."""

    def test_results(self) -> None:
        """A result is passed on as it is."""
        for method, result in (
            ("elicitation/create", {"action": "accept", "content": {"answer": "42"}}),
            ("elicitation/create", {"action": "decline"}),
            ("sampling/createMessage", {"role": "assistant", "content": [], "model": "m"}),
            ("roots/list", {"roots": []}),
        ):
            self.assertEqual(answer_to(method, {"id": 1, "result": result}), result)

    def test_refusals(self) -> None:
        """Who does not answer an elicitation has cancelled it; the others have no such form."""
        error = {"error": {"code": -1, "message": "User rejected"}}
        for response in (error, {}, {"result": 5}, {"result": {"action": "maybe"}}):
            self.assertEqual(answer_to("elicitation/create", response), {"action": "cancel"})
        self.assertIsNone(answer_to("sampling/createMessage", error))
        self.assertIsNone(answer_to("roots/list", {"result": None}))

    def test_odd_action(self) -> None:
        """An action of any type is no accident."""
        response = {"result": {"action": ["accept"]}}
        self.assertEqual(answer_to("elicitation/create", response), {"action": "cancel"})

    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(st.sampled_from(["name", "arguments", "_meta"]), JSON),
        st.dictionaries(st.text(max_size=3), JSON, max_size=3),
        st.none() | st.text(max_size=5),
    )
    def test_next_params(
        self, params: dict[str, Any], answers: dict[str, Any], state: str | None
    ) -> None:
        """A further round is the same request, with the latest answers and state and no others."""
        sent = next_params(params, answers, state)
        self.assertEqual({k: v for k, v in sent.items() if k in params}, params)
        self.assertEqual(sent.get("inputResponses", {}), answers)
        self.assertEqual(sent.get("requestState"), state)
        self.assertEqual(len(sent), len(params) + bool(answers) + (state is not None))
