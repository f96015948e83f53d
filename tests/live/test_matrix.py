"""Every cell of the matrix in ``docs/compatibility.md``: SDKs' clients, SDKs' servers, the gateway
between them, and two identities at a time whose words may not meet.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import evolve, frozen

from tests.live.clients_case import npm_client, python_client
from tests.live.gateway_process import GatewayCase, RunningGateway
from tests.live.matrix import COLUMNS, ROWS, Column, Gap, Row, Speaker, gaps
from tests.live.matrix_servers import matrix_servers, server_name
from tests.live.python_scenario import python
from tests.live.scenarios import Scenario, Step
from tests.live.software import node_modules

IDENTITIES = ("amber", "cobalt", "indigo", "ochre")
"""One for each client of a test; also the word in all that it sends."""
CROWD = 3
GONE_SECS = 3.0
"""How long a feature that a cell lacks is waited for."""


@frozen
class Walk:
    """One client of an SDK on its way through all servers, as one identity."""

    row: Row
    speaker: Speaker
    identity: str
    planned: dict[str, Scenario]
    """By server, the gaps of the cells in place of what they lack."""


class MatrixCase(GatewayCase):
    """Clients of the matrix before its servers."""

    timeout = 180
    columns: ClassVar[Sequence[Column]] = COLUMNS

    async def walk_through(self, speakers: Sequence[tuple[Row, Speaker]]) -> RunningGateway:
        """Do it all side by side; fails with everything that was not as expected."""
        keys = {one.key for one in self.columns}
        gateway = await self.start_gateway(
            [one for one in await matrix_servers(self) if one["name"] in keys],
            identities={name: {} for name in IDENTITIES},
        )
        walks = [
            Walk(
                row,
                speaker,
                identity,
                {one.key: self.planned(row, one.key, identity, number) for one in self.columns},
            )
            # There may be more identities than clients.
            for number, ((row, speaker), identity) in enumerate(
                zip(speakers, IDENTITIES, strict=False)
            )
        ]
        clients = [self.begin(gateway, walk) for walk in walks]
        found: list[str] = []
        for walk, client in zip(walks, clients, strict=True):
            reports = await self.finished(client, seconds=90)
            self.assertEqual(set(reports), set(walk.planned), client.story())
            for name, scenario in walk.planned.items():
                mine = scenario.complaints(
                    reports[name], walk.row.version, named=walk.speaker.named
                )
                mine += foreign(reports[name], walk.identity)
                found += [f"{walk.speaker.driver} {name}: {one}" for one in mine]
        for event in gateway.events():
            found += [f"{one} in {event}" for one in foreign(event, event.get("identity_id"))]
        self.assertEqual(found, [], "\n".join(found))
        return gateway

    def planned(self, row: Row, column: str, identity: str, number: int) -> Scenario:
        """The scenario of a cell."""
        scenario = python(
            sessions=CROWD, who=identity, first=100 * number, server=server_name(column)
        )
        return lacking(scenario, gaps(row.key, column))

    def begin(self, gateway: RunningGateway, walk: Walk) -> Any:
        """Start a client on its way."""
        driver, transport = walk.speaker.driver, walk.row.transport
        command = (
            python_client(int(driver[-1])) if driver.startswith("python") else npm_client(driver)
        )
        key = gateway.keys[walk.identity]
        jobs = {
            name: scenario.job(
                gateway.url(name, transport), key, walk.speaker.mode, transport=transport
            )
            for name, scenario in walk.planned.items()
        }
        return self.start_client(command, jobs, env={"LIVE_NODE_MODULES": str(node_modules())})


class RowCase(MatrixCase):
    """One row of the matrix; ``row`` says which."""

    row: ClassVar[str] = ""

    async def walk_row(self) -> None:
        """Do all that its clients do."""
        (row,) = (one for one in ROWS if one.key == self.row)
        await self.walk_through([(row, speaker) for speaker in row.speakers])


class SseClientTests(RowCase):
    """Clients of 2024-11-05's transport."""

    row = "2024"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_row()


class HandshakeClientTests(RowCase):
    """Clients of 2025-11-25."""

    row = "2025"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_row()


class StatelessClientTests(RowCase):
    """Clients that speak 2026-07-28 and nothing else."""

    row = "2026"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_row()


class DualClientTests(RowCase):
    """Clients that ask for 2026-07-28 and could shake hands as well."""

    row = "both"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_row()


def lacking(scenario: Scenario, absent: dict[str, Gap]) -> Scenario:
    """The scenario with an error in place of each feature that is said to be absent."""

    def step(one: Step) -> Step:
        gap = absent.get(one.feature)
        if gap is None:
            return one
        return evolve(one, do={**one.do, "timeout": GONE_SECS}, error=gap.error)

    return evolve(
        scenario,
        steps=tuple(step(one) for one in scenario.steps),
        asked=scenario.asked - set(absent),
    )


def foreign(found: Any, identity: str | None) -> Sequence[str]:
    """The words of other identities in what belongs to one."""
    words = json.dumps(found)
    return [f"words of {one}" for one in IDENTITIES if one != identity and one in words]
