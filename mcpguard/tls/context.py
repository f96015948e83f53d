"""An OpenSSL context for clients of a listener, built from its material.

The policy for client certificates stands on the context itself and never depends on the name that
a client asks for: OpenSSL changes the certificate for a name, but not what it verifies.
"""

import secrets
from collections.abc import Sequence
from typing import Protocol

from OpenSSL import SSL
from OpenSSL.crypto import (
    FILETYPE_ASN1,
    X509,
    X509StoreContext,
    X509StoreContextError,
    X509StoreFlags,
    load_certificate,
)
from OpenSSL.crypto import Error as CryptoError

from mcpguard.config.settings import TlsSettings
from mcpguard.errors import ConfigurationError
from mcpguard.policy.certificate_rules import serves
from mcpguard.tls.material import Material

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:@SECLEVEL=2"
"""Of TLS 1.2; those of 1.3 are all good. The level refuses weak keys and signatures in clients'
certificates (RSA under 2048 bits, SHA-1), whatever the system's OpenSSL is set to."""
PROTOCOL = b"http/1.1"
MAX_CHAIN = 8
"""CAs between a client's certificate and its root."""
_MAX_NAMES = 100
"""CAs whose names are sent to clients; of more than that none are, and clients choose alone."""
_OPTIONS = (
    SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_RENEGOTIATION
    # A resumed session would skip the check of revocation lists.
    | SSL.OP_NO_TICKET
    | SSL.OP_CIPHER_SERVER_PREFERENCE
)
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
NO_PROTOCOL = "no application protocol"
"""OpenSSL's reason, as it stands in an error of ours."""


class Refusing(Protocol):
    """The application data of each connection that is made with such a context."""

    def certificate_refused(self, number: int, depth: int, certificate: X509) -> None:
        """OpenSSL refuses the client's certificate: its error, where in the chain, and which."""
        ...


def context_for(material: Material, tls: TlsSettings, where: str) -> SSL.Context:
    """Build it; raises `ConfigurationError` for what only OpenSSL finds wrong."""
    try:
        return _built(material, tls)
    except SSL.Error as error:
        words = f"{tls.cert_path} and its key cannot be used"
        raise ConfigurationError((f"{where}: {words}: {_reasons(error)}",)) from None
    except CryptoError as error:
        # Such as a list that has entries of other CAs.
        words = f"a CA of {tls.client_ca_path} or a list of {tls.client_crl_path} cannot be used"
        raise ConfigurationError((f"{where}: {words}: {_reasons(error)}",)) from None


def would_pass(context: SSL.Context, certificate: bytes, sent: Sequence[bytes]) -> bool:
    """Whether a client's certificate, with those it has sent after it, has a good chain now.

    All are DER. Its chain is made and judged as in a handshake but for the strength of its keys.
    """
    store = context.get_cert_store()
    assert store is not None
    try:
        shown, *others = (load_certificate(FILETYPE_ASN1, one) for one in (certificate, *sent))
        chain = X509StoreContext(store, shown, others).get_verified_chain()
        # Outside of a handshake OpenSSL knows neither what it is for nor our bound.
        authorities = [one.to_cryptography() for one in chain[1:]]
    except (X509StoreContextError, CryptoError, ValueError):
        return False
    return len(authorities) <= MAX_CHAIN + 1 and all(
        serves(one, server=False) for one in authorities
    )


def _reasons(error: SSL.Error | CryptoError) -> str:
    return "; ".join(str(one[-1]) for one in error.args[0]) if error.args else str(error)


def _built(material: Material, tls: TlsSettings) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[tls.min_version])
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # Client certificates are refused without one, whether or not there are sessions.
    context.set_session_id(secrets.token_bytes(16))
    context.use_certificate(material.chain[0])
    for one in material.chain[1:]:
        context.add_extra_chain_cert(one)
    context.use_privatekey(material.key)
    context.check_privatekey()
    context.set_alpn_select_callback(_choose)
    if material.authorities:
        _verify_clients(context, material, required=tls.client_auth == "required")
    # Last: pyOpenSSL has made a connection to see which ciphers there are, and after its first
    # connection a context cannot be changed.
    context.set_cipher_list(CIPHERS)
    return context


def _verify_clients(context: SSL.Context, material: Material, *, required: bool) -> None:
    store = context.get_cert_store()
    assert store is not None
    named = material.authorities if len(material.authorities) <= _MAX_NAMES else ()
    for one in material.authorities:
        store.add_cert(X509.from_cryptography(one))
    for one in named:
        context.add_client_ca(one)
    for crl in material.crls:
        store.add_crl(crl)
    if material.crls:
        store.set_flags(X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL)
    mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if required else 0)
    context.set_verify(mode, _verified)
    context.set_verify_depth(MAX_CHAIN)


def _verified(
    connection: SSL.Connection, certificate: X509, number: int, depth: int, ok: int
) -> bool:
    """Note what OpenSSL has decided, and leave it as it is."""
    if not ok:
        refusing: Refusing = connection.get_app_data()
        refusing.certificate_refused(number, depth, certificate)
    return bool(ok)


def _choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """HTTP/1.1, or nothing: under HTTP/2 a request has no way to the client's certificate."""
    if PROTOCOL in offered:
        return PROTOCOL
    # Raised out of the handshake as what it is; the client gets the alert of RFC 7301.
    raise SSL.Error([("mcp-guard", "", NO_PROTOCOL)])
