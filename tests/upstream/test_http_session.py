"""Tests of sessions with handshake-era servers."""

import gc
import weakref
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError

from mcpguard.config.settings import Secret
from mcpguard.errors import Reason
from mcpguard.upstream.link import InitializeRejected, Link, UpstreamFailure
from mcpguard.upstream.url_upstream import BOUNDS
from tests.upstream.http_doubles import LEGACY, HttpCase, Inbox, Sent, Sink

INITIALIZED = "notifications/initialized"


class HandshakeTests(HttpCase):
    """``initialize`` over HTTP."""

    def test_handshake(self) -> None:
        """The params go up as given, the result comes back as given."""
        opening = self.opening()
        sent = self.wire.last()
        self.assertEqual((sent.method, sent.message["method"]), ("POST", "initialize"))
        self.assertEqual(sent.message["params"]["clientInfo"], {"name": "t"})
        self.assertEqual(
            sent.headers,
            {
                "accept": "application/json, text/event-stream",
                "content-type": "application/json",
            },
        )
        result = {"protocolVersion": "2025-06-18", "capabilities": {"odd": 1}}
        sent.result(result, {"Mcp-Session-Id": "abc"})
        opened = self.successResultOf(opening)
        self.assertEqual((opened.result, opened.ephemeral), (result, False))

    def test_later_requests_name_session_and_version(self) -> None:
        """The negotiated version and the session id are on everything that follows."""
        link = self.ready()
        _, _, sent = self.ask(link, self.legacy(name="x"))
        link.notify("notifications/roots/list_changed", None)
        for one in (sent, self.wire.last("POST"), self.wire.last("GET")):
            self.assertEqual(one.headers["mcp-session-id"], "s1")
            self.assertEqual(one.headers["mcp-protocol-version"], LEGACY)
            self.assertNotIn("mcp-method", one.headers)

    def test_own_headers(self) -> None:
        """The configured headers are on everything too, the handshake and the end included."""
        self.upstream = self.build(headers={"X-Key": Secret("k", "test")})
        link = self.ready()
        self.ask(link, self.legacy(name="x"))
        link.notify("notifications/roots/list_changed", None)
        link.close()
        self.assertEqual({one.method for one in self.wire.requests}, {"POST", "GET", "DELETE"})
        self.assertEqual({one.headers["x-key"] for one in self.wire.requests}, {"k"})

    def test_nothing_left(self) -> None:
        """What belonged to a request that was answered is freed at once: no cycle holds it."""
        self.addCleanup(gc.enable)
        gc.disable()
        link = self.ready()
        for stream in (False, True):
            call, sink, sent = self.ask(link, self.legacy(name="x"))
            if stream:
                sent.events()
                sent.event_result({})
                sent.end()
            else:
                sent.result({})
            self.assertEqual(len(sink.answers), 1)
            left: list[Any] = [weakref.ref(call), weakref.ref(sent.receiver)]
            self.wire.requests.clear()
            # As the real wire does at the end of an answer.
            sent.receiver = cast("Any", None)
            del call, sink, sent
            self.assertEqual([one() for one in left], [None, None])

    def test_handshake_by_event_stream(self) -> None:
        """The answer may come as an event; what else is said so early is dropped."""
        inbox = Inbox()
        opening = self.opening(inbox)
        sent = self.wire.last()
        sent.events({"Mcp-Session-Id": "abc"})
        sent.event({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        sent.event_result({"protocolVersion": LEGACY})
        sent.end()
        self.successResultOf(opening)
        self.assertEqual((inbox.requests, self.books.strays), ([], ["early"]))

    def test_ephemeral(self) -> None:
        """A server without a session id keeps nothing: no stream, no DELETE."""
        link = self.session(session_id=None)
        link.notify(INITIALIZED, None)
        self.wire.last().status(202)
        self.successResultOf(link.close())
        self.assertEqual({one.method for one in self.wire.requests}, {"POST"})

    def test_ephemeral_is_told(self) -> None:
        """The opening says that there is nothing to close."""
        opening = self.opening()
        self.wire.last().result({"protocolVersion": LEGACY})
        self.assertTrue(self.successResultOf(opening).ephemeral)

    def test_refused_handshake(self) -> None:
        """The server's error to ``initialize`` is passed on, under any status."""
        for status in (200, 400):
            opening = self.opening()
            sent = self.wire.last()
            error = {"code": -32602, "message": "no"}
            sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, status)
            failure = self.failureResultOf(opening, InitializeRejected)
            self.assertEqual(failure.value.error, error)

    def test_unusable_answers(self) -> None:
        """Without a usable version or session id there is no session, and none is left behind."""
        for result, session_id in (
            ({}, "ok"),
            ({"protocolVersion": 5}, "ok"),
            ({"protocolVersion": "2025\r\nX: y"}, "ok"),
            ({"protocolVersion": LEGACY}, "white space"),
            ({"protocolVersion": LEGACY}, "é"),
            ({"protocolVersion": LEGACY}, "x" * 1025),
        ):
            opening = self.opening()
            self.wire.last().result(result, {"Mcp-Session-Id": session_id})
            failure = self.failureResultOf(opening, UpstreamFailure)
            self.assertIs(failure.value.reason, Reason.UPSTREAM_FAILED)
            left = self.wire.last().method
            self.assertEqual(left, "DELETE" if session_id == "ok" else "POST")

    def test_http_failures(self) -> None:
        """A status without JSON-RPC is a failure whose detail is the status only."""
        for status, detail in (
            (401, "upstream credentials"),
            (403, "upstream credentials"),
            (302, "redirects are not followed"),
            (404, "HTTP 404"),
            (500, "HTTP 500"),
            (202, "HTTP 202"),
        ):
            opening = self.opening()
            self.wire.last().status(status, {"Location": "http://10.0.0.1/"})
            failure = self.failureResultOf(opening, UpstreamFailure).value
            assert isinstance(failure, UpstreamFailure)
            self.assertIs(failure.reason, Reason.UPSTREAM_FAILED)
            self.assertIn(detail, failure.detail)
            self.assertNotIn("10.0.0.1", failure.detail)

    def test_given_up(self) -> None:
        """Whoever stops waiting leaves no connection and no session behind."""
        opening = self.opening()
        sent = self.wire.last()
        sent.events({"Mcp-Session-Id": "abc"})
        opening.cancel()
        self.failureResultOf(opening, UpstreamFailure, CancelledError)
        self.assertTrue(sent.aborted)
        farewell = self.wire.last()
        self.assertEqual((farewell.method, farewell.headers["mcp-session-id"]), ("DELETE", "abc"))
        farewell.status(200)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_timeout(self) -> None:
        """A server that never answers is given up; ``initialize`` itself is not cancelled."""
        opening = self.opening()
        self.clock.advance(60)
        failure = self.failureResultOf(opening, UpstreamFailure)
        self.assertIs(failure.value.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(len(self.wire.requests), 1)

    def test_bad_path(self) -> None:
        """A path that would climb opens nothing."""
        self.failureResultOf(self.opening(path="/%2e%2e"), UpstreamFailure)
        self.assertEqual(self.wire.requests, [])


class OrderTests(HttpCase):
    """``initialized`` is taken before any request of the session."""

    def test_requests_wait(self) -> None:
        """Requests made meanwhile are sent when the server has taken ``initialized``."""
        link = self.session()
        link.notify(INITIALIZED, None)
        first, second = Sink(), Sink()
        link.request(self.legacy(name="1"), first)
        call = link.request(self.legacy(name="2"), second)
        call.cancel("never mind")
        self.assertEqual(self.wire.of("tools/call"), [])
        self.wire.of(INITIALIZED)[0].status(202)
        self.wire.last("GET").events()
        self.assertEqual(
            [one.message["params"]["name"] for one in self.wire.of("tools/call")], ["1"]
        )
        self.assertEqual(self.wire.of("notifications/cancelled"), [])

    def test_requests_wait_no_longer_than_the_timeout(self) -> None:
        """A server that never answers ``initialized`` does not hold them for ever."""
        link = self.session()
        link.notify(INITIALIZED, None)
        sink = Sink()
        self.clock.advance(30)
        link.request(self.legacy(name="1"), sink)
        self.clock.advance(30)
        self.wire.last("GET").status(405)
        self.assertEqual(len(self.wire.of("tools/call")), 1)

    def test_failed_initialized(self) -> None:
        """If it fails the requests go on and find out for themselves."""
        link = self.session()
        link.notify(INITIALIZED, None)
        link.request(self.legacy(name="1"), Sink())
        self.wire.of(INITIALIZED)[0].lose()
        self.wire.last("GET").lose()
        self.assertEqual(len(self.wire.of("tools/call")), 1)

    def test_requests_wait_for_the_stream(self) -> None:
        """What a server asks aside of a request is not lost: first somebody reads its stream."""
        answers: tuple[Callable[[Sent], None], ...] = (
            Sent.events,
            Sent.lose,
            lambda sent: sent.status(405),
        )
        for answer in answers:
            sink = Sink()
            inbox = Inbox()
            link = self.session(inbox)
            link.notify(INITIALIZED, None)
            self.wire.last("POST").status(202)
            known = len(self.wire.of("tools/call"))
            link.request(self.legacy(name="1"), sink)
            self.assertEqual(len(self.wire.of("tools/call")), known)
            answer(self.wire.last("GET"))
            self.assertEqual(len(self.wire.of("tools/call")), known + 1)
            link.request(self.legacy(name="2"), Sink())
            self.assertEqual(len(self.wire.of("tools/call")), known + 2)

    def late(self) -> Link:
        """A session with a request, whose stream has no head."""
        link = self.session()
        link.notify(INITIALIZED, None)
        self.wire.of(INITIALIZED)[-1].status(202)
        link.request(self.legacy(name="1"), Sink())
        return link

    def test_late_streams(self) -> None:
        """A server that sends the stream's head with the first event is waited for once."""
        self.late()
        self.clock.advance(BOUNDS.listen_secs - 0.1)
        self.assertEqual(self.wire.of("tools/call"), [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.wire.of("tools/call")), 1)
        self.late()
        self.assertEqual(len(self.wire.of("tools/call")), 2)

    def test_streams_in_time_again(self) -> None:
        """Once a head has come in time the server is waited for again."""
        self.late()
        self.clock.advance(BOUNDS.listen_secs)
        self.late()
        self.wire.last("GET").events()
        self.late()
        self.assertEqual(len(self.wire.of("tools/call")), 2)

    def test_the_end_of_the_wait(self) -> None:
        """A session that ends meanwhile sends nothing any more, and leaves no timer."""
        link = self.late()
        link.close()
        self.wire.last("DELETE").status(200)
        self.assertEqual(self.wire.of("tools/call"), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_before_initialized(self) -> None:
        """What is asked before that (a ping) goes at once."""
        link = self.session()
        link.request(self.legacy("ping"), Sink())
        self.assertEqual(len(self.wire.of("ping")), 1)

    def test_200_for_a_notification(self) -> None:
        """Servers that answer 200 instead of 202, even with a body, are tolerated."""
        link = self.session()
        link.notify(INITIALIZED, None)
        self.wire.last().json({})
        self.assertEqual(self.wire.last().method, "GET")


class CallTests(HttpCase):
    """Requests of a session."""

    settings = {"timeout_secs": 10.0}

    def test_error_with_our_id(self) -> None:
        """A JSON-RPC error under 4xx with our id is the answer."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(id="c", name="x"))
        error = {"code": -32602, "message": "m"}
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, 400)
        self.assertEqual(sink.answers, [{"jsonrpc": "2.0", "id": "c", "error": error}])

    def test_transport_errors_are_failures(self) -> None:
        """What the server's transport says under no or a made-up id stays in the log."""
        for foreign in (None, "server-error"):
            link = self.ready()
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            error = {"code": -32600, "message": "Not Acceptable: /srv/secret"}
            sent.json({"jsonrpc": "2.0", "id": foreign, "error": error}, 406)
            self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
            self.assertNotIn("secret", sink.failures[0].detail)

    def test_server_request_on_the_stream(self) -> None:
        """A request of the server reaches the inbox with the call it belongs to."""
        inbox = Inbox()
        link = self.ready(inbox)
        call, sink, sent = self.ask(link, self.legacy(name="x"))
        ask = {"jsonrpc": "2.0", "id": 0, "method": "elicitation/create", "params": {}}
        sent.events()
        sent.event(ask)
        self.assertEqual(inbox.requests, [(ask, call)])
        link.respond({"jsonrpc": "2.0", "id": 0, "result": {"action": "decline"}})
        reply = self.wire.last("POST")
        self.assertEqual(reply.message["result"], {"action": "decline"})
        reply.status(202)
        sent.event_result({})
        self.assertEqual(sink.ends, 1)

    def test_notifications_on_the_stream(self) -> None:
        """Log messages on a call's stream go to that call only."""
        inbox = Inbox()
        link = self.ready(inbox)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
        sent.events()
        sent.event(note)
        self.assertEqual((sink.notifications, inbox.notifications), ([note], []))

    def test_concurrent_calls(self) -> None:
        """Calls that share a session and a client id keep their own answers."""
        link = self.ready()
        calls = [self.ask(link, self.legacy(id=1, name=str(n))) for n in range(10)]
        for number, (_, _, sent) in reversed(list(enumerate(calls))):
            sent.result({"n": number})
        results = [sink.answers[0]["result"]["n"] for _, sink, _ in calls]
        self.assertEqual(results, list(range(10)))

    def test_cancel(self) -> None:
        """Cancelling POSTs the notification with the gateway's id, and closes the stream."""
        link = self.ready()
        call, sink, sent = self.ask(link, self.legacy(id="mine", name="x"))
        call.cancel("user")
        notice = self.wire.last("POST")
        self.assertEqual(
            notice.message,
            {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": sent.message["id"], "reason": "user"},
            },
        )
        self.assertEqual((sent.aborted, sink.ends), (True, 0))
        self.assertEqual(self.books.results[-1], "cancelled")

    def test_cancel_before_it_left(self) -> None:
        """What never left needs no cancellation."""
        link = self.ready()
        call, _, sent = self.ask(link, self.legacy(name="x"))
        sent.sent = False
        call.cancel("user")
        self.assertEqual(self.wire.of("notifications/cancelled"), [])
        self.assertTrue(sent.aborted)

    def test_timeout_cancels(self) -> None:
        """A timeout tells the server, too."""
        link = self.ready()
        _, sink, _ = self.ask(link, self.legacy(name="x"))
        self.clock.advance(10)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(len(self.wire.of("notifications/cancelled")), 1)

    def test_foreign_progress(self) -> None:
        """Progress for a call of another session is dropped."""
        token = {"progressToken": "t"}
        first, second = self.ready(), self.ready()
        _, mine, sent = self.ask(first, self.legacy(name="x", _meta=token))
        _, others, other = self.ask(second, self.legacy(name="x", _meta=token))
        params = {"progressToken": other.message["id"], "progress": 1}
        sent.events()
        sent.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        self.assertEqual((mine.notifications, others.notifications), ([], []))
        self.assertEqual(self.books.strays, ["foreign"])

    def test_too_many_posts(self) -> None:
        """Notifications that the server does not take do not pile up without bound."""
        link = self.ready()
        for _ in range(150):
            link.notify("notifications/roots/list_changed", None)
        self.assertEqual(len(self.wire.of("notifications/roots/list_changed")), 100)
        self.assertEqual(self.books.strays, ["unsent"] * 50)
        self.clock.advance(10)
        link.notify("notifications/roots/list_changed", None)
        self.assertEqual(len(self.wire.of("notifications/roots/list_changed")), 101)


class ResumptionTests(HttpCase):
    """Streams the server cuts before the answer (2025-11-25, polling)."""

    settings = {"timeout_secs": 100.0}

    def cut(self) -> tuple[Link, Sink, Sent]:
        """A call whose stream was primed and then closed."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.events()
        sent.event(None, id="e1", retry=500)
        sent.end()
        return link, sink, sent

    def gets(self) -> list[Sent]:
        """The GETs that take a stream up again."""
        return [one for one in self.wire.requests if "last-event-id" in one.headers]

    def test_resumption(self) -> None:
        """After the server's ``retry`` a GET takes the stream up; the answer comes there."""
        _, sink, sent = self.cut()
        self.clock.advance(0.4)
        self.assertEqual(self.gets(), [])
        self.clock.advance(0.2)
        (again,) = self.gets()
        self.assertEqual(again.headers["last-event-id"], "e1")
        self.assertEqual(again.headers["mcp-session-id"], "s1")
        again.events()
        again.event({"jsonrpc": "2.0", "id": sent.message["id"], "result": {"late": True}}, id="e2")
        self.assertEqual(sink.answers[0]["result"], {"late": True})
        self.assertEqual(len(self.wire.of("tools/call")), 1)

    def test_polling_goes_on(self) -> None:
        """As long as something is said the server may poll us on and on, until the deadline."""
        _, sink, _ = self.cut()
        for turn in range(20):
            self.clock.advance(0.6)
            again = self.gets()[-1]
            self.assertEqual(len(self.gets()), turn + 1)
            again.events()
            again.event(None, id=f"p{turn}")
            again.end()
        self.clock.advance(100)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(len(self.wire.of("notifications/cancelled")), 1)

    def test_silent_resumptions_end(self) -> None:
        """Five in a row on which nothing comes are enough, each after a longer wait."""
        _, sink, _ = self.cut()
        waits = []
        for _ in range(5):
            before = self.clock.seconds()
            known = len(self.gets())
            while len(self.gets()) == known:
                self.clock.advance(0.5)
            waits.append(self.clock.seconds() - before)
            self.gets()[-1].events()
            self.gets()[-1].end()
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(waits, [0.5, 1.0, 2.0, 4.0, 8.0])

    def test_refused_resumption(self) -> None:
        """A status instead of a stream is the end of it."""
        for status in (400, 404, 405):
            _, sink, _ = self.cut()
            self.clock.advance(0.6)
            self.gets()[-1].status(status)
            self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)

    def test_reset_is_resumed(self) -> None:
        """A connection lost after the priming event is taken up like one that was closed."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.events()
        sent.event(None, id="e1")
        sent.lose()
        self.clock.advance(1)
        self.assertEqual((len(self.gets()), sink.ends), (1, 0))

    def test_without_an_id(self) -> None:
        """Without an event id nothing can be taken up, and nothing is ever sent again."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.events()
        sent.end()
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.clock.advance(99)
        self.assertEqual(len(self.wire.of("tools/call")), 1)

    def test_unusable_ids(self) -> None:
        """Event ids that are no header value, or too long, are not used."""
        for bad in ("e\x01", "é", "x" * 1025, ""):
            link = self.ready()
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            sent.events()
            sent.receiver.data(f"id: {bad}\ndata:\n\n".encode())
            sent.end()
            self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)

    def test_cancel_while_waiting(self) -> None:
        """A call that waits for its resumption can be cancelled."""
        link = self.ready()
        call, _, sent = self.ask(link, self.legacy(name="x"))
        sent.events()
        sent.event(None, id="e1", retry=500)
        sent.end()
        call.cancel("x")
        self.clock.advance(1)
        self.assertEqual(self.gets(), [])
        self.assertEqual(len(self.wire.of("notifications/cancelled")), 1)


class ForgottenTests(HttpCase):
    """The server knows the session no more."""

    def check(self, sent: Sent, sink: Sink, inbox: Inbox, link: Link) -> None:
        """All is over: this call, the others, the stream, and there is nothing to DELETE."""
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        self.assertTrue(self.wire.last("GET").aborted)
        late = Sink()
        link.request(self.legacy(name="y"), late)
        self.assertIs(late.reason, Reason.SESSION_NOT_FOUND)
        self.successResultOf(link.close())
        self.assertNotIn("DELETE", [one.method for one in self.wire.requests])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_404(self) -> None:
        """404 says so, whatever the body."""
        inbox = Inbox()
        link = self.ready(inbox)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        error = {"code": -32001, "message": "Session not found"}
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, 404)
        self.assertEqual(sink.ends, 1)
        self.check(sent, sink, inbox, link)

    def test_404_while_others_run(self) -> None:
        """What the server may have looked at before still ends as the server says: each with its
        answer, the same word, or, if that never comes, a failure that is no reason to repeat it.
        """
        inbox = Inbox()
        link = self.ready(inbox)
        asked = [self.ask(link, self.legacy(name=name)) for name in ("a", "b", "c", "d", "x")]
        (_, done, first), (_, same, second), (_, cut, third), (gone, given_up, _), (*_, told) = (
            asked
        )
        told.status(404)
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        self.assertEqual([one.ends for one in (done, same, cut, given_up)], [0] * 4)
        first.result({"ok": True})
        self.assertEqual(done.answers[0]["result"], {"ok": True})
        second.status(404)
        self.assertIs(same.reason, Reason.SESSION_NOT_FOUND)
        third.lose()
        self.assertIs(cut.reason, Reason.UPSTREAM_FAILED)
        gone.cancel("x")
        self.assertEqual((len(inbox.closings), given_up.ends), (1, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_they_end_with_the_link(self) -> None:
        """When it is closed, or the upstream stopped, nobody waits for them any more."""
        for stop in (False, True):
            link = self.ready()
            _, other, sent = self.ask(link, self.legacy(name="o"))
            self.ask(link, self.legacy(name="x"))[2].status(404)
            if stop:
                self.upstream.stop()
            else:
                link.close()
            self.assertIs(other.reason, Reason.UPSTREAM_UNAVAILABLE)
            self.assertTrue(sent.aborted)

    def test_they_have_their_time(self) -> None:
        """A server that does not answer them is not waited for longer than for any."""
        link = self.ready()
        _, other, _ = self.ask(link, self.legacy(name="o"))
        self.ask(link, self.legacy(name="x"))[2].status(404)
        self.clock.advance(60)
        self.assertIs(other.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_404_while_others_are_held(self) -> None:
        """A call that was never sent may be sent again on another session."""
        inbox = Inbox()
        link = self.session(inbox)
        link.notify("notifications/initialized", None)
        held = Sink()
        link.request(self.legacy(name="h"), held)
        self.wire.last("POST").status(404)
        self.assertIs(held.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])

    def test_400_of_the_typescript_examples(self) -> None:
        """server-everything, restarted, answers 400 under the request's own id."""
        for words in ("Bad Request: No valid session ID provided", "Server not initialized"):
            inbox = Inbox()
            link = self.ready(inbox)
            _, sink, sent = self.ask(link, self.legacy(name="x"))
            error = {"code": -32000, "message": words}
            sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, 400)
            self.check(sent, sink, inbox, link)

    def test_other_400(self) -> None:
        """Any other 400 leaves the session alive."""
        inbox = Inbox()
        link = self.ready(inbox)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.status(400)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(inbox.closings, [])

    def test_404_to_a_notification(self) -> None:
        """The news may come with anything that is posted."""
        inbox = Inbox()
        link = self.ready(inbox)
        link.notify("notifications/roots/list_changed", None)
        self.wire.last("POST").status(404)
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])

    def test_404_without_a_session(self) -> None:
        """A server that gave no session id has none to forget."""
        inbox = Inbox()
        link = self.session(inbox, session_id=None)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        sent.status(404)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(inbox.closings, [])


