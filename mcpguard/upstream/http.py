"""MCP servers behind a URL: Streamable HTTP of every version."""

from twisted.internet.defer import Deferred, fail, succeed

from mcpguard.errors import Reason
from mcpguard.upstream.http_probe import probe_eras
from mcpguard.upstream.http_session import HttpSession
from mcpguard.upstream.http_stateless import StatelessHttpLink
from mcpguard.upstream.link import Eras, Inbox, Link, Message, Opening, UpstreamFailure
from mcpguard.upstream.url_upstream import UrlUpstream

DISCOVER_SECS = 5.0


class HttpUpstream(UrlUpstream):
    """Implements `link.Upstream` for a server that speaks Streamable HTTP."""

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """See `link.Upstream`."""
        try:
            url = self._remote.target.url(path)
        except ValueError as refused:
            return fail(UpstreamFailure(Reason.UPSTREAM_FAILED, str(refused)))
        session = HttpSession(self._remote, url, inbox, self._sessions.discard)
        self._sessions.add(session)
        return session.open(principal_key, params)

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """See `link.Upstream`: a new link each time, for there is nothing to share."""
        try:
            url = self._remote.target.url(path)
        except ValueError as refused:
            return fail(UpstreamFailure(Reason.UPSTREAM_FAILED, str(refused)))
        return succeed(StatelessHttpLink(self._remote, url))

    def _probe(self) -> Deferred[Eras]:
        return Deferred.fromCoroutine(probe_eras(self._remote, self._settings.era, DISCOVER_SECS))
