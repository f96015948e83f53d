"""Stateless clients before servers that shake hands: the bridge with real SDKs and processes.

The SDK's own server of that era, with every client, is in `tests.live.test_matrix`, the reference
servers of npm in `tests.live.test_python_clients` and `tests.live.test_npm_clients`.
"""

import json
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults

from tests.live import scenarios
from tests.live.clients_case import DEMO, NEWEST, ClientCase, npm_client, python_client
from tests.live.gateway_process import RunningGateway, http, stdio
from tests.live.processes import Program, free_port
from tests.live.raw_client import Exchange, RawCase
from tests.live.software import REPOSITORY, node_modules, server_everything

HANDSHAKE = [*DEMO, "--era", "legacy"]
"""The bundled server as one that knows no version of 2026."""
PATH = {"PYTHONPATH": str(REPOSITORY)}
CLIENTS: dict[str, tuple[Callable[[], list[str]], str, bool]] = {
    "PyPI pinned": (lambda: python_client(2), NEWEST, False),
    "PyPI auto": (lambda: python_client(2), "auto", True),
    "npm auto": (lambda: npm_client("npm_client"), "auto", True),
}
"""How each is started, its own word for the way of use, and whether it learns the server's name."""
META = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
}


class StatelessClientTests(ClientCase):
    """Every SDK's stateless client, each an identity of its own, before servers of handshakes."""

    async def test_all(self) -> None:
        """Every feature works, and each client sees a server of its own era."""
        port = free_port()
        everything = Deferred.fromCoroutine(
            self.start_http_server(
                [*server_everything(), "streamableHttp"],
                env={"PORT": str(port)},
                ready="Server listening on port",
            )
        )
        url = await self.start_http_server([*HANDSHAKE, "--http"], env=PATH)
        await everything
        gateway = await self.start_gateway(
            [
                stdio("demo", HANDSHAKE, env=PATH),
                http("demo-http", url),
                stdio("everything", [*server_everything(), "stdio"]),
                http("everything-http", f"http://127.0.0.1:{port}/mcp"),
            ],
            identities={name.replace(" ", "-"): {} for name in CLIENTS},
        )
        planned = {
            "demo": scenarios.demo(sessions=3),
            "demo-http": scenarios.demo(sessions=3),
            "everything": scenarios.everything(sessions=0),
            "everything-http": scenarios.everything(sessions=0),
        }
        planned = {name: evolve(one, stays=True) for name, one in planned.items()}
        modules = {"LIVE_NODE_MODULES": str(node_modules())}

        async def run(name: str) -> list[str]:
            command, mode, named = CLIENTS[name]
            key = gateway.keys[name.replace(" ", "-")]
            jobs = {
                server: one.job(gateway.url(server), key, mode) for server, one in planned.items()
            }
            program = self.start_client(command(), jobs, env=modules)
            reports = await self.finished(program, seconds=60)
            return [
                f"{name}, {server}: {complaint}"
                for server, one in planned.items()
                for complaint in one.complaints(reports[server], NEWEST, named=named)
            ]

        running = [Deferred.fromCoroutine(run(name)) for name in CLIENTS]
        complaints = [one for found in await gatherResults(running) for one in found]
        self.assertEqual(complaints, [], "\n".join(complaints))


class StatelessFaultTests(RawCase):
    """What a stateless client sees when things go wrong behind the bridge."""

    timeout = 60

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
            self.assertEqual(answer["result"]["content"][0]["text"], "on", answer)
            if len(self.events(listen)) > 1:
                break
            await self.pause(0.1)
        changed = self.events(listen)[1]
        self.assertEqual(changed["method"], "notifications/resources/updated")
        self.assertEqual(changed["params"]["uri"], "demo://counter")
        listen.leave()
        await self.account(gateway)
