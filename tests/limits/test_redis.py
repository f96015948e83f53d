"""Tests of the authority in Redis, over a server in memory (the real one: `tests.live`)."""

import hashlib
from collections import Counter
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.limits.authority import Authority, Returned, Unreachable
from mcpguard.limits.redis import REDIS_BOUNDS, RedisAuthority, endpoint_for
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease
from mcpguard.policy.redis_url import parse_redis_url
from mcpguard.tls.client import verifying
from tests.limits.redis_double import FakeRedis, Turns

RATE = Rate(0.001, 10)
URL = "redis://me:hunter2@cache:7000/3"


def one(holder: str = "h.1") -> Ask:
    """One token for now."""
    return Ask(holder, 1, 0, 0, 6.0)


class RedisCase(SynchronousTestCase):
    """One authority before one server."""

    def setUp(self) -> None:
        """Neither has started."""
        self.clock = Turns()
        self.clock.advance(5_000.0)
        self.server = FakeRedis(self.clock, password="hunter2")
        self.counted: Counter[str] = Counter()

    def authority(self, url: str = URL, **bounds: Any) -> RedisAuthority:
        """Not started."""
        return RedisAuthority(
            self.clock,
            self.server,
            parse_redis_url(url),
            self,  # type: ignore[arg-type]
            key_prefix="test:",
            bounds=evolve(REDIS_BOUNDS, **bounds),
        )

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """As a meter."""
        self.assertEqual(name, "mcp_guard_redis_calls_total")
        self.counted[labels["result"]] += amount

    def started(self, **bounds: Any) -> RedisAuthority:
        """Started and connected."""
        authority = self.authority(**bounds)
        authority.start()
        self.turn()
        self.assertTrue(authority.up)
        self.server.commands.clear()
        return authority

    def turn(self, times: int = 20) -> None:
        """Some turns of the reactor, in which no time passes."""
        self.clock.pump([0.0] * times)

    def answer(self, asked: Deferred[Lease]) -> Lease:
        """What came of it."""
        self.turn()
        return self.successResultOf(asked)

    def unreachable(self, asked: Deferred[Lease]) -> str:
        """There is no answer; says why."""
        return str(self.failureResultOf(asked, Unreachable).value)

    def time_out(self, authority: RedisAuthority, times: int) -> None:
        """So many questions in a row are not answered in time."""
        for _ in range(times):
            asked = authority.lease("a", RATE, one())
            self.clock.advance(REDIS_BOUNDS.timeout_secs)
            self.turn()
            self.unreachable(asked)


