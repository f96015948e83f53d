"""Connections on their way between workers."""

import os
import socket

import msgspec
from attrs import evolve
from twisted.internet.defer import CancelledError

from mcpguard.front.handover import Outcome, Parcel
from mcpguard.ops.workers.mail import Sent, mail_path, written
from mcpguard.ops.workers.passport import MAX_PASSPORT
from mcpguard.policy.certificates import Verified, anchor_of, peer_certificate
from mcpguard.protocol.ownership import marked
from tests.ops.workers.postal import PostalCase, Worker
from tests.pki import Authority


class WayTests(PostalCase):
    """A connection that is sent to another worker."""

    def test_arrives(self) -> None:
        """The owner gets the very connection, and everything that was said of it."""
        one, two = self.worker(1), self.worker(2)
        server, client = self.connection()
        parcel = Parcel(("2001:db8::1", 50_000), ("::1", 3000), False, b"GET / HTTP/1.1\r\n\r\n")
        sent = one.board.send(2, parcel, server.fileno())
        self.assertIs(self.successResultOf(sent), Outcome.SENT)
        server.close()
        two.reactor.turn()
        self.assertEqual(two.arrived, [parcel])
        client.sendall(b"ping")
        self.assertEqual(two.sockets[0].recv(10), b"ping")

    def test_certificate(self) -> None:
        """The client's certificate comes along whole, with its chain, however much is unread."""
        one, two = self.worker(1), self.worker(2)
        root = Authority("root")
        issuing = Authority("issuing", root)
        alice = issuing.issue("alice", uris=("spiffe://example.com/alice",))
        chain = issuing.certificate, root.certificate
        verified = Verified(1, anchor_of(root.certificate), (issuing.pem,))
        facts = peer_certificate(alice.certificate, chain, verified)
        for size in (0, 10, 1_000, 100_000):
            parcel = Parcel(("::1", 1), ("::1", 2), False, b"u" * size, facts)
            self.successResultOf(one.board.send(2, parcel, self.connection()[0].fileno()))
            two.reactor.turn()
            self.assertEqual(two.arrived.pop(), parcel)
        self.assertEqual(len(facts.authorities), 2)

    def test_certificate_that_is_too_much(self) -> None:
        """One beyond the bound stays where it is, with its connection."""
        one, two = self.worker(1), self.worker(2)
        facts = peer_certificate(Authority("a").issue("b").certificate)
        huge = evolve(facts, authorities=((b"i" * (MAX_PASSPORT + 1), 1),))
        parcel = Parcel(("", 0), ("", 0), False, b"", huge)
        sent = one.board.send(2, parcel, self.connection()[0].fileno())
        self.assertIs(self.successResultOf(sent), Outcome.BUSY)
        two.reactor.turn()
        self.assertEqual(two.arrived, [])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_nothing_left_open(self) -> None:
        """Neither side keeps a descriptor of what it sent or could not use."""
        one, two = self.worker(1), self.worker(2)
        self.send(one, 2)
        two.reactor.turn()
        before = self.descriptors()
        for size in (10, 50_000):
            server, client = self.connection()
            parcel = Parcel(("", 0), ("", 0), True, b"x" * size)
            self.successResultOf(one.board.send(2, parcel, server.fileno()))
            two.reactor.turn()
            server.close()
            client.close()
            two.sockets.pop().close()
        self.assertEqual(self.descriptors(), before)

    def test_descriptors_are_not_inherited(self) -> None:
        """A stdio server that is started meanwhile gets no client's connection."""
        one, two = self.worker(1), self.worker(2)
        self.send(one, 2)
        two.reactor.turn()
        self.assertFalse(os.get_inheritable(two.sockets[0].fileno()))

    def test_much_unread(self) -> None:
        """What does not fit in a letter comes along all the same, up to the bound and no more."""
        one, two = self.worker(1), self.worker(2)
        for size in (999, 1_000, 1_001, 100_000, 100_001):
            self.successResultOf(self.send(one, 2, b"u" * size))
            two.reactor.turn()
        self.assertEqual([len(unread) for unread in two.unread()], [999, 1_000, 1_001, 100_000])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_few_a_turn(self) -> None:
        """Those who are there already have their turn between those who come."""
        one, two = self.worker(1), self.worker(2)
        for _ in range(6):
            self.send(one, 2)
        two.reactor.turn()
        self.assertEqual(len(two.arrived), 4)
        two.reactor.turn()
        self.assertEqual(len(two.arrived), 6)

    def test_nonsense(self) -> None:
        """What cannot be understood is dropped with its descriptors, and the next is read."""
        one, two = self.worker(1), self.worker(2)
        way = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(way.close)
        way.connect(str(mail_path(self.directory, 2)))
        server, _ = self.connection()
        sent = msgspec.msgpack.encode(Sent(("", 0), ("", 0), True, b""))
        big = msgspec.msgpack.encode(Sent(("", 0), ("", 0), True, 5))
        cut = msgspec.msgpack.encode(Sent(("", 0), ("", 0), False, b"abc", 3))
        endless = msgspec.msgpack.encode(Sent(("", 0), ("", 0), False, 5, MAX_PASSPORT + 1))
        empty = written(b"")
        self.addCleanup(os.close, empty)
        before = self.descriptors()
        for data, descriptors in (
            (b"?", [server.fileno()]),
            (sent, []),
            (sent, [server.fileno()] * 2),
            (sent, [server.fileno()] * 3),
            (big, [server.fileno()]),
            (big, [server.fileno(), empty]),
            (cut, [server.fileno()]),
            (endless, [server.fileno(), empty]),
            (sent + b"x" * 3_000, [server.fileno()]),
        ):
            socket.send_fds(way, [data], descriptors)
            two.reactor.turn()
        self.assertEqual((two.arrived, self.descriptors()), ([], before))
        self.assertEqual(len(self.flushLoggedErrors()), 9)
        self.send(one, 2)
        two.reactor.turn()
        self.assertEqual(len(two.arrived), 1)


