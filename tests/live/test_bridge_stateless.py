"""Stateless clients before servers that shake hands: the bridge with real SDKs and processes.

The SDK's own server of that era, with every client, is in `tests.live.test_matrix`.
"""

import json
from typing import Any

from attrs import evolve

from tests.live import scenarios
from tests.live.clients_case import (
    DEMO,
    NEWEST,
    PATH,
    ClientCase,
    Walker,
    Walkers,
    npm_client,
    python_client,
)
from tests.live.gateway_process import RunningGateway, http, stdio
from tests.live.processes import Program, free_port
from tests.live.raw_client import Exchange, RawCase

HANDSHAKE = [*DEMO, "--era", "legacy"]
"""The bundled server as one that knows no version of 2026."""
WALKERS: Walkers = {
    "pypi-pinned": Walker(lambda: python_client(2), NEWEST, NEWEST, named=False),
    "pypi-auto": Walker(lambda: python_client(2), "auto", NEWEST),
    "npm-auto": Walker(lambda: npm_client("npm_client"), "auto", NEWEST),
}
META = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
}


class StatelessClientTests(ClientCase):
    """Every SDK's stateless client, each an identity of its own, before servers of handshakes."""

    async def test_all(self) -> None:
        """Every feature works, and each client sees a server of its own era."""
        servers, planned = await self.reference_servers()
        url = await self.start_http_server([*HANDSHAKE, "--http"], env=PATH)
        gateway = await self.start_gateway(
            [stdio("demo", HANDSHAKE, env=dict(PATH)), http("demo-http", url), *servers],
            identities={name: {} for name in WALKERS},
        )
        planned = {
            "demo": scenarios.demo(sessions=3),
            "demo-http": scenarios.demo(sessions=3),
            # A session for each identity that its clients know nothing of.
            **{name: evolve(one, stays=True) for name, one in planned.items()},
        }
        await self.walk_through(gateway, WALKERS, dict.fromkeys(WALKERS, planned))


class StatelessFaultTests(RawCase):
    """What a stateless client sees when things go wrong behind the bridge."""

    timeout = 180

    async def serve(self, port: int) -> Program:
        """Start the server at a port."""
        program = self.start([*HANDSHAKE, "--http", "--port", str(port)], env=PATH, name="server")
        await program.said("listening on")
        return program

    async def ask(
        self, gateway: RunningGateway, method: str, who: str = "tester", **params: Any
    ) -> Exchange:
        """A stateless request, sent."""
        headers = {"MCP-Protocol-Version": NEWEST, "Mcp-Method": method}
        if "name" in params:
            headers["Mcp-Name"] = params["name"]
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": method,
            "params": {**params, "_meta": META},
        }
        return await self.send(gateway, "demo", message, headers, who=who)

    async def call(self, gateway: RunningGateway, *, who: str = "tester", **params: Any) -> Any:
        """A call of the tool that asks the user, and its response."""
        given = {"name": "ask", "arguments": {"question": "Who?"}, **params}
        return (await (await self.ask(gateway, "tools/call", who, **given)).over).messages[-1]

    def answers(self, asked: Any, name: str) -> dict[str, Any]:
        """The params of a retry with the answer to the only question."""
        (key,) = asked["result"]["inputRequests"]
        answer = {"action": "accept", "content": {"answer": name}}
        return {
            "inputResponses": {key: answer},
            "requestState": asked["result"]["requestState"],
        }

    def events(self, exchange: Exchange) -> list[dict[str, Any]]:
        """The messages of an event stream so far."""
        lines = exchange.received.decode().splitlines()
        found = [line[5:].strip() for line in lines if line.startswith("data:")]
        return [json.loads(one) for one in found if one]

    async def test_parked_calls(self) -> None:
        """What waits for one identity's answer is nothing to another, and ends with its server."""
        gateway = await self.start_gateway(
            [stdio("demo", HANDSHAKE, env=PATH)], identities={"tester": {}, "other": {}}
        )
        mine, theirs = [await self.call(gateway, who=who) for who in ("tester", "other")]
        stolen = await self.call(gateway, who="other", **self.answers(mine, "Eve"))
        self.assertEqual(stolen["error"]["code"], -32602)
        for who, asked, name in (("tester", mine, "Ada"), ("other", theirs, "Bob")):
            done = await self.call(gateway, who=who, **self.answers(asked, name))
            self.assertEqual(
                done["result"]["content"][0]["text"], f"The user answered: {name}", done
            )
            self.assertEqual(done["result"]["resultType"], "complete")
        twice = await self.call(gateway, **self.answers(mine, "Ada"))
        self.assertEqual(twice["error"]["code"], -32602)
        await self.account(gateway)

    async def test_restart_of_the_server(self) -> None:
        """A listen outlives the server, a parked call does not, and the next call works."""
        port = free_port()
        server = await self.serve(port)
        gateway = await self.start_gateway([http("demo", f"http://127.0.0.1:{port}/mcp")])
        wanted = {"resourceSubscriptions": ["demo://counter"], "toolsListChanged": True}
        listen = await self.ask(gateway, "subscriptions/listen", notifications=wanted)
        await self.until(lambda: self.events(listen), 5, "the listen is acknowledged")
        (acknowledged,) = self.events(listen)
        self.assertEqual(
            acknowledged["params"]["notifications"]["resourceSubscriptions"], ["demo://counter"]
        )
        asked = await self.call(gateway)
        server.signal("KILL")
        await server.ended
        await self.serve(port)
        # The new server knows nothing of the call: it must not be carried out again unasked.
        lost = await self.call(gateway, **self.answers(asked, "Ada"))
        self.assertIn("error", lost)
        for _ in range(80):
            answer = await self.call(gateway, name="echo", arguments={"message": "on"})
            self.assertIn("result", answer)
            self.assertEqual(answer["result"]["content"][0]["text"], "on", answer)
            if len(self.events(listen)) > 1:
                break
            await self.pause(0.1)
        changed = self.events(listen)[1]
        self.assertEqual(changed["method"], "notifications/resources/updated")
        self.assertEqual(changed["params"]["uri"], "demo://counter")
        listen.leave()
        await self.account(gateway)
