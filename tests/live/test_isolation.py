"""Many callers with the same ids on one shared child that answers late and in any order."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import treq
from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from tests.live.gateway_process import GatewayCase, RunningGateway, stdio
from tests.live.software import HERE

CALLERS = 200
CALLS = 3
"""Of each caller, one after the other."""
PRINCIPALS = 8
MODERN = "2026-07-28"


@frozen
class Received:
    """What came back for one call."""

    status: int
    messages: list[dict[str, Any]]


class IsolationCase(GatewayCase):
    """200 callers of several principals, all with request id 1 and progress token 1."""

    timeout = 180
    children = 1
    """How many of them serve all callers."""

    called = 0
    """How often so far."""

    async def before(self, *eras: str) -> RunningGateway:
        """A gateway before one shared child of each era."""
        command = [sys.executable, str(HERE / "servers" / "shuffling_server.py"), "--era"]
        return await self.start_gateway(
            [
                stdio(era, [*command, era], isolation="shared", max_concurrency=CALLERS)
                for era in eras
            ],
            identities={f"principal-{n}": {} for n in range(PRINCIPALS)},
        )

    async def call(
        self, agent: Agent, gateway: RunningGateway, key: str, value: str, request_id: Any, era: str
    ) -> Received:
        """Post one call and read its whole answer."""
        meta: dict[str, Any] = {"progressToken": request_id}
        headers = Headers(
            {
                "Accept": ["application/json, text/event-stream"],
                "Authorization": [f"Bearer {key}"],
                "Content-Type": ["application/json"],
            }
        )
        if era == "modern":
            meta["io.modelcontextprotocol/protocolVersion"] = MODERN
            meta["io.modelcontextprotocol/clientCapabilities"] = {}
            headers.setRawHeaders("MCP-Protocol-Version", [MODERN])
            headers.setRawHeaders("Mcp-Method", ["tools/call"])
            headers.setRawHeaders("Mcp-Name", ["echo"])
        params = {"name": "echo", "arguments": {"value": value}, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        response = await treq.client.HTTPClient(agent).post(
            gateway.url(era), data=json.dumps(message).encode(), headers=headers
        )
        body = (await response.content()).decode()
        kind = response.headers.getRawHeaders("Content-Type", [""])[0]
        if kind.startswith("text/event-stream"):
            lines = [line[5:].strip() for line in body.splitlines() if line.startswith("data:")]
            return Received(response.code, [json.loads(line) for line in lines if line])
        return Received(response.code, [json.loads(body)])

    def complaints(self, received: Received, value: str, request_id: Any) -> Sequence[str]:
        """What is wrong with an answer: anything but the caller's own progress and result."""
        found: list[str] = []
        if received.status != 200:
            found.append(f"{value}: status {received.status}: {received.messages}")
        for message in received.messages:
            if message.get("method") == "notifications/progress":
                params = message["params"]
                if params["message"] != value or not same(params["progressToken"], request_id):
                    found.append(f"{value}: foreign progress {message}")
            elif message is not received.messages[-1]:
                found.append(f"{value}: {message} before the end")
        last = received.messages[-1]
        text = last.get("result", {}).get("content", [{}])[0].get("text")
        if text != value or not same(last.get("id"), request_id):
            found.append(f"{value}: {last}")
        return found

    async def crowd(self, gateway: RunningGateway, era: str, ids: Sequence[Any]) -> None:
        """All callers at once; fails with everything that was not the caller's own."""
        pool = HTTPConnectionPool(self.reactor, persistent=True)
        pool.maxPersistentPerHost = CALLERS
        self.addCleanup(pool.closeCachedConnections)
        agent = Agent(self.reactor, pool=pool)
        complaints: list[str] = []
        progressed: list[str] = []
        children: set[int] = set()

        async def caller(number: int) -> None:
            key = gateway.keys[f"principal-{number % PRINCIPALS}"]
            request_id = ids[number % len(ids)]
            for turn in range(CALLS):
                value = f"caller {number} of {key[-4:]}, call {turn}"
                received = await self.call(agent, gateway, key, value, request_id, era)
                complaints.extend(self.complaints(received, value, request_id))
                progressed.extend(value for one in received.messages if "method" in one)
                result = received.messages[-1].get("result", {})
                children.add(result.get("structuredContent", {}).get("pid", 0))

        await gatherResults([Deferred.fromCoroutine(caller(n)) for n in range(CALLERS)])
        self.assertEqual(complaints, [])
        self.assertEqual(len(children), self.children, "the child was not shared")
        self.assertEqual(len(set(progressed)), CALLERS * CALLS)
        self.called += CALLERS * CALLS
        outcomes = await self.outcomes(gateway, "ToolCall", self.called)
        self.assertEqual({one["status"] for one in outcomes}, {"success"})


class IsolationTests(IsolationCase):
    """Before one process."""

    async def test_every_way(self) -> None:
        """No answer and no progress reaches another caller: not of a stateless child, nor where
        ids differ in type alone, which come back as they went, nor of a child that shook hands,
        shared by callers who did not.
        """
        gateway = await self.before("modern", "legacy")
        await self.crowd(gateway, "modern", [1])
        await self.crowd(gateway, "modern", [1, "1"])
        await self.crowd(gateway, "legacy", [1])


def same(found: Any, expected: Any) -> bool:
    """Equal, and of the same type."""
    return type(found) is type(expected) and bool(found == expected)
