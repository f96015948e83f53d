"""The listeners for clients: one or several addresses, each with its own policy for TLS."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mcpguard.config.settings import ListenerSettings, ServerSettings
from mcpguard.front.addresses import address_of
from mcpguard.front.site import GuardSite
from mcpguard.gateway.handshakes import Handshakes
from mcpguard.gateway.identities import public_listener
from mcpguard.gateway.listeners import BACKLOG, Sockets, adopt
from mcpguard.gateway.outward_tls import EXPIRY
from mcpguard.identity.resources import PublicListener
from mcpguard.observe.events import Event, Recorder
from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.tally import Turns
from mcpguard.pipeline.callers import Callers
from mcpguard.policy.certificates import (
    MAX_CRL_BYTES,
    MAX_PEM_BYTES,
    PeerCertificate,
    Withdrawn,
)
from mcpguard.tls.handshake import Doorkeeping, GuardTlsFactory
from mcpguard.tls.material import MaterialBounds
from mcpguard.tls.server import Rotation, ServerTls

log = Logger()

ROTATIONS = "mcp_guard_certificate_rotations_total"
MATERIAL = MaterialBounds(pem_bytes=MAX_PEM_BYTES, crl_bytes=MAX_CRL_BYTES)
LOOK_SECS = 2.0
"""How often the files of a listener are looked at."""
RETRY_SECS = 60.0
"""After how long files that could not be used are tried again."""
DAY_SECS = 86_400.0
"""How often the log warns of what ends soon, or has ended; a start warns by itself."""


def address_name(host: str, port: int) -> str:
    """An address as it stands in URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(listener: ListenerSettings, port: int) -> str:
    """Where clients on its network reach a listener."""
    scheme = "http" if listener.tls is None else "https"
    return f"{scheme}://{address_name(listener.host, port)}"


def key_of(index: int) -> str:
    """The table of the settings of one of `ServerSettings.every_listener`."""
    return "server" if index == 0 else f"server.listeners[{index - 1}]"


