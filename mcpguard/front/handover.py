"""Connections that move to the process which owns the session they ask for.

Workers share one listening socket, so a request may reach one that knows nothing of its session.
Its connection then goes to the owner, by SCM_RIGHTS and with every byte that was not served yet,
and stays there: a client with one session pays for this once per connection. What TLS is spoken
on cannot move; the owner gets one end of a socket pair then, and the bytes pass here.
"""

from enum import Enum
from typing import Protocol
from urllib.parse import parse_qsl

from attrs import field, frozen
from twisted.internet.defer import Deferred

from mcpguard.front.head import Head
from mcpguard.policy.certificates import PeerCertificate

_MESSAGES = "/messages"
_MAX_QUERY_FIELDS = 100


class Outcome(Enum):
    """What became of a connection that was to move."""

    SENT = "sent"
    """It is the other process's."""
    GONE = "gone"
    """There is no such process now: it has to be served here."""
    BUSY = "busy"
    """The process is there, and did not take it in time, or too much is on its way."""


@frozen
class Parcel:
    """A connection on its way: what its new process needs beside the descriptor."""

    peer: tuple[str, int]
    """The client's address, as the listener saw it."""
    host: tuple[str, int]
    """Ours."""
    direct: bool
    """Whether the descriptor is the client's connection itself, and no end of a `Relay`."""
    unread: bytes = field(repr=False)
    """What the client has sent of the request, and after it."""
    certificate: PeerCertificate | None = None
    """The client's, where TLS is spoken by the sender; never of a connection that moves itself."""


class Colleagues(Protocol):
    """The other processes behind the same listener."""

    def owner_of(self, token: str) -> int | None:
        """Where a session, or a parked request, belongs; None: here."""
        ...

    def send(self, owner: int, parcel: Parcel, descriptor: int) -> Deferred[Outcome]:
        """Pass a connection on, to the owner or whoever stands in for it; never errbacks.

        The descriptor stays open, and the caller's, until this fires. Cancelling it takes the
        connection back unless it was sent.
        """
        ...


def session_named(head: Head) -> str | None:
    """The session a request names: by ``Mcp-Session-Id``, or ``sessionId`` in HTTP+SSE.

    None where there is none, or more than one: that is refused wherever it is read.
    """
    values = head.headers.get("mcp-session-id", ())
    if values:
        return values[0] if len(values) == 1 else None
    if "sessionId=" not in head.query or not head.path.endswith(_MESSAGES):
        return None
    try:
        fields = parse_qsl(head.query, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        return None
    named = [value for name, value in fields if name == "sessionId"]
    return named[0] if len(named) == 1 else None


def request_bytes(head: Head, body: bytes) -> bytes:
    """A request that was read whole, as it can be read again by another process.

    The body has its length where it came in chunks. No second ``100 Continue`` is asked for.
    """
    lines = [line for line in head.lines if not line.lower().startswith(b"expect:")]
    if head.length is None:
        lines = [line for line in lines if not line.lower().startswith(b"transfer-encoding:")]
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def head_bytes(head: Head) -> bytes:
    """A request's head as it came."""
    return b"\r\n".join([*head.lines, b"", b""])
