"""Sessions that share one handshake-era child, which the gateway alone has greeted.

The child was told of no client capabilities, so it can ask nothing of anybody; what it says
unasked belongs to nobody in particular, and goes to all or to none.
"""

from collections.abc import Iterator

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import INVALID_PARAMS, Reason
from mcpguard.protocol.mcp import LATEST_LEGACY, LEGACY_VERSIONS
from mcpguard.upstream.conversation import Conversation, Slots
from mcpguard.upstream.ended_call import EndedCall, answered, refused
from mcpguard.upstream.greeting import ask
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Inbox,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from mcpguard.upstream.shared_child import SharedChild
from mcpguard.upstream.waiting_call import Watched, request_on

log = Logger()

UPDATED = "notifications/resources/updated"
LIST_CHANGES = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
    }
)
MAX_URI = 8192
"""Characters of a URI that is remembered, or whose parents are looked up among the others."""


@define(eq=False)
class SharedSessions:
    """The sessions of one shared child, and what they have subscribed to. Is its `Residents`."""

    slots: Slots
    max_subscriptions: int
    """Of one session."""
    child: SharedChild = field(init=False)
    """Set once by whoever makes both."""
    links: "dict[SharedLink, None]" = field(init=False, factory=dict)
    _subscribers: "dict[str, set[SharedLink]]" = field(init=False, factory=dict)

    async def open(self, params: Message, inbox: Inbox) -> Opening:
        """Add a session; its handshake is answered from what the child told the gateway."""
        await self.child.acquire()
        result = dict(self.child.greeting or {})
        if params.get("protocolVersion") in LEGACY_VERSIONS:
            result["protocolVersion"] = params["protocolVersion"]
        link = SharedLink(self, inbox)
        self.links[link] = None
        return Opening(link, result)

    def stop(self) -> None:
        """End every session: the upstream is stopped."""
        self.child.stop()
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        for link in list(self.links):
            link.end(failure)

    # -- subscriptions ---------------------------------------------------------------------

    def subscribe(self, link: "SharedLink", outbound: Outbound, sink: CallSink) -> Call:
        """The first subscriber of a URI subscribes at the child, later ones only here."""
        uri = _uri(outbound)
        if len(uri) > MAX_URI:
            error = {"code": INVALID_PARAMS, "message": "Invalid params: the URI is too long"}
            sink.answer({"jsonrpc": "2.0", "id": outbound.id, "error": error})
            return EndedCall()
        holders = self._subscribers.get(uri)
        if holders is not None:
            if link not in holders and self._full(link):
                return self._too_many(sink)
            self._add(link, uri)
            return answered(sink, outbound.id)
        if self._full(link):
            return self._too_many(sink)
        return request_on(self.child, outbound, _Subscribing(self, link, uri, sink), self.slots)

    def subscribed(self, link: "SharedLink", uri: str) -> None:
        """The child has accepted a subscription; a link that is closed hears of no answer."""
        self._add(link, uri)

    def unsubscribe(self, link: "SharedLink", outbound: Outbound, sink: CallSink) -> Call:
        """The last subscriber of a URI unsubscribes at the child, earlier ones only here."""
        uri = _uri(outbound)
        if uri not in link.uris or not self._leave(link, uri):
            return answered(sink, outbound.id)
        return request_on(self.child, outbound, sink, self.slots)

    def closed(self, link: "SharedLink") -> None:
        """A session is gone, and its subscriptions with it."""
        self.links.pop(link, None)
        for uri in list(link.uris):
            if self._leave(link, uri):
                self._unsubscribe(uri)

    def _add(self, link: "SharedLink", uri: str) -> None:
        self._subscribers.setdefault(uri, set()).add(link)
        link.uris.add(uri)

    def _leave(self, link: "SharedLink", uri: str) -> bool:
        """Take a subscriber away; True when it was the last."""
        link.uris.discard(uri)
        holders = self._subscribers[uri]
        holders.discard(link)
        if holders:
            return False
        del self._subscribers[uri]
        return True

    def _unsubscribe(self, uri: str) -> None:
        if self.child.conversation is not None:
            self._tell(self.child.conversation, "resources/unsubscribe", uri)

    def _full(self, link: "SharedLink") -> bool:
        return len(link.uris) >= self.max_subscriptions

    def _too_many(self, sink: CallSink) -> Call:
        detail = "too many subscriptions of one session"
        return refused(sink, UpstreamFailure(Reason.UPSTREAM_BUSY, detail, 5.0))

    def _tell(self, conversation: Conversation, method: str, uri: str) -> None:
        """Send a request of our own whose answer changes nothing."""

        def problem(failure: Failure) -> None:
            log.info("{method} failed: {why}", method=method, why=failure.getErrorMessage())

        ask(conversation, method, {"uri": uri}, LATEST_LEGACY).addErrback(problem)

    # -- Residents -------------------------------------------------------------------------

    @property
    def waiting_for_news(self) -> bool:
        """Whether anybody subscribed to anything."""
        return bool(self._subscribers)

    def told(self, conversation: Conversation, message: Message) -> None:
        """List changes concern everybody, updates their subscribers, all else nobody."""
        method = message["method"]
        if method in LIST_CHANGES:
            receivers = list(self.links)
        elif method == UPDATED:
            receivers = self._subscribers_of((message.get("params") or {}).get("uri"))
        else:
            # Log lines above all: nobody can tell whose call they speak of.
            conversation.stray("log" if method == "notifications/message" else "unattributable")
            return
        for link in receivers:
            link.hear(message)

    def asked(self, conversation: Conversation, message: Message) -> None:
        """No client stands behind this child, so only a ping has an answer."""
        if not conversation.answer_ping(message):
            conversation.stray("request")
            conversation.refuse_request(message)

    def ready(self, conversation: Conversation) -> None:
        """A new child knows of no subscription yet."""
        for uri in self._subscribers:
            self._tell(conversation, "resources/subscribe", uri)

    def down(self, failure: UpstreamFailure) -> None:
        """Sessions outlive it: each request says so for itself."""

    def _subscribers_of(self, uri: object) -> "list[SharedLink]":
        if not isinstance(uri, str):
            return []
        found: dict[SharedLink, None] = {}
        for covering in _covering(uri):
            found.update(dict.fromkeys(self._subscribers.get(covering, ())))
        return list(found)


