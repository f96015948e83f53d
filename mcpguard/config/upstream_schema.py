"""The schema of ``[upstream]`` and ``[[upstream.servers]]``."""

from collections.abc import Mapping
from typing import Any

from mcpguard.config import commands, grammar, rules
from mcpguard.config.kinds import (
    Choice,
    Flag,
    Integer,
    Kind,
    ListOf,
    Number,
    Pairs,
    SecretValue,
    Text,
)
from mcpguard.config.settings import ChildLimits, UpstreamSettings
from mcpguard.config.shapes import DAY, GIB, YEAR, FilePath
from mcpguard.config.tables import Table, Tables
from mcpguard.config.tls_schema import CLIENT_TLS

CHILD_LIMITS = Table(
    ChildLimits,
    {
        "memory": Integer(1 << 20, 1 << 50),
        "cpu_secs": Integer(1, YEAR),
        "open_files": Integer(16, 1 << 20),
    },
)

UPSTREAM_KEYS: Mapping[str, Kind[Any]] = {
    "transport": Choice(("stdio", "http", "sse")),
    "command": Text("a program, without its arguments", commands.command),
    "args": ListOf(Text("an argument", grammar.no_nul, 131_072), "a list of strings", 1000),
    "cwd": FilePath("an existing directory", directory=True),
    "env": Pairs(
        "a table of environment variables, each a string, { env = … } or { file = … }",
        grammar.environment_name,
        SecretValue("a string without NUL", grammar.no_nul, 131_072),
    ),
    "inherit_env": ListOf(
        Text("the name of an environment variable", grammar.environment_name, plain=True),
        "a list of names of environment variables",
        256,
    ),
    "isolation": Choice(("per_session", "per_principal", "shared")),
    "max_children": Integer(1, 10_000),
    "idle_timeout_secs": Number(0, YEAR),
    "limits": CHILD_LIMITS,
    "url": Text(
        "an absolute http:// or https:// URL; credentials go into headers", grammar.upstream_url
    ),
    "headers": Pairs(
        "a table of request headers, each a string, { env = … } or { file = … }",
        grammar.header_name,
        SecretValue("a header value of visible ASCII", grammar.header_value),
    ),
    "allow_private_networks": Flag(),
    "tls": CLIENT_TLS,
    "timeout_secs": Number(0, DAY),
    "max_timeout_secs": Number(0, YEAR),
    "max_concurrency": Integer(1, 100_000),
    "max_message_size": Integer(1024, GIB),
    "era": Choice(("auto", "legacy", "modern")),
    "bridge": Choice(("translate", "fallback")),
    "restart": Choice(("end", "replay")),
}

SERVER_ENTRY = Table(
    UpstreamSettings,
    {
        "name": Text(
            "1 to 64 letters, digits, _ and -",
            grammar.matching(grammar.SERVER_NAME, "not such a name"),
            plain=True,
        ),
        "path_prefix": Text('a path such as "/fs"', grammar.path_prefix, 256, plain=True),
        "strip_prefix": Flag(),
        **UPSTREAM_KEYS,
    },
    required=("name",),
    rules=(rules.transport, rules.timeouts, rules.restart, rules.bridge),
)

SERVERS = Tables(
    SERVER_ENTRY,
    "a list of tables: [[upstream.servers]]",
    unique={
        "name": "another server has this name",
        "path_prefix": "another server has this prefix",
    },
    rules=(rules.prefixes_and_names,),
    limit=1000,
)


def _upstreams(servers: tuple[UpstreamSettings, ...] = (), **own: Any) -> tuple[Any, ...]:
    """The single server of ``[upstream]``, if it describes one, before ``servers``."""
    single = (UpstreamSettings(**own),) if own else ()
    return single + servers


_IN_SERVERS = "only in [[upstream.servers]]; the server of [upstream] itself is at /mcp"

UPSTREAM = Table(
    _upstreams,
    {**UPSTREAM_KEYS, "servers": SERVERS},
    elsewhere=dict.fromkeys(("name", "path_prefix", "strip_prefix"), _IN_SERVERS),
    rules=(rules.single_or_servers, rules.timeouts, rules.restart, rules.bridge),
)
