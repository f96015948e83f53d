"""What an audit line holds of a caller's values: no secrets, bounded in size, depth and number."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from attrs import define, field, frozen

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

# A reader that folds case must not see a fixed member twice. The names behind are kept for what
# the trail will carry later.
_TAKEN = frozenset(FIELDS) | {"sequence", "previous", "hash", "worker", "level", "message"}

SHORT = 64
"""Characters of a text that is worth remembering."""

REMEMBERED = 4096
"""Texts remembered of each kind; with one more all of them are forgotten."""

_BIGGEST_INT = 2**63 - 1


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


@define(eq=False)
class Values:
    """Says what may be written of texts and of whole trees of values.

    ``log_arguments`` is the setting: names to record as members of their own, True for all
    (together under ``arguments``, because then the caller chooses the names), False for none.
    """

    log_arguments: bool | tuple[str, ...]
    redactor: Redactor
    bounds: LineBounds
    _clean: set[str] = field(init=False, factory=set)
    """Short texts known to hold nothing to redact; the same few come in every event."""
    _secret: dict[str, bool] = field(init=False, factory=dict)
    """Short names of values, and whether they name secrets."""
    _displaced: frozenset[str] = field(init=False, default=frozenset())
    """Names to record that a fixed member has already."""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.log_arguments, tuple):
            self._displaced = frozenset(n for n in self.log_arguments if n.casefold() in _TAKEN)

    def text(self, text: str, limit: int) -> str:
        """Return the text without secrets, clipped and marked where it is longer than that."""
        short = len(text) <= SHORT
        if short and text in self._clean:
            return clip(text, limit)
        clean = self.redactor.text(text, limit)
        if short and clean == text:
            if len(self._clean) >= REMEMBERED:
                self._clean.clear()
            self._clean.add(text)
        return clean

    def extras(self, event: Event) -> dict[str, Any]:
        """Return the members that hold the event's details and the arguments to be recorded."""
        members: dict[str, Any] = {}
        budget = _Budget(self.bounds.items)
        if event.details:
            members["details"] = self._value(dict(event.details), self.bounds.depth, budget)
        if self.log_arguments is True:
            if event.arguments:
                depth = self.bounds.depth + 1  # the object that holds them is not counted
                members["arguments"] = self._value(event.arguments, depth, budget)
        elif self.log_arguments and event.arguments:
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
            (displaced if name in self._displaced else members)[name] = value
        if displaced:
            members["arguments"] = displaced

    def _named_value(self, name: str, value: Any, depth: int, budget: _Budget) -> Any:
        if value is not None and self._names_secret(name):
            return REDACTED
        return self._value(value, depth, budget)

    def _names_secret(self, name: str) -> bool:
        known = self._secret.get(name)
        if known is None:
            known = names_secret(name)
            if len(name) <= SHORT:
                if len(self._secret) >= REMEMBERED:
                    self._secret.clear()
                self._secret[name] = known
        return known

    def _value(self, value: Any, depth: int, budget: _Budget) -> Any:
        """Return what may be written of one value; what is over a bound becomes the mark."""
        if not budget.spend():
            return MARK
        if isinstance(value, str):
            return self.text(value, self.bounds.text)
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
        return self.text(str(value), self.bounds.text)

    def _object(
        self, value: Mapping[Any, Any], depth: int, budget: _Budget
    ) -> Iterator[tuple[str, Any]]:
        for name, inner in value.items():
            if budget.left <= 0:
                yield MARK, MARK
                return
            plain = str(name)
            yield (
                self.text(plain, self.bounds.text),
                self._named_value(plain, inner, depth, budget),
            )

    def _array(self, value: Any, depth: int, budget: _Budget) -> Iterator[Any]:
        for inner in value:
            if budget.left <= 0:
                yield MARK
                return
            yield self._value(inner, depth, budget)


def clip(text: str, limit: int) -> str:
    """Return at most so many characters of the text, and the mark if there were more."""
    return text if len(text) <= limit else text[:limit] + MARK


def _integer(value: int) -> int | str:
    """Return an integer the encoder can write; one beyond 64 bits as its digits."""
    if -_BIGGEST_INT <= value <= _BIGGEST_INT:
        return value
    # Python refuses to print integers of several thousand digits.
    bits = value.bit_length()
    return str(value) if bits <= 4096 else f"[integer of {bits} bits]"
