"""Tests of reading answers: sound ones at any split, hostile ones at any split."""

from itertools import pairwise

from attrs import define, field
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.http1_answer import AnswerReader
from mcpguard.upstream.http1_chunks import Chunks
from mcpguard.upstream.http1_head import AnswerHeads, BadAnswer
from mcpguard.upstream.wire import Head
from tests.upstream.http1_doubles import ANSWER_BOUNDS

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

CHANGES = [
    b"",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\x00",
    b":",
    b"0",
    b"f",
    b";",
    b"-",
    b"\xff",
    b"a" * 70,
]
CHANGES.extend((b"HTTP/1.1 200 OK\r\n\r\n", b"Content-Length: 3\r\n", b"Connection: close\r\n"))


PARTS = [
    b"1\r\na\r\n",
    b"A\r\n0123456789\r\n",
    b"00000001\r\na\r\n",
    b"000000001\r\na\r\n",
    b"1;x\r\na\r\n",
    b"2\r\na\r\n",
    b"2\r\n\r\n\r\n",
    b"1\r\na\r\n0\r\n\r\n",
    b"1\r\na\r\n1\r\nb\r\n",
    b"1\r\na\r\n0\r\nX: y\r\n\r\n",
    b"1\r\na\r\n12345",
    b"0\r\n\r\n",
    b"00\r\n\r\n",
    b"0\r\n",
    b"3\r\nab",
    b"c\r\n",
    b"-1\r\na\r\n",
]


@define
class Read:
    """What came of some bytes."""

    head: Head | None = None
    body: bytes = b""
    over: bool = False
    rest: bytes = b""
    bad: bool = False
    to_end: bool = False
    keeps: bool = False
    _pieces: int = field(default=0, eq=False)


def read(pieces: list[bytes]) -> Read:
    """Read the pieces, offered whole first and just fed: both must come to the same."""
    found = read_on(pieces, offer=True)
    assert read_on(pieces, offer=False) == found
    return found


def read_on(pieces: list[bytes], *, offer: bool) -> Read:
    """Feed the pieces to a reader until it is over, or bad."""
    reader = AnswerReader(AnswerHeads(8, 1024), ANSWER_BOUNDS)
    reader.begin()
    found = Read()
    for index, piece in enumerate(pieces):
        try:
            whole = reader.whole(piece) if offer else None
            if whole is not None:
                rest = b"".join(pieces[index + 1 :])
                keeps = whole[0].keep and not rest
                return Read(whole[0].head, found.body + whole[1], True, rest, keeps=keeps)
            head, body, found.over = reader.feed(piece)
        except BadAnswer:
            return Read(bad=True)
        if head is not None:
            assert found.head is None
            found.head = head
        found.body += body
        if found.over:
            found.rest = reader.rest + b"".join(pieces[index + 1 :])
            break
    found.to_end = reader.ends_with_connection
    found.keeps = reader.keeps and not found.rest
    return found


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
lines = st.sampled_from(
    [b"X-A: 1", b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Set-Cookie: a=b", b"Empty:", b"\xe9"[:0]]
)


@st.composite
def sound(draw: st.DrawFn) -> tuple[bytes, bytes, str]:
    """An answer, its body, and how it is framed."""
    parts = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * draw(st.integers(0, 2))
    given_lines = [line for line in draw(st.lists(lines, max_size=3)) if line]
    body = b"".join(parts)
    if framing == "length":
        given_lines.append(b"content-LENGTH: %d" % len(body))
        framed = body
    elif framing == "chunked":
        given_lines.append(b"Transfer-Encoding: chunked")
        extension = draw(st.sampled_from([b"", b";a=b", b' ; x="y"', b"  "]))
        trailer = draw(st.sampled_from([b"", b"X-T: 1\r\n", b"A: b\r\nC: d\r\n"]))
        framed = b"".join(b"%X%b\r\n%b\r\n" % (len(one), extension, one) for one in parts)
        framed += b"0" + extension + b"\r\n" + trailer + b"\r\n"
    else:
        framed = body
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *given_lines]) + b"\r\n\r\n"
    return interim + head + framed, body, framing


