"""Hostile servers and hostile clients through the whole gateway, as a process."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.live.gateway_process import RunningGateway, http, stdio
from tests.live.processes import marked
from tests.live.raw_client import MIB, Exchange, RawCase, descriptors, http_request, memory
from tests.live.software import HERE

HOSTILE = [sys.executable, "-S", "-E", str(HERE / "servers" / "hostile_server.py")]
SLACK = 64 * MIB
"""Memory that parsing, copies and the allocator may take on top of what is held."""


class FaultCase(RawCase):
    """What the tests have in common."""

    timeout = 180

    def hostile(self, name: str, *ways: str, era: str = "modern", **more: Any) -> dict[str, Any]:
        """The configuration of a hostile server; it notes cancellations in `journal`."""
        arguments = ["--era", era, "--journal", str(self.journal(name)), *ways]
        return stdio(name, [*HOSTILE, *arguments], era=era, **more)

    def journal(self, name: str) -> Path:
        """The file in which a server notes what it was told to cancel."""
        path = Path(f"{name}.journal").resolve()
        self.addCleanup(path.unlink, missing_ok=True)
        return path

    def cancellations(self, name: str) -> int:
        """How many calls a server was told to cancel."""
        path = Path(f"{name}.journal")
        return len(path.read_text().splitlines()) if path.exists() else 0

    async def assert_well(self, gateway: RunningGateway, server: str) -> None:
        """A caller who does nothing wrong is served."""
        exchange = await self.call(gateway, server, "echo", text="well")
        self.assertEqual(exchange.text, "well", exchange.received)

    async def at_rest(self, gateway: RunningGateway) -> int:
        """The descriptors of a gateway that does nothing: the same number for half a second."""
        found, since = descriptors(gateway), time.monotonic()
        while time.monotonic() - since < 0.5:
            await self.pause(0.05)
            if descriptors(gateway) != found:
                found, since = descriptors(gateway), time.monotonic()
        return found

    def assert_failed(self, exchange: Exchange, status: int, word: str) -> None:
        """A caller was told what happened in words that give nothing away."""
        self.assertEqual(exchange.status, status, exchange.received)
        error = exchange.error
        self.assertEqual(error["code"], status)
        self.assertIn(word, error["message"])
        for secret in (b"hostile", b"python", b"Traceback", b"secret", b"/"):
            self.assertNotIn(secret, exchange.answer.body)


class ServerFaults(FaultCase):
    """Stdio servers that do it wrong."""

    async def test_killed_during_calls(self) -> None:
        """SIGKILL fails every running call at once; the next finds a new child."""
        gateway = await self.start_gateway(
            [self.hostile("shared"), self.hostile("own", era="legacy")]
        )
        session = await self.shake_hands(gateway, "own")
        running = await self.many(20, gateway, "shared", "hang")
        running += await self.many(20, gateway, "own", "hang", session)
        await self.pause(0.5)
        for pid, command in marked(gateway.mark):
            if "hostile_server" in command:
                os.kill(pid, signal.SIGKILL)
        await self.all_over(running)
        for exchange in running:
            self.assert_failed(exchange, 502, "failed to answer")
        await self.assert_well(gateway, "shared")
        lost = await self.call(gateway, "own", "echo", session, text="x")
        self.assertEqual(lost.status, 404)
        session = await self.shake_hands(gateway, "own")
        self.assertEqual((await self.call(gateway, "own", "echo", session, text="x")).text, "x")
        outcomes = await self.account(gateway)
        failed = [one for one in outcomes if one["status"] == "failed"]
        self.assertEqual({one["reason"] for one in failed}, {"upstream_failed"})
        self.assertEqual(len(failed), 40)

    async def test_line_of_20_mib(self) -> None:
        """A line above the bound is a clear error, and costs no more memory than the bound; one
        below it comes whole.
        """
        gateway = await self.start_gateway([self.hostile("server")])
        await self.assert_well(gateway, "server")
        before, _ = memory(gateway)
        exchange = await self.call(gateway, "server", "line", bytes=20 * MIB)
        self.assert_failed(exchange, 502, "too large")
        self.assertLess(memory(gateway)[1] - before, SLACK)
        await self.assert_well(gateway, "server")
        endless = await self.call(gateway, "server", "line", bytes=300 * MIB)
        self.assert_failed(endless, 502, "too large")
        self.assertLess(memory(gateway)[1] - before, SLACK)
        # After a second crash there is a pause before the next child.
        refused = await self.call(gateway, "server", "echo", text="x")
        self.assert_failed(refused, 503, "not available")
        await self.pause(float(refused.answer.headers["Retry-After"]))
        await self.assert_well(gateway, "server")
        whole = await self.call(gateway, "server", "big", bytes=15 * MIB)
        self.assertEqual((whole.status, len(whole.text)), (200, 15 * MIB))
        await self.account(gateway)

    async def test_noise(self) -> None:
        """Banners, a flood on stderr, answers nobody asked for and questions without need: each
        caller still gets its own answer, and only that.
        """
        gateway = await self.start_gateway(
            [
                self.hostile("modern", "banner", "flood"),
                self.hostile("legacy", "banner", "flood", era="legacy"),
            ]
        )
        session = await self.shake_hands(gateway, "legacy")
        before, _ = memory(gateway)
        for tool, words in (("babble", "babbled"), ("ask", "asked")):
            for one in (None, session):
                server = "legacy" if one else "modern"
                exchanges = await self.many(10, gateway, server, tool, one)
                await self.all_over(exchanges)
                for exchange in exchanges:
                    self.assertEqual((exchange.status, exchange.text), (200, words))
                    self.assertEqual(len(exchange.messages), 1, exchange.received)
        self.assertLess(memory(gateway)[1] - before, SLACK)
        strays = await self.metric(gateway, "mcp_guard_upstream_stray_messages_total")
        self.assertGreater(strays, 100)
        self.assertLess(len(gateway.program.err), 2 * MIB)
        await self.account(gateway)

    async def test_child_that_never_reads(self) -> None:
        """What does not fit into its pipe is refused or times out; the child is given up."""
        server = self.hostile("server", timeout_secs=2, max_message_size=4 * MIB)
        gateway = await self.start_gateway([server, self.hostile("other")])
        await self.assert_well(gateway, "server")
        before, _ = memory(gateway)
        deaf = await self.begin(gateway, "server", "deafen")
        calls = await self.many(40, gateway, "server", "echo", text="x" * 900_000)
        await self.assert_well(gateway, "other")
        await self.all_over([deaf, *calls])
        statuses = {exchange.status for exchange in (deaf, *calls)}
        self.assertTrue(statuses <= {502, 503, 504}, statuses)
        self.assertIn(503, statuses)
        # Its pipe's queue, one answer's worth, and as many requests on their way in.
        self.assertLess(memory(gateway)[1] - before, 40 * MIB + SLACK)
        await self.assert_well(gateway, "server")
        await self.account(gateway)

    async def test_child_that_never_answers(self) -> None:
        """Its callers get 504 in time, and it is told to stop each of their calls."""
        gateway = await self.start_gateway(
            [
                self.hostile("modern", timeout_secs=1),
                self.hostile("legacy", era="legacy", timeout_secs=1),
            ]
        )
        session = await self.shake_hands(gateway, "legacy")
        calls = await self.many(5, gateway, "modern", "hang")
        calls += await self.many(5, gateway, "legacy", "hang", session)
        await self.all_over(calls)
        for exchange in calls:
            self.assert_failed(exchange, 504, "did not answer in time")
        await self.until(
            lambda: [self.cancellations(one) for one in ("modern", "legacy")] == [5, 5],
            5.0,
            "five cancellations each",
        )
        await self.assert_well(gateway, "modern")
        await self.account(gateway)


class HttpServerFaults(FaultCase):
    """A server over HTTP that does it wrong."""

    async def test_every_way(self) -> None:
        """Each is a clear error in time, none of its words get out, and the next call works."""
        script = str(HERE / "servers" / "hostile_http.py")
        journal = self.journal("http")
        url = await self.start_http_server([sys.executable, script, "--journal", str(journal)])
        gateway = await self.start_gateway([http("http", url, era="modern", timeout_secs=1)])
        await self.assert_well(gateway, "http")
        before, _ = memory(gateway)
        for tool, status, words in (
            ("hang", 504, "did not answer in time"),
            ("trickle", 504, "did not answer in time"),
            ("cut", 502, "failed to answer"),
            ("foreign", 502, "failed to answer"),
            ("event", 502, "too large"),
            ("page", 502, "failed to answer"),
            ("redirect", 502, "failed to answer"),
        ):
            exchange = await self.call(gateway, "http", tool)
            self.assert_failed(exchange, status, words)
            await self.assert_well(gateway, "http")
        half = await self.call(gateway, "http", "half")
        self.assertEqual((half.status, half.error["code"]), (200, 502))
        self.assertLess(memory(gateway)[1] - before, SLACK)
        await self.account(gateway)
        self.assertEqual(self.cancellations("http"), 1)

    async def test_clients_that_leave(self) -> None:
        """A client that leaves takes its call at the server with it."""
        script = str(HERE / "servers" / "hostile_http.py")
        journal = self.journal("http")
        url = await self.start_http_server([sys.executable, script, "--journal", str(journal)])
        gateway = await self.start_gateway([http("http", url, era="modern")])
        calls = await self.many(20, gateway, "http", "hang")
        await self.pause(0.5)
        for exchange in calls:
            exchange.leave()
        await self.until(lambda: self.cancellations("http") == 20, 5.0, "closed connections")
        outcomes = await self.account(gateway)
        self.assertEqual({one["status"] for one in outcomes}, {"cancelled"})


class ClientFaults(FaultCase):
    """Clients that do it wrong."""

    async def test_clients_that_leave(self) -> None:
        """Stateless calls end with their connection; those in a session run to their end."""
        gateway = await self.start_gateway(
            [self.hostile("modern"), self.hostile("legacy", era="legacy")]
        )
        session = await self.shake_hands(gateway, "legacy")
        await self.assert_well(gateway, "modern")
        calls = await self.many(20, gateway, "modern", "hang")
        calls += await self.many(20, gateway, "legacy", "slow", session, seconds=2)
        await self.pause(0.5)
        for exchange in calls:
            exchange.leave()
        await self.until(lambda: self.cancellations("modern") == 20, 5.0, "cancellations")
        outcomes = await self.account(gateway)
        found = [(one["server"], one["status"]) for one in outcomes if one.get("tool") != "echo"]
        self.assertEqual(found.count(("modern", "cancelled")), 20)
        self.assertEqual(self.cancellations("legacy"), 0)
        self.assertEqual(found.count(("legacy", "cancelled")), 0)
        slow = [one for one in outcomes if one.get("tool") == "slow"]
        self.assertEqual([one["status"] for one in slow], ["success"] * 20)

    async def test_clients_that_never_read(self) -> None:
        """Big answers and endless streams nobody reads cost a bounded amount of memory, and other
        callers nothing; who falls too far behind a stream is cut, and its call cancelled.
        """
        gateway = await self.start_gateway(
            [
                self.hostile("modern"),
                self.hostile("legacy", era="legacy"),
                self.hostile("other"),
            ]
        )
        session = await self.shake_hands(gateway, "legacy")
        await self.assert_well(gateway, "other")
        before, _ = memory(gateway)
        talk: dict[str, Any] = {"count": 100_000, "bytes": 32_768}
        stuck = [await self.begin(gateway, "modern", "tell", log=True, reads=False, **talk)]
        talk["count"] = 1000
        stuck.append(await self.begin(gateway, "legacy", "tell", session, reads=False, **talk))
        for _ in range(10):
            await self.assert_well(gateway, "other")
        await self.until(lambda: self.cancellations("modern") == 1, 20.0, "the cancellation")
        big = await self.many(36, gateway, "modern", "big", reads=False, bytes=8 * MIB)
        # Both streams were cut, and of the 36 answers there is room for 31.
        while await self.metric(gateway, "mcp_guard_connections_dropped_total") < 2 + 5:
            await self.assert_well(gateway, "other")
        self.assertLess(memory(gateway)[1] - before, 256 * MIB + 2 * SLACK)
        for exchange in stuck + big:
            exchange.leave()
        ended = await self.send(
            gateway, "legacy", None, {"Mcp-Session-Id": session}, method="DELETE"
        )
        self.assertEqual((await ended.over).status, 200)
        await self.account(gateway)

    async def test_slow_connections(self) -> None:
        """Three hundred connections that trickle keep nobody out, and leave nothing behind."""
        gateway = await self.start_gateway([self.hostile("server")])
        await self.assert_well(gateway, "server")
        before = await self.at_rest(gateway)
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        headers = {"Authorization": f"Bearer {gateway.keys['tester']}"}
        whole = http_request("POST", "/mcp/server", headers, body)
        starts = (whole[:1], whole[:40], whole[:-1])
        slow = [await self.connect(gateway, starts[number % 3]) for number in range(300)]
        for _ in range(5):
            await self.assert_well(gateway, "server")
        self.assertGreaterEqual(descriptors(gateway), before + 300)
        for exchange in slow:
            exchange.leave()
        await self.until(lambda: descriptors(gateway) <= before, 5.0, "closed descriptors")
        await self.account(gateway)

    async def test_nothing_is_left_behind(self) -> None:
        """A burst of sessions, calls, failures and departures leaves no descriptor and no child."""
        gateway = await self.start_gateway(
            [self.hostile("modern"), self.hostile("legacy", era="legacy")]
        )
        await self.assert_well(gateway, "modern")
        before, children = await self.at_rest(gateway), len(list(marked(gateway.mark)))
        for _ in range(2):
            sessions = [await self.shake_hands(gateway, "legacy") for _ in range(8)]
            calls = [
                await self.begin(gateway, "legacy", tool, session, text="x")
                for session in sessions
                for tool in ("echo", "hang")
            ]
            streams = [
                await self.send(gateway, "legacy", None, {"Mcp-Session-Id": session}, method="GET")
                for session in sessions
            ]
            calls += await self.many(20, gateway, "modern", "echo", text="x")
            calls += (leaving := await self.many(20, gateway, "modern", "hang"))
            calls.append(await self.begin(gateway, "nowhere", "echo", text="x"))
            await self.pause(0.3)
            for exchange in (*leaving, *streams[:4]):
                exchange.leave()
            for session in sessions:
                headers = {"Mcp-Session-Id": session}
                await (await self.send(gateway, "legacy", None, headers, method="DELETE")).over
            await self.all_over(calls + streams)
        await self.until(
            lambda: len(list(marked(gateway.mark))) <= children, 10.0, "children that have ended"
        )
        await self.until(lambda: descriptors(gateway) <= before, 5.0, "closed descriptors")
        await self.account(gateway)
