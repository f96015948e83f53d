"""The rounds of a stateless request as requests to a handshake-era client (2026-07-28, MRTR).

A stateless server that needs something of the client ends the request with ``input_required``;
the same request comes again with the answers. A handshake-era client is asked by requests of the
server's instead, so the bridge asks it, and repeats the request in its place.
"""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from mcpguard.protocol.bridge.handshake import (
    Message,
    Untranslatable,
    without_modern_meta,
)
from mcpguard.protocol.jsonrpc import encode

ANSWERED_IN_ROUNDS = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The methods whose servers may ask for input."""

INPUT_REQUIRED = "input_required"

_NEEDED = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""Everything a stateless server may ask, with the capability that the client must have declared."""

_ACTIONS = ("accept", "decline", "cancel")


@frozen
class RoundBounds:
    """How far a server may draw out one request."""

    rounds: int
    entries: int
    """Questions in one round."""
    size: int
    """Bytes of one round's questions with its state, and of its answers."""


@frozen
class Question:
    """One thing that a server wants to know of the client."""

    key: str
    """The server's name for it."""
    method: str
    params: Message
    """As a handshake-era client knows them, but for the id of a URL elicitation."""

    def request(self, id: str) -> Message:
        """The request that puts it to the client, under the id of the bridge's choice.

        Handshake-era clients want an id for each URL they are to open, which the stateless era
        has no more; nobody refers to it.
        """
        params = self.params
        if self.method == "elicitation/create" and params.get("mode") == "url":
            params = {"elicitationId": id, **params}
        return {"jsonrpc": "2.0", "id": id, "method": self.method, "params": params}


@frozen
class Round:
    """What a server wants before it goes on."""

    questions: tuple[Question, ...]
    """None of them: it only wants to be asked again."""
    state: str | None
    """To be sent back as it is."""


def is_input_required(result: Mapping[str, Any]) -> bool:
    """Whether a result asks for input."""
    return result.get("resultType") == INPUT_REQUIRED


def read_round(
    result: Mapping[str, Any], capabilities: Mapping[str, Any], bounds: RoundBounds
) -> Round:
    """Read an ``input_required`` result for a client with these (translated) capabilities.

    Raises `Untranslatable` if it is malformed, beyond the bounds, or asks what the client never
    said it could answer: no part of it is put to the client then.
    """
    asked, state = result.get("inputRequests"), result.get("requestState")
    if asked is None:
        asked = {}
    if not isinstance(asked, dict) or not (state is None or isinstance(state, str)):
        raise Untranslatable("The server asked for input in a way that is not valid")
    if state is None and not asked:
        raise Untranslatable("The server asked for input without asking anything")
    if len(asked) > bounds.entries:
        raise Untranslatable("The server asked too many questions at once")
    if len(encode({"inputRequests": asked, "requestState": state})) > bounds.size:
        raise Untranslatable("The server asked for too much at once")
    questions = (_question(key, entry, capabilities) for key, entry in asked.items())
    return Round(tuple(questions), state)


def next_params(
    params: Mapping[str, Any], answers: Mapping[str, Any], state: str | None
) -> Message:
    """The params of the same request with the answers of its latest round.

    ``params`` are those of the first request. A state is sent back exactly as it came, and none
    where none came.
    """
    repeated = dict(params)
    if answers:
        repeated["inputResponses"] = dict(answers)
    if state is not None:
        repeated["requestState"] = state
    return repeated


def answer_to(method: str, response: Mapping[str, Any]) -> Message | None:
    """What a server is told of the client's response; None when there is nothing to tell.

    Who refuses or fails an elicitation has cancelled it. A refused sampling or list of roots has
    no form in the stateless era, so such a request cannot go on.
    """
    result = response.get("result")
    answer = without_modern_meta(result) if isinstance(result, dict) else None
    if method == "elicitation/create" and (answer is None or answer.get("action") not in _ACTIONS):
        return {"action": "cancel"}
    return answer


def _question(key: str, entry: object, capabilities: Mapping[str, Any]) -> Question:
    method = entry.get("method") if isinstance(entry, dict) else None
    params = entry.get("params", {}) if isinstance(entry, dict) else None
    needed = _NEEDED.get(method) if isinstance(method, str) else None
    if needed is None or not isinstance(method, str) or not isinstance(params, dict):
        raise Untranslatable("The server asked what the protocol does not know")
    declared = capabilities.get(needed)
    if not isinstance(declared, dict) or not _is_covered(method, params, declared):
        raise Untranslatable(
            f"The server sent {method}, which the client did not say it could answer"
        )
    plain = without_modern_meta(params)
    plain.pop("task", None)
    return Question(key, method, plain)


def _is_covered(method: str, params: Message, declared: Message) -> bool:
    """Whether the client said that it knows this form of the question."""
    if method == "elicitation/create":
        mode = params.get("mode", "form")
        return isinstance(mode, str) and mode in declared
    if method == "sampling/createMessage" and params.keys() & {"tools", "toolChoice"}:
        return "tools" in declared
    return True
