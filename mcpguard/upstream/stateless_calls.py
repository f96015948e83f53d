"""Requests of any number of callers on one stateless child, and their subscriptions."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.upstream.conversation import Conversation, Slots
from mcpguard.upstream.correlation import LISTEN
from mcpguard.upstream.ended_call import refused
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure
from mcpguard.upstream.shared_child import SharedChild
from mcpguard.upstream.versed import Versed
from mcpguard.upstream.waiting_call import request_on

log = Logger()

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


@define(eq=False)
class StatelessCalls:
    """The callers of one stateless child. Is its `Residents`."""

    name: str
    slots: Slots
    max_listens: int
    """Subscription streams open at once, of all callers."""
    doubt: Callable[[str], UpstreamFailure]
    """Told what shows that the server speaks another era than it did."""
    child: SharedChild = field(init=False)
    """Set once by whoever makes both."""
    listens: "dict[Listen, None]" = field(init=False, factory=dict)
    _warned: Conversation | None = field(init=False, default=None)

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Send one request. Never raises."""
        sink = Versed(outbound, sink, self.doubt)
        if outbound.method != LISTEN:
            return request_on(self.child, outbound, sink, self.slots)
        if len(self.listens) >= self.max_listens:
            detail = "too many subscription streams"
            return refused(sink, UpstreamFailure(Reason.UPSTREAM_BUSY, detail, 5.0))
        listen = Listen(self, outbound, sink)
        self.listens[listen] = None
        listen.send()
        return listen

    def stop(self) -> None:
        """End every stream: the upstream is stopped."""
        listens, self.listens = list(self.listens), {}
        self.child.stop()
        for listen in listens:
            listen.end(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped"))

    # -- Residents -------------------------------------------------------------------------

    @property
    def waiting_for_news(self) -> bool:
        """Whether any stream is open."""
        return bool(self.listens)

    def told(self, conversation: Conversation, message: Message) -> None:
        """Log lines name no request: they are delivered only when one caller alone asked for any.

        Everything else must name its subscription, so what comes here belongs to nobody.
        """
        if message["method"] != "notifications/message":
            conversation.stray("unattributable")
            return
        reader = conversation.log_reader()
        if reader is not None:
            reader.notification(message)
        else:
            conversation.stray("log")

    def asked(self, conversation: Conversation, message: Message) -> None:
        """A stateless server must not ask anything, and there is nobody to ask."""
        if self._warned is not conversation:
            # Once for each child; the counter tells how often.
            self._warned = conversation
            log.warn("{name}: a stateless server sends requests, dropped", name=self.name)
        conversation.stray("request")

    def ready(self, conversation: Conversation) -> None:
        """A new child knows of no stream yet."""
        for listen in list(self.listens):
            if listen.orphaned:
                listen.send()

    def down(self, failure: UpstreamFailure) -> None:
        """Streams outlive a crash, but not a crash loop."""
        if self.child.looping:
            for listen in list(self.listens):
                if listen.orphaned:
                    listen.end(failure)


@define(eq=False)
class Listen:
    """One subscription stream: outlives the child, is itself the sink towards it."""

    calls: StatelessCalls
    outbound: Outbound
    sink: CallSink
    orphaned: bool = field(init=False, default=False)
    """True while its child is gone and no other has been asked."""
    _acknowledged: bool = field(init=False, default=False)
    _call: Call | None = field(init=False, default=None)

    def send(self) -> None:
        """Open the stream at the child."""
        self.orphaned = False
        call = request_on(self.calls.child, self.outbound, self, None)
        self._call = None if self.orphaned else call

    def cancel(self, reason: str) -> None:
        """The caller has gone."""
        if self._leave() and self._call is not None:
            self._call.cancel(reason)

    def hold(self) -> None:
        """A stream has no time for an answer."""

    def release(self) -> None:
        """A stream has no time for an answer."""

    def end(self, failure: UpstreamFailure) -> None:
        """No more will come."""
        self._leave()
        self.sink.failed(failure)

    def notification(self, message: Message) -> None:
        """Pass it on; the acknowledgement only once in the stream's life."""
        if message["method"] == ACKNOWLEDGED:
            if self._acknowledged:
                return
            self._acknowledged = True
        self.sink.notification(message)

    def answer(self, message: Message) -> None:
        """The server has ended the stream."""
        self._leave()
        self.sink.answer(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Wait for another child, if this one is gone and had accepted the stream."""
        self._call = None
        conversation = self.calls.child.conversation
        gone = conversation is None or not conversation.alive
        if gone and self._acknowledged and self in self.calls.listens:
            self.orphaned = True
        elif self._leave():
            self.sink.failed(failure)

    def _leave(self) -> bool:
        return self.calls.listens.pop(self, self) is None


@define(eq=False)
class StatelessLink:
    """A caller's way to a stateless child; implements `Link`."""

    calls: StatelessCalls

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Send a request."""
        return self.calls.request(outbound, sink)

    def notify(self, method: str, params: Message | None) -> None:
        """Drop it: clients of this era have no notification but ``cancelled``."""

    def respond(self, message: Message) -> None:
        """Drop it: servers of this era ask nothing."""

    def close(self) -> Deferred[None]:
        """Give it back; requests sent by it run on."""
        return succeed(None)
