"""The front at real sockets: hostile and slow clients in threads, plain and over TLS."""

import socket
import ssl
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mcpguard.front.bounds import Limits
from mcpguard.front.exchange import Outlet
from mcpguard.front.pages import PageAccess, Vitals
from mcpguard.front.routes import ClientRoutes
from mcpguard.front.site import GuardSite
from tests.doubles import RecordingCorridor
from tests.front.wire import read_answers, request
from tests.live.secure import Secure

reactor: Any = global_reactor
LIMITS = Limits(
    body_bytes=100_000,
    body_bytes_total=1_000_000,
    header_bytes=8192,
    header_count=50,
    connections=40,
    connections_per_address=40,
    idle_secs=20,
    head_secs=1,
    body_secs=1,
    stall_secs=2,
    linger_secs=2,
    stream_buffer_bytes=200_000,
    answer_bytes_total=10_000_000,
    keepalive_secs=0.5,
)
EVENTS = (("Content-Type", "text/event-stream"),)
SOUND = request("POST /mcp", body=b"{}")


def receive_all(connection: socket.socket) -> bytes:
    """Read until the other side closes; a reset counts as the end."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def send_regardless(connection: socket.socket, data: bytes) -> bool:
    """Send as a client does that does not listen yet; False when the connection broke."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


