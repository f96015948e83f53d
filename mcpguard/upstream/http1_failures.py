"""What went wrong with a connection, in the words of the upstreams."""

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.python.failure import Failure

from mcpguard.errors import DialRefused, Reason
from mcpguard.policy.tls_words import tls_words
from mcpguard.upstream.link import UpstreamFailure


def explain(failure: Failure) -> UpstreamFailure:
    """What the failure of a connection means for the caller; the detail names no URL."""
    problem = failure.value
    if isinstance(problem, UpstreamFailure):
        return problem
    if isinstance(problem, DialRefused):
        return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, str(problem))
    if isinstance(problem, SSL.Error):
        return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"TLS: {tls_words(problem)}"[:300])
    if isinstance(problem, VerificationError):
        return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"TLS: {problem}"[:300])
    if isinstance(problem, error.DNSLookupError):
        return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the host name cannot be resolved")
    if isinstance(problem, error.ConnectError | error.ConnectingCancelledError):
        return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"connecting: {problem}"[:300])
    return UpstreamFailure(Reason.UPSTREAM_FAILED, f"no complete answer: {type(problem).__name__}")


def undialled(failure: Failure) -> UpstreamFailure:
    """The same for a connection that was lost before it could be used: nothing was sent on it."""
    meant = explain(failure)
    if meant.reason is Reason.UPSTREAM_UNAVAILABLE:
        return meant
    detail = f"connecting: {type(failure.value).__name__}"
    return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, detail)
