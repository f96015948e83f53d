"""A listener with TLS and its clients in memory; the clients have the standard library's TLS."""

import ssl
import time
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import TlsSettings
from mcpguard.tls.handshake import Doorkeeping, Ended, GuardTlsFactory
from mcpguard.tls.material import MaterialBounds
from mcpguard.tls.server import Rotation, ServerTls
from tests.front.wire import Listener, WireTransport, limited, read_answers, request
from tests.pki import Authority, Issued

BOUNDS = MaterialBounds(pem_bytes=100_000, crl_bytes=200_000)
HANDSHAKE_BYTES = 20_000
PEER = "203.0.113.9"


class LaterTransport(WireTransport):
    """Tells of the end a turn later, as real ones do."""

    def loseConnection(self) -> None:
        """Close when all is sent."""
        StringTransport.loseConnection(self)
        self.clock.callLater(0, self.lose, Failure(ConnectionDone()))


def done() -> Failure:
    """The client has closed its connection."""
    return Failure(ConnectionDone())


def files(directory: Path, name: str, issued: Issued, *chain: Issued) -> tuple[Path, Path]:
    """Write a certificate with its chain, and its key."""
    return issued.write(directory, name, *(one.certificate for one in chain))


@define(eq=False)
class TlsClient:
    """One client: what it sends and what it has read, in the clear."""

    listener: "TlsListener"
    context: ssl.SSLContext
    name: str = "localhost"
    peer: str = PEER
    session: ssl.SSLSession | None = None
    """To be resumed."""
    transport: WireTransport = field(init=False)
    protocol: Any = field(init=False)
    tls: ssl.SSLObject = field(init=False)
    failure: ssl.SSLError | None = field(init=False, default=None)
    """What its TLS has complained of, alerts of the listener included."""
    ended: bool = field(init=False, default=False)
    """The listener has said goodbye."""
    received: bytes = field(init=False, default=b"")
    _incoming: ssl.MemoryBIO = field(init=False, factory=ssl.MemoryBIO)
    _outgoing: ssl.MemoryBIO = field(init=False, factory=ssl.MemoryBIO)

    def __attrs_post_init__(self) -> None:
        self.transport = LaterTransport(self.listener.clock, self.peer)
        self.protocol = self.listener.factory.buildProtocol(None)
        self.transport.channel = self.protocol
        self.protocol.makeConnection(self.transport)
        self.tls = self.context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=self.name, session=self.session
        )

    @property
    def channel(self) -> Any:
        """What serves the connection now."""
        return self.protocol.wrappedProtocol.dataReceived.__self__

    def shake(self) -> "TlsClient":
        """Shake hands, and read whatever comes after it: a refusal may come last."""
        self._until_quiet(self.tls.do_handshake)
        self.read()
        return self

    def read(self) -> bytes:
        """Read all there is; gives everything so far."""

        def some() -> None:
            data = self.tls.read(65_536)
            self.received += data
            self.ended = self.ended or not data

        if self.failure is None:
            self._until_quiet(some)
        return self.received

    def send(self, data: bytes) -> "TlsClient":
        """Send bytes, and read what they are answered with."""
        self.tls.write(data)
        self._exchange()
        self.read()
        return self

    def ask(self, *fields: str) -> list[Any]:
        """Send one request, and take all answers so far."""
        before = len(self.received)
        self.send(request("POST /mcp", *fields, body=b"{}"))
        return read_answers(self.received[before:], "POST")

    def _until_quiet(self, step: Any) -> None:
        """Repeat a step that wants bytes, as long as there are some; or once it is done."""
        while self.failure is None:
            try:
                step()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self.failure = error
            else:
                self._exchange()
                if step == self.tls.do_handshake or self.ended:
                    return
                continue
            if not self._exchange():
                return

    def _exchange(self) -> bool:
        """Carry bytes both ways; whether some came for us."""
        sent = self._outgoing.read()
        if sent and not self.transport.lost and self.transport.producerState != "paused":
            self.protocol.dataReceived(sent)
        self.listener.clock.advance(0)
        came = self.transport.value()
        self.transport.clear()
        self._incoming.write(came)
        return bool(came)


@define(eq=False)
class TlsListener:
    """One listener, its certificates in a directory of its own."""

    directory: Path
    settings: TlsSettings
    admits: Any = field(factory=lambda: lambda peer: "")
    """As `Doorkeeping.admits`."""
    strict: bool = True
    inner: Listener = field(factory=lambda: Listener(limits=limited()))
    wall: float = 1_700_000_000.0
    ended: list[Ended] = field(factory=list)
    rotations: list[Rotation] = field(factory=list)
    tls: ServerTls = field(init=False)
    factory: GuardTlsFactory = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tls = ServerTls(
            listener="localhost:8443",
            where="server.tls",
            settings=self.settings,
            clock=self.clock,
            wall=self._now,
            bounds=BOUNDS,
            every_secs=2.0,
            retry_secs=60.0,
            strict=self.strict,
            on_rotation=self.rotations.append,
        )
        keeping = Doorkeeping(
            peer_of=lambda transport: str(transport.getPeer().host),
            admits=lambda peer: self.admits(peer),
            on_ended=self.ended.append,
            handshake_secs=self.inner.limits.head_secs,
            handshake_bytes=HANDSHAKE_BYTES,
        )
        self.factory = GuardTlsFactory(self.tls, self.inner.site, self.clock, keeping)

    def _now(self) -> float:
        return self.wall + self.clock.seconds()

    @property
    def clock(self) -> Clock:
        """The clock of everything."""
        return self.inner.clock

    @property
    def words(self) -> list[str]:
        """How handshakes ended, in order."""
        return [one.word for one in self.ended]


class TlsCase(SynchronousTestCase):
    """A CA of servers, a CA of clients, and a listener's certificate."""

    def setUp(self) -> None:
        """Make them."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.servers, self.clients = Authority("Servers"), Authority("Clients")
        self.server = self.servers.server()
        self.certificate, self.key = files(self.directory, "server", self.server)
        self.ca = self.directory / "clients.crt"
        self.ca.write_bytes(self.clients.pem)
        self.crl = self.directory / "clients.crl"
        self._written = 0

    def settings(self, *, crl: bytes | None = None, **more: Any) -> TlsSettings:
        """A listener's, that asks for certificates unless told otherwise."""
        more.setdefault("client_ca_path", self.ca)
        if crl is not None:
            self.crl.write_bytes(crl)
            more["client_crl_path"] = self.crl
        return TlsSettings(self.certificate, self.key, **more)

    def listener(self, settings: TlsSettings | None = None, **more: Any) -> TlsListener:
        """Open one."""
        made = TlsListener(self.directory, settings or self.settings(), wall=time.time(), **more)
        self.addCleanup(made.tls.stop)
        return made

    def context(self, issued: Issued | None = None, *chain: Issued) -> ssl.SSLContext:
        """A client's, that knows the listener's CA and has a certificate."""
        context = ssl.create_default_context(cadata=self.servers.pem.decode())
        if issued is not None:
            self._written += 1
            written = files(self.directory, f"client{self._written}", issued, *chain)
            context.load_cert_chain(*written)
        return context

    def connect(
        self, listener: TlsListener, issued: Issued | None = None, *chain: Issued, **how: Any
    ) -> TlsClient:
        """A client that has shaken hands, well or not."""
        return TlsClient(listener, self.context(issued, *chain), **how).shake()
