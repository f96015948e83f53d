"""Connections that are to move and cannot, or not yet; what moves is in ``tests.live``."""

from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.channel import GuardChannel
from mcpguard.front.connection import Phase
from mcpguard.front.fast_channel import FastChannel
from mcpguard.front.handover import Outcome, Parcel, request_bytes, session_named
from mcpguard.front.head import Head, HeadReader
from mcpguard.front.moving import Handover, HandoverBounds
from tests.front.wire import Client, Listener, request

PARKED = b'{"params":{"requestState":"2.a"}}'
SOUND = request("POST /mcp", body=b"{}")


def of_session(session: str, body: bytes = b"{}", line: str = "POST /mcp", *fields: str) -> bytes:
    """A request of a session."""
    return request(line, f"Mcp-Session-Id: {session}", *fields, body=body)


@define(eq=False)
class Colleagues:
    """The test decides what becomes of each connection."""

    sent: list[tuple[int, Parcel, Deferred[Outcome]]] = field(factory=list)
    taken_back: int = 0

    def owner_of(self, token: str) -> int | None:
        """By the number; this is the first."""
        number = int(token.partition(".")[0])
        return None if number == 1 else number

    def send(self, owner: int, parcel: Parcel, descriptor: int) -> Deferred[Outcome]:
        """Keep it."""
        outcome: Deferred[Outcome] = Deferred(self._take_back)
        self.sent.append((owner, parcel, outcome))
        return outcome

    def _take_back(self, _: Deferred[Outcome]) -> None:
        self.taken_back += 1

    def settle(self, outcome: Outcome, index: int = -1) -> None:
        """Say what became of one."""
        self.sent[index][2].callback(outcome)


class MovingCase(SynchronousTestCase):
    """A listener that has colleagues."""

    def setUp(self) -> None:
        """Share it."""
        self.listener = Listener(fast=True)
        self.colleagues = Colleagues()
        self.outcomes: list[str] = []
        self.homes: list[tuple[str, str]] = []
        self.handover = Handover(
            self.listener.clock,
            self.colleagues,
            HandoverBounds(connections=3, unread_bytes=5_000),
            self.outcomes.append,
            self.home_of,
        )
        self.listener.site.share(self.handover)

    def home_of(
        self, path: str, headers: Mapping[str, Any], peer: str, certificate: Any, notes: Any
    ) -> int | None:
        """Where a test says."""
        self.homes.append((path, peer))
        return int(headers["x-home"][0]) if "x-home" in headers else None

    def begin(self, *pieces: bytes, peer: str = "203.0.113.9") -> Client:
        """Send a request in pieces, and take a turn."""
        client = self.listener.connect(peer)
        for piece in pieces:
            client.send(piece)
        self.listener.clock.advance(0)
        return client

    def phase(self, client: Client) -> Phase:
        """Where it is."""
        assert isinstance(client.channel, GuardChannel)
        return client.channel.phase

    def served(self) -> list[bytes]:
        """The bodies that were served here."""
        return [incoming.body for incoming, _ in self.listener.corridor.handled]


