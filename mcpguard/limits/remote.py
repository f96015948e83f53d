"""Limits that the parent process keeps for its workers, over their private channel."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import define, field
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.limits.authority import Returned, Unreachable
from mcpguard.limits.memory_authority import MemoryAuthority
from mcpguard.limits.places import PlaceBook
from mcpguard.ops.workers.control import Control, ControlFailed, Peer, Peers
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease

LEASE, GIVE_BACK = "limits.lease", "limits.give_back"
TAKE_PLACE, GIVE_PLACE = "limits.take_place", "limits.give_place"


# What goes over the channel, as lists; the parent checks their types like any other input's.


class _LeaseCall(Struct, array_like=True):
    key: str
    per_second: float
    burst: int
    holder: str
    least: int
    extra: int
    held: int
    lasts: float


class _LeaseAnswer(Struct, array_like=True):
    granted: int
    kept: int
    remaining: float
    elsewhere: float
    wait: float


class _ReturnedCall(Struct, array_like=True):
    key: str
    per_second: float
    burst: int
    holder: str
    tokens: int


class _PlaceCall(Struct, array_like=True):
    number: int
    key: str
    limit: int


@define(eq=False)
class RemoteAuthority:
    """Implements `Authority` in a worker: the parent decides."""

    _control: Control
    timeout: float = field(kw_only=True)
    """Seconds."""

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Ask the parent."""
        call = [
            *(key, rate.per_second, rate.burst),
            *(ask.holder, ask.least, ask.extra, ask.held, ask.lasts),
        ]
        answer = self._control.ask(LEASE, call, timeout=self.timeout)
        return answer.addCallbacks(_lease_from, _unreachable)

    def give_back(self, returned: Sequence[Returned]) -> None:
        """Tell the parent."""
        self._control.tell(
            GIVE_BACK,
            [
                [one.key, one.rate.per_second, one.rate.burst, one.holder, one.tokens]
                for one in returned
            ],
        )


def _lease_from(payload: Any) -> Lease:
    try:
        found = msgspec.convert(payload, _LeaseAnswer)
    except msgspec.ValidationError as error:
        raise Unreachable("the parent's answer about a limit makes no sense") from error
    return Lease(found.granted, found.kept, found.remaining, found.elsewhere, found.wait)


def _unreachable(failure: Failure) -> Failure:
    failure.trap(ControlFailed)
    return Failure(Unreachable(f"the parent did not answer: {failure.value}"))


@define(eq=False)
class RemotePlaces:
    """Implements `Places` in a worker: the parent counts over all of them."""

    _control: Control
    timeout: float = field(kw_only=True)
    """Seconds."""
    max_owed: int = field(kw_only=True)
    """Places to give back for which the channel had no room; beyond it none is taken."""
    _serial: int = field(init=False, default=0)
    _mine: dict[str, list[int]] = field(init=False, factory=dict)
    """Key -> the numbers of its places taken here."""
    _owed: deque[int] = field(init=False, factory=deque)
    """Given back here, but the channel would not take the word yet; tried again each time."""

    def take_place(self, key: str, limit: int) -> Deferred[bool]:
        """Ask the parent for a place."""
        self._pay()
        if len(self._owed) >= self.max_owed:
            raise Refused(_untellable())
        self._serial += 1
        number = self._serial
        answer = self._control.ask(TAKE_PLACE, [number, key, limit], timeout=self.timeout)
        return answer.addCallbacks(
            self._taken,
            self._untold,
            callbackArgs=(key, number),
            errbackArgs=(number,),
        )

    def give_place(self, key: str) -> None:
        """Give one place back."""
        numbers = self._mine[key]
        self._owed.append(numbers.pop())
        if not numbers:
            del self._mine[key]
        self._pay()

    def _taken(self, payload: Any, key: str, number: int) -> bool:
        if payload is not True:
            return False
        self._mine.setdefault(key, []).append(number)
        return True

    def _untold(self, failure: Failure, number: int) -> Failure:
        failure.trap(ControlFailed)
        # It may have been taken all the same.
        self._owed.append(number)
        self._pay()
        return Failure(Refused(_untellable()))

    def _pay(self) -> None:
        while self._owed and self._control.tell(GIVE_PLACE, self._owed[0]):
            self._owed.popleft()


def _untellable() -> Refusal:
    detail = "the parent process does not answer"
    return Refusal(Reason.LIMITS_UNAVAILABLE, retry_after=1.0, detail=detail)


@define(eq=False)
class LimitsDesk:
    """The parent's side: serves every worker's questions about limits."""

    authority: MemoryAuthority
    places: PlaceBook

    def serve(self, peers: Peers) -> None:
        """Answer these from now on."""
        peers.register(LEASE, self._lease)
        peers.register(GIVE_BACK, self._give_back)
        peers.register(TAKE_PLACE, self._take_place)
        peers.register(GIVE_PLACE, self._give_place)
        peers.on_gone(lambda peer: self.places.forget(peer.life))

    def _lease(self, peer: Peer, payload: Any) -> list[Any]:
        call = msgspec.convert(payload, _LeaseCall)
        ask = Ask(call.holder, call.least, call.extra, call.held, call.lasts)
        lease = self.authority.decide(call.key, Rate(call.per_second, call.burst), ask)
        return [lease.granted, lease.kept, lease.remaining, lease.elsewhere, lease.wait]

    def _give_back(self, peer: Peer, payload: Any) -> None:
        self.authority.give_back(
            [
                Returned(one.key, Rate(one.per_second, one.burst), one.holder, one.tokens)
                for one in msgspec.convert(payload, list[_ReturnedCall])
            ]
        )

    def _take_place(self, peer: Peer, payload: Any) -> bool:
        call = msgspec.convert(payload, _PlaceCall)
        return self.places.take(peer.life, call.number, call.key, call.limit)

    def _give_place(self, peer: Peer, payload: Any) -> None:
        self.places.give(peer.life, msgspec.convert(payload, int))
