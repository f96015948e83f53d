"""What stands between the directory and each configured server: renewal and translation."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from mcpguard.config.settings import UpstreamSettings
from mcpguard.observe.events import Meter
from mcpguard.pipeline.bridge.handshake_call import CallBounds
from mcpguard.pipeline.bridge.handshake_sessions import HandshakeBounds, HandshakeSessions
from mcpguard.pipeline.bridge.session_listen import ListenBounds
from mcpguard.pipeline.bridge.upstream import BridgingUpstream
from mcpguard.pipeline.schemas import ToolSchemas
from mcpguard.protocol.bridge.rounds import RoundBounds
from mcpguard.upstream.link import Upstream

MAX_SCHEMA_VIEWS = 1_000


def tool_schemas(monotonic: Callable[[], float]) -> ToolSchemas:
    """The one cache of annotated tools, for every way to a stateless server."""
    return ToolSchemas(
        monotonic, ttl_secs=300.0, max_tools=2_000, max_pages=20, max_views=MAX_SCHEMA_VIEWS
    )


def served(
    upstream: Upstream,
    settings: UpstreamSettings,
    *,
    clock: IReactorTime,
    random: Callable[[], float],
    meter: Meter,
    schemas: ToolSchemas,
) -> BridgingUpstream:
    """The server as the corridor sees it: in both eras.

    ``random`` is uniform in [0, 1). The caller starts and stops what this gives, not ``upstream``.
    """
    handshake = HandshakeSessions(
        upstream,
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
                uris=100, uri_bytes=8_192, ack_secs=15.0, first_secs=0.5, most_secs=30.0
            ),
            questions=100,
        ),
    )
    return BridgingUpstream(upstream, settings.bridge, handshake, None)
