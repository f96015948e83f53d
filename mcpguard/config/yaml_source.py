"""YAML text to a `Document`: ruamel.yaml parses it to events, the values are made here.

Making the values here keeps to the YAML 1.2 core schema (``yes``, ``on``, ``1_000``, ``010`` and
``12:30`` mean what they look like), makes a key given twice an error, and counts what aliases
expand to before they are expanded.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field, frozen
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mcpguard.config.document import Bounds, Document, Path, Span, Unreadable, quoted

CORE_TAG = "tag:yaml.org,2002:"
NULL = re.compile(r"(?:|~|null|Null|NULL)\Z")
TRUE = re.compile(r"(?:true|True|TRUE)\Z")
FALSE = re.compile(r"(?:false|False|FALSE)\Z")
INTEGER = re.compile(r"(?:[-+]?[0-9]{1,4000}|0o[0-7]{1,3000}|0x[0-9a-fA-F]{1,3000})\Z")
FLOAT = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:e[-+]?[0-9]+)?|\.inf|\.nan)\Z", re.IGNORECASE
)


def read_yaml(text: str, bounds: Bounds) -> Document:
    """Parse one YAML 1.2 document whose root is a mapping; an empty text is an empty mapping.

    Raises:
        Unreadable: a syntax error (with line and column), a key given twice, a tag, a merge
            key, a second document, or beyond the bounds.
    """
    _nesting(text, bounds)
    try:
        return _Reader(bounds, YAML(typ="safe", pure=True).parse(text)).run()
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise Unreadable(f"not valid YAML: {error.problem or error.context}{where}") from None
    except YAMLError as error:  # a character that YAML does not allow
        raise Unreadable(f"not valid YAML: {' '.join(str(error).split())}") from None


def _nesting(text: str, bounds: Bounds) -> None:
    """Refuse brackets opened very deep before the parser meets them.

    Its scanner is worse than quadratic there: 100 000 times ``[`` took 207 s. Brackets in strings
    count too, so the limit has room for them.
    """
    depth = 0
    for found in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if found[0] in "[{" else max(0, depth - 1)
        if depth > 8 * bounds.max_depth:
            raise Unreadable(f"lists or mappings nested deeper than {bounds.max_depth}")


@frozen
class _Built:
    """A value with the number of nodes and levels it is made of."""

    value: Any
    nodes: int
    levels: int
    spans: Mapping[Path, Span]
    """Of everything in it, by path from it."""


@define
class _Reader:
    """Builds the tree from the parser's events."""

    _bounds: Bounds
    _events: Iterator[Event]
    _anchors: dict[str, _Built | None] = field(init=False, factory=dict)
    """None while the value is being built: an alias to it would contain itself."""
    _nodes: int = field(init=False, default=0)

    def run(self) -> Document:
        """Read the whole stream."""
        built: _Built | None = None
        for event in self._events:
            if isinstance(event, ScalarEvent | SequenceStartEvent | MappingStartEvent | AliasEvent):
                if built is not None:
                    raise Unreadable(f"a second YAML document begins at line {_line(event)}")
                built = self._value(event, 1)
        if built is None or built.value is None:
            return Document({}, {})
        if not isinstance(built.value, dict):
            raise Unreadable("not a configuration: the root must be a mapping of sections")
        return Document(built.value, built.spans)

    def _value(self, event: Any, depth: int) -> _Built:
        line = _line(event)
        holds = isinstance(event, MappingStartEvent | SequenceStartEvent)
        if holds and depth > self._bounds.max_depth:
            raise Unreadable(
                f"lists or mappings nested deeper than {self._bounds.max_depth} (line {line})"
            )
        if isinstance(event, AliasEvent):
            return self._alias(event, depth)
        self._count(1, line)
        tag = event.tag
        if tag is not None and tag != CORE_TAG + "str":
            raise Unreadable(f"YAML tags are not accepted: {tag} (line {line})")
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, MappingStartEvent):
            built = self._mapping(line, depth)
        elif isinstance(event, SequenceStartEvent):
            built = self._sequence(line, depth)
        else:
            plain = event.implicit[0] and tag is None
            value = scalar(event.value) if plain else event.value
            built = _Built(value, 1, 1, {(): Span(line, max(line, _last(event)))})
        if anchor is not None:
            self._anchors[anchor] = built
        return built

    def _alias(self, event: AliasEvent, depth: int) -> _Built:
        line = _line(event)
        built = self._anchors.get(event.anchor)
        if built is None:
            known = event.anchor in self._anchors
            why = "contains itself" if known else "is not defined above it"
            raise Unreadable(f"the alias *{event.anchor} {why} (line {line})")
        self._count(built.nodes, line)
        if depth + built.levels - 1 > self._bounds.max_depth:
            raise Unreadable(
                f"lists or mappings nested deeper than {self._bounds.max_depth} (line {line})"
            )
        # One line for all of it: that is where the user would have to change something.
        return _Built(built.value, built.nodes, built.levels, {(): Span(line, line)})

    def _mapping(self, first: int, depth: int) -> _Built:
        tree: dict[str, Any] = {}
        spans: dict[Path, Span] = {}
        before, levels, last = self._nodes, 0, first
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            line = _line(event)
            key = self._key(event, line)
            if key in tree:
                raise Unreadable(f"the key {quoted(key)} is given twice (line {line})")
            inner = self._value(next(self._events), depth + 1)
            tree[key] = inner.value
            last = _take(spans, key, inner, line, last)
            levels = max(levels, inner.levels)
        spans[()] = Span(first, last)
        return _Built(tree, self._nodes - before + 1, levels + 1, spans)

    def _key(self, event: Event, line: int) -> str:
        if not isinstance(event, ScalarEvent):
            raise Unreadable(f"a key must be a plain word or a string (line {line})")
        if event.tag is not None:
            raise Unreadable(f"YAML tags are not accepted: {event.tag} (line {line})")
        if event.value == "<<" and event.implicit[0]:
            raise Unreadable(f"merge keys (<<) are not accepted; use an alias (line {line})")
        self._count(1, line)
        return str(event.value)

    def _sequence(self, first: int, depth: int) -> _Built:
        items: list[Any] = []
        spans: dict[Path, Span] = {}
        before, levels, last = self._nodes, 0, first
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            inner = self._value(event, depth + 1)
            last = _take(spans, len(items), inner, _line(event), last)
            items.append(inner.value)
            levels = max(levels, inner.levels)
        spans[()] = Span(first, last)
        return _Built(items, self._nodes - before + 1, levels + 1, spans)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > self._bounds.max_nodes:
            raise Unreadable(f"more than {self._bounds.max_nodes} values (line {line})")


def scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar in the YAML 1.2 core schema."""
    if NULL.match(text):
        return None
    if TRUE.match(text):
        return True
    if FALSE.match(text):
        return False
    if INTEGER.match(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.match(text):
        return float(re.sub(r"\.(?=inf|nan)", "", text, flags=re.IGNORECASE))
    return text


def _take(spans: dict[Path, Span], key: str | int, inner: _Built, line: int, last: int) -> int:
    """Add the spans of an inner value under its key; answer the last line so far."""
    for path, span in inner.spans.items():
        spans[(key, *path)] = span
    # The parser places a missing value on the line of whatever comes next.
    end = line if inner.value is None else max(inner.spans[()].last, line)
    spans[(key,)] = Span(line, end)
    return max(last, end)


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _last(event: Event) -> int:
    """The last line with something of the value on it; a block scalar ends on the line after."""
    mark = event.end_mark
    return int(mark.line) + (1 if mark.column else 0)
