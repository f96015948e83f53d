"""An OpenSSL context for connections to servers, built from files whole or not at all."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from attrs import field, frozen
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from OpenSSL.crypto import Error as CryptoError

from mcpguard.config.settings import ClientTlsSettings
from mcpguard.errors import ConfigurationError
from mcpguard.policy.certificate_rules import judge_authorities, judge_key, judge_own
from mcpguard.policy.certificates import (
    belongs_to,
    not_after,
    read_certificates,
    read_private_key,
)
from mcpguard.tls.files import Unreadable, read_bounded

CIPHERS = (
    b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:RSA+AESGCM:RSA+AES"
    b":!aNULL:!MD5:!DSS"
)
"""Of TLS 1.2: also those that old servers have, as a browser would; those of 1.3 are all good."""
PROTOCOL = b"http/1.1"
MAX_CHAIN = 10
"""CAs between a server's certificate and its root."""
# No new handshake inside of a connection; no tickets, for no session is taken up again.
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET

T = TypeVar("T")


@frozen
class ClientMaterial:
    """What handshakes with one server are made with."""

    context: SSL.Context = field(repr=False)
    ends: Mapping[str, float]
    """When the first of each kind ends, in Unix seconds: ``client``, ``ca``."""


def load_client(
    settings: ClientTlsSettings,
    *,
    prefix: str,
    pem_bytes: int,
    now: datetime | None,
    protocols: tuple[bytes, ...] = (PROTOCOL,),
) -> ClientMaterial:
    """Read the files and build a context.

    ``prefix`` stands before the names of the keys in messages (``upstream.tls.``); ``pem_bytes``
    of a file are read at most. Without ``now`` what has expired is taken all the same, for it is
    the server that refuses it. ``protocols`` are offered by ALPN. Raises `ConfigurationError`
    with every problem.
    """
    problems: list[str] = []

    def read(key: str, path: Path | None, parse: Callable[[bytes], T]) -> T | None:
        if path is None:
            return None
        try:
            return parse(read_bounded(path, pem_bytes))
        except (Unreadable, FileNotFoundError, ValueError) as error:
            complain(key, path, [str(error)])
        return None

    def complain(key: str, path: Path | None, words: list[str]) -> None:
        problems.extend(f"{prefix}{key}: {path} {one}" for one in words)

    authorities = read("ca_path", settings.ca_path, read_certificates)
    chain = read("cert_path", settings.cert_path, read_certificates)
    key = read("key_path", settings.key_path, read_private_key)
    if now is not None and authorities is not None:
        found = judge_authorities(authorities, now, issuing=False)
        complain("ca_path", settings.ca_path, found.problems)
    if now is not None and chain is not None:
        found = judge_own(chain, now, server=False)
        complain("cert_path", settings.cert_path, found.problems)
    if key is not None:
        complain("key_path", settings.key_path, judge_key(key))
        if chain is not None and not belongs_to(chain[0], key):
            words = "has another key than the first certificate of cert_path"
            complain("key_path", settings.key_path, [words])
    if problems:
        raise ConfigurationError(tuple(problems))
    ends = {}
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    try:
        if authorities is None:
            context.set_default_verify_paths()
        else:
            ends["ca"] = not_after(authorities).timestamp()
            store = context.get_cert_store()
            assert store is not None
            for one in authorities:
                store.add_cert(X509.from_cryptography(one))
            # Whoever is named is trusted: an intermediate CA, or one server's own certificate.
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        if chain is not None and key is not None:
            ends["client"] = not_after(chain).timestamp()
            context.use_certificate(chain[0])
            for one in chain[1:]:
                context.add_extra_chain_cert(one)
            context.use_privatekey(key)
            context.check_privatekey()
    except (SSL.Error, CryptoError) as error:
        why = "; ".join(str(one[-1]) for one in error.args[0]) if error.args else "OpenSSL refuses"
        raise ConfigurationError((f"{prefix}cert_path: {settings.cert_path}: {why}",)) from None
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify_depth(MAX_CHAIN)
    if protocols:
        context.set_alpn_protos(list(protocols))
    # Last: pyOpenSSL makes a connection to see which ciphers there are, and after its first
    # connection a context cannot be changed.
    context.set_cipher_list(CIPHERS)
    return ClientMaterial(context, ends)
