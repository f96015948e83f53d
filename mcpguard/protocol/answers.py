"""How a refusal looks on the wire: JSON-RPC for MCP clients, a small JSON object for the rest."""

import math
from typing import Any

from attrs import frozen

from mcpguard.errors import Reason, Refusal
from mcpguard.protocol.jsonrpc import Id, encode

CHALLENGE = 'Bearer realm="mcp-guard"'
"""The least a 401 must say (RFC 6750 section 3)."""

_RETRY_STATUSES = (429, 503)
_DEFAULT_RETRY = 1.0


@frozen
class Rendered:
    """A whole answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def wants_jsonrpc(accept: str | None) -> bool:
    """Tell whether ``Accept`` lists ``text/event-stream``, which only MCP clients do.

    Wildcards do not count (curl sends ``*/*``), nor does a weight of zero.
    """
    return any(_names_stream(part) for part in (accept or "").split(","))


def render(
    refusal: Refusal,
    *,
    accept: str | None,
    request_id: Id | None,
    error_id: str,
    denial_status: int = 403,
) -> Rendered:
    """Render one refusal (product reference 3.4).

    An MCP client gets a JSON-RPC error with the request's id, null if it could not be read; for
    it alone a policy denial may travel under another HTTP status, but not one that a scope would
    cure: clients act on that by its status. The status is otherwise the same for both.
    ``Retry-After`` goes with every 429 and 503, ``WWW-Authenticate`` with every 401.
    """
    shape = refusal.shape
    status = shape.status
    retry_after = _seconds(refusal)
    body: dict[str, Any]
    if wants_jsonrpc(accept):
        wants_scope = refusal.reason is Reason.INSUFFICIENT_SCOPE
        if shape.event_type == "AuthorizationDenied" and not wants_scope:
            status = denial_status
        error = error_object(refusal, error_id)
        body = {"jsonrpc": "2.0", "id": request_id, "error": error}
    else:
        body = {"error": refusal.message, "error_id": error_id}
        if retry_after is not None and status == 429:
            body["retry_after"] = retry_after
    headers = [*_challenge(refusal), *refusal.headers, ("Content-Type", "application/json")]
    if status in _RETRY_STATUSES and not _has(refusal, "retry-after"):
        headers.append(("Retry-After", str(retry_after)))
    return Rendered(status, tuple(headers), encode(body))


def error_object(refusal: Refusal, error_id: str) -> dict[str, Any]:
    """Give the ``error`` member of a JSON-RPC error for a refusal."""
    data: dict[str, Any] = {**refusal.data, "error_id": error_id}
    retry_after = _seconds(refusal)
    if retry_after is not None:
        data["retry_after"] = retry_after
    return {"code": refusal.shape.code, "message": refusal.message, "data": data}


def _seconds(refusal: Refusal) -> int | None:
    """Whole seconds to wait, at least one; None where waiting is not the point."""
    after = refusal.retry_after
    if after is None or not math.isfinite(after):
        if refusal.shape.status not in _RETRY_STATUSES:
            return None
        after = _DEFAULT_RETRY
    return max(1, math.ceil(after))


def _challenge(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    if refusal.shape.status != 401 or _has(refusal, "www-authenticate"):
        return ()
    return (("WWW-Authenticate", CHALLENGE),)


def _has(refusal: Refusal, name: str) -> bool:
    return any(given.lower() == name for given, _ in refusal.headers)


def _names_stream(part: str) -> bool:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    if media != "text/event-stream":
        return False
    return not any(_is_zero_weight(parameter) for parameter in parameters)


def _is_zero_weight(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", "0.", ".")
