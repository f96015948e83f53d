"""One measurement with wrk: closed loop, keep-alive, every answer checked."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine

SCRIPT = Path(__file__).with_name("load.lua")
GRACE_SECS = 60
ERRORS = ("bad", "connect", "read", "write", "timeout")


@dataclass(frozen=True)
class Measurement:
    """What one run of wrk gave; times in milliseconds, memory in MiB."""

    connections: int
    seconds: float
    requests: int
    rate: float
    cpu_share: float
    """Processors that the measured process tree kept busy."""
    per_core: float
    """Requests for each second of processor time; 0 where the time is too little to tell."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    checked: int
    errors: dict[str, int]
    sample: str
    """The beginning of a wrong answer."""
    steal_percent: float
    rss_mib: list[float]
    """Of each process, the largest first."""


def measure(
    url: str,
    *,
    headers: str,
    expect: str,
    pid: int,
    cpus: tuple[int, ...],
    connections: int,
    seconds: float,
) -> Measurement:
    """Put load on ``url`` and watch the process tree of ``pid``.

    ``headers`` are lines; of several sets, with an empty line between, each has a thread.
    """
    threads = min(connections, max(len(cpus), headers.count("\n\n") + 1), 8)
    command = [
        *("taskset", "-c", machine.spelled(cpus), "wrk"),
        *(f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"),
        *("-s", str(SCRIPT), url),
    ]
    env = {**os.environ, "BENCH_HEADERS": headers, "BENCH_EXPECT": expect}
    began, used, stolen = time.monotonic(), machine.cpu_seconds(pid), machine.steal_ticks()
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=seconds + GRACE_SECS, check=False
    )
    used, took = machine.cpu_seconds(pid) - used, time.monotonic() - began
    stolen = machine.steal_ticks() - stolen
    found = re.search(r"^RESULT (\{.*\})$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(found[1], strict=False)
    requests = int(result["requests"])
    return Measurement(
        connections=connections,
        seconds=result["seconds"],
        requests=requests,
        rate=requests / result["seconds"],
        cpu_share=used / took,
        per_core=requests / used if used >= 5 / machine.TICKS else 0.0,
        p50_ms=result["p50_ms"],
        p90_ms=result["p90_ms"],
        p99_ms=result["p99_ms"],
        max_ms=result["max_ms"],
        checked=result["checked"],
        errors={name: result[name] for name in ERRORS if result[name]},
        sample=result["sample"],
        steal_percent=100 * stolen / machine.TICKS / took / len(machine.available_cpus()),
        rss_mib=[round(one, 1) for one in machine.rss_mib(pid)],
    )
