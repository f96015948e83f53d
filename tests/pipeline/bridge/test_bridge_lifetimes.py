"""Whatever happens around the bridge for stateless clients, every request ends once and is gone.

The server below does what real ones and their links do at the worst moment: it answers, asks,
fails and dies while it is being spoken to, opens sessions late or never, and forgets them.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import define, evolve, field
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.stateless_links import StatelessLinks
from mcpguard.pipeline.pool import PooledSession, SessionPool
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Eras,
    Inbox,
    InitializeRejected,
    Link,
    Message,
    Opening,
    Outbound,
    Standing,
    UpstreamFailure,
)
from mcpguard.upstream.renewal import RenewingUpstream
from tests.pipeline.bridge.stateless_rig import (
    BOUNDS,
    FORMS,
    LOG_LEVEL,
    OFFERS,
    Heard,
    StatelessRig,
)
from tests.pipeline.rig import META, MODERN, MemoryMeter
from tests.upstream.renewal_doubles import BOUNDS as RENEWAL

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
FORM: Message = {"message": "who?", "requestedSchema": {}}
FAILURES = (
    Reason.UPSTREAM_TIMEOUT,
    Reason.UPSTREAM_BUSY,
    Reason.UPSTREAM_FAILED,
    Reason.ANSWER_TOO_LARGE,
)


@define(eq=False)
class WildCall:
    """A request at the server."""

    link: "WildLink"
    outbound: Outbound
    sink: CallSink
    over: bool = False
    holds: int = 0

    def cancel(self, reason: str) -> None:
        """The sink hears nothing more."""
        self.leave()

    def hold(self) -> None:
        """Count it."""
        self.holds += 1

    def release(self) -> None:
        """Count it back; a call sent again on a renewed session was never held there."""
        self.holds = max(0, self.holds - 1)

    def leave(self) -> bool:
        """It ends; False if it has before."""
        ended, self.over = self.over, True
        if not ended:
            self.link.running.remove(self)
        return not ended

    def answer(self) -> None:
        """Answer it, well or with an error."""
        if self.leave():
            good = self.link.server.random.random() < 0.8
            error = {"error": {"code": -32602, "message": "no"}}
            body: Message = {"result": {"content": [], "tools": []}} if good else error
            self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, **body})

    def fail(self, reason: Reason) -> None:
        """It comes to nothing."""
        if self.leave():
            self.sink.failed(UpstreamFailure(reason))

    def tell(self) -> None:
        """Say something in its course."""
        if not self.over:
            token = {"progressToken": "t", "progress": 1}
            kind, params = self.link.server.random.choice(
                (
                    ("progress", token),
                    ("message", {"level": "error", "data": "x"}),
                    ("resources/updated", {"uri": "a://x"}),
                )
            )
            method = f"notifications/{kind}"
            self.sink.notification({"jsonrpc": "2.0", "method": method, "params": params})


@define(eq=False)
class WildLink:
    """One session, as the links of the upstreams behave."""

    server: "WildServer"
    inbox: Inbox
    over: UpstreamFailure | None = None
    running: list[WildCall] = field(factory=list)
    asked: int = 0

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Take it, and maybe do something at once."""
        call = WildCall(self, outbound, sink)
        self.running.append(call)
        if self.over is not None:
            call.fail(self.over.reason)
        else:
            self.server.react(self, call)
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """Maybe do something at once."""
        self.server.react(self, None)

    def respond(self, message: Message) -> None:
        """Maybe do something at once."""
        self.server.react(self, None)

    def close(self) -> Deferred[None]:
        """What runs fails."""
        self.end(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "closed"))
        return succeed(None)

    def end(self, failure: UpstreamFailure) -> bool:
        """Fail what runs."""
        if self.over is not None:
            return False
        self.over = UpstreamFailure(Reason.SESSION_NOT_FOUND, "over")
        for call in list(self.running):
            call.fail(failure.reason)
        return True

    def die(self) -> None:
        """The child has ended."""
        failure = UpstreamFailure(Reason.UPSTREAM_FAILED, "exit 1")
        if self.end(failure):
            self.inbox.closed(failure)

    def forget(self) -> None:
        """The server says 404 to one request; others that run end by themselves, later."""
        if self.over is not None:
            return
        failure = self.over = UpstreamFailure(Reason.SESSION_NOT_FOUND, "404")
        if self.running:
            self.server.random.choice(self.running).fail(failure.reason)
        self.inbox.closed(failure)

    def ask(self) -> None:
        """Ask the client something, in the course of a request or not."""
        if self.over is not None:
            return
        self.asked += 1
        related = self.server.random.choice((None, *self.running))
        message = {"jsonrpc": "2.0", "id": self.asked, "method": "elicitation/create"}
        self.inbox.request({**message, "params": FORM}, related)

    def tell(self) -> None:
        """Say something that belongs to no request."""
        if self.over is None:
            kind, params = self.server.random.choice(
                (
                    ("cancelled", {"requestId": self.asked}),
                    ("tools/list_changed", {}),
                    ("message", {"level": "error", "data": "x"}),
                )
            )
            method = f"notifications/{kind}"
            self.inbox.notification({"jsonrpc": "2.0", "method": method, "params": params})


