"""Tests of the pool of connections: who gets which, who waits, and for how long."""

from twisted.internet import error

from mcpguard.errors import Reason
from mcpguard.upstream.wire import Exchange
from tests.upstream.http1_doubles import EVENTS, OK, URL, Heard, WireCase


class PoolTests(WireCase):
    """Connections are few, and used again."""

    bounds = {"max_connections": 2, "max_waiting": 3, "max_idle": 8}

    def posts(self, count: int) -> list[tuple[Heard, Exchange]]:
        """Send some requests at once."""
        return [self.send(URL) for _ in range(count)]

    def test_cap(self) -> None:
        """No more connections than said; who waits is served in order as they come free."""
        (one, _), (two, _), (three, _) = self.posts(3)
        self.assertEqual(len(self.reactor.dialled), 2)
        first, second = self.reactor.accept(0), self.reactor.accept(1)
        four, _ = self.send(URL)
        first.clear()
        first.receive(OK)
        self.assertIn(b"POST", first.value())
        self.assertEqual([h.ended for h in (one, two, three, four)], [1, 0, 0, 0])
        first.receive(OK)
        second.receive(OK)
        self.assertEqual([h.ended for h in (one, two, three, four)], [1, 1, 1, 0])
        first.receive(OK)
        self.assertEqual((four.ended, len(self.reactor.dialled)), (1, 2))

    def test_too_many_wait(self) -> None:
        """One more than may wait is refused as busy, and nothing else suffers."""
        for _ in range(2):
            self.send(URL)
            self.reactor.accept()
        running = self.posts(4)
        self.assertIs(running[3][0].failures[0].reason, Reason.UPSTREAM_BUSY)
        self.assertEqual(running[3][0].failures[0].retry_after, 1.0)
        self.assertEqual([len(heard.failures) for heard, _ in running[:3]], [0, 0, 0])

    def test_waiting_takes_an_end(self) -> None:
        """Who has waited for a free connection for long enough is told so, in time."""
        self.send(URL)
        self.send(URL)
        busy = [self.reactor.accept(0), self.reactor.accept(1)]
        early, _ = self.send(URL)
        self.reactor.advance(10)
        late, exchange = self.send(URL)
        self.reactor.advance(9.9)
        self.assertEqual(early.failures, [])
        self.reactor.advance(0.1)
        self.assertIs(early.failures[0].reason, Reason.UPSTREAM_BUSY)
        self.assertEqual((late.failures, exchange.sent), ([], False))
        busy[0].receive(OK)
        self.assertTrue(exchange.sent)
        self.reactor.advance(30)
        self.assertEqual(late.failures, [])

    def test_the_earlier_counts(self) -> None:
        """A long rest of some connection puts off nobody's end of waiting."""
        self.bounds = {"max_connections": 1, "idle_secs": 60.0}
        self.setUp()
        self.send(URL)
        self.reactor.accept().receive(OK)
        self.send(URL)
        heard, _ = self.send(URL)
        self.reactor.advance(20)
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_BUSY)

    def test_dialling_takes_an_end(self) -> None:
        """So is who waits for a connection that is never made; the attempt is stopped."""
        self.reactor.resolver.silent = True
        heard, _ = self.send(URL)
        self.reactor.advance(20)
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_abort_while_waiting(self) -> None:
        """Who gives up waiting is not served, and his place is free for another."""
        self.posts(2)
        sockets = [self.reactor.accept(0), self.reactor.accept(1)]
        waiting = self.posts(3)
        waiting[1][1].abort()
        fourth, exchange = self.send(URL)
        self.assertEqual(fourth.failures, [])
        for _ in range(3):
            for socket in sockets:
                socket.receive(OK)
        self.assertEqual([heard.ended for heard, _ in waiting], [1, 0, 1])
        self.assertEqual((fourth.ended, exchange.sent), (1, True))

    def test_last_first(self) -> None:
        """The connection used last is used first, so that the others can go."""
        self.posts(2)
        first, second = self.reactor.accept(0), self.reactor.accept(1)
        first.receive(OK)
        second.receive(OK)
        for _ in range(5):
            self.reactor.advance(1)
            second.clear()
            self.send(URL)
            self.assertIn(b"POST", second.value())
            second.receive(OK)
        self.turn()
        self.assertEqual((first.lost, second.lost), (True, False))
        self.reactor.advance(4)
        self.turn()
        self.assertTrue(second.lost)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_one_timer(self) -> None:
        """However many connections and requests there are, one timer watches over them."""
        self.posts(2)
        sockets = [self.reactor.accept(0), self.reactor.accept(1)]
        self.posts(3)
        for round in range(20):
            sockets[round % 2].receive(OK)
            self.send(URL)
            self.assertEqual(len(self.reactor.getDelayedCalls()), 1)

    def test_a_lost_connection_makes_room(self) -> None:
        """A connection that breaks is replaced for who waits."""
        self.posts(2)
        first = self.reactor.accept(0)
        self.reactor.accept(1)
        heard, _ = self.send(URL)
        first.lose(error.ConnectionLost())
        self.assertEqual(len(self.reactor.dialled), 3)
        self.reactor.accept(2).receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_given_up_makes_room(self) -> None:
        """So is one that is cut because its request was given up."""
        _, exchange = self.send(URL)
        self.send(URL)
        self.reactor.accept(0)
        self.reactor.accept(1)
        self.send(URL)
        exchange.abort()
        self.assertEqual(len(self.reactor.dialled), 3)

    def test_refusals_are_spread(self) -> None:
        """With nobody there each request that waits is told, one dialling each."""
        running = self.posts(3)
        for index in range(3):
            self.reactor.refuse(error.ConnectionRefusedError(), index)
        reasons = [heard.failures[0].reason for heard, _ in running]
        self.assertEqual(reasons, [Reason.UPSTREAM_UNAVAILABLE] * 3)
        self.assertEqual(len(self.reactor.dialled), 3)

    def test_each_dials_for_itself(self) -> None:
        """A refusal that is told late meets who asked before the server was there, nobody else."""
        (early, _), (late, _) = self.posts(2)
        socket = self.reactor.accept(1)
        self.assertIn(b"POST", socket.value())
        self.reactor.refuse(error.ConnectionRefusedError(), 0)
        self.assertIs(early.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        socket.receive(OK)
        self.assertEqual((late.failures, late.ended), ([], 1))

    def test_giving_up_takes_nobody_elses(self) -> None:
        """Who gives up while it is dialled for him stops that dialling and no other."""
        (_, exchange), (heard, _) = self.posts(2)
        exchange.abort()
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
        self.assertFalse(self.reactor.connectors[1].stoppedConnecting)
        self.reactor.accept(1).receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_needless_dialling_fails_unheard(self) -> None:
        """When somebody got another connection meanwhile, his dialling may fail."""
        self.send(URL)
        first = self.reactor.accept()
        heard, _ = self.send(URL)
        first.receive(OK)
        self.reactor.refuse(error.ConnectionRefusedError(), 1)
        self.assertEqual(heard.failures, [])
        first.receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_failing_at_once(self) -> None:
        """Diallings that fail before they have begun end as many requests, and no stack."""
        self.bounds = {"max_connections": 1, "max_waiting": 1500}
        self.setUp()
        self.send(URL)
        socket = self.reactor.accept()
        waiting = self.posts(1500)
        self.reactor.resolver.table["127.0.0.1"] = ["169.254.169.254"]
        socket.lose()
        for heard, _ in waiting:
            self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(len(self.reactor.dialled), 1)

    def test_a_connection_too_many(self) -> None:
        """A dialling that is no longer needed gives an idle connection."""
        self.send(URL)
        first = self.reactor.accept(0)
        heard, _ = self.send(URL)
        first.receive(OK)
        first.receive(OK)
        self.assertEqual(heard.ended, 1)
        second = self.reactor.accept(1)
        self.assertEqual(second.value(), b"")
        self.send(URL)
        self.assertIn(b"POST", second.value())


class StreamTests(WireCase):
    """Event streams (GET), which stay."""

    bounds = {"max_connections": 1, "max_streams": 3}

    def test_streams_take_no_place(self) -> None:
        """Streams have connections beside the others."""
        streams = [self.send(URL, None)[0] for _ in range(3)]
        for index in range(3):
            self.reactor.accept(index).receive(EVENTS)
        self.assertEqual([len(heard.heads) for heard in streams], [1, 1, 1])
        heard, _ = self.send(URL)
        self.reactor.accept(3).receive(OK)
        self.assertEqual(heard.ended, 1)

    def test_bound(self) -> None:
        """One more than there may be is refused; the end of one makes room."""
        exchanges = [self.send(URL, None)[1] for _ in range(3)]
        for index in range(3):
            self.reactor.accept(index).receive(EVENTS)
        refused, _ = self.send(URL, None)
        self.assertIs(refused.failures[0].reason, Reason.UPSTREAM_BUSY)
        exchanges[0].abort()
        fine, _ = self.send(URL, None)
        self.assertEqual(fine.failures, [])
        self.reactor.accept(3).receive(EVENTS + b"0\r\n\r\n")
        self.assertEqual(fine.ended, 1)
        last, _ = self.send(URL, None)
        self.assertEqual(last.failures, [])

    def test_pieces(self) -> None:
        """What a stream says is passed on as it comes, without its framing."""
        heard, exchange = self.send(URL, None)
        socket = self.reactor.accept()
        socket.receive(EVENTS + b"6\r\ndata: \r\n")
        self.assertEqual(heard.body, b"data: ")
        socket.receive(b"2\r\n1\n\r\n1\r")
        self.assertEqual(heard.body, b"data: 1\n")
        socket.receive(b"\n\n\r\n")
        self.assertEqual((heard.body, heard.ended), (b"data: 1\n\n", 0))
        exchange.abort()
        socket.receive(b"1\r\nx\r\n")
        self.assertEqual(heard.body, b"data: 1\n\n")
