"""Connections that move between listeners, with real sockets and the kernel between them."""

import json
import socket
import struct
import time
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from mcpguard.front.site import GuardSite
from mcpguard.policy.certificates import PeerCertificate, Verified, Withdrawn, anchor_of
from tests.front.wire import read_answers
from tests.live.handover_case import HandoverCase, ask, post, reactor, told
from tests.live.secure import Secure
from tests.live.test_front_wire import receive_all

MIB = 1_048_576


class Conversations:
    """What must be the same however the connection gets to its owner."""

    listeners: Any
    connect: Any
    client: Any
    until: Any
    registered: Any
    assertEqual: Any
    assertIn: Any
    assertLess: Any
    moves_per_switch = 1

    async def test_one_session(self) -> None:
        """A client with one session is served by its owner, on the connection it has."""

        def converse() -> list[Any]:
            client = self.client()
            answers = [ask(client, "2.a", b"[%d]" % number) for number in range(5)]
            client.close()
            return answers

        answers = await deferToThread(converse)
        self.assertEqual([answer["worker"] for answer in answers], [2] * 5)
        self.assertEqual([answer["tail"] for answer in answers], [f"[{n}]" for n in range(5)])
        self.assertEqual({answer["peer"] for answer in answers}, {"127.0.0.1"})
        port = self.listeners[1].port.getHost().port
        self.assertEqual({answer["port"] for answer in answers}, {port})
        self.assertEqual(self.listeners[1].outcomes, ["sent"])
        self.assertEqual(self.listeners[2].outcomes, ["arrived"])
        await self.until(lambda: self.registered() == [0, 0, 0])
        self.assertEqual([one.dropped for one in self.listeners.values()], [[]] * 3)

    async def test_many_sessions(self) -> None:
        """A client may change its session with every request, as a proxy of many clients does."""

        def converse() -> list[tuple[Any, Any]]:
            client = self.client()
            found = []
            for number in range(30):
                session = f"{number * 7 % 3 + 1}.{number}"
                answer = ask(client, session, b"x" * (number * 400))
                found.append((session, (answer["worker"], answer["session"], answer["size"])))
            client.close()
            return found

        for number, (session, answer) in enumerate(await deferToThread(converse)):
            self.assertEqual(answer, (int(session[0]), session, number * 400))
        await self.until(lambda: self.registered() == [0, 0, 0])

    async def test_pipelined(self) -> None:
        """Requests sent in one go are answered in order, each by its owner, and none is lost."""
        sessions = [f"{number * 5 % 3 + 1}.{number}" for number in range(20)]
        data = b"".join(post(one, b"%d" % number) for number, one in enumerate(sessions))

        def converse(pieces: list[bytes]) -> bytes:
            with self.connect() as connection:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.001)
                connection.sendall(post(None, b"last", "Connection: close"))
                return receive_all(connection)

        for size in (len(data), 1_000, 100):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            received = await deferToThread(converse, pieces)
            answers = [json.loads(one.body) for one in read_answers(received, "POST " * 21)]
            self.assertEqual([one["session"] for one in answers], [*sessions, None])
            self.assertEqual([one["worker"] for one in answers[:-1]], [int(s[0]) for s in sessions])
            self.assertEqual([one["tail"] for one in answers[:-1]], [str(n) for n in range(20)])

    async def test_body_in_pieces(self) -> None:
        """A body may come before, while and after the connection moves, with a length or chunks."""
        body = bytes(range(256)) * 4_000
        plain = post("3.a", body)
        head = post("3.a", b"", "Transfer-Encoding: chunked")
        chunked = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

        def converse(data: bytes, first: int, pause: float) -> Any:
            with self.connect() as connection:
                connection.sendall(data[:first])
                time.sleep(pause)
                connection.sendall(data[first:])
                response = HTTPResponse(connection)
                response.begin()
                return told(response)

        for data in (plain, chunked):
            for first in (10, data.index(b"\r\n\r\n") + 4, 3_000, 70_000):
                for pause in (0.0, 0.05):
                    answer = await deferToThread(converse, data, first, pause)
                    self.assertEqual((answer["worker"], answer["size"]), (3, len(body)))
        for listener in self.listeners.values():
            self.assertEqual(set(listener.bodies), {body} if listener.number == 3 else set())
            await self.until(lambda held=listener.site.bodies: held.held == 0)

    async def test_parked(self) -> None:
        """A request that goes on with what a worker holds reaches it by its body, of any size."""

        def converse() -> list[Any]:
            answers = []
            for fill in (0, 30_000, 1_500_000):
                state = {"requestState": "2.sealed", "inputResponses": {"a": "x" * fill}}
                body = json.dumps({"method": "tools/call", "params": state}).encode()
                client = self.client()
                answers.append((ask(client, None, body), len(body)))
                client.request("POST", "/mcp", body=iter([body]), encode_chunked=True)
                answers.append((told(client.getresponse()), len(body)))
                client.request("POST", "/mcp", body, {"Expect": "100-continue"})
                answers.append((told(client.getresponse()), len(body)))
                client.close()
            return answers

        for answer, size in await deferToThread(converse):
            self.assertEqual(
                (answer["worker"], answer["size"], answer["tail"][-4:]),
                (2, size, answer["tail"][-4:]),
            )
        self.assertEqual(len(self.listeners[2].corridor.handled), 9)
        self.assertEqual(self.listeners[1].site.bodies.held, 0)

    async def test_session_before_state(self) -> None:
        """Where a session is named it decides: no request has two owners, and none goes round."""
        body = b'{"params": {"requestState": "3.sealed"}}'
        answer = await deferToThread(lambda: ask(self.client(), "2.a", body))
        self.assertEqual(answer["worker"], 2)
        self.assertEqual(
            [one.outcomes for one in self.listeners.values()], [["sent"], ["arrived"], []]
        )

    async def test_messages(self) -> None:
        """HTTP+SSE names its session in the address."""

        def converse() -> Any:
            client = self.client()
            client.request("POST", "/mcp/a/messages?sessionId=3.abc", b"{}")
            return told(client.getresponse())

        self.assertEqual((await deferToThread(converse))["worker"], 3)

    async def test_expectation(self) -> None:
        """Whoever waits for 100 Continue gets it, once, from the owner."""

        def converse() -> bytes:
            with self.connect() as connection:
                head = post("2.a", b"", "Expect: 100-continue", "Content-Length: 4")
                connection.sendall(head)
                received: bytes = connection.recv(1000)
                connection.sendall(b"body")
                received += connection.recv(100_000)
                return received

        received = await deferToThread(converse)
        self.assertEqual(received.count(b"100 Continue"), 1)
        self.assertIn(b'"worker": 2', received)

    async def test_long_answer_before(self) -> None:
        """The answer before is whole though its client is slow, and then comes the owner's."""
        data = post("1.a", target=f"/mcp?{8 * MIB}") + post("2.a", b"two")

        def whole() -> list[Any]:
            with self.connect() as connection:
                connection.sendall(data + post(None, b"", "Connection: close"))
                time.sleep(0.5)
                received = receive_all(connection)
            return [json.loads(one.body) for one in read_answers(received, "POST POST POST")]

        one, two, _ = await deferToThread(whole)
        self.assertEqual((one["worker"], two["worker"], two["tail"]), (1, 2, "two"))

    async def test_client_leaves(self) -> None:
        """The owner hears at once that its client has left."""
        self.listeners[2].corridor.hold = True
        left: Deferred[None] = Deferred()
        connection = await deferToThread(self.connect)
        await deferToThread(connection.sendall, post("2.a"))
        await self.until(lambda: self.listeners[2].corridor.handled)
        outlet = self.listeners[2].corridor.handled[0][1]
        outlet.on_gone(lambda: left.callback(None))
        connection.close()
        await left
        await self.until(lambda: self.registered() == [0, 0, 0])

    async def test_stream(self) -> None:
        """A stream is opened at the owner and lives on the connection that moved."""
        self.listeners[3].corridor.hold = True
        connection = await deferToThread(self.connect)
        head = post("3.a").replace(b"POST", b"GET").replace(b"Content-Length: 2\r\n", b"")[:-2]
        await deferToThread(connection.sendall, head)
        await self.until(lambda: self.listeners[3].corridor.handled)
        outlet = self.listeners[3].corridor.handled[0][1]
        outlet.open(200, (("Content-Type", "text/event-stream"),))
        sent = b"".join(b"data: %d\n\n" % number for number in range(200_000))
        for at in range(0, len(sent), 10_000):
            outlet.write(sent[at : at + 10_000])
        outlet.finish()
        received = await deferToThread(_read_stream, connection)
        self.assertEqual(received, sent)
        connection.close()

    async def test_owner_gone(self) -> None:
        """Where an owner is not there the next one serves, and the connection is no worse off."""
        self.listeners[2].board.stop()
        self.listeners[3].board.stop()

        def converse() -> list[Any]:
            client = self.client()
            answers = [ask(client, f"{1 + n % 3}.a", b"%d" % n * 900) for n in range(6)]
            client.close()
            return [(answer["worker"], answer["tail"][-1]) for answer in answers]

        self.assertEqual(await deferToThread(converse), [(1, str(n)) for n in range(6)])
        data = b"".join(post(f"{1 + n % 3}.a", b"%d" % n) for n in range(6))

        def pipelined() -> list[Any]:
            with self.connect() as connection:
                connection.sendall(data + post(None, b"", "Connection: close"))
                return [
                    json.loads(one.body)
                    for one in read_answers(receive_all(connection), "POST " * 7)
                ]

        answers = await deferToThread(pipelined)
        self.assertEqual([one["tail"] for one in answers[:-1]], [str(n) for n in range(6)])

    async def test_stand_in(self) -> None:
        """All workers agree who stands in for one that is not there."""
        self.listeners[2].board.stop()

        def converse() -> list[int]:
            return [ask(self.client(number), "2.a")["worker"] for number in (1, 3)]

        self.assertEqual(await deferToThread(converse), [3, 3])

    async def test_nothing_goes_round(self) -> None:
        """Two that take each other for the owner pass a request on once."""
        for number, other in ((1, 2), (2, 1)):
            self.listeners[number].board.owner_of = lambda token, other=other: other
        answers = await deferToThread(
            lambda: [ask(self.client(), "9.a"), ask(self.client(2), "9.a")]
        )
        self.assertEqual([answer["worker"] for answer in answers], [2, 1])
        self.assertEqual(self.listeners[1].outcomes, ["sent", "arrived"])

    async def test_owner_busy(self) -> None:
        """An owner that takes nothing in time costs its clients a 503, and no one anything else."""
        reactor.removeReader(self.listeners[2].board._mailbox)

        def converse() -> tuple[Any, Any]:
            clients = [self.client() for _ in range(14)]
            for client in clients:
                client.request("POST", "/mcp", b"{}", {"Mcp-Session-Id": "2.a"})
                time.sleep(0.01)
            # The mailbox holds some of them; the last have waited.
            status = clients[-1].getresponse().status
            return status, ask(self.client(), "1.a")["worker"]

        self.assertEqual(await deferToThread(converse), (503, 1))
        self.assertIn("busy", self.listeners[1].outcomes)
        reactor.addReader(self.listeners[2].board._mailbox)


