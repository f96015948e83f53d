"""Tests of the limiter that holds leases."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refused
from mcpguard.limits.leasing import IDLE_SECS, LOOK_SECS, OWN_SECS, TICK_SECS, LeasingLimiter
from mcpguard.limits.limiter import Grant, Limiter
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.limits.memory_authority import MemoryAuthority
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease
from tests.limits.authority_doubles import Line

WALL = 1_800_000_000.0
WIDE = Rate(2_000.0, 1_000)


class LeasingCase(SynchronousTestCase):
    """Limiters over one authority, on a clock of the test's."""

    def setUp(self) -> None:
        """An authority and a line to it."""
        self.clock = Clock()
        self.authority = MemoryAuthority(self.clock.seconds, max_keys=100)
        self.line = Line(self.authority)
        self.undecided = 0
        self.names = 0

    def limiter(self, line: Line | None = None, **given: Any) -> LeasingLimiter:
        """One more holder."""
        self.names += 1
        return LeasingLimiter(
            line or self.line,
            self.clock,
            self.clock.seconds,
            lambda: WALL + self.clock.seconds(),
            **{
                "name": f"n{self.names}",
                "fallback": None,
                "max_keys": 100,
                "max_waiting": 100,
                "on_undecided": self.count,
                **given,
            },
        )

    def count(self) -> None:
        """A decision was made without the authority."""
        self.undecided += 1

    def now(self, answer: Grant | Deferred[Grant]) -> Grant:
        """An answer that is there."""
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def take(self, limiter: Limiter, rate: Rate, key: str = "a") -> Grant:
        """Take one token; the answer must be there."""
        return self.now(limiter.take(key, rate))

    def run_at(self, limiter: LeasingLimiter, rate: Rate, seconds: float, per_second: int) -> int:
        """Ask evenly for some time, each answer of the line taking 1 ms; how many were let by."""
        step, allowed, answers = 1.0 / per_second, 0, []
        for _ in range(int(seconds * per_second)):
            answers.append(limiter.take("a", rate))
            for call in [self.line.decide() for _ in list(self.line.under_way)]:
                self.clock.callLater(0.001, call)
            self.clock.advance(step)
        self.clock.advance(0.001)
        while self.line.under_way:
            self.line.answer()
        for answer in answers:
            allowed += self.now(answer).allowed
        return allowed


class OneAtATimeTests(LeasingCase):
    """Few requests: as exact as a bucket in memory."""

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.floats(0.25, 3.0, allow_nan=False), max_size=40),
        st.floats(0.1, 2.0, allow_nan=False),
        st.integers(1, 6),
    )
    def test_like_memory(self, pauses: list[float], per_second: float, burst: int) -> None:
        """Two holders in turn decide just as one limiter in memory does, numbers included."""
        self.setUp()
        rate = Rate(per_second, burst)
        memory = MemoryLimiter(self.clock.seconds, lambda: WALL + self.clock.seconds(), max_keys=10)
        holders = [self.limiter(), self.limiter()]
        for number, pause in enumerate(pauses):
            self.clock.advance(pause)
            found = self.take(holders[number % 2], rate)
            wanted = self.take(memory, rate)
            self.assertEqual(
                (found.allowed, found.limit, found.remaining),
                (wanted.allowed, wanted.limit, wanted.remaining),
            )
            self.assertAlmostEqual(found.reset_at, wanted.reset_at, places=5)
            if not wanted.allowed:
                self.assertGreaterEqual(found.retry_after, wanted.retry_after - 1e-6)
                self.assertLessEqual(found.retry_after, max(0.02, wanted.retry_after) + 1e-6)

    def test_nothing_in_advance(self) -> None:
        """One token is asked for at a time and none is held."""
        limiter = self.limiter()
        for _ in range(5):
            self.take(limiter, WIDE)
            self.clock.advance(0.5)
        self.assertEqual({(ask.least, ask.extra) for ask in self.line.asked}, {(1, 0)})

    def test_refused_without_asking(self) -> None:
        """Who was told to wait is refused here until then."""
        limiter, rate = self.limiter(), Rate(0.5, 1)
        self.assertTrue(self.take(limiter, rate).allowed)
        for _ in range(50):
            refused = self.take(limiter, rate)
            self.assertEqual((refused.allowed, refused.remaining), (False, 0))
        self.assertLessEqual(len(self.line.asked), 2)
        self.clock.advance(2.0)
        self.assertTrue(self.take(limiter, rate).allowed)

    def test_refused_within_the_clock(self) -> None:
        """A wait that the clock cannot tell from none is a refusal all the same."""
        self.clock.rightNow = 5e6
        limiter, rate = self.limiter(), Rate(1e11, 3)
        taken = [self.take(limiter, rate) for _ in range(9)]
        self.assertEqual([one.allowed for one in taken], [True] * 3 + [False] * 6)
        self.assertGreater(min(one.retry_after for one in taken[3:]), 0.0)


