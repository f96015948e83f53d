"""Token buckets in this process's memory."""

import math
from collections.abc import Callable

from attrs import Factory, define, field

from mcpguard.limits.limiter import Grant
from mcpguard.limits.shelf import Kept, Shelf
from mcpguard.policy.buckets import Level, Rate, fill, take, until_full, wait


@define(eq=False)
class MemoryLimiter:
    """Implements `Limiter` for one process; remembers ``max_keys`` buckets at most, as `Shelf`."""

    _clock: Callable[[], float]
    """Monotonic seconds."""
    _wall: Callable[[], float]
    """Unix seconds."""
    max_keys: int = field(kw_only=True)
    _shelf: Shelf[Level] = field(
        init=False, default=Factory(lambda self: Shelf(self.max_keys), takes_self=True)
    )

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._shelf)

    def take(self, key: str, rate: Rate, cost: float = 1.0) -> Grant:
        """Spend ``cost`` tokens of ``key``'s bucket if they are there."""
        now = self._clock()
        buckets = self._shelf.kept
        bucket = buckets.get(key)
        level, seconds = take(rate, None if bucket is None else bucket.content, now, cost)
        left = until_full(rate, level)
        if bucket is None:
            self._shelf.put(key, Kept(level, level.at + left), now)
        else:
            bucket.content, bucket.full_at = level, level.at + left
            buckets.move_to_end(key)
        return self._grant(rate, level, seconds, left)

    def peek(self, key: str, rate: Rate) -> Grant:
        """Tell whether one token is there; remembers nothing."""
        bucket = self._shelf.kept.get(key)
        if bucket is None and rate.burst >= 1:
            # A full one, as every address has from which nobody has failed.
            return Grant(True, math.ceil(rate.per_second), rate.burst, self._wall(), 0.0)
        level = fill(rate, None if bucket is None else bucket.content, self._clock())
        return self._grant(rate, level, wait(rate, level), until_full(rate, level))

    def _grant(self, rate: Rate, level: Level, seconds: float, left: float) -> Grant:
        tokens = level.tokens
        return Grant(
            seconds == 0.0,
            math.ceil(rate.per_second),
            math.floor(tokens) if tokens > 0.0 else 0,
            self._wall() + left,
            seconds,
        )
