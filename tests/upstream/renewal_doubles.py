"""A server whose sessions the test opens, loses and forgets, below a `RenewingUpstream`."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import Restart
from mcpguard.errors import Reason
from mcpguard.upstream.crashes import CrashBounds
from mcpguard.upstream.link import (
    CallSink,
    Eras,
    Inbox,
    Link,
    Message,
    Opening,
    Outbound,
    Standing,
    UpstreamFailure,
)
from mcpguard.upstream.renewal import RenewalBounds, RenewingUpstream
from mcpguard.upstream.renewal_posture import PostureBounds

VERSION = "2025-11-25"
PARAMS: Message = {
    "protocolVersion": VERSION,
    "capabilities": {"sampling": {}},
    "clientInfo": {"name": "a client", "version": "1"},
}
ALICE = "api_key:alice"
BOUNDS = RenewalBounds(
    pace=CrashBounds(
        first_secs=1.0,
        most_secs=30.0,
        jitter=0.0,
        loop=5,
        window_secs=60.0,
        cooldown_secs=60.0,
        healthy_secs=10.0,
    ),
    max_waiting=3,
    max_params=1000,
    spread_secs=4.0,
    posture=PostureBounds(max_subscriptions=3, max_uri=100),
)
FORGOTTEN = UpstreamFailure(Reason.SESSION_NOT_FOUND, "HTTP 404")
CRASHED = UpstreamFailure(Reason.UPSTREAM_FAILED, "exited with 1")


@define(eq=False)
class CallDouble:
    """A request at the server."""

    outbound: Outbound
    sink: CallSink
    cancelled: str | None = None
    holds: int = 0

    def cancel(self, reason: str) -> None:
        """Note it."""
        self.cancelled = reason

    def hold(self) -> None:
        """Count it."""
        self.holds += 1

    def release(self) -> None:
        """Count it."""
        self.holds -= 1

    def result(self, **result: Any) -> None:
        """Answer it."""
        self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, "result": result})

    def error(self) -> None:
        """Answer it with an error."""
        error = {"code": -32602, "message": "no"}
        self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, "error": error})


@define(eq=False)
class LinkDouble:
    """One of the server's sessions."""

    inbox: Inbox
    calls: list[CallDouble] = field(factory=list)
    notifications: list[str] = field(factory=list)
    responses: list[Message] = field(factory=list)
    closed: int = 0
    left: int = 0
    at_once: Callable[[CallDouble], object] = lambda call: None
    """Done with each request before it has been sent."""

    def request(self, outbound: Outbound, sink: CallSink) -> CallDouble:
        """Keep it."""
        call = CallDouble(outbound, sink)
        self.calls.append(call)
        self.at_once(call)
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """Keep it."""
        self.notifications.append(method)

    def respond(self, message: Message) -> None:
        """Keep it."""
        self.responses.append(message)

    def close(self) -> Deferred[None]:
        """Count it."""
        self.closed += 1
        return succeed(None)

    def leave(self) -> Deferred[None]:
        """Count it."""
        self.left += 1
        return succeed(None)

    def forget(self, index: int = -1) -> None:
        """The server says 404 to a request: that one hears it first, then the session."""
        self.calls[index].sink.failed(FORGOTTEN)
        self.inbox.closed(FORGOTTEN)

    @property
    def methods(self) -> list[str]:
        """What it was asked."""
        return [call.outbound.method for call in self.calls]


@define(eq=False)
class OpeningDouble:
    """A handshake the test answers."""

    principal_key: str
    params: Message
    inbox: Inbox
    path: str
    deferred: Deferred[Opening]
    cancelled: bool = False
    link: LinkDouble | None = None

    def accept(self, version: str = VERSION, **more: Any) -> LinkDouble:
        """Let it succeed."""
        self.link = link = LinkDouble(self.inbox)
        self.deferred.callback(Opening(link, {"protocolVersion": version}, **more))
        return link

    def refuse(self, failure: Exception) -> None:
        """Let it fail."""
        self.deferred.errback(failure)


