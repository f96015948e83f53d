"""Clients of HTTP+SSE (2024-11-05) through the gateway, in the SDKs of today."""

from tests.live.clients_case import (
    NEWEST_HANDSHAKE,
    ClientCase,
    npm_client,
    python_client,
)


class OneTests(ClientCase):
    """``sse_client`` of PyPI ``mcp`` 1.x."""

    transport = "sse"

    def client(self) -> list[str]:
        """The driver over 1.x."""
        return python_client(1)

    async def test_both_eras(self) -> None:
        """Servers of both eras serve it the old one, and every feature works."""
        await self.walk_through(*await self.both_eras(), NEWEST_HANDSHAKE)
