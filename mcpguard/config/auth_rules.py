"""What must hold between the keys of ``[auth]``, and between them and the rest."""

from collections.abc import Iterator

from mcpguard.config.document import quoted
from mcpguard.config.grammar import issuer_url
from mcpguard.config.places import Place
from mcpguard.config.rules import WILDCARDS
from mcpguard.config.settings import (
    AuthSettings,
    IdentityKeys,
    JwtSettings,
    MtlsSettings,
    ServerSettings,
)
from mcpguard.config.tables import Draft
from mcpguard.policy.globs import glob_matches

JWKS_ONLY = ("jwks_url", "jwks_ca_path", "cache_duration_secs", "allow_private_networks")
SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518 section 3.2: a key is no shorter than the hash."""


def jwt_mode(draft: Draft) -> None:
    """The keys of one mode, all that it needs and none of the other's."""
    mode = draft.values.get("mode")
    if mode == "simple":
        _refuse_keys(draft, JWKS_ONLY, 'only for mode = "jwks"')
        if not draft.given("secret"):
            draft.place.complain('secret is missing: mode = "simple" needs it')
    elif mode == "jwks":
        _refuse_keys(draft, ("secret",), 'only for mode = "simple"')
        if not draft.given("jwks_url"):
            draft.place.complain('jwks_url is missing: mode = "jwks" needs it')
        if draft.given("jwks_ca_path") and str(draft.values.get("jwks_url")).startswith("http://"):
            draft.at("jwks_ca_path").complain(
                "jwks_url is http://, which has no TLS: take this out, or make it https://"
            )


