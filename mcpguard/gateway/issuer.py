"""The issuer of tokens that publishes its keys: how they are fetched, how long they are used."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.web.iweb import IPolicyForHTTPS

from mcpguard.config.settings import AuthSettings, JwtSettings
from mcpguard.observe.events import Recorder
from mcpguard.observe.metrics import Metrics

if TYPE_CHECKING:
    from mcpguard.identity.keyset import RemoteKeys

# What fetches keys is imported where there are some to fetch: it is some MiB of code.

TOTAL_SECS = 10.0
ANSWER_BYTES = 524_288
MAX_ADDRESSES = 16
MAX_KEYS = 100
RENEW_AT = 0.75
"""Of the life of the keys."""
MAX_STALE_SECS = 86_400.0
"""How long keys are used beyond their life while the issuer does not give them."""


@frozen
class Issuer:
    """The keys, if there are some to fetch, and whether anybody could sign in without them."""

    keys: "RemoteKeys | None" = None
    only_way: bool = False
    """Tokens are the one way to sign in."""

    def start(self) -> None:
        """Fetch the keys, and keep them fresh."""
        if self.keys is not None:
            self.keys.start()

    def stop(self) -> None:
        """Fetch nothing more."""
        if self.keys is not None:
            self.keys.stop()

    def readiness(self) -> tuple[bool, str]:
        """Whether requests can be served, and if not, why."""
        if self.only_way and self.keys is not None and not self.keys.loaded:
            return False, "no keys of the identity provider yet"
        return True, ""


def issuer_of(
    auth: AuthSettings,
    *,
    policy: Callable[[JwtSettings], IPolicyForHTTPS],
    reactor: Any,
    recorder: Recorder,
    metrics: Metrics,
    wall: Callable[[], float],
) -> Issuer:
    """The issuer that is configured, or one without keys.

    ``policy`` tells by what certificates its server is known; what it raises is raised.
    """
    jwt = auth.jwt
    if jwt is None or jwt.mode != "jwks":
        return Issuer()
    by_certificate = auth.mtls is not None and auth.mtls.enabled
    keys = _keys(jwt, policy(jwt), reactor, recorder, metrics, wall)
    metrics.show("mcp_guard_jwks_keys", keys.count)
    metrics.show("mcp_guard_jwks_age_seconds", keys.age)
    return Issuer(keys, not auth.api_keys and not by_certificate)


def _keys(
    jwt: JwtSettings,
    policy: IPolicyForHTTPS,
    reactor: Any,
    recorder: Recorder,
    metrics: Metrics,
    wall: Callable[[], float],
) -> "RemoteKeys":
    from mcpguard.identity.jwks_fetch import FetchBounds, JwksEndpoint
    from mcpguard.identity.jwt import rules_of
    from mcpguard.identity.keyset import KeysBounds, RemoteKeys
    from mcpguard.policy.jwks import parse_jwks
    from mcpguard.upstream.egress import VettedEndpoint

    url, life = jwt.jwks_url, jwt.cache_duration_secs
    assert url is not None
    endpoint = VettedEndpoint(
        reactor,
        url,
        policy=policy,
        allow_private=jwt.allow_private_networks,
        connect_timeout=TOTAL_SECS,
        max_addresses=MAX_ADDRESSES,
    )
    return RemoteKeys(
        JwksEndpoint(url, endpoint, reactor, FetchBounds(TOTAL_SECS, ANSWER_BYTES)),
        parse=lambda data: parse_jwks(data, MAX_KEYS),
        algorithms=rules_of(jwt).algorithms,
        clock=reactor,
        bounds=KeysBounds(
            renew_secs=RENEW_AT * life,
            life_secs=life + MAX_STALE_SECS,
            jitter=0.1,
            retry_secs=2.0,
            max_retry_secs=60.0,
            cooldown_secs=10.0,
            waiters=10_000,
            names=20,
            name_chars=64,
        ),
        recorder=recorder,
        meter=metrics,
        wall=wall,
        random=random.random,
    )
