"""The handshake eras on the client's side (2025-03-26 to 2025-11-25): POST, GET, DELETE."""

from collections.abc import Coroutine
from typing import Any

from attrs import define
from twisted.internet.interfaces import IReactorTime

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.pipeline.admission import Admission
from mcpguard.pipeline.dispatch import RunningCall, authorize, refusal_of
from mcpguard.pipeline.patience import Patience
from mcpguard.pipeline.session_ids import SessionIds
from mcpguard.pipeline.session_table import SessionTable, close_quietly
from mcpguard.pipeline.sessions import Session, SessionBounds
from mcpguard.pipeline.streams import (
    JSON_TYPE,
    EventStream,
    PostAnswer,
    Reply,
    parse_event_id,
    stop_timer,
)
from mcpguard.pipeline.trip import Trip, digest_of
from mcpguard.pipeline.walking import Walk
from mcpguard.protocol.jsonrpc import Notification, Request, Response, encode
from mcpguard.protocol.mcp import LATEST_LEGACY, LEGACY_VERSIONS, METHODS
from mcpguard.upstream.link import (
    InitializeRejected,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)

_CLIENT_CAPABILITIES = frozenset({"roots", "sampling", "elicitation"})
"""What the gateway relays for a client. Tasks and experimental features bring methods that the
policy table does not know, so they are not offered."""

_SERVER_CAPABILITIES = frozenset({"completions", "logging", "prompts", "resources", "tools"})

_PRIMING_SINCE = "2025-11-25"


def offered_to_server(params: Message) -> Message:
    """A client's ``initialize`` params as they go upstream; raises Refused if malformed."""
    version = params.get("protocolVersion")
    capabilities = params.get("capabilities")
    if not isinstance(version, str) or not isinstance(capabilities, dict):
        raise Refused(
            Refusal(
                Reason.INVALID_PARAMS,
                "initialize needs protocolVersion (string) and capabilities (object)",
            )
        )
    if not isinstance(params.get("clientInfo", {}), dict):
        raise Refused(Refusal(Reason.INVALID_PARAMS, "clientInfo must be an object"))
    return {
        **params,
        "protocolVersion": version if version in LEGACY_VERSIONS else LATEST_LEGACY,
        "capabilities": {k: v for k, v in capabilities.items() if k in _CLIENT_CAPABILITIES},
    }


def offered_to_client(result: Message) -> Message:
    """A server's ``initialize`` result with only the capabilities the gateway relays."""
    capabilities = result.get("capabilities")
    known = capabilities if isinstance(capabilities, dict) else {}
    return {
        **result,
        "capabilities": {k: v for k, v in known.items() if k in _SERVER_CAPABILITIES},
    }


def permitted_params(trip: Trip, request: Request) -> Message:
    """The params of an ``initialize`` as they go upstream; raises Refused if it may not."""
    principal, route = trip.principal, trip.route
    assert principal is not None
    assert route is not None
    params = offered_to_server(request.params or {})
    refusal = authorize(principal, route.upstream.name, request)
    if refusal is not None:
        raise Refused(refusal)
    trip.step("Authorized")
    return params


async def shake_hands(session: Session, params: Message) -> Opening:
    """Open the server's side of a session with these ``initialize`` params of its client.

    Gives the session its link and the version agreed on. Raises `InitializeRejected` with the
    server's own error, and Refused when there is no session after all; nothing is left open then.
    """
    route = session.route
    try:
        eras = await route.upstream.eras()
        if not eras.legacy:
            data = {"supported": list(eras.modern), "requested": params["protocolVersion"]}
            raise Refused(Refusal(Reason.UPSTREAM_ERA, data=data))
        opening = await route.upstream.open_session(
            session.principal.key, params, session, route.path
        )
    except UpstreamFailure as failure:
        raise Refused(refusal_of(failure)) from failure
    version = opening.result.get("protocolVersion")
    if version not in LEGACY_VERSIONS or session.ended:
        close_quietly(opening.link)
        detail = f"protocolVersion {version!r} or early end"
        raise Refused(Refusal(Reason.UPSTREAM_FAILED, detail=detail))
    session.link = opening.link
    session.version = version
    return opening


