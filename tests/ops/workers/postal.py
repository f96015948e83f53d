"""Workers that pass connections on, over the kernel's sockets and turns that a test takes."""

import gc
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.handover import Outcome, Parcel
from mcpguard.ops.workers.switchboard import Switchboard, SwitchboardBounds

BOUNDS = SwitchboardBounds(
    inline_bytes=1_000, unread_bytes=100_000, waiting=5, waiting_secs=3.0, batch=4
)


class SelectClock(Clock):
    """A clock, and descriptors that are looked at when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        """See `IReactorFDSet`."""
        assert reader.fileno() >= 0
        self.readers.add(reader)

    def addWriter(self, writer: Any) -> None:
        """See `IReactorFDSet`."""
        assert writer.fileno() >= 0
        self.writers.add(writer)

    def removeReader(self, reader: Any) -> None:
        """See `IReactorFDSet`."""
        self.readers.discard(reader)

    def removeWriter(self, writer: Any) -> None:
        """See `IReactorFDSet`."""
        self.writers.discard(writer)

    def turn(self) -> None:
        """One turn of a reactor to which everything looks ready."""
        for reader in tuple(self.readers):
            reader.doRead()
        for writer in tuple(self.writers):
            writer.doWrite()


class Worker:
    """A switchboard, and what came to it."""

    def __init__(self, directory: Path, number: int, workers: int, **bounds: Any) -> None:
        self.reactor = SelectClock()
        self.arrived: list[Parcel] = []
        self.sockets: list[socket.socket] = []
        self.returned: list[int] = []
        self._blank = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.board = Switchboard(
            self.reactor,
            directory,
            number,
            workers,
            evolve(BOUNDS, **bounds),
            self._take,
            self.returned.append,
        )

    def _take(self, descriptor: int, parcel: Parcel) -> None:
        self.arrived.append(parcel)
        self.sockets.append(socket.socket(fileno=descriptor))

    def die(self) -> None:
        """End as a killed process does: without a word, and what was sent to it is lost."""
        mailbox = self.reactor.readers.pop()
        mailbox.connectionLost(Failure(ConnectionDone()))
        os.dup2(self._blank.fileno(), mailbox.fileno())

    def close(self) -> None:
        """Close the connections that came."""
        for one in (*self.sockets, self._blank):
            one.close()

    def unread(self) -> list[bytes]:
        """What the clients of those that came have sent."""
        return [parcel.unread for parcel in self.arrived]


class PostalCase(SynchronousTestCase):
    """A directory, and connections to send."""

    def setUp(self) -> None:
        """Make a directory whose name is short enough for sockets in it."""
        self.directory = Path(tempfile.mkdtemp(prefix="mcp-guard-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def worker(self, number: int, workers: int = 3, **bounds: Any) -> Worker:
        """A worker that has begun."""
        worker = Worker(self.directory, number, workers, **bounds)
        worker.board.start()
        self.addCleanup(worker.board.stop)
        self.addCleanup(worker.close)
        return worker

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """The two ends of one."""
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        return near, far

    def send(self, worker: Worker, owner: int, unread: bytes = b"x") -> Deferred[Outcome]:
        """Send a connection of no further interest."""
        parcel = Parcel(("203.0.113.9", 5), ("127.0.0.1", 3000), True, unread)
        return worker.board.send(owner, parcel, self.connection()[0].fileno())

    def descriptors(self) -> int:
        """How many are open in this process."""
        # What other tests have left to the collector would be closed in the middle.
        gc.collect()
        return len(os.listdir("/proc/self/fd"))
