"""Dialling out: the address that was checked is the address that is dialled.

A name is resolved once; `policy.addresses` judges all its answers together, and only then is any
of them dialled, so a second lookup cannot smuggle in another one (DNS rebinding). Address
literals take the same way (`HostnameEndpoint` sends them through the reactor's resolver since
Twisted 26.10). Nothing here follows a redirect, reads proxy variables or decompresses.
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
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
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from mcpguard.errors import DialRefused
from mcpguard.policy.addresses import allowed_to_dial


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


class Endpoint(Protocol):
    """Where connections to one server are opened."""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open one; fires when it is there, errbacks with whatever went wrong."""
        ...


class _ClientTls(TLSMemoryBIOFactory):
    """TLS without a buffer of its own: a request is one write, which must not wait for a turn."""

    noisy = False
    protocol = TLSMemoryBIOProtocol


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)
class VettedEndpoint:
    """The server of one http or https URL, dialled by the egress rules.

    ``connect_timeout`` in seconds, for each address of a name; ``max_addresses`` of a name are
    looked at and dialled, the others do not exist; ``policy`` verifies an https server. Raises
    ValueError for any other scheme, and for https without a policy.
    """

    reactor: Any
    url: str = field(repr=False)
    policy: IPolicyForHTTPS | None = field(kw_only=True)
    allow_private: bool = field(kw_only=True)
    connect_timeout: float = field(kw_only=True)
    max_addresses: int = field(kw_only=True)
    _uri: URI = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._uri = URI.fromBytes(self.url.encode("ascii"))
        if self._uri.scheme not in (b"http", b"https"):
            raise ValueError("only http and https URLs are dialled")
        if self._uri.scheme == b"https" and self.policy is None:
            raise ValueError("an https server needs a policy to verify it by")

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`; errbacks with `DialRefused` when the rules forbid it."""
        resolver = VettedResolver(
            self.reactor.nameResolver,
            allow_private=self.allow_private,
            max_addresses=self.max_addresses,
        )
        host, port = self._uri.host, self._uri.port
        endpoint = HostnameEndpoint(
            _VettedReactor(self.reactor, resolver), host, port, timeout=self.connect_timeout
        )
        factory: Any = protocolFactory
        if self._uri.scheme == b"https" and self.policy is not None:
            creator = self.policy.creatorForNetloc(host, port)
            factory = _ClientTls(creator, True, factory, self.reactor)

        def explain(failure: Failure) -> Failure:
            return failure if resolver.refusal is None else Failure(DialRefused(resolver.refusal))

        return endpoint.connect(factory).addErrback(explain)
