"""A configuration file as read: a tree of plain values, and the lines they stand on."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

Path = tuple[str | int, ...]
"""From the root to a value: keys of tables and indices of lists."""


@frozen
class Bounds:
    """How large a configuration may be."""

    max_bytes: int
    """Of the file."""
    max_nodes: int
    """Values, lists and tables, each use of a YAML alias counted in full."""
    max_depth: int
    """Lists and tables within each other."""


@frozen
class Span:
    """Where a value stands; lines count from 1."""

    first: int
    last: int


class Unreadable(Exception):
    """The text is not a configuration at all; the message is one sentence."""


@frozen
class Document:
    """What the parsers yield."""

    tree: dict[str, Any]
    """dict, list, str, int, float, bool, None (YAML) and the types of `datetime` (TOML)."""
    spans: Mapping[Path, Span]

    def line(self, path: Path) -> int | None:
        """The line of a value, or of the nearest thing around it that has one."""
        for length in range(len(path), 0, -1):
            span = self.spans.get(path[:length])
            if span is not None:
                return span.first
        return None


def dotted(path: Path) -> str:
    """The words for a path: ``auth.api_keys[1].key_hash``."""
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
            continue
        bare = part.replace("_", "").replace("-", "")
        shown = part if bare.isascii() and bare.isalnum() else quoted(part)
        words += f".{shown}" if words else shown
    return words


def quoted(text: str, limit: int = 60) -> str:
    """A string as it may stand in a message: escaped, in quotes, cut at ``limit`` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    escaped = cut.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def printable(text: str) -> str:
    """Text that cannot break a line, move a cursor or reorder what stands around it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
