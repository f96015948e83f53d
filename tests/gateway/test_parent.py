"""The parent of the workers, apart from its processes."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.schema import MAX_WORKERS
from mcpguard.gateway.parent import held, private_directory
from mcpguard.ops.workers.mail import mail_path

LARGEST_PID = 4_194_304


class DirectoryTests(SynchronousTestCase):
    """`private_directory`."""

    def made_below(self, base: Path) -> Path:
        """The directory made where temporary files go to ``base``; sockets fit into it."""
        base.mkdir(parents=True)
        self.addCleanup(base.rmdir)
        self.patch(tempfile, "tempdir", str(base))
        directory = private_directory()
        self.addCleanup(directory.rmdir)
        self.assertEqual(directory.stat().st_mode & 0o777, 0o700)
        path = mail_path(directory, MAX_WORKERS)
        longest = path.with_name(f"{path.name}.{LARGEST_PID}")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(longest))
        longest.unlink()
        return directory

    def new_name(self) -> Path:
        """A short name for a directory that nobody has, in whichever process."""
        return Path(tempfile.mktemp(prefix="mg"))

    def test_short_name(self) -> None:
        """It is where temporary files go."""
        base = self.new_name()
        self.assertEqual(self.made_below(base).parent, base)

    def test_long_name(self) -> None:
        """Where that leaves no room for the names of sockets it is elsewhere, with nothing left."""
        base = Path(self.mktemp()).absolute() / ("d" * 120)
        self.assertEqual(self.made_below(base).parent, Path("/tmp"))
        self.assertEqual(list(base.iterdir()), [])

    def test_every_length(self) -> None:
        """At no length are sockets without room."""
        start = self.new_name()
        for length in range(20, 90, 7):
            self.made_below(start.with_name(f"{start.name}-{'d' * length}"))

    def test_held(self) -> None:
        """What clears old files away, and takes a lock before, finds it taken until the end."""
        base = self.new_name()
        directory = self.made_below(base)
        ours = held(directory)
        theirs = os.open(directory, os.O_RDONLY)
        self.addCleanup(os.close, theirs)
        exclusively = fcntl.LOCK_EX | fcntl.LOCK_NB
        self.assertRaises(BlockingIOError, fcntl.flock, theirs, exclusively)
        os.close(ours)
        fcntl.flock(theirs, exclusively)
