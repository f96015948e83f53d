"""Certificates for the tests of this room, and the headers that proxies make of them."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding

from mcpguard.front.exchange import Incoming
from mcpguard.policy.certificates import PeerCertificate, peer_certificate
from tests.pki import Issued

PROXY = "10.0.0.5"
CLIENT = "192.0.2.7"
NOW = 1_800_000_000.0

PLAIN = PeerCertificate(
    thumbprint="t",
    serial=7,
    issuer=b"issuer",
    common_names=("alice",),
    dns_names=(),
    emails=(),
    uris=(),
    not_before=NOW - 100,
    not_after=NOW + 100,
    der=b"der",
)
"""A certificate that is good now."""


def certificate(**changed: Any) -> PeerCertificate:
    """A certificate that is good now, with these facts."""
    return evolve(PLAIN, **changed)


def facts(issued: Issued) -> PeerCertificate:
    """What a real certificate says."""
    return peer_certificate(issued.certificate)


def pem_header(issued: Issued) -> str:
    """As nginx writes it: everything but letters, digits and ``-._~`` escaped."""
    return quote(issued.pem.decode(), safe="")


def der_header(issued: Issued) -> str:
    """As HAProxy writes it."""
    return base64.b64encode(issued.certificate.public_bytes(Encoding.DER)).decode()


def standard_header(issued: Issued) -> str:
    """As RFC 9440 has it."""
    return f":{der_header(issued)}:"


def request(
    headers: Mapping[str, tuple[str, ...]] | None = None,
    *,
    peer: str = CLIENT,
    shown: PeerCertificate | None = None,
) -> Incoming:
    """A request with these headers, whose connection has shown a certificate."""
    return Incoming("r", "POST", "/mcp", "", headers or {}, b"", peer, 0.0, certificate=shown)