@define(eq=False)
class ClientListeners:
    """Every listener for clients, before one site.

    Making one reads the files of each; raises `ConfigurationError` when some cannot be used.

    Args:
        wall: Unix seconds.
        strict: whether what has expired is of no use from the start; later it is in any case.
        warns: whether this process is the one to say that something ends soon.
    """

    server: ServerSettings
    reactor: Any
    wall: Callable[[], float]
    metrics: Metrics
    recorder: Recorder
    strict: bool
    warns: bool
    public: list[PublicListener] = field(init=False, factory=list)
    """What is, or was, listened on."""
    _tls: tuple[ServerTls | None, ...] = field(init=False)
    _secure: tuple[ServerTls, ...] = field(init=False)
    _ports: list[IListeningPort] = field(init=False, factory=list)
    _turns: list[Turns] = field(init=False, factory=list)
    _site: GuardSite | None = field(init=False, default=None)
    _daily: LoopingCall | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._tls = tuple(
            None
            if one.tls is None
            else ServerTls(
                listener=address_name(one.host, one.port),
                where=f"{key_of(index)}.tls",
                settings=one.tls,
                clock=self.reactor,
                wall=self.wall,
                bounds=MATERIAL,
                every_secs=LOOK_SECS,
                retry_secs=RETRY_SECS,
                strict=self.strict,
                on_rotation=self._rotated,
            )
            for index, one in enumerate(self.server.every_listener)
        )
        self._secure = tuple(one for one in self._tls if one is not None)
        if self._secure:
            self.metrics.show(EXPIRY, self._ends, part="listeners")

    def withdrawn(self, certificate: PeerCertificate) -> Withdrawn | None:
        """Why a client's certificate counts no more, by the files as they are now.

        It is on the lists of any listener, or its own one does not trust its CA any more.
        """
        if any(one.revoked(certificate) for one in self._secure):
            return Withdrawn.REVOKED
        if certificate.verified is not None:
            # A connection of workers with other settings may come here, whose listener is gone, has
            # no TLS or asks nobody for a certificate by now: then nothing vouches for this one.
            index = certificate.verified.listener
            tls = self._tls[index] if 0 <= index < len(self._tls) else None
            if tls is None or not tls.trusts(certificate):
                return Withdrawn.UNTRUSTED
        return None

    # -- listening -------------------------------------------------------------------------

    @property
    def listening(self) -> bool:
        """Whether there are ports."""
        return bool(self._ports)

    def open(self, site: GuardSite, callers: Callers, sockets: Sockets | None) -> None:
        """Accept connections for a site from now on; on sockets that are open already, if given.

        Raises `CannotListenError`.
        """
        self._site = site
        site.withdrawn = self.withdrawn
        for index, (one, tls) in enumerate(zip(self.server.every_listener, self._tls, strict=True)):
            factory: Any = site if tls is None else self._wrapped(site, callers, tls, index)
            if sockets is None:
                port = self.reactor.listenTCP(
                    one.port, factory, backlog=BACKLOG, interface=one.host
                )
            else:
                port = adopt(self.reactor, sockets.clients[index], factory)
                turns = sockets.turns(port, lambda: site.connections)
                self._turns.append(turns)
                turns.begin()
            self._ports.append(port)
            number = port.getHost().port
            self.public.append(public_listener(one, number, self.server.public_url))

    def _wrapped(
        self, site: GuardSite, callers: Callers, tls: ServerTls, index: int
    ) -> GuardTlsFactory:
        asks = tls.settings.client_ca_path is not None
        handshakes = Handshakes(tls.listener, asks, callers, self.recorder, self.metrics, self.wall)
        keeping = Doorkeeping(
            peer_of=lambda transport: address_of(transport.getPeer()),
            admits=handshakes.admits,
            on_ended=handshakes.ended,
            handshake_secs=site.limits.head_secs,
            handshake_bytes=site.limits.header_bytes,
            listener=index,
        )
        return GuardTlsFactory(tls, site, self.reactor, keeping)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients reach each (the ports are those that the system gave)."""
        return tuple(
            url_of(one, port.getHost().port)  # type: ignore[attr-defined]
            for one, port in zip(self.server.every_listener, self._ports, strict=True)
        )

    def public_url(self, port: int) -> str | None:
        """What clients know the listener on a port by; that of ``[server]`` for any other."""
        for one in self.public:
            if one.port == port:
                return one.url
        return self.server.public_url

    def leave_turns(self) -> None:
        """Other workers need not wait for this one any more."""
        for turns in self._turns:
            turns.end()

    def close(self) -> Deferred[Any]:
        """Accept no further connection."""
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports])

    # -- certificates that change and end --------------------------------------------------

    def start(self) -> None:
        """Watch the files from now on."""
        for one in self._secure:
            one.start()
        if self._secure and self.warns:
            self._daily = LoopingCall(self._warn)
            self._daily.clock = self.reactor
            self._daily.start(DAY_SECS, now=False)

    def stop(self) -> None:
        """Watch them no more."""
        for one in self._secure:
            one.stop()
        if self._daily is not None and self._daily.running:
            self._daily.stop()

    def _rotated(self, rotation: Rotation) -> None:
        good = not rotation.problems
        details: dict[str, Any] = {"listener": rotation.listener}
        if good:
            details["changed"] = list(rotation.changed)
            cut = 0 if self._site is None else self._site.cut_withdrawn()
            if cut:
                details["connections_cut"] = cut
        else:
            details["problems"] = list(rotation.problems)
        status = "loaded" if good else "rejected"
        self.metrics.count(ROTATIONS, result=status)
        self.recorder.record(Event("CertificateEvent", self.wall(), status=status, details=details))

    def _ends(self) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for one in self._secure:
            for kind, at in one.material.ends.items():
                labels = one.listener, kind
                found[labels] = min(at, found.get(labels, at))
        return found

    def _warn(self) -> None:
        for one in self._secure:
            problems, warnings = one.outlook()
            for words in problems:
                log.error("{problem}", problem=words)
            for words in warnings:
                log.warn("{warning}", warning=words)
