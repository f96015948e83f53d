"""How servers are known, and how we are to them; the files may change while connections stand."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from attrs import define, field, frozen
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from mcpguard.config.settings import ClientTlsSettings
from mcpguard.errors import ConfigurationError
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.tls.client_context import ClientMaterial, load_client
from mcpguard.tls.verifying import Verifying
from mcpguard.tls.watch import Watch

log = Logger()

ROTATIONS = "mcp_guard_certificate_rotations_total"


@frozen
class ClientBounds:
    """How much is read, and how often it is looked at."""

    pem_bytes: int
    """Of one file."""
    watch_secs: float
    """Between two looks at the files."""


def verifying(host: str) -> Verifying:
    """Connections to a server of another protocol than HTTP, known by the system's authorities.

    Raises ValueError for a host that can be in no certificate.
    """
    made = load_client(ClientTlsSettings(), prefix="", pem_bytes=0, now=None, protocols=())
    return Verifying(made.context, host)


@implementer(IPolicyForHTTPS)
@define(eq=False, repr=False)
class ClientPolicy:
    """Trust and credentials for one https server; implements `IPolicyForHTTPS`.

    Handshakes take the newest usable files, connections that stand keep what they were made with.
    Between `start` and `stop` the files are watched; new ones that cannot be used change nothing
    but the log and the audit trail.

    Args:
        settings: whose name, CAs, certificate and key.
        name: of the upstream or whatever else is behind it, for the log.
        server: the name of an upstream in the audit trail, None where it is none.
        prefix: what stands before the names of the keys in messages, such as ``upstream.tls.``.
        clock: the reactor's.
        wall: Unix seconds.
        recorder: hears of files that changed.
        meter: counts them.
        bounds: see there.

    Raises:
        ConfigurationError: files that cannot be used, each by its key. What has merely expired can:
            a process that starts again must not fail for it, and the server refuses it anyway.
    """

    settings: ClientTlsSettings
    name: str = field(kw_only=True)
    server: str | None = field(kw_only=True)
    prefix: str = field(kw_only=True)
    clock: IReactorTime = field(kw_only=True)
    wall: Callable[[], float] = field(kw_only=True)
    recorder: Recorder = field(kw_only=True)
    meter: Meter = field(kw_only=True)
    bounds: ClientBounds = field(kw_only=True)
    _material: ClientMaterial = field(init=False)
    _latest: Verifying | None = field(init=False, default=None)
    """Made for the last host: there is one mostly."""
    _watch: Watch = field(init=False)

    def __attrs_post_init__(self) -> None:
        chosen = (self.settings.ca_path, self.settings.cert_path, self.settings.key_path)
        paths: list[Path] = [one for one in chosen if one is not None]
        self._watch = Watch(self.clock, paths, self.bounds.watch_secs, self._changed)
        # Before they are read: what changes from now on is noticed.
        self._watch.note()
        self._material = self._load(None)

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See `IPolicyForHTTPS`: for a connection to the URL's host."""
        host = self.settings.server_name or hostname.decode("ascii")
        latest = self._latest
        if latest is None or latest.context is not self._material.context or latest.host != host:
            latest = self._latest = Verifying(self._material.context, host)
        return latest

    @property
    def ends(self) -> Mapping[str, float]:
        """When the first of each kind ends, in Unix seconds: ``client``, ``ca``."""
        return self._material.ends

    def start(self) -> None:
        """Watch the files from now on."""
        if self._watch.paths:
            self._watch.start()

    def stop(self) -> None:
        """Watch them no more."""
        self._watch.stop()

    def _load(self, now: datetime | None) -> ClientMaterial:
        return load_client(
            self.settings, prefix=self.prefix, pem_bytes=self.bounds.pem_bytes, now=now
        )

    def _changed(self) -> None:
        try:
            self._material = self._load(datetime.fromtimestamp(self.wall(), UTC))
        except ConfigurationError as error:
            for problem in error.problems:
                log.warn(
                    "{name}: changed certificates are not used: {problem}",
                    name=self.name,
                    problem=problem,
                )
            self._record("rejected", problems=list(error.problems))
        else:
            log.info("{name}: changed certificates are used from now on", name=self.name)
            self._record("loaded")

    def _record(self, status: str, **details: object) -> None:
        self.meter.count(ROTATIONS, result=status)
        self.recorder.record(
            Event(
                event_type="CertificateEvent",
                timestamp=self.wall(),
                server=self.server,
                status=status,
                details={"of": self.name, **details},
            )
        )
