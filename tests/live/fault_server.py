"""A server that answers each request as the test says, over real sockets, and an upstream of it."""

import datetime
import json
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.ssl import Certificate, CertificateOptions
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS

from mcpguard.errors import Reason
from mcpguard.upstream.http import HttpUpstream
from mcpguard.upstream.link import Link
from tests.live.http_callers import HttpUpstreamCase

Answer = Callable[["Fault", int], None]


def body(gid: int) -> bytes:
    """A well-formed answer."""
    content = [{"type": "text", "text": "fine"}]
    return json.dumps({"jsonrpc": "2.0", "id": gid, "result": {"content": content}}).encode()


def head(*lines: str, length: int | None = None) -> bytes:
    """A head of 200 OK."""
    sized = () if length is None else (f"Content-Length: {length}",)
    return "\r\n".join(["HTTP/1.1 200 OK", *sized, *lines, "", ""]).encode()


JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"


def fine(peer: "Fault", gid: int) -> None:
    """Answer well."""
    peer.write(head(JSON, length=len(body(gid))) + body(gid))


class Fault(Protocol):
    """One connection of a server that answers as the test says."""

    def __init__(self, factory: "FaultFactory") -> None:
        self.factory: FaultFactory = factory
        self.received = b""
        self.timers: list[Any] = []

    def connectionMade(self) -> None:
        """Count it."""
        self.factory.open.add(self)
        self.factory.made += 1

    def dataReceived(self, data: bytes) -> None:
        """Read whole requests; the test answers each POST by its id."""
        self.received += data
        while b"\r\n\r\n" in self.received:
            first, _, rest = self.received.partition(b"\r\n\r\n")
            length = 0
            for line in first.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if len(rest) < length:
                return
            payload, self.received = rest[:length], rest[length:]
            self.factory.heads.append(first)
            message = json.loads(payload) if payload else {}
            self.factory.answer(self, message.get("id", 0))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count it."""
        for timer in self.timers:
            if timer.active():
                timer.cancel()
        self.factory.open.discard(self)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.loseConnection()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, if the connection is still there."""
        self.timers.append(self.factory.reactor.callLater(seconds, action))


class FaultFactory(ServerFactory):
    """The server."""

    noisy = False

    def __init__(self, reactor: Any, answer: Answer) -> None:
        self.reactor = reactor
        self.answer = answer
        self.open: set[Fault] = set()
        self.made = 0
        self.heads: list[bytes] = []
        self.protocol_class: type[Fault] = Fault

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection."""
        return self.protocol_class(self)


class FaultCase(HttpUpstreamCase):
    """A server that misbehaves, and an upstream in front of it that is pinned to stateless."""

    def serve(
        self,
        answer: Answer,
        tls: CertificateOptions | None = None,
        host: str = "localhost",
        **settings: Any,
    ) -> HttpUpstream:
        """Listen; the upstream of it."""
        self.server = FaultFactory(self.reactor, answer)
        if tls is None:
            port = self.reactor.listenTCP(0, self.server, interface="127.0.0.1")
        else:
            port = self.reactor.listenSSL(0, self.server, tls, interface="127.0.0.1")
        self.addCleanup(self._close, port)
        scheme = "http" if tls is None else "https"
        url = f"{scheme}://{host}:{port.getHost().port}/mcp"
        return self.upstream(url, era="modern", **settings)

    async def _close(self, port: Any) -> None:
        await maybeDeferred(port.stopListening)
        for connection in tuple(self.server.open):
            assert connection.transport is not None
            connection.transport.abortConnection()  # type: ignore[attr-defined]
        await self.until(lambda: not self.server.open, 5, "connections gone")

    async def link(self, answer: Answer, **how: Any) -> Link:
        """Serve, and a link."""
        upstream = self.serve(answer, **how)
        return await upstream.stateless("api_key:live", "")

    async def fails(self, answer: Answer, reason: Reason, words: str = "", **how: Any) -> None:
        """One call, which must fail for this reason, with its connection closed."""
        link = await self.link(answer, **how)
        failure = await self.failure(link, modern=True)
        self.assertIs(failure.reason, reason, failure.detail)
        self.assertIn(words, failure.detail)


def certificate() -> tuple[CertificateOptions, BrowserLikePolicyForHTTPS]:
    """A certificate for localhost signed by itself, and the policy that trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, SHA256())
    )
    # The stubs still want pyOpenSSL's own types, which are deprecated.
    options = CertificateOptions(privateKey=key, certificate=signed)  # type: ignore[arg-type]
    pem = signed.public_bytes(Encoding.PEM)
    return options, BrowserLikePolicyForHTTPS(Certificate.loadPEM(pem))
