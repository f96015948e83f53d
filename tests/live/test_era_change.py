"""HTTP servers that are replaced by one of another generation while the gateway runs."""

import sys
from collections.abc import Sequence
from typing import Any

from tests.live.gateway_process import RunningGateway, http
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
PATIENCE = 20.0
"""Seconds for a server to start, and for the gateway to notice."""


class EraChangeCase(RawCase):
    """A gateway before a URL behind which one server follows another."""

    timeout = 120

    async def begin_with(self, command: Sequence[str]) -> RunningGateway:
        """A gateway before this server."""
        self.port = free_port()
        self.server: Program | None = None
        await self.replace(command)
        return await self.start_gateway([http("flip", f"http://127.0.0.1:{self.port}/mcp")])

    def demo(self, era: str) -> Sequence[str]:
        """The demo server, of one generation."""
        return [sys.executable, "-m", "mcpguard.demo", "--http", "--era", era]

    async def replace(self, command: Sequence[str]) -> None:
        """Stop the server, and start another at the same place."""
        if self.server is not None:
            self.server.signal("TERM")
            await self.ends(self.server, PATIENCE)
        python = command[0] != sys.executable
        port = [str(self.port)] if python else ["--port", str(self.port)]
        self.server = self.start(
            [*command, *port], env={} if python else {"PYTHONPATH": str(REPOSITORY)}, name="server"
        )
        late = self.reactor.callLater(PATIENCE, self.server.signal, "KILL")
        await self.server.said(r"listening on|running on")
        late.cancel()

    async def handshake(self, gateway: RunningGateway) -> Exchange:
        """Try to open a session."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        return await (await self.send(gateway, "flip", message)).over

    async def as_told(self, gateway: RunningGateway, first: Exchange, again: Any) -> Exchange:
        """Try again as often and as late as the gateway says, until it serves."""
        deadline = self.reactor.seconds() + PATIENCE
        exchange = first
        while exchange.status == 503:
            self.assertIn("another protocol version", exchange.error["message"])
            self.assertLess(self.reactor.seconds(), deadline)
            await self.pause(float(exchange.answer.headers["Retry-After"]))
            exchange = await again()
        return exchange

    async def assert_serves(self, gateway: RunningGateway) -> str:
        """Clients of either generation are served; gives a session."""
        exchange = await self.call(gateway, "flip", "echo", message="hello")
        self.assertIn("result", exchange.messages[-1], exchange.received + gateway.program.err)
        self.assertEqual(exchange.text, "hello", exchange.received)
        session = await self.shake_hands(gateway, "flip")
        exchange = await self.call(gateway, "flip", "echo", session, message="hello")
        self.assertEqual(exchange.text, "hello", exchange.received)
        return session


class EraChangeTests(EraChangeCase):
    """What clients notice of it: one failure at most, that says when to try again."""

    async def test_upgrade_and_back(self) -> None:
        """A session ends with 404 where its server has gone, and the next one is served."""
        gateway = await self.begin_with(self.demo("legacy"))
        session = await self.assert_serves(gateway)
        for era in ("modern", "legacy"):
            await self.replace(self.demo(era))

            async def in_session(session: str = session) -> Exchange:
                return await self.call(gateway, "flip", "echo", session, message="hello")

            if era == "modern":
                lost = await self.as_told(gateway, await in_session(), in_session)
                self.assertEqual(lost.status, 404, lost.received)
            else:

                async def stateless() -> Exchange:
                    return await self.call(gateway, "flip", "echo", message="hello")

                first = await stateless()
                self.assertEqual(first.status, 503, first.received)
                served = await self.as_told(gateway, first, stateless)
                self.assertEqual(served.text, "hello", served.received)
            session = await self.assert_serves(gateway)
        await self.account(gateway)

    async def test_downgrade_to_an_sdk_of_its_time(self) -> None:
        """PyPI's ``mcp`` 1.x refuses requests without a session in words of its own."""
        gateway = await self.begin_with(self.demo("modern"))
        await self.assert_serves(gateway)
        await self.replace([str(python_sdk(1)), "-c", OLD])
        changed = await self.call(gateway, "flip", "echo", message="hello")
        self.assertEqual(changed.status, 503, changed.received)
        self.assertIn("another protocol version", changed.error["message"])
        await self.pause(float(changed.answer.headers["Retry-After"]))
        await self.assert_serves(gateway)
        await self.account(gateway)

    async def test_upgrade_from_an_sdk_of_its_time(self) -> None:
        """A handshake that the new server refuses is the only one that fails."""
        gateway = await self.begin_with([str(python_sdk(1)), "-c", OLD])
        await self.assert_serves(gateway)
        await self.replace(self.demo("modern"))
        exchange = await self.handshake(gateway)
        self.assertEqual(exchange.status, 503, exchange.received)
        await self.pause(float(exchange.answer.headers["Retry-After"]))
        await self.assert_serves(gateway)
        await self.account(gateway)
