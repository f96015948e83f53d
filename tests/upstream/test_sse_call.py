"""Tests of the requests of a session over HTTP with SSE, and of what its server says."""

from typing import Any

from mcpguard.config.settings import Secret
from mcpguard.errors import Reason
from mcpguard.upstream.link import Link, Message
from tests.upstream.http_doubles import Inbox, Sent, Sink
from tests.upstream.sse_doubles import POSTED_AT, SseCase

KIB = b"x" * 1024


class AnswerTests(SseCase):
    """Requests are posted, answers come on the stream."""

    def test_answer(self) -> None:
        """Under the gateway's id out, under the client's own back, once."""
        link = self.ready()
        for client_id in (1, "1", 1):
            _, sink, sent = self.ask(link, self.legacy(id=client_id, name="x"))
            self.assertEqual(sent.url, POSTED_AT)
            self.assertIs(type(sent.message["id"]), int)
            sent.status(202)
            self.assertEqual(sink.ends, 0)
            self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {"a": 1}})
            answer = {"jsonrpc": "2.0", "id": client_id, "result": {"a": 1}}
            self.assertEqual(sink.answers, [answer])
            self.assertIs(type(sink.answers[0]["id"]), type(client_id))
        self.assertEqual(self.books.results[1:], ["success"] * 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_any_order(self) -> None:
        """Many at once under one client id, answered backwards."""
        link = self.ready()
        asked = [self.ask(link, self.legacy(id=1, name=f"t{n}")) for n in range(20)]
        for _, _, sent in reversed(asked):
            self.answer(sent, {"name": sent.message["params"]["name"]})
        names = [sink.answers[0]["result"]["name"] for _, sink, _ in asked]
        self.assertEqual(names, [f"t{n}" for n in range(20)])

    def test_error(self) -> None:
        """A JSON-RPC error is an answer."""
        _, sink, sent = self.ask(self.ready(), self.legacy(name="x"))
        sent.status(202)
        error = {"code": -32601, "message": "no"}
        self.say({"jsonrpc": "2.0", "id": sent.message["id"], "error": error})
        self.assertEqual(sink.answers[0]["error"], error)
        self.assertEqual(self.books.upstreams[-1], ("remote", "sse", "error"))

    def test_broken(self) -> None:
        """What names a request and is no response ends the request."""
        _, sink, sent = self.ask(self.ready(), self.legacy(name="x"))
        sent.status(202)
        self.say({"jsonrpc": "2.0", "id": sent.message["id"]})
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)

    def test_progress(self) -> None:
        """Progress finds its request and carries the client's token."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x", _meta={"progressToken": "t"}))
        token = sent.message["params"]["_meta"]["progressToken"]
        self.assertIs(type(token), int)
        sent.status(202)
        self.say(progress(token))
        self.assertEqual(sink.notifications[0]["params"], {"progressToken": "t", "progress": 1})

    def test_answers_to_others(self) -> None:
        """Nobody is answered by another session's server, nor twice, late, or unasked."""
        first = self.ready()
        stream = self.stream
        _, mine, sent = self.ask(first, self.legacy(name="x", _meta={"progressToken": 1}))
        gid = sent.message["id"]
        _, theirs, other = self.ask(self.ready(), self.legacy(name="y"))
        for key in (gid, str(gid), float(gid), True, None, 999, [gid]):
            self.say({"jsonrpc": "2.0", "id": key, "result": {}})
        self.say({"jsonrpc": "2.0", "result": {}})
        self.say(progress(gid))
        self.assertEqual((mine.ends, mine.notifications, theirs.ends), (0, [], 0))
        unknown = ["unknown"] * 3
        self.assertEqual(
            self.books.strays,
            ["foreign", *unknown, "unaddressed", "unknown", "unknown", "malformed", "foreign"],
        )
        stream.event({"jsonrpc": "2.0", "id": gid, "result": {}})
        stream.event({"jsonrpc": "2.0", "id": gid, "result": {}})
        self.assertEqual((len(mine.answers), self.books.strays[-1]), (1, "late"))
        self.answer(other)
        self.assertEqual(len(theirs.answers), 1)

    def test_nonsense(self) -> None:
        """Events that are no message, or of another type, are dropped alone."""
        _, sink, sent = self.ask(self.ready(), self.legacy(name="x"))
        for data in (
            b"data: nonsense\n\n",
            b"data: []\n\n",
            b'event: x\ndata: {"jsonrpc":"2.0"}\n\n',
        ):
            self.stream.receiver.data(data)
        self.answer(sent)
        self.assertEqual(len(sink.answers), 1)

    def test_held_until_initialized(self) -> None:
        """A later POST could overtake ``initialized``, so it waits until that was taken."""
        link = self.session()
        link.notify("notifications/initialized", None)
        notice = self.wire.last("POST")
        sink = Sink()
        link.request(self.legacy(name="x"), sink)
        self.assertEqual(self.wire.of("tools/call"), [])
        notice.status(202)
        (sent,) = self.wire.of("tools/call")
        self.answer(sent)
        self.assertEqual(len(sink.answers), 1)


