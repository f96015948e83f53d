"""Writing configuration files: whole or not at all."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from mcpguard.config.load import read_text
from mcpguard.errors import ConfigurationError

PRIVATE = 0o600
"""A configuration may hold secrets."""


def create(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a new file that only its owner can read; ``overwrite`` replaces an old one.

    Raises:
        ConfigurationError: it is there already, or cannot be written.
    """
    try:
        if overwrite and path.exists():
            _swap(path.resolve(), text, os.stat(path))
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        _sync_directory(path.absolute().parent)
    except FileExistsError:
        raise ConfigurationError(
            (f"{path} already exists; --force replaces it, -c FILE writes another",)
        ) from None
    except OSError as error:
        raise ConfigurationError((f"{path} cannot be written: {error.strerror}",)) from None


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Replace a file's text by ``change`` of it, atomically, keeping mode and owner.

    A symbolic link stays one: its target is replaced. Another `edit` of the same file at the same
    time is refused, so that neither loses what the other wrote.

    Raises:
        ConfigurationError: from ``change``, or because the file cannot be read or written.
    """
    read_text(path)  # says what is wrong with it better than the lock would
    try:
        target = path.resolve(strict=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if not os.path.samestat(status, os.stat(target)):
                raise BlockingIOError
            _swap(target, change(read_text(target)), status)
        finally:
            os.close(descriptor)
    except BlockingIOError:
        raise ConfigurationError(
            (f"{path} is being changed by another process; try again",)
        ) from None
    except OSError as error:
        raise ConfigurationError((f"{path} cannot be written: {error.strerror}",)) from None


def _swap(target: Path, text: str, status: os.stat_result) -> None:
    """Put a new file with the old one's mode and owner in its place."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            own = os.fstat(descriptor)
            if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            os.fsync(descriptor)
        os.rename(name, target)
    except BaseException:
        os.unlink(name)
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
