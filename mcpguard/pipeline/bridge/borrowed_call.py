"""One request on a stateless link that is taken for it and given back at its end."""

from typing import Any

from attrs import define, field, frozen
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refused
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.pipeline.session_table import close_quietly
from mcpguard.protocol.param_headers import built_param_headers
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Link,
    Message,
    Outbound,
    Upstream,
    UpstreamFailure,
)

log = Logger()

Headers = tuple[tuple[str, str], ...]


@frozen
class StatelessWay:
    """One principal's way to a stateless server."""

    inner: Upstream
    schemas: ToolSchemas
    principal_key: str
    path: str

    def call(self, outbound: Outbound, sink: CallSink) -> "BorrowedCall":
        """A request that has not been sent yet: `BorrowedCall.send` does that."""
        return BorrowedCall(self, outbound, sink)

    async def headers(self, outbound: Outbound, link: Link) -> Headers:
        """The ``Mcp-Param-*`` of a request, which nobody but the gateway can write here.

        Raises `Refused` when the server cannot be asked for its tools.
        """
        params = outbound.params or {}
        name = params.get("name")
        if outbound.method != "tools/call" or not isinstance(name, str):
            return ()
        schema = await self.schemas.find(self.inner.name, self.path, self.principal_key, link, name)
        if schema is None:
            return ()
        arguments = params.get("arguments")
        return built_param_headers(schema, arguments if isinstance(arguments, dict) else {})

    def learn(self, result: Message) -> None:
        """Take note of a list of tools that passes by."""
        self.schemas.learn(self.inner.name, self.path, self.principal_key, result)

    def forget(self) -> None:
        """Take note that the tools have changed."""
        self.schemas.forget(self.inner.name, self.path, self.principal_key)


@define(eq=False)
class BorrowedCall:
    """Implements `Call` towards whoever sent it and `CallSink` towards the link.

    Its sink hears exactly one end, unless it is cancelled.
    """

    way: StatelessWay
    outbound: Outbound
    sink: CallSink
    _link: Link | None = field(init=False, default=None)
    _call: Call | None = field(init=False, default=None)
    _done: bool = field(init=False, default=False)
    _holds: int = field(init=False, default=0)

    def send(self) -> None:
        """Take a link and send the request on it. Never raises."""
        # Never cancelled, even if the request is: others may wait for the same answer.
        Deferred.fromCoroutine(self._send()).addErrback(self._not_sent)

    async def _send(self) -> None:
        way = self.way
        link = await way.inner.stateless(way.principal_key, way.path)
        headers: Headers = ()
        try:
            if not self._done:
                headers = await way.headers(self.outbound, link)
        except Exception:
            close_quietly(link)
            raise
        if self._done:
            # Not before: others may have been waiting for the answer that came on this link.
            close_quietly(link)
            return
        self._link = link
        outbound = replace(self.outbound, headers=headers)
        call = link.request(outbound, self)
        if self._done:
            # Answered already, or given up by what it has said before this returned.
            call.cancel("not needed any more")
            return
        self._call = call
        for _ in range(self._holds):
            call.hold()

    def _not_sent(self, failure: Failure) -> None:
        problem: Any = failure.value
        if isinstance(problem, Refused):
            refusal = problem.refusal
            problem = UpstreamFailure(refusal.reason, refusal.detail, refusal.retry_after)
        elif not isinstance(problem, UpstreamFailure):
            log.failure("a request could not be sent to a stateless server", failure=failure)
            problem = UpstreamFailure(Reason.INTERNAL, "an error of the gateway")
        self.failed(problem)

    # -- Call ------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """See `link.Call`."""
        if self._done:
            return
        self._done = True
        if self._call is not None:
            self._call.cancel(reason)
        self._give_back()

    def hold(self) -> None:
        """See `link.Call`."""
        self._holds += 1
        if self._call is not None:
            self._call.hold()

    def release(self) -> None:
        """See `link.Call`."""
        self._holds -= 1
        if self._call is not None:
            self._call.release()

    # -- CallSink --------------------------------------------------------------------------

    def notification(self, message: Message) -> None:
        """Pass it on."""
        if not self._done:
            self.sink.notification(message)

    def answer(self, message: Message) -> None:
        """Pass it on; this is an end."""
        if not self._done:
            self._done = True
            self._give_back()
            self.sink.answer(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Pass it on; this is an end."""
        if not self._done:
            self._done = True
            self._give_back()
            self.sink.failed(failure)

    def _give_back(self) -> None:
        link, self._link, self._call = self._link, None, None
        if link is not None:
            close_quietly(link)


@define(eq=False)
class OverCall:
    """A request that has been answered already; implements `Call`."""

    def cancel(self, reason: str) -> None:
        """It is over."""

    def hold(self) -> None:
        """It is over."""

    def release(self) -> None:
        """It is over."""
