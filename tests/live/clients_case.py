"""What the tests of every SDK's client have in common."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve

from tests.live import scenarios
from tests.live.gateway_process import GatewayCase, RunningGateway, http, stdio
from tests.live.processes import free_port, marked
from tests.live.python_scenario import python
from tests.live.scenarios import Scenario, Step
from tests.live.software import (
    HERE,
    REPOSITORY,
    node,
    node_modules,
    python_sdk,
    server_everything,
    server_filesystem,
)

NEWEST_HANDSHAKE = "2025-11-25"
NEWEST = "2026-07-28"
CROWD = 10
DEMO = [sys.executable, "-m", "mcpguard.demo"]
DENIED = "Identity 'limited' is not authorized to call tool 'delete_file'"
PYTHON_SERVER = str(HERE / "servers" / "python_server.py")


class ClientCase(GatewayCase):
    """One client of an SDK before every server; `client`, `mode` and `version` say which."""

    timeout = 180

    mode: ClassVar[str] = ""
    transport: ClassVar[str] = "http"
    """``http`` is Streamable HTTP, ``sse`` the transport of 2024."""
    version: ClassVar[str] = NEWEST_HANDSHAKE
    """What it agrees on with a server of both eras."""
    asks_name: ClassVar[bool] = True
    """Whether it learns the server's name (a pinned client asks nobody)."""

    def client(self) -> list[str]:
        """The command of the client; raises SkipTest."""
        raise NotImplementedError

    async def report(self, jobs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the client."""
        modules = {"LIVE_NODE_MODULES": str(node_modules())}
        program = self.start_client(self.client(), jobs, env=modules)
        reports = await self.finished(program, seconds=120)
        self.assertEqual(set(reports), set(jobs), program.story())
        return reports

    async def demo_servers(self) -> list[dict[str, Any]]:
        """The bundled demo server, over stdio and over HTTP."""
        path = {"PYTHONPATH": str(REPOSITORY)}
        return [
            stdio("demo", DEMO, env=path),
            http("demo-http", await self.start_http_server([*DEMO, "--http"], env=path)),
        ]

    async def both_eras(self) -> tuple[RunningGateway, dict[str, Scenario]]:
        """A gateway before servers of both eras, of Python's SDK and of this project."""
        command = [str(python_sdk(2)), PYTHON_SERVER]
        gateway = await self.start_gateway(
            [
                stdio("python", command),
                http("python-http", await self.start_http_server([*command, "--http"])),
                *await self.demo_servers(),
            ]
        )
        # Children of Python's SDK take a second of a processor each: no crowd of them.
        return gateway, {
            "python": python(sessions=0),
            "python-http": python(sessions=CROWD),
            "demo": scenarios.demo(sessions=CROWD),
            "demo-http": scenarios.demo(sessions=CROWD),
        }

    async def handshake_only(
        self, *, translated: bool = False, **more: Any
    ) -> tuple[RunningGateway, dict[str, Scenario]]:
        """A gateway before the reference servers of npm, which know no version of 2026.

        ``more`` are keys of each server; ``translated``: the client is of the other era.
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
        gateway = await self.start_gateway(
            [
                stdio("everything", [*server_everything(), "stdio"], **more),
                http("everything-http", f"http://127.0.0.1:{port}/mcp", **more),
                # It is to learn its directory from the client's roots.
                stdio("filesystem", [*server_filesystem(), str(HERE)], **more),
            ]
        )
        planned = {
            "everything": scenarios.everything(sessions=0),
            "everything-http": scenarios.everything(sessions=CROWD),
            "filesystem": scenarios.filesystem(str(directory.resolve())),
        }
        if translated:
            planned = {name: evolve(one, stays=True) for name, one in planned.items()}
        return gateway, planned

    async def walk_through(
        self, gateway: RunningGateway, planned: Mapping[str, Scenario], version: str
    ) -> None:
        """Do all scenarios side by side; fails with everything that was not as expected."""
        key = gateway.keys["tester"]
        jobs = {
            name: scenario.job(
                gateway.url(name, self.transport), key, self.mode, transport=self.transport
            )
            for name, scenario in planned.items()
        }
        reports = await self.report(jobs)
        complaints = [
            f"{name}: {complaint}"
            for name, scenario in planned.items()
            for complaint in scenario.complaints(reports[name], version, named=self.asks_name)
        ]
        self.assertEqual(complaints, [], "\n".join(complaints))
        staying = [
            name for name, one in planned.items() if one.stays and not name.endswith("-http")
        ]
        await self.until(
            lambda: len(children_of(gateway)) <= len(staying),
            10,
            "the children of ended sessions are gone",
        )

    async def refusals(self, **server: Any) -> dict[str, Any]:
        """What callers see who have few rights (``limited``), who call too often (``hasty``) and
        whose key is ``wrong``; the one denial stands in the audit trail.
        """
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env={"PYTHONPATH": str(REPOSITORY)})],
            identities={
                "limited": {"allowed_tools": ["echo", "list_*"]},
                "hasty": {"rate_limit": 0.01, "burst_size": 9},
            },
            server=server,
        )
        echo = {"do": "call", "tool": "echo", "arguments": {"message": "on"}}
        delete = {"do": "call", "tool": "delete_file", "arguments": {"path": "x"}}
        few = _unjudged(list={"do": "list"}, denied=delete, allowed=echo)
        many = _unjudged(**{f"call {number}": echo for number in range(10)})
        url, keys = gateway.url("demo", self.transport), gateway.keys
        reports = await self.report(
            {
                name: steps.job(
                    url, keys.get(name, "mcp_wrong"), self.mode, transport=self.transport
                )
                for name, steps in (("limited", few), ("hasty", many), ("wrong", few))
            }
        )
        (denied,) = await self.outcomes(gateway, "AuthorizationDenied", 1)
        self.assertEqual((denied["identity_id"], denied["tool"]), ("limited", "delete_file"))
        self.assertEqual(reports["hasty"]["steps"]["call 0"]["ok"]["text"], "on", reports)
        steps = reports["limited"]["steps"]
        self.assertEqual(steps["list"], {"ok": ["echo", "list_directory"]}, reports)
        return reports

    async def check_refusals(self, *, unauthorized: str) -> None:
        """A denial says why and ends nothing; so does a rate limit; a wrong key is told so."""
        reports = await self.refusals()
        steps = reports["limited"]["steps"]
        self.assertIn(DENIED, steps["denied"]["error"]["message"], reports)
        self.assertEqual(steps["allowed"]["ok"]["text"], "on", reports)
        last = reports["hasty"]["steps"]["call 9"]
        self.assertIn("Rate limit exceeded", last["error"]["message"], reports)
        self.assertIn(unauthorized, first_error(reports["wrong"])["message"])


def _unjudged(**steps: Mapping[str, Any]) -> Scenario:
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
    return [str(python_sdk(major)), str(HERE / "clients" / f"python_v{major}.py")]


def npm_client(name: str) -> list[str]:
    """The command of a client over npm's SDK."""
    node_modules()
    return [str(node()), str(HERE / "clients" / f"{name}.mjs")]
