"""The limiter put together: own memory, the parent's for all workers, or Redis for all gateways."""

import secrets
import time
from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field

from mcpguard.config.settings import RateLimitSettings, RedisSettings
from mcpguard.limits.authority import Authority
from mcpguard.limits.leasing import LeasingLimiter
from mcpguard.limits.limiter import Limiter, Places
from mcpguard.limits.memory import MemoryLimiter
from mcpguard.limits.memory_authority import MemoryAuthority
from mcpguard.limits.places import MemoryPlaces, PlaceBook
from mcpguard.limits.remote import LimitsDesk, RemoteAuthority, RemotePlaces
from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.control import Control, Peers
from mcpguard.policy.redis_url import parse_redis_url

MAX_TRACKED_KEYS = 100_000
MAX_WAITING = 10_000
MAX_PLACES = 1_000_000
MAX_OWED_PLACES = 10_000
PARENT_SECS = 2.0
"""For the parent's answer, which otherwise takes less than a millisecond."""


@define(eq=False)
class Limiting:
    """Who decides about rates and places, from start to stop."""

    _reactor: Any
    _wall: Callable[[], float]
    _metrics: Metrics
    _monotonic: Callable[[], float] = time.monotonic
    limiter: Limiter = field(init=False)
    places: Places = field(init=False)
    _leasing: list[LeasingLimiter] = field(init=False, factory=list)
    _redis: Any = field(init=False, default=None)
    """A `limits.redis.RedisAuthority`."""
    _denying: bool = field(init=False, default=False)

    def build(self, settings: RateLimitSettings, control: Control | None) -> None:
        """Choose by the configuration, and by whether this is a worker of a parent's."""
        if control is None:
            self.limiter = MemoryLimiter(self._monotonic, self._wall, max_keys=MAX_TRACKED_KEYS)
            self.places = MemoryPlaces()
        else:
            self.limiter = self._lease(RemoteAuthority(control, timeout=PARENT_SECS), None)
            self.places = RemotePlaces(control, timeout=PARENT_SECS, max_owed=MAX_OWED_PLACES)
        if settings.redis is not None:
            self._denying = settings.redis.on_error == "deny"
            self._redis = self._redis_for(settings.redis)
            self.limiter = self._lease(self._redis, None if self._denying else self.limiter)

    def start(self) -> None:
        """Connect, if there is something to connect to; nothing waits for it."""
        if self._redis is not None:
            self._redis.start()

    async def stop(self) -> None:
        """Give back what is held elsewhere."""
        for one in self._leasing:
            one.stop()
        if self._redis is not None:
            await self._redis.stop()

    def readiness(self) -> tuple[bool, str]:
        """Whether requests can be decided about."""
        if self._denying and not self._redis.up:
            return False, "rate limits: Redis does not answer"
        return True, ""

    def _lease(self, authority: Authority, fallback: Limiter | None) -> LeasingLimiter:
        decided = "deny" if fallback is None else "local"
        leasing = LeasingLimiter(
            authority,
            self._reactor,
            self._monotonic,
            self._wall,
            name=secrets.token_hex(8),
            fallback=fallback,
            max_keys=MAX_TRACKED_KEYS,
            max_waiting=MAX_WAITING,
            on_undecided=lambda: self._metrics.count(
                "mcp_guard_rate_limit_undecided_total", decided=decided
            ),
        )
        self._leasing.append(leasing)
        return leasing

    def _redis_for(self, settings: RedisSettings) -> Authority:
        # Imported here: most gateways have no Redis, and txredisapi imports the reactor.
        from mcpguard.limits.redis import REDIS_BOUNDS, RedisAuthority, endpoint_for

        address = parse_redis_url(settings.url.value)
        tls = None
        if address.tls:
            from mcpguard.tls.client import verifying

            # The system's authorities, or those of SSL_CERT_FILE.
            tls = verifying(address.host)
        authority = RedisAuthority(
            self._reactor,
            endpoint_for(self._reactor, address, tls),
            address,
            self._metrics,
            key_prefix=settings.key_prefix,
            bounds=evolve(REDIS_BOUNDS, timeout_secs=settings.timeout_ms / 1000.0),
        )
        self._metrics.show("mcp_guard_redis_up", lambda: int(authority.up))
        return authority


def serve_limits(peers: Peers) -> None:
    """The parent's side: one limit over all its workers."""
    authority = MemoryAuthority(time.monotonic, max_keys=MAX_TRACKED_KEYS)
    LimitsDesk(authority, PlaceBook(max_places=MAX_PLACES)).serve(peers)
