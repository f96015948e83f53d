"""Where lines go: the blocking side of the audit trail, called on a worker's thread only."""

import errno
import os
import select
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred


@frozen
class Appended:
    """What became of one batch."""

    taken: int
    """Lines the output has taken charge of, counted from the first."""
    error: OSError | None = None
    """Why the others were not taken; they are to be offered again."""
    rotated: bool = False
    """True when a file was put aside and old ones may be too many now."""
    notes: tuple[str, ...] = ()
    """Troubles that lost nothing, for the log."""


class Output(Protocol):
    """A place audit lines are written to. Every method may block; none is called twice at once."""

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Write whole lines, in order; never raises `OSError`."""
        ...

    def close(self) -> None:
        """Make what was written durable and let go of it; raises `OSError`."""
        ...


class Sink(Protocol):
    """Where a feed sends its lines, without waiting; nothing is given before the last is over."""

    def append(self, lines: Sequence[bytes]) -> Deferred[Appended]:
        """Write whole lines, in order."""
        ...

    def close(self) -> Deferred[None]:
        """Make what was written durable and let go of it; errbacks with `OSError`."""
        ...


@define
class LineWriter:
    """Whole lines into a file descriptor, whatever the kernel takes at a time.

    A line cut off by an error is remembered with what is missing of it, and completed before
    anything else is written.
    """

    fd: int
    chunk: int
    """Bytes written by one call; a longer line is still one call."""
    torn: bytes = b""
    """A line of which only a part could be written so far."""
    _done: int = field(init=False, default=0)
    """Bytes of the torn line that are written."""

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Return how many lines were taken, a torn one included, and the error that stopped it."""
        if self.torn:
            written, error = self._push(self.torn[self._done :])
            self._done += written
            if error is not None:
                return 0, error
            self.torn, self._done = b"", 0
        taken = 0
        while taken < len(lines):
            batch = self._batch(lines, taken)
            written, error = self._push(b"".join(batch))
            if error is None:
                taken += len(batch)
                continue
            for line, end in zip(batch, accumulate(map(len, batch)), strict=True):
                if end <= written:
                    taken += 1
                elif end - len(line) < written:
                    taken += 1
                    self.torn, self._done = line, written - (end - len(line))
            return taken, error
        return taken, None

    def _batch(self, lines: Sequence[bytes], start: int) -> Sequence[bytes]:
        size = len(lines[start])
        end = start + 1
        while end < len(lines) and size + len(lines[end]) <= self.chunk:
            size += len(lines[end])
            end += 1
        return lines[start:end]

    def _push(self, data: bytes) -> tuple[int, OSError | None]:
        """Write all of it or as much as is possible; one call where the kernel takes it whole."""
        written = 0
        waited = False
        while written < len(data):
            try:
                count = os.write(self.fd, memoryview(data)[written:])
            except BlockingIOError as error:
                # Somebody made a shared descriptor non-blocking: wait here, once.
                if waited:
                    return written, error
                waited = True
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll(1000)
                continue
            except OSError as error:
                return written, error
            if count == 0:
                return written, OSError(errno.EIO, os.strerror(errno.EIO))
            written += count
        return written, None


class StreamOutput:
    """Lines into a stream that is somebody else's, such as standard output."""

    def __init__(self, fd: int) -> None:
        # Log lines go to the same stream: up to 4096 bytes a pipe keeps a write in one piece.
        self._writer = LineWriter(fd, select.PIPE_BUF)

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Write whole lines, in order; never raises `OSError`."""
        taken, error = self._writer.write(lines)
        return Appended(taken, error)

    def close(self) -> None:
        """Let go of the stream, which stays open."""
