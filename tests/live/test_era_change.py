"""HTTP servers that are replaced by one of another generation while the gateway runs."""

import sys
from collections.abc import Sequence

from twisted.internet.defer import Deferred, gatherResults

from tests.live.gateway_process import IMPATIENT, RunningGateway, http
from tests.live.processes import Program, free_port
from tests.live.raw_client import LEGACY, Exchange, RawCase
from tests.live.software import REPOSITORY, python_sdk

OLD = """
import sys
from mcp.server.fastmcp import FastMCP
server = FastMCP("old", port=int(sys.argv[1]), log_level="INFO")
@server.tool(structured_output=False)
def echo(message: str) -> str:
    return message
server.run("streamable-http")
"""
PATIENCE = 60.0
"""Seconds for a server to start, and for the gateway to notice."""


class Place:
    """A URL behind which one server follows another, before a gateway."""

    def __init__(self, case: RawCase, name: str) -> None:
        self.case = case
        self.name = name
        self.port = free_port()
        self.server: Program | None = None
        self.gateway: RunningGateway

    async def replace(self, command: Sequence[str]) -> None:
        """Stop the server, if there is one, and start another at the same place."""
        if self.server is not None:
            self.server.signal("TERM")
            await self.case.ends(self.server, PATIENCE)
        foreign = command[0] != sys.executable
        port = [str(self.port)] if foreign else ["--port", str(self.port)]
        self.server = self.case.start(
            [*command, *port], env={} if foreign else {"PYTHONPATH": str(REPOSITORY)}, name="server"
        )
        late = self.case.reactor.callLater(PATIENCE, self.server.signal, "KILL")
        await self.server.said(r"listening on|running on")
        late.cancel()

    async def handshake(self) -> Exchange:
        """Try to open a session."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        return await (await self.case.send(self.gateway, self.name, message)).over

    async def echo(self, session: str | None = None) -> Exchange:
        """Call its tool, in a session or statelessly."""
        return await self.case.call(self.gateway, self.name, "echo", session, message="hello")

    async def as_told(self, first: Exchange, session: str | None = None) -> Exchange:
        """Call again as often and as late as the gateway says, until it serves."""
        deadline = self.case.reactor.seconds() + PATIENCE
        exchange = first
        while exchange.status == 503:
            self.case.assertIn("another protocol version", exchange.error["message"])
            self.case.assertLess(self.case.reactor.seconds(), deadline)
            await self.wait_as_told(exchange)
            exchange = await self.echo(session)
        return exchange

    async def wait_as_told(self, refused: Exchange) -> None:
        """Wait as long as a refusal says, which must be for another generation."""
        self.case.assertEqual(refused.status, 503, refused.received)
        self.case.assertIn("another protocol version", refused.error["message"])
        await self.case.pause(float(refused.answer.headers["Retry-After"]))

    async def assert_serves(self) -> str:
        """Clients of either generation are served; gives a session."""
        exchange = await self.echo()
        self.case.assertIn(
            "result", exchange.messages[-1], exchange.received + self.gateway.program.err
        )
        self.case.assertEqual(exchange.text, "hello", exchange.received)
        session = await self.case.shake_hands(self.gateway, self.name)
        exchange = await self.echo(session)
        self.case.assertEqual(exchange.text, "hello", exchange.received)
        return session


def demo(era: str) -> Sequence[str]:
    """The demo server, of one generation."""
    return [sys.executable, "-m", "mcpguard.demo", "--http", "--era", era]


def old() -> Sequence[str]:
    """PyPI's ``mcp`` 1.x, which refuses requests without a session in words of its own."""
    return [str(python_sdk(1)), "-c", OLD]


class EraChangeTests(RawCase):
    """What clients notice of it: one failure at most, that says when to try again."""

    timeout = 180
    mcp_guard = IMPATIENT

    async def test_every_change(self) -> None:
        """Upgrades and downgrades, of the demo server and to and from an SDK of its time, each at
        a place of its own and all at once: there is some waiting in them.
        """
        changes = {
            "flip": (demo("legacy"), self.upgrade_and_back),
            "down": (demo("modern"), self.downgrade_to_an_sdk_of_its_time),
            "up": (old(), self.upgrade_from_an_sdk_of_its_time),
        }
        places = {name: Place(self, name) for name in changes}
        for name, (command, _) in changes.items():
            await places[name].replace(command)
        gateway = await self.start_gateway(
            [http(name, f"http://127.0.0.1:{one.port}/mcp") for name, one in places.items()]
        )
        running = []
        for name, (_, change) in changes.items():
            places[name].gateway = gateway
            running.append(Deferred.fromCoroutine(change(places[name])))
        await gatherResults(running, consumeErrors=True)
        await self.account(gateway)

    async def upgrade_and_back(self, place: Place) -> None:
        """A session ends with 404 where its server has gone, and the next one is served."""
        session = await place.assert_serves()
        await place.replace(demo("modern"))
        lost = await place.as_told(await place.echo(session), session)
        self.assertEqual(lost.status, 404, lost.received)
        await place.assert_serves()
        await place.replace(demo("legacy"))
        first = await place.echo()
        self.assertEqual(first.status, 503, first.received)
        served = await place.as_told(first)
        self.assertEqual(served.text, "hello", served.received)
        await place.assert_serves()

    async def downgrade_to_an_sdk_of_its_time(self, place: Place) -> None:
        """The call that shows it is the only one that fails."""
        await place.assert_serves()
        await place.replace(old())
        await place.wait_as_told(await place.echo())
        await place.assert_serves()

    async def upgrade_from_an_sdk_of_its_time(self, place: Place) -> None:
        """A handshake that the new server refuses is the only one that fails."""
        await place.assert_serves()
        await place.replace(demo("modern"))
        await place.wait_as_told(await place.handshake())
        await place.assert_serves()
