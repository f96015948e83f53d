"""The keys of an identity provider, kept fresh: who asks for them waits for one fetch together.

A set is renewed before its life is over. While the provider is away the last good set stays in
use, up to a bound; an answer without a usable key never replaces one. A key that the provider has
taken back is gone with the next answer.
"""

from collections.abc import Callable, Collection
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.identity.jwks_fetch import FetchFailed
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.policy.jwks import KeySet, VerificationKey
from mcpguard.policy.key_changes import changes

log = Logger()

FETCHES = "mcp_guard_jwks_fetches_total"
STALE = "stale"
"""The reason of an event: the keys are too old to be used."""


class Source(Protocol):
    """Where the keys come from."""

    @property
    def shown(self) -> str:
        """What it is called in the log."""
        ...

    def fetch(self) -> Deferred[bytes]:
        """Get the JWK set; errbacks with `FetchFailed`."""
        ...


@frozen
class KeysBounds:
    """How often keys are asked for, and how long they are used. All times in seconds."""

    renew_secs: float
    """After which a set is asked for again."""
    life_secs: float
    """After which a set that could not be renewed is not used any more."""
    jitter: float
    """The share of every wait, 0 to 1, that chance may take off: processes spread out."""
    retry_secs: float
    """Before the first further attempt when one has failed; doubled after each."""
    max_retry_secs: float
    cooldown_secs: float
    """Between two fetches that tokens ask for, and after one that has failed."""
    waiters: int
    """Requests that wait for a fetch at once."""
    names: int
    """Keys that an event names of each kind."""
    name_chars: int