class BatchTests(LeasingCase):
    """Many requests: few questions, and the sum is kept."""

    def test_round_trips(self) -> None:
        """A thousand requests a second cost at most one question in fifty."""
        self.line.quick = False
        allowed = self.run_at(self.limiter(), WIDE, 5.0, 1_000)
        self.assertEqual(allowed, 5_000)
        self.assertLessEqual(len(self.line.asked), 0.02 * 5_000)

    def test_round_trips_over_the_limit(self) -> None:
        """So does a caller who asks for twice what is allowed, nearly, and gets all of that."""
        self.line.quick = False
        rate = Rate(1_000.0, 500)
        allowed = self.run_at(self.limiter(), rate, 5.0, 2_000)
        self.assertLessEqual(allowed, 500 + 5_002)
        self.assertGreaterEqual(allowed, 0.97 * 5_500)
        self.assertLessEqual(len(self.line.asked), 0.05 * 10_000)

    def test_two_share(self) -> None:
        """Two busy holders get what one would get, no more and hardly less."""
        rate, first, second = Rate(500.0, 200), self.limiter(), self.limiter()
        allowed = 0
        for _ in range(2_000):
            allowed += self.take(first, rate).allowed + self.take(second, rate).allowed
            self.clock.advance(0.001)
        self.assertLessEqual(allowed, 200 + 1_000)
        self.assertGreaterEqual(allowed, 0.95 * 1_200)

    def test_remaining_counts_down(self) -> None:
        """The numbers shown go on while tokens are taken from what is held."""
        limiter, rate = self.limiter(), Rate(0.001, 1_000)
        shown = [self.take(limiter, rate).remaining for _ in range(100)]
        self.assertEqual(shown, list(range(999, 899, -1)))
        self.assertLess(len(self.line.asked), 20)

    def test_asked_ahead(self) -> None:
        """More is asked for before what is held runs out, and nobody waits for it."""
        limiter = self.limiter()
        for _ in range(300):
            self.take(limiter, WIDE)
        self.line.quick = False
        waited = 0
        while not self.line.under_way:
            waited += isinstance(limiter.take("a", WIDE), Deferred)
        self.assertEqual(waited, 0)
        self.assertEqual(self.line.under_way[0].ask.least, 0)
        self.assertIsInstance(limiter.take("a", WIDE), Grant)
        self.line.answer()
        self.assertIsInstance(limiter.take("a", WIDE), Grant)

    def test_given_back_when_idle(self) -> None:
        """Nothing stays with a holder that does not use it, and nothing is remembered."""
        limiter, rate = self.limiter(), Rate(0.001, 1_000)
        for _ in range(200):
            self.take(limiter, rate)
        self.clock.pump([TICK_SECS] * int((IDLE_SECS + 1) / TICK_SECS))
        self.assertEqual(len(limiter), 0)
        self.assertGreater(sum(one.tokens for one in self.line.returned), 0)
        self.assertEqual(self.take(self.limiter(), rate).remaining, 799)
        self.assertEqual(self.take(limiter, rate).remaining, 798)

    def test_given_back_when_demand_falls(self) -> None:
        """A holder that still has much when its lease nears its end, and needs little, parts."""
        limiter, rate = self.limiter(), Rate(0.001, 1_000)
        for _ in range(200):
            self.take(limiter, rate)
        for taken in range(201, 212):
            self.clock.advance(0.6)
            self.assertEqual(self.take(limiter, rate).remaining, 1_000 - taken)
        self.assertGreater(sum(one.tokens for one in self.line.returned), 0)

    def test_renewed_in_use(self) -> None:
        """A lease that is in steady use does not lapse."""
        limiter, rate = self.limiter(), Rate(0.001, 100_000)
        for taken in range(1, 2_001):
            self.assertEqual(self.take(limiter, rate).remaining, 100_000 - taken)
            self.clock.advance(0.01)

    def test_lapsed(self) -> None:
        """A process that was held up past the end of its lease spends none of it."""
        limiter = self.limiter()
        limiter.stop()  # so that no timer forgets the key first
        for _ in range(200):
            self.take(limiter, WIDE)
        held = self.authority._shelf.kept["a"].content.lent
        self.assertGreater(held, 0)
        self.clock.advance(OWN_SECS)
        self.line.quick = False
        answers = [limiter.take("a", WIDE) for _ in range(min(held, 50))]
        self.assertEqual({type(answer) for answer in answers}, {Deferred})

    def test_forgotten_by_the_authority(self) -> None:
        """What the authority knows nothing of any more is not spent: it has lent it anew."""
        limiter = self.limiter()
        for _ in range(200):
            self.take(limiter, WIDE)
        asked = len(self.line.asked)
        self.line.authority = MemoryAuthority(self.clock.seconds, max_keys=100)
        while len(self.line.asked) == asked:
            self.take(limiter, WIDE)
        lent = self.line.authority._shelf.kept["a"].content.lent
        self.assertLessEqual(limiter._accounts["a"].tokens, lent)
        self.assertGreater(self.line.asked[-1].held, 0)

    def test_stop(self) -> None:
        """At the end all is given back; later requests are still answered, without a timer."""
        limiter, rate = self.limiter(), Rate(0.001, 1_000)
        for _ in range(200):
            self.take(limiter, rate)
        limiter.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.take(limiter, rate).remaining, 799)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_changed_rate(self) -> None:
        """A key whose rate was changed goes on under the new one."""
        limiter = self.limiter()
        for _ in range(50):
            self.take(limiter, Rate(0.001, 1_000))
        self.assertEqual(self.take(limiter, Rate(0.001, 10)).remaining, 9)
        self.assertTrue(self.line.returned)


