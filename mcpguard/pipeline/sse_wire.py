"""HTTP+SSE (2024-11-05) on the client's side: one event stream, and messages posted beside it.

The stream is the session: it starts with an ``endpoint`` event that names where to post, carries
everything the server says, and its end is the end of the session.

What SDK clients do with a failed POST decides how a request is refused (sources of PyPI ``mcp``
1.x and 2.x, npm ``@modelcontextprotocol/sdk`` 1.x and ``client`` 2.x):

- Python's ``sse_client`` logs it, and posts nothing any more from then on: the caller waits for an
  answer until its own timeout, and so does everybody after it. It also posts one message at a time,
  with 5 s for each, so a POST may not wait for a server either.
- npm's transports raise it to the caller, with the body quoted; the session goes on.

Hence a request is accepted (202) as soon as it could be read, and whatever becomes of it, refusals
included, is an event on the stream. What comes before that (credentials, limits of the identity,
an unknown session, a body that cannot be read) keeps its HTTP status.
"""

from collections.abc import Callable
from urllib.parse import parse_qsl

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.pipeline.dispatch import CLIENT_CLOSED, clip
from mcpguard.pipeline.legacy import LegacyWire, offered_to_client, permitted_params, shake_hands
from mcpguard.pipeline.places import messages_path
from mcpguard.pipeline.session_table import SessionTable, close_quietly
from mcpguard.pipeline.sessions import GET_STREAM, Session, SessionBounds
from mcpguard.pipeline.sse_session import (
    MessageStream,
    SseBounds,
    SseSession,
    Stage,
    StreamReply,
)
from mcpguard.pipeline.streams import stop_timer
from mcpguard.pipeline.trip import Trip, digest_of
from mcpguard.policy.principal import Principal
from mcpguard.protocol.jsonrpc import Notification, Request, Response
from mcpguard.protocol.mcp import LATEST_LEGACY, LEGACY_VERSIONS, claimed_version
from mcpguard.upstream.link import InitializeRejected, Message, Opening

_MAX_QUERY_FIELDS = 100
_ACCEPTED = b"Accepted"


