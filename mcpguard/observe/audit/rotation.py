"""Rotation as arithmetic: the names of old audit files, and which of them are too many."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from attrs import frozen

PART = ".part"
"""Ends the name of a compressed file that is not complete yet."""


@frozen(order=True)
class Backup:
    """An old audit file, by the name it has; ordered from old to new."""

    stamp: str
    """``YYYYMMDDTHHMMSSZ``, when it was put aside."""
    number: int
    """Tells apart those of one second, from 1."""
    suffix: str = ""
    """Empty, ``.gz`` or ``.gz.part``."""

    def name(self, base: str) -> str:
        """Return the file name of this backup of ``base``."""
        return f"{base}.{self.stamp}-{self.number}{self.suffix}"


def backup_of(base: str, name: str) -> Backup | None:
    """Return the backup a file name stands for; None unless it is exactly one of our own.

    Anything else beside the audit file (``audit.log.1``, ``audit.log.bak``) belongs to somebody.
    """
    if not name.startswith(f"{base}."):
        return None
    match = _TAIL.fullmatch(name[len(base) + 1 :])
    if match is None:
        return None
    return Backup(match["stamp"], int(match["number"]), match["suffix"])


_TAIL = re.compile(
    r"(?P<stamp>[0-9]{8}T[0-9]{6}Z)-(?P<number>[1-9][0-9]{0,8})(?P<suffix>|\.gz|\.gz\.part)"
)


def stamp_of(seconds: float) -> str:
    """Return the stamp of a moment given in Unix seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}"


def next_backup(base: str, stamp: str, names: Iterable[str]) -> Backup:
    """Return the name for the file put aside now, given the names that are taken.

    It sorts after every backup of the same second, and never equals one, compressed or not.
    """
    numbers = [
        backup.number
        for backup in (backup_of(base, name) for name in names)
        if backup is not None and backup.stamp == stamp
    ]
    return Backup(stamp, max(numbers, default=0) + 1)


def surplus(base: str, names: Iterable[str], keep: int) -> tuple[str, ...]:
    """Return the names of the oldest backups beyond ``keep``; a file and its ``.gz`` are one."""
    by_moment: dict[tuple[str, int], list[str]] = {}
    for name in names:
        backup = backup_of(base, name)
        if backup is not None:
            by_moment.setdefault((backup.stamp, backup.number), []).append(name)
    moments = sorted(by_moment)
    return tuple(
        name for moment in moments[: max(0, len(moments) - keep)] for name in by_moment[moment]
    )


def uncompressed(base: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the backups that are still plain, oldest first."""
    plain = (
        (backup, name)
        for backup, name in ((backup_of(base, name), name) for name in names)
        if backup is not None and not backup.suffix
    )
    return tuple(name for _, name in sorted(plain))
