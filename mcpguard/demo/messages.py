"""JSON-RPC messages and the words of both protocol eras, as far as the demo server speaks them.

*Legacy* versions open with an ``initialize`` handshake; *modern* ones (2026-07-28) carry version
and capabilities in ``params._meta`` of every request.
"""

import json
from typing import Any

Message = dict[str, Any]
"""One JSON-RPC message as decoded from JSON."""

LEGACY_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
MODERN_VERSIONS = ("2026-07-28",)

META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
META_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
META_SERVER_INFO = "io.modelcontextprotocol/serverInfo"

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
RESOURCE_NOT_FOUND = -32002
"""Legacy versions only; modern ones answer INVALID_PARAMS."""
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

LOG_LEVELS = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)


class ProtocolError(Exception):
    """A request that ends in a JSON-RPC error instead of a result."""

    def __init__(
        self, code: int, text: str, data: Message | None = None, request_id: str | int | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.data = data
        self.request_id = request_id
        """Set where the error was found before there was a request to answer."""


def parse(data: bytes) -> Message:
    """Decode one message: UTF-8 JSON, an object, no NaN, no lone surrogates, JSON-RPC 2.0 shape.

    Raises:
        ProtocolError: PARSE_ERROR or INVALID_REQUEST, with ``request_id`` where it was readable.
            Arrays are refused too: 2025-03-26 asks servers to receive batches, but no client
            sends them and the reference servers refuse them as well.
    """
    try:
        message = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\u" in data:  # only an escape can hide a lone surrogate in valid UTF-8
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as problem:
        raise ProtocolError(PARSE_ERROR, "The message is not valid JSON") from problem
    if not isinstance(message, dict):
        raise ProtocolError(INVALID_REQUEST, "The message is not a JSON object")
    request_id = message.get("id")
    readable = request_id if is_id(request_id) else None
    if message.get("jsonrpc") != "2.0":
        raise ProtocolError(INVALID_REQUEST, 'jsonrpc must be "2.0"', request_id=readable)
    if "method" in message:
        if not isinstance(message["method"], str):
            raise ProtocolError(INVALID_REQUEST, "method must be a string", request_id=readable)
        if "id" in message and not is_id(request_id):
            raise ProtocolError(INVALID_REQUEST, "id must be a string or an integer")
        if not isinstance(message.get("params", {}), dict):
            raise ProtocolError(INVALID_REQUEST, "params must be an object", request_id=readable)
    elif ("result" in message) == ("error" in message):
        raise ProtocolError(
            INVALID_REQUEST, "Neither a request nor a notification nor a response", None, readable
        )
    return message


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_id(value: object) -> bool:
    """Whether ``value`` may be a request id: a string or an integer, never null or a boolean."""
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def is_request(message: Message) -> bool:
    """Whether the (parsed) message wants an answer."""
    return "method" in message and "id" in message


def is_response(message: Message) -> bool:
    """Whether the (parsed) message answers a request of this server."""
    return "method" not in message


def encode(message: Message) -> bytes:
    """The message as one line of UTF-8 JSON, without the line end."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def result(request_id: str | int, value: Message) -> Message:
    """A successful response."""
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def error(request_id: str | int | None, problem: ProtocolError) -> Message:
    """An error response; id null only where the request's could not be read."""
    body: Message = {"code": problem.code, "message": problem.text}
    if problem.data is not None:
        body["data"] = problem.data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def notification(method: str, params: Message) -> Message:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def meta_of(message: Message) -> Message:
    """``params._meta`` of a request; empty where it is absent or not an object."""
    meta = message.get("params", {}).get("_meta")
    return meta if isinstance(meta, dict) else {}
