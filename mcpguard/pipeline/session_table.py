"""Every session by id: ownership, caps, idle expiry."""

from collections.abc import Callable

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.pipeline.ended_ids import EndedIds
from mcpguard.pipeline.sessions import Session, SessionBounds
from mcpguard.policy.principal import Principal
from mcpguard.upstream.link import Leavable, Link, Route, UpstreamFailure

log = Logger()


def close_failed(failure: Failure) -> None:
    """Log that a link could not be closed in order."""
    log.failure("closing a link failed", failure=failure)


def close_quietly(link: Link) -> None:
    """Close a link that nobody waits for; a failure is logged."""
    link.close().addErrback(close_failed)


@define(eq=False)
class SessionTable:
    """Every session by id; unknown and foreign ids look the same."""

    bounds: SessionBounds
    monotonic: Callable[[], float]
    on_started: Callable[[Session], None]
    on_ended: Callable[[Session], None]
    _sessions: dict[str, Session] = field(init=False, factory=dict)
    _per_principal: dict[str, int] = field(init=False, factory=dict)
    _ended: EndedIds = field(
        init=False,
        default=Factory(
            lambda self: EndedIds(self.bounds.remembered, self.bounds.remembered_per_principal),
            takes_self=True,
        ),
    )
    """Those that must not be revived."""
    _leaving: set[str] = field(init=False, factory=set)
    """Those to leave to another process as soon as nothing runs in them."""

    def __len__(self) -> int:
        return len(self._sessions)

    def reserve(self, principal: Principal) -> None:
        """Make room for one more; raises Refused (503) at a cap."""
        if self._per_principal.get(principal.key, 0) >= self.bounds.per_principal:
            self._evict(principal.key)
        if len(self._sessions) >= self.bounds.total:
            self._evict(None)
        if (
            len(self._sessions) >= self.bounds.total
            or self._per_principal.get(principal.key, 0) >= self.bounds.per_principal
        ):
            raise Refused(
                Refusal(Reason.OVERLOADED, "Too many open sessions, try again shortly", 30.0)
            )

    def _evict(self, principal_key: str | None) -> None:
        """End the session that was idle longest (SDK clients often never DELETE theirs)."""
        oldest: Session | None = None
        for session in self._sessions.values():
            idle = session.idle_since()
            if idle is None or (principal_key and session.principal.key != principal_key):
                continue
            # A minute's grace: a session between two calls is not an abandoned one.
            if self.monotonic() - idle < 60.0:
                continue
            if oldest is None or idle < oldest.last_used:
                oldest = session
        if oldest is not None:
            self.end(oldest)

    def add(self, session: Session) -> None:
        """Take a session whose handshake is done."""
        self._sessions[session.id] = session
        key = session.principal.key
        self._per_principal[key] = self._per_principal.get(key, 0) + 1
        self.on_started(session)

    def find(self, session_id: str, principal: Principal, route: Route) -> Session | None:
        """The principal's own session on this route; raises Refused (404) if it is another's.

        None when there is none of this id here and now.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return None
        if (
            session.principal.key != principal.key
            or session.route.public_path != route.public_path
            or session.route.path != route.path
        ):
            raise Refused(Refusal(Reason.SESSION_NOT_FOUND))
        session.principal = principal
        session.last_used = self.monotonic()
        return session

    def has_ended(self, session_id: str) -> bool:
        """Whether a session of this id could be revived, but has ended here.

        As far back as is remembered: the latest of its principal, and of all.
        """
        return session_id in self._ended

    def end(
        self, session: Session, failure: UpstreamFailure | None = None, *, leave: bool = False
    ) -> Deferred[None]:
        """End one session; with ``leave`` only here, and not at its server."""
        self._leaving.discard(session.id)
        if self._sessions.pop(session.id, None) is not None:
            key = session.principal.key
            left = self._per_principal.get(key, 1) - 1
            if left > 0:
                self._per_principal[key] = left
            else:
                self._per_principal.pop(key, None)
            if session.lasting and not leave:
                self._ended.add(session.id, key)
            self.on_ended(session)
        why = failure or UpstreamFailure(Reason.SESSION_NOT_FOUND, "session ended")
        closing = session.end(why, leave=leave)
        closing.addErrback(close_failed)
        return closing

    def leave_to(self, belongs: Callable[[str], bool]) -> None:
        """Leave what was taken up here in the place of others, by id, to those: they are back.

        Where calls are running, once they are over: in an answer that the session has ended their
        client would lose it altogether.
        """
        for session in list(self._sessions.values()):
            if session.resumed and belongs(session.id):
                if session.running:
                    self._leaving.add(session.id)
                else:
                    self._leave(session)

    def _leave(self, session: Session) -> None:
        self.end(session, leave=True)
        link = session.link
        if isinstance(link, Leavable):
            link.leave().addErrback(close_failed)
        elif link is not None:
            close_quietly(link)

    def sweep(self) -> None:
        """End sessions idle too long, leave those that are to be left, and drop what waited too
        long in the others.
        """
        now = self.monotonic()
        for session in list(self._sessions.values()):
            idle = session.idle_since()
            if session.id in self._leaving and not session.running:
                self._leave(session)
            elif idle is not None and now - idle > self.bounds.idle_secs:
                self.end(session)
            else:
                session.sweep()

    def end_all(self, leave: Callable[[Session], bool] = lambda session: False) -> Deferred[None]:
        """End every session, some of them only here; fires when all links are closed."""
        # Not the words of a lost session: what runs is told that the gateway goes, no more.
        failure = UpstreamFailure(Reason.DRAINING, "the gateway stops")
        closing = [
            self.end(session, failure, leave=leave(session))
            for session in list(self._sessions.values())
        ]
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)