class PostTests(SseCase):
    """What the server says to a POST."""

    settings = {"max_message_size": 4096}

    def test_accepted(self) -> None:
        """202 and its kin say only that it was taken; a body is not looked at."""
        link = self.ready()
        for status in (200, 202, 204):
            for kind in ("application/json", "text/plain", "text/event-stream"):
                _, sink, sent = self.ask(link, self.legacy(name="x"))
                gid = sent.message["id"]
                body = b'{"jsonrpc":"2.0","id":%d,"result":{"wrong":1}}' % gid
                if kind == "text/event-stream":
                    body = b"data: " + body + b"\n\n"
                sent.head(status, {"Content-Type": kind})
                sent.receiver.data(body)
                sent.end()
                self.assertEqual(sink.ends, 0, (status, kind))
                self.say({"jsonrpc": "2.0", "id": gid, "result": {}})
                self.assertEqual(sink.answers[0]["result"], {})

    def test_unread(self) -> None:
        """Of such a body 64 KiB are read, for two seconds; then its connection is cut."""
        link = self.ready()
        for kind in ("application/json", "text/plain"):
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            sent.head(200, {"Content-Type": kind})
            for _ in range(64):
                sent.receiver.data(KIB)
            self.assertFalse(sent.aborted)
            sent.receiver.data(b"x")
            self.assertTrue(sent.aborted)
            self.assertEqual(sink.ends, 0)
            self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
            self.assertEqual(len(sink.answers), 1)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.head(202)
        self.clock.advance(2)
        self.assertEqual((sent.aborted, sink.ends), (True, 0))

    def test_broken_after_202(self) -> None:
        """Once taken, what becomes of the POST's connection does not matter."""
        _, sink, sent = self.ask(self.ready(), self.legacy(name="x"))
        sent.head(202)
        sent.lose()
        self.assertEqual(sink.ends, 0)
        self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
        self.assertEqual(len(sink.answers), 1)

    def test_at_once(self) -> None:
        """A carrier may give the answer while the POST is still being handed to it."""
        link = self.ready()
        send = self.wire.send
        for end in (Sent.end, Sent.lose):

            def at_once(*given: Any, end: Any = end) -> Sent:
                sent = send(*given)
                sent.head(200, {"Content-Type": "application/json"})
                gid = sent.message["id"]
                sent.receiver.data(b'{"jsonrpc":"2.0","id":%d,"result":{"wrong":1}}' % gid)
                end(sent)
                return sent

            self.patch(self.wire, "send", at_once)
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            self.assertEqual(sink.ends, 0)
            self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
            self.assertEqual(sink.answers[0]["result"], {})

    def test_broken_before(self) -> None:
        """A POST whose connection breaks may have been carried out, and is not sent again."""
        inbox = Inbox()
        _, sink, sent = self.ask(self.ready(inbox), self.legacy(name="x"))
        sent.lose()
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual((len(self.wire.of("tools/call")), inbox.closings), (1, []))

    def test_statuses(self) -> None:
        """Any other status fails this request only."""
        inbox = Inbox()
        link = self.ready(inbox)
        for status, headers, reason, words in (
            (400, {}, Reason.UPSTREAM_FAILED, "HTTP 400"),
            (401, {}, Reason.UPSTREAM_FAILED, "upstream credentials"),
            (307, {"Location": "http://evil/"}, Reason.UPSTREAM_FAILED, "redirects"),
            (413, {}, Reason.UPSTREAM_FAILED, "HTTP 413"),
            (500, {}, Reason.UPSTREAM_FAILED, "HTTP 500"),
            (503, {"Retry-After": "7"}, Reason.UPSTREAM_BUSY, "HTTP 503"),
        ):
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            sent.status(status, headers)
            self.assertIs(sink.reason, reason)
            self.assertIn(words, sink.failures[0].detail)
        self.assertEqual(sink.failures[0].retry_after, 7.0)
        _, sink, sent = self.ask(link, self.legacy(name="y"))
        self.answer(sent)
        self.assertEqual((len(sink.answers), inbox.closings), (1, []))
        self.assertEqual({one.url for one in self.posts()}, {POSTED_AT})

    def test_error_under_a_status(self) -> None:
        """A JSON-RPC error under the request's id is its answer, as over Streamable HTTP."""
        _, sink, sent = self.ask(self.ready(), self.legacy(id="c", name="x"))
        error = {"code": -32602, "message": "bad"}
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, 400)
        self.assertEqual(sink.answers, [{"jsonrpc": "2.0", "id": "c", "error": error}])

    def test_answered_first(self) -> None:
        """A status that comes after the answer changes nothing."""
        for status in (202, 404, 500):
            inbox = Inbox()
            _, sink, sent = self.ask(self.ready(inbox), self.legacy(name="x"))
            self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
            sent.status(status)
            self.assertEqual((len(sink.answers), sink.failures, inbox.closings), (1, [], []))

    def test_own_size(self) -> None:
        """A request over the bound is not sent."""
        _, sink, _ = self.ask(self.ready(), self.legacy(name="x" * 4096))
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.wire.of("tools/call"), [])


