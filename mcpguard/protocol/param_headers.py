"""``Mcp-Param-*``: tool arguments repeated in headers (MCP 2026-07-28, custom headers).

A tool's input schema names them by ``x-mcp-header``. A stdio server sees no headers, so for it the
gateway is the only place that can compare them with the arguments. Nothing is decided by them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from mcpguard.errors import Reason, Refusal
from mcpguard.protocol.header_values import Headers, decode_value, encode_value

ANNOTATION = "x-mcp-header"
PREFIX = "Mcp-Param-"

_SHOWN_NAME = 100
"""Characters of a header name that a refusal repeats."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t -~]*")
_INTEGER = re.compile(r"(-?[0-9]{1,400})(?:\.0+)?")
"""As many digits as the largest number a parsed body can have; all of them cost next to nothing."""
_TYPES = ("string", "integer", "boolean")

# Where JSON Schema 2020-12 has schemas within a schema; everything else is data or a reference.
_ONE = frozenset(
    {
        "items",
        "contains",
        "additionalProperties",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    }
)
_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})

Path = tuple[str, ...]


@frozen
class ParamHeader:
    """One annotated property."""

    path: Path
    """The ``properties`` that lead to it."""
    name: str
    """The whole header name, as the tool spells it."""


def invalid_annotation(tool: Mapping[str, Any]) -> str | None:
    """Say why a tool's annotations are invalid; None if they are fine (or there are none).

    Such a tool must be taken out of ``tools/list`` for HTTP clients. The words may quote the
    tool's own and are for the log.
    """
    _, problem = _read(tool.get("inputSchema"))
    return problem


def param_headers(schema: object) -> tuple[ParamHeader, ...]:
    """Give the annotated properties of an input schema; none of them if any is invalid."""
    found, problem = _read(schema)
    return () if problem else found


def check_param_headers(
    schema: object, arguments: Mapping[str, Any], headers: Headers
) -> Refusal | None:
    """Compare the headers of a ``tools/call`` with its arguments: both there and equal, or neither.

    A null argument counts as absent, integers are compared as numbers. Headers that no property
    names are left alone.
    """
    for annotated in param_headers(schema):
        values = headers.get(annotated.name.lower(), ())
        value = _value_at(arguments, annotated.path)
        problem = _compare(values, value)
        if problem:
            name = annotated.name[:_SHOWN_NAME]
            return Refusal(Reason.HEADER_MISMATCH, f"The header {name} {problem}")
    return None


def built_param_headers(
    schema: object, arguments: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """Give the ``Mcp-Param-*`` headers that a ``tools/call`` with these arguments must carry.

    None for what is absent or null, nor for containers, which no header can repeat. Raises
    ValueError for a string with a lone surrogate, which no parsed message has.
    """
    return tuple(
        (annotated.name, encode_value(_text_of(value)))
        for annotated in param_headers(schema)
        if not _is_absent(value := _value_at(arguments, annotated.path))
    )


def forwarded_param_headers(
    schema: object, arguments: Mapping[str, Any], headers: Headers
) -> tuple[tuple[str, str], ...]:
    """Give what goes on to a server: `built_param_headers`, and the client's that no argument has.

    A client's header is never beside one built from the body, or in place of one, whatever the
    case of its name.
    """
    taken = {annotated.name.lower() for annotated in param_headers(schema)}
    unknown = (pair for pair in passed_param_headers(headers) if pair[0].lower() not in taken)
    return (*built_param_headers(schema, arguments), *unknown)


def passed_param_headers(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Give the ``Mcp-Param-*`` headers to forward, those unknown to the tool included.

    What no header can carry safely (names that are no token, values beyond printable ASCII) is
    left out.
    """
    prefix = PREFIX.lower()
    return tuple(
        (name, value)
        for name, values in headers.items()
        if name.startswith(prefix) and len(name) > len(prefix) and _TOKEN.fullmatch(name)
        for value in values
        if _VALUE.fullmatch(value)
    )


def _read(schema: object) -> tuple[tuple[ParamHeader, ...], str | None]:
    """Collect the annotations of a schema; stops at the first invalid one."""
    found: list[ParamHeader] = []
    taken: set[str] = set()
    for path, place in _places(schema):
        if ANNOTATION not in place:
            continue
        token, kind = place[ANNOTATION], place.get("type")
        if not path:
            return (), f"{ANNOTATION} at a place that is no plain property"
        where = ".".join(path)
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return (), f"{ANNOTATION} of {where!r} is no header name"
        if not isinstance(kind, str) or kind not in _TYPES:
            return (), f"{ANNOTATION} on {where!r}, which is no string, integer or boolean"
        if token.lower() in taken:
            return (), f"{ANNOTATION} of {where!r} names a header twice"
        taken.add(token.lower())
        found.append(ParamHeader(path, PREFIX + token))
    return tuple(found), None


def _places(schema: object) -> Iterator[tuple[Path | None, Mapping[str, Any]]]:
    """Yield every schema within a schema.

    With the chain of properties that leads there, or None beyond anything but properties.
    References are not followed; a list of places to visit serves any depth.
    """
    waiting: list[tuple[Path | None, object]] = [((), schema)]
    while waiting:
        path, place = waiting.pop()
        if not isinstance(place, dict):
            continue
        yield path, place
        for keyword, value in place.items():
            if keyword in _ONE:
                waiting.append((None, value))
            elif keyword in _SEVERAL and isinstance(value, list):
                waiting.extend((None, inner) for inner in value)
            elif keyword in _NAMED and isinstance(value, dict):
                straight = keyword == "properties" and path is not None
                waiting.extend(
                    ((*path, name) if straight and path is not None else None, inner)
                    for name, inner in value.items()
                )


def _value_at(arguments: object, path: Path) -> object:
    value = arguments
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _compare(values: Sequence[str], value: object) -> str | None:
    """Say what is wrong with a header's values for an argument; None if nothing is."""
    if len(values) > 1:
        return "was sent more than once"
    absent = _is_absent(value)
    if not values:
        return None if absent else "is missing"
    if absent:
        return "has no argument in the body"
    text = decode_value(values[0])
    if text is None:
        return "is malformed"
    return None if _is_same(text, value) else "does not match the body"


def _is_absent(value: object) -> bool:
    # A container cannot be repeated in a header; the server will refuse the argument itself.
    return value is None or isinstance(value, dict | list)


def _text_of(value: object) -> str:
    """A value as a header spells it; what the schema does not allow there is still sent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else repr(value)


def _is_same(text: str, value: object) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if whole and not isinstance(value, bool):
        number = _INTEGER.fullmatch(text)
        return number is not None and int(number.group(1)) == value
    return text == _text_of(value)
