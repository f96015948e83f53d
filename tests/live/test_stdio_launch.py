"""What a real child finds itself in, and that none survives the gateway, however that ends."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from mcpguard.config.settings import ChildLimits, Secret
from mcpguard.errors import Reason
from mcpguard.upstream import launch
from mcpguard.upstream.link import UpstreamFailure
from tests.live.stdio_servers import ROOT, StdioLiveCase, marked, process_table

ORDINARY = (1 << 31) - 1
"""The bits of the signals 1 to 31; the C library keeps 32 and 33 for itself."""

DRIVER = """
import os, sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from mcpguard.config.settings import Secret, UpstreamSettings
from mcpguard.upstream.stdio import StdioUpstream
from tests.upstream.stdio_rig import ALICE, CLIENT_PARAMS, Books, InboxDouble

async def main():
    script, mark, *ways = sys.argv[1:]
    settings = UpstreamSettings(
        command=sys.executable, args=(script, *ways), env={"MARK": Secret(mark)}, era="legacy"
    )
    books = Books()
    upstream = StdioUpstream(
        settings, reactor=reactor, meter=books, recorder=books, random=float, environ=os.environ
    )
    await upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
    print("open", flush=True)

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
"""


class Ears(ProcessProtocol):
    """Waits for a word of a process, and for its end."""

    def __init__(self) -> None:
        self.heard: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.text = b""

    def outReceived(self, data: bytes) -> None:
        """The first output is the word."""
        self.text += data
        if not self.heard.called:
            self.heard.callback(None)

    def errReceived(self, data: bytes) -> None:
        """Shown by a failing test."""
        self.text += data

    def processEnded(self, reason: Any) -> None:
        """The end."""
        self.ended.callback(None)


class SurroundingsTests(StdioLiveCase):
    """The process a server runs in."""

    async def facts(self, **changes: Any) -> dict[str, Any]:
        """What the server says of its own process."""
        link, _ = await self.open(self.upstream(**changes))
        sink = self.call(link, "facts")
        await sink.ended
        facts: dict[str, Any] = sink.answered["result"]
        return facts

    async def test_environment(self) -> None:
        """Only what is listed is there, not even what the launcher's interpreter adds."""
        os.environ["GATEWAY_SECRET"] = "not for servers"
        self.addCleanup(os.environ.pop, "GATEWAY_SECRET")
        environ = (await self.facts())["environ"]
        self.assertEqual(environ.pop("MARK"), self.mark)
        # The server's own interpreter sets this in itself.
        environ.pop("LC_CTYPE", None)
        allowed = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
        self.assertLessEqual(set(environ), allowed)
        self.assertEqual(environ["PATH"], os.environ["PATH"])

    async def environment_of_a_program(self, **env: str) -> list[str]:
        """What a program that is no interpreter finds in its environment."""
        out = Path(self.mktemp()).absolute()
        secrets = {name: Secret(value) for name, value in (*env.items(), ("MARK", self.mark))}
        command = f"tr '\\0' '\\n' < /proc/self/environ > {out}"
        try:
            await self.open(self.upstream(command="sh", args=("-c", command), env=secrets))
        except UpstreamFailure:
            pass
        return out.read_text().splitlines()

    async def test_environment_of_a_program(self) -> None:
        """It sees exactly what was configured, whatever locale the launcher ran in."""
        lines = await self.environment_of_a_program()
        self.assertIn(f"MARK={self.mark}", lines)
        self.assertEqual([line for line in lines if line.startswith("LC_")], [])
        self.assertIn("LC_CTYPE=C", await self.environment_of_a_program(LC_CTYPE="C"))
        self.assertIn("LC_CTYPE=", await self.environment_of_a_program(LC_CTYPE=""))

    async def test_group_and_session(self) -> None:
        """It leads its own session and group, with default signals and three descriptors."""
        facts = await self.facts()
        self.assertEqual(facts["session"], facts["pid"])
        self.assertEqual(facts["group"], facts["pid"])
        # The server's own interpreter ignores SIGPIPE and SIGXFSZ again; nothing else is.
        ignored = int(facts["sigpipe"], 16)
        self.assertEqual(ignored & ORDINARY & ~(1 << 12 | 1 << 24), 0)
        self.assertLessEqual(len(facts["fds"]), 4)

    async def test_signals_of_a_program(self) -> None:
        """A program that is no interpreter is not born with SIGPIPE ignored."""
        out = Path(self.mktemp()).absolute()
        upstream = self.upstream(command="sh", args=("-c", f"cat /proc/self/status > {out}"))
        try:
            await self.open(upstream)
        except UpstreamFailure:
            pass
        ignored = out.read_text().split("SigIgn:")[1].split()[0]
        self.assertEqual(int(ignored, 16) & ORDINARY, 0)

    async def test_directory(self) -> None:
        """It runs where configured, and a relative command is found from there."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        server = directory / "server"
        server.write_text(f"#!/bin/sh\nexec {sys.executable} {self.script}\n")
        server.chmod(0o755)
        facts = await self.facts(cwd=directory, command="./server", args=())
        self.assertEqual(facts["cwd"], str(directory))

    async def test_limits(self) -> None:
        """Resource limits hold in the server, whatever the gateway's are."""
        limits = ChildLimits(memory=1 << 30, cpu_secs=77, open_files=55)
        table = {
            line[:26].strip(): line[26:].split()[:2]
            for line in (await self.facts(limits=limits))["limits"].splitlines()
        }
        self.assertEqual(table["Max address space"], [str(1 << 30)] * 2)
        self.assertEqual(table["Max cpu time"], ["77", "77"])
        self.assertEqual(table["Max open files"], ["55", "55"])

    async def test_memory_limit_bites(self) -> None:
        """A server that wants more memory than allowed fails alone."""
        link, _ = await self.open(self.upstream(limits=ChildLimits(memory=200 << 20)))
        sink = self.call(link, "allocate", {"bytes": 400 << 20})
        await sink.ended
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_FAILED)

    async def test_not_a_program(self) -> None:
        """A file the kernel cannot execute says so on stderr, which is in the log."""
        lines = self.watch_log("stderr")
        broken = Path(self.mktemp()).absolute()
        broken.write_bytes(b"\x7fELF is what it is not")
        broken.chmod(0o755)
        try:
            await self.open(self.upstream(command=str(broken), args=()))
        except UpstreamFailure as failure:
            self.assertEqual(failure.reason, Reason.UPSTREAM_FAILED)
        else:
            self.fail("it opened")
        await self.until(lambda: lines, "nothing was logged")
        self.assertIn("cannot execute", lines[0])