class CloseTests(HttpCase):
    """The end of a session from our side."""

    def test_close(self) -> None:
        """Calls fail, the stream is closed, the session DELETEd; then it has ended."""
        inbox = Inbox()
        link = self.ready(inbox)
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        closing = link.close()
        self.assertNoResult(closing)
        farewell = self.wire.last()
        self.assertEqual((farewell.method, farewell.headers["mcp-session-id"]), ("DELETE", "s1"))
        farewell.status(405)
        self.successResultOf(closing)
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertTrue(sent.aborted and self.wire.last("GET").aborted)
        self.assertEqual((inbox.closings, self.clock.getDelayedCalls()), ([], []))

    def test_deaf_server(self) -> None:
        """A server that does not answer the DELETE is not waited for."""
        closing = self.ready().close()
        self.clock.advance(3)
        self.successResultOf(closing)
        self.assertTrue(self.wire.last().aborted)

    def test_broken_delete(self) -> None:
        """Nor is one that is gone."""
        closing = self.ready().close()
        self.wire.last().lose(Reason.UPSTREAM_UNAVAILABLE)
        self.successResultOf(closing)

    def test_close_twice(self) -> None:
        """A second close does nothing."""
        link = self.ready()
        link.close()
        self.successResultOf(link.close())
        link.notify("notifications/roots/list_changed", None)
        self.assertEqual(self.wire.last().method, "DELETE")

    def test_stop_closes_sessions(self) -> None:
        """Stopping the upstream DELETEs every session first."""
        self.ready()
        self.ready()
        stopping = self.upstream.stop()
        farewells = [one for one in self.wire.requests if one.method == "DELETE"]
        self.assertEqual((len(farewells), self.wire.closed), (2, 0))
        for one in farewells:
            one.status(200)
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.assertEqual((self.wire.closed, self.clock.getDelayedCalls()), (1, []))


