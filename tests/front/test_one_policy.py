"""The whole corridor behind both channels: equal decisions, answers, audit events, requests."""

import json
import re
from collections.abc import Iterator
from typing import Any

from attrs import field, frozen
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings, ServerSettings, ToolLimit
from mcpguard.errors import Reason
from mcpguard.front.fast_channel import FastChannel
from mcpguard.observe.events import Event
from mcpguard.upstream.link import Eras, Message, Outbound, UpstreamFailure
from tests.front.replay import in_one_order
from tests.front.wire import Listener, limited, request
from tests.pipeline.rig import LEGACY_ACCEPT, META, MODERN, MemoryUpstream, Rig, api_key

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "write_file")]
ROOM = limited(body_bytes=20_000, header_bytes=8_000, header_count=50, connections=1_000,
               connections_per_address=1_000)  # fmt: skip
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
JSON = "Content-Type: application/json"
BOTH = f"Accept: {LEGACY_ACCEPT}"
ALICE = "Authorization: Bearer mcp_alice"


def reply(outbound: Outbound) -> Message | None:
    """Answers of the server; what is called ``slow`` is answered by the test."""
    if outbound.method == "tools/list":
        return {"result": {"tools": TOOLS}}
    if outbound.method == "tools/call":
        params = outbound.params or {}
        if params.get("name") == "slow":
            return None
        return {"result": {"content": [{"type": "text", "text": json.dumps(params)}]}}
    return {"error": {"code": -32601, "message": "no such method"}}


def post(body: Any, *fields: str, path: str = "/mcp") -> bytes:
    """One POST; ``body`` is JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(f"POST {path}", *fields, body=data)


def rpc(method: str, params: Any = None, id: Any = 1) -> dict[str, Any]:
    """One JSON-RPC request."""
    body = {"jsonrpc": "2.0", "id": id, "method": method}
    return body if params is None else {**body, "params": params}


def call(tool: str, id: Any = 1, **arguments: Any) -> dict[str, Any]:
    """One tools/call."""
    return rpc("tools/call", {"name": tool, "arguments": arguments}, id)


@frozen
class Told:
    """What came of a conversation."""

    answers: list[bytes]
    events: list[Event] = field(repr=False)
    asked: list[Outbound] = field(repr=False)
    metered: list[tuple[str, int]] = field(repr=False)


class Conversation:
    """Requests, each on a connection of its own or one after the other, before one corridor."""

    def __init__(self, fast: bool, **server: Any) -> None:
        self.fast = fast
        eras = Eras(legacy=True, modern=(MODERN,))
        keys = (
            api_key("alice"),
            api_key("bob", denied_tools=("write_*",)),
            api_key("carol", allowed_tools=("echo",), rate_limit=2.0),
        )
        limits = RateLimitSettings(
            requests_per_second=500,
            burst_size=500,
            failed_auth_per_minute=6,
            tool_limits=(ToolLimit("echo_limited", 1.0, 1),),
        )
        self.rig = Rig(
            keys=keys,
            limits=limits,
            server=ServerSettings(**server),
            upstream=MemoryUpstream(known_eras=eras, reply=reply),
        )
        corridor: Any = self.rig.pipeline
        self.listener = Listener(clock=self.rig.clock, corridor=corridor, fast=fast, limits=ROOM)
        self.received: list[bytes] = []
        self.served_fast = 0
        self._session = ""

    def send(self, *requests: bytes) -> bytes:
        """Send these on one new connection."""
        client = self.listener.connect()
        for one in requests:
            client.send(one.replace(b"SESSION", self._session.encode()))
        return self.take(client)

    def take(self, client: Any) -> bytes:
        """Note what a client received."""
        received = in_one_order(client.received())
        self.served_fast += isinstance(client.channel, FastChannel)
        found = re.search(rb"Mcp-Session-Id: ([^\r]+)", received)
        if found and not self._session:
            self._session = found[1].decode()
        self.received.append(received.replace(self._session.encode() or b"-", b"SESSION"))
        return received

    @property
    def told(self) -> Told:
        """All of it; the session's digest differs from run to run."""
        events = [event._replace(session_id=event.session_id and "S") for event in self.events]
        return Told(self.received, events, self.rig.upstream.asked, self.rig.meter.requests)

    @property
    def events(self) -> list[Event]:
        """The audit trail."""
        return self.rig.trail.events