@define(eq=False)
class SseWire:
    """GET of the stream and POST of messages."""

    legacy: LegacyWire
    table: SessionTable
    bounds: SseBounds
    sessions: SessionBounds
    clock: IReactorTime
    new_session_id: Callable[[], str]
    public_url: Callable[[int], str | None]
    """What clients know the listener on a port by."""
    _open: dict[str, SseSession] = field(init=False, factory=dict)
    """By the ``sessionId`` of the endpoint. In the table each has another id, which nobody is
    told: so that no ``Mcp-Session-Id`` finds one."""
    _draining: bool = field(init=False, default=False)

    def __len__(self) -> int:
        return len(self._open)

    # -- the stream ------------------------------------------------------------------------

    def open(self, trip: Trip) -> None:
        """Open a stream, and with it a session; raises Refused (503) at a cap."""
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        if self._draining:
            # It came before the stop began; nothing would end it now.
            raise Refused(Refusal(Reason.DRAINING, retry_after=5.0))
        self.table.reserve(principal)
        token = self.new_session_id()
        session = Session(
            id=self.new_session_id(),
            principal=principal,
            route=route,
            version=LATEST_LEGACY,
            client_capabilities={},
            bounds=self.sessions,
            meter=trip.books.meter,
            monotonic=trip.books.clocks.monotonic,
            on_dead=lambda _: self._dead(token),
            last_used=trip.books.clocks.monotonic(),
        )
        stream = MessageStream(
            GET_STREAM,
            session.log,
            monotonic=trip.books.clocks.monotonic,
            on_end=lambda: self._forget(token),
        )
        session.use_stream(stream)
        held = self._open[token] = SseSession(session, stream, trip.outlet)
        self.table.add(session)
        trip.session_digest = digest_of(session.id)
        held.waiting = self.clock.callLater(self.bounds.handshake_secs, self._end, held)
        self._expire(held, trip, principal)
        path = messages_path(self.public_url(trip.incoming.local_port), trip.incoming.path)
        stream.begin(trip.outlet, trip.answer_headers(), f"{path}?sessionId={token}")
        # Written at the start: a stream may stay open for days, and the evidence must not wait.
        trip.settle("success", 200)
        trip.outlet.on_gone(lambda: self._left(held))

    def _expire(self, held: SseSession, trip: Trip, principal: Principal) -> None:
        """Let the session end with the credentials last shown: each POST shows some anew."""
        if principal.expires_at == held.expires_at:
            return
        stop_timer(held.expiring)
        held.expiring, held.expires_at = None, principal.expires_at
        if principal.expires_at is not None:
            left = max(0.0, principal.expires_at - trip.books.clocks.wall())
            held.expiring = self.clock.callLater(left, self._end, held)

    def _left(self, held: SseSession) -> None:
        for call in list(held.session.running):
            call.cancel("the client has left")
        self._end(held)

    def _dead(self, token: str) -> None:
        held = self._open.get(token)
        if held is None:
            return
        held.dead = True
        if held.stage is not Stage.OPENING:
            self._end(held)

    def _end(self, held: SseSession) -> None:
        self.table.end(held.session)

    def _forget(self, token: str) -> None:
        """Called by the stream, however the session ended."""
        held = self._open.pop(token, None)
        if held is not None:
            stop_timer(held.waiting)
            stop_timer(held.expiring)

    # -- messages --------------------------------------------------------------------------

    def find(self, trip: Trip) -> SseSession:
        """The caller's own session on this route; raises Refused (404, 400 if none is named)."""
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        held = self._open.get(_named_session(trip.incoming.query))
        if (
            held is None
            or held.session.principal.key != principal.key
            or held.session.route.public_path != route.public_path
        ):
            raise Refused(Refusal(Reason.SESSION_NOT_FOUND))
        session = held.session
        session.principal = principal
        session.last_used = trip.books.clocks.monotonic()
        trip.session_digest = digest_of(session.id)
        self._expire(held, trip, principal)
        return held

    def accept(self, trip: Trip, held: SseSession) -> None:
        """Answer the POST; what becomes of its message is said on the stream from now on."""
        trip.elsewhere = held.stream.send
        kind = ("Content-Type", "text/plain; charset=utf-8")
        trip.outlet.answer(202, [kind, *trip.answer_headers()], _ACCEPTED)

    async def post(
        self, trip: Trip, held: SseSession, message: Request | Notification | Response
    ) -> None:
        """One message of a session, accepted before."""
        if isinstance(message, Request):
            await self._request(trip, held, message)
            return
        if isinstance(message, Notification):
            self.legacy.notify(trip, held.session, message)
        else:
            held.session.take_response(message.fields)
        trip.settle("success", 202)

    async def _request(self, trip: Trip, held: SseSession, request: Request) -> None:
        _refuse_modern(request)
        if held.requests >= self.bounds.requests:
            text = "Too many requests of this session are in progress"
            raise Refused(Refusal(Reason.OVERLOADED, text, 1.0))
        held.requests += 1
        trip.on_settled.append(lambda: self._settled(held))
        if request.method == "initialize":
            await self._initialize(trip, held, request)
            return
        session = held.session
        if held.stage is not Stage.OPEN:
            raise Refused(Refusal(Reason.INVALID_REQUEST, "The first request must be initialize"))
        server = session.route.upstream.name
        await self.legacy.admission.admit(trip, server, request, modern=False)
        if session.ended:
            trip.settle("cancelled", CLIENT_CLOSED)
            return
        self.legacy.run(trip, session, request, StreamReply(held.outlet, held.stream))

    async def _initialize(self, trip: Trip, held: SseSession, request: Request) -> None:
        session = held.session
        if held.stage is not Stage.NEW:
            raise Refused(Refusal(Reason.INVALID_REQUEST, "This session is already initialized"))
        params = permitted_params(trip, request)
        session.client_capabilities = params["capabilities"]
        held.stage = Stage.OPENING
        stop_timer(held.waiting)
        try:
            opening = await self._shake_hands(held, params)
        except Exception as error:
            # The server may have told this session of its end, so it is of no further use. In a
            # turn of its own: first the client is told why.
            self.clock.callLater(0, self._end, held)
            if session.ended:
                trip.settle("cancelled", CLIENT_CLOSED)
            elif isinstance(error, InitializeRejected):
                trip.settle("error", 202)
                held.stream.send({"jsonrpc": "2.0", "id": request.id, "error": error.error})
            else:
                raise
            return
        held.stage = Stage.OPEN
        trip.settle("success", 202)
        result = offered_to_client(opening.result)
        held.stream.send({"jsonrpc": "2.0", "id": request.id, "result": result})

    async def _shake_hands(self, held: SseSession, params: Message) -> Opening:
        opening = await shake_hands(held.session, params)
        if held.dead:
            close_quietly(opening.link)
            held.session.link = None
            raise Refused(Refusal(Reason.UPSTREAM_FAILED, detail="ended in its handshake"))
        return opening

    def _settled(self, held: SseSession) -> None:
        held.requests -= 1
        if self._draining and not held.requests:
            # In a turn of its own: a refusal is written down first, then sent.
            self.clock.callLater(0, self._end, held)

    # -- ends ------------------------------------------------------------------------------

    def sweep(self) -> None:
        """End the sessions on which nothing was said for long."""
        now = self.clock.seconds()
        for held in list(self._open.values()):
            last = max(held.session.last_used, held.stream.used_at)
            if not held.requests and now - last > self.bounds.idle_secs:
                self._end(held)

    def drain(self) -> None:
        """End every session, those with requests under way when these have their outcome."""
        self._draining = True
        for held in list(self._open.values()):
            if not held.requests:
                self._end(held)


def _named_session(query: str) -> str:
    """The one ``sessionId`` of a query; raises Refused (400)."""
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        fields = []
    named = [value for name, value in fields if name == "sessionId"]
    if len(named) != 1:
        text = "Messages are posted to the address that the event stream names, with its sessionId"
        raise Refused(Refusal(Reason.INVALID_REQUEST, text))
    return named[0]


def _refuse_modern(request: Request) -> None:
    """Refuse what a client of a stateless version sends: this transport only has handshakes.

    SDK clients that know both ask ``server/discover`` first; -32601 lets them shake hands.
    """
    if request.method == "server/discover":
        raise Refused(Refusal(Reason.UNKNOWN_METHOD))
    version = claimed_version(request.params)
    if version is not None and version not in LEGACY_VERSIONS:
        requested = clip(version) if isinstance(version, str) else None
        data = {"supported": list(LEGACY_VERSIONS), "requested": requested}
        raise Refused(Refusal(Reason.UNSUPPORTED_VERSION, data=data))