class ForgottenTests(SseCase):
    """The server knows the session no more, though the stream is still open."""

    def check(self, inbox: Inbox, link: Link, other: Sink) -> None:
        """All is over: the stream is closed, other requests have failed for good."""
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        self.assertTrue(self.stream.aborted)
        self.assertIs(other.reason, Reason.UPSTREAM_FAILED)
        late = Sink()
        link.request(self.legacy(name="y"), late)
        self.assertIs(late.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def refuse(self, sent: Sent, status: int, words: str) -> None:
        """Refuse in plain words."""
        sent.head(status, {"Content-Type": "text/plain"})
        sent.receiver.data(words.encode())
        sent.end()

    def test_plain_words(self) -> None:
        """404 of Python's SDK, 400 of servers written after the examples."""
        for status, words in (
            (404, "Could not find session"),
            (404, ""),
            (400, "Invalid session ID"),
            (400, "No transport found for sessionId"),
        ):
            inbox = Inbox()
            link = self.ready(inbox)
            _, other, accepted = self.ask(link, self.legacy(name="o"))
            accepted.status(202)
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            self.refuse(sent, status, words)
            self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
            self.check(inbox, link, other)

    def test_json_words(self) -> None:
        """The same in JSON."""
        inbox = Inbox()
        link = self.ready(inbox)
        _, other, _ = self.ask(link, self.legacy(name="o"))
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        error = {"code": -32000, "message": "Bad Request: No such Session"}
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, 400)
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.check(inbox, link, other)

    def test_notification(self) -> None:
        """The news may come with anything that is posted."""
        for status, words in ((404, ""), (400, "session_id is required")):
            inbox = Inbox()
            link = self.ready(inbox)
            _, other, _ = self.ask(link, self.legacy(name="o"))
            link.notify("notifications/roots/list_changed", None)
            self.refuse(self.wire.last("POST"), status, words)
            self.check(inbox, link, other)

    def test_other_words(self) -> None:
        """Any other 400 leaves the session alive, also where the word comes late in a page."""
        inbox = Inbox()
        link = self.ready(inbox)
        for words in ("Could not parse message", "x" * 200 + "session"):
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            self.refuse(sent, 400, words)
            self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
            self.assertEqual(sink.failures[0].detail, "HTTP 400")
        self.assertEqual(inbox.closings, [])


