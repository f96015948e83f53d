"""The stateless era on the client's side (2026-07-28): POST only, every request on its own."""

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.pipeline.admission import Admission
from mcpguard.pipeline.dispatch import (
    RunningCall,
    heard_by_listener,
    may_touch,
    modern_status,
    refusal_of,
)
from mcpguard.pipeline.patience import Patience
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.pipeline.session_table import close_quietly
from mcpguard.pipeline.streams import JSON_TYPE, PostAnswer
from mcpguard.pipeline.trip import Trip
from mcpguard.protocol.headers import (
    check_modern,
    check_param_headers,
    forwarded_param_headers,
    invalid_annotation,
)
from mcpguard.protocol.jsonrpc import Notification, Request, Response, encode
from mcpguard.protocol.mcp import (
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_SUBSCRIPTION_ID,
    META_VERSION,
    MODERN_VERSIONS,
)
from mcpguard.upstream.link import Eras, Link, Message, Outbound, UpstreamFailure

log = Logger()

TTL_CAP_MS = 60_000
"""How long a client may keep a list: no longer than a changed policy may stay unseen."""

_RELAYED_CAPABILITIES = frozenset({"completions", "logging", "prompts", "resources", "tools"})

_NEEDS_THE_SERVER = frozenset({Reason.UNSUPPORTED_VERSION, Reason.UNKNOWN_METHOD})
"""Rungs of the ladder at or after the one that depends on what the server speaks."""

_TASKS = "io.modelcontextprotocol/tasks"

_CACHEABLE = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)


def typed(result: Message) -> Message:
    """A result with the type it has: absent means complete, but SDK clients insist on the word.

    PyPI ``mcp`` 2.3 raises "Field required" for a result without it (observed).
    """
    return result if "resultType" in result else {**result, "resultType": "complete"}


def private(result: Message) -> Message:
    """A cacheable result as this caller alone may keep it (mcp-requirements 1.4)."""
    if result.get("resultType", "complete") != "complete":
        return result
    ttl = result.get("ttlMs")
    kept = ttl if isinstance(ttl, int) and not isinstance(ttl, bool) and ttl > 0 else 0
    return {**result, "ttlMs": min(kept, TTL_CAP_MS), "cacheScope": "private"}


def well_annotated(result: Message) -> Message:
    """A list of tools without those whose header annotations are invalid (1.3: MUST drop)."""
    tools = result.get("tools")
    if not isinstance(tools, list):
        return result
    kept = [tool for tool in tools if invalid_annotation(tool) is None]
    if len(kept) < len(tools):
        log.warn(
            "{count} tools with invalid x-mcp-header annotations", count=len(tools) - len(kept)
        )
    return {**result, "tools": kept}


def served_versions(eras: Eras) -> list[str]:
    """The versions the gateway serves on a route, newest first."""
    modern = [version for version in MODERN_VERSIONS if version in eras.modern]
    return modern + (list(LEGACY_VERSIONS) if eras.legacy else [])


def discovery(eras: Eras) -> Message:
    """The answer to ``server/discover``, from what the server itself said."""
    upstream = eras.discovered or {}
    capabilities = upstream.get("capabilities")
    known = capabilities if isinstance(capabilities, dict) else {}
    return private(
        {
            **upstream,
            "resultType": "complete",
            "supportedVersions": served_versions(eras),
            "capabilities": {k: v for k, v in known.items() if k in _RELAYED_CAPABILITIES},
        }
    )


def uncached(result: Message) -> Message:
    """A result that answers what only this one request said (1.4: must not be cached)."""
    kept = private(result)
    return {**kept, "ttlMs": 0} if "ttlMs" in kept else kept


def _shape_of(method: str, params: Message, eras: Eras) -> Callable[[Message], Message]:
    if method == "server/discover":
        return lambda result: discovery(evolve(eras, discovered=result))
    if method == "tools/list":
        return lambda result: typed(private(well_annotated(result)))
    if method not in _CACHEABLE:
        return typed
    answers = params.keys() & {"inputResponses", "requestState"}
    return lambda result: typed(uncached(result) if answers else private(result))


def _listen_result(call: RunningCall) -> Message:
    return {"resultType": "complete", "_meta": {META_SUBSCRIPTION_ID: call.client_id}}


def relayed_params(params: Message) -> Message:
    """A request's params without the capability to take tasks, which are not relayed."""
    meta = params["_meta"]
    capabilities = meta[META_CAPABILITIES]
    extensions = capabilities.get("extensions")
    offers = isinstance(extensions, dict) and _TASKS in extensions
    if not offers and "tasks" not in capabilities:
        return params
    kept = {key: value for key, value in capabilities.items() if key != "tasks"}
    if isinstance(extensions, dict):
        kept["extensions"] = {k: v for k, v in extensions.items() if k != _TASKS}
    return {**params, "_meta": {**meta, META_CAPABILITIES: kept}}


