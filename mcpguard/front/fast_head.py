"""The heads that the fast channel serves: a strict subset of what `head` takes, read by llhttp.

A head is served only when it is in the one form that nobody reads in another way: no folding, no
repeated field, one plain Content-Length, nothing about codings, expectations or upgrades, only
printable ASCII. A pattern says so first; then llhttp reads the same bytes, and both must have
seen the same. For every other head the answer is None, and the general channel decides.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import field, frozen
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from mcpguard.front.head import asks_for_a_page, valid_host

MAX_FAST_HEAD = 8_192
"""Bytes of a head that is served here."""

_STARTS = (b"POST /mcp", b"GET /mcp", b"DELETE /mcp")
_LONGEST_START = max(map(len, _STARTS))
_PATH = rb"/mcp(?:/[A-Za-z0-9_~\-][A-Za-z0-9._~\-]*)*"
_LINE = rb"(POST|GET|DELETE) (" + _PATH + rb") HTTP/1\.1\r\n"
_FIELD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n"
_WHOLE = re.compile(_LINE + rb"((?:" + _FIELD + rb")+)\r\n")
_BEGUN = re.compile(_LINE + rb"(?:" + _FIELD + rb")*")

_NOT_HERE = frozenset(
    {
        "content-length",  # that of a POST was taken out before
        "expect",
        "http2-settings",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that change how a message is framed, or ask for more than an answer."""

_MAX_DIGITS = 9
"""Of a Content-Length: no body of a gigabyte is served here, whatever the bounds say."""


@frozen
class FastHead:
    """What a served head says, but for the length of its body."""

    method: str
    """``POST``, which has a body, or ``GET`` or ``DELETE``, which have none."""
    path: str
    headers: Mapping[str, tuple[str, ...]]
    """As in `exchange.Incoming`, without ``content-length``."""
    persistent: bool
    session_id: str | None
    """The value of ``Mcp-Session-Id``."""
    notes: dict[str, Any] = field(factory=dict, eq=False, repr=False)
    """See `exchange.Incoming`."""


class _Fields:
    """What llhttp finds in a head."""

    def __init__(self) -> None:
        self.url = b""
        self.pairs: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        """Take the target, or a further piece of it."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field."""
        self.pairs.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.complete = True


def split_length(head: bytes) -> tuple[bytes, str] | None:
    """Cut the Content-Length out of a head that ends in an empty line.

    Gives the other lines as they are and the digits; None when there is no such field in plain
    form. Clients send one head again and again in which only this line differs.
    """
    start = head.find(b"\r\ncontent-length: ")
    if start < 0:
        start = head.find(b"\r\nContent-Length: ")
        if start < 0:
            return None
    end = head.find(b"\r\n", start + 18)
    digits = head[start + 18 : end]
    # `isdigit` of bytes knows ASCII digits only.
    if not digits.isdigit() or digits[0] == 0x30 or len(digits) > _MAX_DIGITS:
        return None
    return head[:start] + head[end:], digits.decode("ascii")


def read_head(head: bytes, others: bytes) -> FastHead | None:
    """Read a head; ``others`` is all of it, for a POST what `split_length` gives.

    None when it is not for here.
    """
    match = _WHOLE.fullmatch(others)
    if match is None:
        return None
    method, path, lines = match.groups()
    found = _ask_llhttp(head, method, path)
    # The length of a POST was cut out, so there is one line less.
    if found is None or len(found) != lines.count(b"\r\n") + (method == b"POST"):
        return None
    headers: dict[str, tuple[str, ...]] = {}
    for name, value in found:
        key = name.decode("ascii").lower()
        if key in headers:
            return None
        headers[key] = (value.strip(b" \t").decode("ascii"),)
    if method == b"POST":
        del headers["content-length"]
    elif asks_for_a_page(method.decode("ascii"), headers):
        return None
    if not _NOT_HERE.isdisjoint(headers) or not valid_host(headers.get("host", ())):
        return None
    connection = headers.get("connection", ("keep-alive",))[0].lower()
    if connection not in ("keep-alive", "close"):
        return None
    session = headers.get("mcp-session-id")
    return FastHead(
        method=method.decode("ascii"),
        path=path.decode("ascii"),
        # One mapping serves all requests with this head: nobody may change it.
        headers=MappingProxyType(headers),
        persistent=connection == "keep-alive",
        session_id=None if session is None else session[0],
    )