class DeadlineTests(SseCase):
    """How long a request may take."""

    settings = {"timeout_secs": 10.0, "max_timeout_secs": 25.0}

    def cancellations(self) -> list[Message]:
        """What the server was told to cancel."""
        return [one.message["params"] for one in self.wire.of("notifications/cancelled")]

    def test_timeout(self) -> None:
        """Taken or not: without an answer it fails in time, and the server is told."""
        link = self.ready()
        for taken in (True, False):
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            if taken:
                sent.status(202)
            self.clock.advance(10)
            self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)
            told = {"requestId": sent.message["id"], "reason": "timeout"}
            self.assertEqual(self.cancellations()[-1], told)
            self.assertEqual(self.wire.last("POST").url, POSTED_AT)
            self.wire.last("POST").status(202)
            self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
            self.assertEqual((sink.ends, self.books.strays[-1]), (1, "late"))
        _, sink, sent = self.ask(link, self.legacy(name="y"))
        self.answer(sent)
        self.assertEqual(len(sink.answers), 1)

    def test_progress(self) -> None:
        """Progress starts the time anew, but not the time in all."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x", _meta={"progressToken": 1}))
        sent.status(202)
        for _ in range(3):
            self.clock.advance(8)
            self.say(progress(sent.message["id"]))
        self.assertEqual((sink.ends, len(sink.notifications)), (0, 3))
        self.clock.advance(1)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)

    def test_held(self) -> None:
        """While a person is asked the time stands still."""
        call, sink, sent = self.ask(self.ready(), self.legacy(name="x"))
        sent.status(202)
        call.hold()
        self.clock.advance(20)
        call.release()
        self.clock.advance(4)
        self.assertEqual(sink.ends, 0)
        self.clock.advance(1)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)

    def test_cancel(self) -> None:
        """The server is told by a notification, and the session goes on."""
        inbox = Inbox()
        link = self.ready(inbox)
        call, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.status(202)
        call.cancel("enough")
        call.cancel("again")
        self.assertEqual(
            self.cancellations(), [{"requestId": sent.message["id"], "reason": "enough"}]
        )
        self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
        self.assertEqual((sink.ends, inbox.closings, self.stream.aborted), (0, [], False))
        self.assertEqual(self.books.results[-1], "cancelled")

    def test_unheard_notification(self) -> None:
        """A notification whose POST is not answered is given up, and holds nobody else up."""
        link = self.session()
        link.notify("notifications/initialized", None)
        notice = self.wire.last("POST")
        self.clock.advance(5)
        sink = Sink()
        link.request(self.legacy(name="x"), sink)
        self.clock.advance(5)
        self.assertTrue(notice.aborted)
        (sent,) = self.wire.of("tools/call")
        self.answer(sent)
        self.assertEqual(len(sink.answers), 1)


class ServerTests(SseCase):
    """What the server says by itself, and what is posted to that."""

    def test_inbox(self) -> None:
        """Requests and notifications reach the session; which call they belong to is not told."""
        inbox = Inbox()
        link = self.ready(inbox)
        self.ask(link, self.legacy(name="x"))
        asked = {"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": {}}
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": 1}}
        gone = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": "q"},
        }
        for message in (asked, note, gone):
            self.say(message)
        self.assertEqual(inbox.requests, [(asked, None)])
        self.assertEqual(inbox.notifications, [note, gone])

    def test_respond(self) -> None:
        """The client's response is posted to the endpoint, under the server's id."""
        link = self.ready()
        answer = {"jsonrpc": "2.0", "id": "q", "result": {"roots": []}}
        link.respond(answer)
        sent = self.wire.last("POST")
        self.assertEqual((sent.url, sent.message), (POSTED_AT, answer))

    def test_malformed(self) -> None:
        """What looks like a request and is none is dropped."""
        inbox = Inbox()
        self.ready(inbox)
        self.say({"jsonrpc": "2.0", "id": [], "method": "roots/list"})
        self.say({"jsonrpc": "2.0", "id": 1, "method": 5})
        self.say({"jsonrpc": "2.0", "method": "notifications/x", "params": []})
        self.assertEqual(self.books.strays, ["malformed"] * 3)
        self.assertEqual((inbox.requests, inbox.notifications), ([], []))

    def test_bounded(self) -> None:
        """A hundred notifications and responses may be on their way at once."""
        link = self.ready()
        known = len(self.posts())
        for _ in range(120):
            link.notify("notifications/roots/list_changed", None)
        self.assertEqual(len(self.posts()) - known, 100)
        self.assertEqual(self.books.strays, ["unsent"] * 20)
        self.posts()[-1].status(202)
        link.notify("notifications/roots/list_changed", None)
        self.assertEqual(len(self.posts()) - known, 101)


class LimitTests(SseCase):
    """How many at once, and whose credential."""

    settings = {
        "max_concurrency": 2,
        "headers": {"Authorization": Secret("Bearer hush")},
    }

    def test_concurrency(self) -> None:
        """Above ``max_concurrency`` a request is refused at once, over all sessions."""
        first, second = self.ready(), self.ready()
        call, _, _ = self.ask(first, self.legacy(name="x"))
        self.ask(second, self.legacy(name="x"))
        _, sink, _ = self.ask(first, self.legacy(name="y"))
        self.assertIs(sink.reason, Reason.UPSTREAM_BUSY)
        busy = self.failure(self.opening())
        self.assertEqual((busy.reason, busy.retry_after), (Reason.UPSTREAM_BUSY, 1.0))
        self.assertEqual(len([one for one in self.wire.requests if one.method == "GET"]), 2)
        call.cancel("x")
        _, sink, sent = self.ask(first, self.legacy(name="y"))
        self.assertEqual(sent.message["params"]["name"], "y")

    def test_lost_streams_give_their_places_back(self) -> None:
        """Requests that end with their stream are not counted for ever."""
        for _ in range(5):
            link = self.ready()
            self.ask(link, self.legacy(name="x"))
            self.stream.lose()
        self.ask(self.ready(), self.legacy(name="x"))
        self.assertEqual(len(self.wire.of("tools/call")), 6)

    def test_credential(self) -> None:
        """The upstream's own is on the stream and on every POST; no repr shows it."""
        link = self.ready()
        call, _, _ = self.ask(link, self.legacy(name="x"))
        link.respond({"jsonrpc": "2.0", "id": 1, "result": {}})
        self.assertEqual({one.method for one in self.wire.requests}, {"GET", "POST"})
        for one in self.wire.requests:
            self.assertEqual(one.headers["authorization"], "Bearer hush")
        for thing in (self.upstream, link, call, self.stream.receiver, self.upstream.__dict__):
            self.assertNotIn("hush", repr(thing))
            self.assertNotIn("session_id", repr(thing))


def progress(token: Any) -> Message:
    """Progress under a token."""
    params = {"progressToken": token, "progress": 1}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
