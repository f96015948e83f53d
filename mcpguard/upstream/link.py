"""The interface between the pipeline and whatever kind of server stands behind a link.

Messages are parsed JSON-RPC objects (dicts). Ids, progress tokens and subscription ids on the
pipeline's side are always the client's own, with their JSON type; on the server's side they are
the gateway's. The translation belongs to the links (`upstream.correlation`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from attrs import field, frozen
from msgspec import Struct
from twisted.internet.defer import Deferred

from mcpguard.errors import Reason

Message = dict[str, Any]
Id = str | int


class UpstreamFailure(Exception):
    """A server could not be asked or did not answer.

    ``reason`` is one of the ``UPSTREAM_*`` reasons, ``ANSWER_TOO_LARGE`` or
    ``SESSION_NOT_FOUND`` (the server has forgotten the session, and for a request also: it has not
    looked at it, so it may be sent again). ``detail`` is for the log only.
    """

    def __init__(self, reason: Reason, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


@frozen
class Eras:
    """Which generations of the protocol a server speaks, as probed (or pinned by ``era``)."""

    legacy: bool
    """It answers ``initialize`` (2024-11-05 … 2025-11-25)."""
    modern: tuple[str, ...] = ()
    """The stateless versions it lists (2026-07-28 and later); empty = none."""
    discovered: Message | None = field(default=None, repr=False)
    """The result of ``server/discover`` of a modern server; None too where only a principal's
    own session can tell (a bridged one): then ``server/discover`` is asked of a stateless link."""
    bridged: Literal["legacy", "modern"] | None = None
    """The era that the server does not speak and the gateway translates (`pipeline.bridge`)."""


class Outbound(Struct, frozen=True):
    """One request on its way to a server, as policy saw it."""

    id: Id
    """The client's id, given back on the answer."""
    method: str
    params: Message | None
    version: str
    """The protocol version it is sent under."""
    principal_key: str
    headers: tuple[tuple[str, str], ...] = ()
    """``Mcp-Param-*`` of a stateless HTTP request, checked; links for stdio ignore them."""
    endless: bool = False
    """True for streams without a deadline once they have begun (``subscriptions/listen``)."""


class CallSink(Protocol):
    """Receives what belongs to one request, in order: notifications, then exactly one end."""

    def notification(self, message: Message) -> None:
        """Progress, log or subscription notification of this request, client tokens restored."""
        ...

    def answer(self, message: Message) -> None:
        """The response (``result`` or ``error``) with the client's id. An end."""
        ...

    def failed(self, failure: UpstreamFailure) -> None:
        """No answer will come. An end."""
        ...


class Call(Protocol):
    """A running request."""

    def cancel(self, reason: str) -> None:
        """Stop it by the server's own rule (a notification, or closing the stream).

        The sink hears nothing more. Idempotent; does nothing after the end.
        """
        ...

    def hold(self) -> None:
        """Stop the time for an answer: a person is being asked in its course.

        ``max_timeout_secs`` goes on. Counts: as many `release` start it anew.
        """
        ...

    def release(self) -> None:
        """Start the time for an answer anew after `hold`."""
        ...


class Inbox(Protocol):
    """Receives what a server says to a session on its own initiative."""

    def notification(self, message: Message) -> None:
        """A notification that belongs to no single request."""
        ...

    def request(self, message: Message, related: Call | None) -> None:
        """A request to the client; answer it with `Link.respond` under the id it carries.

        ``related`` is the running request it belongs to where the transport tells.
        """
        ...

    def closed(self, failure: UpstreamFailure) -> None:
        """The link is dead for good (child exited, session forgotten); calls have failed.

        Those that an HTTP server may have looked at before it forgot the session end by
        themselves, as far as the link is not closed.
        """
        ...


@runtime_checkable
class Attended(Protocol):
    """What an `Inbox` may be besides: one that knows whether somebody listens to it now.

    A lost session is then begun anew at once (`upstream.renewal`), otherwise when it is used.
    """

    @property
    def attended(self) -> bool:
        """Whether what the server says on its own initiative reaches somebody now."""
        ...


