"""How many processes the gateway is."""

import os

from mcpguard.config.settings import Settings


def worker_count(settings: Settings) -> int:
    """How many processes serve; 1 is the gateway itself, without a parent."""
    workers = settings.server.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers
