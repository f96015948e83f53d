"""The header rules of the stateless versions (MCP 2026-07-28, transports: headers, validation).

Decisions are made on the body alone; headers are only compared with it. `check_modern` walks the
steps that need nothing but the message, in the order the reference server has, because the code of
the first failure is what clients negotiate by.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mcpguard.errors import Reason, Refusal
from mcpguard.protocol.header_values import Headers, decode_value, encode_value
from mcpguard.protocol.jsonrpc import Request
from mcpguard.protocol.mcp import (
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_VERSION,
    METHODS,
    MODERN_VERSIONS,
)
from mcpguard.protocol.param_headers import (
    built_param_headers,
    check_param_headers,
    forwarded_param_headers,
    invalid_annotation,
    param_headers,
)

__all__ = [
    "ALL_VERSIONS",
    "METHOD_HEADER",
    "NAME_HEADER",
    "VERSION_HEADER",
    "built_param_headers",
    "check_modern",
    "check_param_headers",
    "decode_value",
    "encode_value",
    "forwarded_param_headers",
    "invalid_annotation",
    "param_headers",
    "routing_headers",
]

VERSION_HEADER = "MCP-Protocol-Version"
METHOD_HEADER = "Mcp-Method"
NAME_HEADER = "Mcp-Name"

ALL_VERSIONS = (*MODERN_VERSIONS, *LEGACY_VERSIONS)

_MIRRORED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""The member of ``params`` that ``Mcp-Name`` repeats."""


def check_modern(
    headers: Headers, request: Request, supported: Sequence[str] = ALL_VERSIONS
) -> Refusal | None:
    """Check a stateless request as far as it speaks for itself; the first failure, None for none.

    Repeated routing headers (-32020), missing ``_meta`` (-32602), headers that differ from the body
    or are missing (-32020), a version we do not speak (-32022 with ``supported``, the list shown),
    a method this era does not have (404, -32601).
    """
    return (
        _check_single(headers)
        or _check_meta(request)
        or _check_mirrors(headers, request)
        or _check_version(request, supported)
        or _check_method(request)
    )


def routing_headers(
    version: str, method: str, params: Mapping[str, Any] | None
) -> tuple[tuple[str, str], ...]:
    """Give the headers a message to a server must carry, built from the body it is sent with.

    A handshake version has only its own header.
    """
    headers = [(VERSION_HEADER, version)]
    if version not in LEGACY_VERSIONS:
        headers.append((METHOD_HEADER, encode_value(method)))
        named = (params or {}).get(_MIRRORED.get(method, ""))
        if isinstance(named, str):
            headers.append((NAME_HEADER, encode_value(named)))
    return tuple(headers)


def _values(headers: Headers, name: str) -> Sequence[str]:
    return headers.get(name.lower(), ())


def _check_single(headers: Headers) -> Refusal | None:
    for name in (VERSION_HEADER, METHOD_HEADER, NAME_HEADER):
        if len(_values(headers, name)) > 1:
            # Readers of the first and readers of the last would disagree.
            return Refusal(Reason.HEADER_MISMATCH, f"The header {name} was sent more than once")
    return None


def _check_meta(request: Request) -> Refusal | None:
    meta = (request.params or {}).get("_meta")
    if not isinstance(meta, dict):
        return Refusal(Reason.INVALID_PARAMS, "Invalid params: _meta must be an object")
    missing = [key for key in (META_VERSION, META_CAPABILITIES) if key not in meta]
    if missing:
        return Refusal(
            Reason.INVALID_PARAMS, f"Invalid params: _meta must have {' and '.join(missing)}"
        )
    if not isinstance(meta[META_VERSION], str):
        return Refusal(Reason.INVALID_PARAMS, f"Invalid params: {META_VERSION} must be a string")
    if not isinstance(meta[META_CAPABILITIES], dict):
        return Refusal(
            Reason.INVALID_PARAMS, f"Invalid params: {META_CAPABILITIES} must be an object"
        )
    return None


def _check_mirrors(headers: Headers, request: Request) -> Refusal | None:
    params = request.params or {}
    version = params["_meta"][META_VERSION]
    for name, expected in ((VERSION_HEADER, version), (METHOD_HEADER, request.method)):
        values = _values(headers, name)
        if not values:
            return Refusal(Reason.HEADER_MISMATCH, f"The header {name} is missing")
        if values[0] != expected:
            return Refusal(Reason.HEADER_MISMATCH, f"The header {name} does not match the body")
    member = _MIRRORED.get(request.method)
    if member is None:
        return None
    named = params.get(member)
    if not isinstance(named, str):
        return Refusal(Reason.INVALID_PARAMS, f'Invalid params: "{member}" must be a string')
    values = _values(headers, NAME_HEADER)
    if not values:
        return Refusal(Reason.HEADER_MISMATCH, f"The header {NAME_HEADER} is missing")
    if decode_value(values[0]) != named:
        return Refusal(Reason.HEADER_MISMATCH, f"The header {NAME_HEADER} does not match the body")
    return None


def _check_version(request: Request, supported: Sequence[str]) -> Refusal | None:
    requested = (request.params or {})["_meta"][META_VERSION]
    if requested in MODERN_VERSIONS and requested in supported:
        return None
    data = {"supported": list(supported), "requested": requested}
    return Refusal(Reason.UNSUPPORTED_VERSION, data=data)


def _check_method(request: Request) -> Refusal | None:
    method = METHODS.get(request.method)
    if method is not None and method.kind == "request" and method.modern and method.relayed:
        return None
    return Refusal(Reason.UNKNOWN_METHOD)
