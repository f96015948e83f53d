"""Client certificates: which one counts for a request, and whose it is."""

from collections.abc import Callable, Mapping
from enum import Enum

from attrs import define, field, frozen

from mcpguard.config.settings import IdentityKeys, MtlsSettings, Network
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import allowance_of, rights_of
from mcpguard.identity.certificate_headers import NOT_ACCEPTED, CertificateHeaders
from mcpguard.policy.addresses import is_within
from mcpguard.policy.certificates import PeerCertificate, Withdrawn
from mcpguard.policy.principal import Allowance, Principal, Rights

PROVIDER = "mtls"

MAX_NAME = 256
"""Characters of a name that can be an identity."""
_WITHDRAWN = {
    Withdrawn.REVOKED: "is revoked",
    Withdrawn.UNTRUSTED: "comes from a CA that is not trusted any more",
}


class Source(Enum):
    """Where in a certificate an identity stands; the value is that of ``identity_source``."""

    CN = "cn"
    SAN_DNS = "san_dns"
    SAN_EMAIL = "san_email"
    SAN_URI = "san_uri"

    def names(self, certificate: PeerCertificate) -> tuple[str, ...]:
        """Every value that stands there."""
        if self is Source.CN:
            return certificate.common_names
        if self is Source.SAN_DNS:
            return certificate.dns_names
        if self is Source.SAN_EMAIL:
            return certificate.emails
        return certificate.uris


@define(eq=False)
class Presented:
    """The certificate that counts for a request, whoever verified it.

    For a connection from one of the ``trusted`` networks that is what the proxy says in headers,
    and never the certificate of the connection itself, which is the proxy's. For everybody else it
    is the one of the handshake, and there are no such headers.
    """

    trusted: tuple[Network, ...]
    withdrawn: Callable[[PeerCertificate], Withdrawn | None]
    """Why a certificate counts no more since its connection was made; None: it does."""
    headers: CertificateHeaders
    max_peers: int
    """Addresses that are remembered as those of a proxy, or of none."""
    _proxies: dict[str, bool] = field(init=False, factory=dict)

    def certificate_of(self, incoming: Incoming, now: float) -> PeerCertificate | None:
        """Give the certificate, None where there is none; ``now`` is in Unix seconds.

        Raises `Refused` (401) for one that does not count: a word of the proxy that is no clear
        yes, a certificate that cannot be read, is not valid yet or no more, or was withdrawn. It
        is judged anew for each request: a connection may outlive its certificate.
        """
        if self.trusted and self._is_proxy(incoming.peer):
            certificate = self.headers.certificate_in(incoming.headers)
        else:
            certificate = incoming.certificate
        if certificate is None:
            return None
        if now < certificate.not_before:
            raise _refused("is not valid yet", certificate)
        if now > certificate.not_after:
            text = "The client certificate has expired"
            detail = f"certificate {certificate.serial:x} has expired"
            raise Refused(Refusal(Reason.EXPIRED_CREDENTIALS, text, detail=detail))
        why = self.withdrawn(certificate)
        if why is not None:
            raise _refused(_WITHDRAWN[why], certificate)
        return certificate

    def _is_proxy(self, peer: str) -> bool:
        known = self._proxies.get(peer)
        if known is None:
            # There may be a thousand networks, and there are few proxies.
            if len(self._proxies) >= self.max_peers:
                self._proxies.clear()
            known = self._proxies[peer] = is_within(peer, self.trusted)
        return known


def _refused(why: str, certificate: PeerCertificate) -> Refused:
    detail = f"certificate {certificate.serial:x} {why}"
    return Refused(Refusal(Reason.BAD_CREDENTIALS, NOT_ACCEPTED, detail=detail))


@frozen
class _Grant:
    """What a subject gets."""

    name: str | None
    rights: Rights
    limits: Allowance


class MutualTls:
    """Turns the certificate of a request into a principal.

    ``max_principals`` are remembered: requests with one certificate share one object.
    """

    def __init__(
        self, settings: MtlsSettings, presented: Presented, *, max_principals: int
    ) -> None:
        self._source = Source(settings.identity_source)
        self._presented = presented
        self._granted: Mapping[str, _Grant] = {
            one.id: _grant(one.identity) for one in settings.identities
        }
        self._others = _grant(settings.identity)
        self._max = max_principals
        self._principals: dict[tuple[str, float], Principal] = {}

    def __len__(self) -> int:
        """How many principals are remembered."""
        return len(self._principals)

    def authenticate(self, incoming: Incoming, now: float) -> Principal | None:
        """Tell whose certificate comes with a request, None if none does; raises `Refused`.

        Besides what `Presented.certificate_of` refuses: a certificate that names nobody, or
        several.
        """
        certificate = self._presented.certificate_of(incoming, now)
        if certificate is None:
            return None
        name = self._name_in(certificate)
        known = self._principals.get((name, certificate.not_after))
        if known is not None:
            return known
        grant = self._granted.get(name, self._others)
        principal = Principal(
            id=name,
            provider=PROVIDER,
            name=grant.name or name,
            rights=grant.rights,
            limits=grant.limits,
            expires_at=certificate.not_after,
        )
        if len(self._principals) >= self._max:
            self._principals.clear()
        self._principals[name, certificate.not_after] = principal
        return principal

    def _name_in(self, certificate: PeerCertificate) -> str:
        """The one name a certificate gives its subject; raises `Refused`.

        Of several names the one that is configured counts, if just one is. Not so for URIs: an
        X.509-SVID with more than one is invalid (SPIFFE X.509-SVID, section 2).
        """
        names = self._source.names(certificate)
        found = names
        if len(names) > 1 and self._source is not Source.SAN_URI:
            found = tuple(name for name in names if name in self._granted)
        if len(found) != 1:
            configured = f", {len(found)} configured" if found != names else ""
            raise _refused(
                f"has {len(names)} names ({self._source.value}){configured}", certificate
            )
        name = found[0]
        # Such a name would look like another one in a log, or break its line.
        if not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
            raise _refused(f"has a name that is no name ({self._source.value})", certificate)
        return name


def _grant(keys: IdentityKeys) -> _Grant:
    return _Grant(keys.name, rights_of(keys), allowance_of(keys))
