"""Tests of the demo server's two eras."""

from mcpguard.demo.calls import Call, Session
from mcpguard.demo.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY_VERSIONS,
    META_SERVER_INFO,
    META_SUBSCRIPTION,
    META_VERSION,
    METHOD_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Message,
    ProtocolError,
)
from mcpguard.demo.server import STATE_LIFETIME
from tests.demo.support import ServerCase, modern_request

CAPABLE: Message = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}


class LegacyTests(ServerCase):
    """The handshake and what follows it."""

    def test_versions(self) -> None:
        """A known version is agreed to; for any other the newest legacy one is offered."""
        for asked, agreed in (
            *((version, version) for version in LEGACY_VERSIONS),
            ("2026-07-28", "2025-11-25"),
            ("1999-01-01", "2025-11-25"),
        ):
            self.server = self.build("legacy", "modern")
            self.assertEqual(self.session(asked).version, agreed)

    def test_handshake_first(self) -> None:
        """Before the handshake there is only ping; a second one is refused."""
        session = Session(self.sent.append, max_running=1, ask_timeout=1)
        self.assertEqual(self.legacy("ping", session=session)["result"], {})
        refused = self.legacy("tools/list", session=session)["error"]
        self.assertEqual(refused["code"], INVALID_REQUEST)
        params: Message = {"protocolVersion": "2025-06-18", "capabilities": {}}
        self.assertIn("result", self.legacy("initialize", params, session=session))
        again = self.legacy("initialize", params, session=session)["error"]
        self.assertEqual(again["code"], INVALID_REQUEST)

    def test_bad_handshake(self) -> None:
        """A handshake without version or capabilities is refused."""
        for params in ({}, {"protocolVersion": 1, "capabilities": {}}, {"protocolVersion": "x"}):
            session = Session(self.sent.append, max_running=1, ask_timeout=1)
            answer = self.legacy("initialize", params, session=session)
            self.assertEqual(answer["error"]["code"], INVALID_PARAMS)

    def test_results_are_plain(self) -> None:
        """Legacy results carry none of the modern members."""
        result = self.legacy("tools/list")["result"]
        self.assertEqual(list(result), ["tools"])

    def test_unknown_methods(self) -> None:
        """Modern methods do not exist here, nor do invented ones."""
        for method in ("server/discover", "subscriptions/listen", "tools/destroy"):
            self.assertEqual(self.legacy(method)["error"]["code"], METHOD_NOT_FOUND)

    def test_cursor(self) -> None:
        """No cursor was handed out, so none is known, not even the empty one."""
        for cursor in ("x", "", 0):
            answer = self.legacy("tools/list", {"cursor": cursor})
            self.assertEqual(answer["error"]["code"], INVALID_PARAMS)

    def test_level(self) -> None:
        """The log level is set by name."""
        session = self.session()
        self.legacy("logging/setLevel", {"level": "error"}, session=session)
        self.assertEqual(session.log_level, "error")
        odd = self.legacy("logging/setLevel", {"level": "loud"}, session=session)
        self.assertEqual(odd["error"]["code"], INVALID_PARAMS)

    def test_subscription(self) -> None:
        """A subscriber hears of changes until it unsubscribes; list changes go to every session."""
        session = self.session()
        uri = {"uri": "demo://counter"}
        self.legacy("resources/subscribe", uri, session=session)
        self.write(session, "new.txt")
        self.assertEqual(
            [(message["method"], message["params"]) for message in self.sent],
            [
                ("notifications/resources/updated", uri),
                ("notifications/resources/list_changed", {}),
            ],
        )
        self.sent.clear()
        self.legacy("resources/unsubscribe", uri, session=session)
        self.write(session, "new.txt")
        self.assertEqual(self.sent, [])

    def test_file_subscription(self) -> None:
        """A file is watched under one name, however the writer spells its path."""
        session = self.session()
        uri = {"uri": "demo://files/data%2Fx"}
        self.legacy("resources/subscribe", uri, session=session)
        self.write(session, "./data//x")
        self.assertEqual(self.sent[0]["params"], uri)

    def write(self, session: Session, path: str) -> None:
        """Write a file."""
        arguments = {"path": path, "content": "x"}
        params = {"name": "write_file", "arguments": arguments}
        self.assertNotIn("isError", self.legacy("tools/call", params, session=session)["result"])

    def test_subscription_bounds(self) -> None:
        """Unknown resources and too many subscriptions are refused; so are too many sessions."""
        session = self.session()
        for uri in (None, "demo://nothing"):
            answer = self.legacy("resources/subscribe", {"uri": uri}, session=session)
            self.assertEqual(answer["error"]["code"], INVALID_PARAMS)
        for number in range(2):
            params = {"uri": f"demo://files/{number}"}
            self.assertIn("result", self.legacy("resources/subscribe", params, session=session))
        answer = self.legacy("resources/subscribe", {"uri": "demo://counter"}, session=session)
        self.assertEqual(answer["error"]["code"], INVALID_PARAMS)
        others = [self.session() for _ in range(3)]
        self.assertEqual([other.version != "" for other in others], [True, True, False])
        self.server.leave(others[0])
        self.assertTrue(self.session().version)

    def test_internal_error(self) -> None:
        """A bug in a tool is an internal error on the wire; its traceback goes to stderr."""
        broken = self.server.tools.find("echo")
        self.patch(broken, "run", lambda call, arguments: 1 / 0)
        shown: list[object] = []
        self.patch(
            __import__("sys"), "excepthook", lambda kind, problem, trace: shown.append(problem)
        )
        answer = self.legacy("tools/call", {"name": "echo", "arguments": {"message": "x"}})
        self.assertEqual(answer["error"], {"code": INTERNAL_ERROR, "message": "Internal error"})
        self.assertIsInstance(shown[0], ZeroDivisionError)


