"""Tests of `mcpguard.observe.metrics`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

import mcpguard
from mcpguard import __version__
from mcpguard.observe.events import Meter
from mcpguard.observe.metrics import CONTENT_TYPE, FURTHER, Metrics
from mcpguard.observe.numbers import BUCKETS, OTHER

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def make(**changes: Any) -> Metrics:
    """Return metrics whose gauges stand at 1, 2, 3 and {files: 4}."""
    sources: dict[str, Any] = {
        "active_identities": lambda: ("api_key:alice",),
        "sessions": lambda: 2,
        "connections": lambda: 3,
        "children": lambda: {"files": 4},
    }
    return Metrics(**(sources | changes))


def read(metrics: Metrics) -> Samples:
    """Return every sample that a scrape sees."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    """Return one sample, None if there is none."""
    return samples.get((name, frozenset((labels or {}).items())))


class MeterTests(SynchronousTestCase):
    """`Metrics` as the `Meter` the rooms know."""

    def test_is_a_meter(self) -> None:
        """It is what the rooms want."""
        meter: Meter = make()
        self.assertIsInstance(meter, Metrics)

    def test_requests(self) -> None:
        """Requests are counted by method and status, and timed by method."""
        metrics = make()
        metrics.request("tools/call", 200, 0.003)
        metrics.request("tools/call", 200, 0.03)
        metrics.request("tools/call", 403, 99.0)
        samples = read(metrics)
        name = "mcp_guard_requests_total"
        self.assertEqual(value(samples, name, {"method": "tools/call", "status": "200"}), 2)
        self.assertEqual(value(samples, name, {"method": "tools/call", "status": "403"}), 1)
        name = "mcp_guard_request_duration_seconds"
        labels = {"method": "tools/call"}
        self.assertEqual(value(samples, f"{name}_count", labels), 3)
        self.assertAlmostEqual(value(samples, f"{name}_sum", labels) or 0, 99.033)
        for le, count in (("0.0025", 0), ("0.005", 1), ("0.025", 1), ("10.0", 2), ("+Inf", 3)):
            self.assertEqual(value(samples, f"{name}_bucket", labels | {"le": le}), count, le)

    def test_bucket_border(self) -> None:
        """A time that equals a bucket's bound is inside it; one below zero counts as zero."""
        metrics = make()
        metrics.request("ping", 200, BUCKETS[0])
        metrics.request("ping", 200, -1.0)
        metrics.request("ping", 200, float("nan"))
        samples = read(metrics)
        name = "mcp_guard_request_duration_seconds"
        self.assertEqual(value(samples, f"{name}_bucket", {"method": "ping", "le": "0.001"}), 3)
        self.assertAlmostEqual(value(samples, f"{name}_sum", {"method": "ping"}) or 0, 0.001)

    def test_labels_from_the_wire(self) -> None:
        """A method nobody knows, or a status that is none, cannot make a series of its own."""
        metrics = make()
        for number in range(50):
            metrics.request(f"evil/{number}", 200, 0.1)
        metrics.request("ping", 99999, 0.1)
        samples = read(metrics)
        name = "mcp_guard_requests_total"
        self.assertEqual(value(samples, name, {"method": OTHER, "status": "200"}), 50)
        self.assertEqual(value(samples, name, {"method": "ping", "status": OTHER}), 1)
        self.assertEqual(sum(1 for n, _ in samples if n == name), 2)

    def test_auth(self) -> None:
        """Authentications are counted by provider and result."""
        metrics = make()
        metrics.auth("api_key", "success")
        metrics.auth("none", "failure")
        samples = read(metrics)
        name = "mcp_guard_auth_total"
        self.assertEqual(value(samples, name, {"provider": "api_key", "result": "success"}), 1)
        self.assertEqual(value(samples, name, {"provider": "none", "result": "failure"}), 1)

    def test_rate_limit(self) -> None:
        """Decisions are counted, and both series exist from the start."""
        metrics = make()
        metrics.rate_limit(False)
        samples = read(metrics)
        name = "mcp_guard_rate_limit_total"
        self.assertEqual(value(samples, name, {"allowed": "true"}), 0)
        self.assertEqual(value(samples, name, {"allowed": "false"}), 1)

    def test_upstream(self) -> None:
        """Upstream requests are counted by result, and timed without it."""
        metrics = make()
        metrics.upstream("files", "stdio", "success", 0.2)
        metrics.upstream("files", "stdio", "timeout", 60.0)
        samples = read(metrics)
        labels = {"server": "files", "transport": "stdio"}
        name = "mcp_guard_upstream_requests_total"
        self.assertEqual(value(samples, name, labels | {"result": "success"}), 1)
        self.assertEqual(value(samples, name, labels | {"result": "timeout"}), 1)
        self.assertEqual(value(samples, "mcp_guard_upstream_latency_seconds_count", labels), 2)

    def test_bound(self) -> None:
        """No metric has more series than the bound, whoever chose the labels."""
        metrics = make(max_series=3)
        for number in range(20):
            metrics.upstream(f"s{number}", "stdio", "success", 0.1)
            metrics.count("mcp_guard_refusals_total", reason=f"r{number}")
        samples = read(metrics)
        labels = {"server": OTHER, "transport": OTHER}
        self.assertEqual(value(samples, "mcp_guard_upstream_latency_seconds_count", labels), 17)
        name = "mcp_guard_upstream_requests_total"
        self.assertEqual(value(samples, name, labels | {"result": OTHER}), 17)
        self.assertEqual(value(samples, "mcp_guard_refusals_total", {"reason": OTHER}), 17)
        self.assertEqual(sum(1 for n, _ in samples if n == name), 4)


