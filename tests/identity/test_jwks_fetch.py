"""Tests of fetching keys, from a server that the test plays on a reactor in memory."""

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import BrowserLikePolicyForHTTPS

from mcpguard.identity.jwks_fetch import FAILURES, FetchBounds, FetchFailed, JwksEndpoint
from mcpguard.upstream.egress import VettedEndpoint
from tests.upstream.socket_doubles import Socket, SocketReactor

URL = "http://127.0.0.1:81/keys?tenant=secret"
BOUNDS = FetchBounds(total_secs=10.0, answer_bytes=4096)
TABLE: dict[str, Sequence[str]] = {
    "inside.example": ["10.0.0.5"],
    "metadata.internal": ["169.254.169.254"],
    "login.example": ["93.184.216.34"],
    "many.example": [f"93.184.216.{last}" for last in range(1, 9)],
}


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


class FetchCase(SynchronousTestCase):
    """A fetch in memory."""

    def setUp(self) -> None:
        """Make the reactor."""
        self.reactor = SocketReactor(dict(TABLE))

    def fetch(self, url: str = URL, *, allow_private: bool = False) -> Deferred[bytes]:
        """Begin one."""
        endpoint = VettedEndpoint(
            self.reactor,
            url,
            policy=BrowserLikePolicyForHTTPS(),
            allow_private=allow_private,
            connect_timeout=10.0,
            max_addresses=4,
        )
        return JwksEndpoint(url, endpoint, self.reactor, BOUNDS).fetch()

    def failure(self, fetching: Deferred[bytes], word: str) -> str:
        """The details of a fetch that failed for a reason."""
        failed = self.failureResultOf(fetching, FetchFailed).value
        self.assertEqual(failed.word, word)
        self.assertIn(word, FAILURES)
        self.assertNotIn("secret", str(failed))
        return str(failed)

    def said(self, data: bytes, word: str) -> tuple[str, Socket]:
        """The details of a fetch that the server answered in a way that is refused."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        socket.receive(data)
        self.reactor.advance(0)
        detail = self.failure(fetching, word)
        self.assertTrue(socket.lost, "the connection was left open")
        return detail, socket


class AnswerTests(FetchCase):
    """What the server says."""

    def test_keys(self) -> None:
        """The body of a good answer, and one plain request for it; then the connection ends."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        lines = socket.value().decode().split("\r\n")
        self.assertEqual(lines[0], "GET /keys?tenant=secret HTTP/1.1")
        sent = {line.lower() for line in lines if line}
        self.assertIn("host: 127.0.0.1:81", sent)
        self.assertIn("connection: close", sent)
        self.assertIn("accept-encoding: identity", sent)
        self.assertEqual({line for line in sent if line.startswith(("cookie", "auth"))}, set())
        socket.receive(answer(b'{"keys":[]}', "Set-Cookie: a=b"))
        self.assertEqual(self.successResultOf(fetching), b'{"keys":[]}')
        self.reactor.advance(0)
        self.assertTrue(socket.lost)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_in_pieces(self) -> None:
        """However the answer is cut and whether it is chunked."""
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        fetching = self.fetch()
        socket = self.reactor.accept()
        for index in range(len(data)):
            socket.receive(data[index : index + 1])
        self.assertEqual(self.successResultOf(fetching), b"{}")

    def test_until_the_end_of_the_connection(self) -> None:
        """A body without a length ends with the connection."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.0 200 OK\r\n\r\n{}")
        self.assertNoResult(fetching)
        socket.lose(ConnectionDone())
        self.assertEqual(self.successResultOf(fetching), b"{}")

    def test_redirects(self) -> None:
        """A redirect is an error of its own; nothing else is dialled."""
        for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
            self.reactor = SocketReactor()
            self.said(answer(b"", "Location: http://169.254.169.254/", status=status), "redirect")
            self.assertEqual(len(self.reactor.dialled), 1)

    def test_statuses(self) -> None:
        """Only 200 is an answer."""
        for status in ("500 Oops", "404 Not Found", "204 Nothing", "206 Part", "401 Who"):
            detail, _ = self.said(answer(b"", status=status), "status")
            self.assertIn(status[:3], detail)

    def test_codings(self) -> None:
        """What is compressed is refused before anything is decompressed, however it is said."""
        for headers in (
            ["Content-Encoding: gzip"],
            ["Content-Encoding: identity, br"],
            ["Content-Encoding: identity", "Content-Encoding: deflate"],
        ):
            self.said(answer(b"x", *headers), "encoded")
        fetching = self.fetch()
        self.reactor.accept().receive(answer(b"{}", "Content-Encoding: Identity"))
        self.assertEqual(self.successResultOf(fetching), b"{}")

    def test_too_large_by_its_length(self) -> None:
        """An answer that says it is too large is not read."""
        self.said(answer(b"", length=BOUNDS.answer_bytes + 1), "too_large")

    def test_too_large_chunks(self) -> None:
        """Chunks without end are cut at the bound."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunks = 0
        while not socket.lost:
            socket.receive(b"100\r\n" + b"x" * 256 + b"\r\n")
            self.reactor.advance(0)
            chunks += 1
        self.assertEqual(chunks, 16)
        self.failure(fetching, "too_large")

    def test_too_large_without_a_body(self) -> None:
        """A head without end, and interim answers without end, count as well."""
        for first, endless in (
            (b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n"),
            (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        ):
            fetching = self.fetch()
            socket = self.reactor.accept()
            socket.receive(first)
            for _ in range(4096):
                socket.receive(endless)
                self.reactor.advance(0)
            self.assertTrue(socket.lost)
            self.failure(fetching, "too_large")

    def test_largest(self) -> None:
        """An answer of exactly the bound is taken."""
        size = BOUNDS.answer_bytes - len(answer(b"", length=4000))
        fetching = self.fetch()
        self.reactor.accept().receive(answer(b"x" * size))
        self.assertEqual(len(self.successResultOf(fetching)), size)

    def test_no_http(self) -> None:
        """Garbage, a connection that ends, and half an answer."""
        self.said(b"SSH-2.0-OpenSSH\r\n" * 3, "malformed")
        for data in (b"", b"HTTP/1.1 200 OK\r\n", answer(b"{", length=5)):
            fetching = self.fetch()
            socket = self.reactor.accept()
            socket.receive(data)
            socket.lose(ConnectionLost())
            self.failure(fetching, "malformed")


class TimeTests(FetchCase):
    """One deadline covers everything."""

    def late(self, *data: bytes) -> None:
        """A server that says so much within the time, and no more."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        for piece in data:
            socket.receive(piece)
        self.reactor.advance(BOUNDS.total_secs - 0.01)
        self.assertNoResult(fetching)
        self.reactor.advance(0.02)
        self.failure(fetching, "timeout")
        self.reactor.advance(0)
        self.assertTrue(socket.lost)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_silent_server(self) -> None:
        """No head."""
        self.late()

    def test_stalled_head(self) -> None:
        """Half a head."""
        self.late(b"HTTP/1.1 200 OK\r\nX: y")

    def test_stalled_body(self) -> None:
        """Half a body."""
        self.late(answer(b"{", length=5))

    def test_trickle(self) -> None:
        """A byte now and then does not help."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        socket.receive(answer(b"", length=4000))
        for _ in range(10):
            socket.receive(b"x")
            self.reactor.advance(1)
        self.failure(fetching, "timeout")

    def test_no_connection(self) -> None:
        """Nobody takes the connection; what would be dialled next is not."""
        fetching = self.fetch("http://many.example/keys")
        self.reactor.advance(BOUNDS.total_secs)
        self.failure(fetching, "timeout")
        before = len(self.reactor.dialled)
        self.reactor.advance(100)
        self.assertEqual(len(self.reactor.dialled), before)

    def test_silent_resolver(self) -> None:
        """The name is not resolved."""
        self.reactor.resolver.silent = True
        fetching = self.fetch("http://login.example/keys")
        self.reactor.advance(BOUNDS.total_secs)
        self.failure(fetching, "timeout")

    def test_cancelled(self) -> None:
        """Nobody wants it any more: the connection ends at once."""
        fetching = self.fetch()
        socket = self.reactor.accept()
        socket.receive(answer(b"{", length=5))
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        self.reactor.advance(0)
        self.assertTrue(socket.lost)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class DialTests(FetchCase):
    """Who is dialled."""

    def test_private(self) -> None:
        """A public name that leads inside is refused with the hint, unless that is allowed."""
        detail = self.failure(self.fetch("https://inside.example/keys"), "refused")
        self.assertIn("allow_private_networks = true", detail)
        self.assertEqual(self.reactor.dialled, [])
        self.fetch("https://inside.example/keys", allow_private=True)
        self.assertEqual(self.reactor.dialled, [("10.0.0.5", 443)])

    def test_metadata(self) -> None:
        """Metadata addresses are never dialled."""
        for host in ("metadata.internal", "169.254.169.254", "[fd00:ec2::254]"):
            self.failure(self.fetch(f"https://{host}/keys", allow_private=True), "refused")
        self.assertEqual(self.reactor.dialled, [])

    def test_unknown_name(self) -> None:
        """A name without addresses."""
        self.failure(self.fetch("https://nowhere.example/keys"), "unreachable")

    def test_closed_port(self) -> None:
        """Nobody listens."""
        fetching = self.fetch()
        self.reactor.refuse(ConnectionRefusedError())
        self.failure(fetching, "unreachable")

    def test_address_of_ipv6(self) -> None:
        """The URL of an IPv6 address."""
        fetching = self.fetch("http://[::1]:81/keys")
        self.assertEqual(self.reactor.dialled, [("::1", 81)])
        socket = self.reactor.accept()
        self.assertIn(b"\r\nHost: [::1]:81\r\n", socket.value())
        socket.receive(answer(b"{}"))
        self.assertEqual(self.successResultOf(fetching), b"{}")

    def test_no_tls(self) -> None:
        """A server that does not speak TLS where it should."""
        fetching = self.fetch("https://login.example/keys")
        socket = self.reactor.accept()
        socket.receive(b"HTTP/1.1 400 Plain HTTP\r\n\r\n")
        self.reactor.advance(0)
        words = "TLS: the server does not speak TLS on this port (wrong version number)"
        self.assertEqual(self.failure(fetching, "tls"), words)

    def test_shown(self) -> None:
        """For the log: the URL without its query."""
        endpoint = VettedEndpoint(
            self.reactor,
            URL,
            policy=BrowserLikePolicyForHTTPS(),
            allow_private=False,
            connect_timeout=10.0,
            max_addresses=4,
        )
        one = JwksEndpoint(URL, endpoint, self.reactor, BOUNDS)
        self.assertEqual(one.shown, "http://127.0.0.1:81/keys")
        self.assertNotIn("secret", repr(one))
