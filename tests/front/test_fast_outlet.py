"""Answers of the fast channel: the same as any other's, and the ways they take to the socket."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import ClientContextFactory
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection as TcpConnection
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import InvalidHeaderName

from mcpguard.config.settings import CorsSettings
from mcpguard.front.exchange import Headers
from mcpguard.front.fast_channel import FastChannel
from mcpguard.front.fast_outlet import HeadLines
from tests.front.replay import in_one_order
from tests.front.wire import Listener, WireTransport, limited, read_answers, request
from tests.pki import self_signed

SOUND = request("POST /mcp", body=b"{}")

_NAMES = st.sampled_from(
    [
        *("Content-Type", "content-type", "x-ratelimit-limit", "WWW-Authenticate", "Etag", "X-A"),
        *("Content-Length", "Connection", "date", "Server", "Transfer-Encoding", "Cache-Control"),
        *("X-Request-ID", "x-frame-options", "Vary", "X-Accel-Buffering", "Keep-Alive", "TE"),
        *("Mcp-Session-Id", "Retry-After", "x--y", "A1-b2"),
    ]
)
_VALUES = st.sampled_from(
    [
        "",
        "a",
        "text/event-stream",
        " a ",
        "a\r\nX-Evil: b",
        "a\nb",
        "a\rb",
        "\r\n",
        "ä",
        "a\tb",
        "\x00",
    ]
) | st.text(max_size=10).filter(lambda text: text.isascii() or text.isprintable())
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6)


class TheSameAnswers(SynchronousTestCase):
    """`FastOutlet` and `RequestOutlet` over the same calls."""

    def received(self, fast: bool, data: bytes, steps: list[Any], cors: bool) -> bytes:
        """What a client gets when its request is answered like that."""
        settings = CorsSettings(enabled=True, allowed_origins=("http://a.example",))
        listener = Listener(fast=fast, cors=settings if cors else None)
        listener.corridor.hold = True
        client = listener.ask(data)
        _, outlet = listener.corridor.handled[0]
        for name, *arguments in steps:
            getattr(outlet, name)(*arguments)
        self.assertIs(isinstance(client.channel, FastChannel), fast)
        self.assertEqual(listener.site.answers.held, 0)
        return client.received() + b"closed" * client.closed

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(
            [200, 202, 204, 304, 400, 401, 403, 404, 421, 429, 431, 500, 503, 299, 599]
        ),
        _HEADERS,
        st.binary(max_size=20) | st.just(b"x" * 70_000),
        st.booleans(),
        st.lists(st.binary(max_size=20) | st.just(b"y" * 70_000), max_size=3),
        st.booleans(),
        st.booleans(),
    )
    def test_any(
        self,
        status: int,
        headers: Headers,
        body: bytes,
        whole: bool,
        pieces: list[bytes],
        last: bool,
        cors: bool,
    ) -> None:
        """Equal statuses, fields, framing and bodies, byte for byte but for the fields' order."""
        fields = ["Origin: http://a.example", *(["Connection: close"] if last else [])]
        data = request("POST /mcp", *fields, body=b"{}")
        if whole:
            steps: list[Any] = [("answer", status, headers, body)]
        else:
            steps = [("open", status, headers), *(("write", one) for one in pieces), ("finish",)]
        fast = in_one_order(self.received(True, data, steps, cors))
        self.assertEqual(fast, in_one_order(self.received(False, data, steps, cors)))
        self.assertNotIn(b"\r\nX-Evil", fast)

    def test_names_that_are_none(self) -> None:
        """A name that is no token is an error of whoever gives it, as with Twisted."""
        for name in ("", "X A", "X:", "X\r\nY"):
            self.assertRaises(InvalidHeaderName, HeadLines().fields, ((name, "x"),))

    def test_names_are_remembered_within_a_bound(self) -> None:
        """However many names there are."""
        lines = HeadLines()
        for number in range(2_000):
            self.assertEqual(lines.fields(((f"x-{number}", "y"),)), b"X-%d: y\r\n" % number)
        self.assertLessEqual(len(lines._names), 256)


