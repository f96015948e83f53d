"""Who has how many requests in progress: the count, and its keeper in one process."""

from attrs import define, field


@define(eq=False)
class PlaceBook:
    """Places by key over several holders; a holder that is gone leaves none behind."""

    max_places: int = field(kw_only=True)
    """Taken at once, over all keys."""
    _taken: dict[str, int] = field(init=False, factory=dict)
    _held: dict[int, dict[int, str]] = field(init=False, factory=dict)
    """Holder -> its own number for the place -> key."""
    _total: int = field(init=False, default=0)

    def __len__(self) -> int:
        """Places taken now."""
        return self._total

    def take(self, holder: int, number: int, key: str, limit: int) -> bool:
        """Take one of ``limit`` places of ``key``; ``holder`` uses no ``number`` twice."""
        taken = self._taken.get(key, 0)
        held = self._held.get(holder, {})
        if taken >= limit or self._total >= self.max_places or number in held:
            return False
        self._taken[key] = taken + 1
        held[number] = key
        self._held[holder] = held
        self._total += 1
        return True

    def give(self, holder: int, number: int) -> None:
        """Give a place back; a number without one (its question was refused) is no place."""
        held = self._held.get(holder)
        key = held.pop(number, None) if held is not None else None
        if key is None:
            return
        if not held:
            del self._held[holder]
        self._leave(key)

    def forget(self, holder: int) -> None:
        """A holder is gone, with all its requests."""
        for key in self._held.pop(holder, {}).values():
            self._leave(key)

    def _leave(self, key: str) -> None:
        self._total -= 1
        left = self._taken[key] - 1
        if left:
            self._taken[key] = left
        else:
            del self._taken[key]


@define(eq=False)
class MemoryPlaces:
    """Implements `Places` for one process; nothing has to be waited for."""

    _taken: dict[str, int] = field(init=False, factory=dict)

    def take_place(self, key: str, limit: int) -> bool:
        """Take one of ``limit`` places if there is one."""
        taken = self._taken.get(key, 0)
        if taken >= limit:
            return False
        self._taken[key] = taken + 1
        return True

    def give_place(self, key: str) -> None:
        """Give one place back."""
        left = self._taken.get(key, 1) - 1
        if left > 0:
            self._taken[key] = left
        else:
            self._taken.pop(key, None)
