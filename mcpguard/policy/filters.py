"""Lists as a principal may see them, by the rules that guard the calls."""

from collections.abc import Mapping
from typing import Any

from mcpguard.policy.principal import Rights
from mcpguard.policy.rules import Kind, Operation, decide
from mcpguard.protocol.mcp import METHODS
from mcpguard.protocol.members import Names

_SHOWN: Mapping[str, tuple[Kind, str]] = {
    "tools": ("tool", "name"),
    "prompts": ("prompt", "name"),
    "resources": ("resource", "uri"),
    "resourceTemplates": ("resource", "uriTemplate"),
}
"""By the result's member: what an item is, and the member that says which."""

_NAMES = {member: Names((member, identifying)) for member, (_, identifying) in _SHOWN.items()}


def filter_list(
    rights: Rights, server: str, method: str, result: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Take out of a list result what the principal may not touch; also give how many.

    Order, cursor and unknown members stay. An item that names nothing (no object, no string under
    ``name``, ``uri`` or ``uriTemplate``, or a second spelling of it) is taken out: what
    cannot be judged is not shown. So is a second spelling of the list's own member.

    A resource template is judged by its own text, as `completion/complete` on it is: it shows to
    an identity limited to ``file:///pub/*`` if it begins so, or if ``file:///{path}`` is listed.
    """
    entry = METHODS.get(method)
    if entry is None or entry.lists is None:
        raise ValueError(f"{method} gives no list")
    member = entry.lists
    kind, identifying = _SHOWN[member]
    names = _NAMES[member]
    given = result.get(member)
    items = given if isinstance(given, list) else []
    kept = []
    for item in items:
        if not isinstance(item, dict) or names.spelled_otherwise(item) is not None:
            continue
        name = item.get(identifying)
        if isinstance(name, str) and decide(rights, Operation(kind, name, server, method)).allowed:
            kept.append(item)
    shown = {
        key: value
        for key, value in result.items()
        if key == member or names.spelled_otherwise((key,)) is None
    }
    shown[member] = kept
    return shown, len(items) - len(kept)
