"""Tests of single connections: what nobody asked for, the way past the queue, TLS."""

from errno import EPIPE
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IHandshakeListener

from mcpguard.errors import Reason
from tests.upstream.http1_doubles import EVENTS, OK, URL, WireCase
from tests.upstream.socket_doubles import DirectSocket, Socket


class UnaskedTests(WireCase):
    """What a server sends that nobody asked for is never an answer."""

    def test_while_idle(self) -> None:
        """Bytes on an idle connection end it."""
        self.send(URL)
        socket = self.reactor.accept()
        socket.receive(OK)
        socket.receive(OK)
        heard, _ = self.send(URL)
        self.assertEqual((len(self.reactor.dialled), heard.heads), (2, []))
        self.turn()
        self.assertTrue(socket.lost)

    def test_before_the_first_request(self) -> None:
        """So they do on a connection that has carried nothing yet."""
        self.send(URL)
        first = self.reactor.accept()
        self.send(URL)
        first.receive(OK)
        spare = self.reactor.accept(1)
        self.assertEqual(spare.value(), b"")
        spare.receive(OK)
        self.turn()
        self.assertTrue(spare.lost)

    def test_behind_the_answer(self) -> None:
        """Bytes behind an answer leave the answer as it is, and end the connection."""
        for answer in (
            OK + OK,
            OK + b"x",
            EVENTS + b"0\r\n\r\n" + OK,
            b"HTTP/1.1 204 No Content\r\n\r\n" + OK,
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{}",
        ):
            self.setUp()
            heard, _ = self.send(URL)
            socket = self.reactor.accept()
            socket.receive(answer)
            self.assertEqual((heard.ended, heard.failures), (1, []))
            again, _ = self.send(URL)
            self.assertEqual((len(self.reactor.dialled), again.heads), (2, []))
            self.turn()
            self.assertTrue(socket.lost)

    def test_two_lengths(self) -> None:
        """An answer that two readers would end at different places is none."""
        for lines in (
            b"Content-Length: 2\r\nContent-Length: 40\r\n",
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length: 2\r\n Content-Length: 40\r\n",
            b"X: y\nContent-Length: 2\r\n",
        ):
            self.setUp()
            heard, _ = self.send(URL)
            socket = self.reactor.accept()
            socket.receive(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n2\r\n{}\r\n0\r\n\r\n")
            self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
            self.turn()
            self.assertEqual((heard.heads, socket.lost), ([], True))

    def test_interim_answers(self) -> None:
        """Interim answers are no answers, however they come."""
        for early in (b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </x>"):
            self.setUp()
            heard, _ = self.send(URL)
            socket = self.reactor.accept()
            for byte in b"HTTP/1.1 " + early + b"\r\n\r\n" + OK:
                socket.receive(bytes([byte]))
            self.assertEqual((heard.heads[0].status, heard.ended, heard.body), (200, 1, b"{}"))
            self.assertFalse(socket.lost)

    def test_broken_to_the_end(self) -> None:
        """A body that the connection's end ends is broken if the end is no clean one."""
        heard, _ = self.send(URL)
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.1 200 OK\r\n\r\n{}")
        socket.lose(error.ConnectionLost())
        self.assertEqual((heard.ended, len(heard.failures)), (0, 1))


class DirectTests(WireCase):
    """Past the transport's queue, on a transport that allows it."""

    socket = DirectSocket

    def accepted(self, index: int = -1) -> Any:
        """The newest connection."""
        return self.reactor.accept(index)

    def test_written_at_once(self) -> None:
        """The whole request goes in one write."""
        heard, exchange = self.send(URL, b"{}")
        socket = self.accepted()
        self.assertTrue(socket.value().endswith(b"Content-Length: 2\r\n\r\n{}"))
        self.assertTrue(exchange.sent)
        socket.receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_what_the_kernel_does_not_take(self) -> None:
        """The rest follows as the transport asks for it, and the connection is used again."""
        body = bytes(range(256)) * 4096
        heard, _ = self.send(URL, body)
        DirectSocket.takes = 1000
        self.addCleanup(setattr, DirectSocket, "takes", 1_000_000)
        socket = self.accepted()
        while socket.producer is not None:
            socket.producer.resumeProducing()
        self.assertEqual(socket.value().partition(b"\r\n\r\n")[2], body)
        socket.receive(OK)
        socket.clear()
        self.send(URL)
        while socket.producer is not None:
            socket.producer.resumeProducing()
        self.assertEqual((heard.ended, len(self.reactor.dialled)), (1, 1))
        self.assertIn(b"POST", socket.value())

    def test_answered_early(self) -> None:
        """A server that answers before it has read all may never read it: not used again."""
        heard, _ = self.send(URL, b"x" * 1_000_000)
        DirectSocket.takes = 1000
        self.addCleanup(setattr, DirectSocket, "takes", 1_000_000)
        socket = self.accepted()
        socket.receive(OK)
        self.assertEqual(heard.ended, 1)
        self.turn()
        self.assertTrue(socket.lost)

    def test_ended_unseen(self) -> None:
        """An idle connection whose end the reactor has not seen yet costs no request."""
        for unread in (b"", b"H"):
            self.setUp()
            self.send(URL)
            socket = self.accepted()
            socket.receive(OK)
            socket.unread = unread
            socket.clear()
            heard, _ = self.send(URL)
            self.assertEqual((socket.value(), heard.failures), (b"", []))
            self.accepted(1).receive(OK)
            self.assertEqual(heard.ended, 1)

    def test_refused_by_the_kernel(self) -> None:
        """A request of which the kernel took nothing goes to another connection, once each."""
        self.send(URL)
        socket = self.accepted()
        socket.receive(OK)
        socket.takes = BrokenPipeError(EPIPE, "gone")
        heard, exchange = self.send(URL)
        self.assertEqual((heard.failures, exchange.sent), ([], False))
        fresh = self.accepted(1)
        self.assertTrue(exchange.sent)
        fresh.receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_waiting_survives_it(self) -> None:
        """So does one that had waited; it keeps its place before those behind it."""
        self.bounds = {"max_connections": 1}
        self.setUp()
        self.send(URL)
        socket = self.accepted()
        (one, _), (two, _) = self.send(URL), self.send(URL)
        socket.unread = b""
        socket.receive(OK)
        self.assertEqual(len(self.reactor.dialled), 2)
        fresh = self.accepted(1)
        fresh.receive(OK)
        self.assertEqual((one.ended, two.ended), (1, 0))
        fresh.receive(OK)
        self.assertEqual(two.ended, 1)

    def test_refused_when_new(self) -> None:
        """A new connection that takes nothing fails its request: no dialling without end."""
        heard, exchange = self.send(URL)
        DirectSocket.takes = BrokenPipeError(EPIPE, "gone")
        self.addCleanup(setattr, DirectSocket, "takes", 1_000_000)
        self.accepted()
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
        self.assertEqual((exchange.sent, len(self.reactor.dialled)), (False, 1))


class TlsTests(WireCase):
    """Servers behind https; the real handshakes are in ``tests/live``."""

    table = {"public.example": ["93.184.216.34"]}
    socket = DirectSocket

    def test_nothing_in_the_clear(self) -> None:
        """The way past the queue is the TCP connection's, below TLS: it is not taken."""
        _, exchange = self.send("https://public.example/", b"secret")
        socket = self.reactor.accept()
        for _ in range(3):
            self.turn()
        self.assertEqual(socket.value()[:2], b"\x16\x03")
        self.assertNotIn(b"secret", socket.value())
        self.assertFalse(exchange.sent)
        # Nor when somebody calls the connection ready too early: TLS holds it back.
        connection: Any = socket.protocol
        while not hasattr(connection, "begin"):
            connection = getattr(connection, "_wrappedProtocol", None) or connection.wrappedProtocol
        self.assertTrue(IHandshakeListener.providedBy(connection))
        connection.handshakeCompleted()
        self.turn()
        self.assertNotIn(b"secret", socket.value())

    def test_stalled_handshake(self) -> None:
        """A handshake without end is given up; the request was never sent."""
        heard, exchange = self.send("https://public.example/")
        socket: Socket = self.reactor.accept()
        self.reactor.advance(9.9)
        self.assertEqual(heard.failures, [])
        self.reactor.advance(0.1)
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.turn()
        self.assertEqual((exchange.sent, socket.lost), (False, True))

    def test_aborted_handshake(self) -> None:
        """Giving up within the handshake cuts the connection."""
        heard, exchange = self.send("https://public.example/")
        socket = self.reactor.accept()
        exchange.abort()
        self.turn()
        self.assertEqual((heard.failures, socket.lost), ([], True))
        self.successResultOf(self.wire_to("https://public.example/").close())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_reach_waits_for_it(self) -> None:
        """A server is reached when it is verified, not when its port is open."""
        reaching = self.wire_to("https://public.example").reach("https://public.example/")
        socket = self.reactor.accept()
        self.assertNoResult(reaching)
        socket.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.turn()
        failure: Any = self.failureResultOf(reaching).value
        self.assertIn("TLS", failure.detail)

    def test_reach_given_up(self) -> None:
        """Cancelling it cuts the connection."""
        reaching = self.wire_to("https://public.example").reach("https://public.example/")
        socket = self.reactor.accept()
        reaching.addErrback(lambda _: None)
        reaching.cancel()
        self.turn()
        self.assertTrue(socket.lost)