class StayingTests(MovingCase):
    """What cannot move is served here, as if nothing had been."""

    def test_owner_gone(self) -> None:
        """The request and all that follows it are served here, in order."""
        many = [of_session("2.a", b"%d" % number) for number in range(5)]
        client = self.begin(b"".join(many))
        for number in range(5):
            self.assertEqual(self.served(), [b"%d" % n for n in range(number)])
            self.assertEqual(self.colleagues.sent[-1][1].unread, b"".join(many[number:]))
            self.colleagues.settle(Outcome.GONE)
            self.listener.clock.advance(0)
        answers = client.answers("POST " * 5)
        self.assertEqual([answer.status for answer in answers], [200] * 5)
        self.assertFalse(client.closed)
        self.assertEqual(client.transport.producerState, "producing")

    def test_in_pieces(self) -> None:
        """However a request arrives, it is the same one that stays."""
        data = of_session("2.a", b"x" * 30)
        for cut in range(len(data) - 30, len(data), 7):
            client = self.begin(data[:cut])
            self.colleagues.settle(Outcome.GONE)
            client.send(data[cut:])
            self.assertEqual(client.answer().body, b"ok")
            client.leave()
        self.assertEqual(set(self.served()), {b"x" * 30})

    def test_chunked(self) -> None:
        """A body in chunks stays one."""
        chunks = b"4\r\nabcd\r\n0\r\n\r\n"
        client = self.begin(of_session("2.a", chunks, "POST /mcp", "Transfer-Encoding: chunked"))
        self.colleagues.settle(Outcome.GONE)
        self.assertEqual((self.served(), client.answer().status), ([b"abcd"], 200))

    def test_parked(self) -> None:
        """So does a request that was read whole before anybody knew whose it is."""
        for data in (
            request("POST /mcp", body=PARKED),
            request("POST /mcp", "Expect: 100-continue", body=PARKED),
            request(
                "POST /mcp",
                "Transfer-Encoding: chunked",
                body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(PARKED), PARKED),
            ),
        ):
            client = self.begin(data + SOUND)
            owner, parcel, _ = self.colleagues.sent[-1]
            self.assertEqual(owner, 2)
            self.assertTrue(parcel.unread.endswith(b"\r\n\r\n" + PARKED + SOUND), parcel.unread)
            self.assertNotIn(b"chunked", parcel.unread)
            self.assertNotIn(b"Expect", parcel.unread)
            self.assertIn(b"Content-Length: %d\r\n" % len(PARKED), parcel.unread)
            self.colleagues.settle(Outcome.GONE)
            self.assertEqual(self.served()[-2:], [PARKED, b"{}"])
            client.leave()
        self.assertEqual(self.listener.site.bodies.held, 0)

    def test_home(self) -> None:
        """A request of no session goes where it has its home, if it has one."""
        self.begin(request("POST /mcp/a", "X-Home: 3", body=b"{}"))
        self.assertEqual(self.colleagues.sent[0][0], 3)
        self.begin(request("POST /mcp/a", body=b"{}"))
        self.assertEqual((len(self.colleagues.sent), len(self.served())), (1, 1))
        self.begin(of_session("1.a", b"{}", "POST /mcp", "X-Home: 3"))
        self.assertEqual((len(self.colleagues.sent), len(self.served())), (1, 2))
        self.assertEqual(set(self.homes), {("/mcp/a", "203.0.113.9")})

    def test_owner_busy(self) -> None:
        """An owner that takes it not in time costs a 503 that says so, and nothing else."""
        for data in (of_session("2.a"), request("POST /mcp", body=PARKED)):
            client = self.begin(data)
            self.colleagues.settle(Outcome.BUSY)
            self.assertEqual(client.answer().status, 503)
            client.leave()
        self.assertEqual(self.served(), [])
        self.assertEqual(self.outcomes, ["busy", "busy"])
        self.assertEqual(self.listener.site.connections, 0)

    def test_refused_before(self) -> None:
        """What is refused anyway moves nowhere."""
        for data, status in (
            (of_session("2.a", b"", "POST /mcp", "Content-Length: 1001"), 413),
            (of_session("2.a", b"", "POST /mcp", "Content-Length: 1", "Content-Length: 2"), 400),
            (request("POST /mcp", "Mcp-Session-Id: 2.a", "mcp-session-id: 3.b", body=b"{}"), 200),
        ):
            self.assertEqual(self.begin(data).answer().status, status, data)
        self.assertEqual(self.colleagues.sent, [])


class BoundTests(MovingCase):
    """How much may be on its way."""

    def test_connections(self) -> None:
        """No more than the bound; what comes on top is told to come again."""
        for number in range(3):
            self.begin(of_session("2.a"), peer=f"203.0.113.{number}")
        client = self.begin(of_session("2.a"), peer="203.0.113.9")
        self.assertEqual((client.answer().status, len(self.colleagues.sent)), (503, 3))
        self.colleagues.settle(Outcome.GONE, 0)
        client.leave()
        self.begin(of_session("2.a"), peer="203.0.113.9")
        self.assertEqual(len(self.colleagues.sent), 4)

    def test_bytes(self) -> None:
        """No more bytes than the bound, over all of them."""
        for number in range(3):
            self.begin(of_session("2.a", b"x" * 800) * 2, peer=f"203.0.113.{number}")
        self.assertEqual(len(self.colleagues.sent), 2)
        self.assertEqual(self.outcomes, ["busy"])

    def test_unread_answer(self) -> None:
        """It waits for the answer before to be read, until that takes too long."""
        client = self.listener.connect()
        client.transport.stuck = True
        self.listener.corridor.hold = True
        client.send(of_session("1.a") + of_session("2.a"))
        self.listener.corridor.handled[0][1].answer(200, (), b"x" * 70_000)
        self.listener.pass_time(1)
        self.assertEqual(self.colleagues.sent, [])
        self.listener.pass_time(30)
        self.assertEqual(self.listener.dropped, ["slow_reader"])
        self.assertEqual((self.colleagues.sent, self.listener.site.connections), ([], 0))

    def test_read_at_last(self) -> None:
        """Once it is read the connection moves."""
        client = self.listener.connect()
        client.transport.stuck = True
        self.listener.corridor.hold = True
        client.send(of_session("1.a") + of_session("2.a"))
        self.listener.corridor.handled[0][1].answer(200, (), b"x" * 60_000)
        self.listener.pass_time(1)
        self.assertEqual((len(self.colleagues.sent), self.phase(client)), (0, Phase.MOVING))
        client.transport.read_on()
        self.assertEqual(len(self.colleagues.sent), 1)
        self.colleagues.settle(Outcome.GONE)
        self.assertEqual(self.phase(client), Phase.ANSWERING)


