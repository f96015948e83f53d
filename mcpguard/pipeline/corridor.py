"""The order of a request's steps, in one place: the order is the security property.

Host and Origin, failed attempts of the address, authentication, identity limit, route, session
ownership, strict parse, protocol checks, rules, tool limit, upstream, filtering, record. The
steps up to the parse stand here, the later ones in the wire of the request's era, which all pass
through `admission.Admission` before anything reaches a server.
"""

from collections.abc import Callable
from typing import Protocol

from attrs import Factory, define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mcpguard.config.settings import RateLimitSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming, Outlet
from mcpguard.limits.limiter import Limiter
from mcpguard.pipeline.accepted_bytes import AcceptedBytes, RequestBytes
from mcpguard.pipeline.admission import granted
from mcpguard.pipeline.bare import BareWire
from mcpguard.pipeline.legacy import LegacyWire
from mcpguard.pipeline.modern import ModernWire
from mcpguard.pipeline.places import Part, allowed_at_root, may_be_part, place_of
from mcpguard.pipeline.revival import Revival
from mcpguard.pipeline.session_table import SessionTable
from mcpguard.pipeline.sse_wire import SseWire
from mcpguard.pipeline.trip import Books, Trip, digest_of
from mcpguard.policy.addresses import address_block
from mcpguard.policy.buckets import Rate
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
_JSON_TYPES = frozenset({"application/json"})
_CURL_TYPES = frozenset({"", "application/x-www-form-urlencoded"})


class Authenticator(Protocol):
    """Finds out who sent a request."""

    def authenticate(self, incoming: Incoming, now: float) -> Principal | Deferred[Principal]:
        """The principal; raises (or errbacks with) Refused."""
        ...


@frozen
class CorridorBounds:
    """What one request may be."""

    json: Bounds
    request_bytes: RequestBytes


