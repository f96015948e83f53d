"""Tests of `mcpguard.observe.audit.files`."""

import errno
import gzip
import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RotationSettings
from mcpguard.observe.audit.files import AuditFile
from mcpguard.observe.audit.outputs import Appended

NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
STAMP = "20261122T120000Z"
OFF = RotationSettings(enabled=False)


def line(number: int, size: int = 10) -> bytes:
    """Return a line of exactly ``size`` bytes."""
    return f"{number:0{size - 1}d}\n".encode()


class FileCase(SynchronousTestCase):
    """A folder to write in, and a wall clock to turn."""

    def setUp(self) -> None:
        """An empty folder; it is noon."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "audit.log"
        self.now = NOON

    def make(self, rotation: RotationSettings = OFF, *, opened: bool = True) -> AuditFile:
        """Return an audit file that is closed after the test."""
        file = AuditFile(self.path, rotation, lambda: self.now, 65_536)
        if opened:
            file.open()
        self.addCleanup(file.close)
        return file

    def limit_disk(self, *script: int | None) -> None:
        """Make `os.write` take so many bytes call by call, None being a full disk."""
        real = os.write
        steps = list(script)

        def write(fd: int, data: bytes) -> int:
            step = steps.pop(0) if steps else len(data)
            if step is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, memoryview(data)[:step])

        self.patch(os, "write", write)

    def names(self) -> list[str]:
        """Return the names in the folder."""
        return sorted(os.listdir(self.folder))


class OpenTests(FileCase):
    """`AuditFile.open`: what may be written to."""

    def test_mode(self) -> None:
        """A new file is for its owner only, whatever the umask."""
        mask = os.umask(0)
        self.addCleanup(os.umask, mask)
        self.make()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_existing_mode(self) -> None:
        """The mode an operator gave the file (for a log shipper) is left alone."""
        self.path.touch()
        self.path.chmod(0o640)
        self.make()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)

    def test_appends(self) -> None:
        """What is in the file stays."""
        self.path.write_bytes(b"before\n")
        self.make().append([b"after\n"])
        self.assertEqual(self.path.read_bytes(), b"before\nafter\n")

    def test_unfinished_last_line(self) -> None:
        """After a line that a killed process left unfinished, ours starts on a line of its own."""
        self.path.write_bytes(b'{"timestamp":"2026-')
        self.make().append([b"after\n"])
        self.assertEqual(self.path.read_bytes(), b'{"timestamp":"2026-\nafter\n')

    def test_no_folder(self) -> None:
        """The folder must exist; it is not made."""
        self.path = self.folder / "missing" / "audit.log"
        with self.assertRaises(FileNotFoundError):
            self.make()

    def test_symlink(self) -> None:
        """A symbolic link is not followed: whoever made it could choose what we write to."""
        target = self.folder / "target"
        self.path.symlink_to(target)
        with self.assertRaises(OSError):
            self.make()
        self.assertFalse(target.exists())

    def test_not_a_file(self) -> None:
        """A FIFO is refused at once instead of waiting for its reader, a directory as well."""
        os.mkfifo(self.path)
        with self.assertRaises(OSError):
            self.make()
        self.path.unlink()
        self.path.mkdir()
        with self.assertRaises(OSError):
            self.make()

    def test_no_leak(self) -> None:
        """A refused file leaves no descriptor open, and neither does closing twice."""
        before = len(os.listdir("/proc/self/fd"))
        os.mkfifo(self.path)
        for _ in range(3):
            with self.assertRaises(OSError):
                self.make(opened=False).open()
        self.path.unlink()
        file = self.make()
        file.close()
        file.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class AppendTests(FileCase):
    """`AuditFile.append`: lines arrive whole, in the right file."""

    def test_one_write(self) -> None:
        """A batch is one call to the kernel, on a descriptor in append mode."""
        sizes: list[int] = []
        real = os.write

        def write(fd: int, data: bytes) -> int:
            sizes.append(len(data))
            return real(fd, data)

        file = self.make()
        self.patch(os, "write", write)
        self.assertEqual(file.append([line(1), line(2)]), Appended(2))
        self.assertEqual(sizes, [20])
        with open(self.path, "ab") as other:
            other.write(b"other\n")
        file.append([line(3)])
        self.assertEqual(self.path.read_bytes(), line(1) + line(2) + b"other\n" + line(3))

    def test_full_disk(self) -> None:
        """A line cut off by a full disk is completed in place once there is room."""
        file = self.make()
        self.limit_disk(15, None)
        appended = file.append([line(1), line(2), line(3)])
        self.assertEqual(appended.taken, 2)
        self.assertIsNotNone(appended.error)
        self.assertEqual(file.append([line(3)]), Appended(1))
        self.assertEqual(self.path.read_bytes(), line(1) + line(2) + line(3))

    def test_moved_away(self) -> None:
        """A file that was moved away is made anew without a signal."""
        file = self.make()
        file.append([line(1)])
        moved = self.folder / "audit.log.1"
        self.path.rename(moved)
        file.append([line(2)])
        self.assertEqual(moved.read_bytes(), line(1))
        self.assertEqual(self.path.read_bytes(), line(2))

    def test_deleted(self) -> None:
        """A deleted file is made anew, so evidence does not go into a file without a name."""
        file = self.make()
        self.path.unlink()
        file.append([line(1)])
        self.assertEqual(self.path.read_bytes(), line(1))

    def test_reopen(self) -> None:
        """Asked to, it opens the path anew even though nothing has changed."""
        file = self.make()
        opened: list[object] = []
        real = os.open

        def spy(path: object, *rest: int) -> int:
            opened.append(path)
            return real(path, *rest)  # type: ignore[arg-type]

        self.patch(os, "open", spy)
        file.append([line(1)])
        self.assertEqual(opened, [])
        file.ask_reopen()
        file.append([])
        file.append([line(2)])
        self.assertEqual(opened, [self.path])
        self.assertEqual(self.path.read_bytes(), line(1) + line(2))

    def test_reopen_refused(self) -> None:
        """What may not be opened again, and is the file still, is written to as before."""
        file = self.make()
        file.append([line(1)])
        real = os.open

        def refuse(path: object, *rest: int) -> int:
            if path == self.path:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *rest)  # type: ignore[arg-type]

        self.patch(os, "open", refuse)
        file.ask_reopen()
        self.assertEqual(file.append([line(2)]), Appended(1))
        self.assertEqual(self.path.read_bytes(), line(1) + line(2))
        self.path.rename(self.folder / "audit.log.1")
        self.assertEqual(file.append([line(3)]).taken, 0)

    def test_torn_line_and_moved_file(self) -> None:
        """A line torn when the file is moved away is completed there."""
        file = self.make()
        self.limit_disk(5, None)
        file.append([line(1), line(2)])
        moved = self.folder / "audit.log.1"
        self.path.rename(moved)
        self.assertEqual(file.append([line(2)]), Appended(1))
        self.assertEqual(moved.read_bytes(), line(1))
        self.assertEqual(self.path.read_bytes(), line(2))

    def test_torn_line_that_cannot_be_completed(self) -> None:
        """If the old file takes nothing more, the torn line is written whole in the new one."""
        file = self.make()
        self.limit_disk(5, None, None)
        file.append([line(1), line(2)])
        moved = self.folder / "audit.log.1"
        self.path.rename(moved)
        self.assertEqual(file.append([line(2)]), Appended(1))
        self.assertEqual(moved.read_bytes(), line(1)[:5])
        self.assertEqual(self.path.read_bytes(), line(1) + line(2))

    def test_torn_line_and_reopened_file(self) -> None:
        """A torn line that cannot be completed in a file opened anew stands alone there."""
        file = self.make()
        self.limit_disk(5, None, None)
        file.append([line(1)])
        file.ask_reopen()
        self.assertEqual(file.append([line(2)]), Appended(1))
        self.assertEqual(self.path.read_bytes(), line(1)[:5] + b"\n" + line(1) + line(2))

    def test_unusable_path(self) -> None:
        """While the path cannot be opened, lines are given back, not put where nobody looks."""
        file = self.make()
        self.path.unlink()
        self.path.mkdir()
        appended = file.append([line(1)])
        self.assertEqual(appended.taken, 0)
        self.assertIsNotNone(appended.error)
        self.path.rmdir()
        self.assertEqual(file.append([line(1)]), Appended(1))
        self.assertEqual(self.path.read_bytes(), line(1))

    def test_close_syncs(self) -> None:
        """Closing makes the lines durable first."""
        synced: list[int] = []
        file = self.make()
        self.patch(os, "fsync", synced.append)
        file.append([line(1)])
        file.close()
        self.assertEqual(len(synced), 1)


class RotateTests(FileCase):
    """`AuditFile.append`: files put aside."""

    def test_size(self) -> None:
        """No file grows beyond the bound, and lines stay whole and in order across files."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=30, max_age_secs=None))
        appended = file.append([line(n) for n in range(8)])
        self.assertEqual(appended, Appended(8, rotated=True))
        self.assertEqual(
            self.names(), ["audit.log", f"audit.log.{STAMP}-1", f"audit.log.{STAMP}-2"]
        )
        parts = [(self.folder / f"audit.log.{STAMP}-{n}").read_bytes() for n in (1, 2)]
        parts.append(self.path.read_bytes())
        self.assertEqual([len(part) for part in parts], [30, 30, 20])
        self.assertEqual(b"".join(parts), b"".join(line(n) for n in range(8)))

    def test_existing_size_counts(self) -> None:
        """What a file holds from before counts towards its size."""
        self.path.write_bytes(line(1) + line(2))
        file = self.make(RotationSettings(enabled=True, max_size_bytes=20))
        self.assertTrue(file.append([line(3)]).rotated)

    def test_line_above_the_bound(self) -> None:
        """A line longer than a whole file may be is written all the same, alone."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=15))
        file.append([line(1), line(2, 40), line(3)])
        sizes = [(self.folder / name).stat().st_size for name in self.names()]
        self.assertEqual(sorted(sizes), [10, 10, 40])

    def test_age(self) -> None:
        """A file whose first line is old enough is put aside at the next line."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=None, max_age_secs=60))
        file.append([line(1)])
        self.now += 59.9
        self.assertFalse(file.append([line(2)]).rotated)
        self.now += 0.1
        self.assertTrue(file.append([line(3)]).rotated)
        self.assertEqual(self.path.read_bytes(), line(3))

    def test_age_of_an_existing_file(self) -> None:
        """The age of a file from before is told by its first line, not by the restart."""
        self.path.write_bytes(b'{"timestamp":"2026-11-22T11:59:00.500Z","event_type":"x"}\n')
        file = self.make(RotationSettings(enabled=True, max_size_bytes=None, max_age_secs=60))
        self.assertFalse(file.append([line(1)]).rotated)
        self.now += 0.6
        self.assertTrue(file.append([line(2)]).rotated)

    def test_age_of_a_strange_file(self) -> None:
        """A file that does not begin with a time of ours is as old as its last change."""
        for head in (b"hello\n", b'{"timestamp":"2026-99-99T99:99:99.000Z"}\n'):
            self.path.write_bytes(head)
            os.utime(self.path, (NOON, NOON - 61))
            file = self.make(RotationSettings(enabled=True, max_size_bytes=None, max_age_secs=60))
            self.assertTrue(file.append([line(1)]).rotated)
            file.close()

    def test_empty_file_stays(self) -> None:
        """An empty file is never put aside, however old."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=5, max_age_secs=1))
        self.now += 1000
        self.assertFalse(file.append([line(1)]).rotated)

    def test_off(self) -> None:
        """Without rotation a file grows."""
        file = self.make(RotationSettings(enabled=False, max_size_bytes=10, max_age_secs=1))
        self.now += 1000
        self.assertEqual(file.append([line(n) for n in range(9)]), Appended(9))
        self.assertEqual(self.names(), ["audit.log"])

    def test_failing_rotation(self) -> None:
        """When a file cannot be put aside, it grows, the log is told, and it is tried again."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=10))
        file.append([line(1)])

        def rename(*_: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

        patched = self.patch(os, "rename", rename)
        appended = file.append([line(2), line(3)])
        self.assertEqual(appended, Appended(2, notes=("cannot rotate: Permission denied",)))
        self.assertEqual(file.append([line(4)]), Appended(1))
        patched.restore()
        self.now += 60
        self.assertTrue(file.append([line(5)]).rotated)
        self.assertEqual(self.path.read_bytes(), line(5))

    def test_failing_new_file(self) -> None:
        """When no new file can be made, the old one is put back and goes on."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=10))
        file.append([line(1)])

        def refuse(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(os, "open", refuse)
        appended = file.append([line(2)])
        self.assertEqual(appended.taken, 1)
        self.assertEqual(self.names(), ["audit.log"])
        self.assertEqual(self.path.read_bytes(), line(1) + line(2))

    def test_torn_line_is_not_split(self) -> None:
        """A file with an unfinished line is not put aside before the line is complete."""
        file = self.make(RotationSettings(enabled=True, max_size_bytes=25))
        self.limit_disk(15, None)
        file.append([line(1), line(2)])
        file.append([line(3)])
        file.append([line(4)])
        self.assertEqual(
            (self.folder / f"audit.log.{STAMP}-1").read_bytes(), line(1) + line(2) + line(3)
        )
        self.assertEqual(self.path.read_bytes(), line(4))


class TidyTests(FileCase):
    """`AuditFile.tidy`: old files compressed and pruned."""

    def put(self, *names: str) -> None:
        """Create files that contain their names."""
        for name in names:
            (self.folder / name).write_text(name)

    def test_only_ours_are_pruned(self) -> None:
        """The oldest of ours go; whatever merely looks similar stays."""
        foreign = ("audit.log", "audit.log.1", "audit.log.old", "audit.log.20261122-1", "other")
        self.put(*foreign, *(f"audit.log.{STAMP}-{n}" for n in range(1, 6)))
        file = self.make(RotationSettings(enabled=True, max_backups=2))
        self.assertEqual(file.tidy(), ())
        self.assertEqual(
            self.names(), sorted([*foreign, f"audit.log.{STAMP}-4", f"audit.log.{STAMP}-5"])
        )

    def test_directories_and_links_stay(self) -> None:
        """Something that is not a regular file is never deleted, even under a name of ours."""
        (self.folder / f"audit.log.{STAMP}-1").mkdir()
        (self.folder / f"audit.log.{STAMP}-2").symlink_to("/nonexistent")
        file = self.make(RotationSettings(enabled=True, max_backups=0, compress=True))
        self.assertEqual(file.tidy(), ())
        self.assertEqual(len(self.names()), 3)

    def test_compressed(self) -> None:
        """Old files become gzip files for their owner only, with the same content."""
        name = f"audit.log.{STAMP}-1"
        self.put(name)
        self.make(RotationSettings(enabled=True, compress=True)).tidy()
        self.assertEqual(self.names(), ["audit.log", f"{name}.gz"])
        packed = self.folder / f"{name}.gz"
        self.assertEqual(gzip.decompress(packed.read_bytes()), name.encode())
        self.assertEqual(stat.S_IMODE(packed.stat().st_mode), 0o600)

    def test_interrupted(self) -> None:
        """What a killed process left behind is completed: no half file, no second copy."""
        first, second = f"audit.log.{STAMP}-1", f"audit.log.{STAMP}-2"
        self.put(first, f"{first}.gz.part", second, f"{second}.gz")
        self.make(RotationSettings(enabled=True, compress=True)).tidy()
        self.assertEqual(self.names(), ["audit.log", f"{first}.gz", f"{second}.gz"])
        self.assertEqual((self.folder / f"{second}.gz").read_text(), f"{second}.gz")

    def test_failing_compression(self) -> None:
        """When a file cannot be compressed it stays as it is, and the log is told."""
        name = f"audit.log.{STAMP}-1"
        self.put(name)

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        file = self.make(RotationSettings(enabled=True, compress=True))
        self.patch(os, "fsync", refuse)
        self.assertEqual(file.tidy(), (f"{name}: No space left on device",))
        self.assertEqual(self.names(), ["audit.log", name])
        self.patch(os, "fsync", lambda fd: None)

    def test_unreadable_folder(self) -> None:
        """A folder that cannot be listed is reported."""
        file = self.make(RotationSettings(enabled=True))

        def refuse(*_: object) -> list[str]:
            raise OSError(errno.EACCES, "Permission denied")

        self.patch(os, "listdir", refuse)
        self.assertEqual(file.tidy(), ("cannot list the directory: Permission denied",))
