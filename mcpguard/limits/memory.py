"""Token buckets in this process's memory."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field

from mcpguard.limits.limiter import Grant
from mcpguard.policy.buckets import Level, Rate, fill, take, until_full, wait


@define(eq=False)
class _Bucket:
    level: Level
    full_at: float
    """Monotonic seconds; never earlier than what the heap has noted for it."""


@define(eq=False)
class MemoryLimiter:
    """Implements `Limiter` for one process; remembers ``max_keys`` buckets at most.

    A full bucket is no different from one never seen, so full ones are forgotten first. Only when
    none of ``max_keys`` buckets is full is the one forgotten that was used longest ago.
    """

    _clock: Callable[[], float]
    """Monotonic seconds."""
    _wall: Callable[[], float]
    """Unix seconds."""
    max_keys: int = field(kw_only=True)
    _buckets: OrderedDict[str, _Bucket] = field(init=False, factory=OrderedDict)
    """Least recently used first."""
    _filling: list[tuple[float, int, str, _Bucket]] = field(init=False, factory=list)
    """A heap: the earliest moment at which each bucket may be full."""
    _serial: int = field(init=False, default=0)

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._buckets)

    def take(self, key: str, rate: Rate, cost: float = 1.0) -> Grant:
        """Spend ``cost`` tokens of ``key``'s bucket if they are there."""
        now = self._clock()
        bucket = self._buckets.get(key)
        level, seconds = take(rate, None if bucket is None else bucket.level, now, cost)
        left = until_full(rate, level)
        if bucket is None:
            self._remember(key, _Bucket(level, level.at + left), now)
        else:
            bucket.level, bucket.full_at = level, level.at + left
            self._buckets.move_to_end(key)
        return self._grant(rate, level, seconds, left)

    def peek(self, key: str, rate: Rate) -> Grant:
        """Tell whether one token is there; remembers nothing."""
        bucket = self._buckets.get(key)
        if bucket is None and rate.burst >= 1:
            # A full one, as every address has from which nobody has failed.
            return Grant(True, math.ceil(rate.per_second), rate.burst, self._wall(), 0.0)
        level = fill(rate, None if bucket is None else bucket.level, self._clock())
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

    def _remember(self, key: str, bucket: _Bucket, now: float) -> None:
        if len(self._buckets) >= self.max_keys and not self._forget_full(now):
            self._buckets.popitem(last=False)
        self._buckets[key] = bucket
        self._note(key, bucket)
        if len(self._filling) > 2 * self.max_keys:
            # Notes of buckets forgotten before they were full.
            self._filling = [note for note in self._filling if self._is_current(note)]
            heapq.heapify(self._filling)

    def _forget_full(self, now: float) -> bool:
        """Forget one full bucket, if there is one."""
        while self._filling and self._filling[0][0] <= now:
            note = heapq.heappop(self._filling)
            if not self._is_current(note):
                continue
            _, _, key, bucket = note
            if bucket.full_at <= now:
                del self._buckets[key]
                return True
            self._note(key, bucket)
        return False

    def _note(self, key: str, bucket: _Bucket) -> None:
        self._serial += 1
        heapq.heappush(self._filling, (bucket.full_at, self._serial, key, bucket))

    def _is_current(self, note: tuple[float, int, str, _Bucket]) -> bool:
        return self._buckets.get(note[2]) is note[3]