class OwnerTests(PostalCase):
    """Whose a session is."""

    def test_by_number(self) -> None:
        """The number says it; one's own is nobody else's."""
        two = self.worker(2)
        self.assertIsNone(two.board.owner_of(marked(2, "a")))
        self.assertEqual(two.board.owner_of(marked(3, "a")), 3)

    def test_all_agree(self) -> None:
        """Every worker means the same one, whatever the id."""
        boards = [self.worker(number).board for number in (1, 2, 3)]
        for token in ("1.a", "2.a", "3.a", "4.a", "9999.a", "", "a", "b", "0.c", "é"):
            owners = {board.owner_of(token) or board.number for board in boards}
            self.assertEqual(len(owners), 1, token)

    def test_stopped(self) -> None:
        """Who has stopped serves what is left here."""
        two = self.worker(2)
        two.board.stop()
        self.assertIsNone(two.board.owner_of("3.a"))
        self.assertIs(self.successResultOf(self.send(two, 3)), Outcome.GONE)


class AbsenceTests(PostalCase):
    """Owners that are not there."""

    def test_nobody(self) -> None:
        """Where nobody else is, it stays."""
        one = self.worker(1)
        self.assertIs(self.successResultOf(self.send(one, 2)), Outcome.GONE)

    def test_dead(self) -> None:
        """A killed worker leaves its socket's name behind, and nobody is fooled by it."""
        one, two = self.worker(1, 2), self.worker(2, 2)
        self.assertIs(self.successResultOf(self.send(one, 2)), Outcome.SENT)
        two.die()
        self.assertIs(self.successResultOf(self.send(one, 2)), Outcome.GONE)
        self.assertTrue(mail_path(self.directory, 2).exists())

    def test_stand_in(self) -> None:
        """The next one takes what an absent one would: the same for everybody."""
        workers = {number: self.worker(number, 4) for number in (1, 2, 4)}
        for sender in (1, 2):
            self.assertIs(self.successResultOf(self.send(workers[sender], 3)), Outcome.SENT)
        self.assertIs(self.successResultOf(self.send(workers[4], 3)), Outcome.GONE)
        workers[4].reactor.turn()
        self.assertEqual(len(workers[4].arrived), 2)

    def test_round_the_end(self) -> None:
        """After the last comes the first."""
        one, two = self.worker(1), self.worker(2)
        self.assertIs(self.successResultOf(self.send(two, 3)), Outcome.SENT)
        one.reactor.turn()
        self.assertEqual(len(one.arrived), 1)

    def test_successor(self) -> None:
        """A worker that takes a dead one's place is found at once, and tells the others."""
        one, two = self.worker(1), self.worker(2)
        two.die()
        self.successResultOf(self.send(one, 2))
        again = self.worker(2)
        self.assertIs(self.successResultOf(self.send(one, 2)), Outcome.SENT)
        again.reactor.turn()
        one.reactor.turn()
        self.assertEqual((len(again.arrived), one.returned), (1, [2, 2]))

    def test_replacement(self) -> None:
        """While the old one still reads, the new one has the mail already."""
        one, old = self.worker(1), self.worker(2)
        self.send(one, 2)
        new = self.worker(2)
        one.reactor.turn()
        self.send(one, 2)
        old.board.stop()
        new.reactor.turn()
        self.assertEqual((len(old.arrived), len(new.arrived)), (1, 1))
        self.assertTrue(mail_path(self.directory, 2).exists(), "the old one took the name away")

    def test_stop_takes_what_was_sent(self) -> None:
        """Who stops first serves what is on its way to it; nothing is sent to it from then on."""
        one, two = self.worker(1), self.worker(2)
        for _ in range(9):
            self.send(one, 2)
        two.board.stop()
        self.assertEqual(len(two.arrived), 9)
        self.assertIs(self.successResultOf(self.send(one, 2)), Outcome.GONE)
        self.assertFalse(mail_path(self.directory, 2).exists())
        two.board.stop()

    def test_no_room_for_the_name(self) -> None:
        """A place that cannot be taken is said, not passed over."""
        self.directory.joinpath("2.mail").mkdir()
        self.assertRaises(OSError, Worker(self.directory, 2, 3).board.start)


