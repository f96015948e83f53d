"""The schema of ``[auth]``: the ways of signing in, and the rights that come with each."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import fields

from mcpguard.config import auth_rules, grammar, pem_files
from mcpguard.config.kinds import (
    Choice,
    Flag,
    Integer,
    Kind,
    ListOf,
    ListsByName,
    Number,
    OneOrMore,
    SecretValue,
    Text,
)
from mcpguard.config.settings import (
    ApiKeySettings,
    AuthSettings,
    IdentityKeys,
    JwtSettings,
    MtlsIdentity,
    MtlsSettings,
)
from mcpguard.config.shapes import DAY, GLOB, GLOBS, MAX_RATE, Moment
from mcpguard.config.tables import Table, Tables
from mcpguard.config.tls_schema import PEM

T = TypeVar("T")

ALGORITHMS = (
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
IDENTITY_SOURCES = {
    "cn": "cn",
    **{name: name for name in ("san_dns", "san_email", "san_uri")},
    "sandns": "san_dns",
    "sanemail": "san_email",
}

IDENTITY_KEYS: Mapping[str, Kind[Any]] = {
    "name": Text("a name to show", grammar.label(256)),
    **dict.fromkeys(
        (
            "allowed_tools",
            "denied_tools",
            "allowed_servers",
            "allowed_resources",
            "denied_resources",
            "allowed_prompts",
            "denied_prompts",
        ),
        GLOBS,
    ),
    "rate_limit": Number(0, MAX_RATE),
    "burst_size": Integer(1, 1_000_000),
    "max_concurrency": Integer(1, 100_000),
}

SHARED_KEYS = {key: kind for key, kind in IDENTITY_KEYS.items() if key != "name"}
"""Of many identities at once, who have no name in common."""

NETWORKS = ListOf(
    Text("an IP address or CIDR range", grammar.network),
    "a list of IP addresses and CIDR ranges",
    1000,
)
SUBJECT = Text("a name of 1 to 256 characters", grammar.label(256), plain=True)
CLAIM = Text("the name of a claim", grammar.label(256), plain=True)
SCOPE = Text("a scope", grammar.scope, plain=True)
ISSUER = Text("an absolute URL such as https://login.example.com/", grammar.issuer_url)


def with_identity(build: Callable[..., T]) -> Callable[..., T]:
    """Put the rights and limits into their own object."""

    def built(**given: Any) -> T:
        identity = {f.name: given.pop(f.name) for f in fields(IdentityKeys) if f.name in given}
        return build(identity=IdentityKeys(**identity), **given)

    return built


API_KEY = Table(
    with_identity(ApiKeySettings),
    {
        "id": Text("a name of 1 to 128 characters", grammar.label(128), plain=True),
        "key_hash": Text(
            "the base64 of a SHA-256, as `mcp-guard keygen` and `mcp-guard hash-key` print it",
            grammar.key_hash,
            hidden=True,
        ),
        **IDENTITY_KEYS,
        "expires_at": Moment(),
        "allowed_ips": NETWORKS,
    },
    required=("id", "key_hash"),
)

JWT = Table(
    with_identity(JwtSettings),
    {
        "mode": Choice(("simple", "jwks")),
        "issuer": Text(
            'what `iss` is in the tokens, such as "https://login.example.com/"',
            grammar.label(1024),
            plain=True,
        ),
        "audience": OneOrMore(
            Text("what `aud` is in the tokens", grammar.label(1024), plain=True),
            "what `aud` names in tokens for this gateway, such as"
            ' "https://mcp.example.com/mcp": a string or a list of strings',
            100,
        ),
        "secret": SecretValue("at least 32 bytes", grammar.jwt_secret),
        "jwks_url": Text(
            "an https:// URL (http:// only on loopback)", grammar.jwks_url, plain=True
        ),
        "jwks_ca_path": PEM,
        "allow_private_networks": Flag(),
        "algorithms": ListOf(Choice(ALGORITHMS), "a list of algorithms such as RS256", 20),
        "cache_duration_secs": Number(10, 30 * DAY, or_equal=True),
        "user_id_claim": CLAIM,
        "scopes_claim": CLAIM,
        "audience_claim": CLAIM,
        "required_claims": ListOf(CLAIM, "a list of names of claims", 100),
        "leeway_secs": Number(0, 300, or_equal=True),
        "scope_tool_mapping": ListsByName(
            "a table of scopes, each with a list of tools", grammar.scope, GLOB
        ),
        **SHARED_KEYS,
    },
    required=("mode", "issuer", "audience"),
    rules=(
        auth_rules.jwt_mode,
        auth_rules.jwt_algorithms,
        auth_rules.scopes_that_grant,
        pem_files.key_set,
    ),
)

MTLS_IDENTITY = Table(
    with_identity(MtlsIdentity),
    {"id": SUBJECT, **IDENTITY_KEYS},
    required=("id",),
)

MTLS = Table(
    with_identity(MtlsSettings),
    {
        "enabled": Flag(),
        "identity_source": Choice(tuple(IDENTITY_SOURCES), meaning=IDENTITY_SOURCES),
        "trusted_proxy_ips": NETWORKS,
        "identities": Tables(
            MTLS_IDENTITY,
            "a list of tables: [[auth.mtls.identities]]",
            unique={"id": "another identity has this id"},
        ),
        **SHARED_KEYS,
    },
    rules=(
        auth_rules.mtls_is_off,
        auth_rules.subjects_that_can_be,
        auth_rules.proxies_that_are_told_apart,
    ),
)

AUTH = Table(
    AuthSettings,
    {
        "api_keys": Tables(
            API_KEY,
            "a list of tables: [[auth.api_keys]]",
            unique={
                "id": "another API key has this id",
                "key_hash": "another API key has this hash, so it is the same key",
            },
        ),
        "jwt": JWT,
        "mtls": MTLS,
        "authorization_servers": ListOf(ISSUER, "a list of URLs", 100),
        "scopes_supported": ListOf(SCOPE, "a list of scopes", 1000),
    },
    rules=(auth_rules.where_to_sign_in,),
    later=frozenset({"oauth"}),
)
