"""A server of either generation and any transport that is to be killed, stopped and restarted.

``--era`` is ``legacy`` or ``modern``; ``--http PORT`` and ``--sse PORT`` serve Streamable HTTP and
HTTP+SSE, otherwise it speaks over stdio. ``--journal`` is a file of what it was asked, a line each.
A later life knows nothing of an earlier one. Standard library only.

Its tools: ``note`` answers with its text, ``hang`` never answers, ``ask`` asks the client for a
name and answers with it, ``touch`` changes the resource ``test://counter``.
"""

import argparse
import itertools
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

Message = dict[str, Any]
Say = Callable[[Message], None]
COUNTER = "test://counter"
UPDATED = {
    "jsonrpc": "2.0",
    "method": "notifications/resources/updated",
    "params": {"uri": COUNTER},
}
FORM = {
    "message": "Who are you?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
}
CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
}
TOOLS = [
    {
        "name": name,
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
    }
    for name in ("note", "hang", "ask", "touch")
]
VERSION = "2026-07-28"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

lock = threading.Lock()


def note(words: str) -> None:
    """Write a line down."""
    with lock, open(options.journal, "a", encoding="utf-8") as journal:
        journal.write(words + "\n")


def text(words: str) -> Message:
    """A tool's result."""
    return {"content": [{"type": "text", "text": words}]}


