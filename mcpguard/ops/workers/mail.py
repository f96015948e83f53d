"""What workers send each other: a datagram with a descriptor, over sockets in a private directory.

Each worker reads one socket, bound to ``<number>.mail``. Who sends to it learns at once whether
it is there: that is all that a worker knows of the others.
"""

import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from errno import EAGAIN, ECONNREFUSED, ECONNRESET, ENOENT, ENOTCONN, EPIPE
from pathlib import Path
from typing import Any

import msgspec
from attrs import define
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.ops.workers.passport import MAX_PASSPORT, unpacked
from mcpguard.policy.certificates import PeerCertificate

_log = Logger()

_ABSENT = frozenset({ECONNREFUSED, ECONNRESET, ENOENT, ENOTCONN, EPIPE})
_ROOM = socket.CMSG_SPACE(2 * array("i").itemsize)
"""For as many descriptors as a letter has; the kernel closes what more there is."""
_MAX_HEAD = 1_024
"""Bytes of a letter besides what the client has sent."""


class Posted(Enum):
    """What became of a letter."""

    SENT = "sent"
    ABSENT = "absent"
    FULL = "full"
    """Its reader is slow: try again when the socket says so."""
    IMPOSSIBLE = "impossible"


class Here(msgspec.Struct, array_like=True, tag="here", frozen=True):
    """A worker has begun to read its mail."""

    number: int


class Sent(msgspec.Struct, array_like=True, tag="sent", frozen=True):
    """A connection, with what `handover.Parcel` says of it."""

    peer: tuple[str, int]
    host: tuple[str, int]
    direct: bool
    unread: bytes | int
    """The bytes, or how many there are in the file that is the second descriptor."""
    passport: int = 0
    """How many of them, the first ones, are the client's certificate (`passport.packed`)."""


_DECODER = msgspec.msgpack.Decoder(Here | Sent)


def mail_path(directory: Path, number: int) -> Path:
    """Where the mail of a worker goes."""
    return directory / f"{number}.mail"


@define(eq=False)
class Letter:
    """A message with the descriptors that go with it; these stay the sender's."""

    data: bytes
    descriptors: Sequence[int]


