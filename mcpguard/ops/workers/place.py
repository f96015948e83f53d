"""One worker's place: who serves in it, who takes over, and when another may be started."""

from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mcpguard.config.settings import Settings
from mcpguard.ops.workers.control import Peer
from mcpguard.upstream.crashes import Crashes

log = Logger()


class StartFailed(Exception):
    """A worker ended before it was ready; the text says why, as far as it is known."""


@frozen(eq=False)
class Generation:
    """The settings of one start or reload: workers of an older one are replaced."""

    settings: Settings


class Worker(Protocol):
    """A worker process as its place holds it."""

    @property
    def peer(self) -> Peer:
        """What the rest of the parent knows of it."""
        ...

    @property
    def generation(self) -> Generation:
        """What it serves."""
        ...

    def stop(self, *, keep: bool, replaced: bool = False) -> None:
        """Have it finish what runs and end.

        ``keep``: sessions can be taken up again elsewhere. ``replaced``: a successor serves.
        """
        ...


class Launch(Protocol):
    """Starts a worker process."""

    def __call__(
        self,
        number: int,
        generation: Generation,
        *,
        settle: bool,
        on_ready: Callable[[Any], None],
        on_ended: Callable[[Any, str], None],
    ) -> Worker:
        """Begin; never raises.

        ``settle``: it may wait for its upstreams before it accepts, since others serve meanwhile.
        ``on_ready`` is called with the worker at most once, ``on_ended`` exactly once and not
        before this returns, with the worker and how it ended in words.
        """
        ...


@define(eq=False)
class Place:
    """The worker of one number, from start to stop: replaced when it ends or is outdated."""

    number: int
    clock: IReactorTime
    launch: Launch
    crashes: Crashes
    others_serve: Callable[[], bool]
    """Whether connections are accepted without this place."""
    record: Callable[..., None]
    """Told what happened to a worker: number, a word, and details."""
    serving: Worker | None = field(init=False, default=None)
    starting: Worker | None = field(init=False, default=None)
    leaving: list[Worker] = field(init=False, factory=list)
    """Replaced; they finish what runs."""
    wanted: Generation | None = field(init=False, default=None)
    """What should be served here."""
    restarts: int = field(init=False, default=0)
    """How often a worker had to be started in the place of one that ended by itself."""
    _born: dict[Worker, float] = field(init=False, factory=dict)
    _retry: IDelayedCall | None = field(init=False, default=None)
    _renewing: Deferred[None] | None = field(init=False, default=None)
    _stopping: Deferred[None] | None = field(init=False, default=None)
    _keep: bool = field(init=False, default=False)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Every worker of this place that has not ended."""
        some = (self.serving, self.starting, *self.leaving)
        return tuple(worker for worker in some if worker is not None)

    def want(self, generation: Generation) -> Deferred[None]:
        """Have a worker of this generation serve here.

        Fires once one does. Errbacks with `StartFailed` when the next attempt fails; further ones
        follow all the same, until another generation is wanted.
        """
        self._over(StartFailed("another configuration is wanted"))
        self.wanted = generation
        done = self._renewing = Deferred()
        if self.serving is not None and self.serving.generation is generation:
            self._over(None)
        if self.starting is not None and self.starting.generation is not generation:
            self.starting.stop(keep=True)
        self._see_to_it()
        return done

    def stop(self, *, keep: bool) -> Deferred[None]:
        """Have every worker end; fires when the last one has."""
        if self._stopping is None:
            self._stopping, self._keep = Deferred(), keep
            self._over(StartFailed("stopping"))
            self._cancel_retry()
            for worker in self.workers:
                worker.stop(keep=keep)
            self._see_whether_empty()
        return self._stopping

    # -- what should be --------------------------------------------------------------------

    def _see_to_it(self) -> None:
        """Start a worker if one is missing or outdated, now or when the pause is over."""
        if self._stopping is not None or self.starting is not None or self.wanted is None:
            return
        if self.serving is not None and self.serving.generation is self.wanted:
            return
        self._cancel_retry()
        wait = self.crashes.wait(self.clock.seconds())
        if wait > 0.0:
            self._retry = self.clock.callLater(wait, self._see_to_it)
            return
        if self.crashes.restart():
            self.restarts += 1
        settle = self.serving is not None or self.others_serve()
        worker = self.launch(
            self.number,
            self.wanted,
            settle=settle,
            on_ready=self._ready,
            on_ended=self._ended,
        )
        self.starting = worker
        self._born[worker] = self.clock.seconds()

    # -- what happens ----------------------------------------------------------------------

    def _ready(self, worker: Worker) -> None:
        if worker is not self.starting:
            return
        before, self.serving, self.starting = self.serving, worker, None
        log.info("worker {worker} is ready", worker=self.number)
        self.record(self.number, "ready", replaced=before is not None)
        if before is not None:
            self.leaving.append(before)
            before.stop(keep=True, replaced=True)
        if self._stopping is not None:
            worker.stop(keep=self._keep)
        elif worker.generation is self.wanted:
            self._over(None)
        self._see_to_it()

    def _ended(self, worker: Worker, how: str) -> None:
        lived = self.clock.seconds() - self._born.pop(worker)
        if worker in self.leaving:
            self.leaving.remove(worker)
            log.info("worker {worker}, replaced: {how}", worker=self.number, how=how)
        elif worker is self.starting:
            self.starting = None
            outdated = worker.generation is not self.wanted
            if self._stopping is None and not outdated:
                self._crashed(f"ended before it was ready: {how}", lived)
                self._over(StartFailed(how))
        else:
            self.serving = None
            if self._stopping is None:
                self._crashed(f"ended: {how}", lived)
        self._see_to_it()
        self._see_whether_empty()

    def _crashed(self, how: str, lived: float) -> None:
        now = self.clock.seconds()
        log.error("worker {worker} {how}", worker=self.number, how=how)
        self.record(self.number, "crashed", how=how, lived_secs=round(lived, 3))
        if self.crashes.crashed(now, lived):
            log.critical(
                "worker {worker} ends again and again; the next attempt is in {pause} s",
                worker=self.number,
                pause=round(self.crashes.wait(now)),
            )
            self.record(self.number, "crash_loop")

    def _over(self, failure: StartFailed | None) -> None:
        done, self._renewing = self._renewing, None
        if done is None:
            return
        if failure is None:
            done.callback(None)
        else:
            done.errback(failure)

    def _cancel_retry(self) -> None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def _see_whether_empty(self) -> None:
        if self._stopping is not None and not self._stopping.called and not self.workers:
            self._stopping.callback(None)
