"""Bodies in chunks (RFC 9112 7.1), read strictly."""

import re

from attrs import define, field

from mcpguard.upstream.http1_head import BadAnswer

_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
# Blanks behind the size: some old servers pad it. Extensions mean nothing to us and end here.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*+(?:;" + _TEXT + rb")?")
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_LAST = b"0\r\n\r\n"
_AFTER = b"\r\n" + _LAST
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:" + _TEXT)


@define(eq=False, repr=False)
class Chunks:
    """One body: `feed` takes what arrives, until `over`."""

    max_line: int
    """Bytes of a chunk's first line: its size and extensions, which are ignored."""
    max_trailer: int
    """Bytes of all header lines behind the body, which are ignored too."""
    over: bool = field(init=False, default=False)
    rest: bytes = field(init=False, default=b"")
    """What came behind the body's end."""
    _left: int = field(init=False, default=0)
    """Bytes of the current chunk that are still to come."""
    _closing: bool = field(init=False, default=False)
    """The current chunk is complete but for its line end."""
    _trailer: int | None = field(init=False, default=None)
    """Bytes of the trailer so far, None before it."""
    _partial: bytes = field(init=False, default=b"")
    """The beginning of a line."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes; gives those of them that are body. Raises `BadAnswer`."""
        if not (self._left or self._closing or self._partial) and self._trailer is None:
            body = self._plain(data)
            if body is not None:
                return body
        if self._partial:
            data, self._partial = self._partial + data, b""
        parts: list[bytes] = []
        position, size = 0, len(data)
        while position < size and not self.over:
            if self._left:
                part = data[position : position + self._left]
                parts.append(part)
                position += len(part)
                self._left -= len(part)
                self._closing = not self._left
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                self._hold(data[position:])
                break
            self._line(data[position:end])
            position = end + 2
        if self.over:
            self.rest = data[position:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _plain(self, data: bytes) -> bytes | None:
        """The body, where ``data`` is just one chunk, the body's end, or both: mostly it is."""
        if data == _LAST:
            self.over = True
            return b""
        size = _PLAIN_SIZE.match(data)
        if size is None or size.end() - 2 > self.max_line:
            return None
        start = size.end()
        end = start + int(size[1], 16)
        behind = len(data) - end
        if end == start or behind not in (2, 7) or not _AFTER.startswith(data[end:]):
            return None
        self.over = behind == 7
        return data[start:end]

    def _line(self, line: bytes) -> None:
        """Take a whole line, without its end."""
        if self._closing:
            if line:
                raise BadAnswer("a chunk longer than its size")
            self._closing = False
        elif self._trailer is None:
            size = _SIZE.fullmatch(line)
            if size is None or len(line) > self.max_line:
                raise BadAnswer("a chunk without a usable size")
            self._left = int(size[1], 16)
            if not self._left:
                self._trailer = 0
        elif not line:
            self.over = True
        else:
            self._trailer += len(line) + 2
            if self._trailer > self.max_trailer or not _FIELD.fullmatch(line):
                raise BadAnswer("an unusable trailer")

    def _hold(self, line: bytes) -> None:
        """Keep the beginning of a line, as long as it may be."""
        if self._closing:
            most = 0
        elif self._trailer is None:
            most = self.max_line
        else:
            most = self.max_trailer - self._trailer
        # One more than a line may have: the CR of its end.
        if len(line) > most + 1 or (len(line) == most + 1 and line[-1:] != b"\r"):
            raise BadAnswer("a line of a chunked body is too long")
        self._partial = line
