"""What HTTP headers must say: who may call (Host, Origin), and the rules of each era."""

import base64
import binascii
from urllib.parse import urlsplit

from mcpguard.demo.messages import (
    HEADER_MISMATCH,
    LEGACY_VERSIONS,
    META_VERSION,
    Message,
    ProtocolError,
    meta_of,
)
from mcpguard.demo.schemas import Schema, header_params
from mcpguard.demo.wire import Request

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
VERSION = "mcp-protocol-version"
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def host_of(authority: str) -> str | None:
    """The host name in ``name:port``, lower case and without brackets; None when malformed."""
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname


def is_local_origin(origin: str) -> bool:
    """Whether an ``Origin`` is a page served from this machine."""
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and host_of(authority) in LOOPBACK


def accepts(request: Request, kind: str) -> bool:
    """Whether ``Accept`` allows a media type such as ``application/json``; wildcards count."""
    wanted = request.header("accept")
    if wanted is None:
        return False
    offered = {part.split(";")[0].strip().lower() for part in wanted.split(",")}
    return bool(offered & {kind, "*/*", kind.split("/")[0] + "/*"})


def media_type(request: Request) -> str:
    """The ``Content-Type`` without its parameters, lower case."""
    return (request.header("content-type") or "").split(";")[0].strip().lower()


def speaks_modern(request: Request, message: Message) -> bool:
    """Whether a dual-era server must hold a POST to the modern rules (2026-07-28).

    Any version header but a legacy one does, and so does a modern body, which then lacks its
    header; notifications have no ``_meta`` and go by the header alone.
    """
    version = request.header(VERSION)
    if version is not None and version not in LEGACY_VERSIONS:
        return True
    return META_VERSION in meta_of(message) or message.get("method") == "server/discover"


def refuse_repeats(request: Request) -> None:
    """The headers by which requests are routed may stand once each.

    Raises:
        ProtocolError: HEADER_MISMATCH.
    """
    for name in (VERSION, "mcp-method", "mcp-name"):
        if len(request.headers.get(name, ())) > 1:
            raise ProtocolError(HEADER_MISMATCH, f"Header mismatch: {name} is repeated")


def check_modern(request: Request, message: Message) -> None:
    """Version, method and name: each header there, and the same as in the body.

    The body's ``_meta`` has been checked before.

    Raises:
        ProtocolError: HEADER_MISMATCH.
    """
    _expect(request, "MCP-Protocol-Version", str(meta_of(message).get(META_VERSION)))
    _expect(request, "Mcp-Method", message["method"])
    member = _NAMED.get(message["method"])
    if member is not None:
        _expect(request, "Mcp-Name", message["params"].get(member), coded=True)


def check_params(request: Request, schema: Schema, arguments: object) -> None:
    """``Mcp-Param-*`` headers repeat the annotated arguments of a tool, no more and no fewer.

    Raises:
        ProtocolError: HEADER_MISMATCH.
    """
    given = arguments if isinstance(arguments, dict) else {}
    for header, name in header_params(schema).items():
        if given.get(name) is not None:
            _expect(request, header, given[name], coded=True)
        elif header in request.headers:
            raise ProtocolError(HEADER_MISMATCH, f"{header} is not in the body")


def _expect(request: Request, name: str, value: object, *, coded: bool = False) -> None:
    values = request.headers.get(name.lower(), [])
    if len(values) != 1:
        count = "missing" if not values else "repeated"
        raise ProtocolError(HEADER_MISMATCH, f"Header mismatch: {name} is {count}")
    if (decode(values[0]) if coded else values[0]) != value:
        raise ProtocolError(HEADER_MISMATCH, f"Header mismatch: {name} differs from the body")


def decode(value: str) -> str | None:
    """A header value with the base64 form taken off; None when that form is malformed.

    Canonical only: what would not encode to the same text again is refused.
    """
    if not value.isascii():
        return None
    if not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        return value
    coded = value[len("=?base64?") : -len("?=")]
    try:
        content = base64.b64decode(coded, validate=True)
        text = content.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text if base64.b64encode(content).decode("ascii") == coded else None
