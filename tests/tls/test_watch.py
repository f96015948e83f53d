"""Tests of the files that are watched."""

import os
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.tls.watch import Watch


class WatchTests(SynchronousTestCase):
    """Two files, looked at every two seconds."""

    def setUp(self) -> None:
        """A watch that counts."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.one, self.two = self.directory / "one", self.directory / "two"
        self.one.write_text("1")
        self.two.write_text("2")
        self.clock = Clock()
        self.told = 0
        self.watch = Watch(self.clock, [self.one, self.two], 2.0, self.tell)
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def tell(self) -> None:
        """Count."""
        self.told += 1

    def pass_time(self, looks: int) -> None:
        """Let it look so many times."""
        self.clock.pump([2.0] * looks)

    def test_nothing_changes(self) -> None:
        """Files that stay as they are are no news."""
        self.pass_time(10)
        self.assertEqual(self.told, 0)

    def test_one_change(self) -> None:
        """A change is told once, when a look has found nothing further."""
        self.one.write_text("another")
        self.pass_time(1)
        self.assertEqual(self.told, 0)
        self.pass_time(5)
        self.assertEqual(self.told, 1)

    def test_two_files_one_after_the_other(self) -> None:
        """Who replaces a certificate and then its key is waited for."""
        self.one.write_text("another")
        self.pass_time(1)
        self.two.write_text("another one")
        self.pass_time(1)
        self.assertEqual(self.told, 0)
        self.pass_time(3)
        self.assertEqual(self.told, 1)

    def test_replaced(self) -> None:
        """A file of the same size and time in the place of the old one is another file."""
        times = self.one.stat().st_atime_ns, self.one.stat().st_mtime_ns
        other = self.directory / "other"
        other.write_text("x")
        os.utime(other, ns=times)
        other.replace(self.one)
        self.pass_time(2)
        self.assertEqual(self.told, 1)

    def test_link_moved(self) -> None:
        """A link that leads somewhere else now, as Kubernetes does with secrets."""
        first, second = self.directory / "v1", self.directory / "v2"
        for version in (first, second):
            version.mkdir()
            (version / "tls.crt").write_text("c")
        link = self.directory / "data"
        link.symlink_to(first)
        watch = Watch(self.clock, [link / "tls.crt"], 2.0, self.tell)
        watch.start()
        self.addCleanup(watch.stop)
        fresh = self.directory / "fresh"
        fresh.symlink_to(second)
        fresh.replace(link)
        self.pass_time(2)
        self.assertEqual(self.told, 1)

    def test_gone_and_back(self) -> None:
        """A file that is gone is a change, and so is one that is there again."""
        self.one.unlink()
        self.pass_time(2)
        self.assertEqual(self.told, 1)
        self.one.write_text("1")
        self.pass_time(2)
        self.assertEqual(self.told, 2)

    def test_error(self) -> None:
        """What goes wrong in taking a change does not end the watch."""

        def fail() -> None:
            self.told += 1
            raise OSError("no")

        self.watch.changed = fail
        for text in ("a", "bb"):
            self.one.write_text(text)
            self.pass_time(2)
        self.assertEqual(self.told, 2)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_stop(self) -> None:
        """Nothing is left to run."""
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