class Socket(TcpConnection):
    """A TCP connection without a socket: ``takes`` of each direct write, then what a test says."""

    def __init__(self, clock: Clock) -> None:
        self.dataBuffer, self._tempDataBuffer = b"", []
        self.clock = clock
        self.takes: int | Exception = 10**9
        self.sent = b""
        self.buffered = b""

    def writeSomeData(self, data: Any) -> Any:
        """Send at once."""
        if isinstance(self.takes, Exception):
            return self.takes
        piece = bytes(data)[: self.takes]
        self.sent += piece
        return len(piece)

    def write(self, data: bytes) -> None:
        """Keep for later."""
        self.buffered += data

    def __getattribute__(self, name: str) -> Any:
        """Everything else does nothing."""
        if name in {"registerProducer", "unregisterProducer", "setTcpNoDelay", "setTcpKeepAlive"}:
            return lambda *args: None
        if name in {"loseConnection", "abortConnection", "pauseProducing", "resumeProducing"}:
            return lambda: None
        if name in {"getPeer", "getHost"}:
            return lambda: None
        return super().__getattribute__(name)


class DirectSends(SynchronousTestCase):
    """Answers go to the socket itself when nothing waits before them."""

    def setUp(self) -> None:
        """A connection over a socket."""
        self.listener = Listener(fast=True)
        self.socket = Socket(self.listener.clock)
        self.channel: Any = self.listener.site.buildProtocol(None)
        self.channel.makeConnection(self.socket)

    def assert_whole(self) -> None:
        """The client gets one whole answer."""
        (answer,) = read_answers(self.socket.sent + self.socket.buffered, "POST")
        self.assertEqual((answer.status, answer.body), (200, b"ok"))

    def test_all_at_once(self) -> None:
        """Nothing is left for the transport."""
        self.channel.dataReceived(SOUND)
        self.assertEqual(self.socket.buffered, b"")
        self.assert_whole()

    def test_part_of_it(self) -> None:
        """What the socket does not take is the transport's, all of it or the last byte."""
        self.channel.dataReceived(SOUND)
        size = len(self.socket.sent)
        for takes in (0, 1, 100, size - 1):
            self.setUp()
            self.socket.takes = takes
            self.channel.dataReceived(SOUND)
            self.assertEqual(
                (len(self.socket.sent), len(self.socket.buffered)), (takes, size - takes)
            )
            self.assert_whole()

    def test_a_lost_connection(self) -> None:
        """A socket that fails leaves all to the transport, which finds that out too."""
        self.socket.takes = ConnectionLost()
        self.channel.dataReceived(SOUND)
        self.assert_whole()

    def test_never_before_what_waits(self) -> None:
        """Bytes that wait in the transport go first."""
        for name, waiting in (("dataBuffer", b"earlier"), ("_tempDataBuffer", [b"earlier"])):
            self.setUp()
            setattr(self.socket, name, waiting)
            self.channel.dataReceived(SOUND)
            self.assertEqual(self.socket.sent, b"")
            self.assert_whole()

    def test_the_start_of_a_stream(self) -> None:
        """The head of a stream waits for the first event; what comes later goes at once."""
        self.listener.corridor.hold = True
        self.channel.dataReceived(SOUND)
        _, outlet = self.listener.corridor.handled[0]
        outlet.open(200, ())
        self.assertEqual(self.socket.sent, b"")
        self.assertTrue(self.socket.buffered.endswith(b"\r\n\r\n"))
        outlet.write(b"data: 1\n\n")
        self.assertEqual(self.socket.sent, b"9\r\ndata: 1\n\n\r\n")

    def test_not_after_an_abort(self) -> None:
        """Nothing is sent past a connection that was dropped."""
        self.listener.corridor.hold = True
        self.channel.dataReceived(SOUND)
        self.channel.abort("slow_reader")
        self.listener.corridor.handled[0][1].answer(200, (), b"late")
        self.assertEqual(self.socket.sent, b"")


class LaterTransport(WireTransport):
    """A transport that is lost a turn later, as TLS takes for granted."""

    def loseConnection(self) -> None:
        """Close."""
        self.disconnecting = True
        if not self.stuck:
            self.clock.callLater(0, self.lose, Failure(ConnectionDone()))


class RawTransport(LaterTransport):
    """Beneath TLS: it has what tempts a protocol above to send past the encryption."""

    dataBuffer = b""
    _tempDataBuffer = ()

    def writeSomeData(self, data: bytes) -> int:
        """Never to be used."""
        raise AssertionError(f"sent in the clear: {data!r}")