@define(eq=False)
class SharedLink:
    """One session on a shared child; implements `Link`."""

    sessions: SharedSessions
    inbox: Inbox
    closed: bool = False
    uris: set[str] = field(init=False, factory=set)
    """What it has subscribed to."""
    _running: dict[Watched, Call | None] = field(init=False, factory=dict)

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Send a request to the child, unless it would change what others see of it."""
        sessions, method = self.sessions, outbound.method
        if self.closed:
            return refused(sink, UpstreamFailure(Reason.SESSION_NOT_FOUND, "the link is closed"))
        if method == "logging/setLevel":
            # One level for all, and its lines reach nobody.
            return answered(sink, outbound.id)
        watched = Watched(sink, self._running)
        self._running[watched] = None
        if method == "resources/subscribe":
            call = sessions.subscribe(self, outbound, watched)
        elif method == "resources/unsubscribe":
            call = sessions.unsubscribe(self, outbound, watched)
        else:
            call = request_on(sessions.child, outbound, watched, sessions.slots)
        if watched in self._running:
            self._running[watched] = call
        return _Leaving(call, watched)

    def notify(self, method: str, params: Message | None) -> None:
        """Drop it: the gateway has told the child all there is to tell."""

    def respond(self, message: Message) -> None:
        """Drop it: the child could not ask this session anything."""

    def close(self) -> Deferred[None]:
        """Leave the child to the others; what still runs for this session is cancelled."""
        if not self.closed:
            self.closed = True
            running, self._running = dict(self._running), {}
            for call in running.values():
                if call is not None:
                    call.cancel("the session has ended")
            self.sessions.closed(self)
        return succeed(None)

    def hear(self, message: Message) -> None:
        """Pass a notification to the session; its error harms no other."""
        try:
            self.inbox.notification(message)
        except Exception:
            log.failure("a session did not take a notification")

    def end(self, failure: UpstreamFailure) -> None:
        """The child is gone for good."""
        self.close()
        self.inbox.closed(failure)


@define(eq=False)
class _Leaving:
    """A call that also leaves the list of running ones when it is cancelled."""

    call: Call
    watched: Watched

    def cancel(self, reason: str) -> None:
        """Stop it."""
        self.watched.among.pop(self.watched, None)
        self.call.cancel(reason)

    def hold(self) -> None:
        """See `link.Call`."""
        self.call.hold()

    def release(self) -> None:
        """See `link.Call`."""
        self.call.release()


@define(eq=False)
class _Subscribing:
    """The sink of a subscription that goes to the child."""

    sessions: SharedSessions
    link: SharedLink
    uri: str
    sink: CallSink

    def notification(self, message: Message) -> None:
        """Pass it on."""
        self.sink.notification(message)

    def answer(self, message: Message) -> None:
        """Note a subscription that was accepted."""
        if "result" in message:
            self.sessions.subscribed(self.link, self.uri)
        self.sink.answer(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Pass it on."""
        self.sink.failed(failure)


def _uri(outbound: Outbound) -> str:
    uri = (outbound.params or {}).get("uri")
    return uri if isinstance(uri, str) else ""


def _covering(uri: str) -> Iterator[str]:
    """The URI and those above it: an update may name a part of what was subscribed to."""
    yield uri
    if len(uri) > MAX_URI:
        return
    for at, character in enumerate(uri):
        if character == "/":
            yield uri[:at]
            if at + 1 < len(uri):
                yield uri[: at + 1]
