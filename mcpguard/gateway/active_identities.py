"""Who was seen lately, for the gauge of active identities."""

from collections.abc import Callable, Collection

from attrs import define, field

from mcpguard.policy.principal import Principal


@define(eq=False)
class ActiveIdentities:
    """How many principals were seen in the last ``window`` seconds; bounded."""

    monotonic: Callable[[], float]
    window: float
    max_tracked: int
    _seen: dict[str, float] = field(init=False, factory=dict)

    def note(self, principal: Principal) -> None:
        """A principal was authenticated."""
        self._seen.pop(principal.key, None)
        self._seen[principal.key] = self.monotonic()
        if len(self._seen) > self.max_tracked:
            self._seen.pop(next(iter(self._seen)))

    def keys(self) -> Collection[str]:
        """Those seen lately."""
        oldest = self.monotonic() - self.window
        while self._seen:
            key, at = next(iter(self._seen.items()))
            if at >= oldest:
                break
            del self._seen[key]
        return self._seen.keys()
