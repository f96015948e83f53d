"""Calls that wait at their server until their client comes back with answers, within bounds."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mcpguard.errors import Reason
from mcpguard.protocol.jsonrpc import encode
from mcpguard.upstream.link import Message, UpstreamFailure


@frozen
class ParkingBounds:
    """How many calls may wait for their clients, how long, and how much is kept for that."""

    calls: int
    calls_per_principal: int
    size: int
    """Bytes of questions and answers kept, of all principals."""
    size_per_principal: int
    secs: float
    """How long a client may take to come back."""
    rounds: int
    """How often the client of one call may be asked."""
    questions: int
    """Open at once, of one call."""
    notifications: int
    """Progress and log messages kept of one call, the latest ones."""


class Parkable(Protocol):
    """A call, as the parking lot sees it."""

    @property
    def principal_key(self) -> str:
        """Whose call it is."""
        ...

    def expired(self) -> None:
        """Its client did not come back in time."""
        ...


@define(eq=False)
class ParkingLot:
    """The parked calls of one upstream, each by a token that counts once.

    ``new_token`` gives words that nobody can guess.
    """

    bounds: ParkingBounds
    clock: IReactorTime
    new_token: Callable[[], str]
    _parked: dict[str, tuple[Parkable, IDelayedCall]] = field(init=False, factory=dict)
    _calls: dict[str, int] = field(init=False, factory=dict)
    _kept: dict[str, int] = field(init=False, factory=dict)
    """Principal -> bytes."""
    _size: int = field(init=False, default=0)

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def size(self) -> int:
        """Bytes kept now."""
        return self._size

    def enter(self, call: Parkable) -> str | None:
        """Park a call; gives its token, None where a bound is reached."""
        held = self._calls.get(call.principal_key, 0)
        if len(self._parked) >= self.bounds.calls or held >= self.bounds.calls_per_principal:
            return None
        token = self.new_token()
        timer = self.clock.callLater(self.bounds.secs, self._expire, token)
        self._parked[token] = call, timer
        self._calls[call.principal_key] = held + 1
        return token

    def find(self, token: object, principal_key: str) -> Parkable | None:
        """The principal's own call parked under a token; a foreign one is as unknown as none."""
        found = self._parked.get(token) if isinstance(token, str) else None
        return found[0] if found is not None and found[0].principal_key == principal_key else None

    def leave(self, token: str) -> None:
        """Its client is back, or it is over: the token counts no more."""
        found = self._parked.pop(token, None)
        if found is None:
            return
        call, timer = found
        if timer.active():
            timer.cancel()
        _take(self._calls, call.principal_key, 1)

    def keep(self, principal_key: str, size: int) -> bool:
        """Charge bytes that are kept for a principal; False where a bound is reached."""
        own = self._kept.get(principal_key, 0) + size
        if own > self.bounds.size_per_principal or self._size + size > self.bounds.size:
            return False
        self._size += size
        self._kept[principal_key] = own
        return True

    def drop(self, principal_key: str, size: int) -> None:
        """Give back what `keep` charged."""
        self._size -= size
        _take(self._kept, principal_key, size)

    def _expire(self, token: str) -> None:
        call = self._parked[token][0]
        self.leave(token)
        call.expired()


@define(eq=False)
class Meanwhile:
    """What the server says of a call while its client is away, kept for the client's next round."""

    lot: ParkingLot
    principal_key: str
    outcome: Message | UpstreamFailure | None = field(init=False, default=None)
    """How the call ended; None while it goes on."""
    _told: deque[tuple[int, Message]] = field(init=False, factory=deque)
    _outcome_size: int = field(init=False, default=0)

    def tell(self, message: Message) -> None:
        """Keep a notification, in place of the oldest if there are too many."""
        if len(self._told) >= self.lot.bounds.notifications:
            self._forget_oldest()
        size = len(encode(message))
        if self.lot.bounds.notifications and self.lot.keep(self.principal_key, size):
            self._told.append((size, message))

    def end(self, outcome: Message | UpstreamFailure) -> None:
        """Keep the end, or that there was no room for it."""
        if not isinstance(outcome, UpstreamFailure):
            size = len(encode(outcome))
            if self.lot.keep(self.principal_key, size):
                self._outcome_size = size
            else:
                outcome = UpstreamFailure(Reason.ANSWER_TOO_LARGE, "no room to keep an answer")
        self.outcome = outcome

    def take(self) -> list[Message]:
        """The notifications, in order; they are kept no more."""
        taken = [message for _, message in self._told]
        while self._told:
            self._forget_oldest()
        return taken

    def forget(self) -> None:
        """Keep nothing any more."""
        self.take()
        self.lot.drop(self.principal_key, self._outcome_size)
        self._outcome_size, self.outcome = 0, None

    def _forget_oldest(self) -> None:
        if self._told:
            self.lot.drop(self.principal_key, self._told.popleft()[0])


def _take(counts: dict[str, int], key: str, amount: int) -> None:
    left = counts.get(key, 0) - amount
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)
