"""Figures out of recorded results: medians over the rounds, ratios within the run."""

import statistics
from collections.abc import Mapping
from typing import Any

TWISTED, NGINX = "twisted-const", "nginx"
Rows = Mapping[str, Any]


def median(row: Mapping[str, Any], connections: int, field: str) -> float | None:
    """The median of a figure over the rounds of a row; None when it was not measured.

    A round without a single answer says nothing.
    """
    values = [
        one[field] for one in row["runs"] if one["connections"] == connections and one["requests"]
    ]
    return statistics.median(values) if values else None


def ratio(rows: Rows, name: str, other: str, connections: int) -> float | None:
    """How many times as many requests for each second of processor time one row does as another."""
    if name not in rows or other not in rows:
        return None
    mine = median(rows[name], connections, "per_core")
    theirs = median(rows[other], connections, "per_core")
    return mine / theirs if mine and theirs else None


def connection_counts(rows: Rows) -> list[int]:
    """The numbers of connections that were measured."""
    return sorted({one["connections"] for row in rows.values() for one in row["runs"]})


def errors(row: Mapping[str, Any]) -> int:
    """Answers that were wrong or did not come."""
    return sum(sum(one["errors"].values()) for one in row["runs"])


def most_rss(row: Mapping[str, Any]) -> float:
    """The most memory of one of the row's processes, in MiB."""
    return max((max(one["rss_mib"], default=0.0) for one in row["runs"]), default=0.0)
