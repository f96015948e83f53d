"""Rendering: one audit event becomes one bounded JSON line, secrets taken out (product: audit)."""

from datetime import UTC, datetime
from math import isfinite
from typing import Any

from attrs import define, field

from mcpguard.observe.audit.values import REMEMBERED, SHORT, SMALLEST_LINE, Values, clip
from mcpguard.observe.escaping import json_line
from mcpguard.observe.events import Event
from mcpguard.observe.redaction import MARK

_STRINGS = 12
"""How many of the fixed members are strings of the event."""

_ESCAPED = 6
"""Bytes of one character at worst: ``\\u0001``."""

_REMEMBERED_CHARS = 256
"""Characters of texts that are remembered together."""

_MILLIS = tuple(f"{number:03d}Z" for number in range(1000))

_Words = tuple[str | None, ...]


@define(eq=False)
class Renderer:
    """Turns events into lines.

    The events of a busy gateway differ by their times and identifiers only. What stands around
    those is remembered as text once it is known to hold no secret, and a line is put together
    from a few pieces; whatever is out of the ordinary goes through `whole`. Both give the same
    bytes. Raises `ValueError` for a line in which no event fits.
    """

    values: Values
    _frames: dict[_Words, tuple[str, str]] = field(init=False, factory=dict)
    """The members before and behind the duration, by their values."""
    _origins: dict[_Words, str] = field(init=False, factory=dict)
    """The members behind the request's id, by their values."""
    _stamps: "Timestamps" = field(init=False, factory=lambda: Timestamps())
    _id_chars: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        bounds = self.values.bounds
        if bounds.line < SMALLEST_LINE:
            raise ValueError(f"an audit line needs at least {SMALLEST_LINE} bytes")
        self._id_chars = min(SHORT, bounds.text)

    def line(self, event: Event) -> bytes:
        """Return the line with its newline, never longer than the bound: what `whole` returns."""
        (
            event_type,
            timestamp,
            identity_id,
            provider,
            method,
            server,
            tool,
            duration_ms,
            status,
            reason,
            error_id,
            request_id,
            session_id,
            trace_id,
            client_ip,
            arguments,
            details,
        ) = event
        words = (event_type, identity_id, provider, method, server, tool, status, reason)
        frame = self._frames.get(words) or self._frame(event, words)
        come_from = (session_id, trace_id, client_ip)
        origin = self._origins.get(come_from)
        if origin is None:
            origin = self._origin(event, come_from)
        if (
            frame is None
            or error_id is not None
            or request_id is None
            or not request_id.isascii()
            or not request_id.isprintable()
            or '"' in request_id
            or "\\" in request_id
            or len(request_id) > self._id_chars
        ):
            return self.whole(event)
        if duration_ms is None:
            spent = ""
        elif type(duration_ms) is float and 0.0 <= duration_ms < 1e9:
            # Within these limits Python and orjson write a float in the same way.
            spent = f',"duration_ms":{round(duration_ms, 3)!r}'
        else:
            return self.whole(event)
        extras = ""
        if details or (arguments and self.values.log_arguments):
            extras = _members(self.values.extras(event))
        before, behind = frame
        stamp = self._stamps.of(timestamp)
        line = (
            f'{{"timestamp":"{stamp}"{before}{spent}{behind}'
            f',"request_id":"{request_id}"{origin}{extras}}}\n'
        ).encode()
        return line if len(line) <= self.values.bounds.line else self.whole(event)

    def whole(self, event: Event) -> bytes:
        """Return the line of any event, member by member.

        When a whole event does not fit, its arguments and details are left out first, then every
        string is clipped further; ``"cut": true`` says so.
        """
        bounds = self.values.bounds
        line = json_line(self._fixed(event, bounds.text) | self.values.extras(event))
        if len(line) <= bounds.line:
            return line
        line = json_line(self._fixed(event, bounds.text) | {"cut": True})
        if len(line) <= bounds.line:
            return line
        room = bounds.line - 512  # the names, the numbers and the punctuation
        limit = room // (_STRINGS * _ESCAPED) - len(MARK)
        return json_line(self._fixed(event, limit) | {"cut": True})

    def _fixed(self, event: Event, limit: int) -> dict[str, Any]:
        members: dict[str, Any] = {"timestamp": rfc3339(event.timestamp)}
        members.update(self._before(event, limit))
        if event.duration_ms is not None and isfinite(event.duration_ms):
            members["duration_ms"] = round(event.duration_ms, 3)
        members.update(self._behind(event, limit))
        # The gateway makes these itself, new for every request: nothing to redact in them.
        if event.error_id is not None:
            members["error_id"] = clip(event.error_id, limit)
        if event.request_id is not None:
            members["request_id"] = clip(event.request_id, limit)
        members.update(self._last(event, limit))
        return members

    def _before(self, event: Event, limit: int) -> dict[str, str]:
        """Return the members between the timestamp and the duration."""
        text = self.values.text
        members = {"event_type": event.event_type}
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
        return members

    def _behind(self, event: Event, limit: int) -> dict[str, str]:
        """Return the members between the duration and the identifiers."""
        members: dict[str, str] = {}
        if event.status is not None:
            members["status"] = self.values.text(event.status, limit)
        if event.reason is not None:
            members["reason"] = self.values.text(event.reason, limit)
        return members

    def _last(self, event: Event, limit: int) -> dict[str, str]:
        """Return the members behind the request's id."""
        members: dict[str, str] = {}
        if event.session_id is not None:
            members["session_id"] = clip(event.session_id, limit)
        if event.trace_id is not None:
            members["trace_id"] = self.values.text(event.trace_id, limit)
        if event.client_ip is not None:
            members["client_ip"] = clip(event.client_ip, limit)
        return members

    def _frame(self, event: Event, words: _Words) -> tuple[str, str] | None:
        """Return and remember the frame of the event; None if its texts cannot stand as they are.

        Nothing is remembered of texts that had to be redacted: secrets would stay in memory.
        """
        given = [word for word in words if word is not None]
        if not _short(words):
            return None
        limit = self.values.bounds.text
        before, behind = self._before(event, limit), self._behind(event, limit)
        if [*before.values(), *behind.values()] != given:
            return None
        if len(self._frames) >= REMEMBERED:
            self._frames.clear()
        frame = self._frames[words] = _members(before), _members(behind)
        return frame

    def _origin(self, event: Event, come_from: _Words) -> str:
        """Return the members behind the request's id, and remember them unless they are new
        for every request.
        """
        text = _members(self._last(event, self.values.bounds.text))
        if event.trace_id is None and _short(come_from):
            if len(self._origins) >= REMEMBERED:
                self._origins.clear()
            self._origins[come_from] = text
        return text


@define(eq=False)
class Timestamps:
    """Writes times as `rfc3339` does, and remembers the second that it is."""

    _second: int = field(init=False, default=-1)
    _until_second: str = field(init=False, default="")

    def of(self, seconds: float) -> str:
        """Return Unix seconds as RFC 3339 in UTC with milliseconds.

        Raises as `datetime.fromtimestamp` does for what is no time.
        """
        second = int(seconds)
        # The same two roundings as there: to the nearest microsecond, then down.
        micros = round((seconds - second) * 1e6)
        if not 0 <= micros < 1_000_000 or seconds < 0:
            return rfc3339(seconds)
        if second != self._second:
            self._until_second = rfc3339(second)[:-4]
            self._second = second
        return self._until_second + _MILLIS[micros // 1000]


def rfc3339(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def _short(words: _Words) -> bool:
    """Tell whether these words are few enough to be remembered together."""
    return sum(len(word) for word in words if word is not None) <= _REMEMBERED_CHARS


def _members(members: dict[str, Any]) -> str:
    """Return members as they follow others in an object: each begins with a comma."""
    return "," + json_line(members)[1:-2].decode() if members else ""
