"""Handshake-era sessions before a stateless server that is a double, on a virtual clock."""

from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.pipeline.bridge.handshake_call import CallBounds
from mcpguard.pipeline.bridge.handshake_link import HandshakeLink
from mcpguard.pipeline.bridge.handshake_sessions import HandshakeBounds, HandshakeSessions
from mcpguard.pipeline.bridge.session_listen import ListenBounds
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.protocol.bridge.rounds import RoundBounds
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Eras,
    Link,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from tests.pipeline.rig import MemoryCall, MemoryMeter, MemoryUpstream

MODERN = "2026-07-28"
OFFERS: Message = {
    "tools": {"listChanged": True},
    "prompts": {},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
}
CAN_ALL: Message = {"elicitation": {}, "sampling": {}, "roots": {"listChanged": True}}
BOUNDS = HandshakeBounds(
    call=CallBounds(
        rounds=RoundBounds(rounds=3, entries=4, size=1000),
        total_secs=100.0,
        pause_secs=1.0,
        max_pause_secs=3.0,
    ),
    listen=ListenBounds(uris=3, uri_bytes=50, ack_secs=10.0, first_secs=2.0, most_secs=16.0),
    questions=4,
)
FORM: Message = {"method": "elicitation/create", "params": {"message": "who?"}}
SAMPLE: Message = {"method": "sampling/createMessage", "params": {"messages": []}}
ROOTS: Message = {"method": "roots/list", "params": {}}


@define(eq=False)
class Exchange:
    """One request that reached the server, for the test to answer."""

    outbound: Outbound
    sink: CallSink
    call: MemoryCall
    link: "ServerLink"
    declined: tuple[str, ...] | None = None
    """What a listen was first acknowledged without."""

    @property
    def params(self) -> Message:
        """What it was asked with."""
        return self.outbound.params or {}

    @property
    def listens_to(self) -> Message:
        """What a listen asked for."""
        wanted: Message = self.params["notifications"]
        return wanted

    def answer(self, **body: Any) -> None:
        """Answer it."""
        self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, **body})

    def complete(self, **members: Any) -> None:
        """Answer it with a complete result."""
        self.answer(result={"resultType": "complete", **members})

    def ask(self, state: str | None = None, **questions: Message) -> None:
        """Answer it with a round."""
        result: Message = {"resultType": "input_required"}
        if questions:
            result["inputRequests"] = questions
        if state is not None:
            result["requestState"] = state
        self.answer(result=result)

    def note(self, method: str, **params: Any) -> None:
        """Say something while it runs."""
        message = {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}
        self.sink.notification(message)

    def acknowledge(self, without: tuple[str, ...] = ()) -> None:
        """Say that a listen is open, for all but some URIs."""
        self.declined = without if self.declined is None else self.declined
        wanted = dict(self.listens_to)
        uris = wanted.pop("resourceSubscriptions", [])
        kept = [uri for uri in uris if uri not in without]
        if kept:
            wanted["resourceSubscriptions"] = kept
        self.note("subscriptions/acknowledged", notifications=wanted)


@define(eq=False)
class ServerLink:
    """A link to the server; what is sent on it is kept by the server."""

    server: "StatelessServer"
    closed: int = 0

    def request(self, outbound: Outbound, sink: CallSink) -> MemoryCall:
        """Keep it; lists of tools that the gateway asks for itself are answered at once."""
        call = MemoryCall()
        exchange = Exchange(outbound, sink, call, self)
        if outbound.id == "tools":
            self.server.schema_lists += 1
            if self.server.slow_lists is None:
                exchange.complete(tools=self.server.tools)
            else:
                self.server.slow_lists.append(exchange)
            return call
        self.server.exchanges.append(exchange)
        if self.server.at_once is not None:
            self.server.at_once(exchange)
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """A stateless server takes none."""
        raise AssertionError(f"{method} was sent to a stateless server")

    def respond(self, message: Message) -> None:
        """A stateless server asks nothing."""
        raise AssertionError("a response was sent to a stateless server")

    def close(self) -> Deferred[None]:
        """Count it."""
        self.closed += 1
        return MemoryUpstream().stop()


@define(eq=False, slots=False)
class StatelessServer(MemoryUpstream):
    """A server that keeps what it is asked; ``held`` keeps everybody waiting for a link."""

    exchanges: list[Exchange] = field(factory=list)
    given: list[ServerLink] = field(factory=list)
    tools: list[Message] = field(factory=list)
    schema_lists: int = 0
    slow_lists: list[Exchange] | None = None
    """Takes the gateway's own lists of tools, which are then left for the test to answer."""
    at_once: Any = None
    """Called with each exchange before `request` returns."""
    held: list[Deferred[Link]] | None = None

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """A link of its own for each request."""
        if self.failure:
            return fail(self.failure)
        waiting: Deferred[Link] = Deferred()
        if self.held is not None:
            self.held.append(waiting)
        else:
            waiting.callback(self.link())
        return waiting

    def link(self) -> ServerLink:
        """A new link."""
        link = ServerLink(self)
        self.given.append(link)
        return link

    @property
    def last(self) -> Exchange:
        """The request that came last."""
        return self.exchanges[-1]

    @property
    def listens(self) -> list[Exchange]:
        """The streams that were asked for."""
        return [one for one in self.exchanges if one.outbound.method == "subscriptions/listen"]

    @property
    def open(self) -> list[Exchange]:
        """Streams that nobody has given up."""
        return [one for one in self.listens if one.call.cancelled is None and not one.link.closed]


