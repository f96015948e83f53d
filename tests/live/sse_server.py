"""An HTTP+SSE server in the test's own process that goes wrong in the way its path names."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

Message = dict[str, Any]
BEAT_SECS = 0.02


@define(eq=False)
class Stream:
    """One event stream, and what it is to do."""

    request: Request
    way: str
    open: bool = True

    def write(self, data: bytes) -> None:
        """Send bytes, if there is still somebody."""
        if self.open:
            self.request.write(data)

    def event(self, kind: str, data: str) -> None:
        """Send an event."""
        self.write(f"event: {kind}\ndata: {data}\n\n".encode())

    def say(self, message: Message) -> None:
        """Send a message."""
        self.event("message", json.dumps({"jsonrpc": "2.0", **message}))

    def cut(self) -> None:
        """Close the connection without a word."""
        if self.open:
            self.request.transport.abortConnection()  # type: ignore[union-attr]


@define(eq=False)
class SseServer:
    """At ``/<way>/sse``; the ways are the methods whose names begin with ``open_``."""

    reactor: Any
    elsewhere: str
    """Another origin."""
    heard: list[tuple[str, str, Mapping[str, str], Message]] = field(factory=list)
    """Method, path, headers and message of each request."""
    streams: dict[str, Stream] = field(factory=dict)
    forgetful: bool = False
    """Whether every session is unknown from now on."""
    _count: Any = field(factory=itertools.count)
    _port: Any = None

    def listen(self) -> str:
        """Listen; the URL without a path."""
        site = Site(_Root(self))
        site.noisy = False
        self._port = self.reactor.listenTCP(0, site, interface="127.0.0.1")
        return f"http://127.0.0.1:{self._port.getHost().port}"

    def stop(self) -> Deferred[None]:
        """Listen no more and close every stream."""
        for stream in self.streams.values():
            stream.cut()
        stopping: Deferred[None] = self._port.stopListening()
        return stopping

    def open(self, stream: Stream) -> None:
        """Begin a stream."""
        name = str(next(self._count))
        self.streams[name] = stream
        getattr(self, f"open_{stream.way}")(stream, f"/{stream.way}/post?session={name}")

    def post(self, request: Request, message: Message) -> None:
        """Take a message."""
        name = request.args[b"session"][0].decode()
        stream = self.streams[name]
        if self.forgetful:
            _answer(request, 400, b"No transport found for sessionId")
            return
        _answer(request, 202, b"Accepted")
        if "method" in message and "id" in message and stream.way != "silent":
            # Real servers answer after that, too.
            self.reactor.callLater(0, self.serve, stream, message)

    def serve(self, stream: Stream, message: Message) -> None:
        """Answer a request."""
        params = message.get("params", {})
        if message["method"] == "initialize":
            result: Message = {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "faulty", "version": "0"},
            }
        elif message["method"] == "tools/list":
            result = {"tools": []}
        else:
            found = getattr(self, f"tool_{params['name']}")(stream, params.get("arguments", {}))
            if found is None:
                return
            result = {"content": [{"type": "text", "text": found}]}
        stream.say({"id": message["id"], "result": result})

    # the ways to begin

    def open_good(self, stream: Stream, endpoint: str) -> None:
        """As it should be."""
        stream.event("endpoint", endpoint)

    open_hanging = open_good
    """The same."""

    open_silent = open_good
    """Takes messages and never answers one."""

    def open_mute(self, stream: Stream, endpoint: str) -> None:
        """Begin and say nothing."""
        stream.write(b"")

    def open_beating(self, stream: Stream, endpoint: str) -> None:
        """Comments and messages without end, and no endpoint."""
        stream.write(b": still here\n\n" * 100)
        if stream.open:
            self.reactor.callLater(BEAT_SECS, self.open_beating, stream, endpoint)

    def open_foreign(self, stream: Stream, endpoint: str) -> None:
        """Another server's endpoint."""
        stream.event("endpoint", self.elsewhere + endpoint)

    def open_slashes(self, stream: Stream, endpoint: str) -> None:
        """The same without the scheme."""
        stream.event("endpoint", self.elsewhere.partition(":")[2] + endpoint)

    def open_long(self, stream: Stream, endpoint: str) -> None:
        """20 MiB of endpoint."""
        stream.write(b"event: endpoint\ndata: /" + b"x" * (20 << 20))

    # the tools

    def tool_echo(self, stream: Stream, arguments: Message) -> str:
        """Answer."""
        return str(arguments["text"])

    def tool_hang(self, stream: Stream, arguments: Message) -> None:
        """Never answer."""

    def tool_cut(self, stream: Stream, arguments: Message) -> None:
        """Close the stream."""
        stream.cut()

    def tool_big(self, stream: Stream, arguments: Message) -> str:
        """Answer with 20 MiB."""
        return "x" * (20 << 20)


class _Root(Resource):
    """Every path."""

    isLeaf = True

    def __init__(self, served: SseServer) -> None:
        super().__init__()
        self.served = served

    def render_GET(self, request: Request) -> Any:
        """Open a stream."""
        self._note(request, {})
        way = request.path.decode().split("/")[1]
        stream = Stream(request, way)

        def gone(_: Failure) -> None:
            stream.open = False

        request.notifyFinish().addErrback(gone)
        request.setHeader(b"Content-Type", b"text/event-stream")
        self.served.open(stream)
        return NOT_DONE_YET

    def render_POST(self, request: Request) -> Any:
        """Take a message."""
        assert request.content is not None
        message = json.loads(request.content.read())
        self._note(request, message)
        self.served.post(request, message)
        return NOT_DONE_YET

    def _note(self, request: Request, message: Message) -> None:
        headers = {
            name.decode().lower(): values[0].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        noted = (request.method.decode(), request.path.decode(), headers, message)
        self.served.heard.append(noted)


def _answer(request: Request, status: int, body: bytes) -> None:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/plain")
    request.write(body)
    request.finish()
