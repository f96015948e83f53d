"""A client that speaks HTTP itself, so that it can leave, stall and never read."""

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.front.wire import Answer, read_answers
from tests.live.gateway_process import GatewayCase, RunningGateway

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
BOTH = "application/json, text/event-stream"
MIB = 1_048_576


class Exchange(Protocol):
    """One request over a connection of its own, and what comes back."""

    def __init__(self, method: str, data: bytes, reads: bool) -> None:
        self.method = method
        self.base = ""
        """Of the gateway it was sent to."""
        self.received = b""
        self.over: Deferred[Exchange] = Deferred()
        """Fires with this object when the connection has ended, from whatever side."""
        self._data = data
        self._reads = reads

    def connectionMade(self) -> None:
        """Send it."""
        transport: Any = self.transport
        if not self._reads:
            transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            transport.pauseProducing()
        transport.write(self._data)

    def send(self, data: bytes) -> None:
        """Send more of it."""
        assert self.transport is not None
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is over."""
        self.over.callback(self)

    def leave(self) -> None:
        """Close the connection without a word."""
        if not self.over.called:
            self.transport.abortConnection()  # type: ignore[union-attr]

    @property
    def answer(self) -> Answer:
        """The answer, which must be complete."""
        (answer,) = read_answers(self.received, self.method)
        return answer

    @property
    def status(self) -> int:
        """Its status."""
        return self.answer.status

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON-RPC messages of the answer, in order."""
        text = self.answer.body.decode()
        if not self.answer.headers["Content-Type"].startswith("text/event-stream"):
            return [json.loads(text)]
        data = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        return [json.loads(one) for one in data if one]

    @property
    def text(self) -> str:
        """The text of the tool's result."""
        text: str = self.messages[-1]["result"]["content"][0]["text"]
        return text

    @property
    def error(self) -> dict[str, Any]:
        """The JSON-RPC error."""
        error: dict[str, Any] = self.messages[-1]["error"]
        return error

    @property
    def request_id(self) -> str | None:
        """The id under which the trail has it, once the head is there."""
        found = re.search(rb"\r\nX-Request-ID: (\S+)\r\n", self.received, re.IGNORECASE)
        return found.group(1).decode() if found else None


def http_request(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """An HTTP/1.1 request that ends its connection."""
    fields = {"Host": "127.0.0.1", "Connection": "close", **headers}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "\r\n".join([*lines, "", ""]).encode() + body


class RawCase(GatewayCase):
    """A test that counts its requests and finds each of them in the trail, once."""

    def setUp(self) -> None:
        """Nothing sent yet."""
        self.exchanges: list[Exchange] = []

    async def connect(
        self, gateway: RunningGateway, data: bytes, method: str = "POST", reads: bool = True
    ) -> Exchange:
        """Open a connection and send bytes."""
        port = int(gateway.base.rpartition(":")[2])
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port)
        exchange: Exchange = await connectProtocol(endpoint, Exchange(method, data, reads))
        exchange.base = gateway.base
        self.addCleanup(exchange.leave)
        return exchange

    async def send(
        self,
        gateway: RunningGateway,
        server: str,
        message: Any,
        headers: dict[str, str] | None = None,
        *,
        method: str = "POST",
        who: str = "tester",
        reads: bool = True,
    ) -> Exchange:
        """Send one request whole, without waiting for its answer."""
        fields = {"Authorization": f"Bearer {gateway.keys[who]}", "Accept": BOTH}
        body = b""
        if method == "POST":
            fields["Content-Type"] = "application/json"
            body = json.dumps(message).encode()
        fields.update(headers or {})
        data = http_request(method, f"/mcp/{server}", fields, body)
        exchange = await self.connect(gateway, data, method, reads)
        self.exchanges.append(exchange)
        return exchange

    async def send_stateless(
        self,
        gateway: RunningGateway,
        server: str,
        who: str,
        method: str,
        params: dict[str, Any],
        meta: Mapping[str, Any],
    ) -> Exchange:
        """Send one request of 2026-07-28 with its headers."""
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if "name" in params:
            headers["Mcp-Name"] = params["name"]
        given = {**params, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": given}
        return await self.send(gateway, server, message, headers, who=who)

    async def begin(
        self,
        gateway: RunningGateway,
        server: str,
        tool: str,
        session: str | None = None,
        *,
        log: bool = False,
        reads: bool = True,
        who: str = "tester",
        **arguments: Any,
    ) -> Exchange:
        """Call a tool, in a session or statelessly, without waiting for its answer."""
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if session is not None:
            headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
        else:
            headers = {
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": "tools/call",
                "Mcp-Name": tool,
            }
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                **({"io.modelcontextprotocol/logLevel": "info"} if log else {}),
            }
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return await self.send(gateway, server, message, headers, who=who, reads=reads)

    async def call(self, *what: Any, **how: Any) -> Exchange:
        """Call a tool and wait for the end of its answer."""
        exchange = await self.begin(*what, **how)
        return await exchange.over

    async def many(self, count: int, *what: Any, **how: Any) -> list[Exchange]:
        """Call a tool several times at once, without waiting for the answers."""
        return [await self.begin(*what, **how) for _ in range(count)]

    async def all_over(self, exchanges: list[Exchange]) -> None:
        """Wait until they have all ended."""
        await gatherResults([one.over for one in exchanges])

    async def shake_hands(
        self,
        gateway: RunningGateway,
        server: str,
        who: str = "tester",
        capabilities: dict[str, Any] | None = None,
    ) -> str:
        """Open a session; its id."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        exchange = await (await self.send(gateway, server, message, who=who)).over
        self.assertEqual(exchange.status, 200, exchange.received)
        session = exchange.answer.headers["Mcp-Session-Id"]
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        headers = {"Mcp-Session-Id": session}
        await (await self.send(gateway, server, done, headers, who=who)).over
        return session

    async def account(self, gateway: RunningGateway) -> list[dict[str, Any]]:
        """Every request sent, answered or not, has left exactly one outcome; gives them all."""
        exchanges = [one for one in self.exchanges if one.base == gateway.base]
        sent = len(exchanges)
        await self.until(lambda: len(gateway.outcomes()) >= sent, 10.0, f"{sent} outcomes")
        outcomes = gateway.outcomes()
        self.assertEqual(len(outcomes), sent)
        recorded = [one["request_id"] for one in outcomes]
        self.assertEqual(len(set(recorded)), sent)
        told = [one.request_id for one in exchanges if one.request_id is not None]
        self.assertEqual(len(set(told)), len(told))
        self.assertEqual(set(told) - set(recorded), set())
        return outcomes

    async def metric(self, gateway: RunningGateway, name: str) -> float:
        """The sum of a metric over all its labels."""
        page = http_request("GET", "/metrics", {}, b"")
        exchange = await (await self.connect(gateway, page, "GET")).over
        return sum(
            float(line.rpartition(" ")[2])
            for line in exchange.answer.body.decode().splitlines()
            if re.match(rf"{name}[ {{]", line)
        )


def memory(gateway: RunningGateway) -> tuple[int, int]:
    """The gateway's resident memory, and the most it ever was, in bytes."""
    status = Path(f"/proc/{_pid(gateway)}/status").read_text()
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024


def descriptors(gateway: RunningGateway) -> int:
    """How many files, sockets and pipes the gateway has open."""
    return len(os.listdir(f"/proc/{_pid(gateway)}/fd"))


def _pid(gateway: RunningGateway) -> int:
    pid = gateway.program.process.pid
    assert isinstance(pid, int)
    return pid
