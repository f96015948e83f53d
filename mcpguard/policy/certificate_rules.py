"""What is wrong or doubtful about certificates, keys and revocation lists before they are used.

Everything here is said of one file, and reads on after its name: "… has expired". ``now`` is aware.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import TypeVar

from attrs import define, field
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from mcpguard.policy.certificates import PrivateKey

E = TypeVar("E", bound=x509.ExtensionType)

SOON = timedelta(days=30)
MIN_RSA_BITS = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")
MAX_NAME = 100
"""Characters of a CA's name in a message."""


@define
class Findings:
    """What was found out about one file."""

    problems: list[str] = field(factory=list)
    """Why it cannot be used."""
    warnings: list[str] = field(factory=list)
    end: datetime | None = None
    """When the first thing in it ends that matters, in UTC."""


def judge_own(chain: Sequence[x509.Certificate], now: datetime, *, server: bool) -> Findings:
    """Judge a certificate that we show, and the chain behind it: its CA, that one's, and so on.

    ``server``: it is a listener's; else we are the client.
    """
    found = Findings()
    for index, one in enumerate(chain):
        _judge_time(found, one, _which(index), now)
    for index, (one, issuer) in enumerate(pairwise(chain)):
        if _issued_by(one, issuer):
            continue
        words = (
            f"has {_which(index + 1)}, which did not issue {_which(index)}: put the certificate"
            " itself first, then that of the CA that issued it, and so on"
        )
        # Further up, what is too much does no harm (RFC 8446 section 4.4.2).
        (found.warnings if index else found.problems).append(words)
    if not serves(chain[0], server=server):
        other, usage = ("clients", "serverAuth") if server else ("servers", "clientAuth")
        found.warnings.append(
            f"is not meant for this use (its extended key usage lacks {usage}): {other} will"
            " refuse it"
        )
    return found


def judge_key(key: PrivateKey) -> list[str]:
    """Why a key is of no use for TLS although it can be read."""
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        return [f"has an RSA key of {key.key_size} bits; at least {MIN_RSA_BITS} are needed"]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        curve = key.curve.name
        if curve not in CURVES and not curve.startswith("brainpool"):
            return [f"has an EC key on the curve {curve}, which TLS cannot use; P-256 can be"]
    return []


def judge_authorities(
    authorities: Sequence[x509.Certificate], now: datetime, *, issuing: bool
) -> Findings:
    """Judge the CAs that somebody else's certificate may come from.

    ``issuing``: each must be a CA by its own words; else a server's own certificate may stand here
    as well.
    """
    found = Findings()
    good = current(authorities, now)
    named = by_subject(authorities)
    for index, one in enumerate(authorities):
        which = _which(index)
        if issuing and not _is_authority(one):
            found.problems.append(
                f"has {which}, {_name(one.subject)}, which is no CA (basicConstraints); only"
                " certificates of CAs belong here"
            )
        if issuing and not any(_issued_by(one, issuer) for issuer in named.get(one.issuer, ())):
            found.problems.append(
                f"lacks the CA that issued {which}, {_name(one.issuer)}, without which nobody could"
                " be verified: add every CA up to the root"
            )
        one_found = Findings()
        _judge_time(one_found, one, which, now)
        # One that has ended among others is how CAs are replaced.
        found.warnings += one_found.warnings + (one_found.problems if good else [])
    if not good:
        found.problems.append(
            "has no certificate that is valid now, so that nobody could be verified by it"
        )
    found.end = min((one.not_valid_after_utc for one in good), default=None)
    return found


