"""Answers on their way out."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.exchange import Outlet
from mcpguard.front.outlet import KEEPALIVE
from tests.front.wire import FULL, Client, Listener, limited, request

EVENTS = (("Content-Type", "text/event-stream"),)


class AnOutlet(SynchronousTestCase):
    """Common ground: one POST on hold, its client and its outlet."""

    def setUp(self) -> None:
        """A listener with one pending request; 100 000 bytes may wait, comments after 15 s."""
        self.listener = Listener()
        self.listener.corridor.hold = True
        self.client, self.outlet = self.ask(request("POST /mcp", body=b"{}"))

    def ask(self, data: bytes) -> tuple[Client, Outlet]:
        """Send a request and take the outlet of its answer."""
        client = self.listener.ask(data)
        return client, self.listener.corridor.handled[-1][1]


class WholeAnswers(AnOutlet):
    """`RequestOutlet.answer`."""

    def test_headers(self) -> None:
        """Every answer carries the security headers, its id and a date, and no banner."""
        self.outlet.answer(200, (("Content-Type", "application/json"),), b"{}")
        headers = self.client.answer().headers
        expected = {
            "Content-Type": "application/json",
            "Content-Length": "2",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "Cache-Control": "no-store",
            "X-Request-Id": "request-1",
            "Date": "Tue, 14 Nov 2023 22:13:20 GMT",
        }
        self.assertEqual(headers, expected)

    def test_headers_of_the_answer(self) -> None:
        """Headers are passed on, repeated ones too, except those that are the connection's."""
        own = (("WWW-Authenticate", "Bearer"), ("WWW-Authenticate", "Basic"), ("X-A", "b"))
        stray = (("Server", "x"), ("Connection", "x"), ("content-length", "9"), ("Date", "x"))
        others = (("Transfer-Encoding", "x"), ("Cache-Control", "public"), ("X-Request-ID", "x"))
        self.outlet.answer(401, own + stray + others, b"no")
        received = self.client.received()
        self.assertEqual(received.count(b"\r\nWWW-Authenticate: "), 2)
        self.assertIn(b"\r\nX-A: b\r\n", received)
        self.assertNotIn(b": x\r\n", received)
        self.assertNotIn(b"public", received)
        self.assertEqual(received.count(b"Content-Length"), 1)

    def test_no_forged_lines(self) -> None:
        """A line break in a value starts no header of its own."""
        self.outlet.answer(200, (("X-A", "b\r\nX-Evil: c"),), b"")
        self.assertNotIn("X-Evil", self.client.answer().headers)

    def test_bodiless_statuses(self) -> None:
        """202 says that its body is empty; 204 has none to speak of."""
        self.outlet.answer(202, (), b"")
        self.assertEqual(self.client.answer().headers["Content-Length"], "0")
        client, outlet = self.ask(request())
        outlet.answer(204, (), b"")
        self.assertNotIn("Content-Length", client.answer().headers)

    def test_uncommon_statuses(self) -> None:
        """Statuses Twisted has no words for have theirs."""
        self.outlet.answer(421, (), b"")
        self.assertIn(b"421 Misdirected Request\r\n", self.client.received())
        client, outlet = self.ask(request())
        outlet.answer(299, (), b"")
        self.assertIn(b"299 Unknown\r\n", client.received())

    def test_once(self) -> None:
        """A second answer is an error of whoever gives it, and the client sees the first."""
        self.outlet.answer(200, (), b"first")
        self.assertRaises(RuntimeError, self.outlet.answer, 200, (), b"second")
        self.assertRaises(RuntimeError, self.outlet.open, 200, ())
        self.assertEqual(self.client.answer().body, b"first")

    def test_large(self) -> None:
        """A large answer is handed to the transport no faster than the client reads."""
        body = bytes(range(256)) * 4000
        self.client.transport.stuck = True
        self.outlet.answer(200, (), body)
        while not self.outlet.complete:  # type: ignore[attr-defined]
            self.assertLess(self.client.transport.unread, 3 * FULL)
            self.client.transport.read_on()
        self.assertEqual(self.client.answer().body, body)

    def test_client_left(self) -> None:
        """An answer to nobody is dropped."""
        self.client.leave()
        self.assertTrue(self.outlet.gone)
        self.outlet.answer(200, (), b"late")
        self.assertEqual(self.client.received(), b"")

    def test_client_leaves_during(self) -> None:
        """A client that leaves in the middle is gone; its callbacks run once."""
        calls: list[int] = []
        self.client.transport.stuck = True
        self.outlet.on_gone(lambda: calls.append(1))
        self.outlet.answer(200, (), b"x" * 500_000)
        self.client.leave()
        self.assertEqual(calls, [1])
        self.outlet.on_gone(lambda: calls.append(2))
        self.assertEqual(calls, [1, 2])

    def test_complete_is_not_gone_early(self) -> None:
        """Once the answer is out, the end of the connection is no loss."""
        calls: list[int] = []
        self.outlet.on_gone(lambda: calls.append(1))
        self.outlet.answer(200, (), b"all")
        self.outlet.on_gone(lambda: calls.append(2))
        self.client.leave()
        self.assertEqual(calls, [])

    def test_broken_callback(self) -> None:
        """A callback that fails does not keep the others from running."""
        calls: list[int] = []
        self.outlet.on_gone(lambda: calls.append(1 // 0))
        self.outlet.on_gone(lambda: calls.append(1))
        self.client.leave()
        self.assertEqual(calls, [1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Streams(AnOutlet):
    """`RequestOutlet.open` … `finish`."""

    def test_stream(self) -> None:
        """Pieces go out as they come; the stream says that nobody may keep or delay it."""
        self.outlet.open(200, EVENTS)
        self.assertTrue(self.client.received().endswith(b"\r\n\r\n"))
        self.outlet.write(b"data: 1\n\n")
        self.assertIn(b"9\r\ndata: 1\n\n\r\n", self.client.received())
        self.outlet.write(b"data: 2\n\n")
        self.assertFalse(self.outlet.gone)
        self.outlet.finish()
        self.assertTrue(self.outlet.gone)
        answer = self.client.answer()
        self.assertEqual(answer.body, b"data: 1\n\ndata: 2\n\n")
        self.assertEqual(answer.headers["Cache-Control"], "no-store, no-transform")
        self.assertEqual(answer.headers["X-Accel-Buffering"], "no")
        self.assertEqual(answer.headers["X-Frame-Options"], "DENY")
        self.assertFalse(self.client.closed)

    def test_after_the_end(self) -> None:
        """What comes after `finish` is dropped, another `finish` too."""
        self.outlet.open(200, EVENTS)
        self.outlet.finish()
        self.outlet.write(b"late")
        self.outlet.finish()
        self.assertEqual(self.client.answer().body, b"")

    def test_before_the_start(self) -> None:
        """Writing before `open` is an error."""
        self.assertRaises(RuntimeError, self.outlet.write, b"early")
        self.assertRaises(RuntimeError, self.outlet.finish)

    def test_empty_piece(self) -> None:
        """An empty piece does not end the stream, as an empty chunk would."""
        self.outlet.open(200, EVENTS)
        self.outlet.write(b"")
        self.outlet.write(b"data: 1\n\n")
        self.outlet.finish()
        self.assertEqual(self.client.answer().body, b"data: 1\n\n")

    def test_http_1_0(self) -> None:
        """A stream to an HTTP/1.0 client has no chunks and ends with the connection."""
        client, outlet = self.ask(request().replace(b"1.1", b"1.0"))
        outlet.open(200, EVENTS)
        outlet.write(b"data: 1\n\n")
        outlet.finish()
        self.assertTrue(client.received().endswith(b"\r\n\r\ndata: 1\n\n"))
        self.assertTrue(client.closed)

    def test_head(self) -> None:
        """A stream in answer to HEAD is its head."""
        client, outlet = self.ask(request("HEAD /mcp"))
        outlet.open(200, EVENTS)
        outlet.write(b"data: 1\n\n")
        outlet.finish()
        self.assertTrue(client.received().endswith(b"\r\n\r\n"))
        self.assertEqual(client.answer("HEAD").body, b"")

    def test_keepalive(self) -> None:
        """A silent event stream gets a comment every 15 s, a busy one none."""
        self.outlet.open(200, EVENTS)
        for _ in range(4):
            self.listener.pass_time(10)
            self.outlet.write(b"data: 1\n\n")
        self.assertNotIn(KEEPALIVE, self.client.received())
        self.listener.pass_time(32)
        self.outlet.finish()
        self.listener.pass_time(32)
        self.assertEqual(self.client.answer().body, b"data: 1\n\n" * 4 + KEEPALIVE * 2)

    def test_keepalive_only_on_event_streams(self) -> None:
        """In another kind of stream a comment would be data."""
        self.outlet.open(200, (("Content-Type", "application/json"),))
        self.listener.pass_time(32)
        self.outlet.finish()
        self.assertEqual(self.client.answer().body, b"")

    def test_keepalive_waits_for_the_reader(self) -> None:
        """Nothing is added for a client that has not read what there is."""
        self.client.transport.stuck = True
        self.outlet.open(200, EVENTS)
        self.outlet.write(b"x" * 100_000)
        self.listener.pass_time(20)
        self.assertNotIn(KEEPALIVE, self.client.received())

    def test_slow_reader(self) -> None:
        """Who lets more than the bound wait is dropped, and gone at once."""
        calls: list[int] = []
        self.outlet.on_gone(lambda: calls.append(1))
        self.client.transport.stuck = True
        self.outlet.open(200, EVENTS)
        written = 0
        while not self.outlet.gone:
            self.outlet.write(b"x" * 10_000)
            written += 10_000
        self.assertLess(written, 100_000 + 4 * FULL)
        self.assertGreater(written, 100_000)
        self.assertEqual((calls, self.listener.dropped), ([1], ["slow_reader"]))
        self.assertTrue(self.client.transport.aborted)
        self.assertLess(self.client.transport.unread, 3 * FULL)
        self.outlet.write(b"more")
        self.outlet.finish()
        self.listener.pass_time(1)
        self.assertEqual(calls, [1])

    def test_one_large_event(self) -> None:
        """One event beyond the bound is no backlog: what waits behind it is."""
        self.client.transport.stuck = True
        self.outlet.open(200, EVENTS)
        self.outlet.write(b"x" * 1_000_000)
        self.outlet.write(b"y" * 100_000)
        self.assertFalse(self.outlet.gone)
        self.outlet.write(b"z")
        self.assertTrue(self.outlet.gone)

    def test_backlog_shrinks(self) -> None:
        """What the client has read counts no more."""
        self.client.transport.stuck = True
        self.outlet.open(200, EVENTS)
        for _ in range(50):
            self.outlet.write(b"x" * 90_000)
            while self.client.transport.unread > FULL:
                self.client.transport.read_on()
        self.outlet.finish()
        while self.client.transport.unread > FULL:
            self.client.transport.read_on()
        self.assertEqual(len(self.client.answer().body), 50 * 90_000)

    def test_client_leaves(self) -> None:
        """A lost client ends the stream."""
        calls: list[int] = []
        self.outlet.open(200, EVENTS)
        self.outlet.on_gone(lambda: calls.append(1))
        self.client.leave()
        self.outlet.write(b"late")
        self.outlet.finish()
        self.assertEqual((self.outlet.gone, calls), (True, [1]))

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(st.lists(st.integers(0, 200_000) | st.just(-1), max_size=25))
    def test_all_or_gone(self, steps: list[int]) -> None:
        """Whatever is written and read in whatever order arrives whole and in order, or is cut.

        The transport never holds more than it asked for.
        """
        listener = Listener(limits=limited(stall_secs=10**6))
        listener.corridor.hold = True
        client = listener.ask(request("POST /mcp", "Connection: close", body=b"{}"))
        outlet = listener.corridor.handled[0][1]
        client.transport.stuck = True
        outlet.open(200, EVENTS)
        sent = b""
        for number, size in enumerate(steps):
            if size < 0:
                client.transport.read_on()
            else:
                chunk = bytes([65 + number]) * size
                sent += chunk
                outlet.write(chunk)
            self.assertLess(client.transport.unread, 3 * FULL)
        if outlet.gone:
            self.assertEqual(listener.dropped, ["slow_reader"])
            return
        outlet.finish()
        while client.transport.unread > FULL:
            client.transport.read_on()
        self.assertEqual(client.answer().body, sent)
