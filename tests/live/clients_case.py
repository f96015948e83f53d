"""What the tests of every SDK's client have in common."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve, frozen

from tests.live import scenarios
from tests.live.forked import forked
from tests.live.gateway_process import GatewayCase, RunningGateway, http, stdio
from tests.live.processes import free_port, marked
from tests.live.scenarios import Scenario, Step
from tests.live.software import (
    HERE,
    REPOSITORY,
    node,
    node_modules,
    server_everything,
    server_filesystem,
)

NEWEST_HANDSHAKE = "2025-11-25"
NEWEST = "2026-07-28"
CROWD = 4
PATH = {"PYTHONPATH": str(REPOSITORY)}
Jobs = dict[str, Any]
"""Or reports, by name."""
Planned = Mapping[str, Scenario]
"""By server."""
DEMO = [sys.executable, "-m", "mcpguard.demo"]
PYTHON_SERVER = str(HERE / "servers" / "python_server.py")


@frozen
class Walker:
    """A client of an SDK in one way of use."""

    command: Callable[[], list[str]]
    """Of its program, whose process walkers of the same command share; raises SkipTest."""
    mode: str = ""
    """The SDK's own word for the way of use."""
    version: str = NEWEST_HANDSHAKE
    """What it agrees on with the gateway."""
    named: bool = True
    """Whether it learns the server's name (a pinned client asks nobody)."""
    beyond: frozenset[str] = frozenset()
    """Names of steps that the client itself cannot take."""


Walkers = Mapping[str, Walker]
"""By the identity that each is."""


class ClientCase(GatewayCase):
    """Clients of SDKs side by side, each an identity of its own."""

    timeout = 180

    transport: ClassVar[str] = "http"
    """``http`` is Streamable HTTP, ``sse`` the transport of 2024."""

    async def reports(self, walkers: Walkers, jobs: Mapping[str, Jobs]) -> dict[str, Jobs]:
        """Run the clients, a process for each program; jobs and reports by walker and name."""
        programs: dict[tuple[str, ...], dict[str, Any]] = {}
        for who, those in jobs.items():
            program = programs.setdefault(tuple(walkers[who].command()), {})
            program.update({f"{who} {name}": job for name, job in those.items()})
        modules = {"LIVE_NODE_MODULES": str(node_modules())}
        running = [
            self.start_client(command, planned, env=modules)
            for command, planned in programs.items()
        ]
        found: dict[str, Any] = {}
        for client in running:
            found |= await self.finished(client, seconds=120)
        return {
            who: {name: found[f"{who} {name}"] for name in those} for who, those in jobs.items()
        }

    async def demo_servers(self) -> list[dict[str, Any]]:
        """The bundled demo server, over stdio and over HTTP."""
        return [
            stdio("demo", DEMO, env=dict(PATH)),
            http("demo-http", await self.start_http_server([*DEMO, "--http"], env=PATH)),
        ]

    async def reference_servers(self, **more: Any) -> tuple[list[dict[str, Any]], Planned]:
        """The reference servers of npm, which know no version of 2026, and what to do with them.

        ``more`` are keys of each server.
        """
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "hello.txt").write_text("hello")
        port = free_port()
        await self.start_http_server(
            [*server_everything(), "streamableHttp"],
            env={"PORT": str(port)},
            ready="Server listening on port",
        )
        servers = [
            stdio("everything", [*server_everything(), "stdio"], **more),
            http("everything-http", f"http://127.0.0.1:{port}/mcp", **more),
            # It is to learn its directory from the client's roots.
            stdio("filesystem", [*server_filesystem(), str(HERE)], **more),
        ]
        return servers, {
            "everything": scenarios.everything(sessions=0),
            "everything-http": scenarios.everything(sessions=CROWD),
            "filesystem": scenarios.filesystem(str(directory.resolve())),
        }

    async def walk_through(
        self, gateway: RunningGateway, walkers: Walkers, plans: Mapping[str, Planned]
    ) -> None:
        """Do everything side by side, ``plans`` by walker; fails with all that was not as
        expected.
        """
        plans = {
            who: {name: _within(one, walkers[who].beyond) for name, one in planned.items()}
            for who, planned in plans.items()
        }
        jobs = {
            who: {
                name: scenario.job(
                    gateway.url(name, self.transport),
                    gateway.keys[who],
                    walkers[who].mode,
                    transport=self.transport,
                )
                for name, scenario in planned.items()
            }
            for who, planned in plans.items()
        }
        reports = await self.reports(walkers, jobs)
        complaints = [
            f"{who} {name}: {complaint}"
            for who, planned in plans.items()
            for name, scenario in planned.items()
            for complaint in scenario.complaints(
                reports[who][name], walkers[who].version, named=walkers[who].named
            )
        ]
        self.assertEqual(complaints, [], "\n".join(complaints))

    async def no_child_but(self, gateway: RunningGateway, staying: int) -> None:
        """Wait until the children of ended sessions have gone; some stay for callers without."""
        await self.until(
            lambda: len(children_of(gateway)) <= staying,
            10,
            "the children of ended sessions are gone",
        )


def _within(scenario: Scenario, beyond: frozenset[str]) -> Scenario:
    """A scenario without the steps that a client cannot take."""
    return evolve(scenario, steps=tuple(step for step in scenario.steps if step.name not in beyond))


def unjudged(**steps: Mapping[str, Any]) -> Scenario:
    """A scenario of which only the report matters."""
    planned = tuple(Step(name, do) for name, do in steps.items())
    return Scenario(server="", content={}, asked=frozenset(), steps=planned)


def children_of(gateway: RunningGateway) -> list[str]:
    """The commands of the processes that the gateway has started."""
    return [words for _, words in marked(gateway.mark) if " -m mcpguard " not in words]


def first_error(report: Mapping[str, Any]) -> dict[str, Any]:
    """The error that a job met first, at its connect or in a step."""
    outcomes = [report["connect"], *report["steps"].values()]
    errors: list[dict[str, Any]] = [one["error"] for one in outcomes if "error" in one]
    if not errors:
        raise AssertionError(f"no error in {report}")
    return errors[0]


def python_client(major: int) -> list[str]:
    """The command of the client over PyPI's ``mcp``."""
    return forked(HERE / "clients" / f"python_v{major}.py", major)


def npm_client(name: str) -> list[str]:
    """The command of a client over npm's SDK."""
    node_modules()
    return [str(node()), str(HERE / "clients" / f"{name}.mjs")]
