"""The stdio transport: one JSON message per line, both eras on one pipe."""

import os
import threading
from collections.abc import Iterator

from mcpguard.demo.calls import Call, Client, Running, Session
from mcpguard.demo.messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Message,
    ProtocolError,
    encode,
    error,
    is_request,
    is_response,
    parse,
)
from mcpguard.demo.server import Server

_CHUNK = 65536


class Stdio:
    """Serves one client over a pair of file descriptors until the client closes its end.

    Requests that answer at once are answered by the reading thread, in order, so that a client
    that does not read its answers is not read either; the others get a thread each.
    """

    def __init__(
        self,
        server: Server,
        read_fd: int,
        write_fd: int,
        *,
        max_line: int,
        max_running: int,
        ask_timeout: float,
    ) -> None:
        self._server = server
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._max_line = max_line
        """Bytes of one message."""
        self._writing = threading.Lock()
        self._session = Session(self._send, max_running=max_running, ask_timeout=ask_timeout)
        # Both eras share the pipe and so the ids: a legacy session's table serves both.
        self._running: Running = self._session.running

    def serve(self) -> None:
        """Read until end of file, then cancel what is still running."""
        try:
            for line in self._lines():
                try:
                    self._take(parse(line))
                except ProtocolError as problem:
                    self._send(error(problem.request_id, problem))
        finally:
            self._server.leave(self._session)

    def _take(self, message: Message) -> None:
        if is_response(message):
            self._session.reply(message)
        elif is_request(message):
            self._request(message)
        elif message["method"] == "notifications/cancelled":
            self._running.cancel(message.get("params", {}).get("requestId"))

    def _request(self, message: Message) -> None:
        client: Client = self._session
        if self._server.is_modern(message):
            try:
                client = self._server.modern_client(message)
            except ProtocolError as problem:
                self._send(error(message["id"], problem))
                return
        call = Call(message, client, self._send)
        if not self._server.waits(message):
            self._finish(call)
        elif self._running.add(call):
            try:
                threading.Thread(target=self._finish, args=(call,), daemon=True).start()
            except RuntimeError:  # the process may have no more threads
                self._running.remove(call)
                self._busy(call)
        else:
            self._busy(call)

    def _busy(self, call: Call) -> None:
        self._send(error(call.id, ProtocolError(INTERNAL_ERROR, "Too many calls in progress")))

    def _finish(self, call: Call) -> None:
        response = self._server.answer(call)
        self._running.remove(call)
        if response is not None:
            self._send(response)

    def _send(self, message: Message) -> None:
        """Write one line, whole; a client that has gone is noticed by the reading thread."""
        line = memoryview(encode(message) + b"\n")
        with self._writing:
            try:
                while line:
                    line = line[os.write(self._write_fd, line) :]
            except BrokenPipeError:
                pass

    def _lines(self) -> Iterator[bytes]:
        """The lines of input that are not blank; one that is too long is answered and skipped."""
        buffer = bytearray()
        searched = 0
        skipping = False
        while chunk := os.read(self._read_fd, _CHUNK):
            buffer += chunk
            while (end := buffer.find(b"\n", searched)) >= 0:
                line = bytes(buffer[:end]).strip()
                del buffer[: end + 1]
                searched = 0
                if skipping:  # the rest of a line that was answered already
                    skipping = False
                elif end > self._max_line:
                    self._too_long()
                elif line:
                    yield line
            if len(buffer) > self._max_line:
                if not skipping:
                    self._too_long()
                    skipping = True
                buffer.clear()
            searched = len(buffer)

    def _too_long(self) -> None:
        text = f"The message is longer than {self._max_line} bytes"
        self._send(error(None, ProtocolError(INVALID_REQUEST, text)))
