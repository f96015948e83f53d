"""Clients that leave, and servers that forget, while the gateway is still on its way."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.upstream.link import CallSink, Eras, Link, Opening, Outbound, UpstreamFailure
from tests.pipeline.rig import MODERN, MemoryCall, MemoryLink, MemoryOutlet, MemoryUpstream, Rig

LISTEN = "subscriptions/listen"
PARAMS = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}


class SlowUpstream(MemoryUpstream):
    """A server that does each thing only when the test lets it."""

    def __init__(self, eras: Eras) -> None:
        super().__init__(known_eras=eras)
        self.held: list[Deferred[Any]] = []
        self.slow: set[str] = set()
        self.agrees = True
        self.make_link: Callable[[], MemoryLink] | None = None

    def let_go(self) -> None:
        """Do the oldest thing that waits."""
        self.held.pop(0).callback(None)

    def _after(self, what: str, value: Deferred[Any]) -> Deferred[Any]:
        if what not in self.slow:
            return value
        waiting: Deferred[Any] = Deferred()
        self.held.append(waiting)
        return waiting.addCallback(lambda _: value)

    def eras(self) -> Deferred[Eras]:
        """See the double."""
        return self._after("eras", super().eras())

    def open_session(self, *args: Any) -> Deferred[Opening]:
        """See the double."""
        opening = super().open_session(*args)
        if not self.agrees:
            opening.addCallback(lambda known: Opening(known.link, self.result))
        return self._after("open_session", opening)

    def _link(self) -> MemoryLink:
        if self.make_link is None:
            return super()._link()
        self.links.append(self.make_link())
        return self.links[-1]

    def stateless(self, *args: Any) -> Deferred[Link]:
        """See the double."""
        return self._after("stateless", super().stateless(*args))


class ClosingLink(MemoryLink):
    """A link that notes what still ran when it was closed: over HTTP that counts as failed."""

    ran: int = 0

    def close(self) -> Deferred[None]:
        """Count the requests that nobody cancelled."""
        self.ran += sum(call.cancelled is None for _, _, call in self.requests)
        return super().close()


class DepartureCase(SynchronousTestCase):
    """A corridor before a server that takes its time."""

    eras = Eras(legacy=True)

    def setUp(self) -> None:
        """Build it."""
        self.upstream = SlowUpstream(self.eras)
        self.rig = Rig(upstream=self.upstream)

    def assert_cancelled(self, outcomes: int = 1) -> None:
        """Each request has its one outcome, the last a cancelled one; no timer is left."""
        found = [event.status for event in self.rig.trail.outcomes]
        self.assertEqual((len(found), found[-1]), (outcomes, "cancelled"))
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])


class BareDepartureTests(DepartureCase):
    """Bare requests whose client leaves before anything was sent."""

    def test_during_the_handshake(self) -> None:
        """Nothing is asked for a caller who has gone, and the session is free again."""
        for what in ("eras", "open_session"):
            with self.subTest(what):
                self.setUp()
                self.upstream.slow = {what}
                outlet = self.rig.call("tools/call", {"name": "write"}, accept="*/*")
                outlet.leave()
                self.upstream.let_go()
                self.assertEqual(self.upstream.asked, [])
                self.assert_cancelled()
                self.rig.clock.advance(1000)
                self.rig.pipeline.bare.pool.sweep()
                self.assertEqual([link.closed for link in self.upstream.links], [1])

    def test_during_the_second_try(self) -> None:
        """A caller who leaves while a forgotten session is replaced is not served any more."""
        outlet = self.rig.call("tools/call", {"name": "write"}, accept="*/*")
        self.upstream.slow = {"open_session"}
        gone = UpstreamFailure(Reason.SESSION_NOT_FOUND)
        self.upstream.links[0].requests[0][1].failed(gone)
        self.upstream.inboxes[0].closed(gone)
        self.rig.clock.advance(0)
        outlet.leave()
        self.upstream.let_go()
        self.assertEqual([len(link.requests) for link in self.upstream.links], [1, 0])
        self.assert_cancelled()
        self.rig.clock.advance(1000)
        self.rig.pipeline.bare.pool.sweep()
        self.assertEqual(self.upstream.links[1].closed, 1)

    def test_before_the_second_try(self) -> None:
        """Also when it leaves in the very turn in which the session was forgotten."""
        outlet = self.rig.call("tools/call", {"name": "write"}, accept="*/*")
        gone = UpstreamFailure(Reason.SESSION_NOT_FOUND)
        self.upstream.links[0].requests[0][1].failed(gone)
        outlet.leave()
        self.upstream.inboxes[0].closed(gone)
        self.rig.clock.advance(0)
        self.assertEqual(len(self.upstream.links), 1)
        self.assert_cancelled()


class StatelessDepartureTests(DepartureCase):
    """Stateless requests whose client leaves before anything was sent."""

    eras = Eras(legacy=False, modern=(MODERN,))

    def test_bare(self) -> None:
        """A link that came too late is given back, nothing is asked."""
        self.upstream.slow = {"stateless"}
        self.rig.call("tools/call", {"name": "write"}, accept="*/*").leave()
        self.upstream.let_go()
        self.assertEqual(self.upstream.asked, [])
        self.assertEqual(self.upstream.links[0].closed, 1)
        self.assert_cancelled()

    def test_on_the_way_to_the_link(self) -> None:
        """The same for a stateless client."""
        for what in ("eras", "stateless"):
            with self.subTest(what):
                self.setUp()
                self.upstream.slow = {what}
                self.rig.modern("prompts/get", {"name": "p"}).leave()
                self.upstream.let_go()
                self.assertEqual(self.upstream.asked, [])
                self.assertEqual([link.closed for link in self.upstream.links], [1])
                self.assert_cancelled()

    def test_while_the_schemas_are_asked(self) -> None:
        """A call waits for the tool's schema; its client leaves: the call is never made."""
        outlet = self.rig.modern("tools/call", {"name": "write"})
        link = self.upstream.links[0]
        self.assertEqual([one.method for one in self.upstream.asked], ["tools/list"])
        outlet.leave()
        link.answer(0, result={"tools": []})
        self.assertEqual([one.method for one in self.upstream.asked], ["tools/list"])
        self.assertEqual(link.closed, 1)
        self.assert_cancelled()

    def test_cancelled_before_the_link_is_closed(self) -> None:
        """What a client gives up is cancelled, not failed by the closing of its link."""

        def stop() -> None:
            self.rig.modern(LISTEN, {"notifications": {}})
            self.rig.pipeline.drain()

        ways = {
            "stop": stop,
            "stateless": lambda: self.rig.modern("prompts/get", {"name": "p"}).leave(),
            "bare": lambda: self.rig.call("prompts/get", {"name": "p"}, accept="*/*").leave(),
            "listen": lambda: self.rig.modern(LISTEN, {"notifications": {}}).leave(),
        }
        for name, end in ways.items():
            with self.subTest(name):
                self.setUp()
                self.upstream.make_link = ClosingLink
                end()
                link = self.upstream.links[0]
                assert isinstance(link, ClosingLink)
                self.assertEqual((len(link.requests), link.closed, link.ran), (1, 1, 0))

    def test_listening_while_the_gateway_stops(self) -> None:
        """A listen that was on its way when the stop began is refused, or nothing would end it."""
        for what in ("eras", "stateless"):
            with self.subTest(what):
                self.setUp()
                self.upstream.slow = {what}
                outlet = self.rig.modern("subscriptions/listen", {"notifications": {}})
                self.rig.pipeline.drain()
                self.upstream.let_go()
                self.assertEqual((outlet.status, self.upstream.asked), (503, []))
                self.assertEqual([link.closed for link in self.upstream.links], [1])


