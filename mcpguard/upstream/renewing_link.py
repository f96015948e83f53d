"""One session over the server's sessions that come and go beneath it."""

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason
from mcpguard.observe.events import Meter
from mcpguard.upstream.crashes import CrashBounds, Crashes
from mcpguard.upstream.link import (
    Attended,
    Call,
    CallSink,
    Inbox,
    InitializeRejected,
    Leavable,
    Link,
    Message,
    Opening,
    Outbound,
    Upstream,
    UpstreamFailure,
)
from mcpguard.upstream.renewal_attempt import Attempt
from mcpguard.upstream.renewal_line import Line
from mcpguard.upstream.renewal_posture import TELLING, Posture, PostureBounds

log = Logger()

RENEWALS = "mcp_guard_upstream_renewals_total"


@frozen
class RenewalBounds:
    """How often a session is renewed, and what is kept for it; times in seconds."""

    pace: CrashBounds
    """Of losses and failed renewals of one session; the first renewal is at once."""
    max_waiting: int
    """Requests of one session that may wait for its renewal."""
    max_params: int
    """Bytes of ``initialize`` params that are kept; with more a session is not renewed."""
    spread_secs: float
    """Sessions whose clients only listen are renewed within this, not all at once."""
    posture: PostureBounds


@define(eq=False)
class Renewals:
    """What the sessions of one upstream have in common."""

    inner: Upstream
    forgetful: bool
    """A session that the server says to have forgotten is begun anew (HTTP)."""
    replays: bool
    """Any lost session is begun anew (``restart = "replay"``)."""
    clock: IReactorTime
    random: Callable[[], float]
    meter: Meter
    bounds: RenewalBounds
    links: "dict[RenewingLink, None]" = field(init=False, factory=dict)

    def may_renew(self, failure: UpstreamFailure) -> bool:
        """Whether a session that was lost this way can be begun anew."""
        forgotten = failure.reason is Reason.SESSION_NOT_FOUND
        return self.replays or (self.forgetful and forgotten)

    def count(self, result: str) -> None:
        """Count one renewal: ``renewed``, ``failed``, or ``changed`` (another version)."""
        self.meter.count(RENEWALS, server=self.inner.name, result=result)