class CallTests(RedisCase):
    """Questions and answers."""

    def test_start(self) -> None:
        """It signs in, chooses the database, loads the script and runs it once."""
        self.authority().start()
        self.turn()
        said = [words[:3] for words in self.server.commands]
        self.assertEqual(said[:2], [["AUTH", "me", "hunter2"], ["SELECT", "3"]])
        self.assertEqual(said[2][:2], ["SCRIPT", "LOAD"])
        self.assertEqual(said[3][0], "EVALSHA")
        self.assertEqual(len(said), 4)

    def test_start_without_password(self) -> None:
        """Nothing is said of users and databases that are not configured."""
        self.authority("redis://cache").start()
        self.turn()
        self.assertEqual([words[0] for words in self.server.commands], ["SCRIPT", "EVALSHA"])

    def test_lease(self) -> None:
        """One question is one round trip; the numbers are the script's."""
        authority: Authority = self.started()
        lease = self.answer(authority.lease("a", RATE, Ask("h.1", 2, 3, 0, 6.0)))
        self.assertEqual(lease, Lease(5, 0, 5.0, 0, 0.0))
        lease = self.answer(authority.lease("a", RATE, Ask("h.2", 9, 0, 0, 6.0)))
        self.assertEqual((lease.granted, lease.elsewhere, lease.wait), (5, 3, 1_000.0))
        self.assertEqual(len(self.server.commands), 2)
        self.assertEqual(self.counted, {"answered": 2})

    def test_key(self) -> None:
        """Redis sees the prefix and a digest, never who it is about."""
        authority = self.started()
        self.answer(authority.lease("id\0api_key:alice", RATE, one()))
        key = self.server.commands[0][3]
        digest = hashlib.sha256(b"id\0api_key:alice").hexdigest()
        self.assertEqual(key, f"test:{digest}")
        self.answer(authority.lease("id\0jwt:\ud800", RATE, one()))

    def test_numbers_are_exact(self) -> None:
        """Rates of many digits arrive with all of them."""
        authority, rate = self.started(), Rate(1.0 / 60.0, 3)
        self.answer(authority.lease("a", rate, one()))
        self.assertEqual(float(self.server.commands[0][4]), rate.per_second)

    def test_give_back(self) -> None:
        """What is given back is there for others, and nobody waits."""
        authority = self.started()
        self.answer(authority.lease("a", RATE, Ask("h.1", 0, 5, 0, 6.0)))
        authority.give_back([Returned("a", RATE, "h.1", 5), Returned("b", RATE, "h.1", 1)])
        lease = self.answer(authority.lease("a", RATE, Ask("h.2", 20, 0, 0, 6.0)))
        self.assertEqual(lease.granted, 10)

    def test_script_flushed(self) -> None:
        """A Redis that has forgotten the script is sent it again, within the same question."""
        authority = self.started()
        self.server.knows = False
        self.assertEqual(self.answer(authority.lease("a", RATE, one())).granted, 1)
        self.assertEqual([words[0] for words in self.server.commands], ["EVALSHA", "EVAL"])
        self.assertTrue(authority.up)

    def test_nonsense(self) -> None:
        """What is no answer of the script grants nothing."""
        authority = self.started()
        for reply in (
            b"+OK\r\n",
            b"*0\r\n",
            b"$-1\r\n",
            b"*4\r\n:1\r\n:0\r\n:0\r\n+x\r\n",
            b"*4\r\n:1\r\n:0\r\n:0\r\n:5\r\n",
        ):
            self.server.garbage = reply
            asked = authority.lease("a", RATE, one())
            self.turn()
            self.unreachable(asked)
            self.server.garbage = None
            self.answer(authority.lease("b", RATE, one()))
        self.assertEqual(self.counted["error"], 5)

    def test_pending_bounded(self) -> None:
        """No more questions are under way than the bound says."""
        authority = self.started(pending=3)
        self.server.stop()
        asked = [authority.lease("a", RATE, one()) for _ in range(4)]
        self.assertIn("too many", self.unreachable(asked[3]))
        self.server.go_on()
        self.assertEqual([self.answer(each).granted for each in asked[:3]], [1, 1, 1])
        self.assertEqual(self.answer(authority.lease("a", RATE, one())).granted, 1)

    def test_cancelled(self) -> None:
        """Whoever does not wait any more disturbs nobody."""
        authority = self.started()
        asked = authority.lease("a", RATE, one())
        asked.addErrback(lambda failure: None)
        asked.cancel()
        self.assertEqual(self.answer(authority.lease("a", RATE, one())).remaining, 8.0)
        late = authority.lease("a", RATE, one())
        late.addErrback(lambda failure: None)
        self.server.stop()
        late.cancel()
        self.clock.advance(1.0)
        self.turn()


