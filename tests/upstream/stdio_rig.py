"""A stdio upstream over process doubles, with scripted servers and sinks that write down all."""

from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import UpstreamSettings
from mcpguard.observe.events import Event
from mcpguard.protocol.mcp import META_CAPABILITIES, META_SUBSCRIPTION_ID, META_VERSION
from mcpguard.upstream.link import (
    Call,
    Id,
    Link,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from mcpguard.upstream.stdio import StdioUpstream
from tests.process_doubles import ProcessDouble, ProcessReactor

ALICE, BOB = "api_key:alice", "api_key:bob"

CLIENT_PARAMS: Message = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"sampling": {}},
    "clientInfo": {"name": "a client", "version": "1"},
}

MODERN_META = {META_VERSION: "2026-07-28", META_CAPABILITIES: {}}


@define(eq=False)
class Books:
    """A meter and a recorder that keep everything."""

    counts: list[tuple[str, dict[str, str]]] = field(factory=list)
    results: list[str] = field(factory=list)
    events: list[Event] = field(factory=list)

    def record(self, event: Event) -> None:
        """Keep an audit event."""
        self.events.append(event)

    def request(self, method: str, status: int, seconds: float) -> None:
        """Not for upstreams."""

    def auth(self, provider: str, result: str) -> None:
        """Not for upstreams."""

    def rate_limit(self, allowed: bool) -> None:
        """Not for upstreams."""

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Keep how a request ended."""
        assert transport == "stdio"
        self.results.append(result)

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Keep a count."""
        self.counts += [(name, labels)] * amount

    def strays(self) -> list[str]:
        """The kinds of messages that were dropped."""
        return [
            labels["kind"] for name, labels in self.counts if name.endswith("stray_messages_total")
        ]


@define(eq=False)
class Sink:
    """Keeps what belongs to one request."""

    notes: list[Message] = field(factory=list)
    ends: list[Message | UpstreamFailure] = field(factory=list)
    call: Call | None = None

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
    def answered(self) -> Message:
        """The one answer."""
        (end,) = self.ends
        assert isinstance(end, dict), end
        return end

    @property
    def failure(self) -> UpstreamFailure:
        """The one failure."""
        (end,) = self.ends
        assert isinstance(end, UpstreamFailure), end
        return end


@define(eq=False)
class InboxDouble:
    """Keeps what a server says to a session."""

    notes: list[Message] = field(factory=list)
    requests: list[Message] = field(factory=list)
    closings: list[UpstreamFailure] = field(factory=list)

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notes.append(message)

    def request(self, message: Message, related: Call | None) -> None:
        """Keep it; stdio never tells what it is related to."""
        assert related is None
        self.requests.append(message)

    def closed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.closings.append(failure)


@define(eq=False)
class ScriptedServer:
    """An MCP server inside a process double; ``hold`` lists methods it leaves unanswered."""

    legacy: bool = True
    modern: bool = False
    hold: set[str] = field(factory=lambda: {"hold"})
    heard: list[Message] = field(factory=list)

    def __call__(self, message: Message) -> Iterable[Message]:
        """Answer one message."""
        self.heard.append(message)
        method, gid = message.get("method"), message.get("id")
        if gid is None or method is None or method in self.hold:
            return []
        if method == "initialize":
            return [self._initialize(gid)]
        if method == "server/discover":
            return [self._discover(gid)]
        if method == "subscriptions/listen":
            ack = {
                "jsonrpc": "2.0",
                "method": "notifications/subscriptions/acknowledged",
                "params": {"_meta": {META_SUBSCRIPTION_ID: gid}},
            }
            return [ack]
        return [{"jsonrpc": "2.0", "id": gid, "result": {"did": method}}]

    def methods(self) -> list[str]:
        """The methods heard, in order."""
        return [str(message.get("method")) for message in self.heard]

    def last(self, method: str) -> Message:
        """The newest message with this method."""
        return next(m for m in reversed(self.heard) if m.get("method") == method)

    def _initialize(self, gid: Id) -> Message:
        if not self.legacy:
            return _error(gid, -32022)
        result = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "scripted", "version": "1"},
        }
        return {"jsonrpc": "2.0", "id": gid, "result": result}

    def _discover(self, gid: Id) -> Message:
        if not self.modern:
            return _error(gid, -32601)
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        return {"jsonrpc": "2.0", "id": gid, "result": result}