class ServerDouble:
    """The upstream below."""

    def __init__(self, transport: str) -> None:
        self.name = "files"
        self.transport = transport
        self.standing = Standing(True)
        self.openings: list[OpeningDouble] = []
        self.resumable = transport == "http"
        self.resumed: list[tuple[str, str | None, LinkDouble]] = []
        self.started = self.stopped = self.closed_before_stop = 0

    @property
    def links(self) -> list[LinkDouble]:
        """Every session that was opened."""
        return [opening.link for opening in self.openings if opening.link is not None]

    def start(self) -> None:
        """Count it."""
        self.started += 1

    def stop(self) -> Deferred[None]:
        """Count it."""
        self.stopped += 1
        self.closed_before_stop = sum(link.closed for link in self.links)
        return succeed(None)

    def eras(self) -> Deferred[Eras]:
        """Handshakes only."""
        return succeed(Eras(legacy=True))

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """Leave it to the test."""

        def cancelled(_: Deferred[Opening]) -> None:
            opening.cancelled = True

        opening = OpeningDouble(principal_key, params, inbox, path, Deferred(cancelled))
        self.openings.append(opening)
        return opening.deferred

    async def _resume(self, version: str, session_id: str | None, inbox: Inbox) -> Link:
        if not self.resumable:
            raise UpstreamFailure(Reason.SESSION_NOT_FOUND, "ended with its child")
        link = LinkDouble(inbox)
        self.resumed.append((version, session_id, link))
        return link

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """A link, where there is something to come back to."""
        return Deferred.fromCoroutine(self._resume(version, session_id, inbox))

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """A link that nobody listens to."""
        return succeed(LinkDouble(ListenerDouble()))


@define(eq=False)
class SinkDouble:
    """Keeps what a caller hears."""

    notes: list[Message] = field(factory=list)
    ends: list[Message | UpstreamFailure] = field(factory=list)

    def notification(self, message: Message) -> None:
        """Nothing may come after the end."""
        assert not self.ends
        self.notes.append(message)

    def answer(self, message: Message) -> None:
        """An end."""
        self.ends.append(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """An end."""
        self.ends.append(failure)

    @property
    def result(self) -> Any:
        """The one answer's result."""
        (end,) = self.ends
        assert isinstance(end, dict), end
        return end["result"]

    @property
    def reason(self) -> Reason:
        """Why the one failure."""
        (end,) = self.ends
        assert isinstance(end, UpstreamFailure), end
        return end.reason

    @property
    def retry_after(self) -> float | None:
        """When to come back."""
        (end,) = self.ends
        assert isinstance(end, UpstreamFailure), end
        return end.retry_after


@define(eq=False)
class ListenerDouble:
    """A client's session, with or without somebody who listens."""

    attended: bool = False
    notes: list[Message] = field(factory=list)
    requests: list[tuple[Message, object]] = field(factory=list)
    closings: list[UpstreamFailure] = field(factory=list)

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notes.append(message)

    def request(self, message: Message, related: object) -> None:
        """Keep it."""
        self.requests.append((message, related))

    def closed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.closings.append(failure)


@define(eq=False)
class MeterDouble:
    """Keeps the results of renewals."""

    renewals: list[str] = field(factory=list)

    def request(self, method: str, status: int, seconds: float) -> None:
        """Not for upstreams."""

    def auth(self, provider: str, result: str) -> None:
        """Not for upstreams."""

    def rate_limit(self, allowed: bool) -> None:
        """Not for upstreams."""

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Not for this one."""

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Keep it."""
        assert name == "mcp_guard_upstream_renewals_total"
        assert labels["server"] == "files"
        self.renewals.append(labels["result"])


class RenewalCase(SynchronousTestCase):
    """A `RenewingUpstream` over a server that is the test."""

    transport = "http"
    restart: Restart = "end"

    def setUp(self) -> None:
        """Build it."""
        self.clock = Clock()
        self.meter = MeterDouble()
        self.server = ServerDouble(self.transport)
        self.listener = ListenerDouble()
        self.upstream = RenewingUpstream(
            self.server,
            self.restart,
            clock=self.clock,
            random=lambda: 0.5,
            meter=self.meter,
            bounds=BOUNDS,
        )

    def open(self, initialized: bool = True) -> tuple[Link, LinkDouble]:
        """A session: the link given out and the server's own."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "/deep")
        inner = self.server.openings[-1].accept()
        link = self.successResultOf(opening).link
        if initialized:
            link.notify("notifications/initialized", None)
        return link, inner

    def ask(self, link: Link, method: str = "tools/call", **params: Any) -> SinkDouble:
        """Send a request; its sink."""
        sink = SinkDouble()
        link.request(Outbound(7, method, params, VERSION, ALICE), sink)
        return sink

    def renewed(self, version: str = VERSION) -> LinkDouble:
        """The next handshake is asked for, and succeeds."""
        known = len(self.server.openings)
        self.clock.advance(0)
        assert len(self.server.openings) == known + 1
        return self.server.openings[-1].accept(version)
