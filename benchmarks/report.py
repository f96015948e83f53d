"""Recorded results as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import (
    NGINX,
    TWISTED,
    connection_counts,
    errors,
    median,
    most_rss,
    ratio,
)
from benchmarks.targets import GOALS

Data = Mapping[str, Any]
KINDS = ("reference", "gateway", "peer")


def number(value: float | None, digits: int = 0) -> str:
    """A figure of a table, thousands apart."""
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; columns after the first are aligned to the right."""
    everything = [head, *lines]
    widths = [max(len(line[column]) for line in everything) for column in range(len(head))]

    def laid(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if not column else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([laid(head), laid(rule), *(laid(line) for line in lines)])


def measured(data: Data) -> dict[str, Any]:
    """The rows that have results, references first, peers last."""
    found = [(name, row) for name, row in data.get("rows", {}).items() if row["runs"]]
    return dict(sorted(found, key=lambda one: KINDS.index(one[1]["kind"])))


def rates(data: Data) -> str:
    """Requests a second, for each second of processor time, and beside the references."""
    rows = measured(data)
    counts = connection_counts(rows)
    several = [count for count in counts if count > 1] or counts
    head = ["", "upstream", "key", *(f"req/s, {count}" for count in counts)]
    head += [f"per core, {count}" for count in several]
    head += [f"x {other}, {count}" for other in (TWISTED, NGINX) for count in several]
    head.append("wrong")
    lines = []
    for name, row in rows.items():
        cells = [name, row["upstream"], row["auth"]]
        cells += [number(median(row, count, "rate")) for count in counts]
        cells += [number(median(row, count, "per_core")) for count in several]
        for other in (TWISTED, NGINX):
            cells += [_times(ratio(rows, name, other, count)) for count in several]
        cells.append(str(errors(row)))
        lines.append(cells)
    return markdown(head, lines)


def _times(value: float | None) -> str:
    if value is None:
        return "-"
    return number(value, 2) if value >= 1 else number(value, 3)


def latencies(data: Data) -> str:
    """Latencies under the closed load, and memory."""
    rows = measured(data)
    counts = connection_counts(rows)
    head = ["", *(f"p50 / p99 ms, {count}" for count in counts)]
    head += ["RSS idle, MiB", "RSS most, MiB", "processes", "steal, %"]
    lines = []
    for name, row in rows.items():
        cells = [name]
        for count in counts:
            p50, p99 = median(row, count, "p50_ms"), median(row, count, "p99_ms")
            cells.append(f"{number(p50, 2)} / {number(p99, 2)}")
        last = row["runs"][-1]
        cells.append(number(max(row.get("rss_idle_mib") or [0.0])))
        cells += [number(most_rss(row)), str(len(last["rss_mib"]))]
        cells.append(number(max(one["steal_percent"] for one in row["runs"]), 1))
        lines.append(cells)
    return markdown(head, lines)


def goals(data: Data) -> str:
    """The targets, each with what was reached."""
    lines = []
    for goal in GOALS:
        value = goal.figure(data)
        row = data.get("rows", {}).get(goal.row)
        wrong = 0 if row is None else errors(row)
        signs = ("≤ " if goal.fewer else "≥ ") + number(goal.least, 2 if goal.least < 10 else 0)
        aim = number(goal.aim, 2 if goal.aim < 10 else 0)
        lines.append(
            [goal.what, signs, aim, number(value, goal.digits), goal.verdict(value, wrong)]
        )
    return markdown(["", "at least", "aim", "measured", ""], lines)


def extras(data: Data) -> list[tuple[str, str]]:
    """Title and table of each extra run that has results."""
    found: Mapping[str, Any] = data.get("extras", {})
    made = {
        "latency": ("Latency at constant arrival rates", _latency),
        "features": ("What each feature costs", _features),
        "redis": ("Limits in Redis", _plain),
        "streams": ("Idle event streams through the gateway", _plain),
        "callers": ("The limiter before many callers", _plain),
        "million": ("Memory over many requests", _million),
        "profile": ("Where the time goes", _profile),
    }
    return [
        (title, _left_out(found[name]) or render(found[name]))
        for name, (title, render) in made.items()
        if name in found
    ]


def _left_out(result: Mapping[str, Any]) -> str:
    return f"Left out: {result['unavailable']}" if "unavailable" in result else ""


def _plain(result: Mapping[str, Any]) -> str:
    lines = [[name.replace("_", " "), str(value)] for name, value in result.items()]
    return markdown(["", ""], lines)


def _latency(result: Mapping[str, Any]) -> str:
    head = ["", "arrivals/s", "p50 ms", "p90", "p99", "p99.9", "most", "wrong", "sent late, p99"]
    lines = [
        [
            name,
            number(one["rate"]),
            *(number(one[f"{field}_ms"], 2) for field in ("p50", "p90", "p99", "p999", "max")),
            "overloaded" if one["overloaded"] else str(one["wrong"]),
            number(one["late_p99_ms"], 2),
        ]
        for name, results in result["targets"].items()
        for one in results
    ]
    return markdown(head, lines)


def _features(result: Mapping[str, Any]) -> str:
    lines = [
        [name, "-", "-", "-"]
        if "unavailable" in one
        else [
            name,
            number(one["us_per_request"], 1),
            f"{one['difference_us']:+.1f}",
            number(one["spread_us"], 1),
        ]
        for name, one in result["variants"].items()
    ]
    head = ["", "us of processor for a request", "difference", "spread of the difference"]
    return markdown(head, lines)


def _million(result: Mapping[str, Any]) -> str:
    lines = []
    for name, one in result["targets"].items():
        samples = one["samples"]
        early = samples[min(1, len(samples) - 1)]
        lines.append(
            [
                name,
                number(samples[-1][0]),
                number(one["rss_idle_mib"], 1),
                f"{number(early[1], 1)} after {number(early[0])}",
                number(samples[-1][1], 1),
                number(one["rss_most_mib"], 1),
                str(one["errors"]),
            ]
        )
    return markdown(
        ["RSS in MiB", "requests", "idle", "soon", "at the end", "most", "wrong"], lines
    )


def _profile(result: Mapping[str, Any]) -> str:
    text = []
    for name, one in result.items():
        parts = [[part, f"{share:.1f}"] for part, share in one["parts"].items()]
        functions = [[what, f"{share:.1f}"] for what, share in list(one["functions"].items())[:12]]
        text.append(markdown([f"{name}: part", "% of the thread"], parts))
        text.append(markdown([f"{name}: function", "% of the thread"], functions))
    return "\n\n".join(text)


def left_out(data: Data) -> str:
    """The rows that could not be measured, with the reason."""
    return "\n".join(
        f"- `{name}` was left out: {row['unavailable']}"
        for name, row in data.get("rows", {}).items()
        if "unavailable" in row
    )


def summary(data: Data) -> str:
    """Everything that is recorded, in sections."""
    sections: list[tuple[str, str]] = []
    if measured(data):
        sections += [("Rates", rates(data)), ("Latency and memory", latencies(data))]
    if missing := left_out(data):
        sections.append(("Left out", missing))
    sections += extras(data)
    if measured(data):
        sections.append(("Targets", goals(data)))
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
