"""Bare requests: one JSON-RPC POST with a key and nothing else (product reference 3.5).

They are served over a session that the gateway itself opened for that principal, with empty
client capabilities, or over a stateless link where the server has one.
"""

from collections import OrderedDict
from collections.abc import Callable

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import METHOD_NOT_FOUND, Reason, Refusal, Refused
from mcpguard.pipeline.admission import Admission
from mcpguard.pipeline.dispatch import RunningCall, refusal_of
from mcpguard.pipeline.schemas import CLIENT_INFO, ToolSchemas, gateway_meta
from mcpguard.pipeline.session_table import close_failed, close_quietly
from mcpguard.pipeline.streams import PostAnswer
from mcpguard.pipeline.trip import Trip
from mcpguard.protocol.headers import forwarded_param_headers
from mcpguard.protocol.jsonrpc import Request
from mcpguard.protocol.mcp import LATEST_LEGACY, LEGACY_VERSIONS, METHODS, MODERN_VERSIONS
from mcpguard.upstream.link import (
    Call,
    Eras,
    InitializeRejected,
    Link,
    Message,
    Outbound,
    Route,
    UpstreamFailure,
)

log = Logger()

_MODERN_ONLY_MEMBERS = frozenset({"resultType", "ttlMs", "cacheScope"})


def without_modern_members(result: Message) -> Message:
    """A stateless server's result as a client of the handshake eras knows it."""
    return {key: value for key, value in result.items() if key not in _MODERN_ONLY_MEMBERS}


@define(eq=False)
class PooledSession:
    """One session of the pool. Is the link's `Inbox`: nobody can be asked, so all is refused."""

    on_closed: Callable[["PooledSession"], None]
    link: Link | None = None
    version: str = LATEST_LEGACY
    in_use: int = 0
    last_used: float = 0.0
    dead: bool = False

    def notification(self, message: Message) -> None:
        """Nobody listens between requests."""

    def request(self, message: Message, related: Call | None) -> None:
        """Refuse all but pings: the pool declared no client capability."""
        if self.link is None:
            return
        answer: Message = {"jsonrpc": "2.0", "id": message.get("id")}
        if message.get("method") == "ping":
            self.link.respond({**answer, "result": {}})
        else:
            error = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
            self.link.respond({**answer, "error": error})

    def closed(self, failure: UpstreamFailure) -> None:
        """The session is gone; the next bare request opens another."""
        self.dead = True
        self.on_closed(self)


@define(eq=False)
class SessionPool:
    """One handshake session per principal and route, opened on first use."""

    monotonic: Callable[[], float]
    idle_secs: float
    max_sessions: int
    _open: OrderedDict[tuple[str, str, str], PooledSession] = field(init=False, factory=OrderedDict)
    _opening: dict[tuple[str, str, str], list[Deferred[None]]] = field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._open) + len(self._opening)

    async def borrow(self, principal_key: str, route: Route) -> PooledSession:
        """The principal's session on this route; raises Refused when there can be none."""
        key = (principal_key, route.upstream.name, route.path)
        while True:
            session = self._open.get(key)
            if session is not None:
                return self._lend(key, session)
            if key not in self._opening:
                break
            waiting: Deferred[None] = Deferred()
            self._opening[key].append(waiting)
            await waiting
        self._make_room()
        self._opening[key] = []
        try:
            session = await self._handshake(key, principal_key, route)
        except Exception as problem:
            # It is everybody's who waited: one try each, one after the other, would take as
            # many timeouts as there are callers.
            for one in self._opening.pop(key):
                one.errback(problem)
            raise
        self._lend(key, session)
        for one in self._opening.pop(key):
            one.callback(None)
        return session

    def _lend(self, key: tuple[str, str, str], session: PooledSession) -> PooledSession:
        self._open.move_to_end(key)
        session.in_use += 1
        session.last_used = self.monotonic()
        return session

    def give_back(self, session: PooledSession) -> None:
        """A request on it has ended."""
        session.in_use -= 1
        session.last_used = self.monotonic()

    async def _handshake(
        self, key: tuple[str, str, str], principal_key: str, route: Route
    ) -> PooledSession:
        session = PooledSession(on_closed=lambda dead: self._forget(key, dead))
        params: Message = {
            "protocolVersion": LATEST_LEGACY,
            "capabilities": {},
            "clientInfo": dict(CLIENT_INFO),
        }
        try:
            opening = await route.upstream.open_session(principal_key, params, session, route.path)
        except InitializeRejected as rejected:
            raise Refused(
                Refusal(
                    Reason.UPSTREAM_FAILED,
                    detail=f"initialize was rejected: {rejected.error.get('code')}",
                )
            ) from rejected
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        session.link = opening.link
        version = opening.result.get("protocolVersion")
        if version in LEGACY_VERSIONS:
            session.version = version
            opening.link.notify("notifications/initialized", None)
        if version not in LEGACY_VERSIONS or session.dead:
            close_quietly(opening.link)
            detail = f"protocolVersion {version!r} or early end"
            raise Refused(Refusal(Reason.UPSTREAM_FAILED, detail=detail))
        self._open[key] = session
        return session

    def _make_room(self) -> None:
        if len(self) < self.max_sessions:
            return
        for key, session in self._open.items():
            if session.in_use == 0:
                self._close(key, session)
                return
        raise Refused(Refusal(Reason.OVERLOADED, retry_after=5.0))

    def sweep(self) -> None:
        """Close sessions idle too long."""
        now = self.monotonic()
        for key, session in list(self._open.items()):
            if session.in_use == 0 and now - session.last_used > self.idle_secs:
                self._close(key, session)

    def end_all(self) -> Deferred[None]:
        """Close every session; fires when all links are closed."""
        closing = [self._close(key, session) for key, session in list(self._open.items())]
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)

    def _forget(self, key: tuple[str, str, str], session: PooledSession) -> None:
        if self._open.get(key) is session:
            del self._open[key]

    def _close(self, key: tuple[str, str, str], session: PooledSession) -> Deferred[None]:
        self._forget(key, session)
        session.dead = True
        if session.link is None:
            return succeed(None)
        closing = session.link.close()
        closing.addErrback(close_failed)
        return closing


