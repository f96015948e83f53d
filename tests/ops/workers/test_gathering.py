"""Tests of `mcpguard.ops.workers.gathering`."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.control import ControlFailed, Peers
from mcpguard.ops.workers.gathering import NUMBERS, Gathering, GatheringBounds, Reporting
from tests.observe.test_metrics import Samples, make, value
from tests.observe.test_numbers import read_page
from tests.ops.workers.company import Company

BOUNDS = GatheringBounds(ask_secs=2.0, page_secs=5.0, every_secs=5.0)
REQUESTS = "mcp_guard_requests_total"
PING = {"method": "ping", "status": "200"}


class GatheringCase(SynchronousTestCase):
    """A parent that gathers from two workers."""

    def setUp(self) -> None:
        """Two workers with metrics of their own."""
        self.clock = Clock()
        self.company = Company(self.clock)
        peers: Peers = self.company
        parents_own: dict[str, Any] = {"sessions": lambda: 0, "active_identities": tuple}
        self.own = make(**parents_own)
        self.gathering = Gathering(peers, self.own, 2, self.clock, BOUNDS)
        self.gathering.start()
        self.addCleanup(self.gathering.stop)
        self.reports: dict[int, Reporting] = {}
        self.metrics: dict[int, Metrics] = {}
        self.hire(1, 1)
        self.hire(2, 2)

    def hire(self, number: int, life: int, **changes: Any) -> Metrics:
        """Add a worker; gives its metrics."""
        metrics = self.metrics[life] = make(**changes)
        control = self.company.hire(number, life).worker
        self.reports[life] = Reporting(control, metrics, BOUNDS)
        self.reports[life].begin()
        return metrics

    def page(self, life: int = 1) -> Samples:
        """Return what a scrape of this worker sees."""
        page = self.reports[life].page()
        self.company.pump()
        return read_page(self.successResultOf(page))

    def ping(self, life: int, times: int = 1) -> None:
        """Have a worker count requests."""
        for _ in range(times):
            self.metrics[life].request("ping", 200, 0.25)


class PageTests(GatheringCase):
    """`Gathering.page`: every worker shows the numbers of all."""

    def test_any_worker_shows_all(self) -> None:
        """Counters of all processes are added up, the parent's too, whoever is asked."""
        self.ping(1, 3)
        self.ping(2, 4)
        self.own.count("mcp_guard_audit_dropped_total", 5)
        for life in (1, 2):
            samples = self.page(life)
            self.assertEqual(value(samples, REQUESTS, PING), 7)
            self.assertEqual(value(samples, "mcp_guard_audit_dropped_total"), 5)
            self.assertEqual(value(samples, "mcp_guard_sessions"), 4)
            for number in ("1", "2"):
                self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": number}), 1)
            for worker in ("parent", "1", "2"):
                self.assertIsNotNone(value(samples, "process_open_fds", {"worker": worker}))

    def test_identities(self) -> None:
        """One who comes to both workers is one identity; so many that only some are told apart
        are at least as many as one worker has seen.
        """
        self.assertEqual(value(self.page(), "mcp_guard_active_identities"), 1)
        self.hire(1, 3, active_identities=lambda: ("api_key:bob", "api_key:alice"))
        self.assertEqual(value(self.page(), "mcp_guard_active_identities"), 2)
        many = [str(number) for number in range(12_000)]
        self.hire(2, 4, active_identities=lambda: many)
        self.assertEqual(value(self.page(), "mcp_guard_active_identities"), 12_000)

    def test_a_worker_that_hangs(self) -> None:
        """It counts with what it told last, is shown as not up, and holds nobody up for long."""
        self.ping(1)
        self.ping(2)
        self.page()
        self.ping(1)
        self.ping(2)
        self.company.deaf.add(2)
        page = self.reports[1].page()
        self.company.pump()
        self.assertNoResult(page)
        self.clock.advance(BOUNDS.ask_secs)
        self.company.pump()
        samples = read_page(self.successResultOf(page))
        self.assertEqual(value(samples, REQUESTS, PING), 3)
        self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": "1"}), 1)
        self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": "2"}), 0)
        self.assertEqual(value(samples, "mcp_guard_sessions"), 2)
        self.assertIsNone(value(samples, "process_open_fds", {"worker": "2"}))

    def test_a_worker_that_talks_nonsense(self) -> None:
        """It is logged, and treated like one that does not answer."""
        self.ping(1)
        self.company.wires[2].worker.register(NUMBERS, lambda _: {"counters": 5})
        samples = self.page()
        self.assertEqual(value(samples, REQUESTS, PING), 1)
        self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": "2"}), 0)
        self.assertEqual(len(self.flushLoggedErrors(KeyError, TypeError, AttributeError)), 1)

    def test_no_worker(self) -> None:
        """A place where nobody is has a series all the same."""
        self.company.dismiss(2)
        samples = self.page()
        self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": "2"}), 0)

    def test_asked_by_all_at_once(self) -> None:
        """Pages asked for while one is made are that page: the workers are asked once."""
        asked: list[object] = []
        metrics = self.metrics[2]

        def tell(how: object) -> dict[str, Any]:
            asked.append(how)
            return metrics.numbers().pack()

        self.company.wires[2].worker.register(NUMBERS, tell)
        pages: list[Deferred[bytes]] = [self.reports[1].page() for _ in range(5)]
        self.company.pump()
        first, *others = map(self.successResultOf, pages)
        self.assertEqual(others, [first] * 4)
        self.assertEqual(len(asked), 1)
        self.page()
        self.assertEqual(len(asked), 2)

    def test_without_the_parent(self) -> None:
        """A worker whose parent does not answer has no page, rather than one that goes down."""
        self.company.deaf.add(1)
        page = self.reports[1].page()
        self.clock.advance(BOUNDS.page_secs)
        self.failureResultOf(page, ControlFailed)


