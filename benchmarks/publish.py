"""Results into the repository: the record, a page beside it, pictures, and the page in ``docs``."""

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.bench import tool_python
from benchmarks.program import Unavailable

BEGIN, END = "<!-- results: written by `make bench` -->", "<!-- end of results -->"
CAPTIONS = {
    "rates": "Requests for each second of processor time",
    "latencies": "Latencies with 16 connections",
    "open-loop": "Latency at constant arrival rates",
    "features": "What each feature costs",
    "memory": "Memory over many requests",
    "profile": "Where the time goes",
}
Data = Mapping[str, Any]


def facts(data: Data) -> str:
    """The machine, the versions and the run, as tables."""
    run = data.get("run", {})
    lines = [
        *data.get("machine", {}).items(),
        *((name, str(value)) for name, value in run.items()),
    ]
    versions = [list(one) for one in data.get("versions", {}).items()]
    return "\n\n".join(
        [
            report.markdown(["machine and run", ""], [list(one) for one in lines]),
            report.markdown(["software", "version"], versions),
        ]
    )


def draw(results: Path, directory: Path) -> list[str]:
    """Draw the pictures; the names of those that were drawn. Raises `Unavailable`."""
    done = subprocess.run(
        [tool_python("tools"), Path(__file__).with_name("plots.py"), results, directory],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"no pictures: {done.stderr[-300:]}")
    return done.stdout.split()


def publish(data: Data, root: Path, say: Callable[[str], None]) -> None:
    """Write ``benchmarks/results``, ``docs/images`` and the results in ``docs/performance.md``."""
    results = root / "benchmarks" / "results"
    results.mkdir(parents=True, exist_ok=True)
    record = results / "results.json"
    record.write_text(json.dumps(data, indent=1) + "\n")
    (results / "results.md").write_text(
        "# Results\n\nWritten by `make bench BENCH=--publish`; how it is measured says"
        " [docs/performance.md](../../docs/performance.md).\n\n"
        f"{facts(data)}\n\n{report.summary(data)}\n"
    )
    try:
        drawn = draw(record, root / "docs" / "images")
    except Unavailable as problem:
        drawn = []
        say(str(problem))
    page = root / "docs" / "performance.md"
    page.write_text(with_results(page.read_text(), data, drawn))


def with_results(page: str, data: Data, drawn: list[str]) -> str:
    """The page with the results between its two marks replaced."""
    pictures = "\n\n".join(f"![{CAPTIONS[name]}](images/performance-{name}.svg)" for name in drawn)
    missing = report.left_out(data)
    parts = [
        BEGIN,
        facts(data),
        "### Targets",
        report.goals(data),
        "### Rates",
        report.rates(data),
        *([missing] if missing else []),
        "### Latency and memory",
        report.latencies(data),
        *(["### Pictures", pictures] if drawn else []),
        *(f"### {title}\n\n{text}" for title, text in report.extras(data)),
        END,
    ]
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}",
        lambda _: "\n\n".join(parts),
        page,
        flags=re.DOTALL,
    )
