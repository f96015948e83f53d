"""Tests of finding out what an HTTP server speaks."""

from typing import Any

from twisted.internet.defer import Deferred

from mcpguard.errors import Reason
from mcpguard.upstream.link import Eras, UpstreamFailure
from tests.upstream.http_doubles import LEGACY, MODERN, HttpCase

DISCOVERED = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "ttlMs": 0}


class ProbeCase(HttpCase):
    """A probe whose requests the test answers."""

    def probe(self) -> Deferred[Eras]:
        """Begin."""
        return self.upstream.eras()

    def answer_discover(self, result: dict[str, Any] | None = None) -> None:
        """Answer ``server/discover`` with a result, or with the legacy servers' usual 400."""
        sent = self.wire.last()
        self.assertEqual(sent.message["method"], "server/discover")
        if result is not None:
            sent.result(result)
        else:
            error = {"code": -32600, "message": "Bad Request: Missing session ID"}
            sent.json({"jsonrpc": "2.0", "id": "server-error", "error": error}, 400)

    def answer_initialize(self, version: str = LEGACY, session_id: str | None = "p") -> None:
        """Answer ``initialize`` and the DELETE that follows."""
        sent = self.wire.last()
        self.assertEqual(sent.message["method"], "initialize")
        headers = {} if session_id is None else {"Mcp-Session-Id": session_id}
        sent.result({"protocolVersion": version, "capabilities": {}}, headers)
        if session_id is not None:
            self.assertEqual(self.wire.last().method, "DELETE")
            self.assertEqual(self.wire.last().headers["mcp-session-id"], session_id)
            self.wire.last().status(200)

    def refuse_initialize(self, status: int = 400, code: int = -32022) -> None:
        """Answer ``initialize`` with an error."""
        sent = self.wire.last()
        self.assertEqual(sent.message["method"], "initialize")
        error = {"code": code, "message": "no", "data": {"supported": [MODERN]}}
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, status)

    def failure(self, waiting: Deferred[Eras]) -> UpstreamFailure:
        """Why it failed."""
        found = self.failureResultOf(waiting, UpstreamFailure).value
        assert isinstance(found, UpstreamFailure)
        return found


