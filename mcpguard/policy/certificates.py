"""Certificates, keys and revocation lists: taken apart once, and judged without a socket.

Bytes in, facts or ValueError out; the words of an error never repeat what was read.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

_END = re.compile(rb"-----END [^-\r\n]+-----")

MAX_CERTIFICATES = 1_000
"""Of one file."""
MAX_CRLS = 1_000
MAX_PEM_BYTES = 1_048_576
"""Of a file of certificates or of a key."""
MAX_CRL_BYTES = 16_777_216

_BEGINS = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_OTHERS = (
    (b"PRIVATE KEY", "a private key"),
    (b"PUBLIC KEY", "a public key"),
    (b"CERTIFICATE", "a certificate"),
    (b"CRL", "a revocation list"),
)

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


class Withdrawn(Enum):
    """Why a certificate that was verified in a handshake counts no more, whatever its dates say.

    The value is the word for its connection, which is dropped.
    """

    REVOKED = "certificate_revoked"
    UNTRUSTED = "certificate_untrusted"
    """Its listener does not trust any more what it was verified by."""


@frozen
class Verified:
    """Where a client's certificate was verified in a handshake, and by what."""

    listener: int
    """Its place among all for clients, which is the same in every process."""
    anchor: bytes
    """The CA that its chain ends in, by `anchor_of`."""
    sent: tuple[bytes, ...] = field(repr=False)
    """DER of each certificate that the client has sent after its own: they may lead elsewhere."""


@frozen
class PeerCertificate:
    """The facts of one client certificate whose chain was verified in a handshake or by a proxy.

    Names are as they stand in the certificate, in its order.
    """

    thumbprint: str
    """base64url of the SHA-256 of its DER, without padding (RFC 8705, ``x5t#S256``)."""
    serial: int
    issuer: bytes
    """DER of the issuer's name."""
    common_names: tuple[str, ...]
    dns_names: tuple[str, ...]
    emails: tuple[str, ...]
    uris: tuple[str, ...]
    not_before: float
    """Unix seconds, like `not_after`."""
    not_after: float
    der: bytes = field(repr=False)
    """The whole of it."""
    authorities: tuple[tuple[bytes, int], ...] = ()
    """Issuer (DER of its name) and serial of each further certificate of its verified chain."""
    verified: Verified | None = None
    """None for a certificate that a proxy tells of."""


def read_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Every certificate of a PEM file, in its order; raises ValueError for none or a bad one."""
    try:
        found = x509.load_pem_x509_certificates(_whole(pem))
    except ValueError:
        raise ValueError(
            f"has no PEM certificate, or a damaged one{_instead(pem, b'CERT')}"
        ) from None
    if len(found) > MAX_CERTIFICATES:
        raise ValueError(f"has more than {MAX_CERTIFICATES} certificates")
    return tuple(found)


def read_private_key(pem: bytes) -> PrivateKey:
    """The private key of a PEM file; raises ValueError when it cannot be used for TLS."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("is encrypted; store the key in the clear, with mode 0600") from None
    except ValueError:
        raise ValueError(
            f"has no PEM private key, or a damaged one{_instead(pem, b'PRIVATE KEY')}"
        ) from None
    if not isinstance(key, PrivateKey):
        raise ValueError("has a key of a kind that TLS cannot use; RSA, EC and Ed25519 can be")
    return key


def read_crls(pem: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Every revocation list of a PEM file; raises ValueError for none or a bad one."""
    end = b"-----END X509 CRL-----"
    blocks = [block + end for block in pem.split(end)[:-1]]
    if not blocks:
        raise ValueError(f"has no PEM revocation list (BEGIN X509 CRL){_instead(pem, b'CRL')}")
    if len(blocks) > MAX_CRLS:
        raise ValueError(f"has more than {MAX_CRLS} revocation lists")
    try:
        _whole(pem)
        return tuple(x509.load_pem_x509_crl(block) for block in blocks)
    except ValueError:
        raise ValueError("has a damaged revocation list") from None


def _instead(data: bytes, wanted: bytes) -> str:
    """What a file holds instead of a block of the ``wanted`` kind, and what to do about it."""
    begins = b"\n".join(_BEGINS.findall(data))
    if wanted in begins:
        return ""
    for part, kind in _OTHERS:
        if part in begins:
            return f"; it has {kind} in it: name another file"
    if data.startswith(b"\x30"):
        # An ASN.1 sequence: DER, or a PKCS #12 container.
        return "; it is not text: convert it with `openssl x509`, `pkey`, `crl` or `pkcs12`"
    return ""


def _whole(pem: bytes) -> bytes:
    """A PEM file as it is; raises ValueError for one with half a block, which parsers pass over."""
    if pem.count(b"-----BEGIN") != len(_END.findall(pem)):
        raise ValueError("a block without its end")
    return pem


def belongs_to(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether a private key is that of a certificate."""
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def not_after(certificates: Sequence[x509.Certificate]) -> datetime:
    """When the first of them ends, in UTC."""
    return min(one.not_valid_after_utc for one in certificates)


def anchor_of(certificate: x509.Certificate) -> bytes:
    """What stays the same of a CA when its certificate is renewed: its name and its key, hashed."""
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        key = certificate.public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        # A kind of key that OpenSSL knows and we do not: then this very certificate is the same.
        key = certificate.public_bytes(Encoding.DER)
    name = certificate.subject.public_bytes()
    return hashlib.sha256(b"%d:%b%b" % (len(name), name, key)).digest()


def peer_certificate(
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate] = (),
    verified: Verified | None = None,
) -> PeerCertificate:
    """Take a client's certificate apart; ``chain`` are the further ones up to its CA.

    Raises ValueError when it cannot be read whole: a name that is only half understood names
    nobody.
    """
    der = certificate.public_bytes(Encoding.DER)
    dns: list[str] = []
    emails: list[str] = []
    uris: list[str] = []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = names.get_values_for_type(x509.DNSName)
        emails = names.get_values_for_type(x509.RFC822Name)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        pass
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return PeerCertificate(
        thumbprint=thumbprint(der),
        serial=certificate.serial_number,
        issuer=certificate.issuer.public_bytes(),
        common_names=tuple(str(one.value) for one in common),
        dns_names=tuple(dns),
        emails=tuple(emails),
        uris=tuple(uris),
        not_before=certificate.not_valid_before_utc.replace(tzinfo=UTC).timestamp(),
        not_after=certificate.not_valid_after_utc.replace(tzinfo=UTC).timestamp(),
        der=der,
        authorities=tuple((one.issuer.public_bytes(), one.serial_number) for one in chain),
        verified=verified,
    )


def thumbprint(der: bytes) -> str:
    """``x5t#S256`` of a certificate (RFC 8705 section 3.1)."""
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")
