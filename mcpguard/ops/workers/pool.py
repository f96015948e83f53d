"""All workers: started together, replaced one after the other, stopped together."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mcpguard.config.settings import Settings
from mcpguard.ops.workers.control import Peer
from mcpguard.ops.workers.place import Generation, Launch, Place, StartFailed, Worker
from mcpguard.upstream.crashes import CrashBounds, Crashes

log = Logger()

WORKER_CRASHES = CrashBounds(
    first_secs=0.5,
    most_secs=30.0,
    jitter=0.25,
    loop=8,
    window_secs=300.0,
    cooldown_secs=60.0,
    healthy_secs=60.0,
)
"""What the gateway uses."""


@define(eq=False)
class Pool:
    """The workers of a gateway; implements `control.Peers`."""

    count: int
    clock: IReactorTime
    launch: Launch
    crashes: CrashBounds
    random: Callable[[], float]
    """Uniform in [0, 1)."""
    record: Callable[..., None]
    """As in `Place`."""
    _places: tuple[Place, ...] = field(init=False)
    _services: dict[str, Callable[[Peer, Any], Any]] = field(init=False, factory=dict)
    _hearers: list[Callable[[Peer], None]] = field(init=False, factory=list)
    _known: dict[int, Peer] = field(init=False, factory=dict)
    """Workers that have not ended, by life; those that are not ready too."""

    def __attrs_post_init__(self) -> None:
        self._places = tuple(
            Place(
                number,
                self.clock,
                self.launch,
                Crashes(self.crashes, self.random),
                self._someone_serves,
                self.record,
            )
            for number in range(1, self.count + 1)
        )

    # -- life ------------------------------------------------------------------------------

    async def start(self, settings: Settings) -> Sequence[str]:
        """Start every worker; gives why first attempts failed, once all are over.

        Where one failed, further attempts follow until `stop`.
        """
        generation = Generation(settings)
        attempts = [place.want(generation) for place in self._places]
        results: Any = await DeferredList(attempts, consumeErrors=True)
        return [str(failure.value) for good, failure in results if not good]

    async def replace(self, settings: Settings) -> None:
        """Replace the workers one after the other, each once its successor is ready.

        Raises `StartFailed` when the first successor does not come up: the old workers stay.
        Later ones that do not are tried again, while their predecessors serve.
        """
        generation = Generation(settings)
        first, *rest = self._places
        before = first.wanted
        try:
            await first.want(generation)
        except StartFailed:
            if before is not None:
                # Nobody waits for this one: the worker is there, or tried again until it is.
                first.want(before).addErrback(lambda _: None)
            raise
        for place in rest:
            try:
                await place.want(generation)
            except StartFailed as failure:
                log.error(
                    "worker {worker} was not replaced yet: {why}", worker=place.number, why=failure
                )

    def stop(self, *, keep: bool) -> Deferred[Any]:
        """Have every worker finish and end; fires when none is left.

        ``keep``: their sessions can be taken up again by the gateway's next life.
        """
        return DeferredList([place.stop(keep=keep) for place in self._places])

    def describe(self) -> list[dict[str, Any]]:
        """One row for each place: ``worker``, ``state``, ``restarts``, ``draining``."""
        return [
            {
                "worker": place.number,
                "state": _state(place),
                "restarts": place.restarts,
                "draining": len(place.leaving),
            }
            for place in self._places
        ]

    def _someone_serves(self) -> bool:
        return any(place.serving is not None for place in self._places)

    # -- the peers -------------------------------------------------------------------------

    def peers(self) -> tuple[Peer, ...]:
        """Those that are ready, or drain; see `Peers.peers`."""
        found: list[Peer] = []
        for place in self._places:
            workers: list[Worker | None] = [place.serving, *place.leaving]
            found += [worker.peer for worker in workers if worker is not None]
        return tuple(found)

    def register(self, name: str, serve: Callable[[Peer, Any], Any]) -> None:
        """Serve every worker; see `Peers.register`."""
        self._services[name] = serve
        for peer in self._known.values():
            peer.control.register(name, partial(serve, peer))

    def on_gone(self, hear: Callable[[Peer], None]) -> None:
        """Tell of the ends; see `Peers.on_gone`."""
        self._hearers.append(hear)

    def came(self, peer: Peer) -> None:
        """A worker was started: whoever starts it says so before it can ask anything."""
        self._known[peer.life] = peer
        for name, serve in self._services.items():
            peer.control.register(name, partial(serve, peer))

    def went(self, peer: Peer) -> None:
        """It has ended."""
        if self._known.pop(peer.life, None) is None:
            return
        for hear in self._hearers:
            try:
                hear(peer)
            except Exception:
                log.failure("the end of worker {worker}", worker=peer.number)


def _state(place: Place) -> str:
    if place.serving is not None:
        return "serving"
    return "starting" if place.starting is not None else "waiting"
