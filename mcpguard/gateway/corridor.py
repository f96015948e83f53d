"""The corridor put together: every room's piece over any directory, clock and trail."""

import secrets
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from mcpguard.config.settings import RateLimitSettings, ServerSettings
from mcpguard.gateway.limits import MAX_TRACKED_KEYS
from mcpguard.gateway.serving import tool_schemas
from mcpguard.identity.challenge import PLAIN
from mcpguard.limits.limiter import Limiter, Places
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.limits.places import MemoryPlaces
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.pipeline.accepted_bytes import RequestBytes
from mcpguard.pipeline.admission import Admission, Challenges
from mcpguard.pipeline.bare import BareWire
from mcpguard.pipeline.callers import Authenticator, Callers
from mcpguard.pipeline.corridor import Pipeline
from mcpguard.pipeline.legacy import LegacyWire
from mcpguard.pipeline.modern import ModernWire
from mcpguard.pipeline.opaque import Opaque, OpaqueBounds
from mcpguard.pipeline.patience import Patience
from mcpguard.pipeline.pool import SessionPool
from mcpguard.pipeline.revival import Revival
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.pipeline.session_ids import IdBounds, SessionIds
from mcpguard.pipeline.session_table import SessionTable
from mcpguard.pipeline.sessions import Session, SessionBounds
from mcpguard.pipeline.sse_session import SseBounds
from mcpguard.pipeline.sse_wire import SseWire
from mcpguard.pipeline.trip import Books, Clocks, digest_of
from mcpguard.policy.origins import build_rules
from mcpguard.policy.principal import Principal
from mcpguard.protocol.input_requests import InputBounds
from mcpguard.protocol.jsonrpc import Bounds
from mcpguard.protocol.ownership import marked
from mcpguard.protocol.sealing import KEY_BYTES, Seal
from mcpguard.upstream.link import Directory

JSON_BOUNDS = Bounds(max_depth=64, max_nodes=100_000)
SESSIONS = SessionBounds(
    total=10_000,
    per_principal=100,
    idle_secs=1800.0,
    replay_events=256,
    replay_bytes=1_048_576,
    queued_messages=100,
    queued_bytes=1_048_576,
    queued_secs=60.0,
    remembered=100_000,
    remembered_per_principal=10_000,
    asked=100,
    asked_secs=300.0,
)
SESSION_IDS = IdBounds(max_chars=1_000, max_name=64, max_age_secs=7 * 86_400.0, skew_secs=300.0)
OPAQUE = OpaqueBounds(
    state_secs=900.0,
    cursor_secs=86_400.0,
    words=262_144,
    inputs=InputBounds(entries=100, key=256),
)
# Idle sessions whose stream is read are kept longer than those nobody reads from: their clients
# are there, and most of them do not shake hands again by themselves when the stream ends.
SSE = SseBounds(handshake_secs=60.0, idle_secs=14_400.0, requests=100)
REQUEST_BYTES = RequestBytes(per_principal=33_554_432, total=134_217_728)
COMMIT_AFTER_SECS = 15.0
MAX_POOLED_SESSIONS = 1_000
MAX_POOLED_PER_PRINCIPAL = 100
MAX_LISTENS = 20
MAX_LISTEN_URIS = 100


def corridor_for(
    *,
    server: ServerSettings,
    rate_limit: RateLimitSettings,
    authenticator: Authenticator,
    directory: Directory,
    clock: IReactorTime,
    wall: Callable[[], float],
    new_id: Callable[[], str],
    recorder: Recorder,
    meter: Meter,
    port: int | None = None,
    session_key: bytes | None = None,
    random: Callable[[int], bytes] = secrets.token_bytes,
    new_session_id: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    seen: Callable[[Principal], None] = lambda principal: None,
    sessions: SessionBounds = SESSIONS,
    sse: SseBounds = SSE,
    limiter: Limiter | None = None,
    places: Places | None = None,
    schemas: ToolSchemas | None = None,
    owner: int | None = None,
    public_url: Callable[[int], str | None] | None = None,
    challenges: Challenges = PLAIN,
) -> Pipeline:
    """The corridor over any directory, clock and trail.

    ``session_key`` (32 bytes) seals what clients carry for the gateway; None makes one, which
    ends with this process. ``limiter`` and ``places`` are in memory unless given, the limiter by
    the same clock. ``public_url`` tells what clients know the listener on a port by; without it
    all are known by that of ``[server]``. ``owner`` is this worker's number among several: what
    clients bring back is marked with it. A real reactor's clock is none for the limiter
    (`twisted.internet.base.ReactorBase.seconds` is `time.time`): a step back in time would lock
    everybody out until it has passed again.
    """
    monotonic = clock.seconds
    books = Books(recorder, meter, Clocks(monotonic, wall, new_id), server.denial_status)
    # Not `or`: a limiter and places are as false as an empty list while they know nobody.
    if limiter is None:
        limiter = MemoryLimiter(monotonic, wall, max_keys=MAX_TRACKED_KEYS)
    key = session_key or random(KEY_BYTES)
    opaque = Opaque(Seal(key, "state", random), Seal(key, "cursor", random), wall, OPAQUE, owner)
    admission = Admission(rate_limit, limiter, opaque, challenges)

    def session_event(event_type: str, session: Session) -> None:
        # The line says so where a session was begun in another process or an earlier life.
        resumed = event_type == "SessionStarted" and session.resumed
        details = {"resumed": True} if resumed else {}
        recorder.record(
            Event(
                event_type=event_type,
                timestamp=wall(),
                identity_id=session.principal.id,
                provider=session.principal.provider,
                server=session.route.upstream.name,
                session_id=digest_of(session.id),
                details=details,
            )
        )

    table = SessionTable(
        sessions,
        monotonic,
        on_started=lambda session: session_event("SessionStarted", session),
        on_ended=lambda session: session_event("SessionEnded", session),
    )
    schemas = schemas or tool_schemas(monotonic)
    ids = SessionIds(Seal(key, "session", random), wall, SESSION_IDS, owner)
    patience = Patience(clock, COMMIT_AFTER_SECS)
    legacy = LegacyWire(
        admission=admission,
        table=table,
        bounds=sessions,
        clock=clock,
        ids=ids,
        patience=patience,
    )
    return Pipeline(
        books=books,
        clock=clock,
        rules=build_rules(server, server.port if port is None else port),
        callers=Callers(
            books=books,
            limits=rate_limit,
            limiter=limiter,
            authenticator=authenticator,
            seen=seen,
            request_bytes=REQUEST_BYTES,
            places=MemoryPlaces() if places is None else places,
        ),
        directory=directory,
        table=table,
        revival=Revival(ids=ids, table=table, bounds=sessions, on_dead=legacy.dead),
        legacy=legacy,
        modern=ModernWire(
            admission=admission,
            schemas=schemas,
            clock=clock,
            patience=patience,
            max_listens=MAX_LISTENS,
            max_listen_uris=MAX_LISTEN_URIS,
        ),
        bare=BareWire(
            admission=admission,
            pool=SessionPool(
                monotonic,
                idle_secs=900.0,
                max_sessions=MAX_POOLED_SESSIONS,
                max_per_principal=MAX_POOLED_PER_PRINCIPAL,
            ),
            schemas=schemas,
            clock=clock,
            patience=patience,
        ),
        sse=SseWire(
            legacy=legacy,
            table=table,
            bounds=sse,
            sessions=sessions,
            clock=clock,
            new_session_id=lambda: marked(owner, new_session_id()),
            public_url=public_url or (lambda port: server.public_url),
        ),
        json=JSON_BOUNDS,
    )
