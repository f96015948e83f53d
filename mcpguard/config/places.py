"""One value of the configuration file while it is being read, and how to complain about it."""

import enum
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path as FilePath
from typing import Any, Literal

from attrs import define, field, frozen

from mcpguard.config.document import Document, Path, dotted, printable, quoted

MAX_MESSAGE = 1000
"""Characters; what a file names (variables, paths) may be long."""


class Invalid(enum.Enum):
    """Stands where a value could not be used; the reason is in the report."""

    INVALID = "invalid"


INVALID: Literal[Invalid.INVALID] = Invalid.INVALID


@define
class Report:
    """Everything found wrong or doubtful in one file."""

    document: Document
    environ: Mapping[str, str]
    base: FilePath
    """Where relative paths in the file start."""
    now: datetime | None = None
    """Aware; None: the files that it names are not looked into, for they need not be here."""
    _problems: list[tuple[int, str]] = field(init=False, factory=list)
    _warnings: list[tuple[int, str]] = field(init=False, factory=list)
    _notes: list[tuple[int, str]] = field(init=False, factory=list)

    def problem(self, path: Path, words: str) -> None:
        """Note an error at a place."""
        self._problems.append(self._located(path, words))

    def warning(self, path: Path, words: str) -> None:
        """Note a warning at a place."""
        self._warnings.append(self._located(path, words))

    def note(self, path: Path, words: str) -> None:
        """Note what is in order, for whoever wants to know more."""
        self._notes.append(self._located(path, words))

    @property
    def problems(self) -> tuple[str, ...]:
        """Every error once, in the order of the lines."""
        return _ordered(self._problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every warning once, in the order of the lines."""
        return _ordered(self._warnings)

    @property
    def notes(self) -> tuple[str, ...]:
        """Every note once, in the order of the lines."""
        return _ordered(self._notes)

    def _located(self, path: Path, words: str) -> tuple[int, str]:
        line = self.document.line(path)
        text = printable((f"{dotted(path)}: {words}" if path else words)[:MAX_MESSAGE])
        return (line, f"{text} (line {line})") if line else (0, text)


def _ordered(found: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for _, text in sorted(found, key=lambda one: one[0])))


@frozen
class Place:
    """A value, where it stands, and where to report to."""

    report: Report
    path: Path
    value: Any
    hidden: bool = False
    """The value may be a secret and must not appear in a message."""

    def item(self, key: str | int, *, hidden: bool = False) -> "Place":
        """The place of a member of this table or list."""
        return Place(self.report, (*self.path, key), self.value[key], self.hidden or hidden)

    def refuse(self, why: str, accepts: str = "") -> Literal[Invalid.INVALID]:
        """Report that the value cannot be used: the value, why, and what is accepted."""
        words = why if self.hidden else f"{describe(self.value)}: {why}"
        self.complain(f"{words}; accepted: {accepts}" if accepts else words)
        return INVALID

    def mistyped(self, accepts: str) -> Literal[Invalid.INVALID]:
        """Report a value of the wrong type."""
        kind = kind_of(self.value)
        if self.hidden or isinstance(self.value, dict | list) or self.value is None:
            self.complain(f"{kind} stands here; accepted: {accepts}")
        else:
            self.complain(f"{describe(self.value)} is {kind}; accepted: {accepts}")
        return INVALID

    def complain(self, words: str) -> None:
        """Report an error in words of its own."""
        self.report.problem(self.path, words)

    def warn(self, words: str) -> None:
        """Report a warning."""
        self.report.warning(self.path, words)

    def note(self, words: str) -> None:
        """Report what is in order."""
        self.report.note(self.path, words)


def kind_of(value: object) -> str:
    """The type of a value in the words of someone who writes configuration files."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case dict():
            return "a table"
        case list():
            return "a list"
        case datetime() | date() | time():
            return "a date or time"
        case _:
            return "nothing (null)"


def describe(value: object) -> str:
    """A value as messages show it."""
    match value:
        case str():
            return quoted(value)
        case bool():
            return str(value).lower()
        case int():
            # str() of an integer of more than 4300 digits raises; hexadecimal TOML can make one.
            return str(value) if abs(value) < 10**60 else "a huge integer"
        case dict() | list() | None:
            return kind_of(value)
        case _:
            return str(value)
