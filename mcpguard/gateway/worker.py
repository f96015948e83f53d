"""A worker process: the gateway on inherited sockets, told what to do by the parent."""

import faulthandler
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure

from mcpguard.errors import ConfigurationError
from mcpguard.gateway.listeners import Sockets
from mcpguard.gateway.neighbours import Seat
from mcpguard.gateway.processes import settle_down
from mcpguard.gateway.service import Gateway
from mcpguard.observe.logs import JsonObserver
from mcpguard.ops.workers.assignment import Assignment
from mcpguard.ops.workers.channel import CHANNEL_BOUNDS, Channel
from mcpguard.ops.workers.control import ControlFailed
from mcpguard.ops.workers.process import CONTROL_FD, listening_descriptors
from mcpguard.ops.workers.tally import TALLY, Tally, Turns

log = Logger()

TURN_SECS = 0.004
"""How long a connection is left to workers that have fewer."""
ACCEPTED_AT_ONCE = 4
"""Of those that none of them has taken by then."""
LULL_SECS = 1.0
"""How long a worker that was replaced serves the connections it has as if nothing had happened: a
client whose request is on its way would find its connection closed."""
LOOK_SECS = 0.05
"""How often a worker looks whether its upstreams are there before it begins to accept."""
ORPHAN_SECS = 5.0
"""How long a worker whose parent is gone lets running calls finish."""
LAST_SECS = 15.0
"""Beyond that, for children to end; then it ends whatever is left."""


def begin_worker_logging(level: str) -> None:
    """Log JSON lines to standard error, which the parent reads."""
    globalLogBeginner.beginLoggingTo(
        [JsonObserver(sys.stderr.buffer, level)], redirectStandardIO=False
    )
    # A signal ABRT, which the parent sends before KILL, has it say where it hangs.
    faulthandler.enable()


@define(eq=False)
class Worker:
    """One worker's life.

    ``exit`` ends the process at once with a status; it is called when an orderly end is late.
    """

    reactor: Any
    exit: Callable[[int], Any] = os._exit
    control: Channel = field(init=False)
    problem: str = field(init=False, default="")
    """Why it could not start."""
    _gateway: Gateway | None = field(init=False, default=None)
    _directory: Path | None = field(init=False, default=None)
    _orphan: bool = field(init=False, default=False)
    _stopping: bool = field(init=False, default=False)

    def run(self, descriptor: int = CONTROL_FD) -> int:
        """Serve until the parent says stop, or is gone; gives the exit status."""
        # Ctrl-C and the end of a terminal reach every process that belongs to it; the parent
        # decides what they mean.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        self.control = Channel(self.reactor, CHANNEL_BOUNDS, self._orphaned)
        self.control.register("ping", lambda _: None)
        self.control.register("stop", self._stop)
        with socket.socket(fileno=descriptor) as inherited:
            inherited.setblocking(False)
            factory = Factory.forProtocol(lambda: self.control)
            factory.noisy = False
            self.reactor.adoptStreamConnection(inherited.fileno(), socket.AF_UNIX, factory)
        self.reactor.addSystemEventTrigger("before", "shutdown", self._end)
        self.reactor.callWhenRunning(self._listen_for_term)
        self.reactor.callWhenRunning(self._begin)
        self.reactor.run()
        return 1 if self.problem else 0

    # -- start -----------------------------------------------------------------------------

    def _listen_for_term(self) -> None:
        # Supervisors that stop a service by its whole group send it to parent and workers alike;
        # the reactor's own answer to it fails where the parent's word was there already.
        signal.signal(signal.SIGTERM, lambda *_: self.reactor.callFromThread(self._leave))

    def _begin(self) -> None:
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(self._fail)

    async def _start(self) -> None:
        packed: Mapping[str, Any] = await self.control.ask("assignment", os.getpid())
        assignment = Assignment.unpack(packed)
        self._directory = assignment.directory
        tally = Tally.open(assignment.directory / TALLY, assignment.workers)

        def turns(port: Any, connections: Callable[[], int]) -> Turns:
            number = assignment.number
            return Turns(
                port, self.reactor, tally, number, connections, TURN_SECS, ACCEPTED_AT_ONCE
            )

        clients, admin = listening_descriptors(assignment.settings)
        gateway = Gateway(
            assignment.settings,
            self.reactor,
            sockets=Sockets(clients, admin, turns),
            control=self.control,
            seat=Seat(assignment.number, assignment.workers, assignment.directory),
        )
        gateway.audit.start()
        self._gateway = gateway
        gateway.begin()
        await self._wait_for_upstreams(gateway, assignment.settle_secs)
        if self._stopping:
            return
        gateway.listen()
        await self.control.ask("ready", None)
        settle_down()

    async def _wait_for_upstreams(self, gateway: Gateway, secs: float) -> None:
        """Wait until the upstreams are there, as long as others can serve."""
        deadline = self.reactor.seconds() + secs
        while not gateway.readiness()[0] and self.reactor.seconds() < deadline:
            await deferLater(self.reactor, LOOK_SECS)

    def _fail(self, failure: Failure) -> None:
        if self._stopping:
            return
        error = failure.value
        if isinstance(error, ConfigurationError):
            self.problem = "; ".join(error.problems)
        else:
            self.problem = f"{type(error).__name__}: {error}"
            if not isinstance(error, ControlFailed):
                log.failure("the worker cannot start", failure=failure)
        self.control.tell("failed", self.problem)
        self._leave()

    # -- end -------------------------------------------------------------------------------

    def _stop(self, how: Mapping[str, Any]) -> None:
        """Finish what runs and end."""
        if self._gateway is not None:
            self._gateway.keep_sessions = self._gateway.keep_sessions and how["keep"]
            self._gateway.lull_secs = LULL_SECS if how["replaced"] else 0.0
        self._leave()

    def _orphaned(self) -> None:
        """The parent is gone: nobody would ever end this process."""
        self._orphan = True
        if self._stopping:
            # It has not waited for us.
            self.reactor.callLater(ORPHAN_SECS, self.exit, 1)
            return
        log.error("the parent process is gone")
        if self._gateway is not None:
            self._gateway.drain_secs = min(self._gateway.drain_secs, ORPHAN_SECS)
        self.reactor.callLater(ORPHAN_SECS + LAST_SECS, self.exit, 1)
        self._leave()

    def _leave(self) -> None:
        if not self._stopping:
            self._stopping = True
            self.reactor.stop()

    def _end(self) -> Deferred[None] | None:
        """The reactor stops, for whatever reason."""
        self._stopping = True
        if self._gateway is None:
            return None
        return self._gateway.stopService().addBoth(self._ended)

    def _ended(self, result: Any) -> Any:
        if self._orphan and self._directory is not None:
            # The parent cannot do it any more. The others, which end as well, miss nothing by it.
            shutil.rmtree(self._directory, ignore_errors=True)
        return result
