"""Bytes of a connection whose TLS is spoken in one process and which is served by another one."""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as Stream
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.policy.certificates import PeerCertificate

Place = tuple[str, int]
"""Host and port."""
Behind = tuple[Place, Place, PeerCertificate | None]
"""The client's address, ours, and the client's certificate."""


class Relayed(Protocol):
    """The client's side of a relay."""

    transport: Any

    def relay_lost(self) -> None:
        """The process that serves the connection has ended it, or itself."""
        ...

    def relay_waits(self, waits: bool) -> None:
        """The client leaves unread what is passed on, or has read it.

        Meanwhile the end of the other side is not seen.
        """
        ...


class Relay(Stream):
    """The near end of a socket pair whose far end is served as if it were the client's connection.

    Neither side is read faster than the other one takes it.
    """

    transport: Any

    def __init__(self, client: Relayed, unsent: bytes) -> None:
        self._client = client
        self._unsent = unsent
        self._open = True

    def connectionMade(self) -> None:
        """Let the bytes flow, first what has arrived since the connection was sent."""
        client = self._client.transport
        client.unregisterProducer()
        self.transport.registerProducer(_Source(client, lambda waits: None), True)
        client.registerProducer(_Source(self.transport, self._client.relay_waits), True)
        if self._unsent:
            self.transport.write(self._unsent)
            self._unsent = b""
        client.resumeProducing()

    def forward(self, data: bytes) -> None:
        """Pass on what the client sends."""
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what the client is answered."""
        self._client.transport.write(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The other process has closed its end."""
        if self._open:
            self._open = False
            self._client.relay_lost()

    def client_lost(self) -> None:
        """The client has left: so it seems to the other process too, by the end of the stream."""
        if self._open:
            self._open = False
            self.transport.unregisterProducer()
            self.transport.loseConnection()


@implementer(IPushProducer)
class _Source:
    """Reading from a transport, as fast as another one writes; does not end it.

    A transport that is lost stops its producer. What was passed on before still has to leave, and
    a TLS transport would be closed below its TLS.
    """

    def __init__(self, transport: Any, on_wait: Callable[[bool], None]) -> None:
        self._transport = transport
        self._on_wait = on_wait

    def pauseProducing(self) -> None:
        """The other side does not take more now."""
        self._on_wait(True)
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It has taken everything."""
        self._on_wait(False)
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """Nothing to do: each side hears of its own end."""


class Addressed(ProtocolWrapper):
    """The far end of a relay, with what is known of the connection behind it."""

    def __init__(
        self, inner: Any, peer: Place, host: Place, certificate: PeerCertificate | None
    ) -> None:
        super().__init__(WrappingFactory(Factory()), inner)
        self._peer = _address_of(peer)
        self._host = _address_of(host)
        self.certificate = certificate
        """The client's, verified where its TLS is spoken."""

    def getPeer(self) -> Any:
        """The client's address."""
        return self._peer

    def getHost(self) -> Any:
        """The listener's address."""
        return self._host


class Arrival(Factory):
    """Builds the protocol of one connection that was sent here.

    ``behind`` is what the socket of a relay does not know: the addresses of the client and the
    listener, and the client's certificate.
    """

    def __init__(self, factory: Any, behind: Behind | None) -> None:
        self._factory = factory
        self._behind = behind
        self.inner: Any = None
        """The one that serves the client."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See `IProtocolFactory`."""
        inner = self.inner = self._factory.buildProtocol(addr)
        if inner is None or self._behind is None:
            return inner
        return Addressed(inner, *self._behind)


class Once(Factory):
    """Gives a protocol that is there already."""

    noisy = False

    def __init__(self, made: Any) -> None:
        self._made = made

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See `IProtocolFactory`."""
        return self._made


def _address_of(place: Place) -> IPv4Address | IPv6Address:
    host, port = place
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)