@define(eq=False, slots=False)
class WildServer:
    """An upstream that does what chance says."""

    random: Random
    haste: float
    """How likely it does something before it has been spoken to the end."""
    transport: str = "http"
    name: str = "wild"
    standing: Standing = field(factory=lambda: Standing(True))
    links: list[WildLink] = field(factory=list)
    opening: list[tuple[Deferred[Opening], Inbox]] = field(factory=list)

    def react(self, link: WildLink, call: WildCall | None) -> None:
        """Maybe do something in the middle of being spoken to."""
        if self.random.random() < self.haste:
            self.act(link, call)

    def act(self, link: WildLink, call: WildCall | None) -> None:
        """Do something on a session."""
        if call is None and link.running:
            call = self.random.choice(link.running)
        deeds: list[Callable[[], None]] = [link.ask, link.tell]
        if call is not None:
            chosen = call
            deeds += [call.answer] * 3 + [call.tell]
            deeds.append(lambda: chosen.fail(self.random.choice(FAILURES)))
        if self.random.random() < 0.2:
            deeds += [link.die, link.forget]
        self.random.choice(deeds)()

    def stir(self) -> None:
        """Do something on any session, or open or refuse one."""
        if self.opening and self.random.random() < 0.5:
            self.proceed()
        elif self.links:
            self.act(self.random.choice(self.links), None)

    def proceed(self) -> None:
        """Go on with a handshake."""
        opened, inbox = self.opening.pop(self.random.randrange(len(self.opening)))
        chance = self.random.random()
        if opened.called:
            return  # given up
        if chance < 0.7:
            link = WildLink(self, inbox)
            self.links.append(link)
            version = "2025-11-25" if chance < 0.6 else "2025-06-18"
            opened.callback(Opening(link, {"protocolVersion": version, "capabilities": OFFERS}))
        elif chance < 0.8:
            opened.errback(InitializeRejected({"code": -32602}))
        else:
            reason = Reason.UPSTREAM_TIMEOUT if chance < 0.9 else Reason.UPSTREAM_UNAVAILABLE
            opened.errback(UpstreamFailure(reason))

    # -- Upstream --------------------------------------------------------------------------

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """Later, or at once."""
        opened: Deferred[Opening] = Deferred()
        self.opening.append((opened, inbox))
        if self.random.random() < self.haste:
            self.proceed()
        return opened

    def stop(self) -> Deferred[None]:
        """End everything."""
        for opened, _ in self.opening:
            if not opened.called:
                opened.errback(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "stopped"))
        for link in self.links:
            link.close()
            for call in list(link.running):
                call.fail(Reason.UPSTREAM_UNAVAILABLE)
        return succeed(None)

    def start(self) -> None:
        """Nothing to start."""

    def eras(self) -> Deferred[Eras]:
        """Handshakes only."""
        return succeed(Eras(legacy=True))

    def resume_session(self, *args: Any) -> Deferred[Link]:
        """Not for pooled sessions."""
        raise NotImplementedError

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """Not of this era."""
        raise NotImplementedError


