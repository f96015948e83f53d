"""What a server's reply to ``server/discover`` says about the versions it speaks."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from mcpguard.errors import (
    HEADER_MISMATCH,
    MISSING_CLIENT_CAPABILITY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcpguard.protocol.mcp import LEGACY_VERSIONS, MODERN_VERSIONS


@frozen
class DiscoverVerdict:
    """What can be concluded, and what cannot."""

    modern: tuple[str, ...] = ()
    """The stateless versions both it and we speak, newest first."""
    legacy: bool | None = None
    """True: it lists a handshake version. None: it did not say, only ``initialize`` can tell.
    False: it listed what it speaks, and we know none of it."""
    discovered: dict[str, Any] | None = field(default=None, repr=False)
    """The result, if it is a well-formed one."""


def judge_discover(answer: Mapping[str, Any] | None) -> DiscoverVerdict:
    """Judge the response to ``server/discover``; None stands for silence until the timeout.

    No single error code decides: a stateless server is recognised by its result or by one of the
    errors only such a server has; anything else leaves the question to ``initialize``.
    """
    if answer is None:
        return DiscoverVerdict()
    result = answer.get("result")
    if isinstance(result, dict):
        verdict = _judge_list(result.get("supportedVersions"))
        if verdict is None:
            return DiscoverVerdict()
        return DiscoverVerdict(verdict.modern, verdict.legacy, result)
    error = answer.get("error")
    if not isinstance(error, dict):
        return DiscoverVerdict()
    code = error.get("code")
    if code == UNSUPPORTED_PROTOCOL_VERSION:
        data = error.get("data")
        listed = data.get("supported") if isinstance(data, dict) else None
        return _judge_list(listed) or DiscoverVerdict()
    if code in (HEADER_MISMATCH, MISSING_CLIENT_CAPABILITY):
        # It understood the stateless form, and only disliked this one request.
        return DiscoverVerdict(MODERN_VERSIONS)
    return DiscoverVerdict()


def _judge_list(listed: object) -> DiscoverVerdict | None:
    """Judge a list of versions; None if it is none."""
    if not isinstance(listed, list) or not listed:
        return None
    if not all(isinstance(version, str) for version in listed):
        return None
    modern = tuple(version for version in MODERN_VERSIONS if version in listed)
    if any(version in listed for version in LEGACY_VERSIONS):
        return DiscoverVerdict(modern, True)
    # Servers of both eras list only the stateless versions in a stateless answer.
    return DiscoverVerdict(modern, None if modern else False)
