"""Tests of HTTP/1.1 heads."""

import time

from hypothesis import given, settings
from hypothesis.strategies import lists, sampled_from
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.http1_head import (
    AnswerHead,
    AnswerHeads,
    BadAnswer,
    RequestHeads,
    may_begin,
    parse_head,
)
from mcpguard.upstream.wire import FixedHeaders

_STATUSES = (b"200 OK", b"204 No Content", b"304 X", b"103 X", b"500 X", b"404")
_LINES = (
    b"Content-Length: N",
    b"content-length: N",
    b"Content-Length:N",
    b"Content-Length: N ",
    b"Content-Length: 7",
    b"X-Content-Length: N",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Content-Encoding: gzip",
    b"X: Content-Length: N",
    b" Content-Length: N",
)


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A head of these lines."""
    return b"\r\n".join((status, *lines)) + b"\r\n\r\n"


class ParseTests(SynchronousTestCase):
    """`parse_head`: what is accepted."""

    def parse(self, *lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> AnswerHead:
        """Parse a head of these lines."""
        return parse_head(head(*lines, status=status))

    def test_headers(self) -> None:
        """Names in lower case, values without the blanks around them, repetitions in order."""
        answer = self.parse(b"X-A:1", b"x-b: \t b c \t", b"X-a:  2", b"Empty:")
        self.assertEqual(answer.head.status, 200)
        self.assertEqual(answer.head.headers, {"x-a": ("1", "2"), "x-b": ("b c",), "empty": ("",)})

    def test_media_type(self) -> None:
        """The type without its parameters; none where there are two."""
        answer = self.parse(b"Content-Type: Text/Event-Stream ; charset=utf-8")
        self.assertEqual(answer.head.media_type, "text/event-stream")
        self.assertEqual(self.parse().head.media_type, "")
        self.assertEqual(self.parse(b"content-type: a/b", b"Content-Type: c/d").head.media_type, "")

    def test_status_lines(self) -> None:
        """A reason may be empty, missing, or in any characters above ASCII."""
        for reason in (b"", b" ", b" OK", b" Nicht gefunden \xe4", b" a b  c"):
            self.assertEqual(self.parse(status=b"HTTP/1.1 404" + reason).head.status, 404)

    def test_length(self) -> None:
        """A length says where the body ends, and the connection can go on."""
        answer = self.parse(b"Content-Length: 042")
        self.assertEqual((answer.length, answer.head.length), (42, 42))
        self.assertEqual((answer.chunked, answer.keep), (False, True))

    def test_chunked(self) -> None:
        """Chunks do as well, whatever the case."""
        answer = self.parse(b"Transfer-Encoding: Chunked")
        self.assertEqual((answer.length, answer.chunked, answer.keep), (None, True, True))

    def test_to_the_end(self) -> None:
        """With neither the body ends with the connection, which then is over."""
        answer = self.parse()
        self.assertEqual((answer.length, answer.chunked, answer.keep), (None, False, False))

    def test_no_body(self) -> None:
        """204 and 304 have none; if they tell of one, the connection is not trusted any more."""
        for status in (b"204 No Content", b"304 Not Modified"):
            line = b"HTTP/1.1 " + status
            for lines, keep in (
                ((), True),
                ((b"Content-Length: 0",), True),
                ((b"Content-Length: 5",), False),
                ((b"Transfer-Encoding: chunked",), False),
            ):
                answer = self.parse(*lines, status=line)
                self.assertEqual((answer.length, answer.chunked, answer.keep), (0, False, keep))

    def test_connection_close(self) -> None:
        """A server that says it closes is believed, wherever in the list it says so."""
        for value, keep in (
            (b"close", False),
            (b"Keep-Alive, CLOSE", False),
            (b"keep-alive", True),
            (b"closed", True),
        ):
            answer = self.parse(b"Content-Length: 1", b"Connection: " + value)
            self.assertEqual(answer.keep, keep, value)
        two = self.parse(b"Content-Length: 1", b"Connection: x", b"Connection: close")
        self.assertFalse(two.keep)

    def test_old(self) -> None:
        """HTTP/1.0 closes after each answer."""
        answer = self.parse(b"Content-Length: 1", status=b"HTTP/1.0 200 OK")
        self.assertEqual((answer.length, answer.keep), (1, False))

    def test_interim(self) -> None:
        """1xx is followed by another head."""
        self.assertTrue(self.parse(status=b"HTTP/1.1 100 Continue").interim)
        self.assertFalse(self.parse(b"Content-Length: 0").interim)


class StrictTests(SynchronousTestCase):
    """`parse_head`: what is refused."""

    def assert_bad(self, data: bytes) -> None:
        """It is refused."""
        with self.assertRaises(BadAnswer, msg=repr(data)):
            parse_head(data)

    def test_status_lines(self) -> None:
        """Other versions, statuses and spellings."""
        for line in (
            b"HTTP/1.2 200 OK",
            b"HTTP/2.0 200 OK",
            b"HTTP/1.11 200 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 099 OK",
            b"HTTP/1.1 600 OK",
            b"HTTP/1.1 +20 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1\t200 OK",
            b"http/1.1 200 OK",
            b" HTTP/1.1 200 OK",
            b"HTTP/1.1 200OK",
            b"HTTP/1.1 200 O\x00K",
            b"HTTP/1.1 200 O\x7fK",
            b"\r\nHTTP/1.1 200 OK",
            b"200 OK",
            b"",
        ):
            self.assert_bad(head(status=line))

    def test_lines(self) -> None:
        """Folded lines, blanks before a colon, no name, no colon, control characters."""
        for line in (
            b" folded",
            b"\tfolded",
            b"X-A : 1",
            b"X-A\t: 1",
            b": 1",
            b"X-A",
            b"X A: 1",
            b"X\xc3: 1",
            b"X-A: 1\x00",
            b"X-A: 1\x0b2",
            b"X-A: \x7f",
            b"(X): 1",
        ):
            self.assert_bad(head(b"X-B: 2", line))

    def test_line_ends(self) -> None:
        """A bare CR or LF ends no line: others might think it does."""
        for data in (
            b"HTTP/1.1 200 OK\nX: y\n\n",
            b"HTTP/1.1 200 OK\r\nX: y\n\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nmore\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\n",
        ):
            self.assert_bad(data)

    def test_lengths(self) -> None:
        """More than one, or what is no plain number."""
        for value in (b"", b"-1", b"+1", b"1, 1", b"1 1", b"0x10", b"1.0", b"\xb2", b"1" * 16):
            self.assert_bad(head(b"Content-Length: " + value))
        self.assert_bad(head(b"Content-Length: 1", b"Content-Length: 1"))
        self.assert_bad(head(b"Content-Length: 1", b"content-length: 2"))

    def test_codings(self) -> None:
        """Any transfer coding but chunked alone, beside a length, or in HTTP/1.0."""
        for value in (b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked", b""):
            self.assert_bad(head(b"Transfer-Encoding: " + value))
        coded = b"Transfer-Encoding: chunked"
        self.assert_bad(head(coded, coded))
        self.assert_bad(head(coded, b"Content-Length: 5"))
        self.assert_bad(head(coded, status=b"HTTP/1.0 200 OK"))

    def test_encodings(self) -> None:
        """Any content coding: none was asked for."""
        for value in (b"gzip", b"identity, br", b"x"):
            self.assert_bad(head(b"Content-Length: 5", b"Content-Encoding: " + value))
        self.assertEqual(
            parse_head(head(b"Content-Length: 5", b"Content-Encoding: identity, ")).length, 5
        )

    def test_linear(self) -> None:
        """The largest head takes no longer because of what stands in it."""
        for filling in (b" " * 65_000, b"a:" * 32_000, b"X: y\r\n" * 10_000 + b"z", b"\t" * 65_000):
            begun = time.process_time()
            with self.assertRaises(BadAnswer):
                parse_head(b"HTTP/1.1 200 OK\r\nX: " + filling + b"\x00\r\n\r\n")
            parse_head(b"HTTP/1.1 200 OK\r\nX: a" + b" " * 65_000 + b"b\r\n\r\n")
            self.assertLess(time.process_time() - begun, 1.0)


class BeginningTests(SynchronousTestCase):
    """`may_begin`."""

    def test_beginnings(self) -> None:
        """Any part of the right beginning may become an answer, nothing else."""
        for size in range(12):
            self.assertTrue(may_begin(b"HTTP/1.1 200"[:size]))
        for data in (b"S", b"HTTQ", b"HTTP/2", b"\r\n", b"http/1.1", b" HTTP/1."):
            self.assertFalse(may_begin(data), data)


class AnswerHeadsTests(SynchronousTestCase):
    """`AnswerHeads`."""

    def test_known_again(self) -> None:
        """The same bytes are parsed once, other bytes mean something else."""
        heads = AnswerHeads(max_entries=4, max_bytes=100)
        first = heads.parse(head(b"Content-Length: 1"))
        self.assertIs(heads.parse(head(b"Content-Length: 1")), first)
        self.assertEqual(heads.parse(head(b"Content-Length: 2")).length, 2)

    @given(
        lists(sampled_from(_LINES), max_size=4), sampled_from(_STATUSES), sampled_from(_STATUSES)
    )
    @settings(deadline=None, max_examples=150)
    def test_another_length(self, lines: list[bytes], one: bytes, two: bytes) -> None:
        """A head that came before with another length means what it means when it comes alone."""
        heads = AnswerHeads(max_entries=50, max_bytes=500)
        for status in (one, two):
            for number in (b"0", b"7", b"007", b"123456789012345", b"1234567890123456", b"", b"x"):
                data = b"HTTP/1.1 %b\r\n%b\r\n" % (
                    status,
                    b"".join(line.replace(b"N", number) + b"\r\n" for line in lines),
                )
                try:
                    meant: object = parse_head(data)
                except BadAnswer:
                    with self.assertRaises(BadAnswer):
                        heads.parse(data)
                else:
                    self.assertEqual(heads.parse(data), meant)
                    self.assertEqual(heads.parse(data), meant)

    def test_bounds(self) -> None:
        """No more heads, and no larger ones, are kept than said; refused ones never."""
        heads = AnswerHeads(max_entries=4, max_bytes=100)
        for number in range(50):
            heads.parse(head(b"X: %d" % number))
            self.assertLessEqual(len(heads), 4)
        for number in range(50):
            heads.parse(head(b"X: %d" % (number // 2), b"Content-Length: %d" % number))
            self.assertLessEqual(len(heads), 8)
        full = len(heads)
        heads.parse(head(b"X: " + b"y" * 100))
        with self.assertRaises(BadAnswer):
            heads.parse(b"no")
        self.assertEqual(len(heads), full)


class RequestHeadsTests(SynchronousTestCase):
    """`RequestHeads`."""

    def setUp(self) -> None:
        """One origin."""
        self.heads = RequestHeads("http://h:81", 4, 1_000)

    def test_whole(self) -> None:
        """A request line, the host, the headers in order, identity asked for."""
        self.assertEqual(
            self.heads.render("POST", "http://h:81/a?b=c", (("A", "1"), ("B", "\xe9"))),
            b"POST /a?b=c HTTP/1.1\r\nHost: h:81\r\nA: 1\r\nB: \xe9\r\n"
            b"Accept-Encoding: identity\r\n",
        )

    def test_once(self) -> None:
        """Of a header given twice the later one is sent; a host given replaces ours."""
        rendered = self.heads.render(
            "GET", "http://h:81/", (("host", "other"), ("X-A", "1"), ("x-a", "2"))
        )
        self.assertIn(b"\r\nhost: other\r\nx-a: 2\r\n", rendered)
        self.assertEqual((rendered.lower().count(b"host"), rendered.count(b"1\r")), (1, 1))

    def test_unfit(self) -> None:
        """What would break the framing, or reach another place, is not rendered."""
        for method, url, headers in (
            ("GET", "http://h:81/ x", ()),
            ("GET", "http://h:81/\r\nX: y", ()),
            ("GET", "http://h:81/\xe9", ()),
            ("GET", "http://h:81/#a", ()),
            ("GET", "http://h:81", ()),
            ("GET", "http://h:812/", ()),
            ("GET", "http://other/", ()),
            ("HEAD", "http://h:81/", ()),
            ("CONNECT", "http://h:81/", ()),
            ("GET /\r\n", "http://h:81/", ()),
            ("GET", "http://h:81/", (("A b", "c"),)),
            ("GET", "http://h:81/", (("A:", "c"),)),
            ("GET", "http://h:81/", (("", "c"),)),
            ("GET", "http://h:81/", (("A", "b\r\nC: d"),)),
            ("GET", "http://h:81/", (("A", "b\nC: d"),)),
            ("GET", "http://h:81/", (("A", "\x00"),)),
            ("GET", "http://h:81/", (("A", "\u20ac"),)),
            ("POST", "http://h:81/", (("Content-Length", "1"),)),
            ("POST", "http://h:81/", (("transfer-encoding", "chunked"),)),
            ("POST", "http://h:81/", (("Connection", "upgrade"),)),
            ("POST", "http://h:81/", (("Accept-Encoding", "gzip"),)),
        ):
            with self.assertRaises(ValueError, msg=(method, url, headers)) as caught:
                self.heads.render(method, url, headers)
            self.assertNotIn("b\r\nC", str(caught.exception))
        self.assertEqual(len(self.heads), 0)

    def test_fixed(self) -> None:
        """Fixed headers keep what was made of them, for the same request line and wire only."""
        fixed = FixedHeaders((("A", "1"), ("a", "2")))
        other = RequestHeads("http://h:82", 4, 1_000)
        for heads, method, url in (
            (self.heads, "POST", "http://h:81/a"),
            (self.heads, "POST", "http://h:81/b"),
            (self.heads, "GET", "http://h:81/b"),
            (other, "GET", "http://h:82/b"),
        ):
            rendered = heads.render(method, url, fixed)
            self.assertEqual(rendered, heads.render(method, url, tuple(fixed)))
            self.assertIs(heads.render(method, url, fixed), rendered)
        with self.assertRaises(ValueError):
            self.heads.render("GET", "http://h:82/b", fixed)
        with self.assertRaises(ValueError):
            self.heads.render("GET", "http://h:81/", FixedHeaders((("A:", "c"),)))

    def test_bound(self) -> None:
        """No more heads are kept than said; each is what it would be anew."""
        for number in range(50):
            rendered = self.heads.render("GET", f"http://h:81/{number}", ())
            self.assertTrue(rendered.startswith(b"GET /%d HTTP" % number))
            self.assertLessEqual(len(self.heads), 4)

    def test_bound_of_one(self) -> None:
        """A head that holds a caller's long words is sent, and not kept."""
        rendered = self.heads.render("POST", "http://h:81/", (("Mcp-Name", "x" * 1_000),))
        self.assertIn(b"x" * 1_000, rendered)
        self.assertEqual(len(self.heads), 0)
        again = self.heads.render("GET", "http://h:81/49", ())
        self.assertIs(again, self.heads.render("GET", "http://h:81/49", []))
