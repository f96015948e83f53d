"""MCP servers behind a URL: Streamable HTTP of every version."""

from typing import NoReturn

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from mcpguard.protocol.eras import refuses_handshake
from mcpguard.upstream.http_probe import probe_eras
from mcpguard.upstream.http_session import HttpSession
from mcpguard.upstream.http_stateless import StatelessHttpLink
from mcpguard.upstream.link import (
    Eras,
    Inbox,
    InitializeRejected,
    Link,
    Message,
    Opening,
    UpstreamFailure,
)
from mcpguard.upstream.url_upstream import UrlUpstream

DISCOVER_SECS = 5.0


class HttpUpstream(UrlUpstream):
    """Implements `link.Upstream` for a server that speaks Streamable HTTP."""

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """See `link.Upstream`."""
        try:
            session = self._session(inbox, path)
        except UpstreamFailure as failure:
            return fail(failure)
        return session.open(principal_key, params).addErrback(self._refused)

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """See `link.Upstream`: no server is asked before the link is used."""
        try:
            session = self._session(inbox, path)
        except UpstreamFailure as failure:
            return fail(failure)
        session.resume(version, session_id)
        return succeed(session)

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """See `link.Upstream`: a new link each time, for there is nothing to share."""
        try:
            return succeed(StatelessHttpLink(self._remote, self._url(path)))
        except UpstreamFailure as failure:
            return fail(failure)

    def _session(self, inbox: Inbox, path: str) -> HttpSession:
        session = HttpSession(self._remote, self._url(path), inbox, self._sessions.discard)
        self._sessions.add(session)
        return session

    def _refused(self, reason: Failure) -> NoReturn:
        """A handshake has failed; if the server knows none any more, say so."""
        problem = reason.value
        if isinstance(problem, InitializeRejected) and refuses_handshake(problem.error):
            failure = self._doubt(f"it answers initialize with {problem.error.get('code')}")
            if self._settings.era == "auto":
                raise failure from problem
        reason.raiseException()

    def _probe(self) -> Deferred[Eras]:
        return Deferred.fromCoroutine(probe_eras(self._remote, self._settings.era, DISCOVER_SECS))
