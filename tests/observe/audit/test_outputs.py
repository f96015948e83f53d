"""Tests of `mcpguard.observe.audit.outputs`."""

import errno
import os
import select
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.audit.outputs import Appended, LineWriter, StreamOutput


class Kernel:
    """An `os.write` that takes as many bytes as its script says; None means an error."""

    def __init__(self, *script: int | None) -> None:
        self.script = list(script)
        self.written = b""
        self.sizes: list[int] = []

    def write(self, fd: int, data: memoryview) -> int:
        """Take what the script allows, everything at its end."""
        step = self.script.pop(0) if self.script else len(data)
        if step is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(step, len(data))
        self.written += bytes(data[:count])
        self.sizes.append(count)
        return count


LINES = [b"one\n", b"two two\n", b"three\n"]


class LineWriterTests(SynchronousTestCase):
    """`LineWriter`: whole lines, whatever the kernel takes."""

    def writer(self, *script: int | None, chunk: int = 65536) -> tuple[LineWriter, Kernel]:
        """Return a writer over a scripted kernel."""
        kernel = Kernel(*script)
        self.patch(os, "write", kernel.write)
        return LineWriter(99, chunk), kernel

    def test_one_call(self) -> None:
        """A batch the kernel takes whole is one call."""
        writer, kernel = self.writer()
        self.assertEqual(writer.write(LINES), (3, None))
        self.assertEqual(kernel.sizes, [18])

    def test_short_writes(self) -> None:
        """Short writes are gone on with until all is written."""
        writer, kernel = self.writer(1, 2, 8, 1)
        self.assertEqual(writer.write(LINES), (3, None))
        self.assertEqual(kernel.written, b"".join(LINES))

    def test_nothing_taken(self) -> None:
        """A kernel that takes nothing without an error counts as one, not as a loop without end."""
        writer, _ = self.writer(0)
        taken, error = writer.write(LINES)
        self.assertEqual(taken, 0)
        self.assertIsNotNone(error)

    def test_torn_line(self) -> None:
        """A line cut off by an error is completed before anything else is written."""
        writer, kernel = self.writer(6, None)
        taken, error = writer.write(LINES)
        self.assertEqual(taken, 2)
        assert error is not None
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual(writer.torn, b"two two\n")
        kernel.script = [2, None]
        self.assertEqual(writer.write(LINES[2:])[0], 0)
        self.assertEqual(writer.write(LINES[2:]), (1, None))
        self.assertEqual(kernel.written, b"".join(LINES))

    def test_error_between_lines(self) -> None:
        """An error on the border of two lines tears none."""
        writer, _ = self.writer(4, None)
        self.assertEqual(writer.write(LINES)[0], 1)
        self.assertEqual(writer.torn, b"")

    def test_chunks(self) -> None:
        """No call carries more than the bound, except for a single line that is longer."""
        writer, kernel = self.writer(chunk=12)
        writer.write([*LINES, b"x" * 30 + b"\n", b"end\n"])
        self.assertEqual(kernel.sizes, [12, 6, 31, 4])

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"") + b"\n")),
        st.lists(st.none() | st.integers(1, 12)),
        st.integers(1, 40),
    )
    def test_any_kernel(self, lines: list[bytes], script: list[int | None], chunk: int) -> None:
        """Whatever a kernel does, every line arrives once, whole and in order."""
        writer, kernel = self.writer(*script, chunk=chunk)
        left = list(lines)
        for _ in range(len(script) + 2):
            taken, _error = writer.write(left)
            del left[:taken]
        self.assertEqual(left, [])
        self.assertEqual(kernel.written, b"".join(lines))


class StreamOutputTests(SynchronousTestCase):
    """`StreamOutput`: lines to a descriptor that is somebody else's."""

    def pipe(self) -> tuple[int, int]:
        """Return the two ends of a pipe that is closed after the test."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(self.close_quietly, end)
        return ends

    @staticmethod
    def close_quietly(fd: int) -> None:
        """Close a descriptor that a test may have closed."""
        try:
            os.close(fd)
        except OSError:
            pass

    def test_written(self) -> None:
        """Lines arrive, and the stream stays open afterwards."""
        read, write = self.pipe()
        output = StreamOutput(write)
        self.assertEqual(output.append(LINES), Appended(3))
        output.close()
        self.assertEqual(os.read(read, 100), b"".join(LINES))
        os.write(write, b"still open")

    def test_pieces(self) -> None:
        """No write is longer than what a pipe keeps in one piece."""
        kernel = Kernel()
        self.patch(os, "write", kernel.write)
        StreamOutput(99).append([b"x" * 99 + b"\n"] * 100)
        self.assertEqual(sum(kernel.sizes), 10_000)
        self.assertLessEqual(max(kernel.sizes), select.PIPE_BUF)

    def test_reader_gone(self) -> None:
        """A closed reader is an error to be told of, and loses nothing."""
        read, write = self.pipe()
        os.close(read)
        appended = StreamOutput(write).append(LINES)
        self.assertEqual(appended.taken, 0)
        assert appended.error is not None
        self.assertEqual(appended.error.errno, errno.EPIPE)

    def test_full(self) -> None:
        """A non-blocking stream that is full is waited for once, then given back."""
        read, write = self.pipe()
        os.set_blocking(write, False)
        waits: list[int] = []

        class Poll:
            def register(self, fd: int, mask: int) -> None:
                """Take the descriptor."""

            def poll(self, milliseconds: int) -> None:
                """Remember the wait; let the reader read the first time."""
                waits.append(milliseconds)
                if len(waits) == 1:
                    os.read(read, 65536)

        self.patch(select, "poll", self.maker(Poll))
        appended = StreamOutput(write).append([b"x" * 999 + b"\n"] * 200)
        self.assertIsNotNone(appended.error)
        self.assertGreater(appended.taken, 65)
        self.assertLess(appended.taken, 200)
        self.assertGreater(len(waits), 1)

    @staticmethod
    def maker(kind: type) -> Callable[[], object]:
        """Return a factory of instances."""
        return lambda: kind()
