"""Tests of stateless links (2026-07-28)."""

import json
from typing import Any

from hypothesis import given, settings, strategies

from mcpguard.errors import Reason
from mcpguard.upstream.correlation import PROGRESS_BURST
from mcpguard.upstream.link import Outbound
from tests.upstream.http_doubles import EVENTS, META, MODERN, HttpCase, Sink

PROGRESS = "notifications/progress"


def progress(token: Any, **more: Any) -> dict[str, Any]:
    """A progress notification."""
    params = {"progressToken": token, "progress": 1, **more}
    return {"jsonrpc": "2.0", "method": PROGRESS, "params": params}


class RequestTests(HttpCase):
    """What goes up, and how an answer comes back."""

    settings = {"url": "http://127.0.0.1:9/base?tenant=7"}

    def test_headers_are_rebuilt_from_the_body(self) -> None:
        """The headers name version, method and tool of the body, and nothing of the client's."""
        link = self.stateless()
        _, _, sent = self.ask(link, self.modern(name="echo", arguments={}))
        self.assertEqual(
            sent.headers,
            {
                "accept": "application/json, text/event-stream",
                "content-type": "application/json",
                "mcp-protocol-version": MODERN,
                "mcp-method": "tools/call",
                "mcp-name": "echo",
            },
        )
        self.assertEqual((sent.method, sent.url), ("POST", "http://127.0.0.1:9/base?tenant=7"))

    def test_names_that_no_header_can_carry(self) -> None:
        """Names beyond plain ASCII go up in Base64, whatever the client's header was."""
        for method, params, name in (
            ("prompts/get", {"name": "grüß"}, "=?base64?Z3LDvMOf?="),
            ("resources/read", {"uri": " a\nb"}, "=?base64?IGEKYg==?="),
            ("tools/call", {"name": "=?base64?eA==?="}, "=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
        ):
            outbound = Outbound(1, method, {**params, "_meta": META}, MODERN, "api_key:a")
            _, _, sent = self.ask(self.stateless(), outbound)
            self.assertEqual(sent.headers["mcp-method"], method)
            self.assertEqual(sent.headers["mcp-name"], name)

    def test_param_headers_pass_and_others_do_not(self) -> None:
        """Of the outbound headers only ``Mcp-Param-*`` go up."""
        outbound = Outbound(
            1,
            "tools/call",
            {"name": "x", "_meta": META},
            MODERN,
            "api_key:a",
            headers=(("Mcp-Param-Region", "eu"), ("Authorization", "Bearer client")),
        )
        _, _, sent = self.ask(self.stateless(), outbound)
        self.assertEqual(sent.headers["mcp-param-region"], "eu")
        self.assertNotIn("authorization", sent.headers)

    def test_ids_and_tokens_are_the_gateways(self) -> None:
        """The server sees neither the client's id nor its token, and the client no other."""
        link = self.stateless()
        outbound = self.modern(id="mine", name="x", _meta={**META, "progressToken": "tok"})
        _, sink, sent = self.ask(link, outbound)
        gid = sent.message["id"]
        self.assertIs(type(gid), int)
        self.assertEqual(sent.message["params"]["_meta"]["progressToken"], gid)
        sent.events()
        sent.event(progress(gid))
        sent.event_result({"ok": True})
        self.assertEqual(sink.notifications[0]["params"]["progressToken"], "tok")
        self.assertEqual(sink.answers, [{"jsonrpc": "2.0", "id": "mine", "result": {"ok": True}}])
        self.assertEqual(self.books.upstreams, [("remote", "http", "success")])

    def test_json_answer(self) -> None:
        """A JSON body is the answer, unknown members and all."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.result({"resultType": "complete", "odd": [1, None]})
        self.assertEqual(sink.answers[0]["result"]["odd"], [1, None])

    def test_remainder(self) -> None:
        """A remainder goes behind the configured path, before its query."""
        _, _, sent = self.ask(self.stateless("/fs/a%20b"), self.modern(name="x"))
        self.assertEqual(sent.url, "http://127.0.0.1:9/base/fs/a%20b?tenant=7")

    def test_bad_remainder(self) -> None:
        """A remainder that would climb is refused here too."""
        failed = self.failureResultOf(self.upstream.stateless("p", "/../admin"))
        self.assertIs(failed.value.reason, Reason.UPSTREAM_FAILED)

    def test_error_statuses_carry_answers(self) -> None:
        """A JSON-RPC error under HTTP 400 or 404 is the server's answer (requirements 1.2)."""
        for status, code in ((400, -32602), (404, -32601), (400, -32020), (500, -32603)):
            _, sink, sent = self.ask(self.stateless(), self.modern(id="c", name="x"))
            error = {"code": code, "message": "m", "data": {"d": 1}}
            sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "error": error}, status)
            self.assertEqual(sink.answers, [{"jsonrpc": "2.0", "id": "c", "error": error}])
        self.assertEqual(set(self.books.results), {"error"})

    def test_unreadable_to_the_server(self) -> None:
        """An error without id under a 4xx status still answers the request it came for."""
        _, sink, sent = self.ask(self.stateless(), self.modern(id="c", name="x"))
        sent.json({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "m"}}, 400)
        self.assertEqual(sink.answers[0]["id"], "c")

    def test_result_under_an_error_status(self) -> None:
        """A result under an error status is no answer."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.json({"jsonrpc": "2.0", "id": sent.message["id"], "result": {}}, 500)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)

    def test_notifications_and_responses_stay(self) -> None:
        """Stateless servers get neither: nothing is sent."""
        link = self.stateless()
        link.notify("notifications/cancelled", {"requestId": 1})
        link.respond({"jsonrpc": "2.0", "id": 1, "result": {}})
        self.assertEqual(self.wire.requests, [])


class StreamTests(HttpCase):
    """What may be said on a request's stream."""

    def test_log_messages_belong_to_the_stream(self) -> None:
        """A notification without a token belongs to the request whose stream it came on."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hi"}}
        sent.event(note)
        self.assertEqual(sink.notifications, [note])

    def test_server_requests_are_dropped(self) -> None:
        """The era has no requests of servers: dropped and counted."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        sent.event({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}})
        self.assertEqual((sink.notifications, self.books.strays), ([], ["request"]))

    def test_foreign_answer(self) -> None:
        """An answer counts on the stream of its own request only."""
        link = self.stateless()
        _, first, one = self.ask(link, self.modern(id=1, name="x"))
        _, second, two = self.ask(link, self.modern(id=1, name="y"))
        one.events()
        one.event({"jsonrpc": "2.0", "id": two.message["id"], "result": {"for": "two"}})
        self.assertEqual((first.ends, second.ends), (0, 0))
        two.result({"for": "two"})
        one.event_result({"for": "one"})
        self.assertEqual(first.answers[0]["result"], {"for": "one"})
        self.assertEqual(second.answers[0]["result"], {"for": "two"})
        self.assertEqual(self.books.strays, ["foreign"])

    def test_foreign_progress(self) -> None:
        """Progress of another caller's request on this stream is dropped."""
        outbound = self.modern(name="x", _meta={**META, "progressToken": 1})
        _, first, one = self.ask(self.stateless(), outbound)
        _, second, two = self.ask(self.stateless(), outbound)
        one.events()
        one.event(progress(two.message["id"]))
        self.assertEqual((first.notifications, second.notifications), ([], []))

    def test_after_the_answer(self) -> None:
        """What follows the answer is read, dropped, and cut if it does not end."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        sent.event_result({})
        sent.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        self.assertEqual((sink.ends, sink.notifications), (1, []))
        self.assertFalse(sent.aborted)
        self.clock.advance(2.0)
        self.assertTrue(sent.aborted)

    def test_ended_stream_frees_its_timer(self) -> None:
        """A stream that ends after its answer leaves nothing running."""
        _, _, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        sent.event_result({})
        sent.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(sent.aborted)

    def test_stream_without_answer(self) -> None:
        """A stream that ends without the answer is a failure; this era resumes nothing."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        sent.event(None, id="1", retry=1)
        sent.end()
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.wire.requests), 1)

    def test_fast_progress_is_thinned(self) -> None:
        """Progress beyond the burst is held back; the newest comes later, or with the end."""
        outbound = self.modern(name="x", _meta={**META, "progressToken": "t"})
        _, sink, sent = self.ask(self.stateless(), outbound)
        gid = sent.message["id"]
        sent.events()
        for step in range(PROGRESS_BURST + 10):
            sent.event(progress(gid, step=step))
        self.clock.advance(0.06)
        steps = [one["params"]["step"] for one in sink.notifications]
        self.assertEqual(steps, [*range(PROGRESS_BURST), PROGRESS_BURST + 9])
        sent.event(progress(gid, step=99))
        sent.event_result({})
        self.assertEqual(sink.notifications[-1]["params"]["step"], 99)


