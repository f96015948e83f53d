"""Tests of tokens in the shapes that identity providers give them."""

import re
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.load import loads
from mcpguard.identity.jwt import rules_of
from mcpguard.policy.jwks import parse_jwks
from mcpguard.policy.tokens import TokenRefused, verify
from tests.policy.providers import (
    AUTH0,
    COGNITO,
    ENTRA,
    KEYCLOAK,
    OKTA,
    PROVIDERS,
    Provider,
)
from tests.tokens import NOW, published, rsa_key

PAGE = Path(__file__).resolve().parents[2] / "docs" / "authentication.md"
SERVER = '\n[upstream]\nurl = "https://example.com/"\ntransport = "http"\n'
KEY = rsa_key(kid="2026-a")
KEYS = parse_jwks(published(KEY), 9)


def token_of(provider: Provider, **changes: object) -> str:
    """A token as the provider would sign it; None takes a claim away."""
    claims = {k: v for k, v in {**provider.claims, **changes}.items() if v is not None}
    return KEY.sign("RS256", {"alg": "RS256", "kid": KEY.kid, **provider.header}, claims)


class ProviderTests(SynchronousTestCase):
    """What each recipe of the documentation makes of its provider's tokens."""

    def test_recipes(self) -> None:
        """Who it is, and with which scopes."""
        for provider in PROVIDERS:
            found = verify(token_of(provider), provider.rules, KEYS, NOW)
            self.assertEqual(
                (found.user_id, found.scopes), (provider.user_id, provider.scopes), provider.name
            )

    def test_documented(self) -> None:
        """The recipes that the documentation shows are these, but for the names in them."""
        page = PAGE.read_text(encoding="utf-8")
        for provider in PROVIDERS:
            block = re.search(rf"(?s)```toml\n# {provider.name}\n(.*?)```", page)
            assert block is not None, provider.name
            settings = loads(block[1] + SERVER, "toml", environ={}, base=Path("/")).settings
            assert settings.auth.jwt is not None
            shown = evolve(
                rules_of(settings.auth.jwt),
                issuer=provider.rules.issuer,
                audiences=provider.rules.audiences,
            )
            self.assertEqual(shown, provider.rules, provider.name)

    def test_strangers(self) -> None:
        """Another tenant's or client's token, or an id token, is refused."""
        for provider, changes in (
            (AUTH0, {"iss": "https://mallory.eu.auth0.example/"}),
            (AUTH0, {"aud": "h3Zx0kQ9mVt1aYcN5rLw8uPbJ2eDfGs7"}),
            (KEYCLOAK, {"aud": "account"}),
            (KEYCLOAK, {"iss": "https://sso.example.com/realms/other"}),
            (OKTA, {"aud": "0oa1b2c3d4e5f6g7h8i9"}),
            (COGNITO, {"client_id": "another"}),
            # An id token of the same client has aud and no client_id.
            (COGNITO, {"client_id": None, "aud": "1h57kf5cpq17m0eml12EXAMPLE"}),
            (ENTRA, {"aud": "00000003-0000-0000-c000-000000000000"}),
            (ENTRA, {"iss": "https://sts.windows.example/72f988bf-0000-41af-91ab-2d7cd011db47/"}),
        ):
            with self.assertRaises(TokenRefused, msg=provider.name):
                verify(token_of(provider, **changes), provider.rules, KEYS, NOW)
        # One provider's rules never take another's token.
        for provider in PROVIDERS:
            for other in PROVIDERS:
                if other is not provider:
                    with self.assertRaises(TokenRefused):
                        verify(token_of(other), provider.rules, KEYS, NOW)

    def test_other_claims_for_scopes(self) -> None:
        """Roles of a client in Keycloak, app roles in Entra, groups in Cognito."""
        for provider, claim, scopes in (
            (KEYCLOAK, "resource_access.mcp-guard.roles", {"operator"}),
            (KEYCLOAK, "scope", {"openid", "email", "profile"}),
            (ENTRA, "roles", {"Tools.Write"}),
            (COGNITO, "cognito:groups", {"tool-users"}),
            (AUTH0, "scope", {"openid", "profile", "read:files"}),
        ):
            rules = evolve(provider.rules, scopes_claim=claim)
            self.assertEqual(verify(token_of(provider), rules, KEYS, NOW).scopes, scopes)
