"""Tests of limits over the workers' channel."""

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refused
from mcpguard.limits.authority import Returned, Unreachable
from mcpguard.limits.memory_authority import MemoryAuthority
from mcpguard.limits.places import PlaceBook
from mcpguard.limits.remote import LimitsDesk, RemoteAuthority, RemotePlaces
from mcpguard.ops.workers.channel import ChannelBounds
from mcpguard.ops.workers.control import Peer
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease
from tests.ops.workers.wires import Wires

RATE = Rate(0.001, 10)
BOUNDS = ChannelBounds(
    frame_bytes=1_000, queued_bytes=2_500, asked=100, served=100, timeout_secs=10.0
)


class Workers:
    """Implements `Peers`."""

    def __init__(self) -> None:
        self.all: list[Peer] = []
        self.services: dict[str, Callable[[Peer, Any], Any]] = {}
        self.hearers: list[Callable[[Peer], None]] = []

    def peers(self) -> tuple[Peer, ...]:
        """Those that are there."""
        return tuple(self.all)

    def register(self, name: str, serve: Callable[[Peer, Any], Any]) -> None:
        """Serve from now on."""
        self.services[name] = serve

    def on_gone(self, hear: Callable[[Peer], None]) -> None:
        """Hear of ends."""
        self.hearers.append(hear)

    def came(self, wires: Wires) -> Peer:
        """A worker is there."""
        peer = Peer(1, len(self.all) + 1, wires.parent)
        self.all.append(peer)
        for name, serve in self.services.items():
            wires.parent.register(name, partial(serve, peer))
        return peer


class RemoteCase(SynchronousTestCase):
    """A parent with two workers."""

    def setUp(self) -> None:
        """Two channels to one desk."""
        self.clock = Clock()
        self.workers = Workers()
        self.book = PlaceBook(max_places=100)
        self.authority = MemoryAuthority(self.clock.seconds, max_keys=100)
        LimitsDesk(self.authority, self.book).serve(self.workers)
        self.wires = [Wires(self.clock, BOUNDS), Wires(self.clock, BOUNDS)]
        self.all = [self.workers.came(wires) for wires in self.wires]

    def pump(self) -> None:
        """Everything arrives."""
        for wires in self.wires:
            wires.pump()


def _replying(reply: object, payload: object) -> object:
    """A service of one word."""
    return reply


