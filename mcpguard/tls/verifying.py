"""Who a server must be: its chain by OpenSSL, its name by RFC 9525, and words for what is wrong."""

import weakref
from ipaddress import ip_address

from attrs import define, field
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

log = Logger()

MAX_NAMES = 3
"""Of a certificate, in a message."""
MAX_NAME = 80

_CODES = SSL.X509VerificationCodes
_WORDS = {
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT: "unable to get issuer certificate",
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "unable to get local issuer certificate",
    _CODES.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "unable to verify the first certificate",
    _CODES.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "self-signed certificate",
    _CODES.ERR_SELF_SIGNED_CERT_IN_CHAIN: "self-signed certificate in certificate chain",
    _CODES.ERR_CERT_HAS_EXPIRED: "certificate has expired",
    _CODES.ERR_CERT_NOT_YET_VALID: "certificate is not yet valid",
    _CODES.ERR_CERT_SIGNATURE_FAILURE: "certificate signature failure",
    _CODES.ERR_INVALID_CA: "invalid CA certificate",
    _CODES.ERR_INVALID_PURPOSE: "unsuitable certificate purpose",
    _CODES.ERR_CERT_CHAIN_TOO_LONG: "certificate chain too long",
    _CODES.ERR_PATH_LENGTH_EXCEEDED: "path length constraint exceeded",
    _CODES.ERR_CERT_UNTRUSTED: "certificate not trusted",
    _CODES.ERR_CERT_REJECTED: "certificate rejected",
    66: "the server's key is too weak",
    67: "the key of a CA is too weak",
    68: "the signature of a certificate is too weak",
}
"""What OpenSSL says of its numbers; it does so itself to those only who go on handshaking."""


class ServerNotVerified(VerificationError):
    """A server is not who it should be; the text says why, for the log."""

    def __init__(self, words: str) -> None:
        super().__init__(errors=())
        self.words = words

    def __str__(self) -> str:
        return self.words

    __repr__ = __str__


class _Connection(SSL.Connection):
    """One that the server may end in the middle of the handshake.

    OpenSSL's error for that has no words, and Twisted fails over one without.
    """

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except SSL.ZeroReturnError:
            raise SSL.Error([("", "", "closed by the server in the handshake")]) from None


@implementer(IOpenSSLClientConnectionCreator)
@define(eq=False, repr=False)
class Verifying:
    """Makes connections that only one server passes: that of ``host``, a name or an address.

    As `twisted.internet.ssl.optionsForClientTLS`, whose check lets pass a certificate that names
    nobody (service_identity raises another error for it than Twisted catches); and one context
    serves all connections. Raises ValueError for a host that can be in no certificate.
    """

    context: SSL.Context
    host: str
    _identity: DNS_ID | IPAddress_ID = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.host = self.host.rstrip(".")
        try:
            ip_address(self.host)
        except ValueError:
            self._identity = DNS_ID(self.host)
        else:
            self._identity = IPAddress_ID(self.host)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection = _Connection(self.context, None)
        if isinstance(self._identity, DNS_ID):
            # An address is no name to ask for (RFC 6066 section 3).
            connection.set_tlsext_host_name(self.host.encode("ascii"))
        # The connection is the protocol's: it must not keep it.
        protocol = weakref.ref(tlsProtocol)

        def verified(_: SSL.Connection, shown: X509, number: int, depth: int, ok: int) -> bool:
            words = self._wrong(shown, number, depth, bool(ok))
            alive = protocol()
            if words is not None and alive is not None:
                alive.failVerification(Failure(ServerNotVerified(words)))
            return words is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verified)
        return connection

    def _wrong(self, certificate: X509, number: int, depth: int, ok: bool) -> str | None:
        """What is wrong with a certificate of the chain; called by OpenSSL, so it never raises."""
        try:
            if not ok:
                words = _WORDS.get(number, f"OpenSSL's error {number}")
                where = f" (certificate {depth + 1} of its chain)" if depth else ""
                return f"certificate verify failed: {words}{where}"
            if depth == 0:
                verify_service_identity(extract_patterns(certificate), [self._identity], [])
        except (VerificationError, CertificateError):
            return (
                f"hostname mismatch: the certificate is for {_names(certificate)}, not {self.host}"
            )
        except Exception:
            log.failure("verifying a certificate")
            return "certificate verify failed: it cannot be read"
        return None


def _names(certificate: X509) -> str:
    """Whom a certificate is for, as it may stand in a message."""
    try:
        extensions = certificate.to_cryptography().extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:
        return "nobody (no subjectAltName)"
    names = [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]
    shown = [ascii(one[:MAX_NAME])[1:-1] for one in names[:MAX_NAMES]]
    more = ["others"] if len(names) > MAX_NAMES else []
    return ", ".join(shown + more) or "no host"
