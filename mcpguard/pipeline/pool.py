"""Sessions with handshake-era servers that the gateway opens itself, for requests without one.

Each belongs to one principal, one route and one set of client capabilities: that is the key, so
nothing that is said on a session can reach anybody else.
"""

import json
from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList, succeed

from mcpguard.errors import METHOD_NOT_FOUND, Reason, Refusal, Refused
from mcpguard.pipeline.dispatch import refusal_of
from mcpguard.pipeline.schemas import CLIENT_INFO
from mcpguard.pipeline.session_table import close_failed, close_quietly
from mcpguard.protocol.mcp import LATEST_LEGACY, LEGACY_VERSIONS
from mcpguard.upstream.link import (
    Attended,
    Call,
    Inbox,
    InitializeRejected,
    Link,
    Message,
    Upstream,
    UpstreamFailure,
)

RETRY_SECS = 5.0
"""How long a client shall wait that finds the pool full."""


@frozen
class PoolKey:
    """Whose session it is, and what for."""

    principal_key: str
    upstream: str
    path: str
    capabilities: str
    """The client capabilities it was opened with, in canonical JSON."""


@define(eq=False)
class PooledSession:
    """One session of the pool. Is the link's `Inbox`.

    What the server says goes to ``resident``. Without one nobody listens and nobody can be asked,
    so everything is refused.
    """

    on_closed: Callable[["PooledSession"], None]
    capabilities: Message = field(factory=dict)
    """What the server was told that the client can do."""
    link: Link | None = None
    version: str = LATEST_LEGACY
    result: Message = field(factory=dict)
    """The server's answer to ``initialize``."""
    resident: Inbox | None = None
    in_use: int = 0
    last_used: float = 0.0
    dead: bool = False

    @property
    def attended(self) -> bool:
        """See `link.Attended`: whether its resident has somebody who listens."""
        return isinstance(self.resident, Attended) and self.resident.attended

    def notification(self, message: Message) -> None:
        """Nobody listens between requests, unless somebody moved in."""
        if self.resident is not None:
            self.resident.notification(message)

    def request(self, message: Message, related: Call | None) -> None:
        """Let the resident answer; without one refuse all but pings."""
        if self.resident is not None:
            self.resident.request(message, related)
        elif self.link is not None:
            answer: Message = {"jsonrpc": "2.0", "id": message.get("id")}
            if message.get("method") == "ping":
                self.link.respond({**answer, "result": {}})
            else:
                error = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
                self.link.respond({**answer, "error": error})

    def closed(self, failure: UpstreamFailure) -> None:
        """The session is gone; the next request opens another."""
        self.dead = True
        self.on_closed(self)
        if self.resident is not None:
            self.resident.closed(failure)


