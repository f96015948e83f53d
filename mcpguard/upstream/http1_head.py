"""Heads of HTTP/1.1 messages: requests are rendered, answers are parsed strictly."""

import re
from collections.abc import Mapping

from attrs import define, field, frozen

from mcpguard.upstream.wire import FixedHeaders, Head, Headers

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]"

# RFC 9112 with none of what it leaves to the lenient: lines end in CRLF only, no blank stands
# before a colon, no header goes on in the next line, no control character stands in a value.
_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: " + _TEXT + rb"*+)?\r\n"
    rb"((?:" + _TOKEN + rb":" + _TEXT + rb"*+\r\n)*+)\r\n"
)
_BEGINNING = b"HTTP/1."
_LENGTH = re.compile(r"[0-9]{1,15}")
_LENGTH_LINE = re.compile(rb"\r\nContent-Length: ([0-9]{1,15})\r\n", re.IGNORECASE)

# Not HEAD nor CONNECT: their answers end elsewhere than their heads say.
_METHODS = frozenset({"DELETE", "GET", "POST"})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_VISIBLE = re.compile(r"/[\x21-\x7e]*")
_OURS = frozenset({"accept-encoding", "connection", "content-length", "te", "transfer-encoding"})
"""What a caller cannot set: it belongs to the framing, or to what the wire can read."""


class BadAnswer(Exception):
    """An answer that is no strict HTTP/1.1; the text is for the log and quotes nothing of it."""


@frozen
class AnswerHead:
    """An answer's head, and what it says of the bytes behind it (RFC 9112 6.3)."""

    head: Head
    chunked: bool
    """The body comes in chunks; otherwise `Head.length` bytes of it, or all until the end."""
    length: int | None
    """Bytes of the body, None when they come in chunks or until the connection ends."""
    keep: bool
    """The connection may be used again afterwards."""

    @property
    def interim(self) -> bool:
        """Another head follows (1xx)."""
        return self.head.status < 200


def may_begin(data: bytes | bytearray) -> bool:
    """Whether ``data`` can be the beginning of an answer."""
    return data.startswith(_BEGINNING) or _BEGINNING.startswith(bytes(data[: len(_BEGINNING)]))


def parse_head(data: bytes) -> AnswerHead:
    """Read a whole head with the empty line that ends it; raises `BadAnswer`."""
    match = _HEAD.fullmatch(data)
    if match is None:
        raise BadAnswer("a head that is no HTTP/1.1")
    headers: dict[str, tuple[str, ...]] = {}
    for line in match[3].split(b"\r\n")[:-1]:
        raw_name, _, raw_value = line.partition(b":")
        name = raw_name.decode("ascii").lower()
        value = raw_value.strip(b" \t").decode("latin-1")
        headers[name] = (*headers[name], value) if name in headers else (value,)
    return _framed(int(match[2]), headers, old=match[1] == b"0")