def judge_crls(
    crls: Sequence[x509.CertificateRevocationList],
    authorities: Sequence[x509.Certificate],
    now: datetime,
) -> Findings:
    """Judge revocation lists against the CAs whose client certificates are accepted.

    The whole chain of a client is checked, so each CA that can be used needs a list in time.
    """
    found = Findings()
    named = by_subject(authorities)
    usable: dict[x509.Name, list[x509.CertificateRevocationList]] = {}
    for index, crl in enumerate(crls):
        which = f"list {index + 1} in it"
        issuers = named.get(crl.issuer, ())
        if not issuers:
            found.problems.append(
                f"has a list of {_name(crl.issuer)}, which is not in client_ca_path: add the"
                " certificate of that CA there, or leave its list out"
            )
        elif not any(_signed_by(crl, one) for one in issuers):
            found.problems.append(f"has a wrong signature: {which}, of {_name(crl.issuer)}")
        elif crl.last_update_utc > now:
            found.problems.append(
                f"is not valid before {_moment(crl.last_update_utc)}: {which}; is the clock of"
                " this machine right?"
            )
        else:
            usable.setdefault(crl.issuer, []).append(crl)
    for one in dict.fromkeys(one.subject for one in current(authorities, now)):
        ends = [crl.next_update_utc for crl in usable.get(one, ())]
        end = None if None in ends else max((each for each in ends if each), default=now)
        if not ends:
            found.problems.append(
                f"has no list of {_name(one)}, a CA of client_ca_path: everybody whose certificate"
                " comes from it would be refused; add its list"
            )
        elif end is not None and end <= now:
            found.problems.append(
                f"has a list of {_name(one)} that had to be renewed by {_moment(end)}: everybody"
                " would be refused; fetch the CA's current list"
            )
        elif end is not None:
            start = max(crl.last_update_utc for crl in usable[one])
            if _soon(start, end, now):
                found.warnings.append(
                    f"has a list of {_name(one)} that must be renewed by {_moment(end)}"
                )
            found.end = end if found.end is None else min(found.end, end)
    return found


def by_subject(
    authorities: Sequence[x509.Certificate],
) -> dict[x509.Name, list[x509.Certificate]]:
    """CAs by their names; several may have the same. There may be a thousand of them."""
    found: dict[x509.Name, list[x509.Certificate]] = {}
    for one in authorities:
        found.setdefault(one.subject, []).append(one)
    return found


def current(certificates: Sequence[x509.Certificate], now: datetime) -> list[x509.Certificate]:
    """Those that are valid now."""
    return [one for one in certificates if one.not_valid_before_utc <= now < _end(one)]


def names_host(certificate: x509.Certificate, host: str) -> bool | None:
    """Whether a server's certificate is for a host, by RFC 9525; None when it names none at all."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return None
    try:
        return ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        pass
    host = host.lower().rstrip(".")
    parent = host.partition(".")[2]
    known = {one.lower() for one in names.get_values_for_type(x509.DNSName)}
    # A star for a whole top-level domain is taken by nobody.
    return host in known or ("." in parent and f"*.{parent}" in known)


def _judge_time(found: Findings, one: x509.Certificate, which: str, now: datetime) -> None:
    start, end = one.not_valid_before_utc, _end(one)
    found.end = end if found.end is None else min(found.end, end)
    if end <= now:
        found.problems.append(f"has expired, on {_moment(end)}: {which}; replace it")
    elif start > now:
        found.problems.append(
            f"is not valid before {_moment(start)}: {which}; is the clock of this machine right?"
        )
    elif _soon(start, end, now):
        days = (end - now).days
        found.warnings.append(
            f"ends on {_moment(end)}, in {days} day{'' if days == 1 else 's'}: {which}; renew it"
        )


def _soon(start: datetime, end: datetime, now: datetime) -> bool:
    """Whether it should have been renewed: what lives for days only ends soon all its life."""
    return end - now <= min(SOON, (end - start) / 3)


def _end(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _is_authority(certificate: x509.Certificate) -> bool:
    basic = _extension(certificate, x509.BasicConstraints)
    return basic is not None and basic.ca


def serves(certificate: x509.Certificate, *, server: bool) -> bool:
    """Whether its extended key usage is for a server, or a client, of TLS, if it has one."""
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    return usage is None or wanted in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """One of its extensions; None also when they cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        return None


def _which(index: int) -> str:
    return f"certificate {index + 1} in it"


def _name(name: x509.Name) -> str:
    text = name.rfc4514_string()
    return f'"{text[:MAX_NAME]}"' if text else "a CA without a name"


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
