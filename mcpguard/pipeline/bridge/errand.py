"""What is done for one stateless request at a handshake-era server: a session found, a call run."""

from typing import Any, Protocol

from attrs import define, field
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refused
from mcpguard.pipeline.bridge.lodging import Asked, Lodger
from mcpguard.pipeline.bridge.residence import Residence, Residences
from mcpguard.pipeline.schemas import CLIENT_INFO
from mcpguard.protocol.bridge.stateless import handshake_params
from mcpguard.protocol.mcp import META_CLIENT_INFO
from mcpguard.upstream.link import Call, Message, Outbound, UpstreamFailure

log = Logger()


class Client(Lodger, Protocol):
    """The stateless request that an errand is done for."""

    def ready(self) -> None:
        """A session is there; nothing was sent yet."""
        ...

    def heard(self, message: Message) -> None:
        """A notification of the server on the request's own stream."""
        ...

    def ended(self, outcome: Message | UpstreamFailure) -> None:
        """There is no more to come from the server."""
        ...


def refusal_as_failure(failure: Failure) -> UpstreamFailure:
    """Why there is no session, in the terms of a link."""
    problem: Any = failure.value
    if isinstance(problem, Refused):
        refusal = problem.refusal
        return UpstreamFailure(refusal.reason, refusal.detail, refusal.retry_after)
    if isinstance(problem, UpstreamFailure):
        return problem
    log.failure("a session could not be borrowed", failure=failure)
    return UpstreamFailure(Reason.INTERNAL, "an error of the gateway")


@define(eq=False)
class Errand:
    """Implements `CallSink` for the server's link.

    A request that the server has not looked at, because it had forgotten the session, is sent
    once more on another one.
    """

    client: Client
    residences: Residences
    clock: IReactorTime
    path: str
    outbound: Outbound
    """As it came from the client."""
    capabilities: Message
    home: Residence | None = field(init=False, default=None)
    initialized: Message = field(init=False, factory=dict)
    """What the server said of itself in the session that was used last."""
    running: bool = field(init=False, default=False)
    """Whether the server works on it."""
    _call: Call | None = field(init=False, default=None)
    _held: bool = field(init=False, default=False)
    _repeated: bool = field(init=False, default=False)
    """Whether another session was looked for, which happens once."""
    _repeating: bool = field(init=False, default=False)
    _seeking: bool = field(init=False, default=False)
    _over: bool = field(init=False, default=False)

    # -- the way there ---------------------------------------------------------------------

    def start(self) -> None:
        """Find a session; `Client.ready` or `Client.ended` is next, possibly at once."""
        if not (self._over or self._seeking):
            self._seeking = True
            # Never cancelled: others may wait for the same handshake.
            Deferred.fromCoroutine(self._start()).addErrback(self._not_started)

    async def _start(self) -> None:
        try:
            home = await self._find_home()
        finally:
            self._seeking = False
        home.enter(self.client)
        if self._over:
            home.leave(self.client, [], answered=False)
            return
        self.home, self.initialized = home, home.initialized
        try:
            await home.hear_from(self.client.log_level)
        except UpstreamFailure:
            if self.home is home:
                raise
        if self.home is home and not self._over:
            self.client.ready()

    async def _find_home(self) -> Residence:
        if self._is_own():
            # A list of tools for the gateway itself is no reason to open another session.
            found = self.residences.find_open(self.outbound.principal_key, self.path)
            if found is not None:
                return found
        return await self.residences.find(self.outbound.principal_key, self.path, self.capabilities)

    def _is_own(self) -> bool:
        meta = (self.outbound.params or {}).get("_meta")
        return (
            self.outbound.method == "tools/list"
            and isinstance(meta, dict)
            and meta.get(META_CLIENT_INFO) == CLIENT_INFO
        )

    def _not_started(self, failure: Failure) -> None:
        problem = refusal_as_failure(failure)
        if not self._over:
            self.client.ended(problem)

    # -- there -----------------------------------------------------------------------------

    def send(self) -> None:
        """Send the request on the session that was found."""
        assert self.home is not None
        self.running = True
        outbound = replace(
            self.outbound,
            params=handshake_params(self.outbound.params),
            version=self.home.session.version,
            headers=(),
        )
        call = self.home.send(outbound, self)
        if self.running:
            self._call = call

    def is_call(self, call: Call) -> bool:
        """Whether this is the running request."""
        return self._call is call

    def wait_for_client(self) -> None:
        """Stop the time for the server's answer: the client was asked."""
        if self._call is not None and not self._held:
            self._held = True
            self._call.hold()

    def wait_for_server(self) -> None:
        """Start that time anew."""
        if self._call is not None and self._held:
            self._held = False
            self._call.release()

    def hold(self) -> None:
        """See `link.Call`."""
        if self._call is not None:
            self._call.hold()

    def release(self) -> None:
        """See `link.Call`."""
        if self._call is not None:
            self._call.release()

    def leave(self, asked: list[Asked], *, answered: bool) -> None:
        """It is over; the questions still open are given back with the session."""
        self._over = True
        self._go_home(asked, answered=answered)

    def cancel(self, reason: str) -> None:
        """Stop the request at the server."""
        call = self._call
        self._stopped()
        if call is not None:
            call.cancel(reason)

    # -- CallSink --------------------------------------------------------------------------

    def notification(self, message: Message) -> None:
        """See `link.CallSink`."""
        if not self._over:
            self.client.heard(message)

    def answer(self, message: Message) -> None:
        """See `link.CallSink`."""
        if self.running and not self._over:
            self._stopped()
            self.client.ended(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """See `link.CallSink`."""
        if self._over or not self.running:
            return
        self._stopped()
        if failure.reason is not Reason.SESSION_NOT_FOUND:
            self.client.ended(failure)
        elif self.client.parked or self._repeated:
            self.client.ended(_lost(failure))
        else:
            self._repeat()

    def lost(self, failure: UpstreamFailure) -> None:
        """The session is gone."""
        if self._over:
            return
        was_running, call = self.running, self._call
        self._stopped()
        if call is not None:
            # Over HTTP it may run on without its session, in a place of `max_concurrency`.
            call.cancel("its session was lost")
        self._go_home([], answered=False)
        if self._repeating or (self.client.parked and not was_running):
            return
        if was_running or self._repeated:
            # Its link should have failed it before; it may have been carried out.
            self.client.ended(_lost(failure))
        else:
            self._repeat()

    # -- inside ----------------------------------------------------------------------------

    def _repeat(self) -> None:
        """Look for another session, in a turn of its own: the link is still telling its calls."""
        self._repeated = self._repeating = True
        self.clock.callLater(0, self._begin_anew)

    def _begin_anew(self) -> None:
        if self.home is not None:
            # Its link has not said so itself. Everybody there hears of it now, this client too.
            self.residences.pool.discard(self.home.session)
        self._repeating = False
        self.start()

    def _stopped(self) -> None:
        self.running = self._held = False
        self._call = None

    def _go_home(self, asked: list[Asked], *, answered: bool) -> None:
        home, self.home = self.home, None
        if home is not None:
            home.leave(self.client, asked, answered=answered)


def _lost(failure: UpstreamFailure) -> UpstreamFailure:
    """A lost session as a request sees it that may have been carried out."""
    return UpstreamFailure(Reason.UPSTREAM_FAILED, f"its session was lost: {failure.detail}")
