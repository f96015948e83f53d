"""A whole corridor before servers that are doubles, in memory and on a virtual clock."""

import json
import secrets
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mcpguard.config.settings import (
    ApiKeySettings,
    Bridge,
    IdentityKeys,
    RateLimitSettings,
    ServerSettings,
    UpstreamSettings,
)
from mcpguard.errors import Reason
from mcpguard.front.exchange import Headers, Incoming
from mcpguard.gateway.corridor import SESSIONS, corridor_for
from mcpguard.gateway.serving import served, tool_schemas
from mcpguard.identity.api_keys import ApiKeys
from mcpguard.identity.chain import Chain
from mcpguard.identity.challenge import PLAIN
from mcpguard.limits.limiter import Places
from mcpguard.observe.events import OUTCOME_TYPES, Event
from mcpguard.pipeline.admission import Challenges
from mcpguard.pipeline.bridge.upstream import BridgingUpstream
from mcpguard.pipeline.callers import Authenticator
from mcpguard.pipeline.corridor import Pipeline
from mcpguard.pipeline.sessions import SessionBounds
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.protocol.ownership import marked
from mcpguard.upstream.link import (
    CallSink,
    Eras,
    Inbox,
    Link,
    Message,
    Opening,
    Outbound,
    Route,
    Standing,
    Upstream,
    UpstreamFailure,
)

LEGACY_ACCEPT = "application/json, text/event-stream"
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class MemoryTrail:
    """An audit trail that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    @property
    def outcomes(self) -> list[Event]:
        """Only the outcome events."""
        return [event for event in self.events if event.event_type in OUTCOME_TYPES]


class MemoryMeter:
    """Meters that keep what they were told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.counts: list[tuple[str, dict[str, str]]] = []
        self.auths: list[tuple[str, str]] = []

    def request(self, method: str, status: int, seconds: float) -> None:
        """Keep it."""
        self.requests.append((method, status))

    def auth(self, provider: str, result: str) -> None:
        """Keep it."""
        self.auths.append((provider, result))

    def rate_limit(self, allowed: bool) -> None:
        """Not looked at here."""

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Not looked at here."""

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Keep it."""
        self.counts.append((name, labels))


@define(eq=False)
class MemoryOutlet:
    """An outlet that keeps what was sent; ``leave`` is the client closing the connection."""

    status: int | None = None
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""
    streamed: bool = False
    finished: bool = False
    left: bool = False
    _callbacks: list[Callable[[], None]] = field(factory=list)

    @property
    def gone(self) -> bool:
        """Nothing more reaches the client."""
        return self.left or self.finished

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Keep the callback; once everything is sent nobody can leave any more."""
        if self.left:
            callback()
        elif not self.finished:
            self._callbacks.append(callback)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Take a whole answer."""
        assert self.status is None, "answered twice"
        if self.left:
            return
        self.status, self.body, self.finished = status, body, True
        self.headers = {name.lower(): value for name, value in headers}

    def open(self, status: int, headers: Headers, *, ends_in_drain: bool = True) -> None:
        """Take the start of a stream."""
        assert self.status is None, "answered twice"
        self.status, self.streamed = status, True
        self.headers = {name.lower(): value for name, value in headers}

    def write(self, chunk: bytes) -> None:
        """Take a piece."""
        assert self.streamed
        assert not self.finished, "wrote after the end"
        if not self.left:
            self.body += chunk

    def finish(self) -> None:
        """Take the end."""
        self.finished = True

    def leave(self) -> None:
        """The client goes away."""
        if self.gone:
            return
        self.left = True
        for callback in self._callbacks:
            callback()

    @property
    def json(self) -> Any:
        """The body of a whole answer."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The messages of a stream, in order."""
        blocks = self.body.decode().split("\n\n")
        data = [
            "".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:"))
            for block in blocks
        ]
        return [json.loads(text) for text in data if text]

    @property
    def event_ids(self) -> list[str]:
        """The ids of a stream's events."""
        return [
            line[3:].strip() for line in self.body.decode().split("\n") if line.startswith("id:")
        ]


@define(eq=False)
class MemoryCall:
    """A call that notes its cancellation and how often it is held."""

    cancelled: str | None = None
    held: int = 0

    def cancel(self, reason: str) -> None:
        """Note it."""
        self.cancelled = reason

    def hold(self) -> None:
        """Count it."""
        self.held += 1

    def release(self) -> None:
        """Count it back."""
        assert self.held > 0, "released without a hold"
        self.held -= 1


