"""Tests of one worker process as the parent holds it."""

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import Any

from attrs import evolve
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import ServerSettings, Settings
from mcpguard.ops.workers.assignment import Assignment
from mcpguard.ops.workers.channel import Channel
from mcpguard.ops.workers.control import Peer
from mcpguard.ops.workers.output import OutputBounds
from mcpguard.ops.workers.place import Generation
from mcpguard.ops.workers.process import ProcessBounds, WorkerProcess, command, environment
from mcpguard.policy.buckets import Rate
from tests.ops.workers.wires import BOUNDS as CHANNEL

CHANNEL_BOUNDS = evolve(CHANNEL, frame_bytes=10_000)
BOUNDS = ProcessBounds(
    start_secs=60.0,
    settle_secs=10.0,
    ping_secs=5.0,
    pong_secs=2.0,
    missed=3,
    grace_secs=7.0,
    abort_secs=1.0,
    pipe_secs=0.5,
    channel=CHANNEL_BOUNDS,
    output=OutputBounds(line_bytes=1_000, rate=Rate(10.0, 10)),
)
DRAIN = 30.0


class Pipes:
    """What a process protocol calls its transport."""

    def __init__(self, reactor: "Processes") -> None:
        self._reactor = reactor

    def signalProcess(self, number: int) -> None:
        """Note a signal, or say that there is nobody to have it."""
        if self._reactor.exited:
            raise ProcessExitedAlready
        self._reactor.signals.append(Signals(number).name.removeprefix("SIG"))

    def loseConnection(self) -> None:
        """The pipes are closed: nothing more is read."""
        assert self._reactor.protocol is not None
        self._reactor.ended()