class WaitingTests(LeasingCase):
    """Requests that wait for an answer."""

    def test_single_flight(self) -> None:
        """While a question is under way those of the same key wait for it, in their order."""
        self.line.quick = False
        limiter, rate = self.limiter(), Rate(0.001, 3)
        answers = [limiter.take("a", rate) for _ in range(5)]
        self.assertEqual(len(self.line.asked), 1)
        self.line.answer()
        self.assertEqual(self.now(answers[0]).remaining, 2)
        self.assertEqual(self.line.under_way[0].ask.least, 4)
        self.line.answer()
        found = [self.now(one).allowed for one in answers[1:]]
        self.assertEqual(found, [True, True, False, False])
        self.assertEqual(len(self.line.asked), 2)

    def test_keys_apart(self) -> None:
        """Another key's question does not wait."""
        self.line.quick = False
        limiter = self.limiter()
        limiter.take("a", WIDE)
        answer = limiter.take("b", WIDE)
        self.line.answer(1)
        self.assertTrue(self.now(answer).allowed)

    def test_bounded(self) -> None:
        """No more may wait than the bound says; there is room again after an answer."""
        self.line.quick = False
        limiter = self.limiter(max_waiting=3)
        answers = [limiter.take("a", WIDE), limiter.peek("b", WIDE), limiter.take("c", WIDE)]
        for ask in (limiter.take, limiter.peek):
            with self.assertRaises(Refused) as caught:
                ask("d", WIDE)
            self.assertIs(caught.exception.refusal.reason, Reason.OVERLOADED)
        self.line.answer()
        self.assertTrue(self.now(answers[0]).allowed)
        limiter.take("e", WIDE)

    def test_keys_bounded(self) -> None:
        """The key used longest ago is forgotten; if all have questions under way, it is refused."""
        limiter = self.limiter(max_keys=3)
        for key in "abcdefgh":
            self.take(limiter, WIDE, key)
            self.assertLessEqual(len(limiter), 3)
        self.line.quick = False
        for key in "xyz":
            limiter.take(key, WIDE)
        with self.assertRaises(Refused):
            limiter.take("w", WIDE)
        self.assertEqual(len(limiter), 3)

    def test_forgotten_with_tokens(self) -> None:
        """What is held of a key that is forgotten for room is given back."""
        limiter, rate = self.limiter(max_keys=1), Rate(0.001, 1_000)
        for _ in range(100):
            self.take(limiter, rate)
        self.take(limiter, rate, "b")
        self.assertEqual(self.take(limiter, rate).remaining, 899)

    def test_cancelled(self) -> None:
        """A request that is gone before its answer takes no token, and frees its place."""
        self.line.quick = False
        limiter, rate = self.limiter(max_waiting=2), Rate(0.001, 10)
        first, second = limiter.take("a", rate), limiter.take("a", rate)
        assert isinstance(second, Deferred)
        second.cancel()
        self.failureResultOf(second)
        self.line.answer()
        self.line.quick = True
        while self.line.under_way:
            self.line.answer()
        self.assertTrue(self.now(first).allowed)
        # What was granted to who is gone is spent: nobody has noted it as lent.
        asked = len(self.line.asked)
        for _ in range(3):
            self.assertTrue(self.take(limiter, rate).allowed)
        self.assertEqual(len(self.line.asked), asked + 3)

    def test_late_answer(self) -> None:
        """What came after the lease's end is not spent by later requests."""
        self.line.quick = False
        limiter, rate = self.limiter(), Rate(0.001, 1_000)
        answers = [limiter.take("a", rate) for _ in range(20)]
        self.line.answer()
        arrive = self.line.decide()
        self.clock.advance(OWN_SECS + 1.0)
        arrive()
        self.assertEqual([self.now(one).allowed for one in answers], [True] * 20)
        self.assertIsInstance(limiter.take("a", rate), Deferred)