class Reader(Protocol):
    """A client that keeps what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        """Note the end."""
        self.lost = True


class OverTls(SynchronousTestCase):
    """The same channel over TLS, client and server in memory."""

    def connect(self, **limits: Any) -> None:
        """Shake hands."""
        self.listener = Listener(fast=True, limits=limited(**limits))
        clock = self.listener.clock
        factory = TLSMemoryBIOFactory(self_signed(), False, self.listener.site, clock)
        self.below = RawTransport(clock, "203.0.113.9")
        self.server: Any = factory.buildProtocol(None)
        self.below.channel = self.server
        self.reader = Reader()
        wanted: Any = None
        options: Any = TLSMemoryBIOFactory(ClientContextFactory(), True, wanted, clock)
        self.client: Any = TLSMemoryBIOProtocol(options, self.reader)
        self.above = LaterTransport(clock, "127.0.0.1")
        self.above.channel = self.client
        self.server.makeConnection(self.below)
        self.client.makeConnection(self.above)
        self.seen = b""
        self.flush()

    @property
    def channel(self) -> Any:
        """What serves the connection."""
        return self.server.wrappedProtocol.dataReceived.__self__

    def flush(self) -> None:
        """Move bytes until none moves."""
        moved = True
        while moved:
            self.listener.clock.advance(0)
            up, down = self.above.value(), self.below.value()
            self.above.clear()
            self.below.clear()
            self.seen += down
            if up and not self.below.lost:
                self.server.dataReceived(up)
            if down and not self.above.lost:
                self.client.dataReceived(down)
            moved = bool(up or down)

    def send(self, data: bytes) -> None:
        """Send as the client."""
        self.client.write(data)
        self.flush()

    def test_requests(self) -> None:
        """Requests are served by the fast channel, and nothing leaves in the clear."""
        self.connect()
        for _ in range(3):
            self.send(SOUND)
        self.send(SOUND + SOUND[:40])
        self.send(SOUND[40:])
        self.assertIsInstance(self.channel, FastChannel)
        self.assertFalse(self.channel._direct)
        self.assertEqual(len(read_answers(self.reader.received, "POST " * 5)), 5)
        self.assertNotIn(b"HTTP/1.1", self.seen)

    def test_streams(self) -> None:
        """Streams and what follows them."""
        self.connect()
        self.listener.corridor.hold = True
        self.send(SOUND + SOUND)
        _, outlet = self.listener.corridor.handled[0]
        outlet.open(200, ())
        self.flush()
        self.assertIn(b"chunked", self.reader.received)
        outlet.write(b"data: 1\n\n")
        outlet.finish()
        self.listener.corridor.handled[1][1].answer(200, (), b"ok")
        self.flush()
        bodies = [one.body for one in read_answers(self.reader.received, "POST POST")]
        self.assertEqual(bodies, [b"data: 1\n\n", b"ok"])

    def test_everything_else_leaves(self) -> None:
        """Other requests go over to the general channel, and the connection goes on."""
        self.connect()
        self.send(SOUND + request("PUT /mcp") + SOUND)
        self.send(SOUND)
        self.assertNotIsInstance(self.channel, FastChannel)
        self.assertEqual(len(read_answers(self.reader.received, "POST PUT POST POST")), 4)

    def test_closing(self) -> None:
        """``Connection: close``: answered, closed, nothing that still comes is served."""
        self.connect()
        self.send(request("POST /mcp", "Connection: close", body=b"{}") + SOUND)
        self.client.write(SOUND)
        self.flush()
        (answer,) = read_answers(self.reader.received, "POST")
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertEqual(len(self.listener.corridor.handled), 1)
        self.assertTrue(self.reader.lost or self.below.disconnecting)

    def test_refusals(self) -> None:
        """What is refused while it is read is answered as well."""
        self.connect()
        self.send(request("POST /mcp", "Content-Length: 5000"))
        (answer,) = read_answers(self.reader.received, "POST")
        self.assertEqual(answer.status, 413)

    def test_large_answers_wait_for_the_client(self) -> None:
        """A client that does not read gets no more than the transport buffers, and is dropped."""
        self.connect()
        self.below.stuck = True
        self.listener.corridor.hold = True
        self.send(SOUND)
        self.listener.corridor.handled[0][1].answer(200, (), b"x" * 1_000_000)
        for _ in range(5):
            self.listener.clock.advance(0)
        self.assertGreater(self.listener.site.answers.held, 500_000)
        self.assertTrue(self.channel.congested)
        self.listener.pass_time(31)
        self.assertTrue(self.below.aborted)
        self.assertEqual(self.listener.dropped, ["slow_reader"])

    def test_a_client_that_leaves(self) -> None:
        """Nothing is left of it."""
        self.connect()
        self.listener.corridor.hold = True
        self.send(SOUND)
        self.below.lose(Failure(ConnectionDone()))
        self.assertTrue(self.listener.corridor.handled[0][1].gone)
        self.assertEqual(self.listener.site.connections, 0)
