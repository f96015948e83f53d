"""What an extra run is."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bench import ROOT, SERVERS, Bench, Target

SCRIPT_SECS = 300


@dataclass(frozen=True)
class Extra:
    """A run with a result of its own form."""

    name: str
    what: str
    run: Callable[[Bench, bool, Callable[[str], None]], dict[str, Any]]
    """Given the bench, whether to be quick, and where to say how it goes."""


def script(
    command: Sequence[str | Path], cpus: tuple[int, ...], env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a program to its end; the JSON in its last line."""
    done = subprocess.run(
        ["taskset", "-c", machine.spelled(cpus), *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[1]).name} failed: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def arrive(
    bench: Bench, target: Target, rate: float, seconds: float, connections: int = 64
) -> dict[str, Any]:
    """Open-loop load on a target, see ``servers/open_loop.py``; with its processor time."""
    used = machine.cpu_seconds(target.program.pid)
    result = script(
        [
            *(bench.upstream_python, SERVERS / "open_loop.py", "--url", target.url),
            *("--rate", str(rate), "--seconds", str(seconds), "--connections", str(connections)),
        ],
        target.layout.load,
        {"BENCH_HEADERS": target.headers, "BENCH_EXPECT": target.expect},
    )
    used = machine.cpu_seconds(target.program.pid) - used
    result["cpu_us_per_request"] = round(used / result["sent"] * 1e6, 1)
    return result
