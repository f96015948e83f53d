"""A client's certificate as it goes along with its connection from one worker to another.

Only where TLS is spoken a certificate is verified; whoever serves the connection takes the word
of that worker for it.
"""

import msgspec
from attrs import evolve
from cryptography import x509

from mcpguard.policy.certificates import PeerCertificate, Verified, peer_certificate

MAX_PASSPORT = 131_072
"""Bytes; OpenSSL takes no more than 100 KiB of certificates from a client."""


class _Passport(msgspec.Struct, array_like=True, frozen=True):
    der: bytes
    authorities: list[tuple[bytes, bytes]]
    """Issuer, and serial number (too large for an integer of the format)."""
    verified: tuple[int, bytes, list[bytes]] | None = None
    """Listener, anchor, and what was sent; the last one, for workers that know nothing of it."""


def packed(certificate: PeerCertificate) -> bytes:
    """As bytes; raises ValueError for more than `MAX_PASSPORT`."""
    authorities = [(issuer, str(serial).encode()) for issuer, serial in certificate.authorities]
    known = certificate.verified
    verified = None if known is None else (known.listener, known.anchor, list(known.sent))
    made = msgspec.msgpack.encode(_Passport(certificate.der, authorities, verified))
    if len(made) > MAX_PASSPORT:
        raise ValueError(f"a certificate with its chain of {len(made)} bytes")
    return made


def unpacked(data: bytes) -> PeerCertificate:
    """From what `packed` gave; raises ValueError for anything else."""
    try:
        found = msgspec.msgpack.decode(data, type=_Passport)
    except msgspec.MsgspecError as error:
        raise ValueError("no certificate") from error
    authorities = tuple((issuer, int(serial)) for issuer, serial in found.authorities)
    verified = None
    if found.verified is not None:
        listener, anchor, sent = found.verified
        verified = Verified(listener, anchor, tuple(sent))
    facts = peer_certificate(x509.load_der_x509_certificate(found.der), (), verified)
    return evolve(facts, authorities=authorities)
