"""The head of an HTTP/1.x request, read strictly (RFC 9112, RFC 9110): pure, no I/O.

Twisted's parser follows with the same lines; a request goes on only when both agree. What this
one refuses and Twisted alone accepted when observed: folded header lines, `Transfer-Encoding:
identity` beside `Content-Length`, chunked in HTTP/1.0, a `Content-Length` of 5 000 digits (an
exception in `int`), a request without `Host` or with several, control characters in values,
bytes above 0x7E in the target.
"""

import re
from collections.abc import Mapping

from attrs import define, field, frozen

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(_TOKEN)
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9](?:\.[0-9])?)")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")
_SEGMENTS = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)+")
_HIDDEN = re.compile(r"%(?:[01][0-9A-Fa-f]|2[5EeFf]|5[Cc]|7[Ff])")
_LONGEST_LENGTH = 18
"""Digits of a Content-Length that are taken at their word; more are certainly too large."""


class Garbage(Exception):
    """What arrived is not a request: answer ``status`` without a body and close."""

    def __init__(self, status: int, word: str) -> None:
        super().__init__(word)
        self.status = status
        self.word = word
        """``malformed`` or ``head_too_large``, for the counter."""


@frozen
class Head:
    """One request head whose lines are sound; `fault` says what it does wrong beyond that."""

    method: str
    target: str
    """As on the request line."""
    version: str
    """``1.0`` or ``1.1``."""
    path: str
    """The raw path without query; the whole target where it has none (``*``, CONNECT)."""
    query: str
    headers: Mapping[str, tuple[str, ...]]
    """Lower-case name -> every value in order of arrival, outer whitespace trimmed."""
    length: int | None
    """Bytes of the body; None when it comes in chunks."""
    persistent: bool
    fault: str
    """Why it has to be refused with 400 and the connection closed; empty when it is sound."""
    lines: tuple[bytes, ...] = field(repr=False)
    """The request line and the header lines as they came."""


def plain_path(path: str) -> bool:
    """Tell whether a path means the same to everyone who reads it.

    No empty segment (so no ``//`` and no trailing slash), no ``.`` or ``..``, only characters
    of RFC 3986, and nothing encoded that would act once decoded: controls, ``.``, ``/``, ``\\``
    or a second layer of ``%``.
    """
    if not _SEGMENTS.fullmatch(path) or _HIDDEN.search(path):
        return False
    return not {".", ".."}.intersection(path.split("/"))


