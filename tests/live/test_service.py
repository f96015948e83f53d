"""The gateway as twistd runs it: its log on standard output, its audit file, its signals."""

import json
import signal
import sys
from pathlib import Path

from tests.live.processes import LiveCase
from tests.live.software import REPOSITORY

CONFIGURATION = """
[upstream]
transport = "http"
url = "http://127.0.0.1:9/mcp"

[audit]
file = "audit.log"
"""


class ServiceTests(LiveCase):
    """``twistd --logger=mcpguard.observe.logs.to_stdout mcp-guard``."""

    async def test_log_and_audit(self) -> None:
        """The log is JSON lines, logrotate's signal makes a new audit file, a stop completes it."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "mcp-guard.toml").write_text(CONFIGURATION)
        audit, moved = folder / "audit.log", folder / "audit.log.1"
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        program = self.start(
            [
                *twistd,
                *("--nodaemon", "--pidfile=", "--umask=0077"),
                "--logger=mcpguard.observe.logs.to_stdout",
                *("mcp-guard", "--config", str(folder / "mcp-guard.toml"), "--port", "0"),
            ],
            env={"PYTHONPATH": str(REPOSITORY)},
            cwd=str(folder),
            name="twistd",
        )
        await program.said("listening on http://127")
        # The file is there before its first line, which a moved file would not get any more.
        await self.until(
            lambda: audit.exists() and audit.stat().st_size > 0, 10, "a line in the audit file"
        )
        audit.rename(moved)
        program.process.signalProcess(signal.SIGUSR1)
        await self.until(audit.exists, 10, "a new audit file after SIGUSR1")
        program.signal("TERM")
        status = await self.ends(program, 15)
        self.assertEqual(status, -15, program.story())
        records = [json.loads(line) for line in program.out.decode().splitlines()]
        self.assertEqual(program.err, b"", program.story())
        self.assertLessEqual({"info", "warn"}, {record["level"] for record in records})
        for record in records:
            self.assertIn("message", record)
            self.assertNotIn("traceback", record)
        before = [json.loads(line)["event_type"] for line in moved.read_text().splitlines()]
        after = [json.loads(line)["event_type"] for line in audit.read_text().splitlines()]
        self.assertEqual(before[0], "GatewayStarted")
        self.assertEqual(after[-1], "GatewayStopped")
        self.assertEqual(audit.stat().st_mode & 0o777, 0o600)
