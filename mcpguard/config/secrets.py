"""Settings kept out of the configuration file: ``{ env = "NAME" }`` and ``{ file = "/path" }``."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from mcpguard.config.reading import NotReadable, read_file
from mcpguard.config.settings import Secret

MAX_SECRET_BYTES = 65_536


class Unresolved(Exception):
    """A reference leads nowhere; the message names it and never a value."""


@frozen
class Resolved:
    """What a reference leads to."""

    secret: Secret
    warning: str = ""


def resolve(
    reference: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    base: Path,
    limit: int = MAX_SECRET_BYTES,
) -> Resolved:
    """Read what a reference names. Relative files are taken from ``base``.

    Raises:
        Unresolved: not a reference, or nothing usable there.
    """
    keys = set(reference)
    name = reference.get("env", reference.get("file"))
    if keys not in ({"env"}, {"file"}) or not isinstance(name, str) or not name:
        raise Unresolved('a reference is { env = "NAME" } or { file = "/path" }')
    if "env" in keys:
        return _from_environment(name, environ, limit)
    return _from_file(base / name, limit)


def _from_environment(name: str, environ: Mapping[str, str], limit: int) -> Resolved:
    value = environ.get(name)
    if value is None:
        raise Unresolved(f"the environment variable {name} is not set")
    if not value:
        raise Unresolved(f"the environment variable {name} is empty")
    if len(value) > limit:
        raise Unresolved(f"the environment variable {name} is longer than {limit} characters")
    return Resolved(Secret(value, f"environment variable {name}"))


def _from_file(path: Path, limit: int) -> Resolved:
    try:
        data, status = read_file(path, limit)
    except FileNotFoundError:
        raise Unresolved(f"the secret file {path} does not exist") from None
    except NotReadable as error:
        raise Unresolved(f"the secret file {path} {error}") from None
    try:
        value = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unresolved(f"the secret file {path} is not UTF-8 text") from None
    # Editors and `echo` end a file with a line end that is no part of the secret.
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise Unresolved(f"the secret file {path} is empty")
    warning = ""
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        warning = f"the secret file {path} is open to others (mode {mode:04o}); chmod 600 it"
    return Resolved(Secret(value, f"file {path}"), warning)
