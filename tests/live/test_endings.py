"""Clients, servers and the gateway itself that end in the middle of a call."""

import os
import signal
from collections.abc import Sequence
from typing import Any

from tests.live.clients_case import (
    DEMO,
    NEWEST,
    PYTHON_SERVER,
    first_error,
    npm_client,
    python_client,
)
from tests.live.gateway_process import GatewayCase, RunningGateway, http, stdio
from tests.live.processes import Program, free_port, marked
from tests.live.scenarios import Scenario, Step
from tests.live.software import REPOSITORY, node_modules, python_sdk

LONG = 60
"""Seconds of a call that is not waited for."""


def steps(*planned: Step) -> Scenario:
    """A scenario of which only the report matters; the first step has the server started."""
    started = call("started", "echo", message="started")
    return Scenario(server="", content={}, asked=frozenset(), steps=(started, *planned))


def call(name: str, tool: str, **arguments: Any) -> Step:
    """A step that calls a tool."""
    return Step(name, {"do": "call", "tool": tool, "arguments": arguments})


class EndingCase(GatewayCase):
    """What the tests have in common."""

    timeout = 180

    async def one_server(self, command: Sequence[str] = DEMO) -> RunningGateway:
        """A gateway before one server."""
        path = {"PYTHONPATH": str(REPOSITORY)}
        return await self.start_gateway([stdio("server", command, env=path)])

    def client(
        self, gateway: RunningGateway, command: list[str], mode: str, scenario: Scenario
    ) -> Program:
        """Start a client on a scenario."""
        return self.start_client(
            command,
            {"job": scenario.job(gateway.url("server"), gateway.keys["tester"], mode)},
            env={"LIVE_NODE_MODULES": str(node_modules())},
        )

    async def report(self, client: Program) -> dict[str, Any]:
        """The report of a client that has run to its end."""
        reports = await self.finished(client, seconds=40)
        report: dict[str, Any] = reports["job"]
        return report

    async def waiting(self, gateway: RunningGateway, tool: str = "slow", count: int = 1) -> None:
        """Return when calls of a slow tool are with the server."""

        def allowed() -> int:
            return sum(
                one["event_type"] == "Authorized" and one.get("tool") == tool
                for one in gateway.events()
            )

        await self.until(lambda: allowed() >= count, 20, f"{count} allowed calls")
        # They are written to the server in the same turn, which needs a moment to take them.
        await self.pause(0.3)


class VanishingClientTests(EndingCase):
    """A client whose process is killed while its call runs."""

    async def test_stateless(self) -> None:
        """Its connection was the call: the server is told to stop, and stops."""
        gateway = await self.one_server([str(python_sdk(2)), PYTHON_SERVER])
        command = python_client(2)
        gone = self.client(gateway, command, NEWEST, steps(call("wait", "wait", seconds=LONG)))
        await self.waiting(gateway, "wait")
        gone.signal("KILL")
        _, outcome = await self.outcomes(gateway, "ToolCall", 2)
        self.assertEqual(outcome["status"], "cancelled")
        count = Step("count", {"do": "call", "tool": "cancellations", "until": "1"})
        asked = self.client(gateway, command, NEWEST, steps(count))
        self.assertEqual((await self.report(asked))["steps"]["count"]["ok"]["text"], "1")

    async def test_session(self) -> None:
        """A lost connection cancels nothing: the call ends by itself and is recorded."""
        gateway = await self.one_server()
        gone = self.client(
            gateway, python_client(2), "legacy", steps(call("wait", "slow", seconds=2))
        )
        await self.waiting(gateway)
        gone.signal("KILL")
        _, outcome = await self.outcomes(gateway, "ToolCall", 2)
        self.assertEqual(outcome["status"], "success")


class StoppingGatewayTests(EndingCase):
    """The gateway is asked to stop while calls run."""

    async def check(self, command: list[str], mode: str) -> None:
        """The call is answered before the gateway ends."""
        gateway = await self.one_server()
        client = self.client(gateway, command, mode, steps(call("wait", "slow", seconds=2)))
        await self.waiting(gateway)
        await self.stop(gateway)
        report = await self.report(client)
        self.assertIn("Done", report["steps"]["wait"]["ok"]["text"], report)

    async def test_stateless(self) -> None:
        """A call of 2026 is finished."""
        await self.check(python_client(2), "auto")

    async def test_session(self) -> None:
        """A call in a session is finished, with the session's own stream open."""
        await self.check(npm_client("npm_sdk"), "")


class KilledServerTests(EndingCase):
    """The child is killed by SIGKILL while a call runs."""

    async def killed(self, command: list[str], mode: str) -> dict[str, Any]:
        """The report of a client that calls again afterwards."""
        gateway = await self.one_server()
        planned = steps(call("lost", "slow", seconds=LONG), call("again", "echo", message="on"))
        client = self.client(gateway, command, mode, planned)
        await self.waiting(gateway)
        children = [pid for pid, words in marked(gateway.mark) if DEMO[-1] in words]
        self.assertTrue(children)
        for child in children:
            os.kill(child, signal.SIGKILL)
        report = await self.report(client)
        lost = report["steps"]["lost"]["error"]
        self.assertEqual((lost["code"], lost["message"]), (502, "The MCP server failed to answer"))
        calls = [one for one in gateway.outcomes() if one.get("tool") == "slow"]
        self.assertEqual([one["status"] for one in calls], ["failed"])
        return report

    async def test_stateless(self) -> None:
        """The call fails with a clear error, and the next one has a new child."""
        report = await self.killed(python_client(2), "auto")
        self.assertEqual(report["steps"]["again"]["ok"]["text"], "on", report)

    async def test_session(self) -> None:
        """The call fails with a clear error, and the session has ended with its child."""
        report = await self.killed(python_client(2), "legacy")
        self.assertIn("Session not found", report["steps"]["again"]["error"]["message"], report)


class LostServerTests(EndingCase):
    """A server over HTTP that is killed while calls of either era run, and comes back."""

    async def reports(self, gateway: RunningGateway, planned: Scenario) -> dict[str, Any]:
        """The reports of clients that run to their end."""
        return await self.finished(self.clients(gateway, planned), seconds=40)

    def clients(self, gateway: RunningGateway, planned: Scenario) -> Program:
        """Start a client of each era."""
        url, key = gateway.url("server"), gateway.keys["tester"]
        jobs = {mode: planned.job(url, key, mode) for mode in ("auto", "legacy")}
        return self.start_client(python_client(2), jobs, env={})

    async def test_comes_back(self) -> None:
        """Calls and the next clients fail with clear errors; after that all is well again."""
        port = free_port()
        argv = [*DEMO, "--http", "--port", str(port)]
        path = {"PYTHONPATH": str(REPOSITORY)}
        server = self.start(argv, env=path)
        await server.said("listening on")
        gateway = await self.start_gateway([http("server", f"http://127.0.0.1:{port}/mcp")])
        lost = self.clients(gateway, steps(call("lost", "slow", seconds=LONG)))
        await self.waiting(gateway, count=2)
        server.signal("KILL")
        for report in (await self.finished(lost, seconds=40)).values():
            self.assertEqual(report["steps"]["lost"]["error"]["code"], 502, report)
        for report in (await self.reports(gateway, steps())).values():
            self.assertIn("MCP server", first_error(report)["message"])
        await self.start_http_server(argv, env=path)
        for report in (await self.reports(gateway, steps())).values():
            self.assertEqual(report["steps"]["started"]["ok"]["text"], "started", report)
