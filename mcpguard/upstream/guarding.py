"""The gateway's side of `warden`: one process that ends the children when the gateway cannot."""

import sys

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.upstream import warden
from mcpguard.upstream.spawning import ISOLATED

log = Logger()


@define(eq=False)
class Wardship:
    """Keeps one warden told of every process group; starts it with the first, and again if lost."""

    processes: IReactorProcess
    clock: IReactorTime
    grace_secs: float
    """How long the warden may take to end."""
    _groups: set[int] = field(init=False, factory=set)
    _pipe: "_Pipe | None" = field(init=False, default=None)

    def born(self, group: int) -> None:
        """A process group exists from now on."""
        self._groups.add(group)
        if self._pipe is not None:
            self._pipe.write(warden.born(group))
            return
        pipe = _Pipe(self)
        try:
            # No stdout or stderr: it never has anything to say.
            self.processes.spawnProcess(
                pipe, sys.executable, [*ISOLATED, *warden.arguments()], env={}, childFDs={0: "w"}
            )
        except OSError:
            # Only the case of the gateway itself being killed is left uncovered.
            log.failure("the warden of the child processes cannot be started")
            return
        self._pipe = pipe
        for known in self._groups:
            pipe.write(warden.born(known))

    def gone(self, group: int) -> None:
        """A process group has ended."""
        self._groups.discard(group)
        if self._pipe is not None:
            self._pipe.write(warden.gone(group))

    def stop(self) -> Deferred[None]:
        """Let the warden go; fires when it is gone. It kills whatever is still on its list."""
        done: Deferred[None] = Deferred()
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            done.callback(None)
        else:
            pipe.dismiss(done)
        return done

    def lost(self, pipe: "_Pipe") -> None:
        """The warden ended by itself; the next birth starts another."""
        if self._pipe is pipe:
            log.warn("the warden of the child processes has ended")
            self._pipe = None


@define(eq=False, slots=False)
class _Pipe(ProcessProtocol):
    """The pipe to the warden."""

    wardship: Wardship
    _done: Deferred[None] | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)

    def write(self, line: bytes) -> None:
        if self.transport is not None:
            self.transport.write(line)

    def dismiss(self, done: Deferred[None]) -> None:
        self._done = done
        assert self.transport is not None
        clock, grace = self.wardship.clock, self.wardship.grace_secs
        self._timer = clock.callLater(grace, self.transport.signalProcess, "KILL")
        self.transport.closeStdin()

    def processEnded(self, reason: Failure) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.wardship.lost(self)
        done, self._done = self._done, None
        if done is not None:
            done.callback(None)
