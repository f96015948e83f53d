"""One audit trail and one page of metrics over several workers, when processes are killed."""

import os
import re
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import tomlkit

from tests.live.gateway_process import RunningGateway, events_of, stdio
from tests.live.processes import marked
from tests.live.raw_client import Exchange, RawCase, http_request
from tests.live.software import HERE

SERVER = [sys.executable, str(HERE / "servers" / "hostile_server.py"), "--era", "modern"]
FAILURES = r'mcp_guard_auth_total\{provider="none",result="failure"\} (\S+)'


class WorkerObserversTests(RawCase):
    """A gateway of two workers."""

    async def start_two(self) -> RunningGateway:
        """Start it."""
        servers = [stdio("s", SERVER, era="modern")]
        return await self.start_gateway(servers, server={"workers": 2})

    async def _judge(self, gateway: RunningGateway) -> None:
        """Each test looks at the trail itself; nothing may be left of the processes."""
        if not gateway.stopping:
            await self.stop(gateway)
        await self.until(lambda: not list(marked(gateway.mark)), 20.0, "the end of all processes")

    async def refused(self, gateway: RunningGateway, times: int) -> None:
        """Send requests with a wrong key, each over a connection of its own."""
        for _ in range(times):
            headers = {"Authorization": "Bearer wrong", "Content-Type": "application/json"}
            data = http_request("POST", "/mcp/s", headers, b"{}")
            exchange: Exchange = await (await self.connect(gateway, data)).over
            self.assertEqual(exchange.status, 401)

    async def page(self, gateway: RunningGateway) -> str:
        """Scrape whichever worker answers."""
        data = http_request("GET", "/metrics", {}, b"")
        exchange: Exchange = await (await self.connect(gateway, data, "GET")).over
        self.assertEqual(exchange.status, 200)
        return exchange.answer.body.decode()

    async def shown(self, gateway: RunningGateway, pattern: str) -> list[Any]:
        """What a scrape shows of some samples."""
        return re.findall(pattern, await self.page(gateway))

    def workers(self, gateway: RunningGateway) -> list[int]:
        """The pids of the workers."""
        parent = gateway.program.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return [int(pid) for pid, command in commands.items() if b"worker" in command.split(b"\0")]

    async def failures(self, file: Path, count: int) -> None:
        """Wait until so many refused keys are in a trail, and no more."""

        def found() -> int:
            return sum(one["event_type"] == "AuthFailure" for one in events_of(file))

        await self.until(lambda: found() >= count, 10.0, f"{count} refusals in {file.name}")
        self.assertEqual(found(), count)

    async def test_a_killed_worker(self) -> None:
        """The sums do not go down, its end is shown and recorded, its refusals are in the trail."""
        gateway = await self.start_two()
        await self.refused(gateway, 12)
        await self.failures(gateway.audit_file, 12)
        self.assertEqual(await self.shown(gateway, FAILURES), ["12.0"])
        workers = self.workers(gateway)
        self.assertEqual(len(workers), 2)
        os.kill(workers[0], signal.SIGKILL)
        crashes = r'mcp_guard_worker_crashes_total\{worker="(\d)"\} 1.0'
        up = r'mcp_guard_worker_up\{worker="\d"\} (\S+)'
        await self.until(
            lambda: (
                any(one["event_type"] == "WorkerEvent" for one in gateway.events()[-8:])
                and b"is ready" in gateway.program.err.rpartition(b"signal 9")[2]
            ),
            20.0,
            f"another worker\n{gateway.program.story()}",
        )
        await self.refused(gateway, 6)
        self.assertEqual(await self.shown(gateway, FAILURES), ["18.0"])
        self.assertEqual(await self.shown(gateway, up), ["1.0", "1.0"])
        self.assertEqual(len(await self.shown(gateway, crashes)), 1)
        await self.failures(gateway.audit_file, 18)
        crashed = [one for one in gateway.events() if one.get("status") == "crashed"]
        self.assertEqual([one["event_type"] for one in crashed], ["WorkerEvent"])
        self.assertIn("signal 9", crashed[0]["details"]["how"])

    async def test_a_worker_that_hangs(self) -> None:
        """A stopped worker is shown as not up, and the page of the others comes all the same."""
        gateway = await self.start_two()
        await self.refused(gateway, 10)
        await self.shown(gateway, FAILURES)
        hanging = self.workers(gateway)[0]
        os.kill(hanging, signal.SIGSTOP)
        self.addCleanup(_go_on, hanging)
        up = r'mcp_guard_worker_up\{worker="\d"\} (\S+)'
        # The kernel may give a connection to the one that hangs: another is tried then.
        data = http_request("GET", "/metrics", {}, b"")
        tries = [await self.connect(gateway, data, "GET") for _ in range(12)]
        await self.until(lambda: any(one.over.called for one in tries), 10.0, "a page")
        page = next(one for one in tries if one.over.called).answer.body.decode()
        self.assertEqual(sorted(re.findall(up, page)), ["0.0", "1.0"])
        self.assertEqual(re.findall(FAILURES, page), ["10.0"])
        os.kill(hanging, signal.SIGCONT)

    async def test_a_killed_parent(self) -> None:
        """The workers finish what runs, put it into the trail themselves, and end."""
        gateway = await self.start_two()
        slow = await self.begin(gateway, "s", "slow", seconds=1.5)
        await self.pause(0.5)
        gateway.stopping = True
        gateway.program.signal("KILL")
        await slow.over
        self.assertEqual(slow.text, "slow")
        await self.until(lambda: not list(marked(gateway.mark)), 20.0, "the end of all processes")
        calls = [one for one in gateway.events() if one["event_type"] == "ToolCall"]
        self.assertEqual([one["status"] for one in calls], ["success"])

    async def test_another_file(self) -> None:
        """A reload may name another audit file; one that cannot be opened changes nothing."""
        gateway = await self.start_two()
        config = gateway.audit_file.parent / "mcp-guard.toml"
        settings = tomllib.loads(config.read_text())
        await self.refused(gateway, 2)

        async def reload(file: Path, words: bytes) -> None:
            settings["audit"]["file"] = str(file)
            config.write_text(tomlkit.dumps(settings))
            gateway.program.signal("HUP")
            await self.until(lambda: words in gateway.program.err, 30.0, repr(words))

        await reload(config.parent / "absent" / "audit.log", b"not reloaded: audit.file")
        await self.refused(gateway, 3)
        other = config.parent / "other.log"
        await reload(other, b": reloaded")
        await self.refused(gateway, 4)
        await self.failures(gateway.audit_file, 5)
        await self.failures(other, 4)
        self.assertEqual(await self.shown(gateway, FAILURES), ["9.0"])


def _go_on(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
