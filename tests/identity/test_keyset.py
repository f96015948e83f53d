"""Tests of keys that are kept fresh, by a clock and a provider that the test plays."""

from collections.abc import Callable
from typing import Any, cast

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.identity.jwks_fetch import FetchFailed
from mcpguard.identity.keyset import FETCHES, KeysBounds, RemoteKeys
from mcpguard.observe.events import Event
from mcpguard.policy.jwks import KeySet, VerificationKey

DAY = 86_400.0
BOUNDS = KeysBounds(
    renew_secs=2700.0,
    life_secs=3600.0 + DAY,
    jitter=0.1,
    retry_secs=2.0,
    max_retry_secs=60.0,
    cooldown_secs=10.0,
    waiters=50,
    names=20,
    name_chars=64,
)


def keys_of(data: bytes) -> KeySet:
    """The set that a text stands for: keys as ``kid:thumbprint:alg``, parted by blanks."""
    if data == b"garbage":
        raise ValueError("the JWK set is not valid JSON")
    found = []
    for word in data.decode().split():
        kid, _, rest = word.partition(":")
        thumbprint, _, alg = rest.partition(":")
        found.append(VerificationKey(kid or None, "RSA", None, alg or None, b"", thumbprint or kid))
    return KeySet(tuple(found), ("key 9: unknown kty",))


class Provider:
    """A source whose answers the test gives; notes how often it is asked, and that never twice."""

    shown = "https://login.example/keys"

    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = 0
        self.fetch_now: Callable[[], Deferred[bytes]] | None = None
        self._fetching: Deferred[bytes] | None = None

    @property
    def busy(self) -> bool:
        """Whether it is asked now."""
        return self._fetching is not None

    def fetch(self) -> Deferred[bytes]:
        """See `keyset.Source`."""
        assert self._fetching is None, "two fetches at once"
        self.asked += 1
        if self.fetch_now is not None:
            return self.fetch_now()
        self._fetching = Deferred(self._cancel)
        return self._fetching

    def _cancel(self, fetching: Deferred[bytes]) -> None:
        self.cancelled += 1
        self._fetching = None

    def answer(self, data: str) -> None:
        """Give a set."""
        fetching, self._fetching = self._fetching, None
        assert fetching is not None, "it was not asked"
        fetching.callback(data.encode())

    def fail(self, word: str = "timeout", problem: Exception | None = None) -> None:
        """Give none."""
        fetching, self._fetching = self._fetching, None
        assert fetching is not None, "it was not asked"
        fetching.errback(problem or FetchFailed(word, f"because of {word}"))


class Books:
    """A trail and a meter that remember."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fetches: list[str] = []

    def record(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Keep the result."""
        assert name == FETCHES
        self.fetches.append(labels["result"])

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not for keys")


class KeysCase(SynchronousTestCase):
    """Keys, not yet started."""

    def setUp(self) -> None:
        """Make them."""
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.provider = Provider()
        self.books = Books()
        self.chance = 0.0
        self.keys = self.made(BOUNDS)

    def made(self, bounds: KeysBounds) -> RemoteKeys:
        """Keys with other bounds."""
        return RemoteKeys(
            source=self.provider,
            parse=keys_of,
            algorithms=("RS256",),
            clock=self.clock,
            bounds=bounds,
            recorder=self.books,
            meter=self.books,
            wall=lambda: 1_800_000_000.0,
            random=lambda: self.chance,
        )

    def start(self, first: str | None = "a") -> None:
        """Start them, with a first answer."""
        self.keys.start()
        if first is not None:
            self.provider.answer(first)

    def kids(self) -> set[str | None] | None:
        """The names of the keys there are."""
        current = self.keys.current
        return None if current is None else {key.kid for key in current.keys}

    def asked_for(self, kind: Callable[[], Deferred[bool] | None]) -> Deferred[bool]:
        """A waiter that was let in."""
        waiter = kind()
        assert waiter is not None
        return waiter

    def statuses(self) -> list[str | None]:
        """Of the events so far."""
        return [event.status for event in self.books.events]


