"""One request on its way through a session that may be renewed beneath it."""

from typing import Protocol

from attrs import define, field

from mcpguard.errors import Reason
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure
from mcpguard.upstream.renewal_line import Line


class Owner(Protocol):
    """The session, as its requests see it."""

    def may_renew(self, failure: UpstreamFailure) -> bool:
        """Whether it can be begun anew after a loss like this."""
        ...

    def again(self, attempt: "Attempt", failure: UpstreamFailure) -> bool:
        """Send a request once more that the server has not looked at; False if that cannot be."""
        ...

    def ended(self, attempt: "Attempt", answer: Message | None) -> None:
        """Hear that a request is over."""
        ...

    def withdraw(self, attempt: "Attempt") -> None:
        """Hear that a request is wanted no more."""
        ...


@define(eq=False)
class Attempt:
    """One request over at most two sessions of the server: `link.Call`, and the inner sink."""

    owner: Owner
    outbound: Outbound
    sink: CallSink
    line: Line | None = field(init=False, default=None)
    call: Call | None = field(init=False, default=None)
    _repeated: bool = field(init=False, default=False)
    _over: bool = field(init=False, default=False)
    _cancelled: str | None = field(init=False, default=None)

    def sent(self, line: Line, call: Call) -> None:
        """It is on its way, if it has not ended or come back while it was sent."""
        if self._cancelled is not None:
            call.cancel(self._cancelled)
        elif not self._over and self.line is line:
            self.call = call

    def fail(self, failure: UpstreamFailure) -> None:
        """End it without having sent it."""
        if not self._over:
            self._over = True
            self.sink.failed(failure)

    def cancel(self, reason: str) -> None:
        """See `link.Call`."""
        if self._over:
            return
        self._over, self._cancelled = True, reason
        self.owner.withdraw(self)
        if self.call is not None:
            self.call.cancel(reason)
            self.call = None

    def hold(self) -> None:
        """See `link.Call`; who waits for a renewal has not been asked anything."""
        if self.call is not None:
            self.call.hold()

    def release(self) -> None:
        """See `link.Call`."""
        if self.call is not None:
            self.call.release()

    def notification(self, message: Message) -> None:
        """See `link.CallSink`."""
        if not self._over:
            self.sink.notification(message)

    def answer(self, message: Message) -> None:
        """See `link.CallSink`."""
        if not self._over:
            self._over = True
            self.owner.ended(self, message)
            # It knows this object: what has ended must not wait for the garbage collector.
            self.call = None
            self.sink.answer(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """See `link.CallSink`: a request nobody has looked at gets a second chance."""
        if self._over:
            return
        if failure.reason is Reason.SESSION_NOT_FOUND:
            if not self._repeated:
                self._repeated = True
                if self.owner.again(self, failure):
                    return
            elif self.owner.may_renew(failure):
                failure = UpstreamFailure(Reason.UPSTREAM_FAILED, "forgotten a second time")
        self._over = True
        self.owner.ended(self, None)
        self.call = None
        self.sink.failed(failure)
