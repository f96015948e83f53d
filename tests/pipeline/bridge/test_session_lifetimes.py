"""Whatever happens around the bridge for clients that shake hands, every request ends once.

The stateless server below answers, asks again, falls silent and fails while it is being spoken to,
and gives links late or never; clients answer its questions at once, late, badly or not at all.
"""

from random import Random
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.handshake_sessions import HandshakeSessions
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Eras,
    Link,
    Message,
    Opening,
    Outbound,
    Standing,
    UpstreamFailure,
)
from tests.pipeline.bridge.handshake_rig import (
    BOUNDS,
    CAN_ALL,
    FORM,
    MODERN,
    OFFERS,
    ClientSink,
    HandshakeCase,
)
from tests.pipeline.rig import MemoryMeter

FAILURES = (
    Reason.UPSTREAM_TIMEOUT,
    Reason.UPSTREAM_BUSY,
    Reason.UPSTREAM_FAILED,
    Reason.SESSION_NOT_FOUND,
    Reason.ANSWER_TOO_LARGE,
)
VERSION = "2025-11-25"


@define(eq=False)
class WildRequest:
    """A request at the server."""

    link: "WildLink"
    outbound: Outbound
    sink: CallSink
    over: bool = False

    def cancel(self, reason: str) -> None:
        """The sink hears nothing more."""
        self.over = True

    def hold(self) -> None:
        """No person is asked in its course."""
        raise AssertionError

    release = hold

    def act(self) -> None:
        """Say something, or end."""
        if not self.over:
            listening = self.outbound.method == "subscriptions/listen"
            (self._listened if listening else self._worked)()

    def _listened(self) -> None:
        random = self.link.server.random
        chance = random.random()
        if chance < 0.5:
            wanted = dict((self.outbound.params or {})["notifications"])
            uris = wanted.get("resourceSubscriptions", [])
            wanted["resourceSubscriptions"] = [uri for uri in uris if random.random() < 0.8]
            self._say("subscriptions/acknowledged", {"notifications": wanted})
        elif chance < 0.7:
            self._say("resources/updated", {"uri": random.choice(("a:1", "a:2", "a:3"))})
        elif chance < 0.8:
            self._answer({"result": {"resultType": "complete"}})
        else:
            self._worked()

    def _worked(self) -> None:
        random = self.link.server.random
        chance = random.random()
        if chance < 0.4:
            self._answer({"result": {"resultType": "complete", "content": [], "tools": []}})
        elif chance < 0.65:
            asked = {f"k{number}": FORM for number in range(random.randrange(4))}
            result: Message = {"resultType": "input_required", "requestState": "s"}
            self._answer({"result": {**result, **({"inputRequests": asked} if asked else {})}})
        elif chance < 0.75:
            self._answer({"error": {"code": random.choice((-32602, -32601, -32022, -32020))}})
        elif chance < 0.85:
            self._say("progress", {"progressToken": "t", "progress": random.random()})
        elif not self.over:
            self.over = True
            self.sink.failed(UpstreamFailure(random.choice(FAILURES)))

    def _answer(self, body: Message) -> None:
        if not self.over:
            self.over = True
            self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, **body})

    def _say(self, method: str, params: Message) -> None:
        message = {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}
        self.sink.notification(message)