def everything() -> Iterator[bytes]:
    """Requests of every generation by callers of every kind, sound and not."""
    bodies: list[Any] = [
        *(rpc("tools/list"), call("echo", text="ä"), call("write_file"), call("none"), call("")),
        *(call("echo", id=0), call("echo", id="x"), call("echo", id=1.5), call("echo", id=None)),
        *(call("echo_limited"), call("echo_limited"), rpc("ping"), rpc("nope"), rpc("Tools/call")),
        *(rpc("tools/call", []), rpc("tools/call", {"name": 5}), rpc("initialize", INITIALIZE)),
        *({"jsonrpc": "2.0", "method": "notifications/initialized"}, {"jsonrpc": "1.0"}, []),
        [call("echo")],
        *({"jsonrpc": "2.0", "id": 1, "result": {}}, "text", 5, None, {}),
        *(b"{", b"{}x", b"[" * 200, b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"id":1,"id":2}', b"nul"),
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"write_file"}}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"tools/list"}',
        rpc("tools/call", {"name": "echo", "_meta": META}),
    ]  # fmt: skip
    session = "Mcp-Session-Id: SESSION"
    version = "MCP-Protocol-Version: 2025-06-18"
    modern = f"MCP-Protocol-Version: {MODERN}"
    yield post(rpc("initialize", INITIALIZE), JSON, BOTH, ALICE)
    for who in (ALICE, "Authorization: Bearer mcp_bob", "Authorization: bearer  mcp_carol"):
        for body in bodies:
            yield post(body, JSON, who)
            yield post(body, JSON, BOTH, who, session, version)
            yield post(body, JSON, BOTH, who, modern, "Mcp-Method: tools/call", "Mcp-Name: echo")
    for fields in (
        *((), (JSON,), (JSON, "Authorization: Bearer wrong"), (JSON, "Authorization: Basic x")),
        *((JSON, ALICE, "Accept: text/html"), ("Content-Type: text/plain", ALICE), (ALICE,)),
        *((JSON, ALICE, BOTH, "MCP-Protocol-Version: 1999-01-01"), (JSON, ALICE, BOTH, modern)),
        *((JSON, ALICE, BOTH, session, modern), (JSON, ALICE, "Mcp-Session-Id: unknown", BOTH)),
        *((JSON, ALICE, BOTH, session, session), (JSON, ALICE, session, "Accept: text/html")),
        *((JSON, ALICE, "Origin: http://evil"), (JSON, ALICE, "Origin: http://localhost:3000")),
        *((JSON, ALICE, "Connection: close"), (JSON, ALICE, "Expect: 100-continue")),
        *((JSON, ALICE, "Content-Length: 5"), (JSON, ALICE, "Transfer-Encoding: chunked")),
        *((JSON, ALICE, ALICE), (JSON, ALICE, "X: " + "y" * 9000)),
        (JSON, ALICE, "Content-Encoding: gzip"),
    ):  # fmt: skip
        yield post(call("echo"), *fields)
    for path in ("/mcp/", "/mcp/none", "/mcp/a/b", "/mcpx", "/", "/mcp/%2e", "/mcp?a=b"):
        yield post(call("echo"), JSON, ALICE, path=path)
    yield post(call("echo", text="x" * 30_000), JSON, ALICE)
    for method in ("GET", "DELETE", "PUT", "OPTIONS"):
        yield request(f"{method} /mcp", ALICE, BOTH)
    yield request("DELETE /mcp", ALICE, BOTH, session, version)
    yield post(call("echo"), JSON, BOTH, ALICE, session, version)
    for _ in range(8):
        yield post(call("echo"), JSON, "Authorization: Bearer wrong")
    yield post(call("echo"), JSON, ALICE)


