"""Tests of the beginning and the end of sessions over HTTP with SSE."""

from mcpguard.errors import Reason
from mcpguard.upstream.link import InitializeRejected
from tests.upstream.http_doubles import LEGACY, Inbox, Sink
from tests.upstream.sse_doubles import ENDPOINT, POSTED_AT, RESULT, URL, SseCase, locate
from tests.upstream.test_endpoint import TRICKS


class HandshakeTests(SseCase):
    """The stream, its endpoint, ``initialize``."""

    def test_handshake(self) -> None:
        """First the stream, then ``initialize`` to the endpoint, answered on the stream."""
        opening = self.opening()
        (stream,) = self.wire.requests
        self.assertEqual((stream.method, stream.url, stream.body), ("GET", URL, None))
        self.assertEqual(stream.headers, {"accept": "text/event-stream"})
        stream.events()
        self.assertEqual(self.posts(), [])
        locate(stream)
        (post,) = self.posts()
        self.assertEqual((post.url, post.message["method"]), (POSTED_AT, "initialize"))
        self.assertEqual(post.message["params"]["clientInfo"], {"name": "t"})
        self.assertEqual(post.headers, {"accept": "*/*", "content-type": "application/json"})
        post.status(202)
        self.assertNoResult(opening)
        result = {"protocolVersion": "2024-11-05", "capabilities": {"odd": 1}}
        self.say({"jsonrpc": "2.0", "id": post.message["id"], "result": result})
        opened = self.successResultOf(opening)
        self.assertEqual(opened.result, result)
        self.assertEqual(
            (opened.ephemeral, opened.session_id, opened.resumable), (False, None, False)
        )

    def test_answer_before_202(self) -> None:
        """The answer may come while the POST still waits for its own."""
        opening = self.opening()
        self.locate()
        post = self.wire.last("POST")
        self.say({"jsonrpc": "2.0", "id": post.message["id"], "result": RESULT})
        self.successResultOf(opening)
        post.status(202)
        self.assertEqual(self.books.strays, [])

    def test_path(self) -> None:
        """What follows the prefix goes behind the URL; a relative endpoint starts from there."""
        self.opening(path="/deep")
        self.assertEqual(self.stream.url, URL + "/deep")
        self.locate("post?s=1")
        self.assertEqual(self.wire.last("POST").url, URL + "/post?s=1")
        self.assertIs(self.failure(self.opening(path="/../x")).reason, Reason.UPSTREAM_FAILED)

    def test_refused(self) -> None:
        """The server's error to ``initialize`` is passed on, and the stream closed."""
        opening = self.opening()
        self.locate()
        self.wire.last("POST").status(202)
        error = {"code": -32602, "message": "no"}
        self.say({"jsonrpc": "2.0", "id": self.wire.last("POST").message["id"], "error": error})
        self.assertEqual(self.failureResultOf(opening, InitializeRejected).value.error, error)
        self.check_nothing_left()

    def test_no_version(self) -> None:
        """Without a usable version there is no session."""
        for version in (None, 5, "2025\r\nX: y"):
            opening = self.opening()
            self.greet({"protocolVersion": version})
            self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_FAILED)
            self.check_nothing_left()

    def test_post_refused(self) -> None:
        """A refused ``initialize`` ends it; there was no session that could be forgotten."""
        for status in (404, 400, 500):
            opening = self.opening()
            self.locate()
            self.wire.last("POST").status(status)
            failure = self.failure(opening)
            self.assertEqual(
                (failure.reason, failure.detail), (Reason.UPSTREAM_FAILED, f"HTTP {status}")
            )
            self.check_nothing_left()

    def test_given_up(self) -> None:
        """A client that does not wait leaves no stream behind."""
        for begun in (False, True):
            opening = self.opening()
            if begun:
                self.locate()
            opening.addErrback(lambda _: None)
            opening.cancel()
            self.check_nothing_left()

    def test_early_words(self) -> None:
        """Before the handshake is over only a ping is answered; the rest is dropped, counted."""
        inbox = Inbox()
        opening = self.opening(inbox)
        self.stream.events()
        self.say({"jsonrpc": "2.0", "id": 1, "result": RESULT})
        locate(self.stream)
        initialize = self.wire.last("POST")
        self.say({"jsonrpc": "2.0", "id": "p", "method": "ping"})
        pong = self.wire.last("POST")
        self.assertEqual(pong.message, {"jsonrpc": "2.0", "id": "p", "result": {}})
        self.say({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})
        self.say({"jsonrpc": "2.0", "method": "ping"})
        self.say({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        self.assertEqual(self.books.strays, ["early"] * 4)
        self.answer(initialize, RESULT)
        self.successResultOf(opening)
        self.assertEqual((inbox.requests, inbox.notifications), ([], []))

    def check_nothing_left(self) -> None:
        """The stream is closed, no timer runs, no place is taken."""
        self.assertTrue(self.stream.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndpointEventTests(SseCase):
    """The event that says where messages go."""

    settings = {"max_message_size": 8192}

    def refusal(self, reference: str) -> str:
        """Offer an endpoint that is to be refused; the words for the log."""
        known = len(self.posts())
        opening = self.opening()
        self.locate(reference)
        failure = self.failure(opening)
        self.assertIs(failure.reason, Reason.UPSTREAM_FAILED, repr(reference))
        self.assertTrue(self.stream.aborted)
        self.assertEqual((len(self.posts()), self.clock.getDelayedCalls()), (known, []))
        return failure.detail

    def test_foreign(self) -> None:
        """A server cannot send the gateway, or its credential, anywhere else."""
        words = self.refusal("http://169.254.169.254/latest/meta-data")
        self.assertIn("another origin, http://169.254.169.254, than", words)
        for reference in TRICKS:
            self.refusal(reference)

    def test_too_long(self) -> None:
        """Longer than 4096 bytes is refused; longer than a message cuts the stream."""
        opening = self.opening()
        self.locate("/" + "x" * 4095)
        self.assertEqual(len(self.posts()), 1)
        opening.addErrback(lambda _: None)
        opening.cancel()
        self.assertIn("too long", self.refusal("/" + "x" * 4096))
        opening = self.opening()
        self.locate("/" + "x" * 8192)
        self.assertIs(self.failure(opening).reason, Reason.ANSWER_TOO_LARGE)

    def test_lines(self) -> None:
        """An endpoint of several lines, or of none, is none."""
        for data in (b"data: /a\ndata: b", b"data:"):
            opening = self.opening()
            self.stream.events()
            self.stream.receiver.data(b"event: endpoint\n" + data + b"\n\n")
            self.assertIn("no URL may have", self.failure(opening).detail)

    def test_cut_anywhere(self) -> None:
        """The stream may arrive in any pieces, with any line ends, after comments and a BOM."""
        self.opening()
        self.stream.events()
        text = (
            b"\xef\xbb\xbf: hello\r\n\r\nevent: endpoint\r\ndata: "
            + ENDPOINT.encode()
            + b"\r\n\r\n"
        )
        for number in range(len(text)):
            self.stream.receiver.data(text[number : number + 1])
        self.assertEqual(self.wire.last("POST").url, POSTED_AT)

    def test_never(self) -> None:
        """Within ten seconds there must be one, whatever else is sent: comments, messages."""
        opening = self.opening()
        self.stream.events()
        for _ in range(39):
            self.clock.advance(0.25)
            self.stream.receiver.data(b": still here\n\n" * 10)
            self.say({"jsonrpc": "2.0", "method": "notifications/message"})
            self.stream.receiver.data(b"event: other\ndata: x\n\n")
        self.assertNoResult(opening)
        self.clock.advance(0.25)
        failure = self.failure(opening)
        self.assertIs(failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(failure.detail, "no endpoint event within 10 s")
        self.assertTrue(self.stream.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_head(self) -> None:
        """A server that takes the connection and says nothing is given the same time."""
        opening = self.opening()
        self.clock.advance(10)
        self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_TIMEOUT)
        self.assertTrue(self.stream.aborted)

    def test_endless_comment(self) -> None:
        """A comment that never ends is held to the bound of a message."""
        opening = self.opening()
        self.stream.events()
        for _ in range(3):
            self.stream.receiver.data(b":" * 4000)
        self.assertIs(self.failure(opening).reason, Reason.ANSWER_TOO_LARGE)
        self.assertTrue(self.stream.aborted)

    def test_second(self) -> None:
        """Messages go where the first one said; further ones are counted."""
        link = self.ready()
        for reference in ("/elsewhere?session_id=s2", "http://evil/", ENDPOINT):
            locate(self.stream, reference)
        _, _, sent = self.ask(link, self.legacy(name="x"))
        self.assertEqual(sent.url, POSTED_AT)
        self.assertEqual(self.books.strays, ["endpoint"] * 3)


class ShortTimeTests(SseCase):
    """Both halves of the handshake share the time of a request."""

    settings = {"timeout_secs": 4.0}

    def test_no_endpoint(self) -> None:
        """The request's own deadline comes first."""
        opening = self.opening()
        self.stream.events()
        self.clock.advance(4)
        self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_TIMEOUT)
        self.assertTrue(self.stream.aborted)

    def test_no_answer(self) -> None:
        """An endpoint after three seconds leaves one for the answer."""
        opening = self.opening()
        self.clock.advance(3)
        self.locate()
        self.wire.last("POST").status(202)
        self.clock.advance(0.9)
        self.assertNoResult(opening)
        self.clock.advance(0.1)
        self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.wire.of("notifications/cancelled"), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class NoStreamTests(SseCase):
    """Servers that have no event stream for us."""

    def test_statuses(self) -> None:
        """The status says why; a Streamable HTTP server is suspected where it is likely."""
        hint = 'is it a server for transport = "http"?'
        for status, reason, words in (
            (401, Reason.UPSTREAM_FAILED, "check the upstream credentials"),
            (307, Reason.UPSTREAM_FAILED, "redirects are not followed"),
            (500, Reason.UPSTREAM_FAILED, "HTTP 500"),
            (204, Reason.UPSTREAM_FAILED, "HTTP 204"),
            (429, Reason.UPSTREAM_BUSY, "HTTP 429"),
            (405, Reason.UPSTREAM_FAILED, hint),
            (404, Reason.UPSTREAM_FAILED, hint),
        ):
            opening = self.opening()
            self.stream.status(status, {"Location": "http://evil/sse"})
            failure = self.failure(opening)
            self.assertIs(failure.reason, reason)
            self.assertIn(words, failure.detail)
            self.assertTrue(self.stream.aborted)
        self.assertEqual({one.url for one in self.wire.requests}, {URL})

    def test_other_kinds(self) -> None:
        """What is no event stream is not read as one."""
        for kind in ("application/json", "text/html", "text/event-streams"):
            opening = self.opening()
            self.stream.head(200, {"Content-Type": kind})
            self.stream.receiver.data(b"event: endpoint\ndata: /x\n\n")
            self.assertIn("without an event stream", self.failure(opening).detail)

    def test_broken(self) -> None:
        """Nobody there, or a stream that ends before the handshake is over."""
        opening = self.opening()
        self.stream.lose(Reason.UPSTREAM_UNAVAILABLE)
        self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_UNAVAILABLE)
        for begun in (False, True):
            inbox = Inbox()
            opening = self.opening(inbox)
            self.stream.events()
            if begun:
                locate(self.stream)
            self.stream.end()
            failure = self.failure(opening)
            self.assertEqual(
                (failure.reason, failure.detail),
                (Reason.UPSTREAM_FAILED, "the event stream has ended"),
            )
            self.assertEqual((inbox.closings, self.clock.getDelayedCalls()), ([], []))


class LostStreamTests(SseCase):
    """The stream of an open session ends, and the session with it."""

    settings = {"max_message_size": 2048}

    def lose(self) -> None:
        """Break the connection."""
        self.stream.lose()

    def end(self) -> None:
        """End the stream in good order."""
        self.stream.end()

    def test_in_flight(self) -> None:
        """What runs may have been carried out, so it fails for good; the session is forgotten."""
        for break_off in (self.lose, self.end):
            inbox = Inbox()
            link = self.ready(inbox)
            _, taken, sent = self.ask(link, self.legacy(name="x"))
            sent.status(202)
            _, posted, sent = self.ask(link, self.legacy(name="y"))
            break_off()
            self.assertEqual((taken.ends, posted.ends), (1, 1))
            self.assertIs(taken.reason, Reason.UPSTREAM_FAILED)
            self.assertIs(posted.reason, Reason.UPSTREAM_FAILED)
            self.assertTrue(sent.aborted)
            self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
            late = Sink()
            link.request(self.legacy(name="z"), late)
            self.assertIs(late.reason, Reason.SESSION_NOT_FOUND)

    def test_not_sent_yet(self) -> None:
        """A request that still waited for ``initialized`` may be made again elsewhere."""
        link = self.session()
        link.notify("notifications/initialized", None)
        held = Sink()
        link.request(self.legacy(name="x"), held)
        self.stream.end()
        self.assertIs(held.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.wire.of("tools/call"), [])

    def test_no_reconnecting(self) -> None:
        """A session's stream is never opened again; the next session has its own."""
        self.ready()
        self.stream.event({"jsonrpc": "2.0", "method": "notifications/message"}, id="7", retry=1)
        self.stream.lose()
        self.clock.advance(1000)
        self.assertEqual(len([one for one in self.wire.requests if one.method == "GET"]), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        _, sink, sent = self.ask(self.ready(), self.legacy(name="x"))
        self.answer(sent)
        self.assertEqual(len(sink.answers), 1)
        self.assertNotIn("last-event-id", self.stream.headers)

    def test_too_large(self) -> None:
        """An event over the bound ends it; its calls are told the reason, those not sent not."""
        inbox = Inbox()
        link = self.session(inbox)
        _, running, _ = self.ask(link, self.legacy(name="x"))
        link.notify("notifications/initialized", None)
        held = Sink()
        link.request(self.legacy(name="y"), held)
        self.stream.receiver.data(b"data: " + b"x" * 2048)
        self.assertIs(running.reason, Reason.ANSWER_TOO_LARGE)
        self.assertIs(held.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        self.assertTrue(self.stream.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_half_an_event(self) -> None:
        """An event that was cut off is not delivered."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        body = b'data: {"jsonrpc":"2.0","id":%d,"result":{}}\n' % sent.message["id"]
        self.stream.receiver.data(body)
        self.stream.end()
        self.assertEqual((sink.answers, sink.reason), ([], Reason.UPSTREAM_FAILED))


class CloseTests(SseCase):
    """The end of a session from our side."""

    def test_close(self) -> None:
        """The stream is closed, which is all that this transport says; calls fail."""
        inbox = Inbox()
        link = self.ready(inbox)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        known = len(self.wire.requests)
        self.successResultOf(link.close())
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertTrue(sent.aborted and self.stream.aborted)
        self.successResultOf(link.close())
        link.notify("notifications/roots/list_changed", None)
        link.respond({"jsonrpc": "2.0", "id": 1, "result": {}})
        self.assertEqual((len(self.wire.requests), inbox.closings), (known, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """Stopping the upstream ends every session, those in their handshake too."""
        self.ready()
        opening = self.opening()
        self.locate()
        stopping = self.upstream.stop()
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.assertIs(self.failure(opening).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertTrue(all(one.aborted for one in self.wire.requests if one.method == "GET"))
        self.assertEqual((self.wire.closed, self.clock.getDelayedCalls()), (1, []))
        self.assertIs(self.failure(self.opening()).reason, Reason.UPSTREAM_UNAVAILABLE)

    def test_version_is_the_sessions(self) -> None:
        """No header tells the version: this transport has none."""
        link = self.ready()
        _, _, sent = self.ask(link, self.legacy(name="x"))
        self.assertEqual(sent.headers, {"accept": "*/*", "content-type": "application/json"})
        self.assertNotIn(LEGACY, str(sent.header_list))
