"""An authority whose buckets are in this process's memory: the parent's, for its workers."""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from mcpguard.limits.authority import Returned
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Bucket, Lease, full_in, lend, take_back


@define(eq=False)
class _Kept:
    bucket: Bucket
    full_at: float
    """Monotonic seconds; never earlier than what the heap has noted for it."""


@define(eq=False)
class MemoryAuthority:
    """Implements `Authority`; remembers ``max_keys`` buckets at most.

    As in `limits.memory`, full buckets are forgotten first, and only when none is full the one
    used longest ago.
    """

    _clock: Callable[[], float]
    """Monotonic seconds."""
    max_keys: int = field(kw_only=True)
    _kept: OrderedDict[str, _Kept] = field(init=False, factory=OrderedDict)
    """Least recently used first."""
    _filling: list[tuple[float, int, str, _Kept]] = field(init=False, factory=list)
    """A heap: the earliest moment at which each bucket may be full."""
    _serial: int = field(init=False, default=0)

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._kept)

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Lend tokens of ``key``'s bucket; there is never anything to wait for."""
        try:
            return succeed(self.decide(key, rate, ask))
        except Exception:
            return fail()

    def decide(self, key: str, rate: Rate, ask: Ask) -> Lease:
        """Do the same for callers in this process."""
        now = self._clock()
        kept = self._kept.get(key)
        if kept is None:
            bucket = Bucket(float(rate.burst), now)
            lease = lend(bucket, rate, now, ask)
            if lease.granted:
                self._remember(key, _Kept(bucket, now + full_in(bucket, rate)), now)
            return lease
        lease = lend(kept.bucket, rate, now, ask)
        kept.full_at = now + full_in(kept.bucket, rate)
        self._kept.move_to_end(key)
        return lease

    def give_back(self, returned: Sequence[Returned]) -> None:
        """Put unspent tokens back."""
        now = self._clock()
        for one in returned:
            kept = self._kept.get(one.key)
            if kept is not None:
                take_back(kept.bucket, one.rate, now, one.holder, one.tokens)
                kept.full_at = now + full_in(kept.bucket, one.rate)

    def _remember(self, key: str, kept: _Kept, now: float) -> None:
        if len(self._kept) >= self.max_keys and not self._forget_full(now):
            self._kept.popitem(last=False)
        self._kept[key] = kept
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
                del self._kept[key]
                return True
            self._note(key, kept)
        return False

    def _note(self, key: str, kept: _Kept) -> None:
        self._serial += 1
        heapq.heappush(self._filling, (kept.full_at, self._serial, key, kept))

    def _is_current(self, note: tuple[float, int, str, _Kept]) -> bool:
        return self._kept.get(note[2]) is note[3]
