"""A ``subscriptions/listen`` before a handshake-era server, fed from the pooled session.

The session may come and go; the listen stays, and is acknowledged once. What happens between two
sessions is not heard, as on a session's own event stream.
"""

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.errand import refusal_as_failure
from mcpguard.pipeline.bridge.residence import Residence, Residences
from mcpguard.pipeline.streams import stop_timer
from mcpguard.protocol.bridge.listening import (
    LIST_CHANGES,
    UPDATED,
    Wish,
    acknowledgement,
    covering,
    ending,
    honoured,
    under,
    wish,
)
from mcpguard.protocol.bridge.stateless import opened
from mcpguard.upstream.link import CallSink, Message, Outbound, UpstreamFailure


@frozen
class ListenPace:
    """How soon a listen looks for another session; times in seconds."""

    first_secs: float
    """After the first loss; twice as long after each that follows soon."""
    most_secs: float
    """The longest such time; a session that lived as long makes the next wait short again."""
    jitter: float
    """The part of each that is left to chance, so that not all come back at once."""


@define(eq=False)
class StatelessListen:
    """Implements `link.Call`; is a `Hearer`."""

    residences: Residences
    clock: IReactorTime
    random: Callable[[], float]
    pace: ListenPace
    path: str
    outbound: Outbound
    sink: CallSink
    on_over: Callable[["StatelessListen"], object]
    _wish: Wish = field(init=False)
    _home: Residence | None = field(init=False, default=None)
    _lists: tuple[str, ...] = field(init=False, default=())
    _uris: dict[str, None] = field(init=False, factory=dict)
    """What is subscribed to in the present session."""
    _acknowledged: bool = field(init=False, default=False)
    _fed_at: float = field(init=False, default=0.0)
    _losses: int = field(init=False, default=0)
    """In a row, of sessions that did not live long."""
    _waiting: IDelayedCall | None = field(init=False, default=None)
    _over: bool = field(init=False, default=False)

    def begin(self) -> "StatelessListen":
        """Find a session and subscribe; failures reach the sink, possibly before this returns."""
        self._wish = wish(self.outbound.params)
        self._feed()
        return self

    # -- Call ------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """See `link.Call`: subscribe to nothing any more."""
        if not self._over:
            self._finish()

    def hold(self) -> None:
        """See `link.Call`: a listen has no time for an answer."""

    def release(self) -> None:
        """See `link.Call`: a listen has no time for an answer."""

    def end(self) -> None:
        """The gateway ends it, in order."""
        if not self._over:
            self._finish()
            self.sink.answer(ending(self.outbound.id))

    # -- Hearer ----------------------------------------------------------------------------

    def hear(self, message: Message) -> None:
        """See `lodging.Hearer`."""
        if self._acknowledged and self._is_heard(message):
            self.sink.notification(under(message, self.outbound.id))

    def lost(self) -> None:
        """See `lodging.Hearer`: look for another session."""
        self._leave()
        if self.clock.seconds() - self._fed_at >= self.pace.most_secs:
            self._losses = 0
        self._again()

    # -- inside ----------------------------------------------------------------------------

    def _is_heard(self, message: Message) -> bool:
        method = message.get("method")
        if method == UPDATED:
            uri = message.get("params", {}).get("uri")
            return isinstance(uri, str) and any(one in self._uris for one in covering(uri))
        change = LIST_CHANGES.get(str(method))
        return change is not None and change[1] in self._lists

    def _feed(self) -> None:
        self._waiting = None
        Deferred.fromCoroutine(self._settle_in()).addErrback(self._no_session)

    async def _settle_in(self) -> None:
        capabilities = opened(self.outbound.params).capabilities
        home = await self.residences.find(self.outbound.principal_key, self.path, capabilities)
        home.listen(self)
        if self._over:
            home.unlisten(self)
            return
        self._home, self._fed_at = home, self.clock.seconds()
        granted = honoured(self._wish, home.server_capabilities)
        self._lists = granted.lists
        for uri in granted.uris or ():
            accepted = await self._subscribed(home, uri)
            if self._home is not home:
                # Given up, or the session is lost.
                if accepted:
                    home.subscriptions.remove(uri)
                return
            if accepted:
                self._uris[uri] = None
        if not self._acknowledged:
            self._acknowledged = True
            told = None if granted.uris is None else tuple(self._uris)
            # Another session gives no more than this one did.
            self._wish = Wish(self._lists, told)
            self.sink.notification(under(acknowledgement(self._lists, told), self.outbound.id))

    async def _subscribed(self, home: Residence, uri: str) -> bool:
        """Whether the session is subscribed now; raises `UpstreamFailure` if nobody can tell."""
        try:
            return await home.subscriptions.add(uri)
        except UpstreamFailure as failure:
            # If it was for the session being lost, that is told in this very turn.
            await deferLater(self.clock, 0)
            if self._home is home and failure.reason is Reason.SESSION_NOT_FOUND:
                self.residences.pool.discard(home.session)
            if self._home is home:
                raise
            return False

    def _no_session(self, failure: Failure) -> None:
        problem = refusal_as_failure(failure)
        if self._over:
            return
        self._leave()
        if self._acknowledged:
            self._again()
        else:
            self._finish()
            self.sink.failed(problem)

    def _again(self) -> None:
        if self._over or self._waiting is not None:
            return
        delay = min(self.pace.most_secs, self.pace.first_secs * 2.0**self._losses)
        self._losses = min(self._losses + 1, 32)
        delay *= 1.0 + self.pace.jitter * self.random()
        self._waiting = self.clock.callLater(delay, self._feed)

    def _leave(self) -> None:
        home, self._home = self._home, None
        uris, self._uris = self._uris, {}
        if home is not None:
            home.unlisten(self)
            if not home.over:
                for uri in uris:
                    home.subscriptions.remove(uri)

    def _finish(self) -> None:
        self._over = True
        stop_timer(self._waiting)
        self._waiting = None
        self._leave()
        self.on_over(self)
