"""Tests of HTTP servers that speak another era than they were found to speak."""

from typing import Any

from twisted.internet.defer import Deferred

from mcpguard.errors import Reason
from mcpguard.upstream.link import Eras, InitializeRejected, UpstreamFailure
from tests.upstream.http_doubles import LEGACY, MODERN, HttpCase, Inbox, Sent, Sink

OTHERS = {"code": -32022, "message": "m", "data": {"supported": [LEGACY]}}
NO_SESSION = {"code": -32600, "message": "Bad Request: Missing session ID"}
NO_HANDSHAKE = {"code": -32022, "message": "m", "data": {"supported": [MODERN]}}
NO_METADATA = {
    "code": -32602,
    "message": "_meta needs io.modelcontextprotocol/protocolVersion",
}


def refuse(sent: Sent, error: dict[str, Any], status: int = 400, id: object = ...) -> None:
    """Answer with an error."""
    given = sent.message["id"] if id is ... else id
    sent.json({"jsonrpc": "2.0", "id": given, "error": error}, status)


class ChangedCase(HttpCase):
    """A server that has been asked once what it speaks."""

    def learn(self, *, modern: bool) -> None:
        """It says what it speaks."""
        waiting = self.upstream.eras()
        self.tell(modern=modern)
        self.assertEqual(bool(self.successResultOf(waiting).modern), modern)

    def tell(self, *, modern: bool) -> None:
        """Answer the question that is under way."""
        (*_, asked) = self.wire.of("server/discover")
        if modern:
            asked.result({"supportedVersions": [MODERN], "capabilities": {}})
            refuse(self.wire.last("POST"), NO_HANDSHAKE)
        else:
            refuse(asked, NO_SESSION, id="server-error")
            self.wire.last("POST").result({"protocolVersion": LEGACY, "capabilities": {}})

    @property
    def questions(self) -> int:
        """How often it was asked what it speaks."""
        return len(self.wire.of("server/discover"))

    def assert_changed(self, failure: UpstreamFailure, retry_after: float = 1.0) -> None:
        """The caller may try again."""
        self.assertIs(failure.reason, Reason.UPSTREAM_CHANGED)
        self.assertEqual(failure.retry_after, retry_after)


