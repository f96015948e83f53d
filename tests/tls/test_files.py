"""Tests of files that are read within a bound."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.tls.files import Unreadable, read_bounded


class ReadTests(SynchronousTestCase):
    """`read_bounded` gives a whole file, or says why not."""

    def setUp(self) -> None:
        """A directory."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def refused(self, path: Path) -> str:
        """Why it is not read."""
        return str(self.assertRaises(Unreadable, read_bounded, path, 10))

    def test_bound(self) -> None:
        """A file of the bound is read, one byte more is too much."""
        file = self.directory / "file"
        file.write_bytes(b"x" * 10)
        self.assertEqual(read_bounded(file, 10), b"x" * 10)
        file.write_bytes(b"x" * 11)
        self.assertEqual(self.refused(file), "is larger than 10 bytes")

    def test_no_file(self) -> None:
        """What is missing, or is no file; a pipe that nobody writes to is not waited for."""
        self.assertIn("No such file", self.refused(self.directory / "missing"))
        self.assertEqual(self.refused(self.directory), "is not a regular file")
        pipe = self.directory / "pipe"
        os.mkfifo(pipe)
        self.assertEqual(self.refused(pipe), "is not a regular file")
        self.assertEqual(self.refused(Path("/dev/zero")), "is not a regular file")
        self.assertIn("cannot be read", self.refused(self.directory / ("x" * 300)))

    def test_nothing_stays_open(self) -> None:
        """Whatever it is: files that cannot be used are tried again and again."""
        file = self.directory / "file"
        file.write_bytes(b"x" * 11)
        before = os.listdir("/proc/self/fd")
        for path in (self.directory, Path("/dev/null"), file):
            self.refused(path)
        self.assertEqual(os.listdir("/proc/self/fd"), before)