class LoadingTests(KeysCase):
    """From nothing to keys."""

    def test_first_set(self) -> None:
        """A start fetches; then the keys are there."""
        self.start(None)
        self.assertEqual((self.keys.current, self.keys.loaded), (None, False))
        self.provider.answer("a b")
        self.assertEqual(self.kids(), {"a", "b"})
        self.assertEqual((self.keys.generation, self.keys.loaded), (1, True))
        self.assertEqual(self.books.fetches, ["changed"])

    def test_at_once(self) -> None:
        """A source that answers within the call."""
        self.provider.fetch_now = lambda: succeed(b"a")
        self.keys.start()
        self.assertEqual(self.kids(), {"a"})
        self.provider.fetch_now = lambda: succeed(b"b")
        self.assertTrue(self.successResultOf(self.asked_for(self.keys.newer)))

    def test_waiting_for_the_first(self) -> None:
        """Whoever comes before the first answer waits for that one fetch."""
        self.start(None)
        waiters = [self.asked_for(self.keys.loading) for _ in range(50)]
        self.assertEqual(self.provider.asked, 1)
        self.provider.answer("a")
        self.assertEqual([self.successResultOf(one) for one in waiters], [True] * 50)

    def test_not_to_be_had(self) -> None:
        """After a failure nobody waits until the cool-down is over; then one asks for all."""
        self.start(None)
        waiter = self.asked_for(self.keys.loading)
        self.provider.fail()
        self.assertFalse(self.successResultOf(waiter))
        self.assertIsNone(self.keys.loading())
        # Attempts of its own go on meanwhile, and can be joined.
        self.clock.advance(2)
        waiter = self.asked_for(self.keys.loading)
        self.provider.fail()
        self.assertFalse(self.successResultOf(waiter))
        self.keys.bounds = evolve(BOUNDS, retry_secs=1000.0, max_retry_secs=1000.0)
        self.clock.advance(4)
        self.provider.fail()
        self.clock.advance(9.9)
        self.assertIsNone(self.keys.loading())
        self.clock.advance(0.2)
        self.assertEqual(self.provider.asked, 3)
        waiter = self.asked_for(self.keys.loading)
        self.assertEqual(self.provider.asked, 4)
        self.provider.answer("a")
        self.assertTrue(self.successResultOf(waiter))

    def test_before_the_start_and_after_the_stop(self) -> None:
        """Nothing is fetched then."""
        self.assertIsNone(self.keys.loading())
        self.start(None)
        waiter = self.asked_for(self.keys.loading)
        self.keys.stop()
        self.assertFalse(self.successResultOf(waiter))
        self.assertEqual(self.provider.cancelled, 1)
        self.assertIsNone(self.keys.newer())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.provider.asked, self.statuses()), (1, []))

    def test_stopped_between_fetches(self) -> None:
        """A stop leaves no timer behind."""
        self.start()
        self.keys.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_started_twice(self) -> None:
        """Stopped keys can be started again."""
        self.start()
        self.keys.stop()
        self.start("b")
        self.assertEqual(self.kids(), {"b"})


class RenewalTests(KeysCase):
    """Keys stay fresh."""

    def test_renewed(self) -> None:
        """At three quarters of their life, and so on; the same keys change nothing."""
        self.start()
        first = self.keys.current
        for round_ in range(3):
            self.clock.advance(2699.9)
            self.assertFalse(self.provider.busy)
            self.clock.advance(0.2)
            self.provider.answer("a")
            self.assertEqual(self.provider.asked, round_ + 2)
        self.assertIs(self.keys.current, first)
        self.assertEqual(self.keys.generation, 1)
        self.assertEqual(self.books.fetches, ["changed", *["unchanged"] * 3])

    def test_jitter(self) -> None:
        """Chance has processes ask earlier, never later."""
        self.chance = 1.0
        self.start()
        self.clock.advance(2429.9)
        self.assertFalse(self.provider.busy)
        self.clock.advance(0.2)
        self.assertTrue(self.provider.busy)

    def test_changed(self) -> None:
        """New keys are used, and keys that were taken back are gone, with the answer."""
        self.start("a b")
        self.clock.advance(2700)
        self.provider.answer("b c")
        self.assertEqual((self.kids(), self.keys.generation), ({"b", "c"}, 2))

    def test_order_is_no_change(self) -> None:
        """The same keys in another order are the same."""
        self.start("a b")
        self.clock.advance(2700)
        self.provider.answer("b a")
        self.assertEqual(self.keys.generation, 1)

    def test_same_name_other_key(self) -> None:
        """Another key under the same name is a change."""
        self.start("a:1")
        self.clock.advance(2700)
        self.provider.answer("a:2")
        self.assertEqual(self.keys.generation, 2)
        self.assertEqual(self.books.events[-1].details["replaced"], ["a"])

    def test_gauges(self) -> None:
        """How many keys fit the algorithms, and how old they are."""
        self.assertEqual(self.keys.count(), 0)
        self.start("a b::RS512")
        self.assertEqual((self.keys.count(), self.keys.age()), (1, 0))
        self.clock.advance(100)
        self.assertEqual(self.keys.age(), 100)


