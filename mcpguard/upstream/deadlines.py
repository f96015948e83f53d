"""When requests must have been answered, with one timer for all of them."""

import math
from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()


class Expiring(Protocol):
    """What has a deadline."""

    def expired(self) -> None:
        """The deadline has passed."""
        ...


@define(eq=False)
class Deadlines:
    """Deadlines that mostly pass in the order in which they were set.

    Bounded by whoever bounds the requests under way. A timer of its own for each of them would
    be made and cancelled for each answer.
    """

    clock: IReactorTime
    _due: dict[Expiring, float] = field(init=False, factory=dict)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _next: float = field(init=False, default=0.0)
    """When the timer fires."""

    def __len__(self) -> int:
        return len(self._due)

    def set(self, one: Expiring, at: float) -> None:
        """Expire it at this time of the clock, whatever was set before."""
        self._due[one] = at
        if self._timer is None or at < self._next:
            self._set(at)

    def drop(self, one: Expiring) -> None:
        """Take its deadline away."""
        if self._due.pop(one, None) is not None and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        """Have the timer fire then, if not before."""
        if self._timer is not None:
            if at >= self._next:
                return
            self._timer.cancel()
        self._next = at
        self._timer = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        for one in [one for one, at in self._due.items() if at <= now]:
            # Unless one before it has ended it, or put it off.
            if self._due.get(one, math.inf) <= now:
                del self._due[one]
                try:
                    one.expired()
                except Exception:
                    # Or nobody else's deadline would pass any more.
                    log.failure("ending a request whose deadline has passed")
        if self._due:
            # Again even where one has set the timer: it knew nothing of those that are left.
            self._set(min(self._due.values()))
