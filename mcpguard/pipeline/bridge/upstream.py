"""A server as clients of both eras see it, whichever it speaks itself."""

from collections.abc import Coroutine
from typing import Any, Protocol

from attrs import Factory, define, evolve, field
from twisted.internet.defer import Deferred, DeferredList

from mcpguard.config.settings import Bridge
from mcpguard.errors import Reason
from mcpguard.protocol.mcp import MODERN_VERSIONS
from mcpguard.upstream.link import (
    Eras,
    Inbox,
    Link,
    Message,
    Opening,
    Standing,
    Upstream,
    UpstreamFailure,
)


class HandshakeSide(Protocol):
    """Gives sessions before a stateless server (`pipeline.bridge.handshake_sessions`)."""

    def open(
        self, eras: Eras, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Coroutine[Deferred[Any], Any, Opening]:
        """Answer ``initialize`` from what the server told; raises `UpstreamFailure`."""
        ...

    def resume(
        self,
        eras: Eras,
        principal_key: str,
        params: Message,
        version: str,
        inbox: Inbox,
        path: str,
    ) -> Coroutine[Deferred[Any], Any, Link]:
        """Go on with a session of an earlier life, of which the server never knew."""
        ...

    def end_all(self) -> Deferred[None]:
        """End every session; fires when their links are closed."""
        ...


class StatelessSide(Protocol):
    """Gives stateless links before a handshake server (`pipeline.bridge.stateless_links`)."""

    def link(self, principal_key: str, path: str) -> Link:
        """A link for single stateless requests of one principal."""
        ...

    def sweep(self) -> None:
        """End what waited or idled too long."""
        ...

    def end_all(self) -> Deferred[None]:
        """End every pooled session; fires when their links are closed."""
        ...


@define(eq=False)
class BridgingUpstream:
    """Implements `link.Upstream` over one that speaks one era: the other is translated.

    With ``bridge = "fallback"`` a handshake server stays one: stateless clients are told its
    versions, and those that know both eras shake hands.
    """

    inner: Upstream
    bridge: Bridge
    handshake: HandshakeSide
    stateless_side: StatelessSide
    one_each: bool = False
    """Whether the stateless requests of each principal have a child of their own."""
    one_for_sessions: bool = False
    """Whether its sessions and bare requests are in one as well."""
    _in_sessions: bool = field(init=False, default=True)
    """Whether stateless requests share a session of their principal, as far as is known."""
    _learning: bool = field(init=False, default=False)
    name: str = field(init=False, default=Factory(lambda self: self.inner.name, takes_self=True))
    """See `link.Upstream`; its own, because every request asks for it several times."""

    @property
    def transport(self) -> str:
        """See `link.Upstream`."""
        return self.inner.transport

    @property
    def standing(self) -> Standing:
        """See `link.Upstream`."""
        return self.inner.standing

    def start(self) -> None:
        """See `link.Upstream`."""
        self.inner.start()

    def stop(self) -> Deferred[None]:
        """See `link.Upstream`: what the bridge holds first, then the server's own."""
        closing = DeferredList(
            [self.handshake.end_all(), self.stateless_side.end_all()], consumeErrors=True
        )
        return closing.addCallback(lambda _: self.inner.stop())

    def sweep(self) -> None:
        """End what waited or idled too long."""
        self.stateless_side.sweep()

    def eras(self) -> Deferred[Eras]:
        """See `link.Upstream`: both eras, with ``bridged`` naming the translated one."""
        return self.inner.eras().addCallback(self._widened)

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """See `link.Upstream`."""
        return Deferred.fromCoroutine(self._open(principal_key, params, inbox, path))

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """See `link.Upstream`."""
        return Deferred.fromCoroutine(
            self._resume(principal_key, params, version, session_id, inbox, path)
        )

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """See `link.Upstream`."""
        return Deferred.fromCoroutine(self._stateless(principal_key, path))

    @property
    def remembers(self) -> bool:
        """Whether what a stateless request leaves behind is there for its principal's next one.

        So they belong into one process. As long as it is not known they might; the server is
        asked, because where none is served nobody else would ask.
        """
        if self.one_each or not self.translates:
            return self.one_each
        if self._in_sessions and not self._learning:
            self._learning = True
            self.eras().addErrback(lambda failure: failure.trap(UpstreamFailure)).addBoth(
                self._learned
            )
        return self._in_sessions

    # -- inside ----------------------------------------------------------------------------

    @property
    def translates(self) -> bool:
        """Whether stateless clients of a handshake server are translated."""
        return self.bridge == "translate"

    def _learned(self, _: object) -> None:
        self._learning = False

    def _widened(self, eras: Eras) -> Eras:
        self._in_sessions = not eras.modern
        if eras.modern and not eras.legacy:
            return evolve(eras, legacy=True, bridged="legacy")
        if eras.legacy and not eras.modern and self.translates:
            return evolve(eras, modern=MODERN_VERSIONS, bridged="modern")
        return eras

    async def _open(self, principal_key: str, params: Message, inbox: Inbox, path: str) -> Opening:
        eras = await self.inner.eras()
        if eras.legacy:
            return await self.inner.open_session(principal_key, params, inbox, path)
        return await self.handshake.open(eras, principal_key, params, inbox, path)

    async def _resume(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Link:
        eras = await self.inner.eras()
        if eras.legacy:
            return await self.inner.resume_session(
                principal_key, params, version, session_id, inbox, path
            )
        if session_id is not None:
            # It was another server then: this one has never given a session id.
            raise UpstreamFailure(Reason.SESSION_NOT_FOUND, "the server keeps no sessions now")
        return await self.handshake.resume(eras, principal_key, params, version, inbox, path)

    async def _stateless(self, principal_key: str, path: str) -> Link:
        eras = await self.inner.eras()
        if eras.modern:
            return await self.inner.stateless(principal_key, path)
        if not self.translates:
            raise UpstreamFailure(Reason.UPSTREAM_ERA, "it speaks no stateless version")
        return self.stateless_side.link(principal_key, path)
