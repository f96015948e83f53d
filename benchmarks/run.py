"""The rounds: every row measured in turn, again and again, each result kept as soon as it is there.

Rows are interleaved, because a machine is not as fast in one minute as in the next: only figures
of one run are compared.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bench import Bench, Row, Target
from benchmarks.extras.extra import Extra
from benchmarks.program import Unavailable

WARM_UP_SECS = 1.0
SLOWER = 2.0
"""How many times as long a slow row is measured."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    connections: tuple[int, ...]


@dataclass
class Record:
    """A run's results on disk, written anew after each; a run that was stopped goes on from it."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)

    def load(self) -> bool:
        """Take up what is there; whether there was something."""
        if not self.path.exists():
            return False
        self.data = json.loads(self.path.read_text())
        return True

    def forget_left_out(self) -> None:
        """Let what could not be measured be tried again."""
        for row in self.data.get("rows", {}).values():
            row.pop("unavailable", None)
        found = self.data.get("extras", {})
        for name in [name for name, result in found.items() if "unavailable" in result]:
            del found[name]

    def forget(self, names: Sequence[str]) -> None:
        """Let these rows and extra runs be measured anew."""
        for name in names:
            self.data.get("rows", {}).pop(name, None)
            self.data.get("extras", {}).pop(name, None)

    def save(self) -> None:
        """Write it, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.data, indent=1) + "\n")
        new.replace(self.path)

    def row(self, name: str) -> dict[str, Any]:
        """The results of a row so far."""
        rows: dict[str, Any] = self.data.setdefault("rows", {})
        entry: dict[str, Any] = rows.setdefault(name, {})
        entry.setdefault("runs", [])
        return entry

    def has(self, name: str, connections: int, number: int) -> bool:
        """Whether this round of a row is there."""
        return any(
            (one["connections"], one["round"]) == (connections, number)
            for one in self.row(name)["runs"]
        )


def run_rows(
    rows: Sequence[Row],
    plan: Plan,
    record: Record,
    layout: machine.Layout,
    say: Callable[[str], None],
) -> None:
    """Measure what the record does not have yet."""
    with tempfile.TemporaryDirectory(prefix="mcp-guard-bench-") as name:
        bench = Bench(Path(name), layout)
        try:
            _run(bench, rows, plan, record, say)
        finally:
            bench.close()


def run_extras(
    extras: Sequence[Extra],
    quick: bool,
    record: Record,
    layout: machine.Layout,
    say: Callable[[str], None],
) -> None:
    """Run what the record does not have yet, each beside nothing else."""
    results = record.data.setdefault("extras", {})
    for extra in extras:
        if extra.name in results:
            continue
        say(f"{extra.name}: {extra.what}")
        with tempfile.TemporaryDirectory(prefix="mcp-guard-bench-") as name:
            bench = Bench(Path(name), layout)
            try:
                results[extra.name] = extra.run(bench, quick, say)
            except Unavailable as problem:
                results[extra.name] = {"unavailable": str(problem)}
                say(f"{extra.name}: left out, {problem}")
            finally:
                bench.close()
        record.save()


def _run(
    bench: Bench,
    rows: Sequence[Row],
    plan: Plan,
    record: Record,
    say: Callable[[str], None],
) -> None:
    up: dict[str, Target] = {}
    for number in range(1, plan.rounds + 1):
        for row in rows:
            missing = [c for c in plan.connections if not record.has(row.name, c, number)]
            if missing and "unavailable" not in record.row(row.name):
                try:
                    _measure(bench, row, missing, number, plan, record, up, say)
                except Unavailable as problem:
                    record.row(row.name)["unavailable"] = str(problem)
                    say(f"{row.name}: left out, {problem}")
                record.save()


def _measure(
    bench: Bench,
    row: Row,
    missing: Sequence[int],
    number: int,
    plan: Plan,
    record: Record,
    up: dict[str, Target],
    say: Callable[[str], None],
) -> None:
    entry = record.row(row.name)
    entry.update(kind=row.kind, upstream=row.upstream, auth=row.auth, what=row.what)
    if row.name not in up:
        target = up[row.name] = row.start(bench)
        target.open()
        time.sleep(0.3)
        entry["rss_idle_mib"] = [round(one, 1) for one in machine.rss_mib(target.program.pid)]
        target.load(min(4, max(plan.connections)), WARM_UP_SECS)
    target = up[row.name]
    for connections in missing:
        seconds = plan.seconds * (SLOWER if row.slow else 1.0)
        result = target.load(connections, seconds)
        entry["runs"].append({"round": number, **asdict(result)})
        record.save()
        say(
            f"{row.name:<22} c{connections:<3} round {number}: {result.rate:>8.0f}/s"
            f" {result.per_core:>8.0f}/s/core  p50 {result.p50_ms:>8.2f}"
            f" p99 {result.p99_ms:>8.2f} ms"
            + (f"  ERRORS {result.errors}" if result.errors else "")
        )
