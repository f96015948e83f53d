"""Carries HTTP requests over Twisted's `Agent`."""

from collections.abc import Callable

from attrs import define, field
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from mcpguard.errors import Reason
from mcpguard.upstream.egress import DialRefused, HeadTooLarge
from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.wire import Exchange, Head, Headers, Receiver

log = Logger()


@implementer(IBodyProducer)
class _Body:
    """Writes a request's body at once, and so knows whether any of the request left."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)
        self.started = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.started = True
        consumer.write(self._body)
        return succeed(None)

    def stopProducing(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


class _Delivery(Protocol):
    """Passes a response's body to the receiver."""

    def __init__(self, exchange: "_AgentExchange") -> None:
        self._exchange = exchange

    def dataReceived(self, data: bytes) -> None:
        self._exchange.body_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._exchange.body_over(reason)


@define(eq=False, repr=False)
class _AgentExchange:
    """One request, from `AgentWire.send` to its end."""

    body: _Body | None
    _receiver: Receiver | None
    _request: Deferred[IResponse] | None = field(init=False, default=None)
    _delivery: _Delivery | None = field(init=False, default=None)

    @property
    def sent(self) -> bool:
        """See `wire.Exchange`; a request without a body counts as sent from the start."""
        return self.body is None or self.body.started

    def abort(self) -> None:
        """See `wire.Exchange`."""
        if self._receiver is None:
            return
        self._receiver = None
        if self._delivery is not None:
            transport = self._delivery.transport
            if transport is not None:
                transport.loseConnection()
        elif self._request is not None:
            self._request.cancel()

    def follow(self, request: Deferred[IResponse]) -> None:
        """Wait for the response."""
        self._request = request
        request.addCallbacks(self._responded, self._failed)
        request.addErrback(lambda failure: log.failure("HTTP answer", failure))

    def body_data(self, data: bytes) -> None:
        """A piece of the body."""
        receiver = self._receiver
        if receiver is not None:
            self._guard(lambda: receiver.data(data))

    def body_over(self, reason: Failure) -> None:
        """The body is complete or broken."""
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            # PotentialDataLoss: the end of the connection was the only end the server announced.
            receiver.end()
        else:
            receiver.lost(explain(reason))

    def _responded(self, response: IResponse) -> None:
        receiver = self._receiver
        delivery = self._delivery = _Delivery(self)
        if receiver is None:
            response.deliverBody(delivery)
            if delivery.transport is not None:
                delivery.transport.loseConnection()
            return
        headers: dict[str, tuple[str, ...]] = {}
        for name, values in response.headers.getAllRawHeaders():
            headers[name.decode("latin-1").lower()] = tuple(one.decode("latin-1") for one in values)
        encoding = [
            one.strip().lower()
            for value in headers.get("content-encoding", ())
            for one in value.split(",")
        ]
        if any(one not in ("", "identity") for one in encoding):
            # We asked for none. Decompressing is where 64 KiB become 64 MiB.
            self._cut(response, "an encoded body, though identity was asked for")
            return
        length = None if response.length is UNKNOWN_LENGTH else int(response.length)
        head = Head(response.code, headers, length)
        self._guard(lambda: receiver.head(head))
        response.deliverBody(delivery)
        if self._receiver is None and delivery.transport is not None:
            # Aborted by the receiver on seeing the head.
            delivery.transport.loseConnection()

    def _cut(self, response: IResponse, detail: str) -> None:
        receiver, self._receiver = self._receiver, None
        assert self._delivery is not None
        response.deliverBody(self._delivery)
        if self._delivery.transport is not None:
            self._delivery.transport.loseConnection()
        if receiver is not None:
            receiver.lost(UpstreamFailure(Reason.UPSTREAM_FAILED, detail))

    def _failed(self, failure: Failure) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(explain(failure))

    def _guard(self, call: Callable[[], None]) -> None:
        """Keep a receiver's exception from killing the connection silently."""
        try:
            call()
        except Exception:
            log.failure("receiving an HTTP answer")
            receiver = self._receiver
            self.abort()
            if receiver is not None:
                receiver.lost(UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway"))


class AgentWire:
    """`wire.Wire` over an `IAgent` that follows the egress rules.

    ``endpoints`` makes the agent's connections, ``close_idle`` closes its pooled ones.
    """

    def __init__(
        self,
        agent: IAgent,
        endpoints: IAgentEndpointFactory,
        close_idle: Callable[[], Deferred[None]],
    ) -> None:
        self._agent = agent
        self._endpoints = endpoints
        self._close_idle = close_idle

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, receiver: Receiver
    ) -> Exchange:
        """See `wire.Wire`."""
        web_headers = WebHeaders()
        for name, value in headers:
            web_headers.addRawHeader(name.encode("ascii"), value.encode("latin-1"))
        web_headers.setRawHeaders(b"accept-encoding", [b"identity"])
        producer = None if body is None else _Body(body)
        exchange = _AgentExchange(producer, receiver)
        exchange.follow(
            maybeDeferred(
                self._agent.request,
                method.encode("ascii"),
                url.encode("ascii"),
                web_headers,
                producer,
            )
        )
        return exchange

    def reach(self, url: str) -> Deferred[None]:
        """See `wire.Wire`."""
        endpoint = self._endpoints.endpointForURI(URI.fromBytes(url.encode("ascii")))

        def connected(protocol: Protocol) -> None:
            if protocol.transport is not None:
                protocol.transport.loseConnection()

        def refused(failure: Failure) -> None:
            raise explain(failure)

        reaching: Deferred[Protocol] = endpoint.connect(Factory.forProtocol(Protocol))
        return reaching.addCallbacks(connected, refused)

    def close(self) -> Deferred[None]:
        """See `wire.Wire`."""
        return self._close_idle()


def explain(failure: Failure) -> UpstreamFailure:
    """What a failure of the agent means for the caller; the detail names no URL."""
    reasons = _reasons(failure)
    for one in reasons:
        if isinstance(one, DialRefused):
            return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, str(one))
        if isinstance(one, HeadTooLarge):
            return UpstreamFailure(Reason.UPSTREAM_FAILED, "the answer's head is too large")
        if isinstance(one, SSL.Error | VerificationError):
            return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"TLS: {one!r}"[:300])
        if isinstance(one, error.DNSLookupError):
            return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the host name cannot be resolved")
        if isinstance(one, error.ConnectError | error.ConnectingCancelledError):
            return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, f"connecting: {one}"[:300])
    words = ", ".join(type(one).__name__ for one in reasons)
    return UpstreamFailure(Reason.UPSTREAM_FAILED, f"no complete answer: {words}")


def _reasons(failure: Failure) -> list[BaseException]:
    """The exception and those it was made of, outermost first."""
    found: list[BaseException] = []
    waiting = [failure]
    while waiting and len(found) < 16:
        one = waiting.pop(0).value
        if one is None:
            continue
        found.append(one)
        if isinstance(one, ResponseFailed | ResponseNeverReceived):
            waiting.extend(one.reasons)
    return found
