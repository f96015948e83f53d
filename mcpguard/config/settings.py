"""The settings: one frozen object that everything is built from (product reference: configuration).

Pure data. `load` fills it from a file; nothing here reads files, environment or clocks.
Defaults stand here and nowhere else.
"""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, Self

from attrs import field, frozen

Network = IPv4Network | IPv6Network
Transport = Literal["stdio", "http", "sse"]
Isolation = Literal["per_session", "per_principal", "shared"]
EraChoice = Literal["auto", "legacy", "modern"]
Bridge = Literal["translate", "fallback"]
Restart = Literal["end", "replay"]
IdentitySource = Literal["cn", "san_dns", "san_email", "san_uri"]


@frozen
class Secret:
    """A value that never shows in a repr, a log or ``validate``'s output."""

    value: str = field(repr=False)
    source: str = "the configuration file"
    """Where it came from, for messages: ``environment variable NAME``, ``file PATH``."""


class SecretText(str):
    """An ordinary setting that was given by ``env`` or ``file``: a str whose repr is its source.

    Where settings are shown (summaries, ``check-upstream``), show `shown` of them.
    """

    __slots__ = ("source",)

    source: str
    """As in `Secret`."""

    def __new__(cls, value: str, source: str) -> Self:
        """Mark ``value``, which came from ``source``."""
        text = super().__new__(cls, value)
        text.source = source
        return text

    def __repr__(self) -> str:
        return f"<{self.source}>"

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        # A str alone would be made again without its source.
        return str(self), self.source


def shown(text: str) -> str:
    """A setting as it may be displayed: itself, or where it came from if that is all to tell."""
    return repr(text) if isinstance(text, SecretText) else text


@frozen
class CorsSettings:
    """``[server.cors]``: browser clients on other origins."""

    enabled: bool = False
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("GET", "POST", "DELETE", "OPTIONS")
    allowed_headers: tuple[str, ...] = ()
    """Header names beyond the ones MCP clients need, which are always allowed."""
    max_age: int = 600
    """Seconds a browser may keep a preflight answer."""


@frozen
class TlsSettings:
    """``[server.tls]``, or ``tls`` of a further listener: one listener, one policy.

    PEM files, watched and read again when they change.
    """

    cert_path: Path
    """The listener's certificate, then the chain up to its CA."""
    key_path: Path
    client_ca_path: Path | None = None
    """CAs whose client certificates are accepted; None asks for none."""
    client_crl_path: Path | None = None
    client_auth: Literal["required", "optional"] = "required"
    """Whether who has no certificate may connect; a bad one is refused in either case."""
    min_version: Literal["1.2", "1.3"] = "1.2"


@frozen
class ListenerSettings:
    """One of ``[[server.listeners]]``: a further address to serve clients on."""

    port: int
    host: str = "127.0.0.1"
    public_url: str | None = None
    """The URL clients use for this listener; None: that of ``[server]``."""
    tls: TlsSettings | None = None


@frozen
class ServerSettings:
    """``[server]``: where clients reach the gateway and what it accepts from them."""

    host: str = "127.0.0.1"
    port: int = 3000
    public_url: str | None = None
    max_request_size: int = 1_048_576
    """Bytes of a request body."""
    allowed_hosts: tuple[str, ...] | None = None
    allowed_origins: tuple[str, ...] | None = None
    workers: int | Literal["auto"] = 1
    """Processes that serve; ``auto``: one for each core this process may use."""
    drain_timeout_secs: float = 30.0
    denial_status: Literal[403, 200] = 403
    session_key: Secret | None = None
    """32 bytes, here in hexadecimal; None: made at start."""
    cors: CorsSettings = CorsSettings()
    tls: TlsSettings | None = None
    listeners: tuple[ListenerSettings, ...] = ()

    @property
    def every_listener(self) -> tuple[ListenerSettings, ...]:
        """All that clients are served on, first the one of ``[server]`` itself."""
        own = ListenerSettings(self.port, self.host, self.public_url, self.tls)
        return (own, *self.listeners)


@frozen
class AdminSettings:
    """``[admin]``: the operator listener; absent means none."""

    host: str = "127.0.0.1"
    port: int = 9090