class DowngradeTests(ChangedCase):
    """A stateless server that has become a handshake server."""

    def setUp(self) -> None:
        """It was stateless."""
        super().setUp()
        self.learn(modern=True)

    def call(self) -> tuple[Sink, Sent]:
        """A stateless request."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        return sink, sent

    def test_noticed(self) -> None:
        """However it says so: that request fails, and the next caller waits for the new answer."""
        ways: tuple[tuple[dict[str, Any], int, object], ...] = (
            (OTHERS, 400, ...),
            (OTHERS, 200, ...),
            (OTHERS, 400, None),
            (OTHERS, 400, "server-error"),
            (NO_SESSION, 400, "server-error"),
            (NO_SESSION, 400, None),
        )
        for error, status, id in ways:
            asked = self.questions
            sink, sent = self.call()
            refuse(sent, error, status, id)
            self.assertEqual(sink.ends, 1)
            self.assert_changed(sink.failures[0])
            self.assertEqual(self.questions, asked + 1)
            waiting = self.upstream.eras()
            self.assertNoResult(waiting)
            self.tell(modern=False)
            self.assertEqual(self.successResultOf(waiting), Eras(legacy=True))
            self.clock.advance(10)

    def test_asked_once_for_many(self) -> None:
        """Many who notice at the same time cause one question."""
        calls = [self.call() for _ in range(5)]
        for _, sent in calls:
            refuse(sent, OTHERS)
        self.assertEqual({sink.reason for sink, _ in calls}, {Reason.UPSTREAM_CHANGED})
        self.assertEqual(self.questions, 2)

    def test_asked_so_often(self) -> None:
        """A server that keeps contradicting itself is asked every ten seconds at most."""
        for second in range(20):
            sink, sent = self.call()
            refuse(sent, OTHERS)
            self.assert_changed(sink.failures[0], 1.0 if second % 10 == 0 else 10.0 - second % 10)
            if second % 10 == 0:
                self.tell(modern=True)
            self.clock.advance(1)
        self.assertEqual(self.questions, 3)

    def test_what_says_nothing(self) -> None:
        """Errors that a stateless server may well give are the caller's, and nothing is asked."""
        for error, status, id in (
            ({**OTHERS, "data": {"supported": [MODERN]}}, 400, ...),
            ({"code": -32601, "message": "Method not found"}, 404, ...),
            ({"code": -32600, "message": "No such session of the game"}, 400, ...),
            ({"code": -32602, "message": "m"}, 400, ...),
        ):
            sink, sent = self.call()
            refuse(sent, error, status, id)
            self.assertEqual([answer["error"] for answer in sink.answers], [error])
        sink, sent = self.call()
        sent.status(500)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.questions, 1)

    def test_no_discovery(self) -> None:
        """The one method every stateless server has is missed at once."""
        _, sink, sent = self.ask(self.stateless(), self.modern("server/discover"))
        refuse(sent, {"code": -32601, "message": "Method not found"}, 404)
        self.assert_changed(sink.failures[0])

    def test_not_reachable_while_asked(self) -> None:
        """If the new answer cannot be had, callers hear that, as they do at the start."""
        _, sent = self.call()
        refuse(sent, OTHERS)
        waiting = self.upstream.eras()
        self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
        failed = self.failureResultOf(waiting, UpstreamFailure)
        self.assertIs(failed.value.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertFalse(self.upstream.standing.usable)

    def test_stopped(self) -> None:
        """A stopped upstream asks nobody."""
        _, sent = self.call()
        self.upstream.stop()
        asked = len(self.wire.requests)
        refuse(sent, OTHERS)
        self.assertEqual(len(self.wire.requests), asked)


class UpgradeTests(ChangedCase):
    """A handshake server that has become a stateless one."""

    def setUp(self) -> None:
        """It shook hands."""
        super().setUp()
        self.learn(modern=False)

    def failure(self, opening: Deferred[Any]) -> UpstreamFailure:
        """Why a session was not opened."""
        found = self.failureResultOf(opening, UpstreamFailure).value
        assert isinstance(found, UpstreamFailure)
        return found

    def test_handshake_refused(self) -> None:
        """However it refuses: that handshake fails, the next one waits for the new answer."""
        for error, status, id in (
            (NO_HANDSHAKE, 400, ...),
            (NO_HANDSHAKE, 400, None),
            (NO_METADATA, 400, ...),
            ({"code": -32020, "message": "m"}, 400, "server-error"),
            ({"code": -32601, "message": "m"}, 404, ...),
            ({"code": -32601, "message": "m"}, 200, ...),
        ):
            opening = self.opening()
            refuse(self.wire.last("POST"), error, status, id)
            self.assert_changed(self.failure(opening))
            waiting = self.upstream.eras()
            self.tell(modern=True)
            self.assertEqual(self.successResultOf(waiting).modern, (MODERN,))
            self.clock.advance(10)

    def test_rejected_otherwise(self) -> None:
        """What a handshake server may say to ``initialize`` is the client's to read."""
        opening = self.opening()
        refuse(self.wire.last("POST"), {"code": -32602, "message": "m"})
        self.failureResultOf(opening, InitializeRejected)
        self.assertEqual(self.questions, 1)

    def test_in_a_session(self) -> None:
        """A session whose version the server does not speak any more is over, and it is asked."""
        for session_id, error in (("s1", NO_HANDSHAKE), (None, NO_HANDSHAKE), ("s1", NO_METADATA)):
            inbox = Inbox()
            opening = self.opening(inbox)
            headers = {} if session_id is None else {"Mcp-Session-Id": session_id}
            self.wire.last().result({"protocolVersion": LEGACY, "capabilities": {}}, headers)
            link = self.successResultOf(opening).link
            asked = self.questions
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            refuse(sent, error)
            self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
            self.assertEqual(len(inbox.closings), 1)
            self.assertEqual(self.questions, asked + 1)
            self.tell(modern=True)
            self.clock.advance(10)


class PinnedTests(ChangedCase):
    """``era`` says what the server speaks: it is believed against the server."""

    def test_stateless(self) -> None:
        """Nothing is asked again; the call has failed, and trying again would not help."""
        self.upstream = self.build(era="modern")
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        refuse(sent, OTHERS)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertIn("era = modern", sink.failures[0].detail)
        self.assertEqual(self.questions, 0)

    def test_handshake(self) -> None:
        """The client reads what the server says to its handshake."""
        self.upstream = self.build(era="legacy")
        opening = self.opening()
        refuse(self.wire.last("POST"), NO_HANDSHAKE)
        self.failureResultOf(opening, InitializeRejected)
        self.assertEqual(self.successResultOf(self.upstream.eras()), Eras(legacy=True))
        self.assertEqual(self.questions, 0)
