"""A real Redis, gateways that share it, and callers that keep asking them."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.live.gateway_process import GatewayCase, RunningGateway, stdio
from tests.live.processes import Program, free_port
from tests.live.software import REPOSITORY, redis_server

PASSWORD = "not:a@secret"
URL_PASSWORD = "not%3Aa%40secret"


class Caller(Protocol):
    """One connection on which requests follow one another."""

    def __init__(self, key: str, asked: Mapping[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, **asked}).encode()
        self._request = (
            f"POST /mcp/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._received = b""
        self._answer: Deferred[tuple[int, dict[str, str], bytes]] | None = None

    def ask(self) -> Deferred[tuple[int, dict[str, str], bytes]]:
        """Ask once more: status, headers (lower case), body."""
        assert self._answer is None
        assert self.transport is not None
        self._answer = Deferred()
        self.transport.write(self._request)
        return self._answer

    def dataReceived(self, data: bytes) -> None:
        """An answer ends where its length says."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        if len(body) >= int(headers["content-length"]):
            answer, self._answer, self._received = self._answer, None, b""
            assert answer is not None
            answer.callback((int(first.split()[1]), headers, body))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whoever waits hears of it."""
        if self._answer is not None:
            self._answer.errback(reason)


def pid_of(program: Program) -> int:
    """The process of a program that runs."""
    process: Any = program.process
    pid: int = process.pid
    return pid


@define
class Tally:
    """What came of many requests."""

    statuses: Counter[int] = field(factory=Counter)
    slowest: float = 0.0
    reasons: set[str] = field(factory=set)
    """Of the errors."""
    over: bool = False
    """Nobody is to ask any more."""


class RedisCase(GatewayCase):
    """A Redis of the test's own."""

    def setUp(self) -> None:
        """Skip without the program."""
        self.program = redis_server()
        self.port = free_port()

    async def start_redis(self, *options: str) -> Program:
        """A Redis with a password and nothing on disk; ends with the test."""
        directory = Path(self.mktemp())
        directory.mkdir()
        listen = ["--port", str(self.port)] if "--tls-port" not in options else ["--port", "0"]
        redis = self.start(
            [
                *(self.program, "--bind", "127.0.0.1", *listen, "--dir", str(directory.resolve())),
                *("--save", "", "--appendonly", "no", "--requirepass", PASSWORD, *options),
            ],
            name="redis",
        )
        await redis.said("Ready to accept connections")
        return redis

    def limits(self, **more: Any) -> dict[str, Any]:
        """The ``[rate_limit]`` of a gateway before the test's Redis."""
        redis = {"url": f"redis://:{URL_PASSWORD}@127.0.0.1:{self.port}", "timeout_ms": 200}
        redis |= more.pop("redis", {})
        return {"requests_per_second": 10_000, "burst_size": 10_000, **more, "redis": redis}

    async def start_sharing(
        self, identities: Mapping[str, Mapping[str, Any]] | None = None, **limits: Any
    ) -> RunningGateway:
        """A gateway before the demo server, with limits in the test's Redis."""
        demo = stdio(
            "demo",
            [sys.executable, "-m", "mcpguard.demo"],
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        return await self.start_gateway(
            [demo], identities=identities, rate_limit=self.limits(**limits)
        )

    async def caller(self, gateway: RunningGateway, key: str | None = None) -> Caller:
        """A connection of an identity; ends with the test."""
        port = int(gateway.base.rpartition(":")[2])
        caller = Caller(key or gateway.keys["tester"], {"method": "tools/list"})
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port)
        await connectProtocol(endpoint, caller)
        assert caller.transport is not None
        self.addCleanup(caller.transport.loseConnection)
        return caller

    async def keep_asking(
        self, caller: Caller, tally: Tally, until: float, pause: float = 0.0
    ) -> None:
        """Ask again and again, until a moment of the reactor's clock or the tally is over."""
        while self.reactor.seconds() < until and not tally.over:
            await self.pause(pause)
            began = self.reactor.seconds()
            status, _, body = await caller.ask()
            tally.statuses[status] += 1
            tally.slowest = max(tally.slowest, self.reactor.seconds() - began)
            if status >= 400:
                tally.reasons.add(json.loads(body)["error"]["message"])

    async def metric(self, gateway: RunningGateway, name: str) -> float:
        """The value of one sample, as it is written; 0 when there is none."""
        from treq import content, get

        page = await content(await get(f"{gateway.base}/metrics", persistent=False))
        for line in page.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    async def until_up(self, gateway: RunningGateway, up: float, seconds: float) -> None:
        """Wait until the gateway says that Redis decides, or (0) that it does not."""
        deadline = self.reactor.seconds() + seconds * 4
        while await self.metric(gateway, "mcp_guard_redis_up") != up:
            self.assertLess(self.reactor.seconds(), deadline, "Redis's state has not changed")
            await self.pause(0.02)
