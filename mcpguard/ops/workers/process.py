"""One worker process as the parent holds it: channel, output, health, end."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.config.settings import Settings
from mcpguard.ops.workers.assignment import Assignment
from mcpguard.ops.workers.channel import Channel, ChannelBounds
from mcpguard.ops.workers.control import Peer
from mcpguard.ops.workers.output import Output, OutputBounds
from mcpguard.ops.workers.place import Generation

log = Logger()

CONTROL_FD, LISTENING_FD = 3, 4
"""Where a worker finds its channel and the first of the listening sockets."""

PYTHONPATH = "PYTHONPATH"
MAX_PROBLEM = 500


@frozen
class ProcessBounds:
    """Every limit of a worker process; times in seconds."""

    start_secs: float
    """From its start until it is ready."""
    settle_secs: float
    """How long it may wait for its upstreams before it accepts connections."""
    ping_secs: float
    """Between an answer and the next question whether it is well."""
    pong_secs: float
    """For the answer."""
    missed: int
    """So many questions in a row without an answer, and it is killed."""
    grace_secs: float
    """Beyond the drain, until a worker that is to end is killed."""
    abort_secs: float
    """Between ABRT, which has a hanging interpreter tell where it is, and KILL."""
    pipe_secs: float
    """For its output to be read once it has ended: others may hold the pipe open."""
    channel: ChannelBounds
    output: OutputBounds


def command(log_level: str) -> list[str]:
    """The command line of a worker."""
    # -P: the current directory is no place to import from, unless the parent's path has it.
    return [sys.executable, "-P", "-m", "mcpguard", "worker", "--log-level", log_level]


def listening_descriptors(settings: Settings) -> tuple[tuple[int, ...], int | None]:
    """Where a worker finds the sockets of its settings: those for clients, and the operator's."""
    after = LISTENING_FD + len(settings.server.every_listener)
    return tuple(range(LISTENING_FD, after)), None if settings.admin is None else after


def environment(environ: Mapping[str, str], path: list[str]) -> dict[str, str]:
    """A worker's variables: the parent's, and its module path, so that both import the same."""
    entries = [os.path.abspath(entry) for entry in path]
    return {**environ, PYTHONPATH: os.pathsep.join(dict.fromkeys(entries))}


