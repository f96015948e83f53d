"""What a request's sender may take before it is looked at: attempts, requests, memory, places."""

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, Protocol

from attrs import Factory, define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.config.settings import RateLimitSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.limits.limiter import Grant, Limiter, Places
from mcpguard.pipeline.accepted_bytes import AcceptedBytes, RequestBytes
from mcpguard.pipeline.trip import Books, Trip
from mcpguard.policy.addresses import address_block
from mcpguard.policy.buckets import Rate
from mcpguard.policy.principal import Allowance, Principal
from mcpguard.protocol.jsonrpc import Notification, Request, Response

log = Logger()

_NO_GUESSES = frozenset({Reason.NO_CREDENTIALS, Reason.IDENTITY_UNAVAILABLE})
"""Failures that tell nothing of the credentials: an address is not charged for them."""

_MAX_RATES = 10_000
"""Principals whose rates are remembered as worked out."""


class Authenticator(Protocol):
    """Finds out who sent a request."""

    def authenticate(self, incoming: Incoming, now: float) -> Principal | Deferred[Principal]:
        """The principal; raises (or errbacks with) Refused."""
        ...


@define(eq=False)
class Callers:
    """Everybody who asks, as far as they are counted."""

    books: Books
    limits: RateLimitSettings
    limiter: Limiter
    authenticator: Authenticator
    seen: Callable[[Principal], None]
    """Told of each authenticated principal (the gauge of active identities)."""
    request_bytes: RequestBytes
    places: Places
    """Of identities whose requests at once are limited."""
    accepted: AcceptedBytes = field(
        init=False,
        default=Factory(lambda self: AcceptedBytes(self.request_bytes), takes_self=True),
    )
    failed_rate: Rate = field(
        init=False, default=Factory(lambda self: _per_minute(self.limits), takes_self=True)
    )
    """Of failed attempts from one address."""
    _charging: dict[str, int] = field(init=False, factory=dict)
    """Failures whose charge is under way, by bucket: a look at it does not show them yet."""
    _rates: dict[str, tuple[Allowance, Rate, str]] = field(init=False, factory=dict)
    """By principal: its limits, the rate that they mean, and the name of its bucket."""

    # What must be waited for is given as a coroutine; mostly there is nothing.

    def identify(self, incoming: Incoming) -> Principal | Coroutine[Any, Any, Principal]:
        """Who is asking, with failed attempts limited per address; raises Refused."""
        key = attempts_of(incoming.peer)
        # Checked before the next attempt, charged by failures only: guessing is bounded, many
        # honest callers behind one address are not.
        looked = self.limiter.peek(key, self.failed_rate)
        if isinstance(looked, Deferred):
            return self._looked(incoming, key, looked)
        return self._attempt(incoming, key, looked)

    def is_barred(self, peer: str) -> bool:
        """Whether it is known here and now that too many attempts from an address have failed.

        Raises Refused.
        """
        looked = self.limiter.peek(attempts_of(peer), self.failed_rate)
        if isinstance(looked, Deferred):
            looked.addErrback(lambda failure: failure.trap(Refused, CancelledError))
            looked.cancel()
            return False
        return not looked.allowed

    def identity(self, incoming: Incoming) -> Deferred[Principal]:
        """Tell the same to who cannot do with anything but Refused.

        Who cancels it is told no more, but the attempt goes on: else nobody would be charged who
        hangs up before the answer.
        """
        told: Deferred[Principal] = Deferred()

        def tell(found: Principal | Failure) -> None:
            if not told.called:
                told.callback(found)  # a Failure runs the errbacks

        Deferred.fromCoroutine(self._identity(incoming)).addBoth(tell)
        return told

    async def _identity(self, incoming: Incoming) -> Principal:
        try:
            found = self.identify(incoming)
            return found if isinstance(found, Principal) else await found
        except Refused:
            raise
        except Exception as error:
            log.failure("nobody can be identified", request_id=incoming.request_id)
            raise Refused(Refusal(Reason.INTERNAL)) from error

    async def _looked(self, incoming: Incoming, key: str, looked: Deferred[Grant]) -> Principal:
        found = self._attempt(incoming, key, await looked)
        return found if isinstance(found, Principal) else await found

    def _attempt(
        self, incoming: Incoming, key: str, grant: Grant
    ) -> Principal | Coroutine[Any, Any, Principal]:
        if not grant.allowed:
            raise Refused(Refusal(Reason.TOO_MANY_FAILURES, retry_after=grant.retry_after))
        if self._charging and self._charging.get(key, 0) >= max(1, grant.remaining):
            # Many looked at once, and all of them saw the token that some have failed for since.
            raise Refused(Refusal(Reason.TOO_MANY_FAILURES, retry_after=1.0))
        try:
            found = self.authenticator.authenticate(incoming, self.books.clocks.wall())
        except Refused as refused:
            return self._failed(key, refused)
        if isinstance(found, Deferred):
            return self._found(key, found)
        self.books.meter.auth(found.provider, "success")
        return found

    async def _found(self, key: str, found: Deferred[Principal]) -> Principal:
        try:
            principal = await found
        except Refused as refused:
            return await self._failed(key, refused)
        self.books.meter.auth(principal.provider, "success")
        return principal

    async def _failed(self, key: str, refused: Refused) -> NoReturn:
        if refused.refusal.reason not in _NO_GUESSES:
            charged = self.limiter.take(key, self.failed_rate)
            if isinstance(charged, Deferred):
                await self._charged_later(key, charged)
        self.books.meter.auth("none", "failure")
        raise refused

    async def _charged_later(self, key: str, charged: Deferred[Grant]) -> None:
        self._charging[key] = self._charging.get(key, 0) + 1
        try:
            await charged
        finally:
            left = self._charging.pop(key) - 1
            if left:
                self._charging[key] = left

    def may_attempt(self, peer: str) -> Grant | Deferred[Grant]:
        """Whether an address may try to sign in: too many failures of late, and it may not.

        For attempts that are made before there is a request: in a TLS handshake. Raises, or
        errbacks with, Refused where that cannot be told.
        """
        return self.limiter.peek(attempts_of(peer), self.failed_rate)

    def attempt_failed(self, peer: str) -> Grant | Deferred[Grant]:
        """Charge an address for one that has failed; may raise or errback as above."""
        return self.limiter.take(attempts_of(peer), self.failed_rate)

    def may_be_told(self, what: str, peer: str) -> Grant | Deferred[Grant]:
        """Whether one more fault of an address is worth a line; at the rate of failed attempts.

        May raise or errback as above.
        """
        return self.limiter.take(f"{what}\0{_block(peer)}", self.failed_rate)

    def charge(self, trip: Trip, principal: Principal) -> Coroutine[Any, Any, None] | None:
        """Charge a request to its caller's own limit; raises Refused."""
        self.seen(principal)
        if not self.limits.enabled:
            return None
        known = self._rates.get(principal.key)
        if known is None or known[0] is not principal.limits:
            known = self._note_rate(principal)
        taken = self.limiter.take(known[2], known[1])
        if isinstance(taken, Deferred):
            return self._taken(trip, taken)
        self._charged(trip, taken)
        return None

    async def _taken(self, trip: Trip, taken: Deferred[Grant]) -> None:
        self._charged(trip, await taken)

    def _charged(self, trip: Trip, grant: Grant) -> None:
        trip.grant = grant
        self.books.meter.rate_limit(grant.allowed)
        if not grant.allowed:
            raise Refused(Refusal(Reason.RATE_LIMITED, retry_after=grant.retry_after))

    def _note_rate(self, principal: Principal) -> tuple[Allowance, Rate, str]:
        limits, own = self.limits, principal.limits
        per_second = own.per_second or limits.requests_per_second
        burst = own.burst
        if burst is None:
            # The same seconds of burst as the default, for an identity with its own rate.
            burst = max(1, round(per_second * limits.burst_size / limits.requests_per_second))
        if len(self._rates) >= _MAX_RATES:
            self._rates.clear()
        rate = own, Rate(per_second, burst), f"id\0{principal.key}"
        self._rates[principal.key] = rate
        return rate

    def enter(
        self, trip: Trip, principal: Principal, message: Request | Notification | Response
    ) -> Coroutine[Any, Any, None] | None:
        """Let a message take up memory, and a place if its caller's are counted; raises Refused.

        Until the trip is settled.
        """
        # Only requests take a place: an identity with one place, whose call asks it something,
        # could neither answer nor cancel.
        if not isinstance(message, Request):
            return None
        key, size = principal.key, len(trip.incoming.body)
        if not self.accepted.take(key, size):
            raise Refused(Refusal(Reason.OVERLOADED, "Too much is in progress", 1.0))
        trip.on_settled.append(lambda: self.accepted.give(key, size))
        limit = principal.limits.max_concurrency
        if limit is None:
            return None
        taken = self.places.take_place(key, limit)
        if isinstance(taken, Deferred):
            return self._placed(trip, key, taken)
        self._place(trip, key, taken)
        return None

    async def _placed(self, trip: Trip, key: str, taken: Deferred[bool]) -> None:
        self._place(trip, key, await taken)

    def _place(self, trip: Trip, key: str, taken: bool) -> None:
        if not taken:
            raise Refused(Refusal(Reason.TOO_MANY_CONCURRENT, retry_after=1.0))
        trip.on_settled.append(lambda: self.places.give_place(key))


def attempts_of(peer: str) -> str:
    """The bucket of an address's failed attempts."""
    return f"failed\0{_block(peer)}"


def _block(peer: str) -> str:
    return address_block(peer) if ":" in peer else peer


def _per_minute(limits: RateLimitSettings) -> Rate:
    return Rate(limits.failed_auth_per_minute / 60.0, limits.failed_auth_per_minute)
