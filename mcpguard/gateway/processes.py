"""How many processes the gateway is, and what each of them does once it has started."""

import gc
import linecache
import os

from mcpguard.config.settings import Settings


def worker_count(settings: Settings) -> int:
    """How many processes serve; 1 is the gateway itself, without a parent."""
    workers = settings.server.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers


def settle_down() -> None:
    """Set what start-up has made apart from what requests make; for a process that serves.

    Hundreds of thousands of objects stay for good: a full garbage collection that looks at them
    was seen to take 0.1 s. The source lines of generated methods, 1 MiB, would only show in
    tracebacks; the space is used again by requests.
    """
    linecache.clearcache()
    gc.collect()
    gc.freeze()
