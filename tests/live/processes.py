"""Other programs as live tests run them: awaited, bounded in time, always ended."""

import json
import os
import re
import shutil
import socket
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.live.software import HERE

MARK = "MCP_GUARD_LIVE_TEST"
"""An environment variable that tells which test a process belongs to."""

SLOWER = 4
"""How many times as long as it should take a test waits for something: the machine may be busy, and
how fast things are is not what is tested."""
SETPRIV = shutil.which("setpriv")
"""Has programs end with the process that runs the tests, where it is to be had: a run that was
killed would leave them behind."""


class Program(ProcessProtocol):
    """A running program, with all it has written so far."""

    def __init__(self, name: str, given: bytes | None) -> None:
        self.name = name
        self.out = b""
        self.err = b""
        self.status: int | None = None
        """The exit status, negative for a signal; None while it runs."""
        self.ended: Deferred[int] = Deferred()
        self._given = given
        self._awaited: list[tuple[re.Pattern[bytes], Deferred[re.Match[bytes]]]] = []

    def connectionMade(self) -> None:
        """Hand over what the program is to read."""
        transport = self.process
        if self._given is not None:
            transport.writeToChild(0, self._given)
            transport.closeStdin()

    @property
    def process(self) -> IProcessTransport:
        """Twisted's own handle of the process."""
        assert self.transport is not None
        return self.transport

    def outReceived(self, data: bytes) -> None:
        """Keep stdout."""
        self.out += data
        self._look()

    def errReceived(self, data: bytes) -> None:
        """Keep stderr."""
        self.err += data
        self._look()

    def said(self, pattern: str) -> "Deferred[re.Match[bytes]]":
        """Fires once stdout or stderr holds the pattern; errbacks when it ends without."""
        awaited: Deferred[re.Match[bytes]] = Deferred()
        self._awaited.append((re.compile(pattern.encode(), re.MULTILINE), awaited))
        self._look()
        return awaited

    def _look(self) -> None:
        for item in list(self._awaited):
            pattern, awaited = item
            found = pattern.search(self.out) or pattern.search(self.err)
            if found:
                self._awaited.remove(item)
                awaited.callback(found)

    def processEnded(self, reason: Failure) -> None:
        """Note how it ended."""
        error = reason.value
        if isinstance(error, ProcessTerminated) and error.signal is not None:
            self.status = -error.signal
        else:
            assert isinstance(error, ProcessDone | ProcessTerminated)
            self.status = error.exitCode or 0
        for _, awaited in self._awaited:
            awaited.errback(AssertionError(self.story()))
        self._awaited.clear()
        self.ended.callback(self.status)

    def story(self) -> str:
        """What there is to say when something went wrong."""
        return (
            f"{self.name}: status {self.status}\n--- stdout\n{self.out[-4000:].decode()}\n"
            f"--- stderr\n{self.err[-8000:].decode(errors='replace')}"
        )

    def signal(self, name: str) -> None:
        """Send a signal, unless it has ended."""
        if self.status is None:
            try:
                self.process.signalProcess(name)
            except ProcessExitedAlready:
                pass


def free_port() -> int:
    """A port nobody listens on, for servers that cannot choose and tell one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def marked(mark: str) -> Iterator[tuple[int, str]]:
    """The living processes whose environment carries the mark: pid and command."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield int(entry.name), command
        except OSError:
            continue  # ended meanwhile


class LiveCase(TestCase):
    """A test that runs programs; each is ended at the latest with the test."""

    timeout = 180

    @property
    def reactor(self) -> Any:
        """The reactor trial runs."""
        from twisted.internet import reactor

        return reactor

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        given: bytes | None = None,
        cwd: str | None = None,
        name: str | None = None,
        terminal: bool = False,
    ) -> Program:
        """Run a program, at a terminal of its own or not; killed at the end of the test."""
        program = Program(name or Path(argv[0]).name, given)
        inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        if SETPRIV is not None:
            # It becomes the program: the process is the same.
            argv = [SETPRIV, "--pdeathsig", "KILL", "--", *argv]
        self.reactor.spawnProcess(
            program,
            argv[0],
            argv,
            {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})},
            path=cwd,
            usePTY=terminal,
        )
        self.addCleanup(self._end, program)
        return program

    async def _end(self, program: Program) -> None:
        program.signal("KILL")
        if program.status is None:
            await program.ended

    async def ends(self, program: Program, seconds: float) -> int:
        """The exit status, which should be there within ``seconds``; kills and fails when not."""
        if program.status is not None:
            return program.status
        late = self.reactor.callLater(seconds * SLOWER, program.signal, "KILL")
        status = await program.ended
        if not late.active():
            self.fail(f"still running after {seconds * SLOWER} s\n{program.story()}")
        late.cancel()
        return status

    async def run_program(
        self, argv: Sequence[str], *, seconds: float, **how: Any
    ) -> tuple[int, str, str]:
        """Run a program to its end: status, stdout, stderr."""
        program = self.start(argv, **how)
        status = await self.ends(program, seconds)
        return status, program.out.decode(), program.err.decode()

    async def until(self, condition: Any, seconds: float, what: str) -> None:
        """Wait until a condition holds, as it should within ``seconds``; fails when it does not."""
        deadline = self.reactor.seconds() + seconds * SLOWER
        while not condition():
            if self.reactor.seconds() > deadline:
                self.fail(f"not within {seconds * SLOWER} s: {what}")
            await self.pause(0.02)

    async def start_http_server(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        ready: str = r"(http://\S+)",
    ) -> str:
        """Run a server until the end of the test; what its ready line's first group says."""
        program = self.start(argv, env=env, name="server")
        late = self.reactor.callLater(60, program.signal, "KILL")
        try:
            found = await program.said(ready)
        finally:
            if late.active():
                late.cancel()
        return found.group(1).decode() if found.re.groups else ""

    def start_client(
        self, client: Sequence[str], jobs: Mapping[str, Any], *, env: Mapping[str, str]
    ) -> Program:
        """Start a client of ``tests/live/clients`` on its jobs."""
        given = json.dumps({"jobs": jobs}).encode()
        # Python's SDKs would load all the system's authorities for each connection's TLS, which
        # has none: a tenth of a second of a processor each. Where they are found by name, none is.
        return self.start(client, env={"SSL_CERT_DIR": str(HERE), **env}, given=given)

    async def finished(self, client: Program, *, seconds: float) -> dict[str, Any]:
        """The reports of a client by job, once it has ended well."""
        if await self.ends(client, seconds) != 0:
            self.fail(client.story())
        try:
            reports: dict[str, Any] = json.loads(client.out)
        except ValueError:
            self.fail(client.story())
        return reports

    async def side_by_side(self, *coroutines: Coroutine[Deferred[Any], Any, None]) -> None:
        """Run stories that have nothing in common at once, since each of them mostly waits.

        All are awaited; fails with the first that fails.
        """
        outcomes = await DeferredList(
            [Deferred.fromCoroutine(one) for one in coroutines], consumeErrors=True
        )
        for _, outcome in outcomes:
            if isinstance(outcome, Failure):
                outcome.raiseException()

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.reactor, seconds)
