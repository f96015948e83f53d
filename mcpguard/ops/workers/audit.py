"""The audit trail of all workers: each renders its own lines, the parent alone writes them.

So rotation, and whatever else needs to see every line, has one place.
"""

import errno
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from mcpguard.observe.audit.outputs import Appended, Sink
from mcpguard.observe.audit.trail import AuditTrail
from mcpguard.ops.workers.control import Control, ControlFailed, ControlLost, Peer, Peers

AUDIT = "audit"
"""The service of the parent: ``{"first": int, "lines": bytes}``, answered with how many lines of
this worker it has taken altogether. ``first`` of them were known to be taken before these.
"""

ACKNOWLEDGED_SECS = 5.0
"""How long a worker waits for the parent to take a batch before it sends it again."""


@define(eq=False)
class AuditRelay:
    """A worker's way to the parent's trail. Implements `observe.audit.outputs.Sink`.

    A batch that was not acknowledged in time is sent again, and the parent leaves out what it has
    of it: each line is written once. When the parent is gone a worker still finishes what runs:
    these lines go to ``alone``, and those that were on their way may be written twice.
    """

    control: Control
    timeout_secs: float
    alone: Callable[[], Sink | None]
    """Makes what is written to without a parent; None if there is nothing."""
    _taken: int = field(init=False, default=0)
    """Lines that the parent is known to have."""
    _own: Sink | None = field(init=False, default=None)

    def append(self, lines: Sequence[bytes]) -> Deferred[Appended]:
        """Hand whole lines to the parent, in order; fires when it has them."""
        return Deferred.fromCoroutine(self._append(lines))

    async def _append(self, lines: Sequence[bytes]) -> Appended:
        if self._own is not None:
            return await self._own.append(lines)
        batch = {"first": self._taken, "lines": b"".join(lines)}
        try:
            altogether = await self.control.ask(AUDIT, batch, timeout=self.timeout_secs)
        except ControlLost:
            self._own = self.alone()
            if self._own is not None:
                return await self._own.append(lines)
            return Appended(0, OSError(errno.EPIPE, "the parent process is gone"))
        except ControlFailed as failure:
            return Appended(0, OSError(errno.EPIPE, f"the parent process: {failure}"))
        taken = min(int(altogether) - self._taken, len(lines))
        if taken < 0:
            raise ValueError(f"the parent has {altogether} lines of {self._taken}")
        self._taken += taken
        if taken < len(lines):
            return Appended(taken, OSError(errno.ENOSPC, "the parent process holds all it may"))
        return Appended(taken)

    def close(self) -> Deferred[None]:
        """Let go; the parent makes durable what it was given."""
        return succeed(None) if self._own is None else self._own.close()


@define(eq=False)
class AuditDesk:
    """The parent's end: takes the lines of all workers into one trail."""

    trail: AuditTrail
    """Replaced when the settings of the trail change."""
    _taken: dict[int, int] = field(init=False, factory=dict)
    """Lines taken of each worker, by its life."""

    def attend(self, peers: Peers) -> None:
        """Serve the workers from now on."""
        peers.register(AUDIT, self._take)
        peers.on_gone(self._forget)

    def _take(self, peer: Peer, batch: Any) -> int:
        *lines, rest = batch["lines"].split(b"\n")
        had = self._taken.get(peer.life, 0)
        again = had - batch["first"]
        if rest or again < 0:
            raise ValueError("no batch of whole lines that follow the last one")
        had += self.trail.take([line + b"\n" for line in lines[again:]])
        self._taken[peer.life] = had
        return had

    def _forget(self, peer: Peer) -> None:
        self._taken.pop(peer.life, None)