@define(eq=False)
class SessionPool:
    """One handshake session per principal, route and client capabilities, opened on first use."""

    monotonic: Callable[[], float]
    idle_secs: float
    max_sessions: int
    max_per_principal: int
    _open: OrderedDict[PoolKey, PooledSession] = field(init=False, factory=OrderedDict)
    _opening: dict[PoolKey, list[Deferred[None]]] = field(init=False, factory=dict)
    _ended: bool = field(init=False, default=False)

    def __len__(self) -> int:
        return len(self._open) + len(self._opening)

    @property
    def sessions(self) -> list[PooledSession]:
        """All that are open now."""
        return list(self._open.values())

    async def borrow(
        self,
        principal_key: str,
        upstream: Upstream,
        path: str,
        capabilities: Message | None = None,
    ) -> PooledSession:
        """The principal's session of this kind; raises Refused when there can be none.

        ``capabilities`` are those of a handshake-era client, without them there are none. Every
        session borrowed is to be given back.
        """
        offered = capabilities or {}
        canonical = json.dumps(offered, sort_keys=True)
        key = PoolKey(principal_key, upstream.name, path, canonical)
        while True:
            session = self._open.get(key)
            if session is not None:
                return self._lend(key, session)
            if key not in self._opening:
                session = await self._open_first(key, upstream, offered)
                if not session.dead:
                    return session
                # Those who had waited for it used it up before this one could.
                self.give_back(session)
                continue
            waiting: Deferred[None] = Deferred()
            self._opening[key].append(waiting)
            await waiting

    async def _open_first(
        self, key: PoolKey, upstream: Upstream, capabilities: Message
    ) -> PooledSession:
        """Open a session that others may wait for by now, lend it, and tell them."""
        self._make_room(key.principal_key)
        self._opening[key] = []
        try:
            session = await self._handshake(key, upstream, capabilities)
        except Exception as problem:
            # It is everybody's who waited: one try each, one after the other, would take as
            # many timeouts as there are callers.
            for one in self._opening.pop(key):
                one.errback(problem)
            raise
        self._lend(key, session)
        for one in self._opening.pop(key):
            one.callback(None)
        return session

    def borrow_open(self, principal_key: str, upstream: str, path: str) -> PooledSession | None:
        """The principal's session on this route that was used last, of whatever capabilities."""
        for key in reversed(self._open):
            if (key.principal_key, key.upstream, key.path) == (principal_key, upstream, path):
                return self._lend(key, self._open[key])
        return None

    def _lend(self, key: PoolKey, session: PooledSession) -> PooledSession:
        self._open.move_to_end(key)
        session.in_use += 1
        session.last_used = self.monotonic()
        return session

    def give_back(self, session: PooledSession) -> None:
        """What it was borrowed for has ended."""
        session.in_use -= 1
        session.last_used = self.monotonic()

    def discard(self, session: PooledSession) -> None:
        """Lend it no more: its server has forgotten it."""
        for key, one in self._open.items():
            if one is session:
                self._close(key, session)
                return

    async def _handshake(
        self, key: PoolKey, upstream: Upstream, capabilities: Message
    ) -> PooledSession:
        session = PooledSession(
            on_closed=lambda dead: self._forget(key, dead), capabilities=capabilities
        )
        params: Message = {
            "protocolVersion": LATEST_LEGACY,
            "capabilities": capabilities,
            "clientInfo": dict(CLIENT_INFO),
        }
        try:
            opening = await upstream.open_session(key.principal_key, params, session, key.path)
        except InitializeRejected as rejected:
            raise Refused(
                Refusal(
                    Reason.UPSTREAM_FAILED,
                    detail=f"initialize was rejected: {rejected.error.get('code')}",
                )
            ) from rejected
        except UpstreamFailure as failure:
            raise Refused(refusal_of(failure)) from failure
        session.link, session.result = opening.link, opening.result
        version = opening.result.get("protocolVersion")
        if self._ended:
            close_quietly(opening.link)
            raise Refused(Refusal(Reason.DRAINING, retry_after=RETRY_SECS))
        if version in LEGACY_VERSIONS:
            session.version = version
            opening.link.notify("notifications/initialized", None)
        if version not in LEGACY_VERSIONS or session.dead:
            close_quietly(opening.link)
            detail = f"protocolVersion {version!r} or early end"
            raise Refused(Refusal(Reason.UPSTREAM_FAILED, detail=detail))
        self._open[key] = session
        return session

    def _make_room(self, principal_key: str) -> None:
        """Close what idles longest where a cap is reached; raises Refused if all are in use."""
        if self._ended:
            raise Refused(Refusal(Reason.DRAINING, retry_after=RETRY_SECS))
        keys = (*self._open, *self._opening)
        own = sum(key.principal_key == principal_key for key in keys)
        if own >= self.max_per_principal:
            self._evict(principal_key)
        elif len(keys) >= self.max_sessions:
            self._evict(None)

    def _evict(self, principal_key: str | None) -> None:
        for key, session in self._open.items():
            if session.in_use == 0 and principal_key in (None, key.principal_key):
                self._close(key, session)
                return
        raise Refused(Refusal(Reason.OVERLOADED, retry_after=RETRY_SECS))

    def sweep(self) -> None:
        """Close sessions idle too long."""
        now = self.monotonic()
        for key, session in list(self._open.items()):
            if session.in_use == 0 and now - session.last_used > self.idle_secs:
                self._close(key, session)

    def end_all(self) -> Deferred[None]:
        """Close every session and open no more; fires when all links are closed."""
        self._ended = True
        closing = [self._close(key, session) for key, session in list(self._open.items())]
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)

    def _forget(self, key: PoolKey, session: PooledSession) -> None:
        if self._open.get(key) is session:
            del self._open[key]

    def _close(self, key: PoolKey, session: PooledSession) -> Deferred[None]:
        self._forget(key, session)
        session.dead = True
        if session.resident is not None:
            session.resident.closed(UpstreamFailure(Reason.SESSION_NOT_FOUND, "it was closed"))
        if session.link is None:
            return succeed(None)
        closing = session.link.close()
        closing.addErrback(close_failed)
        return closing
