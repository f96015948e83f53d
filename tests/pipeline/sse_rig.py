"""A client of HTTP+SSE in memory, before a `rig.Rig`."""

import json
from typing import Any

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.sse import EventFramer, ServerEvent
from tests.pipeline.rig import MemoryLink, MemoryOutlet, Rig

PARAMS: dict[str, Any] = {
    "protocolVersion": "2024-11-05",
    "capabilities": {"sampling": {}, "roots": {}, "tasks": {}},
    "clientInfo": {"name": "old", "version": "1"},
}


@define(eq=False)
class SseClient:
    """Opens a stream at once; what it posts goes where the stream says."""

    rig: Rig
    who: str = "alice"
    path: str = "/sse"
    outlet: MemoryOutlet = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.outlet = self.rig.send(
            b"", method="GET", path=self.path, who=self.who, accept="text/event-stream"
        )

    @property
    def raw(self) -> list[ServerEvent]:
        """Every event so far."""
        return list(EventFramer(10_000_000).feed(self.outlet.body))

    @property
    def endpoint(self) -> str:
        """Where to post, as the first event says."""
        first = self.raw[0]
        assert first.event == "endpoint", first
        return first.data

    @property
    def session_id(self) -> str:
        """The one of the endpoint."""
        return self.endpoint.partition("?sessionId=")[2]

    @property
    def messages(self) -> list[Any]:
        """What the server said so far."""
        events = self.raw[1:]
        assert {event.event for event in events} <= {"message"}, events
        return [json.loads(event.data) for event in events]

    def post(self, body: Any, **more: Any) -> MemoryOutlet:
        """Post one message as Python's client does."""
        path, _, query = self.endpoint.partition("?")
        keys = {"path": path, "query": query, "who": self.who, "accept": "*/*", **more}
        return self.rig.send(body, **keys)

    def ask(self, method: str, params: Any = None, id: Any = 1, **more: Any) -> MemoryOutlet:
        """Post one request."""
        body = {"jsonrpc": "2.0", "id": id, "method": method}
        if params is not None:
            body["params"] = params
        return self.post(body, **more)

    def tell(self, method: str, params: Any = None, **more: Any) -> MemoryOutlet:
        """Post one notification."""
        return self.post({"jsonrpc": "2.0", "method": method, "params": params or {}}, **more)

    def initialize(self, **changes: Any) -> "SseClient":
        """Shake hands."""
        assert self.ask("initialize", {**PARAMS, **changes}, id=0).status == 202
        assert "result" in self.messages[-1], self.messages
        self.tell("notifications/initialized")
        return self


class SseCase(SynchronousTestCase):
    """A corridor, and a client whose session stands."""

    def setUp(self) -> None:
        """Shake hands."""
        self.rig = Rig()
        self.client = SseClient(self.rig).initialize()

    @property
    def link(self) -> MemoryLink:
        """The session's link."""
        return self.rig.upstream.links[0]

    @property
    def inbox(self) -> Any:
        """The session as its server sees it."""
        return self.rig.upstream.inboxes[0]

    def call(self, tool: str = "t", id: Any = 1) -> None:
        """Call a tool."""
        self.assertEqual(self.client.ask("tools/call", {"name": tool}, id).status, 202)

    def last_outcome(self) -> tuple[str, str | None, str | None]:
        """Method, status and reason of the newest outcome."""
        event = self.rig.trail.outcomes[-1]
        return str(event.method), event.status, event.reason