class Legacy:
    """One session of the handshake era; ``say`` writes to its own stream."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.subscribed: set[str] = set()
        self._numbers = itertools.count(1)
        self._asked: dict[int, queue.Queue[Message]] = {}

    def take(self, message: Message, say: Say) -> Message | None:
        """Act on a message; what it asks or tells meanwhile goes by ``say``."""
        method, params = message.get("method"), message.get("params") or {}
        if method is None:
            asked = self._asked.pop(message["id"], None)
            if asked is not None:
                asked.put(message)
            return None
        if "id" not in message:
            note(method.removeprefix("notifications/"))
            return None
        result: Message = {}
        if method == "initialize":
            note("initialize")
            result = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": CAPABILITIES,
                "serverInfo": {"name": "breakable", "version": "1"},
            }
        elif method == "tools/list":
            result = {"tools": TOOLS}
        elif method == "tools/call":
            result = self._call(params["name"], params["arguments"].get("text", ""), say)
        elif method == "resources/subscribe":
            note(f"subscribe {params['uri']}")
            self.subscribed.add(params["uri"])
        elif method == "resources/unsubscribe":
            self.subscribed.discard(params["uri"])
        elif method not in ("ping", "logging/setLevel"):
            error = {"code": -32601, "message": "Method not found"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def _call(self, tool: str, words: str, say: Say) -> Message:
        note(f"{tool} {words}")
        if tool == "hang":
            threading.Event().wait()
        if tool == "touch" and COUNTER in self.subscribed:
            self.say(UPDATED)
        if tool == "ask":
            number = next(self._numbers)
            answered = self._asked[number] = queue.Queue()
            asking = {"jsonrpc": "2.0", "id": number, "method": "elicitation/create"}
            say({**asking, "params": FORM})
            given = answered.get()
            if "result" not in given:
                return text("nobody")
            words = given["result"]["content"]["name"]
            note(f"told {words}")
        return text(words)


class Modern:
    """All of the stateless era; ``say`` writes to the stream of the request."""

    def __init__(self) -> None:
        self.listens: dict[Any, Say] = {}

    def take(self, message: Message, say: Say) -> Message | None:
        """Act on a message; a listen has no answer."""
        method, params = message.get("method"), message.get("params") or {}
        if method == "notifications/cancelled":
            note("cancelled")
            self.listens.pop(params["requestId"], None)
        if "id" not in message or method is None:
            return None
        if method == "subscriptions/listen":
            self._listen(message["id"], params["notifications"], say)
            return None
        result: Message = {}
        if method == "server/discover":
            result = {"supportedVersions": [VERSION], "capabilities": CAPABILITIES}
            result |= {"ttlMs": 0, "cacheScope": "public"}
        elif method == "tools/list":
            result = {"tools": TOOLS, "ttlMs": 0, "cacheScope": "public"}
        elif method == "tools/call":
            result = self._call(params)
        else:
            error = {"code": -32601, "message": "Method not found"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
        return {
            "jsonrpc": "2.0",
            "id": message["id"],
            "result": {"resultType": "complete", **result},
        }

    def _listen(self, key: Any, wanted: Message, say: Say) -> None:
        note(f"subscribe {' '.join(wanted.get('resourceSubscriptions', []))}")

        def told(message: Message) -> None:
            params = {**message.get("params", {}), "_meta": {SUBSCRIPTION: key}}
            say({**message, "params": params})

        acknowledged = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged"}
        told({**acknowledged, "params": {"notifications": wanted}})
        self.listens[key] = told

    def _call(self, params: Message) -> Message:
        tool, words = params["name"], params["arguments"].get("text", "")
        note(f"{tool} {words}")
        if tool == "hang":
            threading.Event().wait()
        if tool == "touch":
            for key, told in list(self.listens.items()):
                try:
                    told(UPDATED)
                except OSError:
                    del self.listens[key]
        if tool == "ask":
            if "inputResponses" not in params:
                asked = {"who": {"method": "elicitation/create", "params": FORM}}
                return {
                    "resultType": "input_required",
                    "inputRequests": asked,
                    "requestState": words,
                }
            words = params["inputResponses"]["who"]["content"]["name"]
            note(f"told {words}")
        return text(words)


modern = Modern()
sessions: dict[str, Legacy] = {}


class Visit(StreamRequestHandler):
    """One connection, used once: this server speaks HTTP/1.0.

    By itself, since the library's would be most of what it takes to start.
    """

    begun = False

    def handle(self) -> None:
        """Read the head of a request and serve it; a client that leaves is no matter."""
        try:
            words = self.rfile.readline().decode().split()
            if not words:
                return
            _, self.path, _ = words
            self.headers: dict[str, str] = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
            getattr(self, f"do_{words[0]}")()
        except ConnectionError:
            pass

    def _head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.wfile.write("\r\n".join([f"HTTP/1.0 {status} So", *lines, "", ""]).encode())

    def whole(self, status: int, body: Message | None = None, **headers: str) -> None:
        """Answer at once."""
        data = b"" if body is None else json.dumps(body).encode()
        if data:
            headers["Content-Type"] = "application/json"
        self._head(status, {**headers, "Content-Length": str(len(data))})
        if data:
            self.wfile.write(data)

    def event(self, message: Message, kind: str = "message") -> None:
        """Send an event of the stream, which the first one begins."""
        self._event(json.dumps(message), kind)

    def _event(self, data: str, kind: str) -> None:
        with lock:
            if not self.begun:
                self.begun = True
                self._head(200, {"Content-Type": "text/event-stream"})
            self.wfile.write(f"event: {kind}\ndata: {data}\n\n".encode())
            self.wfile.flush()

    def do_POST(self) -> None:
        """Take a message."""
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if options.sse:
            self._post_aside(message)
        elif options.era == "modern":
            self._answer(modern.take(message, self.event), message)
        elif message.get("method") == "server/discover":
            error = {"code": -32601, "message": "Method not found"}
            self.whole(400, {"jsonrpc": "2.0", "id": message["id"], "error": error})
        elif message.get("method") == "initialize":
            session = os.urandom(16).hex()
            sessions[session] = Legacy(lambda message: None)
            answer = sessions[session].take(message, self.event)
            self.whole(200, answer, Mcp_Session_Id=session)
        elif (known := sessions.get(self.headers.get("mcp-session-id", ""))) is None:
            note("unknown session")
            self.whole(404)
        else:
            self._answer(known.take(message, self.event), message)

    def _answer(self, answer: Message | None, message: Message) -> None:
        if self.begun and answer is None:
            self._until_gone()
        elif answer is None:
            self.whole(202)
        elif self.begun:
            self.event(answer)
        else:
            self.whole(200, answer)

    def _post_aside(self, message: Message) -> None:
        session = sessions.get(self.path.partition("?")[2])
        if session is None:
            self.whole(404)
            return
        self.whole(202)
        answer = session.take(message, session.say)
        if answer is not None:
            session.say(answer)

    def _until_gone(self) -> None:
        try:
            self.connection.recv(1)
        except OSError:
            pass

    def do_GET(self) -> None:
        """Open a session's stream, until the client leaves."""
        if options.sse:
            name = os.urandom(8).hex()
            sessions[name] = Legacy(self.event)
            self._event(f"/messages?{name}", "endpoint")
        elif (known := sessions.get(self.headers.get("mcp-session-id", ""))) is None:
            self.whole(404 if "mcp-session-id" in self.headers else 405)
            return
        else:
            known.say = self.event
            note("stream")
            self.event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        self._until_gone()

    def do_DELETE(self) -> None:
        """End the session."""
        sessions.pop(self.headers.get("mcp-session-id", ""), None)
        self.whole(200)


class Server(ThreadingTCPServer):
    """Lets its port be taken again at once, and ends without waiting for streams."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    """Serve until killed."""
    port = options.http or options.sse
    if port:
        server = Server(("127.0.0.1", port), Visit)
        print(f"listening on {port}", flush=True)
        server.serve_forever()
    writing = threading.Lock()

    def say(message: Message) -> None:
        with writing:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    session = Legacy(say)

    def take(message: Message) -> None:
        answer = (
            session.take(message, say) if options.era == "legacy" else modern.take(message, say)
        )
        if answer is not None:
            say(answer)

    for line in sys.stdin:
        threading.Thread(target=take, args=(json.loads(line),), daemon=True).start()
    os._exit(0)


parser = argparse.ArgumentParser()
parser.add_argument("--journal", required=True)
parser.add_argument("--era", choices=("legacy", "modern"), default="legacy")
parser.add_argument("--http", type=int, default=0)
parser.add_argument("--sse", type=int, default=0)
options = parser.parse_args()
if __name__ == "__main__":
    main()
