"""Every cell of the matrix in ``docs/compatibility.md``: SDKs' clients, SDKs' servers, the gateway
between them, and two identities at a time whose words may not meet.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import evolve, frozen

from tests.live.clients_case import npm_client, python_client
from tests.live.gateway_process import GatewayCase, RunningGateway
from tests.live.matrix import COLUMNS, ROWS, Gap, Speaker, gaps
from tests.live.matrix_servers import matrix_servers, server_name
from tests.live.python_scenario import python
from tests.live.scenarios import Scenario, Step
from tests.live.software import node_modules

IDENTITIES = ("amber", "cobalt")
"""One for each client of a row; also the word in all that it sends."""
CROWD = 3
GONE_SECS = 3.0
"""How long a feature that a cell lacks is waited for."""


@frozen
class Walk:
    """One client of an SDK on its way through all servers, as one identity."""

    speaker: Speaker
    identity: str
    planned: dict[str, Scenario]
    """By server, the gaps of the cells in place of what they lack."""


class MatrixCase(GatewayCase):
    """One row of the matrix; ``row`` says which."""

    timeout = 180

    row: ClassVar[str] = ""

    async def walk_through(self) -> None:
        """Do it all side by side; fails with everything that was not as expected."""
        (row,) = (one for one in ROWS if one.key == self.row)
        gateway = await self.start_gateway(
            await matrix_servers(self), identities={name: {} for name in IDENTITIES}
        )
        walks = [
            Walk(
                speaker,
                identity,
                {one.key: self.planned(one.key, identity, number) for one in COLUMNS},
            )
            for number, (speaker, identity) in enumerate(zip(row.speakers, IDENTITIES, strict=True))
        ]
        clients = [self.begin(gateway, row.transport, walk) for walk in walks]
        found: list[str] = []
        for walk, client in zip(walks, clients, strict=True):
            reports = await self.finished(client, seconds=90)
            self.assertEqual(set(reports), set(walk.planned), client.story())
            for name, scenario in walk.planned.items():
                mine = scenario.complaints(reports[name], row.version, named=walk.speaker.named)
                mine += foreign(reports[name], walk.identity)
                found += [f"{walk.speaker.driver} {name}: {one}" for one in mine]
        for event in gateway.events():
            found += [f"{one} in {event}" for one in foreign(event, event.get("identity_id"))]
        self.assertEqual(found, [], "\n".join(found))

    def planned(self, column: str, identity: str, number: int) -> Scenario:
        """The scenario of a cell."""
        scenario = python(
            sessions=CROWD, who=identity, first=100 * number, server=server_name(column)
        )
        return lacking(scenario, gaps(self.row, column))

    def begin(self, gateway: RunningGateway, transport: str, walk: Walk) -> Any:
        """Start a client on its way."""
        driver = walk.speaker.driver
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


class SseClientTests(MatrixCase):
    """Clients of 2024-11-05's transport."""

    row = "2024"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_through()


class HandshakeClientTests(MatrixCase):
    """Clients of 2025-11-25."""

    row = "2025"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_through()


class StatelessClientTests(MatrixCase):
    """Clients that speak 2026-07-28 and nothing else."""

    row = "2026"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_through()


class DualClientTests(MatrixCase):
    """Clients that ask for 2026-07-28 and could shake hands as well."""

    row = "both"

    async def test_row(self) -> None:
        """Each server gives them what the matrix says, and nobody gets what is another's."""
        await self.walk_through()


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
