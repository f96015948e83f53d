"""A stateless HTTP server that does everything wrong that a tool's name asks for.

Prints its URL when it listens; ``--journal`` is a file in which it notes the clients that closed
the connection of a call. Standard library only.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODERN = "2026-07-28"


class Server(ThreadingHTTPServer):
    """Remembers nothing."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are what this is about."""


class Requests(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """There is no stream."""
        self.reply(405, b"")

    def do_POST(self) -> None:
        """Answer one message."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.id = message.get("id")
        if message["method"] == "server/discover":
            self.result({"supportedVersions": [MODERN], "capabilities": {"tools": {}}})
        elif message["method"] == "tools/list":
            self.result({"tools": []})
        elif message["method"] == "tools/call":
            tool = message["params"]["name"]
            getattr(self, tool)(message["params"].get("arguments") or {})

    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def result(self, result: dict[str, Any], id: Any = None) -> None:
        """Send a result."""
        whole = {"resultType": "complete", **result}
        message = {"jsonrpc": "2.0", "id": self.id if id is None else id, "result": whole}
        self.reply(200, json.dumps(message).encode())

    def stream(self, *pieces: bytes) -> None:
        """Send an event stream and cut it."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)

    # the tools

    def echo(self, arguments: dict[str, Any]) -> None:
        """Answer properly."""
        self.result({"content": [{"type": "text", "text": arguments["text"]}]})

    def hang(self, arguments: dict[str, Any]) -> None:
        """Say nothing until the client gives up, and note that it did."""
        self.close_connection = True
        self.connection.settimeout(30)
        try:
            left = not self.connection.recv(1)
        except ConnectionError:
            left = True
        if left:
            with open(options.journal, "a") as journal:
                journal.write("closed\n")

    def cut(self, arguments: dict[str, Any]) -> None:
        """Announce more than is sent."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"jsonrpc":')

    def foreign(self, arguments: dict[str, Any]) -> None:
        """Answer somebody else."""
        self.result({"content": [{"type": "text", "text": "secret"}]}, id=self.id + 1)

    def event(self, arguments: dict[str, Any]) -> None:
        """Send one event of 20 MiB."""
        self.stream(b"data: ", *[b"x" * 1_048_576] * 20)

    def half(self, arguments: dict[str, Any]) -> None:
        """End a stream before the answer."""
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}}
        self.stream(b"data: " + json.dumps(note).encode() + b"\n\n")

    def page(self, arguments: dict[str, Any]) -> None:
        """Answer with an error page that tells too much."""
        self.reply(500, b"<h1>Traceback</h1>/opt/secret/server.py", "text/html")

    def redirect(self, arguments: dict[str, Any]) -> None:
        """Send the client elsewhere."""
        self.send_response(307)
        self.send_header("Location", "http://169.254.169.254/latest/meta-data")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def trickle(self, arguments: dict[str, Any]) -> None:
        """Keep a stream alive without ever answering."""
        try:
            self.stream()
            for _ in range(100):
                self.wfile.write(b":\n\n")
                time.sleep(0.1)
        except OSError:
            # The client has had enough.
            pass


parser = argparse.ArgumentParser()
parser.add_argument("--journal", required=True)
options = parser.parse_args()

if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Requests)
    print(f"http://127.0.0.1:{server.server_address[1]}/mcp", flush=True)
    server.serve_forever()
