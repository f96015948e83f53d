"""What a stateless client hears of a handshake-era server's changes (``subscriptions/listen``)."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from attrs import frozen

from mcpguard.protocol.mcp import META_PREFIX, META_SUBSCRIPTION_ID

Message = dict[str, Any]

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
LIST_CHANGES: Mapping[str, tuple[str, str]] = {
    "notifications/tools/list_changed": ("tools", "toolsListChanged"),
    "notifications/prompts/list_changed": ("prompts", "promptsListChanged"),
    "notifications/resources/list_changed": ("resources", "resourcesListChanged"),
}
"""Each with the server's capability and the client's wish that it depends on."""

_MAX_URI = 8192
"""Characters of a URI whose parents are looked up among what was subscribed to."""


@frozen
class Wish:
    """What a listen asks for."""

    lists: tuple[str, ...]
    """Members of the filter: ``toolsListChanged`` and its kin."""
    uris: tuple[str, ...] | None
    """None when it names no resources at all."""


def wish(params: Mapping[str, Any] | None) -> Wish:
    """Read the params of a ``subscriptions/listen``; what is malformed in them is not asked for."""
    wanted = (params or {}).get("notifications")
    given = wanted if isinstance(wanted, dict) else {}
    uris = given.get("resourceSubscriptions")
    return Wish(
        lists=tuple(flag for _, flag in LIST_CHANGES.values() if given.get(flag) is True),
        uris=(
            tuple(dict.fromkeys(uri for uri in uris if isinstance(uri, str)))
            if isinstance(uris, list)
            else None
        ),
    )


def honoured(asked: Wish, capabilities: object) -> Wish:
    """The part of a wish that a server of these capabilities can fulfil."""
    given = capabilities if isinstance(capabilities, dict) else {}
    resources = given.get("resources")
    subscribes = isinstance(resources, dict) and resources.get("subscribe") is True
    kept = {flag for area, flag in LIST_CHANGES.values() if _tells(given.get(area))}
    return Wish(
        lists=tuple(flag for flag in asked.lists if flag in kept),
        uris=asked.uris if subscribes else None,
    )


def acknowledgement(lists: Collection[str], uris: Collection[str] | None) -> Message:
    """The first message of a listen: what it will hear of."""
    told: Message = dict.fromkeys(lists, True)
    if uris is not None:
        told["resourceSubscriptions"] = list(uris)
    return {"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": {"notifications": told}}


def under(message: Mapping[str, Any], subscription: str | int) -> Message:
    """A server's notification as one of a listen, named by its client's id of the listen."""
    params = message.get("params")
    given = params if isinstance(params, dict) else {}
    meta = given.get("_meta")
    kept = meta if isinstance(meta, dict) else {}
    told = {key: value for key, value in kept.items() if not key.startswith(META_PREFIX)}
    return {**message, "params": {**given, "_meta": {**told, META_SUBSCRIPTION_ID: subscription}}}


def ending(subscription: str | int) -> Message:
    """The response that ends a listen in order."""
    meta = {META_SUBSCRIPTION_ID: subscription}
    result = {"resultType": "complete", "_meta": meta}
    return {"jsonrpc": "2.0", "id": subscription, "result": result}


def covering(uri: str) -> Iterator[str]:
    """The URI and those above it: an update may name a part of what was subscribed to."""
    yield uri
    if len(uri) > _MAX_URI:
        return
    for at, character in enumerate(uri):
        if character == "/":
            yield uri[:at]
            if at + 1 < len(uri):
                yield uri[: at + 1]


def _tells(capability: object) -> bool:
    return isinstance(capability, dict) and capability.get("listChanged") is True
