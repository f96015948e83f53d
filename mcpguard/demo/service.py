"""The Streamable HTTP transport: POST, GET and DELETE on ``/mcp``, sessions for legacy clients.

Every connection has a thread. What is sent without a request goes to a legacy session's GET
stream; streams are not resumable.
"""

import socket
import threading
from contextlib import closing

from mcpguard.demo.calls import Call, Client, Running
from mcpguard.demo.headers import (
    LOOPBACK,
    VERSION,
    accepts,
    check_modern,
    check_params,
    host_of,
    is_local_origin,
    media_type,
    refuse_repeats,
    speaks_modern,
)
from mcpguard.demo.messages import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY_VERSIONS,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Message,
    ProtocolError,
    encode,
    error,
    is_request,
    is_response,
    parse,
)
from mcpguard.demo.server import Server
from mcpguard.demo.sessions import Visit, Visits
from mcpguard.demo.streams import POLL, Stream, Streaming
from mcpguard.demo.wire import BadRequest, Request, Wire

MAX_HEAD = 32 * 1024
MAX_WAITING = 1000
"""Messages that wait for a client which does not read."""
IDLE = 75.0
PATIENCE = 30.0
GOODBYE = 5.0
"""Seconds that open streams get to end when the server stops."""

_STATUS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}


class Refusal(Exception):
    """An answer that ends a request before it reaches the server."""

    def __init__(
        self,
        status: int,
        problem: ProtocolError,
        extra: dict[str, str] | None = None,
        request_id: str | int | None = None,
    ) -> None:
        super().__init__(problem.text)
        self.status = status
        self.body = encode(error(request_id, problem))
        self.extra = extra or {}


def _refusal(status: int, text: str, extra: dict[str, str] | None = None) -> Refusal:
    return Refusal(status, ProtocolError(INVALID_REQUEST, text), extra)


