"""What a stateless client says as a handshake-era server knows it, and the answers back.

Clients of 2026-07-28 before servers of 2024-11-05 to 2025-11-25 (mcp-requirements 8.8 A). The
``_meta`` keys of the stateless era never reach the server; its results become complete ones that
name the server, its requests the entries of an ``input_required`` result.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from mcpguard.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
)
from mcpguard.protocol.bridge.handshake import LOG_LEVELS, RESOURCE_NOT_FOUND
from mcpguard.protocol.mcp import META_CAPABILITIES, META_LOG_LEVEL, META_PREFIX, META_SERVER_INFO

Message = dict[str, Any]

URL_ELICITATION_REQUIRED = -32042
"""2025-11-25 only: the user must visit some URL before the request can be carried out."""

MAX_ELICITATIONS = 16
"""URLs that one such error may name; it is an error like any other with more."""

_OF_THE_ROUNDS = frozenset({"inputResponses", "requestState"})
_NEEDED = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
_DROPPED = {
    # Tasks are not relayed: a receiver without them works on the request as usual.
    "sampling/createMessage": frozenset({"_meta", "task"}),
    # The stateless era has no word of an elicitation's completion, so nothing to name it by.
    "elicitation/create": frozenset({"_meta", "task", "elicitationId"}),
    "roots/list": frozenset({"_meta"}),
}


@frozen
class Problem:
    """Why a server's request is refused."""

    code: int
    text: str


@frozen
class Opened:
    """What a stateless request asks for beyond its method: read from ``_meta``."""

    capabilities: Message
    """Canonical, in the words of the handshake: equal when the server can tell no difference."""
    log_level: int | None
    """The least severe level it wants log messages of, as a place in ``LOG_LEVELS``."""
    token: str | int | None
    """Its progress token."""


def opened(params: Mapping[str, Any] | None) -> Opened:
    """Read what a stateless request says of its client."""
    meta = (params or {}).get("_meta")
    given = meta if isinstance(meta, dict) else {}
    token = given.get("progressToken")
    return Opened(
        capabilities=handshake_capabilities(given.get(META_CAPABILITIES)),
        log_level=severity(given.get(META_LOG_LEVEL)),
        token=token if isinstance(token, str | int) and not isinstance(token, bool) else None,
    )


def handshake_capabilities(declared: object) -> Message:
    """The client capabilities of ``initialize`` for those of a stateless request.

    Only what the gateway can relay, and of that only what makes a difference to a server, so there
    are no more than forty different ones. No change of roots is told in the stateless era.
    """
    given = declared if isinstance(declared, dict) else {}
    found: Message = {}
    sampling, elicitation = given.get("sampling"), given.get("elicitation")
    if isinstance(sampling, dict):
        found["sampling"] = _named(sampling, ("context", "tools"))
    if isinstance(elicitation, dict):
        modes = _named(elicitation, ("form", "url"))
        # One that names no mode means forms, as it did before there was another.
        if modes or not elicitation.keys() & {"form", "url"}:
            found["elicitation"] = modes or {"form": {}}
    if isinstance(given.get("roots"), dict):
        found["roots"] = {}
    return found


def handshake_params(params: Mapping[str, Any] | None) -> Message | None:
    """The params of a stateless request as a handshake-era server gets them.

    Of ``_meta`` all stays that is not the protocol's (the progress token, trace context); without
    anything left there are none.
    """
    kept = {key: value for key, value in (params or {}).items() if key not in _OF_THE_ROUNDS}
    meta = kept.pop("_meta", None)
    if isinstance(meta, dict):
        plain = {key: value for key, value in meta.items() if not key.startswith(META_PREFIX)}
        if plain:
            kept["_meta"] = plain
    return kept or None


def discover_result(initialized: Mapping[str, Any]) -> Message:
    """The result of ``server/discover`` from that of ``initialize``.

    Which versions are served and what of the capabilities is relayed is not said here: that is
    the same for every server (`pipeline.modern`).
    """
    capabilities = initialized.get("capabilities")
    result: Message = {"capabilities": capabilities if isinstance(capabilities, dict) else {}}
    if isinstance(initialized.get("instructions"), str):
        result["instructions"] = initialized["instructions"]
    return complete(result, initialized)


def complete(result: Mapping[str, Any], initialized: Mapping[str, Any]) -> Message:
    """A result of a handshake-era server as a complete one of the stateless era.

    ``initialized`` is its result of ``initialize``, which names it.
    """
    meta = result.get("_meta")
    given = meta if isinstance(meta, dict) else {}
    told = {key: value for key, value in given.items() if not key.startswith(META_PREFIX)}
    info = initialized.get("serverInfo")
    if isinstance(info, dict):
        told[META_SERVER_INFO] = info
    plain = {key: value for key, value in result.items() if key != "_meta"}
    completed = {**plain, "resultType": "complete"}
    return {**completed, "_meta": told} if told else completed


def input_required(
    questions: Mapping[str, Message], state: str | None, initialized: Mapping[str, Any]
) -> Message:
    """The result that puts questions to the client; ``state`` comes back with its answers."""
    result: Message = {"inputRequests": dict(questions)}
    if state is not None:
        result["requestState"] = state
    return {**complete(result, initialized), "resultType": "input_required"}