@define(eq=False)
class Pipeline:
    """The corridor. Implements `front.exchange.Corridor`."""

    books: Books
    clock: IReactorTime
    rules: OriginRules
    limits: RateLimitSettings
    limiter: Limiter
    authenticator: Authenticator
    directory: Directory
    table: SessionTable
    revival: Revival
    legacy: LegacyWire
    modern: ModernWire
    bare: BareWire
    sse: SseWire
    bounds: CorridorBounds
    seen: Callable[[Principal], None]
    """Told of each authenticated principal (the gauge of active identities)."""
    draining: bool = False
    _busy: dict[str, int] = field(init=False, factory=dict)
    _accepted: AcceptedBytes = field(
        init=False,
        default=Factory(lambda self: AcceptedBytes(self.bounds.request_bytes), takes_self=True),
    )

    # -- Corridor --------------------------------------------------------------------------

    def handle(self, incoming: Incoming, outlet: Outlet) -> None:
        """Walk one MCP request; whatever goes wrong ends as a recorded refusal."""
        trip = Trip(self.books, incoming, outlet)
        walking = Deferred.fromCoroutine(self._walk(trip))
        walking.addErrback(self._broken, trip)

    def screen(self, incoming: Incoming) -> Refusal | None:
        """The Host and Origin rules (DNS rebinding; CVE-2025-66414 and its kin)."""
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
        return Deferred.fromCoroutine(self._authenticate(incoming))

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
        return self._accepted.total

    def end_sessions(self, *, keep: bool) -> Deferred[None]:
        """End every session; with ``keep`` those that can be revived stay at their servers."""
        return self.table.end_all(self.revival.may_return if keep else lambda session: False)

    # -- the steps -------------------------------------------------------------------------

    async def _walk(self, trip: Trip) -> None:
        incoming = trip.incoming
        refusal = self.screen(incoming)
        if refusal is not None:
            raise Refused(refusal)
        if self.draining:
            raise Refused(Refusal(Reason.DRAINING, retry_after=5.0))
        at_root = allowed_at_root(incoming.path)
        if at_root is not None or not may_be_part(incoming.path):
            _check_method(incoming, at_root)
        principal = trip.principal = await self._authenticate(incoming)
        trip.step("AuthSuccess")
        self.seen(principal)
        await self._identity_limit(trip, principal)
        place = place_of(incoming.path, self.directory)
        if place is None:
            raise Refused(Refusal(Reason.NOT_FOUND))
        route = trip.route = place.route
        verdict = decide(
            principal.rights,
            Operation("method", incoming.method, route.upstream.name, incoming.method),
        )
        if not verdict.allowed:
            raise Refused(Refusal(Reason.SERVER_DENIED, detail=verdict.reason))
        _check_method(incoming, None if place.part is None else place.part.method)
        if place.part is None:
            await self._walk_streamable(trip, principal, route)
        elif place.part is Part.STREAM:
            _require_stream(trip)
            self.sse.open(trip)
        else:
            await self._walk_messages(trip, principal)

    async def _walk_messages(self, trip: Trip, principal: Principal) -> None:
        """A message of HTTP+SSE: once it is known to be a request, its refusal goes elsewhere."""
        held = self.sse.find(trip)
        try:
            message = self._read(trip, bare=False)
        except Refused:
            if trip.rpc_id is not None:
                self.sse.accept(trip, held)
            raise
        self.sse.accept(trip, held)
        self._concurrency(trip, principal, message)
        await self.sse.post(trip, held, message)

    async def _walk_streamable(self, trip: Trip, principal: Principal, route: Route) -> None:
        incoming = trip.incoming
        version = self._version(incoming)
        stateless = version is not None and version not in LEGACY_VERSIONS
        session_id = None if stateless else incoming.header("mcp-session-id")
        if len(incoming.headers.get("mcp-session-id", ())) > 1 and not stateless:
            raise Refused(Refusal(Reason.INVALID_REQUEST, "Mcp-Session-Id was sent twice"))
        session = None
        if session_id is not None:
            session = self.table.find(session_id, principal, route)
            if session is None:
                self.revival.recall(session_id, principal, route)
            trip.session_digest = digest_of(session_id)
        if incoming.method != "POST":
            if stateless:
                raise Refused(Refusal(Reason.METHOD_NOT_ALLOWED, headers=(("Allow", "POST"),)))
            if session_id is None:
                raise Refused(Refusal(Reason.SESSION_REQUIRED))
            if incoming.method == "DELETE":
                self.legacy.delete(trip, session or await self.revival.session(trip, session_id))
                return
            _require_stream(trip)
            self.legacy.get(trip, session or await self.revival.session(trip, session_id))
            return
        message = self._read(trip, bare=version is None and session_id is None)
        self._concurrency(trip, principal, message)
        if stateless:
            self._require_both_types(trip)
            await self.modern.post(trip, message)
        elif _claims_modern(message):
            raise Refused(
                Refusal(
                    Reason.HEADER_MISMATCH,
                    "The body's protocol version needs the MCP-Protocol-Version header",
                )
            )
        elif session_id is not None:
            trip.in_band = True
            self._require_both_types(trip)
            session = session or await self.revival.session(trip, session_id)
            await self.legacy.post(trip, session, message)
        elif isinstance(message, Request) and message.method == "initialize":
            trip.in_band = True
            self._require_both_types(trip)
            await self.legacy.initialize(trip, message)
        elif version is None and isinstance(message, Request):
            trip.in_band = True
            await self.bare.post(trip, message)
        else:
            raise Refused(Refusal(Reason.SESSION_REQUIRED))

    async def _authenticate(self, incoming: Incoming) -> Principal:
        peer = f"failed\0{address_block(incoming.peer)}"
        rate = Rate(self.limits.failed_auth_per_minute / 60.0, self.limits.failed_auth_per_minute)
        # Checked before the next attempt, charged by failures only: guessing is bounded, many
        # honest callers behind one address are not.
        grant = await granted(self.limiter.peek(peer, rate))
        if not grant.allowed:
            raise Refused(Refusal(Reason.TOO_MANY_FAILURES, retry_after=grant.retry_after))
        try:
            found = self.authenticator.authenticate(incoming, self.books.clocks.wall())
            principal = await found if isinstance(found, Deferred) else found
        except Refused as refused:
            if refused.refusal.reason is not Reason.NO_CREDENTIALS:
                await granted(self.limiter.take(peer, rate))
            self.books.meter.auth("none", "failure")
            raise
        self.books.meter.auth(principal.provider, "success")
        return principal

    async def _identity_limit(self, trip: Trip, principal: Principal) -> None:
        limits = self.limits
        if not limits.enabled:
            return
        per_second = principal.limits.per_second or limits.requests_per_second
        burst = principal.limits.burst
        if burst is None:
            # The same seconds of burst as the default, for an identity with its own rate.
            burst = max(1, round(per_second * limits.burst_size / limits.requests_per_second))
        grant = await granted(self.limiter.take(f"id\0{principal.key}", Rate(per_second, burst)))
        trip.grant = grant
        trip.books.meter.rate_limit(grant.allowed)
        if not grant.allowed:
            raise Refused(Refusal(Reason.RATE_LIMITED, retry_after=grant.retry_after))

    def _concurrency(
        self, trip: Trip, principal: Principal, message: Request | Notification | Response
    ) -> None:
        # Only requests take a place: an identity with one place, whose call asks it something,
        # could neither answer nor cancel.
        if not isinstance(message, Request):
            return
        key, size = principal.key, len(trip.incoming.body)
        if not self._accepted.take(key, size):
            raise Refused(Refusal(Reason.OVERLOADED, "Too much is in progress", 1.0))
        trip.on_settled.append(lambda: self._accepted.give(key, size))
        limit = principal.limits.max_concurrency
        if limit is None:
            return
        busy = self._busy.get(key, 0)
        if busy >= limit:
            raise Refused(Refusal(Reason.TOO_MANY_CONCURRENT, retry_after=1.0))
        self._busy[key] = busy + 1
        trip.on_settled.append(lambda: self._release(key))

    def _release(self, key: str) -> None:
        left = self._busy.get(key, 1) - 1
        if left > 0:
            self._busy[key] = left
        else:
            self._busy.pop(key, None)

    def _read(self, trip: Trip, *, bare: bool) -> Request | Notification | Response:
        content_types = trip.incoming.headers.get("content-type", ())
        media = content_types[0].partition(";")[0].strip().lower() if content_types else ""
        # `curl -d` without a header announces a form. A page could send that across origins
        # without a preflight, but then it has an Origin.
        lenient = bare and "origin" not in trip.incoming.headers
        accepted = _JSON_TYPES | _CURL_TYPES if lenient else _JSON_TYPES
        if media not in accepted or len(content_types) > 1:
            raise Refused(Refusal(Reason.UNSUPPORTED_MEDIA_TYPE))
        try:
            message = parse(trip.incoming.body, self.bounds.json)
        except Malformed as malformed:
            trip.rpc_id = malformed.id
            raise Refused(Refusal(malformed.reason, malformed.text)) from malformed
        if isinstance(message, Batch):
            raise Refused(Refusal(Reason.INVALID_REQUEST, "Batches are not accepted"))
        if isinstance(message, Request):
            trip.rpc_id = message.id
        if isinstance(message, Request | Notification):
            trip.method = message.method
            _note_target(trip, message)
        else:
            trip.method = "response"
        return message

    @staticmethod
    def _version(incoming: Incoming) -> str | None:
        values = incoming.headers.get("mcp-protocol-version", ())
        return values[0] if values else None

    @staticmethod
    def _require_both_types(trip: Trip) -> None:
        accept = trip.accept
        if not (_accepts(accept, "application/json") and _accepts(accept, "text/event-stream")):
            raise Refused(Refusal(Reason.NOT_ACCEPTABLE))

    def _broken(self, failure: Failure, trip: Trip) -> None:
        """The one place where an exception becomes a denial."""
        error = failure.value
        if isinstance(error, Refused):
            refusal = error.refusal
        else:
            log.failure(
                "a check failed, the request is refused",
                failure=failure,
                request_id=trip.incoming.request_id,
            )
            refusal = Refusal(Reason.INTERNAL)
        if not trip.settled:
            trip.refuse(refusal)
        elif not isinstance(error, Refused):
            # Its outcome was written down, but who knows whether its answer was sent.
            trip.hang_up()


def _accepts(accept: str | None, media_type: str) -> bool:
    """Whether an ``Accept`` header allows a media type, wildcards included (RFC 9110 12.5.1)."""
    if accept is None:
        return False
    main = media_type.partition("/")[0]
    wanted = {media_type, f"{main}/*", "*/*"}
    return any(part.partition(";")[0].strip().lower() in wanted for part in accept.split(","))


def _check_method(incoming: Incoming, only: str | None) -> None:
    """Refuse what a place does not know; ``only`` None: what Streamable HTTP does not."""
    if incoming.method not in ((only,) if only else _METHODS):
        allow = ("Allow", only or ", ".join(_METHODS))
        raise Refused(Refusal(Reason.METHOD_NOT_ALLOWED, headers=(allow,)))


def _require_stream(trip: Trip) -> None:
    if not _accepts(trip.accept, "text/event-stream"):
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
