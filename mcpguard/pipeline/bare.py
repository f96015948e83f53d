"""Bare requests: one JSON-RPC POST with a key and nothing else (product reference 3.5).

They are served over a session that the gateway itself opened for that principal, with empty
client capabilities, or over a stateless link where the server has one.
"""

from attrs import define
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refused
from mcpguard.pipeline.admission import Admission
from mcpguard.pipeline.dispatch import RunningCall, refusal_of
from mcpguard.pipeline.patience import Patience
from mcpguard.pipeline.pool import PooledSession, SessionPool
from mcpguard.pipeline.schemas import ToolSchemas, gateway_meta
from mcpguard.pipeline.session_table import close_quietly
from mcpguard.pipeline.streams import PostAnswer
from mcpguard.pipeline.trip import Trip
from mcpguard.protocol.headers import forwarded_param_headers
from mcpguard.protocol.jsonrpc import Request
from mcpguard.protocol.mcp import METHODS, MODERN_VERSIONS
from mcpguard.upstream.link import (
    Eras,
    Link,
    Message,
    Outbound,
    UpstreamFailure,
)

log = Logger()

_MODERN_ONLY_MEMBERS = frozenset({"resultType", "ttlMs", "cacheScope"})


def without_modern_members(result: Message) -> Message:
    """A stateless server's result as a client of the handshake eras knows it."""
    return {key: value for key, value in result.items() if key not in _MODERN_ONLY_MEMBERS}


@define(eq=False)
class BareWire:
    """Requests without session, version or metadata."""

    admission: Admission
    pool: SessionPool
    schemas: ToolSchemas
    clock: IReactorTime
    patience: Patience

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
                call.start(link, replace(outbound, headers=headers))
                return
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        session = await self.pool.borrow(principal.key, route.upstream, route.path)
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
        session = await self.pool.borrow(trip.principal.key, trip.route.upstream, trip.route.path)
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
            patience=self.patience,
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
