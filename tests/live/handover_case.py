"""Several listeners that pass connections on to each other, all in the process of the tests."""

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import TestCase

from mcpguard.front.bounds import Limits
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.front.handover import Parcel
from mcpguard.front.moving import Handover, HandoverBounds
from mcpguard.front.pages import PageAccess, Vitals
from mcpguard.front.routes import ClientRoutes
from mcpguard.front.site import GuardSite
from mcpguard.ops.workers.switchboard import Switchboard, SwitchboardBounds
from tests.doubles import RecordingCorridor
from tests.front.wire import request

reactor: Any = global_reactor
LIMITS = Limits(
    body_bytes=2_000_000,
    body_bytes_total=20_000_000,
    header_bytes=8192,
    header_count=50,
    connections=40,
    connections_per_address=40,
    idle_secs=20,
    head_secs=2,
    body_secs=2,
    stall_secs=3,
    linger_secs=2,
    stream_buffer_bytes=20_000_000,
    answer_bytes_total=100_000_000,
    keepalive_secs=0.5,
)
BOUNDS = SwitchboardBounds(
    inline_bytes=20_000, unread_bytes=3_000_000, waiting=5, waiting_secs=1.0, batch=8
)


class TellingCorridor(RecordingCorridor):
    """Answers with who answered, and what was asked; ``?n`` in the query: so many bytes more."""

    number = 0

    def handle(self, incoming: Incoming, outlet: Outlet) -> None:
        """See `Corridor`."""
        self.handled.append((incoming, outlet))
        if self.hold:
            return
        certificate = incoming.certificate
        said = {
            "worker": self.number,
            "session": incoming.header("mcp-session-id"),
            "size": len(incoming.body),
            "tail": incoming.body[-20:].decode("latin-1"),
            "peer": incoming.peer,
            "port": incoming.local_port,
            "who": None if certificate is None else certificate.common_names[0],
        }
        more = int(incoming.query) if incoming.query.isdigit() else 0
        outlet.answer(200, (), json.dumps(said).encode() + b" " * more)


class Listener:
    """One of several processes, but for the process."""

    def __init__(self, case: "HandoverCase", number: int, workers: int) -> None:
        self.number = number
        self.corridor = TellingCorridor()
        self.corridor.number = number
        self.dropped: list[str] = []
        self.outcomes: list[str] = []
        self.returned: list[int] = []
        vitals = Vitals(
            version="9.9",
            started_at=reactor.seconds(),
            seconds=reactor.seconds,
            readiness=lambda: (True, ""),
            metrics=lambda: b"",
            metrics_type="text/plain",
            routes=list,
        )
        ids = iter(range(100_000))
        self.site = GuardSite(
            reactor=reactor,
            wall=time.time,
            gate=self.corridor,
            resource=ClientRoutes(
                self.corridor, vitals, PageAccess.OPEN, lambda _: None
            ).resource(),
            limits=case.limits,
            cors=None,
            new_id=lambda: str(next(ids)),
            on_dropped=self.dropped.append,
            corridor=self.corridor,
        )
        self.board = Switchboard(
            reactor, case.directory, number, workers, BOUNDS, self._take, self.returned.append
        )
        self.handover = Handover(
            reactor,
            self.board,
            HandoverBounds(connections=10, unread_bytes=5_000_000),
            self.outcomes.append,
        )
        self.site.share(self.handover)
        self.board.start()
        self.port = case.listen(self.site)

    def _take(self, descriptor: int, parcel: Parcel) -> None:
        self.handover.adopt(self.site, descriptor, parcel)

    @property
    def bodies(self) -> list[bytes]:
        """Of the requests that were served here."""
        return [incoming.body for incoming, _ in self.corridor.handled]

    async def close(self) -> None:
        """End everything."""
        self.board.stop()
        await maybeDeferred(self.port.stopListening)
        await self.site.drain(0)
        self.handover.close()


class HandoverCase(TestCase):
    """Three listeners on loopback."""

    timeout = 60
    limits = LIMITS
    workers = 3

    def setUp(self) -> None:
        """Begin."""
        self.directory = Path(tempfile.mkdtemp(prefix="mcp-guard-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.listeners = {n: Listener(self, n, self.workers) for n in range(1, self.workers + 1)}
        self.addCleanup(self.close)

    async def close(self) -> None:
        """End; nothing is left in any registry."""
        for listener in self.listeners.values():
            await listener.close()

    def listen(self, site: GuardSite) -> Any:
        """Open one."""
        return reactor.listenTCP(0, site, interface="127.0.0.1")

    def connect(self, number: int = 1) -> Any:
        """A connection that one of them accepts; for threads."""
        port = self.listeners[number].port.getHost().port
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        # As clients do: a body that follows its head would wait for the kernel's own timer.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.dressed(connection)

    def dressed(self, connection: socket.socket) -> Any:
        """What is spoken on it."""
        return connection

    def client(self, number: int = 1) -> HTTPConnection:
        """The standard library's client on such a connection; for threads."""
        client = HTTPConnection("127.0.0.1")
        client.sock = self.connect(number)
        return client

    def change(self, **limits: Any) -> None:
        """Have other limits, for what a test would otherwise wait for."""
        for listener in self.listeners.values():
            listener.site.limits = evolve(listener.site.limits, **limits)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Wait in the reactor for something to become true."""
        done: Deferred[None] = Deferred()

        def look() -> None:
            if condition():
                done.callback(None)
            else:
                reactor.callLater(0.02, look)

        look()
        return done

    def registered(self) -> list[int]:
        """How many connections each one has."""
        return [listener.site.connections for listener in self.listeners.values()]


def ask(client: HTTPConnection, session: str | None, body: bytes = b"{}", query: str = "") -> Any:
    """One POST, and what is said of it; for threads."""
    fields = {} if session is None else {"Mcp-Session-Id": session}
    client.request("POST", f"/mcp{query}", body, fields)
    return told(client.getresponse())


def told(response: HTTPResponse) -> Any:
    """An answer of a `TellingCorridor`; the status of any other."""
    body = response.read()
    return json.loads(body) if response.status == 200 else response.status


def post(session: str | None, body: bytes = b"{}", *fields: str, target: str = "/mcp") -> bytes:
    """The bytes of a POST."""
    named = () if session is None else (f"Mcp-Session-Id: {session}",)
    return request(f"POST {target}", *named, *fields, body=body)
