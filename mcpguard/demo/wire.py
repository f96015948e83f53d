"""A small, strict HTTP/1.1 server side on a blocking socket (RFC 9110, RFC 9112)."""

import re
import select
import socket
import time

from mcpguard.demo.messages import Message, encode

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_REASONS = {
    100: "Continue",
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class BadRequest(Exception):
    """Bytes that are no acceptable HTTP request; the connection ends after this answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Request:
    """One request, its body read."""

    def __init__(self, method: str, target: str, headers: dict[str, list[str]]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        """Lower-case name -> values in order."""
        self.body = b""

    def header(self, name: str) -> str | None:
        """The value of a header, several joined by commas; None when absent."""
        values = self.headers.get(name)
        return None if values is None else ", ".join(values)

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        return "close" not in (self.header("connection") or "").lower()


class Wire:
    """One client's connection. Every wait is bounded: ``idle`` seconds between requests,
    ``patience`` seconds for a request to arrive whole, and for each write to be taken.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        max_head: int,
        max_body: int,
        idle: float,
        patience: float,
    ) -> None:
        self._connection = connection
        self._max_head = max_head
        self._max_body = max_body
        self._idle = idle
        self._patience = patience
        self._buffer = bytearray()

    def next_request(self) -> Request | None:
        """The next request; None when the client has closed or stayed silent too long.

        Raises:
            BadRequest: It cannot be served; answer and close.
        """
        if not self._buffer and not self._fill(time.monotonic() + self._idle):
            return None
        deadline = time.monotonic() + self._patience
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > self._max_head:
                raise BadRequest(431, "The request head is too large")
            if not self._fill(deadline):
                raise BadRequest(408, "The request did not arrive")
        if end > self._max_head:
            raise BadRequest(431, "The request head is too large")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        request = parse_head(head)
        self._read_body(request, deadline)
        return request

    def _read_body(self, request: Request, deadline: float) -> None:
        if "transfer-encoding" in request.headers:
            raise BadRequest(411, "Transfer-Encoding is not supported, send Content-Length")
        lengths = request.headers.get("content-length", ["0"])
        if len(lengths) != 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0], re.ASCII):
            raise BadRequest(400, "Content-Length is not a number")
        length = int(lengths[0])
        if length > self._max_body:
            raise BadRequest(413, "The body is too large")
        expectation = request.header("expect")
        if expectation is not None:
            if expectation.lower() != "100-continue":
                raise BadRequest(417, "Only 100-continue can be expected")
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._buffer) < length:
            if not self._fill(deadline):
                raise BadRequest(408, "The body did not arrive")
        request.body = bytes(self._buffer[:length])
        del self._buffer[:length]

    def _fill(self, deadline: float) -> bool:
        """Read what is there; false at end of file or when nothing came before ``deadline``."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        self._connection.settimeout(remaining)
        try:
            chunk = self._connection.recv(65536)
        except TimeoutError:
            return False
        self._buffer += chunk
        return bool(chunk)

    def respond(
        self, status: int, body: bytes, kind: str | None, extra: dict[str, str], *, close: bool
    ) -> None:
        """Send a whole response; ``kind`` is its media type, None for no content type.

        Raises:
            OSError: The client is gone or does not read.
        """
        headers = {"Content-Length": str(len(body)), **extra}
        if kind is not None:
            headers["Content-Type"] = kind
        if close:
            headers["Connection"] = "close"
        self._send(_head(status, headers) + body)

    def open_events(self, extra: dict[str, str]) -> None:
        """Start an event stream; the connection ends with it.

        Raises:
            OSError: See `respond`.
        """
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",
            "Transfer-Encoding": "chunked",
            **extra,
        }
        self._send(_head(200, headers))

    def send_event(self, message: Message) -> None:
        """Send a message as one event.

        Raises:
            OSError: See `respond`.
        """
        self._send_chunk(b"event: message\r\ndata: " + encode(message) + b"\r\n\r\n")

    def send_comment(self) -> None:
        """Keep an event stream alive through a quiet time.

        Raises:
            OSError: See `respond`.
        """
        self._send_chunk(b":\r\n\r\n")

    def end_events(self) -> None:
        """End the event stream; further requests may follow.

        Raises:
            OSError: See `respond`.
        """
        self._send(b"0\r\n\r\n")

    def _send_chunk(self, data: bytes) -> None:
        self._send(b"%x\r\n%b\r\n" % (len(data), data))

    def _send(self, data: bytes) -> None:
        self._connection.settimeout(self._patience)
        self._connection.sendall(data)

    def drain(self) -> None:
        """Before closing on a client that still sends: a reset could overtake our answer.

        Raises:
            OSError: The client is gone.
        """
        self._connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 2.0
        while self._fill(deadline):
            self._buffer.clear()

    def hung_up(self) -> bool:
        """Whether the client has closed its end (asked while an answer is in the making)."""
        try:
            if not _readable(self._connection):
                return False
            return not self._connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def _readable(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))


def parse_head(head: bytes) -> Request:
    """Request line and headers, without the blank line.

    Raises:
        BadRequest: They break RFC 9112: odd bytes, folded lines, no or several ``Host``.
    """
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not words[1].startswith(b"/"):
        raise BadRequest(400, "The request line is malformed")
    if words[2] != b"HTTP/1.1":
        raise BadRequest(505, "Only HTTP/1.1 is spoken here")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadRequest(400, "A header is malformed")
        headers.setdefault(name.decode("ascii").lower(), []).append(value.decode("latin-1"))
    if len(headers.get("host", [])) != 1:
        raise BadRequest(400, "Exactly one Host header is needed")
    return Request(words[0].decode("ascii"), words[1].decode("latin-1"), headers)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
