"""The metrics: plain numbers, shown to Prometheus when it asks (product: metrics)."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from attrs import define, field
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as expose
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from twisted.logger import Logger

from mcpguard import __version__
from mcpguard.observe.numbers import (
    DIGEST_BYTES,
    OTHER,
    Declared,
    Labels,
    Numbers,
    Spread,
    families,
)
from mcpguard.protocol.mcp import metric_label

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The exposition format that every Prometheus reads; our names need nothing newer."""

MAX_SERIES = 1000
"""Label combinations of one metric; whatever comes on top is counted under ``other``."""

MAX_DIGESTS = 10_000
"""Identities told apart over several processes; with more the number is a lower bound."""

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
    "mcp_guard_redis_calls_total": Declared(
        "counter", "Questions to Redis about limits, by what came of them.", ("result",)
    ),
    "mcp_guard_rate_limit_undecided_total": Declared(
        "counter",
        "Rate limit decisions made without who keeps the shared limit.",
        ("decided",),
    ),
    "mcp_guard_active_identities": Declared("gauge", "Identities seen lately.", merge="most"),
    "mcp_guard_sessions": Declared("gauge", "MCP sessions open now."),
    "mcp_guard_connections": Declared("gauge", "Client connections open now."),
    "mcp_guard_children": Declared("gauge", "Child processes running now.", ("server",)),
    "mcp_guard_redis_up": Declared("gauge", "Processes that share limits through Redis now."),
    "mcp_guard_jwks_fetches_total": Declared(
        "counter", "Times the identity provider was asked for its keys.", ("result",)
    ),
    "mcp_guard_jwks_keys": Declared(
        "gauge", "Keys of the identity provider that can be used now.", merge="least"
    ),
    "mcp_guard_jwks_age_seconds": Declared(
        "gauge", "Time since the identity provider last gave its keys.", merge="most"
    ),
    "mcp_guard_tls_handshakes_total": Declared(
        "counter", "TLS handshakes of clients, by how they ended.", ("result",)
    ),
    "mcp_guard_certificate_rotations_total": Declared(
        "counter", "Changed certificate files that were taken up, or not.", ("result",)
    ),
    "mcp_guard_certificate_expiry_timestamp_seconds": Declared(
        "gauge",
        "When the first certificate or revocation list of a listener ends.",
        ("listener", "kind"),
        merge="least",
    ),
    "mcp_guard_worker_crashes_total": Declared(
        "counter", "Worker processes that ended by themselves.", ("worker",)
    ),
    "mcp_guard_handovers_total": Declared(
        "counter", "Connections passed on to the worker of their session.", ("result",)
    ),
    "mcp_guard_worker_up": Declared(
        "gauge", "Whether a worker process has told its numbers just now.", ("worker",)
    ),
}
"""Counted by name through `Meter.count`, or shown by `Metrics.show`. Labels come from the
configuration or a fixed vocabulary only.
"""

DECLARED: Mapping[str, Declared] = {
    "mcp_guard_requests_total": Declared(
        "counter", "Requests answered, by MCP method and HTTP status.", ("method", "status")
    ),
    "mcp_guard_request_duration_seconds": Declared(
        "histogram", "Time from a request's arrival to its outcome.", ("method",)
    ),
    "mcp_guard_auth_total": Declared(
        "counter", "Authentications, by provider and result.", ("provider", "result")
    ),
    "mcp_guard_rate_limit_total": Declared("counter", "Rate limit decisions.", ("allowed",)),
    "mcp_guard_upstream_requests_total": Declared(
        "counter", "Requests sent to MCP servers, by result.", ("server", "transport", "result")
    ),
    "mcp_guard_upstream_latency_seconds": Declared(
        "histogram", "Time an MCP server took to answer.", ("server", "transport")
    ),
    **FURTHER,
    "mcp_guard_build_info": Declared(
        "gauge", "The version that is running.", ("version",), merge="most"
    ),
}
"""Every metric of ours, in the order of the page."""

Source = (
    Callable[[], float]
    | Callable[[], Mapping[str, int]]
    | Callable[[], Mapping[tuple[str, ...], float]]
)
"""Tells a gauge's value; for a gauge with labels, the values by label, or by all of them."""


@define(eq=False)
class _Count:
    """One number that goes up."""

    number: float = 0


@define(eq=False)
class _Series:
    """The numbers of one metric by label values, bounded in number."""

    limit: int
    values: dict[Labels, _Count] = field(factory=dict)

    def of(self, labels: Labels) -> _Count:
        count = self.values.get(labels)
        if count is None:
            if len(self.values) >= self.limit:
                labels = (OTHER,) * len(labels)
            count = self.values.setdefault(labels, _Count())
        return count


@define(eq=False)
class _Spreads:
    """The histograms of one metric by label values, bounded in number."""

    limit: int
    values: dict[Labels, Spread] = field(factory=dict)

    def of(self, labels: Labels) -> Spread:
        spread = self.values.get(labels)
        if spread is None:
            if len(self.values) >= self.limit:
                labels = (OTHER,) * len(labels)
            spread = self.values.setdefault(labels, Spread())
        return spread


