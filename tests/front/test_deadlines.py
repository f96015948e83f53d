"""Slow clients, and how many of them there may be."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from tests.front.wire import Client, Listener, limited, request

SOUND = request("POST /mcp", body=b"{}")


class Deadlines(SynchronousTestCase):
    """Waiting, sending slowly, reading slowly."""

    def setUp(self) -> None:
        """A listener: head 10 s, body 20 s, idle 60 s, stall 30 s, linger 5 s."""
        self.listener = Listener()

    def drip(self, client: Client, seconds: int) -> None:
        """Send a byte a second."""
        for _ in range(seconds):
            if not client.closed:
                client.send(b"x")
            self.listener.pass_time(1)

    def test_nothing_sent(self) -> None:
        """Who connects and says nothing is left without a word, and not counted as an attack."""
        client = self.listener.connect()
        self.listener.pass_time(9)
        self.assertFalse(client.closed)
        self.listener.pass_time(2)
        self.assertTrue(client.transport.lost)
        self.assertEqual((client.received(), self.listener.dropped), (b"", []))

    def test_slow_head(self) -> None:
        """A head that does not end in time is 408, however steadily it grows."""
        client = self.listener.ask(b"GET /mcp HTTP/1.1\r\nX: ")
        self.drip(client, 9)
        self.assertFalse(client.closed)
        self.drip(client, 2)
        self.assertEqual(client.answer().status, 408)
        self.assertEqual(self.listener.dropped, ["slow_head"])

    def test_slow_body(self) -> None:
        """A body that does not end in time is refused with 408, and audited."""
        client = self.listener.ask(request("POST /mcp", "Content-Length: 900"))
        self.drip(client, 19)
        self.assertFalse(client.closed)
        self.drip(client, 2)
        self.assertEqual(client.answer().status, 408)
        self.assertIs(self.listener.corridor.refused[0][1].reason, Reason.SLOW_REQUEST)
        self.assertEqual(self.listener.corridor.handled, [])

    def test_total_deadline(self) -> None:
        """Head and body together have head_secs + body_secs, not an inch more."""
        client = self.listener.ask(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n")
        self.listener.pass_time(9)
        client.send(b"\r\n")
        self.drip(client, 20)
        self.assertEqual(client.answer().status, 408)

    def test_slow_chunks(self) -> None:
        """The same holds for chunks without end."""
        client = self.listener.ask(request("POST /mcp", "Transfer-Encoding: chunked"))
        for _ in range(21):
            if not client.closed:
                client.send(b"1\r\nx\r\n")
            self.listener.pass_time(1)
        self.assertEqual(client.answer().status, 408)

    def test_idle(self) -> None:
        """Between requests a connection may rest for idle_secs."""
        client = self.listener.ask(SOUND)
        self.listener.pass_time(59)
        client.send(SOUND)
        self.listener.pass_time(59)
        self.assertFalse(client.closed)
        self.listener.pass_time(2)
        self.assertTrue(client.transport.lost)
        self.assertEqual(len(client.answers("POST POST")), 2)

    def test_an_answer_may_take_long(self) -> None:
        """No deadline of the front runs while the answer is worked on."""
        self.listener.corridor.hold = True
        client = self.listener.ask(SOUND)
        self.listener.pass_time(1000)
        self.listener.corridor.handled[0][1].answer(200, (), b"at last")
        self.assertEqual(client.answer().body, b"at last")

    def test_rest_of_a_pipelined_head(self) -> None:
        """Half a request left behind a whole one has its own deadline."""
        client = self.listener.ask(SOUND + b"GET /mcp HTTP/1.1\r\n")
        self.listener.pass_time(11)
        self.assertEqual([one.status for one in client.answers("POST GET")], [200, 408])

    def test_part_of_a_pipelined_line(self) -> None:
        """So has half a line of one, behind a request with a body and behind one without."""
        for first in (SOUND, request("DELETE /mcp")):
            client = self.listener.ask(first + b"POST /m")
            self.listener.pass_time(11)
            self.assertEqual([one.status for one in client.answers("POST GET")], [200, 408])
        client = self.listener.ask(request("DELETE /mcp") + b"\x16\x03")
        self.assertEqual([one.status for one in client.answers("POST GET")], [200, 400])

    def test_never_reads(self) -> None:
        """Who takes nothing of a large answer is dropped after stall_secs."""
        self.listener.corridor.hold = True
        client = self.listener.ask(SOUND)
        client.transport.stuck = True
        outlet = self.listener.corridor.handled[0][1]
        left: list[str] = []
        outlet.on_gone(lambda: left.append("left"))
        outlet.answer(200, (), b"x" * 1_000_000)
        self.assertLess(client.transport.unread, 200_000)
        self.listener.pass_time(29)
        self.assertFalse(client.transport.aborted)
        self.listener.pass_time(2)
        self.assertTrue(client.transport.aborted)
        self.assertEqual((self.listener.dropped, left), (["slow_reader"], ["left"]))
        self.assertEqual(self.listener.site.connections, 0)

    def test_reads_slowly(self) -> None:
        """Who takes a buffer's worth in time keeps its answer, however long the whole takes."""
        self.listener.corridor.hold = True
        client = self.listener.ask(SOUND)
        client.transport.stuck = True
        self.listener.corridor.handled[0][1].answer(200, (), b"x" * 1_000_000)
        for _ in range(20):
            self.listener.pass_time(20)
            client.transport.read_on()
        self.assertEqual(client.answer().body, b"x" * 1_000_000)
        self.assertEqual(self.listener.dropped, [])

    def test_never_reads_the_end(self) -> None:
        """A connection that is to be closed is cut when its last bytes are never taken."""
        client = self.listener.connect()
        client.transport.stuck = True
        client.send(request("POST /mcp", "Connection: close", body=b"{}"))
        self.listener.pass_time(4)
        self.assertFalse(client.transport.aborted)
        self.listener.pass_time(2)
        self.assertTrue(client.transport.aborted)

    def test_pipelines_and_never_reads(self) -> None:
        """Answers to a reader that reads nothing stop at the transport's buffer."""
        client = self.listener.connect()
        client.transport.stuck = True
        client.send(request("GET /metrics") * 1000)
        self.assertLess(client.transport.unread, 70_000)
        while client.transport.unread:
            client.transport.read_on()
        self.assertEqual(len(client.answers("GET " * 1000)), 1000)

    def test_no_clock_ticks_for_nobody(self) -> None:
        """Without connections nothing is scheduled."""
        self.listener.ask(SOUND).leave()
        self.assertEqual(self.listener.clock.getDelayedCalls(), [])


