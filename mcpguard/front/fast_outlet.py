"""Answers of the fast channel: the head in one piece with the body, the same as any other's."""

from http import HTTPStatus
from typing import TYPE_CHECKING

from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers as TwistedHeaders

from mcpguard.front.exchange import Headers
from mcpguard.front.outlet import (
    CACHE_STREAM,
    CACHE_WHOLE,
    CONNECTION_HEADERS,
    SECURITY_HEADERS,
    SLICE,
    PacedOutlet,
    phrase,
)

if TYPE_CHECKING:
    from mcpguard.front.fast_channel import FastChannel
    from mcpguard.front.site import GuardSite

_MAX_NAMES = 256
"""Names of fields whose form is remembered; they come from our own code and its upstreams."""

_FIXED = {name.lower() for name, _ in SECURITY_HEADERS} | {"cache-control", "x-request-id"}
_OURS = CONNECTION_HEADERS | _FIXED
"""What an answer's maker cannot set: Twisted's outlet overwrites these."""


def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase(status))


_STATUS_LINES = {status.value: _status_line(status.value) for status in HTTPStatus}


def _fixed_lines(cache_control: str) -> bytes:
    fields = (*SECURITY_HEADERS, ("Cache-Control", cache_control))
    lines = [f"{name}: {value}\r\n" for name, value in fields]
    return "".join(lines).encode("ascii") + b"X-Request-Id: "


_WHOLE = _fixed_lines(CACHE_WHOLE)
_STREAM = _fixed_lines(CACHE_STREAM)


class HeadLines:
    """Renders the heads of answers, byte for byte as Twisted renders their fields."""

    def __init__(self) -> None:
        self._names: dict[str, bytes] = {}

    def fields(self, headers: Headers) -> bytes:
        """The lines of the fields that their maker may set.

        Raises twisted's InvalidHeaderName, a ValueError, for a name that is no token.
        """
        lines = b""
        names = self._names
        for name, value in headers:
            start = names.get(name)
            if start is None:
                start = self._start_of(name)
            if start:
                # What is printable has no line break in it; the rest is cleaned as Twisted does.
                text = value.encode("utf8")
                if not value.isprintable():
                    text = b" ".join(text.splitlines())
                lines += start + text + b"\r\n"
        return lines

    def _start_of(self, name: str) -> bytes:
        """``Name: `` in Twisted's form; empty for a field that belongs to the connection."""
        start = b""
        if name.lower() not in _OURS:
            one = TwistedHeaders()
            one.addRawHeader(name, "")
            ((form, _),) = one.getAllRawHeaders()
            start = form + b": "
        if len(self._names) < _MAX_NAMES:
            self._names[name] = start
        return start


class FastOutlet(PacedOutlet):
    """An outlet over a `FastChannel`."""

    _channel: "FastChannel"
    _head: bytes = b""
    """What the transport still has to get of the head."""
    _bodiless: bool = False
    """The status has no body (RFC 9110, 6.4.1)."""

    def __init__(self, channel: "FastChannel", site: "GuardSite", request_id: str) -> None:
        self._channel = channel
        self._site = site
        self.request_id = request_id

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer; RuntimeError when one was begun before."""
        if not self._begin():
            return
        self._take_head(status, headers, len(body))
        if len(body) <= SLICE and not self._paused:
            # Nearly every answer: one write, nothing waits here.
            self._ending = self.complete = True
            self._callbacks = None
            self._channel.send(self._head if self._bodiless else self._head + body)
            self._channel.answered()
            return
        if body:
            self._push(body)
        self._end()

    def _take_head(self, status: int, headers: Headers, length: int | None) -> None:
        site = self._site
        self._bodiless = status in NO_BODY_CODES
        if length is None:
            framing = b"X-Accel-Buffering: no\r\n"
            if not self._bodiless:
                framing += b"Transfer-Encoding: chunked\r\n"
        else:
            framing = b"" if self._bodiless else b"Content-Length: %d\r\n" % length
        fields = site.lines.fields(headers)
        if self.cross_origin:
            fields += site.lines.fields(self.cross_origin)
        self._head = b"".join(
            (
                _STATUS_LINES.get(status) or _status_line(status),
                framing,
                fields,
                _STREAM if length is None else _WHOLE,
                self.request_id.encode("ascii"),
                b"\r\nDate: ",
                site.date(),
                b"\r\n\r\n" if self._channel.persistent else b"\r\nConnection: close\r\n\r\n",
            )
        )

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        # Not at once: the first event is often ready, and goes with the head in one segment.
        self._channel.send_later(head)

    def _send(self, piece: bytes) -> None:
        head, self._head = self._head, b""
        if self._bodiless or not piece:
            piece = b""
        elif self._streaming:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        if head or piece:
            self._channel.send(head + piece)

    def _close(self) -> None:
        end = b"0\r\n\r\n" if self._streaming and not self._bodiless else b""
        if self._head or end:
            self._channel.send(self._head + end)
            self._head = b""
        self._channel.answered()
