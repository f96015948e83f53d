"""The metrics: plain numbers, shown to Prometheus when it asks (product: metrics)."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Literal

from attrs import define, field, frozen
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as expose
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from twisted.logger import Logger

from mcpguard import __version__
from mcpguard.protocol.mcp import metric_label

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The exposition format that every Prometheus reads; our names need nothing newer."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histograms, in seconds."""

MAX_SERIES = 1000
"""Label combinations of one metric; whatever comes on top is counted under ``other``."""

OTHER = "other"


@frozen
class Declared:
    """One of the further metrics, counted by name through `Meter.count`."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


FURTHER: Mapping[str, Declared] = {
    "mcp_guard_refusals_total": Declared(
        "counter", "Requests refused or failed, by reason.", ("reason",)
    ),
    "mcp_guard_connections_dropped_total": Declared(
        "counter", "Client connections closed by the gateway for its own safety.", ("reason",)
    ),
    "mcp_guard_audit_dropped_total": Declared(
        "counter", "Audit events an output could neither take nor hold."
    ),
    "mcp_guard_upstream_restarts_total": Declared(
        "counter", "Child processes started again after they ended by themselves.", ("server",)
    ),
    "mcp_guard_upstream_renewals_total": Declared(
        "counter", "Lost sessions of a server that were begun anew, or not.", ("server", "result")
    ),
    "mcp_guard_upstream_stray_messages_total": Declared(
        "counter", "Messages of a server that belong to nothing it was asked.", ("server", "kind")
    ),
    "mcp_guard_active_identities": Declared("gauge", "Identities seen lately."),
    "mcp_guard_sessions": Declared("gauge", "MCP sessions open now."),
    "mcp_guard_connections": Declared("gauge", "Client connections open now."),
    "mcp_guard_children": Declared("gauge", "Child processes running now.", ("server",)),
}
"""The further metrics. Labels come from the configuration or a fixed vocabulary only."""

Source = Callable[[], float] | Callable[[], Mapping[str, int]]
"""Tells a gauge's value; for a gauge with one label, the values by label."""


@define(eq=False)
class _Count:
    """One number that goes up."""

    number: float = 0


@define(eq=False)
class _Series:
    """The numbers of one metric by label values, bounded in number."""

    limit: int
    values: dict[tuple[str, ...], _Count] = field(factory=dict)

    def of(self, labels: tuple[str, ...]) -> _Count:
        count = self.values.get(labels)
        if count is None:
            if len(self.values) >= self.limit:
                labels = (OTHER,) * len(labels)
            count = self.values.setdefault(labels, _Count())
        return count


