"""JSON-RPC messages, parsed strictly and encoded canonically (JSON-RPC 2.0, RFC 8259, RFC 7493).

What is parsed here is what policy sees and what `encode` sends on: nothing a second parser could
read in another way passes. Duplicate members are refused at every level, and so is a member whose
name differs only by case from one the protocol gives meaning to, because decoders exist that match
names without regard to case (CVE-2026-27896).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import orjson
import re2
from attrs import frozen
from msgspec import Struct

from mcpguard.errors import Reason
from mcpguard.protocol.members import ENVELOPE, Names, all_plain, guarded

Id = str | int


class Malformed(Exception):
    """A body that is no message we accept.

    ``reason`` is ``PARSE`` or ``INVALID_REQUEST``, ``id`` the request's id if it could be read
    beyond doubt, ``text`` words fit for the client (they quote nothing the client sent).
    """

    def __init__(self, reason: Reason, text: str, id: Id | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.id = id


@frozen
class Bounds:
    """How big the structure of one body may be; its bytes are bounded by whoever read them."""

    max_depth: int
    """Containers within each other; ``{}`` is 1. The parser itself ends at 1024."""
    max_nodes: int
    """Values in all, containers counted; member names are not."""


class _Untold(Struct, frozen=True):
    """A message whose contents do not get into logs by way of ``repr``."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'id', '-')!r:.80}>"


class Request(_Untold, frozen=True):
    """A call that wants an answer."""

    id: Id
    method: str
    params: dict[str, Any] | None
    fields: dict[str, Any]
    """The whole parsed object, unknown members included; not a copy."""


class Notification(_Untold, frozen=True):
    """A call without an answer."""

    method: str
    params: dict[str, Any] | None
    fields: dict[str, Any]


class Response(_Untold, frozen=True):
    """An answer to a request of the server: ``result`` or ``error``."""

    id: Id | None
    """None only on an error whose request could not be read."""
    fields: dict[str, Any]


Message = Request | Notification | Response


@frozen
class Batch:
    """Several messages in one body (protocol version 2025-03-26 only)."""

    messages: tuple[Message, ...]


def parse(body: bytes, bounds: Bounds, *, max_batch: int = 0) -> Message | Batch:
    """Read one message, or up to ``max_batch`` in an array; raises `Malformed`.

    An array is refused when ``max_batch`` is 0.
    """
    value = decode(body, bounds)
    if isinstance(value, dict):
        return _classify(value)
    if not isinstance(value, list):
        raise Malformed(Reason.INVALID_REQUEST, "The body must be a JSON object")
    if max_batch == 0:
        raise Malformed(Reason.INVALID_REQUEST, "Batches are not accepted")
    if not 0 < len(value) <= max_batch:
        raise Malformed(
            Reason.INVALID_REQUEST, f"A batch must hold between 1 and {max_batch} messages"
        )
    return Batch(tuple(_element(element) for element in value))


def parse_object(data: bytes, bounds: Bounds) -> dict[str, Any]:
    """Read any JSON-RPC object, as strictly as `parse`: the servers' side; raises `Malformed`.

    Its kind (response, notification, request) and the types of its members are left to the caller.
    """
    value = decode(data, bounds)
    if not isinstance(value, dict):
        raise Malformed(Reason.INVALID_REQUEST, "The message must be a JSON object")
    if value.get("jsonrpc") != "2.0":
        _refuse(value, 'The member "jsonrpc" must be "2.0"')
    if not ENVELOPE.exact.issuperset(value):
        _check_names(value, value, ENVELOPE)
    return value


def encode(message: Mapping[str, Any]) -> bytes:
    """Give the canonical form: compact UTF-8 JSON on one line.

    Raises ValueError or TypeError for what JSON cannot carry; nothing `parse` returned does.
    """
    plain = message if type(message) is dict else dict(message)
    try:
        encoded: bytes = orjson.dumps(plain)
        return encoded
    except orjson.JSONEncodeError:
        # orjson ends at 64-bit integers and at 254 levels; the standard library does not.
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")


