"""A request to a shared child, which may have to be started first."""

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from mcpguard.upstream.conversation import Conversation, Slots
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure
from mcpguard.upstream.shared_child import SharedChild


def request_on(child: SharedChild, outbound: Outbound, sink: CallSink, slots: Slots | None) -> Call:
    """Send a request to a shared child as soon as it is there. Never raises."""
    conversation = child.conversation
    if conversation is not None and conversation.alive:
        return conversation.request(outbound, sink, slots)
    return WaitingCall(outbound, sink, slots).begin(child)


@define(eq=False)
class WaitingCall:
    """A request whose child is being started."""

    outbound: Outbound
    sink: CallSink
    slots: Slots | None
    _child: Deferred[Conversation] | None = field(init=False, default=None)
    _call: Call | None = field(init=False, default=None)
    _holds: int = field(init=False, default=0)
    """Taken before there was a call."""

    def begin(self, child: SharedChild) -> "WaitingCall":
        """Wait for the child."""
        self._child = child.acquire()
        self._child.addCallbacks(self._there, self._none)
        return self

    def cancel(self, reason: str) -> None:
        """Stop waiting, or stop the request."""
        if self._call is not None:
            self._call.cancel(reason)
        elif self._child is not None:
            self._child.cancel()

    def hold(self) -> None:
        """See `link.Call`: it counts from the start, once it is sent."""
        if self._call is not None:
            self._call.hold()
        else:
            self._holds += 1

    def release(self) -> None:
        """See `link.Call`."""
        if self._call is not None:
            self._call.release()
        else:
            self._holds = max(0, self._holds - 1)

    def _there(self, conversation: Conversation) -> None:
        self._call = conversation.request(self.outbound, self.sink, self.slots)
        for _ in range(self._holds):
            self._call.hold()

    def _none(self, failure: Failure) -> None:
        if failure.check(CancelledError) is not None:
            return
        failure.trap(UpstreamFailure)
        assert isinstance(failure.value, UpstreamFailure)
        self.sink.failed(failure.value)


@define(eq=False)
class Watched:
    """A sink that tells its owner of the end; stays in ``among`` as long as it runs."""

    sink: CallSink
    among: "dict[Watched, Call | None]"

    def notification(self, message: Message) -> None:
        """Pass it on."""
        self.sink.notification(message)

    def answer(self, message: Message) -> None:
        """Pass it on; this is an end."""
        self.among.pop(self, None)
        self.sink.answer(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Pass it on; this is an end."""
        self.among.pop(self, None)
        self.sink.failed(failure)
