"""How sessions of HTTP+SSE end, and what is left of them: nothing."""

from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.gateway.corridor import SSE
from mcpguard.upstream.link import UpstreamFailure
from tests.pipeline.rig import Rig, api_key
from tests.pipeline.sse_rig import SseCase, SseClient


class EndTests(SseCase):
    """How sessions end."""

    def assert_over(self) -> None:
        """Nothing is left of it."""
        self.assertEqual((len(self.rig.pipeline.sse), len(self.rig.pipeline.table)), (0, 0))
        self.assertEqual(self.link.closed, 1)
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])
        events = [event.event_type for event in self.rig.trail.events]
        self.assertEqual((events.count("SessionStarted"), events.count("SessionEnded")), (1, 1))

    def test_client_leaves(self) -> None:
        """With the stream ends the session: its calls are cancelled, the server's is closed."""
        self.call()
        self.client.outlet.leave()
        self.assertIsNotNone(self.link.requests[0][2].cancelled)
        self.assertEqual(self.last_outcome(), ("tools/call", "cancelled", None))
        self.assertEqual(self.rig.meter.requests[-1], ("tools/call", 499))
        self.assert_over()
        self.assertEqual(self.client.ask("tools/list").status, 404)

    def test_reader_is_dropped_in_the_middle_of_an_answer(self) -> None:
        """A reader who is cut while something is written loses the session, and nothing breaks."""
        self.call(id=1)
        self.call(id=2)

        def cut(chunk: bytes) -> None:
            self.client.outlet.leave()

        self.patch(type(self.client.outlet), "write", lambda outlet, chunk: cut(chunk))
        self.link.answer(0, result={"content": []})
        self.assertIsNotNone(self.link.requests[1][2].cancelled)
        self.assertEqual(len(self.rig.trail.outcomes), 5)
        self.assert_over()

    def test_link_dies(self) -> None:
        """The client reads of the failed call, then the end."""
        self.call(id=6)
        failure = UpstreamFailure(Reason.UPSTREAM_FAILED)
        self.link.requests[0][1].failed(failure)
        self.inbox.closed(failure)
        self.assertEqual(self.client.messages[-1]["error"]["code"], 502)
        self.assertTrue(self.client.outlet.finished)
        self.assert_over()

    def test_all_end(self) -> None:
        """When all sessions are ended, a running call is told first."""
        self.call(id=6)
        self.successResultOf(self.rig.pipeline.table.end_all())
        self.assertEqual(self.client.messages[-1]["id"], 6)
        self.assertTrue(self.client.outlet.finished)
        self.assert_over()

    def test_idle(self) -> None:
        """A session on which nothing is said ends; calls, messages and what is pushed keep it."""
        update = {"method": "notifications/resources/updated", "params": {"uri": "demo://x"}}
        for keep in (
            lambda: self.client.tell("notifications/initialized"),
            lambda: self.inbox.notification(update),
            self.call,
            lambda: self.link.answer(0, result={"content": []}),
        ):
            self.rig.clock.advance(SSE.idle_secs - 1)
            keep()
            self.rig.clock.advance(2)
            self.sweep()
            self.assertFalse(self.client.outlet.finished)
        self.rig.clock.advance(SSE.idle_secs - 1)
        self.sweep()
        self.assertTrue(self.client.outlet.finished)
        self.assert_over()

    def test_long_call(self) -> None:
        """A call that takes longer than that keeps its session."""
        self.call()
        self.rig.clock.advance(SSE.idle_secs + 1)
        self.sweep()
        self.assertFalse(self.client.outlet.finished)

    def sweep(self) -> None:
        """What the gateway does every so often."""
        self.rig.pipeline.table.sweep()
        self.rig.pipeline.sse.sweep()

    def test_drain(self) -> None:
        """Idle streams end at once, the others when their calls have their answers."""
        other = SseClient(self.rig).initialize()
        self.call(id=1)
        self.call("x", id=2)
        self.rig.pipeline.drain()
        self.assertTrue(other.outlet.finished)
        self.assertFalse(self.client.outlet.finished)
        self.link.answer(0, result={"content": []})
        self.rig.clock.advance(0)
        self.assertFalse(self.client.outlet.finished)
        self.link.requests[1][1].failed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.rig.clock.advance(0)
        self.assertEqual([one["id"] for one in self.client.messages[-2:]], [1, 2])
        self.assertTrue(self.client.outlet.finished)
        self.assertEqual(SseClient(self.rig).outlet.status, 503)
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])

    def test_drain_while_a_stream_is_asked_for(self) -> None:
        """One that passed the first check before the drain is refused: nothing would end it."""
        known: Any = self.rig.pipeline.callers.authenticator
        waiting: Deferred[None] = Deferred()

        class Slow:
            """Finds out who it is when the test says so."""

            def authenticate(self, incoming: Any, now: float) -> Any:
                """See the chain."""
                return waiting.addCallback(lambda _: known.authenticate(incoming, now))

        self.rig.pipeline.callers.authenticator = Slow()
        late = SseClient(self.rig).outlet
        self.rig.pipeline.drain()
        waiting.callback(None)
        self.assertEqual(late.status, 503)
        self.assert_over()


class CredentialTests(SynchronousTestCase):
    """Streams and the credentials they were opened with."""

    def setUp(self) -> None:
        """A key that is good for a thousand seconds."""
        soon = datetime.fromtimestamp(1000, UTC)
        self.rig = Rig(keys=(evolve(api_key("alice"), expires_at=soon),))
        self.client = SseClient(self.rig).initialize()

    def test_expiry(self) -> None:
        """The session ends with them, whatever runs."""
        self.client.ask("tools/call", {"name": "t"}, id=1)
        self.rig.clock.advance(999)
        self.assertFalse(self.client.outlet.finished)
        self.rig.clock.advance(1)
        self.assertTrue(self.client.outlet.finished)
        self.assertEqual(self.client.messages[-1]["id"], 1)
        self.assertIsNotNone(self.rig.upstream.links[0].requests[0][2].cancelled)
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])

    def test_no_timer_is_left(self) -> None:
        """Nor one for each message."""
        for _ in range(10):
            self.client.tell("notifications/initialized")
        self.assertEqual(len(self.rig.clock.getDelayedCalls()), 1)
        self.client.outlet.leave()
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])

    def test_renewed(self) -> None:
        """A message with credentials of the same principal that last longer moves the end."""

        class Renewing:
            """Gives each request the expiry that the test wants."""

            expires_at: float | None = 1000.0

            def authenticate(self, incoming: Any, now: float) -> Any:
                """See the chain."""
                return evolve(known.authenticate(incoming, now), expires_at=self.expires_at)

        known: Any = self.rig.pipeline.callers.authenticator
        renewing = self.rig.pipeline.callers.authenticator = Renewing()
        renewing.expires_at = 2000.0
        self.client.tell("notifications/initialized")
        self.rig.clock.advance(999)
        renewing.expires_at = 3000.0
        self.client.tell("notifications/initialized")
        self.rig.clock.advance(2000)
        self.assertFalse(self.client.outlet.finished)
        self.rig.clock.advance(2)
        self.assertTrue(self.client.outlet.finished)