class AutoTests(ProbeCase):
    """``era = "auto"``."""

    def test_question(self) -> None:
        """The question is a well-formed stateless request."""
        self.probe()
        sent = self.wire.last()
        self.assertEqual(sent.headers["mcp-protocol-version"], MODERN)
        self.assertEqual(sent.headers["mcp-method"], "server/discover")
        meta = sent.message["params"]["_meta"]
        self.assertEqual(meta["io.modelcontextprotocol/protocolVersion"], MODERN)
        self.assertEqual(meta["io.modelcontextprotocol/clientCapabilities"], {})

    def test_legacy(self) -> None:
        """A server that knows only the handshake; its session is not left behind."""
        waiting = self.probe()
        self.answer_discover(None)
        self.answer_initialize()
        self.assertEqual(self.successResultOf(waiting), Eras(legacy=True))
        self.assertEqual(len(self.wire.requests), 3)

    def test_modern(self) -> None:
        """A server that knows only stateless requests."""
        waiting = self.probe()
        self.answer_discover(DISCOVERED)
        self.refuse_initialize()
        self.assertEqual(self.successResultOf(waiting), Eras(False, (MODERN,), DISCOVERED))

    def test_both(self) -> None:
        """A server of both eras lists the stateless one only, so the handshake is tried."""
        waiting = self.probe()
        self.answer_discover(DISCOVERED)
        self.answer_initialize(session_id=None)
        self.assertEqual(self.successResultOf(waiting), Eras(True, (MODERN,), DISCOVERED))

    def test_listed(self) -> None:
        """A server that lists its handshake versions is not asked again."""
        waiting = self.probe()
        sent = self.wire.last()
        error = {"code": -32022, "message": "no", "data": {"supported": [LEGACY]}}
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, 400)
        self.assertEqual(self.successResultOf(waiting), Eras(legacy=True))
        self.assertEqual(len(self.wire.requests), 1)

    def test_by_event_stream(self) -> None:
        """The answer to the question may be an event."""
        waiting = self.probe()
        sent = self.wire.last()
        sent.events()
        sent.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        sent.event_result(DISCOVERED)
        self.refuse_initialize(404, -32601)
        self.assertEqual(self.successResultOf(waiting).modern, (MODERN,))
        self.clock.advance(2)
        self.assertTrue(sent.aborted)

    def test_odd_replies(self) -> None:
        """Whatever else comes back, or nothing, the handshake decides."""

        for reply in (
            lambda sent: sent.status(404),
            lambda sent: sent.status(405),
            lambda sent: sent.status(500),
            lambda sent: sent.status(202),
            lambda sent: sent.lose(),
            lambda sent: sent.json({"no": "rpc"}),
            lambda sent: sent.json({"jsonrpc": "2.0", "id": 1, "result": {}}),
        ):
            self.setUp()
            waiting = self.probe()
            sent = self.wire.last()
            reply(sent)
            self.answer_initialize()
            self.assertEqual(self.successResultOf(waiting), Eras(legacy=True))

    def silence(self) -> None:
        """Say nothing to ``server/discover`` for five seconds."""
        sent = self.wire.last()
        self.assertEqual(sent.message["method"], "server/discover")
        self.clock.advance(5)
        self.assertTrue(sent.aborted)

    def test_silence(self) -> None:
        """A server that is silent twice, and shakes hands between, knows the handshake only."""
        waiting = self.probe()
        self.silence()
        self.answer_initialize()
        self.assertNoResult(waiting)
        self.silence()
        self.assertEqual(self.successResultOf(waiting), Eras(legacy=True))

    def test_awake_at_last(self) -> None:
        """What the first question has woken is judged by its answer to the second."""
        for legacy in (True, False):
            self.setUp()
            waiting = self.probe()
            self.silence()
            if legacy:
                self.answer_initialize()
            else:
                self.refuse_initialize()
            self.answer_discover(DISCOVERED)
            self.assertEqual(self.successResultOf(waiting), Eras(legacy, (MODERN,), DISCOVERED))

    def test_no_word_on_eras(self) -> None:
        """Refused credentials, load and redirects say nothing on eras: failed, not remembered."""
        for status, headers, reason in (
            (401, {}, Reason.UPSTREAM_FAILED),
            (403, {}, Reason.UPSTREAM_FAILED),
            (307, {"Location": "http://elsewhere/"}, Reason.UPSTREAM_FAILED),
            (429, {"Retry-After": "5"}, Reason.UPSTREAM_BUSY),
            (503, {"Retry-After": "5"}, Reason.UPSTREAM_BUSY),
        ):
            self.setUp()
            waiting = self.probe()
            self.wire.last().status(status, headers)
            self.assertIs(self.failure(waiting).reason, reason)
            self.clock.advance(1)
            again = self.probe()
            self.answer_discover(None)
            self.answer_initialize()
            self.successResultOf(again)

    def test_unreachable(self) -> None:
        """A server that cannot be reached is not asked a second question."""
        waiting = self.probe()
        self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
        self.assertIs(self.failure(waiting).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(len(self.wire.requests), 1)

    def test_nothing_known(self) -> None:
        """A server that speaks none of our versions is no server for us."""
        waiting = self.probe()
        self.answer_discover(None)
        self.refuse_initialize()
        self.assertIs(self.failure(waiting).reason, Reason.UPSTREAM_ERA)
        self.setUp()
        waiting = self.probe()
        self.answer_discover({"supportedVersions": ["2031-01-01"]})
        self.assertIs(self.failure(waiting).reason, Reason.UPSTREAM_ERA)

    def test_unknown_handshake_version(self) -> None:
        """A handshake version we do not know does not count, and is closed all the same."""
        waiting = self.probe()
        self.answer_discover(None)
        self.answer_initialize("2023-01-01")
        self.assertIs(self.failure(waiting).reason, Reason.UPSTREAM_ERA)

    def test_broken_handshake_of_a_modern_server(self) -> None:
        """A stateless server that mishandles ``initialize`` is a stateless server."""
        waiting = self.probe()
        self.answer_discover(DISCOVERED)
        self.wire.last().status(500)
        self.assertEqual(self.successResultOf(waiting), Eras(False, (MODERN,), DISCOVERED))


class PinnedTests(ProbeCase):
    """``era = "legacy"`` and ``"modern"``."""

    def test_legacy(self) -> None:
        """Nothing is asked; starting only looks whether the server is there."""
        self.upstream = self.build(era="legacy")
        self.assertEqual(self.successResultOf(self.probe()), Eras(legacy=True))
        self.assertEqual(self.wire.requests, [])
        self.upstream.start()
        self.answer_initialize()
        self.assertTrue(self.upstream.standing.usable)

    def test_legacy_refused(self) -> None:
        """A server that refuses the handshake it is pinned to is not usable."""
        self.upstream = self.build(era="legacy")
        self.upstream.start()
        self.refuse_initialize()
        self.assertFalse(self.upstream.standing.usable)

    def test_modern(self) -> None:
        """The handshake is not tried."""
        self.upstream = self.build(era="modern")
        waiting = self.probe()
        self.answer_discover(DISCOVERED)
        self.assertEqual(self.successResultOf(waiting), Eras(False, (MODERN,), DISCOVERED))
        self.assertEqual(len(self.wire.requests), 1)

    def test_modern_without_discover(self) -> None:
        """A server that does not know ``server/discover`` is taken at the operator's word."""
        self.upstream = self.build(era="modern")
        waiting = self.probe()
        self.wire.last().status(404)
        self.assertEqual(self.successResultOf(waiting), Eras(False, (MODERN,), None))