def serve(
    server: Server,
    host: str,
    port: int,
    *,
    max_connections: int,
    max_sessions: int,
    max_body: int,
    ask_timeout: float,
) -> None:
    """Listen, print the URL and serve until an exception (SystemExit of a signal) ends it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=max_connections) as listener:
        bound, number = listener.getsockname()[:2]
        authority = f"[{bound}]" if ":" in bound else bound
        print(f"listening on http://{authority}:{number}/mcp", flush=True)
        service = Service(
            server,
            check_host=bound in LOOPBACK,
            max_connections=max_connections,
            max_sessions=max_sessions,
            max_body=max_body,
            ask_timeout=ask_timeout,
        )
        # A signal that comes between two instructions, right before `accept`, is noted but does
        # not wake it: without a timeout its handler would wait for the next client.
        listener.settimeout(POLL)
        try:
            while True:
                try:
                    connection = listener.accept()[0]
                except TimeoutError:
                    continue
                service.welcome(connection)
        finally:
            service.stop()


class Service:
    """The connections and sessions of one listening socket."""

    def __init__(
        self,
        server: Server,
        *,
        check_host: bool,
        max_connections: int,
        max_sessions: int,
        max_body: int,
        ask_timeout: float,
    ) -> None:
        self._server = server
        self._check_host = check_host
        """Whether only this machine's names may be asked for (DNS rebinding)."""
        self._max_connections = max_connections
        self._max_body = max_body
        self._ask_timeout = ask_timeout
        self._visits = Visits(server, limit=max_sessions)
        self._places = threading.BoundedSemaphore(max_connections)
        self._streaming = Streaming()

    def welcome(self, connection: socket.socket) -> None:
        """Serve a new connection in a thread of its own, or close it when there are too many."""
        if not self._places.acquire(blocking=False):
            connection.close()
            return
        try:
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()
        except RuntimeError:  # the process may have no more threads
            connection.close()
            self._places.release()

    def stop(self) -> None:
        """End the open streams as their protocol says, and wait a moment for that."""
        self._server.stop()
        self._visits.end()
        self._streaming.settle(GOODBYE)

    def _converse(self, connection: socket.socket) -> None:
        """Answer one request after another."""
        try:
            with closing(connection):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                wire = Wire(
                    connection,
                    max_head=MAX_HEAD,
                    max_body=self._max_body,
                    idle=IDLE,
                    patience=PATIENCE,
                )
                try:
                    while (request := wire.next_request()) is not None:
                        self._answer(wire, request)
                        if not request.keep_alive:
                            return
                except BadRequest as bad:
                    refusal = _refusal(bad.status, bad.text)
                    wire.respond(bad.status, refusal.body, "application/json", {}, close=True)
                    wire.drain()
        except OSError:
            pass  # the client has gone: what it asked for was cancelled where that is the rule
        finally:
            self._places.release()

    def _answer(self, wire: Wire, request: Request) -> None:
        """Answer one request.

        Raises:
            OSError: The client is gone.
        """
        close = not request.keep_alive
        try:
            self._admit(request)
            if request.method == "POST":
                self._post(wire, request)
            elif request.method == "GET":
                self._get(wire, request)
            else:
                self._visits.remove(self._visit(request))
                wire.respond(200, b"", None, {}, close=close)
        except Refusal as refusal:
            wire.respond(
                refusal.status, refusal.body, "application/json", refusal.extra, close=close
            )

    def _admit(self, request: Request) -> None:
        """Host, Origin, path and method.

        Raises:
            Refusal: One of them is not acceptable.
        """
        if self._check_host and host_of(request.header("host") or "") not in LOOPBACK:
            raise _refusal(421, "This host name is not served here")
        origin = request.header("origin")
        if origin is not None and not is_local_origin(origin):
            raise _refusal(403, "Requests from this origin are not accepted")
        if request.target.partition("?")[0] != "/mcp":
            raise _refusal(404, "Not found")
        version = request.header(VERSION)
        legacy = "legacy" in self._server.eras and (version is None or version in LEGACY_VERSIONS)
        allowed = ("POST", "GET", "DELETE") if legacy else ("POST",)
        if request.method not in allowed:
            raise _refusal(405, "Method not allowed", {"Allow": ", ".join(allowed)})

    def _post(self, wire: Wire, request: Request) -> None:
        if media_type(request) != "application/json":
            raise _refusal(415, "Content-Type must be application/json")
        if not (accepts(request, "application/json") and accepts(request, "text/event-stream")):
            raise _refusal(406, "Accept must list application/json and text/event-stream")
        try:
            message = parse(request.body)
        except ProtocolError as problem:
            raise Refusal(400, problem, None, problem.request_id) from problem
        eras = self._server.eras
        if "legacy" not in eras or ("modern" in eras and speaks_modern(request, message)):
            self._post_modern(wire, request, message)
        else:
            self._post_legacy(wire, request, message)

    def _post_modern(self, wire: Wire, request: Request, message: Message) -> None:
        if is_response(message):
            raise _refusal(400, "This protocol version has no responses from clients")
        if not is_request(message):
            # Not even notifications/cancelled counts: request ids are the client's own choice,
            # so one caller could cancel another's work.
            wire.respond(202, b"", None, {}, close=not request.keep_alive)
            return
        try:
            refuse_repeats(request)
            self._server.demand_meta(message)
            check_modern(request, message)
            client = self._server.modern_client(message)
            if message["method"] == "tools/call":
                tool = self._server.tools.find(message["params"].get("name"))
                schema = tool.definition["inputSchema"]
                check_params(request, schema, message["params"].get("arguments"))
        except ProtocolError as problem:
            raise Refusal(_STATUS[problem.code], problem, None, message["id"]) from problem
        self._run(wire, request, message, client, None)

    def _post_legacy(self, wire: Wire, request: Request, message: Message) -> None:
        version = request.header(VERSION)
        if version is not None and version not in LEGACY_VERSIONS:
            raise _refusal(400, "Unsupported protocol version")
        if message.get("method") == "initialize" and is_request(message):
            self._initialize(wire, request, message)
            return
        visit = self._visit(request)
        if is_request(message):
            self._run(wire, request, message, visit.session, visit)
            return
        if is_response(message):
            visit.session.reply(message)
        elif message["method"] == "notifications/cancelled":
            visit.session.running.cancel(message.get("params", {}).get("requestId"))
        wire.respond(202, b"", None, {}, close=not request.keep_alive)

    def _initialize(self, wire: Wire, request: Request, message: Message) -> None:
        if "mcp-session-id" in request.headers:
            visit = self._visit(request)  # a second handshake: the session refuses it
        else:
            visit = Visit(
                max_running=self._max_connections,
                ask_timeout=self._ask_timeout,
                max_waiting=MAX_WAITING,
            )
        response = self._server.answer(Call(message, visit.session, visit.outbox.put)) or {}
        extra = {}
        if "result" in response:
            if not self._visits.add(visit):
                self._server.leave(visit.session)
                raise _refusal(503, "Too many sessions", {"Retry-After": "10"})
            extra["Mcp-Session-Id"] = visit.id
        close = not request.keep_alive
        wire.respond(200, encode(response), "application/json", extra, close=close)

    def _visit(self, request: Request) -> Visit:
        """The session a request belongs to.

        Raises:
            Refusal: 400 without a session id, 404 with one that is not (or no longer) known.
        """
        visit_id = request.header("mcp-session-id")
        if visit_id is None:
            raise _refusal(400, "Mcp-Session-Id is required")
        visit = self._visits.find(visit_id)
        if visit is None:
            raise _refusal(404, "Session not found")
        return visit

    def _get(self, wire: Wire, request: Request) -> None:
        visit = self._visit(request)
        if not accepts(request, "text/event-stream"):
            raise _refusal(406, "Accept must list text/event-stream")
        if not visit.listening.acquire(blocking=False):
            raise _refusal(409, "This session already has an event stream")
        try:
            self._streaming.write(wire, visit.outbox, {"Mcp-Session-Id": visit.id})
        finally:
            visit.listening.release()

    def _run(
        self, wire: Wire, request: Request, given: Message, client: Client, visit: Visit | None
    ) -> None:
        """Answer a request with JSON, or with an event stream once there is more to say."""
        close = not request.keep_alive
        stream = Stream(limit=MAX_WAITING, lossy=False)
        call = Call(given, client, stream.put)
        if not self._server.waits(given):
            response = self._server.answer(call)
            if response is not None:
                self._respond(wire, response, modern=client.modern, close=close)
            return
        if not self._start(call, stream, visit):
            busy = error(call.id, ProtocolError(INTERNAL_ERROR, "Too many calls in progress"))
            self._respond(wire, busy, modern=client.modern, close=close)
            return
        try:
            while True:
                ended = stream.ended
                messages = stream.take(POLL)
                if messages or ended:
                    break
                if wire.hung_up():
                    raise ConnectionAbortedError
            if len(messages) == 1 and is_response(messages[0]):
                self._respond(wire, messages[0], modern=client.modern, close=close)
                return
            self._streaming.write(wire, stream, {}, messages)
        finally:
            # An answer that nobody reads any more is a cancelled request of a modern client,
            # while a legacy one has to say so.
            if client.modern:
                call.cancel()
            stream.end()

    def _start(self, call: Call, stream: Stream, visit: Visit | None) -> bool:
        """Work on a call in a thread of its own; false when there are too many."""
        running = Running(limit=1) if visit is None else visit.session.running
        if not running.add(call):
            return False

        def work() -> None:
            response = self._server.answer(call)
            running.remove(call)
            if response is not None:
                stream.put(response)
            stream.end()

        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:  # the process may have no more threads
            running.remove(call)
            return False
        return True

    def _respond(self, wire: Wire, response: Message, *, modern: bool, close: bool) -> None:
        """One JSON answer; a modern error has a status of its own, a legacy one is a 200."""
        code = response.get("error", {}).get("code")
        status = _STATUS.get(code, 200) if modern else 200
        wire.respond(status, encode(response), "application/json", {}, close=close)