class StreamTests(HttpCase):
    """The session's own event stream."""

    def note(self, **params: Any) -> dict[str, Any]:
        """A notification."""
        return {"jsonrpc": "2.0", "method": "notifications/message", "params": params}

    def gets(self) -> list[Sent]:
        """Every GET so far."""
        return [one for one in self.wire.requests if one.method == "GET"]

    def test_inbox(self) -> None:
        """What is said there belongs to no call."""
        inbox = Inbox()
        self.ready(inbox)
        ask = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}
        self.wire.last("GET").event(self.note(a=1))
        self.wire.last("GET").event(ask)
        taken_back = {"requestId": "q"}
        gone = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": taken_back}
        self.wire.last("GET").event(gone)
        self.assertEqual(inbox.notifications, [self.note(a=1), gone])
        self.assertEqual(inbox.requests, [(ask, None)])

    def test_progress_finds_its_call(self) -> None:
        """Servers that send progress here (TypeScript, without a related id) are understood."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x", _meta={"progressToken": "t"}))
        params = {"progressToken": sent.message["id"], "progress": 1}
        self.wire.last("GET").event(
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        )
        self.assertEqual(sink.notifications[0]["params"]["progressToken"], "t")

    def test_answers_do_not_count_here(self) -> None:
        """An answer on the session's stream answers nothing."""
        link = self.ready()
        _, sink, sent = self.ask(link, self.legacy(name="x"))
        self.wire.last("GET").event({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}})
        self.assertEqual((sink.ends, self.books.strays), (0, ["foreign"]))

    def test_none(self) -> None:
        """A server without a stream says 405 (or 404, 400) and is not asked again."""
        for status in (405, 404, 400, 501):
            inbox = Inbox()
            link = self.session(inbox)
            link.notify(INITIALIZED, None)
            self.wire.last("POST").status(202)
            known = len(self.gets())
            self.wire.last("GET").status(status)
            self.clock.advance(1000)
            self.assertEqual((len(self.gets()), inbox.closings), (known, []))

    def test_again(self) -> None:
        """A stream that ends is opened again where it ended, after the server's ``retry``."""
        inbox = Inbox()
        self.ready(inbox)
        self.wire.last("GET").event(self.note(), id="7", retry=2000)
        self.wire.last("GET").end()
        self.clock.advance(1.9)
        self.assertEqual(len(self.gets()), 1)
        self.clock.advance(0.2)
        again = self.gets()[-1]
        self.assertEqual(again.headers["last-event-id"], "7")
        again.events()
        again.event(self.note(b=2))
        self.assertEqual(inbox.notifications[-1], self.note(b=2))

    def test_absurd_retry(self) -> None:
        """The server's ``retry`` is believed between a tenth of a second and thirty."""
        self.ready()
        self.wire.last("GET").event(self.note(), retry=999_999_999)
        self.wire.last("GET").end()
        self.clock.advance(30)
        self.assertEqual(len(self.gets()), 2)
        self.wire.last("GET").events()
        self.wire.last("GET").event(self.note(), retry=0)
        self.wire.last("GET").end()
        self.clock.advance(0.05)
        self.assertEqual(len(self.gets()), 2)
        self.clock.advance(0.05)
        self.assertEqual(len(self.gets()), 3)

    def test_gives_up(self) -> None:
        """Five tries in a row with nothing heard are enough."""
        self.ready()
        for _ in range(20):
            self.wire.last("GET").lose()
            self.clock.advance(60)
        self.assertEqual(len(self.gets()), 6)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_quiet_streams_go_on(self) -> None:
        """A stream that some proxy cuts every minute, with nothing said, is opened for ever."""
        self.ready()
        for turn in range(20):
            self.assertEqual(len(self.gets()), turn + 1)
            self.clock.advance(60)
            self.wire.last("GET").end()
            self.clock.advance(1)
            self.wire.last("GET").events()

    def test_conflict(self) -> None:
        """409 (the server still sees the old stream) is tried again."""
        self.ready()
        self.wire.last("GET").lose()
        self.clock.advance(1)
        self.wire.last("GET").status(409)
        self.clock.advance(2)
        self.assertEqual(len(self.gets()), 3)

    def test_400_after_it_worked(self) -> None:
        """That may mean a restart: a ping finds out whether the server knows the session."""
        for known in (True, False):
            inbox = Inbox()
            self.ready(inbox)
            self.wire.last("GET").events()
            self.wire.last("GET").end()
            self.clock.advance(2)
            self.wire.last("GET").status(400)
            (ping,) = self.wire.of("ping")[-1:]
            if known:
                ping.result({})
            else:
                words = "Bad Request: No valid session ID provided"
                ping.json({"jsonrpc": "2.0", "error": {"code": -32000, "message": words}}, 400)
            self.assertEqual(len(inbox.closings), 0 if known else 1)
            self.clock.advance(600)
            self.assertEqual(len(self.wire.of("ping")), 1 if known else 2)

    def test_404_after_it_worked(self) -> None:
        """404 to a stream that once worked means the session is gone."""
        inbox = Inbox()
        self.ready(inbox)
        self.wire.last("GET").end()
        self.clock.advance(1)
        self.wire.last("GET").status(404)
        self.assertEqual([one.reason for one in inbox.closings], [Reason.SESSION_NOT_FOUND])
        self.assertEqual(self.clock.getDelayedCalls(), [])
