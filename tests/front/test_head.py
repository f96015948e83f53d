"""The strict reader of request heads."""

from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.head import Garbage, Head, HeadReader, plain_path

HOST = b"Host: localhost"
PARTS = ("/", ".", "a", "%2e", "%2F", "%25", "2f", "%61", "%41", "%5C", "%7e", "?", "#", ";")


def read(*lines: bytes, max_bytes: int = 2000, max_fields: int = 10) -> Head:
    """The head these lines make."""
    reader = HeadReader(max_bytes, max_fields)
    for line in lines:
        assert reader.line(line) is None
    head = reader.line(b"")
    assert head is not None
    return head


class SoundHeads(SynchronousTestCase):
    """`HeadReader` on requests as clients send them."""

    def test_everything_is_read(self) -> None:
        """Method, target, headers and framing come out as they went in."""
        head = read(
            b"POST /mcp/fs?a=b HTTP/1.1", HOST, b"Content-Length: 007", b"X-A:  1\t", b"x-a: 2"
        )
        self.assertEqual((head.method, head.path, head.query), ("POST", "/mcp/fs", "a=b"))
        self.assertEqual(head.headers["x-a"], ("1", "2"))
        self.assertEqual((head.length, head.persistent, head.fault), (7, True, ""))

    def test_chunked(self) -> None:
        """A chunked body has no length."""
        head = read(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: Chunked")
        self.assertEqual((head.length, head.fault), (None, ""))

    def test_one_empty_line_before(self) -> None:
        """One empty line before the request line is skipped, a second is not."""
        self.assertEqual(read(b"", b"GET / HTTP/1.1", HOST).method, "GET")
        self.assertRaises(Garbage, read, b"", b"", b"GET / HTTP/1.1", HOST)

    def test_absolute_form(self) -> None:
        """An absolute target is taken apart when its authority is the Host."""
        head = read(b"GET HTTP://LocalHost/a?b=/c HTTP/1.1", HOST)
        self.assertEqual((head.path, head.query, head.fault), ("/a", "b=/c", ""))
        self.assertEqual(read(b"GET http://localhost HTTP/1.1", HOST).path, "/")

    def test_asterisk_and_authority_forms(self) -> None:
        """The targets of OPTIONS and CONNECT are kept whole."""
        self.assertEqual(read(b"OPTIONS * HTTP/1.1", HOST).path, "*")
        self.assertEqual(read(b"CONNECT example.org:443 HTTP/1.1", HOST).path, "example.org:443")

    def test_persistence(self) -> None:
        """``close`` counts wherever it stands; HTTP/1.0 never persists."""
        for fields in ([b"Connection: TE, Close"], [b"Connection: TE", b"Connection: close,x"]):
            self.assertFalse(read(b"GET / HTTP/1.1", HOST, *fields).persistent)
        self.assertTrue(read(b"GET / HTTP/1.1", HOST, b"Connection: closed").persistent)
        self.assertFalse(read(b"GET / HTTP/1.0", HOST, b"Connection: keep-alive").persistent)

    def test_hosts(self) -> None:
        """Names, addresses and ports are hosts."""
        for host in (b"a.example", b"127.0.0.1:80", b"[::1]:8080", b"x_y:"):
            self.assertEqual(read(b"GET / HTTP/1.1", b"Host: " + host).fault, "")


class FaultyHeads(SynchronousTestCase):
    """`HeadReader` on heads that can be read but not be served."""

    def assert_fault(self, words: str, *lines: bytes) -> None:
        """The head these lines make has a fault that says so."""
        self.assertIn(words, read(*lines).fault)

    def test_framing(self) -> None:
        """Whatever leaves the length of the body open to interpretation is a fault."""
        post = b"POST / HTTP/1.1"
        length, chunked = b"Content-Length: 5", b"Transfer-Encoding: chunked"
        self.assert_fault("exclude each other", post, HOST, length, chunked)
        self.assert_fault("exclude each other", post, HOST, chunked, length)
        self.assert_fault("repeated", post, HOST, length, length)
        self.assert_fault("repeated", post, HOST, length, b"Content-Length: 6")
        for value in (b"", b"+5", b"-5", b"5, 5", b"0x5", b"5 5", b"\xb2", b"5.0", b"1_0"):
            self.assert_fault("not a number", post, HOST, b"Content-Length: " + value)
        for value in (
            b"",
            b"gzip",
            b"gzip, chunked",
            b"chunked, identity",
            b"identity",
            b"xchunked",
        ):
            self.assert_fault("not supported", post, HOST, b"Transfer-Encoding: " + value)
        self.assert_fault("not supported", post, HOST, chunked, chunked)
        self.assert_fault("HTTP/1.0", b"POST / HTTP/1.0", HOST, chunked)

    def test_endless_length(self) -> None:
        """A length of hundreds of digits is just a large one; `int` would raise at 5 000."""
        head = read(b"POST / HTTP/1.1", HOST, b"Content-Length: " + b"9" * 1500)
        self.assertEqual(head.fault, "")
        self.assertGreater(head.length or 0, 10**17)

    def test_hosts(self) -> None:
        """No Host, two, or one that is none: in HTTP/1.0 too."""
        self.assert_fault("Host is missing", b"GET / HTTP/1.1")
        self.assert_fault("Host is missing", b"GET / HTTP/1.0")
        self.assert_fault("Host is repeated", b"GET / HTTP/1.1", HOST, HOST)
        for host in (b"", b"a b", b"a,b", b"a/b", b"u@a", b"a:99999999", b"[::1", b"\xe4"):
            self.assert_fault("Host is not valid", b"GET / HTTP/1.1", b"Host: " + host)

    def test_targets(self) -> None:
        """Targets that are none of the four forms, or that name another host, are faults."""
        for target in (b"mcp", b"ftp://localhost/", b"localhost:80", b"http:/x"):
            self.assert_fault("not valid", b"GET " + target + b" HTTP/1.1", HOST)
        self.assert_fault("not valid", b"GET * HTTP/1.1", HOST)
        self.assert_fault("fragment", b"GET /a#b HTTP/1.1", HOST)
        for target in (
            b"http://evil/",
            b"http://u@localhost/",
            b"http:///",
            b"http://localhost:1/",
        ):
            self.assert_fault("differs", b"GET " + target + b" HTTP/1.1", HOST)


class GarbageHeads(SynchronousTestCase):
    """`HeadReader` on what is no request."""

    def assert_garbage(self, status: int, *lines: bytes, **bounds: int) -> None:
        """These lines are turned away with this status, at the last of them."""
        with self.assertRaises(Garbage) as caught:
            read(*lines, **bounds)
        self.assertEqual(caught.exception.status, status)

    def test_request_lines(self) -> None:
        """A request line is three parts, two blanks, and nothing unprintable."""
        for line in (
            b"GET /",
            b"GET  / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /\xc3\xa4 HTTP/1.1",
            b"GET /\tx HTTP/1.1",
            b"GET / http/1.1",
            b"GET / HTTP/1.1\nX: y",
            b"\x16\x03\x01\x02\x00\x01",
        ):
            self.assert_garbage(400, line)

    def test_versions(self) -> None:
        """Other versions of HTTP, the preface of HTTP/2 included, are 505."""
        for version in (b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/3"):
            self.assert_garbage(505, b"PRI * " + version)

    def test_fields(self) -> None:
        """A field is a token, a colon at once, and a value without controls; never folded."""
        for line in (
            b"X : y",
            b" X: y",
            b"\tfolded",
            b": y",
            b"X",
            b"X\x00: y",
            b"X: y\x00",
            b"X: a\rb",
            b"X: a\nb",
            b"X: \x7f",
            b"(X): y",
            b"X\xe4: y",
        ):
            self.assert_garbage(400, b"GET / HTTP/1.1", HOST, line)

    def test_bounds(self) -> None:
        """The bounds on bytes and fields are exact."""
        get = b"GET / HTTP/1.1"
        read(get, HOST, max_fields=1)
        self.assert_garbage(431, get, HOST, b"A: b", max_fields=1)
        size = len(get) + len(HOST) + 6
        read(get, HOST, max_bytes=size)
        self.assert_garbage(431, get, HOST, max_bytes=size - 1)
        self.assert_garbage(414, get, max_bytes=len(get) + 1)


class PlainPaths(SynchronousTestCase):
    """`plain_path`."""

    def test_plain(self) -> None:
        """Ordinary paths, also with harmless escapes, are plain."""
        for path in ("/mcp", "/mcp/fs/a.b", "/mcp/%20x", "/mcp/...", "/a:b@c;d=e"):
            self.assertTrue(plain_path(path), path)

    def test_stray(self) -> None:
        """What two readers could read differently is not."""
        for path in (
            "",
            "/",
            "*",
            "mcp",
            "//mcp",
            "/mcp/",
            "/mcp//fs",
            "/mcp/.",
            "/mcp/../x",
            "/mcp/%2e%2E/x",
            "/mcp%2Ffs",
            "/mcp%5cfs",
            "/mcp/%00",
            "/mcp/%0a",
            "/mcp/%7f",
            "/mcp/%252f",
            "/mcp/%zz",
            "/mcp/%2",
            "/mcp\\fs",
            "/mcp/<x>",
            '/mcp/"',
        ):
            self.assertFalse(plain_path(path), path)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(PARTS), max_size=8))
    def test_decoding_changes_no_segment(self, parts: list[str]) -> None:
        """A plain path has the same segments after decoding, and decoding it again adds none."""
        path = "/" + "".join(parts)
        if plain_path(path):
            decoded = unquote(path)
            self.assertEqual(path.count("/"), decoded.count("/"))
            self.assertEqual(unquote(decoded).count("/"), decoded.count("/"))
            self.assertFalse({"", ".", ".."}.intersection(decoded.split("/")[1:]))


class AnyBytes(SynchronousTestCase):
    """`HeadReader` on arbitrary lines."""

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.binary(max_size=40)
            | st.sampled_from([b"", b"GET / HTTP/1.1", b"Host: a", b"A: b", b"Content-Length: 1"]),
            max_size=9,
        )
    )
    def test_garbage_or_head(self, lines: list[bytes]) -> None:
        """Whatever comes is garbage, a head, or wants more; nothing else is raised."""
        reader = HeadReader(200, 4)
        for line in lines:
            try:
                head = reader.line(line)
            except Garbage as garbage:
                self.assertIn(garbage.status, (400, 414, 431, 505))
                return
            if head is not None:
                self.assertLessEqual(len(head.lines), 5)
                return
