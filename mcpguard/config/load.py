"""From a configuration file to `Settings`, or to every reason why not."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from mcpguard.config.document import Bounds, Document, Unreadable, printable, quoted
from mcpguard.config.grammar import bind_address
from mcpguard.config.places import Invalid, Place, Report
from mcpguard.config.reading import NotReadable, read_file
from mcpguard.config.rules import clash, collide, exposure
from mcpguard.config.schema import ROOT
from mcpguard.config.settings import Settings
from mcpguard.config.toml_source import read_toml
from mcpguard.errors import ConfigurationError

Format = Literal["toml", "yaml"]

BOUNDS = Bounds(max_bytes=1_048_576, max_nodes=100_000, max_depth=16)


@frozen
class Loaded:
    """What a file says."""

    settings: Settings
    warnings: tuple[str, ...]
    """Doubtful but usable, one sentence each, in the order of the lines."""
    notes: tuple[str, ...] = ()
    """When the certificates and revocation lists that it names end."""


def load(path: Path, *, environ: Mapping[str, str], now: datetime | None = None) -> Loaded:
    """Read a file; YAML when its suffix is ``.yaml`` or ``.yml``, else TOML.

    Relative paths in it start at its directory. ``now`` as in `loads`.

    Raises:
        ConfigurationError: with every problem.
    """
    text = read_text(path)
    return loads(text, format_of(path), environ=environ, base=path.absolute().parent, now=now)


def loads(
    text: str,
    format: Format,
    *,
    environ: Mapping[str, str],
    base: Path,
    now: datetime | None = None,
) -> Loaded:
    """Read a text. ``base`` is where relative paths in it start.

    ``now`` (aware) is given by whoever is going to use the settings: the certificates, keys and
    revocation lists that it names are then read and judged. Without it they need not be there.

    Raises:
        ConfigurationError: with every problem.
    """
    report = Report(parse(text, format), environ, base, now)
    settings = ROOT(Place(report, (), report.document.tree))
    problems = report.problems
    if problems or isinstance(settings, Invalid):
        raise ConfigurationError(problems or ("the configuration cannot be used",))
    return Loaded(settings, report.warnings, report.notes)


def parse(text: str, format: Format, bounds: Bounds = BOUNDS) -> Document:
    """Only the syntax: the tree of values with their lines.

    Raises:
        ConfigurationError: with the one problem.
    """
    try:
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > bounds.max_bytes:
            raise Unreadable(f"larger than {bounds.max_bytes} bytes")
        if format == "toml":
            return read_toml(text, bounds)
        # Imported here: a YAML library is 2 MiB that a gateway with a TOML file does not need.
        from mcpguard.config.yaml_source import read_yaml

        return read_yaml(text, bounds)
    except Unreadable as error:
        raise ConfigurationError((printable(str(error)[:500]),)) from None


def format_of(path: Path) -> Format:
    """The format a file has by its name."""
    return "yaml" if path.suffix.lower() in (".yaml", ".yml") else "toml"


def read_text(path: Path, limit: int = BOUNDS.max_bytes) -> str:
    """The text of a configuration file.

    Raises:
        ConfigurationError: missing, unreadable, too large, or not UTF-8 text.
    """
    try:
        data, _ = read_file(path, limit)
    except FileNotFoundError:
        raise ConfigurationError(
            (
                f"Config file not found: {path}. Create one with `mcp-guard init`,"
                " or name another with --config FILE.",
            )
        ) from None
    except NotReadable as error:
        raise ConfigurationError((f"{path} {error}",)) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError((f"{path} is not UTF-8 text (byte {error.start})",)) from None


def with_listener(loaded: Loaded, host: str | None, port: int | None) -> Loaded:
    """The same settings listening where the command line says; None keeps the file's word.

    Raises:
        ConfigurationError: not an address, or the port of the operator listener.
    """
    server, admin = loaded.settings.server, loaded.settings.admin
    if host is not None:
        try:
            server = evolve(server, host=bind_address(host))
        except ValueError as error:
            raise ConfigurationError((f"--host {quoted(host)}: {error}",)) from None
    if port is not None:
        if not 0 <= port <= 65_535:
            raise ConfigurationError((f"--port {port}: accepted: 0 (any free port) to 65535",))
        server = evolve(server, port=port)
    if port and any(clash(server.every_listener[0], one) for one in server.listeners):
        raise ConfigurationError((f"--port {port} is that of another listener",))
    if admin is not None and port is not None and collide(server, admin):
        raise ConfigurationError((f"--port {port} is that of the operator listener [admin]",))
    added = exposure(server) if host is not None else ()
    return evolve(
        loaded,
        settings=evolve(loaded.settings, server=server),
        warnings=loaded.warnings + added,
    )


def expired_keys(settings: Settings, now: datetime) -> tuple[str, ...]:
    """Warnings about API keys that no longer count."""
    return tuple(
        f"the API key {quoted(key.id)} expired at {key.expires_at.isoformat()}"
        for key in settings.auth.api_keys
        if key.expires_at is not None and key.expires_at <= now
    )
