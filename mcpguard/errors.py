"""Refusals: the one table from a reason to its HTTP status, JSON-RPC code and public text.

No text here or passed in here may carry a path, command, URL, stack or words of an upstream's
failure; those go to the log under the same ``error_id``.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from attrs import field, frozen

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CLIENT_CAPABILITY = -32021
UNSUPPORTED_PROTOCOL_VERSION = -32022


class Reason(Enum):
    """Why a request was refused or failed; the value is the word in audit events and logs."""

    # transport
    MALFORMED_HTTP = "malformed_http"
    SLOW_REQUEST = "slow_request"
    TOO_LARGE = "too_large"
    BAD_HOST = "bad_host"
    BAD_ORIGIN = "bad_origin"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    # identity
    TOO_MANY_FAILURES = "too_many_failures"
    NO_CREDENTIALS = "no_credentials"
    BAD_CREDENTIALS = "bad_credentials"
    EXPIRED_CREDENTIALS = "expired_credentials"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    NO_AUTHENTICATION_CONFIGURED = "no_authentication_configured"
    IDENTITY_UNAVAILABLE = "identity_unavailable"
    # limits
    RATE_LIMITED = "rate_limited"
    TOOL_RATE_LIMITED = "tool_rate_limited"
    TOO_MANY_CONCURRENT = "too_many_concurrent"
    OVERLOADED = "overloaded"
    LIMITS_UNAVAILABLE = "limits_unavailable"
    # protocol
    PARSE = "parse_error"
    INVALID_REQUEST = "invalid_request"
    INVALID_PARAMS = "invalid_params"
    HEADER_MISMATCH = "header_mismatch"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNKNOWN_METHOD = "unknown_method"
    MISSING_CAPABILITY = "missing_capability"
    SESSION_REQUIRED = "session_required"
    SESSION_NOT_FOUND = "session_not_found"
    STREAM_CONFLICT = "stream_conflict"
    # policy
    DENIED = "denied"
    SERVER_DENIED = "server_denied"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    # upstream
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_BUSY = "upstream_busy"
    UPSTREAM_ERA = "upstream_era"
    UPSTREAM_CHANGED = "upstream_changed"
    ANSWER_TOO_LARGE = "answer_too_large"
    # ours
    DRAINING = "draining"
    INTERNAL = "internal_error"


@frozen
class Shape:
    """What one reason looks like on the wire."""

    status: int
    code: int
    """JSON-RPC code: a standard one, or the HTTP status where the protocol assigns none."""
    text: str
    event_type: str = "RequestRefused"
    """The audit outcome this refusal is recorded as."""


SHAPES: Mapping[Reason, Shape] = {
    Reason.MALFORMED_HTTP: Shape(400, INVALID_REQUEST, "Malformed HTTP request"),
    Reason.SLOW_REQUEST: Shape(408, 408, "The request took too long to arrive"),
    Reason.TOO_LARGE: Shape(413, 413, "Request body is too large"),
    Reason.BAD_HOST: Shape(421, 421, "This host name is not served here"),
    Reason.BAD_ORIGIN: Shape(403, 403, "Requests from this origin are not accepted"),
    Reason.NOT_FOUND: Shape(404, 404, "Not found"),
    Reason.METHOD_NOT_ALLOWED: Shape(405, 405, "Method not allowed"),
    Reason.NOT_ACCEPTABLE: Shape(
        406, 406, "Accept must allow application/json and text/event-stream"
    ),
    Reason.UNSUPPORTED_MEDIA_TYPE: Shape(415, 415, "Content-Type must be application/json"),
    Reason.TOO_MANY_FAILURES: Shape(
        429, 429, "Too many failed authentication attempts", "RateLimited"
    ),
    Reason.NO_CREDENTIALS: Shape(401, 401, "Authentication required", "AuthFailure"),
    Reason.BAD_CREDENTIALS: Shape(401, 401, "Invalid credentials", "AuthFailure"),
    Reason.EXPIRED_CREDENTIALS: Shape(401, 401, "Credentials have expired", "AuthFailure"),
    Reason.ADDRESS_NOT_ALLOWED: Shape(
        401, 401, "These credentials are not valid from this address", "AuthFailure"
    ),
    Reason.NO_AUTHENTICATION_CONFIGURED: Shape(
        401, 401, "No authentication is configured on this gateway", "AuthFailure"
    ),
    Reason.IDENTITY_UNAVAILABLE: Shape(
        503, 503, "Credentials cannot be checked now, try again shortly", "AuthFailure"
    ),
    Reason.RATE_LIMITED: Shape(429, 429, "Rate limit exceeded", "RateLimited"),
    Reason.TOOL_RATE_LIMITED: Shape(429, 429, "Rate limit exceeded for this tool", "RateLimited"),
    Reason.TOO_MANY_CONCURRENT: Shape(
        429, 429, "Too many requests in progress for this identity", "RateLimited"
    ),
    Reason.OVERLOADED: Shape(503, 503, "The gateway is at its limit, try again shortly"),
    Reason.LIMITS_UNAVAILABLE: Shape(
        503, 503, "Rate limits cannot be checked now, try again shortly"
    ),
    Reason.PARSE: Shape(400, PARSE_ERROR, "The body is not valid JSON"),
    Reason.INVALID_REQUEST: Shape(400, INVALID_REQUEST, "The body is not a valid JSON-RPC message"),
    Reason.INVALID_PARAMS: Shape(400, INVALID_PARAMS, "Invalid params"),
    Reason.HEADER_MISMATCH: Shape(400, HEADER_MISMATCH, "A header does not match the body"),
    Reason.UNSUPPORTED_VERSION: Shape(
        400, UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version"
    ),
    Reason.UNKNOWN_METHOD: Shape(404, METHOD_NOT_FOUND, "Method not found"),
    Reason.MISSING_CAPABILITY: Shape(
        400, MISSING_CLIENT_CAPABILITY, "A required client capability was not declared"
    ),
    Reason.SESSION_REQUIRED: Shape(400, INVALID_REQUEST, "Mcp-Session-Id is required"),
    Reason.SESSION_NOT_FOUND: Shape(404, 404, "Session not found"),
    Reason.STREAM_CONFLICT: Shape(409, 409, "This session already has an open event stream"),
    Reason.DENIED: Shape(403, 403, "Not authorized", "AuthorizationDenied"),
    Reason.SERVER_DENIED: Shape(
        403, 403, "Not authorized to use this server", "AuthorizationDenied"
    ),
    Reason.INSUFFICIENT_SCOPE: Shape(
        403, 403, "A scope is missing for this", "AuthorizationDenied"
    ),
    Reason.UPSTREAM_UNAVAILABLE: Shape(503, 503, "The MCP server is not available"),
    Reason.UPSTREAM_FAILED: Shape(502, 502, "The MCP server failed to answer"),
    Reason.UPSTREAM_TIMEOUT: Shape(504, 504, "The MCP server did not answer in time"),
    Reason.UPSTREAM_BUSY: Shape(503, 503, "The MCP server is at its limit, try again shortly"),
    Reason.UPSTREAM_ERA: Shape(
        400,
        UNSUPPORTED_PROTOCOL_VERSION,
        "The MCP server does not speak this protocol version",
    ),
    Reason.UPSTREAM_CHANGED: Shape(
        503, 503, "The MCP server speaks another protocol version than before, try again shortly"
    ),
    Reason.ANSWER_TOO_LARGE: Shape(502, 502, "The MCP server's answer is too large"),
    Reason.DRAINING: Shape(503, 503, "The gateway is shutting down"),
    Reason.INTERNAL: Shape(500, INTERNAL_ERROR, "Internal error"),
}


@frozen
class Refusal:
    """One refused or failed request, ready to be rendered for either kind of client."""

    reason: Reason
    text: str = ""
    """Public words instead of the table's; empty keeps the table's."""
    retry_after: float | None = None
    """Seconds; shown rounded up in ``Retry-After`` and the body."""
    data: Mapping[str, Any] = field(factory=dict)
    """Further members of the JSON-RPC error's ``data``, such as ``supported``."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further response headers, such as ``WWW-Authenticate`` and ``Allow``."""
    detail: str = ""
    """For the log and the audit only, never for the client."""

    @property
    def shape(self) -> Shape:
        """The row of the table."""
        return SHAPES[self.reason]

    @property
    def message(self) -> str:
        """The public words."""
        return self.text or self.shape.text


class Refused(Exception):
    """Raised where a request must stop; carries what the client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal


class ConfigurationError(Exception):
    """The configuration cannot be used; ``problems`` lists every reason, one sentence each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DialRefused(Exception):
    """The egress rules forbid the address; the text is for the log."""
