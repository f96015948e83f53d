"""What was counted, as plain numbers: added up over processes, shown to Prometheus."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal

from attrs import define, field, frozen
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

Labels = tuple[str, ...]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histograms, in seconds."""

OTHER = "other"

DIGEST_BYTES = 8
"""Of an identity: enough to tell 10 000 of them apart."""


@frozen
class Declared:
    """One metric."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    merge: Literal["sum", "most", "least"] = "sum"
    """What a gauge of several processes is: their sum, the largest or the smallest."""


@define(eq=False)
class Spread:
    """One histogram: how many observations fell into each bucket, and their sum."""

    counts: list[int] = field(factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation; what is no time counts as zero."""
        if not seconds > 0:
            seconds = 0.0
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def copy(self) -> "Spread":
        """Return one that goes on by itself."""
        return Spread(self.counts.copy(), self.total)

    def add(self, other: "Spread") -> None:
        """Count what another has counted."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


@define(eq=False)
class Numbers:
    """The numbers of one process, or of several together."""

    counters: dict[str, dict[Labels, float]] = field(factory=dict)
    spreads: dict[str, dict[Labels, Spread]] = field(factory=dict)
    gauges: dict[str, dict[Labels, float]] = field(factory=dict)
    process: dict[str, float] = field(factory=dict)
    """What the library tells of the process itself; not added up."""
    identities: set[bytes] = field(factory=set)
    """Digests of identities seen lately, so that one seen by two processes counts once."""

    def pack(self) -> dict[str, Any]:
        """As plain data for the control channel."""
        return {
            "counters": {name: list(series.items()) for name, series in self.counters.items()},
            "spreads": {
                name: [(labels, spread.counts, spread.total) for labels, spread in series.items()]
                for name, series in self.spreads.items()
            },
            "gauges": {name: list(series.items()) for name, series in self.gauges.items()},
            "process": self.process,
            "identities": b"".join(self.identities),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any], declared: Mapping[str, Declared]) -> "Numbers":
        """From what `pack` gave, perhaps in a process of another version: metrics that are not
        declared here, or otherwise, are left out.

        Raises KeyError, TypeError or ValueError for what `pack` cannot have given.
        """
        digests = packed["identities"]
        if not isinstance(digests, bytes):
            raise TypeError("no digests")
        numbers = cls(
            counters=_unpacked(packed["counters"], _of_kind(declared, "counter")),
            gauges=_unpacked(packed["gauges"], _of_kind(declared, "gauge")),
            process={str(name): _number(value) for name, value in packed["process"].items()},
            identities={
                digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)
            },
        )
        for name, series in packed["spreads"].items():
            what = declared.get(name)
            if what is None or what.kind != "histogram":
                continue
            numbers.spreads[name] = {
                tuple(labels): Spread(list(map(int, counts)), _number(total))
                for labels, counts, total in series
                if len(labels) == len(what.labels) and len(counts) == len(BUCKETS) + 1
            }
        return numbers

    def add_counted(self, other: "Numbers", max_series: int) -> None:
        """Add what only goes up; beyond ``max_series`` of one metric under ``other``."""
        for name, series in other.counters.items():
            mine = self.counters.setdefault(name, {})
            for labels, number in series.items():
                labels = _bounded(labels, mine, max_series)
                mine[labels] = mine.get(labels, 0) + number
        for name, spreads in other.spreads.items():
            own = self.spreads.setdefault(name, {})
            for labels, spread in spreads.items():
                labels = _bounded(labels, own, max_series)
                held = own.get(labels)
                if held is None:
                    held = own[labels] = Spread()
                held.add(spread)

    def add_standing(self, other: "Numbers", declared: Mapping[str, Declared]) -> None:
        """Add what is now: gauges as they are declared, and identities."""
        for name, series in other.gauges.items():
            mine = self.gauges.setdefault(name, {})
            merge = declared[name].merge if name in declared else "sum"
            for labels, number in series.items():
                if labels not in mine:
                    mine[labels] = number
                elif merge == "sum":
                    mine[labels] += number
                else:
                    mine[labels] = (max if merge == "most" else min)(mine[labels], number)
        self.identities |= other.identities


def families(numbers: Numbers, declared: Mapping[str, Declared]) -> Iterator[Metric]:
    """Give each declared metric as the library shows it, in the order of the declarations."""
    bounds = (*map(str, BUCKETS), "+Inf")
    for name, what in declared.items():
        if what.kind == "counter":
            # The library puts the `_total` back on each sample.
            counter = CounterMetricFamily(
                name.removesuffix("_total"), what.help, labels=what.labels
            )
            for labels, number in numbers.counters.get(name, {}).items():
                counter.add_metric(labels, number)
            yield counter
        elif what.kind == "gauge":
            gauge = GaugeMetricFamily(name, what.help, labels=what.labels)
            for labels, number in numbers.gauges.get(name, {}).items():
                gauge.add_metric(labels, number)
            yield gauge
        else:
            histogram = HistogramMetricFamily(name, what.help, labels=what.labels)
            for labels, spread in numbers.spreads.get(name, {}).items():
                filled = list(zip(bounds, accumulate(spread.counts), strict=True))
                histogram.add_metric(labels, filled, spread.total)
            yield histogram


def _of_kind(declared: Mapping[str, Declared], kind: str) -> dict[str, Declared]:
    return {name: what for name, what in declared.items() if what.kind == kind}


def _unpacked(
    packed: Mapping[str, Any], declared: Mapping[str, Declared]
) -> dict[str, dict[Labels, float]]:
    return {
        name: {
            tuple(labels): _number(number)
            for labels, number in packed[name]
            if len(labels) == len(what.labels)
        }
        for name, what in declared.items()
        if name in packed
    }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    return value


def _bounded(labels: Labels, series: Mapping[Labels, object], most: int) -> Labels:
    return labels if labels in series or len(series) < most else (OTHER,) * len(labels)
