"""The client programs that ``docs/clients.md`` shows, run as they stand there."""

import re
from pathlib import Path

from tests.live.clients_case import DEMO
from tests.live.gateway_process import GatewayCase, RunningGateway, stdio
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

    async def test_every_program(self) -> None:
        """PyPI's ``mcp`` 2.x and npm's client do without a handshake; ``mcp`` 1.x and npm's SDK
        shake hands, and end their session.
        """
        (python_2, python_1), (npm_client, npm_sdk) = programs("python"), programs("javascript")
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env={"PYTHONPATH": str(REPOSITORY)})],
            identities={name: {} for name in ("python_2", "python_1", "npm_client", "npm_sdk")},
        )
        await self.side_by_side(
            self.try_it(gateway, "python_2", python_2, python_sdk(2), ".py"),
            self.try_it(gateway, "python_1", python_1, python_sdk(1), ".py"),
            self.try_it(gateway, "npm_client", npm_client, node(), ".mjs"),
            self.try_it(gateway, "npm_sdk", npm_sdk, node(), ".mjs"),
        )
        calls = await self.outcomes(gateway, "ToolCall", 4)
        self.assertEqual({(one["tool"], one["status"]) for one in calls}, {("echo", "success")})
        self.assertEqual({one["identity_id"] for one in calls}, set(gateway.keys))
        for event_type in ("SessionStarted", "SessionEnded"):
            found = await self.told(gateway, event_type, 2)
            sessions = sorted(one["identity_id"] for one in found)
            self.assertEqual(sessions, ["npm_sdk", "python_1"], event_type)

    async def try_it(
        self, gateway: RunningGateway, who: str, source: str, interpreter: Path, suffix: str
    ) -> None:
        """Run one program before the demo server; it prints the tools and the call's answer."""
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
            env={"MCP_GUARD_KEY": gateway.keys[who]},
            cwd=str(directory),
        )
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("'read_file'", out)
        self.assertEqual(out.splitlines()[-1], "hello")
