"""API keys: random tokens known by their SHA-256."""

import hashlib
import hmac
from collections.abc import Mapping

from attrs import frozen

from mcpguard.config.settings import ApiKeySettings, Network
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import allowance_of, rights_of
from mcpguard.policy.addresses import is_within
from mcpguard.policy.principal import Principal

PROVIDER = "api_key"

_NOBODY = bytes(32)
"""Compared with when no key has the digest, so that unknown and wrong keys cost the same."""


@frozen
class _Key:
    key_hash: bytes
    principal: Principal
    networks: tuple[Network, ...] | None


class ApiKeys:
    """The configured keys. Keys must be random: their hash is a plain one, made for speed."""

    def __init__(self, keys: tuple[ApiKeySettings, ...]) -> None:
        # Looking up by digest leaks nothing: who could steer the digest of a guess to share a
        # prefix with a stored one could as well invert SHA-256.
        self._keys: Mapping[bytes, _Key] = {key.key_hash: _prepare(key) for key in keys}

    def authenticate(self, token: str, incoming: Incoming, now: float) -> Principal:
        """Tell whose key this is; raises `Refused`.

        ``BAD_CREDENTIALS``, or for a known key ``EXPIRED_CREDENTIALS`` or ``ADDRESS_NOT_ALLOWED``.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        key = self._keys.get(digest)
        same = hmac.compare_digest(digest, _NOBODY if key is None else key.key_hash)
        if key is None or not same:
            raise Refused(Refusal(Reason.BAD_CREDENTIALS))
        principal = key.principal
        if principal.expires_at is not None and now >= principal.expires_at:
            raise Refused(Refusal(Reason.EXPIRED_CREDENTIALS, detail=f"key {principal.id}"))
        peer = incoming.peer
        if key.networks is not None and not is_within(peer, key.networks):
            raise Refused(
                Refusal(Reason.ADDRESS_NOT_ALLOWED, detail=f"key {principal.id} from {peer}")
            )
        return principal


def _prepare(key: ApiKeySettings) -> _Key:
    principal = Principal(
        id=key.id,
        provider=PROVIDER,
        name=key.identity.name or key.id,
        rights=rights_of(key.identity),
        limits=allowance_of(key.identity),
        expires_at=None if key.expires_at is None else key.expires_at.timestamp(),
    )
    return _Key(key.key_hash, principal, key.allowed_ips)
