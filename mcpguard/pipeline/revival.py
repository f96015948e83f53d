"""Sessions that this process does not know, taken up again from what their ids say."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.pipeline.dispatch import authorize, refusal_of
from mcpguard.pipeline.session_ids import Remembered, SessionIds
from mcpguard.pipeline.session_table import SessionTable, close_quietly
from mcpguard.pipeline.sessions import Session, SessionBounds
from mcpguard.pipeline.trip import Trip
from mcpguard.policy.principal import Principal
from mcpguard.protocol.jsonrpc import Request
from mcpguard.upstream.link import Route, UpstreamFailure

_HANDSHAKE = Request(0, "initialize", None, {})


@define(eq=False)
class Revival:
    """Revives sessions; every id that cannot be is refused as one that never was."""

    ids: SessionIds
    table: SessionTable
    bounds: SessionBounds
    on_dead: Callable[[Session], None]
    _under_way: dict[str, list[Deferred[None]]] = field(init=False, factory=dict)
    """Those who wait, by session id: many requests of one session come at once."""

    def recall(self, session_id: str, principal: Principal, route: Route) -> Remembered:
        """What the id says; raises Refused (404) unless this session may be revived."""
        if not self.table.has_ended(session_id):
            remembered = self.ids.read(session_id, principal.key, route)
            if remembered is not None:
                return remembered
        raise Refused(Refusal(Reason.SESSION_NOT_FOUND))

    def may_return(self, session: Session) -> bool:
        """Whether a session can be revived in another life."""
        return self.ids.read(session.id, session.principal.key, session.route) is not None

    async def session(self, trip: Trip, session_id: str) -> Session:
        """The caller's session, revived if it is not here: once, however many ask at one time.

        Raises Refused: 404, 503 at a cap, or the server's failure. The rules are asked as for a
        handshake, because one may follow: nothing reaches a server before it was allowed.
        """
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        while True:
            session = self.table.find(session_id, principal, route)
            if session is not None:
                return session
            remembered = self.recall(session_id, principal, route)
            if session_id not in self._under_way:
                break
            waiting: Deferred[None] = Deferred()
            self._under_way[session_id].append(waiting)
            await waiting
        refusal = authorize(principal, route.upstream.name, _HANDSHAKE)
        if refusal is not None:
            raise Refused(refusal)
        self._under_way[session_id] = []
        try:
            session = await self._revive(trip, session_id, remembered, principal, route)
        except Exception as problem:
            # It is everybody's who waited: one try each would take as many timeouts.
            for one in self._under_way.pop(session_id):
                one.errback(problem)
            raise
        for one in self._under_way.pop(session_id):
            one.callback(None)
        return session

    async def _revive(
        self,
        trip: Trip,
        session_id: str,
        remembered: Remembered,
        principal: Principal,
        route: Route,
    ) -> Session:
        self.table.reserve(principal)
        clocks = trip.books.clocks
        session = Session(
            id=session_id,
            principal=principal,
            route=route,
            version=remembered.version,
            client_capabilities=remembered.capabilities,
            bounds=self.bounds,
            meter=trip.books.meter,
            monotonic=clocks.monotonic,
            on_dead=self.on_dead,
            # Milliseconds: more than any session has events, in this life or the next.
            first_event=max(1, int(clocks.wall() * 1000)),
            lasting=True,
            last_used=clocks.monotonic(),
        )
        try:
            link = await route.upstream.resume_session(
                principal.key,
                remembered.params,
                remembered.version,
                remembered.session_id,
                session,
                route.path,
            )
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        session.link = link
        if session.ended:
            close_quietly(link)
            raise Refused(Refusal(Reason.SESSION_NOT_FOUND, detail="it ended at once"))
        try:
            # Others may have come while the server was starting.
            self.table.reserve(principal)
        except Refused:
            close_quietly(link)
            raise
        self.table.add(session)
        return session
