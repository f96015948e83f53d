"""Rendering: one audit event becomes one bounded JSON line, secrets taken out (product: audit)."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from attrs import define, field, frozen

from mcpguard.observe.escaping import json_line
from mcpguard.observe.events import Event
from mcpguard.observe.redaction import MARK, REDACTED, Redactor, names_secret

FIELDS = (
    "timestamp",
    "event_type",
    "identity_id",
    "provider",
    "method",
    "server",
    "tool",
    "duration_ms",
    "status",
    "reason",
    "error_id",
    "request_id",
    "session_id",
    "trace_id",
    "client_ip",
    "details",
    "arguments",
    "cut",
)
"""The fixed members of a line, in their order; members without a value are left out."""

_STRINGS = 12
"""How many of the fixed members are strings of the event."""

# A reader that folds case must not see a fixed member twice. The names behind are kept for what
# the trail will carry later.
_TAKEN = frozenset(FIELDS) | {"sequence", "previous", "hash", "worker", "level", "message"}

_BIGGEST_INT = 2**63 - 1

_ESCAPED = 6
"""Bytes of one character at worst: ``\\u0001``."""


@frozen
class LineBounds:
    """How much of an event is written."""

    text: int
    """Characters of one string; a longer one is clipped and marked."""
    depth: int
    """Levels of objects and arrays inside one argument."""
    items: int
    """Values recorded of all arguments of one event."""
    line: int
    """Bytes of one line with its newline; at least `SMALLEST_LINE`."""


SMALLEST_LINE = 4096


@define
class _Budget:
    """How many more values of one event may be written."""

    left: int

    def spend(self) -> bool:
        """Take one; False when there is none."""
        self.left -= 1
        return self.left >= 0


@define
class Renderer:
    """Turns events into lines.

    ``log_arguments`` is the setting: names to record as members of their own, True for all
    (together under ``arguments``, because then the caller chooses the names), False for none.
    """

    log_arguments: bool | tuple[str, ...]
    redactor: Redactor
    bounds: LineBounds
    _clean: set[str] = field(init=False, factory=set)
    """Short texts known to hold nothing to redact; the same few come in every event."""

    def __attrs_post_init__(self) -> None:
        if self.bounds.line < SMALLEST_LINE:
            raise ValueError(f"an audit line needs at least {SMALLEST_LINE} bytes")

    def line(self, event: Event) -> bytes:
        """Return the line with its newline, never longer than the bound.

        When a whole event does not fit, its arguments and details are left out first, then every
        string is clipped further; ``"cut": true`` says so.
        """
        line = json_line(self._members(event, self.bounds.text, extras=True))
        if len(line) <= self.bounds.line:
            return line
        line = json_line(self._members(event, self.bounds.text, extras=False))
        if len(line) <= self.bounds.line:
            return line
        room = self.bounds.line - 512  # the names, the numbers and the punctuation
        limit = room // (_STRINGS * _ESCAPED) - len(MARK)
        return json_line(self._members(event, limit, extras=False))

    def _members(self, event: Event, limit: int, *, extras: bool) -> dict[str, Any]:
        text = self._text
        members: dict[str, Any] = {
            "timestamp": _rfc3339(event.timestamp),
            "event_type": event.event_type,
        }
        if event.identity_id is not None:
            members["identity_id"] = text(event.identity_id, limit)
        if event.provider is not None:
            members["provider"] = text(event.provider, limit)
        if event.method is not None:
            members["method"] = text(event.method, limit)
        if event.server is not None:
            members["server"] = text(event.server, limit)
        if event.tool is not None:
            members["tool"] = text(event.tool, limit)
        if event.duration_ms is not None and isfinite(event.duration_ms):
            members["duration_ms"] = round(event.duration_ms, 3)
        if event.status is not None:
            members["status"] = text(event.status, limit)
        if event.reason is not None:
            members["reason"] = text(event.reason, limit)
        # The gateway makes these itself, new for every request: nothing to redact in them.
        if event.error_id is not None:
            members["error_id"] = _clip(event.error_id, limit)
        if event.request_id is not None:
            members["request_id"] = _clip(event.request_id, limit)
        if event.session_id is not None:
            members["session_id"] = _clip(event.session_id, limit)
        if event.trace_id is not None:
            members["trace_id"] = text(event.trace_id, limit)
        if event.client_ip is not None:
            members["client_ip"] = _clip(event.client_ip, limit)
        if not extras:
            members["cut"] = True
            return members
        budget = _Budget(self.bounds.items)
        if event.details:
            members["details"] = self._value(dict(event.details), self.bounds.depth, budget)
        if self.log_arguments is True:
            if event.arguments:
                depth = self.bounds.depth + 1  # the object that holds them is not counted
                members["arguments"] = self._value(event.arguments, depth, budget)
        elif self.log_arguments:
            self._add_named(members, event.arguments, self.log_arguments, budget)
        return members

    def _add_named(
        self,
        members: dict[str, Any],
        arguments: Mapping[str, Any],
        names: tuple[str, ...],
        budget: _Budget,
    ) -> None:
        """Record the configured arguments, each as a member of its own where its name is free."""
        displaced: dict[str, Any] = {}
        for name in names:
            if name not in arguments:
                continue
            value = self._named_value(name, arguments[name], self.bounds.depth, budget)
            if name.casefold() in _TAKEN:
                displaced[name] = value
            else:
                members[name] = value
        if displaced:
            members["arguments"] = displaced

    def _named_value(self, name: str, value: Any, depth: int, budget: _Budget) -> Any:
        if value is not None and names_secret(name):
            return REDACTED
        return self._value(value, depth, budget)

    def _value(self, value: Any, depth: int, budget: _Budget) -> Any:
        """Return what may be written of one value; what is over a bound becomes the mark."""
        if not budget.spend():
            return MARK
        if isinstance(value, str):
            return self._text(value, self.bounds.text)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            return value if isfinite(value) else str(value)
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, Mapping):
            return dict(self._object(value, depth - 1, budget)) if depth > 0 else MARK
        if isinstance(value, list | tuple):
            return list(self._array(value, depth - 1, budget)) if depth > 0 else MARK
        return self._text(str(value), self.bounds.text)

    def _object(
        self, value: Mapping[Any, Any], depth: int, budget: _Budget
    ) -> Iterator[tuple[str, Any]]:
        for name, inner in value.items():
            if budget.left <= 0:
                yield MARK, MARK
                return
            plain = str(name)
            yield (
                self._text(plain, self.bounds.text),
                self._named_value(plain, inner, depth, budget),
            )

    def _array(self, value: Any, depth: int, budget: _Budget) -> Iterator[Any]:
        for inner in value:
            if budget.left <= 0:
                yield MARK
                return
            yield self._value(inner, depth, budget)

    def _text(self, text: str, limit: int) -> str:
        short = len(text) <= 64
        if short and text in self._clean:
            return _clip(text, limit)
        clean = self.redactor.text(text, limit)
        if short and clean == text:
            if len(self._clean) >= 4096:
                self._clean.clear()
            self._clean.add(text)
        return clean


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + MARK


def _rfc3339(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def _integer(value: int) -> int | str:
    """Return an integer the encoder can write; one beyond 64 bits as its digits."""
    if -_BIGGEST_INT <= value <= _BIGGEST_INT:
        return value
    # Python refuses to print integers of several thousand digits.
    bits = value.bit_length()
    return str(value) if bits <= 4096 else f"[integer of {bits} bits]"
