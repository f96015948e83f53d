"""One fetch of the identity provider's keys: everything the other side may do is bounded.

Nothing is followed, decompressed, remembered or sent but one GET. Who is dialled and how its
certificate is judged is the endpoint's business, which `gateway` hands in.
"""

from typing import Any
from urllib.parse import urlsplit

import treq
from attrs import define, field, frozen
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from mcpguard import __version__
from mcpguard.errors import DialRefused
from mcpguard.policy.tls_words import tls_words

log = Logger()

FAILURES = frozenset(
    {
        "refused",
        "unreachable",
        "tls",
        "timeout",
        "redirect",
        "status",
        "encoded",
        "too_large",
        "malformed",
        "unusable",
    }
)
"""Why there are no keys: one word of these for metrics and the audit trail."""

MAX_DETAIL = 300


class FetchFailed(Exception):
    """There is no answer that could be used.

    ``word`` is one of `FAILURES`; the text is for the log and names no query.
    """

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(detail[:MAX_DETAIL])
        self.word = word


@frozen
class FetchBounds:
    """What one fetch may take."""

    total_secs: float
    """From looking the name up to the last byte."""
    answer_bytes: int
    """Of everything the server sends on the connection, the head of its answer included."""


@frozen
class JwksEndpoint:
    """Where the keys are published. ``url`` is http or https; ``endpoint`` dials its server."""

    url: str = field(repr=False)
    endpoint: IStreamClientEndpoint
    clock: IReactorTime
    bounds: FetchBounds

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def fetch(self) -> Deferred[bytes]:
        """Ask once; errbacks with `FetchFailed`. Whatever comes of it, the connection is closed."""
        line = _Line(self.endpoint, self.bounds.answer_bytes)
        agent = Agent.usingEndpointFactory(self.clock, line)
        asking = Deferred.fromCoroutine(_ask(agent, self.url.encode("ascii"), line.max_bytes))

        def timed_out(_: object, secs: float) -> Failure:
            return Failure(FetchFailed("timeout", f"no complete answer within {secs:g} s"))

        def closed(result: bytes | Failure) -> bytes | Failure:
            line.cut()
            if not isinstance(result, Failure):
                return result
            if line.overflowed:
                return Failure(_too_large(line.max_bytes))
            return Failure(_explained(result)) if result.check(CancelledError) is None else result

        asking.addTimeout(self.bounds.total_secs, self.clock, onTimeoutCancel=timed_out)
        asking.addBoth(closed)
        return asking


async def _ask(agent: Agent, url: bytes, max_bytes: int) -> bytes:
    headers = Headers(
        {
            "Accept": ["application/jwk-set+json, application/json"],
            "Accept-Encoding": ["identity"],
            "User-Agent": [f"mcp-guard/{__version__}"],
        }
    )
    # Not by treq's own client, which decompresses without a limit, follows redirects unless told
    # not to, and cannot be given the URL of an IPv6 address.
    response: IResponse = await agent.request(b"GET", url, headers)
    code: int = response.code
    if 300 <= code < 400:
        raise FetchFailed("redirect", f"it redirects (status {code}), which is not followed")
    if code != 200:
        raise FetchFailed("status", f"it answers with status {code}")
    codings = response.headers.getRawHeaders("Content-Encoding", [])
    if any(one.strip().lower() != "identity" for each in codings for one in each.split(",")):
        raise FetchFailed("encoded", "it answers in a content coding, though none was offered")
    if isinstance(response.length, int) and response.length > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    await treq.collect(response, parts.append)
    return b"".join(parts)


def _too_large(max_bytes: int) -> FetchFailed:
    return FetchFailed("too_large", f"it answers with more than {max_bytes} bytes")


class _Counted(ProtocolWrapper):
    """A connection that is cut once it has brought more than it may, head or body."""

    factory: "_Counting"

    def dataReceived(self, data: bytes) -> None:
        line = self.factory.line
        line.received += len(data)
        if line.overflowed:
            line.cut()
            return
        super().dataReceived(data)


class _Counting(WrappingFactory[_Counted]):
    noisy = False
    protocol = _Counted
    spoken: IProtocol

    def __init__(self, line: "_Line", factory: IProtocolFactory) -> None:
        super().__init__(factory)
        # Two lines in the log for each fetch say nothing.
        factory.noisy = False  # type: ignore[attr-defined]
        self.line = line

    def buildProtocol(self, addr: Any) -> _Counted | None:  # type: ignore[override]
        if self.line.closed:
            return None
        self.line.connection = counted = super().buildProtocol(addr)
        self.spoken = counted.wrappedProtocol
        return counted


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
@define(eq=False, repr=False)
class _Line:
    """The connection of one fetch."""

    endpoint: IStreamClientEndpoint
    max_bytes: int
    received: int = field(init=False, default=0)
    closed: bool = field(init=False, default=False)
    connection: _Counted | None = field(init=False, default=None)

    @property
    def overflowed(self) -> bool:
        """Whether it has brought more than it may."""
        return self.received > self.max_bytes

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory`."""
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        counting = _Counting(self, protocolFactory)
        # The agent speaks to its own protocol, not to what is around it.
        return self.endpoint.connect(counting).addCallback(lambda _: counting.spoken)

    def cut(self) -> None:
        """Close it now: over TLS an orderly end could be kept waiting for ever."""
        self.closed = True
        connection, self.connection = self.connection, None
        if connection is not None:
            # Of its transport, to which it passes on what it does not have itself.
            connection.abortConnection()


def _explained(failure: Failure) -> FetchFailed:
    """What the failure of a request means."""
    outermost = failure.value
    assert outermost is not None
    problem = _innermost(outermost)
    known = problem is not outermost or isinstance(problem, error.ConnectionClosed)
    if isinstance(problem, FetchFailed):
        return problem
    if isinstance(problem, DialRefused):
        return FetchFailed("refused", str(problem))
    if isinstance(problem, SSL.Error):
        return FetchFailed("tls", f"TLS: {tls_words(problem)}")
    if isinstance(problem, VerificationError):
        return FetchFailed("tls", f"TLS: {problem}")
    if isinstance(problem, error.DNSLookupError):
        return FetchFailed("unreachable", "the host name cannot be resolved")
    if isinstance(problem, error.ConnectError | error.ConnectingCancelledError):
        return FetchFailed("unreachable", f"connecting: {problem}")
    if not known:
        # Not of the server's making.
        log.failure("fetching keys went wrong", failure=failure)
    return FetchFailed("malformed", f"no complete HTTP answer: {type(problem).__name__}")


def _innermost(problem: BaseException) -> BaseException:
    """What went wrong on the connection; Twisted tells a list of failures, of what led to it."""
    reasons = getattr(problem, "reasons", None)
    while isinstance(reasons, list) and reasons and isinstance(reasons[0], Failure):
        problem = reasons[0].value or problem
        reasons = getattr(problem, "reasons", None)
    return problem
