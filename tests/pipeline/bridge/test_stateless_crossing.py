"""Nothing of one principal reaches another, in whatever order things happen."""

import re
from random import Random
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.upstream.link import Inbox, Message, Opening, Outbound, UpstreamFailure
from tests.pipeline.bridge.stateless_rig import EVERYTHING, FORMS, LOG_LEVEL, Heard, StatelessRig
from tests.pipeline.rig import MemoryLink, MemoryUpstream

PEOPLE = ("alice", "bob", "carol")
TAG = re.compile(r"@(\w+)@")
METHODS = ("tools/call", "prompts/get", "tools/list", "server/discover")
LOSSES = (Reason.SESSION_NOT_FOUND, Reason.UPSTREAM_FAILED)


@define(eq=False)
class Session:
    """A session as the server sees it."""

    owner: str
    inbox: Inbox
    link: MemoryLink
    lost: bool = False


@define(eq=False, slots=False)
class SlowServer(MemoryUpstream):
    """A server whose handshakes end when the test says so, and that knows whose sessions it has."""

    sessions: list[Session] = field(factory=list)
    opening: list[tuple[str, Inbox, Deferred[Opening]]] = field(factory=list)

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """Wait for the test."""
        self.opening.append((principal_key, inbox, Deferred()))
        return self.opening[-1][2]

    def greet(self, number: int) -> None:
        """End a handshake."""
        owner, inbox, waiting = self.opening.pop(number)
        link = MemoryLink(reply=lambda outbound: self.answer(owner, outbound))
        self.sessions.append(Session(owner, inbox, link))
        info = {"name": f"@{owner}@", "version": "1"}
        waiting.callback(
            Opening(link, {**self.result, "protocolVersion": "2025-11-25", "serverInfo": info})
        )

    @staticmethod
    def answer(owner: str, outbound: Outbound) -> Message | None:
        """Answer at once what the gateway asks on its own account."""
        own = outbound.method.startswith(("resources/", "logging/")) or outbound.method == "ping"
        return {"result": {"said": f"@{owner}@"}} if own else None


