"""The composition root: settings in, a running service tree out. Alone knows every room.

`parent.WorkerParent` is imported from its module, by whoever has several processes to start.
"""

from mcpguard.gateway.processes import settle_down, worker_count
from mcpguard.gateway.service import Gateway
from mcpguard.gateway.upstreams import check_upstreams

__all__ = ["Gateway", "check_upstreams", "settle_down", "worker_count"]