@implementer(IWriteDescriptor)
class Line:
    """The way to one worker: letters leave in order, the rest waits until it reads.

    ``on_settled`` is told what became of a letter that waited: `Posted.FULL` is none of it.
    """

    def __init__(self, reactor: Any, path: Path, on_settled: Callable[[Any, Posted], None]) -> None:
        self._reactor = reactor
        self._path = path
        self._on_settled = on_settled
        self._socket: socket.socket | None = None
        self._queue: deque[Letter] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def post(self, letter: Letter) -> Posted:
        """Send a letter, now or (`Posted.FULL`) not at all."""
        return Posted.FULL if self._queue else self._post(letter)

    def wait(self, letter: Letter) -> None:
        """Send it once the worker reads again; after `post` has said that it is full."""
        self._queue.append(letter)
        self._reactor.addWriter(self)

    def drop(self, letter: Letter) -> None:
        """Do not send it."""
        if letter in self._queue:
            self._queue.remove(letter)
            self._rest()

    def renew(self) -> list[Letter]:
        """Forget the way there; gives those that wait."""
        waiting = list(self._queue)
        self._queue.clear()
        self._forget()
        return waiting

    def _post(self, letter: Letter) -> Posted:
        # Twice, because there may be another worker in the place by now.
        for _ in range(2):
            was_known = self._socket is not None
            try:
                way = self._socket = self._socket or self._connected()
                socket.send_fds(way, [letter.data], list(letter.descriptors))
            except OSError as error:
                if error.errno == EAGAIN:
                    return Posted.FULL
                if error.errno not in _ABSENT:
                    _log.warn("a connection cannot be passed on: {error}", error=error)
                    return Posted.IMPOSSIBLE
                self._forget()
                if not was_known:
                    break
            else:
                return Posted.SENT
        return Posted.ABSENT

    def _connected(self) -> socket.socket:
        way = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            way.setblocking(False)
            way.connect(str(self._path))
        except OSError:
            way.close()
            raise
        return way

    def _forget(self) -> None:
        if self._socket is not None:
            self._reactor.removeWriter(self)
            self._socket.close()
            self._socket = None

    def _rest(self) -> None:
        if not self._queue:
            self._reactor.removeWriter(self)

    # -- IWriteDescriptor

    def fileno(self) -> int:
        """See `IFileDescriptor`."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return "mail"

    def doWrite(self) -> None:
        """The worker reads again, or is gone."""
        while self._queue:
            posted = self._post(self._queue[0])
            if posted is Posted.FULL:
                # A new way, if there is another worker by now.
                self._reactor.addWriter(self)
                return
            if posted is Posted.ABSENT:
                # It holds for all that wait.
                self._lost()
                return
            self._on_settled(self._queue.popleft(), posted)
        self._rest()

    def connectionLost(self, reason: Failure) -> None:
        """The socket failed, or the reactor stops."""
        self._lost()

    def _lost(self) -> None:
        for letter in self.renew():
            self._on_settled(letter, Posted.ABSENT)


@implementer(IReadDescriptor)
class Mailbox:
    """Where a worker's mail arrives, ``batch`` letters a turn.

    ``on_here`` is told the number of a worker that has begun, ``on_sent`` is given connections:
    a descriptor, its own from then on, what was said of it, the bytes of its client and, verified
    by the sender, its certificate. Of the bytes no more than ``max_bytes`` are taken, and
    ``inline`` of them in a letter itself.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        batch: int,
        inline: int,
        max_bytes: int,
        on_here: Callable[[int], None],
        on_sent: Callable[[int, Sent, bytes, PeerCertificate | None], None],
    ) -> None:
        self._reactor = reactor
        self._batch = batch
        self._size = inline + _MAX_HEAD
        self._max_bytes = max_bytes
        self._on_here = on_here
        self._on_sent = on_sent
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path: Path | None = None
        self._inode = 0

    def open(self, path: Path) -> None:
        """Take the mail of a place, also that of a worker who still reads it."""
        own = path.with_name(f"{path.name}.{os.getpid()}")
        own.unlink(missing_ok=True)
        self._socket.bind(str(own))
        self._inode = own.stat().st_ino
        own.rename(path)
        self._path = path
        self._reactor.addReader(self)

    def close(self) -> None:
        """Take no more, but all that was sent."""
        if self._path is None:
            return
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except OSError:
            pass  # the directory was cleared, or a successor was quicker
        self._path = None
        self._reactor.removeReader(self)
        # From here on nobody can send: what is in the queue is all there will be.
        self._socket.shutdown(socket.SHUT_RD)
        while self._take():
            pass
        self._socket.close()

    # -- IReadDescriptor

    def fileno(self) -> int:
        """See `IFileDescriptor`."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return "mail"

    def doRead(self) -> None:
        """Take a few letters; other connections have their turn too."""
        for _ in range(self._batch):
            if not self._take():
                return

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""

    # -- inside

    def _take(self) -> bool:
        """Take one letter; False when there is none."""
        try:
            # Not `socket.recv_fds`: that of Python 3.11 was seen to drop the flag, without which
            # every child started meanwhile has the connection too.
            data, extras, flags, _ = self._socket.recvmsg(
                self._size, _ROOM, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            _log.failure("mail of other workers cannot be read")
            return False
        descriptors = _descriptors(extras)
        if not data and not descriptors:
            return False
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("cut off")
            self._read(data, descriptors)
        except Exception:
            _log.failure("what another worker has sent is of no use")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _read(self, data: bytes, descriptors: list[int]) -> None:
        letter = _DECODER.decode(data)
        if isinstance(letter, Here):
            self._on_here(letter.number)
            return
        unread = letter.unread
        if len(descriptors) != (1 if isinstance(unread, bytes) else 2):
            raise ValueError("without its descriptors")
        extra = letter.passport
        if not 0 <= extra <= MAX_PASSPORT:
            raise ValueError(f"a certificate of {extra} bytes")
        if isinstance(unread, int):
            unread = self._from_file(descriptors[1], unread, self._max_bytes + extra)
        # A connection without the certificate that belongs to it would be somebody else's.
        certificate = unpacked(unread[:extra]) if extra else None
        self._on_sent(descriptors.pop(0), letter, unread[extra:], certificate)

    def _from_file(self, descriptor: int, size: int, limit: int) -> bytes:
        if not 0 <= size <= limit:
            raise ValueError(f"{size} bytes")
        content = os.pread(descriptor, size, 0)
        if len(content) != size:
            raise ValueError("not all there")
        return content


def written(data: bytes) -> int:
    """A file in memory with this content; the caller closes it."""
    descriptor = os.memfd_create("mcp-guard", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _descriptors(extras: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
