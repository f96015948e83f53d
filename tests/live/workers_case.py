"""A gateway of several workers, watched from outside."""

import os
import re
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import tomlkit
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.live.gateway_process import RunningGateway, audit_complaints, events_of, stdio
from tests.live.processes import marked
from tests.live.raw_client import RawCase
from tests.live.software import HERE

SERVER = [sys.executable, str(HERE / "servers" / "hostile_server.py"), "--era", "modern"]
WORKERS = 2
"""Each costs a second of a processor to start: more than two where the number matters."""
FAILURES = r'mcp_guard_auth_total\{provider="none",result="failure"\} (\S+)'
"""What a page of metrics says of refused keys."""
PACE = 0.05
"""Seconds between two calls of a loop: the processor is for others, too."""


def workers_of(parent: int) -> list[int]:
    """The worker processes of a parent, in the order of their pids."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = []
    for pid in children:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if b"worker" in words:
            found.append(int(pid))
    return sorted(found)


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(link).startswith("socket:")
        except OSError:
            continue  # closed meanwhile
    return found


def is_refused(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@define(eq=False)
class Load:
    """Calls without end over new connections, and what became of them."""

    results: Counter[str] = field(factory=Counter)
    over: bool = False
    loops: list[Deferred[None]] = field(factory=list)

    async def stop(self) -> Counter[str]:
        """Begin no more, wait for the last; gives all results."""
        self.over = True
        await gatherResults(self.loops)
        return self.results


class WorkersCase(RawCase):
    """A gateway of several workers before a stdio server."""

    lossy = False
    """Whether a worker was killed, with what it had not told yet."""

    async def start_workers(self, workers: int = WORKERS, **more: Any) -> RunningGateway:
        """Start it; every worker is ready."""
        gateway = await self.start_gateway(
            [stdio("s", SERVER, era="modern")], server={"workers": workers}, **more
        )
        self.assertEqual(len(self.workers(gateway)), workers)
        return gateway

    def parent(self, gateway: RunningGateway) -> int:
        """The parent's pid."""
        pid = gateway.program.process.pid
        assert isinstance(pid, int)
        return pid

    def port(self, gateway: RunningGateway) -> int:
        """Where clients connect to."""
        return int(gateway.base.rpartition(":")[2])

    def workers(self, gateway: RunningGateway) -> list[int]:
        """The workers' pids."""
        return workers_of(self.parent(gateway))

    async def said(self, gateway: RunningGateway, words: str, times: int = 1) -> None:
        """Wait until the log has these words so often."""

        def enough() -> bool:
            return len(re.findall(words, gateway.program.err.decode())) >= times

        await self.until(enough, 20.0, f"{words!r}, {times} times")

    async def assert_serves(
        self, gateway: RunningGateway, times: int = 6, who: str = "tester"
    ) -> None:
        """Calls over new connections are answered."""
        for number in range(times):
            exchange = await self.call(gateway, "s", "echo", who=who, text=f"t{number}")
            self.assertEqual(exchange.text, f"t{number}", exchange.received)

    async def refused(self, gateway: RunningGateway, times: int) -> None:
        """Send requests with a wrong key, each over a connection of its own."""
        for _ in range(times):
            headers = {"Authorization": "Bearer wrong"}
            exchange = await (await self.send(gateway, "s", {}, headers)).over
            self.assertEqual(exchange.status, 401)

    async def assert_refusals(self, file: Path, count: int) -> None:
        """Wait until so many refused keys are in a trail, and no more."""

        def found() -> int:
            return sum(one["event_type"] == "AuthFailure" for one in events_of(file))

        await self.until(lambda: found() >= count, 10.0, f"{count} refusals in {file.name}")
        self.assertEqual(found(), count)

    async def shown(self, gateway: RunningGateway, pattern: str) -> list[Any]:
        """What the page of whichever worker answers shows of some samples."""
        status, page = await self.page(self.port(gateway), "/metrics")
        self.assertEqual(status, 200)
        return re.findall(pattern, page)

    def load(self, gateway: RunningGateway, loops: int = 4) -> Load:
        """Begin to call without end."""
        load = Load()

        async def loop() -> None:
            while not load.over:
                await self.pause(PACE)
                exchange = await self.call(gateway, "s", "echo", text="x")
                if not exchange.received:
                    load.results["lost"] += 1
                    self.exchanges.remove(exchange)
                else:
                    load.results[str(exchange.status)] += 1

        load.loops += [Deferred.fromCoroutine(loop()) for _ in range(loops)]
        return load

    async def page(self, port: int, path: str) -> tuple[int, str]:
        """Status and text of a page."""

        def get() -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                return error.code, error.read().decode()

        return await deferToThread(get)

    def change(self, gateway: RunningGateway, **sections: dict[str, Any]) -> None:
        """Write other values into sections of the configuration; None leaves one out."""
        path = gateway.audit_file.parent / "mcp-guard.toml"
        document: Any = tomlkit.parse(path.read_text())
        for name, values in sections.items():
            section = document.setdefault(name, {})
            for key, value in values.items():
                section.pop(key, None)
                if value is not None:
                    section[key] = value
        path.write_text(tomlkit.dumps(document))

    async def _judge(self, gateway: RunningGateway) -> None:
        """As for one process; but what a killed worker had not told has no outcome."""
        if not self.lossy:
            await super()._judge(gateway)
            return
        if not gateway.stopping:
            await self.stop(gateway)
        self.assertEqual(gateway.program.status, 0, gateway.program.story())
        self.assertEqual(list(marked(gateway.mark)), [], "processes were left behind")
        said = gateway.program.err.decode()
        for word in ("Traceback", "Unhandled"):
            self.assertNotIn(word, said, gateway.program.story())
        complaints = audit_complaints(gateway.events(), set(gateway.keys))
        self.assertEqual([one for one in complaints if not one.startswith("0 outcomes")], [])
