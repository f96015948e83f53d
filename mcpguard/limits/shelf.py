"""Buckets by key, bounded in number: the ones that mean least are forgotten first."""

import heapq
from collections import OrderedDict
from typing import Generic, TypeVar

from attrs import define, field

Content = TypeVar("Content")


@define(eq=False)
class Kept(Generic[Content]):
    """One bucket on the shelf."""

    content: Content
    full_at: float
    """Monotonic seconds; never earlier than what the heap has noted for it."""


@define(eq=False)
class Shelf(Generic[Content]):
    """At most ``max_keys`` buckets.

    A full bucket is no different from one never seen, so full ones are forgotten first. Only when
    none of ``max_keys`` buckets is full is the one forgotten that was used longest ago.
    """

    max_keys: int
    kept: OrderedDict[str, Kept[Content]] = field(init=False, factory=OrderedDict)
    """Least recently used first: whoever uses one moves it to the end."""
    _filling: list[tuple[float, int, str, Kept[Content]]] = field(init=False, factory=list)
    """A heap: the earliest moment at which each bucket may be full."""
    _serial: int = field(init=False, default=0)

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self.kept)

    def put(self, key: str, kept: Kept[Content], now: float) -> None:
        """Remember a new bucket; ``now`` in monotonic seconds."""
        if len(self.kept) >= self.max_keys and not self._forget_full(now):
            self.kept.popitem(last=False)
        self.kept[key] = kept
        self._note(key, kept)
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
            _, _, key, kept = note
            if kept.full_at <= now:
                del self.kept[key]
                return True
            self._note(key, kept)
        return False

    def _note(self, key: str, kept: Kept[Content]) -> None:
        self._serial += 1
        heapq.heappush(self._filling, (kept.full_at, self._serial, key, kept))

    def _is_current(self, note: tuple[float, int, str, Kept[Content]]) -> bool:
        return self.kept.get(note[2]) is note[3]
