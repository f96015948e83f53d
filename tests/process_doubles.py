"""Doubles of child processes: spawned, written to, signalled and ended without a real one."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.error import (
    ConnectionDone,
    ProcessDone,
    ProcessExitedAlready,
    ProcessTerminated,
)
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

Server = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]
"""What runs in a double: called with each message, gives the messages it writes in answer."""


@implementer(IProcessTransport)
class ProcessDouble:
    """A child process that does what a test says; ``asked`` is everything that was done to it.

    ``obeys`` lists what ends it: ``EOF``, ``TERM``, ``KILL``. ``server``, when given, is called
    with every message written to it and yields the messages it answers with at once.
    """

    def __init__(
        self,
        reactor: "ProcessReactor",
        protocol: ProcessProtocol,
        argv: Sequence[str],
        env: Mapping[str, str],
        pid: int,
        obeys: Collection[str],
        server: Server | None,
    ) -> None:
        self.reactor = reactor
        self.protocol = protocol
        self.argv = list(argv)
        self.env = dict(env)
        self.pid: int | None = pid
        self.group = pid
        self.obeys = set(obeys)
        self.server = server
        self.asked: list[str] = []
        self.written = b""
        self.producer: Any = None
        self.members = 1
        """Processes in its group, itself included."""
        self.pipes: dict[int, PipeDouble] = {n: PipeDouble(self, n) for n in (0, 1, 2)}
        self.exited = False
        self._status: Failure | None = None
        self._told = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Every complete message written to it."""
        return [json.loads(line) for line in self.written.split(b"\n")[:-1]]

    # what a test does with it

    def says(self, *messages: dict[str, Any] | bytes) -> None:
        """Write messages (or raw bytes) to stdout."""
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            if 1 in self.pipes:
                self.protocol.outReceived(data)

    def exits(self, code: int = 0, signal: int | None = None, holding: bool = False) -> None:
        """End the process; ``holding`` leaves its pipes open in other hands."""
        if self.exited:
            return
        self.exited = True
        self.pid = None
        self.members -= 1
        kind = ProcessDone if code == 0 and signal is None else ProcessTerminated
        status = signal if signal is not None else code << 8
        args = (status,) if kind is ProcessDone else (code, signal, status)
        self._status = Failure(kind(*args))
        if not self.reactor.pipes_first:
            self._tell_exit()
        if not holding:
            for pipe in list(self.pipes.values()):
                pipe.connectionLost(Failure(ConnectionDone()))
        if self.reactor.pipes_first:
            self._tell_exit()
        self._maybe_ended()

    def closes(self, number: int) -> None:
        """Close one of its pipes from its side."""
        self.pipes[number].connectionLost(Failure(ConnectionDone()))

    def signalled(self, name: str) -> None:
        """Take a signal (or ``EOF``), and end if it is one that is obeyed."""
        self.asked.append(name)
        if name in self.obeys:
            self.members = min(self.members, 0 if self.exited else 1)
            if name == "EOF":
                self.exits(0)
            else:
                self.exits(0, signal=15 if name == "TERM" else 9)

    # IProcessTransport and what every process transport has

    def write(self, data: bytes) -> None:
        """Take what is written to stdin."""
        self.written += data
        if self.server is not None:
            for line in data.split(b"\n")[:-1]:
                for answer in self.server(json.loads(line)):
                    self.reactor.callLater(0, self.says, answer)

    def writeToChild(self, childFD: int, data: bytes) -> None:
        """Only stdin is written to."""
        self.write(data)

    def writeSequence(self, seq: Iterable[bytes]) -> None:
        """All of it at once."""
        self.write(b"".join(seq))

    def closeChildFD(self, descriptor: int) -> None:
        """Close a pipe from our side."""
        if descriptor == 0:
            self.closeStdin()

    def closeStdin(self) -> None:
        """Tell the child there is no more input."""
        if self.producer is not None:
            raise AssertionError("closing stdin would wait for the producer")
        self.signalled("EOF")

    def closeStdout(self) -> None:
        """Never used."""
        raise NotImplementedError

    def closeStderr(self) -> None:
        """Never used."""
        raise NotImplementedError

    def loseConnection(self) -> None:
        """Never used: it waits for what nobody may read."""
        raise NotImplementedError

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Remember who fills stdin."""
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Nobody fills stdin any more."""
        self.producer = None

    def signalProcess(self, signalID: str | int) -> None:
        """Signal the process alone."""
        if self.pid is None:
            raise ProcessExitedAlready
        self.signalled({15: "TERM", 9: "KILL"}.get(int(signalID), str(signalID)) + " (alone)")

    def getPeer(self) -> Any:
        """Pipes have none."""
        raise NotImplementedError

    def getHost(self) -> Any:
        """Pipes have none."""
        raise NotImplementedError

    def _tell_exit(self) -> None:
        assert self._status is not None
        self._told = True
        self.protocol.processExited(self._status)

    def _maybe_ended(self) -> None:
        if self._told and not self.pipes and self._status is not None:
            status, self._status = self._status, None
            self.protocol.processEnded(status)


class PipeDouble:
    """One pipe of a `ProcessDouble`."""

    def __init__(self, process: ProcessDouble, number: int) -> None:
        self.process = process
        self.number = number

    def connectionLost(self, reason: Failure) -> None:
        """The pipe is closed, from either side."""
        if self.process.pipes.pop(self.number, None) is not None:
            self.process.protocol.childConnectionLost(self.number)
            self.process._maybe_ended()


@implementer(IReactorProcess)
class ProcessReactor(Clock):
    """A clock that spawns `ProcessDouble` children; ``children`` lists them in order.

    ``server_for`` makes the server that runs in each child, from its number (0, 1, …);
    ``refuses`` is raised by the next spawns. ``pipes_first`` lets the ends of the pipes be seen
    before the exit, as happens as often as the other order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.children: list[ProcessDouble] = []
        self.wardens: list[ProcessDouble] = []
        """Processes of which only stdin is used."""
        self.obeys: Collection[str] = ("EOF", "TERM", "KILL")
        self.server_for: Callable[[int], Server | None] = lambda number: None
        self.refuses: Exception | None = None
        self.pipes_first = False

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: Any,
        args: Any = (),
        env: Any = None,
        path: Any = None,
        uid: Any = None,
        gid: Any = None,
        usePTY: Any = False,
        childFDs: Any = None,
    ) -> Any:
        """Start a double."""
        if self.refuses is not None:
            raise self.refuses
        assert path is None
        assert env is not None
        if childFDs == {0: "w"}:
            warden = ProcessDouble(self, processProtocol, args, env, 1, ("EOF", "KILL"), None)
            warden.pipes = {0: PipeDouble(warden, 0)}
            self.wardens.append(warden)
            processProtocol.makeConnection(warden)
            return warden
        child = ProcessDouble(
            self,
            processProtocol,
            args,
            env,
            1000 + len(self.children),
            self.obeys,
            self.server_for(len(self.children)),
        )
        self.children.append(child)
        processProtocol.makeConnection(child)
        return child

    def signal_group(self, group: int, number: int) -> bool:
        """Signal a child's group as `mcpguard.upstream.spawning.signal_group` would."""
        child = next((one for one in self.children if one.group == group), None)
        if child is None or child.members <= 0:
            return False
        if number:
            child.signalled({15: "TERM", 9: "KILL"}[number])
        return True

    def pump_all(self, seconds: float, step: float = 0.01) -> None:
        """Let that much time pass in small steps."""
        for _ in range(round(seconds / step)):
            self.advance(step)
