"""An authority whose buckets are in this process's memory: the parent's, for its workers."""

from collections.abc import Callable, Sequence

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, fail, succeed

from mcpguard.limits.authority import Returned
from mcpguard.limits.shelf import Kept, Shelf
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Bucket, Lease, full_in, lend, take_back


@define(eq=False)
class MemoryAuthority:
    """Implements `Authority`; remembers ``max_keys`` buckets at most, as `Shelf`."""

    _clock: Callable[[], float]
    """Monotonic seconds."""
    max_keys: int = field(kw_only=True)
    _shelf: Shelf[Bucket] = field(
        init=False, default=Factory(lambda self: Shelf(self.max_keys), takes_self=True)
    )

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._shelf)

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Lend tokens of ``key``'s bucket; there is never anything to wait for."""
        try:
            return succeed(self.decide(key, rate, ask))
        except Exception:
            return fail()

    def decide(self, key: str, rate: Rate, ask: Ask) -> Lease:
        """Do the same for callers in this process."""
        now = self._clock()
        kept = self._shelf.kept.get(key)
        if kept is None:
            bucket = Bucket(float(rate.burst), now)
            lease = lend(bucket, rate, now, ask)
            if lease.granted:
                self._shelf.put(key, Kept(bucket, now + full_in(bucket, rate)), now)
            return lease
        lease = lend(kept.content, rate, now, ask)
        kept.full_at = now + full_in(kept.content, rate)
        self._shelf.kept.move_to_end(key)
        return lease

    def give_back(self, returned: Sequence[Returned]) -> None:
        """Put unspent tokens back."""
        now = self._clock()
        for one in returned:
            kept = self._shelf.kept.get(one.key)
            if kept is not None:
                take_back(kept.content, one.rate, now, one.holder, one.tokens)
                kept.full_at = now + full_in(kept.content, one.rate)
