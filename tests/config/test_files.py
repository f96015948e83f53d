"""Tests of writing files whole or not at all."""

import fcntl
import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.files import create, edit
from mcpguard.errors import ConfigurationError


class FilesTestCase(SynchronousTestCase):
    """A directory, and what must be left in it."""

    def setUp(self) -> None:
        """One file of known content."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "c.toml"

    def names(self) -> list[str]:
        """What lies in the directory."""
        return sorted(os.listdir(self.directory))

    def mode(self, path: Path) -> int:
        """Permission bits."""
        return stat.S_IMODE(path.stat().st_mode)


class CreateTests(FilesTestCase):
    """New files."""

    def test_private(self) -> None:
        """Only the owner can read a new file, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        create(self.path, "text ä\n", overwrite=False)
        self.assertEqual((self.path.read_text("utf-8"), self.mode(self.path)), ("text ä\n", 0o600))

    def test_not_twice(self) -> None:
        """An old file is left alone unless it may be replaced, then it keeps its mode."""
        self.path.write_text("old")
        self.path.chmod(0o640)
        error = self.assertRaises(ConfigurationError, create, self.path, "new", overwrite=False)
        self.assertIn("already exists; --force replaces it", error.problems[0])
        self.assertEqual(self.path.read_text(), "old")
        create(self.path, "new", overwrite=True)
        self.assertEqual((self.path.read_text(), self.mode(self.path)), ("new", 0o640))
        self.assertEqual(self.names(), ["c.toml"])

    def test_dangling_link(self) -> None:
        """A link to nowhere is not followed to a place the user did not name."""
        self.path.symlink_to(self.directory / "elsewhere")
        error = self.assertRaises(ConfigurationError, create, self.path, "x", overwrite=False)
        self.assertIn("already exists", error.problems[0])
        self.assertEqual(self.names(), ["c.toml"])

    def test_no_directory(self) -> None:
        """A place that is not there."""
        error = self.assertRaises(
            ConfigurationError, create, self.directory / "no" / "c", "x", overwrite=False
        )
        self.assertIn("cannot be written: No such file or directory", error.problems[0])


class EditTests(FilesTestCase):
    """Changes."""

    def setUp(self) -> None:
        """A file with a mode of its own."""
        super().setUp()
        self.path.write_bytes(b"old\r\n")
        self.path.chmod(0o640)

    def test_replaced(self) -> None:
        """The new text, byte by byte, in a new file with the old mode, and nothing left over."""
        inode = self.path.stat().st_ino
        edit(self.path, lambda text: text + "new\r\n")
        self.assertEqual(self.path.read_bytes(), b"old\r\nnew\r\n")
        self.assertNotEqual(self.path.stat().st_ino, inode)
        self.assertEqual((self.mode(self.path), self.names()), (0o640, ["c.toml"]))

    def test_link(self) -> None:
        """A link stays a link; its target is replaced, in the target's directory."""
        other = self.directory / "other"
        other.mkdir()
        link = other / "link.toml"
        link.symlink_to("../c.toml")
        edit(link, lambda text: "new")
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.path.read_text(), "new")
        self.assertEqual((self.names(), os.listdir(other)), (["c.toml", "other"], ["link.toml"]))

    def test_refused_change(self) -> None:
        """A change that fails leaves the very same file."""

        def refuse(text: str) -> str:
            raise ConfigurationError(("no",))

        before = self.path.stat()
        self.assertRaises(ConfigurationError, edit, self.path, refuse)
        after = self.path.stat()
        self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))
        self.assertEqual(self.names(), ["c.toml"])

    def test_failure_while_writing(self) -> None:
        """A write that cannot be finished leaves the old file and no litter."""
        self.assertRaises(UnicodeEncodeError, edit, self.path, lambda text: "\ud800")
        self.assertEqual((self.path.read_bytes(), self.names()), (b"old\r\n", ["c.toml"]))

    def test_at_the_same_time(self) -> None:
        """A second change while one is under way is refused instead of losing one of them."""

        def second(text: str) -> str:
            error = self.assertRaises(ConfigurationError, edit, self.path, lambda text: "lost")
            self.assertIn("is being changed by another process", error.problems[0])
            return "kept"

        edit(self.path, second)
        self.assertEqual(self.path.read_text(), "kept")

    def test_replaced_by_another(self) -> None:
        """A file that was replaced between opening and locking is not overwritten."""

        def lock(descriptor: int, operation: int) -> None:
            new = self.directory / "new"
            new.write_text("of another process")
            new.rename(self.path)

        self.patch(fcntl, "flock", lock)
        error = self.assertRaises(ConfigurationError, edit, self.path, lambda text: "lost")
        self.assertIn("is being changed by another process", error.problems[0])
        self.assertEqual(self.path.read_text(), "of another process")

    def test_missing(self) -> None:
        """Nothing to change: said as everywhere else."""
        error = self.assertRaises(
            ConfigurationError, edit, self.directory / "none.toml", lambda text: text
        )
        self.assertIn("Config file not found: ", error.problems[0])
