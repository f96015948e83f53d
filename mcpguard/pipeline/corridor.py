"""The order of a request's steps, in one place: the order is the security property.

Host and Origin, failed attempts of the address, authentication, identity limit, route, session
ownership, strict parse, protocol checks, rules, tool limit, upstream, filtering, record. The
steps up to the parse stand here, the later ones in the wire of the request's era, which all pass
through `admission.Admission` before anything reaches a server.
"""

from collections.abc import Coroutine
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.pipeline.approach import Approach, Approaches
from mcpguard.pipeline.bare import BareWire
from mcpguard.pipeline.callers import Callers
from mcpguard.pipeline.legacy import LegacyWire
from mcpguard.pipeline.modern import ModernWire
from mcpguard.pipeline.places import Part
from mcpguard.pipeline.revival import Revival
from mcpguard.pipeline.session_table import SessionTable
from mcpguard.pipeline.sessions import Session
from mcpguard.pipeline.sse_wire import SseWire
from mcpguard.pipeline.trip import Books, Trip, digest_of
from mcpguard.pipeline.walking import Walk, walk
from mcpguard.policy.origins import OriginRules, check_host, check_origin
from mcpguard.policy.principal import Principal
from mcpguard.policy.rules import Operation, decide
from mcpguard.protocol.jsonrpc import (
    Batch,
    Bounds,
    Malformed,
    Notification,
    Request,
    Response,
    parse,
)
from mcpguard.protocol.mcp import LEGACY_VERSIONS, claimed_version
from mcpguard.upstream.link import Directory, Route

log = Logger()

_METHODS = ("GET", "POST", "DELETE")
_PROBES = frozenset({"/health", "/live", "/ready"})
_MAX_HEADS = 1_024
_MAX_HEAD_CHARS = 2_048
"""Of the heads that are remembered as read: so many, each of so many characters."""