class BreakerTests(RedisCase):
    """When Redis does not answer."""

    def test_never_connected(self) -> None:
        """Before there is a connection nobody waits."""
        self.server.up = False
        authority = self.authority()
        authority.start()
        self.assertFalse(authority.up)
        self.assertIn("no connection", self.unreachable(authority.lease("a", RATE, one())))
        authority.give_back([Returned("a", RATE, "h.1", 1)])

    def test_deadline(self) -> None:
        """A question that is not answered in time fails; one alone opens nothing."""
        authority = self.started()
        self.server.stop()
        asked = authority.lease("a", RATE, one())
        self.clock.advance(REDIS_BOUNDS.timeout_secs - 0.001)
        self.assertNoResult(asked)
        self.clock.advance(0.001)
        self.turn()
        self.assertIn("in time", self.unreachable(asked))
        self.assertTrue(authority.up)
        self.server.go_on()
        self.turn()
        self.assertEqual(self.answer(authority.lease("a", RATE, one())).remaining, 8.0)
        self.assertEqual(self.counted, {"timeout": 1, "answered": 1})

    def test_answer_that_was_there(self) -> None:
        """After a long turn of the reactor an answer that has come is read before it is late."""
        authority = self.started()
        self.server.stop()
        asked = authority.lease("a", RATE, one())
        self.clock.advance(5.0)  # the deadline's timer runs, and sockets are read after it
        self.server.go_on(at_once=True)
        self.assertEqual(self.answer(asked).granted, 1)

    def test_opens(self) -> None:
        """After some failures in a row nobody waits any more."""
        authority = self.started()
        self.server.stop()
        self.time_out(authority, REDIS_BOUNDS.failures)
        self.assertFalse(authority.up)
        asked = len(self.server.commands)
        self.unreachable(authority.lease("a", RATE, one()))
        self.assertEqual(len(self.server.commands), asked)

    def test_in_a_row(self) -> None:
        """An answer in between begins the count anew."""
        authority = self.started()
        for _ in range(5):
            self.server.stop()
            self.time_out(authority, REDIS_BOUNDS.failures - 1)
            self.server.go_on()
            self.turn()
            self.answer(authority.lease("b", RATE, one()))
        self.assertTrue(authority.up)

    def test_closes(self) -> None:
        """A Redis that goes on is asked again within the longest pause, and not before it has
        shown on a connection of its own that it answers.
        """
        authority = self.started()
        self.server.stop()
        self.time_out(authority, REDIS_BOUNDS.failures)
        for _ in range(100):
            self.clock.advance(0.1)
            self.turn(3)
            self.assertFalse(authority.up)
        self.assertLessEqual(self.server.connects, 10)
        self.server.go_on()
        longest = REDIS_BOUNDS.max_retry_secs + REDIS_BOUNDS.connect_secs
        for _ in range(int(longest * 10)):
            self.clock.advance(0.1)
            self.turn(3)
        self.assertTrue(authority.up)
        self.assertEqual(self.answer(authority.lease("b", RATE, one())).granted, 1)

    def test_killed_and_started_again(self) -> None:
        """Who waits hears at once that the connection ended; afterwards it connects by itself."""
        authority = self.started()
        self.server.stop()
        asked = [authority.lease("a", RATE, one()) for _ in range(3)]
        self.server.die()
        for each in asked:
            self.unreachable(each)
        self.assertEqual(self.counted, {"lost": 3})
        self.assertFalse(authority.up)
        for _ in range(20):
            self.clock.advance(1.0)
            self.turn(3)
        self.server.up, self.server.stopped = True, False
        self.clock.advance(REDIS_BOUNDS.max_retry_secs)
        self.turn()
        self.assertTrue(authority.up)

    def test_asked_again_while_it_is_told(self) -> None:
        """Whoever asks again as soon as it hears of a lost connection is told the same."""
        authority = self.started()
        self.server.stop()
        again: list[Deferred[Lease]] = []
        asked = authority.lease("a", RATE, one())
        asked.addErrback(lambda failure: again.append(authority.lease("a", RATE, one())))
        self.server.die()
        self.unreachable(again[0])

    def test_refusing(self) -> None:
        """A Redis that answers but refuses (full, read-only, loading) counts as failing, and is
        not used before it runs the script again.
        """
        authority = self.started()
        self.server.refuses = "READONLY You can't write against a read only replica."
        for _ in range(REDIS_BOUNDS.failures):
            asked = authority.lease("a", RATE, one())
            self.turn()
            self.assertIn("READONLY", self.unreachable(asked))
        self.assertFalse(authority.up)
        for _ in range(30):
            self.clock.advance(1.0)
            self.turn()
        self.assertFalse(authority.up)
        self.server.refuses = None
        self.clock.advance(1.0)
        self.turn()
        self.assertTrue(authority.up)

    def test_wrong_password(self) -> None:
        """It goes on trying, says so once, and never what the password is."""
        self.server.password = "another"
        authority = self.authority()
        with capturedLogs() as events:
            authority.start()
            for _ in range(10):
                self.clock.advance(1.0)
                self.turn()
        warned = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(warned), 1)
        self.assertIn("WRONGPASS", warned[0]["why"])
        self.assertNotIn("hunter2", repr(events))
        self.assertGreater(self.server.connects, 5)
        self.server.password = "hunter2"
        self.clock.advance(1.0)
        self.turn()
        self.assertTrue(authority.up)

    def test_not_a_redis(self) -> None:
        """Something that speaks another language, or without end, is hung up on."""
        for garbage in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"x" * 70_000,
            b"$70000\r\n" + b"y" * 66_000,
        ):
            self.setUp()
            authority = self.started()
            self.server.garbage = garbage
            asked = authority.lease("a", RATE, one())
            self.clock.advance(REDIS_BOUNDS.timeout_secs)
            self.turn()
            self.unreachable(asked)
            self.assertFalse(authority.up, garbage[:10])

    def test_never_a_redis(self) -> None:
        """What was never one is told once, however often it is tried."""
        self.server.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        authority = self.authority()
        with capturedLogs() as events:
            authority.start()
            for _ in range(10):
                self.clock.advance(1.0)
                self.turn()
        self.assertFalse(authority.up)
        self.assertGreater(self.server.connects, 5)
        warned = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(warned), 1)
        self.assertIn("is it a Redis?", warned[0]["why"])

    def test_unasked(self) -> None:
        """Replies to nothing are dropped, and no more of them are taken than of one answer."""
        authority = self.started()
        (wire,) = self.server.wires
        assert wire.protocol is not None
        for _ in range(100):
            wire.protocol.dataReceived(b"+OK\r\n")
        self.assertEqual(self.answer(authority.lease("a", RATE, one())).granted, 1)
        wire.protocol.dataReceived(b"+OK\r\n" * 20_000)
        self.turn()
        self.assertFalse(authority.up)

    def test_changes_are_logged_once(self) -> None:
        """Up and down, each once however long it lasts."""
        with capturedLogs() as events:
            authority = self.started()
            self.server.die()
            for _ in range(50):
                self.clock.advance(1.0)
                self.turn()
            self.server.up = True
            self.clock.advance(1.0)
            self.turn()
            self.assertTrue(authority.up)
        levels = [event["log_level"] for event in events]
        self.assertEqual(levels, [LogLevel.info, LogLevel.warn, LogLevel.info])


