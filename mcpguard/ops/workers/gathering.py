"""The metrics of all processes together: the parent adds them up, any worker shows the page."""

from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mcpguard.observe.metrics import DECLARED, MAX_SERIES, Metrics
from mcpguard.observe.numbers import Numbers
from mcpguard.ops.workers.control import Control, ControlFailed, Peer, Peers

log = Logger()

NUMBERS = "numbers"
"""The service of a worker: ``{"digests": bool}``, answered with its packed `Numbers`."""

LAST_NUMBERS = "last_numbers"
"""The service of the parent for a worker that ends: its packed `Numbers`."""

PAGE = "metrics_page"
"""The service of the parent: the page of all processes."""

PARENT = "parent"
"""The label ``worker`` of the parent's own process."""


@frozen
class GatheringBounds:
    """How long and how often."""

    ask_secs: float
    """For a worker to tell its numbers; one that does not is shown as not up."""
    page_secs: float
    """For the parent to make the page of all."""
    every_secs: float
    """How often the workers are asked when nobody looks: what one that is killed has counted
    since then is not known.
    """


GATHERING_BOUNDS = GatheringBounds(ask_secs=2.0, page_secs=5.0, every_secs=5.0)
"""What the gateway uses."""


@define(eq=False)
class Reporting:
    """A worker's end: tells its numbers when asked, and asks for the page of all."""

    control: Control
    metrics: Metrics
    bounds: GatheringBounds

    def begin(self) -> None:
        """Serve the parent from now on."""
        self.control.register(
            NUMBERS, lambda asked: self.metrics.numbers(digests=asked["digests"]).pack()
        )

    def page(self) -> Deferred[bytes]:
        """Give the page of all processes; errbacks with `ControlFailed`."""
        return self.control.ask(PAGE, None, timeout=self.bounds.page_secs)

    def end(self) -> Deferred[None]:
        """Tell the numbers a last time, when nothing more is counted; never errbacks."""
        numbers = self.metrics.numbers().pack()
        told = self.control.ask(LAST_NUMBERS, numbers, timeout=self.bounds.ask_secs)
        return told.addErrback(lambda failure: log.warn("{why}", why=failure.value))


@define(eq=False)
class Gathering:
    """The parent's end: adds up what all workers have counted, those that have ended too."""

    peers: Peers
    own: Metrics
    """The parent's."""
    places: int
    """How many workers there should be, numbered from 1."""
    clock: IReactorTime
    bounds: GatheringBounds
    _known: dict[int, Numbers] = field(init=False, factory=dict)
    """What each worker has told last, by its life."""
    _past: Numbers = field(init=False, factory=Numbers)
    """What those have counted that are gone: sums never go down."""
    _waiting: list[Deferred[bytes]] = field(init=False, factory=list)
    _loop: LoopingCall = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._loop = LoopingCall(self._look)
        self._loop.clock = self.clock

    def start(self) -> None:
        """Serve the workers, and ask them from time to time."""
        self.peers.register(PAGE, lambda peer, payload: self.page())
        self.peers.register(LAST_NUMBERS, self._take_last)
        self.peers.on_gone(self._gone)
        self._loop.start(self.bounds.every_secs, now=False)

    def stop(self) -> None:
        """Ask no more."""
        if self._loop.running:
            self._loop.stop()

    def page(self) -> Deferred[bytes]:
        """Give the page of all processes, as `Metrics.render` does that of one.

        A worker that does not answer counts with what it told last. Whoever asks while a page is
        being made gets that one.
        """
        waiting: Deferred[bytes] = Deferred()
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._make()).addBoth(self._made)
        return waiting

    def _made(self, page: Any) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(page)

    async def _make(self) -> bytes:
        answered = await self._ask_all(digests=True)
        together = self.own.numbers()
        together.add_counted(self._past, MAX_SERIES)
        for numbers in self._known.values():
            together.add_counted(numbers, MAX_SERIES)
        up = dict.fromkeys(map(str, range(1, self.places + 1)), 0)
        processes = {PARENT: together.process}
        for peer in sorted(answered, key=lambda peer: peer.life):
            numbers = self._known[peer.life]
            together.add_standing(numbers, DECLARED)
            up[str(peer.number)] = 1
            # Of one that drains and its successor it is the successor's that stand there.
            processes[str(peer.number)] = numbers.process
        together.gauges["mcp_guard_worker_up"] = {(number,): up[number] for number in up}
        active = together.gauges["mcp_guard_active_identities"]
        active[()] = max(active[()], len(together.identities))
        return self.own.render_together(together, processes)

    async def _look(self) -> None:
        await self._ask_all(digests=False)

    async def _ask_all(self, *, digests: bool) -> list[Peer]:
        """Have every worker's numbers told anew; gives those that have and are still there."""
        peers = self.peers.peers()
        asked = [Deferred.fromCoroutine(self._ask(peer, digests=digests)) for peer in peers]
        told: list[bool] = await gatherResults(asked)
        there = self.peers.peers()
        return [
            peer
            for peer, good in zip(peers, told, strict=True)
            if good and peer in there and peer.life in self._known
        ]

    async def _ask(self, peer: Peer, *, digests: bool) -> bool:
        asked = {"digests": digests}
        try:
            packed = await peer.control.ask(NUMBERS, asked, timeout=self.bounds.ask_secs)
        except ControlFailed as failure:
            log.warn("worker {worker}: no numbers: {why}", worker=peer.number, why=failure)
            return False
        return peer in self.peers.peers() and self._take(peer, packed)

    def _take(self, peer: Peer, packed: Any) -> bool:
        try:
            self._known[peer.life] = Numbers.unpack(packed, DECLARED)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.failure("worker {worker} told no numbers", worker=peer.number)
            return False
        return True

    def _take_last(self, peer: Peer, packed: Any) -> None:
        self._take(peer, packed)

    def _gone(self, peer: Peer) -> None:
        numbers = self._known.pop(peer.life, None)
        if numbers is not None:
            self._past.add_counted(numbers, MAX_SERIES)
