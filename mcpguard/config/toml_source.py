"""TOML text to a `Document`: the standard library reads it, a scan finds the lines.

``tomllib`` keeps no positions. The scan runs only on text that ``tomllib`` has accepted, so it
may take the grammar for granted and only has to know where things begin and end.
"""

import tomllib
from typing import Any

from attrs import define, field

from mcpguard.config.document import Bounds, Document, Path, Span, Unreadable


def read_toml(text: str, bounds: Bounds) -> Document:
    """Parse TOML 1.0.

    Raises:
        Unreadable: a syntax error (with line and column), or beyond the bounds.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(f"not valid TOML: {error}") from None
    except RecursionError:
        raise Unreadable(f"lists or tables nested deeper than {bounds.max_depth}") from None
    except ValueError as error:  # an integer of more than 4300 digits, a date such as 2024-02-31
        raise Unreadable(f"not valid TOML: {error}") from None
    _measure(tree, bounds)
    return Document(tree, _Scan(text).run())


def _measure(tree: dict[str, Any], bounds: Bounds) -> None:
    """Hold the parsed tree against the bounds."""
    nodes = 0
    level: list[Any] = [tree]
    for _ in range(bounds.max_depth):
        inner: list[Any] = []
        for value in level:
            children = value.values() if isinstance(value, dict) else value
            for child in children:
                nodes += 1
                if isinstance(child, dict | list):
                    inner.append(child)
        if nodes > bounds.max_nodes:
            raise Unreadable(f"more than {bounds.max_nodes} values")
        level = inner
        if not level:
            return
    raise Unreadable(f"lists or tables nested deeper than {bounds.max_depth}")


@define
class _Scan:
    """One walk over valid TOML, noting where each key, list item and table stands."""

    _text: str
    _at: int = field(init=False, default=0)
    _line: int = field(init=False, default=1)
    _spans: dict[Path, Span] = field(init=False, factory=dict)
    _arrays: dict[Path, int] = field(init=False, factory=dict)
    """``[[header]]`` tables: how many so far."""

    def run(self) -> dict[Path, Span]:
        """Yield every span found."""
        table: Path = ()
        while True:
            self._blank(newlines=True)
            if self._at >= len(self._text):
                return self._spans
            line = self._line
            if self._peek() == "[":
                table = self._header()
                self._note(table, line)
            else:
                self._pair(table)

    def _header(self) -> Path:
        double = self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        keys = self._keys("]")
        self._at += 2 if double else 1
        path: Path = ()
        for key in keys[:-1]:
            path = self._inside((*path, key))
        path = (*path, keys[-1])
        if double:
            self._arrays[path] = self._arrays.get(path, 0) + 1
        return self._inside(path)

    def _inside(self, path: Path) -> Path:
        """A path, entering the last table so far where it names an array of tables."""
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _pair(self, table: Path) -> None:
        line = self._line
        path = (*table, *self._keys("="))
        self._at += 1
        self._blank(newlines=False)
        self._value(path)
        self._note(path, line)

    def _keys(self, end: str) -> list[str]:
        """The parts of a dotted key, up to ``end``, which is left unread."""
        parts = []
        while True:
            self._blank(newlines=False)
            start = self._at
            if self._peek() in "\"'":
                self._string()
                # tomllib knows the escapes; this is one small value.
                parts.append(str(tomllib.loads("k=" + self._text[start : self._at])["k"]))
            else:
                while self._peek() not in " \t.=]":
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._blank(newlines=False)
            if self._peek() == end:
                return parts
            self._at += 1  # the dot

    def _value(self, path: Path) -> None:
        first = self._peek()
        if first in "\"'":
            self._string()
        elif first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self._peek() not in ",]}\r\n#":
                self._at += 1

    def _list(self, path: Path) -> None:
        self._at += 1
        index = 0
        while True:
            self._blank(newlines=True)
            if self._peek() == "]":
                self._at += 1
                return
            if self._peek() == ",":
                self._at += 1
                continue
            line = self._line
            self._value((*path, index))
            self._note((*path, index), line)
            index += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while True:
            self._blank(newlines=True)
            if self._peek() == "}":
                self._at += 1
                return
            if self._peek() == ",":
                self._at += 1
                continue
            self._pair(path)

    def _string(self) -> None:
        """Pass over a string of any of the four kinds."""
        quote = self._peek()
        if self._text.startswith(quote * 3, self._at):
            end = self._at + 3
            while not self._text.startswith(quote * 3, end):
                end += 2 if quote == '"' and self._text[end] == "\\" else 1
            end += 3
            while self._text.startswith(quote, end):  # up to two quotes may precede the three
                end += 1
        else:
            end = self._at + 1
            while self._text[end] != quote:
                end += 2 if quote == '"' and self._text[end] == "\\" else 1
            end += 1
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _blank(self, *, newlines: bool) -> None:
        """Pass over spaces, and with ``newlines`` over line ends and comments."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "\n" and newlines:
                self._line += 1
            elif char == "#" and newlines:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
                continue
            elif not (char in (" ", "\t") or (char == "\r" and newlines)):
                return
            self._at += 1

    def _peek(self) -> str:
        """The character here; a line end behind the last one."""
        return self._text[self._at] if self._at < len(self._text) else "\n"

    def _note(self, path: Path, line: int) -> None:
        """Note a value that began on ``line`` and ended here, and stretch what it is in."""
        self._spans[path] = Span(line, self._line)
        for length in range(len(path) - 1, 0, -1):
            outer = self._spans.get(path[:length])
            if outer is None:
                self._spans[path[:length]] = Span(line, self._line)
            elif outer.last < self._line:
                self._spans[path[:length]] = Span(outer.first, self._line)