def asks_for_a_page(method: str, headers: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell a person's GET from an MCP client's: HTML accepted, no event stream, no session."""
    if method != "GET" or "mcp-session-id" in headers:
        return False
    accepted = ",".join(headers.get("accept", ())).lower()
    kinds = {kind.partition(";")[0].strip() for kind in accepted.split(",")}
    return "text/html" in kinds and "text/event-stream" not in kinds


@define
class HeadReader:
    """Lines in, one request head out; holds at most ``max_bytes`` in ``max_fields`` fields."""

    max_bytes: int
    max_fields: int
    _lines: list[bytes] = field(init=False, factory=list)
    _request: tuple[str, str, str] = field(init=False, default=("", "", ""))
    _headers: dict[str, tuple[str, ...]] = field(init=False, factory=dict)
    _size: int = field(init=False, default=0)

    @property
    def begun(self) -> bool:
        """True once the request line is there."""
        return bool(self._lines)

    def line(self, line: bytes) -> Head | None:
        """Take one line without its CRLF; gives the head at the empty line that ends it.

        Raises `Garbage`. One empty line before the request line is ignored (RFC 9112, 2.2).
        """
        empty_before = self._size > 0 and not self._lines
        self._size += len(line) + 2
        if self._size > self.max_bytes:
            raise self.too_large()
        if not line:
            if self._lines:
                return self._whole()
            if empty_before:
                raise Garbage(400, "malformed")
            return None
        if self._lines:
            self._take_field(line)
        else:
            self._take_request_line(line)
        self._lines.append(line)
        return None

    def too_large(self) -> Garbage:
        """Say that the line being read, or the head with it, passes the bound."""
        return Garbage(431 if self._lines else 414, "head_too_large")

    def _take_request_line(self, line: bytes) -> None:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Garbage(400, "malformed")
        method, target, version = (part.decode("ascii") for part in match.groups())
        if version not in ("1.0", "1.1"):
            raise Garbage(505, "malformed")
        self._request = (method, target, version)

    def _take_field(self, line: bytes) -> None:
        # A folded line starts with a blank, so it has no name before its colon, if it has one.
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Garbage(400, "malformed")
        if len(self._lines) > self.max_fields:
            raise self.too_large()
        key = name.decode("ascii").lower()
        self._headers[key] = (*self._headers.get(key, ()), value.decode("latin-1"))

    def _whole(self) -> Head:
        method, target, version = self._request
        host_fault = _host_fault(self._headers.get("host", ()))
        host = "" if host_fault else self._headers["host"][0]
        path, query, target_fault = _read_target(method, target, host)
        length, length_fault = _read_length(version, self._headers)
        return Head(
            method=method,
            target=target,
            version=version,
            path=path,
            query=query,
            headers=self._headers,
            length=length,
            persistent=version == "1.1" and not _asks_to_close(self._headers),
            fault=length_fault or host_fault or target_fault,
            lines=tuple(self._lines),
        )


def valid_host(values: tuple[str, ...]) -> bool:
    """Tell whether these values of the Host field are one valid host."""
    return not _host_fault(values)


def _host_fault(values: tuple[str, ...]) -> str:
    """RFC 9112, 3.2; in HTTP/1.0 too, because the Host rule needs it."""
    if not values:
        return "Host is missing"
    if len(values) > 1:
        return "Host is repeated"
    return "" if _HOST.fullmatch(values[0]) else "Host is not valid"


def _read_length(version: str, headers: Mapping[str, tuple[str, ...]]) -> tuple[int | None, str]:
    """How the body is framed, as (bytes or None for chunks, fault): RFC 9112, 6."""
    codings = headers.get("transfer-encoding", ())
    lengths = headers.get("content-length", ())
    if codings:
        if lengths:
            return 0, "Content-Length and Transfer-Encoding exclude each other"
        if version == "1.0":
            return 0, "HTTP/1.0 has no Transfer-Encoding"
        if [coding.lower() for coding in codings] != ["chunked"]:
            return 0, "Transfer-Encoding is not supported"
        return None, ""
    if not lengths:
        return 0, ""
    if len(lengths) > 1:
        return 0, "Content-Length is repeated"
    if not _DIGITS.fullmatch(lengths[0]):
        return 0, "Content-Length is not a number"
    digits = lengths[0].lstrip("0")
    return int(digits[: _LONGEST_LENGTH + 1] or "0"), ""


def _asks_to_close(headers: Mapping[str, tuple[str, ...]]) -> bool:
    """RFC 9112, 9.6, in any of several lists; Twisted reads the first field split at blanks."""
    values = ",".join(headers.get("connection", ())).lower()
    return "close" in (option.strip(" \t") for option in values.split(","))


def _read_target(method: str, target: str, host: str) -> tuple[str, str, str]:
    """Path, query and fault of a request target: the four forms of RFC 9112, 3.2."""
    if method == "CONNECT" or target == "*":
        return target, "", "" if method in ("CONNECT", "OPTIONS") else "The target is not valid"
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return path, query, "The target has a fragment" if "#" in target else ""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return target, "", "The target is not valid"
    authority, path, query = match.groups()
    # The target's authority would win over Host; two names for one request is what attacks on
    # the Host rule look like, so they have to agree.
    fault = "" if authority.lower() == host.lower() else "Host differs from the target"
    return path or "/", query or "", fault
