"""What a server's replies say about the versions it speaks, or does not speak any more."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from mcpguard.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcpguard.protocol.mcp import LEGACY_VERSIONS, META_VERSION, MODERN_VERSIONS

_HANDSHAKE_WORDS = ("session", "initializ", "protocol version")
"""What handshake-era servers say to a request that comes without a handshake: "Missing session
ID" (PyPI ``mcp``), "No valid session ID provided", "Server not initialized" (npm), "Unsupported
protocol version" (both, where they keep no sessions)."""
_BEFORE_A_HANDSHAKE = frozenset({INVALID_REQUEST, -32000, -32001, -32002})


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


def refuses_version(error: Mapping[str, Any], version: str) -> bool:
    """Whether the error of an answer says that its server does not speak ``version``."""
    if error.get("code") != UNSUPPORTED_PROTOCOL_VERSION:
        return False
    data = error.get("data")
    listed = data.get("supported") if isinstance(data, dict) else None
    return not isinstance(listed, list) or version not in listed


def wants_handshake(error: Mapping[str, Any]) -> bool:
    """Whether the error that a transport answers a stateless request with asks for a session."""
    words = str(error.get("message", ""))[:200].lower()
    told = any(word in words for word in _HANDSHAKE_WORDS)
    return error.get("code") in _BEFORE_A_HANDSHAKE and told


def wants_metadata(error: Mapping[str, Any]) -> bool:
    """Whether an error misses the metadata that only stateless requests have, by their name.

    It comes before the version on the reference server's ladder: what a request of a session meets
    first there.
    """
    return error.get("code") == INVALID_PARAMS and META_VERSION in str(error.get("message", ""))


def refuses_handshake(error: Mapping[str, Any]) -> bool:
    """Whether an error to ``initialize`` is one that only servers without handshakes give."""
    return wants_metadata(error) or error.get("code") in (
        UNSUPPORTED_PROTOCOL_VERSION,
        HEADER_MISMATCH,
        MISSING_CLIENT_CAPABILITY,
        METHOD_NOT_FOUND,
    )


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
