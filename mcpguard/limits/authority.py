"""The authority's interface: it owns the buckets and lends out their tokens.

A process that decides about requests holds leases (`limits.leasing`), so that not every request
costs a round trip. What a lease is, and why the sum of them never passes the limit, stands in
`policy.leases`.
"""

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease


class Unreachable(Exception):
    """The authority did not answer in time, cannot be reached, or answered nonsense.

    Whether it has granted anything is not known; whoever asked counts it as lost.
    """


@frozen
class Returned:
    """Tokens of one bucket that their holder has not spent and will not spend any more."""

    key: str
    rate: Rate
    holder: str
    tokens: int


class Authority(Protocol):
    """Buckets that several processes draw from: the parent process's, or Redis's."""

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Lend tokens of ``key``'s bucket.

        Fires within the authority's own deadline in every case; errbacks with `Unreachable` when
        there is no answer. It never raises.
        """
        ...

    def give_back(self, returned: Sequence[Returned]) -> None:
        """Put unspent tokens back, at best: what gets lost on the way counts as spent."""
        ...
