"""The life of a connection that the fast channel serves, and how it leaves for the general one."""

import sys
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.front.channel import GuardChannel
from mcpguard.front.fast_channel import FastChannel
from mcpguard.front.fast_outlet import FastOutlet
from tests.front.wire import FULL, Client, Listener, limited, request

SOUND = request("POST /mcp", body=b"{}")
PUT = request("PUT /mcp")
EVENTS = (("Content-Type", "text/event-stream"),)


def held(**limits: Any) -> Listener:
    """A listener whose corridor answers when the test says so."""
    listener = Listener(fast=True, limits=limited(**limits))
    listener.corridor.hold = True
    return listener


class Serving(SynchronousTestCase):
    """What stays with the fast channel."""

    def test_canonical_posts(self) -> None:
        """Canonical POSTs are served without twisted.web, one after the other."""
        listener = Listener(fast=True)
        client = listener.ask(SOUND * 3)
        client.send(SOUND[:30])
        client.send(SOUND[30:-1])
        client.send(SOUND[-1:] + SOUND[:5])
        client.send(SOUND[5:])
        self.assertIsInstance(client.channel, FastChannel)
        for _, outlet in listener.corridor.handled:
            self.assertIsInstance(outlet, FastOutlet)
        self.assertEqual(len(client.answers("POST " * 5)), 5)

    def test_canonical_gets_and_deletes(self) -> None:
        """So are GET and DELETE without a body."""
        listener = Listener(fast=True)
        client = listener.ask(request("GET /mcp/fs", "Accept: text/event-stream") + SOUND)
        client.send(request("DELETE /mcp", "Mcp-Session-Id: x"))
        self.assertIsInstance(client.channel, FastChannel)
        found = [incoming.method for incoming, _ in listener.corridor.handled]
        self.assertEqual(found, ["GET", "POST", "DELETE"])
        self.assertEqual(len(client.answers("GET POST DELETE")), 3)

    def test_not_those_with_a_body_or_of_a_person(self) -> None:
        """A GET with a body, or by someone who wants to see a page, is not for here."""
        for data in (
            request("GET /mcp", body=b"{}"),
            request("GET /mcp", "Content-Length: 0"),
            request("DELETE /mcp", "Content-Length: 2", body=b"") + b"{}",
            request("GET /mcp", "Accept: text/html"),
        ):
            # Even when a head that differs by the length only is remembered.
            for before in (b"", request("GET /mcp") * 3, request("DELETE /mcp") * 3):
                client = Listener(fast=True).ask(before + data)
                self.assertIsInstance(client.channel, GuardChannel)

    def test_everything_else_leaves_for_good(self) -> None:
        """After another request the connection stays with the general channel."""
        listener = Listener(fast=True)
        client = listener.ask(SOUND + PUT + SOUND)
        client.send(SOUND)
        self.assertIsInstance(client.channel, GuardChannel)
        kinds = [type(outlet).__name__ for _, outlet in listener.corridor.handled]
        self.assertEqual(kinds, ["FastOutlet"] + ["RequestOutlet"] * 3)
        self.assertEqual(listener.site.connections, 1)
        client.leave()
        self.assertEqual(listener.site.connections, 0)

    def test_no_corridor_no_fast_channel(self) -> None:
        """A listener without MCP paths has none."""
        client = Listener(fast=False).connect()
        self.assertIsInstance(client.channel, GuardChannel)

    def test_sessions_of_others(self) -> None:
        """A request of a session that another process has is not for here; the rest is."""
        listener = Listener(fast=True)
        listener.site.is_elsewhere = lambda session: session.startswith("2.")
        for session, kind in (("1.x", FastChannel), ("2.x", GuardChannel)):
            data = request("POST /mcp", f"Mcp-Session-Id: {session}", body=b"{}")
            for pieces in ([data], [data[:-1], data[-1:]]):
                client = listener.connect()
                for piece in pieces:
                    client.send(piece)
                self.assertIsInstance(client.channel, kind)
                client.leave()
        self.assertEqual(len(listener.corridor.handled), 4)

    def test_continued_elsewhere(self) -> None:
        """A body that goes on with what another process holds is not for here either."""
        listener = Listener(fast=True)
        listener.site.is_parked_elsewhere = lambda body: b"2" in body
        for body, kind in ((b"[1]", FastChannel), (b"[2]", GuardChannel)):
            data = request("POST /mcp", body=body)
            for pieces in ([data], [data[:-1], data[-1:] + SOUND]):
                client = listener.connect()
                for piece in pieces:
                    client.send(piece)
                self.assertIsInstance(client.channel, kind)
                client.leave()
        self.assertEqual(len(listener.corridor.handled), 6)
        self.assertEqual(listener.site.bodies.held, 0)

    def test_errors_of_our_own(self) -> None:
        """An exception on the way is a refusal, or a plain 500 when that fails as well."""
        for broken, status in ((("handle",), 500), (("handle", "refuse"), 500), (("screen",), 500)):
            listener = Listener(fast=True)
            for name in broken:
                self.patch(listener.corridor, name, None)
            client = listener.ask(SOUND)
            self.assertEqual(client.answer().status, status)
            self.assertEqual(len(listener.corridor.refused), 0 if "refuse" in broken else 1)
            client.send(SOUND)
            self.assertEqual(len(client.answers("POST POST")), 2)
            self.flushLoggedErrors(TypeError)

    def test_error_in_an_answer(self) -> None:
        """An exception after the answer began cuts the connection."""
        listener = held()

        def handle(incoming: Any, outlet: Any) -> None:
            outlet.open(200, EVENTS)
            raise ValueError("bad")

        with patch.object(listener.corridor, "handle", handle):
            client = listener.ask(SOUND)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(listener.dropped, ["failed"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class Leaving(SynchronousTestCase):
    """The general channel goes on exactly where the fast one was."""

    def test_deadlines_go_on(self) -> None:
        """Who sends half a head, then what is not for here, has no more time than before."""
        for begun in (SOUND[:30], SOUND[:-1]):
            listener = Listener(fast=True, limits=limited(head_secs=10, body_secs=10))
            client = listener.ask(begun)
            listener.pass_time(9)
            self.assertIsInstance(client.channel, FastChannel)
            if begun == SOUND[:30]:
                client.send(b"\r\nX : y"[:4])
            listener.pass_time(2)
            self.assertIsInstance(client.channel, GuardChannel)
            self.assertIn(client.answer().status, (400, 408))

    def test_head_deadline_goes_on(self) -> None:
        """The head that the general channel goes on reading began when its first byte came."""
        listener = Listener(fast=True)
        client = listener.ask(b"POST /mcp HTTP/1.1\r\nHost: a\r\n")
        listener.pass_time(9)
        client.send(b"X: \xe4\r\n")
        self.assertIsInstance(client.channel, GuardChannel)
        listener.pass_time(2)
        self.assertEqual(client.answer().status, 408)
        self.assertEqual(listener.dropped, ["slow_head"])

    def test_body_deadline_goes_on(self) -> None:
        """So does a body whose listener has no more room, or that comes too slowly."""
        listener = Listener(fast=True)
        client = listener.ask(request("POST /mcp", "Content-Length: 900") + b"x" * 100)
        listener.pass_time(19)
        client.send(b"x")
        self.assertIsInstance(client.channel, FastChannel)
        self.assertEqual(listener.site.bodies.held, 101)
        listener.pass_time(2)
        ((incoming, refusal),) = listener.corridor.refused
        self.assertIs(refusal.reason, Reason.SLOW_REQUEST)
        self.assertEqual((incoming.body, listener.site.bodies.held), (b"x" * 101, 0))
        self.assertEqual(client.answer().status, 408)

    def test_an_idle_time_of_its_own(self) -> None:
        """A request that is served by the general channel has no old deadline behind it."""
        listener = Listener(fast=True)
        client = listener.ask(SOUND)
        listener.pass_time(59)
        client.send(PUT)
        listener.pass_time(59)
        self.assertFalse(client.closed)
        listener.pass_time(2)
        self.assertTrue(client.closed)

    def test_in_a_drain(self) -> None:
        """A draining connection stays one: its last answer says so."""
        for half in (20, len(PUT) - 2):
            listener = Listener(fast=True)
            client = listener.ask(b"POST /mcp HTTP/1.1\r\n")
            listener.site.drain(30)
            client.send(b"X: \xe4\r\n" + SOUND[SOUND.find(b"\r\n") + 2 :] + PUT[:half])
            self.assertIsInstance(client.channel, GuardChannel)
            self.assertEqual(client.answer().headers["Connection"], "close")
            self.assertTrue(client.closed)

    def test_while_the_client_reads_nothing(self) -> None:
        """A client that leaves answers unread is still known to do so, and dropped in time."""
        listener = held()
        client = listener.connect()
        client.transport.stuck = True
        client.send(SOUND)
        client.send(SOUND + PUT)
        for number in range(2):
            listener.corridor.handled[number][1].answer(200, (), b"x" * (FULL - 500))
        self.assertTrue(client.channel.congested)
        self.assertIsInstance(client.channel, GuardChannel)
        listener.pass_time(31)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(listener.dropped, ["slow_reader"])

    def test_congestion_ends_after_it(self) -> None:
        """When such a client reads on, it is served on."""
        listener = held()
        client = listener.connect()
        client.transport.stuck = True
        client.send(SOUND)
        client.send(SOUND + PUT)
        for number in range(2):
            listener.corridor.handled[number][1].answer(200, (), b"x" * (FULL - 500))
        self.assertIsInstance(client.channel, GuardChannel)
        client.transport.read_on()
        listener.corridor.hold = False
        listener.corridor.handled[2][1].answer(200, (), b"")
        client.transport.read_on()
        client.send(SOUND)
        self.assertEqual(len(client.answers("POST POST PUT POST")), 4)

    def test_the_producer(self) -> None:
        """The transport's producer is the channel that serves, and none once it is to close."""
        listener = Listener(fast=True)
        client = listener.connect()
        self.assertIs(client.transport.producer, client.channel)
        client.send(PUT)
        self.assertIsInstance(client.channel, GuardChannel)
        self.assertIs(client.transport.producer, client.channel)
        closing = listener.connect()
        closing.transport.stuck = True
        closing.send(request("POST /mcp", "Connection: close", body=b"{}"))
        # A transport with a producer waits for it and does not close.
        self.assertIsNone(closing.transport.producer)
        self.assertTrue(closing.transport.disconnecting)


class ReadingAhead(SynchronousTestCase):
    """What a client sends while it waits for an answer."""

    def test_bounded(self) -> None:
        """Beyond a little, no more is read; afterwards all of it is served."""
        listener = held()
        client = listener.ask(SOUND)
        pieces = 0
        while client.transport.producerState != "paused":
            client.send(SOUND)
            pieces += 1
        self.assertLess(pieces * len(SOUND), 17_000)
        listener.corridor.hold = False
        listener.corridor.handled[0][1].answer(200, (), b"")
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(len(client.answers("POST " * (pieces + 1))), pieces + 1)

    def test_a_client_that_leaves_with_work_waiting(self) -> None:
        """Requests that were read ahead end with the connection; nothing of them is served."""
        listener = held()
        client = listener.ask(SOUND + SOUND)
        client.leave()
        listener.corridor.handled[0][1].answer(200, (), b"late")
        self.assertEqual(len(listener.corridor.handled), 1)
        self.assertEqual((listener.site.bodies.held, listener.site.connections), (0, 0))

    def test_a_body_in_small_pieces(self) -> None:
        """Takes up what it counts, not what its pieces would as objects of their own."""
        listener = Listener(fast=True, limits=limited(body_bytes=20_000))
        client = listener.ask(request("POST /mcp", "Content-Length: 20000"))
        channel: Any = client.channel
        for number in range(6_000):
            client.send(b"%03d" % (number % 1000))
        self.assertEqual(listener.site.bodies.held, 18_000)
        held = [value for value in vars(channel).values() if isinstance(value, bytes | bytearray)]
        self.assertLess(sum(map(sys.getsizeof, held)), 25_000)
        self.assertFalse([value for value in vars(channel).values() if isinstance(value, list)])
        client.send(b"x" * 2_000)
        self.assertEqual(len(listener.corridor.handled[0][0].body), 20_000)
        self.assertEqual(listener.site.bodies.held, 0)

    def test_no_recursion(self) -> None:
        """A thousand pipelined requests are a loop, not a tower of calls."""
        listener = Listener(fast=True, limits=limited(header_bytes=8000))
        client = listener.connect()
        client.send(SOUND * 1000)
        self.assertEqual(len(client.answers("POST " * 1000)), 1000)

    def test_reading_goes_on_after_a_stop_by_the_transport(self) -> None:
        """A transport may say stop with no answer under way; later it is read again."""
        listener = Listener(fast=True)
        client = listener.connect()
        channel: Any = client.channel
        channel.pauseProducing()
        self.assertEqual(client.transport.producerState, "paused")
        channel.resumeProducing()
        self.assertEqual(client.transport.producerState, "producing")
        channel.pauseProducing()
        client.protocol.dataReceived(SOUND)  # as TLS does
        ((_, outlet),) = listener.corridor.handled
        self.assertFalse(outlet.complete)  # type: ignore[attr-defined]
        channel.resumeProducing()
        self.assertTrue(outlet.complete)  # type: ignore[attr-defined]
        self.assertEqual(client.transport.producerState, "producing")
        client.send(SOUND)
        self.assertEqual(len(client.answers("POST POST")), 2)


class Streaming(SynchronousTestCase):
    """Event streams of the fast channel, beyond what `test_fast_channel` replays."""

    def ask(self) -> tuple[Listener, Client, Any]:
        """A request on hold."""
        listener = held()
        client = listener.ask(SOUND)
        return listener, client, listener.corridor.handled[0][1]

    def test_then_another_request(self) -> None:
        """After the end of a stream the connection is used on."""
        listener, client, outlet = self.ask()
        outlet.open(200, EVENTS)
        outlet.write(b"data: 1\n\n")
        client.send(SOUND)
        outlet.finish()
        listener.corridor.handled[1][1].answer(200, (), b"ok")
        bodies = [answer.body for answer in client.answers("POST POST")]
        self.assertEqual(bodies, [b"data: 1\n\n", b"ok"])
        self.assertIsInstance(client.channel, FastChannel)

    def test_statuses_without_a_body(self) -> None:
        """A stream with such a status is its head."""
        _, client, outlet = self.ask()
        outlet.open(204, EVENTS)
        outlet.write(b"data: 1\n\n")
        outlet.finish()
        self.assertEqual(client.answer().status, 204)
        self.assertTrue(client.received().endswith(b"\r\n\r\n"))

    def test_a_drain_ends_that_of_a_get(self) -> None:
        """The stream of a GET waits for nothing in particular, and ends at once."""
        listener = held()
        client = listener.ask(request("GET /mcp", "Accept: text/event-stream"))
        _, outlet = listener.corridor.handled[0]
        self.assertIsInstance(outlet, FastOutlet)
        outlet.open(200, EVENTS)
        drained = listener.site.drain(30)
        self.assertEqual((self.successResultOf(drained), outlet.gone), (0, True))
        self.assertEqual(client.answer("GET").body, b"")

    def test_a_drain_lets_it_end(self) -> None:
        """The stream that answers a POST ends by itself; then the connection does."""
        listener, client, outlet = self.ask()
        outlet.open(200, EVENTS)
        drained = listener.site.drain(30)
        outlet.write(b"data: 1\n\n")
        self.assertNoResult(drained)
        outlet.finish()
        self.assertEqual(client.answer().body, b"data: 1\n\n")
        self.assertEqual(self.successResultOf(drained), 0)


class Memory(SynchronousTestCase):
    """What a listener remembers of heads."""

    def test_not_for_long(self) -> None:
        """Heads are forgotten with the last client."""
        listener = Listener(fast=True)
        client = listener.ask(SOUND * 3)
        self.assertEqual(len(listener.site.heads), 1)
        other = listener.connect()
        client.leave()
        self.assertEqual(len(listener.site.heads), 1)
        other.leave()
        self.assertEqual(len(listener.site.heads), 0)

    def test_aged_by_the_sweep(self) -> None:
        """With clients that stay, by time alone."""
        listener = Listener(fast=True, limits=limited(idle_secs=1000))
        client = listener.ask(SOUND * 3)
        for _ in range(5):
            listener.pass_time(29)
            client.send(SOUND)
        self.assertEqual(len(listener.site.heads), 1)
        listener.pass_time(61)
        self.assertEqual(len(listener.site.heads), 0)