@frozen
class ChildLimits:
    """``limits`` of a stdio upstream: resource limits of each child process."""

    memory: int | None = None
    """Bytes of address space."""
    cpu_secs: int | None = None
    open_files: int | None = None


@frozen
class ClientTlsSettings:
    """``tls`` of an http or sse upstream: how an https server is known, and how we are to it.

    PEM files, watched and read again when they change.
    """

    ca_path: Path | None = None
    """CAs that the server's certificate may come from, instead of the platform's."""
    cert_path: Path | None = None
    """Our certificate, then the chain up to its CA."""
    key_path: Path | None = None
    server_name: str | None = None
    """The name in the server's certificate, and in SNI, where it is not the URL's host."""


@frozen
class UpstreamSettings:
    """``[upstream]`` or one of ``[[upstream.servers]]``: one MCP server behind the gateway."""

    name: str = "default"
    transport: Transport = "stdio"
    path_prefix: str | None = None
    """``/fs`` is served at ``/mcp/fs``; None for the single upstream at ``/mcp``."""
    strip_prefix: bool = False
    # stdio
    command: str | None = None
    args: tuple[str, ...] = ()
    cwd: Path | None = None
    env: Mapping[str, Secret] = field(factory=dict)
    inherit_env: tuple[str, ...] = ()
    """Names passed on from the gateway's environment beyond HOME LOGNAME PATH SHELL TERM USER."""
    isolation: Isolation | None = None
    """None: ``per_session`` for a handshake-era server, ``shared`` for a stateless one."""
    max_children: int = 64
    idle_timeout_secs: float = 900.0
    limits: ChildLimits = ChildLimits()
    # http and sse
    url: str | None = None
    headers: Mapping[str, Secret] = field(factory=dict)
    allow_private_networks: bool = False
    tls: ClientTlsSettings | None = None
    # all
    timeout_secs: float = 60.0
    """Per request; each progress notification starts it again."""
    max_timeout_secs: float = 900.0
    """Per request, whatever progress it reports."""
    max_concurrency: int = 100
    max_message_size: int = 16_777_216
    """Bytes of one message, either direction."""
    era: EraChoice = "auto"
    bridge: Bridge = "translate"
    """For stateless clients of a handshake-era server: translate, or have them shake hands."""
    restart: Restart = "end"
    """What becomes of a session whose child has ended: it ends too, or its handshake is replayed
    to a new child before the next request."""


@frozen
class IdentityKeys:
    """The rights and limits an identity may carry, whichever way it signs in.

    For the allow lists: None = everything, empty = nothing, else names or globs (``*``, ``?``),
    ``"server:name"`` pinning one server.
    """

    name: str | None = None
    allowed_tools: tuple[str, ...] | None = None
    denied_tools: tuple[str, ...] = ()
    allowed_servers: tuple[str, ...] | None = None
    allowed_resources: tuple[str, ...] | None = None
    denied_resources: tuple[str, ...] = ()
    allowed_prompts: tuple[str, ...] | None = None
    denied_prompts: tuple[str, ...] = ()
    rate_limit: float | None = None
    """Requests per second."""
    burst_size: int | None = None
    max_concurrency: int | None = None


@frozen
class ApiKeySettings:
    """One of ``[[auth.api_keys]]``."""

    id: str
    key_hash: bytes = field(repr=False)
    """The 32 bytes of SHA-256 of the whole key (base64 in the file)."""
    identity: IdentityKeys = IdentityKeys()
    expires_at: datetime | None = None
    """Aware; None never expires."""
    allowed_ips: tuple[Network, ...] | None = None


