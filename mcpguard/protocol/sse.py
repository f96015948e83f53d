"""Server-Sent Events, both ways (WHATWG HTML, section 9.2)."""

import re
from collections.abc import Iterator

from attrs import define, field, frozen

COMMENT = b":\n\n"
"""Keeps an idle stream alive. The empty line keeps it apart from the next event, for readers that
cut a stream at empty lines; on its own it dispatches nothing."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
# One whole event of one line of data, as most servers send most of theirs.
_PLAIN = re.compile(rb"(?:event: ?([^\r\n]*+)(?:\r\n|\n))?data: ?([^\r\n]*+)(?:\r\n|\n)(?:\r\n|\n)")
_BOM = b"\xef\xbb\xbf"
_RETRY = re.compile(rb"[0-9]{1,9}")


@frozen
class ServerEvent:
    """One event as it stood on the wire."""

    data: str
    """The ``data`` lines joined by newlines; empty also when there was none (`id` or `retry` only,
    the priming of a resumable stream). Bytes that are no UTF-8 arrive as U+FFFD."""
    event: str | None = None
    id: str | None = None
    """Of this event only: readers keep the last one seen themselves."""
    retry: int | None = None
    """Milliseconds."""


class EventTooLong(Exception):
    """An event, or a comment, of more than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"an event of more than {limit} bytes")
        self.limit = limit


@define
class EventFramer:
    """Bytes in, whole events out; holds at most ``limit`` bytes, in linear time.

    Comments and unknown fields cost nothing once their line has ended. An event cut off by the
    end of the stream is never given out. The framer is dead after `EventTooLong`.
    """

    limit: int
    _line: bytearray = field(init=False, factory=bytearray)
    _after_return: bool = field(init=False, default=False)
    _started: bool = field(init=False, default=False)
    _dead: bool = field(init=False, default=False)
    _held: int = field(init=False, default=0)
    _data: list[bytes] = field(init=False, factory=list)
    _event: bytes = field(init=False, default=b"")
    _id: bytes | None = field(init=False, default=None)
    _retry: int | None = field(init=False, default=None)

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """Yield each event that ``data`` completes; raises `EventTooLong`.

        Lazy: nothing happens, and nothing is kept, before the iterator is run to its end.
        """
        if not data:
            return
        if not self._held and not self._line and not self._dead and len(data) <= self.limit:
            plain = _PLAIN.fullmatch(data)
            if plain is not None:
                self._started, self._after_return = True, False
                event = (plain[1] or b"").decode("utf-8", "replace") or None
                yield ServerEvent(plain[2].decode("utf-8", "replace"), event)
                return
        # The newline of a pair that was cut between two chunks.
        start = 1 if self._after_return and data.startswith(b"\n") else 0
        self._after_return = data.endswith(b"\r")
        for end in _LINE_END.finditer(data, start):
            self._check(end.start() - start)
            line = data[start : end.start()]
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            start = end.end()
            complete = self._take(line)
            if complete is not None:
                yield complete
        self._check(len(data) - start)
        self._line += data[start:]

    def _check(self, more: int) -> None:
        if self._dead or self._held + len(self._line) + more > self.limit:
            self._dead = True
            self._line.clear()
            self._data.clear()
            raise EventTooLong(self.limit)

    def _take(self, line: bytes) -> ServerEvent | None:
        """Add one line; gives the event if the line ended it."""
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and _RETRY.fullmatch(value):
            self._retry = int(value)
        else:
            return None
        self._held += len(line) + 1
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, event, id, retry = self._data, self._event, self._id, self._retry
        self._held, self._data, self._event, self._id, self._retry = 0, [], b"", None, None
        if not data and id is None and retry is None:
            return None
        return ServerEvent(
            data=b"\n".join(data).decode("utf-8", "replace"),
            event=event.decode("utf-8", "replace") or None,
            id=None if id is None else id.decode("utf-8", "replace"),
            retry=retry,
        )


def encode_event(
    data: bytes, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """Write one event; line ends within ``data`` become further ``data`` lines.

    Raises ValueError for an ``event`` or ``id`` that would end its own line.
    """
    parts = []
    for name, value in (("event", event), ("id", id)):
        if value is None:
            continue
        if any(character in value for character in "\r\n\0"):
            raise ValueError(f"a line end or NUL in {name}")
        parts.append(f"{name}: {value}\n".encode())
    if retry is not None:
        parts.append(b"retry: %d\n" % retry)
    parts.extend(b"data: %b\n" % line for line in _LINE_END.split(data))
    parts.append(b"\n")
    return b"".join(parts)
