"""What a stateless server may ask a client for in the course of a request (2026-07-28, MRTR)."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

INPUT_REQUIRED = "input_required"

_NEEDED: Mapping[str, str] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""Every question there is, with the capability that the client must have declared."""


@frozen
class InputBounds:
    """How much one result may ask for."""

    entries: int
    key: int
    """Characters of an entry's key."""


def input_problem(
    result: Mapping[str, Any], capabilities: object, bounds: InputBounds
) -> str | None:
    """Say why an ``input_required`` result must not reach a client; None if it may.

    ``capabilities`` are those that its request declared. The words may quote the server's own and
    are for the log.
    """
    asked = result.get("inputRequests")
    if asked is None:
        asked = {}
    if not isinstance(asked, dict):
        return "it is no object"
    if not asked and result.get("requestState") is None:
        return "nothing is asked"
    if len(asked) > bounds.entries:
        return f"{len(asked)} questions at once"
    declared = capabilities if isinstance(capabilities, dict) else {}
    for key, entry in asked.items():
        if len(key) > bounds.key:
            return f"a key of {len(key)} characters"
        problem = _entry_problem(entry, declared)
        if problem is not None:
            return problem
    return None


def _entry_problem(entry: object, declared: Mapping[str, Any]) -> str | None:
    method = entry.get("method") if isinstance(entry, dict) else None
    params = entry.get("params", {}) if isinstance(entry, dict) else None
    needed = _NEEDED.get(method) if isinstance(method, str) else None
    if needed is None or not isinstance(params, dict):
        return f"a question of the kind {str(method)[:40]!r}"
    capability = declared.get(needed)
    if not isinstance(capability, dict) or not _covers(capability, str(method), params):
        return f"{method} in a form that the client did not declare"
    return None


def _covers(capability: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> bool:
    """Whether a capability says that the client knows this form of the question."""
    if method == "sampling/createMessage":
        return "tools" in capability or not params.keys() & {"tools", "toolChoice"}
    if method != "elicitation/create":
        return True
    mode = params.get("mode", "form")
    # One that names no mode means forms, as it did before there was another.
    named = isinstance(mode, str) and mode in ("form", "url") and mode in capability
    return named or (mode == "form" and "url" not in capability)
