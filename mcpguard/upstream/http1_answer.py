"""HTTP/1.1 answers, read strictly from the bytes of a connection."""

from attrs import define, field, frozen

from mcpguard.upstream.http1_chunks import Chunks
from mcpguard.upstream.http1_head import AnswerHead, AnswerHeads, BadAnswer, may_begin
from mcpguard.upstream.wire import Head

_HEAD_END = b"\r\n\r\n"


@frozen
class AnswerBounds:
    """What one answer may cost beside its body."""

    max_head_bytes: int
    """Of its head and any interim ones before it."""
    max_chunk_line: int
    """Of the line that begins a chunk."""
    max_trailer_bytes: int


@define(eq=False, repr=False)
class AnswerReader:
    """Reads one answer after another: `feed` what arrives, `begin` after each of them.

    What comes first may be offered to `whole` before.
    """

    heads: AnswerHeads
    bounds: AnswerBounds
    rest: bytes = field(init=False, default=b"")
    """What came behind the answer's end."""
    _answer: AnswerHead | None = field(init=False, default=None)
    """The running one's head, once it is complete."""
    _buffer: bytearray = field(init=False, factory=bytearray)
    """The beginning of a head."""
    _interim: int = field(init=False, default=0)
    """Bytes of the interim answers before it."""
    _left: int = field(init=False, default=0)
    """Bytes of the body that are still to come, where there is a length."""
    _chunks: Chunks | None = field(init=False, default=None)
    _most: int = field(init=False)
    """Bytes of a head that `whole` takes: one that is not remembered would be parsed twice."""

    def __attrs_post_init__(self) -> None:
        self._most = min(self.bounds.max_head_bytes, self.heads.max_bytes)

    @property
    def keeps(self) -> bool:
        """Whether the server keeps the connection open after this answer."""
        return self._answer is not None and self._answer.keep

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        answer = self._answer
        return answer is not None and answer.length is None and not answer.chunked

    def begin(self) -> None:
        """Expect a new answer."""
        self._answer = self._chunks = None
        self._interim = 0
        self.rest = b""
        self._buffer.clear()

    def whole(self, data: bytes) -> tuple[AnswerHead, bytes] | None:
        """The head and the body of an answer that ``data`` is all of; None: it is to be fed.

        Raises `BadAnswer`. Where it gives an answer, there is nothing to `begin` after it.
        """
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if (
            end < len(_HEAD_END)
            or end > self._most
            or self._answer is not None
            or self._interim
            or self._buffer
        ):
            return None
        answer = self.heads.parse(data[:end])
        # An interim answer has no body; what follows it may be the rest of ``data``.
        if answer.length != len(data) - end or answer.interim:
            return None
        return answer, data[end:]

    def feed(self, data: bytes) -> tuple[Head | None, bytes, bool]:
        """Take bytes: the head if they complete it, what is body of them, whether it is over.

        Raises `BadAnswer`. Nothing is to be fed after the end.
        """
        head = None
        if self._answer is None:
            behind = self._take_head(data)
            if behind is None or self._answer is None:
                return None, b"", False
            head, data = self._answer.head, behind
        if self._chunks is not None:
            body = self._chunks.feed(data)
            self.rest = self._chunks.rest
            return head, body, self._chunks.over
        if self._answer.length is None:
            return head, data, False
        if len(data) > self._left:
            data, self.rest = data[: self._left], data[self._left :]
        self._left -= len(data)
        return head, data, not self._left

    def _take_head(self, data: bytes) -> bytes | None:
        """Take (more of) a head; gives what is behind it, None while it is not complete."""
        while True:
            whole, data = self._split(data)
            if whole is None:
                return None
            answer = self.heads.parse(whole)
            if answer.head.status == 101:
                raise BadAnswer("an answer in another protocol, though none was asked for")
            if not answer.interim:
                break
            self._interim += len(whole)
        self._answer = answer
        if answer.chunked:
            self._chunks = Chunks(self.bounds.max_chunk_line, self.bounds.max_trailer_bytes)
        else:
            self._left = answer.length or 0
        return data

    def _split(self, data: bytes) -> tuple[bytes | None, bytes]:
        """A whole head, None while it is not there, and what came behind it."""
        buffer = self._buffer
        if buffer:
            seen = max(0, len(buffer) - len(_HEAD_END) + 1)
            buffer += data
            end = buffer.find(_HEAD_END, seen)
        else:
            end = data.find(_HEAD_END)
        if end >= 0:
            end += len(_HEAD_END)
            self._bound(end)
            if buffer:
                data = bytes(buffer)
                buffer.clear()
            return data[:end], data[end:]
        if not buffer:
            buffer += data
        self._bound(len(buffer))
        if not may_begin(buffer):
            raise BadAnswer("an answer that is no HTTP/1.1")
        return None, b""

    def _bound(self, size: int) -> None:
        if self._interim + size > self.bounds.max_head_bytes:
            raise BadAnswer("the answer's head is too large")
