"""What a listener speaks TLS with: read from its files whole, or not at all."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from attrs import field, frozen
from cryptography import x509

from mcpguard.config.settings import TlsSettings
from mcpguard.errors import ConfigurationError
from mcpguard.policy.certificate_rules import (
    Findings,
    by_subject,
    judge_authorities,
    judge_crls,
    judge_key,
    judge_own,
)
from mcpguard.policy.certificates import (
    PrivateKey,
    anchor_of,
    belongs_to,
    read_certificates,
    read_crls,
    read_private_key,
)
from mcpguard.tls.files import Unreadable, read_bounded

_Read = TypeVar("_Read")

_KEYS = {
    "server": "cert_path",
    "client_ca": "client_ca_path",
    "client_crl": "client_crl_path",
}
KINDS = tuple(_KEYS)
"""What material consists of, besides the key of its certificate."""


@frozen
class MaterialBounds:
    """How much is read."""

    pem_bytes: int
    """Of a file of certificates, or of a key."""
    crl_bytes: int
    """Of a file of revocation lists."""


@frozen
class Material:
    """A certificate with its key, and what clients' certificates are held against."""

    chain: tuple[x509.Certificate, ...]
    """The listener's certificate, then what is sent after it."""
    key: PrivateKey = field(repr=False)
    authorities: tuple[x509.Certificate, ...]
    """Whose client certificates are accepted; empty: none are asked for."""
    crls: tuple[x509.CertificateRevocationList, ...]
    revoked: Mapping[bytes, frozenset[int]] = field(repr=False)
    """By issuer (DER of its name): the serial numbers in its lists."""
    ends: Mapping[str, float]
    """When the first of each kind ends, in Unix seconds: ``server``, and where there are any
    ``client_ca`` and ``client_crl``."""
    anchors: frozenset[bytes] = field(init=False, repr=False)
    """The authorities that a verified chain can end in, by `anchor_of`."""

    @anchors.default
    def _roots(self) -> frozenset[bytes]:
        # OpenSSL ends at no other one: `context` does not ask for partial chains.
        return frozenset(anchor_of(one) for one in self.authorities if one.issuer == one.subject)


def load_material(
    tls: TlsSettings,
    where: str,
    bounds: MaterialBounds,
    now: float,
    *,
    strict: bool,
    known: "Material | None" = None,
) -> Material:
    """Read and check every file that a listener's TLS needs, at ``now`` (Unix seconds).

    ``where`` is the key of the settings (``server.tls``). Not ``strict``: what is judged of whole
    certificates, such as their dates, is of no account; with ``known``, what is in use, neither is
    it where it is no news, so that a list that has ended keeps no new certificate away. Raises
    `ConfigurationError` with every problem: the key, the path, what is wrong and what to do.
    """
    reading = _Reading(tls, where)
    chain = reading.read("cert_path", bounds.pem_bytes, read_certificates) or ()
    key = reading.read("key_path", bounds.pem_bytes, read_private_key)
    authorities: Sequence[x509.Certificate] = ()
    crls: Sequence[x509.CertificateRevocationList] = ()
    if tls.client_ca_path is not None:
        authorities = reading.read("client_ca_path", bounds.pem_bytes, read_certificates) or ()
    if tls.client_crl_path is not None:
        crls = reading.read("client_crl_path", bounds.crl_bytes, read_crls) or ()
    reading.judge(chain, authorities, crls, now, _news(known, chain, authorities, crls, strict))
    if key is not None:
        reading.complain("key_path", *judge_key(key))
        if chain and not belongs_to(chain[0], key):
            reading.complain(
                "key_path",
                f"is not the key of the first certificate in {tls.cert_path}: name the key that"
                " the certificate was made for, and put that certificate first",
            )
    if reading.problems or not chain or key is None:
        raise ConfigurationError(tuple(reading.problems))
    return Material(
        chain=tuple(chain),
        key=key,
        authorities=tuple(authorities),
        crls=tuple(crls),
        revoked=_revoked(crls, authorities),
        ends=reading.ends,
    )


def outlook(
    material: Material, tls: TlsSettings, where: str, now: float
) -> tuple[Sequence[str], Sequence[str]]:
    """What is wrong by now with material that was good once, and what soon will be."""
    reading = _Reading(tls, where)
    reading.judge(material.chain, material.authorities, material.crls, now, KINDS)
    return reading.problems, reading.warnings


class _Reading:
    """Reads and judges the files of one listener, and collects what is wrong with them."""

    def __init__(self, tls: TlsSettings, where: str) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.ends: dict[str, float] = {}
        self._tls = tls
        self._where = where

    def complain(self, key: str, *problems: str) -> None:
        self.problems += [self._about(key, words) for words in problems]

    def read(self, key: str, limit: int, parse: Callable[[bytes], _Read]) -> _Read | None:
        try:
            return parse(read_bounded(getattr(self._tls, key), limit))
        except (Unreadable, ValueError) as error:
            self.complain(key, str(error))
        return None

    def judge(
        self,
        chain: Sequence[x509.Certificate],
        authorities: Sequence[x509.Certificate],
        crls: Sequence[x509.CertificateRevocationList],
        now: float,
        strictly: Collection[str],
    ) -> None:
        moment = datetime.fromtimestamp(now, UTC)
        judged: dict[str, Findings] = {}
        if chain:
            judged["server"] = judge_own(chain, moment, server=True)
        if authorities:
            judged["client_ca"] = judge_authorities(authorities, moment, issuing=True)
        if crls and authorities:
            judged["client_crl"] = judge_crls(crls, authorities, moment)
        for kind, found in judged.items():
            self._judged(kind, found, strict=kind in strictly)

    def _judged(self, kind: str, found: Findings, *, strict: bool) -> None:
        key = _KEYS[kind]
        if strict:
            self.complain(key, *found.problems)
        self.warnings += [self._about(key, words) for words in found.warnings]
        if found.end is not None:
            self.ends[kind] = found.end.timestamp()

    def _about(self, key: str, words: str) -> str:
        return f"{self._where}.{key}: {getattr(self._tls, key)} {words}"


def changed(old: Material, new: Material) -> tuple[str, ...]:
    """What is another one, of `KINDS`: a file may have been written again as it was."""
    return _news(old, new.chain, new.authorities, new.crls, True)


def _news(
    known: Material | None,
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    strict: bool,
) -> tuple[str, ...]:
    if not strict:
        return ()
    if known is None:
        return KINDS
    same = (
        known.chain == tuple(chain),
        known.authorities == tuple(authorities),
        known.crls == tuple(crls),
    )
    return tuple(kind for kind, is_same in zip(KINDS, same, strict=True) if not is_same)


def _revoked(
    crls: Sequence[x509.CertificateRevocationList], authorities: Sequence[x509.Certificate]
) -> dict[bytes, frozenset[int]]:
    found: dict[bytes, frozenset[int]] = {}
    named = by_subject(authorities)
    for crl in crls:
        serials = frozenset(one.serial_number for one in crl)
        # A list may spell its CA's name in another encoding than the certificates do.
        names = {one.subject.public_bytes() for one in named.get(crl.issuer, ())}
        for name in names | {crl.issuer.public_bytes()}:
            found[name] = found.get(name, frozenset()) | serials
    return found