class LeaseTests(RemoteCase):
    """The parent's buckets."""

    def remote(self, index: int = 0) -> RemoteAuthority:
        """A worker's end."""
        return RemoteAuthority(self.wires[index].worker, timeout=2.0)

    def test_lease(self) -> None:
        """Two workers draw from one bucket; every number arrives as it was."""
        first = self.remote().lease("a", RATE, Ask("one", 3, 2, 0, 5.0))
        second = self.remote(1).lease("a", RATE, Ask("two", 9, 0, 0, 5.0))
        self.pump()
        self.assertEqual(self.successResultOf(first), Lease(5, 0, 5.0, 0, 0.0))
        self.assertEqual(self.successResultOf(second), Lease(5, 0, 0.0, 2, 1_000.0))
        third = self.remote().lease("a", RATE, Ask("one", 0, 0, 2, 5.0))
        self.pump()
        self.assertEqual(self.successResultOf(third).kept, 2)

    def test_give_back(self) -> None:
        """What a worker gives back another one gets."""
        lease = self.remote().lease("a", RATE, Ask("one", 0, 5, 0, 5.0))
        self.pump()
        self.assertEqual(self.successResultOf(lease).granted, 5)
        self.remote().give_back([Returned("a", RATE, "one", 5)])
        self.pump()
        other = self.remote(1).lease("a", RATE, Ask("two", 20, 0, 0, 5.0))
        self.pump()
        self.assertEqual(self.successResultOf(other).granted, 10)

    def test_in_order(self) -> None:
        """What is given back arrives before what is asked for after it."""
        lease = self.remote().lease("a", RATE, Ask("one", 0, 5, 0, 5.0))
        self.pump()
        self.successResultOf(lease)
        self.remote().give_back([Returned("a", RATE, "one", 5)])
        later = self.remote().lease("a", RATE, Ask("new", 10, 0, 0, 5.0))
        self.pump()
        self.assertEqual(self.successResultOf(later).granted, 10)

    def test_no_answer(self) -> None:
        """A parent that is late, or gone, cannot be reached."""
        late = self.remote().lease("a", RATE, Ask("one", 1, 0, 0, 5.0))
        self.clock.advance(2.0)
        self.failureResultOf(late, Unreachable)
        gone = self.remote(1).lease("a", RATE, Ask("two", 1, 0, 0, 5.0))
        self.wires[1].cut()
        self.failureResultOf(gone, Unreachable)
        self.failureResultOf(self.remote(1).lease("a", RATE, Ask("two", 1, 0, 0, 5.0)), Unreachable)

    def test_nonsense(self) -> None:
        """What is no lease, or no question, grants nothing."""
        for reply in (None, [], [1, 2], ["1", 0, 0.0, 0.0, 0.0], {"granted": 1}):
            self.wires[0].parent.register("limits.lease", partial(_replying, reply))
            lease = self.remote().lease("a", RATE, Ask("one", 1, 0, 0, 5.0))
            self.pump()
            self.failureResultOf(lease, Unreachable)
        refused = self.wires[1].worker.ask("limits.lease", ["a", "fast", 1])
        self.pump()
        self.failureResultOf(refused)
        self.assertEqual(len(self.authority), 0)
        self.flushLoggedErrors()


class PlacesTests(RemoteCase):
    """Requests in progress over all workers."""

    def places(self, index: int = 0, max_owed: int = 10) -> RemotePlaces:
        """A worker's end."""
        return RemotePlaces(self.wires[index].worker, timeout=2.0, max_owed=max_owed)

    def took(self, answer: Deferred[bool]) -> bool:
        """What came of it."""
        self.pump()
        return self.successResultOf(answer)

    def test_over_all(self) -> None:
        """Two workers share an identity's places."""
        first, second = self.places(), self.places(1)
        self.assertTrue(self.took(first.take_place("a", 2)))
        self.assertTrue(self.took(second.take_place("a", 2)))
        self.assertFalse(self.took(first.take_place("a", 2)))
        second.give_place("a")
        self.pump()
        self.assertTrue(self.took(first.take_place("a", 2)))

    def test_crashed_worker(self) -> None:
        """The places of a worker that is gone are free again."""
        first, second = self.places(), self.places(1)
        for _ in range(2):
            self.took(first.take_place("a", 2))
        self.assertFalse(self.took(second.take_place("a", 2)))
        for hear in self.workers.hearers:
            hear(self.all[0])
        self.assertTrue(self.took(second.take_place("a", 2)))

    def test_late_answer(self) -> None:
        """A place whose answer came too late is given back, and the request refused."""
        places = self.places()
        late = places.take_place("a", 1)
        self.clock.advance(2.0)
        refused = self.failureResultOf(late, Refused).value
        self.assertIs(refused.refusal.reason, Reason.LIMITS_UNAVAILABLE)
        self.pump()
        self.assertEqual(len(self.book), 0)

    def test_word_that_cannot_be_sent(self) -> None:
        """What is to be given back is kept until the channel takes it, within a bound."""
        places, worker = self.places(max_owed=2), self.wires[0].worker
        for key in "abc":
            self.assertTrue(self.took(places.take_place(key, 1)))
        sent = self.patch(worker, "tell", lambda name, payload: False)
        for key in "abc":
            places.give_place(key)
        with self.assertRaises(Refused):
            places.take_place("d", 1)
        sent.restore()
        self.assertTrue(self.took(places.take_place("d", 1)))
        self.assertEqual(len(self.book), 1)
