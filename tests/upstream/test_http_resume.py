"""Sessions over HTTP that were opened in an earlier life of the gateway."""

from mcpguard.config.settings import UpstreamSettings
from mcpguard.errors import Reason
from mcpguard.upstream.http import HttpUpstream
from mcpguard.upstream.http_session import HttpSession
from mcpguard.upstream.link import Leavable, Link, UpstreamFailure
from mcpguard.upstream.url_upstream import BOUNDS
from tests.upstream.http_doubles import LEGACY, URL, HttpCase, Inbox, Sent, Sink

PARAMS = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t"}}


class ResumeTests(HttpCase):
    """`HttpUpstream.resume_session`."""

    def resumed(
        self, inbox: Inbox | None = None, session_id: str | None = "s1", path: str = ""
    ) -> Link:
        """A link to an old session."""
        return self.successResultOf(
            self.upstream.resume_session(
                "api_key:a", PARAMS, LEGACY, session_id, inbox or Inbox(), path
            )
        )

    def first(self, link: Link, status: int = 405) -> tuple[Sink, Sent]:
        """A first request, after the answer to the GET that goes before it."""
        sink = Sink()
        link.request(self.legacy(), sink)
        self.wire.last().status(status)
        return sink, self.wire.last("POST")

    def test_nothing_is_sent_before_use(self) -> None:
        """Taking a session up again costs the server nothing."""
        self.resumed()
        self.assertEqual(self.wire.requests, [])

    def test_requests_carry_the_session(self) -> None:
        """The server sees its own session id, the negotiated version and the path."""
        sink, sent = self.first(self.resumed(path="/deep"))
        self.assertEqual(sent.headers["mcp-session-id"], "s1")
        self.assertEqual(sent.headers["mcp-protocol-version"], LEGACY)
        self.assertEqual(sent.url, "http://127.0.0.1:9/mcp/deep")
        sent.result({"ok": True})
        self.assertEqual(sink.answers[0]["result"], {"ok": True})

    def test_stream_before_the_first_request(self) -> None:
        """The server's stream is opened first, once: it may ask something in the course of it."""
        inbox = Inbox()
        link = self.resumed(inbox)
        link.request(self.legacy(), Sink())
        (stream,) = self.wire.requests
        self.assertEqual((stream.method, stream.headers["mcp-session-id"]), ("GET", "s1"))
        stream.events()
        self.wire.last("POST").result({})
        self.ask(link, self.legacy())[2].result({})
        self.clock.advance(BOUNDS.doubt_secs)
        self.assertEqual([one.method for one in self.wire.requests], ["GET", "POST", "POST"])
        stream.event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        self.assertEqual(len(inbox.notifications), 1)
        self.assertEqual(self.wire.of("ping"), [])

    def test_stream_after_a_notification(self) -> None:
        """A notification that is taken shows it as well."""
        link = self.resumed()
        link.notify("notifications/roots/list_changed", None)
        self.wire.last("POST").status(202)
        self.assertEqual(self.wire.last().method, "GET")

    def test_a_listener_is_served(self) -> None:
        """A session that nothing is asked in is asked about, and has its stream."""
        self.resumed()
        self.clock.advance(BOUNDS.doubt_secs)
        self.wire.last("GET").events()
        self.wire.last().result({})
        self.assertEqual([one.method for one in self.wire.requests], ["GET", "POST"])

    def test_a_listener_hears_of_the_loss(self) -> None:
        """If the server has forgotten it, that shows without a request of the client."""
        inbox = Inbox()
        self.resumed(inbox)
        self.clock.advance(BOUNDS.doubt_secs)
        self.wire.last("GET").status(404)
        self.wire.last("POST").status(404)
        (closing,) = inbox.closings
        self.assertIs(closing.reason, Reason.SESSION_NOT_FOUND)

    def test_no_ping_beside_a_request(self) -> None:
        """A slow request answers the question by itself."""
        self.first(self.resumed())
        self.clock.advance(BOUNDS.doubt_secs)
        self.assertEqual(self.wire.of("ping"), [])

    def test_forgotten(self) -> None:
        """A request to a session that is gone fails as one nobody has looked at."""
        inbox = Inbox()
        sink, sent = self.first(self.resumed(inbox), 404)
        sent.status(404)
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(len(inbox.closings), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_a_session_id(self) -> None:
        """A server that keeps no sessions gets the version, no stream and no ping."""
        link = self.resumed(session_id=None)
        self.clock.advance(60)
        self.assertEqual(self.wire.requests, [])
        _, _, sent = self.ask(link, self.legacy())
        self.assertNotIn("mcp-session-id", sent.headers)
        self.assertEqual(sent.headers["mcp-protocol-version"], LEGACY)
        sent.result({})
        self.assertEqual(len(self.wire.requests), 1)

    def test_close(self) -> None:
        """It is DELETEd like any other, and leaves no timer behind."""
        closing = self.resumed().close()
        self.wire.last("DELETE").status(200)
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bad_path(self) -> None:
        """A path that would climb reaches nothing."""
        self.failureResultOf(
            self.upstream.resume_session("a", PARAMS, LEGACY, "s1", Inbox(), "/%2e%2e"),
            UpstreamFailure,
        )

    def test_openings_can_be_resumed(self) -> None:
        """What a handshake gives says how to come back to it."""
        for session_id in ("s1", None):
            opening = self.opening()
            headers = {} if session_id is None else {"Mcp-Session-Id": session_id}
            self.wire.last().result({"protocolVersion": LEGACY}, headers)
            opened = self.successResultOf(opening)
            self.assertEqual((opened.session_id, opened.resumable), (session_id, True))
            self.assertIsInstance(opened.link, HttpSession)
            self.assertNotIn("s1", repr(opened))

    def test_kept_at_the_stop(self) -> None:
        """Sessions for a later life are left as they are; a handshake under way is not one."""
        self.upstream = HttpUpstream(
            UpstreamSettings(name="remote", transport="http", url=URL),
            reactor=self.clock,
            meter=self.books,
            recorder=self.books,
            random=lambda: 0.0,
            wire=self.wire,
            keep_sessions=True,
        )
        link = self.ready()
        stream = self.wire.last("GET")
        _, sink, _ = self.ask(link, self.legacy())
        opening = self.opening()
        stopping = self.upstream.stop()
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.failureResultOf(opening, UpstreamFailure)
        self.assertTrue(stream.aborted)
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertNotIn("DELETE", [one.method for one in self.wire.requests])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_left(self) -> None:
        """A session that is left to another process is not ended at the server."""
        link = self.resumed()
        assert isinstance(link, Leavable)
        self.successResultOf(link.leave())
        sink = Sink()
        link.request(self.legacy(), sink)
        self.assertEqual(sink.ends, 1)
        self.assertNotIn("DELETE", [one.method for one in self.wire.requests])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """A stopped upstream ends resumed sessions too."""
        link = self.resumed()
        stopping = self.upstream.stop()
        self.wire.last("DELETE").status(200)
        self.clock.advance(0)
        self.successResultOf(stopping)
        sink = Sink()
        link.request(self.legacy(), sink)
        self.assertEqual(sink.ends, 1)
