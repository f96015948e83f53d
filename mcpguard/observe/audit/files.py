"""The audit file: appended to, put aside when it is too big or too old, compressed, pruned."""

import errno
import gzip
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from attrs import define, field

from mcpguard.config.settings import RotationSettings
from mcpguard.observe.audit.outputs import Appended, LineWriter
from mcpguard.observe.audit.rotation import (
    PART,
    backup_of,
    next_backup,
    stamp_of,
    surplus,
    uncompressed,
)

_MODE = 0o600
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Non-blocking so that opening a FIFO fails instead of waiting for its reader."""

_RETRY_ROTATION_SECS = 60.0

_FIRST_TIMESTAMP = re.compile(rb'\{"timestamp":"([0-9T:.+Z-]{20,40})"')


@define
class _Open:
    """The file as it is open now."""

    writer: LineWriter
    identity: tuple[int, int]
    """Device and inode."""
    size: int
    since: float
    """Unix seconds of its first line."""


@define
class AuditFile:
    """One audit file. Blocking; used on one thread at a time (`tidy` may run on another).

    Each batch is one ``O_APPEND`` write of whole lines. A file that was moved away or deleted is
    noticed at the next batch and made anew, so logrotate needs no signal, though one is honoured.
    """

    path: Path
    rotation: RotationSettings
    wall: Callable[[], float]
    """Unix seconds."""
    chunk: int
    """Bytes of one write."""
    _open: _Open | None = field(init=False, default=None)
    _reopen: bool = field(init=False, default=False)
    _no_rotation_before: float = field(init=False, default=0.0)
    _carried: bytes = field(init=False, default=b"")
    """A line that could not be completed in the file before; it is written whole in the next."""

    def open(self) -> None:
        """Open or create the file (mode 0600); raises `OSError` when it cannot be written to."""
        if self._open is None:
            self._open = self._opened()

    def ask_reopen(self) -> None:
        """Open the path anew at the next `append`; safe to call from any thread."""
        self._reopen = True

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Write whole lines, in order; never raises `OSError`."""
        notes: list[str] = []
        taken = 0
        rotated = False
        try:
            current = self._follow()
            while taken < len(lines):
                if self._due(current, len(lines[taken])):
                    try:
                        current = self._rotate(current)
                        rotated = True
                    except OSError as error:
                        self._no_rotation_before = self.wall() + _RETRY_ROTATION_SECS
                        notes.append(f"cannot rotate: {error.strerror}")
                batch = self._fitting(current, lines, taken)
                count, failed = current.writer.write(batch)
                taken += count
                current.size += sum(map(len, batch[:count]))
                if failed is not None:
                    return Appended(taken, failed, rotated, tuple(notes))
        except OSError as error:
            return Appended(taken, error, rotated, tuple(notes))
        return Appended(taken, None, rotated, tuple(notes))

    def close(self) -> None:
        """Make what was written durable and close the file; raises `OSError`."""
        current, self._open = self._open, None
        if current is not None:
            try:
                os.fsync(current.writer.fd)
            finally:
                os.close(current.writer.fd)

    def tidy(self) -> tuple[str, ...]:
        """Delete the backups that are too many, then compress the rest if that is wanted.

        Touches only regular files whose names are exactly ours. Returns what went wrong.
        """
        base, folder = self.path.name, self.path.parent
        problems: list[str] = []

        def attempt(work: Callable[[], None], name: str) -> None:
            try:
                if stat.S_ISREG(os.lstat(folder / name).st_mode):
                    work()
            except FileNotFoundError:
                pass
            except OSError as error:
                problems.append(f"{name}: {error.strerror}")

        try:
            names = os.listdir(folder)
        except OSError as error:
            return (f"cannot list the directory: {error.strerror}",)
        for name in names:
            backup = backup_of(base, name)
            if backup is not None and backup.suffix.endswith(PART):
                attempt((folder / name).unlink, name)  # left by a process that was killed
        for name in surplus(base, names, self.rotation.max_backups):
            attempt((folder / name).unlink, name)
        if self.rotation.compress:
            for name in uncompressed(base, names):
                attempt(partial(_compress, folder / name), name)
        return tuple(problems)

    def _follow(self) -> _Open:
        """Return the open file, opened anew if it was moved away, deleted, or if that was asked."""
        current = self._open
        kept = current if current is not None and self._is_at_path(current) else None
        if kept is not None and not self._reopen:
            return kept
        try:
            fresh = self._opened()
        except OSError:
            if kept is None:
                raise
            # As after `twistd --uid`, whose user may not open it: what is open is still the file.
            self._reopen = False
            return kept
        if current is not None:
            self._leave(current)
        if self._carried:
            fresh.writer.torn += self._carried
            self._carried = b""
        self._open, self._reopen = fresh, False
        return fresh

    def _is_at_path(self, current: _Open) -> bool:
        """Whether the open file is still the one that has the name."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == current.identity

    def _leave(self, current: _Open) -> None:
        """Close a file; the line torn in it is completed there, or else written whole elsewhere."""
        torn = current.writer.torn
        if torn:
            _, failed = current.writer.write(())
            if failed is not None:
                self._carried = torn
        try:
            os.fsync(current.writer.fd)
        except OSError:
            pass  # the lines are in the file; only the disk's word is missing
        os.close(current.writer.fd)

    def _opened(self) -> _Open:
        fd = os.open(self.path, _FLAGS, _MODE)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            writer = LineWriter(fd, self.chunk)
            since = self.wall()
            if found.st_size:
                if os.pread(fd, 1, found.st_size - 1) != b"\n":
                    # A process was killed in the middle of a line: do not glue ours to it.
                    writer.torn = b"\n"
                since = _first_timestamp(os.pread(fd, 64, 0), found.st_mtime)
        except BaseException:
            os.close(fd)
            raise
        return _Open(writer, (found.st_dev, found.st_ino), found.st_size, since)

    def _due(self, current: _Open, upcoming: int) -> bool:
        limits = self.rotation
        if not limits.enabled or not current.size or current.writer.torn:
            return False
        now = self.wall()
        if now < self._no_rotation_before:
            return False
        if limits.max_size_bytes is not None and current.size + upcoming > limits.max_size_bytes:
            return True
        return limits.max_age_secs is not None and now - current.since >= limits.max_age_secs

    def _fitting(self, current: _Open, lines: Sequence[bytes], start: int) -> Sequence[bytes]:
        """Return the lines from ``start`` on that may go into the file; at least one."""
        most = self.rotation.max_size_bytes
        blocked = self.wall() < self._no_rotation_before
        if not self.rotation.enabled or most is None or blocked:
            return lines[start:]
        size = current.size + len(lines[start])
        end = start + 1
        while end < len(lines) and size + len(lines[end]) <= most:
            size += len(lines[end])
            end += 1
        return lines[start:end]

    def _rotate(self, current: _Open) -> _Open:
        """Put the file aside and start a new one; raises `OSError` with everything as it was."""
        folder = self.path.parent
        backup = next_backup(self.path.name, stamp_of(self.wall()), os.listdir(folder))
        aside = folder / backup.name(self.path.name)
        os.rename(self.path, aside)
        try:
            fresh = self._opened()
        except OSError:
            os.rename(aside, self.path)
            raise
        self._leave(current)
        self._open = fresh
        return fresh


def _first_timestamp(head: bytes, otherwise: float) -> float:
    """Return the Unix seconds of a file's first line, or ``otherwise`` if it has no such line."""
    match = _FIRST_TIMESTAMP.match(head)
    if match is None:
        return otherwise
    try:
        return datetime.fromisoformat(match[1].decode()).timestamp()
    except ValueError:
        return otherwise


def _compress(plain: Path) -> None:
    """Replace a file by its ``.gz``; at every moment one of the two is complete."""
    done = plain.with_name(f"{plain.name}.gz")
    part = plain.with_name(f"{done.name}{PART}")
    if not done.exists():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(part, flags, _MODE)
        try:
            with open(fd, "wb") as raw:
                with (
                    open(plain, "rb") as source,
                    gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
                ):
                    shutil.copyfileobj(source, packed, 262_144)
                raw.flush()
                os.fsync(raw.fileno())
            os.rename(part, done)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    plain.unlink()
