"""The ways of signing in that are configured, in the order they are asked."""

from mcpguard.config.settings import AuthSettings
from mcpguard.identity.api_keys import ApiKeys
from mcpguard.identity.authenticator import Authenticator
from mcpguard.identity.chain import Chain


def chain_for(auth: AuthSettings) -> Chain:
    """API keys, then tokens."""
    found: list[Authenticator] = []
    if auth.api_keys:
        found.append(ApiKeys(auth.api_keys))
    return Chain(*found)
