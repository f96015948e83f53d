"""TLS on a client's connection, and what becomes of its handshake."""

from collections.abc import Callable
from typing import Any

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, X509, dump_certificate
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from mcpguard.errors import ConfigurationError
from mcpguard.tls.words import (
    LIMITS_UNAVAILABLE,
    SUCCESS,
    TOO_LARGE,
    word_of_error,
    word_of_number,
)
from twisted import __version__ as twisted_version

_log = Logger()

_MAX_SUBJECT = 200
_CHUNK = 32_768
_PRIVATE = (
    "_aborted",
    "_handshakeDone",
    "_checkHandshakeStatus",
    "_flushSendBIO",
    "_tlsShutdownFinished",
)
"""What is used or replaced of Twisted's. Without one of them failures would not be heard of."""


@frozen
class Presented:
    """A certificate that was refused; nothing in it is true."""

    subject: str
    serial: str
    """Hexadecimal."""
    depth: int
    """0 for the client's own, more for one of its chain."""


@frozen
class Ended:
    """How one handshake ended."""

    peer: str
    word: str
    """One of `words.WORDS`."""
    presented: Presented | None = None
    """Where a certificate was refused."""


@frozen
class Doorkeeping:
    """Who may begin a handshake on a listener, and who hears of its end.

    Args:
        peer_of: a transport's address in words.
        admits: given that address, "" or the word why its handshake does not even begin.
        on_ended: told of each handshake once.
        handshake_secs: the longest that whoever serves the connection waits for it.
        handshake_bytes: the most that a client may send in it. OpenSSL alone would keep more than
            100 KiB of each of two messages, of whoever has proved nothing yet.
        listener: the place of the listener among all.
    """

    peer_of: Callable[[Any], str]
    admits: Callable[[str], "str | Deferred[str]"]
    on_ended: Callable[[Ended], None]
    handshake_secs: float
    handshake_bytes: int
    listener: int = 0


class GuardTls(TLSMemoryBIOProtocol):
    """The TLS of one client's connection.

    Whoever serves the connection has it first and may drop it, so that its bounds hold before a
    handshake costs anything. Some names here are Twisted's private ones, which it has no public
    ones for: when a handshake is over, and with which error.
    """

    factory: "GuardTlsFactory"
    _told = False
    _began = 0.0
    _came = 0
    """Bytes of the handshake."""
    _peer = ""
    _refusal: tuple[str, int, X509] | None = None
    _word = ""

    def makeConnection(self, transport: Any) -> None:
        """Begin, unless the connection is dropped or its address may not."""
        keeping = self.factory.keeping
        self._began = self.factory.clock.seconds()
        self._peer = keeping.peer_of(transport)
        super().makeConnection(transport)
        if self._aborted:
            # By whoever would have served it, who has counted it.
            self._told = True
            return
        try:
            admitted = keeping.admits(self._peer)
        except Exception:
            _log.failure("whether a handshake may begin cannot be told")
            admitted = LIMITS_UNAVAILABLE
        if isinstance(admitted, Deferred):
            # Nothing of a handshake is read before it is known.
            transport.pauseProducing()
            admitted.addErrback(_undecided)
            admitted.addCallback(self._decided, transport)
        elif admitted:
            self._turn_away(admitted)

    def _decided(self, word: str, transport: Any) -> None:
        if self._aborted or not self.connected:
            return
        if word:
            self._turn_away(word)
        else:
            transport.resumeProducing()

    def _turn_away(self, word: str) -> None:
        self._tell(word)
        self.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes, not too many of them before the handshake is over."""
        super().dataReceived(data)
        if not self._handshakeDone and not self._aborted:
            # What came in one piece with its end may be a request's.
            self._came += len(data)
            if self._came > self.factory.keeping.handshake_bytes:
                self._turn_away(TOO_LARGE)

    @property
    def listener(self) -> int:
        """The place of its listener among all."""
        return self.factory.keeping.listener

    def sent_certificates(self) -> tuple[bytes, ...]:
        """What the client has sent after its own certificate, verified or not, each as DER."""
        found = self._tlsConnection.get_peer_cert_chain() or ()
        return tuple(dump_certificate(FILETYPE_ASN1, one) for one in found)

    def certificate_refused(self, number: int, depth: int, certificate: X509) -> None:
        """OpenSSL refuses the client's certificate; see `context.Refusing`."""
        if self._refusal is None:
            self._refusal = word_of_number(number), depth, certificate

    def _checkHandshakeStatus(self) -> None:
        super()._checkHandshakeStatus()
        if self._handshakeDone:
            self._tell(SUCCESS)

    def _flushSendBIO(self) -> None:
        # Twisted takes 32 KiB only: what we say in a handshake may be more, and its client waits.
        transport: Any = self.transport
        more = True
        while more:
            try:
                data = self._tlsConnection.bio_read(_CHUNK)
            except SSL.WantReadError:
                return
            transport.write(data)
            more = len(data) == _CHUNK

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is not None and isinstance(reason.value, SSL.ZeroReturnError):
            # Goodbye in the middle of a handshake; Twisted fails over an error without a word.
            self._tell("abandoned")
            reason = None
        if not self._told and reason is not None:
            self._fail(reason)
        super()._tlsShutdownFinished(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over, perhaps before its handshake was."""
        waited = self.factory.clock.seconds() - self._began
        late = bool(self.disconnecting) and waited >= self.factory.keeping.handshake_secs
        self._tell("timeout" if late else "abandoned")
        super().connectionLost(reason)

    def _fail(self, reason: Failure) -> None:
        if self._refusal is None:
            self._tell(word_of_error(reason.value))
            return
        word, depth, certificate = self._refusal
        self._refusal = None
        self._tell(word, presented(certificate, depth))

    def _tell(self, word: str, shown: Presented | None = None) -> None:
        if not self._told:
            self._told = True
            try:
                self.factory.keeping.on_ended(Ended(self._peer, word, shown))
            except Exception:
                # Whatever is wrong with what is made of it, the handshake has ended like this.
                _log.failure("the end of a handshake cannot be told")


class GuardTlsFactory(TLSMemoryBIOFactory):
    """Wraps what a listener serves in TLS, without a buffer: an answer is one write.

    Raises `ConfigurationError` where Twisted has not what this is built on.
    """

    noisy = False
    protocol = GuardTls

    def __init__(
        self,
        creator: IOpenSSLServerConnectionCreator,
        wrapped: Any,
        clock: IReactorTime,
        keeping: Doorkeeping,
    ) -> None:
        missing = [name for name in _PRIVATE if not hasattr(TLSMemoryBIOProtocol, name)]
        if missing:
            raise ConfigurationError(
                (
                    f"TLS on a listener does not work with Twisted {twisted_version} (no"
                    f" {', '.join(missing)}): install another version of Twisted, or of mcp-guard",
                )
            )
        super().__init__(creator, False, wrapped, clock)
        self.clock = clock
        self.keeping = keeping


def _undecided(failure: Failure) -> str:
    _log.failure("whether a handshake may begin cannot be told", failure=failure)
    return LIMITS_UNAVAILABLE


def presented(certificate: X509, depth: int) -> Presented:
    """Who a refused certificate names, cut short and printable."""
    try:
        parsed: x509.Certificate = certificate.to_cryptography()
        subject, serial = parsed.subject.rfc4514_string(), f"{parsed.serial_number:x}"
    except Exception:
        # It is whatever a stranger has made up, and refused already.
        subject, serial = "not readable", ""
    printable = "".join(c if c.isprintable() else "?" for c in subject[:_MAX_SUBJECT])
    return Presented(printable, serial[:64], depth)
