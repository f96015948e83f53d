"""A client and a listener in memory, joined by a transport whose reader can stop reading."""

from http.client import HTTPResponse
from io import BytesIO
from typing import Any
from unittest import TestResult

from attrs import define, evolve, field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase as TestCase
from zope.interface import implementer

from mcpguard.config.settings import CorsSettings
from mcpguard.front.bounds import Limits
from mcpguard.front.cors import Cors
from mcpguard.front.pages import PageAccess, Vitals
from mcpguard.front.routes import ClientRoutes
from mcpguard.front.site import GuardSite
from tests.doubles import RecordingCorridor

SMALL = Limits(
    body_bytes=1000,
    body_bytes_total=100_000,
    header_bytes=2000,
    header_count=20,
    connections=4,
    connections_per_address=3,
    idle_secs=60,
    head_secs=10,
    body_secs=20,
    stall_secs=30,
    linger_secs=5,
    stream_buffer_bytes=100_000,
    answer_bytes_total=10_000_000,
    keepalive_secs=15,
)
_FAST = [False]


class ByFastChannel(TestCase):
    """Before another case: its listeners have the fast channel."""

    def run(self, result: TestResult | None = None) -> TestResult | None:
        """Run one test."""
        _FAST.append(True)
        self.addCleanup(_FAST.pop)
        outcome: TestResult | None = super().run(result)
        return outcome


FULL = 65_536
"""Bytes a real transport buffers before it tells its producer to pause."""


@frozen
class Answer:
    """One answer as the standard library's client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Source:
    """The socket `HTTPResponse` wants."""

    def __init__(self, data: bytes) -> None:
        self.file = BytesIO(data)
        self.file.close = lambda: None  # type: ignore[method-assign]

    def makefile(self, mode: str) -> BytesIO:
        return self.file


def read_answers(data: bytes, methods: str) -> list[Answer]:
    """Read all that was received as the answers to requests with these methods, in order."""
    source = _Source(data)
    answers = []
    for method in methods.split():
        response = HTTPResponse(
            source,  # type: ignore[arg-type]
            method=method,
        )
        response.begin()
        body = response.read()
        found = response.headers
        headers = {name: ", ".join(found.get_all(name, [])) for name in found}
        answers.append(Answer(response.status, headers, body))
    rest = source.file.read()
    assert rest == b"", f"more than the answers: {rest[:200]!r}"
    return answers


@implementer(ITCPTransport)
class WireTransport(StringTransport):
    """TCP in memory; what real transports do a turn later happens at the clock's next turn."""

    def __init__(self, clock: Clock, peer: str) -> None:
        super().__init__(IPv4Address("TCP", "127.0.0.1", 3000), IPv4Address("TCP", peer, 50_000))
        self.clock = clock
        self.options: set[str] = set()
        self.stuck = False
        self.unread = 0
        self.half_closed = False
        self.aborted = False
        self.lost = False
        self.channel: Any = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Note the option."""
        self.options |= {"nodelay"} if enabled else set()

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Note the option."""
        self.options |= {"keepalive"} if enabled else set()

    def getTcpNoDelay(self) -> bool:
        """Tell the option."""
        return "nodelay" in self.options

    def getTcpKeepAlive(self) -> bool:
        """Tell the option."""
        return "keepalive" in self.options

    def write(self, data: bytes) -> None:
        """Take bytes, and say stop when the client leaves too many unread."""
        super().write(data)
        if self.stuck:
            self.unread += len(data)
            if self.unread > FULL and self.producer is not None:
                self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Take bytes in pieces."""
        self.write(b"".join(data))

    def read_on(self) -> None:
        """The client has read all there is, but will not read what comes next."""
        self.unread = 0
        if self.producer is not None:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        """Close when the client has read everything."""
        super().loseConnection()
        if not self.stuck:
            self.lose(Failure(ConnectionDone()))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take a producer; one that is to be asked is asked at once."""
        super().registerProducer(producer, streaming)
        if not streaming:
            producer.resumeProducing()

    def startWriting(self) -> None:
        """Look in the next turn whether all is sent, and have the producer go on if it is."""
        self.clock.callLater(0, self._look)

    def _look(self) -> None:
        if self.producer is not None and not (self.stuck and self.unread):
            self.producer.resumeProducing()

    def getHandle(self) -> "WireTransport":
        """What has the descriptor."""
        return self

    def fileno(self) -> int:
        """A descriptor that nothing has."""
        return 1_000_000

    def loseWriteConnection(self) -> None:
        """Close our half."""
        self.half_closed = True

    def abortConnection(self) -> None:
        """Reset the connection."""
        self.aborted = True
        self.clock.callLater(0, self.lose, Failure(ConnectionAborted()))

    def lose(self, reason: Failure) -> None:
        """Tell the channel, once, that it is over."""
        if not self.lost and self.channel is not None:
            self.lost = True
            self.channel.connectionLost(reason)


