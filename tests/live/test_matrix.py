"""Every cell of the matrix in ``docs/compatibility.md``: SDKs' clients, SDKs' servers, the gateway
between them, and an identity for each client whose words may not meet another's.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attrs import evolve, frozen

from tests.live.clients_case import npm_client, python_client
from tests.live.gateway_process import GatewayCase, RunningGateway
from tests.live.matrix import COLUMNS, ROWS, Column, Gap, Row, Speaker, gaps
from tests.live.matrix_servers import matrix_servers, server_name
from tests.live.python_scenario import python
from tests.live.scenarios import Scenario, Step
from tests.live.software import node_modules

IDENTITIES = ("amber", "cobalt", "indigo", "jasper", "maroon", "olive", "sepia", "violet")
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

    @property
    def command(self) -> list[str]:
        """The program that drives it."""
        driver = self.speaker.driver
        return python_client(int(driver[-1])) if driver.startswith("python") else npm_client(driver)

    def jobs(self, gateway: RunningGateway) -> dict[str, Any]:
        """What its program is to do, by names that start with the identity's."""
        transport = self.row.transport
        return {
            f"{self.identity} {name}": scenario.job(
                gateway.url(name, transport),
                gateway.keys[self.identity],
                self.speaker.mode,
                transport=transport,
            )
            for name, scenario in self.planned.items()
        }

    def complaints(self, reports: Mapping[str, Any]) -> list[str]:
        """What is wrong with what was reported of its jobs."""
        found: list[str] = []
        for name, scenario in self.planned.items():
            report = reports[f"{self.identity} {name}"]
            mine = scenario.complaints(report, self.row.version, named=self.speaker.named)
            mine += foreign(report, self.identity)
            cell = f"row {self.row.key}, {self.speaker.driver}, {name}"
            found += [f"{cell}: {one}" for one in mine]
        return found


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
        walks = [planned(number, *one, self.columns) for number, one in enumerate(speakers)]
        programs: dict[tuple[str, ...], dict[str, Any]] = {}
        for walk in walks:
            programs.setdefault(tuple(walk.command), {}).update(walk.jobs(gateway))
        modules = {"LIVE_NODE_MODULES": str(node_modules())}
        running = [
            self.start_client(command, jobs, env=modules) for command, jobs in programs.items()
        ]
        reports: dict[str, Any] = {}
        for client in running:
            reports |= await self.finished(client, seconds=90)
        found = [one for walk in walks for one in walk.complaints(reports)]
        for event in gateway.events():
            found += [f"{one} in {event}" for one in foreign(event, event.get("identity_id"))]
        self.assertEqual(found, [], "\n".join(found))
        return gateway


class MatrixTests(MatrixCase):
    """Both clients of each row before the server of each column."""

    async def test_every_cell(self) -> None:
        """Each server gives each client what the matrix says, and nobody gets what is another's."""
        await self.walk_through([(row, speaker) for row in ROWS for speaker in row.speakers])


def planned(number: int, row: Row, speaker: Speaker, columns: Sequence[Column]) -> Walk:
    """The walk of a client; no two of them send the same words or numbers."""
    identity = IDENTITIES[number]
    scenarios = {
        one.key: python(
            sessions=CROWD, who=identity, first=100 * number, server=server_name(one.key)
        )
        for one in columns
    }
    cells = {name: lacking(one, gaps(row.key, name)) for name, one in scenarios.items()}
    return Walk(row, speaker, identity, cells)


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
