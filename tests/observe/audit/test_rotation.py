"""Tests of `mcpguard.observe.audit.rotation`."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.audit.rotation import (
    Backup,
    backup_of,
    next_backup,
    stamp_of,
    surplus,
    uncompressed,
)

STAMP = "20261122T101500Z"
BASE = "audit.log"

FOREIGN = (
    "audit.log",
    "audit.log.1",
    "audit.log.bak",
    "audit.log.20261122T101500Z",
    "audit.log.20261122T101500Z-0",
    "audit.log.20261122T101500Z-01",
    "audit.log.20261122T101500Z-1.bz2",
    "audit.log.20261122T101500Z-1.gz.gz",
    "audit.log.20261122T101500Z-1~",
    "audit.log.20261122T101500Z-1\n",
    "audit.log.20261122T101500-1",
    "xaudit.log.20261122T101500Z-1",
    "auditxlog.20261122T101500Z-1",
    "audit.log2.20261122T101500Z-1",
    "audit.log.\u0662\u0660\u0662\u06611122T101500Z-1",
    "audit.log.20261122T101500Z-9999999999",
)


class NamesTests(SynchronousTestCase):
    """`Backup`, `backup_of`, `next_backup`: the names of old files."""

    def test_stamp(self) -> None:
        """A stamp is the moment in UTC, to the second."""
        self.assertEqual(stamp_of(1_795_342_500.9), STAMP)

    def test_name_and_back(self) -> None:
        """A name stands for exactly the backup it was made from."""
        for suffix in ("", ".gz", ".gz.part"):
            backup = Backup(STAMP, 12, suffix)
            name = backup.name(BASE)
            self.assertEqual(name, f"audit.log.20261122T101500Z-12{suffix}")
            self.assertEqual(backup_of(BASE, name), backup)

    def test_foreign_names(self) -> None:
        """Whatever merely resembles our names is nobody's backup."""
        for name in FOREIGN:
            self.assertIsNone(backup_of(BASE, name), name)

    def test_next(self) -> None:
        """The next name is free and sorts last, compressed or unfinished neighbours included."""
        self.assertEqual(next_backup(BASE, STAMP, FOREIGN), Backup(STAMP, 1))
        names = [f"{BASE}.{STAMP}-{tail}" for tail in ("1.gz", "3", "9.gz.part")]
        self.assertEqual(next_backup(BASE, STAMP, names), Backup(STAMP, 10))
        self.assertEqual(next_backup(BASE, stamp_of(0), names), Backup(stamp_of(0), 1))


class SurplusTests(SynchronousTestCase):
    """`surplus` and `uncompressed`: what is done to old files."""

    def test_oldest_go(self) -> None:
        """The newest are kept, by stamp and then by number as a number."""
        names = [f"{BASE}.{STAMP}-{n}" for n in (2, 10, 1)] + [f"{BASE}.20251122T101500Z-99.gz"]
        self.assertEqual(
            surplus(BASE, names, 2), (f"{BASE}.20251122T101500Z-99.gz", f"{BASE}.{STAMP}-1")
        )

    def test_keep_none(self) -> None:
        """Zero backups kept means every one of ours goes, and nothing else."""
        ours = f"{BASE}.{STAMP}-1"
        self.assertEqual(surplus(BASE, [*FOREIGN, ours], 0), (ours,))

    def test_two_forms_of_one(self) -> None:
        """A file and its compressed form count once and go together."""
        names = [f"{BASE}.{STAMP}-1", f"{BASE}.{STAMP}-1.gz", f"{BASE}.{STAMP}-2"]
        self.assertEqual(surplus(BASE, names, 2), ())
        self.assertEqual(set(surplus(BASE, names, 1)), set(names[:2]))

    def test_uncompressed(self) -> None:
        """Only plain backups are to be compressed, oldest first."""
        names = [f"{BASE}.{STAMP}-{tail}" for tail in ("10", "2", "3.gz", "4.gz.part")]
        self.assertEqual(
            uncompressed(BASE, [*FOREIGN, *names]), (f"{BASE}.{STAMP}-2", f"{BASE}.{STAMP}-10")
        )

    @settings(deadline=None, max_examples=100)
    @given(st.sets(st.tuples(st.integers(0, 4 * 10**9), st.integers(1, 30))), st.integers(0, 20))
    def test_any_set(self, moments: set[tuple[int, int]], keep: int) -> None:
        """However many there are, exactly the newest are kept."""
        backups = sorted({Backup(stamp_of(second), number) for second, number in moments})
        names = [backup.name(BASE) for backup in backups]
        gone = surplus(BASE, reversed(names), keep)
        self.assertEqual(list(gone), names[: max(0, len(names) - keep)])