@define(eq=False)
class WorkerProcess(ProcessProtocol):
    """Implements `place.Worker`.

    ``listening`` are the descriptors of the listening sockets, those for clients first, in the
    order of the settings. ``on_came`` is told of the peer before the worker can ask anything.
    """

    reactor: Any
    """IReactorTime, IReactorProcess and IReactorSocket."""
    assignment: Assignment
    generation: Generation
    listening: tuple[int, ...]
    args: list[str]
    env: Mapping[str, str] = field(repr=False)
    bounds: ProcessBounds
    on_came: Callable[[Peer], None]
    on_ready: Callable[["WorkerProcess"], None]
    on_ended: Callable[["WorkerProcess", str], None]
    peer: Peer = field(init=False)
    transport: Any = field(init=False, default=None)
    _channel: Channel = field(init=False)
    _outputs: dict[int, Output] = field(init=False)
    _ready: bool = field(init=False, default=False)
    _stopping: bool = field(init=False, default=False)
    _gone: bool = field(init=False, default=False)
    """The process has ended; its output may not be read yet."""
    _problem: str = field(init=False, default="")
    _missed: int = field(init=False, default=0)
    _timer: IDelayedCall | None = field(init=False, default=None)
    """The next step of its life or death."""
    _ping: IDelayedCall | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        number, bounds = self.assignment.number, self.bounds
        self._channel = Channel(self.reactor, bounds.channel, self._channel_lost)
        self.peer = Peer(number, self.assignment.life, self._channel)
        self._outputs = {fd: Output(number, bounds.output, self.reactor.seconds) for fd in (1, 2)}
        self._channel.register("assignment", lambda _: self.assignment.pack())
        self._channel.register("ready", self._is_ready)
        self._channel.register("failed", self._has_failed)

    def start(self) -> None:
        """Start the process; when that cannot be, it has ended soon after this returns."""
        self.on_came(self.peer)
        try:
            self._spawn()
        except OSError as error:
            self._problem = f"cannot be started: {error.strerror or error}"
            self.reactor.callLater(0, self._over, "not started")
            return
        self._later(self.bounds.start_secs, self._too_slow)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            ours.setblocking(False)
            factory = _Once(self._channel)
            self.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
            inherited = dict(enumerate((theirs.fileno(), *self.listening), CONTROL_FD))
            # No path=, uid= or gid=: they would make Twisted fork instead of using posix_spawn.
            self.reactor.spawnProcess(
                self,
                sys.executable,
                self.args,
                env=dict(self.env),
                childFDs={0: null, 1: "r", 2: "r", **inherited},
            )
        except OSError:
            self._channel.close()
            raise
        finally:
            # The reactor has its own copy of ours; theirs must be the worker's alone, so that
            # each side sees the end of the other.
            ours.close()
            theirs.close()
            os.close(null)

    # -- life ------------------------------------------------------------------------------

    def _is_ready(self, payload: Any) -> None:
        if self._ready or self._stopping:
            return
        self._ready = True
        self._cancel()
        self._ask_soon()
        self.on_ready(self)

    def _has_failed(self, problem: Any) -> None:
        self._problem = str(problem)[:MAX_PROBLEM]

    def _too_slow(self) -> None:
        self._problem = f"was not ready within {self.bounds.start_secs:g} s"
        self._abort()

    def _ask_soon(self) -> None:
        if self._gone:
            return
        self._ping = self.reactor.callLater(self.bounds.ping_secs, self._ask)

    def _ask(self) -> None:
        asked = self._channel.ask("ping", None, timeout=self.bounds.pong_secs)
        asked.addCallbacks(self._well, self._unwell)

    def _well(self, answer: Any) -> None:
        self._missed = 0
        self._ask_soon()

    def _unwell(self, failure: Failure) -> None:
        # One alone may be the clock's fault, which jumps when a machine wakes up.
        self._missed += 1
        if self._gone:
            return
        if self._missed < self.bounds.missed:
            self._ask_soon()
            return
        log.critical("worker {worker} does not answer, and is killed", worker=self.peer.number)
        self._problem = "did not answer"
        self._abort()

    # -- end -------------------------------------------------------------------------------

    def stop(self, *, keep: bool, replaced: bool = False) -> None:
        """Have it finish and end, or kill it when its time is over; see `place.Worker.stop`."""
        if self._stopping:
            return
        self._stopping = True
        self._cancel()
        how = {"keep": keep, "replaced": replaced}
        if not self._ready or not self._channel.tell("stop", how):
            self._signal(signal.SIGTERM)
        drain = self.generation.settings.server.drain_timeout_secs
        self._later(drain + self.bounds.grace_secs, self._overstayed)

    def _overstayed(self) -> None:
        log.error("worker {worker} does not end, and is killed", worker=self.peer.number)
        self._abort()

    def _abort(self) -> None:
        self._cancel()
        self._signal(signal.SIGABRT)
        self._later(self.bounds.abort_secs, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.transport is None:
            return
        try:
            # By number: Twisted knows few names.
            self.transport.signalProcess(number)
        except ProcessExitedAlready:
            pass

    def _channel_lost(self) -> None:
        """It ends, or has closed the channel, which leaves it nothing to do."""
        if self._timer is None and not self._gone and self.transport is not None:
            self._later(self.bounds.grace_secs, self._overstayed)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Its output goes to the log."""
        self._outputs[childFD].feed(data)

    def processExited(self, reason: Failure) -> None:
        """It is gone: read what it has written, but wait for no one else who holds the pipe."""
        self._cancel()
        self._stop_asking()
        self._later(self.bounds.pipe_secs, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        """It is gone, and its output is read."""
        for output in self._outputs.values():
            output.end()
        error = reason.value
        how = "status 0"
        if isinstance(error, ProcessTerminated):
            how = f"status {error.exitCode}" if error.signal is None else f"signal {error.signal}"
        self._over(how)

    def _over(self, how: str) -> None:
        self._cancel()
        self._stop_asking()
        self._stopping = True
        self.transport = None
        self._channel.close()
        self.on_ended(self, f"{self._problem} ({how})" if self._problem else how)

    # -- timers ----------------------------------------------------------------------------

    def _later(self, secs: float, call: Callable[..., Any], *args: Any) -> None:
        self._timer = self.reactor.callLater(secs, call, *args)

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _stop_asking(self) -> None:
        self._gone = True
        if self._ping is not None and self._ping.active():
            self._ping.cancel()


class _Once(Factory):
    """Gives the one connection its protocol."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    noisy = False

    def buildProtocol(self, addr: UNIXAddress | None) -> Channel:  # type: ignore[override]
        """The channel."""
        return self._channel
