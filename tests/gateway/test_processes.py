"""How many processes there are, and how each of them settles down."""

import gc
import linecache
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import ServerSettings, Settings, UpstreamSettings
from mcpguard.gateway.processes import settle_down, worker_count

HTTP = UpstreamSettings(transport="http", url="http://127.0.0.1:9/mcp")


class OfProcesses(SynchronousTestCase):
    """`worker_count` and `settle_down`."""

    def test_count(self) -> None:
        """As many as are configured, or one for each processor it may use."""
        for workers, expected in ((1, 1), (3, 3), ("auto", len(os.sched_getaffinity(0)))):
            server: Any = ServerSettings(workers=workers)  # type: ignore[arg-type]
            self.assertEqual(worker_count(Settings(upstreams=(HTTP,), server=server)), expected)

    def test_settled(self) -> None:
        """What is there is out of the collector's sight, garbage is gone; what comes is seen."""
        self.addCleanup(gc.unfreeze)
        kept: list[Any] = [[]]
        garbage: list[Any] = []
        garbage.append(garbage)
        linecache.getlines(__file__)
        settle_down()
        self.assertGreater(gc.get_freeze_count(), 0)
        self.assertFalse(any(one is kept for one in gc.get_objects()))
        self.assertEqual(linecache.cache, {})
        new: list[Any] = []
        new.append(new)
        del new, garbage
        self.assertGreater(gc.collect(), 0)