class CancelTests(HttpCase):
    """Closing the stream is the cancellation."""

    def test_cancel(self) -> None:
        """The connection is closed, nothing is posted, and the sink hears nothing more."""
        call, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        call.cancel("gone")
        call.cancel("again")
        self.assertTrue(sent.aborted)
        self.assertEqual((len(self.wire.requests), sink.ends), (1, 0))
        self.assertEqual(self.books.results, ["cancelled"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_after_the_end(self) -> None:
        """Cancelling what has been answered does nothing."""
        call, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.result({})
        call.cancel("late")
        self.assertEqual((sink.ends, self.books.results), (1, ["success"]))

    def test_closed_link(self) -> None:
        """Closing the link ends what runs on it and refuses what comes later."""
        link = self.stateless()
        _, sink, sent = self.ask(link, self.modern(name="x"))
        self.successResultOf(link.close())
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertTrue(sent.aborted)
        late = Sink()
        link.request(self.modern(name="x"), late)
        self.assertIs(late.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(len(self.wire.requests), 1)


class ListenTests(HttpCase):
    """``subscriptions/listen``: streams without a deadline."""

    settings = {"timeout_secs": 10.0, "max_concurrency": 2}

    def listen(self) -> tuple[Any, Sink, Any]:
        """Begin a subscription."""
        outbound = self.modern("subscriptions/listen", id="L", endless=True, notifications={})
        return self.ask(self.stateless(), outbound)

    def note(self, sent: Any, name: str) -> dict[str, Any]:
        """A notification of the subscription."""
        key = "io.modelcontextprotocol/subscriptionId"
        return {
            "jsonrpc": "2.0",
            "method": f"notifications/{name}",
            "params": {"_meta": {key: sent.message["id"]}},
        }

    def test_no_deadline_once_begun(self) -> None:
        """After the acknowledgement it may be silent for ever; comments are tolerated."""
        _, sink, sent = self.listen()
        sent.events()
        sent.event(self.note(sent, "subscriptions/acknowledged"))
        for _ in range(10):
            self.clock.advance(1000)
            sent.receiver.data(b":\r\n\r\n")
        sent.event(self.note(sent, "tools/list_changed"))
        ids = [one["params"]["_meta"] for one in sink.notifications]
        self.assertEqual(ids, [{"io.modelcontextprotocol/subscriptionId": "L"}] * 2)
        self.assertEqual(sink.ends, 0)

    def test_must_begin_in_time(self) -> None:
        """Without any message within the timeout it has failed."""
        _, sink, sent = self.listen()
        sent.events()
        self.clock.advance(10)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertTrue(sent.aborted)

    def test_foreign_subscription(self) -> None:
        """A notification that names another subscription is dropped."""
        _, sink, sent = self.listen()
        _, other, another = self.listen()
        sent.events()
        sent.event(self.note(another, "tools/list_changed"))
        self.assertEqual((sink.notifications, other.notifications), ([], []))

    def test_result_ends_it(self) -> None:
        """The server's own end arrives as the answer, under the client's id."""
        _, sink, sent = self.listen()
        sent.events()
        meta = {"io.modelcontextprotocol/subscriptionId": sent.message["id"]}
        sent.event_result({"resultType": "complete", "_meta": meta})
        result = sink.answers[0]["result"]
        self.assertEqual(result["_meta"]["io.modelcontextprotocol/subscriptionId"], "L")

    def test_listens_do_not_starve_calls(self) -> None:
        """Listens have places of their own, as many as calls have."""
        self.listen()
        self.listen()
        _, third, _ = self.listen()
        self.assertIs(third.reason, Reason.UPSTREAM_BUSY)
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.result({})
        self.assertEqual(len(sink.answers), 1)


class LimitTests(HttpCase):
    """Deadlines, sizes and places."""

    settings = {
        "timeout_secs": 10.0,
        "max_timeout_secs": 25.0,
        "max_concurrency": 2,
        "max_message_size": 1000,
    }

    def test_timeout(self) -> None:
        """No answer in time is a timeout, and the stream is closed."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        self.clock.advance(9.9)
        self.assertEqual(sink.ends, 0)
        self.clock.advance(0.2)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertTrue(sent.aborted)
        self.assertEqual(self.books.results, ["timeout"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stalled_body(self) -> None:
        """A body that stops in the middle runs into the same deadline."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.head(200, {"Content-Type": "application/json"})
        sent.receiver.data(b'{"jsonrpc"')
        self.clock.advance(10)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)

    def test_progress_moves_the_deadline(self) -> None:
        """Each progress gives another ``timeout_secs``, up to ``max_timeout_secs``."""
        outbound = self.modern(name="x", _meta={**META, "progressToken": 1})
        _, sink, sent = self.ask(self.stateless(), outbound)
        sent.events()
        for _ in range(3):
            self.clock.advance(8)
            sent.event(progress(sent.message["id"]))
        self.assertEqual(sink.ends, 0)
        self.clock.advance(1.1)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)

    def test_held(self) -> None:
        """Held, it waits for a person; released, another ``timeout_secs`` for the server."""
        call, sink, _ = self.ask(self.stateless(), self.modern(name="x"))
        self.clock.advance(9)
        call.hold()
        self.clock.advance(5)
        call.release()
        self.clock.advance(9.9)
        self.assertEqual(sink.ends, 0)
        self.clock.advance(0.2)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)
        call.hold()
        call.release()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_held_for_good(self) -> None:
        """Nobody may be waited for beyond ``max_timeout_secs``."""
        call, sink, _ = self.ask(self.stateless(), self.modern(name="x"))
        call.hold()
        self.clock.advance(10)
        self.clock.advance(14.9)
        self.assertEqual(sink.ends, 0)
        self.clock.advance(0.2)
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)

    def test_heartbeats_do_not_move_it(self) -> None:
        """Comments and log messages are no progress."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        for _ in range(3):
            self.clock.advance(4)
            sent.receiver.data(b":\n\n")
            sent.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        self.assertIs(sink.reason, Reason.UPSTREAM_TIMEOUT)

    def test_places(self) -> None:
        """Above ``max_concurrency`` it is busy at once, nothing is sent, and places come back."""
        link = self.stateless()
        _, _, first = self.ask(link, self.modern(name="x"))
        self.ask(link, self.modern(name="x"))
        _, third, _ = self.ask(link, self.modern(name="x"))
        self.assertIs(third.reason, Reason.UPSTREAM_BUSY)
        self.assertEqual(third.failures[0].retry_after, 1.0)
        self.assertEqual(len(self.wire.requests), 2)
        first.result({})
        _, fourth, _ = self.ask(link, self.modern(name="x"))
        self.assertEqual(fourth.ends, 0)

    def test_large_body(self) -> None:
        """A body over ``max_message_size`` is cut while it is read."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.head(200, {"Content-Type": "application/json"})
        sent.receiver.data(b"[" * 600)
        self.assertEqual(sink.ends, 0)
        sent.receiver.data(b"[" * 600)
        self.assertIs(sink.reason, Reason.ANSWER_TOO_LARGE)
        self.assertTrue(sent.aborted)

    def test_large_event(self) -> None:
        """So is an event."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.head(200, EVENTS)
        sent.receiver.data(b"data: " + b"x" * 1001)
        self.assertIs(sink.reason, Reason.ANSWER_TOO_LARGE)
        self.assertTrue(sent.aborted)

    def test_many_events(self) -> None:
        """A stream may be longer than one message."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        for _ in range(100):
            sent.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"x": "y"}})
        sent.event_result({})
        self.assertEqual((len(sink.notifications), len(sink.answers)), (100, 1))

    def test_large_request(self) -> None:
        """A request over ``max_message_size`` is not sent."""
        sink = Sink()
        self.stateless().request(self.modern(name="x" * 1000), sink)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual((self.wire.requests, self.clock.getDelayedCalls()), ([], []))

    def test_stop_tells_who_waits(self) -> None:
        """Stopping the upstream fails running calls, closes the wire and leaves no timer."""
        _, sink, sent = self.ask(self.stateless(), self.modern(name="x"))
        sent.events()
        stopping = self.upstream.stop()
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual((sent.aborted, self.wire.closed), (True, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        _, late, _ = self.ask(self.stateless(), self.modern(name="x"))
        self.assertIs(late.reason, Reason.UPSTREAM_UNAVAILABLE)


class ManyCallersTests(HttpCase):
    """Nobody ever hears another's answer."""

    @settings(deadline=None, max_examples=30)
    @given(strategies.randoms(use_true_random=False), strategies.integers(2, 60))
    def test_shuffled_answers(self, random: Any, count: int) -> None:
        """Callers that all use id 1 and token 1 get their own answers, in whatever order."""
        self.setUp()
        links = [self.stateless() for _ in range(3)]
        calls = []
        for number in range(count):
            outbound = self.modern(name=str(number), _meta={**META, "progressToken": 1})
            calls.append((number, *self.ask(random.choice(links), outbound)))
        random.shuffle(calls)
        for number, _, _, sent in calls:
            gid = sent.message["id"]
            answer = {
                "jsonrpc": "2.0",
                "id": gid,
                "result": {"for": sent.message["params"]["name"]},
            }
            if random.random() < 0.5:
                sent.json(answer)
            else:
                # The server mixes its streams up: said on another's stream first.
                other = random.choice(calls)[3]
                stray = json.dumps({"jsonrpc": "2.0", "id": other.message["id"], "result": {}})
                sent.events()
                if other is not sent:
                    sent.receiver.data(f"data: {stray}\n\n".encode())
                sent.event(progress(gid, owner=number))
                sent.event(answer)
        for number, _, sink, _ in calls:
            self.assertEqual([one["result"] for one in sink.answers], [{"for": str(number)}])
            self.assertEqual(sink.answers[0]["id"], 1)
            self.assertEqual(
                {one["params"]["owner"] for one in sink.notifications} - {number}, set()
            )
        self.assertEqual(len(self.books.results), count)
