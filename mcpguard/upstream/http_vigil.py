"""Whether an HTTP server can be used, and what it speaks: asked once, watched ever after."""

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason
from mcpguard.upstream.doubts import Doubts
from mcpguard.upstream.link import Eras, Standing, UpstreamFailure

log = Logger()

STARTING = "starting"
_PUBLIC_WORDS = {
    Reason.UPSTREAM_UNAVAILABLE: "unreachable",
    Reason.UPSTREAM_TIMEOUT: "unreachable",
    Reason.UPSTREAM_ERA: "speaks no known protocol version",
}


@frozen
class VigilBounds:
    """Seconds between looks at a server."""

    check_secs: float
    """After so long without a word from a usable server a connection to it is tried."""
    first_retry: float
    """After a failed look; doubled from one to the next, up to ``max_retry``."""
    max_retry: float


@define(eq=False, repr=False)
class Vigil:
    """Asks a server what it speaks (`probe`) and keeps an eye on it (`reach`).

    ``changed`` hears of every change of `standing`, with the failure that made it unusable.
    """

    name: str
    clock: IReactorTime
    random: Callable[[], float]
    bounds: VigilBounds
    probe: Callable[[], Deferred[Eras]]
    reach: Callable[[], Deferred[None]]
    changed: Callable[[Standing, UpstreamFailure | None], None]
    doubts: Doubts
    pinned: Eras | None = None
    """What the configuration says it speaks, where that leaves nothing to ask."""
    standing: Standing = field(init=False, factory=lambda: Standing(False, STARTING))
    _eras: Eras | None = field(init=False, default=None)
    _told: Eras | None = field(init=False, default=None)
    """What it said last, known still or doubted."""
    _asking: Deferred[None] | None = field(init=False, default=None)
    _waiting: list[Deferred[Eras]] = field(init=False, factory=list)
    _failure: UpstreamFailure | None = field(init=False, default=None)
    _failed_at: float = field(init=False, default=float("-inf"))
    _failures: int = field(init=False, default=0)
    _heard_at: float = field(init=False, default=float("-inf"))
    _timer: IDelayedCall | None = field(init=False, default=None)
    _reaching: Deferred[None] | None = field(init=False, default=None)
    _started: bool = field(init=False, default=False)
    _stopped: bool = field(init=False, default=False)

    def start(self) -> None:
        """Look now, and from now on."""
        self._started = True
        self._ask()

    def stop(self) -> None:
        """Look no more; whoever waits is told."""
        self._stopped = True
        self._cancel_timer()
        for running in (self._asking, self._reaching):
            if running is not None:
                running.cancel()
        self._answer(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped"))

    def eras(self) -> Deferred[Eras]:
        """What it speaks; errbacks with `UpstreamFailure`. Many may wait for one question."""
        known = self.pinned or self._eras
        if known is not None:
            return succeed(known)
        if self._stopped:
            return fail(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped"))
        now = self.clock.seconds()
        if self._failure is not None and now - self._failed_at < self.bounds.first_retry:
            return fail(self._failure)
        waiter: Deferred[Eras] = Deferred(self._forget)
        self._waiting.append(waiter)
        self._ask()
        return waiter

    def contact(self, failure: UpstreamFailure | None) -> None:
        """Hear that the server has answered something, or (failure) cannot be reached."""
        if self._stopped:
            return
        if failure is None:
            self._heard_at = self.clock.seconds()
            if not self.standing.usable and self._asking is None and self._known:
                self._usable()
        elif self.standing.usable:
            self._unusable(failure)

    def doubt(self, detail: str) -> UpstreamFailure:
        """Hear that the server does not speak what it was found to speak.

        What is known is forgotten and asked again; gives what the caller is to be told.
        """
        ask, failure = self.doubts.raised(detail)
        if ask and not self._stopped:
            self._eras = None
            self._ask()
        return failure

    @property
    def _known(self) -> bool:
        return self.pinned is not None or self._eras is not None

    def _forget(self, waiter: Deferred[Eras]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _ask(self) -> None:
        if self._asking is not None or self._stopped:
            return
        self._cancel_timer()
        asking = self.probe()
        done: Deferred[None] = asking.addCallbacks(self._learned, self._not_learned)
        if not done.called:
            self._asking = done

    def _learned(self, eras: Eras) -> None:
        self._asking = None
        if self._told is not None and _spoken(self._told) != _spoken(eras):
            log.warn("upstream {name}: it speaks {eras} now", name=self.name, eras=_spoken(eras))
        self._eras = self._told = eras
        self._failure, self._failures = None, 0
        self._heard_at = self.clock.seconds()
        self._usable()
        self._answer(eras)

    def _not_learned(self, reason: Failure) -> None:
        self._asking = None
        failure = reason.value
        if self._stopped:
            return
        if not isinstance(failure, UpstreamFailure):
            log.failure("upstream {name}: asking what it speaks", reason, name=self.name)
            failure = UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway")
        self._failure, self._failed_at = failure, self.clock.seconds()
        self._unusable(failure)
        self._answer(failure)

    def _answer(self, outcome: Eras | UpstreamFailure) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.called:
                # One caller's answer has made another give up.
                continue
            if isinstance(outcome, Eras):
                waiter.callback(outcome)
            else:
                waiter.errback(outcome)

    def _usable(self) -> None:
        self._failures = 0
        self._schedule(self.bounds.check_secs, self._check)
        if not self.standing.usable:
            self.standing = Standing(True)
            self.changed(self.standing, None)

    def _unusable(self, failure: UpstreamFailure) -> None:
        self._failures += 1
        wait = self.bounds.first_retry * 2 ** min(self._failures - 1, 16)
        self._schedule(min(wait, self.bounds.max_retry) * (1 + 0.25 * self.random()), self._ask)
        standing = Standing(False, _PUBLIC_WORDS.get(failure.reason, "failing"))
        if standing != self.standing:
            self.standing = standing
            self.changed(standing, failure)

    def _check(self) -> None:
        """Try a connection if nothing was heard for a while, so that idle does not look well."""
        self._timer = None
        left = self._heard_at + self.bounds.check_secs - self.clock.seconds()
        if left > 0:
            self._schedule(left, self._check)
            return
        reaching = self.reach().addCallbacks(self._reached, self._not_reached)
        if not reaching.called:
            self._reaching = reaching

    def _reached(self, _: None) -> None:
        self._reaching = None
        self._heard_at = self.clock.seconds()
        if self.standing.usable:
            self._schedule(self.bounds.check_secs, self._check)

    def _not_reached(self, reason: Failure) -> None:
        self._reaching = None
        failure = reason.value
        if self._stopped or not self.standing.usable:
            return
        if not isinstance(failure, UpstreamFailure):
            failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, type(failure).__name__)
        self._unusable(failure)

    def _schedule(self, seconds: float, action: Callable[[], None]) -> None:
        self._cancel_timer()
        if self._started and not self._stopped:
            self._timer = self.clock.callLater(seconds, action)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


def _spoken(eras: Eras) -> str:
    """The eras in words."""
    return ", ".join((*eras.modern, *(("the handshake versions",) if eras.legacy else ())))
