"""Tests of requests and answers on connections, through a wire on a reactor in memory."""

from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import DialRefused, Reason
from mcpguard.upstream.http1_failures import explain
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.wire import Head
from tests.upstream.http1_doubles import OK, WireCase


class ConnectionTests(WireCase):
    """Connections and their end."""

    def test_request_on_the_wire(self) -> None:
        """Our headers and a length, identity asked for, nothing else."""
        self.send("http://127.0.0.1:81/mcp?x=1", b'{"a":1}', Accept="text/x")
        request = self.reactor.accept().value()
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"POST /mcp?x=1 HTTP/1.1")
        self.assertEqual(
            {line.lower() for line in lines[1:]},
            {
                b"host: 127.0.0.1:81",
                b"accept: text/x",
                b"accept-encoding: identity",
                b"content-length: 7",
            },
        )
        self.assertEqual(body, b'{"a":1}')

    def test_ipv6_literal(self) -> None:
        """The Host of an IPv6 literal has its brackets."""
        self.send("http://[::1]:81/")
        self.assertIn(b"Host: [::1]:81\r\n", self.reactor.accept().value())

    def test_reuse(self) -> None:
        """A finished connection is used again, without another lookup, for a few seconds."""
        first, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(OK)
        self.assertEqual((first.body, first.ended), (b"{}", 1))
        socket.clear()
        second, _ = self.send("http://127.0.0.1:81/")
        self.assertIn(b"POST", socket.value())
        socket.receive(OK)
        self.assertEqual((second.ended, len(self.reactor.dialled)), (1, 1))
        self.reactor.advance(4)
        self.turn()
        self.assertTrue(socket.lost)

    def test_idle_connection_closed_by_the_server(self) -> None:
        """An idle connection the server has closed is not used."""
        self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(OK)
        socket.lose()
        heard, _ = self.send("http://127.0.0.1:81/")
        self.assertEqual(len(self.reactor.dialled), 2)
        self.reactor.accept().receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_servers_that_close(self) -> None:
        """The connection of an HTTP/1.0 answer is over with it, whoever closes it first."""
        for count in (1, 2):
            heard, _ = self.send("http://127.0.0.1:81/")
            self.assertEqual(len(self.reactor.dialled), count)
            socket = self.reactor.accept(count - 1)
            socket.receive(OK.replace(b"HTTP/1.1", b"HTTP/1.0"))
            self.turn()
            self.assertEqual((heard.ended, heard.body, socket.lost), (1, b"{}", True))

    def test_nothing_is_sent_twice(self) -> None:
        """A request lost on a used connection fails, whatever its method; it is not resent."""
        for body in (b"{}", None):
            self.setUp()
            self.send("http://127.0.0.1:81/")
            socket = self.reactor.accept()
            socket.receive(OK)
            heard, exchange = self.send("http://127.0.0.1:81/", body)
            socket.lose()
            self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
            self.assertEqual((len(self.reactor.dialled), exchange.sent), (1, True))

    def test_idle_connections_are_few(self) -> None:
        """No more connections stay open than the pool may keep."""
        heard = [self.send("http://127.0.0.1:81/")[0] for _ in range(4)]
        sockets = [self.reactor.accept(index) for index in range(4)]
        for socket in sockets:
            socket.receive(OK)
        self.turn()
        self.assertEqual([one.ended for one in heard], [1, 1, 1, 1])
        self.assertEqual(sum(not socket.lost for socket in sockets), 2)

    def test_keep_alive(self) -> None:
        """A dead peer is found out by TCP."""
        self.send("http://127.0.0.1:81/")
        self.assertTrue(self.reactor.accept().keep_alive)

    def test_refused(self) -> None:
        """A refused connection is unavailable, and nothing was sent."""
        heard, exchange = self.send("http://127.0.0.1:81/")
        self.reactor.refuse(error.ConnectionRefusedError())
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertFalse(exchange.sent)

    def test_connect_timeout(self) -> None:
        """The dialling is told how long it may take."""
        self.send("http://127.0.0.1:81/")
        self.assertEqual(self.reactor.tcpClients[0][3], 10.0)

    def test_lost_before_the_answer(self) -> None:
        """A connection lost before or within the answer is a failure."""
        for part in (b"", b"HTTP/1.1 200", OK[:-1], OK.replace(b"Content-Length: 2", b"x: y")[:-9]):
            self.setUp()
            heard, _ = self.send("http://127.0.0.1:81/")
            socket = self.reactor.accept()
            if part:
                socket.receive(part)
            socket.lose()
            self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_FAILED)
            self.assertEqual(heard.ended, 0)

    def test_chunked_cut(self) -> None:
        """So is a chunked body without its end."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        socket.lose()
        self.assertEqual((len(heard.failures), heard.ended, heard.body), (1, 0, b"{}"))

    def test_body_to_the_end_of_the_connection(self) -> None:
        """A body that only the end of the connection ends is complete with it."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.0 200 OK\r\n\r\n{}")
        socket.lose()
        self.assertEqual((heard.ended, heard.body), (1, b"{}"))

    def test_nonsense(self) -> None:
        """What is not HTTP is a failure, and the connection is cut."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(b"SSH-2.0-OpenSSH\r\n")
        self.turn()
        self.assertEqual((len(heard.failures), socket.lost), (1, True))

    def test_endless_head(self) -> None:
        """A head of many small headers is cut at the bound."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.1 200 OK\r\n")
        for _ in range(5000):
            socket.receive(b"X-More: and more\r\n")
        self.turn()
        self.assertEqual(heard.failures[0].detail, "the answer's head is too large")
        self.assertTrue(socket.lost)

    def test_endless_interim_answers(self) -> None:
        """So is a row of interim answers."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        for _ in range(500):
            socket.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        self.turn()
        self.assertEqual(len(heard.failures), 1)

    def test_large_body_is_no_large_head(self) -> None:
        """The bound counts the head only, each answer's anew."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            socket.receive(b"x" * 1000)
        self.assertEqual(heard.ended, 1)
        for _ in range(10):
            again, _ = self.send("http://127.0.0.1:81/")
            padded = OK.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 3000 + b"\r\n\r\n")
            socket.receive(padded)
            self.assertEqual(again.ended, 1)
        self.assertEqual(len(self.reactor.dialled), 1)

    def test_encoded_body(self) -> None:
        """A body that is encoded although identity was asked for is not decoded: cut."""
        for coding in (b"gzip", b"br", b"identity, gzip"):
            self.setUp()
            heard, _ = self.send("http://127.0.0.1:81/")
            socket = self.reactor.accept()
            socket.receive(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: "
                + coding
                + b"\r\nContent-Length: 99\r\n\r\n"
            )
            self.turn()
            self.assertIn("encoded", heard.failures[0].detail)
            self.assertEqual((heard.heads, socket.lost), ([], True))

    def test_identity_is_no_encoding(self) -> None:
        """An explicit identity is fine."""
        heard, _ = self.send("http://127.0.0.1:81/")
        self.reactor.accept().receive(
            OK.replace(b"Content-Type", b"Content-Encoding: identity\r\nContent-Type")
        )
        self.assertEqual(heard.ended, 1)

    def test_redirects_are_not_followed(self) -> None:
        """A redirect is an answer like any other; nobody goes there."""
        heard, _ = self.send("http://127.0.0.1:81/")
        self.reactor.accept().receive(
            b"HTTP/1.1 307 Moved\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertEqual((heard.heads[0].status, heard.ended), (307, 1))
        self.assertEqual(len(self.reactor.dialled), 1)

    def test_head(self) -> None:
        """Header names arrive in lower case, repeated values in order, the length apart."""
        heard, _ = self.send("http://127.0.0.1:81/")
        self.reactor.accept().receive(OK.replace(b"Content-Type", b"X-A: 1\r\nx-a: 2\r\nX-T"))
        head = heard.heads[0]
        self.assertEqual(head.headers["x-a"], ("1", "2"))
        self.assertEqual(
            (head.length, head.one("x-a"), head.one("x-t")), (2, None, "application/json")
        )


class AbortTests(WireCase):
    """Giving an exchange up."""

    def test_while_connecting(self) -> None:
        """The attempt is stopped; nothing was sent."""
        heard, exchange = self.send("http://127.0.0.1:81/")
        exchange.abort()
        exchange.abort()
        self.assertEqual((exchange.sent, heard.failures), (False, []))
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_before_the_answer(self) -> None:
        """The connection is cut, and not used again."""
        heard, exchange = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        exchange.abort()
        self.turn()
        self.assertTrue(exchange.sent and socket.lost)
        self.assertEqual(heard.failures, [])

    def test_within_the_body(self) -> None:
        """The connection is cut, and what still arrives is not told."""
        heard, exchange = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(OK[:-1])
        exchange.abort()
        socket.receive(b"}")
        self.turn()
        self.assertTrue(socket.lost)
        self.assertEqual((heard.body, heard.ended, heard.failures), (b"{", 0, []))

    def test_on_the_head(self) -> None:
        """A receiver may give up on seeing the head."""
        heard, exchange = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        heard.head = lambda head: exchange.abort()  # type: ignore[method-assign]
        socket.receive(OK[:-1])
        self.turn()
        self.assertEqual((heard.body, socket.lost), (b"", True))

    def test_whole_answer_at_once(self) -> None:
        """A connection given up is not used again, though its answer came complete just then."""
        encoded = OK.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type")
        for answer, given_up in ((OK, "head"), (OK, "data"), (encoded, "")):
            self.setUp()
            heard, exchange = self.send("http://127.0.0.1:81/")
            socket = self.reactor.accept()
            if given_up:
                setattr(heard, given_up, lambda _, exchange=exchange: exchange.abort())
            socket.receive(answer[:9])
            socket.receive(answer[9:])
            again, _ = self.send("http://127.0.0.1:81/")
            self.assertEqual(len(self.reactor.dialled), 2, given_up)
            self.turn()
            self.assertTrue(socket.lost)
            self.reactor.accept().receive(OK)
            self.assertEqual(again.ended, 1)

    def test_one_piece(self) -> None:
        """An answer that came in one piece is over when it is told: there is nothing to cut."""
        for given_up in ("head", "data"):
            self.setUp()
            heard, exchange = self.send("http://127.0.0.1:81/")
            socket = self.reactor.accept()
            setattr(heard, given_up, lambda _, exchange=exchange: exchange.abort())
            socket.receive(OK)
            socket.clear()
            again, _ = self.send("http://127.0.0.1:81/")
            self.assertIn(b"POST", socket.value())
            socket.receive(OK)
            self.assertEqual((again.ended, len(self.reactor.dialled)), (1, 1))

    def test_after_the_end(self) -> None:
        """Afterwards it does nothing: the connection may be another's by then."""
        _, exchange = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(OK)
        exchange.abort()
        self.turn()
        self.assertFalse(socket.lost)

    def test_receiver_that_fails(self) -> None:
        """An exception of a receiver is logged and ends that exchange only."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()

        def broken(chunk: bytes) -> None:
            raise RuntimeError("a bug")

        heard.data = broken  # type: ignore[method-assign]
        socket.receive(OK)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(len(heard.failures), 1)

    def test_receiver_that_fails_in_pieces(self) -> None:
        """So it does when there is more to come; the connection is not used again."""
        heard, _ = self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()

        def broken(head: Head) -> None:
            raise RuntimeError("a bug")

        heard.head = broken  # type: ignore[method-assign]
        socket.receive(OK[:-1])
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual((len(heard.failures), socket.lost), (1, True))


class ReachTests(WireCase):
    """`Http1Wire.reach` and `close`."""

    table = {"inside.example": ["10.0.0.5"]}

    def test_reached(self) -> None:
        """A connection is opened and closed, and nothing said."""
        reaching = self.wire_to("http://127.0.0.1:81").reach("http://127.0.0.1:81/mcp")
        self.assertNoResult(reaching)
        socket = self.reactor.accept()
        self.successResultOf(reaching)
        self.turn()
        self.assertEqual((socket.lost, socket.value()), (True, b""))

    def test_not_reached(self) -> None:
        """A refusal is told as the failure it is; the egress rules hold here too."""
        reaching = self.wire_to("http://127.0.0.1:81").reach("http://127.0.0.1:81/mcp")
        self.reactor.refuse(error.ConnectionRefusedError())
        failure: Any = self.failureResultOf(reaching, UpstreamFailure).value
        self.assertIs(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        refused: Any = self.failureResultOf(
            self.wire_to("http://inside.example").reach("http://inside.example/")
        ).value
        self.assertIn("allow_private_networks = true", refused.detail)

    def test_close(self) -> None:
        """Closing the wire closes idle connections."""
        self.send("http://127.0.0.1:81/")
        socket = self.reactor.accept()
        socket.receive(OK)
        closing = self.wire_to("http://127.0.0.1:81").close()
        self.turn()
        self.successResultOf(closing)
        self.assertTrue(socket.lost)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ExplainTests(SynchronousTestCase):
    """`explain`."""

    def test_reasons(self) -> None:
        """What could not be dialled is unavailable, what broke off has failed."""
        for why, reason in (
            (DialRefused("no"), Reason.UPSTREAM_UNAVAILABLE),
            (error.TimeoutError(), Reason.UPSTREAM_UNAVAILABLE),
            (error.NoRouteError(), Reason.UPSTREAM_UNAVAILABLE),
            (error.ConnectionLost(), Reason.UPSTREAM_FAILED),
            (ValueError("x"), Reason.UPSTREAM_FAILED),
        ):
            self.assertIs(explain(Failure(why)).reason, reason)

    def test_handshakes(self) -> None:
        """Why a handshake failed is said so that the operator knows what to do."""
        for reason, words in (
            ("tlsv13 alert certificate required", "the server wants a client certificate ("),
            ("tlsv1 alert unknown ca", "the server does not know the CA of our client"),
            ("sslv3 alert certificate expired", "our client certificate expired"),
            ("ssl/tls alert bad certificate", "the server refuses our client certificate"),
            ("ssl/tls alert handshake failure", "it may want a client certificate"),
            ("tlsv1 alert protocol version", "no TLS 1.2 or newer"),
            ("wrong version number", "does not speak TLS on this port (wrong version number)"),
            ("something else", "TLS: something else"),
        ):
            failure = explain(Failure(SSL.Error([("SSL routines", "", reason)])))
            self.assertIs(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
            self.assertIn(words, failure.detail)
        self.assertEqual(explain(Failure(SSL.Error())).detail, "TLS: Error")
        self.assertEqual(explain(Failure(SSL.ZeroReturnError())).detail, "TLS: ZeroReturnError")
        mismatch = explain(Failure(VerificationError(errors=[])))
        self.assertIn("TLS: VerificationError", mismatch.detail)
