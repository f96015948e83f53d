"""Tests of `mcpguard.protocol.bridge.handshake`."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.bridge.handshake import (
    MODERN_MEMBERS,
    MODERN_META,
    Introduction,
    Untranslatable,
    client_capabilities,
    handshake_error,
    handshake_result,
    initialize_result,
    introduced,
    introduction,
    passed_params,
    server_capabilities,
    without_modern_meta,
)
from mcpguard.protocol.mcp import (
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_PREFIX,
    META_SERVER_INFO,
    META_VERSION,
)

MODERN = "2026-07-28"
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def objects(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these members, of any type, and others."""
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=5), JSON, max_size=6)


METAS = objects(*MODERN_META, "progressToken", "traceparent", META_PREFIX + "related-task")
PARAMS = st.builds(
    lambda holder, meta: {**holder, "_meta": meta},
    objects("name", "uri", "arguments", "inputResponses", "requestState", "task"),
    METAS | LEAVES,
)
RESULTS = st.builds(
    lambda holder, meta: {**holder, "_meta": meta, "resultType": "complete"},
    objects("ttlMs", "cacheScope", "content", "structuredContent", "requestState"),
    METAS | LEAVES,
)
CLIENTS = objects("sampling", "elicitation", "roots", "tasks", "experimental", "extensions")
SERVERS = objects("tools", "prompts", "resources", "completions", "logging", "tasks", "extensions")

CLIENT = Introduction("2025-06-18", {"roots": {}}, {"name": "c", "version": "1"})


class IntroductionTests(SynchronousTestCase):
    """What a client said of itself."""

    def test_versions(self) -> None:
        """A version nobody knows, a stateless one too, becomes the newest with a handshake."""
        for asked in LEGACY_VERSIONS:
            self.assertEqual(introduction({"protocolVersion": asked}).version, asked)
        for odd in ("1999-01-01", MODERN, 5, None):
            self.assertEqual(introduction({"protocolVersion": odd}).version, "2025-11-25")

    def test_version_of_a_resumed_session(self) -> None:
        """What was agreed on counts, whatever had been asked for."""
        asked = {"protocolVersion": "2030-01-01"}
        self.assertEqual(introduction(asked, "2025-03-26").version, "2025-03-26")

    def test_half_a_name(self) -> None:
        """A client's info goes on only as the stateless era defines it."""
        for info in ({"name": "c"}, {"version": "1"}, {"name": 1, "version": "1"}, None, 5):
            self.assertIsNone(introduction({"clientInfo": info}).info)
        whole = {"name": "c", "version": "1", "title": "C"}
        self.assertEqual(introduction({"clientInfo": whole}).info, whole)

    def test_capabilities(self) -> None:
        """Only what a server of the stateless era can use, and what the gateway relays."""
        declared: dict[str, Any] = {
            "sampling": {"tools": {}, "context": {}, "other": {}},
            "elicitation": {"url": {}, "form": {}},
            "roots": {"listChanged": True},
            "tasks": {"list": {}},
            "experimental": {"x": {}},
            "extensions": {"y": {}},
        }
        expected: dict[str, Any] = {
            "sampling": {"tools": {}, "context": {}},
            "elicitation": {"url": {}, "form": {}},
            "roots": {},
        }
        self.assertEqual(client_capabilities(declared), expected)

    def test_forms(self) -> None:
        """An empty elicitation means forms; one of a broken kind means nothing."""
        self.assertEqual(client_capabilities({"elicitation": {}}), {"elicitation": {"form": {}}})
        self.assertEqual(client_capabilities({"elicitation": {"url": 1}}), {})
        self.assertEqual(
            client_capabilities({"elicitation": {"url": {}}})["elicitation"], {"url": {}}
        )

    @settings(deadline=None, max_examples=60)
    @given(CLIENTS | LEAVES)
    def test_capabilities_hold_still(self, declared: object) -> None:
        """Translated capabilities are their own translation, and no more than was declared."""
        once = client_capabilities(declared)
        self.assertEqual(client_capabilities(once), once)
        given_names = declared.keys() if isinstance(declared, dict) else set()
        self.assertLessEqual(once.keys(), {"sampling", "elicitation", "roots"} & given_names)


