"""A server of the handshake era that writes down all it is asked, over stdio or HTTP.

``--journal`` is the file, one word or two a line; ``--http PORT`` serves Streamable HTTP with
sessions that this process alone knows. Every event stream begins with a change of the tools.
Standard library only.
"""

import argparse
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Message = dict[str, Any]
VERSION = "2025-11-25"
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
sessions: dict[str, str] = {}
"""The clients' names."""
lock = threading.Lock()


def note(words: str) -> None:
    """Write a line down."""
    with lock, open(options.journal, "a", encoding="utf-8") as journal:
        journal.write(words + "\n")


def answered(message: Message) -> Message | None:
    """The answer to a message, if it has one."""
    method, params = message.get("method"), message.get("params") or {}
    if "id" not in message or method is None:
        if method is not None:
            note(method.removeprefix("notifications/"))
        return None
    result: Message = {}
    if method == "initialize":
        note(f"initialize {params['clientInfo']['name']} {sorted(params['capabilities'])}")
        result = {
            "protocolVersion": options.version or params["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}},
            "serverInfo": {"name": "remembering", "version": "1"},
        }
    elif method == "tools/call":
        text = params["arguments"].get("text", "")
        note(f"{params['name']} {text}")
        if params["name"] == "die":
            os._exit(1)
        result = {"content": [{"type": "text", "text": text}]}
    elif method == "tools/list":
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        result = {"tools": [{"name": name, "inputSchema": schema} for name in ("note", "die")]}
    elif method in ("resources/subscribe", "resources/unsubscribe"):
        note(f"{method.partition('/')[2]} {params['uri']}")
    elif method != "ping":
        error = {"code": -32601, "message": "Method not found"}
        return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


class Visit(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def whole(self, status: int, body: Message | None = None, **headers: str) -> None:
        """Answer."""
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if data:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @property
    def known(self) -> bool:
        """Whether the request is of a session that is open."""
        return self.headers.get("Mcp-Session-Id") in sessions

    def do_POST(self) -> None:
        """Take a message."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if message.get("method") == "server/discover":
            error = {"code": -32601, "message": "Method not found"}
            self.whole(400, {"jsonrpc": "2.0", "id": message["id"], "error": error})
        elif message.get("method") == "initialize":
            session = os.urandom(16).hex()
            sessions[session] = message["params"]["clientInfo"]["name"]
            self.whole(200, answered(message), Mcp_Session_Id=session)
        elif not self.known:
            note("unknown session")
            self.whole(404)
        else:
            answer = answered(message)
            self.whole(202 if answer is None else 200, answer)

    def do_GET(self) -> None:
        """Open the stream, until the client leaves."""
        if not self.known:
            self.whole(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: " + json.dumps(CHANGED).encode() + b"\n\n")
        self.wfile.flush()
        self.rfile.read(1)
        self.close_connection = True

    def do_DELETE(self) -> None:
        """End the session."""
        name = sessions.pop(str(self.headers.get("Mcp-Session-Id")), "unknown")
        note(f"delete {name}")
        self.whole(200)


class Server(ThreadingHTTPServer):
    """Lets its port be taken again at once, and ends without waiting for streams."""

    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    """Serve until told to stop."""
    if options.http:
        server = Server(("127.0.0.1", options.http), Visit)
        print(f"http://127.0.0.1:{options.http}/mcp", flush=True)
        server.serve_forever()
    for line in sys.stdin:
        answer = answered(json.loads(line))
        if answer is not None:
            print(json.dumps(answer), flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("--journal", required=True)
parser.add_argument("--http", type=int, default=0)
parser.add_argument("--version", default="")
options = parser.parse_args()

if __name__ == "__main__":
    main()
