"""Memory: over a million requests, for each idle event stream, and before a million callers."""

import base64
import hashlib
import json
import secrets
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.bench import SERVERS, Bench, Target
from benchmarks.extras.extra import Extra, script
from benchmarks.gateway import start_gateway
from benchmarks.mcp_client import ACCEPT, VERSION
from benchmarks.program import Unavailable

CHUNK_SECS = 5.0
LONGEST_SECS = 900.0
STREAMS_PER_IDENTITY = 50
STREAMS_PER_ADDRESS = 500
MIB_IN_GIB = 1024


def run_million(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Requests without end on 64 connections, the gateway's memory looked at in between."""
    wanted = 50_000 if quick else 1_000_000
    found: dict[str, Any] = {"wanted": wanted, "targets": {}}
    for kind in ("http", "stdio"):
        target = start_gateway(bench, f"million-{kind}", kind)
        target.open()
        found["targets"][f"gateway-{kind}"] = _requests(target, wanted, say, kind)
        target.stop()
    return found


def _requests(target: Target, wanted: int, say: Callable[[str], None], kind: str) -> dict[str, Any]:
    samples = [(0, max(machine.rss_mib(target.program.pid)))]
    errors = 0
    deadline = time.monotonic() + LONGEST_SECS
    while samples[-1][0] < wanted and time.monotonic() < deadline:
        result = target.load(64, CHUNK_SECS)
        errors += sum(result.errors.values())
        samples.append((samples[-1][0] + result.requests, max(result.rss_mib)))
    say(
        f"million: {kind}, {samples[-1][0]} requests, {samples[0][1]:.1f} MiB at first,"
        f" {samples[1][1]:.1f} after the first {samples[1][0]}, {samples[-1][1]:.1f} at last"
    )
    return {
        "samples": [(count, round(mib, 1)) for count, mib in samples],
        "rss_idle_mib": round(samples[0][1], 1),
        "rss_most_mib": round(max(mib for _, mib in samples), 1),
        "errors": errors,
    }


def run_streams(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Sessions whose GET stream stands idle, through the gateway to the upstream and back."""
    wanted, first = (400, 50) if quick else (4_000, 100)
    tokens = [
        "mcp_" + secrets.token_urlsafe(32) for _ in range(-(-wanted // STREAMS_PER_IDENTITY) + 2)
    ]
    keys = [
        {"id": f"reader-{number}", "key_hash": _hash(token)} for number, token in enumerate(tokens)
    ]
    target = start_gateway(bench, "streams", "http", changes={"auth": {"api_keys": keys}})
    pid = target.program.pid
    idle = max(machine.rss_mib(pid))
    opened: list[socket.socket] = []
    counted = _proxied(bench)
    try:
        # The first ones pay for what is shared by all.
        opened += [_stream(target, tokens, number) for number in range(first)]
        time.sleep(1.0)
        before, began = max(machine.rss_mib(pid)), time.monotonic()
        opened += [_stream(target, tokens, first + number) for number in range(wanted)]
        took = time.monotonic() - began
        time.sleep(2.0)
        after = max(machine.rss_mib(pid))
        standing = sum(_stands(one) for one in opened)
        proxied = _proxied(bench) - counted
    finally:
        for one in opened:
            one.close()
        target.stop()
    each = (after - before) / wanted
    say(
        f"streams: {standing} stand, {proxied} at the upstream, {each * 1024:.1f} KiB each,"
        f" {MIB_IN_GIB / each:,.0f} for each GiB, {wanted / took:.0f} opened a second"
    )
    return {
        "opened": len(opened),
        "standing": standing,
        "at_upstream": proxied,
        "rss_idle_mib": round(idle, 1),
        "rss_mib": round(after, 1),
        "kib_per_stream": round(each * 1024, 2),
        "streams_per_gib": round(MIB_IN_GIB / each),
        "opened_per_second": round(wanted / took),
    }


def _hash(token: str) -> str:
    return base64.b64encode(hashlib.sha256(token.encode()).digest()).decode()


def _proxied(bench: Bench) -> int:
    with urllib.request.urlopen(bench.http_upstream().replace("/mcp", "/counts"), timeout=5) as got:
        return int(json.loads(got.read())["streams"])


def _stream(target: Target, tokens: list[str], number: int) -> socket.socket:
    """Open one session and its stream; the connection, with nothing unread on it."""
    url = urlsplit(target.url)
    block = 2 + number // STREAMS_PER_ADDRESS
    connection = socket.create_connection(
        (str(url.hostname), int(url.port or 80)), 30.0, source_address=(f"127.0.0.{block}", 0)
    )
    head = (
        f"Host: {url.netloc}\r\nAuthorization: Bearer {tokens[number // STREAMS_PER_IDENTITY]}\r\n"
        f"Accept: {ACCEPT}\r\nMCP-Protocol-Version: {VERSION}\r\n"
    )
    params = {
        "protocolVersion": VERSION,
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    }
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    answer = _post(connection, url.path, head, hello)
    sessions = [line for line in answer.split("\r\n") if line.lower().startswith("mcp-session-id:")]
    if not answer.startswith("HTTP/1.1 200") or not sessions:
        raise Unavailable(f"stream {number} had no session: {answer[:200]}")
    head += f"{sessions[0]}\r\n"
    _post(connection, url.path, head, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    connection.sendall(f"GET {url.path} HTTP/1.1\r\n{head}\r\n".encode())
    answer = _head(connection)[0]
    if not answer.startswith("HTTP/1.1 200") or "text/event-stream" not in answer.lower():
        raise Unavailable(f"stream {number} was refused: {answer[:200]}")
    return connection


def _post(connection: socket.socket, path: str, head: str, message: dict[str, Any]) -> str:
    body = json.dumps(message)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer, rest = _head(connection)
    lengths = [line for line in answer.split("\r\n") if line.lower().startswith("content-length:")]
    missing = (int(lengths[0].partition(":")[2]) if lengths else 0) - len(rest)
    while missing > 0:
        missing -= len(connection.recv(65_536)) or missing
    return answer


def _head(connection: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            break
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _stands(connection: socket.socket) -> bool:
    """Whether a stream is open; what has come on it (comments) is read."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(65_536))
    except BlockingIOError:
        return True
    except OSError:
        return False


def run_callers(bench: Bench, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The limiter alone, see ``servers/callers.py``."""
    callers = 100_000 if quick else 1_000_000
    result = script(
        [sys.executable, SERVERS / "callers.py", "--callers", str(callers)], bench.layout.gateway
    )
    say(f"callers: {json.dumps(result)}")
    return result


MEMORY = (
    Extra("streams", "memory for each idle event stream, proxied", run_streams),
    Extra("callers", "the limiter before a million callers", run_callers),
    Extra("million", "memory over a million requests", run_million),
)