class Crowds(SynchronousTestCase):
    """The caps on connections: 4 in all, 3 from one address."""

    def setUp(self) -> None:
        """A listener."""
        self.listener = Listener()

    def test_in_all(self) -> None:
        """One connection too many is dropped; when one ends there is room again."""
        clients = [self.listener.connect(f"203.0.113.{number}") for number in range(5)]
        self.assertTrue(clients[4].transport.aborted)
        self.assertEqual(self.listener.dropped, ["too_many_connections"])
        clients[4].send(SOUND)
        self.assertEqual((clients[4].received(), self.listener.corridor.handled), (b"", []))
        clients[0].leave()
        self.assertFalse(self.listener.connect("203.0.113.9").transport.aborted)

    def test_from_one_address(self) -> None:
        """One address cannot take every place, nor one IPv6 host with all its addresses."""
        for peers in (["192.0.2.1"] * 4, [f"2001:db8::{number}" for number in range(4)]):
            listener = Listener()
            clients = [listener.connect(peer) for peer in peers]
            aborted = [client.transport.aborted for client in clients]
            self.assertEqual(aborted, [False, False, False, True])
            self.assertEqual(listener.dropped, ["too_many_from_address"])
            clients[0].leave()
            self.assertFalse(listener.connect(peers[0]).transport.aborted)

    def test_another_address_is_not_concerned(self) -> None:
        """The cap of one address is no one else's."""
        for _ in range(4):
            self.listener.connect("2001:db8:0:1::1")
        self.assertFalse(self.listener.connect("2001:db8:0:2::1").transport.aborted)

    def test_the_count_comes_back(self) -> None:
        """Connections that were dropped as they came do not stay counted."""
        listener = Listener(limits=limited(connections=2))
        for _ in range(20):
            clients = [listener.connect() for _ in range(3)]
            for client in clients:
                client.leave()
            listener.pass_time(1)
        self.assertEqual(listener.site.connections, 0)
        self.assertEqual(len(listener.dropped), 20)


