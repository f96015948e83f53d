"""The pool of sessions that the gateway opens itself."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refused
from mcpguard.pipeline.pool import PooledSession, SessionPool
from mcpguard.upstream.link import Call, Message, Opening, UpstreamFailure
from tests.pipeline.rig import MemoryLink, MemoryUpstream

SAMPLING: Message = {"sampling": {}}


class Resident:
    """An inbox that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.heard.append(message)

    def request(self, message: Message, related: Call | None) -> None:
        """Keep it."""
        self.heard.append(message)

    def closed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.heard.append(failure.reason)


class PoolTests(SynchronousTestCase):
    """`SessionPool` on a virtual clock, before a double."""

    def setUp(self) -> None:
        """A pool for three sessions, two of each principal."""
        self.clock = Clock()
        self.upstream = MemoryUpstream()
        self.pool = SessionPool(self.clock.seconds, 60.0, max_sessions=3, max_per_principal=2)

    def borrow(
        self, who: str, capabilities: Message | None = None, path: str = ""
    ) -> PooledSession:
        """Borrow a session that is there at once; raises Refused."""
        self.clock.advance(1)
        coroutine = self.pool.borrow(who, self.upstream, path, capabilities)
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def refused(self, who: str, capabilities: Message | None = None) -> Reason:
        """The reason why no session can be had."""
        coroutine = self.pool.borrow(who, self.upstream, "", capabilities)
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), Refused)
        assert isinstance(failure.value, Refused)
        return failure.value.refusal.reason

    def test_key(self) -> None:
        """Principal, path and capabilities each make a session of their own."""
        pool = SessionPool(self.clock.seconds, 60.0, max_sessions=10, max_per_principal=10)
        self.pool = pool
        both: Message = {"sampling": {}, "roots": {}}
        sessions = [
            self.borrow("a"),
            self.borrow("b"),
            self.borrow("a", path="/x"),
            self.borrow("a", SAMPLING),
            self.borrow("a", both),
        ]
        self.assertEqual(len({id(one) for one in sessions}), 5)
        self.assertIs(self.borrow("a", {"roots": {}, "sampling": {}}), sessions[4])
        self.assertEqual(
            [params["capabilities"] for params in self.upstream.initialized_with],
            [{}, {}, {}, SAMPLING, both],
        )
        self.assertEqual(sessions[3].result["serverInfo"]["name"], "double")

    def test_cap_of_all(self) -> None:
        """The session idle longest gives way; with all in use the pool is full."""
        first, second, third = (self.borrow(who) for who in "abc")
        self.assertEqual(self.refused("d"), Reason.OVERLOADED)
        self.pool.give_back(second)
        self.clock.advance(1)
        self.pool.give_back(first)
        # `a` was borrowed first and `b` later: what counts is when they were borrowed last.
        self.borrow("d")
        self.assertEqual([link.closed for link in self.upstream.links], [1, 0, 0, 0])
        self.assertTrue(first.dead)
        self.assertEqual((second.dead, third.dead, len(self.pool)), (False, False, 3))

    def test_cap_of_a_principal(self) -> None:
        """A principal at its cap loses an idle session of its own, never another's."""
        other = self.borrow("b")
        self.pool.give_back(other)
        mine = self.borrow("a")
        self.borrow("a", SAMPLING)
        self.assertEqual(self.refused("a", {"roots": {}}), Reason.OVERLOADED)
        self.pool.give_back(mine)
        self.borrow("a", {"roots": {}})
        self.assertEqual((mine.dead, other.dead), (True, False))

    def test_openings_count(self) -> None:
        """Handshakes under way count as sessions."""
        slow: list[Deferred[Opening]] = []

        def open_session(*_: object) -> Deferred[Opening]:
            slow.append(Deferred())
            return slow[-1]

        self.upstream.open_session = open_session  # type: ignore[method-assign, assignment]
        waiting = [
            Deferred.fromCoroutine(self.pool.borrow("a", self.upstream, "", capabilities))
            for capabilities in ({}, SAMPLING, SAMPLING)
        ]
        self.assertEqual((len(slow), len(self.pool)), (2, 2))
        self.assertEqual(self.refused("a", {"roots": {}}), Reason.OVERLOADED)
        slow[1].callback(Opening(MemoryLink(), {"protocolVersion": "2025-11-25"}))
        second, third = (self.successResultOf(one) for one in waiting[1:])
        self.assertIs(second, third)
        self.assertEqual(second.in_use, 2)
        slow[0].errback(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
        self.failureResultOf(waiting[0], Refused)
        self.assertEqual(len(self.pool), 1)

    def test_used_up_by_those_who_waited(self) -> None:
        """A session that ends while others who waited for it are told is not lent any more."""
        opening: Deferred[Opening] = Deferred()
        real = self.upstream.open_session
        self.upstream.open_session = lambda *_: opening  # type: ignore[method-assign]
        first, second = (
            Deferred.fromCoroutine(self.pool.borrow("a", self.upstream, "")) for _ in range(2)
        )
        failure = UpstreamFailure(Reason.UPSTREAM_FAILED)

        def use_up(session: PooledSession) -> PooledSession:
            session.closed(failure)
            return session

        second.addCallback(use_up)
        self.upstream.open_session = real  # type: ignore[method-assign]
        opening.callback(Opening(MemoryLink(), {"protocolVersion": "2025-11-25"}))
        dead, alive = self.successResultOf(second), self.successResultOf(first)
        self.assertEqual((dead.dead, dead.in_use), (True, 1))
        self.assertEqual((alive.dead, alive.in_use), (False, 1))

    def test_idle(self) -> None:
        """What is in use never idles out."""
        kept, left = self.borrow("a"), self.borrow("b")
        self.pool.give_back(left)
        self.clock.advance(100)
        self.pool.sweep()
        self.assertEqual((kept.dead, left.dead), (False, True))

    def test_open_session_of_any_kind(self) -> None:
        """The gateway's own requests take the principal's session that was used last."""
        self.assertIsNone(self.pool.borrow_open("a", "default", ""))
        self.borrow("a", SAMPLING)
        newer = self.borrow("a")
        self.borrow("b")
        self.assertIs(self.pool.borrow_open("a", "default", ""), newer)
        self.assertIsNone(self.pool.borrow_open("a", "default", "/x"))
        self.assertIsNone(self.pool.borrow_open("a", "other", ""))
        self.assertEqual(newer.in_use, 2)

    def test_resident(self) -> None:
        """Whoever moved in hears everything, the end too; before, all is refused but pings."""
        session = self.borrow("a")
        ping: Message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        sampling: Message = {"jsonrpc": "2.0", "id": 2, "method": "sampling/createMessage"}
        session.request(ping, None)
        session.request(sampling, None)
        session.notification(ping)
        answers = self.upstream.links[0].responses
        self.assertEqual(answers[0]["result"], {})
        self.assertEqual(answers[1]["error"]["code"], -32601)
        resident = session.resident = Resident()
        session.request(sampling, None)
        session.notification(ping)
        session.closed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.assertEqual(resident.heard, [sampling, ping, Reason.UPSTREAM_FAILED])
        self.assertEqual(len(answers), 2)
        self.assertIsNot(self.borrow("a"), session)

    def test_discarded(self) -> None:
        """A session that its server has forgotten is lent no more."""
        session = self.borrow("a")
        resident = session.resident = Resident()
        self.pool.discard(session)
        self.pool.discard(session)
        self.assertEqual(resident.heard, [Reason.SESSION_NOT_FOUND])
        self.assertEqual(self.upstream.links[0].closed, 1)
        self.assertIsNot(self.borrow("a"), session)

    def test_end(self) -> None:
        """At the end all links are closed, that of a handshake still under way too."""
        self.borrow("a")
        opening: Deferred[Opening] = Deferred()
        self.upstream.open_session = lambda *_: opening  # type: ignore[method-assign]
        waiting = Deferred.fromCoroutine(self.pool.borrow("b", self.upstream, ""))
        self.successResultOf(self.pool.end_all())
        self.assertEqual(self.upstream.links[0].closed, 1)
        late = MemoryLink()
        opening.callback(Opening(late, {"protocolVersion": "2025-11-25"}))
        self.failureResultOf(waiting, Refused)
        self.assertEqual((late.closed, len(self.pool)), (1, 0))
        self.assertEqual(self.refused("c"), Reason.DRAINING)
