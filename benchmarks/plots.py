"""Pictures of recorded results, as SVG. Runs under the Python of ``.bench/tools``.

python plots.py RESULTS.json DIRECTORY
"""

import importlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COLOURS = {"reference": "#8a8f98", "gateway": "#1f77b4", "peer": "#d98b2b"}
LINES = {
    "twisted-const": "#8a8f98",
    "nginx": "#2f9e62",
    "gateway-http": "#1f77b4",
    "gateway-stdio": "#7b3fb8",
}
PARTS = ("#1f77b4", "#7b3fb8", "#2f9e62", "#d98b2b", "#c4453c", "#6b8fb5", "#b58fd0", "#8fc7a5")


def _median(row: Mapping[str, Any], connections: int, field: str) -> float:
    values = [one[field] for one in row["runs"] if one["connections"] == connections]
    return statistics.median(values) if values else 0.0


def _most_connections(rows: Mapping[str, Any]) -> int:
    return max((one["connections"] for row in rows.values() for one in row["runs"]), default=0)


def _rows(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row for name, row in data.get("rows", {}).items() if row["runs"]}


def rates(plt: Any, data: Mapping[str, Any]) -> Any:
    """Requests for each second of processor time, the fastest first."""
    rows = _rows(data)
    most = _most_connections(rows)
    values = {name: _median(row, most, "per_core") for name, row in rows.items()}
    names = sorted((name for name in values if values[name]), key=lambda name: values[name])
    if not names:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(names) + 1.2))
    colours = [COLOURS[rows[name]["kind"]] for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, [f" {values[name]:,.0f}".replace(",", " ") for name in names], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(values.values()) * 3)
    axes.set_xlabel(f"tools/call a second and core, {most} connections (logarithmic)")
    return figure


def latencies(plt: Any, data: Mapping[str, Any]) -> Any:
    """From the median to the 99th percentile under the closed load."""
    rows = _rows(data)
    counts = {one["connections"] for row in rows.values() for one in row["runs"]}
    count = 16 if 16 in counts else max(counts, default=0)
    values = {
        name: (_median(row, count, "p50_ms"), _median(row, count, "p99_ms"))
        for name, row in rows.items()
        if _median(row, count, "p50_ms")
    }
    names = sorted(values, key=lambda name: -values[name][1])
    if not names:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(names) + 1.2))
    for place, name in enumerate(names):
        p50, p99 = values[name]
        colour = COLOURS[rows[name]["kind"]]
        axes.plot([p50, p99], [place, place], color=colour, linewidth=2)
        axes.plot([p50], [place], "o", color=colour, markersize=5)
        axes.plot([p99], [place], "|", color=colour, markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_xlabel(f"ms from the median to the 99th percentile, {count} connections")
    return figure


def open_loop(plt: Any, data: Mapping[str, Any]) -> Any:
    """Latency against the rate of arrivals."""
    targets = data.get("extras", {}).get("latency", {}).get("targets", {})
    if not any(targets.values()):
        return None
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for name, results in targets.items():
        rate = [one["rate"] for one in results]
        colour = LINES.get(name, "#000000")
        axes.plot(rate, [one["p50_ms"] for one in results], "o-", color=colour, label=f"{name} p50")
        axes.plot(
            rate, [one["p99_ms"] for one in results], "s--", color=colour, label=f"{name} p99"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arrivals a second (open loop, Poisson)")
    axes.set_ylabel("ms from when the call was due")
    axes.legend(ncols=2, fontsize=8, frameon=False)
    return figure


def memory(plt: Any, data: Mapping[str, Any]) -> Any:
    """Resident memory against the number of requests."""
    targets = data.get("extras", {}).get("million", {}).get("targets", {})
    if not targets:
        return None
    figure, axes = plt.subplots(figsize=(8, 3.4))
    for name, one in targets.items():
        counts, sizes = zip(*one["samples"], strict=True)
        axes.plot([count / 1000 for count in counts], sizes, ".-", color=LINES[name], label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("thousand requests")
    axes.set_ylabel("RSS, MiB")
    axes.legend(fontsize=8, frameon=False)
    return figure


def features(plt: Any, data: Mapping[str, Any]) -> Any:
    """What each change adds to the processor time of a request, or takes away."""
    variants = data.get("extras", {}).get("features", {}).get("variants", {})
    known = {n: v["difference_us"] for n, v in variants.items() if v.get("difference_us")}
    if not known:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(known) + 1.2))
    bars = axes.barh(list(known), list(known.values()), color=COLOURS["gateway"])
    axes.bar_label(bars, [f" {value:+.1f} " for value in known.values()], fontsize=8)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.margins(x=0.15)
    axes.set_xlabel("microseconds of processor time for a request, against everything on")
    return figure


def profile(plt: Any, data: Mapping[str, Any]) -> Any:
    """Shares of the gateway's thread."""
    found = data.get("extras", {}).get("profile", {})
    if not found or "unavailable" in found:
        return None
    parts = list(dict.fromkeys(part for one in found.values() for part in one["parts"]))
    figure, axes = plt.subplots(figsize=(8, 2.6))
    left = dict.fromkeys(found, 0.0)
    for number, part in enumerate(parts):
        shares = {name: one["parts"].get(part, 0.0) for name, one in found.items()}
        if max(shares.values()) < 1.0:
            continue
        axes.barh(
            list(found),
            list(shares.values()),
            left=list(left.values()),
            color=PARTS[number % len(PARTS)],
            alpha=1.0 if number < len(PARTS) else 0.5,
            label=part,
        )
        left = {name: left[name] + shares[name] for name in found}
    axes.set_xlabel("% of the thread's time")
    axes.legend(ncols=4, fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return figure


PICTURES: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "rates": rates,
    "latencies": latencies,
    "open-loop": open_loop,
    "features": features,
    "memory": memory,
    "profile": profile,
}


def main() -> None:
    """Draw what there are results for."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    plt: Any = importlib.import_module("matplotlib.pyplot")
    # The same results give the same files.
    plt.rcParams.update(
        {
            "svg.hashsalt": "mcp-guard",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    data = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        figure = draw(plt, data)
        if figure is not None:
            figure.savefig(
                directory / f"performance-{name}.svg",
                bbox_inches="tight",
                metadata={"Date": None, "Creator": None},
            )
            plt.close(figure)
            print(name)


if __name__ == "__main__":
    main()