class _Shown(Collector):
    """What the registry asks when it is scraped."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


class Metrics:
    """Counts, and shows what it has counted; implements `Meter`.

    The callables tell the gauges' values at the moment of a scrape; ``active_identities`` gives
    their keys, ``children`` the number of child processes by server. ``registry`` is a new one
    unless given. Counting costs a
    dictionary entry, no lock: everything happens on the reactor's thread.
    """

    def __init__(
        self,
        *,
        active_identities: Callable[[], Collection[str]],
        sessions: Callable[[], int],
        connections: Callable[[], int],
        children: Callable[[], Mapping[str, int]],
        registry: CollectorRegistry | None = None,
        max_series: int = MAX_SERIES,
    ) -> None:
        self._log = Logger()
        self._requests = _Series(max_series)
        self._request_seconds = _Spreads(max_series)
        self._request_pairs: dict[tuple[str, int], tuple[_Count, Spread]] = {}
        self._auth = _Series(max_series)
        self._rate_limit = _Series(2)
        self._allowed = self._rate_limit.of(("true",))
        self._denied = self._rate_limit.of(("false",))
        self._upstream = _Series(max_series)
        self._upstream_seconds = _Spreads(max_series)
        self._upstream_pairs: dict[tuple[str, str, str], tuple[_Count, Spread]] = {}
        self._identities = active_identities
        self._sources: dict[str, Source] = {
            "mcp_guard_active_identities": lambda: len(active_identities()),
            "mcp_guard_sessions": sessions,
            "mcp_guard_connections": connections,
            "mcp_guard_children": children,
            "mcp_guard_build_info": lambda: {__version__: 1},
        }
        self._more: dict[str, dict[str, Source]] = {}
        self._further = {
            name: _Series(max_series) for name, what in FURTHER.items() if what.kind == "counter"
        }
        for name, series in self._further.items():
            if not FURTHER[name].labels:
                series.of(())  # so that a rate exists before the first event
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(_Shown(lambda: families(self.numbers(), DECLARED)))
        self._process = ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request; a method the protocol table lacks counts as ``other``."""
        pair = self._request_pairs.get((method, status)) or self._request_pair(method, status)
        pair[0].number += 1
        pair[1].observe(seconds)

    def _request_pair(self, method: str, status: int) -> tuple[_Count, Spread]:
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

    def show(self, name: str, source: Source, *, part: str = "") -> None:
        """Have a gauge declared in `FURTHER` show what the callable tells at each scrape.

        Of a gauge with labels each ``part`` has a source of its own, with labels of its own.

        Raises `KeyError` for a name that is not declared there as a gauge.
        """
        if FURTHER[name].kind != "gauge":
            raise KeyError(name)
        if part:
            self._more.setdefault(name, {})[part] = source
        else:
            self._sources[name] = source

    def numbers(self, *, digests: bool = False) -> Numbers:
        """Return everything as it is now; with ``digests`` also whom `active_identities` counts."""
        counted = {
            "mcp_guard_requests_total": self._requests,
            "mcp_guard_auth_total": self._auth,
            "mcp_guard_rate_limit_total": self._rate_limit,
            "mcp_guard_upstream_requests_total": self._upstream,
            **self._further,
        }
        timed = {
            "mcp_guard_request_duration_seconds": self._request_seconds,
            "mcp_guard_upstream_latency_seconds": self._upstream_seconds,
        }
        gauges = {name: self._gauge(name, source) for name, source in self._sources.items()}
        for name, parts in self._more.items():
            for source in parts.values():
                gauges.setdefault(name, {}).update(self._gauge(name, source))
        process = [sample for family in self._process.collect() for sample in family.samples]
        return Numbers(
            counters={
                name: {labels: count.number for labels, count in series.values.items()}
                for name, series in counted.items()
            },
            spreads={
                name: {labels: spread.copy() for labels, spread in spreads.values.items()}
                for name, spreads in timed.items()
            },
            gauges=gauges,
            process={sample.name: sample.value for sample in process},
            identities=set(map(_digest, islice(self._identities(), MAX_DIGESTS)))
            if digests
            else set(),
        )

    def render(self) -> bytes:
        """Return everything in the text format of `CONTENT_TYPE`."""
        return expose(self.registry)

    def render_together(
        self, numbers: Numbers, processes: Mapping[str, Mapping[str, float]]
    ) -> bytes:
        """Return the numbers of several processes as one page, each one's own under its label."""
        registry = CollectorRegistry()
        registry.register(_Shown(lambda: families(numbers, DECLARED)))
        registry.register(_Shown(lambda: self._about(processes)))
        PlatformCollector(registry=registry)
        return expose(registry)

    def _about(self, processes: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
        for own in self._process.collect():
            family = Metric(own.name, own.documentation, own.type)
            for worker, values in processes.items():
                for name in {sample.name for sample in own.samples} & values.keys():
                    family.add_sample(name, {"worker": worker}, values[name])
            yield family

    def _gauge(self, name: str, source: Source) -> dict[Labels, float]:
        try:
            value = source()
        except Exception:
            # One broken gauge must not take the others off the page.
            self._log.failure("the value of {name} cannot be told", name=name)
            return {}
        if isinstance(value, Mapping):
            return {
                label if isinstance(label, tuple) else (label,): number
                for label, number in value.items()
            }
        return {(): value}


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()
