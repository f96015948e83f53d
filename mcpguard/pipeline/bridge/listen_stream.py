"""One ``subscriptions/listen`` of a session, and a subscription that waits for one."""

from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

from mcpguard.pipeline.bridge.borrowed_call import BorrowedCall
from mcpguard.pipeline.streams import stop_timer
from mcpguard.upstream.link import CallSink, Message, Outbound, UpstreamFailure

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class StreamOwner(Protocol):
    """The session's listen, as its streams and its waiting subscriptions see it."""

    def acknowledged(self, stream: "Stream", notifications: object) -> None:
        """A stream is open; ``notifications`` is what the server said that it reports."""
        ...

    def told(self, stream: "Stream", message: Message, params: Message) -> None:
        """A notification on a stream."""
        ...

    def lost(self, stream: "Stream", problem: Message | UpstreamFailure | None) -> None:
        """A stream has ended, or was never opened: by an error, a failure, or in order (None)."""
        ...

    def gave_up(self, call: "Subscribing") -> None:
        """The client takes a subscription back before it was answered."""
        ...


@define(eq=False)
class Stream:
    """One ``subscriptions/listen``. Is the sink of its request."""

    owner: StreamOwner
    uris: set[str]
    """What it was asked to report, without what the server declined."""
    call: BorrowedCall = field(init=False)
    timer: IDelayedCall | None = field(init=False, default=None)
    honoured: frozenset[str] | None = field(init=False, default=None)
    """None until it is acknowledged."""
    since: float = field(init=False, default=0.0)

    def notification(self, message: Message) -> None:
        """Tell the owner."""
        params = message.get("params")
        known = params if isinstance(params, dict) else {}
        if message.get("method") == ACKNOWLEDGED:
            self.owner.acknowledged(self, known.get("notifications"))
        else:
            self.owner.told(self, message, known)

    def answer(self, message: Message) -> None:
        """The server has ended or refused it."""
        error = message.get("error")
        self.owner.lost(self, error if isinstance(error, dict) else None)

    def failed(self, failure: UpstreamFailure) -> None:
        """It broke off, or could not be opened."""
        self.owner.lost(self, failure)

    def drop(self) -> None:
        """Give it up."""
        stop_timer(self.timer)
        self.call.cancel("not needed any more")


@define(eq=False)
class Subscribing:
    """A ``resources/subscribe`` that waits for a stream; implements `Call`."""

    owner: StreamOwner
    outbound: Outbound
    sink: CallSink
    uri: str

    def cancel(self, reason: str) -> None:
        """See `link.Call`."""
        self.owner.gave_up(self)

    def hold(self) -> None:
        """See `link.Call`; ``ack_secs`` bounds it anyway."""

    def release(self) -> None:
        """See `link.Call`."""

    def reply(self, **body: Message) -> None:
        """Answer the client."""
        self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, **body})
