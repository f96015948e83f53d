"""The interface of the private channel between the parent and each of its workers.

A payload is plain data: None, bool, int (64 bits), float, str, bytes, and lists and dicts (with
str keys) of them; tuples arrive as lists.
"""

from collections.abc import Callable
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred


class ControlFailed(Exception):
    """An ask has no answer."""


class ControlLost(ControlFailed):
    """The process at the other end is gone."""


class ControlBusy(ControlFailed):
    """Too much is under way or queued already, here or there; or the payload is too large."""


class ControlTimeout(ControlFailed):
    """No answer came in time."""


class ControlRefused(ControlFailed):
    """The other end has no such service, or the service failed; the text says which."""


class Control(Protocol):
    """One end of the channel."""

    def ask(self, name: str, payload: Any, *, timeout: float | None = None) -> Deferred[Any]:
        """Ask the service ``name`` at the other end; fires with its answer.

        ``timeout`` is in seconds; None is the channel's own. Never raises: errbacks with a
        `ControlFailed`. Cancelling it forgets the answer; the other end is not told.
        """
        ...

    def tell(self, name: str, payload: Any) -> bool:
        """Send something that has no answer; False when it cannot be taken (gone, or full)."""
        ...

    def register(self, name: str, serve: Callable[[Any], Any]) -> None:
        """Serve asks and tells of this name: called with the payload.

        What it gives (a payload, or a Deferred of one) is the answer; what it raises reaches the
        asking end as `ControlRefused` with that text, and the log.
        """
        ...


@frozen(eq=False)
class Peer:
    """A worker as the parent sees it, from the moment it is ready until it is gone."""

    number: int
    """Its place, 1 to the number of workers; a successor has the same."""
    life: int
    """Never used twice: tells a worker from its predecessors in the same place."""
    control: Control


class Peers(Protocol):
    """All workers as the parent sees them."""

    def peers(self) -> tuple[Peer, ...]:
        """Those that are there now, also those that drain."""
        ...

    def register(self, name: str, serve: Callable[[Peer, Any], Any]) -> None:
        """Serve asks and tells of this name of every worker: called with who asks, and payload."""
        ...

    def on_gone(self, hear: Callable[[Peer], None]) -> None:
        """Call this with each worker that has ended, however it did; nothing of it comes after."""
        ...
