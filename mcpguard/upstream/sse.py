"""MCP servers behind a URL that speak the first HTTP transport: HTTP with SSE, MCP 2024-11-05."""

from twisted.internet.defer import Deferred, fail

from mcpguard.errors import Reason
from mcpguard.upstream.http_probe import Deaf, shakes_hands
from mcpguard.upstream.link import Eras, Inbox, Link, Message, Opening, UpstreamFailure
from mcpguard.upstream.sse_session import SseSession
from mcpguard.upstream.sse_stream import SseBounds
from mcpguard.upstream.url_upstream import UrlUpstream

SSE_BOUNDS = SseBounds(endpoint_secs=10.0, max_endpoint_bytes=4096)


class SseUpstream(UrlUpstream):
    """Implements `link.Upstream` for a server that speaks HTTP with SSE.

    Each session is one event stream, opened at the configured URL, and the POSTs to the endpoint
    that the stream names. The upstream as a whole is looked after with growing waits
    (`http_vigil`), and the next session opens a stream of its own; but a session whose stream is
    lost is over, for this transport cannot take a stream up again.
    """

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """See `link.Upstream`."""
        try:
            url = self._url(path)
        except UpstreamFailure as failure:
            return fail(failure)
        session = SseSession(self._remote, url, inbox, self._sessions.discard, SSE_BOUNDS)
        self._sessions.add(session)
        return session.open(principal_key, params)

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """See `link.Upstream`: such a session has ended with its stream."""
        return fail(UpstreamFailure(Reason.SESSION_NOT_FOUND, "its event stream has ended"))

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """See `link.Upstream`: this transport is older than stateless requests."""
        return fail(UpstreamFailure(Reason.UPSTREAM_ERA, "HTTP with SSE has no stateless requests"))

    def _probe(self) -> Deferred[Eras]:
        return Deferred.fromCoroutine(self._ask())

    async def _ask(self) -> Eras:
        """Shake hands and leave; raises `UpstreamFailure`."""
        remote = self._remote
        session = SseSession(
            remote, remote.target.url(), Deaf(), on_end=lambda _: None, limits=SSE_BOUNDS
        )
        if not await shakes_hands(session):
            raise UpstreamFailure(Reason.UPSTREAM_ERA, "it speaks no protocol version known here")
        return Eras(legacy=True)
