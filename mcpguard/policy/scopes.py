"""Scopes of a token: which tools they grant, and which one is missing for a tool.

Entries of the mapping are read by the rule engine's own `allows`, so that what is asked for here
is what the engine would let through.
"""

from collections.abc import Iterable, Mapping

from mcpguard.policy.principal import Scopes
from mcpguard.policy.rules import MAX_NAME, allows

EVERYTHING = "*"


def granted(
    mapping: Mapping[str, tuple[str, ...]] | None, held: Iterable[str]
) -> tuple[tuple[str, ...] | None, Scopes | None]:
    """What `Rights.scoped_tools` and `Principal.scopes` are for somebody who holds these scopes.

    Without a mapping no tool needs a scope. Otherwise the lists of all held scopes together, in
    the mapping's order; scopes that it does not name grant nothing.
    """
    if mapping is None:
        return None, None
    known = frozenset(held).intersection(mapping)
    tools = dict.fromkeys(
        entry for scope, entries in mapping.items() if scope in known for entry in entries
    )
    return tuple(tools), Scopes(known, mapping)


def needed(scopes: Scopes, server: str, tool: str) -> tuple[str, ...] | None:
    """The scopes to ask for so that this tool is granted; None where none would help.

    The last one is what is missing: of those that grant the tool the one that grants least, by
    the number of its entries, and none that grants everything if there is another. Before it
    stand those that are held: clients replace their token by the one they ask for.
    """
    if len(tool) > MAX_NAME:
        return None
    granting = [
        scope
        for scope, entries in scopes.mapping.items()
        if any(allows(entry, server, tool) for entry in entries)
    ]
    if not granting or not scopes.held.isdisjoint(granting):
        return None
    narrowest = min(granting, key=lambda scope: _width(scopes.mapping[scope]))
    kept = (scope for scope in scopes.mapping if scope in scopes.held)
    return (*kept, narrowest)


def _width(entries: tuple[str, ...]) -> tuple[bool, int]:
    return EVERYTHING in entries, len(entries)
