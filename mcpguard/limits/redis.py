"""An authority whose buckets are in a Redis that many gateways share.

Of txredisapi this uses the protocol alone. Its pools let commands wait without end for a
connection and try again after up to 10 s; here a connection is either there and proven, or every
question fails at once.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, TimeoutError, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import InvalidResponse, RedisError, RedisProtocol, ResponseError

from mcpguard.limits.authority import Returned, Unreachable
from mcpguard.limits.redis_script import SCRIPT, SHA
from mcpguard.observe.events import Meter
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease, wait
from mcpguard.policy.redis_url import RedisAddress

log = Logger()
T = TypeVar("T")

CALLS = "mcp_guard_redis_calls_total"
NOBODY = Ask("probe", 1, 0, 0, 0.0)
PROBE_RATE = Rate(1_000.0, 1_000)


@frozen
class RedisBounds:
    """The limits of one connection to Redis."""

    timeout_secs: float
    """For an answer."""
    connect_secs: float
    """For a connection, TLS included; and again for signing in and loading the script."""
    failures: int
    """Answers in a row that fail before the connection is given up."""
    retry_secs: float
    """Before the first further attempt to connect; doubled after each."""
    max_retry_secs: float
    pending: int
    """Commands that wait for their answers."""
    reply_bytes: int
    """Of one answer, and of what comes without being asked for."""


REDIS_BOUNDS = RedisBounds(
    timeout_secs=0.05,
    connect_secs=2.0,
    failures=3,
    retry_secs=0.1,
    max_retry_secs=1.0,
    pending=10_000,
    reply_bytes=65_536,
)
"""What the gateway uses, but for the timeout."""


def endpoint_for(
    reactor: Any, address: RedisAddress, tls: IOpenSSLClientConnectionCreator | None = None
) -> IStreamClientEndpoint:
    """How to reach it; with ``rediss`` through ``tls``, which verifies it.

    Raises ValueError when that is missing.
    """
    endpoint = HostnameEndpoint(reactor, address.host, address.port)
    if not address.tls:
        return endpoint
    if tls is None:
        raise ValueError("a Redis with TLS needs something to verify it by")
    return wrapClientTLS(tls, endpoint)


class _Connection(RedisProtocol):
    """txredisapi's protocol with a bound on what it takes, and word of its end."""

    def __init__(
        self,
        clock: IReactorTime,
        reply_bytes: int,
        on_lost: Callable[["_Connection", str], None],
    ) -> None:
        # Numbers stay as they are written; deadlines are kept by who asks.
        super().__init__(charset="utf-8", convertNumbers=False)
        # Without hiredis it goes on parsing in a later turn, by default of the global reactor.
        self.callLater = clock.callLater
        self._reply_bytes = reply_bytes
        self._unread = 0
        self._problem = ""
        self._on_lost = on_lost

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Parse replies; whatever is no reply to a command ends the connection."""
        if not unpause:  # else it is the rest of what came before
            self._unread += len(data)
        try:
            super().dataReceived(data, unpause)
        except (RedisError, ValueError):
            self._unread = self._reply_bytes + 1
        if self._unread > self._reply_bytes:
            # Told by who hears of the end, once: it is tried again and again.
            self._problem = "it sent what is no answer; is it a Redis?"
            self.transport.abortConnection()

    def lineReceived(self, line: str) -> None:
        """Without hiredis: refuse what it would refuse."""
        if line[:1] not in ("", "+", "-", ":", "$", "*"):
            raise InvalidResponse("not RESP")
        super().lineReceived(line)

    def replyReceived(self, reply: Any) -> None:
        """One reply is complete."""
        if self.replyQueue.waiting:
            self._unread = 0
            super().replyReceived(reply)

    def connectionLost(self, why: Failure) -> None:
        """Say so, then fail what waits: who hears of that sends nothing more here."""
        self._on_lost(self, self._problem or why.getErrorMessage())
        super().connectionLost(why)


@define(eq=False)
class RedisAuthority:
    """Implements `Authority`: one script, one connection, one deadline, and a breaker.

    The breaker is open while there is no connection that has just run the script. It opens when
    the connection ends or ``failures`` answers in a row fail, and closes when a new connection
    has signed in, loaded the script and run it, in time, on a bucket of its own.
    """

    _clock: IReactorTime
    _endpoint: IStreamClientEndpoint
    address: RedisAddress
    _meter: Meter
    key_prefix: str = field(kw_only=True)
    bounds: RedisBounds = field(kw_only=True)
    _ready: _Connection | None = field(init=False, default=None)
    _attempt: Deferred[Any] | None = field(init=False, default=None)
    _retry: IDelayedCall | None = field(init=False, default=None)
    _attempts: int = field(init=False, default=0)
    """To connect, since an answer came."""
    _failures: int = field(init=False, default=0)
    """Answers in a row."""
    _pending: int = field(init=False, default=0)
    _running: bool = field(init=False, default=False)
    _ended: str = field(init=False, default="")
    """Why the connection that was being opened has ended."""
    _reported: bool | None = field(init=False, default=None)
    """What the log said last: up or down."""

    @property
    def up(self) -> bool:
        """Whether questions are sent at all: the breaker is closed."""
        return self._ready is not None

    # -- Authority -------------------------------------------------------------------------

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Lend tokens of ``key``'s bucket."""
        return self._run(key, rate, ask, 0)

    def give_back(self, returned: Sequence[Returned]) -> None:
        """Put unspent tokens back; nobody waits for the answers."""
        for one in returned:
            answer = self._run(one.key, one.rate, Ask(one.holder, 0, 0, 0, 0.0), one.tokens)
            answer.addErrback(lambda failure: failure.trap(Unreachable) and None)

    def _run(self, key: str, rate: Rate, ask: Ask, back: int) -> Deferred[Lease]:
        connection = self._ready
        if connection is None:
            return fail(Unreachable("there is no connection to Redis"))
        if self._pending >= self.bounds.pending:
            return fail(Unreachable("too many questions to Redis are under way"))
        return self._in_time(connection, self._evaluate(connection, key, rate, ask, back))

    def _evaluate(
        self, connection: _Connection, key: str, rate: Rate, ask: Ask, back: int
    ) -> Deferred[Lease]:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        arguments = (
            *("1", self.key_prefix + digest, repr(rate.per_second), rate.burst, ask.holder),
            *(ask.least, ask.extra, ask.held, repr(ask.lasts), back),
        )

        def unknown(failure: Failure) -> Any:
            failure.trap(ResponseError)
            if not str(failure.value).startswith("NOSCRIPT"):
                return failure
            # Somebody has flushed the scripts.
            return connection.execute_command("EVAL", SCRIPT, *arguments)

        answer: Deferred[Any] = connection.execute_command("EVALSHA", SHA, *arguments)
        answer.addErrback(unknown)
        return answer.addCallback(_lease_from, rate)

    def _in_time(self, connection: _Connection, answer: Deferred[Lease]) -> Deferred[Lease]:
        """The answer, or `Unreachable` after the deadline; either counts for the breaker."""
        result: Deferred[Lease] = Deferred()
        self._pending += 1
        deadline = self._clock.callLater(self.bounds.timeout_secs, lambda: look_again())

        def look_again() -> None:
            # After a long turn of the reactor timers run before sockets are read.
            nonlocal deadline
            deadline = self._clock.callLater(0, late)

        def late() -> None:
            self._failed(connection, "timeout", "no answer in time")
            if not result.called:
                result.errback(Unreachable("Redis did not answer in time"))

        def answered(lease: Lease) -> None:
            self._pending -= 1
            if deadline.active():
                deadline.cancel()
                self._meter.count(CALLS, result="answered")
                self._failures = self._attempts = 0
                if not result.called:
                    result.callback(lease)

        def failed(failure: Failure) -> None:
            self._pending -= 1
            if deadline.active():
                deadline.cancel()
                word = "error" if failure.check(ResponseError, Unreachable) else "lost"
                self._failed(connection, word, failure.getErrorMessage())
                if not result.called:
                    result.errback(Unreachable(failure.getErrorMessage()))

        answer.addCallbacks(answered, failed)
        return result

    def _failed(self, connection: _Connection, result: str, why: str) -> None:
        self._meter.count(CALLS, result=result)
        self._failures += 1
        if self._failures >= self.bounds.failures and self._ready is connection:
            self._report(False, why)
            self._ready = None
            connection.transport.abortConnection()

    # -- the connection --------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected; nothing waits for it."""
        self._running = True
        self._connect()

    async def stop(self) -> None:
        """Let what was sent be answered, then close the connection."""
        self._running = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        connection, self._ready = self._ready, None
        if self._attempt is not None:
            self._attempt.cancel()
        if connection is None:
            return
        gone: Deferred[None] = connection.whenDisconnected()
        try:
            # Answers come in order: after this one everything sent before has been done.
            await self._within(self.bounds.connect_secs, connection.ping())
        except (RedisError, TimeoutError) as error:
            log.debug("Redis did not answer at the end: {error}", error=error)
        connection.transport.abortConnection()
        await gone

    def _connect(self) -> None:
        self._retry = None
        self._ended = ""
        self._attempts += 1
        self._attempt = Deferred.fromCoroutine(self._open())
        self._attempt.addCallbacks(self._opened, self._not_opened)

    async def _open(self) -> _Connection:
        seconds = self.bounds.connect_secs
        factory = Factory.forProtocol(
            lambda: _Connection(self._clock, self.bounds.reply_bytes, self._lost)
        )
        factory.noisy = False
        connection = cast(
            "_Connection", await self._within(seconds, self._endpoint.connect(factory))
        )
        try:
            await self._within(seconds, Deferred.fromCoroutine(self._greet(connection)))
            trial = self._evaluate(connection, "probe", PROBE_RATE, NOBODY, 0)
            await self._within(self.bounds.timeout_secs, trial)
        except BaseException:
            connection.transport.abortConnection()
            raise
        return connection

    def _opened(self, connection: _Connection) -> None:
        self._attempt = None
        self._ready, self._failures = connection, 0
        self._report(True, "")

    async def _greet(self, connection: _Connection) -> None:
        address = self.address
        if address.password is not None:
            await connection.auth(address.password, address.username)
        if address.database:
            await connection.select(address.database)
        await connection.execute_command("SCRIPT", "LOAD", SCRIPT)

    def _within(self, seconds: float, waited: Deferred[T]) -> Awaitable[T]:
        return waited.addTimeout(seconds, self._clock)

    def _not_opened(self, failure: Failure) -> None:
        self._attempt = None
        if self._running:
            late = "no answer in time" if failure.check(TimeoutError) else ""
            # What txredisapi says of a failed handshake of TLS is that the connection was lost.
            self._report(False, late or self._ended or failure.getErrorMessage())
            self._try_again()

    def _lost(self, connection: _Connection, why: str) -> None:
        if self._ready is connection:
            self._ready = None
            self._report(False, f"the connection ended: {why}")
        self._ended = why
        if self._running and self._attempt is None and self._retry is None:
            self._try_again()

    def _try_again(self) -> None:
        bounds = self.bounds
        # The exponent is bounded: an outage may be long.
        delay = min(bounds.retry_secs * 2.0 ** min(self._attempts, 20), bounds.max_retry_secs)
        self._retry = self._clock.callLater(delay, self._connect)

    def _report(self, up: bool, why: str) -> None:
        """Tell each change once."""
        if up == self._reported:
            return
        self._reported = up
        place = f"{self.address.host}:{self.address.port}"
        if up:
            log.info("rate limits are shared through Redis at {place}", place=place)
        else:
            log.warn("Redis at {place} cannot be asked: {why}", place=place, why=why[:200])


def _lease_from(reply: Any, rate: Rate) -> Lease:
    try:
        granted, kept, elsewhere, text = reply
        remaining = float(text.split(" ")[0])
        return Lease(int(granted), int(kept), remaining, int(elsewhere), wait(remaining, rate))
    except (AttributeError, TypeError, ValueError) as error:
        raise Unreachable("Redis answered something else") from error
