"""Who may ask: every configured way of signing in, and what is told to those who are not known."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from mcpguard.config.auth_rules import signs_in_elsewhere
from mcpguard.config.settings import AuthSettings, ListenerSettings
from mcpguard.front.exchange import Incoming
from mcpguard.identity.api_keys import ApiKeys
from mcpguard.identity.authenticator import Authenticator
from mcpguard.identity.certificate_headers import CertificateHeaders
from mcpguard.identity.chain import Chain
from mcpguard.identity.challenge import PLAIN, Challenges
from mcpguard.identity.mutual_tls import MutualTls, Presented
from mcpguard.identity.resources import PublicListener, Resources, servers_and_scopes
from mcpguard.pipeline.places import Part, place_of
from mcpguard.policy.certificates import PeerCertificate, Withdrawn
from mcpguard.policy.public_urls import MOUNT
from mcpguard.upstream.directory import UpstreamDirectory

if TYPE_CHECKING:
    from mcpguard.identity.jwt import JwtBounds, Keys

CERTIFICATE_CHARS = 16_384
"""Of a certificate in a header."""
MAX_CERTIFICATES = 1_000
MAX_CERTIFICATE_PRINCIPALS = 10_000
MAX_PEERS = 10_000
KNOWN_TOKENS = 4_096
KNOWN_TOKEN_CHARACTERS = 8_388_608
KNOWN_SCOPE_SETS = 1_024
WAITING_TOKENS = 64
KEYS_RETRY_SECS = 5.0


@frozen
class Identities:
    """What the gateway knows of identities, as far as others need it."""

    chain: Chain
    challenges: Challenges
    document: Callable[[Incoming], dict[str, Any] | None]
    """The resource metadata asked for; None: there is no such resource."""


def identities_for(
    auth: AuthSettings,
    directory: UpstreamDirectory,
    listeners: Callable[[], Sequence[PublicListener]],
    wall: Callable[[], float],
    *,
    keys: "Keys | None" = None,
    withdrawn: Callable[[PeerCertificate], Withdrawn | None] = lambda certificate: None,
) -> Identities:
    """Put together what is configured: certificates, then API keys, then tokens.

    ``listeners`` are asked for once the first request has come, ``withdrawn`` with each
    certificate. ``keys`` are those that the issuer of the tokens publishes, for mode ``jwks``.
    """
    resources = resources_for(auth, directory, listeners)
    challenges, document = PLAIN, _no_document
    if signs_in_elsewhere(auth):
        challenges = Challenges(resources.metadata_url, resources.scopes)
        document = resources.document
    mtls = auth.mtls
    presented = Presented(
        () if mtls is None else mtls.trusted_proxy_ips,
        withdrawn,
        CertificateHeaders(CERTIFICATE_CHARS, MAX_CERTIFICATES),
        MAX_PEERS,
    )
    certificates = None
    if mtls is not None and mtls.enabled:
        certificates = MutualTls(mtls, presented, max_principals=MAX_CERTIFICATE_PRINCIPALS)
    bearers: list[Authenticator] = []
    if auth.api_keys:
        bearers.append(ApiKeys(auth.api_keys))
    if auth.jwt is not None:
        # Not needed by every gateway, and large.
        from mcpguard.identity.jwt import fixed_keys, jwt_of

        if auth.jwt.mode == "simple":
            keys = fixed_keys(auth.jwt)
        assert keys is not None, "tokens cannot be verified without keys"
        bearers.append(
            jwt_of(
                auth.jwt,
                keys,
                certificate_of=lambda incoming: presented.certificate_of(incoming, wall()),
                resources=resources.urls,
                bounds=jwt_bounds(),
            )
        )
    chain = Chain(*bearers, challenger=challenges, certificates=certificates)
    return Identities(chain, challenges, document)


def jwt_bounds() -> "JwtBounds":
    """How much is remembered of tokens."""
    from mcpguard.identity.jwt import JwtBounds

    return JwtBounds(
        tokens=KNOWN_TOKENS,
        characters=KNOWN_TOKEN_CHARACTERS,
        rights=KNOWN_SCOPE_SETS,
        waiting=WAITING_TOKENS,
        retry_after=KEYS_RETRY_SECS,
    )


def resources_for(
    auth: AuthSettings,
    directory: UpstreamDirectory,
    listeners: Callable[[], Sequence[PublicListener]],
) -> Resources:
    """Every place where the servers of a directory are reached, as OAuth's resources."""

    def endpoint_of(path: str) -> str | None:
        place = place_of(path, directory)
        if place is None:
            return None
        if place.part is None:
            return place.route.public_path
        # Who posts a message has signed in for the stream.
        return _stream_of(path.rpartition("/")[0])

    servers, scopes = servers_and_scopes(auth)
    mounts = directory.public_paths
    streams = {_stream_of(""): MOUNT, **{_stream_of(path): path for path in mounts}}
    endpoints = {path: path for path in mounts}
    for path, mount in streams.items():
        # Another server may stand there, or where its messages would go.
        if path not in endpoints and endpoint_of(path) == path:
            endpoints[path] = mount
    return Resources(
        endpoints=endpoints,
        endpoint_of=endpoint_of,
        listeners=listeners,
        authorization_servers=servers,
        scopes=scopes,
    )


def _stream_of(path: str) -> str:
    return f"{path}/{Part.STREAM.value}"


def public_listener(one: ListenerSettings, port: int, public_url: str | None) -> PublicListener:
    """A listener that is bound to ``port``; ``public_url`` is the one of ``[server]``."""
    host = f"[{one.host}]" if ":" in one.host else one.host
    scheme = "http" if one.tls is None else "https"
    return PublicListener(
        port=port,
        url=one.public_url or public_url or f"{scheme}://{host}:{port}",
        asks_certificates=one.tls is not None and one.tls.client_ca_path is not None,
    )


def _no_document(incoming: Incoming) -> dict[str, Any] | None:
    return None
