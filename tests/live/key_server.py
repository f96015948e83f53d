"""A server of keys that does as the test says, over TCP or TLS, in the process of the tests."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from tests.pki import Issued

Behaviour = Callable[["KeyConnection"], None]
"""What a server does once it has been asked."""


class KeyConnection(Protocol):
    """One request."""

    factory: "KeyServer"
    closed = False

    def connectionMade(self) -> None:
        """Count it."""
        self.factory.open.add(self)
        self.factory.most = max(self.factory.most, len(self.factory.open))
        self.head = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer, once the head is there, or at once to what is no HTTP, such as TLS."""
        self.head += data
        if self.head.endswith(b"\r\n\r\n") or not self.head.startswith(b"G"):
            self.factory.asked += 1
            self.factory.behaviour(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client has what it wanted, or enough."""
        self.closed = True
        self.factory.open.discard(self)

    def write(self, data: bytes) -> None:
        """Send something, as long as anybody listens."""
        if not self.closed:
            cast("Any", self.transport).write(data)

    def later(self, secs: float, call: Callable[[], None]) -> None:
        """Do something a little later, as long as anybody listens."""
        self.factory.reactor.callLater(secs, lambda: None if self.closed else call())


class KeyServer(Factory):
    """Says ``behaviour`` to everybody who asks, and how many did."""

    noisy = False

    def __init__(self, reactor: Any, behaviour: Behaviour) -> None:
        self.reactor = reactor
        self.behaviour = behaviour
        self.asked = 0
        self.open: set[KeyConnection] = set()
        self.most = 0
        """Connections at once."""

    def buildProtocol(self, addr: Any) -> Any:
        """Take a connection."""
        connection = KeyConnection()
        connection.factory = self
        return connection

    def listen(self, identity: Issued | None = None) -> tuple[IListeningPort, str]:
        """Listen on loopback, over TLS with an identity; the port and the URL."""
        factory: Any = self
        if identity is not None:
            options = cast("Any", CertificateOptions)
            context = options(
                privateKey=identity.key,
                certificate=identity.certificate,
                acceptableProtocols=[b"http/1.1"],
            )
            factory = TLSMemoryBIOFactory(context, False, self)
            factory.noisy = False
        port: IListeningPort = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        scheme = "http" if identity is None else "https"
        number = cast("Any", port.getHost()).port
        return port, f"{scheme}://127.0.0.1:{number}/keys"

    def cut(self) -> None:
        """Close what is open."""
        for connection in list(self.open):
            cast("Any", connection.transport).abortConnection()


def keys(body: bytes, *, after: float = 0.0) -> Behaviour:
    """Answer well."""

    def behave(connection: KeyConnection) -> None:
        connection.later(after, lambda: connection.write(_answer(body)))

    return behave


def raw(data: bytes) -> Behaviour:
    """Send some bytes and then nothing."""
    return lambda connection: connection.write(data)


def redirect(target: str) -> Behaviour:
    """Send them somewhere else."""
    return raw(_answer(b"", f"Location: {target}", status="302 Found"))


def status(line: str) -> Behaviour:
    """Answer with another status."""
    return raw(_answer(b"{}", status=line))


def drip(first: bytes, piece: bytes, every: float) -> Behaviour:
    """Begin, and go on a little at a time without end."""

    def behave(connection: KeyConnection) -> None:
        connection.write(first)

        def more() -> None:
            connection.write(piece)
            connection.later(every, more)

        more()

    return behave


def bomb(size: int) -> Behaviour:
    """Answer with very many zeros in a few bytes of gzip, whatever was asked for."""
    return raw(_answer(_zeros(size), "Content-Encoding: gzip"))


@functools.cache
def _zeros(size: int) -> bytes:
    # A million at a time: what was flushed stands by itself, so it can be repeated.
    packer = zlib.compressobj(9, wbits=31)
    first, again = (
        packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + again * (size // 1_000_000 - 1)


def _answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