class SplitTests(SynchronousTestCase):
    """`AnswerReader`, whatever the pieces the bytes come in."""

    @settings(deadline=None, max_examples=120)
    @given(sound(), st.lists(st.integers(0, 1000), max_size=12), st.binary(max_size=8))
    def test_sound(self, answer: tuple[bytes, bytes, str], cuts: list[int], behind: bytes) -> None:
        """A sound answer is read as it was meant, and what stands behind it is kept apart."""
        data, body, framing = answer
        if framing == "end":
            found = read(split(data, cuts))
            self.assertEqual((found.over, found.to_end, found.keeps), (False, True, False))
        else:
            found = read(split(data + behind, cuts))
            self.assertEqual((found.over, found.rest), (True, behind))
            self.assertEqual(found.keeps, not behind)
        self.assertEqual((found.bad, found.body), (False, body))

    def test_whole(self) -> None:
        """What has come in one piece is offered so, unless more or less than one answer came."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        reader = AnswerReader(AnswerHeads(8, 1024), ANSWER_BOUNDS)
        whole = reader.whole(answer)
        assert whole is not None
        self.assertEqual((whole[0].head.status, whole[1]), (200, b"{}"))
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        for other in (b"", answer[:-1], answer + b" ", CHUNKED + b"0\r\n\r\n", interim + answer):
            self.assertIsNone(reader.whole(other))
        reader.feed(interim)
        self.assertIsNone(reader.whole(answer))

    def test_whole_bound(self) -> None:
        """A head that is too large is not taken in one piece either."""
        answer = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 2\r\n\r\n{}" % (b"y" * 9000)
        reader = AnswerReader(AnswerHeads(8, 100_000), ANSWER_BOUNDS)
        self.assertIsNone(reader.whole(answer))
        with self.assertRaises(BadAnswer):
            reader.feed(answer)

    @settings(deadline=None, max_examples=50)
    @given(sound())
    def test_byte_by_byte(self, answer: tuple[bytes, bytes, str]) -> None:
        """One byte at a time is no different from all at once."""
        data, _, _ = answer
        self.assertEqual(read([data[n : n + 1] for n in range(len(data))]), read([data]))

    @settings(deadline=None, max_examples=150)
    @given(
        sound(),
        st.lists(
            st.tuples(
                st.integers(0, 1000),
                st.integers(0, 4),
                st.sampled_from(CHANGES),
            ),
            min_size=1,
            max_size=3,
        ),
        st.lists(st.integers(0, 1000), max_size=12),
    )
    def test_hostile(
        self,
        answer: tuple[bytes, bytes, str],
        changes: list[tuple[int, int, bytes]],
        cuts: list[int],
    ) -> None:
        """An answer with bytes changed, lost or put in means the same at any split."""
        data, _, _ = answer
        for place, lost, new in changes:
            place %= len(data) + 1
            data = data[:place] + new + data[place + lost :]
        self.assertEqual(read(split(data, cuts)), read([data]), data)

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=300), st.lists(st.integers(0, 1000), max_size=12))
    @example(b"0\r\n\r\n", [])
    def test_noise_as_chunks(self, noise: bytes, cuts: list[int]) -> None:
        """Noise where chunks should be is refused, or means the same at any split."""
        self.assertEqual(read(split(CHUNKED + noise, cuts)), read([CHUNKED + noise]))


class ChunksTests(SynchronousTestCase):
    """`Chunks`: what is refused, and the bounds."""

    def feed(self, data: bytes) -> Chunks:
        """A body of these bytes, fed one by one."""
        chunks = Chunks(max_line=16, max_trailer=20)
        for number in range(len(data)):
            chunks.feed(data[number : number + 1])
        return chunks

    def test_strict(self) -> None:
        """Sizes and line ends that others might read otherwise."""
        for data in (
            b"\r\n",
            b" 1\r\na\r\n",
            b"+1\r\na\r\n",
            b"0x1\r\na\r\n",
            b"1_0\r\n",
            b"g\r\n",
            b";x\r\n",
            b"1x\r\na\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\nab\r\n",
            b"1\r\na0\r\n\r\n",
            b"1;a\nb\r\na\r\n",
            b"1;\x00\r\na\r\n",
            b"1\rX\r\n",
            b"1" * 16 + b"\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\n folded: x\r\n\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: \n\r\n\r\n",
        ):
            for whole in (True, False):
                with self.assertRaises(BadAnswer, msg=repr(data)):
                    if whole:
                        Chunks(max_line=16, max_trailer=20).feed(data)
                    else:
                        self.feed(data)

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.sampled_from(PARTS), max_size=5))
    def test_a_part_at_a_time(self, parts: list[bytes]) -> None:
        """Whole chunks, in one piece each, mean what they mean byte by byte."""

        def read(pieces: list[bytes]) -> tuple[bytes, bool, bytes] | None:
            chunks, body = Chunks(max_line=8, max_trailer=20), b""
            for index, piece in enumerate(pieces):
                try:
                    body += chunks.feed(piece)
                except BadAnswer:
                    return None
                if chunks.over:
                    return body, True, chunks.rest + b"".join(pieces[index + 1 :])
            return body, False, b""

        data = b"".join(parts)
        self.assertEqual(read(parts), read([data[n : n + 1] for n in range(len(data))]))

    def test_bounds(self) -> None:
        """A size line or a trailer may be as long as said and no longer, complete or not."""
        self.assertTrue(self.feed(b"0;" + b"x" * 14 + b"\r\n\r\n").over)
        self.assertTrue(self.feed(b"0\r\nA: 567890123456789\r\n\r\n").over)
        for data in (
            b"0;" + b"x" * 15 + b"\r\n",
            b"0;" + b"x" * 16,
            b"0\r\nA: 5678901234567890\r\n",
            b"0\r\nA: 56789012345678901234",
            b"0\r\nA: 56789\r\nB: 56789012\r\n",
        ):
            for whole in (True, False):
                with self.assertRaises(BadAnswer, msg=repr(data)):
                    if whole:
                        Chunks(max_line=16, max_trailer=20).feed(data)
                    else:
                        self.feed(data)

    def test_huge_chunk(self) -> None:
        """A chunk may be larger than anybody will ever read; nothing is kept of it."""
        chunks = Chunks(max_line=16, max_trailer=20)
        chunks.feed(b"fffffffffffffff\r\n")
        for _ in range(10):
            self.assertEqual(chunks.feed(b"x" * 1000), b"x" * 1000)
        self.assertFalse(chunks.over)


class HeadBoundTests(SynchronousTestCase):
    """The bound on heads."""

    def test_bound(self) -> None:
        """A head is refused when it is larger than said, in one piece or in many."""
        fits = b"HTTP/1.1 200 OK\r\nX: ".ljust(4092, b"y") + b"\r\n\r\n"
        self.assertEqual(len(fits), 4096)
        for size in (1, 100, 5000):
            pieces = [fits[n : n + size] for n in range(0, len(fits), size)]
            self.assertIsNotNone(read(pieces).head)
            self.assertTrue(read([b"HTTP/1.1 200 OK\r\nZ: z\r\n", fits[17:]]).bad)

    def test_interim(self) -> None:
        """Interim answers count with the head they come before."""
        early = b"HTTP/1.1 103 Early\r\nX: " + b"y" * 2000 + b"\r\n\r\n"
        final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.assertTrue(read([early + final]).over)
        self.assertTrue(read([early + early + early + final]).bad)
        self.assertTrue(read([early, early, early, final]).bad)

    def test_other_protocol(self) -> None:
        """A switch to another protocol is refused."""
        self.assertTrue(read([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"]).bad)
