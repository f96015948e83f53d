"""An HTTP upstream in memory: the wire is a double, the clock virtual, the server is the test."""

import json
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import UpstreamSettings
from mcpguard.errors import Reason
from mcpguard.observe.events import Event
from mcpguard.protocol.sse import encode_event
from mcpguard.upstream.http import HttpUpstream
from mcpguard.upstream.link import (
    Call,
    Link,
    Message,
    Opening,
    Outbound,
    Upstream,
    UpstreamFailure,
)
from mcpguard.upstream.wire import Head, Headers, Receiver

URL = "http://127.0.0.1:9/mcp"
EVENTS = {"Content-Type": "text/event-stream"}
MODERN = "2026-07-28"
LEGACY = "2025-11-25"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


@define(eq=False)
class Sent:
    """One HTTP request that left, and the means to answer it."""

    method: str
    url: str
    header_list: Headers
    body: bytes | None
    receiver: Receiver
    aborted: bool = False
    sent: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """Lower-case name -> value."""
        return {name.lower(): value for name, value in self.header_list}

    @property
    def message(self) -> dict[str, Any]:
        """The body, parsed."""
        message: dict[str, Any] = json.loads(self.body or b"null")
        return message

    def abort(self) -> None:
        """See `wire.Exchange`."""
        self.aborted = True

    def head(self, status: int, headers: dict[str, str] | None = None) -> None:
        """Answer with a head."""
        given = {name.lower(): (value,) for name, value in (headers or {}).items()}
        self.receiver.head(Head(status, given))

    def json(
        self, message: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with a whole JSON body."""
        self.head(status, {"Content-Type": "application/json", **(headers or {})})
        self.receiver.data(json.dumps(message).encode())
        self.receiver.end()

    def result(self, result: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Answer the request with a result, as JSON."""
        self.json({"jsonrpc": "2.0", "id": self.message["id"], "result": result}, 200, headers)

    def status(self, status: int, headers: dict[str, str] | None = None) -> None:
        """Answer with a status and no body."""
        self.head(status, headers)
        self.receiver.end()

    def events(self, headers: dict[str, str] | None = None) -> None:
        """Begin an event stream."""
        self.head(200, {**EVENTS, **(headers or {})})

    def event(
        self,
        message: object,
        id: str | None = None,
        retry: int | None = None,
        kind: str | None = None,
    ) -> None:
        """Send one event; None is the empty one that primes a resumption."""
        data = b"" if message is None else json.dumps(message).encode()
        self.receiver.data(encode_event(data, event=kind, id=id, retry=retry))

    def event_result(self, result: dict[str, Any]) -> None:
        """Send the answer to the request as an event."""
        self.event({"jsonrpc": "2.0", "id": self.message["id"], "result": result})

    def end(self) -> None:
        """End the body."""
        self.receiver.end()

    def lose(self, reason: Reason = Reason.UPSTREAM_FAILED, detail: str = "broken") -> None:
        """Break the connection."""
        self.receiver.lost(UpstreamFailure(reason, detail))


class MemoryWire:
    """A wire whose requests the test answers."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        self.closed = 0
        self.reached = 0
        self.reachable = True

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, receiver: Receiver
    ) -> Sent:
        """See `wire.Wire`."""
        sent = Sent(method, url, tuple(headers), body, receiver)
        self.requests.append(sent)
        return sent

    def reach(self, url: str) -> Deferred[None]:
        """See `wire.Wire`."""
        self.reached += 1
        if self.reachable:
            return succeed(None)
        return fail(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "refused"))

    def close(self) -> Deferred[None]:
        """See `wire.Wire`."""
        self.closed += 1
        return succeed(None)

    def last(self, method: str | None = None) -> Sent:
        """The newest request (of a method)."""
        return [one for one in self.requests if method in (None, one.method)][-1]

    def of(self, rpc: str) -> list[Sent]:
        """The POSTs of one JSON-RPC method."""
        return [one for one in self.requests if one.body and one.message.get("method") == rpc]


class Books:
    """Meters and audit trail that keep what they were told."""

    def __init__(self) -> None:
        self.upstreams: list[tuple[str, str, str]] = []
        self.seconds: list[float] = []
        self.counts: list[tuple[str, dict[str, str]]] = []
        self.events: list[Event] = []

    def request(self, method: str, status: int, seconds: float) -> None:
        """Not used by upstreams."""

    def auth(self, provider: str, result: str) -> None:
        """Not used by upstreams."""

    def rate_limit(self, allowed: bool) -> None:
        """Not used by upstreams."""

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Keep it."""
        self.upstreams.append((server, transport, result))
        self.seconds.append(seconds)

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Keep it."""
        self.counts.append((name, labels))

    def record(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    @property
    def results(self) -> list[str]:
        """The results of the finished requests."""
        return [result for _, _, result in self.upstreams]

    @property
    def strays(self) -> list[str]:
        """The kinds of the dropped messages."""
        return [
            labels["kind"] for name, labels in self.counts if name.endswith("_stray_messages_total")
        ]


class Sink:
    """A call sink that keeps everything, in order."""

    def __init__(self) -> None:
        self.notifications: list[Message] = []
        self.answers: list[Message] = []
        self.failures: list[UpstreamFailure] = []

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notifications.append(message)

    def answer(self, message: Message) -> None:
        """Keep it."""
        self.answers.append(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.failures.append(failure)

    @property
    def ends(self) -> int:
        """How many ends it heard."""
        return len(self.answers) + len(self.failures)

    @property
    def reason(self) -> Reason:
        """Why it failed."""
        return self.failures[0].reason


class Inbox:
    """An inbox that keeps everything, in order."""

    def __init__(self) -> None:
        self.notifications: list[Message] = []
        self.requests: list[tuple[Message, Call | None]] = []
        self.closings: list[UpstreamFailure] = []

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notifications.append(message)

    def request(self, message: Message, related: Call | None) -> None:
        """Keep it."""
        self.requests.append((message, related))

    def closed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.closings.append(failure)


class UrlCase(SynchronousTestCase):
    """An upstream behind a URL whose server is the test; `build` says which."""

    settings: dict[str, Any] = {}

    def setUp(self) -> None:
        """Build it."""
        self.clock = Clock()
        self.wire = MemoryWire()
        self.books = Books()
        self.upstream = self.build(**self.settings)

    def build(self, **settings: Any) -> Upstream:
        """An upstream on this case's wire."""
        raise NotImplementedError

    def legacy(self, method: str = "tools/call", id: str | int = 1, **params: Any) -> Outbound:
        """A request of a session."""
        return Outbound(id, method, params, LEGACY, "api_key:a")

    def opening(self, inbox: Inbox | None = None, path: str = "") -> Deferred[Opening]:
        """Begin a session."""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t"}}
        return self.upstream.open_session("api_key:a", params, inbox or Inbox(), path)

    def ask(self, link: Link, outbound: Outbound) -> tuple[Call, Sink, Sent]:
        """Send a request; its call, its sink, and the POST it became."""
        sink = Sink()
        call = link.request(outbound, sink)
        return call, sink, self.wire.last("POST")


class HttpCase(UrlCase):
    """An `HttpUpstream` whose server is the test."""

    def build(self, **settings: Any) -> HttpUpstream:
        """An upstream on this case's wire."""
        given = {"name": "remote", "transport": "http", "url": URL, **settings}
        return HttpUpstream(
            UpstreamSettings(**given),
            reactor=self.clock,
            meter=self.books,
            recorder=self.books,
            random=lambda: 0.0,
            wire=self.wire,
        )

    def stateless(self, path: str = "") -> Link:
        """A link for stateless requests."""
        return self.successResultOf(self.upstream.stateless("api_key:a", path))

    def modern(
        self, method: str = "tools/call", id: str | int = 1, endless: bool = False, **params: Any
    ) -> Outbound:
        """A stateless request."""
        params.setdefault("_meta", META)
        return Outbound(id, method, params, MODERN, "api_key:a", endless=endless)

    def session(self, inbox: Inbox | None = None, session_id: str | None = "s1") -> Link:
        """An open session before ``initialized``."""
        opening = self.opening(inbox)
        headers = {} if session_id is None else {"Mcp-Session-Id": session_id}
        self.wire.last().result({"protocolVersion": LEGACY, "capabilities": {}}, headers)
        return self.successResultOf(opening).link

    def ready(self, inbox: Inbox | None = None) -> Link:
        """An open session after ``initialized``, its event stream open."""
        link = self.session(inbox)
        link.notify("notifications/initialized", None)
        self.wire.last("POST").status(202)
        self.wire.last("GET").events()
        return link