@define(eq=False)
class Asker:
    """A client's request; checks that what it hears is in order."""

    story: "Story"
    who: str
    params: Message
    call: Call | None = None
    ends: list[Message | UpstreamFailure] = field(factory=list)
    cancelled: bool = False

    @property
    def deaf(self) -> bool:
        """Whether it must hear no more: who gives up before it has the call cannot say so yet."""
        return bool(self.ends) or (self.cancelled and self.call is not None)

    def notification(self, message: Message) -> None:
        """Not after the end."""
        assert not self.deaf, message
        self.story.maybe_leave(self)

    def answer(self, message: Message) -> None:
        """An end."""
        assert not self.deaf, message
        if self.cancelled:
            return
        self.ends.append(message)
        result = message.get("result", {})
        if result.get("resultType") == "input_required":
            self.story.parked.append((self.who, self.params, result))

    def failed(self, failure: UpstreamFailure) -> None:
        """An end."""
        assert not self.deaf, failure
        if self.cancelled:
            return
        self.ends.append(failure)
        assert failure.reason is not Reason.SESSION_NOT_FOUND, "there is none for its client"


class Story:
    """Clients, the bridge and the server, and what happens."""

    def __init__(self, seed: int, haste: float, renewing: bool) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.server = WildServer(self.random, haste)
        self.inner: Any = self.server
        if renewing:
            self.inner = RenewingUpstream(
                self.server,
                "end",
                clock=self.clock,
                random=self.random.random,
                meter=MemoryMeter(),
                bounds=RENEWAL,
            )
        self.pool = SessionPool(self.clock.seconds, 60.0, max_sessions=4, max_per_principal=2)
        self.tokens = 0
        self.links = StatelessLinks(
            self.inner,
            self.pool,
            self.clock,
            MemoryMeter(),
            self.random.random,
            self.token,
            evolve(BOUNDS, listens=6),
        )
        self.askers: list[Asker] = []
        self.parked: list[tuple[str, Message, Message]] = []
        self.sessions: set[PooledSession] = set()

    def token(self) -> str:
        """Never the same."""
        self.tokens += 1
        return f"token-{self.tokens}"

    def send(self, method: str, params: Message, who: str | None = None) -> None:
        """A client's request."""
        who = who or self.random.choice(("alice", "alice", "bob"))
        asker = Asker(self, who, params)
        self.askers.append(asker)
        outbound = Outbound(1, method, params, MODERN, who, endless=method.startswith("sub"))
        call = self.links.link(who, "").request(outbound, asker)
        asker.call = call
        if asker.cancelled:
            call.cancel("left early")

    def meta(self) -> Message:
        """Of a client that can do something, or nothing, and wants logs, or not."""
        random = self.random
        meta: Message = {**META, CAPABILITIES: random.choice((FORMS, FORMS, {}))}
        if random.random() < 0.5:
            meta |= {LOG_LEVEL: random.choice(("info", "error")), "progressToken": "t"}
        return meta

    def step(self) -> None:
        """Something happens."""
        chance = self.random.random()
        if chance < 0.25:
            self.send("tools/call", {"name": "x", "arguments": {}, "_meta": self.meta()})
        elif chance < 0.35:
            self.listen()
        elif chance < 0.4:
            self.send("server/discover", {"_meta": self.meta()})
        elif chance < 0.5:
            self.retry()
        elif chance < 0.55 and self.askers:
            self.leave(self.random.choice(self.askers))
        elif chance < 0.85:
            self.server.stir()
        elif chance < 0.87:
            self.links.sweep()
        else:
            self.clock.advance(self.random.choice((0, 0.02, 0.1, 1.5, 40)))
        self.sessions.update(self.pool.sessions)

    def listen(self) -> None:
        """Open a listen."""
        uris = self.random.sample(("a://x", "a://y", "a://z"), self.random.randrange(3))
        wanted: Message = {"toolsListChanged": True, "resourceSubscriptions": uris}
        self.send("subscriptions/listen", {"notifications": wanted, "_meta": self.meta()})

    def retry(self) -> None:
        """Come back with answers, or without some; sometimes twice with the same state."""
        if self.parked:
            who, params, result = self.random.choice(self.parked)
            given = {
                key: {"action": "decline"}
                for key in result["inputRequests"]
                if self.random.random() < 0.8
            }
            more = {"inputResponses": given, "requestState": result["requestState"]}
            self.send("tools/call", {**params, **more}, who)

    def leave(self, asker: Asker) -> None:
        """A client gives up."""
        if not asker.ends:
            asker.cancelled = True
            if asker.call is not None:
                asker.call.cancel("left")

    def maybe_leave(self, asker: Asker) -> None:
        """A client gives up at what it hears."""
        if self.random.random() < self.server.haste / 4:
            self.leave(asker)

    def finish(self) -> None:
        """The gateway stops."""
        self.links.end_all()
        self.inner.stop()
        self.clock.pump([0, 0, 0])