@define(eq=False)
class Pipeline:
    """The corridor. Implements `front.exchange.Corridor`."""

    books: Books
    clock: IReactorTime
    rules: OriginRules
    callers: Callers
    directory: Directory
    table: SessionTable
    revival: Revival
    legacy: LegacyWire
    modern: ModernWire
    bare: BareWire
    sse: SseWire
    json: Bounds
    """What the structure of one body may be."""
    draining: bool = False
    _approaches: Approaches = field(
        init=False,
        default=Factory(
            lambda self: Approaches(self.directory, self._screen, _MAX_HEADS, _MAX_HEAD_CHARS),
            takes_self=True,
        ),
    )

    # -- Corridor --------------------------------------------------------------------------

    def handle(self, incoming: Incoming, outlet: Outlet) -> None:
        """Walk one MCP request; whatever goes wrong ends as a recorded refusal."""
        trip = Trip(self.books, incoming, outlet)
        try:
            rest = self._walk(trip)
        except Exception as error:
            self._broken(error, trip)
            return
        if rest is not None:
            walk(rest, lambda error: self._broken(error, trip))

    def screen(self, incoming: Incoming) -> Refusal | None:
        """The Host and Origin rules (DNS rebinding; CVE-2025-66414 and its kin)."""
        return self._approaches.of(incoming).refusal

    def _screen(self, incoming: Incoming) -> Refusal | None:
        if incoming.path not in _PROBES and not check_host(
            incoming.headers.get("host", ()), self.rules
        ):
            return Refusal(Reason.BAD_HOST)
        if not check_origin(
            incoming.headers.get("origin", ()), incoming.headers.get("host", ()), self.rules
        ):
            return Refusal(Reason.BAD_ORIGIN)
        return None

    def authenticate(self, incoming: Incoming) -> Deferred[Principal]:
        """Who is asking, with failed attempts limited per address."""
        return self.callers.identity(incoming)

    def refuse(self, incoming: Incoming, refusal: Refusal, outlet: Outlet) -> None:
        """Record and answer a refusal that the front decided."""
        Trip(self.books, incoming, outlet).refuse(refusal)

    def drain(self) -> None:
        """Refuse what comes from now on and end the streams that have no end of their own."""
        self.draining = True
        self.modern.end_listens()
        self.sse.drain()

    @property
    def accepted_bytes(self) -> int:
        """The bodies of requests that have no outcome yet."""
        return self.callers.accepted.total

    def end_sessions(self, *, keep: bool) -> Deferred[None]:
        """End every session; with ``keep`` those that can be revived stay at their servers."""
        return self.table.end_all(self.revival.may_return if keep else lambda session: False)

    # -- the steps -------------------------------------------------------------------------

    # Mostly nothing has to be waited for, so each of them is a plain call that gives the rest of
    # the walk as a coroutine where it must wait: eight coroutines for each request took longer
    # than the checks in them.

    def _walk(self, trip: Trip) -> Walk | None:
        incoming = trip.incoming
        approach = self._approaches.of(incoming)
        if approach.refusal is not None:
            raise Refused(approach.refusal)
        if self.draining:
            raise Refused(Refusal(Reason.DRAINING, retry_after=5.0))
        if approach.checked_early:
            _check_method(incoming, approach.at_root)
        found = self.callers.identify(incoming)
        if isinstance(found, Principal):
            return self._identified(trip, approach, found)
        return self._identify(trip, approach, found)

    async def _identify(
        self, trip: Trip, approach: Approach, found: Coroutine[Any, Any, Principal]
    ) -> None:
        rest = self._identified(trip, approach, await found)
        if rest is not None:
            await rest

    def _identified(self, trip: Trip, approach: Approach, principal: Principal) -> Walk | None:
        trip.principal = principal
        trip.step("AuthSuccess")
        charging = self.callers.charge(trip, principal)
        if charging is None:
            return self._charged(trip, approach, principal)
        return self._charge(trip, approach, principal, charging)

    async def _charge(
        self,
        trip: Trip,
        approach: Approach,
        principal: Principal,
        charging: Coroutine[Any, Any, None],
    ) -> None:
        await charging
        rest = self._charged(trip, approach, principal)
        if rest is not None:
            await rest

    def _charged(self, trip: Trip, approach: Approach, principal: Principal) -> Walk | None:
        incoming, place = trip.incoming, approach.place
        if place is None:
            raise Refused(Refusal(Reason.NOT_FOUND))
        route = trip.route = place.route
        verdict = decide(
            principal.rights,
            Operation("method", incoming.method, route.upstream.name, incoming.method),
        )
        if not verdict.allowed:
            raise Refused(Refusal(Reason.SERVER_DENIED, detail=verdict.reason))
        part = place.part
        if part is None:
            _check_method(incoming, None)
            return self._walk_streamable(trip, approach, principal, route)
        _check_method(incoming, part.method)
        if part is Part.STREAM:
            _require_stream(approach)
            self.sse.open(trip)
            return None
        return self._walk_messages(trip, approach, principal)

    async def _walk_messages(self, trip: Trip, approach: Approach, principal: Principal) -> None:
        """A message of HTTP+SSE: once it is known to be a request, its refusal goes elsewhere."""
        held = self.sse.find(trip)
        try:
            message = self._read(trip, approach, bare=False)
        except Refused:
            if trip.rpc_id is not None:
                self.sse.accept(trip, held)
            raise
        self.sse.accept(trip, held)
        entering = self.callers.enter(trip, principal, message)
        if entering is not None:
            await entering
        await self.sse.post(trip, held, message)

    def _walk_streamable(
        self, trip: Trip, approach: Approach, principal: Principal, route: Route
    ) -> Walk | None:
        incoming, stateless = trip.incoming, approach.stateless
        sessions = () if stateless else incoming.headers.get("mcp-session-id", ())
        if len(sessions) > 1:
            raise Refused(Refusal(Reason.INVALID_REQUEST, "Mcp-Session-Id was sent twice"))
        session_id = session = None
        if sessions:
            session_id = sessions[0]
            session = self._find(trip, principal, route, session_id)
        if incoming.method != "POST":
            return self._walk_stream(trip, approach, session, session_id)
        version = approach.version
        message = self._read(trip, approach, bare=version is None and session_id is None)
        entering = self.callers.enter(trip, principal, message)
        if entering is None:
            return self._entered(trip, approach, session, session_id, message)
        return self._enter(trip, approach, session_id, message, entering)

    def _find(
        self, trip: Trip, principal: Principal, route: Route, session_id: str
    ) -> Session | None:
        """The session, None for one that may be taken up again; raises Refused."""
        session = self.table.find(session_id, principal, route)
        if session is None:
            self.revival.recall(session_id, principal, route)
            trip.session_digest = digest_of(session_id)
        else:
            trip.session_digest = session.digest
        return session

    async def _enter(
        self,
        trip: Trip,
        approach: Approach,
        session_id: str | None,
        message: Request | Notification | Response,
        entering: Coroutine[Any, Any, None],
    ) -> None:
        await entering
        session, principal, route = None, trip.principal, trip.route
        if session_id is not None and principal is not None and route is not None:
            # Once more: it may have ended meanwhile.
            session = self._find(trip, principal, route, session_id)
        rest = self._entered(trip, approach, session, session_id, message)
        if rest is not None:
            await rest

    def _entered(
        self,
        trip: Trip,
        approach: Approach,
        session: Session | None,
        session_id: str | None,
        message: Request | Notification | Response,
    ) -> Walk | None:
        """A message on its way to the wire that its headers name."""
        version = approach.version
        if approach.stateless:
            _require_both_types(approach)
            return self.modern.post(trip, message)
        if _claims_modern(message):
            raise Refused(
                Refusal(
                    Reason.HEADER_MISMATCH,
                    "The body's protocol version needs the MCP-Protocol-Version header",
                )
            )
        if session_id is not None:
            trip.in_band = True
            _require_both_types(approach)
            if session is None:
                return self._revive(trip, session_id, message)
            return self.legacy.post(trip, session, message)
        if isinstance(message, Request) and message.method == "initialize":
            trip.in_band = True
            _require_both_types(approach)
            return self.legacy.initialize(trip, message)
        if version is None and isinstance(message, Request):
            trip.in_band = True
            return self.bare.post(trip, message)
        raise Refused(Refusal(Reason.SESSION_REQUIRED))

    async def _revive(
        self, trip: Trip, session_id: str, message: Request | Notification | Response
    ) -> None:
        session = await self.revival.session(trip, session_id)
        rest = self.legacy.post(trip, session, message)
        if rest is not None:
            await rest

    async def _walk_stream(
        self, trip: Trip, approach: Approach, session: Session | None, session_id: str | None
    ) -> None:
        """A GET or a DELETE."""
        if approach.stateless:
            raise Refused(Refusal(Reason.METHOD_NOT_ALLOWED, headers=(("Allow", "POST"),)))
        if session_id is None:
            raise Refused(Refusal(Reason.SESSION_REQUIRED))
        if trip.incoming.method == "DELETE":
            self.legacy.delete(trip, session or await self.revival.session(trip, session_id))
            return
        _require_stream(approach)
        self.legacy.get(trip, session or await self.revival.session(trip, session_id))

    def _read(
        self, trip: Trip, approach: Approach, *, bare: bool
    ) -> Request | Notification | Response:
        if not (approach.json_sent or (bare and approach.form_sent)):
            raise Refused(Refusal(Reason.UNSUPPORTED_MEDIA_TYPE))
        try:
            message = parse(trip.incoming.body, self.json)
        except Malformed as malformed:
            trip.rpc_id = malformed.id
            raise Refused(Refusal(malformed.reason, malformed.text)) from malformed
        if isinstance(message, Batch):
            raise Refused(Refusal(Reason.INVALID_REQUEST, "Batches are not accepted"))
        if isinstance(message, Request):
            trip.rpc_id = message.id
        if isinstance(message, Response):
            trip.method = "response"
        else:
            trip.method = message.method
            _note_target(trip, message)
        return message

    def _broken(self, error: BaseException, trip: Trip) -> None:
        """The one place where an exception becomes a denial."""
        if isinstance(error, Refused):
            refusal = error.refusal
        else:
            log.failure(
                "a check failed, the request is refused",
                failure=Failure(error),
                request_id=trip.incoming.request_id,
            )
            refusal = Refusal(Reason.INTERNAL)
        if not trip.settled:
            trip.refuse(refusal)
        elif not isinstance(error, Refused):
            # Its outcome was written down, but who knows whether its answer was sent.
            trip.hang_up()