class StopTests(RedisCase):
    """The end."""

    def stop(self, authority: RedisAuthority) -> None:
        """Stop it, however long that may take."""
        stopping = Deferred.fromCoroutine(authority.stop())
        for _ in range(40):
            self.clock.advance(0.1)
        self.successResultOf(stopping)
        self.assertEqual(self.server.wires, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(authority.up)

    def test_connected(self) -> None:
        """What was given back before it is read before the connection ends."""
        authority = self.started()
        self.answer(authority.lease("a", RATE, Ask("h.1", 0, 5, 0, 6.0)))
        authority.give_back([Returned("a", RATE, "h.1", 5)])
        self.stop(authority)
        self.assertEqual(self.server.commands[-1], ["PING"])
        (bucket,) = [one for key, one in self.server.buckets.items() if len(one.loans) == 0][1:]
        self.assertEqual(bucket.tokens, 10.0)

    def test_stuck(self) -> None:
        """A Redis that does not answer does not keep it."""
        authority = self.started()
        self.server.stop()
        self.stop(authority)

    def test_while_connecting(self) -> None:
        """An attempt is given up."""
        self.server.stop()
        authority = self.authority()
        authority.start()
        self.stop(authority)

    def test_between_attempts(self) -> None:
        """No further attempt is made."""
        self.server.up = False
        authority = self.authority()
        authority.start()
        self.stop(authority)
        self.assertEqual(self.server.connects, 1)


class EndpointTests(SynchronousTestCase):
    """How Redis is reached."""

    def test_tls(self) -> None:
        """With rediss there is TLS over the connection, otherwise not."""
        for scheme, kind in (("redis", "HostnameEndpoint"), ("rediss", "_WrapperEndpoint")):
            for host in ("cache", "10.0.0.1", "[::1]"):
                address = parse_redis_url(f"{scheme}://{host}")
                endpoint = endpoint_for(Clock(), address, verifying(address.host))
                self.assertEqual(type(endpoint).__name__, kind)

    def test_unverified(self) -> None:
        """There is no TLS without somebody who verifies the server."""
        address = parse_redis_url("rediss://cache")
        self.assertRaises(ValueError, endpoint_for, Clock(), address)
