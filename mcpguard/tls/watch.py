"""Files that are looked at again and again, until they have changed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

log = Logger()

Signature = tuple[tuple[int, int, int, int] | None, ...]


@define(eq=False)
class Watch:
    """Calls ``changed`` when any of ``paths`` is not what it was, and has been left alone since.

    Looks every ``every_secs`` seconds, through symbolic links, so that files which are replaced
    (certbot), whose link is moved (Kubernetes) or which lie on a network are noticed alike;
    inotify sees neither of the last two. What is still being written, or of which only one file
    is there yet, is left for the next look: a certificate and its key are two files.
    """

    clock: IReactorTime
    paths: Sequence[Path]
    every_secs: float
    changed: Callable[[], object]
    _seen: Signature = field(init=False, default=())
    """What ``changed`` was told of last."""
    _latest: Signature = field(init=False, default=())
    _loop: LoopingCall | None = field(init=False, default=None)

    def note(self) -> None:
        """Take what is there now as known. Before it is read: what changes then is noticed."""
        self._seen = self._latest = self._look()

    def start(self) -> None:
        """Look from now on; what is there now is known, unless `note` was called before."""
        if not self._seen:
            self.note()
        self._loop = LoopingCall(self.look)
        self._loop.clock = self.clock
        self._loop.start(self.every_secs, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    def look(self) -> None:
        """Look once."""
        now = self._look()
        settled, self._latest = now == self._latest, now
        if settled and now != self._seen:
            self._seen = now
            try:
                self.changed()
            except Exception:
                # The loop must not end by it: the next change may be a better one.
                log.failure("changed files could not be taken")

    def _look(self) -> Signature:
        return tuple(_signature(path) for path in self.paths)


def _signature(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
