"""One child process that speaks JSON-RPC on its pipes: framing, queues, and the way it is ended."""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.errors import Reason
from mcpguard.protocol.framing import LineFramer, LineTooLong
from mcpguard.protocol.jsonrpc import Bounds, Malformed, parse_object
from mcpguard.upstream.chatter import Chatter
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.spawning import KILL, PRESENT, TERM, SignalGroup

log = Logger()

POLL_SECS = 0.02
"""When the rest of an ended child's group is looked for first; each time takes twice as long."""


@frozen
class ChildBounds:
    """How much one child may cost, and how long it is waited for."""

    max_message: int
    """Bytes of one message, either direction."""
    max_unsent: int
    """Bytes that may wait until the child reads its input."""
    stall_secs: float
    """How long it may leave its input unread before it is killed."""
    grace_secs: float
    """Between the steps that end it: end of input, TERM, KILL."""
    json: Bounds
    """The structure of one message."""


@frozen
class Exit:
    """How a child ended."""

    code: int | None
    signal: int | None
    wanted: bool
    """True when we had asked it to stop before."""

    def __str__(self) -> str:
        return f"signal {self.signal}" if self.signal is not None else f"exit code {self.code}"


class Owner(Protocol):
    """Who hears what a child says."""

    def message(self, message: Message) -> None:
        """One JSON-RPC object."""
        ...

    def unreadable(self, problem: Malformed) -> None:
        """One line that is no acceptable JSON-RPC object; it was dropped."""
        ...

    def over(self, failure: UpstreamFailure) -> None:
        """Nothing will be heard any more, and nothing can be sent. Called once."""
        ...