def _read_stream(connection: Any) -> bytes:
    response = HTTPResponse(connection)
    response.begin()
    received: bytes = response.read()
    return received


class PlainHandover(Conversations, HandoverCase):
    """Over TCP: the descriptor moves."""

    async def test_not_kept(self) -> None:
        """Who has passed a connection on keeps nothing of it: its owner alone can end it."""

        def converse() -> tuple[int, bytes]:
            with self.connect() as connection:
                connection.sendall(post("2.a", b"", "Connection: close"))
                received = receive_all(connection)
            return len(read_answers(received, "POST")), received[-1:]

        self.assertEqual(await deferToThread(converse), (1, b"}"))
        await self.until(lambda: self.registered() == [0, 0, 0])

    async def test_resets(self) -> None:
        """Clients that reset their connection on the way leave nothing behind."""

        def converse() -> None:
            for number in range(60):
                connection = self.connect(1 + number % 3)
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(
                    post(f"{1 + number % 2}.a")[: 40 + number * 2] if number % 3 else post("2.a")
                )
                connection.close()

        await deferToThread(converse)
        await self.until(lambda: self.registered() == [0, 0, 0])

    async def test_full_owner(self) -> None:
        """An owner that may have no more connections takes none by this way either."""
        self.listeners[2].site.limits = self.limits
        many = [await deferToThread(self.connect, 2) for _ in range(40)]
        await self.until(lambda: self.listeners[2].site.connections == 40)

        def converse() -> bytes:
            with self.connect() as connection:
                connection.sendall(post("2.a"))
                return receive_all(connection)

        self.assertEqual(await deferToThread(converse), b"")
        self.assertEqual(self.listeners[2].dropped, ["too_many_connections"])
        for connection in many:
            connection.close()


