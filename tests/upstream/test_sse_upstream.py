"""Tests of `SseUpstream` as a whole: configuration, eras, standing."""

from twisted.internet.defer import Deferred

from mcpguard.config.settings import Secret
from mcpguard.errors import ConfigurationError, Reason
from mcpguard.upstream.link import Eras, Standing, UpstreamFailure
from tests.upstream.http_doubles import LEGACY, Inbox
from tests.upstream.sse_doubles import POSTED_AT, URL, SseCase


class ConfigurationTests(SseCase):
    """What it is built from."""

    def test_transport(self) -> None:
        """It calls itself what the configuration calls it."""
        self.assertEqual((self.upstream.name, self.upstream.transport), ("remote", "sse"))

    def test_modern(self) -> None:
        """There is nothing stateless over this transport."""
        error = self.assertRaises(ConfigurationError, self.build, era="modern")
        self.assertIn("no stateless requests", str(error))

    def test_not_usable(self) -> None:
        """URL and headers are judged as for Streamable HTTP, every problem at once."""
        error = self.assertRaises(
            ConfigurationError,
            self.build,
            url="ftp://hush/",
            era="modern",
            headers={"Accept": Secret("hush")},
        )
        self.assertEqual(len(error.problems), 3)
        self.assertNotIn("hush", str(error))


class EraTests(SseCase):
    """What it speaks."""

    def test_probe(self) -> None:
        """A stream, its endpoint, ``initialize``; then the stream is closed again."""
        asking = self.upstream.eras()
        self.greet({"protocolVersion": "2024-11-05"})
        self.assertEqual(self.successResultOf(asking), Eras(legacy=True))
        self.assertEqual([one.url for one in self.wire.requests], [URL, POSTED_AT])
        self.assertTrue(self.stream.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.successResultOf(self.upstream.eras()), Eras(legacy=True))
        self.assertEqual(len(self.wire.requests), 2)

    def test_unknown(self) -> None:
        """A server that refuses, or offers a version nobody knows, speaks nothing."""
        for answer in (
            {"error": {"code": -32602, "message": "no"}},
            {"result": {"protocolVersion": "2099-01-01"}},
        ):
            self.setUp()
            asking = self.upstream.eras()
            self.locate()
            self.say({"jsonrpc": "2.0", "id": self.wire.last("POST").message["id"], **answer})
            self.assertIs(self.failure(asking).reason, Reason.UPSTREAM_ERA)
            self.assertTrue(self.stream.aborted)

    def test_no_answer(self) -> None:
        """A server without an endpoint, or without an answer, is not waited for beyond measure."""
        for located in (False, True):
            self.setUp()
            asking = self.upstream.eras()
            if located:
                self.locate()
            self.clock.advance(60)
            self.assertIs(self.failure(asking).reason, Reason.UPSTREAM_TIMEOUT)
            self.assertTrue(self.stream.aborted)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pinned(self) -> None:
        """``era = "legacy"`` leaves nothing to ask."""
        upstream = self.build(era="legacy")
        self.assertEqual(self.successResultOf(upstream.eras()), Eras(legacy=True))
        self.assertEqual(self.wire.requests, [])

    def test_stateless(self) -> None:
        """There are no stateless links."""
        failure = self.failure(self.upstream.stateless("api_key:a", ""))
        self.assertIs(failure.reason, Reason.UPSTREAM_ERA)

    def test_resume(self) -> None:
        """No session outlives its stream, so none can be resumed."""
        resuming: Deferred[object] = self.upstream.resume_session(  # type: ignore[assignment]
            "api_key:a", {}, LEGACY, None, Inbox(), ""
        )
        self.assertIs(self.failure(resuming).reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.wire.requests, [])


class StandingTests(SseCase):
    """Whether it can be used, and how it is looked after."""

    def test_backoff(self) -> None:
        """A server that is down is asked again after longer and longer waits, until it is up."""
        self.upstream.start()
        waits = []
        for _ in range(7):
            self.stream.lose(Reason.UPSTREAM_UNAVAILABLE)
            self.assertEqual(self.upstream.standing, Standing(False, "unreachable"))
            before, known = self.clock.seconds(), len(self.wire.requests)
            while len(self.wire.requests) == known:
                self.clock.advance(1)
            waits.append(self.clock.seconds() - before)
        self.assertEqual(waits, [1, 2, 4, 8, 16, 30, 30])
        self.greet()
        self.assertEqual(self.upstream.standing, Standing(True))
        self.assertEqual(
            [(one.status, one.reason) for one in self.books.events],
            [("unusable", "upstream_unavailable"), ("usable", None)],
        )

    def test_jitter(self) -> None:
        """Chance makes a wait up to a quarter longer, so that gateways do not come all at once."""
        upstream = self.build()
        upstream._vigil.random = lambda: 1.0
        upstream.start()
        self.stream.lose(Reason.UPSTREAM_UNAVAILABLE)
        self.clock.advance(1.2)
        self.assertEqual(len(self.wire.requests), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.wire.requests), 2)

    def test_restarted(self) -> None:
        """Sessions end with the server's restart; the next one finds it again, and says so."""
        self.upstream.start()
        self.greet()
        inbox = Inbox()
        self.ready(inbox)
        self.stream.lose()
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        opening = self.opening()
        self.stream.lose(Reason.UPSTREAM_UNAVAILABLE)
        self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.upstream.standing, Standing(False, "unreachable"))
        self.ready()
        self.assertEqual(self.upstream.standing, Standing(True))

    def test_idle(self) -> None:
        """An idle server is looked at by a connection alone: no stream, no session."""
        self.upstream.start()
        self.greet()
        known = len(self.wire.requests)
        self.clock.advance(16)
        self.assertEqual((self.wire.reached, len(self.wire.requests)), (1, known))

    def test_foreign_endpoint(self) -> None:
        """A server whose endpoint is elsewhere is not usable."""
        self.upstream.start()
        waiting = self.upstream.eras()
        self.locate("http://evil/messages")
        self.assertIs(
            self.failureResultOf(waiting, UpstreamFailure).value.reason, Reason.UPSTREAM_FAILED
        )
        self.assertEqual(self.upstream.standing, Standing(False, "failing"))

    def test_stop(self) -> None:
        """A probe under way is ended, at either of its steps."""
        for located in (False, True):
            self.setUp()
            self.upstream.start()
            if located:
                self.locate()
            stopping = self.upstream.stop()
            self.clock.advance(0)
            self.successResultOf(stopping)
            self.assertTrue(self.stream.aborted)
            self.assertEqual(self.clock.getDelayedCalls(), [])
