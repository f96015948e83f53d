"""Requests of every kind, good, odd and hostile, as bytes on a connection."""

from collections.abc import Iterator

from tests.front.wire import SMALL, request

SOUND = request("POST /mcp", "Content-Type: application/json", body=b"{}")
SESSION = request("POST /mcp/fs", "Mcp-Session-Id: 1.abc", "Connection: keep-alive", body=b"[1]")
LEADING = b"POST /mcp HTTP/1.1\r\nHost: localhost:3000\r\nContent-Type: application/json\r\n"
CHUNKED = LEADING + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"

METHODS = (
    *("GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT"),
    *("post", "Post", "POSTX", "POS", "P", "PRI", "M-SEARCH", "P(ST", "P\x00ST", "\tPOST", " POST"),
)
TARGETS = (
    *("/", "/mcp/", "/mcpx", "/mcp/fs", "/mcp/fs/deep/er", "/mcp//fs", "/mcp/./fs", "/mcp/../x"),
    *("/mcp/.", "/mcp/..", "/mcp/...", "/mcp/.hidden", "/mcp/a.b", "/mcp/%61", "/mcp%2Ffs"),
    *("/mcp/%2e%2e/x", "/mcp/%00", "/mcp/%zz", "/mcp/a%20b", "/mcp/a b", "/mcp?a=b", "/mcp?"),
    *("/mcp#a", "/mcp/fs?x=/../", "/MCP", "//mcp", "mcp", "*", "/sse", "/messages?sessionId=1"),
    *("http://localhost:3000/mcp", "http://evil/mcp", "/mcp/\x7f", "/mcp/\xe4", "/mcp\\fs"),
    *("/mcp/a:b", "/mcp/a;b", "/mcp/~a", "/mcp/_-", "/health", "/live", "/metrics", "/nowhere"),
    "/mcp/" + "x" * 1500,
)
VERSIONS = (
    *("HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 ", "http/1.1", "HTTP/1.10"),
    *("HTTP/1.", "HTTP/11", "HTTP1.1", "", "HTTP/1.1\t", "HTTP/01.1", "ICAP/1.0", "HTTP/1.1\x00"),
)
LINES = (
    # Framing.
    *("Content-Length: 2", "content-length: 3", "Content-Length: 0", "Content-Length:"),
    "cONTENT-lENGTH: 2",
    *("Content-Length : 2", "Content-Length\t: 2", " Content-Length: 2", "Content-Length: 2, 2"),
    *("Content-Length: +2", "Content-Length: -2", "Content-Length: 0x2", "Content-Length: 2 2"),
    *("Content_Length: 2", "X-Content-Length: 2", "Content-Length: 2\x00", "Content-Length: \xb2"),
    *("Transfer-Encoding: chunked", "transfer-encoding: CHUNKED", "Transfer-Encoding: identity"),
    *("Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, identity"),
    *("Transfer-Encoding:", "Transfer-Encoding : chunked", "Transfer-Encoding: xchunked"),
    *("Transfer-Encoding:\tchunked", "Transfer_Encoding: chunked"),
    *("X: y\nTransfer-Encoding: chunked", "Foo: bar\r\n\tchunked"),
    *("X: y\rTransfer-Encoding: chunked", "Transfer-Encoding: chunked\x0b"),
    *("TE: trailers", "TE: chunked", "Trailer: X", "Trailers: X", "Content-Encoding: gzip"),
    *("Expect: 100-continue", "expect: 100-CONTINUE", "Expect: tea", "Expect:"),
    *("Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: AA", "Connection: Upgrade"),
    # Persistence.
    *("Connection: close", "connection: Close", "Connection: keep-alive", "Connection: Keep-Alive"),
    *("Connection: keep-alive, close", "Connection: close, TE", "Connection:", "Connection: x"),
    *("Connection: closed", "Proxy-Connection: close", "Keep-Alive: timeout=5"),
    *("Connection: \tclose", "Connection: Content-Length", "Connection: host, close"),
    # Where to.
    *("Host: localhost:3000", "Host: evil", "host: localhost:3000", "Host:", "Host: a, b"),
    *("X-Forwarded-Host: evil", "X-Original-URL: /admin", "X-HTTP-Method-Override: GET"),
    *("X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1"),
    # What MCP clients send.
    *("Content-Type: text/plain", "Accept: application/json, text/event-stream"),
    "Accept: text/html",
    *("Accept: */*", "Authorization: Bearer x", "Authorization:", "Mcp-Session-Id: abc"),
    *("Mcp-Session-Id:", "mcp-session-id: 2.abc", "MCP-Protocol-Version: 2025-06-18"),
    *("Origin: http://localhost:3000", "Origin: http://evil", "Origin: null", "Last-Event-ID: 5"),
    *("Mcp-Method: tools/call", "Mcp-Name: echo", "Mcp-Param-X: y", "Cookie: a=b; c=d"),
    *("User-Agent: python-httpx/0.27.0", "Accept-Encoding: gzip, deflate", "Sec-Fetch-Mode: cors"),
    # Form.
    *("X:", "X: ", "X:y", "X:  y  ", "X:\ty\t", "X: a b  c", "X : y", ": y", "X", "", "X: a\rb"),
    *("X: a\nb", "X: a\x00b", "X: a\x7fb", "X: a\x1fb", "X: \xe4", "X\xe4: y", "(X): y", "X,Y: z"),
    *("X: a\r\n b", "X: a\r\n\tb", " folded", "\tfolded", "X: a\r\n\r\nGET /evil HTTP/1.1"),
    *("X: " + "y" * 500, "X: " + "y" * 1900, "x" * 300 + ": y", "!#$%&'*+-.^_`|~: token"),
    *("X: 1\r\nx: 2", "X: 1\r\nX: 1", "\x16\x03\x01", "GET / HTTP/1.1"),
)  # fmt: skip
HOSTS = (
    *(
        None,
        "",
        " ",
        "localhost",
        "evil",
        "a b",
        "a,b",
        "a/b",
        "u@a",
        "a:99999999",
        "[::1]",
        "[::1",
    ),
    *("[::1]:80", "a:", ":80", "a:b", "127.0.0.1:3000", "\xe4", "a" * 70, "LOCALHOST:3000", "a\tb"),
)
BODIES = (b"", b"{", b"{}", b"{}x", b"{}\r\n", b"{}\r\n\r\n", b"\x00\xff", b"a" * 999, b"a" * 1001)
AFTER = (
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b" ", b"G", b"GET /mcp", b"POST /mcp HTTP/1.1\r\n"),
    *(b"oh no\r\n", b"POST /mcp HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"0\r\n\r\n", b"P", b"POST /mc"),
    b"POST /mcX",
    LEADING + b"Content-Length: 5\r\n\r\n{",
    LEADING + b"X : y\r\n",
    LEADING + b"X: y\r",
    LEADING * 40,
)  # fmt: skip