def _framed(status: int, headers: Mapping[str, tuple[str, ...]], *, old: bool) -> AnswerHead:
    """Say where the body ends; whatever two readers could understand in two ways is refused."""
    lengths, codings = headers.get("content-length", ()), headers.get("transfer-encoding", ())
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise BadAnswer("more than one Content-Length, or one that is no number")
    if codings:
        if lengths:
            raise BadAnswer("both Content-Length and Transfer-Encoding")
        if old:
            raise BadAnswer("a Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != "chunked":
            raise BadAnswer("a Transfer-Encoding other than chunked")
    # Its server closes the connection unless asked otherwise (RFC 9112 9.3), and we do not ask.
    keep = not old and "close" not in _words(headers.get("connection", ()))
    length = int(lengths[0]) if lengths else None
    if _bodiless(status):
        if codings or length:
            # Who reads on for a body that by rights is not there is out of step: no more of it.
            keep = False
        return AnswerHead(Head(status, headers, 0), chunked=False, length=0, keep=keep)
    if any(one not in ("", "identity") for one in _words(headers.get("content-encoding", ()))):
        # We asked for none. Decompressing is where 64 KiB become 64 MiB.
        raise BadAnswer("an encoded body, though identity was asked for")
    framed = bool(codings) or length is not None
    return AnswerHead(
        Head(status, headers, length), chunked=bool(codings), length=length, keep=keep and framed
    )


def _bodiless(status: int) -> bool:
    return status < 200 or status in (204, 304)


def _words(values: tuple[str, ...]) -> list[str]:
    return [word.strip().lower() for value in values for word in value.split(",")]


@define(eq=False, repr=False)
class AnswerHeads:
    """Parses heads, and knows again those that came before.

    A busy server sends the same bytes, but for the length, until its ``Date`` changes. At most
    ``max_entries`` heads of at most ``max_bytes`` each are kept, and as many without the number of
    their length; what one head means depends on its bytes alone.
    """

    max_entries: int
    max_bytes: int
    _known: dict[bytes, AnswerHead] = field(init=False, factory=dict)
    _alike: dict[bytes, AnswerHead] = field(init=False, factory=dict)
    """Without the number of the length; not among the others, for that is no head."""

    def parse(self, data: bytes) -> AnswerHead:
        """See `parse_head`."""
        known = self._known.get(data)
        if known is None:
            if len(data) > self.max_bytes:
                return parse_head(data)
            known = self._parse(data)
            self._keep(self._known, data, known)
        return known

    def _parse(self, data: bytes) -> AnswerHead:
        number = _LENGTH_LINE.search(data)
        if number is None:
            return parse_head(data)
        start, end = number.span(1)
        rest = data[:start] + data[end:]
        like = self._alike.get(rest)
        if like is None:
            known = parse_head(data)
            if not _bodiless(known.head.status) and not known.chunked:
                self._keep(self._alike, rest, known)
            return known
        text = number[1].decode("ascii")
        headers = {**like.head.headers, "content-length": (text,)}
        head = Head(like.head.status, headers, int(text))
        return AnswerHead(head, chunked=False, length=head.length, keep=like.keep)

    def _keep(self, known: dict[bytes, AnswerHead], data: bytes, head: AnswerHead) -> None:
        if len(known) >= self.max_entries:
            known.clear()
        known[data] = head

    def __len__(self) -> int:
        return len(self._known) + len(self._alike)


@define(eq=False, repr=False)
class RequestHeads:
    """Renders the heads of requests to one origin (``scheme://host[:port]``).

    A link sends the same head again and again: it is kept with `FixedHeaders`. Of the others at
    most ``max_entries`` are kept, and none of more than ``max_bytes``: a caller's words stand in
    some, as long as a body may be.
    """

    origin: str
    max_entries: int
    max_bytes: int
    _known: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = field(
        init=False, factory=dict
    )

    def render(self, method: str, url: str, headers: Headers) -> bytes:
        """Everything of a head but the length of a body and the empty line.

        Raises ValueError, with words that quote neither URL nor values, for what cannot be sent.
        """
        if type(headers) is FixedHeaders:
            last = headers.rendered
            if last is not None and last[0] is self and last[1] == method and last[2] == url:
                return last[3]
            head = self._render(method, url, headers)
            headers.rendered = self, method, url, head
            return head
        key = (method, url, tuple(headers))
        known = self._known.get(key)
        if known is None:
            known = self._render(method, url, headers)
            if len(known) <= self.max_bytes:
                if len(self._known) >= self.max_entries:
                    self._known.clear()
                self._known[key] = known
        return known

    def __len__(self) -> int:
        return len(self._known)

    def _render(self, method: str, url: str, headers: Headers) -> bytes:
        if not url.startswith(self.origin):
            raise ValueError("the URL is on another origin")
        target = url[len(self.origin) :]
        if not _VISIBLE.fullmatch(target) or "#" in target:
            raise ValueError("the URL has no usable path")
        if method not in _METHODS:
            raise ValueError("the method cannot be sent")
        given: dict[str, tuple[str, str]] = {"host": ("Host", self.origin.partition("://")[2])}
        for name, value in headers:
            if not _NAME.fullmatch(name) or name.lower() in _OURS:
                raise ValueError("a header that cannot be sent")
            if not _VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} cannot be sent")
            given[name.lower()] = (name, value)
        lines = [f"{method} {target} HTTP/1.1"]
        lines.extend(f"{name}: {value}" for name, value in given.values())
        lines.append("Accept-Encoding: identity\r\n")
        return "\r\n".join(lines).encode("latin-1")