class InitializeTests(SynchronousTestCase):
    """The answer to ``initialize``."""

    def test_whole(self) -> None:
        """Everything a server tells of itself that the client can use."""
        discovered = {
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": {
                "tools": {"listChanged": True},
                "resources": {"subscribe": True, "listChanged": False},
                "prompts": {},
                "logging": {},
                "completions": {},
                "extensions": {"io.modelcontextprotocol/tasks": {}},
            },
            "instructions": "Be careful",
            "ttlMs": 5,
            "cacheScope": "public",
            "_meta": {META_SERVER_INFO: {"name": "s", "version": "2", "title": "S"}},
        }
        expected = {
            "protocolVersion": "2025-03-26",
            "capabilities": {
                "tools": {"listChanged": True},
                "resources": {"subscribe": True},
                "prompts": {},
                "logging": {},
                "completions": {},
            },
            "serverInfo": {"name": "s", "version": "2", "title": "S"},
            "instructions": "Be careful",
        }
        self.assertEqual(initialize_result(discovered, "2025-03-26", "configured"), expected)

    @settings(deadline=None, max_examples=60)
    @given(objects("capabilities", "instructions", "ttlMs", "_meta"), SERVERS)
    def test_always_valid(self, discovered: dict[str, Any], capabilities: dict[str, Any]) -> None:
        """Whatever a server says, the client gets a result of the right form and nothing else."""
        result = initialize_result(
            {**discovered, "capabilities": capabilities}, "2025-11-25", "name"
        )
        info = result["serverInfo"]
        self.assertIsInstance(info["name"], str)
        self.assertIsInstance(info["version"], str)
        self.assertLessEqual(
            result.keys(), {"protocolVersion", "capabilities", "serverInfo", "instructions"}
        )
        once = result["capabilities"]
        self.assertEqual(server_capabilities(once), once)
        for flags in once.values():
            self.assertTrue(all(flag is True for flag in flags.values()))


class RequestTests(SynchronousTestCase):
    """Params on their way to the server."""

    def test_meta(self) -> None:
        """The client's token and trace stay, the protocol's own keys are the gateway's."""
        params = {
            "name": "echo",
            "arguments": {"task": 1},
            "task": {"ttl": 5},
            "_meta": {"progressToken": 7, "traceparent": "t", META_VERSION: "forged", "own/key": 1},
        }
        sent = introduced(passed_params(params), CLIENT, MODERN, "warning")
        meta = {
            "progressToken": 7,
            "traceparent": "t",
            "own/key": 1,
            META_VERSION: MODERN,
            META_CAPABILITIES: {"roots": {}},
            META_CLIENT_INFO: {"name": "c", "version": "1"},
            META_LOG_LEVEL: "warning",
        }
        self.assertEqual(sent, {"name": "echo", "arguments": {"task": 1}, "_meta": meta})

    @settings(deadline=None, max_examples=80)
    @given(PARAMS | st.none())
    def test_nothing_forged(self, params: dict[str, Any] | None) -> None:
        """No client writes what a server takes for the gateway's word, nor another's answers."""
        sent = introduced(passed_params(params), CLIENT, MODERN, None)
        ours = {META_VERSION, META_CAPABILITIES, META_CLIENT_INFO}
        protocol = {key for key in sent["_meta"] if key.startswith(META_PREFIX)}
        self.assertEqual(protocol, ours)
        self.assertEqual(sent["_meta"][META_CAPABILITIES], CLIENT.capabilities)
        self.assertFalse(sent.keys() & {"inputResponses", "requestState", "task"})
        for name in ("name", "uri", "arguments"):
            self.assertEqual(sent.get(name), (params or {}).get(name))
        self.assertEqual(passed_params(passed_params(params)), passed_params(params))


