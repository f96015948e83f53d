"""Any order of requests, answers, losses, refusals and ends of patience, on one pool."""

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import error

from mcpguard.upstream.wire import Exchange
from tests.upstream.http1_doubles import EVENTS, URL, Heard, WireCase
from tests.upstream.socket_doubles import DirectSocket

STEPS = (
    *("post", "post", "post", "get", "accept", "accept", "answer", "answer", "answer"),
    *("abort", "refuse", "lose", "unseen", "extra", "close answer", "wait", "wait long"),
)


class InterleavingTests(WireCase):
    """`Http1Wire` under any order of events."""

    socket = DirectSocket
    bounds = {"max_connections": 3, "max_streams": 2, "max_waiting": 6, "max_idle": 2}

    def setUp(self) -> None:
        """Nothing has happened."""
        super().setUp()
        self.asked: list[tuple[Heard, Exchange, bool]] = []
        self.aborted: set[int] = set()
        self.sockets: list[Any] = []
        self.settled: set[int] = set()

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 50)), min_size=20, max_size=60)
    )
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """Everybody hears exactly one end and only his own answer, and nothing is kept."""
        self.setUp()
        for step, number in steps:
            self.take(step, number)
            self.check_bounds()
        self.finish()

    def take(self, step: str, number: int) -> None:
        """Let one thing happen."""
        dialled = [n for n in range(len(self.reactor.dialled)) if self.open_dial(n)]
        busy = [one for one in self.sockets if not one.lost and self.pending(one) is not None]
        alive = [one for one in self.sockets if not one.lost]
        if step in ("post", "get"):
            body = b"%d" % len(self.asked) if step == "post" else None
            self.asked.append((*self.send(URL, body), step == "get"))
        elif step == "abort" and self.asked:
            chosen = number % len(self.asked)
            heard, exchange, _ = self.asked[chosen]
            if not self.ends(heard):
                self.aborted.add(chosen)
            exchange.abort()
        elif step == "accept" and dialled:
            chosen = dialled[number % len(dialled)]
            self.settled.add(chosen)
            self.sockets.append(self.reactor.accept(chosen))
        elif step == "refuse" and dialled:
            chosen = dialled[number % len(dialled)]
            self.settled.add(chosen)
            self.reactor.refuse(error.ConnectionRefusedError(), chosen)
        elif step in ("answer", "close answer", "extra") and busy:
            self.answer(busy[number % len(busy)], step)
        elif step == "lose" and alive:
            alive[number % len(alive)].lose()
        elif step == "unseen" and alive:
            alive[number % len(alive)].unread = b""
        elif step == "wait":
            self.reactor.advance(1)
        elif step == "wait long":
            self.reactor.advance(21)

    def open_dial(self, index: int) -> bool:
        """Whether a dialling is still under way."""
        return index not in self.settled and not self.reactor.connectors[index].stoppedConnecting

    def pending(self, socket: Any) -> bytes | None:
        """The body of the request that a connection carries, empty for a GET."""
        requests = re.findall(rb"(POST|GET) .*?\r\n\r\n([0-9]*)", socket.value(), re.DOTALL)
        self.assertLessEqual(len(requests), 1, "a request sent before the last was answered")
        return requests[0][1] if requests else None

    def answer(self, socket: Any, how: str) -> None:
        """Answer with the request's own number, and more bytes or a farewell if so wished."""
        body = self.pending(socket)
        socket.clear()
        if not body:
            socket.receive(EVENTS + b"2\r\n: \r\n0\r\n\r\n")
            return
        close = b"Connection: close\r\n" if how == "close answer" else b""
        head = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (close, len(body))
        socket.receive(head + body + (head + b"X" * len(body) if how == "extra" else b""))

    @staticmethod
    def ends(heard: Heard) -> int:
        """How many ends somebody heard."""
        return heard.ended + len(heard.failures)

    def check_bounds(self) -> None:
        """No more connections, open or being opened, than may be."""
        alive = sum(not one.lost for one in self.sockets)
        dialling = sum(self.open_dial(n) for n in range(len(self.reactor.dialled)))
        streams = sum(
            get and not self.ends(heard) and number not in self.aborted
            for number, (heard, _, get) in enumerate(self.asked)
        )
        self.assertLessEqual(streams, 2)
        self.assertLessEqual(alive + dialling - len(self.closing()), 3 + 2)

    def closing(self) -> list[Any]:
        """Connections that end with the reactor's next turn."""
        return [one for one in self.sockets if not one.lost and self.dead(one)]

    @staticmethod
    def dead(socket: Any) -> bool:
        """Whether the wire has given a connection up."""
        connection = socket.protocol
        while not hasattr(connection, "dead"):
            connection = connection._wrappedProtocol
        return bool(connection.dead)

    def finish(self) -> None:
        """Let all that is under way come to an end, and look at what everybody heard."""
        self.settle()
        self.reactor.advance(30)
        for socket in self.sockets:
            if socket.lost:
                socket.clear()
        # Whatever happened has cost no place: as much as ever can run at once.
        again = [self.send(URL, body)[0] for body in (b"1000", b"1000", b"1000", None, None)]
        self.accept_all()
        self.assertEqual(sum(self.pending(one) is not None for one in self.sockets), 5)
        self.settle()
        self.assertEqual([heard.ended for heard in again], [1] * 5)
        for number, (heard, _, get) in enumerate(self.asked):
            self.assertEqual(self.ends(heard), number not in self.aborted, f"request {number}")
            if heard.ended:
                self.assertEqual(heard.body, b": " if get else b"%d" % number)
        closing = [wire.close() for wire in self.wires.values()]
        self.turn()
        for one in closing:
            self.successResultOf(one)
        self.turn()
        self.assertEqual([one for one in self.sockets if not one.lost], [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def settle(self) -> None:
        """Accept and answer all there is."""
        for _ in range(len(self.asked) + 5):
            self.accept_all()
            for socket in self.sockets:
                if not socket.lost and self.pending(socket) is not None:
                    self.answer(socket, "answer")

    def accept_all(self) -> None:
        """Accept every connection that is asked for."""
        for index in range(len(self.reactor.dialled)):
            if self.open_dial(index):
                self.settled.add(index)
                self.sockets.append(self.reactor.accept(index))
