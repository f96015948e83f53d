"""What was to be reached, and what was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import NGINX, TWISTED, connection_counts, median, ratio

HTTP, STDIO = "gateway-http", "gateway-stdio"
Data = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """One line of the targets."""

    what: str
    least: float
    aim: float
    figure: Callable[[Data], float | None]
    fewer: bool = False
    """Whether less is better."""
    digits: int = 2
    row: str = ""
    """The gateway's row that the figure comes from."""

    def verdict(self, value: float | None, wrong: int = 0) -> str:
        """What came of it; ``wrong`` answers of the row, and the figure says nothing."""
        if value is None:
            return "not measured"
        if wrong:
            return "wrong answers"
        sign = -1 if self.fewer else 1
        if value * sign >= self.aim * sign:
            return "aim reached"
        return "reached" if value * sign >= self.least * sign else "missed"


def _per_core(name: str, other: str) -> Callable[[Data], float | None]:
    """The worst ratio over 16 connections and more."""

    def figure(data: Data) -> float | None:
        rows = data.get("rows", {})
        ratios = [ratio(rows, name, other, c) for c in connection_counts(rows) if c >= 16]
        known = [one for one in ratios if one is not None]
        return min(known) if known else None

    return figure


def _p99(name: str) -> Callable[[Data], float | None]:
    def figure(data: Data) -> float | None:
        rows = data.get("rows", {})
        if name not in rows or TWISTED not in rows:
            return None
        mine, theirs = median(rows[name], 16, "p99_ms"), median(rows[TWISTED], 16, "p99_ms")
        return mine / theirs if mine and theirs else None

    return figure


def _workers(name: str) -> Callable[[Data], float | None]:
    """How much more two workers do with the most connections, load generator included."""

    def figure(data: Data) -> float | None:
        rows = data.get("rows", {})
        if name not in rows or f"{name}-2w" not in rows:
            return None
        most = max(connection_counts(rows), default=0)
        one, two = median(rows[name], most, "rate"), median(rows[f"{name}-2w"], most, "rate")
        return two / one if one and two else None

    return figure


def _million(field: str) -> Callable[[Data], float | None]:
    def figure(data: Data) -> float | None:
        targets = data.get("extras", {}).get("million", {}).get("targets", {})
        return max((one[field] for one in targets.values()), default=None)

    return figure


def _extra(name: str, field: str) -> Callable[[Data], float | None]:
    def figure(data: Data) -> float | None:
        value = data.get("extras", {}).get(name, {}).get(field)
        return None if value is None else float(value)

    return figure


def _core(what: str, least: float, aim: float, row: str, other: str) -> Goal:
    return Goal(what, least, aim, _per_core(row, other), row=row)


def _pair(words: str, least: float, aim: float, figure: Callable[[str], Any]) -> list[Goal]:
    """The same goal for both kinds of upstream."""
    fewer = least > aim
    return [
        Goal(f"{kind}: {words}", least, aim, figure(row), fewer=fewer, row=row)
        for kind, row in (("HTTP", HTTP), ("stdio", STDIO))
    ]


GOALS = (
    _core("HTTP upstream, x bare Twisted", 1.5, 2.2, HTTP, TWISTED),
    _core("HTTP upstream, x nginx", 0.22, 0.35, HTTP, NGINX),
    _core("stdio upstream, x bare Twisted", 2.5, 3.5, STDIO, TWISTED),
    _core("x fastmcp over HTTP, shared session", 40, 65, HTTP, "fastmcp-http-shared"),
    _core("x mcp-proxy over stdio", 12, 20, STDIO, "mcp-proxy"),
    _core("x supergateway over stdio", 8, 13, STDIO, "supergateway"),
    *_pair("p99 at 16, x bare Twisted", 1.6, 1.0, _p99),
    Goal("HTTP: 2 workers, x one", 1.5, 1.6, _workers(HTTP), row=f"{HTTP}-2w"),
    Goal("stdio: 2 workers, x one", 1.5, 1.6, _workers(STDIO), row=f"{STDIO}-2w"),
    _core("HTTP over TLS, x bare Twisted in the clear", 1.0, 1.2, f"{HTTP}-tls", TWISTED),
    _core("stdio over TLS, x bare Twisted in the clear", 1.0, 1.2, f"{STDIO}-tls", TWISTED),
    Goal("RSS idle, MiB", 65, 60, _million("rss_idle_mib"), fewer=True, digits=1),
    Goal("RSS over a million requests, MiB", 70, 62, _million("rss_most_mib"), True, 1),
    Goal(
        "idle proxied event streams for each GiB",
        *(45_000, 150_000, _extra("streams", "streams_per_gib")),
        digits=0,
    ),
    Goal(
        "Redis round trips for each request at 1000/s",
        *(0.1, 0.02, _extra("redis", "round_trips_per_request")),
        fewer=True,
        digits=4,
    ),
)
