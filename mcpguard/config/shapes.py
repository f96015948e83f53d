"""Kinds of setting that several sections share, or that read more than a plain value."""

from datetime import UTC, datetime
from pathlib import Path

from mcpguard.config import grammar
from mcpguard.config.kinds import Integer, ListOf, Text
from mcpguard.config.places import INVALID, Invalid, Place

MAX_RATE = 1_000_000.0
"""Requests per second."""
DAY = 86_400
YEAR = 366 * DAY
GIB = 1 << 30


class Moment:
    """A point in time: a TOML date-time with offset, or RFC 3339 in a string."""

    accepts = "a date-time with offset such as 2030-01-31T12:00:00Z"

    def __call__(self, place: Place) -> datetime | Invalid:
        """Convert to UTC."""
        value = place.value
        if isinstance(value, datetime):
            if value.tzinfo is None:
                return place.refuse("has no offset", self.accepts)
            try:
                return value.astimezone(UTC)
            except OverflowError:
                return place.refuse("no such point in time", self.accepts)
        return Text(self.accepts, grammar.moment)(place)


class FilePath:
    """A path; a relative one is taken from the directory of the configuration file."""

    def __init__(self, accepts: str, *, directory: bool) -> None:
        self.accepts = accepts
        self._directory = directory

    def __call__(self, place: Place) -> Path | Invalid:
        """Convert to an absolute path, checking what must already exist."""
        text = Text(self.accepts, grammar.label(4096))(place)
        if isinstance(text, Invalid):
            return INVALID
        path = Path(place.report.base, text)
        try:
            if self._directory and not path.is_dir():
                return place.refuse("there is no such directory", self.accepts)
            if not self._directory and path.is_dir():
                return place.refuse("this is a directory", self.accepts)
            if not self._directory and not path.parent.is_dir():
                return place.refuse("its directory does not exist", self.accepts)
        except (OSError, ValueError):  # permission, a name too long
            return place.refuse("cannot be looked at", self.accepts)
        return path


class PemPath:
    """The path of a PEM file; a relative one is taken from the configuration file's directory.

    What is in it is looked at elsewhere.
    """

    accepts = "the path of a PEM file"

    def __call__(self, place: Place) -> Path | Invalid:
        """Convert to an absolute path."""
        text = Text(self.accepts, grammar.label(4096))(place)
        return INVALID if isinstance(text, Invalid) else Path(place.report.base, text)


class LogArguments:
    """``true`` (all), ``false`` (none) or the names of tool arguments to record."""

    accepts = "true, false or a list of argument names"

    def __call__(self, place: Place) -> bool | tuple[str, ...] | Invalid:
        """Convert."""
        if isinstance(place.value, bool):
            return place.value
        return ListOf(Text("an argument name", grammar.label(256)), self.accepts, 1000)(place)


GLOB = Text(
    "a name or a pattern with * and ?, such as read_* or server:read_*", grammar.glob, plain=True
)
GLOBS = ListOf(GLOB, "a list of names or patterns with * and ?", 1000)
HEADER_NAME = Text(
    "a header name", grammar.matching(grammar.TOKEN, "not a header name"), plain=True
)
PORT = Integer(1, 65_535)
BIND = Text("an IP address or host name to listen on", grammar.bind_address)