class HandshakeDepartureTests(DepartureCase):
    """``initialize`` of a client that leaves."""

    def test_session_is_not_kept(self) -> None:
        """Nobody has its id, so the session is closed and counted for nobody."""
        self.upstream.slow = {"open_session"}
        self.rig.call("initialize", PARAMS).leave()
        self.upstream.let_go()
        self.assertEqual(self.upstream.links[0].closed, 1)
        self.assertEqual(len(self.rig.pipeline.table), 0)
        self.assert_cancelled()

    def test_server_that_ends_in_its_handshake(self) -> None:
        """A session that is dead before it is known is a failure, not a session."""
        self.upstream.slow = {"open_session"}
        outlet = self.rig.call("initialize", PARAMS)
        self.upstream.inboxes[0].closed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.upstream.let_go()
        self.assertEqual(outlet.status, 502)
        self.assertEqual(self.upstream.links[0].closed, 1)
        self.assertEqual(len(self.rig.pipeline.table), 0)


class SharedFailureTests(DepartureCase):
    """Bare requests that wait for one handshake."""

    def test_one_failure_for_all(self) -> None:
        """Whoever waited for a handshake that fails is told at once, not after one try each."""
        self.upstream.slow = {"open_session"}
        outlets = [self.rig.call("tools/list", accept="*/*") for _ in range(20)]
        self.upstream.held.pop(0).errback(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
        self.assertEqual([outlet.status for outlet in outlets], [504] * 20)
        self.assertEqual(len(self.rig.trail.outcomes), 20)
        self.assertEqual(self.upstream.held, [])
        self.upstream.slow.clear()
        self.upstream.reply = lambda outbound: {"result": {"tools": []}}
        self.assertEqual(self.rig.call("tools/list", accept="*/*").status, 200)

    def test_session_that_is_dead_on_arrival(self) -> None:
        """A server that ends with its handshake is not tried once more for each who waits."""
        self.upstream.slow = {"open_session"}
        outlets = [self.rig.call("tools/list", accept="*/*") for _ in range(5)]
        self.upstream.inboxes[0].closed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.upstream.let_go()
        self.assertEqual([outlet.status for outlet in outlets], [502] * 5)
        self.assertEqual((self.upstream.held, len(self.rig.pipeline.bare.pool)), ([], 0))
        self.assertEqual(self.upstream.links[0].closed, 1)

    def test_server_of_an_unknown_version(self) -> None:
        """A server that answers with a version nobody knows is not spoken to."""
        self.upstream.result = {"protocolVersion": "1999-01-01"}
        self.upstream.agrees = False
        outlet = self.rig.call("tools/list", accept="*/*")
        self.assertEqual((outlet.status, self.upstream.asked), (502, []))
        self.assertEqual(self.upstream.links[0].closed, 1)


class ForgetfulLink(MemoryLink):
    """A link whose session its server has forgotten: it fails before `request` returns."""

    def request(self, outbound: Outbound, sink: CallSink) -> MemoryCall:
        """Fail at once."""
        call = super().request(outbound, sink)
        sink.failed(UpstreamFailure(Reason.SESSION_NOT_FOUND))
        return call


class SecondTryTests(DepartureCase):
    """A bare request whose session was forgotten."""

    def forgotten(self) -> MemoryOutlet:
        """A request that finds its pooled session forgotten, and has been sent once more."""
        first, second = ForgetfulLink(), MemoryLink()
        links = iter((first, second))
        self.upstream.make_link = lambda: next(links)
        outlet = self.rig.call("tools/call", {"name": "write"}, accept="*/*")
        self.upstream.inboxes[0].closed(UpstreamFailure(Reason.SESSION_NOT_FOUND))
        self.rig.clock.advance(0)
        self.assertEqual((len(first.requests), len(second.requests)), (1, 1))
        return outlet

    def test_leaving_cancels_the_second(self) -> None:
        """What is cancelled is the request that runs, not the one that failed."""
        self.forgotten().leave()
        self.assertIsNotNone(self.upstream.links[1].requests[0][2].cancelled)
        self.assert_cancelled()

    def test_second_try_that_is_refused(self) -> None:
        """Why there can be no second try, and how long to wait, is what the client is told."""
        outlet = self.rig.call("tools/call", {"name": "write"}, accept="*/*")
        self.upstream.failure = UpstreamFailure(Reason.UPSTREAM_BUSY, "full", 7.0)
        gone = UpstreamFailure(Reason.SESSION_NOT_FOUND)
        self.upstream.links[0].requests[0][1].failed(gone)
        self.upstream.inboxes[0].closed(gone)
        self.rig.clock.advance(0)
        self.assertEqual((outlet.status, outlet.headers["retry-after"]), (503, "7"))

    def test_links_tell_their_calls_first(self) -> None:
        """The calls of a link fail before its session hears of it: the new try waits for both."""
        outlet = self.rig.call("tools/call", {"name": "write"}, accept="*/*")
        gone = UpstreamFailure(Reason.SESSION_NOT_FOUND)
        self.upstream.links[0].requests[0][1].failed(gone)
        self.upstream.inboxes[0].closed(gone)
        self.rig.clock.advance(0)
        self.assertEqual([len(link.requests) for link in self.upstream.links], [1, 1])
        self.upstream.links[1].answer(0, result={"content": []})
        self.assertEqual(outlet.status, 200)