class EndTests(GatheringCase):
    """What a worker that has ended had counted stays."""

    def test_never_down(self) -> None:
        """A worker that was killed counts with what it told last, and its successor on top."""
        self.ping(2, 4)
        self.assertEqual(value(self.page(), REQUESTS, PING), 4)
        self.ping(2, 100)
        self.company.dismiss(2)
        self.assertEqual(value(self.page(), REQUESTS, PING), 4)
        self.hire(2, 3)
        self.ping(3)
        samples = self.page()
        self.assertEqual(value(samples, REQUESTS, PING), 5)
        labels = {"method": "ping"}
        self.assertEqual(value(samples, "mcp_guard_request_duration_seconds_count", labels), 5)
        self.assertEqual(value(samples, "mcp_guard_sessions"), 4)

    def test_asked_from_time_to_time(self) -> None:
        """Without any scrape at most the last few seconds of a killed worker are lost."""
        self.ping(2, 4)
        self.clock.advance(BOUNDS.every_secs)
        self.company.pump()
        self.company.dismiss(2)
        self.assertEqual(value(self.page(), REQUESTS, PING), 4)

    def test_an_orderly_end(self) -> None:
        """A worker that is replaced tells its numbers a last time, so that none are lost."""
        self.ping(2, 4)
        told = self.reports[2].end()
        self.company.pump()
        self.successResultOf(told)
        self.company.dismiss(2)
        self.assertEqual(value(self.page(), REQUESTS, PING), 4)

    def test_an_end_without_the_parent(self) -> None:
        """A worker whose parent is gone ends without having told."""
        told = self.reports[2].end()
        self.company.wires[2].cut()
        self.successResultOf(told)

    def test_two_in_one_place(self) -> None:
        """While one drains and its successor serves, both count."""
        self.ping(2)
        self.hire(2, 3)
        self.ping(3)
        samples = self.page()
        self.assertEqual(value(samples, REQUESTS, PING), 2)
        self.assertEqual(value(samples, "mcp_guard_sessions"), 6)
        self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": "2"}), 1)

    def test_gone_while_asked(self) -> None:
        """A worker that ends while its numbers are asked for counts once."""
        self.ping(2)
        self.page()
        self.company.deaf.add(2)
        page = self.reports[1].page()
        self.company.pump()
        self.company.dismiss(2)
        self.company.pump()
        samples = read_page(self.successResultOf(page))
        self.assertEqual(value(samples, REQUESTS, PING), 1)
        self.assertEqual(value(samples, "mcp_guard_worker_up", {"worker": "2"}), 0)

    def test_stopped(self) -> None:
        """After a stop nobody is asked any more."""
        self.gathering.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