@define(eq=False)
class MemoryLink:
    """A link that keeps what it was asked, for the test to answer."""

    requests: list[tuple[Outbound, CallSink, MemoryCall]] = field(factory=list)
    notifications: list[tuple[str, Message | None]] = field(factory=list)
    responses: list[Message] = field(factory=list)
    closed: int = 0
    left: int = 0
    reply: Callable[[Outbound], Message | None] = lambda outbound: None

    def request(self, outbound: Outbound, sink: CallSink) -> MemoryCall:
        """Keep it, and answer at once when ``reply`` says what."""
        call = MemoryCall()
        self.requests.append((outbound, sink, call))
        body = self.reply(outbound)
        if body is not None:
            sink.answer({"jsonrpc": "2.0", "id": outbound.id, **body})
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """Keep it."""
        self.notifications.append((method, params))

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

    def answer(self, index: int, **body: Any) -> None:
        """Answer the ``index``-th request."""
        outbound, sink, _ = self.requests[index]
        sink.answer({"jsonrpc": "2.0", "id": outbound.id, **body})


@define(eq=False, slots=False)
class MemoryUpstream:
    """A server that is a double."""

    name: str = "default"
    transport: str = "stdio"
    known_eras: Eras = field(factory=lambda: Eras(legacy=True))
    failure: UpstreamFailure | None = None
    links: list[MemoryLink] = field(factory=list)
    inboxes: list[Inbox] = field(factory=list)
    resumable: bool = False
    """Whether its sessions outlive the gateway."""
    session_id: str | None = None
    """What it calls each of its sessions."""
    resumed_with: list[tuple[str, Message, str, str | None, str]] = field(factory=list)
    """The principal, params, version, session id and path of each session taken up again."""
    initialized_with: list[Message] = field(factory=list)
    result: Message = field(
        factory=lambda: {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}, "tasks": {}},
            "serverInfo": {"name": "double", "version": "1"},
        }
    )
    reply: Callable[[Outbound], Message | None] = lambda outbound: None

    @property
    def standing(self) -> Standing:
        """Always usable."""
        return Standing(usable=True)

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> Deferred[None]:
        """Nothing to stop."""
        return succeed(None)

    def eras(self) -> Deferred[Eras]:
        """What the test says."""
        return fail(self.failure) if self.failure else succeed(self.known_eras)

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """A link of its own for each session."""
        if self.failure:
            return fail(self.failure)
        self.initialized_with.append(params)
        self.inboxes.append(inbox)
        link = self._link()
        result = {**self.result, "protocolVersion": params["protocolVersion"]}
        return succeed(Opening(link, result, session_id=self.session_id, resumable=self.resumable))

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """A new link to the old session, where the test lets sessions live on."""
        if self.failure:
            return fail(self.failure)
        if not self.resumable:
            return fail(UpstreamFailure(Reason.SESSION_NOT_FOUND, "ended with the gateway"))
        self.resumed_with.append((principal_key, params, version, session_id, path))
        self.inboxes.append(inbox)
        return succeed(self._link())

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """A link of its own for each request."""
        return fail(self.failure) if self.failure else succeed(self._link())

    def _link(self) -> MemoryLink:
        link = MemoryLink(reply=lambda outbound: self.reply(outbound))
        self.links.append(link)
        return link

    @property
    def asked(self) -> list[Outbound]:
        """Everything that reached this server."""
        return [outbound for link in self.links for outbound, _, _ in link.requests]


@define(eq=False)
class MemoryDirectory:
    """Routes by exact path."""

    routes: dict[str, Upstream]

    def resolve(self, path: str) -> Route | None:
        """The route of an exact path."""
        upstream = self.routes.get(path)
        return None if upstream is None else Route(upstream, "", path)

    @property
    def upstreams(self) -> Sequence[Upstream]:
        """All of them."""
        return list(self.routes.values())

    def describe(self) -> Sequence[dict[str, Any]]:
        """Not looked at here."""
        return []


def api_key(name: str, **keys: Any) -> ApiKeySettings:
    """An identity whose key is ``mcp_<name>``."""
    digest = sha256(f"mcp_{name}".encode()).digest()
    return ApiKeySettings(id=name, key_hash=digest, identity=IdentityKeys(**keys))