@define(eq=False)
class RemoteKeys:
    """Implements `jwt.Keys` over what a provider publishes.

    ``parse`` reads a JWK set and raises ValueError; of its keys those count as usable that fit one
    of the ``algorithms``. ``wall`` tells Unix seconds, ``random`` gives numbers in 0..1.
    """

    source: Source
    parse: Callable[[bytes], KeySet]
    algorithms: Collection[str]
    clock: IReactorTime
    bounds: KeysBounds
    recorder: Recorder
    meter: Meter
    wall: Callable[[], float]
    random: Callable[[], float]
    current: KeySet | None = field(init=False, default=None)
    """None: never fetched, or too old to be used."""
    generation: int = field(init=False, default=0)
    """Grows with each change of `current`."""
    loaded: bool = field(init=False, default=False)
    """Whether there ever were keys."""
    _fetching: Deferred[Any] | None = field(init=False, default=None)
    _waiting: dict[Deferred[bool], int] = field(init=False, factory=dict)
    """Who waits for the fetch, with the generation that was there before."""
    _next: IDelayedCall | None = field(init=False, default=None)
    """The next fetch, while none is under way."""
    _end: IDelayedCall | None = field(init=False, default=None)
    """Of the life of `current`."""
    _asked_at: float | None = field(init=False, default=None)
    """When a token had it asked last."""
    _failed_at: float | None = field(init=False, default=None)
    """When the last fetch failed; None: it did not."""
    _failures: int = field(init=False, default=0)
    """In a row."""
    _last_failure: str = field(init=False, default="")
    _renewed_at: float = field(init=False, default=0.0)
    _running: bool = field(init=False, default=False)

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Fetch the keys, and go on to renew them."""
        self._running = True
        self._renewed_at = self.clock.seconds()
        self._fetch()

    def stop(self) -> None:
        """Fetch nothing more; who waits is told that nothing has changed."""
        self._running = False
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()
        for call in (self._next, self._end):
            if call is not None and call.active():
                call.cancel()
        self._next = self._end = None
        self._tell_waiting()

    # -- jwt.Keys --------------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """Whether the last fetch gave no keys."""
        return self._failures > 0

    def newer(self) -> Deferred[bool] | None:
        """Have the provider asked whether it has other keys by now.

        Fires with whether `current` changed; several may wait for one fetch, and one that is
        cancelled leaves the fetch to the others. None while it may not be asked again, or too
        many wait already.
        """
        return self._ask()

    def loading(self) -> Deferred[bool] | None:
        """While `current` is None: have it loaded. As `newer`."""
        return self._ask()

    # -- what is shown ---------------------------------------------------------------------

    def count(self) -> float:
        """How many keys can be used now."""
        return 0 if self.current is None else len(self._usable(self.current))

    def age(self) -> float:
        """Seconds since the provider last gave its keys, or since the start if it never has."""
        return max(0.0, self.clock.seconds() - self._renewed_at)

    # -- asking ----------------------------------------------------------------------------

    def _ask(self) -> Deferred[bool] | None:
        idle = self._fetching is None
        if not self._running or (idle and self._is_cooling()):
            return None
        if len(self._waiting) >= self.bounds.waiters:
            return None
        waiter: Deferred[bool] = Deferred(self._leave)
        self._waiting[waiter] = self.generation
        if idle:
            self._asked_at = self.clock.seconds()
            self._fetch()
        return waiter

    def _leave(self, waiter: Deferred[bool]) -> None:
        self._waiting.pop(waiter, None)

    def _is_cooling(self) -> bool:
        now, secs = self.clock.seconds(), self.bounds.cooldown_secs
        # A clock that was set back must not keep new keys out for as long.
        return any(
            at is not None and 0 <= now - at < secs for at in (self._asked_at, self._failed_at)
        )

    def _fetch(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
        # Before what comes of it, which may be known already.
        self._fetching = fetching = self.source.fetch()
        fetching.addCallbacks(self._answered, self._failed).addErrback(self._broken)

    def _later(self, secs: float) -> None:
        secs *= 1 - self.bounds.jitter * self.random()
        self._next = self.clock.callLater(secs, self._fetch)

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter, generation in waiting.items():
            # One that was told before may have had others cancelled.
            if not waiter.called:
                waiter.callback(generation != self.generation)

    # -- answers ---------------------------------------------------------------------------

    def _answered(self, data: bytes) -> None:
        if not self._running:
            return
        try:
            found = self.parse(data)
        except ValueError as problem:
            self._refuse("unusable", str(problem))
            return
        if not self._usable(found):
            self._refuse("unusable", self._why_none(found))
            return
        self._fetching = None
        changed = found != self.current
        self.meter.count(FETCHES, result="changed" if changed else "unchanged")
        if self._failures:
            self._failures, self._last_failure = 0, ""
            log.info("the identity provider gives its keys again")
            self._record("recovered")
        self.loaded, self._failed_at = True, None
        self._renewed_at = self.clock.seconds()
        if self._end is not None and self._end.active():
            self._end.cancel()
        self._end = self.clock.callLater(self.bounds.life_secs, self._outlive)
        if changed:
            self._change(found)
        self._later(self.bounds.renew_secs)
        self._tell_waiting()

    def _why_none(self, found: KeySet) -> str:
        """Why no key of a set can be used."""
        reasons = list(found.skipped[: self.bounds.names])
        if found.keys:
            wanted = ", ".join(self.algorithms)
            reasons.append(f"{len(found.keys)} for other algorithms than {wanted}")
        return f"no key in it can be used ({'; '.join(reasons) or 'it has none'})"

    def _failed(self, failure: Failure) -> None:
        problem = failure.value
        if isinstance(problem, FetchFailed) and self._running:
            self._refuse(problem.word, str(problem))
        elif self._running or failure.check(CancelledError, FetchFailed) is None:
            # What `stop` has cancelled is no news.
            failure.raiseException()

    def _broken(self, failure: Failure) -> None:
        log.failure("keys of the identity provider: {url}", failure=failure, url=self.source.shown)
        if self._running and self._next is None:
            self._refuse("unusable", "an error of our own")

    def _refuse(self, word: str, detail: str) -> None:
        """There are no new keys; those that were there stay."""
        self._fetching = None
        self._failures += 1
        self._failed_at = self.clock.seconds()
        self.meter.count(FETCHES, result=word)
        if word != self._last_failure:
            # Not for every further attempt.
            self._last_failure = word
            log.warn(
                "no keys from the identity provider ({url}): {detail}",
                url=self.source.shown,
                detail=detail,
            )
        if self._failures == 1:
            self._record("failed", word)
        doubled = self.bounds.retry_secs * 2 ** min(self._failures - 1, 30)
        self._later(min(doubled, self.bounds.max_retry_secs))
        self._tell_waiting()

    def _outlive(self) -> None:
        """The keys have become too old."""
        log.error(
            "the keys of the identity provider could not be renewed for {secs:.0f} s and are"
            " not used any more",
            secs=self.bounds.life_secs,
        )
        self._change(None)

    def _change(self, found: KeySet | None) -> None:
        before, self.current = self.current, found
        self.generation += 1
        details = changes(before, found, self.bounds.names, self.bounds.name_chars)
        if found is not None:
            log.info(
                "the identity provider has {keys} keys that can be used; new: {added}, gone:"
                " {removed}, changed under an old name: {replaced}",
                keys=len(self._usable(found)),
                **details,
            )
            for words in found.skipped[: self.bounds.names]:
                log.info("of the identity provider's keys one is not used: {words}", words=words)
        self._record("changed", None if found is not None else STALE, details)

    def _usable(self, found: KeySet) -> list[VerificationKey]:
        return [key for key in found.keys if any(map(key.fits, self.algorithms))]

    # -- the trail -------------------------------------------------------------------------

    def _record(
        self, status: str, reason: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        self.recorder.record(
            Event(
                "KeySetEvent",
                self.wall(),
                provider="jwt",
                status=status,
                reason=reason,
                details=details or {},
            )
        )