class SecureHandover(Conversations, HandoverCase):
    """Over TLS: it ends where it began, and the bytes pass."""

    def setUp(self) -> None:
        """Make certificates, and begin."""
        directory = Path(self.mktemp())
        directory.mkdir()
        self.secure = Secure(directory)
        self.who: str | None = None
        super().setUp()

    def listen(self, site: GuardSite) -> Any:
        """Speak TLS."""
        return reactor.listenTCP(0, self.secure.factory(site), interface="127.0.0.1")

    def dressed(self, connection: socket.socket) -> Any:
        """Speak TLS."""
        return self.secure.context(self.who).wrap_socket(connection)

    async def test_certificate(self) -> None:
        """The owner knows by which certificate its client came, whoever else's passed before."""

        def converse(who: str | None) -> list[Any]:
            self.who = who
            client = self.client()
            sessions = ("1.a", "2.a", None, "3.a", "2.b")
            answers = [ask(client, session, b"x" * 50_000) for session in sessions]
            client.close()
            return answers

        for who in ("alice", None, "bob"):
            answers = await deferToThread(converse, who)
            self.assertEqual([answer["worker"] for answer in answers], [1, 2, 2, 3, 2])
            self.assertEqual({answer["who"] for answer in answers}, {who})
        await self.until(lambda: self.registered() == [0, 0, 0])

    async def test_certificate_is_revoked(self) -> None:
        """Whichever of the two hears of it ends the whole connection."""
        self.change(linger_secs=0.2)
        self.who = "alice"
        for number in (1, 2):
            connection = await deferToThread(self.connect)
            await deferToThread(connection.sendall, post("2.a"))
            await self.until(lambda: self.registered() == [1, 1, 0])
            site = self.listeners[number].site
            site.withdrawn = lambda one: (
                Withdrawn.REVOKED if one.common_names == ("alice",) else None
            )
            self.assertEqual(site.cut_withdrawn(), 1)
            await self.until(lambda: self.registered() == [0, 0, 0])
            self.assertEqual(self.listeners[number].dropped, ["certificate_revoked"])
            connection.close()
            site.withdrawn = lambda certificate: None
        # One that is sent to where it is known to count no more does not begin there: what is
        # judged there is how it was verified here.
        judged: list[PeerCertificate] = []

        def withdrawn(certificate: PeerCertificate) -> Withdrawn:
            judged.append(certificate)
            return Withdrawn.UNTRUSTED

        self.listeners[3].site.withdrawn = withdrawn
        connection = await deferToThread(self.connect)
        await deferToThread(connection.sendall, post("3.a"))
        self.assertEqual(await deferToThread(receive_all, connection), b"")
        self.assertEqual(self.listeners[3].dropped, ["certificate_untrusted"])
        anchor = anchor_of(self.secure.clients.certificate)
        self.assertEqual([one.verified for one in judged], [Verified(0, anchor, ())])
        self.assertEqual(self.listeners[3].corridor.handled, [])

    async def test_owner_ends(self) -> None:
        """When the owner ends the connection its client sees that, and all of the answer."""

        def converse() -> bytes:
            with self.connect() as connection:
                connection.sendall(post("2.a", b"", "Connection: close", target=f"/mcp?{2 * MIB}"))
                return receive_all(connection)

        received = await deferToThread(converse)
        (answer,) = read_answers(received, "POST")
        self.assertEqual((answer.status, len(answer.body) > 2 * MIB), (200, True))
        await self.until(lambda: self.registered() == [0, 0, 0])

    async def test_slow_reader(self) -> None:
        """A client that does not read holds no more than the buffers on the way."""
        self.change(stall_secs=1)
        self.listeners[2].corridor.hold = True
        connection = await deferToThread(self.connect)
        await deferToThread(connection.sendall, post("2.a"))
        await self.until(lambda: self.listeners[2].corridor.handled)
        outlet = self.listeners[2].corridor.handled[0][1]
        outlet.answer(200, (), b"x" * (16 * MIB))
        await self.until(lambda: self.registered() == [0, 0, 0])
        self.assertIn("slow_reader", self.listeners[1].dropped + self.listeners[2].dropped)
        connection.close()

    async def test_owner_dies(self) -> None:
        """When its owner ends in the middle of a request its client sees the end."""
        self.change(linger_secs=0.2)
        self.listeners[2].corridor.hold = True
        connection = await deferToThread(self.connect)
        await deferToThread(connection.sendall, post("2.a"))
        await self.until(lambda: self.listeners[2].corridor.handled)
        (channel,) = self.listeners[2].site._channels
        channel.transport.abortConnection()
        self.assertEqual(await deferToThread(receive_all, connection), b"")
        await self.until(lambda: self.registered() == [0, 0, 0])
