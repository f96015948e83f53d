"""What every client connection has, whichever channel serves it: deadlines and a way to end."""

import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHandshakeListener, ISSLTransport, ITCPTransport
from twisted.logger import Logger
from zope.interface import implementer

from mcpguard.front.addresses import address_of
from mcpguard.front.client_certificates import certificate_of
from mcpguard.front.relay import Addressed
from mcpguard.policy.certificates import PeerCertificate

if TYPE_CHECKING:
    from mcpguard.front.outlet import PacedOutlet
    from mcpguard.front.site import GuardSite


_log = Logger()


class Phase(Enum):
    """Where a connection is in the life of a request."""

    WAITING = "waiting"
    """For the first byte of the next request."""
    HEAD = "head"
    BODY = "body"
    ANSWERING = "answering"
    MOVING = "moving"
    """On its way to another process: what arrives goes along."""
    RELAYED = "relayed"
    """Served by another process: what arrives is passed on."""
    CLOSING = "closing"
    """Nothing that arrives counts any more."""


@implementer(IHandshakeListener)
class Connection:
    """One entry in the registry of a `GuardSite`; the base of its channels."""

    transport: Any
    """TCP or TLS over TCP; in tests a string."""
    persistent: Any
    """False when the present answer is the connection's last."""
    outlet: "PacedOutlet | None"
    """Of the request being answered."""
    loseConnection: Callable[[], None]
    """Close once everything is sent; after `Limits.linger_secs` anyway."""

    def __init__(self, site: "GuardSite") -> None:
        self._guard = site
        self._limits = site.limits
        self.phase = Phase.WAITING
        self.peer = ""
        self.certificate: PeerCertificate | None = None
        """The client's, once the TLS handshake is over; it does not change any more."""
        self._due = site.reactor.seconds() + site.limits.head_secs
        self._congested_since: float | None = None
        self._draining = False
        self._last = False
        """Whether the next answer, or the present one, is the last."""

    @property
    def due(self) -> float:
        """When the present phase has taken too long, by the site's clock."""
        return self._due

    @property
    def draining(self) -> bool:
        """True once no further request is taken."""
        return self._draining

    @property
    def winding_down(self) -> bool:
        """True once the next answer, or the present one, is the last."""
        return self._last

    @property
    def congested(self) -> bool:
        """True while the client leaves more unread than the transport buffers."""
        return self._congested_since is not None

    @property
    def congested_since(self) -> float:
        """When the client has read everything for the last time; infinity when it has just now."""
        return math.inf if self._congested_since is None else self._congested_since

    def drop_answer(self) -> None:
        """Cut the connection if any of an answer waits for this client."""
        if self.outlet is not None and self.outlet.held:
            self.outlet.cut("slow_reader")

    def abort(self, word: str) -> None:
        """Drop the connection with whatever is unsent; ``word`` goes to the counter."""
        self.phase = Phase.CLOSING
        self._guard.on_dropped(word)
        self.transport.abortConnection()

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`: called before any byte of a request."""
        try:
            self.certificate = certificate_of(self.transport)
        except Exception:
            # It has proved something, and nobody can say what.
            _log.failure("a client's certificate cannot be read")
            self.abort("bad_certificate")
            return
        self._judge_certificate()

    def _judge_certificate(self) -> None:
        """A handshake may have begun before the files were there that say so."""
        if self.certificate is None:
            return
        why = self._guard.withdrawn(self.certificate)
        if why is not None:
            self.revoke(why.value)

    def revoke(self, word: str) -> None:
        """Drop the connection, unless it is being closed: its certificate is good no longer."""
        if self.phase is not Phase.CLOSING:
            self.abort(word)

    def wind_down(self) -> None:
        """Let the next answer be the last, or the present one."""
        self._last = True
        if self.phase in (Phase.BODY, Phase.ANSWERING):
            # Not before: Twisted drops a request whose first line finds the flag down.
            self.persistent = False

    def drain(self) -> None:
        """Take no further request: close when idle, after the present answer otherwise."""
        self._draining = True
        self.wind_down()
        if self.phase is Phase.WAITING:
            self.loseConnection()
        if self.phase is Phase.ANSWERING and self.outlet is not None:
            self.outlet.end_standing_stream()

    def check(self, now: float) -> None:
        """Enforce what is due at ``now``: deadlines, stalled readers, keep-alive comments.

        A certificate that has expired meanwhile is none any more, whatever is under way.
        """
        held = self.certificate
        if held is not None and held.not_after <= self._guard.wall():
            self.revoke("certificate_expired")
        if self._congested_since is not None and self.phase is not Phase.CLOSING:
            if now - self._congested_since >= self._limits.stall_secs:
                self.abort("slow_reader")
                return
        elif self.phase is Phase.ANSWERING and self.outlet is not None:
            self.outlet.beat(now)
        if now >= self._due:
            self._expire()

    def _expire(self) -> None:
        """The phase has taken too long; what a channel does about a slow request is its own."""
        if self.phase is Phase.WAITING:
            self.loseConnection()
        else:
            self.transport.abortConnection()

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self._due = self._guard.reactor.seconds() + seconds

    def _begin(self) -> None:
        """Enter the site's registry, or be dropped at once when it is full or draining."""
        self.peer = address_of(self.transport.getPeer())
        if self._over_tcp():
            self.transport.setTcpKeepAlive(True)
        if isinstance(self.transport, Addressed):
            self.certificate = certificate_of(self.transport)
        word = self._guard.admit(self)
        if word:
            self.abort(word)
        else:
            self._judge_certificate()

    def _note_congestion(self) -> None:
        """Note since when the client leaves the transport's buffer full."""
        if self._congested_since is None:
            self._congested_since = self._guard.reactor.seconds()

    def _over_tcp(self) -> bool:
        return bool(ITCPTransport.providedBy(self.transport))

    def _over_tls(self) -> bool:
        return ISSLTransport(self.transport, None) is not None