def _check_method(incoming: Incoming, only: str | None) -> None:
    """Refuse what a place does not know; ``only`` None: what Streamable HTTP does not."""
    if incoming.method not in ((only,) if only else _METHODS):
        allow = ("Allow", only or ", ".join(_METHODS))
        raise Refused(Refusal(Reason.METHOD_NOT_ALLOWED, headers=(allow,)))


def _require_both_types(approach: Approach) -> None:
    if not (approach.json_accepted and approach.stream_accepted):
        raise Refused(Refusal(Reason.NOT_ACCEPTABLE))


def _require_stream(approach: Approach) -> None:
    if not approach.stream_accepted:
        raise Refused(Refusal(Reason.NOT_ACCEPTABLE, "Accept must allow text/event-stream"))


def _claims_modern(message: Request | Notification | Response) -> bool:
    """Whether a body carries the metadata of a stateless version."""
    if isinstance(message, Response):
        return False
    version = claimed_version(message.params)
    return version is not None and version not in LEGACY_VERSIONS


def _note_target(trip: Trip, message: Request | Notification) -> None:
    """Note what is asked for, for the audit, before anything decides about it."""
    params = message.params or {}
    name = params.get("name", params.get("uri"))
    if isinstance(name, str):
        trip.target = name
    arguments = params.get("arguments")
    if isinstance(arguments, dict):
        trip.arguments = arguments
