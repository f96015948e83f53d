"""The quick start of the user guide, typed word for word at a terminal."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.live.processes import LiveCase, Program, free_port
from tests.live.software import REPOSITORY

DEMO_TOOLS = {"read_file", "write_file", "list_directory", "delete_file", "echo", "slow"}
LIST = '{"jsonrpc": "2.0", "method": "tools/list", "id": 1}'


class QuickStartTests(LiveCase):
    """``init``, ``keygen``, ``validate``, ``check-upstream``, ``run`` and three curls."""

    def setUp(self) -> None:
        """An empty directory, and a search path with the command on it."""
        if shutil.which("curl") is None:
            raise SkipTest("curl is not installed")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        commands = self.directory / "bin"
        commands.mkdir()
        for name, code in (
            ("mcp-guard", "from mcpguard.cli import main; main(prog_name='mcp-guard')"),
            ("twistd", "from twisted.scripts.twistd import run; run()"),
        ):
            # As installing the package would make them, for whichever Python runs the tests.
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
            script.chmod(0o755)
        self.port = free_port()
        self.env = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
        }

    async def typed(self, line: str, status: int = 0) -> list[str]:
        """Type a command at a terminal; the lines that appear, blank ones left out."""
        program = self.at_terminal(line)
        found = await self.ends(program, 30)
        self.assertEqual(found, status, program.story())
        return lines_of(program)

    def at_terminal(self, line: str) -> Program:
        """Start a command line at a terminal of its own."""
        return self.start(
            ["/bin/sh", "-c", f"exec {line}"],
            env=self.env,
            cwd=str(self.directory),
            name=line,
            terminal=True,
        )

    async def curl(self, words: str) -> tuple[int, Any]:
        """Type a curl; the HTTP status and the JSON body."""
        status, out, err = await self.run_program(
            ["/bin/sh", "-c", rf"curl -s -w '\n%{{http_code}}' {words}"], seconds=20, env=self.env
        )
        self.assertEqual(status, 0, err)
        body, _, code = out.rpartition("\n")
        return int(code), json.loads(body)

    async def prepare(self) -> str:
        """Steps 1 and 2, which end with a key."""
        self.assertIn("✓ Created mcp-guard.toml", await self.typed("mcp-guard init"))
        self.take_port()
        said = await self.typed("mcp-guard keygen --user-id my-agent --apply-to-config")
        self.assertEqual(said[0], "✓ API key for 'my-agent' added to mcp-guard.toml")
        self.assertEqual(said[1], "API Key (save this, shown only once):")
        self.assertEqual(said[3:], ["Next steps:", "  mcp-guard validate", "  mcp-guard run"])
        key = said[2].strip()
        self.assertTrue(key.startswith("mcp_"), said)
        return key

    def take_port(self) -> None:
        """The one thing not in the guide: a port that nobody else uses during a test."""
        config = self.directory / "mcp-guard.toml"
        text = config.read_text()
        self.assertIn("\nport = 3000 ", text)
        config.write_text(text.replace("\nport = 3000 ", f"\nport = {self.port} "))

    async def check_answers(self, key: str) -> None:
        """Step 6: the health, a refusal and the list of the demo server's tools."""
        base = f"http://localhost:{self.port}"
        code, body = await self.curl(f"{base}/health")
        self.assertEqual((code, body["status"]), (200, "healthy"))
        self.assertEqual(set(body), {"status", "version", "uptime_secs"})
        post = f'-X POST {base}/mcp -H "Content-Type: application/json" '
        code, body = await self.curl(f"{post} -d '{LIST}'")
        self.assertEqual(code, 401)
        self.assertEqual(set(body), {"error", "error_id"})
        code, body = await self.curl(f"{post} -H 'Authorization: Bearer {key}' -d '{LIST}'")
        self.assertEqual((code, body["jsonrpc"], body["id"]), (200, "2.0", 1))
        tools = {tool["name"]: tool["description"] for tool in body["result"]["tools"]}
        self.assertLessEqual(DEMO_TOOLS, set(tools))
        self.assertEqual(tools["read_file"], "Read a text file.")

    async def test_word_for_word(self) -> None:
        """From nothing to a protected server, ended by Ctrl-C."""
        key = await self.prepare()
        self.assertEqual(
            await self.typed("mcp-guard validate"), ["Configuration is valid: mcp-guard.toml"]
        )
        checked = await self.typed("mcp-guard check-upstream")
        self.assertEqual(checked[:2], ["Checking upstream connectivity...", "Transport: stdio"])
        self.assertTrue(checked[2].startswith("Command:   "), checked)
        self.assertEqual(checked[3], 'Args:      ["-m", "mcpguard.demo"]')
        self.assertRegex(checked[4], r"^Server: mcp-guard-demo v\d+\.\d+\.\d+$")
        self.assertEqual(checked[-1], "✓ Upstream is reachable and responding")
        gateway = self.at_terminal("mcp-guard run")
        await gateway.said("Ready for requests!")
        summary = lines_of(gateway)
        self.assertEqual(summary[0], f"╭{'─' * 46}╮")
        self.assertRegex(summary[1], r"^│  MCP Guard v\d+\.\d+\.\d+ +│$")
        self.assertEqual(summary[3], f"✓ Server:     http://127.0.0.1:{self.port}")
        self.assertEqual(summary[4], "✓ Auth:       API Keys (1)")
        self.assertTrue(summary[5].startswith("✓ Transport:  stdio → "), summary)
        self.assertEqual(summary[6], "✓ Rate Limit: 100 req/s, burst 50")
        self.assertEqual(summary[7], "✓ Audit:      Enabled")
        await self.check_answers(key)
        gateway.process.write(b"\x03")
        self.assertEqual(await self.ends(gateway, 15), 0, gateway.story())
        self.assertNotIn(key, gateway.story())

    async def test_twistd(self) -> None:
        """The same configuration, served by twistd and ended by SIGTERM."""
        key = await self.prepare()
        gateway = self.at_terminal("twistd -n mcp-guard --config mcp-guard.toml")
        await gateway.said(f"listening on http://127.0.0.1:{self.port}")
        await self.check_answers(key)
        gateway.signal("TERM")
        # twistd ends itself by the same signal once everything has been stopped.
        self.assertEqual(await self.ends(gateway, 15), -signal.SIGTERM, gateway.story())
        self.assertIn('"event_type":"GatewayStopped"', gateway.story())
        self.assertIn("Server Shut Down.", gateway.story())
        self.assertNotIn("Traceback", gateway.story())


def lines_of(program: Program) -> list[str]:
    """What a terminal shows, without blank lines and the audit trail's own."""
    shown = program.out.decode().replace("\r\n", "\n")
    return [line for line in shown.split("\n") if line and not line.startswith('{"timestamp"')]