class ResultTests(SynchronousTestCase):
    """Results on their way to the client."""

    @settings(deadline=None, max_examples=80)
    @given(RESULTS)
    def test_nothing_modern(self, result: dict[str, Any]) -> None:
        """Nothing of the stateless era is left, and nothing else is missing."""
        plain = handshake_result(result)
        self.assertFalse(plain.keys() & MODERN_MEMBERS)
        meta = plain.get("_meta")
        if isinstance(meta, dict):
            self.assertFalse(meta.keys() & MODERN_META)
        self.assertEqual(handshake_result(plain), plain)
        for name in result.keys() - MODERN_MEMBERS - {"_meta"}:
            self.assertEqual(plain[name], result[name])
        given_meta = result["_meta"]
        kept = given_meta.keys() - MODERN_META if isinstance(given_meta, dict) else set()
        self.assertLessEqual(kept, meta.keys() if isinstance(meta, dict) else set())

    def test_meta_alone(self) -> None:
        """A ``_meta`` that held nothing else goes with what it held."""
        holder = {"_meta": {META_SERVER_INFO: {}}, "content": []}
        self.assertEqual(without_modern_meta(holder), {"content": []})

    def test_absent_type(self) -> None:
        """A result without a type is a complete one."""
        self.assertEqual(handshake_result({"tools": []}), {"tools": []})

    def test_unknown_types(self) -> None:
        """What else a result may be, the client must not take for an answer."""
        kinds: list[Any] = ["task", "input_required", "new", "", None, 5, ["complete"], {}]
        for kind in kinds:
            with self.assertRaises(Untranslatable) as raised:
                handshake_result({"resultType": kind, "content": []})
            self.assertNotIn(str(kind) or "none", raised.exception.text)


class ErrorTests(SynchronousTestCase):
    """Errors on their way to the client."""

    def code(self, error: dict[str, Any], method: str = "resources/read") -> Any:
        """The code a client sees of an error about a resource."""
        return handshake_error(method, {"uri": "demo://a"}, error)["code"]

    def test_resource_not_found(self) -> None:
        """The code of handshake eras, however a server says that there is no such resource."""
        for said in (
            {"message": "Resource not found", "data": {"uri": "demo://a"}},
            {"message": "Nope", "data": {"uri": "demo://a"}},
            {"message": "Unknown resource: demo://a"},
            {"message": "MCP error -32602: Resource demo://a not found"},
        ):
            self.assertEqual(self.code({"code": -32602, **said}), -32002)

    def test_other_faults_of_params(self) -> None:
        """Everything else about the params keeps its code."""
        self.assertEqual(self.code({"code": -32602, "message": "Invalid cursor"}), -32602)
        other = {"code": -32602, "message": "no", "data": {"uri": "demo://b"}}
        self.assertEqual(self.code(other), -32602)
        found = {"code": -32602, "message": "Unknown resource", "data": {"uri": "demo://a"}}
        self.assertEqual(self.code(found, "tools/call"), -32602)

    def test_missing_capability(self) -> None:
        """A client learns which capability it lacks, in words."""
        data: Any = {"requiredCapabilities": {"sampling": {}, "elicitation": {"form": {}}}}
        error = handshake_error("tools/call", None, {"code": -32021, "message": "x", "data": data})
        self.assertEqual(error["code"], -32600)
        self.assertIn("elicitation, sampling", error["message"])
        odd_ones: list[Any] = [None, [], {"requiredCapabilities": []}]
        for odd in (*odd_ones, {"requiredCapabilities": {"x": {}}}):
            error = handshake_error("tools/call", None, {"code": -32021, "data": odd})
            self.assertIn("another one", error["message"])

    @settings(deadline=None, max_examples=60)
    @given(
        st.integers(-32800, -31900) | JSON,
        objects("message", "data"),
        st.sampled_from(["tools/call", "resources/read"]),
    )
    def test_nothing_modern(self, code: object, more: dict[str, Any], method: str) -> None:
        """No code that only the stateless era has reaches a client; others are as they were."""
        error = {**more, "code": code}
        translated = handshake_error(method, {"uri": "demo://a"}, error)
        if code in (-32020, -32021, -32022):
            self.assertIn(translated["code"], (-32600, -32603))
            self.assertEqual(translated.keys(), {"code", "message"})
        elif code != -32602:
            self.assertEqual(translated, error)
        self.assertEqual(handshake_error(method, {"uri": "demo://a"}, translated), translated)
