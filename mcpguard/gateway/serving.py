"""What stands between the directory and each configured server: renewal and translation."""

import secrets
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from mcpguard.config.settings import UpstreamSettings
from mcpguard.observe.events import Meter
from mcpguard.pipeline.bridge.handshake_call import CallBounds
from mcpguard.pipeline.bridge.handshake_sessions import HandshakeBounds, HandshakeSessions
from mcpguard.pipeline.bridge.lodging import ResidenceBounds
from mcpguard.pipeline.bridge.parking import ParkingBounds
from mcpguard.pipeline.bridge.session_listen import ListenBounds
from mcpguard.pipeline.bridge.stateless_links import StatelessBounds, StatelessLinks
from mcpguard.pipeline.bridge.stateless_listen import ListenPace
from mcpguard.pipeline.bridge.upstream import BridgingUpstream
from mcpguard.pipeline.pool import SessionPool
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.protocol.bridge.rounds import RoundBounds
from mcpguard.upstream.crashes import CrashBounds
from mcpguard.upstream.link import Upstream
from mcpguard.upstream.renewal import RenewalBounds, RenewingUpstream
from mcpguard.upstream.renewal_posture import PostureBounds

MAX_SCHEMA_VIEWS = 1_000
RENEWAL = RenewalBounds(
    pace=CrashBounds(
        first_secs=0.5,
        most_secs=60.0,
        jitter=0.25,
        loop=8,
        window_secs=600.0,
        cooldown_secs=300.0,
        healthy_secs=60.0,
    ),
    max_waiting=100,
    max_params=16_384,
    spread_secs=2.0,
    posture=PostureBounds(max_subscriptions=256, max_uri=2_048),
)
MAX_BRIDGED_SESSIONS = 1_000
MAX_BRIDGED_PER_PRINCIPAL = 16
"""Of one server: one for each set of capabilities that the clients of a principal declare."""


def tool_schemas(monotonic: Callable[[], float]) -> ToolSchemas:
    """The one cache of annotated tools, for every way to a stateless server."""
    return ToolSchemas(
        monotonic, ttl_secs=300.0, max_tools=2_000, max_pages=20, max_views=MAX_SCHEMA_VIEWS
    )


def fresh_token() -> str:
    """What nobody can guess, for calls that wait for their clients."""
    return secrets.token_urlsafe(24)


def served(
    upstream: Upstream,
    settings: UpstreamSettings,
    *,
    clock: IReactorTime,
    random: Callable[[], float],
    meter: Meter,
    schemas: ToolSchemas,
    new_token: Callable[[], str] = fresh_token,
) -> BridgingUpstream:
    """The server as the corridor sees it: in both eras, its lost sessions begun anew.

    ``random`` is uniform in [0, 1), ``new_token`` gives what nobody can guess. The caller starts
    and stops what this gives, not ``upstream``.
    """
    renewing = RenewingUpstream(
        upstream,
        settings.restart,
        clock=clock,
        random=random,
        meter=meter,
        bounds=RENEWAL,
    )
    handshake = HandshakeSessions(
        renewing,
        schemas,
        clock,
        random,
        meter,
        HandshakeBounds(
            call=CallBounds(
                rounds=RoundBounds(rounds=10, entries=20, size=settings.max_message_size),
                total_secs=settings.max_timeout_secs,
                pause_secs=0.5,
                max_pause_secs=10.0,
            ),
            listen=ListenBounds(
                uris=100,
                uri_bytes=8_192,
                ack_secs=min(15.0, settings.timeout_secs),
                first_secs=0.5,
                most_secs=30.0,
            ),
            questions=100,
        ),
    )
    pool = SessionPool(
        clock.seconds,
        idle_secs=settings.idle_timeout_secs,
        max_sessions=MAX_BRIDGED_SESSIONS,
        max_per_principal=MAX_BRIDGED_PER_PRINCIPAL,
    )
    stateless = StatelessLinks(
        inner=renewing,
        pool=pool,
        clock=clock,
        meter=meter,
        random=random,
        new_token=new_token,
        bounds=StatelessBounds(
            parking=ParkingBounds(
                # Each takes a place at the server: some must stay for calls that ask nothing.
                calls=max(1, settings.max_concurrency // 2),
                calls_per_principal=max(1, min(20, settings.max_concurrency // 4)),
                size=67_108_864,
                size_per_principal=16_777_216,
                secs=300.0,
                rounds=10,
                questions=20,
                notifications=20,
            ),
            residence=ResidenceBounds(waiting=20, waiting_secs=30.0, ping_secs=30.0),
            pace=ListenPace(first_secs=0.5, most_secs=30.0, jitter=0.25),
            gather_secs=0.01,
            linger_secs=0.05,
            listens=10_000,
        ),
    )
    # A stateless server has no sessions that could have one each.
    own = settings.transport == "stdio" and settings.isolation in ("per_session", "per_principal")
    all_own = own and settings.isolation == "per_principal"
    return BridgingUpstream(renewing, settings.bridge, handshake, stateless, own, all_own)
