"""Tests of `mcpguard.observe.numbers`, and of pages made of several processes' numbers."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.metrics import DECLARED, MAX_DIGESTS, Metrics
from mcpguard.observe.numbers import OTHER, Numbers
from tests.observe.test_metrics import Samples, make, value

REQUESTS = "mcp_guard_requests_total"
SECONDS = "mcp_guard_request_duration_seconds"


def carried(numbers: Numbers) -> Numbers:
    """Return the numbers as they come out of the control channel."""
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(numbers.pack()))
    return Numbers.unpack(plain, DECLARED)


def together(*processes: Metrics, max_series: int = 1000) -> Samples:
    """Return what a scrape of all these processes sees."""
    whole = Numbers()
    for metrics in processes:
        numbers = carried(metrics.numbers(digests=True))
        whole.add_counted(numbers, max_series)
        whole.add_standing(numbers, DECLARED)
    return read_page(processes[0].render_together(whole, {}))


def read_page(page: bytes) -> Samples:
    """Return every sample of a page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


calls: st.SearchStrategy[Callable[[Metrics], None]] = st.one_of(
    st.builds(
        lambda method, status, seconds: lambda m: m.request(method, status, seconds),
        st.sampled_from(["tools/call", "ping", "evil"]),
        st.sampled_from([200, 404, 7]),
        st.integers(0, 40).map(lambda quarters: quarters / 4),
    ),
    st.builds(
        lambda server, result, seconds: lambda m: m.upstream(server, "http", result, seconds),
        st.sampled_from(["files", "git"]),
        st.sampled_from(["success", "timeout"]),
        st.integers(0, 40).map(lambda quarters: quarters / 4),
    ),
    st.builds(lambda provider: lambda m: m.auth(provider, "success"), st.sampled_from("ab")),
    st.builds(lambda allowed: lambda m: m.rate_limit(allowed), st.booleans()),
    st.builds(
        lambda amount: lambda m: m.count("mcp_guard_refusals_total", amount, reason="x"),
        st.integers(0, 9),
    ),
)


class MergeTests(SynchronousTestCase):
    """`Numbers`: those of several processes together."""

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, 2), calls), max_size=40))
    def test_as_if_it_were_one(self, steps: list[tuple[int, Callable[[Metrics], None]]]) -> None:
        """Whoever counts what, the page of all is that of one process that counted everything."""
        one, several = make(), [make(), make(), make()]
        for process, call in steps:
            call(one)
            call(several[process])
        alone, merged = read_page(one.render()), together(*several)
        counted = {key for key in alone if key[0].startswith("mcp_guard") and "_total" in key[0]}
        timed = {key for key in alone if "_seconds_" in key[0] and key[0].startswith("mcp_guard")}
        for key in counted | timed:
            self.assertEqual(merged[key], alone[key], key)
        self.assertEqual(
            {key[0] for key in merged if key[0].startswith("mcp_guard")},
            {key[0] for key in alone if key[0].startswith("mcp_guard")},
        )

    def test_gauges(self) -> None:
        """Gauges are added up, by label, and the version stays one."""
        samples = together(make(), make(children=lambda: {"files": 1, "git": 2}))
        self.assertEqual(value(samples, "mcp_guard_sessions"), 4)
        self.assertEqual(value(samples, "mcp_guard_connections"), 6)
        self.assertEqual(value(samples, "mcp_guard_children", {"server": "files"}), 5)
        self.assertEqual(value(samples, "mcp_guard_children", {"server": "git"}), 2)
        builds = [number for (name, _), number in samples.items() if name == "mcp_guard_build_info"]
        self.assertEqual(builds, [1])

    def test_most_and_least(self) -> None:
        """Of some gauges the worker that is worst off counts, and one that has none does not."""
        several = [make(), make(), make()]
        for metrics, keys, age in zip(several, (3, 0), (5.0, 7.0), strict=False):
            metrics.show("mcp_guard_jwks_keys", lambda keys=keys: keys)
            metrics.show("mcp_guard_jwks_age_seconds", lambda age=age: age)
        samples = together(*several)
        self.assertEqual(value(samples, "mcp_guard_jwks_keys"), 0)
        self.assertEqual(value(samples, "mcp_guard_jwks_age_seconds"), 7)

    def test_bound(self) -> None:
        """Different labels everywhere do not add up to more series than one process may have."""
        one, other = make(), make()
        for number in range(8):
            (one if number % 2 else other).upstream(f"s{number}", "http", "success", 1.0)
        samples = together(one, other, max_series=5)
        name, labels = "mcp_guard_upstream_requests_total", {"server": OTHER, "transport": OTHER}
        self.assertEqual(sum(1 for found, _ in samples if found == name), 6)
        self.assertEqual(value(samples, name, labels | {"result": OTHER}), 3)
        self.assertEqual(value(samples, "mcp_guard_upstream_latency_seconds_count", labels), 3)

    def test_numbers_stand_still(self) -> None:
        """What was taken down does not change while counting goes on."""
        metrics = make()
        metrics.request("ping", 200, 0.1)
        numbers = metrics.numbers()
        metrics.request("ping", 200, 0.1)
        self.assertEqual(numbers.counters[REQUESTS], {("ping", "200"): 1})
        self.assertEqual(sum(numbers.spreads[SECONDS][("ping",)].counts), 1)
        whole = Numbers()
        whole.add_counted(numbers, 10)
        whole.add_counted(numbers, 10)
        self.assertEqual(sum(numbers.spreads[SECONDS][("ping",)].counts), 1)

    def test_identities(self) -> None:
        """One who comes to two processes is one; the keys themselves are not handed on."""
        sizes = (("a", "b"), ("b", "c", "d"))
        several = [make(active_identities=lambda keys=keys: keys) for keys in sizes]
        whole = Numbers()
        for metrics in several:
            packed = metrics.numbers(digests=True).pack()
            self.assertEqual(len(packed["identities"]) % 8, 0)
            whole.add_standing(Numbers.unpack(packed, DECLARED), DECLARED)
        self.assertEqual(len(whole.identities), 4)
        self.assertEqual(several[0].numbers().identities, set())

    def test_many_identities(self) -> None:
        """Only so many digests are made; the count itself is exact."""
        keys = [str(number) for number in range(MAX_DIGESTS + 5)]
        numbers = make(active_identities=lambda: keys).numbers(digests=True)
        self.assertEqual(len(numbers.identities), MAX_DIGESTS)
        self.assertEqual(numbers.gauges["mcp_guard_active_identities"], {(): MAX_DIGESTS + 5})

    def test_processes(self) -> None:
        """What the library tells of a process stands under its label, for each one."""
        metrics = make()
        own = metrics.numbers().process
        page = metrics.render_together(
            Numbers(), {"1": own, "2": {"process_open_fds": 7.0, "of another version": 1.0}}
        )
        samples = read_page(page)
        self.assertEqual(value(samples, "process_open_fds", {"worker": "2"}), 7)
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
            self.assertEqual(value(samples, name, {"worker": "1"}), own[name], name)
            self.assertIsNone(value(samples, name, {"worker": "2"}))
        self.assertEqual(sum(1 for name, _ in samples if name == "python_info"), 1)


