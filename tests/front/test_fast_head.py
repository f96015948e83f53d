"""Which heads the fast channel serves, and that it reads them as the strict reader does."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.fast_head import MAX_FAST_HEAD, FastHead, FastHeads, split_length
from mcpguard.front.head import Garbage, Head, HeadReader, plain_path
from tests.front.corpus import corpus

LINE = "POST /mcp HTTP/1.1"
HOST = "Host: localhost:3000"
LENGTH = "Content-Length: 12"


def heads(*, max_head: int = 2000, max_fields: int = 20, max_kept: int = 4) -> FastHeads:
    """A reader with little room."""
    return FastHeads(
        max_head=max_head, max_fields=max_fields, max_kept=max_kept, max_kept_bytes=300
    )


def head(*lines: str) -> bytes:
    """A head as it comes."""
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def read(*lines: str) -> tuple[FastHead, str] | None:
    """What the fast channel makes of a head."""
    return heads().read(head(*lines))


def strictly(data: bytes) -> Head | None:
    """What the strict reader makes of the same bytes; None when it refuses them."""
    reader = HeadReader(MAX_FAST_HEAD, 100)
    found = None
    try:
        for line in data.split(b"\r\n")[:-1]:
            if found is not None:
                return None
            found = reader.line(line)
    except Garbage:
        return None
    return found


class ServedHeads(SynchronousTestCase):
    """Heads in the plain form."""

    def test_all_of_it(self) -> None:
        """Path, fields and length come out; names in lower case, values trimmed."""
        found = read("POST /mcp/fs HTTP/1.1", HOST, LENGTH, "X-A: \t b c \t", "Mcp-Session-Id: 1.x")
        assert found is not None
        what, digits = found
        self.assertEqual((what.path, what.persistent, digits), ("/mcp/fs", True, "12"))
        self.assertEqual(what.session_id, "1.x")
        expected = {"host": ("localhost:3000",), "x-a": ("b c",), "mcp-session-id": ("1.x",)}
        self.assertEqual(dict(what.headers), expected)

    def test_nobody_can_change_it(self) -> None:
        """The fields of a head that serves many requests cannot be changed by one of them."""
        found = read(LINE, HOST, LENGTH)
        assert found is not None
        with self.assertRaises(TypeError):
            found[0].headers["x"] = ("y",)  # type: ignore[index]

    def test_persistence(self) -> None:
        """``close`` and ``keep-alive`` are understood, in any case."""
        for value, persistent in (("close", False), ("Keep-Alive", True), ("CLOSE", False)):
            found = read(LINE, HOST, LENGTH, f"Connection: {value}")
            assert found is not None
            self.assertIs(found[0].persistent, persistent)

    def test_the_length_anywhere(self) -> None:
        """It does not matter where the length stands, nor in which of the two usual forms."""
        for lines in ((LENGTH, HOST), (HOST, LENGTH), (LENGTH.lower(), HOST)):
            found = read(LINE, *lines)
            assert found is not None
            self.assertEqual(dict(found[0].headers), {"host": ("localhost:3000",)})

    def test_any_beginning_may_become_one(self) -> None:
        """As long as the head is not whole, its beginning is waited with."""
        data = head(LINE, HOST, LENGTH, "X-A: b")
        for size in range(1, len(data) - 1):
            self.assertTrue(heads().may_come(data[:size]), data[:size])

    def test_growing(self) -> None:
        """What ends no line and passes no bound need not be looked at again, all else does."""
        reader = heads(max_head=60)
        begun = b"POST /mcp HTTP/1.1\r\nX: y"
        self.assertTrue(reader.may_grow(begun, b"z"))
        self.assertTrue(reader.may_grow(begun, b"z\n\r"))
        self.assertTrue(reader.may_grow(begun, b"z" * (60 - len(begun))))
        self.assertFalse(reader.may_grow(begun, b"z" * (61 - len(begun))))
        self.assertFalse(reader.may_grow(begun, b"z\r\n"))
        self.assertFalse(reader.may_grow(begun + b"\r", b"\n"))
        self.assertFalse(reader.may_grow(b"POST", b" /evil"))


class OtherHeads(SynchronousTestCase):
    """Heads that are left to the general channel."""

    def test_framing_and_more(self) -> None:
        """Whatever changes framing, or asks for more than an answer."""
        for line in (
            *("Transfer-Encoding: chunked", "TE: trailers", "Trailer: X", "Expect: 100-continue"),
            *("Upgrade: websocket", "HTTP2-Settings: AA", "Proxy-Connection: keep-alive"),
            *("Connection: upgrade", "Connection: close, te", "Connection:", "Connection: x"),
        ):
            self.assertIsNone(read(LINE, HOST, LENGTH, line), line)
            self.assertIsNone(read(LINE, HOST, LENGTH, line.upper()), line)
            for method in ("GET", "DELETE"):
                self.assertIsNone(read(f"{method} /mcp HTTP/1.1", HOST, line), line)
                self.assertIsNone(read(f"{method} /mcp HTTP/1.1", HOST, LENGTH), line)

    def test_anything_twice(self) -> None:
        """A name that comes twice, however it is written, equal or not."""
        for line in (
            "Host: localhost:3000",
            "HOST: b",
            "X-A: 1",
            "x-a: 2",
            LENGTH,
            "content-length: 9",
        ):
            self.assertIsNone(read(LINE, HOST, "X-a: 1", LENGTH, line), line)

    def test_lengths(self) -> None:
        """No length, none in plain digits, an empty body, a gigabyte."""
        self.assertIsNone(read(LINE, HOST))
        for value in (
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1 ",
            "1\t",
            "1,1",
            "0x1",
            "1_0",
            "\xb2",
            "9" * 10,
        ):
            self.assertIsNone(read(LINE, HOST, f"Content-Length: {value}"), value)
        for line in ("Content-Length:1", "Content-Length:  1", "CONTENT-LENGTH: 1"):
            self.assertIsNone(read(LINE, HOST, line), line)

    def test_hosts(self) -> None:
        """A Host that is missing or not valid."""
        self.assertIsNone(read(LINE, LENGTH))
        for value in ("", "a b", "a,b", "u@a", "a/b", "[::1", "a:999999"):
            self.assertIsNone(read(LINE, LENGTH, f"Host: {value}"), value)

    def test_request_lines(self) -> None:
        """Other methods, versions and paths; also what may not become a head any more."""
        for line in (
            *("PUT /mcp HTTP/1.1", "HEAD /mcp HTTP/1.1", "post /mcp HTTP/1.1"),
            *("POST /mcp HTTP/1.0", "GETS /mcp HTTP/1.1", "POST  /mcp HTTP/1.1"),
            *("GET /mcp HTTP/1.0", "GET /mcp?a HTTP/1.1", "POST /mcp  HTTP/1.1"),
            *("POST /mcp HTTP/1.1 ", "POST /mcp"),
            *("POST /sse HTTP/1.1", ""),
            *("POST /mcpx HTTP/1.1", "POST /mcp/ HTTP/1.1", "POST /mcp//a HTTP/1.1"),
            *("POST /mcp/. HTTP/1.1", "POST /mcp/.. HTTP/1.1", "POST /mcp/a/../b HTTP/1.1"),
            *("POST /mcp/.a HTTP/1.1", "POST /mcp/%61 HTTP/1.1", "POST /mcp?a HTTP/1.1"),
            *("POST /mcp# HTTP/1.1", "POST http://a/mcp HTTP/1.1", "POST /mcp/\xe4 HTTP/1.1"),
        ):  # fmt: skip
            self.assertIsNone(read(line, HOST, LENGTH), line)
            self.assertFalse(heads().may_come(f"{line}\r\nX: y".encode("latin-1")), line)

    def test_lines(self) -> None:
        """Folded lines, bare CR and LF, controls, bytes beyond ASCII, names that are no token."""
        for line in (
            *(" a", "\ta", "X : y", ": y", "X", "X: a\rb", "X: a\nb", "X: a\x00b", "X: \x7f"),
            *("X: \x0b", "X: \xe4", "(X): y", "X\xe4: y", "X: a\r\n b"),
        ):
            self.assertIsNone(read(LINE, HOST, LENGTH, line), line)
            begun = f"{LINE}\r\n{line}\r\n".encode("latin-1")
            self.assertFalse(heads().may_come(begun), line)

    def test_bounds(self) -> None:
        """Too many bytes or fields, also when the rest of the head is remembered."""
        data = head(LINE, HOST, LENGTH, "X-A: b")
        self.assertIsNotNone(heads(max_head=len(data), max_fields=3).read(data))
        self.assertIsNone(heads(max_head=len(data) - 1).read(data))
        self.assertIsNone(heads(max_fields=2).read(data))
        self.assertFalse(heads(max_head=30).may_come(data[:31]))
        self.assertFalse(heads(max_fields=2).may_come(data[:-2]))
        known = heads(max_head=len(data))
        for _ in range(3):
            self.assertIsNotNone(known.read(data))
        self.assertEqual(len(known), 1)
        self.assertIsNone(known.read(head(LINE, HOST, LENGTH + "0", "X-A: b")))


_NAMES = st.sampled_from(
    [
        *("Host", "host", "Content-Length", "content-length", "Connection", "Accept", "X-A", "x-a"),
        *(
            "Transfer-Encoding",
            "Expect",
            "Upgrade",
            "TE",
            "Mcp-Session-Id",
            "X ",
            "",
            "X\xe4",
            "a:b",
        ),
    ]
)
_VALUES = st.sampled_from(
    [
        "localhost",
        "a b",
        "",
        "2",
        "12",
        "02",
        "close",
        "keep-alive",
        "chunked",
        "\xe4",
        "a\nb",
        "\x00",
    ]
) | st.text(st.characters(min_codepoint=9, max_codepoint=126), max_size=8)
_LINES = st.lists(
    st.tuples(_NAMES, st.sampled_from([": ", ":", ":  ", " : ", ":\t"]), _VALUES), max_size=6
).map(lambda found: ["".join(one) for one in found])
_STARTS = st.sampled_from(
    [LINE, LINE, "POST /mcp/a.b HTTP/1.1", "GET /mcp HTTP/1.1", "DELETE /mcp HTTP/1.1", "PUT /mcp"]
)


class OneReading(SynchronousTestCase):
    """Whatever is served here means the same to the strict reader."""

    def assert_agreed(self, data: bytes, reader: FastHeads) -> bool:
        """The strict reader takes a served head too, whole, and finds the same in it."""
        served = reader.read(data)
        if served is None:
            return False
        what, digits = served
        strict = strictly(data)
        assert strict is not None, data
        self.assertEqual((strict.fault, strict.method, strict.query), ("", what.method, ""))
        self.assertTrue(plain_path(strict.path))
        self.assertEqual((what.path, int(digits)), (strict.path, strict.length))
        self.assertEqual(what.persistent, strict.persistent)
        length = {"content-length": (digits,)} if what.method == "POST" else {}
        self.assertEqual({**what.headers, **length}, strict.headers)
        self.assertEqual(what.session_id, strict.headers.get("mcp-session-id", (None,))[0])
        return True

    @settings(max_examples=250, deadline=None)
    @given(_STARTS, _LINES, st.sampled_from([(), (HOST,), (HOST, LENGTH)]))
    @example(LINE, [HOST, LENGTH, LENGTH], ())
    def test_any_head(self, start: str, lines: list[str], sound: tuple[str, ...]) -> None:
        """For heads of sound and unsound lines, read anew and remembered."""
        data = head(start, *sound, *lines)
        data = data[: data.find(b"\r\n\r\n") + 4]
        reader = heads()
        outcomes = {self.assert_agreed(data, reader) for _ in range(4)}
        self.assertEqual(len(outcomes), 1)

    def test_the_corpus(self) -> None:
        """For every head that stands in the corpus; a good part of them is served."""
        found = {data[: data.find(b"\r\n\r\n") + 4] for data in corpus() if b"\r\n\r\n" in data}
        served = sum(self.assert_agreed(data, heads()) for data in found)
        self.assertGreater(served, 60)
        self.assertGreater(len(found) - served, 300)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=60), st.binary(max_size=60), st.integers(1, 10**9 - 1))
    def test_cutting_the_length_out(self, before: bytes, after: bytes, length: int) -> None:
        """The line that is cut out is a line of its own, and all others stay as they are."""
        data = b"%b\r\nContent-Length: %d\r\n%b\r\n\r\n" % (before, length, after)
        split = split_length(data)
        if split is not None:
            others, digits = split
            lines = data.split(b"\r\n")
            left = others.split(b"\r\n")
            (cut,) = [at for at in range(len(lines)) if lines[:at] + lines[at + 1 :] == left][:1]
            self.assertEqual(lines[cut].lower(), b"content-length: " + digits.encode())


class Remembering(SynchronousTestCase):
    """`FastHeads` keeps what comes again, and not for long."""

    def test_second_time(self) -> None:
        """A head is kept when it comes for the second time, whatever its length field says."""
        known = heads()
        known.read(head(LINE, HOST, LENGTH))
        self.assertEqual(len(known), 0)
        known.read(head(LINE, HOST, "Content-Length: 3"))
        self.assertEqual(len(known), 1)
        first, second = known.read(head(LINE, HOST, LENGTH)), known.read(head(LINE, HOST, LENGTH))
        assert first is not None
        assert second is not None
        self.assertIs(first[0], second[0])

    def test_bounded(self) -> None:
        """However many there are and however often they come, two generations are kept."""
        known = heads(max_kept=4)
        for number in range(100):
            for _ in range(3):
                self.assertIsNotNone(known.read(head(LINE, HOST, LENGTH, f"X: {number}")))
            self.assertLessEqual(len(known), 8)
            self.assertLessEqual(len(known._seen), 8)

    def test_long_ones_are_not_kept(self) -> None:
        """A head of many bytes is read anew each time."""
        known = heads()
        for _ in range(3):
            self.assertIsNotNone(known.read(head(LINE, HOST, LENGTH, "X: " + "y" * 300)))
        self.assertEqual(len(known), 0)

    def test_ageing(self) -> None:
        """What is not used between two ageings is forgotten, what is used is not."""
        known = heads()
        used, unused = head(LINE, HOST, LENGTH), head(LINE, HOST, LENGTH, "Authorization: x")
        for _ in range(2):
            known.read(used)
            known.read(unused)
        self.assertEqual(len(known), 2)
        for _ in range(2):
            known.age()
            known.read(used)
        self.assertEqual(len(known), 1)
        known.age()
        known.age()
        self.assertEqual(len(known), 0)

    def test_first_times_are_forgotten_too(self) -> None:
        """That a head came once counts until the next ageing."""
        known = heads()
        for _ in range(4):
            known.read(head(LINE, HOST, LENGTH))
            known.age()
        self.assertEqual(len(known), 0)

    def test_refused_ones_are_not_kept(self) -> None:
        """Only heads that are served."""
        known = heads()
        for _ in range(3):
            self.assertIsNone(known.read(head(LINE, HOST, LENGTH, "TE: x")))
        self.assertEqual((len(known), len(known._seen)), (0, 0))
