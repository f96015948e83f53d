"""A call of the conformance server under way: what it asks of the client, in the words of its era.

A question is a request of its own in a session, and part of the result (``input_required``) since
2026-07-28.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

import anyio
import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Object = dict[str, Any]

PAUSE = 0.05
STRING: Object = {"type": "string"}
ROOTS: Object = {"method": "roots/list", "params": {}}
ASKED: dict[str, tuple[Any, Any]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}

_key = secrets.token_bytes(32)


class NeedsInput(Exception):
    """The call cannot go on before the client has answered; ``result`` says what."""

    def __init__(self, result: Object) -> None:
        super().__init__("input required")
        self.result = result


class Request:
    """A call of a tool, or of a prompt, with what the client has answered so far."""

    def __init__(self, ctx: Any, params: Any) -> None:
        self.ctx = ctx
        self.arguments: Object = params.arguments or {}
        self.modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        self._given = (params.input_responses or {}) if self.modern else {}
        self._state = params.request_state if self.modern else None
        if self._state is not None:
            words = self._state.rpartition(".")[0]
            if not hmac.compare_digest(self._state.encode(), _signed(words).encode()):
                raise MCPError(types.INVALID_PARAMS, "Invalid requestState")

    @property
    def capabilities(self) -> Object:
        """What the client has declared."""
        declared = self.ctx.session.client_capabilities
        return dumped(declared) if declared else {}

    def came_with(self, state: str) -> bool:
        """Whether the client brings this state back."""
        return bool(self._state == _signed(state))

    async def ask(self, questions: Mapping[str, Object], state: str | None = None) -> Object:
        """The client's answers by the questions' keys; raises `NeedsInput` where it must retry.

        ``state`` is what the client has to bring back untouched with the answers.
        """
        if not self.modern:
            return {key: await self._request(one) for key, one in questions.items()}
        answered = all(key in self._given for key in questions)
        if answered and (state is None or self.came_with(state)):
            return {key: dumped(self._given[key]) for key in questions}
        result: Object = {"resultType": "input_required", "inputRequests": dict(questions)}
        if state is not None:
            result["requestState"] = _signed(state)
        raise NeedsInput(result)

    async def _request(self, question: Object) -> Object:
        request, result = ASKED[question["method"]]
        related = ServerMessageMetadata(related_request_id=self.ctx.request_id)
        return dumped(
            await self.ctx.session.send_request(
                request.model_validate(question), result, metadata=related
            )
        )

    async def log(self, *lines: str) -> None:
        """Send log messages, some time apart."""
        for line in lines:
            await self.ctx.session.send_log_message(
                "info", line, related_request_id=self.ctx.request_id
            )
            await anyio.sleep(PAUSE)

    async def progress(self, *steps: float) -> None:
        """Report steps of 100, some time apart."""
        for step in steps:
            await self.ctx.session.report_progress(step, 100)
            await anyio.sleep(PAUSE)


def whole(**members: Any) -> Object:
    """A result that is not a question; the SDK leaves ``resultType`` out of those of sessions."""
    return {"resultType": "complete", **members}


def dumped(model: Any) -> Object:
    """A model of the SDK as it looks on the wire."""
    found: Object = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return found


def _signed(state: str) -> str:
    return f"{state}.{hmac.new(_key, state.encode(), hashlib.sha256).hexdigest()}"


def elicitation(message: str, properties: Object, *, optional: bool = False) -> Object:
    """A form for the user."""
    schema: Object = {"type": "object", "properties": properties}
    if not optional:
        schema["required"] = list(properties)
    return {
        "method": "elicitation/create",
        "params": {"message": message, "requestedSchema": schema},
    }


def sampling(prompt: str) -> Object:
    """A question to the client's model."""
    message = {"role": "user", "content": {"type": "text", "text": prompt}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}