class Draining(SynchronousTestCase):
    """`GuardSite.drain`."""

    def setUp(self) -> None:
        """A listener on hold."""
        self.listener = Listener()
        self.listener.corridor.hold = True
        self.clock: Clock = self.listener.clock

    def test_nobody_there(self) -> None:
        """With no connection it is done at once."""
        self.assertEqual(self.successResultOf(self.listener.site.drain(30)), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle(self) -> None:
        """Idle connections, before or after a request, are closed at once."""
        self.listener.corridor.hold = False
        clients = [self.listener.connect(), self.listener.ask(SOUND)]
        self.assertEqual(self.successResultOf(self.listener.site.drain(30)), 0)
        self.assertTrue(all(client.transport.lost for client in clients))

    def test_wind_down(self) -> None:
        """Idle connections stay for one more request; its answer, and that of a running one, say
        that it is the last.
        """
        running, used = self.listener.ask(SOUND), self.listener.ask(SOUND)
        fresh = self.listener.connect()
        held = self.listener.corridor.handled
        held[1][1].answer(200, (), b"")
        self.listener.site.wind_down()
        self.assertFalse(any(one.closed for one in (running, used, fresh)))
        held[0][1].answer(200, (), b"")
        for client in (used, fresh):
            client.send(SOUND)
            held[-1][1].answer(200, (), b"")
        for client, methods in ((running, "POST"), (used, "POST POST"), (fresh, "POST")):
            answers = client.answers(methods)
            self.assertEqual([one.status for one in answers], [200] * len(answers))
            self.assertEqual(answers[-1].headers["Connection"], "close")
            self.assertTrue(client.closed)
        self.assertEqual(len(held), 4)

    def test_busy(self) -> None:
        """A running request gets its answer, which says that it is the last."""
        client = self.listener.ask(SOUND)
        client.send(SOUND)
        drained = self.listener.site.drain(30)
        self.assertFalse(client.closed)
        self.listener.corridor.handled[0][1].answer(200, (), b"done")
        self.assertEqual(client.answer().headers["Connection"], "close")
        self.assertEqual(self.successResultOf(drained), 0)
        self.assertEqual(len(self.listener.corridor.handled), 1)

    def test_half_sent(self) -> None:
        """A request that is on its way in is read to its end, from head or from body."""
        first = self.listener.ask(SOUND[:20])
        second = self.listener.ask(SOUND[:-1])
        third = self.listener.ask(SOUND)
        self.listener.corridor.handled[0][1].answer(200, (), b"")
        third.send(SOUND[:20])
        drained = self.listener.site.drain(30)
        first.send(SOUND[20:])
        second.send(SOUND[-1:])
        third.send(SOUND[20:])
        self.assertEqual(len(self.listener.corridor.handled), 4)
        for _, outlet in self.listener.corridor.handled[1:]:
            outlet.answer(200, (), b"")
        for client, methods in ((first, "POST"), (second, "POST"), (third, "POST POST")):
            self.assertEqual(client.answers(methods)[-1].headers["Connection"], "close")
        self.assertEqual(self.successResultOf(drained), 0)

    def test_streams(self) -> None:
        """The stream of a GET is ended; the one that answers a POST runs to its own end."""
        get = self.listener.ask(request("GET /mcp"))
        post = self.listener.ask(SOUND)
        left: list[str] = []
        for name, (_, outlet) in zip(("get", "post"), self.listener.corridor.handled, strict=True):
            outlet.on_gone(lambda name=name: left.append(name))  # type: ignore[misc]
            outlet.open(200, (("Content-Type", "text/event-stream"),))
            outlet.write(b"data: 1\n\n")
        drained = self.listener.site.drain(30)
        self.assertEqual(left, ["get"])
        self.assertEqual(get.answer("GET").body, b"data: 1\n\n")
        self.listener.corridor.handled[0][1].write(b"data: late\n\n")
        self.listener.corridor.handled[0][1].finish()
        self.assertNoResult(drained)
        self.listener.corridor.handled[1][1].write(b"data: 2\n\n")
        self.listener.corridor.handled[1][1].finish()
        self.assertEqual(post.answer().body, b"data: 1\n\ndata: 2\n\n")
        self.assertEqual(self.successResultOf(drained), 0)

    def test_streams_with_an_end_of_their_own(self) -> None:
        """A GET's stream whose maker ends it is left to its maker, within the same time."""
        get = self.listener.ask(request("GET /sse"))
        _, outlet = self.listener.corridor.handled[0]
        outlet.open(200, (("Content-Type", "text/event-stream"),), ends_in_drain=False)
        drained = self.listener.site.drain(30)
        outlet.write(b"data: 1\n\n")
        self.assertNoResult(drained)
        outlet.finish()
        self.assertEqual(get.answer("GET").body, b"data: 1\n\n")
        self.assertEqual(self.successResultOf(drained), 0)

    def test_limit(self) -> None:
        """What is not finished at the limit is cut, and counted."""
        client = self.listener.ask(SOUND)
        drained = self.listener.site.drain(30)
        self.listener.pass_time(29)
        self.assertNoResult(drained)
        self.listener.pass_time(2)
        self.assertEqual(self.successResultOf(drained), 1)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(self.listener.dropped, ["drain_limit"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_newcomers(self) -> None:
        """A connection that was accepted too late is dropped."""
        self.listener.ask(SOUND)
        self.listener.site.drain(30)
        self.assertTrue(self.listener.connect().transport.aborted)
        self.assertEqual(self.listener.dropped, ["draining"])

    def test_twice(self) -> None:
        """Draining again waits for the same end."""
        self.listener.ask(SOUND)
        first, second = self.listener.site.drain(30), self.listener.site.drain(30)
        self.listener.corridor.handled[0][1].answer(200, (), b"")
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (0, 0))


class TheSite(SynchronousTestCase):
    """What `GuardSite` does otherwise than Twisted's `Site`."""

    def test_http_2_is_not_offered(self) -> None:
        """ALPN offers HTTP/1.1 only."""
        self.assertEqual(Listener().site.acceptableProtocols(), [b"http/1.1"])

    def test_no_access_log(self) -> None:
        """Starting the factory opens no log and schedules nothing."""
        listener = Listener()
        listener.site.doStart()
        self.addCleanup(listener.site.doStop)
        self.assertEqual(listener.clock.getDelayedCalls(), [])
        self.assertEqual(listener.ask(SOUND).answer().status, 200)

    def test_date_moves_on(self) -> None:
        """The Date header is the wall clock's."""
        listener = Listener()
        client = listener.ask(SOUND)
        listener.pass_time(2)
        client.send(SOUND)
        dates = [answer.headers["Date"][-12:] for answer in client.answers("POST POST")]
        self.assertEqual(dates, ["22:13:20 GMT", "22:13:22 GMT"])

    def test_one_broken_connection_stops_no_sweep(self) -> None:
        """An error in one connection's check drops that one; the others keep their deadlines."""
        listener = Listener()
        broken, other = listener.connect(), listener.connect()
        broken.channel.check = None
        listener.pass_time(11)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(broken.transport.aborted)
        self.assertTrue(other.transport.lost)
        self.assertEqual(listener.dropped, ["failed"])
