"""Sessions that survive the loss of the server's own session: a decorator of any upstream.

A loss shows in one of two ways. An HTTP server answers 404: it has restarted, or forgotten the
session, and has not looked at the request, so the handshake is repeated and the request sent once
more. A child or a stream has ended: what ran on it may have been carried out and fails; with
``restart = "replay"`` the next request finds a new child that was greeted like the first.
"""

from collections.abc import Callable

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mcpguard.config.settings import Restart
from mcpguard.errors import Reason
from mcpguard.observe.events import Meter
from mcpguard.protocol.jsonrpc import encode
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
from mcpguard.upstream.renewing_link import RenewalBounds, Renewals, RenewingLink

log = Logger()

__all__ = ["RenewalBounds", "RenewingUpstream"]


class RenewingUpstream:
    """Implements `link.Upstream` over another; the sessions it opens are `RenewingLink`.

    ``restart`` is the configured one; it says nothing about ``http``, where only a server's word
    that it has forgotten a session counts as its loss. ``random`` is uniform in [0, 1).
    """

    def __init__(
        self,
        inner: Upstream,
        restart: Restart,
        *,
        clock: IReactorTime,
        random: Callable[[], float],
        meter: Meter,
        bounds: RenewalBounds,
    ) -> None:
        self._inner = inner
        self._replays = restart == "replay" and inner.transport != "http"
        self._max_params = bounds.max_params
        self._renewals = Renewals(
            inner=inner,
            forgetful=inner.transport == "http",
            replays=self._replays,
            clock=clock,
            random=random,
            meter=meter,
            bounds=bounds,
        )

    @property
    def name(self) -> str:
        """See `link.Upstream`."""
        return self._inner.name

    @property
    def transport(self) -> str:
        """See `link.Upstream`."""
        return self._inner.transport

    @property
    def standing(self) -> Standing:
        """See `link.Upstream`."""
        return self._inner.standing

    def start(self) -> None:
        """See `link.Upstream`."""
        self._inner.start()

    def stop(self) -> Deferred[None]:
        """See `link.Upstream`: nothing is renewed any more."""
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        closing = [link.stop(failure) for link in tuple(self._renewals.links)]
        done = DeferredList(closing, consumeErrors=True)
        return done.addCallback(lambda _: self._inner.stop())

    def eras(self) -> Deferred[Eras]:
        """See `link.Upstream`."""
        return self._inner.eras()

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
        """See `link.Upstream`; with ``restart = "replay"`` a new child is greeted as the old."""
        return Deferred.fromCoroutine(
            self._resume(principal_key, params, version, session_id, inbox, path)
        )

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """See `link.Upstream`."""
        return self._inner.stateless(principal_key, path)

    # -- inside ----------------------------------------------------------------------------

    async def _open(self, principal_key: str, params: Message, inbox: Inbox, path: str) -> Opening:
        if len(encode(params)) > self._max_params:
            # Too much to keep for every session; it lives as long as the server's own does.
            return await self._inner.open_session(principal_key, params, inbox, path)
        link = RenewingLink(self._renewals, principal_key, params, inbox, path)
        opening = await link.open()
        return evolve(opening, link=link, resumable=opening.resumable or self._replays)

    async def _resume(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Link:
        link = RenewingLink(self._renewals, principal_key, params, inbox, path)
        await link.resume(version, session_id)
        return link
