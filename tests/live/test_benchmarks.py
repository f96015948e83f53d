"""The load harness, run for a few seconds: that it measures, never how fast anything is."""

import json
import shutil
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.live.processes import LiveCase
from tests.live.software import REPOSITORY

SERVERS = REPOSITORY / "benchmarks" / "servers"


class ReferenceServerTests(LiveCase):
    """The reference upstream before the open-loop generator."""

    async def arrive(self, answer: str, expect: str) -> dict[str, object]:
        """Half a second of calls; what the generator reports."""
        serve = [sys.executable, str(SERVERS / "reference.py"), "http", "--answer", answer]
        environment = {"PYTHONPATH": str(REPOSITORY)}
        port = await self.start_http_server(serve, ready=r"listening on (\d+)", env=environment)
        status, out, err = await self.run_program(
            [
                *(sys.executable, str(SERVERS / "open_loop.py"), "--rate", "200"),
                *("--url", f"http://127.0.0.1:{port}/mcp", "--seconds", "0.5"),
                *("--connections", "4"),
            ],
            seconds=10,
            env={
                **environment,
                "BENCH_HEADERS": "Content-Type: application/json",
                "BENCH_EXPECT": expect,
            },
        )
        self.assertEqual(status, 0, err)
        report: dict[str, object] = json.loads(out)
        self.assertFalse(report["overloaded"])
        return report

    async def test_right(self) -> None:
        """Answers as JSON and as event streams are found right, each of them."""
        for answer in ("json", "sse"):
            report = await self.arrive(answer, "echo")
            self.assertEqual(report["wrong"], 0)
            self.assertTrue(report["answered"])

    async def test_wrong(self) -> None:
        """Answers that are not what was expected are counted."""
        report = await self.arrive("json", "something else")
        self.assertTrue(report["wrong"])


class HarnessTests(LiveCase):
    """``python -m benchmarks``."""

    async def test_row(self) -> None:
        """One row is measured, recorded and shown, without a wrong answer."""
        for tool in ("wrk", "taskset"):
            if shutil.which(tool) is None:
                raise SkipTest(f"{tool} is not installed")
        record = Path(self.mktemp()).absolute()
        status, out, err = await self.run_program(
            [
                *(sys.executable, "-m", "benchmarks", "--quick", "--seconds", "1"),
                *("--only", "gateway-stdio", "--json", str(record)),
            ],
            seconds=30,
            cwd=str(REPOSITORY),
        )
        self.assertEqual(status, 0, err)
        data = json.loads(record.read_text())
        row = data["rows"]["gateway-stdio"]
        self.assertNotIn("unavailable", row)
        (run,) = row["runs"]
        self.assertEqual(run["errors"], {}, run["sample"])
        self.assertGreater(run["checked"], 0)
        self.assertGreater(run["rss_mib"][0], 10)
        self.assertIn("| gateway-stdio |", out)
        self.assertNotIn(str(REPOSITORY), record.read_text())
        self.assertTrue(data["versions"]["wrk"])
