"""Dialling out: the address that was checked is the address that is dialled.

A name is resolved once; `policy.addresses` judges all its answers together, and only then is any
of them dialled, so a second lookup cannot smuggle in another one (DNS rebinding). Address
literals take the same way (`HostnameEndpoint` sends them through the reactor's resolver since
Twisted 26.10). Nothing here follows a redirect, reads proxy variables or decompresses.
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from mcpguard.policy.addresses import allowed_to_dial


class DialRefused(Exception):
    """The egress rules forbid the address; the text is for the log."""


class HeadTooLarge(Exception):
    """A server sent more bytes of status line and headers than an answer may have."""


@implementer(IResolutionReceiver)
@define(eq=False, repr=False)
class _Vetting:
    """Collects a name's answers and passes all of them on, or none."""

    host: str
    allow_private: bool
    max_addresses: int
    receiver: Any
    refusal: str | None = None
    _answers: list[IAddress] = field(init=False, factory=list)

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        if len(self._answers) < self.max_addresses:
            self._answers.append(address)

    def resolutionComplete(self) -> None:
        # An address without a scope, as the rules know it: fe80::1%eth0 is fe80::1.
        found = [ip_address(str(one.host).partition("%")[0]) for one in self._answers]  # type: ignore[attr-defined]
        if found:
            self.refusal = allowed_to_dial(self.host, found, self.allow_private)
        if self.refusal is None:
            for address in self._answers:
                self.receiver.addressResolved(address)
        self.receiver.resolutionComplete()


