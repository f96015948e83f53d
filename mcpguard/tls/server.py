"""The TLS of one listener: each new handshake has the files as they are now."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field, frozen
from OpenSSL import SSL
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mcpguard.config.settings import TlsSettings
from mcpguard.errors import ConfigurationError
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.tls.context import context_for, would_pass
from mcpguard.tls.material import Material, MaterialBounds, changed, load_material, outlook
from mcpguard.tls.watch import Watch

log = Logger()

MAX_KEPT = 10_000
"""Chains to other CAs that are remembered as good, or not."""


@frozen
class Rotation:
    """Files of a listener were read again."""

    listener: str
    problems: tuple[str, ...]
    """Why they are not used; empty: they are."""
    changed: tuple[str, ...] = ()
    """What is another one now, of `material.KINDS`."""


@implementer(IOpenSSLServerConnectionCreator)
@define(eq=False)
class ServerTls:
    """Gives every new handshake the current context; open connections keep theirs.

    Making one reads the files, and raises `ConfigurationError` when they cannot be used. Later
    a change is read whole and checked; what cannot be used changes nothing.

    Args:
        listener: what it is called in log, audit and metrics.
        where: the key of ``settings``, for messages.
        wall: Unix seconds.
        every_secs: how often the files are looked at.
        retry_secs: after how long what could not be used is tried again, without a word unless
            something else comes of it: a certificate may be for the next minute.
        strict: whether those at the start are judged as later ones are; else it is enough that
            OpenSSL takes them, which refuses clients by what has ended.
        on_rotation: told of each change, after it is in force if it is good.
    """

    listener: str
    where: str
    settings: TlsSettings
    clock: IReactorTime
    wall: Callable[[], float]
    bounds: MaterialBounds
    every_secs: float
    retry_secs: float
    strict: bool
    on_rotation: Callable[[Rotation], None]
    material: Material = field(init=False)
    _context: SSL.Context = field(init=False)
    _watch: Watch = field(init=False)
    _rejected: tuple[str, ...] = field(init=False, default=())
    """Why the files that are there now are not used."""
    _retry: IDelayedCall | None = field(init=False, default=None)
    _judged: dict[bytes, bool] = field(init=False, factory=dict)
    """Whether certificates whose own anchor has gone are good all the same, by the digest of all
    that was sent: they may be tens of KiB."""

    def __attrs_post_init__(self) -> None:
        self._watch = Watch(self.clock, self.paths, self.every_secs, self.reload)
        self._watch.note()
        self.material, self._context = self._read(self.strict, None)

    @property
    def paths(self) -> Sequence[Path]:
        """Every file."""
        one = self.settings
        found = (one.cert_path, one.key_path, one.client_ca_path, one.client_crl_path)
        return [path for path in found if path is not None]

    def start(self) -> None:
        """Watch the files from now on."""
        self._watch.start()

    def stop(self) -> None:
        """Watch them no more."""
        self._watch.stop()
        self._cancel()

    def reload(self) -> None:
        """Read the files again, and use them from the next handshake on if they are good."""
        self._cancel()
        before, rejected = self.material, self._rejected
        try:
            self.material, self._context = self._read(True, before)
        except ConfigurationError as error:
            self._rejected = error.problems
            self._retry = self.clock.callLater(self.retry_secs, self.reload)
            if self._rejected != rejected:
                self._reject(error.problems)
            return
        self._rejected = ()
        self._judged.clear()
        news = changed(before, self.material)
        if news:
            log.info("{listener} has a new {what}", listener=self.listener, what=", ".join(news))
            self.on_rotation(Rotation(self.listener, (), news))

    def _reject(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            log.error(
                "the changed certificates of {listener} are not used: {problem}",
                listener=self.listener,
                problem=problem,
            )
        self.on_rotation(Rotation(self.listener, problems))

    def _cancel(self) -> None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self._context, None)

    def revoked(self, certificate: PeerCertificate) -> bool:
        """Whether a client's certificate, or a CA in its chain, is on the current lists."""
        lists = self.material.revoked
        if not lists:
            return False
        named = ((certificate.issuer, certificate.serial), *certificate.authorities)
        return any(serial in lists.get(issuer, ()) for issuer, serial in named)

    def trusts(self, certificate: PeerCertificate) -> bool:
        """Whether a client's certificate that was verified here still comes from a CA we trust.

        It does while the anchor of its chain is there, in whichever certificate. Where it is not,
        another path may be left: a CA between that another root has signed as well. A chain by
        which the client would pass a new handshake keeps its connection, so OpenSSL is asked, with
        all that the client has sent; to cut it would only make the client come again.
        """
        verified = certificate.verified
        if verified is None or verified.anchor in self.material.anchors:
            return True
        if not self.material.anchors:
            return False
        # By the whole certificate: what a CA may sign can depend on the name in it.
        sent = certificate.der, *verified.sent
        key = hashlib.sha256(b"".join(b"%d:%b" % (len(one), one) for one in sent)).digest()
        found = self._judged.get(key)
        if found is None:
            if len(self._judged) >= MAX_KEPT:
                self._judged.clear()
            try:
                found = would_pass(self._context, certificate.der, verified.sent)
            except Exception:
                # Among them is whatever a stranger has sent; the others are judged all the same.
                log.failure("whether a client's certificate is still good cannot be told")
                found = False
            self._judged[key] = found
        return found

    def outlook(self) -> tuple[Sequence[str], Sequence[str]]:
        """What is wrong by now with what is in use, and what will be soon."""
        return outlook(self.material, self.settings, self.where, self.wall())

    def _read(self, strict: bool, known: Material | None) -> tuple[Material, SSL.Context]:
        material = load_material(
            self.settings, self.where, self.bounds, self.wall(), strict=strict, known=known
        )
        return material, context_for(material, self.settings, self.where)
