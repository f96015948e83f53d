"""When an answer has been waited for so long that the client is shown a sign of life."""

from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Waiting(Protocol):
    """An answer that has not begun."""

    def show_life(self) -> None:
        """It has been waited for long; must not raise."""
        ...


@define(eq=False)
class Patience:
    """The answers that are waited for, with one timer for all of them: the wait is the same.

    Bounded by whoever bounds the requests under way. A timer for each request, cancelled by its
    answer, costs more than the request's whole way through the rules.
    """

    clock: IReactorTime
    secs: float
    _since: dict[Waiting, float] = field(init=False, factory=dict)
    """In the order of their beginnings."""
    _timer: IDelayedCall | None = field(init=False, default=None)

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, waiting: Waiting) -> None:
        """Wait for it; once more while it is waited for starts anew."""
        since = self._since
        since.pop(waiting, None)
        since[waiting] = self.clock.seconds()
        if self._timer is None:
            self._timer = self.clock.callLater(self.secs, self._due)

    def end(self, waiting: Waiting) -> None:
        """Wait for it no more."""
        self._since.pop(waiting, None)
        if not self._since and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        over: list[Waiting] = []
        for waiting, since in self._since.items():
            # Not what is left by the time that has passed: that was observed to be too small
            # for the clock, and the timer to fire again and again at the same moment.
            left = since + self.secs - now
            if left > 0.0:
                self._timer = self.clock.callLater(left, self._due)
                break
            over.append(waiting)
        for waiting in over:
            if waiting in self._since:  # one before it may have ended it
                self.end(waiting)
                waiting.show_life()