def _error(gid: Id, code: int) -> Message:
    return {"jsonrpc": "2.0", "id": gid, "error": {"code": code, "message": "no"}}


class StdioCase(SynchronousTestCase):
    """A stdio upstream whose children are doubles running scripted servers."""

    settings = UpstreamSettings(name="files", command="true", era="legacy")
    pipes_first = False

    def setUp(self) -> None:
        """The parts; `make` builds the upstream."""
        self.reactor = ProcessReactor()
        self.reactor.pipes_first = self.pipes_first
        self.books = Books()
        self.servers: list[ScriptedServer] = []
        self.new_server: Callable[[], ScriptedServer] = ScriptedServer
        self.reactor.server_for = self._server_for
        self.upstream = self.make()

    def _server_for(self, number: int) -> ScriptedServer:
        self.servers.append(self.new_server())
        return self.servers[-1]

    def make(self, **changes: Any) -> StdioUpstream:
        """An upstream with other settings."""
        self.upstream = StdioUpstream(
            evolve(self.settings, **changes),
            reactor=self.reactor,
            meter=self.books,
            recorder=self.books,
            random=lambda: 0.0,
            environ={"PATH": "/usr/bin:/bin"},
            signal_group=self.reactor.signal_group,
        )
        return self.upstream

    def turn(self, seconds: float = 0.0) -> None:
        """Let the doubles answer, and this much time pass."""
        for _ in range(6):
            self.reactor.advance(0)
        if seconds:
            self.reactor.pump_all(seconds, step=min(seconds, 0.5))

    def result(self, deferred: "Deferred[Any]") -> Any:
        """What a Deferred fires with, once the doubles have answered."""
        self.turn()
        return self.successResultOf(deferred)

    def problem(self, deferred: "Deferred[Any]") -> UpstreamFailure:
        """The failure a Deferred ends with, once the doubles have answered."""
        self.turn()
        failure: Failure = self.failureResultOf(deferred, UpstreamFailure)
        assert isinstance(failure.value, UpstreamFailure)
        return failure.value

    def open(self, key: str = ALICE) -> tuple[Link, InboxDouble]:
        """A session, its handshake finished."""
        inbox = InboxDouble()
        opening: Opening = self.result(self.upstream.open_session(key, CLIENT_PARAMS, inbox, ""))
        opening.link.notify("notifications/initialized", None)
        return opening.link, inbox

    def stateless(self, key: str = ALICE) -> Link:
        """A stateless link."""
        link: Link = self.result(self.upstream.stateless(key, ""))
        return link

    def ask(
        self,
        link: Link,
        method: str = "tools/call",
        params: Message | None = None,
        client_id: Id = 1,
        *,
        stateless: bool = False,
        endless: bool = False,
        turn: bool = True,
        principal: str = ALICE,
    ) -> Sink:
        """Send a request; its sink, after the doubles have had their turn."""
        if stateless:
            given = dict(params or {})
            params = {**given, "_meta": {**MODERN_META, **given.get("_meta", {})}}
        version = "2026-07-28" if stateless else "2025-06-18"
        sink = Sink()
        outbound = Outbound(client_id, method, params, version, principal, endless=endless)
        sink.call = link.request(outbound, sink)
        if turn:
            self.turn()
        return sink

    @property
    def alive(self) -> list[ProcessDouble]:
        """The children that have not ended."""
        return [child for child in self.reactor.children if not child.exited]