def posted(*fields: str, length: str | None = "2", body: bytes = b"{}", end: bytes = b"") -> bytes:
    """A POST whose first lines are sound, with these lines before the length."""
    lines = b"".join(field.encode("latin-1") + b"\r\n" for field in fields)
    framing = b"" if length is None else f"Content-Length: {length}\r\n".encode("latin-1")
    return LEADING + lines + framing + b"\r\n" + body + end


def corpus() -> Iterator[bytes]:
    """Every stream of bytes once."""
    for method in METHODS:
        yield SOUND.replace(b"POST", method.encode("latin-1"), 1) + SOUND
    for target in TARGETS:
        yield SOUND.replace(b"/mcp", target.encode("latin-1"), 1) + SOUND
        yield request("GET " + target) + SOUND
    for version in VERSIONS:
        yield SOUND.replace(b"HTTP/1.1", version.encode("latin-1"), 1) + SOUND
    for host in HOSTS:
        named = b"" if host is None else b"Host: " + host.encode("latin-1") + b"\r\n"
        yield SOUND.replace(b"Host: localhost:3000\r\n", named) + SOUND
        yield SESSION.replace(b"Host: localhost:3000\r\n", named.lower()) + SOUND
    for line in LINES:
        yield posted(line) + SOUND
        yield SOUND + posted(line, "Accept: application/json") + SOUND
        yield posted(line, length=None)
        yield posted(line, length=None, body=b"") + SOUND
        yield line.encode("latin-1") + b"\r\n" + SOUND
        for bodiless in (b"GET", b"DELETE"):
            yield posted(line, length=None).replace(b"POST", bodiless, 1) + SOUND
            yield SOUND + posted(line, length=None, body=SOUND).replace(b"POST", bodiless, 1)
    for length in (
        "0",
        "1",
        "2",
        "3",
        "02",
        "00",
        "1000",
        "1001",
        "999999999",
        "9" * 12,
        "9" * 400,
    ):
        yield posted(length=length) + SOUND
        yield posted(length=length, body=b"x" * 1000)
    for body in BODIES:
        yield posted(length=str(len(body)), body=body) + SOUND
        yield posted(length="2", body=body) + SOUND
        yield posted("Transfer-Encoding: chunked", length=None, body=body) + SOUND
    for after in AFTER:
        yield SOUND + after
        yield SOUND + after + SOUND
        yield SESSION + SOUND + after
        yield after + SOUND
    yield from _bounds()
    yield from _ends()
    yield CHUNKED.replace(b"POST", b"GET", 1) + SOUND
    yield CHUNKED.replace(b"POST", b"DELETE", 1) + SOUND


def _bounds() -> Iterator[bytes]:
    """At and around each bound of the head."""
    for count in range(SMALL.header_count - 4, SMALL.header_count + 2):
        yield posted(*(f"X-{number}: y" for number in range(count))) + SOUND
    bare = len(posted("X: ")) - 2
    for size in range(SMALL.header_bytes - bare - 3, SMALL.header_bytes - bare + 4):
        yield posted("X: " + "y" * size) + SOUND
        yield LEADING + b"X: " + b"y" * size + b"\r\n"
    for count in range(SMALL.header_count - 4, SMALL.header_count + 2):
        yield LEADING + b"".join(b"X-%d: y\r\n" % number for number in range(count))
    yield LEADING + b"X: " + b"y" * 5000
    yield b"POST /mcp/" + b"x" * 5000


def _ends() -> Iterator[bytes]:
    """Streams that end too early, at every kind of place."""
    for cut in range(0, len(SOUND), 3):
        yield SOUND[:cut]
        yield SOUND + SOUND[:cut]
    yield SOUND * 30
    yield SESSION * 5 + CHUNKED + SOUND
    yield CHUNKED + SOUND
    yield request("GET /mcp") + SOUND + request("DELETE /mcp") + SOUND
    yield SOUND + request("GET /mcp") + SOUND
    yield request("POST /mcp", "Connection: close", body=b"{}") + SOUND
