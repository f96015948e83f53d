"""Tests of the framing of lines."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.framing import LineFramer, LineTooLong


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut ``data`` at the given places, wherever they fall."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


class LineFramerTests(SynchronousTestCase):
    """`LineFramer` gives whole lines out of any chunks."""

    def test_lines(self) -> None:
        """Lines come out as soon as they end, without their end; empty ones too."""
        framer = LineFramer(100)
        self.assertEqual(list(framer.feed(b"one\ntw")), [b"one"])
        self.assertEqual(list(framer.feed(b"")), [])
        self.assertEqual(list(framer.feed(b"o\r\n\n\r\nthree")), [b"two", b"", b""])
        self.assertEqual(list(framer.feed(b"\n")), [b"three"])

    def test_return_within(self) -> None:
        """Only the carriage return right before the newline goes, and no other line end counts."""
        framer = LineFramer(100)
        text = "a\rb\u2028c\x0b\x0c\x85d\r\r\n".encode()
        self.assertEqual(list(framer.feed(text)), [text[:-2]])

    def test_limit(self) -> None:
        """The longest line passes; one byte more is refused before its newline comes."""
        framer = LineFramer(4)
        self.assertEqual(list(framer.feed(b"abcd\nabcd")), [b"abcd"])
        self.assertEqual(list(framer.feed(b"\nabc")), [b"abcd"])
        with self.assertRaises(LineTooLong):
            list(framer.feed(b"de"))

    def test_dead(self) -> None:
        """After a line too long nothing is taken for a line any more."""
        framer = LineFramer(4)
        for data in (b"abcde", b"x\n", b""):
            with self.assertRaises(LineTooLong):
                list(framer.feed(data))

    def test_lines_before(self) -> None:
        """Lines that came whole before the one too long are given out first."""
        lines = LineFramer(4).feed(b"a\nb\nabcde\nc\n")
        self.assertEqual([next(lines), next(lines)], [b"a", b"b"])
        with self.assertRaises(LineTooLong):
            next(lines)

    def test_linear(self) -> None:
        """A long line in very many chunks is joined once, not once per chunk."""
        framer = LineFramer(4_000_000)
        early = [line for _ in range(400_000) for line in framer.feed(b"12345678")]
        self.assertEqual(early, [])
        (line,) = framer.feed(b"\n")
        self.assertEqual(len(line), 3_200_000)

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(st.binary(max_size=12).map(lambda one: one.replace(b"\n", b"")), max_size=12),
        st.lists(st.integers(0, 150), max_size=12),
        st.integers(0, 12),
    )
    def test_any_chunks(self, lines: list[bytes], places: list[int], limit: int) -> None:
        """However the bytes are cut, the same lines come out, up to the first too long."""
        data = b"".join(line + b"\n" for line in lines)
        fitting: list[bytes] = []
        too_long = False
        for line in lines:
            if len(line) > limit:
                too_long = True
                break
            fitting.append(line.removesuffix(b"\r"))
        framer = LineFramer(limit)
        out: list[bytes] = []
        refused = False
        try:
            for chunk in cut(data, places):
                out.extend(framer.feed(chunk))
        except LineTooLong:
            refused = True
        # `extend` keeps what a generator gave before it raised.
        self.assertEqual(out, fitting)
        self.assertEqual(refused, too_long)
