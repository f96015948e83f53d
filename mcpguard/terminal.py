"""What every command shares: its options, and how it speaks to the user."""

import os
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
from attrs import define, field

from mcpguard.config.load import Loaded, expired_keys, format_of, loads, read_text
from mcpguard.errors import ConfigurationError

DEFAULT_FILES = ("mcp-guard.toml", "mcp-guard.yaml", "mcp-guard.yml")


@define
class Common:
    """The options that may stand before or after the command."""

    config: Path | None = None
    verbosity: int = 0
    environ: dict[str, str] = field(factory=lambda: dict(os.environ))

    @property
    def path(self) -> Path:
        """The configuration file: the one named, else the first default that exists."""
        if self.config is not None:
            return self.config
        found = (Path(name) for name in DEFAULT_FILES if Path(name).exists())
        return next(found, Path(DEFAULT_FILES[0]))

    def load(self) -> Loaded:
        """Read the configuration, its warnings told; ends the program when it cannot be used."""
        path, now = self.path, datetime.now(UTC)
        try:
            text = read_text(path)
        except ConfigurationError as error:
            fail(error.problems[0])
        try:
            loaded = loads(
                text,
                format_of(path),
                environ=self.environ,
                base=path.absolute().parent,
                now=now,
            )
        except ConfigurationError as error:
            fail(f"Configuration is not valid: {path}", *error.problems)
        for warning in loaded.warnings + expired_keys(loaded.settings, now):
            say(f"Warning: {warning}")
        if self.verbosity:
            for note in loaded.notes:
                say(note)
        return loaded

    def hint(self, command: str) -> str:
        """A command line for the user to type, for the same configuration file."""
        named = "" if self.config is None else f" -c {shlex.quote(str(self.config))}"
        return f"mcp-guard{named} {command}"


def say(words: str) -> None:
    """Tell the user something on stderr."""
    click.echo(words, err=True)


def fail(words: str, *details: str) -> NoReturn:
    """End with status 1 and a reason; each detail on a line of its own."""
    say(f"Error: {words}")
    for detail in details:
        say(f"  - {detail}")
    raise SystemExit(1)


def plain(stream: TextIO) -> bool:
    """Whether to keep to ASCII: not a terminal, or one that knows no UTF-8."""
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return not (stream.isatty() and encoding == "utf8")


def _set_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Common).config = value


def _add_verbosity(context: click.Context, parameter: click.Parameter, value: int) -> None:
    context.ensure_object(Common).verbosity += value


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options."""
    command = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_add_verbosity,
        help="Say more on stderr; twice for everything.",
    )(command)
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_set_config,
        help="Configuration file (mcp-guard.toml); YAML when it ends in .yaml or .yml.",
    )(command)