class StatelessLifetimes(SynchronousTestCase):
    """`StatelessLinks` before a server that does anything at any time."""

    @settings(deadline=None, max_examples=100)
    @given(
        seed=st.integers(0, 2**32),
        steps=st.integers(1, 120),
        haste=st.sampled_from((0.0, 0.2, 0.6)),
        renewing=st.booleans(),
    )
    # A server that fails a call because it was given the answer to what it had asked in it.
    @example(seed=221, steps=79, haste=0.2, renewing=False)
    def test_nothing_is_left(self, seed: int, steps: int, haste: float, renewing: bool) -> None:
        """Each request has one end or was given up, and no place, timer or session is kept."""
        story = Story(seed, haste, renewing)
        for _ in range(steps):
            story.step()
        story.finish()
        for asker in story.askers:
            self.assertEqual(len(asker.ends), 0 if asker.cancelled else 1, asker.params)
        links = story.links
        self.assertEqual((len(links.lot), links.lot.size, len(story.pool)), (0, 0, 0))
        self.assertEqual((links._calls, links._listens), ({}, {}))
        self.assertEqual((links.lot._calls, links.lot._kept), ({}, {}))
        self.assertEqual({session.in_use for session in story.sessions} - {0}, set())
        self.assertEqual(story.clock.getDelayedCalls(), [])


class Clumsy(Heard):
    """A sink that goes wrong with whatever it hears."""

    def notification(self, message: Message) -> None:
        """Go wrong."""
        raise ValueError(message)

    def answer(self, message: Message) -> None:
        """Go wrong."""
        raise ValueError(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Go wrong."""
        raise ValueError(failure)


class ClumsySinks(SynchronousTestCase):
    """Sinks that raise, which none may."""

    def test_others_hear_all_the_same(self) -> None:
        """What goes wrong with one request is logged, and keeps nothing from the others."""
        rig = StatelessRig()
        rig.upstream.reply = lambda outbound: (
            {"result": {}} if outbound.method == "resources/subscribe" else None
        )
        wanted: Message = {"toolsListChanged": True}
        bad = [rig.call(sink=Clumsy()), rig.listen({}, sink=Clumsy())]
        calls, listen = [rig.call() for _ in range(2)], rig.listen(wanted)
        rig.tell("tools/list_changed")
        self.assertEqual(len(listen.notifications), 2)
        rig.upstream.inboxes[-1].closed(UpstreamFailure(Reason.UPSTREAM_FAILED))
        for call in calls:
            self.assertIs(call.failures[0].reason, Reason.UPSTREAM_FAILED)
        rig.clock.advance(2)
        self.assertEqual(len(rig.upstream.links), 2)
        rig.tell("tools/list_changed")
        self.assertEqual(len(listen.notifications), 3)
        rig.call(sink=Clumsy())
        last = rig.call()
        self.successResultOf(rig.links.end_all())
        self.assertTrue(last.over and listen.over)
        self.assertEqual((len(rig.pool), len(bad)), (0, 2))
        self.assertGreater(len(self.flushLoggedErrors(ValueError)), 2)