class _Duplicate(Exception):
    """Raised inside the decoder, which has no other way out."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise _Duplicate(name)
        members[name] = value
    return members


_strict: Callable[[str], Any] = json.JSONDecoder(object_pairs_hook=_once).decode


def decode(body: bytes, bounds: Bounds) -> Any:
    """Decode any JSON within the bounds, every object without duplicates; raises `Malformed`."""
    try:
        # Refuses bad UTF-8, a byte order mark, lone surrogates, NaN, infinities (1e400 and
        # integers beyond it too), trailing data and more than 1024 levels.
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Malformed(Reason.PARSE, "The body is not valid JSON") from None
    opened = body.count(b"{") + body.count(b"[")
    # Every value but the outermost is either the first of a container or follows a comma.
    if opened > bounds.max_depth or opened + body.count(b",") >= bounds.max_nodes:
        _measure(value, bounds)
    try:
        # What is written exactly as it would be encoded has no member twice.
        encoded = orjson.dumps(value)
        if encoded == body or _has_every_name(body, encoded):
            return value
    except orjson.JSONEncodeError:
        pass
    try:
        # Numbers survive here that the fast decoder rounds: integers beyond 64 bits.
        return _strict(body.decode("utf-8"))
    except _Duplicate as duplicate:
        # Of two ids nobody can tell which the client meant.
        id = None if duplicate.name == "id" else _readable_id(value)
        text = "A JSON object has the same member twice"
        raise Malformed(Reason.INVALID_REQUEST, text, id) from None
    except RecursionError:
        _refuse(value, "The body is nested too deeply")


_ODD = re2.compile(rb'"[ \t\r\n]+:|\\u00(?:22|3[aA])|[0-9]{19}')
"""Where a name does not end in ``":``, where these two stand in a text without being seen, and
numbers that the fast decoder may have rounded. By RE2, which takes a tenth of the time of `re`."""


def _has_every_name(body: bytes, encoded: bytes) -> bool:
    """Tell by counting whether what was decoded has every name that ``body`` has, each once.

    ``encoded`` is the canonical form of what was decoded. In both, ``":`` ends a name or stands
    in a text, written there as ``\\":``. A name that comes twice is once in the decoded value, and
    what belonged to its first occurrence is lost, so the counts differ. False where in doubt: the
    slow decoder knows. (Servers in Go escape ``<``, those in Python may write blanks: a listing
    of 100 KB took the slow one 8 ms.)
    """
    return body.count(b'":') == encoded.count(b'":') and _ODD.search(body) is None


def _measure(value: Any, bounds: Bounds) -> None:
    """Hold the bounds where the number of brackets and commas has left a doubt."""
    depth, nodes = 0, 1
    level = [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        if depth > bounds.max_depth:
            _refuse(value, "The body is nested too deeply")
        below: list[Any] = []
        for container in level:
            nodes += len(container)
            if nodes > bounds.max_nodes:
                _refuse(value, "The body has too many values")
            inner = container.values() if type(container) is dict else container
            below.extend(item for item in inner if type(item) is dict or type(item) is list)
        level = below


def _refuse(value: Any, text: str) -> NoReturn:
    raise Malformed(Reason.INVALID_REQUEST, text, _readable_id(value))


def _readable_id(value: Any) -> Id | None:
    found = value.get("id") if isinstance(value, dict) else None
    return found if type(found) is str or type(found) is int else None


def _element(value: Any) -> Message:
    """Read one message of a batch."""
    if not isinstance(value, dict):
        raise Malformed(Reason.INVALID_REQUEST, "Every message of a batch must be a JSON object")
    message = _classify(value)
    if isinstance(message, Request) and message.method == "initialize":
        _refuse(value, "initialize must not be part of a batch")
    return message


def _classify(value: dict[str, Any]) -> Message:
    if value.get("jsonrpc") != "2.0":
        _refuse(value, 'The member "jsonrpc" must be "2.0"')
    if not ENVELOPE.exact.issuperset(value):
        _check_names(value, value, ENVELOPE)
    if "method" not in value:
        return _response(value)
    method = value["method"]
    if not isinstance(method, str) or not method:
        _refuse(value, 'The member "method" must be a string')
    if "result" in value or "error" in value:
        _refuse(value, 'A request must not have the members "result" or "error"')
    params = value.get("params")
    if "params" in value and not isinstance(params, dict):
        _refuse(value, 'The member "params" must be an object')
    if params is not None and not all_plain(params):
        for members, names in guarded(params):
            _check_names(value, members, names)
    if "id" not in value:
        return Notification(method, params, value)
    id = value["id"]
    if type(id) is not int and type(id) is not str:
        _refuse(value, 'The member "id" must be a string or an integer')
    return Request(id, method, params, value)


def _response(value: dict[str, Any]) -> Response:
    if ("result" in value) == ("error" in value):
        _refuse(value, 'A message must have "method", or one of "result" and "error"')
    if "params" in value:
        _refuse(value, 'A response must not have the member "params"')
    if "id" not in value:
        _refuse(value, 'A response must have the member "id"')
    id = _readable_id(value)
    unread = value["id"] is None and "error" in value
    if id is None and not unread:
        _refuse(value, 'The member "id" must be a string or an integer')
    if "error" in value and not isinstance(value["error"], dict):
        _refuse(value, 'The member "error" must be an object')
    return Response(id, value)


def _check_names(value: dict[str, Any], members: Mapping[str, Any], names: Names) -> None:
    """Refuse members that equal one of ``names`` in all but case."""
    name = names.spelled_otherwise(members)
    if name is not None:
        # The id of a message that has a second spelling of "id" is in doubt.
        id = None if name == "id" and members is value else _readable_id(value)
        text = f'A member differs from "{name}" only in upper or lower case'
        raise Malformed(Reason.INVALID_REQUEST, text, id)
