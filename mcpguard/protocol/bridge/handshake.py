"""What a handshake-era client says as a stateless server knows it, and the answers back.

Clients of 2024-11-05 to 2025-11-25 before servers of 2026-07-28 (mcp-requirements 8.8 B). What
only the stateless era knows never reaches the client: ``resultType``, ``ttlMs``, ``cacheScope``,
the ``_meta`` keys of that era and its error codes. Everything else of a result is left as it is,
also what a version older than 2025-11-25 does not define (``structuredContent``, icons,
``resource_link`` and audio content): results are open in every version, clients skip members that
they do not know, and a block of content that was taken away would be an answer the server never
gave.
"""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from mcpguard.errors import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MISSING_CLIENT_CAPABILITY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcpguard.protocol.mcp import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_PREFIX,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    META_VERSION,
)

Message = dict[str, Any]

RESOURCE_NOT_FOUND = -32002
"""What handshake-era clients know; the stateless era says -32602."""

LOG_LEVELS = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)

PASSED_ON = frozenset(
    {
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
    }
)
"""The requests that both eras have."""

MODERN_META = frozenset(
    {
        META_VERSION,
        META_CAPABILITIES,
        META_CLIENT_INFO,
        META_LOG_LEVEL,
        META_SERVER_INFO,
        META_SUBSCRIPTION_ID,
    }
)
MODERN_MEMBERS = frozenset({"resultType", "ttlMs", "cacheScope", "inputRequests", "requestState"})
"""Members that mean something in a result of the stateless era only."""

_FLAGS = {
    "tools": ("listChanged",),
    "prompts": ("listChanged",),
    "resources": ("subscribe", "listChanged"),
    "completions": (),
    "logging": (),
}
"""What is relayed of a server's capabilities, with the flags that the bridge can keep."""

_NOT_THE_CLIENTS = frozenset({"_meta", "inputResponses", "requestState", "task"})
"""Members of params that are the bridge's own, or ask for what is not relayed (tasks)."""


class Untranslatable(Exception):
    """A server's answer that has no form in the client's era.

    ``text`` is fit for the client, ``detail`` may quote the server and is for the log.
    """

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(detail or text)
        self.text = text


@frozen
class Introduction:
    """What a session's client said of itself in ``initialize``, as the stateless era has it."""

    version: str
    """The handshake version agreed on with the client."""
    capabilities: Message
    info: Message | None = field(default=None)
    """``clientInfo``, where it is a whole one."""


def introduction(params: Mapping[str, Any], version: str | None = None) -> Introduction:
    """Read the params of an ``initialize``; ``version`` is what was agreed on, if it was already.

    A version nobody knows is answered with the newest that has the handshake.
    """
    asked = version or params.get("protocolVersion")
    info = params.get("clientInfo")
    whole = (
        isinstance(info, dict)
        and isinstance(info.get("name"), str)
        and isinstance(info.get("version"), str)
    )
    return Introduction(
        version=asked if isinstance(asked, str) and asked in LEGACY_VERSIONS else LATEST_LEGACY,
        capabilities=client_capabilities(params.get("capabilities")),
        info=info if whole else None,
    )


def client_capabilities(declared: object) -> Message:
    """What of a client's capabilities a stateless server may count on.

    ``elicitation: {}`` has always meant forms, so it says so. No change of the roots is told in
    the stateless era. Tasks, experiments and extensions are not relayed.
    """
    given = declared if isinstance(declared, dict) else {}
    translated: Message = {}
    sampling, elicitation = given.get("sampling"), given.get("elicitation")
    if isinstance(sampling, dict):
        translated["sampling"] = _objects(sampling, ("context", "tools"))
    if isinstance(elicitation, dict):
        modes = _objects(elicitation, ("form", "url"))
        if modes or not elicitation.keys() & {"form", "url"}:
            translated["elicitation"] = modes or {"form": {}}
    if isinstance(given.get("roots"), dict):
        translated["roots"] = {}
    return translated


def server_capabilities(declared: object) -> Message:
    """What of a stateless server's capabilities a handshake-era client is offered."""
    given = declared if isinstance(declared, dict) else {}
    return {
        name: {flag: True for flag in flags if given[name].get(flag) is True}
        for name, flags in _FLAGS.items()
        if isinstance(given.get(name), dict)
    }


def initialize_result(discovered: Mapping[str, Any], version: str, name: str) -> Message:
    """The result of ``initialize`` from that of ``server/discover``.

    ``name`` is what a server is called that does not say its own name.
    """
    meta = discovered.get("_meta")
    told = meta.get(META_SERVER_INFO) if isinstance(meta, dict) else None
    info: Message = dict(told) if isinstance(told, dict) else {}
    if not isinstance(info.get("name"), str):
        info["name"] = name
    if not isinstance(info.get("version"), str):
        info["version"] = ""
    result: Message = {
        "protocolVersion": version,
        "capabilities": server_capabilities(discovered.get("capabilities")),
        "serverInfo": info,
    }
    if isinstance(discovered.get("instructions"), str):
        result["instructions"] = discovered["instructions"]
    return result


