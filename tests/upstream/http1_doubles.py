"""A wire in memory: the reactor is a double, every server is the test."""

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import BrowserLikePolicyForHTTPS

from mcpguard.upstream.egress import VettedEndpoint
from mcpguard.upstream.http1_answer import AnswerBounds
from mcpguard.upstream.http1_wire import Http1Wire, WireBounds
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.wire import Exchange, Head
from tests.upstream.socket_doubles import MemoryPoll, Socket, SocketReactor

URL = "http://127.0.0.1:81/"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
ANSWER_BOUNDS = AnswerBounds(max_head_bytes=4096, max_chunk_line=64, max_trailer_bytes=256)
BOUNDS = WireBounds(
    max_connections=8,
    max_streams=4,
    max_waiting=4,
    wait_secs=20.0,
    max_idle=2,
    idle_secs=4.0,
    handshake_secs=10.0,
    busy_secs=1.0,
    max_heads=8,
    max_remembered_head=1024,
    answer=ANSWER_BOUNDS,
)


class Heard:
    """A receiver that keeps what it hears."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.body = b""
        self.ended = 0
        self.failures: list[UpstreamFailure] = []

    def head(self, head: Head) -> None:
        """Keep it."""
        self.heads.append(head)

    def data(self, chunk: bytes) -> None:
        """Keep it."""
        self.body += chunk

    def end(self) -> None:
        """Count it."""
        self.ended += 1

    def whole(self, head: Head, body: bytes) -> None:
        """Keep it, as if it had come in pieces."""
        self.head(head)
        if body:
            self.data(body)
        self.end()

    def lost(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.failures.append(failure)


class WireCase(SynchronousTestCase):
    """A wire on a reactor in memory."""

    table: dict[str, Sequence[str]] = {}
    allow_private = False
    bounds: dict[str, Any] = {}
    socket: type[Socket] = Socket

    def setUp(self) -> None:
        """Build it."""
        self.reactor = SocketReactor(dict(self.table), self.socket)
        self.wires: dict[str, Http1Wire] = {}

    def wire_to(self, url: str) -> Http1Wire:
        """The wire to the server of a URL."""
        scheme, _, rest = url.partition("://")
        origin = f"{scheme}://{rest.partition('/')[0]}"
        if origin not in self.wires:
            endpoint = VettedEndpoint(
                self.reactor,
                origin,
                policy=BrowserLikePolicyForHTTPS(),
                allow_private=self.allow_private,
                connect_timeout=10.0,
                max_addresses=4,
            )
            self.wires[origin] = Http1Wire(
                origin, endpoint, self.reactor, evolve(BOUNDS, **self.bounds), MemoryPoll
            )
        return self.wires[origin]

    def send(self, url: str, body: bytes | None = b"{}", **headers: str) -> tuple[Heard, Exchange]:
        """Send a request."""
        heard = Heard()
        method = "GET" if body is None else "POST"
        return heard, self.wire_to(url).send(method, url, tuple(headers.items()), body, heard)

    def turn(self) -> None:
        """Let the reactor go round."""
        self.reactor.advance(0)
