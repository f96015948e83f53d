"""An MCP server that is never the bottleneck: what stands behind every gateway of a run.

Over stdio it is a loop of read and write, over HTTP one bare asyncio protocol (on uvloop where that
is installed). It speaks the handshake era and answers what a benchmark asks: ``initialize``,
``ping``, ``tools/list`` and ``tools/call`` of ``echo``. It is no example of an MCP server: it
trusts its peer.

    python reference.py stdio [--cpus 1]
    python reference.py http [--cpus 1] [--port 0] [--answer json|sse]

Over HTTP it prints ``listening on PORT``. The process is named ``bench-upstream``, so that its time
is not counted as the gateway's that started it.
"""

import argparse
import asyncio
import importlib
import json
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

COMM = "bench-upstream"
MAX_BUFFER = 33_554_432
LATEST = "2025-11-25"
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", LATEST)
TOOL = {
    "name": "echo",
    "description": "Give the message back.",
    "inputSchema": {
        "type": "object",
        "properties": {"message": {"type": "string"}},
        "required": ["message"],
    },
}


def _codec() -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    try:
        module = importlib.import_module("orjson")
    except ImportError:
        return json.loads, lambda value: json.dumps(value, separators=(",", ":")).encode()
    return module.loads, module.dumps


LOADS, DUMPS = _codec()


def answer(message: dict[str, Any]) -> bytes | None:
    """The answer to a message as JSON; None to what wants no answer."""
    if "id" not in message or "method" not in message:
        return None
    result: dict[str, Any]
    identity, method, params = message["id"], message["method"], message.get("params") or {}
    if method == "tools/call":
        if params.get("name") != "echo":
            return _error(identity, -32602, "unknown tool")
        text = str(params.get("arguments", {}).get("message", ""))
        result = {"content": [{"type": "text", "text": text}], "isError": False}
    elif method == "initialize":
        asked = params.get("protocolVersion")
        result = {
            "protocolVersion": asked if asked in VERSIONS else LATEST,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench-reference", "version": "1"},
        }
    elif method == "tools/list":
        result = {"tools": [TOOL]}
    elif method == "ping":
        result = {}
    else:
        return _error(identity, -32601, "method not found")
    return DUMPS({"jsonrpc": "2.0", "id": identity, "result": result})


def _error(identity: object, code: int, text: str) -> bytes:
    error = {"code": code, "message": text}
    return DUMPS({"jsonrpc": "2.0", "id": identity, "error": error})


def serve_stdio() -> None:
    """Answer the lines of standard input until it ends."""
    rest = b""
    while data := os.read(0, 262_144):
        *lines, rest = (rest + data).split(b"\n")
        answers = [answer(LOADS(line)) for line in lines if line.strip()]
        out = b"".join(one + b"\n" for one in answers if one is not None)
        while out:
            out = out[os.write(1, out) :]


class HttpServer(asyncio.Protocol):
    """One connection: requests in, answers out, event streams held open."""

    def __init__(self, sse: bool, counts: dict[str, int]) -> None:
        self._sse = sse
        self._counts = counts
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer all requests that are complete, with one write."""
        self._buffer += data
        out = []
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            mark = head.find(b"\r\ncontent-length:")
            length = int(head[mark + 17 :].split(b"\r", 1)[0]) if mark >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                break
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            out.append(self._respond(head, body))
        if len(self._buffer) > MAX_BUFFER:
            self._transport.abort()
        elif out:
            self._transport.write(b"".join(out))

    def _respond(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"post "):
            self._counts["posts"] += 1
            message = LOADS(body)
            text = answer(message)
            if text is None:
                return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
            session = b""
            if message.get("method") == "initialize":
                session = b"Mcp-Session-Id: %b\r\n" % secrets.token_hex(16).encode()
            if self._sse:
                return _event(session, text)
            return (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b"
                b"Content-Length: %d\r\n\r\n%b" % (session, len(text), text)
            )
        if head.startswith(b"get /counts "):
            text = DUMPS(self._counts)
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        if head.startswith(b"get "):
            self._counts["streams"] += 1
            return (
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def _event(session: bytes, text: bytes) -> bytes:
    event = b"event: message\ndata: %b\n\n" % text
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n%b"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (session, len(event), event)
    )


async def serve_http(port: int, sse: bool) -> None:
    """Serve on loopback until a signal ends the process."""
    counts = {"posts": 0, "streams": 0}
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpServer(sse, counts), "127.0.0.1", port, backlog=4096
    )
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--cpus", default="", help="processors to run on, as 1 or 1,2,3")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--answer", choices=["json", "sse"], default="json")
    options = parser.parse_args()
    Path("/proc/self/comm").write_text(COMM)
    if options.cpus:
        os.sched_setaffinity(0, [int(cpu) for cpu in options.cpus.split(",")])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if options.transport == "stdio":
        serve_stdio()
        return
    try:
        run: Callable[[Any], Any] = importlib.import_module("uvloop").run
    except ImportError:
        run = asyncio.run
    run(serve_http(options.port, options.answer == "sse"))


if __name__ == "__main__":
    main()