@define(eq=False)
class WildLink:
    """A link that is taken for one request."""

    server: "WildStateless"
    closed: int = 0

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Take it, and maybe do something at once."""
        assert not self.closed
        request = WildRequest(self, outbound, sink)
        self.server.requests.append(request)
        while self.server.random.random() < self.server.haste:
            request.act()
        return request

    def notify(self, method: str, params: Message | None) -> None:
        """Nothing of this era."""
        raise AssertionError

    def respond(self, message: Message) -> None:
        """Nothing of this era."""
        raise AssertionError

    def close(self) -> Deferred[None]:
        """Once."""
        self.closed += 1
        assert self.closed == 1
        return succeed(None)


@define(eq=False, slots=False)
class WildStateless:
    """An upstream that does what chance says."""

    random: Random
    haste: float
    """How likely it does something before it has been spoken to the end."""
    name: str = "wild"
    transport: str = "http"
    standing: Standing = field(factory=lambda: Standing(True))
    requests: list[WildRequest] = field(factory=list)
    links: list[WildLink] = field(factory=list)
    waiting: list[Deferred[Link]] = field(factory=list)

    def stir(self) -> None:
        """Go on with a request, or give a link to who waits for one."""
        if self.waiting and self.random.random() < 0.6:
            self.proceed()
        else:
            running = [one for one in self.requests if not one.over]
            if running:
                self.random.choice(running).act()

    def proceed(self) -> None:
        """Give a link, or say why there is none."""
        waiting = self.waiting.pop(self.random.randrange(len(self.waiting)))
        if self.random.random() < 0.8:
            link = WildLink(self)
            self.links.append(link)
            waiting.callback(link)
        else:
            waiting.errback(UpstreamFailure(self.random.choice(FAILURES[:3])))

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """Later, or at once."""
        waiting: Deferred[Link] = Deferred()
        self.waiting.append(waiting)
        if self.random.random() < max(0.5, self.haste):
            self.proceed()
        return waiting

    def stop(self) -> Deferred[None]:
        """Fail what runs."""
        for request in self.requests:
            if not request.over:
                request.over = True
                request.sink.failed(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "stopped"))
        while self.waiting:
            self.waiting.pop().errback(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "stopped"))
        return succeed(None)

    def start(self) -> None:
        """Nothing to start."""

    def eras(self) -> Deferred[Eras]:
        """Stateless only."""
        return succeed(Eras(legacy=False, modern=(MODERN,)))

    def open_session(self, *args: Any) -> Deferred[Opening]:
        """Not of this era."""
        raise NotImplementedError

    def resume_session(self, *args: Any) -> Deferred[Link]:
        """Not of this era."""
        raise NotImplementedError


@define(eq=False)
class Asker:
    """A client's request; checks that what it hears is in order."""

    client: "Client"
    outbound: Outbound
    call: Call | None = None
    ends: int = 0
    cancelled: bool = False

    def notification(self, message: Message) -> None:
        """Not after the end."""
        assert not self.deaf, message
        if self.client.story.random.random() < self.client.story.server.haste / 4:
            self.leave()

    def answer(self, message: Message) -> None:
        """An end."""
        assert not self.deaf, message
        assert message["id"] == self.outbound.id
        self.ends += not self.cancelled

    def failed(self, failure: UpstreamFailure) -> None:
        """An end."""
        assert not self.deaf, failure
        self.ends += not self.cancelled

    @property
    def deaf(self) -> bool:
        """Whether it must hear no more: who gives up before it has the call cannot say so yet."""
        return self.ends > 0 or (self.cancelled and self.call is not None)

    def leave(self) -> None:
        """The client gives up."""
        if not self.ends and not self.cancelled:
            self.cancelled = True
            if self.call is not None:
                self.call.cancel("left")


@define(eq=False)
class Client:
    """A session's client; is the link's `Inbox`."""

    story: "Story"
    link: Link | None = None
    askers: list[Asker] = field(factory=list)
    asked: list[Message] = field(factory=list)
    ending: bool = False
    over: bool = False

    def notification(self, message: Message) -> None:
        """A question may be taken back."""
        assert not self.over
        if message["method"] == "notifications/cancelled":
            id = message["params"]["requestId"]
            self.asked = [one for one in self.asked if one["id"] != id]

    def request(self, message: Message, related: Call | None) -> None:
        """Answer it at once, or later."""
        assert not self.over
        self.asked.append(message)
        if self.story.random.random() < self.story.server.haste:
            self.respond()

    def closed(self, failure: UpstreamFailure) -> None:
        """The session is over: its requests are given up, the link closed."""
        self.end()

    def end(self) -> None:
        """Give everything up."""
        if not self.ending and self.link is not None:
            self.ending = True
            for asker in self.askers:
                asker.leave()
            self.link.close()
            self.over = True

    def respond(self) -> None:
        """Answer a question, well or badly."""
        if self.asked and self.link is not None and not self.ending:
            question = self.asked.pop(self.story.random.randrange(len(self.asked)))
            body: Message = {"result": {"action": "decline"}}
            if self.story.random.random() < 0.2:
                body = {"error": {"code": -1, "message": "no"}}
            self.link.respond({"jsonrpc": "2.0", "id": question["id"], **body})

    def send(self, method: str, **params: Any) -> None:
        """Send a request."""
        if self.link is not None and not self.ending:
            number = len(self.askers)
            asker = Asker(self, Outbound(number, method, params, VERSION, "alice"))
            self.askers.append(asker)
            call = self.link.request(asker.outbound, asker)
            asker.call = call
            if asker.cancelled:
                call.cancel("left early")


