"""Tests that the schema and the settings are of one piece."""

from typing import Any

from attrs import NOTHING, fields
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config import auth_schema, schema, tls_schema, upstream_schema
from mcpguard.config.settings import (
    AdminSettings,
    ApiKeySettings,
    AuditSettings,
    AuthSettings,
    ChildLimits,
    ClientTlsSettings,
    CorsSettings,
    IdentityKeys,
    JwtSettings,
    ListenerSettings,
    MtlsIdentity,
    MtlsSettings,
    RateLimitSettings,
    RedactionRule,
    RedisSettings,
    RotationSettings,
    ServerSettings,
    Settings,
    TlsSettings,
    ToolLimit,
    UpstreamSettings,
)
from mcpguard.config.tables import Table
from tests.config.samples import UPSTREAM, problems, read

LATER = {
    "auth": ("oauth",),
    "audit": (
        *("export_url", "export_batch_size", "export_interval_secs", "export_headers"),
        *("export_format", "spool_dir", "spool_max_bytes", "on_full"),
    ),
}


def names(cls: type[Any]) -> set[str]:
    """The fields of a settings class."""
    return {field.name for field in fields(cls)}


def required(cls: type[Any]) -> set[str]:
    """Those without a default."""
    return {field.name for field in fields(cls) if field.default is NOTHING}


class OneToOneTests(SynchronousTestCase):
    """No setting without a key, no key without a setting."""

    def test_tables(self) -> None:
        """Each table has exactly the fields of its class."""
        pairs: list[tuple[Table[Any], type[Any]]] = [
            (schema.SERVER, ServerSettings),
            (schema.CORS, CorsSettings),
            (schema.ADMIN, AdminSettings),
            (upstream_schema.SERVER_ENTRY, UpstreamSettings),
            (upstream_schema.CHILD_LIMITS, ChildLimits),
            (tls_schema.TLS, TlsSettings),
            (tls_schema.LISTENER, ListenerSettings),
            (tls_schema.CLIENT_TLS, ClientTlsSettings),
            (auth_schema.AUTH, AuthSettings),
            (schema.RATE_LIMIT, RateLimitSettings),
            (schema.TOOL_LIMIT, ToolLimit),
            (schema.REDIS, RedisSettings),
            (schema.AUDIT, AuditSettings),
            (schema.ROTATION, RotationSettings),
            (schema.REDACTION_RULE, RedactionRule),
        ]
        for table, cls in pairs:
            self.assertEqual(set(table.keys), names(cls), cls.__name__)
            if cls is not UpstreamSettings:
                self.assertEqual(set(table.required), required(cls), cls.__name__)

    def test_flattened_tables(self) -> None:
        """An API key carries its identity's keys; [upstream] has everything but its place."""
        flat = (names(ApiKeySettings) - {"identity"}) | names(IdentityKeys)
        self.assertEqual(set(auth_schema.API_KEY.keys), flat)
        self.assertEqual(set(auth_schema.API_KEY.required), required(ApiKeySettings))
        for table, cls in (
            (auth_schema.JWT, JwtSettings),
            (auth_schema.MTLS, MtlsSettings),
            (auth_schema.MTLS_IDENTITY, MtlsIdentity),
        ):
            shared = names(IdentityKeys) - (set() if cls is MtlsIdentity else {"name"})
            self.assertEqual(set(table.keys), (names(cls) - {"identity"}) | shared)
            self.assertEqual(set(table.required), required(cls))
        single = names(UpstreamSettings) - {"name", "path_prefix", "strip_prefix"} | {"servers"}
        self.assertEqual(set(upstream_schema.UPSTREAM.keys), single)
        sections = names(Settings) - {"upstreams"} | {"upstream"}
        self.assertEqual(set(schema.ROOT.keys), sections)

    def test_every_converter_says_what_it_accepts(self) -> None:
        """No message can lack its second half."""
        for table in (
            schema.SERVER,
            auth_schema.API_KEY,
            schema.AUDIT,
            upstream_schema.SERVER_ENTRY,
        ):
            for key, kind in table.keys.items():
                self.assertTrue(getattr(kind, "accepts", ""), key)

    def test_defaults(self) -> None:
        """A file that says nothing but its server gets the defaults of the settings."""
        settings = read(UPSTREAM).settings
        expected = UpstreamSettings(transport="http", url="http://localhost:1/mcp")
        self.assertEqual(settings, Settings(upstreams=(expected,)))


class LaterFeatureTests(SynchronousTestCase):
    """Keys of features that do not exist yet."""

    def test_refused_with_the_reason(self) -> None:
        """They are unknown, whatever their value, and the message says that they will come."""
        for section, keys in LATER.items():
            for key in keys:
                found = problems(f"[{section}]\n{key} = 1\n")
                words = f"{section}.{key}: unknown key: not available in this version (line 2)"
                self.assertIn(words, found)
        self.assertIn(
            "tracing: unknown key: not available in this version (line 1)",
            problems("[tracing]\nenabled = true\n"),
        )