@define(eq=False)
class Client:
    """One connection."""

    transport: WireTransport
    protocol: Any
    """What the transport tells of bytes and the end."""

    @property
    def channel(self) -> Any:
        """What serves the connection now."""
        return self.protocol.dataReceived.__self__

    def send(self, data: bytes) -> None:
        """Deliver bytes, as TCP would: not when reading is paused or the connection is lost."""
        assert self.transport.producerState != "paused", "the gateway does not read now"
        if not self.transport.lost:
            self.protocol.dataReceived(data)

    def received(self) -> bytes:
        """Everything the gateway wrote so far."""
        received: bytes = self.transport.value()
        return received

    def answers(self, methods: str) -> list[Answer]:
        """Everything the gateway wrote so far, read as answers."""
        return read_answers(self.received(), methods)

    def answer(self, method: str = "POST") -> Answer:
        """Everything the gateway wrote so far, read as one answer."""
        (answer,) = self.answers(method)
        return answer

    def leave(self) -> None:
        """Close the connection from the client's side."""
        self.transport.lose(Failure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the gateway takes nothing more and said so to the client."""
        return self.transport.lost or self.transport.half_closed or self.transport.disconnecting


@define(eq=False)
class Listener:
    """A client listener with every piece of the front, over a recording corridor."""

    clock: Clock = field(factory=Clock)
    corridor: RecordingCorridor = field(factory=RecordingCorridor)
    limits: Limits = SMALL
    cors: CorsSettings | None = None
    access: PageAccess = PageAccess.OPEN
    ready: tuple[bool, str] = (True, "")
    metrics: bytes | Deferred[bytes] = b"up 1\n"
    fast: bool = field(factory=lambda: _FAST[-1])
    """Whether canonical POSTs are served by the fast channel."""
    documents: dict[str, dict[str, Any]] = field(factory=dict)
    """Resource metadata by path."""
    dropped: list[str] = field(factory=list)
    site: GuardSite = field(init=False)

    def __attrs_post_init__(self) -> None:
        ids = iter(range(1, 1_000_000))
        self.site = GuardSite(
            reactor=self.clock,
            wall=lambda: 1_700_000_000.0 + self.clock.seconds(),
            gate=self.corridor,
            resource=ClientRoutes(
                self.corridor, self.vitals(), self.access, lambda one: self.documents.get(one.path)
            ).resource(),
            limits=self.limits,
            cors=Cors(self.cors) if self.cors is not None else None,
            new_id=lambda: f"request-{next(ids)}",
            on_dropped=self.dropped.append,
            corridor=self.corridor if self.fast else None,
        )

    def vitals(self) -> Vitals:
        """What the operator pages report."""
        return Vitals(
            version="9.9",
            started_at=0.0,
            seconds=self.clock.seconds,
            readiness=lambda: self.ready,
            metrics=lambda: self.metrics,
            metrics_type="text/plain; version=0.0.4",
            routes=lambda: [{"name": "fs", "path": "/mcp/fs"}],
        )

    def connect(self, peer: str = "203.0.113.9") -> Client:
        """Open a connection."""
        transport = WireTransport(self.clock, peer)
        channel = self.site.buildProtocol(None)
        transport.channel = channel
        channel.makeConnection(transport)
        return Client(transport, channel)

    def ask(self, data: bytes) -> Client:
        """Open a connection and send these bytes."""
        client = self.connect()
        client.send(data)
        return client

    def converse(self, data: bytes) -> Answer:
        """Send one request over a connection of its own and take the answer."""
        client = self.ask(data)
        answer = client.answer(data.split(b" ")[0].decode())
        client.leave()
        return answer

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from one thing that is due to the next."""
        end = self.clock.seconds() + seconds
        # Its calls are in their order.
        while self.clock.calls and (due := self.clock.calls[0].getTime()) <= end:
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))


def limited(**bounds: Any) -> Limits:
    """`SMALL` with other bounds."""
    return evolve(SMALL, **bounds)


def request(
    line: str = "POST /mcp", *fields: str, body: bytes = b"", host: str | None = "localhost:3000"
) -> bytes:
    """A sound HTTP/1.1 request; ``fields`` come before Host."""
    lines = [f"{line} HTTP/1.1", *fields]
    if host is not None:
        lines.append(f"Host: {host}")
    if body and not any(field.lower().startswith("transfer-encoding") for field in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