@define(eq=False)
class _Spread:
    """One histogram: how many observations fell into each bucket, and their sum."""

    counts: list[int] = field(factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        if not seconds > 0:  # nor if it is no number
            seconds = 0.0
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@define(eq=False)
class _Spreads:
    """The histograms of one metric by label values, bounded in number."""

    limit: int
    values: dict[tuple[str, ...], _Spread] = field(factory=dict)

    def of(self, labels: tuple[str, ...]) -> _Spread:
        spread = self.values.get(labels)
        if spread is None:
            if len(self.values) >= self.limit:
                labels = (OTHER,) * len(labels)
            spread = self.values.setdefault(labels, _Spread())
        return spread


class _Shown(Collector):
    """What the registry asks when it is scraped."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


class Metrics:
    """Counts, and shows what it has counted; implements `Meter`.

    The callables tell the gauges' values at the moment of a scrape; ``children`` gives the number
    of child processes by server. ``registry`` is a new one unless given. Counting costs a
    dictionary entry, no lock: everything happens on the reactor's thread.
    """

    def __init__(
        self,
        *,
        active_identities: Callable[[], int],
        sessions: Callable[[], int],
        connections: Callable[[], int],
        children: Callable[[], Mapping[str, int]],
        registry: CollectorRegistry | None = None,
        max_series: int = MAX_SERIES,
    ) -> None:
        self._log = Logger()
        self._requests = _Series(max_series)
        self._request_seconds = _Spreads(max_series)
        self._request_pairs: dict[tuple[str, int], tuple[_Count, _Spread]] = {}
        self._auth = _Series(max_series)
        self._rate_limit = _Series(2)
        self._allowed = self._rate_limit.of(("true",))
        self._denied = self._rate_limit.of(("false",))
        self._upstream = _Series(max_series)
        self._upstream_seconds = _Spreads(max_series)
        self._upstream_pairs: dict[tuple[str, str, str], tuple[_Count, _Spread]] = {}
        self._sources: dict[str, Source] = {
            "mcp_guard_active_identities": active_identities,
            "mcp_guard_sessions": sessions,
            "mcp_guard_connections": connections,
            "mcp_guard_children": children,
        }
        self._further = {name: _Series(max_series) for name in FURTHER if name not in self._sources}
        for name, series in self._further.items():
            if not FURTHER[name].labels:
                series.of(())  # so that a rate exists before the first event
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(_Shown(self._collect))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request; a method the protocol table lacks counts as ``other``."""
        pair = self._request_pairs.get((method, status)) or self._request_pair(method, status)
        pair[0].number += 1
        pair[1].observe(seconds)

    def _request_pair(self, method: str, status: int) -> tuple[_Count, _Spread]:
        label = metric_label(method)
        code = str(status) if 100 <= status <= 599 else OTHER
        pair = self._requests.of((label, code)), self._request_seconds.of((label,))
        # Nothing is remembered by a word that the wire may have chosen.
        if label == method and code != OTHER and len(self._request_pairs) < self._requests.limit:
            self._request_pairs[method, status] = pair
        return pair

    def auth(self, provider: str, result: str) -> None:
        """Count one authentication: ``result`` is ``success`` or ``failure``."""
        self._auth.of((provider, result)).number += 1

    def rate_limit(self, allowed: bool) -> None:
        """Count one decision of a limiter."""
        (self._allowed if allowed else self._denied).number += 1

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Count one upstream request and its latency."""
        labels = (server, transport, result)
        pair = self._upstream_pairs.get(labels)
        if pair is None:
            pair = self._upstream.of(labels), self._upstream_seconds.of((server, transport))
            if len(self._upstream_pairs) < self._upstream.limit:
                self._upstream_pairs[labels] = pair
        pair[0].number += 1
        pair[1].observe(seconds)

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Count under one of the metrics declared in `FURTHER`.

        Raises `KeyError` for a name that is not declared there as a counter, `ValueError` for
        labels other than the declared ones and for an amount below zero.
        """
        series = self._further[name]
        declared = FURTHER[name]
        if labels.keys() != set(declared.labels):
            raise ValueError(f"{name} has the labels {declared.labels}, not {tuple(labels)}")
        if amount < 0:
            raise ValueError(f"{name} cannot go down")
        series.of(tuple(labels[label] for label in declared.labels)).number += amount

    def render(self) -> bytes:
        """Return everything in the text format of `CONTENT_TYPE`."""
        return expose(self.registry)

    def _collect(self) -> Iterator[Metric]:
        yield _counter(
            "mcp_guard_requests_total",
            "Requests answered, by MCP method and HTTP status.",
            ("method", "status"),
            self._requests,
        )
        yield _histogram(
            "mcp_guard_request_duration_seconds",
            "Time from a request's arrival to its outcome.",
            ("method",),
            self._request_seconds,
        )
        yield _counter(
            "mcp_guard_auth_total",
            "Authentications, by provider and result.",
            ("provider", "result"),
            self._auth,
        )
        yield _counter(
            "mcp_guard_rate_limit_total",
            "Rate limit decisions.",
            ("allowed",),
            self._rate_limit,
        )
        yield _counter(
            "mcp_guard_upstream_requests_total",
            "Requests sent to MCP servers, by result.",
            ("server", "transport", "result"),
            self._upstream,
        )
        yield _histogram(
            "mcp_guard_upstream_latency_seconds",
            "Time an MCP server took to answer.",
            ("server", "transport"),
            self._upstream_seconds,
        )
        for name, series in self._further.items():
            yield _counter(name, FURTHER[name].help, FURTHER[name].labels, series)
        for name, source in self._sources.items():
            yield self._gauge(name, source)
        build = GaugeMetricFamily(
            "mcp_guard_build_info", "The version that is running.", labels=("version",)
        )
        build.add_metric((__version__,), 1)
        yield build

    def _gauge(self, name: str, source: Source) -> Metric:
        family = GaugeMetricFamily(name, FURTHER[name].help, labels=FURTHER[name].labels)
        try:
            value = source()
        except Exception:
            # One broken gauge must not take the others off the page.
            self._log.failure("the value of {name} cannot be told", name=name)
            return family
        if isinstance(value, Mapping):
            for label, number in value.items():
                family.add_metric((label,), number)
        else:
            family.add_metric((), value)
        return family


def _counter(name: str, words: str, labels: tuple[str, ...], series: _Series) -> Metric:
    # The library puts the `_total` back on each sample.
    family = CounterMetricFamily(name.removesuffix("_total"), words, labels=labels)
    for values, count in series.values.items():
        family.add_metric(values, count.number)
    return family


def _histogram(name: str, words: str, labels: tuple[str, ...], spreads: _Spreads) -> Metric:
    family = HistogramMetricFamily(name, words, labels=labels)
    bounds = (*map(str, BUCKETS), "+Inf")
    for values, spread in spreads.values.items():
        buckets = list(zip(bounds, accumulate(spread.counts), strict=True))
        family.add_metric(values, buckets, spread.total)
    return family
