"""Clients of every SDK before several workers: what they can do is what they can before one.

Those of HTTP+SSE have tests of their own here, and those of both eras speak one of the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.live import test_bridge_stateless, test_isolation, test_matrix, test_sse_clients
from tests.live.gateway_process import GatewayCase, RunningGateway

WORKERS = 2


class SharedCase(GatewayCase):
    """A gateway of several workers, whatever the test does with it."""

    async def start_gateway(
        self,
        servers: Sequence[Mapping[str, Any]],
        *,
        server: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> RunningGateway:
        """See `GatewayCase`."""
        for one in servers:
            if one["name"] == "stdio-2026":
                # Every worker has one of its own; what a client of the matrix does with it is
                # seen only by who has the same.
                one["isolation"] = "per_principal"  # type: ignore[index]
        shared = {"workers": WORKERS, **(server or {})}
        return await super().start_gateway(servers, server=shared, **more)


class HandshakeRow(SharedCase, test_matrix.HandshakeClientTests):
    """Clients that shake hands."""


class StatelessRow(SharedCase, test_matrix.StatelessClientTests):
    """Clients of the stateless era."""


class IsolationTests(SharedCase, test_isolation.IsolationTests):
    """Many callers at once, each with its own answers."""

    children = WORKERS


class SseTests(SharedCase, test_sse_clients.SdkClientTests):
    """Every feature over HTTP+SSE."""

    async def no_child_but(self, gateway: RunningGateway, staying: int) -> None:
        """As many for each worker."""
        await super().no_child_but(gateway, staying * WORKERS)


class ParkingTests(SharedCase, test_bridge_stateless.StatelessFaultTests):
    """Calls that wait for their client's next round."""
