"""The mcp-guard command as a process: what in-memory tests cannot show."""

import socket
import sys
from pathlib import Path
from typing import Any

from tests.config.samples import HASH
from tests.live.processes import LiveCase
from tests.live.software import REPOSITORY

COMMAND = (sys.executable, "-m", "mcpguard")
CONFIG = f"""
[upstream]
command = "{sys.executable}"
args = ["-m", "mcpguard.demo"]
[audit]
stdout = true
[[auth.api_keys]]
id = "a"
key_hash = "{HASH}"
"""
WHAT_IS_IMPORTED = """
import sys
import mcpguard.cli
print(sorted(name for name in ("twisted", "klein", "treq", "OpenSSL") if name in sys.modules))
"""


class CommandTests(LiveCase):
    """Starts, ends and exit statuses."""

    def setUp(self) -> None:
        """A configuration in front of the demo server."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.config = self.directory / "mcp-guard.toml"
        self.config.write_text(CONFIG)
        self.how: dict[str, Any] = {
            "env": {"PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8"},
            "cwd": str(self.directory),
        }

    def taken_port(self) -> int:
        """A port that somebody listens on for the whole test."""
        holder = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(holder.close)
        port: int = holder.getsockname()[1]
        return port

    async def test_quick_to_start(self) -> None:
        """The command by itself loads neither Twisted nor what stands on it."""
        status, out, err = await self.run_program(
            (sys.executable, "-c", WHAT_IS_IMPORTED), seconds=20, **self.how
        )
        self.assertEqual((status, out), (0, "[]\n"), err)

    async def test_port_taken(self) -> None:
        """`run` says so in one line and ends with status 1, nothing left running."""
        port = self.taken_port()
        status, out, err = await self.run_program(
            (*COMMAND, "run", "--port", str(port)), seconds=20, **self.how
        )
        self.assertEqual(
            (status, out, err),
            (1, "", f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"),
        )

    async def test_port_taken_twistd(self) -> None:
        """Under twistd it ends with status 1 too, instead of staying up with nothing listening."""
        argv = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
        more = ("--nodaemon", "--pidfile=", "mcp-guard", "--port", str(self.taken_port()))
        status, out, err = await self.run_program((*argv, *more), seconds=20, **self.how)
        self.assertEqual(status, 1, err)
        self.assertIn("Address already in use", out + err)

    async def test_bad_file_twistd(self) -> None:
        """Every problem on a line, no traceback, status 1."""
        self.config.write_text("[server]\nport = 0\n" + CONFIG + "[tracing]\n")
        argv = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
        status, out, err = await self.run_program(
            (*argv, "--nodaemon", "--pidfile=", "mcp-guard"), seconds=20, **self.how
        )
        self.assertEqual(status, 1, err)
        self.assertIn("\n  - server.port: 0: out of range", out)
        self.assertIn("\n  - tracing: unknown key: not available in this version", out)
        self.assertNotIn("Traceback", out + err)

    async def test_interrupted(self) -> None:
        """SIGINT ends `run` as SIGTERM does, in good order with status 0; stdout is audit alone."""
        gateway = self.start((*COMMAND, "run", "--port", "0"), **self.how)
        await gateway.said("Ready for requests!")
        gateway.signal("INT")
        self.assertEqual(await self.ends(gateway, 20), 0, gateway.story())
        lines = gateway.out.splitlines()
        self.assertIn(b'"event_type":"GatewayStopped"', lines[-1])
        self.assertTrue(all(line.startswith(b'{"timestamp":') for line in lines), lines)

    async def test_servers_that_do_not_answer(self) -> None:
        """check-upstream ends with status 1 and the reason of each.

        One cannot be started; a handshake server behind ``era = "modern"`` does not answer either.
        """
        demo = (sys.executable, "-m", "mcpguard.demo", "--http", "--port", "0", "--era", "legacy")
        server = self.start(demo, **self.how)
        url = (await server.said(r"listening on (\S+)$"))[1].decode()
        self.config.write_text(
            f"""
            [[upstream.servers]]
            name = "absent"
            command = "{sys.executable}"
            args = ["-m", "no_such_module"]
            [[upstream.servers]]
            name = "older"
            transport = "http"
            era = "modern"
            url = "{url}"
            """
        )
        status, out, err = await self.run_program(
            (*COMMAND, "check-upstream", "--timeout", "10"), seconds=40, **self.how
        )
        self.assertEqual(status, 1, out + err)
        self.assertEqual(out.count("failed Upstream did not answer: "), 2, out)
        self.assertNotIn("Traceback", out)

    async def test_keys_made_at_once(self) -> None:
        """Of several that add keys at the same time, each adds one or says that it did not."""
        runs = [
            self.start((*COMMAND, "keygen", "--user-id", f"u{n}", "--apply-to-config"), **self.how)
            for n in range(4)
        ]
        statuses = [await self.ends(one, 30) for one in runs]
        text = self.config.read_text()
        self.assertTrue(text.startswith(CONFIG))
        for number, (one, status) in enumerate(zip(runs, statuses, strict=True)):
            added = f'id = "u{number}"' in text
            self.assertEqual(status, 0 if added else 1, one.story())
            if not added:
                self.assertIn(b"is being changed by another process", one.err)
        self.assertIn(0, statuses)
        self.assertEqual([p.name for p in self.directory.iterdir()], ["mcp-guard.toml"])