class EndTests(MovingCase):
    """Connections that end on their way."""

    def test_client_leaves(self) -> None:
        """What is not sent yet is taken back: its descriptor may be another's from now on."""
        client = self.begin(of_session("2.a"))
        client.leave()
        self.assertEqual(self.colleagues.taken_back, 1)
        self.assertEqual(self.listener.site.connections, 0)
        for number in range(3):
            self.begin(of_session("2.a"), peer=f"203.0.113.{number}")
        self.assertEqual(len(self.colleagues.sent), 4, "it still counts")

    def test_dropped(self) -> None:
        """So is that of a connection that is cut at the end of a drain."""
        self.begin(of_session("2.a"))
        drained = self.listener.site.drain(1.0)
        self.listener.pass_time(2)
        self.assertEqual(self.successResultOf(drained), 1)
        self.assertEqual(self.colleagues.taken_back, 1)

    def test_drained(self) -> None:
        """In a drain it still moves: who owns the session may go on."""
        client = self.begin(of_session("2.a"))
        drained = self.listener.site.drain(9.0)
        self.assertNoResult(drained)
        self.colleagues.settle(Outcome.GONE)
        self.assertEqual(client.answer().headers["Connection"], "close")
        self.assertEqual(self.successResultOf(drained), 0)


class NameTests(SynchronousTestCase):
    """What a head says of its session."""

    def head(self, *lines: str) -> Head:
        """Read one."""
        reader = HeadReader(10_000, 50)
        for line in lines:
            reader.line(line.encode())
        head = reader.line(b"")
        assert head is not None
        return head

    def test_named(self) -> None:
        """By the header first, then by the query of HTTP+SSE, each only once."""
        for target, fields, named in (
            ("/mcp", (), None),
            ("/mcp", ("Mcp-Session-Id: a",), "a"),
            ("/mcp", ("Mcp-Session-Id: a", "Mcp-Session-Id: b"), None),
            ("/mcp/x/messages?sessionId=a", (), "a"),
            ("/messages?x=1&sessionId=a%2Eb", (), "a.b"),
            ("/messages?sessionId=a&sessionId=b", (), None),
            ("/messages?sessionId=a", ("Mcp-Session-Id: b",), "b"),
            ("/mcp?sessionId=a", (), None),
            ("/messages?" + "sessionId=a&" * 200, (), None),
            ("/messages?asessionId=a", (), None),
        ):
            head = self.head(f"POST {target} HTTP/1.1", "Host: x", *fields)
            self.assertEqual(session_named(head), named, (target, fields))

    def test_read_again(self) -> None:
        """A request that was read whole says the same when it is read again."""
        head = self.head(
            "POST /mcp HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "X-A: 1", "X-A: 2"
        )
        again = request_bytes(head, b"body")
        lines, _, body = again.partition(b"\r\n\r\n")
        read = self.head(*lines.decode().split("\r\n"))
        self.assertEqual((read.length, body, read.fault), (4, b"body", ""))
        self.assertEqual(read.headers["x-a"], ("1", "2"))


class SmallestCost(MovingCase):
    """What is at home here."""

    def test_fast(self) -> None:
        """It stays on the fast channel."""
        client = self.begin(of_session("1.a"), of_session("1.b"))
        self.assertIsInstance(client.channel, FastChannel)
        self.assertEqual(self.outcomes, [])