class SlowTests(PostalCase):
    """Owners that do not read."""

    def fill(self, worker: Worker, owner: int) -> int:
        """Send until no more is taken; how many were."""
        taken = 0
        while self.send(worker, owner).called:
            taken += 1
        return taken

    def test_waits(self) -> None:
        """What finds the mailbox full leaves once there is room, in order."""
        one, two = self.worker(1), self.worker(2)
        self.fill(one, 2)
        waiting = [self.send(one, 2, b"%d" % number) for number in range(3)]
        one.reactor.turn()
        self.assertNoResult(waiting[0])
        for _ in range(50):
            two.reactor.turn()
            one.reactor.turn()
        self.assertEqual([self.successResultOf(sent) for sent in waiting], [Outcome.SENT] * 3)
        self.assertEqual(two.unread()[-3:], [b"0", b"1", b"2"])
        self.assertEqual((one.reactor.writers, one.reactor.getDelayedCalls()), (set(), []))

    def test_deadline(self) -> None:
        """Nobody waits longer than the bound."""
        one, two = self.worker(1), self.worker(2)
        self.fill(one, 2)
        waiting = self.send(one, 2, b"late")
        one.reactor.advance(2.9)
        self.assertNoResult(waiting)
        one.reactor.advance(0.2)
        self.assertIs(self.successResultOf(waiting), Outcome.BUSY)
        for _ in range(50):
            two.reactor.turn()
            one.reactor.turn()
        self.assertNotIn(b"late", two.unread())

    def test_bound(self) -> None:
        """No more wait than the bound says."""
        one, _ = self.worker(1), self.worker(2)
        self.fill(one, 2)  # the last of which waits
        waiting = [self.send(one, 2) for _ in range(5)]
        self.assertEqual([sent.called for sent in waiting], [False] * 4 + [True])
        self.assertIs(self.successResultOf(waiting[-1]), Outcome.BUSY)

    def test_taken_back(self) -> None:
        """What is cancelled is not sent any more: its descriptor may be another connection's."""
        one, two = self.worker(1), self.worker(2)
        self.fill(one, 2)
        before = self.descriptors()
        waiting = self.send(one, 2, b"back" * 1_000)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.descriptors(), before + 2, "the ends of the connection alone")
        for _ in range(50):
            two.reactor.turn()
            one.reactor.turn()
        self.assertNotIn(b"back" * 1_000, two.unread())

    def test_dies(self) -> None:
        """When the slow one dies, what waits goes where all the others look for it."""
        one, two, three = self.worker(1), self.worker(2), self.worker(3)
        self.fill(one, 2)
        waiting = self.send(one, 2, b"mine")
        two.die()
        one.reactor.turn()
        self.assertIs(self.successResultOf(waiting), Outcome.SENT)
        three.reactor.turn()
        self.assertEqual(three.unread()[-1], b"mine")

    def test_replaced(self) -> None:
        """When another takes its place, what waits is for that one."""
        one, _ = self.worker(1), self.worker(2)
        self.fill(one, 2)
        waiting = self.send(one, 2, b"mine")
        again = self.worker(2)
        one.reactor.turn()
        self.assertIs(self.successResultOf(waiting), Outcome.SENT)
        again.reactor.turn()
        self.assertEqual(again.unread()[-1], b"mine")

    def test_stopping(self) -> None:
        """Who stops keeps what has not left yet."""
        one, _ = self.worker(1), self.worker(2)
        self.fill(one, 2)
        waiting = self.send(one, 2)
        one.board.stop()
        self.assertIs(self.successResultOf(waiting), Outcome.GONE)
        self.assertEqual(one.reactor.getDelayedCalls(), [])