class OrphanTests(StdioLiveCase):
    """The gateway is killed; its children must not notice too late."""

    async def kill_gateway(self, *ways: str) -> None:
        """SIGKILL a gateway whose child behaves in these ways; nothing may be left."""
        ears = Ears()
        environment = {**os.environ, "PYTHONPATH": ROOT}
        driver = reactor.spawnProcess(
            ears,
            sys.executable,
            [sys.executable, "-c", DRIVER, str(self.script), self.mark, *ways],
            env=environment,
        )
        self.addCleanup(self.put_down, driver)
        await ears.heard
        self.assertIn(b"open", ears.text)
        self.assertNotEqual(marked(self.mark), [])
        below = [pid for pid, parent in process_table().items() if parent == driver.pid]
        driver.signalProcess("KILL")
        await ears.ended
        await self.until(lambda: not marked(self.mark), "an orphan was left", 5)
        await self.until(
            lambda: not set(below) & set(process_table()), "the warden or a child was left", 5
        )

    def put_down(self, driver: Any) -> None:
        """Leave nothing behind, even when the test failed."""
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)
        if driver.pid is not None:
            driver.signalProcess("KILL")

    async def test_polite_child(self) -> None:
        """A child that ends with its input."""
        await self.kill_gateway()

    async def test_stubborn_child(self) -> None:
        """A child that ends at nothing."""
        await self.kill_gateway("stubborn")

    async def test_grandchildren(self) -> None:
        """What the child itself started, polite and not."""
        await self.kill_gateway("stubborn", "grandchild", "stubborn-grandchild")

    async def test_born_to_a_dead_gateway(self) -> None:
        """A launcher that finds another parent than the one it was given does not go on."""
        argv = [
            sys.executable,
            "-I",
            "-S",
            *launch.arguments(1, None, None, None, None, None, "/bin/echo", ("echo", "alive")),
        ]
        ears = Ears()
        reactor.spawnProcess(ears, sys.executable, argv, env={})
        await ears.ended
        self.assertEqual(ears.text, b"")