@define(eq=False)
class BareWire:
    """Requests without session, version or metadata."""

    admission: Admission
    pool: SessionPool
    schemas: ToolSchemas
    clock: IReactorTime
    commit_after: float

    async def post(self, trip: Trip, request: Request) -> None:
        """Serve one bare request."""
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        await self.admission.admit(trip, route.upstream.name, request, modern=False)
        try:
            eras = await route.upstream.eras()
            # Where the server shakes hands, a session does without a translation and back.
            native = eras.modern if eras.bridged != "modern" else ()
            modern = [v for v in MODERN_VERSIONS if v in native]
            if modern and self._fits_modern(request, eras):
                link = await route.upstream.stateless(principal.key, route.path)
                headers = await self._param_headers(trip, request, link)
                call = self._call(trip, request)
                call.shape = without_modern_members
                call.on_end = lambda _: close_quietly(link)
                self._until_gone(call)
                given = (request.params or {}).get("_meta")
                meta = {**(given if isinstance(given, dict) else {}), **gateway_meta()}
                params = {**(request.params or {}), "_meta": meta}
                outbound = self._outbound(trip, request, params, modern[0])
                call.start(link, evolve(outbound, headers=headers))
                return
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        session = await self.pool.borrow(principal.key, route)
        call = self._call(trip, request)
        call.retry = lambda: self._again(trip, request, call)
        call.on_end = lambda _: self.pool.give_back(session)
        self._until_gone(call)
        self._send(trip, request, call, session)

    async def _param_headers(
        self, trip: Trip, request: Request, link: Link
    ) -> tuple[tuple[str, str], ...]:
        """The ``Mcp-Param-*`` that a stateless HTTP server demands; a bare client sends none."""
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        if request.method != "tools/call" or route.upstream.transport == "stdio":
            return ()
        params = request.params or {}
        try:
            schema = await self.schemas.find(
                route.upstream.name, route.path, principal.key, link, str(params["name"])
            )
        except Exception:
            close_quietly(link)
            raise
        arguments = params.get("arguments") or {}
        return forwarded_param_headers(schema, arguments, trip.incoming.headers)

    def _send(
        self, trip: Trip, request: Request, call: RunningCall, session: PooledSession
    ) -> None:
        assert session.link is not None
        call.start(session.link, self._outbound(trip, request, request.params, session.version))

    def _again(self, trip: Trip, request: Request, running: RunningCall) -> None:
        if running.ended:
            return
        assert running.on_end is not None
        running.on_end(running)
        running.on_end = None
        trying = Deferred.fromCoroutine(self._second_try(trip, request, running))
        trying.addErrback(self._not_again, running)

    async def _second_try(self, trip: Trip, request: Request, running: RunningCall) -> None:
        assert trip.principal is not None
        assert trip.route is not None
        session = await self.pool.borrow(trip.principal.key, trip.route)
        if running.ended:
            self.pool.give_back(session)
            return
        running.on_end = lambda _: self.pool.give_back(session)
        self._send(trip, request, running, session)

    @staticmethod
    def _not_again(failure: Failure, running: RunningCall) -> None:
        if isinstance(failure.value, Refused):
            refusal = failure.value.refusal
            told = UpstreamFailure(refusal.reason, refusal.detail, refusal.retry_after)
        else:
            log.failure("a bare request could not be repeated", failure=failure)
            told = UpstreamFailure(Reason.INTERNAL, "second try")
        running.failed(told)

    @staticmethod
    def _fits_modern(request: Request, eras: Eras) -> bool:
        """Whether the stateless wire has this method (it dropped ping and the like)."""
        return METHODS[request.method].modern or not eras.legacy

    def _call(self, trip: Trip, request: Request) -> RunningCall:
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        return RunningCall(
            trip=trip,
            reply=PostAnswer(
                outlet=trip.outlet,
                headers=trip.answer_headers,
                may_stream="text/event-stream" in (trip.accept or ""),
            ),
            client_id=request.id,
            principal=principal,
            server=route.upstream.name,
            method=request.method,
            clock=self.clock,
            commit_after=self.commit_after,
        )

    @staticmethod
    def _until_gone(call: RunningCall) -> None:
        """Cancel it when its client leaves, at once when it has left while the way was prepared.

        There is no session to come back to, so a caller who leaves has given up.
        """
        call.trip.outlet.on_gone(lambda: call.cancel("the client closed the connection"))

    @staticmethod
    def _outbound(trip: Trip, request: Request, params: Message | None, version: str) -> Outbound:
        assert trip.principal is not None
        return Outbound(
            id=request.id,
            method=request.method,
            params=params,
            version=version,
            principal_key=trip.principal.key,
        )