def stateless_response(
    message: Mapping[str, Any],
    params: Mapping[str, Any] | None,
    capabilities: Mapping[str, Any],
    initialized: Mapping[str, Any],
    *,
    may_ask: bool,
) -> Message:
    """The ``result`` or ``error`` of a handshake-era server's response, for a stateless client.

    ``params`` and the (canonical) ``capabilities`` are those of the client's request, and
    ``may_ask`` says whether the stateless era lets a server ask for input in its course.
    """
    error = message.get("error")
    if not isinstance(error, dict):
        return {"result": complete(message["result"], initialized)}
    urls = required_urls(error) if may_ask else None
    if urls is None or declined((params or {}).get("inputResponses"), urls):
        return {"error": stateless_error(error, params)}
    if "url" not in capabilities.get("elicitation", {}):
        return {"error": missing_url_mode()}
    # Without a state: the server has ended this request, and the client's next is another.
    return {"result": input_required(urls, None, initialized)}


# -- errors --------------------------------------------------------------------------------


def stateless_error(error: Mapping[str, Any], params: Mapping[str, Any] | None) -> Message:
    """An error of a handshake-era server with the code that the stateless era has for it.

    ``params`` are those of the request: the missing resource is named where it was named there.
    """
    code = error.get("code")
    if code == RESOURCE_NOT_FOUND:
        data, uri = error.get("data"), (params or {}).get("uri")
        told: Message = data if isinstance(data, dict) else {}
        if isinstance(uri, str):
            told = {**told, "uri": uri}
        return {**error, "code": INVALID_PARAMS, **({"data": told} if told else {})}
    if code == URL_ELICITATION_REQUIRED:
        # No code of the stateless era, and none is free for it.
        return {**error, "code": INTERNAL_ERROR}
    return dict(error)


def required_urls(error: Mapping[str, Any]) -> dict[str, Message] | None:
    """The questions of a "URL elicitation required" error; None for any other, or a broken one."""
    data = error.get("data")
    listed = data.get("elicitations") if isinstance(data, dict) else None
    if error.get("code") != URL_ELICITATION_REQUIRED or not isinstance(listed, list):
        return None
    if not 0 < len(listed) <= MAX_ELICITATIONS or not all(_names_url(one) for one in listed):
        return None
    return {
        f"url-{number}": question("elicitation/create", {**one, "mode": "url"})
        for number, one in enumerate(listed, 1)
    }


def missing_url_mode() -> Message:
    """The error for a client that would have to open a URL and never said that it can."""
    return {
        "code": MISSING_CLIENT_CAPABILITY,
        "message": "This request needs a client that can open URLs (elicitation.url)",
        "data": {"requiredCapabilities": {"elicitation": {"url": {}}}},
    }


def declined(responses: object, questions: Iterable[str]) -> bool:
    """Whether a client's answers turn down any of these questions."""
    given = responses if isinstance(responses, dict) else {}
    answers = [given.get(key) for key in questions]
    return any(isinstance(one, dict) and one.get("action") != "accept" for one in answers)


# -- what the server asks ------------------------------------------------------------------


def question_problem(message: Mapping[str, Any], capabilities: Mapping[str, Any]) -> Problem | None:
    """Say why a server's request cannot be put to a client of these (canonical) capabilities."""
    method, params = message.get("method"), message.get("params", {})
    needed = _NEEDED.get(method) if isinstance(method, str) else None
    if needed is None or needed not in capabilities:
        return Problem(METHOD_NOT_FOUND, "Method not found")
    if not isinstance(params, dict):
        return Problem(INVALID_PARAMS, "Invalid params")
    declared = capabilities[needed]
    if method == "elicitation/create":
        mode = params.get("mode", "form")
        if not isinstance(mode, str) or mode not in declared:
            return Problem(INVALID_PARAMS, "The client does not support this mode")
    elif params.keys() & {"tools", "toolChoice"} and "tools" not in declared:
        return Problem(INVALID_PARAMS, "The client does not support tools in sampling")
    return None


def question(method: str, params: Mapping[str, Any] | None) -> Message:
    """A server's request as an entry of ``inputRequests``."""
    dropped = _DROPPED[method]
    kept = {key: value for key, value in (params or {}).items() if key not in dropped}
    return {"method": method, "params": kept}


def response(id: str | int, given: object) -> Message | None:
    """A client's entry of ``inputResponses`` as the response to the server's request ``id``.

    None for what can be no result: it counts as missing.
    """
    if not isinstance(given, dict):
        return None
    result = {key: value for key, value in given.items() if key != "resultType"}
    return {"jsonrpc": "2.0", "id": id, "result": result}


# -- what the server tells -----------------------------------------------------------------


def severity(level: object) -> int | None:
    """A log level as its place in ``LOG_LEVELS``; None for what is none."""
    return LOG_LEVELS.index(level) if isinstance(level, str) and level in LOG_LEVELS else None


def is_wanted(message: Mapping[str, Any], least: int | None) -> bool:
    """Whether a log message is as severe as a request wants it; one of no known level is not."""
    params = message.get("params")
    told = severity(params.get("level")) if isinstance(params, dict) else None
    return least is not None and told is not None and told >= least


def with_token(message: Mapping[str, Any], token: str | int) -> Message:
    """A progress notification under the token of the client that hears it."""
    return {**message, "params": {**message["params"], "progressToken": token}}


def _named(given: Mapping[str, Any], names: tuple[str, ...]) -> Message:
    return {name: {} for name in names if isinstance(given.get(name), dict)}


def _names_url(elicitation: object) -> bool:
    return (
        isinstance(elicitation, dict)
        and isinstance(elicitation.get("url"), str)
        and isinstance(elicitation.get("message"), str)
        and elicitation.get("mode", "url") == "url"
    )
