"""A server and a client that shake hands in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mcpguard.config.settings import ClientTlsSettings
from mcpguard.observe.events import Event
from mcpguard.observe.metrics import Metrics
from mcpguard.tls.client import ClientBounds, ClientPolicy
from tests.pki import Authority, Issued

NOW = 1_000.0


class Side(Protocol):
    """One end of a connection: says who it is, and keeps what comes."""

    def __init__(self, hello: bytes) -> None:
        self.hello = hello
        self.heard = b""
        self.ended: Failure | None = None

    def connectionMade(self) -> None:
        """Say it."""
        self.say(self.hello)

    def say(self, words: bytes) -> None:
        """Send."""
        assert self.transport is not None
        self.transport.write(words)

    def dataReceived(self, data: bytes) -> None:
        """Keep."""
        self.heard += data

    def connectionLost(self, reason: Failure = ...) -> None:  # type: ignore[assignment]
        """Keep why."""
        self.ended = reason


@implementer(IOpenSSLServerConnectionCreator)
class Server:
    """A TLS server: what it shows, and what it has seen of its clients."""

    def __init__(
        self, own: Issued, *chain: x509.Certificate, clients: Issued | None = None
    ) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.use_certificate(own.certificate)
        for one in chain:
            self.context.add_extra_chain_cert(one)
        self.context.use_privatekey(own.key)
        if clients is not None:
            store = self.context.get_cert_store()
            assert store is not None
            store.add_cert(X509.from_cryptography(clients.certificate))
            self.context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        self.context.set_alpn_select_callback(self._choose)
        self.offered: list[bytes] = []
        self.connection: SSL.Connection | None = None

    def _choose(self, connection: SSL.Connection, offered: list[bytes]) -> bytes:
        self.offered = offered
        return offered[0]

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """A new connection."""
        self.connection = SSL.Connection(self.context, None)
        return self.connection

    @property
    def asked_for(self) -> bytes | None:
        """The name of SNI."""
        assert self.connection is not None
        return self.connection.get_servername()

    @property
    def client(self) -> x509.Certificate | None:
        """What the client has shown."""
        assert self.connection is not None
        shown = self.connection.get_peer_certificate()
        return None if shown is None else shown.to_cryptography()


class ClientCase(SynchronousTestCase):
    """A CA, a directory for files, and policies over them."""

    def setUp(self) -> None:
        """Make them."""
        self.clock = Clock()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.ca = Authority("CA")
        self.own = self.ca.issue("gateway")
        self.put("ca.crt", self.ca.pem)
        self.own.write(self.directory, "own")
        self.events: list[Event] = []
        self.metrics = Metrics(
            active_identities=tuple, sessions=lambda: 0, connections=lambda: 0, children=dict
        )
        self.now = float(self.own.certificate.not_valid_before_utc.timestamp()) + 86_400

    def record(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def put(self, name: str, content: bytes) -> Path:
        """Write a file."""
        path = self.directory / name
        path.write_bytes(content)
        return path

    def settings(self, *keys: str, server_name: str | None = None) -> ClientTlsSettings:
        """Settings with these keys: ca_path, cert_path, key_path."""
        files = {"ca_path": "ca.crt", "cert_path": "own.crt", "key_path": "own.key"}
        given: dict[str, Any] = {key: self.directory / files[key] for key in keys}
        return ClientTlsSettings(**given, server_name=server_name)

    def policy(self, *keys: str, server_name: str | None = None) -> ClientPolicy:
        """A policy by such settings."""
        return ClientPolicy(
            self.settings(*keys, server_name=server_name),
            name="upstream:x",
            server="x",
            prefix="upstream.tls.",
            clock=self.clock,
            wall=lambda: self.now,
            recorder=self,
            meter=self.metrics,
            bounds=ClientBounds(pem_bytes=100_000, watch_secs=2.0),
        )

    def shake(self, policy: ClientPolicy, server: Server, host: str) -> tuple[Side, Side]:
        """Connect, and let both say hello: the client's side and the server's."""
        client, served, self.pump = self.connect(
            policy.creatorForNetloc(host.encode(), 443), server
        )
        return client, served

    def connect(
        self, creator: IOpenSSLClientConnectionCreator, server: Server
    ) -> tuple[Side, Side, Any]:
        """The same with what creates the client's connections."""
        client, served = Side(b"from the client"), Side(b"from the server")
        sides = self._wrapped(creator, client, mine=True), self._wrapped(server, served, mine=False)
        _, _, pump = iosim.connectedServerAndClient(
            lambda: sides[1].buildProtocol(None),
            lambda: sides[0].buildProtocol(None),
            clock=self.clock,
        )
        self.settle(pump)
        return client, served, pump

    def settle(self, pump: Any) -> None:
        """Let both say what they have to say."""
        for _ in range(5):
            self.clock.advance(0)
            pump.flush()

    def _wrapped(self, creator: Any, side: Side, *, mine: bool) -> TLSMemoryBIOFactory:
        factory = Factory.forProtocol(lambda: side)
        return TLSMemoryBIOFactory(creator, mine, factory, self.clock)

    def assert_through(self, sides: tuple[Side, Side]) -> None:
        """Both heard each other."""
        self.assertEqual([one.heard for one in sides], [b"from the server", b"from the client"])

    def assert_refused(self, sides: Sequence[Side], *words: str) -> None:
        """Neither heard a word, and the client knows why."""
        client, served = sides
        self.assertEqual((client.heard, served.heard), (b"", b""))
        assert client.ended is not None
        for one in words:
            self.assertIn(one, str(client.ended.value))
