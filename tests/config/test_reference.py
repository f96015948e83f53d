"""Tests that docs/configuration.md and the example files say what is true."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import NOTHING, Factory, fields, has
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config import auth_schema, schema, tls_schema, upstream_schema
from mcpguard.config.load import Format
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
    TlsSettings,
    ToolLimit,
    UpstreamSettings,
)
from tests.config.samples import UPSTREAM, read_example

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "configuration.md"
ROW = re.compile(r"\| `([a-z_]+)` \| ([^|]*) \| ([^|]*) \|")

SECTIONS: Mapping[str, tuple[set[str], tuple[type[Any], ...]]] = {
    "[server]": (set(schema.SERVER.keys), (ServerSettings,)),
    "[server.tls]": (set(tls_schema.TLS.keys), (TlsSettings,)),
    "[[server.listeners]]": (set(tls_schema.LISTENER.keys), (ListenerSettings,)),
    "[server.cors]": (set(schema.CORS.keys), (CorsSettings,)),
    "[admin]": (set(schema.ADMIN.keys), (AdminSettings,)),
    "[upstream]": (set(upstream_schema.UPSTREAM.keys), (UpstreamSettings,)),
    "[upstream.tls]": (set(tls_schema.CLIENT_TLS.keys), (ClientTlsSettings,)),
    "[upstream.limits]": (set(upstream_schema.CHILD_LIMITS.keys), (ChildLimits,)),
    "[[upstream.servers]]": ({"name", "path_prefix", "strip_prefix"}, (UpstreamSettings,)),
    "[auth]": (set(auth_schema.AUTH.keys), (AuthSettings,)),
    "[auth.jwt]": (set(auth_schema.JWT.keys), (JwtSettings, IdentityKeys)),
    "[auth.mtls]": (set(auth_schema.MTLS.keys), (MtlsSettings, IdentityKeys)),
    "[[auth.mtls.identities]]": (
        set(auth_schema.MTLS_IDENTITY.keys),
        (MtlsIdentity, IdentityKeys),
    ),
    "[[auth.api_keys]]": (set(auth_schema.API_KEY.keys), (ApiKeySettings, IdentityKeys)),
    "[rate_limit]": (set(schema.RATE_LIMIT.keys), (RateLimitSettings,)),
    "[rate_limit.redis]": (set(schema.REDIS.keys), (RedisSettings,)),
    "[[rate_limit.tool_limits]]": (set(schema.TOOL_LIMIT.keys), (ToolLimit,)),
    "[audit]": (set(schema.AUDIT.keys), (AuditSettings,)),
    "[audit.rotation]": (set(schema.ROTATION.keys), (RotationSettings,)),
    "[[audit.redaction_rules]]": (set(schema.REDACTION_RULE.keys), (RedactionRule,)),
}
REQUIRED = {"[[upstream.servers]]": {"name"}}
"""Keys with a default in the class that the file must nevertheless give."""


def written(default: object) -> str:
    """A default as the reference writes it."""
    if isinstance(default, Factory):  # type: ignore[arg-type]
        return "`{}`"
    if default is NOTHING:
        return "required"
    if default is None:
        return "none"
    if has(type(default)):
        return "a section of its own"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in default) + "]`"
    assert isinstance(default, int | float)
    return f"`{default:.15g}`"


class ReferenceTests(SynchronousTestCase):
    """The reference beside the settings."""

    def setUp(self) -> None:
        """The rows of each section."""
        text = REFERENCE.read_text("utf-8")
        self.rows: dict[str, dict[str, str]] = {}
        for part in re.split(r"(?m)^## ", text)[1:]:
            title, _, body = part.partition("\n")
            if title.startswith("`"):
                found = ROW.findall(body)
                self.rows[title.strip("`")] = {key: default for key, _, default in found}
                self.assertEqual(len(found), len(self.rows[title.strip("`")]), title)

    def test_sections(self) -> None:
        """Every section there is, and no other."""
        self.assertEqual(set(self.rows), set(SECTIONS))

    def test_keys(self) -> None:
        """Every key of each section, and no other."""
        for section, (keys, _) in SECTIONS.items():
            self.assertEqual(set(self.rows[section]), keys, section)

    def test_defaults(self) -> None:
        """Each with its default."""
        for section, (keys, classes) in SECTIONS.items():
            defaults = {f.name: f.default for cls in classes for f in fields(cls)}
            for key in keys - {"servers"}:
                default = written(defaults[key])
                if key in REQUIRED.get(section, ()):
                    default = "required"
                shown = self.rows[section][key]
                if default == "a section of its own":
                    name = shown.removeprefix("see `").removesuffix("`")
                    self.assertIn(name, SECTIONS, (section, key))
                else:
                    self.assertEqual(shown, default, (section, key))

    def test_blocks(self) -> None:
        """Every TOML and YAML block loads, the ones without a server in front of some server."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        blocks = re.findall(r"(?ms)^```(toml|yaml)\n(.*?)^```", REFERENCE.read_text("utf-8"))
        self.assertGreaterEqual(len(blocks), 5)
        for kind, block in blocks:
            format: Format = "yaml" if kind == "yaml" else "toml"
            if "upstream" not in block:
                server = "upstream: {transport: http, url: 'http://localhost:1/'}\n"
                block += server if format == "yaml" else UPSTREAM
            read_example(block, format, directory)


class ExampleTests(SynchronousTestCase):
    """The files of conf/."""

    def test_load(self) -> None:
        """All of them load, without a warning but for a program that is not installed here."""
        examples = sorted((ROOT / "conf").glob("*.toml"))
        self.assertLessEqual(
            {"mcp-guard.toml", "multi-server.toml", "sign-in.toml"},
            {one.name for one in examples},
        )
        for example in examples:
            directory = Path(self.mktemp()).absolute()
            directory.mkdir()
            loaded = read_example(example.read_text("utf-8"), "toml", directory)
            doubts = [w for w in loaded.warnings if "is not there, or not executable" not in w]
            self.assertEqual(doubts, [], example.name)
            auth = loaded.settings.auth
            self.assertTrue(auth.api_keys or (auth.jwt and auth.mtls), example.name)
