"""Clients, servers and the gateway itself that end in the middle of a call."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.live.clients_case import (
    DEMO,
    PATH,
    PYTHON_SERVER,
    first_error,
    npm_client,
    python_client,
)
from tests.live.forked import forked
from tests.live.gateway_process import GatewayCase, RunningGateway, http, stdio
from tests.live.processes import Program, free_port, marked
from tests.live.scenarios import Scenario, Step
from tests.live.software import node_modules

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

    async def demo(self) -> RunningGateway:
        """A gateway before the demo server."""
        return await self.start_gateway([stdio("server", DEMO, env=dict(PATH))])

    def client(
        self, gateway: RunningGateway, command: list[str], **modes: tuple[str, Scenario]
    ) -> Program:
        """Start a client of each mode, by server, on a scenario."""
        jobs = {
            mode: scenario.job(gateway.url(server), gateway.keys["tester"], mode)
            for mode, (server, scenario) in modes.items()
        }
        return self.start_client(command, jobs, env={"LIVE_NODE_MODULES": str(node_modules())})

    async def waiting(self, gateway: RunningGateway, *tools: str) -> None:
        """Return when calls of these slow tools are with the server."""

        def allowed() -> list[str]:
            found = [one for one in gateway.events() if one["event_type"] == "Authorized"]
            return sorted(one["tool"] for one in found if one.get("tool") in tools)

        await self.until(lambda: allowed() == sorted(tools), 20, f"allowed calls of {tools}")
        # They are written to the server in the same turn, which needs a moment to take them.
        await self.pause(0.3)


class VanishingClientTests(EndingCase):
    """A client whose process is killed while its calls run."""

    async def test_either_era(self) -> None:
        """A stateless call was its connection: the server is told to stop, and stops. In a session
        a lost connection cancels nothing: the call ends by itself and is recorded.
        """
        command = forked(Path(PYTHON_SERVER))
        gateway = await self.start_gateway(
            [stdio("python", command), stdio("demo", DEMO, env=dict(PATH))]
        )
        gone = self.client(
            gateway,
            python_client(2),
            auto=("python", steps(call("wait", "wait", seconds=LONG))),
            legacy=("demo", steps(call("wait", "slow", seconds=3))),
        )
        await self.waiting(gateway, "wait", "slow")
        gone.signal("KILL")
        outcomes = await self.outcomes(gateway, "ToolCall", 4)
        ended = {one["tool"]: one["status"] for one in outcomes if one["tool"] != "echo"}
        self.assertEqual(ended, {"wait": "cancelled", "slow": "success"})
        count = Step("count", {"do": "call", "tool": "cancellations", "until": "1"})
        asked = self.client(gateway, python_client(2), auto=("python", steps(count)))
        report = (await self.finished(asked, seconds=40))["auto"]
        self.assertEqual(report["steps"]["count"]["ok"]["text"], "1", report)


class StoppingGatewayTests(EndingCase):
    """The gateway is asked to stop while calls run."""

    async def test_either_era(self) -> None:
        """Calls are answered before the gateway ends, also one of a session whose own stream is
        open.
        """
        gateway = await self.demo()
        planned = steps(call("wait", "slow", seconds=2))
        clients = {
            "auto": self.client(gateway, python_client(2), auto=("server", planned)),
            "legacy": self.client(gateway, npm_client("npm_sdk"), legacy=("server", planned)),
        }
        await self.waiting(gateway, "slow", "slow")
        await self.stop(gateway)
        for mode, client in clients.items():
            report = (await self.finished(client, seconds=40))[mode]
            self.assertIn("Done", report["steps"]["wait"]["ok"]["text"], report)


class KilledServerTests(EndingCase):
    """The children are killed by SIGKILL while calls run."""

    async def test_either_era(self) -> None:
        """Calls fail with a clear error. The next stateless one has a new child; a session has
        ended with its child.
        """
        gateway = await self.demo()
        planned = steps(call("lost", "slow", seconds=LONG), call("again", "echo", message="on"))
        client = self.client(
            gateway, python_client(2), auto=("server", planned), legacy=("server", planned)
        )
        await self.waiting(gateway, "slow", "slow")
        children = [pid for pid, words in marked(gateway.mark) if DEMO[-1] in words]
        self.assertEqual(len(children), 2)
        for child in children:
            os.kill(child, signal.SIGKILL)
        reports = await self.finished(client, seconds=40)
        for report in reports.values():
            lost = report["steps"]["lost"]["error"]
            self.assertEqual(
                (lost["code"], lost["message"]), (502, "The MCP server failed to answer")
            )
        calls = [one for one in gateway.outcomes() if one.get("tool") == "slow"]
        self.assertEqual([one["status"] for one in calls], ["failed", "failed"])
        again = reports["auto"]["steps"]["again"]
        self.assertEqual(again["ok"]["text"], "on", again)
        again = reports["legacy"]["steps"]["again"]
        self.assertIn("Session not found", again["error"]["message"], again)


class LostServerTests(EndingCase):
    """A server over HTTP that is killed while calls of either era run, and comes back."""

    async def reports(self, gateway: RunningGateway, planned: Scenario) -> dict[str, Any]:
        """The reports of clients that run to their end."""
        return await self.finished(self.clients(gateway, planned), seconds=40)

    def clients(self, gateway: RunningGateway, planned: Scenario) -> Program:
        """Start a client of each era."""
        each = ("server", planned)
        return self.client(gateway, python_client(2), auto=each, legacy=each)

    async def test_comes_back(self) -> None:
        """Calls and the next clients fail with clear errors; after that all is well again."""
        port = free_port()
        argv = [*DEMO, "--http", "--port", str(port)]
        server = self.start(argv, env=PATH)
        await server.said("listening on")
        gateway = await self.start_gateway([http("server", f"http://127.0.0.1:{port}/mcp")])
        lost = self.clients(gateway, steps(call("lost", "slow", seconds=LONG)))
        await self.waiting(gateway, "slow", "slow")
        server.signal("KILL")
        for report in (await self.finished(lost, seconds=40)).values():
            self.assertEqual(report["steps"]["lost"]["error"]["code"], 502, report)
        for report in (await self.reports(gateway, steps())).values():
            self.assertIn("MCP server", first_error(report)["message"])
        await self.start_http_server(argv, env=PATH)
        for report in (await self.reports(gateway, steps())).values():
            self.assertEqual(report["steps"]["started"]["ok"]["text"], "started", report)
