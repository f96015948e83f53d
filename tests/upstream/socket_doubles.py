"""A reactor in memory: names are resolved from a table, connections are played by the test."""

from collections.abc import Sequence
from select import POLLIN
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
    ITCPTransport,
)
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Nothing is under way."""


@implementer(IHostnameResolver)
class TableResolver:
    """Resolves names from a table, and counts; literals resolve to themselves."""

    def __init__(self, table: dict[str, Sequence[str]]) -> None:
        self.table = table
        self.asked: list[str] = []
        self.silent = False

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See `IHostnameResolver`."""
        self.asked.append(hostName)
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if self.silent:
            return resolution
        literal = hostName.replace(".", "").isdigit() or ":" in hostName
        for text in self.table.get(hostName, [hostName] if literal else []):
            kind = IPv6Address if ":" in text else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", text, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(ITCPTransport)
class Socket(StringTransport):
    """One side of a connection; the other is the test."""

    def __init__(self, reactor: "SocketReactor", protocol: Any) -> None:
        super().__init__()
        self.reactor = reactor
        self.protocol = protocol
        self.lost = False
        self.keep_alive = False
        self.paused = False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Keep it."""
        self.keep_alive = enabled

    def getTcpKeepAlive(self) -> bool:
        """As set."""
        return self.keep_alive

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Not looked at."""

    def getTcpNoDelay(self) -> bool:
        """Not looked at."""
        return False

    def loseWriteConnection(self) -> None:
        """Not used."""

    def loseConnection(self) -> None:
        """Lose it once what was written is gone, which is at once."""
        self.reactor.callLater(0, self.lose)

    def abortConnection(self) -> None:
        """Lose it with the reactor's next turn, as a socket does."""
        self.reactor.callLater(0, self.lose, ConnectionAborted())

    def receive(self, data: bytes) -> None:
        """Let bytes arrive."""
        if not self.lost:
            self.protocol.dataReceived(data)

    def lose(self, why: Exception | None = None) -> None:
        """Close it."""
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(why or ConnectionDone()))


class DirectSocket(Socket):
    """One that also writes at once and can be looked into, as Twisted's TCP transport can.

    ``takes`` is how many bytes the kernel takes each time, or what it says instead; ``unread`` is
    what the reactor has not seen yet: bytes, or nothing for the peer's end.
    """

    takes: int | Exception = 1_000_000
    unread: bytes | None = None

    def send(self, data: bytes) -> int:
        """Write at once what the kernel takes."""
        if isinstance(self.takes, Exception):
            raise self.takes
        self.io.write(data[: self.takes])
        return min(len(data), self.takes)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Ask one that does not stream at once, as the real one does."""
        super().registerProducer(producer, streaming)
        if not streaming:
            producer.resumeProducing()

    def getHandle(self) -> "DirectSocket":
        """Itself."""
        return self


class MemoryPoll:
    """`select.poll`, of one `DirectSocket`."""

    def register(self, handle: DirectSocket, events: int) -> None:
        """Watch it for something to read."""
        assert events == POLLIN
        self.handle = handle

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        """Whether there is anything, its end counted."""
        assert timeout == 0, "the reactor must not wait"
        return [] if self.handle.unread is None else [(0, POLLIN)]


class SocketReactor(MemoryReactorClock):
    """Connections are made by `accept` and failed by `refuse`."""

    def __init__(
        self, table: dict[str, Sequence[str]] | None = None, socket: type[Socket] = Socket
    ) -> None:
        super().__init__()
        self.socket = socket
        self.resolver = TableResolver(table or {})
        self.installNameResolver(self.resolver)

    @property
    def dialled(self) -> list[tuple[str, int]]:
        """Address and port of every connection attempt."""
        return [(client[0], client[1]) for client in self.tcpClients]

    def accept(self, index: int = -1) -> Socket:
        """Make a connection that was asked for."""
        factory = self.tcpClients[index][2]
        protocol: Any = factory.buildProtocol(None)
        socket = self.socket(self, protocol)
        protocol.makeConnection(socket)
        return socket

    def refuse(self, why: Exception, index: int = -1) -> None:
        """Fail a connection that was asked for."""
        self.tcpClients[index][2].clientConnectionFailed(self.connectors[index], Failure(why))
        # The endpoint looks for further addresses with its next attempt only.
        self.advance(0.5)
