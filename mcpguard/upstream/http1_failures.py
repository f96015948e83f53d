"""What went wrong with a connection, in the words of the upstreams."""

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.python.failure import Failure

from mcpguard.errors import DialRefused, Reason
from mcpguard.upstream.link import UpstreamFailure

_MEANINGS = (
    ("certificate required", "the server wants a client certificate"),
    ("alert unknown ca", "the server does not know the CA of our client certificate"),
    ("alert certificate expired", "the server finds our client certificate expired"),
    ("alert certificate revoked", "the server finds our client certificate revoked"),
    ("alert bad certificate", "the server refuses our client certificate"),
    ("alert unsupported certificate", "the server refuses our client certificate"),
    ("alert certificate unknown", "the server refuses our client certificate"),
    (
        "alert handshake failure",
        "the server refuses the handshake; it may want a client certificate",
    ),
    ("alert access denied", "the server refuses our client certificate"),
    ("protocol version", "the server speaks no TLS 1.2 or newer"),
    ("unsupported protocol", "the server speaks no TLS 1.2 or newer"),
    ("unrecognized name", "the server does not know the name it was asked for"),
    ("no application protocol", "the server does not speak HTTP/1.1"),
    ("wrong version number", "the server does not speak TLS on this port"),
    ("packet length too long", "the server does not speak TLS on this port"),
)
"""What OpenSSL's reason contains, and what it means; the first that fits."""


def tls_words(problem: SSL.Error) -> str:
    """What a broken handshake means for the operator, with OpenSSL's reasons."""
    queue = problem.args[0] if problem.args and isinstance(problem.args[0], list) else []
    reasons = "; ".join(str(one[-1]) for one in queue) or type(problem).__name__
    for part, meaning in _MEANINGS:
        if part in reasons:
            return f"{meaning} ({reasons})"
    return reasons


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