class RealSockets(TestCase):
    """A client listener on loopback."""

    timeout = 30

    def setUp(self) -> None:
        """Listen on any free port."""
        self.corridor = RecordingCorridor()
        self.dropped: list[str] = []
        clock: IReactorTime = reactor
        vitals = Vitals(
            version="9.9",
            started_at=clock.seconds(),
            seconds=clock.seconds,
            readiness=lambda: (True, ""),
            metrics=lambda: b"",
            metrics_type="text/plain",
            routes=list,
        )
        ids = iter(range(10_000))
        self.site = GuardSite(
            reactor=clock,
            wall=time.time,
            gate=self.corridor,
            resource=ClientRoutes(
                self.corridor, vitals, PageAccess.OPEN, lambda _: None
            ).resource(),
            limits=LIMITS,
            cors=None,
            new_id=lambda: str(next(ids)),
            on_dropped=self.dropped.append,
            corridor=self.corridor,
        )
        self.port = self.listen()
        self.addCleanup(self.close)

    def listen(self) -> Any:
        """Open the listener."""
        return reactor.listenTCP(0, self.site, interface="127.0.0.1")

    async def close(self) -> None:
        """Stop listening and let every connection end."""
        await maybeDeferred(self.port.stopListening)
        await self.site.drain(0)

    def connect(self) -> socket.socket:
        """Open a connection; for threads."""
        return socket.create_connection(("127.0.0.1", self.port.getHost().port), timeout=10)

    def talk(self, data: bytes, methods: str) -> list[int]:
        """Send, read to the end, and tell the statuses; for threads."""
        with self.connect() as connection:
            send_regardless(connection, data)
            return [answer.status for answer in read_answers(receive_all(connection), methods)]

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Wait in the reactor for something to become true."""
        done: Deferred[None] = Deferred()

        def look() -> None:
            if condition():
                done.callback(None)
            else:
                reactor.callLater(0.02, look)

        look()
        return done


class PlainSockets(RealSockets):
    """Over TCP."""

    async def test_library_client(self) -> None:
        """The standard library's client keeps its connection over several requests."""

        def several() -> list[bytes]:
            client = HTTPConnection("127.0.0.1", self.port.getHost().port, timeout=10)
            bodies = []
            for body in (b"{}", b"x" * 100_000):
                client.request("POST", "/mcp", body)
                bodies.append(client.getresponse().read())
            client.request("GET", "/live")
            bodies.append(client.getresponse().read())
            client.close()
            return bodies

        bodies = await deferToThread(several)
        self.assertEqual(bodies, [b"ok", b"ok", b'{"status": "alive"}'])
        self.assertEqual(len(self.corridor.handled[1][0].body), 100_000)
        self.assertEqual(self.corridor.handled[0][0].peer, "127.0.0.1")

    async def test_refusal_reaches_a_client_that_goes_on_sending(self) -> None:
        """The 413 is read by a client that sends all its megabytes first, and is not reset."""

        def upload(head: bytes, body: bytes) -> tuple[bool, list[int]]:
            with self.connect() as connection:
                sent = send_regardless(connection, head + body)
                answers = read_answers(receive_all(connection), "POST")
                return sent, [answer.status for answer in answers]

        size = 20_000_000
        announced = request("POST /mcp", f"Content-Length: {size}")
        chunked = request("POST /mcp", "Transfer-Encoding: chunked")
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)
        for head, body in ((announced, b"x" * size), (chunked, chunks)):
            self.assertEqual(await deferToThread(upload, head, body), (True, [413]))
        self.assertEqual(self.corridor.handled, [])

    async def test_smuggling(self) -> None:
        """A second request hidden in the first is neither served nor answered."""
        hidden = b"GET /mcp/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
        for fields in (
            ("Content-Length: 4", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: x"),
            ("Transfer-Encoding: chunked, identity",),
            ("Content-Length: 0", f"Content-Length: {len(hidden)}"),
        ):
            data = request("POST /mcp", *fields, body=b"0\r\n\r\n" + hidden)
            self.assertEqual(await deferToThread(self.talk, data, "POST"), [400])
        for data in (
            b"POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\t: chunked\r\n\r\n" + hidden,
            b"POST /mcp HTTP/1.1\r\nHost: x\r\nX: y\r\n Content-Length: 9\r\n\r\n" + hidden,
            b"POST /mcp HTTP/1.1\r\nHost: x\r\nX: y\nContent-Length: 9\r\n\r\n" + hidden,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ):
            (status,) = await deferToThread(self.talk, data, "POST")
            self.assertIn(status, (400, 505))
        self.assertEqual(self.corridor.handled, [])

    async def test_pipelining(self) -> None:
        """Two hundred requests at once are answered in order."""

        def pipeline() -> list[str]:
            with self.connect() as connection:
                requests = [request("POST /mcp", body=b"%d" % n) for n in range(199)]
                last = request("GET /live", "Connection: close")
                connection.sendall(b"".join([*requests, last]))
                answers = read_answers(receive_all(connection), "POST " * 199 + "GET")
                return [answer.headers["X-Request-Id"] for answer in answers]

        self.assertEqual(await deferToThread(pipeline), [str(n) for n in range(200)])
        bodies = [incoming.body for incoming, _ in self.corridor.handled]
        self.assertEqual(bodies, [b"%d" % n for n in range(199)])

    async def test_slowloris(self) -> None:
        """Clients that drip are gone after the deadlines; others are served meanwhile."""

        def drip(start: bytes) -> int:
            began = time.monotonic()
            with self.connect() as connection:
                connection.sendall(start)
                while time.monotonic() - began < 40:
                    connection.settimeout(0.1)
                    try:
                        received = connection.recv(1000)
                    except TimeoutError:
                        send_regardless(connection, b"x")
                        continue
                    return int(received.split(b" ")[1])
            return 0

        starts = [b"GET /mcp HTTP/1.1\r\nX: ", request("POST /mcp", "Content-Length: 9999")] * 4
        dripping = [deferToThread(drip, start) for start in starts]
        self.assertEqual(
            await deferToThread(self.talk, request("GET /live", "Connection: close"), "GET"), [200]
        )
        for one in dripping:
            self.assertEqual(await one, 408)

    async def test_stream_that_nobody_reads(self) -> None:
        """A client that never reads its stream is dropped; what was kept for it is bounded."""
        self.corridor.hold = True
        connection = self.connect()
        self.addCleanup(connection.close)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(SOUND)
        await self.until(lambda: bool(self.corridor.handled))
        outlet: Outlet = self.corridor.handled[0][1]
        outlet.open(200, EVENTS)
        written = 0
        while not outlet.gone and written < 100_000_000:
            outlet.write(b"data: %s\n\n" % (b"x" * 10_000))
            written += 10_000
            if written % 500_000 == 0:
                await self.until(lambda: True)
        self.assertTrue(outlet.gone)
        self.assertEqual(self.dropped, ["slow_reader"])
        await self.until(lambda: self.site.connections == 0)

    async def test_answer_that_nobody_reads(self) -> None:
        """Nor does a large answer wait for ever."""
        self.corridor.hold = True
        connection = self.connect()
        self.addCleanup(connection.close)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(SOUND)
        await self.until(lambda: bool(self.corridor.handled))
        self.corridor.handled[0][1].answer(200, (), b"x" * 50_000_000)
        await self.until(lambda: self.site.connections == 0)
        self.assertEqual(self.dropped, ["slow_reader"])

    async def test_stream(self) -> None:
        """Events arrive as they are sent, comments when there are none, and the loss is noticed."""
        self.corridor.hold = True

        def read_some() -> bytes:
            with self.connect() as connection:
                connection.sendall(request("GET /mcp", "Accept: text/event-stream"))
                response = HTTPResponse(connection)
                response.begin()
                return response.readline() + response.readline() + response.readline()

        reading = deferToThread(read_some)
        await self.until(lambda: bool(self.corridor.handled))
        outlet = self.corridor.handled[0][1]
        lost: Deferred[None] = Deferred()
        outlet.on_gone(lambda: lost.callback(None))
        outlet.open(200, EVENTS)
        outlet.write(b"data: 1\n\n")
        self.assertEqual(await reading, b"data: 1\n\n:\r\n")
        await lost
        self.assertTrue(outlet.gone)

    async def test_too_many(self) -> None:
        """The connection above the cap is dropped, the others are not disturbed."""
        connections = [self.connect() for _ in range(LIMITS.connections)]
        for connection in connections:
            self.addCleanup(connection.close)
        await self.until(lambda: self.site.connections == LIMITS.connections)
        extra = self.connect()
        self.addCleanup(extra.close)
        self.assertEqual(await deferToThread(receive_all, extra), b"")
        self.assertEqual(self.dropped, ["too_many_connections"])
        connections[0].sendall(SOUND)
        self.assertIn(b"200 OK", await deferToThread(connections[0].recv, 1000))

    async def test_drain(self) -> None:
        """Draining closes the idle connection at once and lets the busy one finish."""
        self.corridor.hold = True
        idle, busy = self.connect(), self.connect()
        self.addCleanup(idle.close)
        self.addCleanup(busy.close)
        busy.sendall(SOUND)
        await self.until(lambda: bool(self.corridor.handled) and self.site.connections == 2)
        await self.port.stopListening()
        drained = self.site.drain(10)
        self.assertEqual(await deferToThread(receive_all, idle), b"")
        self.assertFalse(drained.called)
        self.corridor.handled[0][1].answer(200, (), b"done")
        (answer,) = read_answers(await deferToThread(receive_all, busy), "POST")
        self.assertEqual((answer.body, answer.headers["Connection"]), (b"done", "close"))
        self.assertEqual(await drained, 0)


class TLSSockets(RealSockets):
    """Over TLS: the same channel, behind Twisted's TLS transport."""

    def listen(self) -> Any:
        """Open the listener with TLS."""
        directory = Path(self.mktemp())
        directory.mkdir()
        self.secure = Secure(directory)
        return reactor.listenTCP(0, self.secure.factory(self.site), interface="127.0.0.1")

    def connect(self) -> ssl.SSLSocket:
        """Open a TLS connection; for threads."""
        context = self.secure.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context.wrap_socket(super().connect())

    async def test_requests(self) -> None:
        """Requests are answered, one after the other, and HTTP/2 is not agreed to."""

        def several() -> tuple[str | None, list[int]]:
            with self.connect() as connection:
                connection.sendall(SOUND + request("GET /live", "Connection: close"))
                answers = read_answers(receive_all(connection), "POST GET")
                return connection.selected_alpn_protocol(), [one.status for one in answers]

        self.assertEqual(await deferToThread(several), ("http/1.1", [200, 200]))

    async def test_malformed(self) -> None:
        """What follows a refused request is not served, though TLS still delivers it."""
        data = request("POST /mcp", "Content-Length: 1", "Content-Length: 1")

        def refused() -> list[int]:
            with self.connect() as connection:
                connection.sendall(data)
                send_regardless(connection, SOUND)
                return [one.status for one in read_answers(receive_all(connection), "POST")]

        self.assertEqual(await deferToThread(refused), [400])
        self.assertEqual(self.corridor.handled, [])

    async def test_no_handshake(self) -> None:
        """A client that never shakes hands is closed by the deadline of the head."""
        plain = socket.create_connection(("127.0.0.1", self.port.getHost().port), timeout=10)
        self.addCleanup(plain.close)
        self.assertEqual(await deferToThread(receive_all, plain), b"")

    async def test_large_answer(self) -> None:
        """A large answer arrives whole."""
        self.corridor.hold = True

        def ask() -> int:
            with self.connect() as connection:
                connection.sendall(request("POST /mcp", "Connection: close", body=b"{}"))
                return len(read_answers(receive_all(connection), "POST")[0].body)

        asking = deferToThread(ask)
        await self.until(lambda: bool(self.corridor.handled))
        self.corridor.handled[0][1].answer(200, (), b"x" * 3_000_000)
        self.assertEqual(await asking, 3_000_000)

    async def test_answer_that_nobody_reads(self) -> None:
        """Nor does a large answer wait for ever here."""
        self.corridor.hold = True
        connection = await deferToThread(self.connect)
        self.addCleanup(connection.close)
        connection.sendall(SOUND)
        await self.until(lambda: bool(self.corridor.handled))
        self.corridor.handled[0][1].answer(200, (), b"x" * 50_000_000)
        await self.until(lambda: self.site.connections == 0)
        self.assertEqual(self.dropped, ["slow_reader"])