class OnePolicy(SynchronousTestCase):
    """The same conversation before a listener with the fast channel and one without."""

    def converse(self, fast: bool, host: bytes = b"localhost:3000", **server: Any) -> Conversation:
        """All requests, each on a connection of its own."""
        conversation = Conversation(fast, **server)
        for one in everything():
            conversation.send(one.replace(b"localhost:3000", host))
        return conversation

    def assert_same(self, first: Conversation, second: Conversation) -> None:
        """Everything is equal."""
        for name in ("answers", "events", "asked", "metered"):
            one, other = getattr(first.told, name), getattr(second.told, name)
            for number, (left, right) in enumerate(zip(one, other, strict=True)):
                self.assertEqual(left, right, f"{name} {number}")
        self.assertEqual(first.listener.site.bodies.held, 0)

    def test_everything(self) -> None:
        """Decisions, answers, audit events, what reaches the server, what is counted."""
        fast = self.converse(True)
        self.assert_same(fast, self.converse(False))
        self.assertGreater(fast.served_fast, 100)
        statuses = {answer[9:12] for answer in fast.received}
        self.assertLess(
            {b"200", b"202", b"400", b"401", b"403", b"404", b"413", b"415", b"429"}, statuses
        )
        self.assertGreater(len(fast.rig.upstream.asked), 20)

    def test_other_settings(self) -> None:
        """The same with denials in band, other hosts, and a Host that is refused."""
        for host, server in (
            (b"localhost:3000", {"denial_status": 200}),
            (b"gateway.example", {"allowed_hosts": ("gateway.example",)}),
            (b"evil.example", {}),
        ):
            first = self.converse(True, host, **server)
            self.assert_same(first, self.converse(False, host, **server))

    def test_one_connection(self) -> None:
        """Requests one after the other, some of which the fast channel does not serve."""
        told = []
        for fast in (True, False):
            conversation = Conversation(fast)
            client = conversation.listener.connect()
            for one in everything():
                if not client.closed:
                    client.send(one.replace(b"SESSION", b"1.none"))
                else:
                    conversation.take(client)
                    client = conversation.listener.connect()
            conversation.take(client)
            told.append(conversation)
        self.assert_same(*told)

    def test_streamed_answers(self) -> None:
        """What a server says in the course of a call comes as events, then the answer."""
        told = []
        for fast in (True, False):
            conversation = Conversation(fast)
            conversation.send(post(rpc("initialize", INITIALIZE), JSON, BOTH, ALICE))
            cancelled: list[str | None] = []
            for end in ("answer", "failed", "leave"):
                client = conversation.listener.connect()
                slow = post(call("slow"), JSON, BOTH, ALICE, "Mcp-Session-Id: SESSION")
                client.send(slow.replace(b"SESSION", conversation._session.encode()))
                _, sink, running = conversation.rig.upstream.links[-1].requests[-1]
                sink.notification(
                    {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "1"}}
                )
                conversation.listener.pass_time(16)
                if end == "answer":
                    sink.answer({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
                elif end == "failed":
                    sink.failed(UpstreamFailure(Reason.UPSTREAM_FAILED, "gone"))
                else:
                    client.leave()
                    conversation.listener.pass_time(1)
                cancelled.append(running.cancelled)
                conversation.take(client)
            self.assertEqual(cancelled, [None, None, None])  # a session's call can be resumed
            told.append(conversation)
        self.assert_same(*told)
        self.assertIn(b"text/event-stream", told[0].received[1])
        self.assertIn(b"Transfer-Encoding: chunked", told[0].received[1])
        self.assertEqual(told[0].served_fast, 4)