@define(eq=False)
class ModernWire:
    """POSTs that carry the modern version header."""

    admission: Admission
    schemas: ToolSchemas
    clock: IReactorTime
    patience: Patience
    max_listens: int
    """Open ``subscriptions/listen`` streams per principal."""
    max_listen_uris: int
    _listens: dict[str, int] = field(init=False, factory=dict)
    _endless: set[RunningCall] = field(init=False, factory=set)
    _closing: bool = field(init=False, default=False)

    async def post(self, trip: Trip, message: Request | Notification | Response) -> None:
        """One stateless message."""
        if isinstance(message, Response):
            raise Refused(
                Refusal(Reason.INVALID_REQUEST, "Responses are not accepted by this version")
            )
        if isinstance(message, Notification):
            # No notification exists on this wire. `cancelled` in particular is not honoured:
            # ids are chosen by clients, so one caller could end another's work.
            trip.settle("dropped", 202)
            trip.outlet.answer(202, trip.answer_headers(), b"")
            return
        await self._request(trip, message)

    async def _request(self, trip: Trip, request: Request) -> None:
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        server = route.upstream.name
        headers_of = trip.incoming.headers
        refusal = check_modern(headers_of, request)
        if refusal is not None and refusal.reason not in _NEEDS_THE_SERVER:
            raise Refused(refusal)
        try:
            eras = await route.upstream.eras()
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        refusal = check_modern(headers_of, request, served_versions(eras))
        if refusal is not None:
            raise Refused(refusal)
        params = relayed_params(request.params or {})
        version = params["_meta"][META_VERSION]
        await self.admission.admit(trip, server, request, modern=True)
        if request.method == "server/discover" and eras.discovered is not None:
            self._discovered(trip, eras)
            return
        try:
            link = await route.upstream.stateless(principal.key, route.path)
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        if trip.outlet.gone:
            close_quietly(link)
            trip.settle("cancelled", 200)
            return
        headers: tuple[tuple[str, str], ...] = ()
        try:
            if request.method == "tools/call":
                tool = str(params["name"])
                # A pooled session is one for these: the same then serves the list and the call.
                declared = params["_meta"][META_CAPABILITIES] if eras.bridged else None
                schema = await self.schemas.find(
                    server, route.path, principal.key, link, tool, declared
                )
                arguments = params.get("arguments") or {}
                refusal = check_param_headers(schema, arguments, headers_of)
                if refusal is not None:
                    raise Refused(refusal)
                headers = forwarded_param_headers(schema, arguments, headers_of)
            endless = request.method == "subscriptions/listen"
            if endless:
                params = self._listen(trip, server, params)
        except Exception:
            close_quietly(link)
            raise
        call = RunningCall(
            trip=trip,
            reply=PostAnswer(outlet=trip.outlet, headers=trip.answer_headers, may_stream=True),
            client_id=request.id,
            principal=principal,
            server=server,
            method=request.method,
            clock=self.clock,
            patience=self.patience,
            status_of=modern_status,
            shape=_shape_of(request.method, params, eras),
            observe=(
                (lambda result: self.schemas.learn(server, route.path, principal.key, result))
                if request.method == "tools/list"
                else None
            ),
            on_end=lambda ended: self._ended(ended, link),
        )
        if endless:
            call.hears = lambda message: heard_by_listener(principal, server, message)
            call.last_words = _listen_result(call)
            self._keep(trip, call)
        # On this wire a closed connection is the cancellation (MUST), nothing else is.
        trip.outlet.on_gone(lambda: call.cancel("the client closed the connection"))
        call.start(
            link,
            Outbound(
                id=request.id,
                method=request.method,
                params=params,
                version=version,
                principal_key=principal.key,
                headers=headers,
                endless=endless,
            ),
        )

    def _keep(self, trip: Trip, call: RunningCall) -> None:
        """Remember a listen until it ends, at the latest with its caller's credentials."""
        self._endless.add(call)
        expires_at = call.principal.expires_at
        if expires_at is not None:
            left = max(0.0, expires_at - trip.books.clocks.wall())
            timer = self.clock.callLater(left, call.expire)
            trip.on_settled.append(lambda: timer.cancel() if timer.active() else None)

    def _ended(self, call: RunningCall, link: Link) -> None:
        self._endless.discard(call)
        close_quietly(link)

    def end_listens(self) -> None:
        """End every open listen in order, and take no more: the gateway stops."""
        self._closing = True
        for call in list(self._endless):
            call.conclude(_listen_result(call))

    def _discovered(self, trip: Trip, eras: Eras) -> None:
        message = {"jsonrpc": "2.0", "id": trip.rpc_id, "result": discovery(eras)}
        trip.settle("success", 200)
        trip.outlet.answer(200, [JSON_TYPE, *trip.answer_headers()], encode(message))

    def _listen(self, trip: Trip, server: str, params: dict[str, Any]) -> dict[str, Any]:
        """The params of a listen with only what this caller may hear of."""
        principal = trip.principal
        assert principal is not None
        if self._closing:
            # It came before the stop began; nothing would end it now.
            raise Refused(Refusal(Reason.DRAINING, retry_after=5.0))
        wanted = params.get("notifications")
        if not isinstance(wanted, dict):
            raise Refused(Refusal(Reason.INVALID_PARAMS, "notifications must be an object"))
        uris = wanted.get("resourceSubscriptions", [])
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            raise Refused(Refusal(Reason.INVALID_PARAMS, "resourceSubscriptions must be strings"))
        if len(uris) > self.max_listen_uris:
            raise Refused(
                Refusal(
                    Reason.INVALID_PARAMS,
                    f"resourceSubscriptions may name {self.max_listen_uris} resources at most",
                )
            )
        held = self._listens.get(principal.key, 0)
        if held >= self.max_listens:
            raise Refused(Refusal(Reason.TOO_MANY_CONCURRENT, retry_after=5.0))
        self._listens[principal.key] = held + 1
        trip.on_settled.append(lambda: self._unlisten(principal.key))
        relayed = {
            key: wanted[key]
            for key in ("toolsListChanged", "promptsListChanged", "resourcesListChanged")
            if key in wanted
        }
        if "resourceSubscriptions" in wanted:
            relayed["resourceSubscriptions"] = [
                uri for uri in uris if may_touch(principal, server, "resource", uri)
            ]
        return {**params, "notifications": relayed}

    def _unlisten(self, key: str) -> None:
        left = self._listens.get(key, 1) - 1
        if left > 0:
            self._listens[key] = left
        else:
            self._listens.pop(key, None)