class CountTests(SynchronousTestCase):
    """`Metrics.count`: the declared further metrics."""

    def test_declared_counters(self) -> None:
        """Each declared counter counts under its name and labels."""
        for name, declared in FURTHER.items():
            if declared.kind == "counter":
                metrics = make()
                labels = {label: f"some {label}" for label in declared.labels}
                metrics.count(name, 1, **labels)
                metrics.count(name, 4, **labels)
                self.assertEqual(value(read(metrics), name, labels), 5, name)

    def test_zero_from_the_start(self) -> None:
        """A counter without labels is on the page before it has counted."""
        self.assertEqual(value(read(make()), "mcp_guard_audit_dropped_total"), 0)

    def test_programming_errors(self) -> None:
        """A name, label or amount that cannot be right raises."""
        metrics = make()
        with self.assertRaises(KeyError):
            metrics.count("mcp_guard_surprises_total")
        with self.assertRaises(KeyError):
            metrics.count("mcp_guard_sessions")
        with self.assertRaises(ValueError):
            metrics.count("mcp_guard_refusals_total")
        with self.assertRaises(ValueError):
            metrics.count("mcp_guard_audit_dropped_total", reason="x")
        with self.assertRaises(ValueError):
            metrics.count("mcp_guard_audit_dropped_total", -1)

    def test_gauges(self) -> None:
        """Gauges show what their callables say at that moment."""
        sessions = [5]
        metrics = make(sessions=lambda: sessions[0])
        samples = read(metrics)
        self.assertEqual(value(samples, "mcp_guard_active_identities"), 1)
        self.assertEqual(value(samples, "mcp_guard_sessions"), 5)
        self.assertEqual(value(samples, "mcp_guard_connections"), 3)
        self.assertEqual(value(samples, "mcp_guard_children", {"server": "files"}), 4)
        sessions[0] = 6
        self.assertEqual(value(read(metrics), "mcp_guard_sessions"), 6)

    def test_broken_gauge(self) -> None:
        """A callable that raises is logged and takes only its own metric off the page."""
        samples = read(make(sessions=lambda: 1 // 0))
        self.assertIsNone(value(samples, "mcp_guard_sessions"))
        self.assertEqual(value(samples, "mcp_guard_connections"), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class RenderTests(SynchronousTestCase):
    """`Metrics.render`: the page."""

    def test_names(self) -> None:
        """Every metric of the product reference is there, typed; nothing else under our name."""
        metrics = make()
        metrics.request("ping", 200, 0.1)
        metrics.upstream("files", "stdio", "success", 0.1)
        types = dict(re.findall(r"# TYPE (mcp_guard\S+) (\S+)", metrics.render().decode()))
        self.assertEqual(
            types,
            {
                "mcp_guard_requests_total": "counter",
                "mcp_guard_request_duration_seconds": "histogram",
                "mcp_guard_auth_total": "counter",
                "mcp_guard_rate_limit_total": "counter",
                "mcp_guard_upstream_requests_total": "counter",
                "mcp_guard_upstream_latency_seconds": "histogram",
                "mcp_guard_build_info": "gauge",
            }
            | {name: declared.kind for name, declared in FURTHER.items()},
        )

    def test_names_in_the_code(self) -> None:
        """Every metric the package names anywhere is one that exists."""
        metrics = make()
        metrics.request("ping", 200, 0.1)
        known = set(re.findall(r"# TYPE (mcp_guard_\S+)", metrics.render().decode()))
        package = Path(mcpguard.__file__).parent
        for path in package.rglob("*.py"):
            for name in re.findall(r'"(mcp_guard_\w+)"', path.read_text(encoding="utf-8")):
                self.assertIn(name, known, path.name)

    def test_naming_rules(self) -> None:
        """Counters end in ``_total``, gauges do not."""
        for name, declared in FURTHER.items():
            self.assertEqual(name.endswith("_total"), declared.kind == "counter", name)

    def test_about_the_process(self) -> None:
        """Memory, descriptors and versions are on the page."""
        samples = read(make())
        self.assertGreater(value(samples, "process_resident_memory_bytes") or 0, 1_000_000)
        self.assertGreater(value(samples, "process_open_fds") or 0, 2)
        self.assertEqual(value(samples, "mcp_guard_build_info", {"version": __version__}), 1)
        self.assertTrue(any(name == "python_info" for name, _ in samples))

    def test_awkward_labels(self) -> None:
        """A label with quotes and line breaks cannot forge a line of the page."""
        metrics = make()
        metrics.auth('x"} 5\nforged_total{a="', "success")
        samples = read(metrics)
        self.assertFalse(any(name.startswith("forged") for name, _ in samples))

    def test_two_do_not_share(self) -> None:
        """Two gateways in one process count apart, also with registries of their own."""
        one, two = make(), make(registry=CollectorRegistry())
        one.rate_limit(True)
        name = "mcp_guard_rate_limit_total"
        self.assertEqual(value(read(one), name, {"allowed": "true"}), 1)
        self.assertEqual(value(read(two), name, {"allowed": "true"}), 0)

    def test_content_type(self) -> None:
        """The page is announced as the format it has."""
        self.assertIn("version=0.0.4", CONTENT_TYPE)
