"""The rule engine: one decision for the call and for the list that shows it.

How an entry of an allow or deny list is read:

* Without a colon it is a name or a glob (``*``, ``?``) for the name, on every server.
* ``server:name`` pins: both halves are names or globs, the server's is what stands before the
  first colon. A pin never allows anything anywhere else, not even a tool that is literally called
  ``server:name``. To name something that has a colon, write ``*:name``, such as ``*:urn:isbn:1``.
* A colon followed by ``//`` is no pin but part of a URI: ``file:///pub/*`` stands for these URIs
  on every server; ``fs:file:///pub/*`` pins them.

Deny lists read the same entry in every way that could be meant (a pin at any of its colons, the
whole name), so that a doubt denies. Resources are compared as written and in plain form
(`policy.uris`): an allow entry must match both, for a deny entry one is enough. A URI that readers
may understand differently, and a name longer than `MAX_NAME`, is denied wherever a list could
have had a word on it.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from mcpguard.errors import Reason
from mcpguard.policy.globs import glob_matches, is_glob
from mcpguard.policy.principal import Rights
from mcpguard.policy.uris import is_unclear, plain, plain_pattern

__all__ = [
    "MAX_NAME",
    "Kind",
    "Operation",
    "Verdict",
    "allows",
    "decide",
    "glob_matches",
    "is_glob",
]

Kind = Literal["tool", "prompt", "resource", "method"]

MAX_NAME = 4096
"""Characters of a name or URI that patterns are tried on, which bounds their time."""


class Operation(Struct, frozen=True):
    """One thing somebody wants to touch."""

    kind: Kind
    """``method`` for what touches nothing but the server itself."""
    name: str
    """The tool's or prompt's name, the resource's URI, the method."""
    server: str
    """The configured name of the upstream."""
    method: str


class Verdict(Struct, frozen=True):
    """The decision and what made it."""

    allowed: bool
    reason: str
    """``allowed``, or the word of `errors.Reason`: ``denied``, ``server_denied``,
    ``insufficient_scope``."""
    rule: str | None = None
    """The deciding list and entry, ``denied_tools: rm_*``; the list alone where no entry of it
    matched; None where there is no list."""


_Matcher = Callable[[str], bool]

_SCOPES = "scope_tool_mapping"

_UNRULED = Verdict(True, "allowed")
"""Nothing is said about it anywhere."""


def decide(rights: Rights, operation: Operation) -> Verdict:
    """Judge one operation: the server first, then the deny list, the allow list, the scopes."""
    server, name = operation.server, operation.name
    servers = None
    if rights.servers is not None:
        servers = _first(rights.servers, lambda entry: glob_matches(entry, server))
        if servers is None:
            return Verdict(False, Reason.SERVER_DENIED.value, "allowed_servers")
        servers = f"allowed_servers: {servers}"
    if operation.kind == "method":
        return _UNRULED if servers is None else Verdict(True, "allowed", servers)
    what, allowed, denied = _lists(rights, operation.kind)
    scoped = rights.scoped_tools if operation.kind == "tool" else None
    if allowed is None and not denied and scoped is None:
        return Verdict(True, "allowed", servers)
    is_uri = operation.kind == "resource"
    if len(name) > MAX_NAME:
        return Verdict(False, Reason.DENIED.value, f"{what}: name too long to be judged")
    if is_uri and is_unclear(name):
        return Verdict(False, Reason.DENIED.value, f"{what}: URI can be read in several ways")
    name_plain = plain(name) if is_uri else None
    for entry in denied:
        if _denies(entry, server, name, name_plain):
            return Verdict(False, Reason.DENIED.value, f"denied_{what}: {entry}")
    rule = servers
    if allowed is not None:
        found = _first(allowed, lambda entry: allows(entry, server, name, name_plain))
        if found is None:
            return Verdict(False, Reason.DENIED.value, f"allowed_{what}")
        rule = f"allowed_{what}: {found}"
    if scoped is not None:
        # Last, so that nobody is sent for a scope who would be denied with it all the same.
        found = _first(scoped, lambda entry: allows(entry, server, name, None))
        if found is None:
            return Verdict(False, Reason.INSUFFICIENT_SCOPE.value, _SCOPES)
        if rule is servers:
            rule = f"{_SCOPES}: {found}"
    return Verdict(True, "allowed", rule)


def _lists(
    rights: Rights, kind: Literal["tool", "prompt", "resource"]
) -> tuple[str, tuple[str, ...] | None, tuple[str, ...]]:
    if kind == "tool":
        return "tools", rights.tools, rights.denied_tools
    if kind == "prompt":
        return "prompts", rights.prompts, rights.denied_prompts
    if kind == "resource":
        return "resources", rights.resources, rights.denied_resources
    raise ValueError(f"no such kind: {kind}")


def _first(entries: tuple[str, ...], matches: _Matcher) -> str | None:
    for entry in entries:
        if matches(entry):
            return entry
    return None


def allows(entry: str, server: str, name: str, name_plain: str | None = None) -> bool:
    """Whether one entry of an allow list is for this name; a URI comes in plain form as well."""
    pinned, colon, rest = entry.partition(":")
    if not colon or rest.startswith("//"):
        pattern = entry
    elif glob_matches(pinned, server):
        pattern = rest
    else:
        return False
    if not glob_matches(pattern, name):
        return False
    return name_plain is None or glob_matches(plain_pattern(pattern), name_plain)


def _denies(entry: str, server: str, name: str, name_plain: str | None) -> bool:
    if _touches(entry, name, name_plain):
        return True
    colon = entry.find(":")
    while colon >= 0:
        if glob_matches(entry[:colon], server) and _touches(entry[colon + 1 :], name, name_plain):
            return True
        colon = entry.find(":", colon + 1)
    return False


def _touches(pattern: str, name: str, name_plain: str | None) -> bool:
    if glob_matches(pattern, name):
        return True
    return name_plain is not None and glob_matches(plain_pattern(pattern), name_plain)
