"""The ways of signing in that are configured, in the order they are asked."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mcpguard.config.settings import AuthSettings
from mcpguard.front.exchange import Incoming
from mcpguard.identity.api_keys import ApiKeys
from mcpguard.identity.authenticator import Authenticator
from mcpguard.identity.chain import Chain
from mcpguard.policy.certificates import PeerCertificate

if TYPE_CHECKING:
    from mcpguard.identity.jwt import JwtBounds, Keys

KNOWN_TOKENS = 4_096
KNOWN_TOKEN_CHARACTERS = 8_388_608
KNOWN_SCOPE_SETS = 1_024
KEYS_RETRY_SECS = 5.0


def _no_resources() -> Mapping[str, str]:
    return {}


def chain_for(
    auth: AuthSettings,
    keys: "Keys | None" = None,
    *,
    certificate_of: Callable[[Incoming], PeerCertificate | None] = lambda one: one.certificate,
    resources: Callable[[], Mapping[str, str]] = _no_resources,
) -> Chain:
    """API keys, then tokens.

    ``keys`` are those that the issuer of the tokens publishes, for mode ``jwks``; see `Jwt` for
    the others.
    """
    found: list[Authenticator] = []
    if auth.api_keys:
        found.append(ApiKeys(auth.api_keys))
    if auth.jwt is not None:
        from mcpguard.identity.jwt import fixed_keys, jwt_of

        if auth.jwt.mode == "simple":
            keys = fixed_keys(auth.jwt)
        assert keys is not None, "tokens cannot be verified without keys"
        found.append(
            jwt_of(
                auth.jwt,
                keys,
                certificate_of=certificate_of,
                resources=resources,
                bounds=jwt_bounds(),
            )
        )
    return Chain(*found)


def jwt_bounds() -> "JwtBounds":
    """How much is remembered of tokens."""
    from mcpguard.identity.jwt import JwtBounds

    return JwtBounds(
        tokens=KNOWN_TOKENS,
        characters=KNOWN_TOKEN_CHARACTERS,
        rights=KNOWN_SCOPE_SETS,
        retry_after=KEYS_RETRY_SECS,
    )
