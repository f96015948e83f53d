"""Lines out of arbitrary chunks: the framing of MCP over stdio."""

from collections.abc import Iterator

from attrs import define, field


class LineTooLong(Exception):
    """More than ``limit`` bytes came without a newline; what follows cannot be framed any more."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a line of more than {limit} bytes")
        self.limit = limit


@define
class LineFramer:
    """Bytes in, whole lines out; holds at most ``limit`` bytes, in linear time.

    A carriage return before the newline is removed, but counts. The framer is dead after
    `LineTooLong`: every later `feed` raises it again.
    """

    limit: int
    _held: bytearray = field(init=False, factory=bytearray)
    _dead: bool = field(init=False, default=False)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that ``data`` completes, without its end; raises `LineTooLong`.

        Lazy: nothing happens, and nothing is kept, before the iterator is run to its end.
        """
        start = 0
        while True:
            end = data.find(b"\n", start)
            stop = len(data) if end < 0 else end
            if self._dead or len(self._held) + stop - start > self.limit:
                self._dead = True
                self._held.clear()
                raise LineTooLong(self.limit)
            if end < 0:
                self._held += data[start:]
                return
            line = data[start:end]
            if self._held:
                line = bytes(self._held) + line
                self._held.clear()
            start = end + 1
            yield line.removesuffix(b"\r")
