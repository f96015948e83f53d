"""The limiter's interface: who may go now, and what the caller is told about it."""

from typing import Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred

from mcpguard.policy.buckets import Rate


class Grant(Struct, frozen=True):
    """The answer to one request for tokens."""

    allowed: bool
    limit: int
    """Bucket size or rate per second as shown in ``x-ratelimit-limit`` (the rate, rounded up)."""
    remaining: int
    """Whole tokens left after this request."""
    reset_at: float
    """Unix seconds at which the bucket is full again."""
    retry_after: float
    """Seconds until one token is there; 0 when allowed."""


class Limiter(Protocol):
    """Token buckets by key. A plain Grant is answered when nothing has to be waited for.

    Both methods raise, or errback with, `Refused` where a decision cannot be had.
    """

    def take(self, key: str, rate: Rate) -> Grant | Deferred[Grant]:
        """Spend one token of ``key``'s bucket if it is there."""
        ...

    def peek(self, key: str, rate: Rate) -> Grant | Deferred[Grant]:
        """Tell whether one token is there, without spending it."""
        ...


class Places(Protocol):
    """Requests in progress by identity, counted over everyone who shares the limit."""

    def take_place(self, key: str, limit: int) -> bool | Deferred[bool]:
        """Take one of ``limit`` places if there is one; plain when nothing has to be waited for.

        Raises, or errbacks with, `Refused` when it cannot be told; then none was taken.
        """
        ...

    def give_place(self, key: str) -> None:
        """Give one place back; each that was taken is given back once."""
        ...