@define(eq=False)
class RenewingLink:
    """Implements `link.Link`; begins the server's session anew when it is lost.

    It does so at the next request, which waits for it, and not before: a restarted server is not
    met by the handshakes of every session that nobody uses. The exception is a session whose
    client listens at that moment, which would otherwise wait for news that never come.
    """

    all: Renewals
    principal_key: str
    params: Message
    inbox: Inbox
    path: str
    posture: Posture = field(init=False)
    _version: str | None = field(init=False, default=None)
    """As negotiated; None until the session is open."""
    _line: Line | None = field(init=False, default=None)
    """The server's present session; its ``link`` is None while hands are shaken."""
    _number: int = field(init=False, default=0)
    _begun_at: float = field(init=False, default=0.0)
    _crashes: Crashes | None = field(init=False, default=None)
    _over: UpstreamFailure | None = field(init=False, default=None)
    _waiting: list[Attempt] = field(init=False, factory=list)
    _running: dict[Attempt, None] = field(init=False, factory=dict)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _renewing: Deferred[None] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.posture = Posture(self.all.bounds.posture)
        self.all.links[self] = None

    # -- begin -----------------------------------------------------------------------------

    async def open(self) -> Opening:
        """Shake hands for the first time; raises as `link.Upstream.open_session` errbacks."""
        try:
            opening = await self._connect()
        except BaseException:
            self.drop(UpstreamFailure(Reason.SESSION_NOT_FOUND, "it was never opened"))
            raise
        version = opening.result.get("protocolVersion")
        self._version = version if isinstance(version, str) else ""
        return opening

    async def resume(self, version: str, session_id: str | None) -> None:
        """Attach to a session of an earlier life, or replay its handshake where that is the way.

        Raises `UpstreamFailure`.
        """
        self._version, self.posture.initialized = version, True
        line = self._new_line()
        try:
            try:
                line.link = await self.all.inner.resume_session(
                    self.principal_key, self.params, version, session_id, line, self.path
                )
            except UpstreamFailure as failure:
                if failure.reason is not Reason.SESSION_NOT_FOUND or not self.all.replays:
                    raise
                await self._reconnect()
        except BaseException:
            self.drop(UpstreamFailure(Reason.SESSION_NOT_FOUND, "it could not be resumed"))
            raise

    def _new_line(self) -> Line:
        self._number += 1
        self._begun_at = self.all.clock.seconds()
        self._line = Line(self._number, self.inbox, self)
        return self._line

    async def _connect(self) -> Opening:
        line = self._new_line()
        opening = await self.all.inner.open_session(
            self.principal_key, self.params, line, self.path
        )
        if line.dead or self._over is not None:
            _close(opening.link)
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, "the new session ended at once")
        line.link = opening.link
        return opening

    async def _reconnect(self) -> None:
        """Shake hands again and put the server where the last one was.

        Raises `UpstreamFailure`; SESSION_NOT_FOUND when it speaks another version now, which the
        client cannot be told in a session that goes on.
        """
        try:
            opening = await self._connect()
        except InitializeRejected as rejected:
            code = rejected.error.get("code")
            detail = f"initialize was rejected: {code}"
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, detail) from rejected
        except UpstreamFailure as failure:
            if failure.reason is Reason.SESSION_NOT_FOUND:
                raise UpstreamFailure(Reason.UPSTREAM_FAILED, failure.detail) from failure
            if failure.reason is Reason.UPSTREAM_CHANGED:
                # It knows no sessions any more; a new one of the client's finds out what it does.
                raise UpstreamFailure(Reason.SESSION_NOT_FOUND, failure.detail) from failure
            raise
        version = opening.result.get("protocolVersion")
        if version != self._version:
            self._line = None
            _close(opening.link)
            detail = f"protocolVersion {version!r} after {self._version!r}"
            raise UpstreamFailure(Reason.SESSION_NOT_FOUND, detail)
        if self.posture.initialized:
            opening.link.notify("notifications/initialized", None)
        self.posture.restore(opening.link, self.all.clock, self._version or "", self.principal_key)

    # -- Link ------------------------------------------------------------------------------

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """See `link.Link`: a request to a lost session waits until there is a new one."""
        attempt = Attempt(self, outbound, sink)
        self.send(attempt)
        return attempt

    def notify(self, method: str, params: Message | None) -> None:
        """See `link.Link`; to a lost session it is dropped: a new one is told the state itself."""
        if method == "notifications/initialized":
            self.posture.initialized = True
        line = self._line
        if line is not None and line.link is not None:
            line.link.notify(method, params)

    def respond(self, message: Message) -> None:
        """See `link.Link`: what a lost session has asked nobody waits for any more."""
        line = self._line
        if line is not None:
            line.respond(message)

    def close(self) -> Deferred[None]:
        """See `link.Link`."""
        line = self._line
        self.drop(UpstreamFailure(Reason.SESSION_NOT_FOUND, "the session was closed"))
        return succeed(None) if line is None or line.link is None else line.link.close()

    def leave(self) -> Deferred[None]:
        """See `link.Leavable`; to a later session than the first nobody could come back."""
        link = None if self._line is None else self._line.link
        if self._number > 1 or not isinstance(link, Leavable):
            return self.close()
        self.drop(UpstreamFailure(Reason.SESSION_NOT_FOUND, "the session was left"))
        return link.leave()

    def stop(self, failure: UpstreamFailure) -> Deferred[None]:
        """End it with the gateway; fires when that is done.

        The server's first session is the upstream's to end, or to leave for the gateway's next
        life. To a later one nobody could come back: the client's id names the first.
        """
        link = None if self._line is None else self._line.link
        self.drop(failure)
        return succeed(None) if self._number == 1 or link is None else link.close()

    def drop(self, failure: UpstreamFailure) -> None:
        """End it here; the server's session is left as it is."""
        if self._over is not None:
            return
        self._over = failure
        self.all.links.pop(self, None)
        self._line = None
        self.posture.rest()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        self._fail_waiting(failure)

    # -- requests --------------------------------------------------------------------------

    def send(self, attempt: Attempt) -> None:
        """Send it now, or when the session is renewed; its sink hears if it cannot be."""
        line = self._line
        if self._over is not None:
            attempt.fail(self._over)
        elif line is not None and line.link is not None:
            self._running[attempt] = None
            attempt.line = line
            attempt.sent(line, line.link.request(attempt.outbound, attempt))
        elif len(self._waiting) >= self.all.bounds.max_waiting:
            attempt.fail(UpstreamFailure(Reason.UPSTREAM_BUSY, "too many wait for a renewal", 1.0))
        else:
            self._waiting.append(attempt)
            self._renew_soon(0.0)

    def may_renew(self, failure: UpstreamFailure) -> bool:
        """See `renewal_attempt.Owner`."""
        return self.all.may_renew(failure)

    def again(self, attempt: Attempt, failure: UpstreamFailure) -> bool:
        """See `renewal_attempt.Owner`."""
        self._running.pop(attempt, None)
        if self._over is not None or not self.all.may_renew(failure):
            return False
        if attempt.line is self._line and attempt.line is not None:
            # The link tells its requests first and its inbox after them.
            attempt.line.dead = True
            self._detach(failure)
        attempt.line = attempt.call = None
        self.send(attempt)
        return True

    def ended(self, attempt: Attempt, answer: Message | None) -> None:
        """A request is over; an answer may have changed what the server knows of the session."""
        self._running.pop(attempt, None)
        if attempt.outbound.method in TELLING and answer is not None and "result" in answer:
            self.posture.heard(attempt.outbound)

    def withdraw(self, attempt: Attempt) -> None:
        """Forget a request that waits."""
        self._running.pop(attempt, None)
        if attempt in self._waiting:
            self._waiting.remove(attempt)

    def related(self, call: Call) -> Call | None:
        """See `renewal_line.LineOwner`."""
        return next((one for one in self._running if one.call is call), None)

    def _fail_waiting(self, failure: UpstreamFailure) -> None:
        waiting, self._waiting = self._waiting, []
        for attempt in waiting:
            attempt.fail(failure)

    # -- loss and renewal ------------------------------------------------------------------

    def line_lost(self, line: Line, failure: UpstreamFailure) -> None:
        """See `renewal_line.LineOwner`."""
        if line is not self._line or self._over is not None:
            return
        if self._version is None:
            # The first handshake is still under way; whoever asked for it is told.
            self.inbox.closed(failure)
        elif line.link is None:
            self._line = None  # in the middle of a renewal, which finds it dead
        elif self.all.may_renew(failure):
            self._detach(failure)
        else:
            self.drop(failure)
            self.inbox.closed(failure)

    def _detach(self, failure: UpstreamFailure) -> None:
        """The server's session is lost: note it, and renew it at once if somebody listens."""
        self._line = None
        self.posture.rest()
        log.info("{name}: a session was lost: {why}", name=self.all.inner.name, why=failure.detail)
        self._book(self.all.clock.seconds() - self._begun_at)
        if self._listening():
            self._renew_soon(self.all.random() * self.all.bounds.spread_secs)

    def _book(self, lived: float) -> None:
        if self._crashes is None:
            self._crashes = Crashes(self.all.bounds.pace, self.all.random)
        self._crashes.crashed(self.all.clock.seconds(), lived)

    def _listening(self) -> bool:
        return isinstance(self.inbox, Attended) and self.inbox.attended

    def _renew_soon(self, delay: float) -> None:
        if self._renewing is not None:
            return
        pause = 0.0 if self._crashes is None else self._crashes.wait(self.all.clock.seconds())
        if pause > 0.0 and self._waiting:
            detail = "the session was just lost again"
            self._fail_waiting(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, detail, pause))
            return
        # In a turn of its own: the lost link is still telling its other requests.
        when = max(delay, pause)
        if self._timer is None:
            self._timer = self.all.clock.callLater(when, self._renew)
        elif self._timer.getTime() > self.all.clock.seconds() + when:
            self._timer.reset(when)

    def _renew(self) -> None:
        self._timer = None
        if not self._waiting and not self._listening():
            return
        renewing = Deferred.fromCoroutine(self._reconnect())
        done = renewing.addCallbacks(self._renewed, self._not_renewed)
        if not done.called:
            self._renewing = done

    def _renewed(self, _: None) -> None:
        self._renewing = None
        self.all.count("renewed")
        log.info("{name}: a lost session was begun anew", name=self.all.inner.name)
        waiting, self._waiting = self._waiting, []
        for attempt in waiting:
            self.send(attempt)
        if self._line is None and self._over is None and self._listening():
            # Lost again before this was called, when there was a renewal under way already.
            self._renew_soon(0.0)

    def _not_renewed(self, problem: Failure) -> None:
        self._renewing = None
        failure = problem.value
        if self._over is not None:
            if not isinstance(failure, CancelledError | UpstreamFailure):
                log.failure("a renewal that nobody waits for", failure=problem)
            return
        if not isinstance(failure, UpstreamFailure):
            log.failure("a session could not be renewed", failure=problem)
            failure = UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway")
        log.warn("{name}: not renewed: {why}", name=self.all.inner.name, why=failure.detail)
        self._line = None
        if failure.reason is Reason.SESSION_NOT_FOUND:
            self.all.count("changed")
            self.drop(failure)
            self.inbox.closed(failure)
            return
        self.all.count("failed")
        self._book(0.0)
        self._fail_waiting(failure)
        if self._over is None and self._listening():
            # Who only listens does not ask again; a server takes a while to start.
            self._renew_soon(failure.retry_after or 0.0)


def _close(link: Link) -> None:
    link.close().addErrback(lambda failure: log.failure("closing a link failed", failure=failure))