def _refuse_keys(draft: Draft, keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if draft.given(key):
            draft.at(key).complain(why)


def jwt_algorithms(draft: Draft) -> None:
    """A shared secret and public keys are never mixed (RFC 8725 section 3.1)."""
    mode = draft.values.get("mode")
    algorithms = draft.values.get("algorithms")
    if mode is None or algorithms is None:
        return
    if not algorithms:
        draft.at("algorithms").complain("empty: no token could ever be accepted")
    shared = [one for one in algorithms if one in SECRET_BYTES]
    if mode == "jwks" and shared:
        draft.at("algorithms").complain(
            f'{shared[0]} is only for mode = "simple": with it a public key would be a secret'
        )
    if mode != "simple":
        return
    if len(shared) != len(algorithms):
        draft.at("algorithms").complain('mode = "simple" has HS256, HS384 and HS512 only')
    secret = draft.values.get("secret")
    needed = max((SECRET_BYTES[one] for one in shared), default=0)
    if secret is not None and len(secret.value.encode()) < needed:
        draft.at("secret").complain(f"shorter than the {needed} bytes that {shared[-1]} needs")


def scopes_that_grant(draft: Draft) -> None:
    """A mapping without scopes is not the same as none."""
    if draft.values.get("scope_tool_mapping") == {}:
        draft.at("scope_tool_mapping").warn(
            "empty: no token opens any tool; take it out if none needs a scope"
        )


def where_to_sign_in(draft: Draft) -> None:
    """Clients are sent away for a token that somebody here must take, and told its scopes then."""
    servers = draft.values.get("authorization_servers")
    if servers and not draft.given("jwt"):
        draft.at("authorization_servers").complain(
            "no token that clients get there would be accepted: add [auth.jwt]"
        )
    if servers is not None:
        somewhere = bool(servers)
    else:
        jwt = draft.values.get("jwt")
        somewhere = is_issuer_url(jwt) if isinstance(jwt, JwtSettings) else draft.given("jwt")
    if draft.given("scopes_supported") and not somewhere:
        draft.at("scopes_supported").complain(
            "nobody is told of them: clients are not sent anywhere for a token;"
            " add authorization_servers"
        )


def subjects_that_can_be(draft: Draft) -> None:
    """A mistyped subject has the rights of all others instead of its own."""
    source = draft.values.get("identity_source", MtlsSettings().identity_source)
    part = {"san_uri": ":", "san_email": "@"}.get(source)
    for index, one in enumerate(draft.values.get("identities", ())):
        if part is not None and part not in one.id:
            kind = "URI" if source == "san_uri" else "email address"
            draft.at("identities").item(index).item("id").warn(
                f"{quoted(one.id)} is no {kind}, so that no certificate has it as its {source}"
            )


def proxies_that_are_told_apart(draft: Draft) -> None:
    """Who is trusted to name others must not be everybody."""
    for index, network in enumerate(draft.values.get("trusted_proxy_ips", ())):
        if network.prefixlen == 0:
            draft.at("trusted_proxy_ips").item(index).warn(
                f"{network} is every address: whoever reaches the gateway can say that he is"
                " anybody; list the proxies alone"
            )


def mtls_is_off(draft: Draft) -> None:
    """Settings of a way to sign in that is switched off."""
    if len(draft.place.value) and not draft.given("enabled"):
        draft.place.warn("enabled is not set, so client certificates sign nobody in")


def some_authentication(draft: Draft) -> None:
    """Nobody can sign in."""
    auth, server = draft.values.get("auth", AuthSettings()), draft.values.get("server")
    if not isinstance(auth, AuthSettings):
        return
    if auth.api_keys or auth.jwt or (auth.mtls is not None and auth.mtls.enabled):
        return
    words = (
        "no authentication is configured: every MCP request will be refused;"
        " add a key with `mcp-guard keygen --user-id NAME --apply-to-config`"
    )
    if isinstance(server, ServerSettings) and _asks_certificates(server):
        words += ", or let certificates sign in by enabled = true in [auth.mtls]"
    draft.place.warn(words)


def somebody_checks_certificates(draft: Draft) -> None:
    """Certificates sign in whoever has one, where a listener or a proxy has verified it."""
    auth, server = draft.values.get("auth"), draft.values.get("server", ServerSettings())
    if not isinstance(auth, AuthSettings) or not isinstance(server, ServerSettings):
        return
    if auth.mtls is None or not auth.mtls.enabled or auth.mtls.trusted_proxy_ips:
        return
    if not _asks_certificates(server):
        draft.place.item("auth").item("mtls").complain(
            "nobody verifies client certificates: set client_ca_path in [server.tls], or"
            " trusted_proxy_ips for a proxy that does"
        )


def _asks_certificates(server: ServerSettings) -> bool:
    settings = [one.tls for one in server.every_listener if one.tls is not None]
    return any(tls.client_ca_path is not None for tls in settings)


def resource_has_an_address(draft: Draft) -> None:
    """Clients are told where to sign in by the URL they use, which is never taken from them."""
    auth, server = draft.values.get("auth"), draft.values.get("server", ServerSettings())
    if not isinstance(auth, AuthSettings) or not isinstance(server, ServerSettings):
        return
    if server.public_url or not signs_in_elsewhere(auth):
        return
    for index, one in enumerate(server.every_listener):
        if one.host in WILDCARDS and not one.public_url:
            place = draft.place.item("server")
            if index:
                place = place.item("listeners").item(index - 1)
            place.complain(
                f"public_url is missing: bound to {one.host}, the gateway cannot know the URL that"
                " clients must find in its resource metadata"
            )


def signs_in_elsewhere(auth: AuthSettings) -> bool:
    """Whether there is an authorization server that clients can be sent to."""
    if auth.authorization_servers is not None:
        return bool(auth.authorization_servers)
    return auth.jwt is not None and is_issuer_url(auth.jwt)


def is_issuer_url(jwt: JwtSettings) -> bool:
    """Whether tokens name as their issuer what can be an authorization server."""
    try:
        issuer_url(jwt.issuer)
    except ValueError:
        return False
    return True


def known_servers(draft: Draft) -> None:
    """Rights that name a server which is not there are most likely mistyped."""
    auth, upstreams = draft.values.get("auth"), draft.values.get("upstream")
    if not isinstance(auth, AuthSettings) or not isinstance(upstreams, tuple):
        return
    names = [upstream.name for upstream in upstreams]
    for place, identity in _identities(draft.place.item("auth"), auth):
        for field, entry, server in _server_patterns(identity):
            if not any(glob_matches(server, name) for name in names):
                place.item(field).warn(
                    f"{quoted(entry)} names the server {quoted(server)}, which is not configured"
                )


def _identities(auth: Place, settings: AuthSettings) -> Iterator[tuple[Place, IdentityKeys]]:
    """Whoever may have rights, and where they stand."""
    for index, key in enumerate(settings.api_keys):
        yield auth.item("api_keys").item(index), key.identity
    if settings.jwt is not None:
        yield auth.item("jwt"), settings.jwt.identity
    if settings.mtls is not None:
        mtls = auth.item("mtls")
        yield mtls, settings.mtls.identity
        for index, one in enumerate(settings.mtls.identities):
            yield mtls.item("identities").item(index), one.identity


def _server_patterns(identity: IdentityKeys) -> list[tuple[str, str, str]]:
    """Every (key, entry, pattern for a server) in the rights of an identity."""
    found = [("allowed_servers", entry, entry) for entry in identity.allowed_servers or ()]
    for field in (
        *("allowed_tools", "denied_tools", "allowed_resources", "denied_resources"),
        *("allowed_prompts", "denied_prompts"),
    ):
        for entry in getattr(identity, field) or ():
            server, colon, rest = entry.partition(":")
            if colon and not rest.startswith("//"):
                found.append((field, entry, server))
    return found