def passed_params(params: Mapping[str, Any] | None) -> Message:
    """A client's params without what only the bridge may say in its place.

    Of its ``_meta`` all stays that is not the protocol's: its progress token, trace context.
    """
    given = params or {}
    passed = {key: value for key, value in given.items() if key not in _NOT_THE_CLIENTS}
    meta = given.get("_meta")
    if isinstance(meta, dict):
        passed["_meta"] = {k: v for k, v in meta.items() if not k.startswith(META_PREFIX)}
    return passed


def introduced(
    params: Mapping[str, Any], client: Introduction, version: str, log_level: str | None
) -> Message:
    """`passed_params` with the ``_meta`` that the stateless era wants in every request."""
    meta: Message = {
        **params.get("_meta", {}),
        META_VERSION: version,
        META_CAPABILITIES: client.capabilities,
    }
    if client.info is not None:
        meta[META_CLIENT_INFO] = client.info
    if log_level is not None:
        meta[META_LOG_LEVEL] = log_level
    return {**params, "_meta": meta}


def handshake_result(result: Mapping[str, Any]) -> Message:
    """A complete result as a handshake-era client knows it.

    Raises `Untranslatable` for every other ``resultType``: what it asks of a client is unknown.
    """
    kind = result.get("resultType", "complete")
    if kind != "complete":
        raise Untranslatable(
            "The server's answer is of a type that the gateway does not know",
            f"a result of the type {str(kind)[:40]!r}",
        )
    plain = {key: value for key, value in result.items() if key not in MODERN_MEMBERS}
    return without_modern_meta(plain)


def without_modern_meta(holder: Mapping[str, Any]) -> Message:
    """Params or a result without what only the stateless era has in ``_meta``."""
    meta = holder.get("_meta")
    if not isinstance(meta, dict):
        return dict(holder)
    kept = {key: value for key, value in meta.items() if key not in MODERN_META}
    plain = {key: value for key, value in holder.items() if key != "_meta"}
    return {**plain, "_meta": kept} if kept else plain


def is_wrong_era(error: Mapping[str, Any]) -> bool:
    """Whether an error says that the server does not speak the version it was asked in."""
    return error.get("code") == UNSUPPORTED_PROTOCOL_VERSION


def handshake_error(
    method: str, params: Mapping[str, Any] | None, error: Mapping[str, Any]
) -> Message:
    """An error of a stateless server with the code that a handshake-era client knows for it.

    Codes that are no code of the stateless era alone stay as they are.
    """
    code = error.get("code")
    if code == INVALID_PARAMS and method == "resources/read" and _is_not_found(params, error):
        return {**error, "code": RESOURCE_NOT_FOUND}
    if code == MISSING_CLIENT_CAPABILITY:
        return {"code": INVALID_REQUEST, "message": _missing(error.get("data"))}
    if code == HEADER_MISMATCH:
        # The headers are the gateway's, so the client can do nothing about it.
        return plain_error("The server refused the headers of the request")
    if is_wrong_era(error):
        return plain_error("The server does not speak the protocol version it was asked in")
    return dict(error)


def plain_error(text: str) -> Message:
    """An error that the bridge itself ends a request with."""
    return {"code": INTERNAL_ERROR, "message": text}


def _objects(given: Mapping[str, Any], names: tuple[str, ...]) -> Message:
    return {name: given[name] for name in names if isinstance(given.get(name), dict)}


def _is_not_found(params: Mapping[str, Any] | None, error: Mapping[str, Any]) -> bool:
    """Tell the missing resource from other faults of the params.

    The specification's example and PyPI ``mcp`` 2.x put the URI into ``data``; npm's servers say
    it in words only.
    """
    asked, data, message = (params or {}).get("uri"), error.get("data"), error.get("message")
    if isinstance(asked, str) and isinstance(data, dict) and data.get("uri") == asked:
        return True
    words = message.lower() if isinstance(message, str) else ""
    return "resource" in words and ("not found" in words or "unknown" in words)


def _missing(data: object) -> str:
    needed = data.get("requiredCapabilities") if isinstance(data, dict) else None
    known = [
        name
        for name in ("elicitation", "sampling", "roots")
        if isinstance(needed, dict) and name in needed
    ]
    what = ", ".join(known) or "another one"
    return f"This request needs a client capability that was not declared: {what}"
