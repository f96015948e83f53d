"""The demo server as a process, driven over stdio or found by its URL."""

import json
import os
import select
import subprocess
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from twisted.trial.unittest import SynchronousTestCase

Message = dict[str, Any]
PATIENCE = 40.0
"""Seconds before a test gives up waiting; far above what anything here needs, and less than the
calls take that are not waited for."""


def spawn(
    case: SynchronousTestCase, *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start the demo server with pipes; it ends with the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpguard.demo", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
    )

    def stop() -> None:
        process.terminate()  # unlike a kill, lets it remove its temporary folder
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise

    case.addCleanup(stop)
    return process


def read_line(process: "subprocess.Popen[bytes]") -> bytes:
    """The next line of the process's stdout, without its end; empty at end of file."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + PATIENCE
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"the demo server said nothing after {line!r}")
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return line.rstrip(b"\n")


class StdioDemo:
    """A client of a demo process over stdio."""

    def __init__(self, case: SynchronousTestCase, *arguments: str, **environment: str) -> None:
        self.process = spawn(case, *arguments, environment=environment)

    def send(self, *messages: Message) -> None:
        """Write messages."""
        lines = [json.dumps({"jsonrpc": "2.0", **message}).encode() for message in messages]
        self.write(b"".join(line + b"\n" for line in lines))

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive_all(self, count: int) -> list[Message]:
        """The next messages."""
        return [self.receive() for _ in range(count)]

    def receive(self) -> Message:
        """The next message; every line must be one."""
        message: Message = json.loads(read_line(self.process))
        assert message["jsonrpc"] == "2.0", message
        return message

    def request(self, method: str, **params: Any) -> Message:
        """Send a request with id 1 and take the next message for its answer."""
        self.send({"id": 1, "method": method, "params": params})
        answer = self.receive()
        assert answer["id"] == 1, answer
        return answer

    def shake(self, version: str = "2025-11-25", **capabilities: Message) -> Message:
        """Do the handshake."""
        answer = self.request("initialize", protocolVersion=version, capabilities=capabilities)
        self.send({"method": "notifications/initialized"})
        result: Message = answer["result"]
        return result

    def finish(self) -> tuple[int, bytes]:
        """Close stdin and wait: the exit code and what came on stdout after all."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output


def serve_http(
    case: SynchronousTestCase, *arguments: str
) -> tuple["subprocess.Popen[bytes]", str, int]:
    """Start the demo server over HTTP: the process, its host and port."""
    process = spawn(case, "--http", *arguments)
    words = read_line(process).decode().split()
    assert words[:2] == ["listening", "on"], words
    url = urlsplit(words[2])
    assert url.path == "/mcp", url
    assert url.hostname is not None
    assert url.port is not None
    return process, url.hostname, url.port
