"""What all answers of a listener that nobody reads may take up together."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.exchange import Outlet
from tests.front.wire import FULL, Client, Listener, limited, request

EVENTS = (("Content-Type", "text/event-stream"),)


class UnreadTogether(SynchronousTestCase):
    """`Limits.answer_bytes_total`: 1 000 000 bytes wait at most."""

    def setUp(self) -> None:
        """A listener with room for ten clients."""
        self.listener = Listener(
            limits=limited(answer_bytes_total=1_000_000, connections=10, connections_per_address=10)
        )
        self.listener.corridor.hold = True

    def ask(self, reads: bool = False) -> tuple[Client, Outlet]:
        """A client with a request, which reads its answer or not."""
        client = self.listener.ask(request("POST /mcp", body=b"{}"))
        client.transport.stuck = not reads
        return client, self.listener.corridor.handled[-1][1]

    @property
    def held(self) -> int:
        """The bytes the listener says it holds."""
        return self.listener.site.answers.held

    def test_who_has_not_read_for_longest_is_dropped(self) -> None:
        """Room for a new answer is made by the client that is stuck for longest, and no other."""
        clients = []
        for _ in range(3):
            client, outlet = self.ask()
            outlet.answer(200, (), b"x" * 400_000)
            clients.append(client)
            self.listener.pass_time(1)
        aborted = [client.transport.aborted for client in clients]
        self.assertEqual(aborted, [True, False, False])
        self.assertLessEqual(self.held, 1_000_000)
        self.assertEqual(self.listener.dropped, ["slow_reader"])

    def test_who_reads_is_not_concerned(self) -> None:
        """An answer that is read counts for nothing, and its reader is not dropped."""
        for _ in range(4):
            reader, outlet = self.ask(reads=True)
            outlet.answer(200, (), b"x" * 900_000)
            self.assertEqual(reader.answer().status, 200)
            self.assertEqual(outlet.held, 0)  # type: ignore[attr-defined]
            self.ask()[1].answer(200, (), b"x" * 400_000)
        self.assertEqual(len(self.listener.dropped), 2)

    def test_the_newest_goes_when_it_alone_is_too_much(self) -> None:
        """The bound holds for one client too."""
        client, outlet = self.ask()
        outlet.open(200, EVENTS)
        calls: list[int] = []
        outlet.on_gone(lambda: calls.append(1))
        outlet.write(b"x" * 1_000_001)
        self.assertTrue(client.transport.aborted)
        self.assertEqual((calls, self.held), ([1], 0))

    def test_reading_gives_room_back(self) -> None:
        """What was read counts no more, nor what was meant for a client that has left."""
        client, outlet = self.ask()
        other, another = self.ask()
        outlet.answer(200, (), b"x" * 500_000)
        another.answer(200, (), b"x" * 500_000)
        self.assertGreater(self.held, 500_000)
        while not outlet.complete:  # type: ignore[attr-defined]
            client.transport.read_on()
        other.leave()
        self.assertEqual(self.held, 0)
        self.assertEqual(self.listener.dropped, [])

    def test_dropping_one_may_drop_its_call(self) -> None:
        """Whoever is told of a dropped client may answer others at once."""
        _, outlet = self.ask()
        _, other = self.ask()
        outlet.answer(200, (), b"x" * 600_000)
        self.listener.pass_time(1)
        outlet.on_gone(lambda: last.answer(200, (), b"x" * 600_000))
        _, last = self.ask()
        other.answer(200, (), b"x" * 600_000)
        self.assertLessEqual(self.held, 1_000_000)

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from(["write", "read", "leave"])), max_size=60
        )
    )
    def test_the_bound_holds(self, steps: list[tuple[int, str]]) -> None:
        """Whoever writes, reads and leaves in whatever order, the sum is right and bounded."""
        self.setUp()
        clients = [self.ask() for _ in range(6)]
        for _, outlet in clients:
            outlet.open(200, EVENTS)
        for number, step in steps:
            client, outlet = clients[number]
            if step == "write":
                outlet.write(b"x" * 90_000)
            elif step == "read":
                client.transport.read_on()
            else:
                client.leave()
            self.listener.clock.advance(0.01)
            outlets = [one for _, one in clients]
            self.assertEqual(
                self.held,
                sum(one.held for one in outlets),  # type: ignore[attr-defined]
            )
            self.assertLessEqual(self.held, 1_000_000)
            self.assertLessEqual(client.transport.unread, 3 * FULL)