class PackTests(SynchronousTestCase):
    """`Numbers.pack` and `Numbers.unpack`: over the control channel."""

    def test_there_and_back(self) -> None:
        """Nothing changes on the way."""
        metrics = make()
        metrics.request("ping", 200, 0.1)
        metrics.count("mcp_guard_refusals_total", reason="x")
        numbers = metrics.numbers(digests=True)
        self.assertEqual(carried(numbers).pack(), numbers.pack())

    def test_another_version(self) -> None:
        """Metrics that this process does not know, or knows otherwise, are left out."""
        packed: dict[str, Any] = {
            "counters": {
                REQUESTS: [(("ping", "200"), 3), (("ping",), 4)],
                "mcp_guard_novelties_total": [((), 5)],
                "mcp_guard_sessions": [((), 5)],
            },
            "spreads": {SECONDS: [(("ping",), [1, 2], 3.0)]},
            "gauges": {},
            "process": {},
            "identities": b"",
        }
        numbers = Numbers.unpack(packed, DECLARED)
        self.assertEqual(numbers.counters[REQUESTS], {("ping", "200"): 3})
        self.assertNotIn("mcp_guard_novelties_total", numbers.counters)
        self.assertNotIn("mcp_guard_sessions", numbers.counters)
        self.assertEqual(numbers.spreads[SECONDS], {})

    def test_nonsense(self) -> None:
        """What are no numbers raises."""
        good = make().numbers().pack()
        for change in (
            {"counters": {REQUESTS: [(("ping", "200"), "many")]}},
            {"counters": {REQUESTS: [(("ping", "200"), True)]}},
            {"process": {"process_open_fds": None}},
            {"identities": "abc"},
            {"gauges": None},
        ):
            with self.assertRaises((KeyError, TypeError, ValueError, AttributeError)):
                Numbers.unpack(good | change, DECLARED)
        with self.assertRaises(KeyError):
            Numbers.unpack({}, DECLARED)


class ShowTests(SynchronousTestCase):
    """`Metrics.show`: gauges that others declare."""

    def test_shown(self) -> None:
        """The value is asked for at each scrape."""
        metrics = make()
        states = {"1": 1}
        metrics.show("mcp_guard_worker_up", lambda: states)
        labels = {"worker": "1"}
        self.assertEqual(value(read_page(metrics.render()), "mcp_guard_worker_up", labels), 1)
        states["1"] = 0
        self.assertEqual(value(read_page(metrics.render()), "mcp_guard_worker_up", labels), 0)

    def test_undeclared(self) -> None:
        """Neither a counter nor an unknown name can be shown."""
        for name in ("mcp_guard_surprise", "mcp_guard_refusals_total"):
            with self.assertRaises(KeyError):
                make().show(name, lambda: 1)