class Processes(Clock):
    """A reactor for one process, and the far end of its channel."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[str] = []
        self.protocol: WorkerProcess | None = None
        self.fds: dict[int, Any] = {}
        self.env: Mapping[str, str] = {}
        self.exited = False
        self.fail = False
        self.over = False
        self.near = StringTransport()
        self.far = Channel(self, CHANNEL_BOUNDS, lambda: None)
        self.far_transport = StringTransport()
        self.how: Failure | None = None

    def adoptStreamConnection(self, fd: int, family: socket.AddressFamily, factory: Any) -> None:
        """Join the channel to the far one."""
        assert family == socket.AF_UNIX
        assert stat.S_ISSOCK(os.fstat(fd).st_mode)
        self.channel = factory.buildProtocol(None)
        self.channel.makeConnection(self.near)
        self.far.makeConnection(self.far_transport)

    def spawnProcess(
        self,
        protocol: WorkerProcess,
        executable: str,
        args: list[str],
        env: Mapping[str, str],
        childFDs: Mapping[int, Any],
    ) -> None:
        """Start it, unless the test says no."""
        if self.fail:
            raise OSError(12, "Cannot allocate memory")
        self.protocol, self.env, self.fds = protocol, env, dict(childFDs)
        for fd in self.fds.values():
            assert isinstance(fd, str) or os.fstat(fd)
        protocol.makeConnection(Pipes(self))

    def carry(self) -> None:
        """Carry what the channels have to say."""
        for _ in range(10):
            for transport, other in ((self.near, self.far), (self.far_transport, self.channel)):
                data = transport.value()
                transport.clear()
                if data:
                    other.dataReceived(data)

    def exit(self, *, status: int = 0, signal: int | None = None, pipes: bool = False) -> None:
        """The process exits; with ``pipes`` somebody else holds its output open."""
        assert self.protocol is not None
        self.exited = True
        well = status == 0 and signal is None
        self.how = Failure(ProcessDone(0) if well else ProcessTerminated(status, signal, None))
        self.protocol.processExited(self.how)
        if not pipes:
            self.ended()

    def ended(self) -> None:
        """Everything is over."""
        assert self.protocol is not None
        assert self.how is not None
        self.over = True
        self.protocol.processEnded(self.how)


class ProcessTestCase(SynchronousTestCase):
    """A worker whose process is a double."""

    def setUp(self) -> None:
        """Start it."""
        self.reactor = Processes()
        self.came: list[Peer] = []
        self.ready: list[WorkerProcess] = []
        self.ended: list[str] = []
        settings = Settings(server=ServerSettings(drain_timeout_secs=DRAIN))
        self.assignment = Assignment(2, 7, 3, settings, Path("/run/x"), 1.5)
        self.listening = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, self.listening)
        self.worker = WorkerProcess(
            self.reactor,
            self.assignment,
            Generation(settings),
            (self.listening,),
            ["python", "worker"],
            {"A": "b"},
            BOUNDS,
            on_came=self.came.append,
            on_ready=self.ready.append,
            on_ended=lambda worker, how: self.ended.append(how),
        )

    def begin(self) -> None:
        """The process is there, and ready."""
        self.worker.start()
        asked = self.reactor.far.ask("ready", None)
        self.reactor.carry()
        self.successResultOf(asked)

    def no_timers(self) -> None:
        """Nothing of it is left on the clock."""
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class StartTests(ProcessTestCase):
    """Until it is ready."""

    def test_process(self) -> None:
        """It has its channel and the listening sockets, and its own output as pipes."""
        self.worker.start()
        fds = self.reactor.fds
        self.assertEqual(set(fds), {0, 1, 2, 3, 4})
        self.assertEqual((fds[1], fds[2], fds[4]), ("r", "r", self.listening))
        self.assertEqual(self.reactor.env, {"A": "b"})
        for fd in (fds[0], fds[3]):
            # Or we would hold the other end of the channel ourselves, and never see its end.
            self.assertRaises(OSError, os.fstat, fd)

    def test_assignment(self) -> None:
        """It is told what it is for when it asks."""
        self.worker.start()
        asked = self.reactor.far.ask("assignment", 1)
        self.reactor.carry()
        self.assertEqual(Assignment.unpack(self.successResultOf(asked)), self.assignment)
        self.assertEqual([(one.number, one.life) for one in self.came], [(2, 7)])

    def test_ready(self) -> None:
        """It says so, once."""
        self.begin()
        self.reactor.far.ask("ready", None).addErrback(lambda _: None)
        self.reactor.carry()
        self.assertEqual(self.ready, [self.worker])
        self.reactor.advance(1)
        self.assertEqual(self.reactor.signals, [])

    def test_slow(self) -> None:
        """It is given time to start, then killed after it could say where it is."""
        self.worker.start()
        self.reactor.advance(60)
        self.assertEqual(self.reactor.signals, ["ABRT"])
        self.reactor.advance(1)
        self.assertEqual(self.reactor.signals, ["ABRT", "KILL"])
        self.reactor.exit(status=1, signal=9)
        self.assertEqual(self.ended, ["was not ready within 60 s (signal 9)"])
        self.no_timers()

    def test_failed(self) -> None:
        """Its reason is kept for the log."""
        self.worker.start()
        self.reactor.far.tell("failed", "audit.file: cannot write " + "x" * 1_000)
        self.reactor.carry()
        self.reactor.exit(status=1)
        (how,) = self.ended
        self.assertTrue(how.startswith("audit.file: cannot write xx"))
        self.assertTrue(how.endswith("xx (status 1)"))
        self.assertLess(len(how), 600)

    def test_cannot_be_started(self) -> None:
        """That is an end too, and not before `start` has returned."""
        self.reactor.fail = True
        self.worker.start()
        self.assertEqual(self.ended, [])
        self.reactor.advance(0)
        self.assertEqual(self.ended, ["cannot be started: Cannot allocate memory (not started)"])
        self.assertTrue(self.reactor.near.disconnecting)
        self.no_timers()


class HealthTests(ProcessTestCase):
    """Whether it is well."""

    def test_well(self) -> None:
        """It is asked now and then; one lost answer is nothing."""
        asked: list[None] = []
        self.reactor.far.register("ping", asked.append)
        self.begin()
        for seconds in (5, 5, 5):
            self.reactor.advance(seconds)
            self.reactor.carry()
        self.assertEqual(len(asked), 3)
        for _ in range(3):
            self.reactor.advance(5)
            self.reactor.advance(2)  # nothing was carried: no answer
            self.reactor.carry()
            self.reactor.advance(5)
            self.reactor.carry()
        self.assertEqual(self.reactor.signals, [])

    def test_hangs(self) -> None:
        """After so many questions in a row without an answer it is killed."""
        self.begin()
        with capturedLogs() as events:
            for _ in range(3):
                self.assertEqual(self.reactor.signals, [])
                self.reactor.advance(5)
                self.reactor.advance(2)
        self.assertEqual(self.reactor.signals, ["ABRT"])
        self.assertEqual([one["log_level"].name for one in events], ["critical"])
        self.reactor.exit(status=1, signal=6)
        self.assertEqual(self.ended, ["did not answer (signal 6)"])
        self.no_timers()

    def test_asked_when_it_ended(self) -> None:
        """Its end leaves no question behind, in whichever order the parts of it are seen."""
        self.begin()
        self.reactor.advance(5)
        self.reactor.exit(status=1, signal=9, pipes=True)
        self.reactor.channel.connectionLost(None)
        self.reactor.advance(0.5)
        self.assertEqual(self.ended, ["signal 9"])
        self.no_timers()


class EndTests(ProcessTestCase):
    """Its end, wanted or not."""

    def test_stop(self) -> None:
        """It is told over the channel whether sessions go on."""
        told: list[Any] = []
        self.reactor.far.register("stop", told.append)
        self.begin()
        self.worker.stop(keep=True, replaced=True)
        self.worker.stop(keep=False)
        self.reactor.carry()
        expected = {"keep": True, "replaced": True}
        self.assertEqual((told, self.reactor.signals), ([expected], []))
        self.reactor.exit()
        self.assertEqual(self.ended, ["status 0"])
        self.no_timers()

    def test_overstays(self) -> None:
        """The drain and some more, then it is killed."""
        self.reactor.far.register("ping", lambda _: None)
        self.begin()
        self.worker.stop(keep=True)
        for _ in range(round(DRAIN + 6)):
            self.reactor.advance(1)
            self.reactor.carry()
        self.assertEqual(self.reactor.signals, [])
        self.reactor.advance(1)
        self.reactor.advance(1)
        self.assertEqual(self.reactor.signals, ["ABRT", "KILL"])

    def test_stop_while_starting(self) -> None:
        """A worker that may not listen to the channel yet gets a signal."""
        self.worker.start()
        self.worker.stop(keep=True)
        self.assertEqual(self.reactor.signals, ["TERM"])
        asked = self.reactor.far.ask("ready", None)
        self.reactor.carry()
        self.successResultOf(asked)
        self.assertEqual(self.ready, [])

    def test_pipe_held_open(self) -> None:
        """Whoever else holds its output is not waited for."""
        self.begin()
        self.reactor.exit(status=3, pipes=True)
        self.assertEqual(self.ended, [])
        self.reactor.advance(0.5)
        self.assertEqual(self.ended, ["status 3"])
        self.no_timers()

    def test_channel_lost(self) -> None:
        """A worker that has closed its channel and stays is killed."""
        self.reactor.far.register("ping", lambda _: None)
        self.begin()
        self.reactor.channel.connectionLost(None)
        self.reactor.advance(7)
        self.reactor.advance(1)
        self.assertEqual(self.reactor.signals, ["ABRT", "KILL"])
        self.reactor.exit(status=1, signal=9)
        self.no_timers()

    def test_output(self) -> None:
        """Both streams go to the log, to the last line."""
        self.begin()
        with capturedLogs() as events:
            self.worker.childDataReceived(1, b"one\ntw")
            self.worker.childDataReceived(2, b"three\n")
            self.worker.childDataReceived(1, b"o")
            self.reactor.exit(status=1)
        said = [formatEvent(one) for one in events]
        self.assertEqual(said, ["worker 2: one", "worker 2: three", "worker 2: two"])


class CommandTests(SynchronousTestCase):
    """How a worker is started."""

    def test_no_secrets(self) -> None:
        """The command line names the log level and nothing else of ours."""
        self.assertEqual(
            command("info")[1:], ["-P", "-m", "mcpguard", "worker", "--log-level", "info"]
        )

    def test_path(self) -> None:
        """It imports from where the parent does, in the same order, whatever its directory."""
        env = environment({"A": "1", "PYTHONPATH": "/old"}, ["", "/b", "/a", "/b"])
        self.assertEqual(env["PYTHONPATH"], f"{os.getcwd()}:/b:/a")
        self.assertEqual(env["A"], "1")
