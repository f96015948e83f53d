"""Renewal under whatever may happen: every request ends once, and nothing is left."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import Restart
from mcpguard.errors import Reason
from mcpguard.upstream.link import InitializeRejected, Link, Opening, Outbound, UpstreamFailure
from mcpguard.upstream.renewal import RenewingUpstream
from tests.upstream.renewal_doubles import (
    ALICE,
    BOUNDS,
    CRASHED,
    FORGOTTEN,
    PARAMS,
    VERSION,
    LinkDouble,
    ListenerDouble,
    MeterDouble,
    ServerDouble,
    SinkDouble,
)

REFUSALS = (
    FORGOTTEN,
    UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE),
    UpstreamFailure(Reason.UPSTREAM_CHANGED),
    InitializeRejected({"code": -32602}),
)


class Story:
    """One renewing upstream, its sessions, and what happens to them."""

    def __init__(self, transport: str, restart: Restart) -> None:
        self.clock = Clock()
        self.server = ServerDouble(transport)
        self.upstream = RenewingUpstream(
            self.server,
            restart,
            clock=self.clock,
            random=lambda: 0.5,
            meter=MeterDouble(),
            bounds=BOUNDS,
        )
        self.links: list[Link] = []
        self.closed: list[Link] = []
        self.calls: list[tuple[SinkDouble, Any]] = []
        self.cancelled: list[SinkDouble] = []
        self.listener = ListenerDouble()

    def open(self, number: int) -> None:
        """A client shakes hands."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
        opening.addCallbacks(self._opened, lambda _: None)

    def _opened(self, opening: Opening) -> None:
        self.links.append(opening.link)

    def resume(self, number: int) -> None:
        """A client comes back in another life."""
        resuming = self.upstream.resume_session(ALICE, PARAMS, VERSION, "s", self.listener, "")
        resuming.addCallbacks(self.links.append, lambda _: None)

    def ask(self, number: int) -> None:
        """A request in some session, ended ones included."""
        if self.links:
            sink, link = SinkDouble(), self.links[number % len(self.links)]
            call = link.request(Outbound(7, "tools/call", {}, VERSION, ALICE), sink)
            self.calls.append((sink, call))

    def subscribe(self, number: int) -> None:
        """One that is remembered."""
        if self.links:
            sink, link = SinkDouble(), self.links[number % len(self.links)]
            params = {"uri": f"file:///{number}"}
            call = link.request(Outbound(7, "resources/subscribe", params, VERSION, ALICE), sink)
            self.calls.append((sink, call))

    def cancel(self, number: int) -> None:
        """A request is wanted no more."""
        if self.calls:
            sink, call = self.calls[number % len(self.calls)]
            call.cancel("no more")
            if not sink.ends:
                self.cancelled.append(sink)

    def hold(self, number: int) -> None:
        """Somebody is asked in the course of a request."""
        if self.calls:
            self.calls[number % len(self.calls)][1].hold()

    def accept(self, number: int) -> None:
        """The server shakes hands, in another version sometimes."""
        waiting = [one for one in self.server.openings if not one.deferred.called]
        if waiting:
            version = "2025-06-18" if number == 9 else VERSION
            waiting[number % len(waiting)].accept(version)

    def refuse(self, number: int) -> None:
        """It does not."""
        waiting = [one for one in self.server.openings if not one.deferred.called]
        if waiting:
            waiting[0].refuse(REFUSALS[number % len(REFUSALS)])

    @property
    def _inner(self) -> list[LinkDouble]:
        return [*self.server.links, *(link for _, _, link in self.server.resumed)]

    def answer(self, number: int) -> None:
        """The server answers a request."""
        for link in self._inner[number % 3 :]:
            for call in link.calls:
                if call.cancelled is None and not link.closed:
                    call.result()
                    link.calls.remove(call)
                    return

    def forget(self, number: int) -> None:
        """The server has forgotten a session, as a request or nobody hears first."""
        inner = self._inner
        if inner:
            self._lose(inner[number % len(inner)], FORGOTTEN)

    def crash(self, number: int) -> None:
        """A child ends."""
        inner = self._inner
        if inner:
            self._lose(inner[number % len(inner)], CRASHED)

    def _lose(self, link: LinkDouble, failure: UpstreamFailure) -> None:
        calls, link.calls = link.calls, []
        if link.closed:
            return
        for call in calls:
            if call.cancelled is None:
                call.sink.failed(failure)
        link.inbox.closed(failure)
        link.closed += 1

    def close(self, number: int) -> None:
        """A client ends its session."""
        if self.links:
            link = self.links[number % len(self.links)]
            self.closed.append(link)
            link.close()
            self._bury()

    def attend(self, number: int) -> None:
        """Clients listen, or do not."""
        self.listener.attended = number % 2 == 0

    def wait(self, number: int) -> None:
        """Time goes by."""
        self.clock.advance(number)

    def _bury(self) -> None:
        """A closed link ends its calls, as every real one does."""
        for link in self._inner:
            if link.closed:
                calls, link.calls = link.calls, []
                for call in calls:
                    if call.cancelled is None:
                        call.sink.failed(FORGOTTEN)

    def end(self) -> None:
        """Every session is closed, then the upstream stopped."""
        for link in self.links:
            link.close()
        stopping: Deferred[None] = self.upstream.stop()
        assert stopping.called
        for opening in self.server.openings:
            if not opening.deferred.called:
                opening.accept()
        self._bury()


MOVES = [name for name in vars(Story) if not name.startswith("_") and name != "end"]


class LifetimeTests(SynchronousTestCase):
    """`RenewingUpstream`, over every kind of server."""

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(
        kind=st.sampled_from([("http", "end"), ("stdio", "end"), ("stdio", "replay")]),
        moves=st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 9)), max_size=40),
    )
    def test_nothing_is_left(self, kind: tuple[str, Restart], moves: list[tuple[str, int]]) -> None:
        """Sinks hear one end each (none when cancelled); no link or timer is left."""
        story = Story(*kind)
        for move, number in moves:
            getattr(story, move)(number)
        story.end()
        for sink, _ in story.calls:
            self.assertEqual(len(sink.ends), 0 if sink in story.cancelled else 1)
        self.assertEqual([link for link in story._inner if not link.closed], [])
        self.assertEqual(story.clock.getDelayedCalls(), [])
        self.assertEqual(len(story.upstream._renewals.links), 0)
        self.assertEqual(self.flushLoggedErrors(), [])
