"""Tests of which limiter the gateway has."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings, RedisSettings, Secret
from mcpguard.errors import Refused
from mcpguard.gateway.limits import Limiting, serve_limits
from mcpguard.limits.leasing import LeasingLimiter
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.limits.places import MemoryPlaces
from mcpguard.limits.remote import RemotePlaces
from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.control import Control
from mcpguard.policy.buckets import Rate
from tests.limits.test_remote import BOUNDS, Workers
from tests.ops.workers.wires import Wires

RATE = Rate(0.001, 2)
WALL = 1_800_000_000.0


class LimitingTests(SynchronousTestCase):
    """By the configuration."""

    def setUp(self) -> None:
        """A reactor on which nothing connects by itself."""
        self.reactor = MemoryReactorClock()
        self.metrics = Metrics(
            active_identities=tuple, sessions=lambda: 0, connections=lambda: 0, children=dict
        )

    def limiting(self, control: Control | None = None, **redis: Any) -> Limiting:
        """Built, before some Redis or none."""
        settings = RateLimitSettings()
        if redis:
            url = Secret("redis://127.0.0.1:7000")
            settings = RateLimitSettings(redis=RedisSettings(url, **redis))
        limiting = Limiting(self.reactor, lambda: WALL, self.metrics)
        limiting.build(settings, control)
        return limiting

    def undecided(self, decided: str) -> float:
        """What the metric says."""
        numbers = self.metrics.numbers().counters["mcp_guard_rate_limit_undecided_total"]
        return numbers.get((decided,), 0)

    def stop(self, limiting: Limiting) -> None:
        """To the end."""
        self.successResultOf(Deferred.fromCoroutine(limiting.stop()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_memory(self) -> None:
        """Alone and without Redis it is the process's own memory: nothing ever waits."""
        limiting = self.limiting()
        self.assertIsInstance(limiting.limiter, MemoryLimiter)
        self.assertIsInstance(limiting.places, MemoryPlaces)
        limiting.start()
        self.assertEqual(limiting.readiness(), (True, ""))
        self.stop(limiting)

    def test_workers(self) -> None:
        """Workers share the parent's buckets."""
        workers = Workers()
        serve_limits(workers)
        found = []
        for _ in range(3):
            wires = Wires(self.reactor, BOUNDS)
            workers.came(wires)
            limiting = self.limiting(wires.worker)
            self.assertIsInstance(limiting.limiter, LeasingLimiter)
            self.assertIsInstance(limiting.places, RemotePlaces)
            taken = limiting.limiter.take("a", RATE)
            wires.pump()
            assert isinstance(taken, Deferred)
            found.append(self.successResultOf(taken).allowed)
            self.stop(limiting)
        self.assertEqual(found, [True, True, False])

    def test_parent_gone(self) -> None:
        """A worker that cannot ask lets nobody by."""
        wires = Wires(self.reactor, BOUNDS)
        limiting = self.limiting(wires.worker)
        wires.cut()
        taken = limiting.limiter.take("a", RATE)
        assert isinstance(taken, Deferred)
        self.failureResultOf(taken, Refused)
        self.assertEqual(self.undecided("deny"), 1)
        self.stop(limiting)

    def test_redis_away_local(self) -> None:
        """Own buckets decide, the gateway is ready, and it is counted."""
        limiting = self.limiting(on_error="local")
        limiting.start()
        found = []
        for _ in range(3):
            taken = limiting.limiter.take("a", RATE)
            assert isinstance(taken, Deferred)
            found.append(self.successResultOf(taken).allowed)
        self.assertEqual(found, [True, True, False])
        self.assertEqual(self.undecided("local"), 3)
        self.assertEqual(limiting.readiness(), (True, ""))
        self.assertIn(b"mcp_guard_redis_up 0.0", self.metrics.render())
        self.stop(limiting)

    def test_redis_away_deny(self) -> None:
        """Nobody is let by, and the gateway is not ready."""
        limiting = self.limiting(on_error="deny")
        limiting.start()
        for ask in (limiting.limiter.take, limiting.limiter.peek):
            asked = ask("a", RATE)
            assert isinstance(asked, Deferred)
            self.failureResultOf(asked, Refused)
        self.assertEqual(self.undecided("deny"), 2)
        self.assertEqual(limiting.readiness(), (False, "rate limits: Redis does not answer"))
        self.stop(limiting)

    def test_redis_away_from_workers(self) -> None:
        """With workers ``local`` is the parent's buckets, so that one limit is over all of them."""
        workers = Workers()
        serve_limits(workers)
        found = []
        for _ in range(3):
            wires = Wires(self.reactor, BOUNDS)
            workers.came(wires)
            limiting = self.limiting(wires.worker, on_error="local")
            taken = limiting.limiter.take("a", RATE)
            wires.pump()
            assert isinstance(taken, Deferred)
            found.append(self.successResultOf(taken).allowed)
            self.stop(limiting)
        self.assertEqual(found, [True, True, False])

    def test_timeout(self) -> None:
        """It is the configured one."""
        limiting = self.limiting(timeout_ms=125)
        self.assertEqual(limiting._redis.bounds.timeout_secs, 0.125)
