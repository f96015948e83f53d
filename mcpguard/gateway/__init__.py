"""The composition root: settings in, a running service tree out. Alone knows every room."""

from mcpguard.gateway.parent import WorkerParent, worker_count
from mcpguard.gateway.service import Gateway
from mcpguard.gateway.upstreams import check_upstreams

__all__ = ["Gateway", "WorkerParent", "check_upstreams", "worker_count"]
