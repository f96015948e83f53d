"""Workers without a process: they become ready and end when a test says so."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from mcpguard.ops.workers.channel import CHANNEL_BOUNDS, Channel
from mcpguard.ops.workers.control import Peer
from mcpguard.ops.workers.place import Generation


@define(eq=False)
class WorkerDouble:
    """Implements `place.Worker`."""

    peer: Peer
    generation: Generation
    settle: bool
    on_ready: Callable[[Any], None]
    on_ended: Callable[[Any, str], None]
    asked: list[str] = field(factory=list)
    """``keep``, ``replaced`` or ``end`` for each call of `stop`."""
    ended: bool = False

    def stop(self, *, keep: bool, replaced: bool = False) -> None:
        """Note it."""
        self.asked.append("replaced" if replaced else "keep" if keep else "end")

    def ready(self) -> None:
        """It accepts connections."""
        self.on_ready(self)

    def ends(self, how: str = "signal 9") -> None:
        """The process is gone."""
        assert not self.ended
        self.ended = True
        self.on_ended(self, how)


@define(eq=False)
class Launcher:
    """Implements `place.Launch`; keeps all workers it has begun, in order."""

    clock: Clock
    came: Callable[[Peer], None] = lambda peer: None
    went: Callable[[Peer], None] = lambda peer: None
    workers: list[WorkerDouble] = field(factory=list)

    def __call__(
        self,
        number: int,
        generation: Generation,
        *,
        settle: bool,
        on_ready: Callable[[Any], None],
        on_ended: Callable[[Any, str], None],
    ) -> WorkerDouble:
        """Begin one."""
        channel = Channel(self.clock, CHANNEL_BOUNDS, lambda: None)
        peer = Peer(number, len(self.workers) + 1, channel)

        def ended(worker: Any, how: str) -> None:
            self.went(peer)
            on_ended(worker, how)

        worker = WorkerDouble(peer, generation, settle, on_ready, ended)
        self.workers.append(worker)
        self.came(peer)
        return worker

    def living(self) -> list[tuple[int, int]]:
        """Number and life of those that have not ended."""
        return [(w.peer.number, w.peer.life) for w in self.workers if not w.ended]
