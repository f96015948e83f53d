"""Whose turn it is to accept: connections are shared out evenly between the workers.

All workers wait on one socket and wake up for each connection. Left to themselves, the one that
the kernel wakes first has them all while there is little to do, and keeps them when there is much.
"""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

TALLY = "connections"
"""The file's name in the directory that the workers share."""
_WIDTH = 4
"""Bytes of a number, which are read and written as one."""


@define(eq=False)
class Tally:
    """How many connections each worker has, in memory that all of them share.

    A worker that does not say anything, because it has ended or does not accept, has none.
    """

    _memory: mmap.mmap
    _numbers: memoryview = field(init=False)
    """By place, from 0: connections and 1, or 0."""

    def __attrs_post_init__(self) -> None:
        self._numbers = memoryview(self._memory).cast("I")

    @classmethod
    def create(cls, path: Path, places: int) -> "Tally":
        """Make the file that the memory is known by; raises OSError."""
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as file:
            file.truncate(places * _WIDTH)
            return cls(mmap.mmap(file.fileno(), places * _WIDTH))

    @classmethod
    def open(cls, path: Path, places: int) -> "Tally":
        """Share what another process has made; raises OSError or ValueError."""
        with open(path, "r+b") as file:
            return cls(mmap.mmap(file.fileno(), places * _WIDTH))

    def note(self, number: int, connections: int) -> None:
        """Say how many a worker has."""
        self._numbers[number - 1] = connections + 1

    def clear(self, number: int) -> None:
        """A worker takes none any more."""
        self._numbers[number - 1] = 0

    def lowest_but(self, number: int) -> int | None:
        """The fewest that another worker has, None when there is no other."""
        others = [n for place, n in enumerate(self._numbers, 1) if n and place != number]
        return min(others) - 1 if others else None

    def close(self) -> None:
        """Let go of the memory; nothing can be noted any more."""
        self._numbers.release()
        self._memory.close()


@define(eq=False)
class Turns:
    """Has a listening port of one worker accept when it is its turn.

    While another worker has fewer connections, this one leaves it ``pause_secs`` to accept; what
    is not accepted by then it takes itself, ``batch`` at a time: the other may be busy.
    """

    port: Any
    """Twisted's, listening."""
    reactor: Any
    tally: Tally
    number: int
    connections: Callable[[], int]
    pause_secs: float
    batch: int
    _read: Callable[[], Any] = field(init=False)
    _waiting: IDelayedCall | None = field(init=False, default=None)

    def begin(self) -> None:
        """Decide about each connection from now on."""
        self._read = self.port.doRead
        # The reactor looks it up at each turn.
        self.port.doRead = self.read
        self.tally.note(self.number, self.connections())

    def end(self) -> None:
        """This worker accepts no more: the others need not wait for it."""
        self.tally.clear(self.number)
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def read(self) -> Any:
        """There is a connection: accept it, or leave it to others first."""
        mine = self.connections()
        self.tally.note(self.number, mine)
        lowest = self.tally.lowest_but(self.number)
        if lowest is not None and lowest < mine:
            self.port.stopReading()
            self._waiting = self.reactor.callLater(self.pause_secs, self._again)
            return None
        # Twisted would take a hundred at one go.
        return self._accept(1)

    def _again(self) -> None:
        """The others have had their time: take what is still there, if anything."""
        self._waiting = None
        if self.port.connected and not self.port.disconnecting:
            self._accept(self.batch)
            self.port.startReading()

    def _accept(self, most: int) -> Any:
        self.port.numberAccepts = most
        result = self._read()
        self.tally.note(self.number, self.connections())
        return result
