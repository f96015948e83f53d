"""A limiter that holds leases of an authority's tokens, so that not every request asks it."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.limits.authority import Authority, Returned, Unreachable
from mcpguard.limits.limiter import Grant, Limiter
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Demand, Lease, dry_for, in_advance

log = Logger()

IDLE_SECS = 2.0
"""A key not asked for this long is forgotten, and what is held of it given back."""
TICK_SECS = 0.5
LASTS_SECS = 6.0
"""A lease: longer than what is idle stays, so that in ordinary life none lapses."""
OWN_SECS = 0.9 * LASTS_SECS
"""What its holder makes of that: clocks may differ by a tenth."""
RENEW_SECS = 3.0
"""Before its end a lease that is in use is renewed."""
LOOK_SECS = 5.0
"""How long an answer that shows plenty is enough to `peek` at."""
SHORTEST_WAIT_SECS = 0.001
"""What who is refused is told to wait at least."""


@define(eq=False)
class _Account:
    """What is known and held of one key."""

    key: str
    rate: Rate
    holder: str
    used: float
    demand: Demand
    tokens: int = 0
    end: float = 0.0
    """Monotonic seconds after which ``tokens`` are not ours any more."""
    low: float = -1.0
    """At this many tokens more are asked for."""
    level: float = 0.0
    """Tokens in the bucket, those held here included, at ``level_at``."""
    level_at: float = 0.0
    elsewhere: float = 0.0
    looked_at: float = -math.inf
    dry_until: float = 0.0
    asking: bool = False
    waiting: deque[Deferred[Grant]] = field(factory=deque)
    """Who waits for a token; first come, first served."""
    looking: list[Deferred[Grant]] = field(factory=list)


@define(eq=False)
class LeasingLimiter:
    """Implements `Limiter` over an `Authority`.

    Per key there is one question under way at most. ``fallback`` decides while the authority does
    not answer; without one, `take` and `peek` raise (or errback with) `Refused`.
    """

    _authority: Authority
    _clock: IReactorTime
    """For the one timer."""
    _monotonic: Callable[[], float]
    _wall: Callable[[], float]
    """Unix seconds."""
    name: str = field(kw_only=True)
    """Of this process, and of no other that shares the authority."""
    fallback: Limiter | None = field(kw_only=True)
    max_keys: int = field(kw_only=True)
    max_waiting: int = field(kw_only=True)
    """Requests waiting for the authority at once; more are refused."""
    on_undecided: Callable[[], None] = field(kw_only=True)
    """Told of each decision that the authority did not make."""
    _accounts: OrderedDict[str, _Account] = field(init=False, factory=OrderedDict)
    """Least recently used first."""
    _holders: int = field(init=False, default=0)
    _waiting: int = field(init=False, default=0)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)

    def __len__(self) -> int:
        """How many keys something is known of."""
        return len(self._accounts)

    # -- Limiter ---------------------------------------------------------------------------

    def take(self, key: str, rate: Rate) -> Grant | Deferred[Grant]:
        """Spend one token of ``key``'s bucket if it is there."""
        now = self._monotonic()
        account = self._account(key, rate, now)
        account.demand.note(now)
        if not account.waiting:
            if now >= account.end:
                account.tokens = 0
            if account.tokens:
                account.tokens -= 1
                grant = self._granted(account, now, 1)
                if not account.asking and (
                    account.tokens <= account.low or account.end - now < RENEW_SECS
                ):
                    self._ask_ahead(account, now)
                return grant
            if now < account.dry_until:
                return self._refused(account, now)
        return self._join(account, now)

    def peek(self, key: str, rate: Rate) -> Grant | Deferred[Grant]:
        """Tell whether one token is there, without spending or holding it.

        A bucket that was at least half full lately is not asked for again.
        """
        now = self._monotonic()
        account = self._account(key, rate, now)
        if account.tokens and now < account.end:
            return self._granted(account, now, 0)
        if now < account.dry_until:
            return self._refused(account, now)
        plenty = account.level + account.elsewhere >= max(2.0, rate.burst / 2)
        if plenty and now - account.looked_at < LOOK_SECS:
            return self._granted(account, now, 0)
        self._check_room()
        answer: Deferred[Grant] = Deferred()
        account.looking.append(answer)
        self._waiting += 1
        if not account.asking:
            self._ask(account, now, 0, 0)
        return answer

    def stop(self) -> None:
        """Give everything back; requests are still answered, but no timer runs for them."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._forget([one for one in self._accounts.values() if not one.asking])

    # -- keys ------------------------------------------------------------------------------

    def _account(self, key: str, rate: Rate, now: float) -> _Account:
        account = self._accounts.get(key)
        if account is not None:
            if account.rate == rate or account.asking:
                self._accounts.move_to_end(key)
                account.used = now
                return account
            self._forget([account])
        elif len(self._accounts) >= self.max_keys:
            self._make_room()
        account = _Account(key, rate, self._new_holder(), now, Demand(now))
        self._accounts[key] = account
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(TICK_SECS, self._tick)
        return account

    def _new_holder(self) -> str:
        self._holders += 1
        return f"{self.name}.{self._holders}"

    def _make_room(self) -> None:
        """Forget the key used longest ago of those nobody waits for."""
        for account in self._accounts.values():
            if not account.asking:
                self._forget([account])
                return
        raise _overloaded()

    def _forget(self, accounts: list[_Account]) -> None:
        now = self._monotonic()
        returned = []
        for account in accounts:
            del self._accounts[account.key]
            if account.tokens and now < account.end:
                returned.append(_all_of(account))
        if returned:
            self._authority.give_back(returned)

    def _tick(self) -> None:
        self._timer = None
        oldest = self._monotonic() - IDLE_SECS
        idle = []
        for account in self._accounts.values():
            if account.used > oldest:
                break
            if not account.asking:
                idle.append(account)
        self._forget(idle)
        if self._accounts:
            self._timer = self._clock.callLater(TICK_SECS, self._tick)

    # -- asking ----------------------------------------------------------------------------

    def _join(self, account: _Account, now: float) -> Deferred[Grant]:
        """Wait for the authority's answer."""
        self._check_room()
        answer: Deferred[Grant] = Deferred()
        account.waiting.append(answer)
        self._waiting += 1
        if not account.asking:
            self._ask_for_waiting(account, now)
        return answer

    def _check_room(self) -> None:
        if self._waiting >= self.max_waiting:
            raise _overloaded()

    def _ask_for_waiting(self, account: _Account, now: float) -> None:
        waiting = len(account.waiting)
        advance = in_advance(account.rate, account.demand.expected(now))
        self._ask(account, now, max(0, waiting - account.tokens), max(0, advance - waiting))

    def _ask_ahead(self, account: _Account, now: float) -> None:
        advance = in_advance(account.rate, account.demand.expected(now))
        account.low = -1.0
        if advance < account.tokens / 2:
            # Demand has gone down: others may have it.
            if account.tokens:
                self._authority.give_back([_all_of(account)])
            # Under its own name, so that it cannot meet a later lease on the way.
            account.tokens, account.holder = 0, self._new_holder()
        elif account.tokens or advance:
            self._ask(account, now, 0, max(0, advance - account.tokens))

    def _ask(self, account: _Account, now: float, least: int, extra: int) -> None:
        held = account.tokens if now < account.end else 0
        ask = Ask(account.holder, least, extra, held, LASTS_SECS)
        account.asking = True
        answer = self._authority.lease(account.key, account.rate, ask)
        answer.addCallbacks(
            self._settle, self._fail, callbackArgs=(account, ask, now), errbackArgs=(account,)
        )
        answer.addErrback(self._broken, account)

    # -- answers ---------------------------------------------------------------------------

    def _settle(self, lease: Lease, account: _Account, ask: Ask, sent: float) -> None:
        account.asking = False
        now = self._monotonic()
        needed = min(lease.granted, ask.least)
        account.tokens = min(account.tokens, lease.kept) + lease.granted
        account.end = sent + OWN_SECS
        if now >= account.end:
            account.tokens = needed  # those for requests that waited were never lent
        account.level, account.level_at = lease.remaining + account.tokens, now
        account.elsewhere, account.looked_at = lease.elsewhere, sent
        served = self._serve(account, now)
        # What was granted for a request that is gone was not lent: it counts as spent.
        account.tokens = min(account.tokens, lease.kept + lease.granted - needed)
        more = lease.granted > needed and lease.wait == 0.0
        account.low = account.tokens / 4 if more else -1.0
        short = lease.granted < ask.least
        account.dry_until = 0.0
        if short or lease.wait > 0.0:
            # What is held is still spent meanwhile.
            account.dry_until = now + max(lease.wait, dry_for(account.rate))
        if short:
            served += [(answer, self._refused(account, now)) for answer in account.waiting]
            account.waiting.clear()
        there = lease.remaining + lease.elsewhere + account.tokens >= 1.0
        for answer in account.looking:
            grant = self._granted(account, now, 0) if there else self._refused(account, now)
            served.append((answer, grant))
        account.looking.clear()
        if account.waiting:
            self._ask_for_waiting(account, now)
        for answer, grant in served:
            self._answer(answer, grant)

    def _serve(self, account: _Account, now: float) -> list[tuple[Deferred[Grant], Grant]]:
        """Grant what is there to those who wait, in their order; answered later, all at once."""
        served = []
        waiting = account.waiting
        while waiting and account.tokens:
            answer = waiting.popleft()
            if answer.called:
                self._waiting -= 1  # cancelled
                continue
            account.tokens -= 1
            served.append((answer, self._granted(account, now, 1)))
        return served

    def _fail(self, failure: Failure, account: _Account) -> None:
        """The authority did not answer: it may have granted what was asked, so it is lost."""
        failure.trap(Unreachable)
        self._lose(account)

    def _broken(self, failure: Failure, account: _Account) -> None:
        log.failure("an answer about a limit could not be used", failure=failure)
        if account.asking:
            self._lose(account)

    def _lose(self, account: _Account) -> None:
        account.asking = False
        account.holder = self._new_holder()
        account.tokens, account.low, account.dry_until = 0, -1.0, 0.0
        account.looked_at = -math.inf
        waiting, account.waiting = account.waiting, deque()
        looking, account.looking = account.looking, []
        for answer in waiting:
            self._answer(answer, self._undecided(account, look=False))
        for answer in looking:
            self._answer(answer, self._undecided(account, look=True))

    def _undecided(self, account: _Account, *, look: bool) -> "Grant | Deferred[Grant] | Failure":
        """What is answered in the authority's place."""
        self.on_undecided()
        if self.fallback is None:
            return Failure(Refused(Refusal(Reason.LIMITS_UNAVAILABLE, retry_after=1.0)))
        ask = self.fallback.peek if look else self.fallback.take
        try:
            return ask(account.key, account.rate)
        except Exception:
            return Failure()

    def _answer(self, answer: Deferred[Grant], result: "Grant | Deferred[Grant] | Failure") -> None:
        self._waiting -= 1
        if isinstance(result, Deferred):
            result.addBoth(lambda found: None if answer.called else answer.callback(found))
        elif not answer.called:
            answer.callback(result)  # a Failure runs the errbacks

    # -- what callers are told -------------------------------------------------------------

    def _granted(self, account: _Account, now: float, cost: int) -> Grant:
        rate = account.rate
        level = account.level + (now - account.level_at) * rate.per_second
        level = min(level, float(rate.burst)) - cost
        account.level, account.level_at = level, now
        return self._grant(rate, level, 0.0)

    def _refused(self, account: _Account, now: float) -> Grant:
        rate = account.rate
        level = min(account.level + (now - account.level_at) * rate.per_second, float(rate.burst))
        # Never 0, which would say that it is allowed: a wait too short for the clock to hold is.
        return self._grant(rate, level, max(account.dry_until - now, SHORTEST_WAIT_SECS))

    def _grant(self, rate: Rate, level: float, retry_after: float) -> Grant:
        missing = rate.burst - level
        return Grant(
            retry_after == 0.0,
            math.ceil(rate.per_second),
            math.floor(level) if retry_after == 0.0 and level > 0.0 else 0,
            self._wall() + (missing / rate.per_second if missing > 0.0 else 0.0),
            retry_after,
        )


def _all_of(account: _Account) -> Returned:
    return Returned(account.key, account.rate, account.holder, account.tokens)


def _overloaded() -> Refused:
    return Refused(Refusal(Reason.OVERLOADED, "Too much is in progress", 1.0))
