"""The member names MCP gives meaning to, by place: a second spelling of one is refused.

A name belongs here if the gateway, or any server behind it, decides something by it. Places whose
names are the user's own (``arguments``, ``inputResponses``, ``context``) have none.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from mcpguard.protocol.mcp import (
    META_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    META_VERSION,
)


def _frozen(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen
class Names:
    """Member names of one place; `spelled_otherwise` finds what differs from one by case only."""

    exact: frozenset[str] = field(converter=_frozen)
    _folded: Mapping[str, str] = field(init=False)

    @_folded.default
    def _fold(self) -> Mapping[str, str]:
        return {name.casefold(): name for name in self.exact}

    def spelled_otherwise(self, members: Iterable[str]) -> str | None:
        """Give the first of our names that ``members`` has in another case; None if it has none.

        Unicode folding counts: a long s or the Kelvin sign stands for its letter in decoders that
        fold as Go's does.
        """
        if self.exact.issuperset(members):
            return None
        for member in members:
            if member not in self.exact:
                name = self._folded.get(member.casefold())
                if name is not None:
                    return name
        return None


ENVELOPE = Names(("jsonrpc", "id", "method", "params", "result", "error"))

PARAMS = Names(
    (
        "_meta",
        "arguments",
        "argument",
        "capabilities",
        "clientInfo",
        "context",
        "cursor",
        "data",
        "inputResponses",
        "level",
        "logger",
        "message",
        "name",
        "notifications",
        "progress",
        "progressToken",
        "protocolVersion",
        "reason",
        "ref",
        "requestId",
        "requestState",
        "task",
        "taskId",
        "total",
        "uri",
    )
)
META = Names(
    (
        META_VERSION,
        META_CAPABILITIES,
        META_CLIENT_INFO,
        META_LOG_LEVEL,
        META_SERVER_INFO,
        META_SUBSCRIPTION_ID,
        "io.modelcontextprotocol/related-task",
        "progressToken",
        "traceparent",
        "tracestate",
        "baggage",
    )
)
CAPABILITIES = Names(
    ("roots", "sampling", "elicitation", "tasks", "experimental", "extensions", "completions")
)
REFERENCE = Names(("type", "name", "uri"))
ARGUMENT = Names(("name", "value"))
LISTEN = Names(
    (
        "toolsListChanged",
        "promptsListChanged",
        "resourcesListChanged",
        "resourceSubscriptions",
        "taskIds",
    )
)

_WITHIN_PARAMS = (
    ("capabilities", CAPABILITIES),
    ("ref", REFERENCE),
    ("argument", ARGUMENT),
    ("notifications", LISTEN),
)


_PLACES = frozenset({"_meta", *(member for member, _ in _WITHIN_PARAMS)})


def all_plain(params: Mapping[str, Any]) -> bool:
    """Whether `guarded` would yield ``params`` alone, and every name of them is one of ours."""
    return PARAMS.exact.issuperset(params) and _PLACES.isdisjoint(params)


def guarded(params: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Names]]:
    """Yield every place below ``params`` that has names of ours, with those names."""
    yield params, PARAMS
    meta = params.get("_meta")
    if isinstance(meta, dict):
        yield meta, META
        declared = meta.get(META_CAPABILITIES)
        if isinstance(declared, dict):
            yield declared, CAPABILITIES
    for member, names in _WITHIN_PARAMS:
        within = params.get(member)
        if isinstance(within, dict):
            yield within, names
