"""The bridge for stateless clients before a double, in memory and on a virtual clock."""

from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from mcpguard.pipeline.bridge.lodging import ResidenceBounds
from mcpguard.pipeline.bridge.parking import ParkingBounds
from mcpguard.pipeline.bridge.stateless_links import StatelessBounds, StatelessLinks
from mcpguard.pipeline.bridge.stateless_listen import ListenPace
from mcpguard.pipeline.pool import SessionPool
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure
from tests.pipeline.rig import META, MODERN, MemoryCall, MemoryLink, MemoryMeter, MemoryUpstream

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
FORMS: Message = {"elicitation": {"form": {}}}
EVERYTHING: Message = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {"tools": {}},
    "roots": {},
}
OFFERS: Message = {
    "tools": {"listChanged": True},
    "prompts": {},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
}
BOUNDS = StatelessBounds(
    parking=ParkingBounds(
        calls=3,
        calls_per_principal=2,
        size=10_000,
        size_per_principal=5_000,
        secs=300.0,
        rounds=4,
        questions=3,
        notifications=2,
    ),
    residence=ResidenceBounds(waiting=2, waiting_secs=30.0, ping_secs=30.0),
    pace=ListenPace(first_secs=1.0, most_secs=60.0, jitter=0.5),
    gather_secs=0.02,
    linger_secs=0.05,
    listens=3,
)


@define(eq=False)
class Heard:
    """A sink that keeps what it hears."""

    notifications: list[Message] = field(factory=list)
    answers: list[Message] = field(factory=list)
    failures: list[UpstreamFailure] = field(factory=list)
    call: Call | None = None

    def notification(self, message: Message) -> None:
        """Keep it."""
        assert not self.over, "a notification after the end"
        self.notifications.append(message)

    def answer(self, message: Message) -> None:
        """Keep it; the only end."""
        assert not self.over, "two ends"
        self.answers.append(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Keep it; the only end."""
        assert not self.over, "two ends"
        self.failures.append(failure)

    @property
    def over(self) -> bool:
        """Whether it has heard its end."""
        return bool(self.answers or self.failures)

    @property
    def result(self) -> Message:
        """The result it was answered with."""
        result: Message = self.answers[0]["result"]
        return result

    @property
    def error(self) -> Message:
        """The error it was answered with."""
        error: Message = self.answers[0]["error"]
        return error


@define(eq=False, slots=False)
class StatelessRig:
    """`StatelessLinks` with everything around it."""

    bounds: StatelessBounds = BOUNDS
    clock: Clock = field(factory=Clock)
    meter: MemoryMeter = field(factory=MemoryMeter)
    upstream: MemoryUpstream = field(factory=MemoryUpstream)
    pool: SessionPool = field(init=False)
    links: StatelessLinks = field(init=False)
    _tokens: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.upstream.result["capabilities"] = dict(OFFERS)
        self.pool = SessionPool(self.clock.seconds, 60.0, max_sessions=8, max_per_principal=4)
        self.links = StatelessLinks(
            self.upstream,
            self.pool,
            self.clock,
            self.meter,
            lambda: 0.5,
            self._token,
            self.bounds,
        )

    def _token(self) -> str:
        self._tokens += 1
        return f"token-{self._tokens}"

    def send(
        self,
        method: str,
        params: Message | None = None,
        *,
        who: str = "alice",
        id: Any = 1,
        path: str = "",
        capabilities: Message | None = None,
        meta: Message | None = None,
        sink: CallSink | None = None,
    ) -> Heard:
        """Send one stateless request."""
        heard = Heard()
        declared = FORMS if capabilities is None else capabilities
        known = {**META, CAPABILITIES: declared, **(meta or {})}
        outbound = Outbound(
            id=id,
            method=method,
            params={**(params or {}), "_meta": known},
            version=MODERN,
            principal_key=who,
            endless=method == "subscriptions/listen",
        )
        link = self.links.link(who, path)
        heard.call = link.request(outbound, sink or heard)
        return heard

    def call(self, tool: str = "tool", **more: Any) -> Heard:
        """Call a tool."""
        params = {"name": tool, "arguments": {}, **more.pop("params", {})}
        return self.send("tools/call", params, **more)

    def retry(
        self, asked: Heard, responses: Message | None = None, tool: str = "tool", **more: Any
    ) -> Heard:
        """Call again with the answers to what was asked."""
        state: Message = {"requestState": asked.result["requestState"]}
        if responses is not None:
            state["inputResponses"] = responses
        return self.call(tool, params=state, **more)

    def listen(self, wanted: Message, **more: Any) -> Heard:
        """Open a listen."""
        return self.send("subscriptions/listen", {"notifications": wanted}, **more)

    # -- the server ------------------------------------------------------------------------

    def link(self, number: int = -1) -> MemoryLink:
        """The server's end of a session."""
        return self.upstream.links[number]

    def running(self, number: int = -1, session: int = -1) -> MemoryCall:
        """A call as the server sees it."""
        return self.link(session).requests[number][2]

    def ask(
        self,
        id: Any,
        method: str = "elicitation/create",
        params: Message | None = None,
        *,
        related: Call | None = None,
        session: int = -1,
        gather: bool = True,
    ) -> None:
        """The server asks something on a session."""
        message: Message = {"jsonrpc": "2.0", "id": id, "method": method}
        if method != "roots/list" or params:
            message["params"] = params or {"message": f"who? {id}", "requestedSchema": {}}
        self.upstream.inboxes[session].request(message, related)
        if gather:
            self.clock.advance(1)

    def tell(self, method: str, params: Message | None = None, session: int = -1) -> None:
        """The server says something on a session."""
        message: Message = {"jsonrpc": "2.0", "method": f"notifications/{method}"}
        if params is not None:
            message["params"] = params
        self.upstream.inboxes[session].notification(message)

    def lose(self, failure: UpstreamFailure, session: int = -1) -> None:
        """A session is lost, as links tell it: first its calls, then the session."""
        for _, sink, _ in list(self.link(session).requests):
            sink.failed(failure)
        self.upstream.inboxes[session].closed(failure)
