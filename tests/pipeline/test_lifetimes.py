"""Whatever happens to sessions, in whatever order: nothing is left of them."""

from collections.abc import Callable
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.gateway.corridor import SESSIONS
from mcpguard.upstream.link import InitializeRejected, Link, Opening, UpstreamFailure
from tests.pipeline.rig import MemoryLink, MemoryOutlet, MemoryUpstream, Rig
from tests.pipeline.sse_rig import PARAMS, SseClient

KEY = bytes(range(32))
LOST = UpstreamFailure(Reason.UPSTREAM_FAILED, "exited with 1")
REJECTED = InitializeRejected({"code": -32603, "message": "no"})


class SlowUpstream(MemoryUpstream):
    """A server whose sessions are opened, and taken up again, when the test says so."""

    def __init__(self) -> None:
        super().__init__(resumable=True, session_id="s1")
        self.waiting: list[tuple[Deferred[Any], Callable[[], Deferred[Any]], Exception]] = []

    def open_session(self, *args: Any) -> Deferred[Opening]:
        """Wait."""
        return self._later(lambda: super(SlowUpstream, self).open_session(*args), REJECTED)

    def resume_session(self, *args: Any) -> Deferred[Link]:
        """Wait."""
        return self._later(lambda: super(SlowUpstream, self).resume_session(*args), LOST)

    def _later(self, does: Callable[[], Deferred[Any]], no: Exception) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, does, no))
        return waiting

    def proceed(self, place: int, word: str = "yes") -> None:
        """Let one of those who wait have their way, be lost or be told no."""
        if not self.waiting:
            return
        waiting, does, no = self.waiting.pop(place % len(self.waiting))
        if word == "yes":
            does().chainDeferred(waiting)
        else:
            waiting.errback(LOST if word == "lost" else no)


