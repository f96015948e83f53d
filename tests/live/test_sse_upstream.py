"""HTTP+SSE servers behind the gateway: real ones with every feature, and ones that go wrong."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.live import python_scenario, scenarios
from tests.live.clients_case import (
    NEWEST_HANDSHAKE,
    PYTHON_SERVER,
    ClientCase,
    Walker,
    python_client,
)
from tests.live.forked import forked
from tests.live.gateway_process import RunningGateway, http
from tests.live.processes import Program, free_port
from tests.live.raw_client import LEGACY, MIB, Exchange, RawCase, descriptors, http_request, memory
from tests.live.software import HERE, REPOSITORY, server_everything
from tests.live.sse_server import SseServer

HANDSHAKE_SERVER = str(HERE / "servers" / "handshake_server.py")
SECRET = "Bearer of-the-upstream"


def sse(name: str, url: str, **more: Any) -> dict[str, Any]:
    """The configuration of an HTTP+SSE server."""
    return http(name, url, transport="sse", **more)


class RealServerTests(ClientCase):
    """Servers on PyPI ``mcp`` 1.x and 2.x, and npm ``server-everything``."""

    async def test_every_feature(self) -> None:
        """Lists, calls, errors, progress, cancellation, questions, subscriptions, log messages,
        sessions side by side; the command and the metrics know the transport.
        """
        gateway = await self.start_gateway(await self.servers())
        planned = {
            "python-1": python_scenario.python(sessions=3, server="handshake-server"),
            "python-2": python_scenario.python(sessions=3),
            "everything": scenarios.everything(sessions=3),
        }
        walkers = {"tester": Walker(lambda: python_client(1))}
        await self.walk_through(gateway, walkers, {"tester": planned})
        await self.check_command(gateway)

    async def servers(self) -> Sequence[dict[str, Any]]:
        """All of them, started side by side."""
        port = free_port()
        everything = self.start([*server_everything(), "sse"], env={"PORT": str(port)})
        programs = [
            self.start([*forked(Path(HANDSHAKE_SERVER), 1), "--sse"]),
            self.start([*forked(Path(PYTHON_SERVER)), "--sse"]),
        ]
        urls = [(await one.said(r"(http://\S+)")).group(1).decode() for one in programs]
        await everything.said("running on port")
        return [
            sse("python-1", urls[0]),
            sse("python-2", urls[1]),
            sse("everything", f"http://127.0.0.1:{port}/sse"),
        ]

    async def check_command(self, gateway: RunningGateway) -> None:
        """``check-upstream`` finds them as well."""
        config = str(gateway.audit_file.with_name("mcp-guard.toml"))
        status, out, err = await self.run_program(
            [sys.executable, "-m", "mcpguard", "-c", config, "check-upstream"],
            seconds=20,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        self.assertEqual(status, 0, out + err)
        self.assertEqual(out.count("Transport: sse"), 3, out)
        for name in ("handshake-server", "python-server", "mcp-servers/everything"):
            self.assertIn(f"Server: {name} v", out)
        self.assertEqual(out.count(f"Protocol: {NEWEST_HANDSHAKE} (handshake)"), 3, out)


class SseCase(RawCase):
    """Callers that speak HTTP themselves, and what they share."""

    timeout = 180

    async def bare(self, gateway: RunningGateway, server: str, tool: str, **what: Any) -> Exchange:
        """A call with nothing but a key, in a session that the gateway keeps."""
        return await (await self.begin_bare(gateway, server, tool, **what)).over

    async def begin_bare(
        self, gateway: RunningGateway, server: str, tool: str, **arguments: Any
    ) -> Exchange:
        """The same without waiting for the answer."""
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return await self.send(gateway, server, message)

    async def hello(self, gateway: RunningGateway, server: str) -> Exchange:
        """An ``initialize`` that is to fail."""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "raw"}}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        return await (await self.send(gateway, server, message)).over

    def assert_failed(self, exchange: Exchange, status: int, words: str) -> None:
        """A caller was told what happened, in words that give nothing away."""
        self.assertEqual(exchange.status, status, exchange.received)
        self.assertIn(words, exchange.error["message"])
        for secret in (b"127.0.0.1", b"session=", b"sse", b"of-the-upstream"):
            self.assertNotIn(secret, exchange.answer.body)


class RestartTests(SseCase):
    """npm ``server-everything`` is killed in the middle of a call, and comes back."""

    async def everything(self, port: int) -> Program:
        """Run it on a port."""
        program = self.start([*server_everything(), "sse"], env={"PORT": str(port)})
        await program.said("running on port")
        return program

    async def test_killed(self) -> None:
        """Calls fail at once; down, the server is said to be; up again, it is used again.

        The session ends with the server's stream, or is begun anew where that is configured.
        """
        port = free_port()
        url = f"http://127.0.0.1:{port}/sse"
        program = await self.everything(port)
        gateway = await self.start_gateway(
            [sse("ends", url), sse("replays", url, restart="replay")]
        )
        sessions = {name: await self.shake_hands(gateway, name) for name in ("ends", "replays")}
        running = [
            await self.begin(
                gateway, name, "trigger-long-running-operation", session, duration=30, steps=1
            )
            for name, session in sessions.items()
        ]
        await self.pause(0.3)
        program.signal("KILL")
        await self.all_over(running)
        for exchange in running:
            self.assert_failed(exchange, 502, "failed to answer")
        self.assert_failed(await self.hello(gateway, "ends"), 503, "not available")
        await self.everything(port)
        lost = await self.call(gateway, "ends", "echo", sessions["ends"], message="x")
        self.assertEqual(lost.status, 404, lost.received)
        again = await self.shake_hands(gateway, "ends")
        for name, session in (("ends", again), ("replays", sessions["replays"])):
            well = await self.call(gateway, name, "echo", session, message="well")
            self.assertEqual(well.text, "Echo: well", well.received)
        await self.account(gateway)


class FaultTests(SseCase):
    """Servers that go wrong, each followed by a call that works."""

    async def faulty(self, *ways: str, **more: Any) -> RunningGateway:
        """A gateway before a server of each way; it waits a second for the answers of bad ones."""
        self.canary = SseServer(self.reactor, "")
        self.server = SseServer(self.reactor, self.canary.listen())
        base = self.server.listen()
        self.addCleanup(self.canary.stop)
        self.addCleanup(self.server.stop)
        given = {
            "max_message_size": MIB,
            "headers": {"Authorization": SECRET},
            "era": "legacy",
            **more,
        }
        return await self.start_gateway(
            [
                sse(way, f"{base}/{way}/sse", timeout_secs=10 if way == "good" else 1, **given)
                for way in ways
            ]
        )

    async def test_hangs(self) -> None:
        """No head, no endpoint, no answer: a clear error when the time is over, each time."""
        ways = ("mute", "beating", "silent")
        gateway = await self.faulty(*ways, "hanging", "good")
        before = descriptors(gateway)
        for _ in range(2):
            asked = [await self.begin_bare(gateway, way, "echo", text="x") for way in ways]
            asked.append(await self.begin_bare(gateway, "hanging", "hang"))
            await self.all_over(asked)
            for exchange in asked:
                self.assert_failed(exchange, 504, "did not answer in time")
        await self.until(
            lambda: not any(one.open for one in self.server.streams.values() if one.way in ways),
            2,
            "their streams are closed",
        )
        well = await self.bare(gateway, "good", "echo", text="well")
        self.assertEqual(well.text, "well", well.received)
        cancelled = [one for *_, one in self.server.heard if one.get("method") == CANCELLED]
        self.assertEqual([one["params"]["reason"] for one in cancelled], ["timeout"] * 2)
        # The streams of the two pooled sessions stay, and connections for messages for a while.
        await self.until(lambda: descriptors(gateway) <= before + 4, 6, "nothing is left open")
        await self.account(gateway)

    async def test_elsewhere(self) -> None:
        """An endpoint on another origin gets neither a message nor the credential."""
        gateway = await self.faulty("foreign", "slashes", "long", "good")
        before, _ = memory(gateway)
        for way in ("foreign", "slashes"):
            self.assert_failed(await self.bare(gateway, way, "echo", text="x"), 502, "to answer")
            self.assert_failed(await self.hello(gateway, way), 502, "to answer")
        self.assert_failed(await self.hello(gateway, "long"), 502, "too large")
        self.assertLess(memory(gateway)[1] - before, 32 * MIB)
        self.assertEqual(self.canary.heard, [])
        heard = {(path, method) for method, path, *_ in self.server.heard if "good" not in path}
        self.assertEqual(heard, {(f"/{way}/sse", "GET") for way in ("foreign", "slashes", "long")})
        self.assertIn(b"the endpoint is on another origin, http://127.0.0.1", gateway.program.err)
        well = await self.bare(gateway, "good", "echo", text="well")
        self.assertEqual(well.text, "well", well.received)
        for _, _, headers, _ in self.server.heard:
            self.assertEqual(headers["authorization"], SECRET)
            self.assertNotIn(gateway.keys["tester"], str(headers))
        await self.account(gateway)

    async def test_lost(self) -> None:
        """A stream that is cut or floods, a session that is forgotten: one error, then well."""
        gateway = await self.faulty("good")
        for tool, words in (("cut", "failed to answer"), ("big", "too large")):
            self.assert_failed(await self.bare(gateway, "good", tool), 502, words)
            well = await self.bare(gateway, "good", "echo", text="well")
            self.assertEqual(well.text, "well", well.received)
        session = await self.shake_hands(gateway, "good")
        running = await self.begin(gateway, "good", "hang", session)
        await self.until(lambda: running_there(self.server, "hang"), 3, "the call is there")
        self.server.forgetful = True
        lost = await self.call(gateway, "good", "echo", session, text="x")
        self.assertEqual(lost.status, 404, lost.received)
        self.server.forgetful = False
        self.assert_failed(await running.over, 502, "failed to answer")
        again = await self.shake_hands(gateway, "good")
        well = await self.call(gateway, "good", "echo", again, text="well")
        self.assertEqual(well.text, "well", well.received)
        await self.account(gateway)

    async def test_shown(self) -> None:
        """Routes and metrics name the transport; a server that is down is not ready."""
        gateway = await self.faulty("good", "foreign", era="auto")
        await self.bare(gateway, "good", "echo", text="x")
        routes = (await self.page(gateway, "/routes")).messages[0]["routes"]
        self.assertEqual(
            [(one["name"], one["transport"], one["usable"]) for one in routes],
            [("good", "sse", True), ("foreign", "sse", False)],
        )
        metrics = (await self.page(gateway, "/metrics")).answer.body.decode()
        counted = (
            'mcp_guard_upstream_requests_total{result="success",server="good",transport="sse"}'
        )
        self.assertIn(counted, metrics)
        self.assertEqual((await self.page(gateway, "/ready")).status, 503)

    async def page(self, gateway: RunningGateway, path: str) -> Exchange:
        """One of the gateway's own pages."""
        return await (await self.connect(gateway, http_request("GET", path, {}, b""), "GET")).over


CANCELLED = "notifications/cancelled"


def running_there(server: SseServer, tool: str) -> bool:
    """Whether a server has heard of a call."""
    return any(message.get("params", {}).get("name") == tool for *_, message in server.heard)