class Link(Protocol):
    """One conversation with a server: of one session, or (stateless) of any number of callers."""

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """Send a request. Never raises: failures reach the sink, possibly before returning."""
        ...

    def notify(self, method: str, params: Message | None) -> None:
        """Send a notification (``cancelled`` is not sent this way but by `Call.cancel`)."""
        ...

    def respond(self, message: Message) -> None:
        """Send the client's response to a server request, under the server's id."""
        ...

    def close(self) -> Deferred[None]:
        """End the conversation (stop the child, DELETE the session); fires when it is over."""
        ...


@runtime_checkable
class Leavable(Protocol):
    """What a `Link` may be besides: one whose session another process can go on with."""

    def leave(self) -> Deferred[None]:
        """End the conversation here alone; fires when that is done."""
        ...


@frozen
class Opening:
    """A session opened with a handshake-era server."""

    link: Link
    result: Message
    """The result of ``initialize`` as the server gave it."""
    ephemeral: bool = False
    """True when the server keeps no session of its own (nothing to close on its side)."""
    session_id: str | None = field(default=None, repr=False)
    """The server's own id of the session, where `Upstream.resume_session` can attach to it."""
    resumable: bool = False
    """Whether `Upstream.resume_session` can attach to it, in another process too."""


@frozen
class Standing:
    """Whether an upstream can be used, for ``/ready`` and ``/routes``."""

    usable: bool
    reason: str = ""
    """Public words when it is not: ``starting``, ``crash loop``, ``unreachable``."""


class Upstream(Protocol):
    """One configured server."""

    @property
    def name(self) -> str:
        """Its configured name."""
        ...

    @property
    def transport(self) -> str:
        """``stdio``, ``http`` or ``sse``."""
        ...

    @property
    def standing(self) -> Standing:
        """Its present state."""
        ...

    def start(self) -> None:
        """Begin: probe the era, warm up. Never raises; problems show in `standing` and the log."""
        ...

    def stop(self) -> Deferred[None]:
        """End every link and child; fires when nothing is left running."""
        ...

    def eras(self) -> Deferred[Eras]:
        """What it speaks, probed once and cached; errbacks with `UpstreamFailure`."""
        ...

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """Shake hands (``initialize`` with these params); errbacks with `UpstreamFailure`.

        ``path`` is what of the request's path goes behind the configured URL (HTTP only). An
        error answer of the server to ``initialize`` errbacks with `InitializeRejected`.
        """
        ...

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """Attach to a session that was opened with these ``initialize`` params in an earlier life.

        ``version`` and ``session_id`` are what the `Opening` said. Whether the server still knows
        it shows with the first request. Errbacks with `UpstreamFailure` (``SESSION_NOT_FOUND``
        where sessions end with the gateway, as those of a child do).
        """
        ...

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """A link for single stateless requests; shared as the isolation mode allows.

        Closing it gives it back; it does not end a shared child.
        """
        ...


class InitializeRejected(Exception):
    """The server answered ``initialize`` with a JSON-RPC error; ``error`` is that object."""

    def __init__(self, error: Message) -> None:
        super().__init__(str(error.get("code")))
        self.error = error


@frozen
class Route:
    """Where a request path leads."""

    upstream: Upstream
    path: str
    """What goes behind the upstream's URL; empty at the exact prefix."""
    public_path: str
    """The configured part of the path (``/mcp`` or ``/mcp/fs``), for metrics and sessions."""


class Directory(Protocol):
    """Every upstream, by path and by name."""

    def resolve(self, path: str) -> Route | None:
        """The route of a request path below ``/mcp``, longest prefix on segment boundaries."""
        ...

    @property
    def upstreams(self) -> Sequence[Upstream]:
        """All, in file order."""
        ...

    def describe(self) -> Sequence[Mapping[str, Any]]:
        """The rows of ``/routes``: name, path, transport, usable."""
        ...
