"""Leases of tokens as arithmetic: no clock, no storage.

A bucket's owner (the authority) lends tokens to those who decide about requests (the holders).
Three rules keep the sum of all requests within the bucket, whatever gets lost on the way:

* What is lent and not known to be spent still counts as being in the bucket: it refills no
  further than ``burst`` minus that.
* A lease has an end. What was not given back by then counts as spent; its holder, who measures
  the time from before it asked, does not spend it after that.
* A holder whose question got no answer asks on under another name, so that the lost question may
  arrive whenever it likes.

The script of `limits.redis_script` is the same arithmetic in Lua; a test compares the two.
"""

import math

from attrs import define, field
from msgspec import Struct

from mcpguard.policy.buckets import Rate

MAX_LASTS = 60.0
"""Seconds of the longest lease."""
MAX_HOLDERS = 64
"""Of one bucket at once; whoever comes on top gets what is needed now and nothing in advance."""
ROUNDING = 1e-9
"""Tokens forgiven, as in `buckets`."""

HORIZON = 0.2
"""Seconds of the demand seen lately that a holder has in advance."""
SMALLEST = 4
"""A demand below this many tokens per horizon (20 a second) is served one at a time."""
PAUSE = 0.02
"""Seconds; see `dry_for`."""
SHARE = 4
"""No holder has more than this fraction of a burst in advance."""


class Ask(Struct, frozen=True):
    """What one holder wants of one bucket."""

    holder: str
    """A name that nobody else uses: letters, digits, ``.`` and ``-``, at most 64 characters."""
    least: int
    """Tokens for requests that wait for them now; granted as far as they are there."""
    extra: int
    """Further tokens, for requests to come; more or fewer of them are granted, or none."""
    held: int
    """Tokens of earlier leases that the holder still has and would keep."""
    lasts: float
    """Seconds for which ``extra`` and ``held`` are wanted."""


class Lease(Struct, frozen=True):
    """The answer to an `Ask`."""

    granted: int
    """New tokens: those for ``least`` first."""
    kept: int
    """How many of ``held`` are still the holder's; the others have lapsed."""
    remaining: float
    """Tokens left in the bucket."""
    elsewhere: float
    """Tokens that other holders have, or may have."""
    wait: float
    """Seconds until a whole token is in the bucket; 0 when there is one, infinite for never."""


class Loan(Struct):
    """What one holder has, or may have, of a bucket."""

    tokens: int
    end: float


@define(eq=False)
class Bucket:
    """One bucket with what is lent from it; times are the authority's own clock's."""

    tokens: float
    at: float
    loans: dict[str, Loan] = field(factory=dict)

    @property
    def lent(self) -> int:
        """Tokens that holders have, or may have."""
        return sum(loan.tokens for loan in self.loans.values())


def refill(bucket: Bucket, rate: Rate, now: float) -> None:
    """Bring a bucket up to ``now``: tokens that have come, loans that have ended.

    A clock that was set back gives nothing for the time it repeats, and counts on from there.
    """
    if bucket.loans:
        latest = now + MAX_LASTS
        for loan in bucket.loans.values():
            loan.end = min(loan.end, latest)  # after a step back no loan may outlast its time
        ended = [(loan.end, name) for name, loan in bucket.loans.items() if loan.end <= now]
        for end, name in sorted(ended):
            # Up to its end a loan held the refill down, whenever it was spent.
            _flow(bucket, rate, end)
            del bucket.loans[name]
    _flow(bucket, rate, now)
    bucket.at = now


def _flow(bucket: Bucket, rate: Rate, now: float) -> None:
    if now > bucket.at:
        bucket.tokens += (now - bucket.at) * rate.per_second
        bucket.at = now
    full = max(0.0, float(rate.burst - bucket.lent) if bucket.loans else float(rate.burst))
    if bucket.tokens > full:
        bucket.tokens = full


def lend(bucket: Bucket, rate: Rate, now: float, ask: Ask) -> Lease:
    """Answer one holder."""
    refill(bucket, rate, now)
    loan = bucket.loans.pop(ask.holder, None)
    kept = min(ask.held, loan.tokens) if loan is not None else 0
    granted = max(0, min(ask.least, math.floor(bucket.tokens + ROUNDING)))
    bucket.tokens -= granted
    elsewhere = bucket.lent if bucket.loans else 0
    more = 0
    if granted == ask.least and ask.extra > 0 and len(bucket.loans) < MAX_HOLDERS:
        # Where others have been, half of what is left, so that they find something too; half of
        # the bucket in all, so that it can refill whatever is out.
        left = math.floor(bucket.tokens / 2 if bucket.loans else bucket.tokens)
        more = max(0, min(ask.extra, left, rate.burst // 2 - elsewhere - kept))
        bucket.tokens -= more
    if kept + more > 0:
        bucket.loans[ask.holder] = Loan(kept + more, now + min(ask.lasts, MAX_LASTS))
    return Lease(granted + more, kept, bucket.tokens, elsewhere, wait(bucket.tokens, rate))


def take_back(bucket: Bucket, rate: Rate, now: float, holder: str, tokens: int) -> None:
    """Put back what a holder did not spend; what has lapsed or was never lent is no token."""
    refill(bucket, rate, now)
    loan = bucket.loans.pop(holder, None)
    if loan is not None:
        bucket.tokens += max(0, min(tokens, loan.tokens))


def wait(tokens: float, rate: Rate) -> float:
    """Seconds until a whole token is there."""
    if tokens + ROUNDING >= 1.0:
        return 0.0
    return (1.0 - tokens) / rate.per_second if rate.per_second > 0.0 else math.inf


def full_in(bucket: Bucket, rate: Rate) -> float:
    """Seconds from ``bucket.at`` after which the bucket is like one never seen."""
    missing = rate.burst - bucket.tokens
    if missing <= 0.0:
        return 0.0
    filled = missing / rate.per_second if rate.per_second > 0.0 else math.inf
    if not bucket.loans:
        return filled
    # Held down until the last loan ends, it may have all of its missing tokens before it yet.
    return filled + max(0.0, max(loan.end for loan in bucket.loans.values()) - bucket.at)


class Demand:
    """How many tokens one key has lately spent per `HORIZON`, as its holder sees it."""

    __slots__ = ("_before", "_count", "_start")

    def __init__(self, now: float) -> None:
        self._start = now
        self._count = 0
        self._before = 0

    def note(self, now: float) -> None:
        """One token was asked for."""
        if now - self._start >= HORIZON:
            # A window in between in which nothing was asked for ends what was seen before it.
            self._before = self._count if now - self._start < 2 * HORIZON else 0
            self._count = 0
            self._start = now
        self._count += 1

    def expected(self, now: float) -> int:
        """Tokens that the next `HORIZON` will want, if it is like the last."""
        if now - self._start >= 2 * HORIZON:
            return 0
        return max(self._before, self._count)


def in_advance(rate: Rate, expected: int) -> int:
    """How many tokens a holder should have at hand; 0: one at a time."""
    if expected < SMALLEST:
        return 0
    return min(expected, rate.burst // SHARE)


def dry_for(rate: Rate) -> float:
    """Seconds for which a holder that found the bucket empty does not ask again, at least.

    Not one by one, but some at a time it then gets what has come: the time of a quarter of the
    bucket, 20 ms at most, in which nothing can overflow.
    """
    return min(PAUSE, rate.burst / (4.0 * rate.per_second)) if rate.per_second > 0.0 else PAUSE
