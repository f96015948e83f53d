"""Tests of how the corridor is put together."""

from attrs import define, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import RateLimitSettings, ServerSettings
from mcpguard.front.exchange import Incoming
from mcpguard.gateway.corridor import corridor_for
from mcpguard.identity.api_keys import ApiKeys
from mcpguard.identity.chain import Chain
from mcpguard.limits.limiter import Grant
from mcpguard.policy.buckets import Rate
from tests.pipeline.rig import (
    MemoryDirectory,
    MemoryMeter,
    MemoryOutlet,
    MemoryTrail,
    MemoryUpstream,
    api_key,
)


@define(eq=False)
class SharedLimiter:
    """A limiter that knows nobody yet, and lets nobody pass."""

    asked: list[str] = field(factory=list)

    def __len__(self) -> int:
        return 0

    def take(self, key: str, rate: Rate, cost: float = 1.0) -> Grant:
        """Refuse."""
        self.asked.append(key)
        return Grant(False, 1, 0, 10.0, 1.0)

    peek = take


class CorridorTests(SynchronousTestCase):
    """What `corridor_for` is given is what is used."""

    def test_empty_limiter(self) -> None:
        """A limiter that is still empty is not taken for none: it is the one that decides."""
        limiter, clock = SharedLimiter(), Clock()
        pipeline = corridor_for(
            server=ServerSettings(),
            rate_limit=RateLimitSettings(),
            authenticator=Chain(ApiKeys((api_key("alice"),))),
            directory=MemoryDirectory({"/mcp": MemoryUpstream()}),
            clock=clock,
            wall=clock.seconds,
            new_id=lambda: "id",
            recorder=MemoryTrail(),
            meter=MemoryMeter(),
            limiter=limiter,
        )
        outlet = MemoryOutlet()
        pipeline.handle(
            Incoming(
                request_id="id",
                method="POST",
                path="/mcp",
                query="",
                headers={
                    "host": ("127.0.0.1:3000",),
                    "content-type": ("application/json",),
                    "accept": ("application/json, text/event-stream",),
                    "authorization": ("Bearer mcp_alice",),
                },
                body=b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}',
                peer="192.0.2.1",
                received_at=0.0,
            ),
            outlet,
        )
        self.assertEqual(outlet.status, 429)
        self.assertTrue(limiter.asked)
