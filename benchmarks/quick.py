"""How fast is it here: `tools/call echo` through a gateway in front of the bundled demo server.

The gateway runs as users run it (API key, authorization, audit to a file), only the rate limit is
off. Load and gateway share this machine's cores, so read the figures as a comparison between
changes on one machine, not as a claim; the rate per gateway core leaves the load generator out.

    python benchmarks/quick.py [--requests N] [--connections N]
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

CONFIG = """\
[server]
port = 3000

[upstream]
transport = "stdio"
command = {python}
args = ["-m", "mcpguard.demo"]

[rate_limit]
enabled = false

[audit]
file = {audit}

[[auth.api_keys]]
id = "bench"
key_hash = "{key_hash}"
allowed_tools = ["echo"]
"""
START_SECONDS = 30
ANSWER_SECONDS = 30


@dataclass
class Outcome:
    """One run's figures."""

    name: str
    seconds: float
    cpu_seconds: float
    latencies: list[float]

    def line(self) -> str:
        """The figures as a row of the table."""
        ordered = sorted(self.latencies)
        p50 = statistics.median(ordered) * 1000
        p99 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))] * 1000
        rate = len(ordered) / self.seconds
        per_core = len(ordered) / self.cpu_seconds if self.cpu_seconds else float("nan")
        return (
            f"{self.name:<18}{len(ordered):>9}{rate:>9.0f}{per_core:>12.0f}{p50:>9.2f}{p99:>9.2f}"
        )


def start(directory: Path, key: str) -> tuple["subprocess.Popen[str]", int]:
    """Start a gateway on a free port; the process and the port."""
    config = directory / "mcp-guard.toml"
    config.write_text(
        CONFIG.format(
            python=json.dumps(sys.executable),
            audit=json.dumps(str(directory / "audit.log")),
            key_hash=b64encode(sha256(key.encode()).digest()).decode(),
        )
    )
    log = (directory / "gateway.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpguard", "-c", str(config), "run", "--port", "0"],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        said = (directory / "gateway.log").read_text()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        if found and "Ready" in said:
            return process, int(found[1])
        time.sleep(0.05)
    process.kill()
    sys.exit("The gateway did not start:\n" + (directory / "gateway.log").read_text())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, its children aside."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def client(port: int, key: str, first: int, count: int, latencies: list[float]) -> None:
    """Send ``count`` calls one after another on one connection; every answer is checked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: "
    ).encode()
    for request_id in range(first, first + count):
        message = {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"message": f"hello {request_id}"}},
        }
        body = json.dumps(message).encode()
        started = time.perf_counter()
        writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(ANSWER_SECONDS):
            answer_head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer_head)
            if not answer_head.startswith(b"HTTP/1.1 200 ") or length is None:
                sys.exit(f"unexpected answer: {answer_head.decode('latin-1')}")
            answer = json.loads(await reader.readexactly(int(length[1])))
        latencies.append(time.perf_counter() - started)
        text = answer["result"]["content"][0]["text"]
        if (answer["id"], text) != (request_id, f"hello {request_id}"):
            sys.exit(f"wrong answer to {request_id}: {answer}")
    writer.close()
    await writer.wait_closed()


async def measure(
    name: str, pid: int, port: int, key: str, connections: int, requests: int
) -> Outcome:
    """Run ``requests`` calls over ``connections`` connections."""
    latencies: list[float] = []
    each = requests // connections
    used, started = cpu_seconds(pid), time.perf_counter()
    await asyncio.gather(
        *(client(port, key, number * each, each, latencies) for number in range(connections))
    )
    return Outcome(name, time.perf_counter() - started, cpu_seconds(pid) - used, latencies)


async def run(requests: int, connections: int) -> None:
    """Start a gateway, warm it up, measure, print."""
    key = "mcp_" + secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="mcp-guard-bench-") as name:
        process, port = start(Path(name), key)
        try:
            await measure("warm-up", process.pid, port, key, 4, 200)
            print(
                f"{'tools/call echo':<18}{'requests':>9}{'req/s':>9}{'req/s/core':>12}"
                f"{'p50 ms':>9}{'p99 ms':>9}"
            )
            for count in (1, connections):
                label = "sequential" if count == 1 else f"{count} connections"
                outcome = await measure(label, process.pid, port, key, count, requests)
                print(outcome.line(), flush=True)
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000, help="calls in each run")
    parser.add_argument("--connections", type=int, default=16, help="of the second run")
    options = parser.parse_args()
    if not 0 < options.connections <= options.requests:
        parser.error("there must be at least one request for each connection")
    asyncio.run(run(options.requests, options.connections))


if __name__ == "__main__":
    main()