@define(eq=False)
class Rig:
    """A corridor and everything around it."""

    keys: tuple[ApiKeySettings, ...] = field(factory=lambda: (api_key("alice"), api_key("bob")))
    limits: RateLimitSettings = field(
        factory=lambda: RateLimitSettings(requests_per_second=1000, burst_size=1000)
    )
    server: ServerSettings = field(factory=ServerSettings)
    upstream: MemoryUpstream = field(factory=MemoryUpstream)
    bridge: Bridge | None = None
    """How the upstream is shown in the era it does not speak; None: it is not."""
    others: dict[str, MemoryUpstream] = field(factory=dict)
    clock: Clock = field(factory=Clock)
    trail: MemoryTrail = field(factory=MemoryTrail)
    meter: MemoryMeter = field(factory=MemoryMeter)
    session_key: bytes | None = None
    """Two rigs with one key are two lives of one gateway."""
    sessions: SessionBounds = SESSIONS
    places: Places | None = None
    owner: int | None = None
    """The number of this worker, where it is one."""
    authenticator: Authenticator | None = None
    """Instead of the keys."""
    challenges: Challenges = PLAIN
    pipeline: Pipeline = field(init=False)
    served: BridgingUpstream | None = field(init=False, default=None)
    _count: int = field(init=False, default=0)
    _notes: dict[Any, dict[str, Any]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        schemas = tool_schemas(self.clock.seconds)
        upstream: Upstream = self.upstream
        if self.bridge is not None:
            self.served = upstream = served(
                upstream,
                UpstreamSettings(command="true", bridge=self.bridge),
                clock=self.clock,
                random=lambda: 0.0,
                meter=self.meter,
                schemas=schemas,
                new_token=lambda: marked(self.owner, secrets.token_urlsafe(24)),
            )
        self.pipeline = corridor_for(
            schemas=schemas,
            server=self.server,
            rate_limit=self.limits,
            authenticator=self.authenticator or Chain(*([ApiKeys(self.keys)] if self.keys else [])),
            directory=MemoryDirectory({"/mcp": upstream, **self.others}),
            clock=self.clock,
            wall=self.clock.seconds,
            new_id=self._new_id,
            recorder=self.trail,
            meter=self.meter,
            session_key=self.session_key,
            sessions=self.sessions,
            places=self.places,
            owner=self.owner,
            challenges=self.challenges,
        )

    def _new_id(self) -> str:
        self._count += 1
        return f"id-{self._count}"

    def send(
        self,
        body: Any = None,
        *,
        method: str = "POST",
        path: str = "/mcp",
        who: str | None = "alice",
        accept: str | None = LEGACY_ACCEPT,
        headers: dict[str, str] | None = None,
        query: str = "",
        peer: str = "192.0.2.1",
        certificate: PeerCertificate | None = None,
    ) -> MemoryOutlet:
        """Walk one request; ``body`` is JSON unless it is bytes."""
        all_headers: dict[str, tuple[str, ...]] = {"host": ("127.0.0.1:3000",)}
        if method == "POST":
            all_headers["content-type"] = ("application/json",)
        if accept is not None:
            all_headers["accept"] = (accept,)
        if who is not None:
            all_headers["authorization"] = (f"Bearer mcp_{who}",)
        for name, value in (headers or {}).items():
            all_headers[name.lower()] = (value,)
        outlet = MemoryOutlet()
        # As the fast channel keeps heads: whatever comes with the same one finds its notes.
        noted = method == "POST" and not query
        head = path, tuple(all_headers.items())
        self.pipeline.handle(
            Incoming(
                request_id=self._new_id(),
                method=method,
                path=path,
                query=query,
                headers=all_headers,
                body=body if isinstance(body, bytes) else json.dumps(body).encode(),
                peer=peer,
                received_at=self.clock.seconds(),
                certificate=certificate,
                notes=self._notes.setdefault(head, {}) if noted else None,
            ),
            outlet,
        )
        return outlet

    def call(self, method: str, params: Any = None, id: Any = 1, **more: Any) -> MemoryOutlet:
        """Walk one JSON-RPC request."""
        body = {"jsonrpc": "2.0", "id": id, "method": method}
        if params is not None:
            body["params"] = params
        return self.send(body, **more)

    def modern(self, method: str, params: Any = None, id: Any = 1, **more: Any) -> MemoryOutlet:
        """Walk one stateless request with the headers the version demands."""
        params = {"_meta": dict(META), **(params or {})}
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        name = params.get("name", params.get("uri"))
        if isinstance(name, str):
            headers["Mcp-Name"] = name
        headers.update(more.pop("headers", {}))
        return self.call(method, params, id, headers=headers, **more)

    def handshake(
        self, who: str = "alice", capabilities: Message | None = None, version: str = "2025-11-25"
    ) -> str:
        """Open a session; returns its id."""
        outlet = self.call(
            "initialize",
            {
                "protocolVersion": version,
                "capabilities": capabilities or {},
                "clientInfo": {"name": "test", "version": "1"},
            },
            who=who,
        )
        assert outlet.status == 200, outlet.body
        return outlet.headers["mcp-session-id"]
