"""The seam between the HTTP links and whatever carries their requests.

That is a pool of HTTP/1.1 connections (`upstream.http1_wire`). Nothing on the links' side knows
more of the carrier than what stands here.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from mcpguard.upstream.link import UpstreamFailure

Headers = Sequence[tuple[str, str]]


class FixedHeaders(tuple[tuple[str, str], ...]):
    """The same headers for many requests; a wire keeps with them what it has made of them.

    They are all of a request's headers, those of the configuration too (`http_remote.Remote.fix`).
    """

    rendered: tuple[object, str, str, bytes] | None = None
    """By whom, for which method and URL, and what."""


@frozen
class Head:
    """The first part of an HTTP answer."""

    status: int
    headers: Mapping[str, tuple[str, ...]]
    """Lower-case name -> every value in order of arrival."""
    length: int | None = None
    """The body's bytes where the server told them."""

    @cached_property
    def media_type(self) -> str:
        """What ``Content-Type`` says, in lower case and without parameters; empty when nothing."""
        return (self.one("content-type") or "").partition(";")[0].strip().lower()

    def one(self, name: str) -> str | None:
        """The value of a header given exactly once; None when it is missing or repeated."""
        values = self.headers.get(name, ())
        return values[0].strip() if len(values) == 1 else None


class Receiver(Protocol):
    """Receives one HTTP answer, in order: `head`, any `data`, then one of `end` and `lost`.

    `lost` may also come alone, and an answer that has come in one piece is told by `whole` alone.
    Nothing is called after `Exchange.abort`.
    """

    def head(self, head: Head) -> None:
        """Status and headers are there."""
        ...

    def data(self, chunk: bytes) -> None:
        """A piece of the body, at most what one read of the socket gives."""
        ...

    def end(self) -> None:
        """The body is complete."""
        ...

    def whole(self, head: Head, body: bytes) -> None:
        """The same as `head`, `data` unless the body is empty, and `end`."""
        ...

    def lost(self, failure: UpstreamFailure) -> None:
        """The answer, or the rest of it, will not come."""
        ...


class Exchange(Protocol):
    """One HTTP request on its way."""

    @property
    def sent(self) -> bool:
        """True once any byte of it may have reached the server."""
        ...

    def abort(self) -> None:
        """Close its connection; idempotent, does nothing once the answer is complete."""
        ...


class Wire(Protocol):
    """Carries HTTP requests to one server, each exactly once."""

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, receiver: Receiver
    ) -> Exchange:
        """Send a request. Never raises: failures reach the receiver, possibly before returning.

        Of a header given twice the later one is sent.
        """
        ...

    def reach(self, url: str) -> Deferred[None]:
        """Open a connection to the URL's server and close it; errbacks with `UpstreamFailure`."""
        ...

    def close(self) -> Deferred[None]:
        """Close every idle connection; fires when they are closed."""
        ...
