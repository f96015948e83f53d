"""The schema: every key of the configuration file, what it accepts and what it becomes.

One table per settings class; the keys are the class's fields (a test holds them together). The
defaults are the class's own.
"""

from typing import Any

from attrs import evolve

from mcpguard.config import auth_rules, grammar, pem_files, rules
from mcpguard.config.auth_schema import AUTH
from mcpguard.config.kinds import (
    Choice,
    Flag,
    Integer,
    IntegerOrWord,
    ListOf,
    Number,
    SecretValue,
    Text,
)
from mcpguard.config.settings import (
    AdminSettings,
    AuditSettings,
    CorsSettings,
    RateLimitSettings,
    RedactionRule,
    RedisSettings,
    RotationSettings,
    ServerSettings,
    Settings,
    ToolLimit,
    UpstreamSettings,
)
from mcpguard.config.shapes import (
    BIND,
    DAY,
    GIB,
    GLOB,
    HEADER_NAME,
    MAX_RATE,
    PORT,
    YEAR,
    FilePath,
    LogArguments,
)
from mcpguard.config.tables import Table, Tables
from mcpguard.config.tls_schema import LISTENER, PUBLIC_URL, TLS
from mcpguard.config.upstream_schema import UPSTREAM
from mcpguard.observe.events import EVENT_TYPES

MAX_WORKERS = 256
MAX_LISTENERS = 16

CORS = Table(
    CorsSettings,
    {
        "enabled": Flag(),
        "allowed_origins": ListOf(
            Text('an origin such as "https://app.example.com", or "*"', grammar.cors_origin),
            "a list of origins",
            1000,
        ),
        "allowed_methods": ListOf(
            Choice(("GET", "POST", "DELETE", "OPTIONS")), "a list of HTTP methods", 4
        ),
        "allowed_headers": ListOf(HEADER_NAME, "a list of header names", 100),
        "max_age": Integer(0, DAY),
    },
    rules=(rules.cors_without_origins,),
)

SERVER = Table(
    ServerSettings,
    {
        "host": BIND,
        "port": PORT,
        "public_url": PUBLIC_URL,
        "max_request_size": Integer(1, GIB),
        "allowed_hosts": ListOf(
            Text("a host, or host:port", grammar.host_and_port), "a list of hosts", 1000
        ),
        "allowed_origins": ListOf(
            Text('an origin such as "https://app.example.com"', grammar.origin),
            "a list of origins",
            1000,
        ),
        "workers": IntegerOrWord(1, MAX_WORKERS, "auto"),
        "drain_timeout_secs": Number(0, DAY, or_equal=True),
        "denial_status": Choice((403, 200)),
        "session_key": SecretValue(
            "32 random bytes in base64 or hexadecimal, as `openssl rand -base64 32` prints them",
            grammar.session_key,
            4096,
        ),
        "cors": CORS,
        "tls": TLS,
        "listeners": Tables(
            LISTENER, "a list of tables: [[server.listeners]]", limit=MAX_LISTENERS
        ),
    },
    rules=(pem_files.names,),
)

ADMIN = Table(AdminSettings, {"host": BIND, "port": PORT})

TOOL_LIMIT = Table(
    ToolLimit,
    {
        "tool_pattern": GLOB,
        "requests_per_second": Number(0, MAX_RATE),
        "burst_size": Integer(1, 1_000_000),
    },
    required=("tool_pattern", "requests_per_second"),
)

REDIS = Table(
    RedisSettings,
    {
        "url": SecretValue(
            "redis://host:6379/0 or rediss:// (TLS), with :password@ or user:password@ before"
            " the host",
            grammar.redis_url,
        ),
        "key_prefix": Text(
            "up to 128 letters, digits and . _ : - / { }",
            grammar.matching(grammar.KEY_PREFIX, "not such a prefix"),
        ),
        "timeout_ms": Integer(1, 10_000),
        "on_error": Choice(("local", "deny")),
    },
    required=("url",),
)

RATE_LIMIT = Table(
    RateLimitSettings,
    {
        "enabled": Flag(),
        "requests_per_second": Number(0, MAX_RATE),
        "burst_size": Integer(1, 1_000_000),
        "failed_auth_per_minute": Integer(1, 1_000_000),
        "tool_limits": Tables(
            TOOL_LIMIT,
            "a list of tables: [[rate_limit.tool_limits]]",
            unique={"tool_pattern": "another limit has this pattern"},
            limit=1000,
        ),
        "redis": REDIS,
    },
)

REDACTION_RULE = Table(
    RedactionRule,
    {
        "name": Text("a name of 1 to 128 characters", grammar.label(128)),
        "pattern": Text("a regular expression of RE2", grammar.pattern, 2048),
        "replacement": Text("text of at most 256 characters", grammar.words, 256),
    },
    required=("name", "pattern"),
)

ROTATION = Table(
    RotationSettings,
    {
        "enabled": Flag(),
        "max_size_bytes": Integer(4096, 1 << 50),
        "max_age_secs": Integer(1, 100 * YEAR),
        "max_backups": Integer(1, 10_000),
        "compress": Flag(),
    },
)

AUDIT = Table(
    AuditSettings,
    {
        "enabled": Flag(),
        "events": ListOf(Choice(tuple(sorted(EVENT_TYPES))), "a list of event types", 100),
        "stdout": Flag(),
        "file": FilePath("a file in an existing directory", directory=False),
        "log_arguments": LogArguments(),
        "redaction_rules": Tables(
            REDACTION_RULE,
            "a list of tables: [[audit.redaction_rules]]",
            unique={"name": "another rule has this name"},
            limit=1000,
        ),
        "rotation": ROTATION,
    },
    later=frozenset(
        {
            *("export_url", "export_batch_size", "export_interval_secs", "export_headers"),
            *("export_format", "spool_dir", "spool_max_bytes", "on_full"),
        }
    ),
    rules=(rules.rotation_without_file,),
)


def _settings(upstream: tuple[UpstreamSettings, ...], **sections: Any) -> Settings:
    """The whole; ``[upstream]`` becomes the list of servers."""
    return evolve(Settings(**sections), upstreams=upstream)


ROOT = Table(
    _settings,
    {
        "server": SERVER,
        "admin": ADMIN,
        "upstream": UPSTREAM,
        "auth": AUTH,
        "rate_limit": RATE_LIMIT,
        "audit": AUDIT,
    },
    later=frozenset({"tracing"}),
    rules=(
        rules.some_upstream,
        auth_rules.some_authentication,
        auth_rules.somebody_checks_certificates,
        auth_rules.resource_has_an_address,
        rules.listeners,
        rules.audit_goes_nowhere,
        auth_rules.known_servers,
    ),
)
