"""When requests must have been answered, with one timer for all of them."""

import math
from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Expiring(Protocol):
    """What has a deadline."""

    def expired(self) -> None:
        """The deadline has passed; must not raise."""
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

    def __len__(self) -> int:
        return len(self._due)

    def set(self, one: Expiring, at: float) -> None:
        """Expire it at this time of the clock, whatever was set before."""
        self._due[one] = at
        if self._timer is None:
            self._arm(at)
        elif at < self._timer.getTime():
            self._timer.cancel()
            self._arm(at)

    def drop(self, one: Expiring) -> None:
        """Take its deadline away."""
        if self._due.pop(one, None) is not None and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        self._timer = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        for one in [one for one, at in self._due.items() if at <= now]:
            # Unless one before it has ended it, or put it off.
            if self._due.get(one, math.inf) <= now:
                del self._due[one]
                one.expired()
        if self._due and self._timer is None:
            self._arm(min(self._due.values()))
