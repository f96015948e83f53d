"""When a child that crashed may be started again: a decision from numbers alone."""

from collections import OrderedDict, deque
from collections.abc import Callable

from attrs import define, field, frozen


@frozen
class CrashBounds:
    """How crashes are answered; all times in seconds."""

    first_secs: float
    """The pause before the second restart; the first is at once."""
    most_secs: float
    """The pause doubles up to this."""
    jitter: float
    """Up to this part of a pause is added to it at random."""
    loop: int
    """So many crashes …"""
    window_secs: float
    """… within this time are a crash loop …"""
    cooldown_secs: float
    """… which is tried again only after this."""
    healthy_secs: float
    """A child that lived so long had no part in a crash loop."""


@define
class Crashes:
    """The recent crashes of one kind of child. Time is an argument, in seconds."""

    bounds: CrashBounds
    random: Callable[[], float]
    """Uniform in [0, 1)."""
    looping: bool = field(init=False, default=False)
    """True from the crash that made it a loop until a child was healthy."""
    _times: deque[float] = field(init=False, factory=deque)
    _until: float = field(init=False, default=float("-inf"))
    _fallen: bool = field(init=False, default=False)

    def crashed(self, now: float, lived: float) -> bool:
        """Note a crash after ``lived`` seconds; True when this one begins a crash loop."""
        if lived >= self.bounds.healthy_secs:
            self.healthy()
        began = False
        while self._times and self._times[0] <= now - self.bounds.window_secs:
            self._times.popleft()
        self._times.append(now)
        self._fallen = True
        if not self.looping and len(self._times) >= self.bounds.loop:
            self.looping = began = True
        self._until = now + self._pause() * (1.0 + self.bounds.jitter * self.random())
        return began

    def healthy(self) -> None:
        """A child proved that it works."""
        self.looping = False
        self._times.clear()
        self._until = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until a child may be started; 0 = at once."""
        return max(0.0, self._until - now)

    def restart(self) -> bool:
        """Note a start; True when it replaces a child that crashed."""
        restarting, self._fallen = self._fallen, False
        return restarting

    def _pause(self) -> float:
        if self.looping:
            return self.bounds.cooldown_secs
        # 2.0 ** 1100 would overflow; far before that the result is `most_secs` anyway.
        doublings = min(len(self._times) - 2, 64)
        if doublings < 0:
            return 0.0
        return float(min(self.bounds.most_secs, self.bounds.first_secs * 2.0**doublings))


@define
class CrashBook:
    """`Crashes` by key, the least recently used forgotten above ``max_keys``."""

    bounds: CrashBounds
    random: Callable[[], float]
    max_keys: int
    _kept: OrderedDict[str, Crashes] = field(init=False, factory=OrderedDict)

    def of(self, key: str) -> Crashes:
        """The crashes of one key, kept from now on."""
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = Crashes(self.bounds, self.random)
            if len(self._kept) > self.max_keys:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found

    def wait(self, key: str, now: float) -> float:
        """Seconds until a child of ``key`` may be started."""
        found = self._kept.get(key)
        return 0.0 if found is None else found.wait(now)

    def looping(self, key: str) -> bool:
        """Whether children of ``key`` are in a crash loop."""
        found = self._kept.get(key)
        return found is not None and found.looping

    def __len__(self) -> int:
        return len(self._kept)