@define(eq=False)
class World:
    """Clients, the bridge and the server."""

    random: Random
    rig: StatelessRig = field(init=False)
    server: SlowServer = field(init=False)
    heard: list[tuple[str, Heard]] = field(factory=list)
    asked: int = 0

    def __attrs_post_init__(self) -> None:
        self.server = SlowServer()
        self.rig = StatelessRig(upstream=self.server)

    def step(self) -> None:
        """Something happens."""
        self.random.choice(
            (
                *(self.send, self.send, self.send, self.listen, self.greet, self.greet),
                *(self.ask, self.ask, self.ask, self.tell, self.tell, self.answer, self.answer),
                *(self.retry, self.retry, self.retry, self.leave, self.lose, self.wait),
            )
        )()

    # -- clients ---------------------------------------------------------------------------

    def words(self, who: str) -> Message:
        """Words of a client."""
        return {"name": "n", "arguments": {"text": f"@{who}@"}}

    def keep(self, who: str, heard: Heard) -> None:
        """Remember a request."""
        self.heard.append((who, heard))

    def about(self) -> Message:
        """What a request says of its client."""
        more: Message = {"meta": {LOG_LEVEL: "debug"}} if self.random.random() < 0.3 else {}
        return {**more, "capabilities": self.random.choice((FORMS, FORMS, EVERYTHING, {}))}

    def send(self) -> None:
        """A new request."""
        who = self.random.choice(PEOPLE)
        method = self.random.choice(METHODS)
        self.keep(who, self.rig.send(method, self.words(who), who=who, **self.about()))

    def listen(self) -> None:
        """A listen; all ask for the same resources."""
        who = self.random.choice(PEOPLE)
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["r://a", "r://b"]}
        self.keep(who, self.rig.listen(wanted, who=who, **self.about()))

    def retry(self) -> None:
        """Answers to some question, mostly by the one who was asked."""
        waiting = [
            (who, one.result)
            for who, one in self.heard
            if one.answers and one.answers[0].get("result", {}).get("requestState")
        ]
        if not waiting:
            return
        who, result = self.random.choice(waiting)
        thief = self.random.choice(PEOPLE) if self.random.random() < 0.3 else who
        responses = {key: {"text": f"@{thief}@"} for key in result["inputRequests"]}
        params = {
            **self.words(thief),
            "requestState": result["requestState"],
            "inputResponses": responses,
        }
        self.keep(thief, self.rig.send("tools/call", params, who=thief, **self.about()))

    def leave(self) -> None:
        """A client closes its connection."""
        if self.heard:
            call = self.random.choice(self.heard)[1].call
            assert call is not None
            call.cancel("left")

    # -- the server ------------------------------------------------------------------------

    def session(self) -> Session | None:
        """Some session that is alive."""
        alive = [one for one in self.server.sessions if not one.lost]
        return self.random.choice(alive) if alive else None

    def greet(self) -> None:
        """A handshake ends."""
        if self.server.opening:
            self.server.greet(self.random.randrange(len(self.server.opening)))

    def ask(self) -> None:
        """The server asks, in the course of a known request or not."""
        session = self.session()
        if session is None:
            return
        self.asked += 1
        calls = [call for _, _, call in session.link.requests]
        related = self.random.choice(calls) if calls and self.random.random() < 0.5 else None
        params = {"message": f"@{session.owner}@", "requestedSchema": {}}
        message = {
            "jsonrpc": "2.0",
            # All sessions use the same ids.
            "id": len(session.link.responses),
            "method": self.random.choice(("elicitation/create", "sampling/createMessage")),
            "params": params,
        }
        session.inbox.request(message, related)

    def tell(self) -> None:
        """The server tells something."""
        session = self.session()
        if session is None:
            return
        method, params = self.random.choice(
            (
                ("tools/list_changed", {}),
                ("resources/updated", {"uri": "r://a/x"}),
                ("message", {"level": "error"}),
                ("cancelled", {"requestId": 0}),
            )
        )
        tagged = {**params, "said": f"@{session.owner}@"}
        message = {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": tagged}
        if session.link.requests and self.random.random() < 0.5:
            self.random.choice(session.link.requests)[1].notification(message)
        else:
            session.inbox.notification(message)

    def answer(self) -> None:
        """The server answers, perhaps what was cancelled or answered long ago."""
        session = self.session()
        if session is None or not session.link.requests:
            return
        outbound, sink, _ = self.random.choice(session.link.requests)
        if self.server.answer(session.owner, outbound) is None:
            result = {"said": f"@{session.owner}@"}
            sink.answer({"jsonrpc": "2.0", "id": outbound.id, "result": result})

    def lose(self) -> None:
        """A session is lost, with or without its calls being told."""
        session = self.session()
        if session is None or self.random.random() < 0.5:
            return
        session.lost = True
        failure = UpstreamFailure(self.random.choice(LOSSES), f"@{session.owner}@")
        for outbound, sink, _ in list(session.link.requests):
            if self.server.answer(session.owner, outbound) is None:
                sink.failed(failure)
        session.inbox.closed(failure)

    def wait(self) -> None:
        """Time passes."""
        self.rig.clock.advance(self.random.choice((0, 0.02, 1, 100, 300)))
        self.rig.links.sweep()

    def finish(self) -> None:
        """Every client leaves, every handshake ends, and time passes."""
        for _ in range(3):
            for _, heard in self.heard:
                assert heard.call is not None
                heard.call.cancel("the end")
            while self.server.opening:
                self.greet()
            self.rig.clock.pump([1] * 3 + [300])


class CrossingTests(SynchronousTestCase):
    """Principals that do the same things at the same time."""

    def check(self, world: World) -> None:
        """Whatever anybody heard, on either side, was their own."""
        for who, heard in world.heard:
            said: list[Any] = [*heard.notifications, *heard.answers]
            said += [failure.detail for failure in heard.failures]
            self.assertLessEqual(set(TAG.findall(repr(said))), {who})
        for session in world.server.sessions:
            outbounds = [outbound for outbound, _, _ in session.link.requests]
            given_to = repr([outbounds, session.link.responses, session.link.notifications])
            self.assertLessEqual(set(TAG.findall(given_to)), {session.owner})
            owners = {one.principal_key for one in outbounds}
            self.assertLessEqual(owners, {session.owner})

    @settings(deadline=None, max_examples=60)
    @given(seed=st.integers(0, 2**32), steps=st.integers(10, 120))
    def test_any_order(self, seed: int, steps: int) -> None:
        """Calls, questions, answers, listens and losses of three principals mix in no way."""
        world = World(Random(seed))
        for _ in range(steps):
            world.step()
        self.check(world)
        world.finish()
        self.check(world)
        rig = world.rig
        self.assertEqual((len(rig.links.lot), rig.links.lot.size), (0, 0))
        self.assertEqual([one.in_use for one in rig.pool.sessions], [0] * len(rig.pool.sessions))
        self.successResultOf(rig.links.end_all())
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_enough_happens(self) -> None:
        """The steps above reach what they are about."""
        rounds = stolen = heard_changes = 0
        for seed in range(30):
            world = World(Random(seed))
            for _ in range(200):
                world.step()
            answers = [one for session in world.server.sessions for one in session.link.responses]
            rounds += sum("result" in one for one in answers)
            for _, heard in world.heard:
                heard_changes += sum("said" in one["params"] for one in heard.notifications)
                stolen += any(one.get("error", {}).get("code") == -32602 for one in heard.answers)
        self.assertGreater(rounds, 20)
        self.assertGreater(stolen, 20)
        self.assertGreater(heard_changes, 20)
