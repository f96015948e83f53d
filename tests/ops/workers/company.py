"""A parent and its workers in memory, joined by real channels."""

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import define, evolve, field
from twisted.internet.task import Clock

from mcpguard.ops.workers.control import Peer
from tests.ops.workers.wires import BOUNDS, Wires

_LARGE = evolve(BOUNDS, frame_bytes=1_000_000, queued_bytes=2_000_000, served=100)


@define(eq=False)
class Company:
    """The workers as the parent sees them; implements `control.Peers`."""

    clock: Clock
    wires: dict[int, Wires] = field(init=False, factory=dict)
    """By life."""
    deaf: set[int] = field(init=False, factory=set)
    """Lives whose bytes are not carried."""
    _peers: list[Peer] = field(init=False, factory=list)
    _services: dict[str, Callable[[Peer, Any], Any]] = field(init=False, factory=dict)
    _hearers: list[Callable[[Peer], None]] = field(init=False, factory=list)

    def hire(self, number: int, life: int) -> Wires:
        """Add a worker; gives its two ends."""
        wires = self.wires[life] = Wires(self.clock, _LARGE)
        peer = Peer(number, life, wires.parent)
        self._peers.append(peer)
        for name, serve in self._services.items():
            wires.parent.register(name, partial(serve, peer))
        return wires

    def dismiss(self, life: int) -> None:
        """Have a worker end."""
        self.wires.pop(life).cut()
        peer = next(one for one in self._peers if one.life == life)
        self._peers.remove(peer)
        for hear in self._hearers:
            hear(peer)

    def pump(self) -> None:
        """Carry bytes until nothing moves any more."""
        for _ in range(4):
            for life, wires in list(self.wires.items()):
                if life not in self.deaf:
                    wires.pump()

    def peers(self) -> tuple[Peer, ...]:
        """Those that are there now."""
        return tuple(self._peers)

    def register(self, name: str, serve: Callable[[Peer, Any], Any]) -> None:
        """Serve this name of every worker."""
        self._services[name] = serve
        for peer in self._peers:
            self.wires[peer.life].parent.register(name, partial(serve, peer))

    def on_gone(self, hear: Callable[[Peer], None]) -> None:
        """Tell of the ends."""
        self._hearers.append(hear)