class LookTests(LeasingCase):
    """Looking at a bucket."""

    def test_spends_nothing(self) -> None:
        """However often one looks."""
        limiter, rate = self.limiter(), Rate(0.001, 2)
        for _ in range(10):
            self.assertTrue(self.now(limiter.peek("a", rate)).allowed)
        self.assertEqual(self.take(limiter, rate).remaining, 1)

    def test_plenty_is_remembered(self) -> None:
        """A bucket that is half full is not asked for each time, one that is not is."""
        limiter, rate = self.limiter(), Rate(0.001, 10)
        for _ in range(20):
            self.now(limiter.peek("a", rate))
        self.assertEqual(len(self.line.asked), 1)
        self.clock.advance(LOOK_SECS)
        self.now(limiter.peek("a", rate))
        self.assertEqual(len(self.line.asked), 2)
        for _ in range(6):
            self.take(limiter, rate)
            self.clock.advance(0.3)
        asked = len(self.line.asked)
        for _ in range(5):
            self.assertTrue(self.now(limiter.peek("a", rate)).allowed)
        self.assertEqual(len(self.line.asked), asked + 5)

    def test_charges_of_others_are_seen(self) -> None:
        """A bucket that others have emptied is empty here too."""
        mine, other, rate = self.limiter(), self.limiter(), Rate(0.01, 1)
        self.assertTrue(self.now(mine.peek("a", rate)).allowed)
        self.take(other, rate)
        refused = self.now(mine.peek("a", rate))
        self.assertEqual((refused.allowed, round(refused.retry_after, 6)), (False, 100.0))
        asked = len(self.line.asked)
        self.assertFalse(self.now(mine.peek("a", rate)).allowed)
        self.assertEqual(len(self.line.asked), asked)

    def test_what_others_hold_is_there(self) -> None:
        """Tokens that somebody holds are not spent."""
        mine, other, rate = self.limiter(), self.limiter(), Rate(0.001, 100)
        for _ in range(60):
            self.take(other, rate)
        held = 100 - 60
        while self.authority.decide("a", rate, Ask("x", 1, 0, 0, 0.0)).granted:
            held -= 1
        self.assertGreater(held, 0)
        self.assertTrue(self.now(mine.peek("a", rate)).allowed)

    def test_joined(self) -> None:
        """Looks and requests wait for the same answer."""
        self.line.quick = False
        limiter, rate = self.limiter(), Rate(0.001, 1)
        answers = [limiter.take("a", rate), limiter.peek("a", rate)]
        self.assertEqual(len(self.line.asked), 1)
        self.line.answer()
        self.assertEqual([self.now(one).allowed for one in answers], [True, False])