@define(eq=False)
class ClientSink:
    """The client's side of one request."""

    notes: list[Message] = field(factory=list)
    ends: list[Message | UpstreamFailure] = field(factory=list)

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notes.append(message)

    def answer(self, message: Message) -> None:
        """Keep it; there is one end."""
        assert not self.ends, (self.ends, message)
        self.ends.append(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Keep it; there is one end."""
        assert not self.ends, (self.ends, failure)
        self.ends.append(failure)

    @property
    def result(self) -> Any:
        """What it was answered with."""
        (end,) = self.ends
        assert isinstance(end, dict), end
        return end["result"]

    @property
    def error(self) -> Any:
        """The error it was answered with."""
        (end,) = self.ends
        assert isinstance(end, dict), end
        return end["error"]

    @property
    def failure(self) -> UpstreamFailure:
        """Why there is no answer."""
        (end,) = self.ends
        assert isinstance(end, UpstreamFailure), end
        return end


@define(eq=False)
class ClientInbox:
    """The client's side of the session; ``reply`` answers at once what is asked."""

    asked: list[tuple[Message, Call | None]] = field(factory=list)
    heard: list[Message] = field(factory=list)
    closings: list[UpstreamFailure] = field(factory=list)
    reply: Any = None

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.heard.append(message)

    def request(self, message: Message, related: Call | None) -> None:
        """Keep it."""
        self.asked.append((message, related))
        if self.reply is not None:
            self.reply(message)

    def closed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.closings.append(failure)

    @property
    def taken_back(self) -> list[str]:
        """The questions that nobody waits for any more."""
        return [
            one["params"]["requestId"]
            for one in self.heard
            if one["method"] == "notifications/cancelled"
        ]

    @property
    def changes(self) -> list[str]:
        """What it heard of changes, without the common prefix."""
        return [one["method"].removeprefix("notifications/") for one in self.heard]


class HandshakeCase(SynchronousTestCase):
    """One session, of a client that can do everything unless said otherwise."""

    offers: Message = OFFERS
    bounds = BOUNDS

    def setUp(self) -> None:
        """A server that has told what it offers, and a session before it."""
        self.clock = Clock()
        self.meter = MemoryMeter()
        self.server = StatelessServer(
            known_eras=Eras(
                legacy=False, modern=(MODERN,), discovered={"capabilities": self.offers}
            )
        )
        self.schemas = ToolSchemas(
            self.clock.seconds, ttl_secs=300.0, max_tools=10, max_pages=2, max_views=10
        )
        self.jitter = 1.0
        self.sessions = HandshakeSessions(
            inner=self.server,
            schemas=self.schemas,
            clock=self.clock,
            random=lambda: self.jitter,
            meter=self.meter,
            bounds=self.bounds,
        )
        self.inbox = ClientInbox()
        self.link = self.open(self.inbox)

    def opening(
        self, inbox: ClientInbox, capabilities: Message | None = None, **params: Any
    ) -> Opening:
        """Shake hands."""
        declared = CAN_ALL if capabilities is None else capabilities
        asked = {"protocolVersion": "2025-11-25", "capabilities": declared, **params}
        return self.successResultOf(
            Deferred.fromCoroutine(
                self.sessions.open(self.server.known_eras, "key:alice", asked, inbox, "")
            )
        )

    def open(self, inbox: ClientInbox, capabilities: Message | None = None) -> HandshakeLink:
        """Shake hands; the link of the session."""
        link = self.opening(inbox, capabilities).link
        assert isinstance(link, HandshakeLink)
        return link

    def call(
        self, method: str, id: str | int = 1, link: Link | None = None, **params: Any
    ) -> tuple[ClientSink, Call]:
        """Send a request as a client's wire does."""
        sink = ClientSink()
        outbound = Outbound(
            id=id,
            method=method,
            params=params or None,
            version="2025-11-25",
            principal_key="key:alice",
        )
        return sink, (link or self.link).request(outbound, sink)

    def reply(self, index: int, link: Link | None = None, **body: Any) -> None:
        """The client's response to the ``index``-th question."""
        message = {"jsonrpc": "2.0", "id": self.inbox.asked[index][0]["id"], **body}
        (link or self.link).respond(message)

    def strays(self) -> list[str]:
        """The kinds of messages that were dropped."""
        return [labels["kind"] for _, labels in self.meter.counts]

    def assert_idle(self) -> None:
        """Nothing runs: no timer, no link that was not given back."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([link.closed for link in self.server.given], [1] * len(self.server.given))


def bounded(**changes: Any) -> HandshakeBounds:
    """The bounds with some of those of a call changed."""
    return evolve(BOUNDS, call=evolve(BOUNDS.call, **changes))
