"""The client programs that ``docs/clients.md`` shows, run as they stand there."""

import re
from pathlib import Path

from tests.live.clients_case import DEMO
from tests.live.gateway_process import GatewayCase, stdio
from tests.live.software import REPOSITORY, node, node_modules, python_sdk

PAGE = REPOSITORY / "docs" / "clients.md"
URL = "http://localhost:3000/mcp"


def programs(language: str) -> list[str]:
    """The blocks of the page in one language."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


class DocumentedClientTests(GatewayCase):
    """Each program finds the demo's tools and calls one."""

    timeout = 180

    async def try_it(self, source: str, interpreter: Path, suffix: str, era: str) -> None:
        """Run one program before the demo server; it prints the tools and the call's answer."""
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env={"PYTHONPATH": str(REPOSITORY)})]
        )
        self.assertEqual(source.count(URL), 1)
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        if suffix == ".mjs":
            (directory / "node_modules").symlink_to(node_modules())
        program = directory / f"client{suffix}"
        program.write_text(source.replace(URL, gateway.url("demo")))
        status, out, err = await self.run_program(
            [str(interpreter), str(program)],
            seconds=40,
            env={"MCP_GUARD_KEY": gateway.keys["tester"]},
            cwd=str(directory),
        )
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("'read_file'", out)
        self.assertEqual(out.splitlines()[-1], "hello")
        (call,) = await self.outcomes(gateway, "ToolCall", 1)
        self.assertEqual((call["tool"], call["status"]), ("echo", "success"))
        begun = [one for one in gateway.events() if one["event_type"] == "SessionStarted"]
        ended = [one for one in gateway.events() if one["event_type"] == "SessionEnded"]
        self.assertEqual(len(begun), 1 if era == "handshake" else 0)
        self.assertEqual(len(ended), len(begun), "the session was left open")

    async def test_python_2(self) -> None:
        """PyPI's ``mcp`` 2.x, without a handshake."""
        newer, _ = programs("python")
        await self.try_it(newer, python_sdk(2), ".py", "stateless")

    async def test_python_1(self) -> None:
        """PyPI's ``mcp`` 1.x."""
        _, older = programs("python")
        await self.try_it(older, python_sdk(1), ".py", "handshake")

    async def test_npm_client(self) -> None:
        """Npm's ``@modelcontextprotocol/client`` 2.x, without a handshake."""
        newer, _ = programs("javascript")
        await self.try_it(newer, node(), ".mjs", "stateless")

    async def test_npm_sdk(self) -> None:
        """Npm's ``@modelcontextprotocol/sdk`` 1.x, which ends its session."""
        _, older = programs("javascript")
        await self.try_it(older, node(), ".mjs", "handshake")