def _ask_llhttp(head: bytes, method: bytes, path: bytes) -> list[tuple[bytes, bytes]] | None:
    """The fields as llhttp reads them; None when it objects or reads another request line."""
    fields = _Fields()
    parser = HttpRequestParser(fields)
    try:
        parser.feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    agreed = (
        fields.complete
        and fields.url == path
        and parser.get_method() == method
        and parser.get_http_version() == "1.1"
    )
    return fields.pairs if agreed else None


class FastHeads:
    """Reads heads, and remembers those of late by their bytes; bounded in number, size and time.

    A head is kept when it comes for the second time, so that those that never come again (with
    an id of the request in them) push nothing out. Two generations: what is looked up moves to
    the young one, and the old one is dropped when the young one is full or `age` is called. A
    head holds credentials, so none stays for long.
    """

    def __init__(self, *, max_head: int, max_fields: int, max_kept: int, max_kept_bytes: int):
        """Serve heads of ``max_head`` bytes in ``max_fields`` fields at most.

        Keep ``max_kept`` of at most ``max_kept_bytes`` in a generation.
        """
        self._max_head = max_head
        self._max_fields = max_fields
        self._max_kept = max_kept
        self._max_kept_bytes = max_kept_bytes
        self._young: dict[bytes, FastHead] = {}
        self._old: dict[bytes, FastHead] = {}
        self._seen: set[int] = set()
        """Hashes of heads that came once."""

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._young) + len(self._old)

    def may_come(self, data: bytes) -> bool:
        """Tell whether ``data``, without the end of a head in it, may still become one for here.

        As soon as it cannot, the general channel has to see it: it answers some faults before
        the head ends.
        """
        if not data.startswith(_STARTS):
            return any(start.startswith(data) for start in _STARTS)
        if len(data) > self._max_head:
            return False
        lines = data[: data.rfind(b"\r\n") + 2] if b"\r\n" in data else b""
        if not lines:
            return True
        return _BEGUN.fullmatch(lines) is not None and lines.count(b"\r\n") <= self._max_fields

    def may_grow(self, begun: bytes, data: bytes) -> bool:
        """Tell in short that `may_come` holds for ``begun`` as it does with ``data`` behind it.

        No line ends in ``data``, so that whoever sends byte by byte has no line read twice.
        """
        size = len(begun) + len(data)
        if len(begun) < _LONGEST_START or size > self._max_head:
            return False
        return b"\r\n" not in begun[-1:] + data

    def read(self, head: bytes) -> tuple[FastHead, str] | None:
        """The head and the digits of its body's length; None when the head is not for here.

        ``head`` ends in the empty line.
        """
        if head.startswith(b"POST "):
            split = split_length(head)
            if split is None:
                return None
            others, digits = split
        else:
            others, digits = head, "0"
        found = self._young.get(others)
        if found is None:
            found = self._old.pop(others, None)
            if found is not None:
                self._keep(others, found)
            else:
                found = self._read_anew(head, others)
                if found is None:
                    return None
        elif len(head) > self._max_head:
            return None
        return found, digits

    def age(self) -> None:
        """Drop what was not used since the last call."""
        self._old, self._young = self._young, {}
        self._seen.clear()

    def _read_anew(self, head: bytes, others: bytes) -> FastHead | None:
        if len(head) > self._max_head:
            return None
        found = read_head(head, others)
        if found is None or len(found.headers) >= self._max_fields:
            return None
        if len(others) <= self._max_kept_bytes:
            mark = hash(others)
            if mark in self._seen:
                self._keep(others, found)
            elif len(self._seen) < 2 * self._max_kept:
                self._seen.add(mark)
            else:
                self._seen.clear()
        return found

    def _keep(self, others: bytes, found: FastHead) -> None:
        if len(self._young) >= self._max_kept:
            self.age()
        self._young[others] = found
