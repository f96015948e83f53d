"""The PEM files that a configuration names: read and judged where it is going to be used.

Each rule does nothing in a report without a time. What is said, and what counts as wrong, is in
`policy.certificate_rules`; here are the keys and the files.
"""

import stat
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from attrs import define

from mcpguard.config.places import Place
from mcpguard.config.reading import NotReadable, read_file
from mcpguard.config.settings import TlsSettings
from mcpguard.config.tables import Draft

if TYPE_CHECKING:
    from cryptography import x509

    from mcpguard.policy.certificate_rules import Findings

# The judges are imported where there is something to judge: certificates are some MiB of code.

T = TypeVar("T")


def listener(draft: Draft) -> None:
    """What a listener shows, and whose client certificates it accepts."""
    now = draft.place.report.now
    if now is None:
        return
    _own(draft, now, server=True)
    authorities = _authorities(draft, "client_ca_path", now, issuing=True)
    _revocations(draft, authorities, now)


def server_known_by(draft: Draft) -> None:
    """How a server behind a URL is known, and how we are to it."""
    now = draft.place.report.now
    if now is None:
        return
    _authorities(draft, "ca_path", now, issuing=False)
    _own(draft, now, server=False)


def key_set(draft: Draft) -> None:
    """How the issuer of tokens is known."""
    now = draft.place.report.now
    if now is not None:
        _authorities(draft, "jwks_ca_path", now, issuing=False)


def names(draft: Draft) -> None:
    """Whether clients will find the name they use in the listeners' certificates."""
    if draft.place.report.now is None:
        return
    public_url = draft.values.get("public_url")
    tls = draft.values.get("tls")
    if isinstance(tls, TlsSettings):
        _names(draft.place.item("tls").item("cert_path"), tls, public_url)
    for index, one in enumerate(draft.values.get("listeners", ())):
        if one.tls is not None:
            place = draft.place.item("listeners").item(index).item("tls").item("cert_path")
            _names(place, one.tls, one.public_url or public_url)


def _names(place: Place, tls: TlsSettings, public_url: str | None) -> None:
    from mcpguard.policy.certificate_rules import names_host
    from mcpguard.policy.certificates import MAX_PEM_BYTES, read_certificates

    certificates = _File(place, tls.cert_path).parsed(read_certificates, MAX_PEM_BYTES, told=True)
    if not certificates:
        return
    file = _File(place, tls.cert_path)
    host = urlsplit(public_url or "").hostname or ""
    named = names_host(certificates[0], host or "localhost")
    if named is None:
        file.warn("names no host (subjectAltName), so that no client will accept it")
    elif host and not named:
        file.warn(f"is not for {host}, the host of public_url: clients will not accept it")


@define
class _File:
    """One file that the configuration names, and the key that does so."""

    place: Place
    path: Path

    def complain(self, words: str) -> None:
        """Report what makes it useless."""
        self.place.complain(f"{self._name} {words}")

    def warn(self, words: str) -> None:
        """Report what is doubtful about it."""
        self.place.warn(f"{self._name} {words}")

    def parsed(
        self, parse: Callable[[bytes], T], limit: int, *, secret: bool = False, told: bool = False
    ) -> T | None:
        """What it holds; None when that is reported, or (``told``) was before."""
        try:
            data, status = read_file(self.path, limit)
            if secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = stat.S_IMODE(status.st_mode)
                self.warn(f"is open to others (mode {mode:04o}); chmod 600 it")
            return parse(data)
        except FileNotFoundError:
            words = "does not exist; correct the path, or put the file there"
        except NotReadable as error:
            words = str(error)
            if words.startswith("cannot be read"):
                words += "; the user the gateway runs as must be able to"
        except ValueError as error:
            words = str(error)
        if not told:
            self.complain(words)
        return None

    def judged(self, found: "Findings") -> None:
        """Report what a judge has found out about it."""
        for words in found.problems:
            self.complain(words)
        for words in found.warnings:
            self.warn(words)
        if found.end is not None:
            self.place.note(f"{self._name} is good until {found.end:%Y-%m-%d %H:%M} UTC")

    @property
    def _name(self) -> str:
        # A path that came by reference is shown nowhere.
        return str(self.path) if isinstance(self.place.value, str) else "the file named there"


def _file(draft: Draft, key: str) -> _File | None:
    path = draft.values.get(key)
    return None if path is None else _File(draft.at(key), path)


def _own(draft: Draft, now: datetime, *, server: bool) -> None:
    certificate_file, key_file = _file(draft, "cert_path"), _file(draft, "key_path")
    if certificate_file is None and key_file is None:
        return
    from mcpguard.policy.certificate_rules import judge_key, judge_own
    from mcpguard.policy.certificates import (
        MAX_PEM_BYTES,
        belongs_to,
        read_certificates,
        read_private_key,
    )

    chain = key = None
    if certificate_file is not None:
        chain = certificate_file.parsed(read_certificates, MAX_PEM_BYTES)
        if chain is not None:
            certificate_file.judged(judge_own(chain, now, server=server))
    if key_file is None:
        return
    key = key_file.parsed(read_private_key, MAX_PEM_BYTES, secret=True)
    if key is None:
        return
    for words in judge_key(key):
        key_file.complain(words)
    if chain is not None and not belongs_to(chain[0], key):
        key_file.complain(
            "has another key than the first certificate of cert_path: name the key that the"
            " certificate was made for, and put that certificate first"
        )


def _authorities(
    draft: Draft, key: str, now: datetime, *, issuing: bool
) -> "Sequence[x509.Certificate]":
    file = _file(draft, key)
    if file is None:
        return ()
    from mcpguard.policy.certificate_rules import judge_authorities
    from mcpguard.policy.certificates import MAX_PEM_BYTES, read_certificates

    found = file.parsed(read_certificates, MAX_PEM_BYTES)
    if found is None:
        return ()
    file.judged(judge_authorities(found, now, issuing=issuing))
    return found


def _revocations(draft: Draft, authorities: "Sequence[x509.Certificate]", now: datetime) -> None:
    file = _file(draft, "client_crl_path")
    if file is None:
        return
    from mcpguard.policy.certificate_rules import judge_crls
    from mcpguard.policy.certificates import MAX_CRL_BYTES, read_crls

    found = file.parsed(read_crls, MAX_CRL_BYTES)
    if found is not None and authorities:
        file.judged(judge_crls(found, authorities, now))
