"""Tables out of recorded results: medians over the rounds, ratios within the run."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

TWISTED, NGINX = "twisted-const", "nginx"


def median(row: Mapping[str, Any], connections: int, field: str) -> float | None:
    """The median of a figure over the rounds of a row; None when it was not measured."""
    values = [one[field] for one in row["runs"] if one["connections"] == connections]
    return statistics.median(values) if values else None


def ratio(rows: Mapping[str, Any], name: str, other: str, connections: int) -> float | None:
    """How many times as many requests for each second of processor time one row does as another."""
    if name not in rows or other not in rows:
        return None
    mine = median(rows[name], connections, "per_core")
    theirs = median(rows[other], connections, "per_core")
    return mine / theirs if mine and theirs else None


def connection_counts(rows: Mapping[str, Any]) -> list[int]:
    """The numbers of connections that were measured."""
    return sorted({one["connections"] for row in rows.values() for one in row["runs"]})


def number(value: float | None, digits: int = 0) -> str:
    """A figure of the table."""
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def table(data: Mapping[str, Any]) -> str:
    """The main table in Markdown."""
    rows: Mapping[str, Any] = data["rows"]
    counts = connection_counts(rows)
    head = ["row"]
    for count in counts:
        head += [f"c{count} req/s", f"req/s/core c{count}", f"p50/p99 ms c{count}"]
    head += [f"x {TWISTED} c{count}" for count in counts if count > 1]
    head += [f"x {NGINX} c{count}" for count in counts if count > 1]
    head += ["RSS idle/most MiB", "errors"]
    lines = [head]
    for name, row in rows.items():
        if not row["runs"]:
            continue
        cells = [name]
        for count in counts:
            p50, p99 = median(row, count, "p50_ms"), median(row, count, "p99_ms")
            cells += [
                number(median(row, count, "rate")),
                number(median(row, count, "per_core")),
                f"{number(p50, 2)} / {number(p99, 2)}",
            ]
        for other in (TWISTED, NGINX):
            cells += [number(ratio(rows, name, other, c), 2) for c in counts if c > 1]
        most = max((max(one["rss_mib"], default=0) for one in row["runs"]), default=0)
        cells.append(f"{number(max(row.get('rss_idle_mib', [0]), default=0))} / {number(most)}")
        cells.append(str(sum(sum(one["errors"].values()) for one in row["runs"])))
        lines.append(cells)
    text = markdown(lines)
    for name, row in rows.items():
        if "unavailable" in row:
            text += f"\n\n`{name}` was left out: {row['unavailable']}"
    return text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head, columns after the first are aligned to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def laid(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        ("-" * (width - 1) + ":") if column else "-" * width for column, width in enumerate(widths)
    ]
    return "\n".join([laid(lines[0]), laid(rule), *(laid(line) for line in lines[1:])])
