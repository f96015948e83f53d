"""A handshake with what is to be measured: it opens the session whose calls are the load."""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.program import Unavailable

VERSION = "2025-06-18"
ACCEPT = "application/json, text/event-stream"
TIMEOUT_SECS = 30.0
MAX_LINES = 10_000


def call(number: int, message: str) -> dict[str, Any]:
    """A ``tools/call`` of ``echo``."""
    params = {"name": "echo", "arguments": {"message": message}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Client:
    """One connection to an MCP endpoint, with one session."""

    def __init__(self, url: str, *, token: str = "", certificate: Path | None = None) -> None:
        parts = urlsplit(url)
        self.path = parts.path or "/"
        host, port = str(parts.hostname), parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=certificate)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT_SECS, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECS)
        self.headers = {"Content-Type": "application/json", "Accept": ACCEPT}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def open(self) -> None:
        """Shake hands and make one call, its answer checked; raises `Unavailable` otherwise."""
        params = {
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        }
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        answer, session = self._post(hello)
        if "result" not in answer:
            raise Unavailable(f"initialize was refused: {json.dumps(answer)[:300]}")
        if session:
            self.headers["Mcp-Session-Id"] = session
        self.headers["MCP-Protocol-Version"] = answer["result"]["protocolVersion"]
        self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.check()

    def check(self) -> None:
        """Make one call; raises `Unavailable` when the answer is not the right one."""
        answer, _ = self._post(call(2, "is it right?"))
        try:
            said = answer["result"]["content"][0]["text"]
        except (KeyError, IndexError, TypeError):
            said = json.dumps(answer)[:300]
        if (answer.get("id"), said) != (2, "is it right?"):
            raise Unavailable(f"a wrong answer: {said}")

    def lines(self) -> str:
        """The headers of every further request, one a line."""
        return "\n".join(f"{name}: {value}" for name, value in self.headers.items())

    def close(self) -> None:
        """Close the connection, not the session."""
        self._connection.close()

    def _post(self, message: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Send one message: its answer (empty to a notification) and the session's id."""
        body = json.dumps(message, separators=(",", ":"))
        try:
            self._connection.request("POST", self.path, body, self.headers)
            response = self._connection.getresponse()
            session = response.getheader("Mcp-Session-Id") or ""
            if "id" not in message:
                response.read()
                return {}, session
            if response.status != 200:
                text = response.read(400).decode(errors="replace")
                raise Unavailable(f"status {response.status}: {text}")
            if "text/event-stream" in (response.getheader("Content-Type") or ""):
                found = next((m for m in _events(response) if m.get("id") == message["id"]), {})
                response.read()
            else:
                found = json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as problem:
            raise Unavailable(f"{message['method']}: {problem!r}") from problem
        return found, session


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for _ in range(MAX_LINES):
        line = response.readline()
        if not line:
            return
        if line.startswith(b"data:") and line[5:].strip():
            yield json.loads(line[5:])