class Story:
    """One gateway, three sessions of an earlier life, and what happens."""

    def __init__(self) -> None:
        before = Rig(upstream=MemoryUpstream(resumable=True), session_key=KEY)
        self.ids = [before.handshake() for _ in range(3)]
        self.upstream = SlowUpstream()
        self.rig = Rig(
            upstream=self.upstream,
            session_key=KEY,
            sessions=evolve(SESSIONS, per_principal=4, total=5),
        )
        self.clients: list[SseClient] = []
        self.outlets: list[MemoryOutlet] = []

    def happen(self, move: str, number: int) -> None:
        """Do one thing."""
        getattr(self, move)(number)
        known = self.rig.pipeline.table
        assert len(known) <= 5
        assert len(self.rig.pipeline.sse) <= len(known)

    def stream(self, number: int) -> None:
        """Somebody opens an event stream."""
        client = SseClient(self.rig, who=("alice", "bob")[number % 2])
        if client.outlet.status == 200:
            self.clients.append(client)

    def _client(self, number: int) -> SseClient | None:
        return self.clients[number % len(self.clients)] if self.clients else None

    def greet(self, number: int) -> None:
        """A client of HTTP+SSE shakes hands, again maybe."""
        client = self._client(number)
        if client is not None:
            client.ask("initialize", PARAMS, id=0)

    def ask(self, number: int) -> None:
        """It calls a tool, ready or not."""
        client = self._client(number)
        if client is not None:
            client.ask("tools/call", {"name": "t"}, id=number)

    def leave(self, number: int) -> None:
        """It goes away."""
        client = self._client(number)
        if client is not None:
            client.outlet.leave()

    def begin(self, number: int) -> None:
        """Somebody shakes hands over Streamable HTTP."""
        self.outlets.append(self.rig.call("initialize", PARAMS))

    def revive(self, number: int) -> None:
        """A call in one of the old sessions."""
        headers = {"Mcp-Session-Id": self.ids[number % 3]}
        self.outlets.append(self.rig.call("tools/call", {"name": "t"}, headers=headers))

    def listen(self, number: int) -> None:
        """A stream in one of the old sessions."""
        headers = {"Mcp-Session-Id": self.ids[number % 3]}
        stream = "text/event-stream"
        self.outlets.append(self.rig.send(b"", method="GET", headers=headers, accept=stream))

    def delete(self, number: int) -> None:
        """The end of one of the old sessions."""
        headers = {"Mcp-Session-Id": self.ids[number % 3]}
        self.outlets.append(self.rig.send(b"", method="DELETE", headers=headers))

    def hang_up(self, number: int) -> None:
        """The client of some request goes away."""
        if self.outlets:
            self.outlets[number % len(self.outlets)].leave()

    def proceed(self, number: int) -> None:
        """The server gets on."""
        self.upstream.proceed(number)

    def fail(self, number: int) -> None:
        """The server does not."""
        self.upstream.proceed(number, "lost")

    def reject(self, number: int) -> None:
        """The server says no."""
        self.upstream.proceed(number, "no")

    def lose(self, number: int) -> None:
        """A session is lost at the server."""
        inboxes = self.upstream.inboxes
        if inboxes:
            inboxes[number % len(inboxes)].closed(LOST)

    def question(self, number: int) -> None:
        """The server asks something."""
        inboxes = self.upstream.inboxes
        if inboxes:
            message = {"jsonrpc": "2.0", "id": number, "method": "roots/list"}
            inboxes[number % len(inboxes)].request(message, None)

    def answer(self, number: int) -> None:
        """The server answers a call, which nobody may want any more."""
        running = [
            (link, place)
            for link in self.upstream.links
            for place, (_, _, call) in enumerate(link.requests)
            if call.cancelled is None
        ]
        if running:
            link, place = running[number % len(running)]
            link.answer(place, result={"content": []})

    def wait(self, number: int) -> None:
        """Time goes by."""
        self.rig.clock.advance(number * 7)
        self.rig.pipeline.table.sweep()
        self.rig.pipeline.sse.sweep()

    def end(self, drains: bool) -> list[MemoryLink]:
        """Let everybody go, or the gateway stop; gives the links that were left open."""
        if drains:
            self.rig.pipeline.drain()
        for client in self.clients:
            client.outlet.leave()
        while self.upstream.waiting:
            self.upstream.proceed(0)
        self.rig.clock.advance(0)
        done: list[None] = []
        self.rig.pipeline.end_sessions(keep=False).addCallback(done.append)
        assert done == [None]
        for outlet in self.outlets:
            outlet.leave()
        self.rig.clock.advance(0)
        return [link for link in self.upstream.links if not link.closed]


MOVES = [name for name in vars(Story) if not name.startswith("_") and name not in ("happen", "end")]


class LifetimeTests(SynchronousTestCase):
    """Sessions of both transports, new and old."""

    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
    @given(
        moves=st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 9)), max_size=40),
        drains=st.booleans(),
    )
    def test_nothing_is_left(self, moves: list[tuple[str, int]], drains: bool) -> None:
        """No link, timer, session, place or byte; every request has one outcome."""
        story = Story()
        for move, number in moves:
            story.happen(move, number)
        self.assertEqual(story.end(drains), [])
        pipeline = story.rig.pipeline
        self.assertEqual((len(pipeline.table), len(pipeline.sse)), (0, 0))
        self.assertEqual(pipeline.accepted_bytes, 0)
        self.assertEqual(story.rig.clock.getDelayedCalls(), [])
        self.assertTrue(all(client.outlet.gone for client in story.clients))
        begun = [
            one.request_id for one in story.rig.trail.events if one.event_type == "AuthSuccess"
        ]
        outcomes = [one.request_id for one in story.rig.trail.outcomes]
        self.assertEqual(sorted(set(outcomes)), sorted(outcomes))
        self.assertEqual(set(begun) - set(outcomes), set())
        self.assertEqual(self.flushLoggedErrors(), [])
