"""Tests of `HttpUpstream` as a whole: configuration, standing, one question for many."""

from typing import Any

from twisted.internet.defer import CancelledError

from mcpguard.config.settings import Secret
from mcpguard.errors import ConfigurationError, Reason
from mcpguard.upstream.link import Eras, Standing, UpstreamFailure
from tests.upstream.http_doubles import HttpCase, Sent, Sink


class CredentialTests(HttpCase):
    """The upstream's own headers."""

    settings = {"headers": {"Authorization": Secret("Bearer hush"), "X-Team": Secret("a b")}}

    def test_on_every_request(self) -> None:
        """They go up with everything: probe, handshake, calls, streams, DELETE."""
        self.upstream.eras()
        link = self.ready()
        self.ask(link, self.legacy(name="x"))
        link.close()
        self.ask(self.stateless(), self.modern(name="x"))
        methods = {one.method for one in self.wire.requests}
        self.assertEqual(methods, {"GET", "POST", "DELETE"})
        for one in self.wire.requests:
            self.assertEqual(one.headers["authorization"], "Bearer hush")
            self.assertEqual(one.headers["x-team"], "a b")

    def test_never_shown(self) -> None:
        """No repr on the way shows them."""
        link = self.ready()
        call, _, sent = self.ask(link, self.legacy(name="x"))
        for one in (self.upstream, link, call, sent.receiver, self.upstream.__dict__):
            self.assertNotIn("hush", repr(one))

    def test_not_usable(self) -> None:
        """A header of ours, one that breaks framing, or one with a bad value is an error."""
        for name, value in (
            ("Mcp-Session-Id", "x"),
            ("MCP-Protocol-Version", "x"),
            ("content-length", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            ("Accept", "x"),
            ("bad name", "x"),
            ("X-A", ""),
            ("X-A", "a\r\nX-B: hush"),
            ("X-A", "\u20ac hush"),
        ):
            error = self.assertRaises(
                ConfigurationError, self.build, headers={name: Secret(value, "file F")}
            )
            self.assertNotIn("hush", str(error))

    def test_all_at_once(self) -> None:
        """Every problem is named, without the URL or the values."""
        error = self.assertRaises(
            ConfigurationError,
            self.build,
            url="ftp://hush/",
            headers={"Accept": Secret("hush"), "X": Secret("\n")},
        )
        self.assertEqual(len(error.problems), 3)
        self.assertNotIn("hush", str(error))


class StandingTests(HttpCase):
    """Whether the server can be used, as readiness shows it."""

    settings = {"timeout_secs": 5.0}

    def answer(self, sent: Sent) -> None:
        """Answer a probe of a handshake server that keeps no session."""
        if sent.message["method"] == "server/discover":
            sent.status(404)
            sent = self.wire.last()
        sent.result({"protocolVersion": "2025-11-25"})

    def start(self) -> None:
        """Start it before a server that is there."""
        self.upstream.start()
        self.answer(self.wire.last())

    @property
    def statuses(self) -> list[Any]:
        """Status and reason of the audit events."""
        return [(one.event_type, one.server, one.status, one.reason) for one in self.books.events]

    def test_starting(self) -> None:
        """Before the first answer it is starting, then usable, and that is recorded."""
        self.assertEqual(self.upstream.standing, Standing(False, "starting"))
        self.upstream.start()
        self.assertEqual(self.upstream.standing, Standing(False, "starting"))
        self.answer(self.wire.last())
        self.assertEqual(self.upstream.standing, Standing(True))
        self.assertEqual(self.statuses, [("UpstreamEvent", "remote", "usable", None)])

    def test_down_at_start(self) -> None:
        """A server that is down is asked again, after longer and longer waits, until it is up."""
        self.upstream.start()
        waits = []
        for _ in range(8):
            self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
            self.assertEqual(self.upstream.standing, Standing(False, "unreachable"))
            before, known = self.clock.seconds(), len(self.wire.requests)
            while len(self.wire.requests) == known:
                self.clock.advance(1)
            waits.append(self.clock.seconds() - before)
        self.assertEqual(waits, [1, 2, 4, 8, 16, 30, 30, 30])
        self.answer(self.wire.last())
        self.assertEqual(self.upstream.standing, Standing(True))
        self.assertEqual(
            self.statuses,
            [
                ("UpstreamEvent", "remote", "unusable", "upstream_unavailable"),
                ("UpstreamEvent", "remote", "usable", None),
            ],
        )

    def test_lost_and_found(self) -> None:
        """A call that finds the server gone says so; one that finds it back says that."""
        self.start()
        link = self.session(session_id=None)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.lose(Reason.UPSTREAM_UNAVAILABLE)
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.upstream.standing, Standing(False, "unreachable"))
        _, _, sent = self.ask(link, self.legacy(name="x"))
        sent.result({})
        self.assertEqual(self.upstream.standing, Standing(True))

    def test_broken_answers_do_not_count(self) -> None:
        """A request that fails otherwise leaves the standing alone."""
        self.start()
        for reason in (Reason.UPSTREAM_FAILED, Reason.UPSTREAM_TIMEOUT):
            _, _, sent = self.ask(self.session(session_id=None), self.legacy(name="x"))
            sent.lose(reason)
        self.assertTrue(self.upstream.standing.usable)

    def test_idle_check(self) -> None:
        """An idle server is looked at by a connection, so that a dead one is noticed."""
        self.start()
        self.clock.advance(15)
        self.assertEqual(self.wire.reached, 1)
        self.wire.reachable = False
        self.clock.advance(15)
        self.assertEqual(self.upstream.standing, Standing(False, "unreachable"))
        known = len(self.wire.requests)
        self.clock.advance(1)
        self.assertEqual(len(self.wire.requests), known + 1)
        self.answer(self.wire.last())
        self.assertTrue(self.upstream.standing.usable)

    def test_busy_server_is_not_checked(self) -> None:
        """A server that answers calls needs no looking after."""
        self.start()
        link = self.session(session_id=None)
        for _ in range(10):
            self.clock.advance(5)
            self.ask(link, self.legacy(name="x"))[2].result({})
        self.assertEqual(self.wire.reached, 0)

    def test_refused_credentials(self) -> None:
        """A server that refuses us is reachable, yet not usable."""
        self.upstream.start()
        self.wire.last().status(401)
        self.assertEqual(self.upstream.standing, Standing(False, "failing"))

    def test_stop(self) -> None:
        """Stopping ends the asking, and tells who waits."""
        self.upstream.start()
        waiting = self.upstream.eras()
        stopping = self.upstream.stop()
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.failureResultOf(waiting, UpstreamFailure)
        self.assertTrue(self.wire.requests[0].aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.failureResultOf(self.upstream.eras(), UpstreamFailure)

    def test_stop_within_the_handshake(self) -> None:
        """A probe's session does not outlive it either."""
        self.upstream.start()
        self.wire.last().status(404)
        self.wire.last().events({"Mcp-Session-Id": "p"})
        stopping = self.upstream.stop()
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.assertIn("DELETE", [one.method for one in self.wire.requests])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ErasTests(HttpCase):
    """One question for many."""

    def answer(self) -> None:
        """Answer the probe."""
        self.wire.last().status(404)
        self.wire.last().result({"protocolVersion": "2025-11-25"})

    def test_single_flight(self) -> None:
        """Many who ask at once share one probe, and later ones its answer."""
        waiting = [self.upstream.eras() for _ in range(10)]
        self.answer()
        for one in waiting:
            self.assertEqual(self.successResultOf(one), Eras(legacy=True))
        self.successResultOf(self.upstream.eras())
        self.assertEqual(len(self.wire.requests), 2)

    def test_cancelled_waiter(self) -> None:
        """One who stops waiting does not stop the others."""
        first, second = self.upstream.eras(), self.upstream.eras()
        first.cancel()
        self.failureResultOf(first)
        self.answer()
        self.successResultOf(second)

    def test_one_waiter_ends_another(self) -> None:
        """An answer to one may make another give up; all further ones are answered all the same."""
        first, second, third = (self.upstream.eras() for _ in range(3))
        first.addErrback(lambda _: second.cancel())
        self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
        self.failureResultOf(second, CancelledError)
        self.failureResultOf(third, UpstreamFailure)

    def test_failure_is_held_for_a_moment(self) -> None:
        """A failed probe answers everybody for a second, then the next asks anew."""
        self.upstream.eras().addErrback(lambda _: None)
        self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
        for _ in range(5):
            self.failureResultOf(self.upstream.eras(), UpstreamFailure)
        self.assertEqual(len(self.wire.requests), 1)
        self.clock.advance(1)
        waiting = self.upstream.eras()
        self.answer()
        self.successResultOf(waiting)

    def test_known_while_unreachable(self) -> None:
        """What is known stays known; the call itself finds out that nobody is there."""
        self.upstream.eras()
        self.answer()
        sink = Sink()
        self.stateless().request(self.modern(name="x"), sink)
        self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.successResultOf(self.upstream.eras()), Eras(legacy=True))

    def test_unstarted_keeps_no_timers(self) -> None:
        """An upstream that was only asked (by a check) leaves nothing running."""
        self.upstream.eras()
        self.answer()
        self.assertEqual(self.clock.getDelayedCalls(), [])
