"""The bounds of a stdio upstream."""

from mcpguard.config.settings import UpstreamSettings
from mcpguard.policy.buckets import Rate
from mcpguard.protocol.jsonrpc import Bounds
from mcpguard.upstream.child import ChildBounds
from mcpguard.upstream.conversation import CallBounds
from mcpguard.upstream.correlation import PROGRESS_BURST, PROGRESS_INTERVAL
from mcpguard.upstream.crashes import CrashBounds
from mcpguard.upstream.supervision import SupervisionBounds

GRACE_SECS = 2.0
MAX_LISTENS = 1000

JSON_BOUNDS = Bounds(max_depth=200, max_nodes=1_000_000)
CRASH_BOUNDS = CrashBounds(
    first_secs=0.5,
    most_secs=30.0,
    jitter=0.25,
    loop=5,
    window_secs=60.0,
    cooldown_secs=60.0,
    healthy_secs=10.0,
)


def bounds_of(settings: UpstreamSettings) -> SupervisionBounds:
    """Every bound of a stdio upstream: the configured ones, and those nobody needs to turn."""
    return SupervisionBounds(
        max_children=settings.max_children,
        # A burst may fill all seats; afterwards sessions come and go no faster than this.
        spawn_rate=Rate(per_second=10.0, burst=settings.max_children + 4),
        idle_secs=settings.idle_timeout_secs,
        evictable_secs=min(60.0, settings.idle_timeout_secs),
        sweep_secs=max(0.05, min(15.0, settings.idle_timeout_secs / 4)),
        chatter_rate=Rate(per_second=20.0, burst=200),
        chatter_line=2048,
        child=ChildBounds(
            max_message=settings.max_message_size,
            max_unsent=max(settings.max_message_size, 1_048_576),
            stall_secs=settings.timeout_secs,
            grace_secs=GRACE_SECS,
            json=JSON_BOUNDS,
        ),
        calls=CallBounds(
            # Streams and our own requests do not count against max_concurrency.
            max_pending=settings.max_concurrency + MAX_LISTENS + 100,
            timeout_secs=settings.timeout_secs,
            max_timeout_secs=settings.max_timeout_secs,
            progress_interval=PROGRESS_INTERVAL,
            progress_burst=PROGRESS_BURST,
            max_message=settings.max_message_size,
        ),
    )
