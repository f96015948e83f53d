"""A session with a child of its own: everything the child says belongs to that session."""

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from mcpguard.errors import Reason
from mcpguard.upstream.conversation import Conversation, Slots
from mcpguard.upstream.ended_call import refused
from mcpguard.upstream.greeting import initialize
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Inbox,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from mcpguard.upstream.supervision import Supervision


@define(eq=False)
class SessionLink:
    """Implements `Link`; is a `Seat`, and the `Listener` of its conversation."""

    principal_key: str
    inbox: Inbox
    supervision: Supervision
    slots: Slots
    _conversation: Conversation | None = field(init=False, default=None)
    _open: bool = field(init=False, default=False)

    async def open(self, params: Message) -> Opening:
        """Start the child and pass the client's ``initialize`` to it.

        Raises `UpstreamFailure` and `InitializeRejected`; the child is stopped then.
        """
        key = f"session:{self.principal_key}"
        conversation = self.supervision.spawn(key, self.principal_key, self, self)
        self._conversation = conversation
        try:
            result = await initialize(conversation, params)
        except UpstreamFailure:
            self.supervision.reject(conversation)
            raise
        except Exception:
            # Rejected by the server, or given up by the client: neither is the child's fault.
            self.supervision.dismiss(conversation)
            raise
        if not conversation.alive:
            self.supervision.reject(conversation)
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, "the child died after its greeting")
        self._open = True
        return Opening(self, result)

    # -- Link ------------------------------------------------------------------------------

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Send a request to the child."""
        if self._conversation is None or not self._open:
            return refused(sink, UpstreamFailure(Reason.SESSION_NOT_FOUND, "the link is closed"))
        return self._conversation.request(outbound, sink, self.slots)

    def notify(self, method: str, params: Message | None) -> None:
        """Send a notification to the child."""
        if self._conversation is not None and self._open:
            self._conversation.notify(method, params)

    def respond(self, message: Message) -> None:
        """Send the client's response to the child."""
        if self._conversation is not None and self._open:
            self._conversation.respond(message)

    def close(self) -> Deferred[None]:
        """Stop the child; fires when its process is gone."""
        self._open = False
        if self._conversation is None:
            return succeed(None)
        return self.supervision.dismiss(self._conversation).addCallback(lambda _: None)

    # -- Seat ------------------------------------------------------------------------------

    def idle_since(self) -> float | None:
        """When anything was said last; None while a request runs."""
        conversation = self._conversation
        if conversation is None or conversation.busy or not self._open:
            return None
        return conversation.last_used

    def evict(self) -> None:
        """Stop the child and tell the session, which ends with it."""
        if self._open:
            self.close()
            self.inbox.closed(UpstreamFailure(Reason.SESSION_NOT_FOUND, "idle too long"))

    # -- Listener --------------------------------------------------------------------------

    def told(self, message: Message) -> None:
        """Everything the child says is for this session."""
        self.inbox.notification(message)

    def asked(self, message: Message) -> None:
        """A ping is answered here; all else is the client's to answer, once it is there."""
        conversation = self._conversation
        if conversation is None or conversation.answer_ping(message):
            return
        if self._open:
            self.inbox.request(message, None)
        else:
            # Before the handshake is complete a server may only ping and log.
            conversation.refuse_request(message)

    def over(self, failure: UpstreamFailure) -> None:
        """The child is gone, and the session with it."""
        if self._open:
            self._open = False
            self.inbox.closed(failure)
