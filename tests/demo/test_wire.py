"""Tests of the demo server's HTTP/1.1."""

import socket

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.wire import BadRequest, Request, Wire, parse_head


class HeadTests(SynchronousTestCase):
    """`parse_head` is strict."""

    def refused(self, head: bytes) -> int:
        """The status a head is refused with."""
        return int(self.assertRaises(BadRequest, parse_head, head).status)

    def test_good(self) -> None:
        """Names are compared without case, values trimmed, repeated ones kept apart."""
        request = parse_head(b"POST /mcp?x HTTP/1.1\r\nHOST: a\r\nX-A:  1 \r\nx-a:2\r\nB:")
        self.assertEqual((request.method, request.target), ("POST", "/mcp?x"))
        self.assertEqual(request.headers, {"host": ["a"], "x-a": ["1", "2"], "b": [""]})
        self.assertEqual(request.header("x-a"), "1, 2")
        self.assertIsNone(request.header("c"))
        self.assertTrue(request.keep_alive)

    def test_request_line(self) -> None:
        """Three words, a path and a version we speak."""
        for line in (b"", b"GET /", b"GET  / HTTP/1.1", b"G T / HTTP/1.1", b"GET x HTTP/1.1"):
            self.assertEqual(self.refused(line + b"\r\nHost: a"), 400, line)
        for version in (b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"):
            self.assertEqual(self.refused(b"GET / " + version + b"\r\nHost: a"), 505)

    def test_headers(self) -> None:
        """Folded lines, odd bytes and spaces before the colon are refused, as is Host but once."""
        for line in (b"x", b" x: y", b"x : y", b": y", b"x: \0", b"x: a\rb", b"x: a\nb"):
            self.assertEqual(self.refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + line), 400, line)
        self.assertEqual(self.refused(b"GET / HTTP/1.1"), 400)
        self.assertEqual(self.refused(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a"), 400)

    @settings(deadline=None, max_examples=60)
    @given(st.binary(max_size=80))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes is a request or refused, never another exception."""
        try:
            self.assertEqual(len(parse_head(data).headers["host"]), 1)
        except BadRequest as bad:
            self.assertIn(bad.status, (400, 505))


class FakeConnection:
    """The part of a socket that `Wire` reads and writes, fed from a list of chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.written = b""

    def settimeout(self, seconds: float) -> None:
        """Waits are not simulated."""

    def recv(self, size: int) -> bytes:
        """The next chunk; silence is a timeout."""
        if not self.chunks:
            raise TimeoutError
        return self.chunks.pop(0)

    def sendall(self, data: bytes) -> None:
        """Note what is written."""
        self.written += data


class WireTests(SynchronousTestCase):
    """`Wire` cuts requests out of a byte stream."""

    def wire(self, *chunks: bytes) -> Wire:
        """A wire on which these chunks arrive."""
        self.connection = FakeConnection(list(chunks))
        connection: socket.socket = self.connection  # type: ignore[assignment]
        return Wire(connection, max_head=200, max_body=10, idle=1, patience=1)

    def next(self, wire: Wire) -> Request:
        """The next request, which must be there."""
        request = wire.next_request()
        assert request is not None
        return request

    def test_pipelined_and_split(self) -> None:
        """Requests are found wherever the chunks are cut."""
        data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" * 2
        for size in (1, 7, 1000):
            wire = self.wire(*(data[at : at + size] for at in range(0, len(data), size)), b"")
            self.assertEqual([self.next(wire).body, self.next(wire).body], [b"abc", b"abc"])
            self.assertIsNone(wire.next_request())

    def test_silence(self) -> None:
        """A connection that says nothing is just closed; half a request is a timeout."""
        self.assertIsNone(self.wire().next_request())
        for data in (b"POST", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"):
            bad = self.assertRaises(BadRequest, self.wire(data).next_request)
            self.assertEqual(bad.status, 408)

    def test_bounds(self) -> None:
        """Head and body have their limits, the body before it is read."""
        for head, status in (
            (b"X: " + b"y" * 200, 431),
            (b"Content-Length: 11", 413),
            (b"Content-Length: 99999999999999999999", 400),
            (b"Content-Length: -1", 400),
            (b"Content-Length: +1", 400),
            (b"Content-Length: 1\r\nContent-Length: 1", 400),
            (b"Content-Length: 1, 1", 400),
            (b"Transfer-Encoding: chunked", 411),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 1", 411),
            (b"Expect: magic", 417),
        ):
            data = b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n"
            bad = self.assertRaises(BadRequest, self.wire(data).next_request)
            self.assertEqual(bad.status, status, head)
        endless = self.wire(*[b"x" * 50] * 10)
        self.assertEqual(self.assertRaises(BadRequest, endless.next_request).status, 431)

    def test_continue(self) -> None:
        """A client that asks before sending its body is told to go on."""
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        wire = self.wire(head, b"x")
        self.assertEqual(self.next(wire).body, b"x")
        self.assertEqual(self.connection.written, b"HTTP/1.1 100 Continue\r\n\r\n")

    def test_response(self) -> None:
        """A response says its length and type, and whether the connection ends."""
        wire = self.wire()
        wire.respond(404, b"no", "text/plain", {"Allow": "POST"}, close=True)
        self.assertEqual(
            self.connection.written,
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nAllow: POST\r\n"
            b"Content-Type: text/plain\r\nConnection: close\r\n\r\nno",
        )

    def test_events(self) -> None:
        """Events are chunks, so that the connection can go on after them."""
        wire = self.wire()
        wire.open_events({})
        head = self.connection.written
        self.assertIn(b"Content-Type: text/event-stream\r\n", head)
        self.assertIn(b"X-Accel-Buffering: no\r\n", head)
        wire.send_event({"a": "\n"})
        wire.send_comment()
        wire.end_events()
        event = b'event: message\r\ndata: {"a":"\\n"}\r\n\r\n'
        self.assertEqual(
            self.connection.written[len(head) :],
            b"%x\r\n%b\r\n5\r\n:\r\n\r\n\r\n0\r\n\r\n" % (len(event), event),
        )
