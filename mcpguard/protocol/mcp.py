"""The vocabulary of every MCP version: versions, ``_meta`` keys, and the table of methods."""

from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen

from mcpguard.errors import Reason, Refusal, Refused

LATEST_LEGACY = "2025-11-25"
LEGACY_VERSIONS = (LATEST_LEGACY, "2025-06-18", "2025-03-26", "2024-11-05")
"""Versions with the ``initialize`` handshake, newest first."""
MODERN_VERSIONS = ("2026-07-28",)
"""Stateless versions, newest first."""
BATCH_VERSION = "2025-03-26"
"""The one version whose servers must be able to receive arrays."""
ASSUMED_VERSION = "2025-03-26"
"""What a handshake-era request without a version header is taken for."""

META_PREFIX = "io.modelcontextprotocol/"
META_VERSION = META_PREFIX + "protocolVersion"
META_CAPABILITIES = META_PREFIX + "clientCapabilities"
META_CLIENT_INFO = META_PREFIX + "clientInfo"
META_LOG_LEVEL = META_PREFIX + "logLevel"
META_SUBSCRIPTION_ID = META_PREFIX + "subscriptionId"
META_SERVER_INFO = META_PREFIX + "serverInfo"

Touched = Literal["tool", "prompt", "resource"]
Listed = Literal["tools", "prompts", "resources", "resourceTemplates"]


@frozen
class Method:
    """What a client may send under one name, and what that touches."""

    name: str
    kind: Literal["request", "notification"] = "request"
    legacy: bool = True
    """Part of the handshake versions."""
    modern: bool = True
    """Part of the stateless versions."""
    touches: Touched | None = None
    """What kind of thing ``params[param]`` names."""
    param: str | None = None
    lists: Listed | None = None
    """The member of the result that holds the list."""
    relayed: bool = True
    """False for methods that are known but refused for everybody."""


def _table(*methods: Method) -> Mapping[str, Method]:
    return {method.name: method for method in methods}


METHODS = _table(
    Method("tools/list", lists="tools"),
    Method("tools/call", touches="tool", param="name"),
    Method("prompts/list", lists="prompts"),
    Method("prompts/get", touches="prompt", param="name"),
    Method("resources/list", lists="resources"),
    Method("resources/templates/list", lists="resourceTemplates"),
    Method("resources/read", touches="resource", param="uri"),
    Method("completion/complete"),  # touches what its ref names, see `touched`
    Method("initialize", modern=False),
    Method("ping", modern=False),
    Method("logging/setLevel", modern=False),
    Method("resources/subscribe", modern=False, touches="resource", param="uri"),
    Method("resources/unsubscribe", modern=False, touches="resource", param="uri"),
    Method("server/discover", legacy=False),
    Method("subscriptions/listen", legacy=False),  # its URIs are filtered, not refused
    # Tasks would have to be bound to the principal that made them; until then nobody has any.
    Method("tasks/get", relayed=False),
    Method("tasks/result", modern=False, relayed=False),
    Method("tasks/list", modern=False, relayed=False),
    Method("tasks/update", legacy=False, relayed=False),
    Method("tasks/cancel", relayed=False),
    Method("notifications/initialized", kind="notification", modern=False),
    # Stateless clients cancel by closing the stream; their ids could name another's request.
    Method("notifications/cancelled", kind="notification", modern=False),
    Method("notifications/progress", kind="notification", modern=False),
    Method("notifications/roots/list_changed", kind="notification", modern=False),
    Method("notifications/tasks/status", kind="notification", modern=False, relayed=False),
)
"""Everything a client may send, requests and notifications. What is not here is unknown."""

SERVER_REQUESTS = frozenset({"ping", "roots/list", "sampling/createMessage", "elicitation/create"})
"""What a handshake-era server may ask of a client (tasks are off in this direction too)."""

SERVER_NOTIFICATIONS = frozenset(
    {
        "notifications/message",
        "notifications/progress",
        "notifications/cancelled",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/elicitation/complete",
        "notifications/subscriptions/acknowledged",
    }
)
"""What a server may tell a client; the last only in the stateless versions."""

_REFERENCES: Mapping[str, tuple[Touched, str]] = {
    "ref/prompt": ("prompt", "name"),
    "ref/resource": ("resource", "uri"),
}


def touched(method: str, params: Mapping[str, Any] | None) -> tuple[tuple[Touched, str], ...]:
    """Name everything a request touches, as (kind, name) pairs; each must be allowed.

    Covers the ``ref`` of ``completion/complete``. Raises `Refused` (``INVALID_PARAMS``) when the
    name is missing or is no string: what cannot be judged does not pass.
    """
    members = params or {}
    if method == "completion/complete":
        reference = members.get("ref")
        if not isinstance(reference, dict):
            raise _invalid('"ref" must be an object')
        named = reference.get("type")
        if not isinstance(named, str) or named not in _REFERENCES:
            raise _invalid('"ref" must be of type "ref/prompt" or "ref/resource"')
        kind, param = _REFERENCES[named]
        return ((kind, _string(reference, param)),)
    entry = METHODS.get(method)
    if entry is None or entry.touches is None or entry.param is None:
        return ()
    return ((entry.touches, _string(members, entry.param)),)


def metric_label(method: str | None) -> str:
    """Give the method itself if the table knows it, else ``other``: a bounded label."""
    return method if method in METHODS and method is not None else "other"


def claimed_version(params: Mapping[str, Any] | None) -> Any:
    """The protocol version that the ``_meta`` of some params names, whatever it is; else None."""
    meta = (params or {}).get("_meta")
    return meta.get(META_VERSION) if isinstance(meta, dict) else None


def _string(members: Mapping[str, Any], param: str) -> str:
    value = members.get(param)
    if not isinstance(value, str):
        raise _invalid(f'"{param}" must be a string')
    return value


def _invalid(text: str) -> Refused:
    return Refused(Refusal(Reason.INVALID_PARAMS, f"Invalid params: {text}"))
