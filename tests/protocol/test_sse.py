"""Tests of Server-Sent Events in both directions."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.sse import (
    COMMENT,
    EventFramer,
    EventTooLong,
    ServerEvent,
    encode_event,
)
from tests.protocol.test_framing import cut

PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b"data:",
        b"data: ",
        b"data:  x",
        b"event: message",
        b"event",
        b"id: 7",
        b"id",
        b"id: a\x00b",
        b"retry: 50",
        b"retry: x",
        b": comment",
        b":",
        b"unknown: y",
        b"\xef\xbb\xbf",
        b"data: \xc3\xa9",
        b"data: \xff",
        b"",
        b"",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS = st.lists(st.tuples(PIECES, ENDS), max_size=25).map(
    lambda lines: b"".join(line + end for line, end in lines)
)
EVENT = re.compile(rb".*?\n\r?\n|.+", re.DOTALL)
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=8
)


def read(*chunks: bytes, limit: int = 10_000) -> list[ServerEvent]:
    """Every event of a stream that came in these chunks."""
    framer = EventFramer(limit)
    return [event for chunk in chunks for event in framer.feed(chunk)]


class EventFramerTests(SynchronousTestCase):
    """`EventFramer` follows the WHATWG rules for event streams."""

    def test_fields(self) -> None:
        """Data lines are joined, the other fields are taken, one leading space goes."""
        stream = b"event: message\nid: 5\nretry: 250\ndata: {\ndata:  }\ndata\n\n"
        self.assertEqual(read(stream), [ServerEvent("{\n }\n", "message", "5", 250)])

    def test_without_data(self) -> None:
        """An id or a retry alone comes out with empty data; a name or a comment alone does not."""
        self.assertEqual(read(b"id: 5\ndata:\n\n"), [ServerEvent("", None, "5")])
        self.assertEqual(read(b"id: 5\n\n"), [ServerEvent("", None, "5")])
        self.assertEqual(read(b"id\n\n"), [ServerEvent("", None, "")])
        self.assertEqual(read(b"retry: 5\n\n"), [ServerEvent("", retry=5)])
        self.assertEqual(read(b"event: x\n\n: y\n\n\n\n"), [])

    def test_fields_do_not_linger(self) -> None:
        """Nothing of one event shows in the next, not even of one never given out."""
        stream = b"event: x\n\nid: 1\nretry: 2\nevent: y\ndata: a\n\ndata: b\n\n"
        self.assertEqual(read(stream), [ServerEvent("a", "y", "1", 2), ServerEvent("b")])

    def test_ignored(self) -> None:
        """Unknown fields, ids with NUL, and retries that are no plain number do nothing."""
        stream = b"x: 1\nid: a\0\nretry: +5\nretry: \nretry: 1234567890\nDATA: no\n data: no\n"
        self.assertEqual(read(stream + b"data: a\n\n"), [ServerEvent("a")])

    def test_end_of_stream(self) -> None:
        """An event without its empty line is not given out."""
        self.assertEqual(read(b"data: a\n"), [])

    def test_line_ends(self) -> None:
        """CR, LF and CRLF end lines, mixed at will, and CRLF may be cut in two."""
        wanted = [ServerEvent("a\nb"), ServerEvent("c")]
        self.assertEqual(read(b"data: a\r\ndata: b\r\r\ndata: c\n\n"), wanted)
        self.assertEqual(read(b"data: a\r", b"\ndata: b\r", b"\r", b"\ndata: c\n", b"\n"), wanted)

    def test_lone_return(self) -> None:
        """A line ended by CR counts at once, without waiting for what follows."""
        self.assertEqual(read(b"data: a\r\r"), [ServerEvent("a")])

    def test_byte_order_mark(self) -> None:
        """One mark at the very start is skipped, even cut; anywhere else it is part of a name."""
        self.assertEqual(read(b"\xef", b"\xbb", b"\xbfdata: a\n\n"), [ServerEvent("a")])
        self.assertEqual(read(b"data: a\n\xef\xbb\xbfdata: b\n\n"), [ServerEvent("a")])
        self.assertEqual(read(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n"), [])

    def test_bad_text(self) -> None:
        """Bytes that are no UTF-8 arrive as replacement characters."""
        self.assertEqual(read(b"data: \xff\n\n"), [ServerEvent("\ufffd")])

    def test_limit(self) -> None:
        """The biggest event passes, one byte more is refused before it is complete."""
        self.assertEqual(read(b"data: abcd\n\n", limit=11), [ServerEvent("abcd")])
        for chunks in (
            (b"data: abcd\n\n",),
            (b"data: ab", b"cd"),
            (b"data: a\ndata: b\n\n",),
            (b": a comment of some length",),
        ):
            with self.assertRaises(EventTooLong):
                read(*chunks, limit=9)

    def test_many_small_lines(self) -> None:
        """Empty data lines count too: an event cannot grow by lines alone."""
        with self.assertRaises(EventTooLong):
            read(b"data\n" * 100, limit=200)

    def test_lines_count_exactly(self) -> None:
        """Each line of an event counts with its end."""
        stream = b"data: a\n" * 3 + b"data: b"
        read(stream, limit=len(stream))
        with self.assertRaises(EventTooLong):
            read(stream, limit=len(stream) - 1)

    def test_endless_comments(self) -> None:
        """Keep-alives and unknown fields use nothing up, even when no empty line ever comes."""
        framer = EventFramer(20)
        for _ in range(1_000):
            self.assertEqual(list(framer.feed(b":\r\nping: 1\n")), [])
        self.assertEqual(list(framer.feed(b"data: a\n\n")), [ServerEvent("a")])

    def test_dead(self) -> None:
        """After an event too long nothing is given out any more."""
        framer = EventFramer(4)
        for data in (b"data: abc", b"\n\n", b"x"):
            with self.assertRaises(EventTooLong):
                list(framer.feed(data))

    def test_linear(self) -> None:
        """A long event in very many chunks is joined once, not once per chunk."""
        framer = EventFramer(4_000_000)
        list(framer.feed(b"data: "))
        early = [event for _ in range(300_000) for event in framer.feed(b"12345678")]
        self.assertEqual(early, [])
        (event,) = framer.feed(b"\n\n")
        self.assertEqual(len(event.data), 2_400_000)

    @settings(deadline=None, max_examples=120)
    @given(STREAMS, st.lists(st.integers(0, 250), max_size=15), st.integers(5, 60))
    def test_any_chunks(self, stream: bytes, places: list[int], limit: int) -> None:
        """However a stream is cut, the same events come out, and the same one is too long."""

        def outcome(chunks: list[bytes]) -> tuple[list[ServerEvent], bool]:
            framer, events = EventFramer(limit), list[ServerEvent]()
            try:
                for chunk in chunks:
                    events.extend(framer.feed(chunk))
            except EventTooLong:
                return events, True
            return events, False

        whole = outcome([stream])
        self.assertEqual(outcome(cut(stream, places)), whole)
        self.assertEqual(outcome([stream[n : n + 1] for n in range(len(stream))]), whole)
        # As servers send them: an event at a time.
        self.assertEqual(outcome(EVENT.findall(stream)), whole)

    def test_one_at_a_time(self) -> None:
        """A plain event in one piece is read as it is byte by byte, behind whatever came before."""
        for before in (
            b"",
            b"\xef\xbb\xbf",
            b"data: b\n",
            b"event: e\r",
            b"id: 1\n",
            b": c",
            b"\r",
        ):
            for plain in (
                b"data: {}\n\n",
                b"data:{}\r\n\r\n",
                b"data:  {}\n\r\n",
                b"event: message\r\ndata: \xff\r\n\r\n",
                b"event:\ndata:\n\n",
                b"event: e\ndata: a\rb\n\n",
                b"data: a\n\ndata: b\n\n",
                b"\xef\xbb\xbfdata: a\n\n",
            ):
                bytewise = [plain[n : n + 1] for n in range(len(plain))]
                behind = b"data: next\n\n"
                self.assertEqual(read(before, plain, behind), read(before, *bytewise, behind))
        self.assertEqual(read(b"data: {}\n\n", limit=10), [ServerEvent("{}")])
        with self.assertRaises(EventTooLong):
            read(b"data: {}\n\n", limit=7)


class EncodeEventTests(SynchronousTestCase):
    """`encode_event` writes what `EventFramer` reads."""

    def test_bytes(self) -> None:
        """The form on the wire."""
        self.assertEqual(encode_event(b"{}"), b"data: {}\n\n")
        self.assertEqual(
            encode_event(b"{}", event="message", id="1-2", retry=500),
            b"event: message\nid: 1-2\nretry: 500\ndata: {}\n\n",
        )

    def test_comment(self) -> None:
        """The keep-alive is no event, wherever it falls between events."""
        event = encode_event(b"{}")
        self.assertEqual(read(COMMENT + event + COMMENT + event), [ServerEvent("{}")] * 2)

    def test_injection(self) -> None:
        """No name or id can end its own line."""
        for text in ("a\nb", "a\rb", "a\0b"):
            with self.assertRaises(ValueError):
                encode_event(b"", event=text)
            with self.assertRaises(ValueError):
                encode_event(b"", id=text)

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(LINES, min_size=1, max_size=4),
        st.sampled_from(["\n", "\r", "\r\n"]),
        st.none() | WORDS,
        st.none() | WORDS,
        st.none() | st.integers(0, 999_999_999),
    )
    def test_round_trip(
        self, lines: list[str], end: str, name: str | None, id: str | None, retry: int | None
    ) -> None:
        """Any data, name, id and retry are read back as written, line ends made one."""
        written = encode_event(end.join(lines).encode(), event=name, id=id, retry=retry)
        self.assertEqual(read(written), [ServerEvent("\n".join(lines), name, id, retry)])
