"""Clients of every SDK before several workers: what they can do is what they can before one.

Each generation of each SDK is one client here, in one era or transport. Calls that wait for their
client's next round have a test in `tests.live.test_worker_sessions`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.live.gateway_process import GatewayCase, RunningGateway
from tests.live.matrix import COLUMNS, ROWS, Row, Speaker
from tests.live.test_isolation import IsolationCase
from tests.live.test_matrix import IDENTITIES, MatrixCase

WORKERS = 2
CLIENTS = (
    ("2024", "python_v1"),
    ("2025", "npm_sdk"),
    ("2026", "python_v2"),
    ("2026", "npm_client"),
)
"""Rows of the matrix, and who speaks for them."""
SERVERS = ("http-2025", "stdio-2025", "stdio-2026")
"""Its columns in which a worker has something of its own: sessions that others can take up, and
children.
"""


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


class MatrixTests(SharedCase, MatrixCase):
    """Clients of all generations at once, before servers of either."""

    columns = tuple(one for one in COLUMNS if one.key in SERVERS)

    async def test_every_generation(self) -> None:
        """Each gets what the matrix says and nothing that is another's, and leaves no session."""
        gateway = await self.walk_through([speaker(row, driver) for row, driver in CLIENTS])
        # What stateless clients have is theirs beyond their end, without their knowing.
        leavers = {
            identity
            for (row, _), identity in zip(CLIENTS, IDENTITIES, strict=False)
            if row != "2026"
        }

        def open_sessions() -> int:
            kinds = [
                event["event_type"]
                for event in gateway.events()
                if event.get("identity_id") in leavers
            ]
            self.assertIn("SessionStarted", kinds)
            return kinds.count("SessionStarted") - kinds.count("SessionEnded")

        await self.until(lambda: open_sessions() == 0, 20, "every session has ended")


class IsolationTests(SharedCase, IsolationCase):
    """Many callers at once, each with its own answers."""

    children = WORKERS

    async def test_types_of_ids(self) -> None:
        """No answer reaches another caller, whichever worker's child it is from."""
        await self.crowd(await self.before("modern"), "modern", [1, "1"])


def speaker(key: str, driver: str) -> tuple[Row, Speaker]:
    """Who speaks for a row."""
    (row,) = (one for one in ROWS if one.key == key)
    (one,) = (one for one in row.speakers if one.driver == driver)
    return row, one
