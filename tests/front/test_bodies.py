"""What all request bodies of a listener may take up together."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.front.bounds import Budget
from tests.front.wire import Client, Listener, limited, request


def announced(size: int, sent: int) -> bytes:
    """The start of a request: a body of ``size`` bytes of which ``sent`` have arrived."""
    return request("POST /mcp", f"Content-Length: {size}") + b"x" * sent


def chunked(sent: int) -> bytes:
    """The start of a request whose body comes in chunks, ``sent`` bytes of it so far."""
    head = request("POST /mcp", "Transfer-Encoding: chunked")
    return head + b"%x\r\n" % sent + b"x" * sent + b"\r\n"


class BodiesTogether(SynchronousTestCase):
    """`Limits.body_bytes_total`: 1000 bytes for each body, 2000 for all of them."""

    def setUp(self) -> None:
        """A listener that answers when the test says so."""
        self.listener = Listener(limits=limited(body_bytes_total=2000))
        self.listener.corridor.hold = True

    @property
    def held(self) -> int:
        """The bytes the listener says it holds."""
        return self.listener.site.bodies.held

    def assert_full(self, client: Client) -> None:
        """The client was told to come again, and its body was not kept."""
        self.assertEqual(client.answer().status, 503)
        _, refusal = self.listener.corridor.refused[-1]
        self.assertIs(refusal.reason, Reason.OVERLOADED)
        self.assertEqual(refusal.retry_after, 1.0)
        self.assertTrue(client.transport.half_closed)

    def answer(self, number: int) -> None:
        """Answer the request that came as the ``number``-th."""
        self.listener.corridor.handled[number][1].answer(200, (), b"")

    def test_announced_body_without_room(self) -> None:
        """A body that cannot fit is refused on its announcement, none of it is held."""
        self.listener.ask(announced(1000, 1000))
        self.listener.ask(announced(1000, 600))
        client = self.listener.ask(request("POST /mcp", "Content-Length: 401"))
        self.assert_full(client)
        client.send(b"x" * 401)
        self.assertEqual(self.held, 1600)
        self.assertEqual(len(self.listener.corridor.handled), 1)

    def test_nobody_is_told_to_continue(self) -> None:
        """A client that asks first is told no before it has sent anything."""
        self.listener.ask(announced(1000, 1000))
        self.listener.ask(announced(1000, 600))
        fields = ("Expect: 100-continue", "Content-Length: 500")
        client = self.listener.ask(request("POST /mcp", *fields))
        self.assertNotIn(b"Continue", client.received())
        self.assert_full(client)

    def test_announcing_reserves_nothing(self) -> None:
        """Who only announces keeps nobody out: it is the bytes that arrived that count."""
        for _ in range(2):
            self.listener.ask(announced(1000, 1))
        client = self.listener.ask(announced(900, 900))
        self.answer(0)
        self.assertEqual(client.answer().status, 200)

    def test_full_while_the_body_arrives(self) -> None:
        """When others were faster, the piece that does not fit ends its request; room returns."""
        slow = self.listener.ask(announced(900, 100))
        chunks = self.listener.ask(chunked(100))
        self.listener.ask(announced(1000, 1000))
        chunks.send(b"320\r\n" + b"x" * 800)
        self.assertEqual(self.held, 2000)
        slow.send(b"x")
        self.assert_full(slow)
        self.assertEqual(self.held, 1900)
        chunks.send(b"\r\n64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")
        self.assertEqual([len(one.body) for one, _ in self.listener.corridor.handled], [1000, 1000])

    def test_held_until_the_answer(self) -> None:
        """A body takes up room until its request is answered, and not longer."""
        first = self.listener.ask(announced(1000, 1000))
        self.listener.ask(announced(1000, 1000))
        self.assert_full(self.listener.ask(announced(1, 0)))
        self.answer(0)
        self.assertEqual((first.answer().status, self.held), (200, 1000))
        first.send(announced(1000, 1000))
        self.assertEqual((len(self.listener.corridor.handled), self.held), (3, 2000))

    def test_given_back_when_the_sender_leaves(self) -> None:
        """A lost connection gives its room back, in the middle of the body and after it."""
        for client in (
            self.listener.ask(announced(1000, 500)),
            self.listener.ask(chunked(500)),
            self.listener.ask(announced(1000, 1000)),
        ):
            client.leave()
        self.assertEqual(self.held, 0)

    def test_given_back_by_every_refusal(self) -> None:
        """Too large, too slow, bad chunks: what was refused takes up no room."""
        self.listener.ask(chunked(600)).send(b"258\r\n" + b"x" * 600)
        self.listener.ask(chunked(600)).send(b"no size\r\n")
        self.listener.ask(announced(1000, 300))
        self.listener.pass_time(21)
        reasons = [refusal.reason for _, refusal in self.listener.corridor.refused]
        self.assertEqual(reasons, [Reason.TOO_LARGE, Reason.MALFORMED_HTTP, Reason.SLOW_REQUEST])
        self.assertEqual(self.held, 0)

    def test_requests_without_a_body_pass(self) -> None:
        """A listener full of bodies still answers probes and takes DELETE."""
        for _ in range(2):
            self.listener.ask(announced(1000, 1000))
        self.assertEqual(self.listener.ask(request("GET /live")).answer("GET").status, 200)

    def test_pipelined(self) -> None:
        """Requests that wait behind another hold what was read of them, no more."""
        client = self.listener.ask(announced(800, 800) + announced(800, 800))
        self.assertLessEqual(self.held, 1600)
        self.answer(0)
        self.answer(1)
        self.assertEqual(len(client.answers("POST POST")), 2)
        self.assertEqual(self.held, 0)


class TheBudget(SynchronousTestCase):
    """`Budget` itself."""

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 50), st.lists(st.integers(0, 30), max_size=40))
    def test_never_above_the_limit(self, limit: int, sizes: list[int]) -> None:
        """Whatever is asked for, no more than the limit is held, and what is refused is not."""
        budget = Budget(limit)
        taken = [size for size in sizes if budget.take(size)]
        self.assertEqual(budget.held, sum(taken))
        self.assertLessEqual(budget.held, limit)
        for size in taken:
            budget.give(size)
        self.assertEqual(budget.held, 0)
