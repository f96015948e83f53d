"""One HTTP request as the corridor sees it, and the outlet its answer leaves by.

This is the interface between `front` (twisted.web today, the fast channel later) and `pipeline`:
neither knows more of the other than what stands here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred

from mcpguard.errors import Refusal
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.policy.principal import Principal

Headers = Sequence[tuple[str, str]]


class Incoming(Struct, frozen=True):
    """One request, read whole and within the size bound."""

    request_id: str
    """Minted by the front, echoed as ``X-Request-ID``, in every log line and audit event."""
    method: str
    path: str
    """The raw path without query, as on the wire (``/mcp/fs``)."""
    query: str
    """It may name a session (HTTP+SSE)."""
    headers: Mapping[str, tuple[str, ...]]
    """Lower-case name -> every value in order of arrival, outer whitespace trimmed; that of the
    body's length may be missing."""
    body: bytes
    peer: str
    """The IP address the connection came from, never a header's word."""
    received_at: float
    """Monotonic seconds (the reactor's clock)."""
    local_port: int = 0
    certificate: PeerCertificate | None = None
    """What the client proved in the TLS handshake of its connection, None without one."""
    notes: dict[str, Any] | None = None
    """For what follows from path and headers alone where there is no query: kept by the front as
    long as it keeps the head, for the next request with the same one, whoever's connection it comes
    on. None where it keeps none."""

    def __repr__(self) -> str:
        """Say nothing of headers, query and body: they hold credentials."""
        return f"<Incoming {self.request_id} {self.method} {self.path!r:.80} from {self.peer}>"

    def header(self, name: str) -> str | None:
        """The first value of a header, by lower-case name."""
        values = self.headers.get(name)
        return values[0] if values else None


class Outlet(Protocol):
    """Where the answer to one request goes: exactly one `answer`, or `open` … `finish`.

    The front adds the headers every answer carries (product reference 3.3) and CORS. Once
    `gone`, what is written is dropped; a second answer is a RuntimeError.
    """

    @property
    def gone(self) -> bool:
        """True once nothing more reaches the client: it left, was dropped, or all is sent."""
        ...

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once if the client leaves before the answer is complete.

        Called at once when it has already left. A slow reader whose unread bytes pass the
        front's bound is disconnected and counts as gone.
        """
        ...

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer with ``Content-Length``."""
        ...

    def open(self, status: int, headers: Headers, *, ends_in_drain: bool = True) -> None:
        """Start a streamed answer; the front keeps it alive with SSE comments when idle.

        The stream of a GET ends at once when the gateway stops, unless its maker sees to that.
        """
        ...

    def write(self, chunk: bytes) -> None:
        """Send a piece of a streamed answer (whole SSE events)."""
        ...

    def finish(self) -> None:
        """End a streamed answer."""
        ...


class Gate(Protocol):
    """What every listener needs of the pipeline, the operator's included."""

    def screen(self, incoming: Incoming) -> Refusal | None:
        """The Host and Origin rules, for every route; health probes skip only the Host rule."""
        ...

    def refuse(self, incoming: Incoming, refusal: Refusal, outlet: Outlet) -> None:
        """Render, count and record a refusal the front decided itself (413, 404, 405, …)."""
        ...


class Corridor(Gate, Protocol):
    """What the client listener needs of the pipeline."""

    def handle(self, incoming: Incoming, outlet: Outlet) -> None:
        """Walk one MCP request (any method on an MCP path) through every step; never raises."""
        ...

    def authenticate(self, incoming: Incoming) -> Deferred[Principal]:
        """Who is asking, for the guarded operator pages; errbacks with `errors.Refused`."""
        ...