@define(eq=False)
class LegacyWire:
    """POST, GET and DELETE of clients that shake hands."""

    admission: Admission
    table: SessionTable
    bounds: SessionBounds
    clock: IReactorTime
    ids: SessionIds
    patience: Patience

    # -- initialize ------------------------------------------------------------------------

    async def initialize(self, trip: Trip, request: Request) -> None:
        """Open a session: shake hands with the server for this client alone."""
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        params = permitted_params(trip, request)
        self.table.reserve(principal)
        session = Session(
            id="",
            principal=principal,
            route=route,
            version=params["protocolVersion"],
            client_capabilities=params["capabilities"],
            bounds=self.bounds,
            meter=trip.books.meter,
            monotonic=trip.books.clocks.monotonic,
            on_dead=self.dead,
            last_used=trip.books.clocks.monotonic(),
        )
        try:
            opening = await shake_hands(session, params)
        except InitializeRejected as rejected:
            self._answer(trip, {"error": rejected.error}, [])
            return
        if trip.outlet.gone:
            close_quietly(opening.link)
            trip.settle("cancelled", 200)
            return
        try:
            # Others may have come while the server was starting.
            self.table.reserve(principal)
        except Refused:
            close_quietly(opening.link)
            raise
        # Known only now: what is needed to take the session up again stands in it.
        session.id = self.ids.issue(principal.key, route, params, opening)
        session.lasting = opening.resumable
        self.table.add(session)
        trip.session_digest = digest_of(session.id)
        self._answer(
            trip,
            {"result": offered_to_client(opening.result)},
            [("Mcp-Session-Id", session.id)],
        )

    def _answer(self, trip: Trip, body: Message, headers: list[tuple[str, str]]) -> None:
        message = {"jsonrpc": "2.0", "id": trip.rpc_id, **body}
        trip.settle("error" if "error" in body else "success", 200)
        trip.outlet.answer(200, [JSON_TYPE, *trip.answer_headers(), *headers], encode(message))

    def dead(self, session: Session) -> None:
        """The server's side of a session has ended for good."""
        self.table.end(session)

    # -- POST in a session -----------------------------------------------------------------

    def post(
        self, trip: Trip, session: Session, message: Request | Notification | Response
    ) -> Walk | None:
        """One message of a session; gives as a coroutine what must be waited for, if anything."""
        if isinstance(message, Request):
            return self._request(trip, session, message)
        if isinstance(message, Notification):
            self.notify(trip, session, message)
        else:
            session.take_response(message.fields)
        self._accepted(trip)
        return None

    def _request(self, trip: Trip, session: Session, request: Request) -> Walk | None:
        if request.method == "initialize":
            raise Refused(Refusal(Reason.INVALID_REQUEST, "This session is already initialized"))
        server = session.route.upstream.name
        waiting = self.admission.admit_now(trip, server, request, False)
        if waiting is not None:
            return self._admit(trip, session, request, waiting)
        self._admitted(trip, session, request)
        return None

    async def _admit(
        self, trip: Trip, session: Session, request: Request, waiting: Coroutine[Any, Any, None]
    ) -> None:
        await waiting
        self._admitted(trip, session, request)

    def _admitted(self, trip: Trip, session: Session, request: Request) -> None:
        if session.ended:
            raise Refused(Refusal(Reason.SESSION_NOT_FOUND))
        reply = PostAnswer(
            trip.outlet,
            trip.answer_headers,
            True,
            session.new_stream,
            session.version >= _PRIMING_SINCE,
        )
        self.run(trip, session, request, reply)

    def run(self, trip: Trip, session: Session, request: Request, reply: Reply) -> None:
        """Send a request that was admitted, and its answer by ``reply``."""
        principal, link = trip.principal, session.link
        assert principal is not None
        assert link is not None
        call = RunningCall(
            trip,
            reply,
            request.id,
            principal,
            session.route.upstream.name,
            request.method,
            self.clock,
            self.patience,
            on_end=session.call_ended,
            aside=session.notification,
        )
        session.running[call] = None
        call.start(
            link,
            Outbound(request.id, request.method, request.params, session.version, principal.key),
        )

    def notify(self, trip: Trip, session: Session, message: Notification) -> None:
        """Pass on what a client tells its session; what is not relayed is settled as dropped."""
        known = METHODS.get(message.method)
        if message.method == "notifications/cancelled":
            wanted = (message.params or {}).get("requestId")
            call = (
                session.find_running(wanted)
                if isinstance(wanted, str | int) and not isinstance(wanted, bool)
                else None
            )
            if call is not None:
                reason = (message.params or {}).get("reason")
                call.cancel(reason if isinstance(reason, str) else "cancelled by the client")
        elif (
            known is None
            or known.kind != "notification"
            or not known.relayed
            or session.link is None
        ):
            # A call sent without an id is no way around the rules. 202 all the same, as both
            # reference servers answer; the audit says it went nowhere.
            trip.settle("dropped", 202, reason=Reason.UNKNOWN_METHOD.value)
        else:
            session.link.notify(message.method, message.params)

    def _accepted(self, trip: Trip) -> None:
        trip.settle("success", 202)
        trip.outlet.answer(202, trip.answer_headers(), b"")

    # -- GET and DELETE --------------------------------------------------------------------

    def get(self, trip: Trip, session: Session) -> None:
        """Open the session's stream, or resume the one a ``Last-Event-ID`` names."""
        headers = [*trip.answer_headers(), ("Mcp-Session-Id", session.id)]
        last = trip.incoming.header("last-event-id")
        if last:
            place = parse_event_id(last)
            if place is None:
                raise Refused(Refusal(Reason.NOT_FOUND, "This event stream cannot be resumed"))
            stream = session.resume(trip.outlet, headers, *place)
        else:
            stream = session.attach_get(trip.outlet, headers)
        self._expire_with_credentials(trip, stream)
        # Written at the start: a stream may stay open for days, and the evidence must not wait.
        trip.settle("success", 200)

    def _expire_with_credentials(self, trip: Trip, stream: EventStream) -> None:
        principal = trip.principal
        if principal is None or principal.expires_at is None or trip.outlet.gone:
            return
        left = max(0.0, principal.expires_at - trip.books.clocks.wall())
        timer = self.clock.callLater(left, trip.outlet.finish)
        stream.cut_by(timer)
        trip.outlet.on_gone(lambda: stop_timer(timer))

    def delete(self, trip: Trip, session: Session) -> None:
        """End the session."""
        self.table.end(session)
        trip.settle("success", 200)
        trip.outlet.answer(200, trip.answer_headers(), b"")