@implementer(IPushProducer)
@define(eq=False, slots=False)
class Child(ProcessProtocol):
    """The pipes and the life of one process; every callback is guarded.

    An exception that escapes from a callback would make Twisted drop the pipe, so nothing that an
    owner does may end the conversation for others.
    """

    name: str
    """The upstream's, for the log."""
    clock: IReactorTime
    bounds: ChildBounds
    chatter: Callable[[str], Chatter]
    """Makes the way to the log for ``stdout`` or ``stderr``."""
    signal_group: SignalGroup
    owner: Owner | None = None
    pid: int = field(init=False, default=0)
    exit: Exit | None = field(init=False, default=None)
    _framer: LineFramer = field(init=False)
    _stdout: Chatter = field(init=False)
    _stderr: Chatter = field(init=False)
    _unsent: deque[bytes] = field(init=False, factory=deque)
    _unsent_bytes: int = field(init=False, default=0)
    _paused: bool = field(init=False, default=False)
    _over: UpstreamFailure | None = field(init=False, default=None)
    _wanted: bool = field(init=False, default=False)
    _ended: bool = field(init=False, default=False)
    _waiting: list[Deferred[Exit]] = field(init=False, factory=list)
    _step: IDelayedCall | None = field(init=False, default=None)
    _drain: IDelayedCall | None = field(init=False, default=None)
    _stall: IDelayedCall | None = field(init=False, default=None)
    _deaf: bool = field(init=False, default=False)
    _drained: bool = field(init=False, default=False)
    _group_gone: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._framer = LineFramer(self.bounds.max_message)
        self._stdout = self.chatter("stdout")
        self._stderr = self.chatter("stderr")

    # -- what owners use -------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether anything can still be said to it."""
        return self._over is None and not self._deaf

    def send(self, line: bytes) -> bool:
        """Write one message (without its newline); False when too much waits or it is over."""
        if not self.alive or self.transport is None:
            return False
        if not self._paused:
            self._write(line)
            return True
        if self._unsent_bytes + len(line) > self.bounds.max_unsent:
            return False
        self._unsent.append(line)
        self._unsent_bytes += len(line)
        return True

    def ended(self) -> Deferred[Exit]:
        """Fires when the process and all of its group are gone."""
        waiting: Deferred[Exit] = Deferred()
        if self._ended:
            assert self.exit is not None
            waiting.callback(self.exit)
        else:
            self._waiting.append(waiting)
        return waiting

    def stop(self) -> Deferred[Exit]:
        """End of input, then TERM, then KILL, a grace period apart; fires as `ended`."""
        # A child that was already dying by itself was not stopped by us.
        self._wanted = self._wanted or self._over is None
        self._hush(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the child was stopped"))
        self._close_input()
        return self.ended()

    def kill(self, failure: UpstreamFailure) -> None:
        """End it at once, because it broke the rules."""
        if self._over is None:
            log.warn(
                "{name}: killing child {pid}: {why}", name=self.name, pid=self.pid, why=failure
            )
        self._hush(failure)
        if self.exit is None and self.transport is not None:
            _cancel(self._step)
            self._kill()

    # -- ProcessProtocol -------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The process runs (or rather its launcher, for the first milliseconds)."""
        self.pid = self._process().pid
        self._process().registerProducer(self, True)

    def outReceived(self, data: bytes) -> None:
        """A piece of the child's stdout."""
        if self._over is not None:
            return
        try:
            for line in self._framer.feed(data):
                self._line(line)
                if self._over is not None:
                    return
        except LineTooLong as problem:
            self.kill(UpstreamFailure(Reason.ANSWER_TOO_LARGE, str(problem)))

    def errReceived(self, data: bytes) -> None:
        """A piece of stderr: free text, and no sign of an error."""
        try:
            self._stderr.feed(data, self.clock.seconds())
        except Exception:
            log.failure("{name}: logging stderr failed", name=self.name)

    def inConnectionLost(self) -> None:
        """The child closed its input, most often by its end; answers may still be in the pipe."""
        if self._over is None and self.exit is None:
            self._deaf = True
            _cancel(self._stall)
            self._stall = self.clock.callLater(self.bounds.grace_secs, self._lost, "its input")

    def outConnectionLost(self) -> None:
        """All output has been read, so no answer can come any more."""
        if self.exit is not None:
            self._hush(self._died())
        else:
            self._lost("its output")

    def processExited(self, reason: Failure) -> None:
        """The process is gone; its pipes may hold its last words, or be held by others."""
        status = reason.value
        self.exit = Exit(
            getattr(status, "exitCode", None), getattr(status, "signal", None), self._wanted
        )
        _cancel(self._step)
        grace = self.bounds.grace_secs
        self._drain = self.clock.callLater(grace, self._abandon_pipes)
        # The server is gone, so whatever it started is of no use to anybody.
        if self.signal_group(self.pid, TERM):
            self._poll(self.clock.seconds() + grace, False, POLL_SECS)
        else:
            self._group_gone = True

    def processEnded(self, reason: Failure) -> None:
        """The process is gone and every pipe is closed."""
        self._drained = True
        _cancel(self._drain)
        self._hush(self._died())
        self._finish()

    # -- IPushProducer: the child's stdin --------------------------------------------------

    def pauseProducing(self) -> None:
        """The pipe is full."""
        self._paused = True
        if self._stall is None:
            self._stall = self.clock.callLater(self.bounds.stall_secs, self._stalled)

    def resumeProducing(self) -> None:
        """The pipe has room."""
        self._paused = False
        _cancel(self._stall)
        self._stall = None
        while self._unsent and not self._paused:
            line = self._unsent.popleft()
            self._unsent_bytes -= len(line)
            self._write(line)

    def stopProducing(self) -> None:
        """The pipe is gone; `inConnectionLost` follows."""

    # -- inside ----------------------------------------------------------------------------

    def _process(self) -> Any:
        # IProcessTransport does not declare the consumer methods that every process has.
        assert self.transport is not None
        return self.transport

    def _write(self, line: bytes) -> None:
        self._process().write(line + b"\n")

    def _line(self, line: bytes) -> None:
        try:
            message = parse_object(line, self.bounds.json)
        except Malformed as malformed:
            if not line.strip():
                return
            self._stdout.line(line, self.clock.seconds())
            problem = malformed
            self._tell(lambda owner: owner.unreadable(problem))
            return
        owner = self.owner
        if owner is None:
            return
        try:
            owner.message(message)
        except Exception:
            log.failure("{name}: a message of the child was not dealt with", name=self.name)

    def _tell(self, what: Callable[[Owner], None]) -> None:
        try:
            if self.owner is not None:
                what(self.owner)
        except Exception:
            log.failure("{name}: a message of the child was not dealt with", name=self.name)

    def _hush(self, failure: UpstreamFailure) -> None:
        """From now on nothing is heard or sent."""
        if self._over is not None:
            return
        self._over = failure
        self._unsent.clear()
        self._unsent_bytes = 0
        _cancel(self._stall)
        if self.transport is not None:
            # While a producer is registered, closing stdin would wait for it.
            self._process().unregisterProducer()
        self._stdout.end(self.clock.seconds())
        self._tell(lambda owner: owner.over(failure))

    def _lost(self, what: str) -> None:
        """The child lives on with a pipe closed: it is of no use any more."""
        if self._over is None and self.exit is None:
            self._hush(UpstreamFailure(Reason.UPSTREAM_FAILED, f"the child closed {what}"))
            self._close_input()

    def _died(self) -> UpstreamFailure:
        return UpstreamFailure(Reason.UPSTREAM_FAILED, f"the child ended: {self.exit}")

    def _stalled(self) -> None:
        self.kill(UpstreamFailure(Reason.UPSTREAM_FAILED, "the child does not read its input"))

    # -- the end of the process ------------------------------------------------------------

    def _close_input(self) -> None:
        """The first step; the others follow by themselves, once."""
        if self.exit is None and self._step is None and self.transport is not None:
            self._step = self.clock.callLater(self.bounds.grace_secs, self._terminate)
            self._process().closeStdin()

    def _terminate(self) -> None:
        self._signal(TERM)
        self._step = self.clock.callLater(self.bounds.grace_secs, self._kill)

    def _kill(self) -> None:
        self._signal(KILL)

    def _signal(self, number: int) -> None:
        """Signal the whole group, or the process while it has not made one yet."""
        if self.signal_group(self.pid, number):
            return
        try:
            self._process().signalProcess(number)
        except ProcessExitedAlready:
            pass

    def _poll(self, until: float, killed: bool, pause: float) -> None:
        """Wait for the rest of the group; TERM was sent, KILL follows."""
        now = self.clock.seconds()
        if now >= until and not killed:
            self.signal_group(self.pid, KILL)
            until, killed, pause = now + self.bounds.grace_secs, True, POLL_SECS
        if not self.signal_group(self.pid, PRESENT):
            self._group_gone = True
            self._finish()
        elif now >= until:
            log.warn("{name}: group {pid} has survived KILL", name=self.name, pid=self.pid)
            self._group_gone = True
            self._finish()
        else:
            delay = min(pause, max(until - now, POLL_SECS))
            self._step = self.clock.callLater(delay, self._poll, until, killed, 2 * pause)

    def _abandon_pipes(self) -> None:
        """Close our ends, whoever holds the others; `processEnded` follows."""
        # Closing stdin properly waits until everything is written, and nobody may ever read it.
        for pipe in list(getattr(self.transport, "pipes", {}).values()):
            pipe.connectionLost(Failure(ConnectionDone()))

    def _finish(self) -> None:
        if self._ended or not self._drained or not self._group_gone:
            return
        self._ended = True
        self._stderr.end(self.clock.seconds())
        assert self.exit is not None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(self.exit)


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
