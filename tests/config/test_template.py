"""Tests of the file that `init` writes."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config import schema, upstream_schema
from mcpguard.config.load import Format, loads
from mcpguard.config.settings import AuditSettings, Settings, UpstreamSettings
from mcpguard.config.tables import Table, Tables
from mcpguard.config.template import template
from tests.config.samples import ENVIRON

FORMATS: tuple[Format, ...] = ("toml", "yaml")
SETTING_NOT_IN_FORCE = re.compile(r"(?m)^( *)#(?=[\[a-z-])")


def in_force(text: str, directory: Path) -> str:
    """The template with every setting in force."""
    return SETTING_NOT_IN_FORCE.sub(r"\1", text).replace("/var/log/mcp-guard", str(directory))


def every_key(table: Table[Any]) -> set[str]:
    """All keys of a table and the tables in it."""
    found = set()
    for key, kind in table.keys.items():
        found.add(key)
        if isinstance(kind, Tables):
            found |= every_key(kind.table)
        elif isinstance(kind, Table):
            found |= every_key(kind)
    return found


class TemplateTests(SynchronousTestCase):
    """Both formats."""

    def setUp(self) -> None:
        """Somewhere for the audit file."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def test_as_written(self) -> None:
        """It is valid as it is; only the missing key is worth a warning."""
        for format in FORMATS:
            loaded = loads(
                template(format, sys.executable), format, environ=os.environ, base=self.directory
            )
            (warning,) = loaded.warnings
            self.assertIn("no authentication is configured", warning)
            demo = UpstreamSettings(command=sys.executable, args=("-m", "mcpguard.demo"))
            self.assertEqual(
                loaded.settings, Settings(upstreams=(demo,), audit=AuditSettings(stdout=True))
            )

    def test_everything_in_force(self) -> None:
        """Every setting that is shown is one that works, and both formats show the same."""
        read = [
            loads(
                in_force(template(format, sys.executable), self.directory),
                format,
                environ=ENVIRON,
                base=self.directory,
            )
            for format in FORMATS
        ]
        self.assertEqual(read[0].settings, read[1].settings)
        self.assertEqual([one.warnings for one in read], [(), ()])

    def test_every_key_is_shown(self) -> None:
        """Nothing that exists is left out."""
        keys = every_key(schema.ROOT) | set(upstream_schema.SERVER_ENTRY.keys)
        for format in FORMATS:
            text = template(format, "/x/python")
            missing = {key for key in keys if not re.search(rf"\b{key}\b ?[.=:\]]", text)}
            self.assertEqual(missing, set(), format)

    def test_interpreter_of_any_name(self) -> None:
        """The interpreter's path arrives as it is, with blanks and letters of any language."""
        odd = self.directory / "my prögrams"
        odd.mkdir()
        python = odd / "python3"
        python.write_text("")
        python.chmod(0o700)
        for format in FORMATS:
            text = template(format, str(python))
            settings = loads(text, format, environ={}, base=self.directory).settings
            self.assertEqual(settings.upstreams[0].command, str(python))