class Story:
    """Clients, the bridge and the server, and what happens."""

    def __init__(self, seed: int, haste: float) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.server = WildStateless(self.random, haste)
        self.sessions = HandshakeSessions(
            self.server,
            ToolSchemas(self.clock.seconds, ttl_secs=30, max_tools=5, max_pages=2, max_views=5),
            self.clock,
            self.random.random,
            MemoryMeter(),
            BOUNDS,
        )
        self.clients: list[Client] = []

    def step(self) -> None:
        """Something happens."""
        random = self.random
        chance = random.random()
        if chance < 0.05 or not self.clients:
            self.open()
            return
        client = random.choice(self.clients)
        uri = random.choice(("a:1", "a:2", "a:3", "a:4"))
        if chance < 0.2:
            client.send("tools/call", name="x", arguments={})
        elif chance < 0.25:
            client.send(random.choice(("tools/list", "ping", "logging/setLevel")), level="info")
        elif chance < 0.35:
            client.send("resources/subscribe", uri=uri)
        elif chance < 0.4:
            client.send("resources/unsubscribe", uri=uri)
        elif chance < 0.5:
            client.respond()
        elif chance < 0.55 and client.askers:
            random.choice(client.askers).leave()
        elif chance < 0.57:
            client.end()
        elif chance < 0.85:
            self.server.stir()
        else:
            self.clock.advance(random.choice((0, 0.5, 2, 5, 40)))

    def open(self) -> None:
        """A client shakes hands, or comes back from an earlier life."""
        client = Client(self)
        self.clients.append(client)
        params: Message = {"protocolVersion": VERSION, "capabilities": CAN_ALL, "clientInfo": {}}
        known = {"supportedVersions": [MODERN], "capabilities": OFFERS}
        eras = Eras(False, (MODERN,), known if self.random.random() < 0.7 else None)

        def opened(opening: Opening) -> None:
            client.link = opening.link
            opening.link.notify("notifications/initialized", None)

        def resumed(link: Link) -> None:
            client.link = link

        def refused(failure: Any) -> None:
            failure.trap(UpstreamFailure)

        sessions: Any = self.sessions
        if self.random.random() < 0.7:
            opening = Deferred.fromCoroutine(sessions.open(eras, "alice", params, client, ""))
            opening.addCallback(opened).addErrback(refused)
        else:
            resuming = Deferred.fromCoroutine(
                sessions.resume(eras, "alice", params, VERSION, client, "")
            )
            resuming.addCallback(resumed).addErrback(refused)

    def finish(self) -> list[WildRequest]:
        """The gateway stops; gives what a session would still have running at the server then."""
        self.sessions.end_all()
        own = ("tools", "discover")  # several sessions may wait for these
        running = [
            one for one in self.server.requests if not one.over and one.outbound.id not in own
        ]
        self.server.stop()
        self.clock.pump([0, 0])
        return running


class SessionLifetimes(SynchronousTestCase):
    """`HandshakeSessions` before a server that does anything at any time."""

    @settings(deadline=None, max_examples=100)
    @given(
        seed=st.integers(0, 2**32),
        steps=st.integers(1, 150),
        haste=st.sampled_from((0.0, 0.2, 0.5)),
        clients_first=st.booleans(),
    )
    def test_nothing_is_left(
        self, seed: int, steps: int, haste: float, clients_first: bool
    ) -> None:
        """Each request has one end or was given up; no link, question, stream or timer is kept."""
        story = Story(seed, haste)
        for _ in range(steps):
            story.step()
        if clients_first:
            for client in story.clients:
                client.end()
        self.assertEqual(story.finish(), [])
        for client in story.clients:
            for asker in client.askers:
                self.assertEqual(asker.ends, 0 if asker.cancelled else 1, asker.outbound)
            link: Any = client.link
            if link is not None:
                self.assertEqual((link._calls, link._questions), ({}, {}))
                self.assertEqual((link.listen._waiting, link.listen.uris), ([], frozenset()))
        self.assertEqual(len(story.sessions), 0)
        self.assertEqual({one.closed for one in story.server.links} - {1}, set())
        self.assertEqual(story.clock.getDelayedCalls(), [])


class Clumsy(ClientSink):
    """A sink that goes wrong with whatever it hears."""

    def answer(self, message: Message) -> None:
        """Go wrong."""
        raise ValueError(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Go wrong."""
        raise ValueError(failure)


class ClumsySinks(HandshakeCase):
    """Sinks that raise, which none may."""

    def test_others_hear_all_the_same(self) -> None:
        """What goes wrong with one request is logged, and keeps nothing from the others."""
        sinks = []
        for _ in range(2):
            link = self.open(self.inbox)
            for method in ("tools/call", "resources/subscribe"):
                for sink in (Clumsy(), ClientSink()):
                    params: Message = {"name": "x", "uri": "a:1"}
                    link.request(Outbound(1, method, params, VERSION, "alice"), sink)
                    sinks.append(sink)
        self.successResultOf(self.sessions.end_all())
        told = [sink for sink in sinks if not isinstance(sink, Clumsy)]
        self.assertEqual([len(sink.ends) for sink in told], [1] * 4)
        self.assertEqual(len(self.sessions), 0)
        self.assert_idle()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 4)