class Broken:
    """An authority with a fault."""

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Fail as no authority should."""
        return fail(ZeroDivisionError("a fault"))

    def give_back(self, returned: object) -> None:
        """Nothing comes here."""


class UndecidedTests(LeasingCase):
    """No answer."""

    def test_denied(self) -> None:
        """Without a fallback whoever asks is refused: nobody passes unlimited."""
        self.line.broken = True
        limiter = self.limiter()
        for answer in (limiter.take("a", WIDE), limiter.peek("a", WIDE)):
            assert isinstance(answer, Deferred)
            refused = self.failureResultOf(answer, Refused).value
            self.assertIs(refused.refusal.reason, Reason.LIMITS_UNAVAILABLE)
            self.assertEqual(refused.refusal.shape.status, 503)
        self.assertEqual(self.undecided, 2)

    def test_fallback(self) -> None:
        """With one it decides, by its own buckets."""
        self.line.broken = True
        local = MemoryLimiter(self.clock.seconds, self.clock.seconds, max_keys=10)
        limiter, rate = self.limiter(fallback=local), Rate(0.001, 2)
        found = [self.take(limiter, rate).allowed for _ in range(3)]
        self.assertEqual(found, [True, True, False])
        self.assertFalse(self.now(limiter.peek("a", rate)).allowed)
        self.assertEqual(self.undecided, 4)
        self.line.broken = False
        self.assertTrue(self.take(limiter, rate).allowed)

    def test_fallback_that_must_ask(self) -> None:
        """The fallback may have to wait for somebody too, or fail."""
        self.line.broken = True
        other = Line(MemoryAuthority(self.clock.seconds, max_keys=10), quick=False)
        limiter = self.limiter(fallback=self.limiter(other))
        first, second = limiter.take("a", WIDE), limiter.take("b", WIDE)
        assert isinstance(second, Deferred)
        other.answer()
        self.assertTrue(self.now(first).allowed)
        other.lose()
        self.failureResultOf(second, Refused)

    def test_all_who_wait_are_told(self) -> None:
        """A lost question leaves nobody waiting, and the places free."""
        self.line.quick = False
        limiter = self.limiter(max_waiting=4)
        for _ in range(3):
            answers = [limiter.take("a", WIDE) for _ in range(3)] + [limiter.peek("a", WIDE)]
            self.line.lose()
            for answer in answers:
                assert isinstance(answer, Deferred)
                self.failureResultOf(answer, Refused)

    def test_lost_question_heard_late(self) -> None:
        """What was asked under another name takes nothing from what is held now."""
        limiter, rate = self.limiter(), Rate(0.001, 1_000)
        for _ in range(60):
            self.take(limiter, rate)
        self.line.quick = False
        while not self.line.under_way:
            limiter.take("a", rate)
        self.line.lose()
        self.line.quick = True
        holder = self.line.asked[-1].holder
        self.take(limiter, rate)
        self.assertNotEqual(self.line.asked[-1].holder, holder)
        self.line.hear_late()

    def test_fault(self) -> None:
        """An authority that fails in another way refuses too, and says so in the log."""
        limiter = self.limiter(Broken())  # type: ignore[arg-type]
        answer = limiter.take("a", WIDE)
        assert isinstance(answer, Deferred)
        self.failureResultOf(answer, Refused)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "burst", "answer", "decide", "lose", "late"]),
        st.integers(0, 1),
        st.integers(0, 5),
        st.sampled_from([0.0, 0.001, 0.03]) | st.floats(0.0, 4.0, allow_nan=False),
    ),
    max_size=70,
)
DELAY = 0.05
"""The longest that a decision is under way to whoever asked."""


class SumTests(LeasingCase):
    """Two processes and a bad line."""

    @settings(deadline=None, max_examples=150)
    @given(STEPS, st.floats(0.05, 200.0, allow_nan=False), st.integers(1, 200))
    def test_never_more_than_the_bucket(
        self, steps: list[tuple[str, int, int, float]], per_second: float, burst: int
    ) -> None:
        """Over any window both let by no more than the burst and what came in it."""
        self.setUp()
        lines = [Line(self.authority, quick=False), Line(self.authority, quick=False)]
        holders = [self.limiter(line) for line in lines]
        rate, times = Rate(per_second, burst), list[float]()

        def note(grant: Grant) -> None:
            if grant.allowed:
                times.append(self.clock.seconds())

        def take(who: int) -> None:
            try:
                answer = holders[who].take("a", rate)
            except Refused:
                return  # enough wait already
            if isinstance(answer, Deferred):
                answer.addCallbacks(note, lambda failure: failure.trap(Refused))
            else:
                note(answer)

        for kind, who, number, pause in steps:
            self.clock.advance(pause)
            line = lines[who]
            if kind in ("take", "burst"):
                for _ in range(1 if kind == "take" else 5 * number):
                    take(who)
            elif kind == "answer" and line.under_way:
                line.answer()
            elif kind == "decide" and line.under_way:
                self.clock.callLater(DELAY * number / 5, line.decide())
                self.clock.advance(DELAY)
            elif kind == "lose" and line.under_way:
                line.lose()
            elif kind == "late" and line.lost:
                line.hear_late(number % len(line.lost))
        for first, start in enumerate(times):
            if first and times[first - 1] == start:
                continue
            for last in range(first, len(times)):
                promised = burst + per_second * (times[last] - start + DELAY)
                self.assertLessEqual(last - first + 1, promised + 1e-6)
