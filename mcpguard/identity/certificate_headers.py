"""What a trusted proxy says in headers of the certificate that its client has shown.

Three ways to write a certificate are read: URL-encoded PEM (nginx, ``$ssl_client_escaped_cert``),
base64 of the DER (HAProxy, ``%[ssl_c_der,base64]``), and a byte sequence (RFC 9440, section 2).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from urllib.parse import unquote

from attrs import define, field
from cryptography import x509

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.policy.certificates import PeerCertificate, peer_certificate

VERIFY = "x-ssl-client-verify"
CERTIFICATE = "x-ssl-client-cert"
STANDARD = "client-cert"
"""The field of RFC 9440, taken instead of `CERTIFICATE`."""

VERIFIED = "SUCCESS"
NONE = "NONE"

NOT_ACCEPTED = "The client certificate is not accepted"
"""The public words for all that is wrong with one."""

_PEM = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*"
)
_SHOWN = 100
"""Characters of the proxy's own words that the audit trail shows."""


@define(eq=False)
class CertificateHeaders:
    """Reads them; the certificates read last are remembered by what was read.

    ``max_chars`` of one header are read, ``max_kept`` certificates remembered.
    """

    max_chars: int
    max_kept: int
    _kept: dict[bytes, PeerCertificate] = field(init=False, factory=dict)

    def __len__(self) -> int:
        """How many certificates are remembered."""
        return len(self._kept)

    def certificate_in(self, headers: Mapping[str, tuple[str, ...]]) -> PeerCertificate | None:
        """Give the verified certificate, None where the client has shown none.

        Raises `Refused` (401) for everything that is not clearly one of the two. Whether the
        headers may be believed, the caller has to know.
        """
        word = _only(headers, VERIFY)
        texts = [text for name in (CERTIFICATE, STANDARD) if (text := _only(headers, name))]
        if word != VERIFIED:
            if word and word != NONE:
                raise _refused(f"the proxy says {word[:_SHOWN]!r} of the certificate")
            if texts:
                raise _refused(f"a certificate comes with {VERIFY}: {word or 'missing'}")
            return None
        if not texts:
            raise _refused("the proxy has verified a certificate that it does not pass on")
        found = [self._read(text) for text in texts]
        if found[0].thumbprint != found[-1].thumbprint:
            raise _refused(f"{CERTIFICATE} and {STANDARD} differ")
        return found[0]

    def _read(self, text: str) -> PeerCertificate:
        if len(text) > self.max_chars:
            raise _refused(f"a certificate of more than {self.max_chars} characters")
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._kept.get(key)
        if known is not None:
            return known
        try:
            found = peer_certificate(x509.load_der_x509_certificate(_der(text)))
        except Exception:
            # Not ValueError alone: the parser has further ones for duplicate extensions and others.
            raise _refused("a certificate that cannot be read") from None
        if len(self._kept) >= self.max_kept:
            self._kept.clear()
        self._kept[key] = found
        return found


def _only(headers: Mapping[str, tuple[str, ...]], name: str) -> str:
    """The one value of a header, empty without one; raises `Refused` when it was sent twice.

    A proxy that adds its word to the client's own has to be noticed.
    """
    values = headers.get(name, ())
    if len(values) > 1:
        raise _refused(f"{name} was sent {len(values)} times")
    return values[0] if values else ""


def _der(text: str) -> bytes:
    """The bytes of the certificate in any of the three forms; raises ValueError."""
    if text.startswith(":"):
        if len(text) < 2 or not text.endswith(":"):
            raise ValueError("no byte sequence")
        text = text[1:-1]
    elif text.startswith("-----BEGIN"):
        # A plus sign is one of base64 here, as in every URL but for forms.
        found = _PEM.fullmatch(unquote(text, errors="strict"))
        if found is None:
            raise ValueError("not one PEM certificate")
        text = "".join(found.group(1).split())
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error


def _refused(why: str) -> Refused:
    return Refused(Refusal(Reason.BAD_CREDENTIALS, NOT_ACCEPTED, detail=why))
