"""Clients that shake hands before servers that do not: the bridge with real SDKs and processes.

The SDK's own server of that era, with every client, is in `tests.live.test_matrix`.
"""

import json
from typing import Any

from tests.live import scenarios
from tests.live.clients_case import (
    DEMO,
    NEWEST_HANDSHAKE,
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

STATELESS = [*DEMO, "--era", "modern"]
"""The bundled server as one that knows 2026-07-28 only."""
WALKERS: Walkers = {
    "pypi-1": Walker(lambda: python_client(1)),
    "pypi-2": Walker(lambda: python_client(2), "legacy"),
    "npm-1": Walker(lambda: npm_client("npm_sdk")),
}


class HandshakeClientTests(ClientCase):
    """Every SDK's client that shakes hands, before the stateless demo server."""

    async def test_all(self) -> None:
        """Every feature works, and each client sees a server of its own era."""
        url = await self.start_http_server([*STATELESS, "--http"], env=PATH)
        # Log lines over stdio do not say whose they are: who shares a child may not hear them.
        own_child = stdio("demo", STATELESS, env=dict(PATH), isolation="per_principal")
        gateway = await self.start_gateway(
            [own_child, http("demo-http", url)], identities={name: {} for name in WALKERS}
        )
        planned = {name: scenarios.demo(sessions=0) for name in ("demo", "demo-http")}
        await self.walk_through(gateway, WALKERS, dict.fromkeys(WALKERS, planned))


class HandshakeFaultTests(RawCase):
    """What a client that shakes hands sees when things go wrong behind the bridge."""

    timeout = 180

    async def serve(self, port: int) -> Program:
        """Start the server at a port."""
        program = self.start([*STATELESS, "--http", "--port", str(port)], env=PATH, name="server")
        await program.said("listening on")
        return program

    async def ask(
        self, gateway: RunningGateway, session: str, method: str, **params: Any
    ) -> dict[str, Any]:
        """A request in the session, and its response."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        sent = await self.send(gateway, "demo", message, {"Mcp-Session-Id": session})
        response: dict[str, Any] = (await sent.over).messages[-1]
        return response

    async def open_session(self, gateway: RunningGateway) -> str:
        """Shake hands as a client that can show forms."""
        params = {
            "protocolVersion": NEWEST_HANDSHAKE,
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        exchange = await (await self.send(gateway, "demo", message)).over
        session = exchange.answer.headers["Mcp-Session-Id"]
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await (await self.send(gateway, "demo", done, {"Mcp-Session-Id": session})).over
        return session

    def events(self, exchange: Exchange) -> list[dict[str, Any]]:
        """The messages of an event stream so far."""
        lines = exchange.received.decode().splitlines()
        found = [line[5:].strip() for line in lines if line.startswith("data:")]
        return [json.loads(one) for one in found if one]

    async def test_restart_of_the_server(self) -> None:
        """A session and its subscriptions outlive the server; a question under way does not."""
        port = free_port()
        server = await self.serve(port)
        gateway = await self.start_gateway([http("demo", f"http://127.0.0.1:{port}/mcp")])
        session = await self.open_session(gateway)
        headers = {"Mcp-Session-Id": session}
        stream = await self.send(gateway, "demo", None, headers, method="GET")
        subscribed = await self.ask(gateway, session, "resources/subscribe", uri="demo://counter")
        self.assertEqual(subscribed["result"], {})
        call = {"name": "ask", "arguments": {"question": "Who?"}}
        asking = await self.send(
            gateway,
            "demo",
            {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": call},
            headers,
        )
        await self.until(lambda: self.events(asking), 5, "the client is asked")
        server.signal("KILL")
        await server.ended
        await self.serve(port)
        # The other server did not ask: what its predecessor signed is no answer to it.
        (question,) = self.events(asking)
        result = {"action": "accept", "content": {"answer": "Ada"}}
        response = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        self.assertEqual(
            (await (await self.send(gateway, "demo", response, headers)).over).status, 202
        )
        self.assertEqual((await asking.over).error["code"], -32602)
        # Each echo changes the counter; the stream comes back within a second or two.
        for _ in range(60):
            echo = {"name": "echo", "arguments": {"message": "on"}}
            answer = await self.ask(gateway, session, "tools/call", **echo)
            self.assertEqual(answer["result"]["content"][0]["text"], "on")
            if self.events(stream):
                break
            await self.pause(0.1)
        changed = self.events(stream)[0]
        self.assertEqual(changed["method"], "notifications/resources/updated")
        self.assertEqual(changed["params"], {"uri": "demo://counter"})
        await (await self.send(gateway, "demo", None, headers, method="DELETE")).over
        await stream.over
        await self.account(gateway)

    async def test_errors(self) -> None:
        """Errors come with the codes of the client's era, and in words."""
        gateway = await self.start_gateway([stdio("demo", STATELESS, env=PATH)])
        session = await self.open_session(gateway)
        missing = await self.ask(gateway, session, "resources/read", uri="demo://files/absent")
        self.assertEqual(missing["error"]["code"], -32002)
        call = {"name": "summarize", "arguments": {"text": "x"}}
        undeclared = await self.ask(gateway, session, "tools/call", **call)
        self.assertEqual(undeclared["error"]["code"], -32600)
        self.assertIn("sampling", undeclared["error"]["message"])
        for params in ({"name": "nope"}, {"name": "echo", "arguments": 5}):
            wrong = await self.ask(gateway, session, "tools/call", **params)
            self.assertEqual(wrong["error"]["code"], -32602)
        declined = await self.ask(gateway, session, "resources/subscribe", uri="demo://absent")
        self.assertEqual(declined["error"]["code"], -32602)
        await self.account(gateway)