@frozen
class JwtSettings:
    """``[auth.jwt]``: signed tokens of an identity provider."""

    mode: Literal["simple", "jwks"]
    issuer: str
    """What ``iss`` must be, letter by letter."""
    audience: tuple[str, ...]
    """``aud`` must name one of these."""
    secret: Secret | None = None
    """``simple``: at least 32 bytes, shared with the issuer."""
    jwks_url: str | None = None
    """``jwks``: where the issuer publishes its keys."""
    jwks_ca_path: Path | None = None
    """CAs for that URL, instead of the platform's."""
    allow_private_networks: bool = False
    """Whether that URL may resolve to private addresses."""
    algorithms: tuple[str, ...] | None = None
    """None: ``HS256`` for ``simple``, ``RS256`` and ``ES256`` for ``jwks``."""
    cache_duration_secs: float = 3600.0
    """How long fetched keys are used; renewed before that."""
    user_id_claim: str = "sub"
    scopes_claim: str = "scope"
    audience_claim: str = "aud"
    """Cognito's access tokens have ``client_id`` instead."""
    required_claims: tuple[str, ...] = ()
    """Claims that must be there beyond ``exp``, ``iss``, the audience and the user id."""
    leeway_secs: float = 0.0
    scope_tool_mapping: Mapping[str, tuple[str, ...]] | None = None
    """Scope -> tools it allows; None: no tool needs a scope."""
    identity: IdentityKeys = IdentityKeys()
    """Rights and limits of everybody who signs in by a token."""


@frozen
class MtlsIdentity:
    """One of ``[[auth.mtls.identities]]``: rights for one certificate subject."""

    id: str
    identity: IdentityKeys = IdentityKeys()


@frozen
class MtlsSettings:
    """``[auth.mtls]``: client certificates as identities."""

    enabled: bool = False
    identity_source: IdentitySource = "cn"
    trusted_proxy_ips: tuple[Network, ...] = ()
    """Proxies whose word about a client's certificate counts; empty: nobody's."""
    identities: tuple[MtlsIdentity, ...] = ()
    identity: IdentityKeys = IdentityKeys()
    """Rights and limits of every subject that is none of `identities`."""


@frozen
class AuthSettings:
    """``[auth]``: how callers prove who they are. Nothing configured refuses every MCP request."""

    api_keys: tuple[ApiKeySettings, ...] = ()
    jwt: JwtSettings | None = None
    mtls: MtlsSettings | None = None
    authorization_servers: tuple[str, ...] | None = None
    """Issuers that MCP clients are sent to for a token; None: that of ``[auth.jwt]``."""
    scopes_supported: tuple[str, ...] | None = None
    """Scopes that clients are told to ask for at first; None: those of the scope mapping that do
    not allow every tool."""


@frozen
class ToolLimit:
    """One of ``[[rate_limit.tool_limits]]``: a bucket per identity and tool."""

    tool_pattern: str
    requests_per_second: float
    burst_size: int = 5


@frozen
class RedisSettings:
    """``[rate_limit.redis]``: one limit over all gateways that share a Redis and a prefix."""

    url: Secret
    """As `policy.redis_url` reads it; it may carry a password."""
    key_prefix: str = "mcp-guard:"
    timeout_ms: int = 50
    on_error: Literal["local", "deny"] = "local"
    """What decides while Redis does not answer: this gateway's own buckets, or nobody."""


@frozen
class RateLimitSettings:
    """``[rate_limit]``."""

    enabled: bool = True
    requests_per_second: float = 100.0
    burst_size: int = 50
    failed_auth_per_minute: int = 60
    tool_limits: tuple[ToolLimit, ...] = ()
    redis: RedisSettings | None = None
    """None: the buckets are in the gateway's own memory."""


@frozen
class RedactionRule:
    """One of ``[[audit.redaction_rules]]``; ``pattern`` is an RE2 expression."""

    name: str
    pattern: str
    replacement: str = "[REDACTED]"


@frozen
class RotationSettings:
    """``[audit.rotation]``."""

    enabled: bool = False
    max_size_bytes: int | None = 104_857_600
    max_age_secs: int | None = None
    max_backups: int = 10
    compress: bool = False


@frozen
class AuditSettings:
    """``[audit]``."""

    enabled: bool = True
    events: tuple[str, ...] | None = None
    """Event types written; None = all. Refusals are always written."""
    stdout: bool = False
    file: Path | None = None
    log_arguments: bool | tuple[str, ...] = ("path",)
    redaction_rules: tuple[RedactionRule, ...] = ()
    rotation: RotationSettings = RotationSettings()


@frozen
class Settings:
    """Everything the gateway is built from."""

    server: ServerSettings = ServerSettings()
    admin: AdminSettings | None = None
    upstreams: tuple[UpstreamSettings, ...] = ()
    """``[upstream]`` (named ``default``) and/or ``[[upstream.servers]]``, in file order."""
    auth: AuthSettings = AuthSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    audit: AuditSettings = AuditSettings()