@implementer(IHostnameResolver)
class VettedResolver:
    """The reactor's resolver, silent about names that may not be dialled.

    Made for one connection attempt: ``refusal`` says afterwards why nothing was found.
    """

    def __init__(
        self, inner: IHostnameResolver, *, allow_private: bool, max_addresses: int
    ) -> None:
        self._inner = inner
        self._allow_private = allow_private
        self._max_addresses = max_addresses
        self._vetting: _Vetting | None = None

    @property
    def refusal(self) -> str | None:
        """Why the answers were withheld, None when they were not."""
        return None if self._vetting is None else self._vetting.refusal

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Resolve through the real resolver, vetting the answers."""
        self._vetting = _Vetting(
            hostName, self._allow_private, self._max_addresses, resolutionReceiver
        )
        return self._inner.resolveHostName(
            self._vetting, hostName, portNumber, addressTypes, transportSemantics
        )


@implementer(IReactorTime, IReactorPluggableNameResolver)
class _VettedReactor:
    """The reactor with another resolver, as `HostnameEndpoint` asks for it."""

    def __init__(self, reactor: Any, resolver: VettedResolver) -> None:
        self._reactor = reactor
        self.nameResolver = resolver

    def seconds(self) -> float:
        return float(self._reactor.seconds())

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> IDelayedCall:
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls

    def connectTCP(self, *args: Any, **kwargs: Any) -> Any:
        return self._reactor.connectTCP(*args, **kwargs)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        raise NotImplementedError("the vetted resolver stays")


class _BoundedConnection(ProtocolWrapper):
    """A client connection that is cut when a response head grows too large.

    `HTTPClientParser` bounds each header line (16 384 bytes) but not their number, nor interim
    (1xx) heads. It pauses its transport when a head is complete and resumes it when a response
    is, which is how this layer knows without parsing anything itself.

    Losing the connection is always aborting it: a client that gives a response up has nothing
    to flush, and over TLS a polite close would wait for a peer that may be stalled.
    """

    def __init__(
        self, factory: "WrappingFactory[_BoundedConnection]", wrappedProtocol: IProtocol
    ) -> None:
        super().__init__(factory, wrappedProtocol)
        self._max_head_bytes = factory.max_head_bytes  # type: ignore[attr-defined]
        self._head_bytes: int | None = None
        self._too_large = False

    def makeConnection(self, transport: Any) -> None:
        if ITCPTransport.providedBy(transport):
            # A server that vanished without a FIN leaves an endless stream open for ever otherwise.
            transport.setTcpKeepAlive(True)
        super().makeConnection(transport)

    def write(self, data: bytes) -> None:
        self._head_bytes = 0
        super().write(data)

    def writeSequence(self, data: Sequence[bytes]) -> None:
        self._head_bytes = 0
        super().writeSequence(data)

    def pauseProducing(self) -> None:
        self._head_bytes = None
        self.transport.pauseProducing()  # type: ignore[union-attr]

    def resumeProducing(self) -> None:
        if self.disconnecting:
            # The rest of the response came in the very chunk in which it was given up, and the
            # HTTP protocol is about to put this connection into the pool: it would be dead there
            # with the reactor's next turn, together with the next request.
            raise ConnectionAborted
        self._head_bytes = None
        self.transport.resumeProducing()  # type: ignore[union-attr]

    def loseConnection(self) -> None:
        self.disconnecting = 1
        self.transport.abortConnection()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self._head_bytes == 0 and data.startswith(b"HTTP/1.0 ") and b"\n" in data:
            # Its server closes the connection now (RFC 9112 9.3). Twisted keeps it for the next
            # request, which is lost then, unless the answer says so.
            status, _, rest = data.partition(b"\n")
            data = status + b"\nConnection: close\r\n" + rest
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().dataReceived(data)
        # The parser has had it: still no complete head means all of it was head.
        if self._head_bytes is not None and self._head_bytes > self._max_head_bytes:
            self._head_bytes = None
            self._too_large = True
            self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(Failure(HeadTooLarge()) if self._too_large else reason)


class _BoundedFactory(WrappingFactory[_BoundedConnection]):
    noisy = False
    protocol = _BoundedConnection

    def __init__(self, wrappedFactory: IProtocolFactory, max_head_bytes: int) -> None:
        super().__init__(wrappedFactory)
        # The pool's factory would log its start and stop for every connection.
        wrappedFactory.noisy = False  # type: ignore[attr-defined]
        self.max_head_bytes = max_head_bytes


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)
class _VettedEndpoint:
    """One place to connect to, by the egress rules."""

    endpoints: "VettedEndpoints"
    uri: URI

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        rules = self.endpoints
        resolver = VettedResolver(
            rules.reactor.nameResolver,
            allow_private=rules.allow_private,
            max_addresses=rules.max_addresses,
        )
        endpoint = HostnameEndpoint(
            _VettedReactor(rules.reactor, resolver),
            self.uri.host,
            self.uri.port,
            timeout=rules.connect_timeout,
        )
        factory: Any = _BoundedFactory(protocolFactory, rules.max_head_bytes)
        if self.uri.scheme == b"https":
            creator = rules.policy.creatorForNetloc(self.uri.host, self.uri.port)
            factory = TLSMemoryBIOFactory(creator, True, factory, rules.reactor)

        def unwrap(connection: Any) -> IProtocol:
            # The pool and the agent want the HTTP protocol itself, as its factory made it.
            while isinstance(connection, ProtocolWrapper):
                connection = connection.wrappedProtocol
            protocol: IProtocol = connection
            return protocol

        def explain(failure: Failure) -> Failure:
            return failure if resolver.refusal is None else Failure(DialRefused(resolver.refusal))

        return endpoint.connect(factory).addCallbacks(unwrap, explain)


@implementer(IAgentEndpointFactory)
@define(eq=False, repr=False)
class VettedEndpoints:
    """Makes the agent's endpoints.

    ``connect_timeout`` in seconds, for each address of a name; ``max_addresses`` of a name are
    looked at and dialled, the others do not exist; ``policy`` verifies https servers.
    """

    reactor: Any
    policy: IPolicyForHTTPS = field(kw_only=True)
    allow_private: bool = field(kw_only=True)
    connect_timeout: float = field(kw_only=True)
    max_addresses: int = field(kw_only=True)
    max_head_bytes: int = field(kw_only=True)

    def endpointForURI(self, uri: URI) -> _VettedEndpoint:
        """The endpoint of an http or https URL; ValueError for any other scheme."""
        if uri.scheme not in (b"http", b"https"):
            raise ValueError("only http and https URLs are dialled")
        return _VettedEndpoint(self, uri)


def connection_pool(reactor: Any, *, idle_secs: int, max_idle: int) -> HTTPConnectionPool:
    """A pool of persistent connections to one server.

    It never resends: a request of which a byte was written may have been executed.
    """
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.retryAutomatically = False
    pool.maxPersistentPerHost = max_idle
    pool.cachedConnectionTimeout = idle_secs
    return pool


def egress_agent(reactor: Any, endpoints: VettedEndpoints, pool: HTTPConnectionPool) -> Agent:
    """The agent every request to one server goes through."""
    agent: Agent = Agent.usingEndpointFactory(reactor, endpoints, pool)
    return agent