class ModernTests(ServerCase):
    """Stateless requests (2026-07-28)."""

    def test_discover(self) -> None:
        """Discovery names every version served, may be cached and says who answers."""
        result = self.modern("server/discover")["result"]
        self.assertEqual(result["supportedVersions"], ["2026-07-28", *LEGACY_VERSIONS])
        self.assertEqual(result["resultType"], "complete")
        self.assertEqual(result["cacheScope"], "private")
        self.assertIsInstance(result["ttlMs"], int)
        self.assertEqual(result["_meta"][META_SERVER_INFO]["name"], "mcp-guard-demo")

    def test_cache_hints(self) -> None:
        """Exactly the cacheable results have hints."""
        for method, params, cacheable in (
            ("tools/list", {}, True),
            ("resources/read", {"uri": "demo://readme"}, True),
            ("tools/call", {"name": "echo", "arguments": {"message": "x"}}, False),
            ("prompts/get", {"name": "greet", "arguments": {"name": "x"}}, False),
        ):
            result = self.modern(method, params)["result"]
            self.assertEqual({"ttlMs", "cacheScope"} <= result.keys(), cacheable, method)
            self.assertEqual(result["resultType"], "complete")

    def test_removed_methods(self) -> None:
        """What left with the handshake is unknown."""
        for method in (
            "initialize",
            "ping",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
        ):
            self.assertEqual(self.modern(method)["error"]["code"], METHOD_NOT_FOUND)

    def refused(self, method: str, params: Message | None, **meta: object) -> ProtocolError:
        """The error of a request whose ``_meta`` is refused."""
        message = modern_request(method, params, meta)
        problem: ProtocolError = self.assertRaises(
            ProtocolError, self.server.modern_client, message
        )
        return problem

    def test_meta(self) -> None:
        """Version and capabilities are required, the version must be served."""
        self.assertEqual(self.refused("tools/list", {}, **{META_VERSION: 1}).code, INVALID_PARAMS)
        capabilities = "io.modelcontextprotocol/clientCapabilities"
        problem = self.refused("tools/list", {}, **{capabilities: None})
        self.assertEqual((problem.code, problem.data), (INVALID_PARAMS, None))
        problem = self.refused("tools/list", {}, **{META_VERSION: "2030-01-01"})
        self.assertEqual(problem.code, UNSUPPORTED_VERSION)
        assert problem.data is not None
        self.assertEqual(problem.data["requested"], "2030-01-01")
        self.assertEqual(problem.data["supported"][0], "2026-07-28")

    def test_versions_for_the_old(self) -> None:
        """A modern-only server names its versions to a client that shakes hands."""
        self.server = self.build("modern")
        message = {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
        self.assertTrue(self.server.is_modern(message))
        problem = self.assertRaises(ProtocolError, self.server.modern_client, message)
        self.assertEqual(problem.data, {"supported": ["2026-07-28"]})

    def test_eras(self) -> None:
        """A dual-era server goes by the request, the others by themselves."""
        old: Message = {"method": "tools/list"}
        new = modern_request("tools/list", {}, {})
        probe: Message = {"method": "server/discover"}
        for eras, expected in (
            (("legacy", "modern"), [False, True, True]),
            (("legacy",), [False, False, False]),
            (("modern",), [True, True, True]),
        ):
            server = self.build(*eras)
            self.assertEqual([server.is_modern(message) for message in (old, new, probe)], expected)

    def first_round(self, question: str) -> Message:
        """Ask, and get the question back."""
        params = {"name": "ask", "arguments": {"question": question}}
        result: Message = self.modern("tools/call", params, **CAPABLE)["result"]
        return result

    def again(self, question: str, state: object, answers: object) -> Message:
        """The next round's parameters."""
        params: Message = {"name": "ask", "arguments": {"question": question}}
        return {**params, "requestState": state, "inputResponses": answers}

    def test_missing_answer(self) -> None:
        """A round without the answer is asked again."""
        state = self.first_round("?")["requestState"]
        result = self.modern("tools/call", self.again("?", state, {}), **CAPABLE)["result"]
        self.assertEqual(result["resultType"], "input_required")

    def test_state_is_sealed(self) -> None:
        """A state counts only as given, for its request, until it expires."""
        state = self.first_round("?")["requestState"]
        answers = {"answer": {"action": "decline"}}
        self.assertIn(
            "result", self.modern("tools/call", self.again("?", state, answers), **CAPABLE)
        )
        expires, _, mark = state.partition(".")
        for question, given, answered in (
            ("other", state, answers),
            ("?", f"{int(expires) + 1}.{mark}", answers),
            ("?", state[:-1], answers),
            ("?", "", answers),
            ("?", "ä.ä", answers),
            ("?", None, answers),
            ("?", state, ["answer"]),
        ):
            problem = self.refused("tools/call", self.again(question, given, answered), **CAPABLE)
            self.assertEqual(problem.code, INVALID_PARAMS)
        self.now += STATE_LIFETIME
        problem = self.refused("tools/call", self.again("?", state, answers), **CAPABLE)
        self.assertEqual(problem.code, INVALID_PARAMS)


class ListenTests(ServerCase):
    """``subscriptions/listen``."""

    def listen(self, wanted: object) -> Message | None:
        """Listen, and let the server stop right after the acknowledgement."""

        def send(message: Message) -> None:
            self.sent.append(message)
            if message["method"].endswith("acknowledged"):
                call.wake()

        message = modern_request("subscriptions/listen", {"notifications": wanted}, {})
        call = Call(message, self.server.modern_client(message), send)
        return self.server.answer(call)

    def test_acknowledgement(self) -> None:
        """The acknowledgement comes first and names only what will be honoured."""
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": True,
            "resourceSubscriptions": ["demo://counter", "demo://nothing"],
        }
        answer = self.listen(wanted)
        self.assertEqual(
            self.sent[0]["params"],
            {
                "_meta": {META_SUBSCRIPTION: "m"},
                "notifications": {
                    "resourceSubscriptions": ["demo://counter"],
                    "resourcesListChanged": True,
                },
            },
        )
        assert answer is not None
        self.assertEqual(answer["result"]["resultType"], "complete")
        self.assertEqual(answer["result"]["_meta"][META_SUBSCRIPTION], "m")

    def test_faults(self) -> None:
        """Odd filters and too many resources are refused."""
        odd: list[object] = [
            None,
            [],
            {"resourceSubscriptions": "demo://counter"},
            {"resourceSubscriptions": [1]},
            {"resourceSubscriptions": ["a", "b", "c"]},
        ]
        for wanted in odd:
            answer = self.listen(wanted)
            assert answer is not None
            self.assertEqual(answer["error"]["code"], INVALID_PARAMS)
        self.assertEqual(self.sent, [])

    def test_cancelled(self) -> None:
        """A listener that has gone gets no answer and hears nothing more."""
        message = modern_request(
            "subscriptions/listen",
            {"notifications": {"resourceSubscriptions": ["demo://counter"]}},
            {},
        )
        call = Call(message, self.server.modern_client(message), lambda sent: call.cancel())
        self.assertIsNone(self.server.answer(call))
        self.modern("tools/call", {"name": "echo", "arguments": {"message": "x"}})
        self.assertEqual(self.sent, [])

    def test_too_many(self) -> None:
        """Listeners are bounded together with the sessions."""
        for _ in range(3):
            self.session()
        answer = self.listen({})
        assert answer is not None
        self.assertEqual(answer["error"]["code"], INTERNAL_ERROR)


class WaitsTests(ServerCase):
    """Which requests need a thread."""

    def test_waits(self) -> None:
        """Slow and asking tools and listens wait; the rest, unknown tools included, do not."""
        for name in ("slow", "ask", "summarize", "roots"):
            self.assertTrue(self.server.waits({"method": "tools/call", "params": {"name": name}}))
        self.assertTrue(self.server.waits({"method": "subscriptions/listen"}))
        for message in (
            {"method": "tools/call", "params": {"name": "echo"}},
            {"method": "tools/call", "params": {"name": "rm"}},
            {"method": "tools/call"},
            {"method": "tools/list"},
        ):
            self.assertFalse(self.server.waits(message))