class OutageTests(KeysCase):
    """The provider is away."""

    def test_last_good_set(self) -> None:
        """For hours the keys stay, and the provider is asked now and then."""
        self.start()
        self.clock.advance(2700)
        for _ in range(600):
            if self.provider.busy:
                self.provider.fail()
            self.clock.advance(60)
        self.assertEqual(self.kids(), {"a"})
        self.assertEqual(self.keys.generation, 1)
        self.assertLess(self.provider.asked, 700)
        self.clock.advance(60)
        self.provider.answer("a")
        self.assertEqual(self.statuses(), ["changed", "failed", "recovered"])

    def test_backoff(self) -> None:
        """The waits double up to the bound, and begin anew after a success."""
        self.start()
        self.clock.advance(2700)
        for wait in (2, 4, 8, 16, 32, 60, 60):
            self.provider.fail()
            self.clock.advance(wait - 0.1)
            self.assertFalse(self.provider.busy)
            self.clock.advance(0.2)
            self.assertTrue(self.provider.busy)
        self.provider.answer("a")
        self.clock.advance(2700)
        self.provider.fail()
        self.clock.advance(2.1)
        self.assertTrue(self.provider.busy)

    def test_too_old(self) -> None:
        """Keys that could not be renewed for too long are not used; later ones are."""
        self.start()
        self.clock.advance(2700)
        self.provider.fetch_now = self.away
        self.provider.fail()
        for _ in range(int(DAY + 800) // 50):
            self.clock.advance(50)
        self.assertEqual(self.kids(), {"a"})
        self.clock.pump([50.0] * 10)
        self.assertIsNone(self.keys.current)
        self.assertEqual((self.keys.generation, self.keys.count()), (2, 0))
        last = self.books.events[-1]
        self.assertEqual((last.status, last.reason), ("changed", "stale"))
        self.assertEqual(last.details["removed"], ["a"])
        self.assertTrue(self.keys.loaded)
        self.provider.fetch_now = None
        self.clock.advance(60)
        waiter = self.asked_for(self.keys.loading)
        self.provider.answer("a")
        self.assertTrue(self.successResultOf(waiter))
        self.assertEqual((self.kids(), self.keys.generation), ({"a"}, 3))

    def away(self) -> Deferred[bytes]:
        """A fetch that fails at once."""
        fetching: Deferred[bytes] = Deferred()
        fetching.errback(FetchFailed("unreachable", "nobody there"))
        return fetching

    def test_nothing_usable(self) -> None:
        """Garbage, an empty set and keys for other algorithms never replace good keys."""
        self.start()
        for data in ("garbage", "", "b::RS512"):
            self.clock.advance(2700)
            self.provider.answer(data)
            self.assertEqual(self.books.fetches[-1], "unusable")
            self.assertEqual(self.kids(), {"a"})
            self.clock.advance(2)
            self.provider.answer("a")
        self.assertEqual(self.keys.generation, 1)
        failed = [event for event in self.books.events if event.status == "failed"]
        self.assertEqual([event.reason for event in failed], ["unusable"] * 3)

    def test_why_none_can_be_used(self) -> None:
        """The log says what is the matter with the keys that are there, or that there are none."""
        sets = {b"none": KeySet(()), b"skipped": KeySet((), ("key 9: unknown kty",))}
        logged: list[LogEvent] = []
        observer = cast("ILogObserver", logged.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for data, words in (
            ("none", "no key in it can be used (it has none)"),
            ("skipped", "no key in it can be used (key 9: unknown kty)"),
            ("b::RS512 c::RS512", "(key 9: unknown kty; 2 for other algorithms than RS256)"),
        ):
            self.setUp()
            self.keys.parse = lambda data: sets.get(data) or keys_of(data)
            self.start(data)
            self.assertIn(words, formatEvent(logged[-1]))

    def test_an_error_of_our_own(self) -> None:
        """It is logged and counts as a failure; the next attempt follows."""
        for first in (True, False):
            self.setUp()
            if first:
                self.keys.parse = lambda data: KeySet((1 / 0,))  # type: ignore[arg-type]
                self.start("a")
            else:
                self.start(None)
                self.provider.fail(problem=ZeroDivisionError())
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assertEqual(self.books.fetches, ["unusable"])
            self.clock.advance(2)
            self.assertTrue(self.provider.busy)


class AskingTests(KeysCase):
    """A token does not fit the keys there are."""

    def test_one_fetch(self) -> None:
        """However many ask, one fetch is made for all."""
        self.start()
        waiters = [self.asked_for(self.keys.newer) for _ in range(50)]
        self.assertEqual(self.provider.asked, 2)
        self.provider.answer("a b")
        self.assertEqual([self.successResultOf(one) for one in waiters], [True] * 50)

    def test_renewal_is_joined(self) -> None:
        """A renewal that is under way is waited for."""
        self.start()
        self.clock.advance(2700)
        waiter = self.asked_for(self.keys.newer)
        self.provider.answer("a")
        self.assertEqual((self.successResultOf(waiter), self.provider.asked), (False, 2))

    def test_cool_down(self) -> None:
        """Whatever came of it, it is not asked again at once; a fetch under way is still joined."""
        self.start()
        self.asked_for(self.keys.newer)
        self.clock.advance(4)
        self.provider.answer("a")
        self.assertIsNone(self.keys.newer())
        self.clock.advance(5.9)
        self.assertIsNone(self.keys.newer())
        self.clock.advance(0.2)
        self.asked_for(self.keys.newer)
        self.clock.advance(4)
        self.asked_for(self.keys.newer)
        self.assertEqual(self.provider.asked, 3)

    def test_cool_down_after_a_failure(self) -> None:
        """A fetch that fails begins it, whoever it was for."""
        self.start()
        waiter = self.asked_for(self.keys.newer)
        self.clock.advance(9.5)
        self.provider.fail()
        self.assertFalse(self.successResultOf(waiter))
        self.clock.advance(1.5)
        self.assertIsNone(self.keys.newer())

    def test_recovered(self) -> None:
        """Once the provider answers again, its failures are no reason to wait any more."""
        self.start(None)
        self.provider.fail()
        self.clock.advance(2)
        self.provider.answer("a")
        self.asked_for(self.keys.newer)
        self.assertEqual(self.provider.asked, 3)

    def test_renewal_is_no_reason_to_wait(self) -> None:
        """Just after a renewal a token may still ask: its key may be newer."""
        self.start()
        self.clock.advance(2700)
        self.provider.answer("a")
        self.asked_for(self.keys.newer)
        self.assertEqual(self.provider.asked, 3)

    def test_clock_set_back(self) -> None:
        """A clock that was set back by an hour keeps nobody out for an hour."""
        self.start()
        self.asked_for(self.keys.newer)
        self.provider.answer("a")
        self.clock.rightNow -= 3600
        self.asked_for(self.keys.newer)
        self.assertEqual(self.keys.age(), 0)

    def test_one_leaves(self) -> None:
        """Who gives up waiting does not stop the fetch for the others."""
        self.start()
        one, other = self.asked_for(self.keys.newer), self.asked_for(self.keys.newer)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(self.provider.cancelled, 0)
        self.provider.answer("b")
        self.assertTrue(self.successResultOf(other))

    def test_all_leave(self) -> None:
        """Even then it is finished: its answer is for the next."""
        self.start()
        self.asked_for(self.keys.newer).addErrback(lambda _: None).cancel()
        self.provider.answer("b")
        self.assertEqual(self.kids(), {"b"})

    def test_one_has_another_leave(self) -> None:
        """Who is told first may have the next one give up."""
        self.start()
        one, other = self.asked_for(self.keys.newer), self.asked_for(self.keys.newer)
        one.addCallback(lambda _: other.cancel())
        self.provider.answer("b")
        self.failureResultOf(other, CancelledError)

    def test_asks_again(self) -> None:
        """Who is told may ask again at once, and joins nothing that is over."""
        self.start()
        again: list[Deferred[bool] | None] = []
        self.asked_for(self.keys.newer).addCallback(lambda _: again.append(self.keys.newer()))
        self.provider.answer("b")
        self.assertEqual(again, [None])

    def test_many_wait(self) -> None:
        """No more than so many wait; who leaves makes room."""
        self.start()
        waiters = [self.asked_for(self.keys.newer) for _ in range(50)]
        self.assertIsNone(self.keys.newer())
        waiters[7].addErrback(lambda _: None).cancel()
        self.asked_for(self.keys.newer)
        self.assertIsNone(self.keys.newer())


class TrailTests(KeysCase):
    """What is told of it."""

    def test_changes(self) -> None:
        """Names of keys, and nothing else."""
        self.start("a b:1")
        self.clock.advance(2700)
        self.provider.answer("b:2 c")
        first, second = self.books.events
        self.assertEqual((first.event_type, first.provider), ("KeySetEvent", "jwt"))
        self.assertEqual(first.details, {"added": ["a", "b"], "removed": [], "replaced": []})
        self.assertEqual(second.details, {"added": ["c"], "removed": ["a"], "replaced": ["b"]})

    def test_failures(self) -> None:
        """The first of a row, with its reason; each is counted."""
        self.start()
        self.clock.advance(2700)
        for word in ("timeout", "redirect", "redirect"):
            self.provider.fail(word)
            self.assertTrue(self.keys.away)
            self.clock.advance(10)
        self.provider.answer("b")
        self.assertFalse(self.keys.away)
        self.assertEqual(self.statuses(), ["changed", "failed", "recovered", "changed"])
        self.assertEqual(self.books.events[1].reason, "timeout")
        self.assertEqual(
            self.books.fetches, ["changed", "timeout", "redirect", "redirect", "changed"]
        )

    def test_first_failure(self) -> None:
        """Also where there never were keys."""
        self.start(None)
        self.provider.fail("tls")
        self.assertEqual(self.statuses(), ["failed"])
        self.clock.advance(2)
        self.provider.answer("a")
        self.assertEqual(self.statuses(), ["failed", "recovered", "changed"])


class KeysMachine(RuleBasedStateMachine):
    """Any sequence of answers, failures, time and questions."""

    def __init__(self) -> None:
        super().__init__()
        case = KeysCase("setUp")
        case.setUp()
        self.case, self.keys, self.clock = case, case.keys, case.clock
        self.provider = case.provider
        self.waiting: list[list[bool]] = []
        self.asked_until = self.failed_until = 0.0
        self.good: set[str] | None = None
        self.good_at = 0.0
        self.keys.start()

    @rule(secs=st.sampled_from((0.5, 3.0, 9.9, 60.0, 3000.0, 50_000.0)))
    def wait(self, secs: float) -> None:
        """Time passes."""
        self.clock.advance(secs)

    @precondition(lambda self: self.provider.busy)
    @rule(kids=st.sets(st.sampled_from("abc"), min_size=1))
    def answer(self, kids: set[str]) -> None:
        """The provider gives keys."""
        self.good, self.good_at = kids, self.clock.seconds()
        self.failed_until = 0.0
        self.provider.answer(" ".join(sorted(kids)))

    @precondition(lambda self: self.provider.busy)
    @rule(how=st.sampled_from(("fail", "garbage", "")))
    def fail(self, how: str) -> None:
        """The provider gives nothing of use."""
        self.failed_until = self.clock.seconds() + BOUNDS.cooldown_secs
        if how == "fail":
            self.provider.fail()
        else:
            self.provider.answer(how)

    @rule(cancelled=st.booleans())
    def ask(self, cancelled: bool) -> None:
        """A token does not fit."""
        before, busy = self.provider.asked, self.provider.busy
        cool = self.clock.seconds() < max(self.asked_until, self.failed_until)
        waiter = self.keys.newer()
        if busy:
            assert self.provider.asked == before
        else:
            assert (waiter is None) == cool, "the cool-down decides, and nothing else"
            assert self.provider.asked == before + (not cool)
            if not cool:
                self.asked_until = self.clock.seconds() + BOUNDS.cooldown_secs
        if waiter is not None:
            told: list[bool] = []
            waiter.addCallbacks(told.append, lambda _: told.append(False))
            if cancelled:
                waiter.cancel()
                assert told == [False]
            else:
                self.waiting.append(told)

    @invariant()
    def newest_good_set(self) -> None:
        """What is used is the newest good set within the bound, or nothing; nobody waits in
        vain.
        """
        young = self.clock.seconds() - self.good_at < BOUNDS.life_secs
        expected = self.good if self.good is not None and young else None
        assert self.case.kids() == expected
        if not self.provider.busy:
            assert all(len(told) == 1 for told in self.waiting)
            # Something is always to come.
            assert any(call.active() for call in self.clock.getDelayedCalls())


class SequenceTests(SynchronousTestCase):
    """Any sequence of events."""

    def test_sequences(self) -> None:
        """Never two fetches at once, the cool-down kept, always the newest good set in use."""
        run_state_machine_as_test(
            KeysMachine,
            settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
        )
