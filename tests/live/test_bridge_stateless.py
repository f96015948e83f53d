"""Stateless clients before servers that shake hands: the bridge with real SDKs and processes.

The SDK's own server of that era, with every client, is in `tests.live.test_matrix`.
"""

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
from tests.live.gateway_process import http, stdio
from tests.live.parking_case import ParkingCase
from tests.live.processes import Program, free_port

HANDSHAKE = [*DEMO, "--era", "legacy"]
"""The bundled server as one that knows no version of 2026."""
WALKERS: Walkers = {
    "pypi-pinned": Walker(lambda: python_client(2), NEWEST, NEWEST, named=False),
    "pypi-auto": Walker(lambda: python_client(2), "auto", NEWEST),
    "npm-auto": Walker(lambda: npm_client("npm_client"), "auto", NEWEST),
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


class StatelessFaultTests(ParkingCase):
    """What a stateless client sees when things go wrong behind the bridge."""

    timeout = 180

    async def serve(self, port: int) -> Program:
        """Start the server at a port."""
        program = self.start([*HANDSHAKE, "--http", "--port", str(port)], env=PATH, name="server")
        await program.said("listening on")
        return program

    async def test_parked_calls(self) -> None:
        """What waits for one identity's answer is nothing to another, and ends with its server."""
        gateway = await self.start_gateway(
            [stdio("demo", HANDSHAKE, env=dict(PATH))], identities={"tester": {}, "other": {}}
        )
        await self.assert_parked(gateway)
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
        asked = await self.question(gateway)
        server.signal("KILL")
        await server.ended
        await self.serve(port)
        # The new server knows nothing of the call: it must not be carried out again unasked.
        lost = await self.question(gateway, **self.answers(asked, "Ada"))
        self.assertIn("error", lost)
        for _ in range(80):
            answer = await self.question(gateway, name="echo", arguments={"message": "on"})
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
