"""Access tokens as identity providers write them: made-up names in the shapes of the real ones.

Shapes as documented by each provider for access tokens: Auth0 (custom API with RBAC), Keycloak,
Okta (custom authorization server), Amazon Cognito (user pool), Microsoft Entra ID (v2.0).
"""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from mcpguard.policy.tokens import TokenRules
from tests.tokens import NOW

_TIMES = {"iat": int(NOW) - 30, "exp": int(NOW) + 3_600}
_RS256 = frozenset({"RS256"})


@frozen
class Provider:
    """A provider's token, the rules that accept it, and what they make of it."""

    name: str
    header: Mapping[str, Any]
    """Beside ``alg`` and ``kid``."""
    claims: Mapping[str, Any]
    rules: TokenRules
    user_id: str
    scopes: frozenset[str]


AUTH0 = Provider(
    "Auth0",
    {"typ": "JWT"},
    {
        "iss": "https://tenant.eu.auth0.example/",
        "sub": "auth0|64f0c3a1b2d4e5f601234567",
        "aud": ["https://mcp.example.com/mcp", "https://tenant.eu.auth0.example/userinfo"],
        "azp": "h3Zx0kQ9mVt1aYcN5rLw8uPbJ2eDfGs7",
        "scope": "openid profile read:files",
        "permissions": ["read:files", "write:files"],
        **_TIMES,
    },
    TokenRules(
        issuer="https://tenant.eu.auth0.example/",
        audiences=frozenset({"https://mcp.example.com/mcp"}),
        algorithms=_RS256,
        scopes_claim="permissions",
    ),
    "auth0|64f0c3a1b2d4e5f601234567",
    frozenset({"read:files", "write:files"}),
)

KEYCLOAK = Provider(
    "Keycloak",
    {"typ": "JWT"},
    {
        "iss": "https://sso.example.com/realms/staff",
        "sub": "0c9a2f5e-7a6b-4a53-9a53-6d2f9b7e1c44",
        "aud": ["mcp-guard", "account"],
        "azp": "mcp-client",
        "typ": "Bearer",
        "jti": "onrtac:7d0d5c26-9a55-4cb0-8a3e-5a7e2f6f4b10",
        "sid": "5f6f3b1e-0a53-4f5c-b8de-f3c0a1b2c3d4",
        "acr": "1",
        "allowed-origins": ["https://client.example.com"],
        "realm_access": {"roles": ["offline_access", "tools-read", "uma_authorization"]},
        "resource_access": {
            "mcp-guard": {"roles": ["operator"]},
            "account": {"roles": ["manage-account", "view-profile"]},
        },
        "scope": "openid email profile",
        "email_verified": True,
        "preferred_username": "alice",
        **_TIMES,
    },
    TokenRules(
        issuer="https://sso.example.com/realms/staff",
        audiences=frozenset({"mcp-guard"}),
        algorithms=_RS256,
        user_id_claim="preferred_username",
        scopes_claim="realm_access.roles",
    ),
    "alice",
    frozenset({"offline_access", "tools-read", "uma_authorization"}),
)

OKTA = Provider(
    "Okta",
    {},
    {
        "ver": 1,
        "jti": "AT.5bW0vVx2n4Yq8Zc6pLkTgRj1sD3fHm7e",
        "iss": "https://dev-000000.okta.example/oauth2/default",
        "aud": "api://mcp",
        "cid": "0oa1b2c3d4e5f6g7h8i9",
        "uid": "00u1a2b3c4d5e6f7g8h9",
        "scp": ["openid", "tools.read"],
        "auth_time": int(NOW) - 90,
        "sub": "alice@example.com",
        **_TIMES,
    },
    TokenRules(
        issuer="https://dev-000000.okta.example/oauth2/default",
        audiences=frozenset({"api://mcp"}),
        algorithms=_RS256,
        scopes_claim="scp",
    ),
    "alice@example.com",
    frozenset({"openid", "tools.read"}),
)

COGNITO = Provider(
    "Cognito",
    {},
    {
        "sub": "b1f2c3d4-1234-4abc-9def-0123456789ab",
        "cognito:groups": ["tool-users"],
        "iss": "https://cognito-idp.eu-central-1.amazonaws.example/eu-central-1_AbCdEfGhI",
        "version": 2,
        "client_id": "1h57kf5cpq17m0eml12EXAMPLE",
        "origin_jti": "7d1c3c1a-2f1b-4d52-9f6d-0a1b2c3d4e5f",
        "token_use": "access",
        "scope": "aws.cognito.signin.user.admin mcp/read",
        "auth_time": int(NOW) - 30,
        "jti": "e5f6a7b8-c9d0-4e1f-8a2b-3c4d5e6f7a8b",
        "username": "alice",
        **_TIMES,
    },
    TokenRules(
        issuer="https://cognito-idp.eu-central-1.amazonaws.example/eu-central-1_AbCdEfGhI",
        audiences=frozenset({"1h57kf5cpq17m0eml12EXAMPLE"}),
        algorithms=_RS256,
        audience_claim="client_id",
    ),
    "b1f2c3d4-1234-4abc-9def-0123456789ab",
    frozenset({"aws.cognito.signin.user.admin", "mcp/read"}),
)

ENTRA = Provider(
    "Entra",
    {"typ": "JWT", "x5t": "H9nj5AOSswMphg1SFx7jaV-lB9w"},
    {
        "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
        "iss": "https://login.microsoftonline.example/72f988bf-0000-41af-91ab-2d7cd011db47/v2.0",
        "nbf": int(NOW) - 30,
        "aio": "AXQAi/8IAAAAtAaZLo3ChMif6KOnttRB7eBq4/DccQzjcJGxPYy/C3jDaNGxXd6w",
        "azp": "1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
        "azpacr": "0",
        "name": "Alice Example",
        "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
        "preferred_username": "alice@example.com",
        "rh": "0.AQYA",
        "roles": ["Tools.Write"],
        "scp": "Tools.Read Tools.List",
        "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
        "tid": "72f988bf-0000-41af-91ab-2d7cd011db47",
        "uti": "fqiBqXLPj0eQa82S-IYFAA",
        "ver": "2.0",
        **_TIMES,
    },
    TokenRules(
        issuer="https://login.microsoftonline.example/72f988bf-0000-41af-91ab-2d7cd011db47/v2.0",
        audiences=frozenset({"6e74172b-be56-4843-9ff4-e66a39bb12e3"}),
        algorithms=_RS256,
        user_id_claim="oid",
        scopes_claim="scp",
        required_claims=("tid",),
    ),
    "690222be-ff1a-4d56-abd1-7e4f7d38e474",
    frozenset({"Tools.Read", "Tools.List"}),
)

PROVIDERS = (AUTH0, KEYCLOAK, OKTA, COGNITO, ENTRA)
