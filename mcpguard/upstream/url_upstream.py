"""What the upstreams behind a URL have in common, whichever transport they speak."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.iweb import IPolicyForHTTPS

from mcpguard.config.settings import UpstreamSettings
from mcpguard.errors import ConfigurationError, Reason
from mcpguard.observe.events import Event, Meter, Recorder
from mcpguard.protocol.jsonrpc import Bounds
from mcpguard.upstream.correlation import PROGRESS_BURST, PROGRESS_INTERVAL, Correlator
from mcpguard.upstream.doubts import Doubts
from mcpguard.upstream.egress import VettedEndpoint
from mcpguard.upstream.http1_answer import AnswerBounds
from mcpguard.upstream.http1_wire import Http1Wire, WireBounds
from mcpguard.upstream.http_reader import ReaderBounds
from mcpguard.upstream.http_remote import HttpBounds, Remote
from mcpguard.upstream.http_vigil import Vigil, VigilBounds
from mcpguard.upstream.link import Eras, Standing, UpstreamFailure
from mcpguard.upstream.target import Target
from mcpguard.upstream.url_session import UrlSession
from mcpguard.upstream.wire import Headers, Wire

log = Logger()

CONNECT_SECS = 10.0
# uvicorn and Node close idle connections after 5 s; a request written into that closing is lost,
# because nothing is ever sent twice.
IDLE_SECS = 4.0
MAX_IDLE = 128
MAX_ADDRESSES = 16
# Beyond the running requests and as many endless ones: what is told, what is asked anew, and
# connections whose answers are read to their end.
MORE_CONNECTIONS = 64
# As many as there can be sessions: each has a stream of its own.
MAX_STREAMS = 16_384
MAX_WAITING = 1_024
WAIT_SECS = 30.0
ANSWER = AnswerBounds(max_head_bytes=65_536, max_chunk_line=256, max_trailer_bytes=8_192)
MAX_HEADS = 512
MAX_REMEMBERED_HEAD = 2_048
MAX_DISCARDED = 65_536
DISCARD_SECS = 2.0
MAX_WORDS = 200
STRUCTURE = Bounds(max_depth=200, max_nodes=1_000_000)

BOUNDS = HttpBounds(
    max_resumptions=5,
    first_delay=1.0,
    min_delay=0.1,
    max_delay=30.0,
    max_id_bytes=1024,
    max_posts=100,
    close_secs=3.0,
    listen_secs=2.0,
    doubt_secs=1.0,
    busy_secs=1.0,
)
DOUBT_SECS = 10.0
DOUBT_RETRY_SECS = 1.0
VIGIL = VigilBounds(check_secs=15.0, first_retry=1.0, max_retry=30.0)

# What is ours on every request, or would break its framing.
_RESERVED = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "keep-alive",
        "last-event-id",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


class UrlUpstream(ABC):
    """The part of `link.Upstream` that is the same for one configured URL: ids, limits, the watch.

    ``random`` gives numbers in 0..1 (jitter). ``wire`` replaces the network; ``https``
    says which https server is trusted, and has to for such a URL. ``keep_sessions``: a stop leaves
    the sessions that can be taken up again to the server. Raises `ConfigurationError` for a URL or
    header that cannot be used.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        reactor: Any,
        meter: Meter,
        recorder: Recorder,
        random: Callable[[], float],
        wire: Wire | None = None,
        https: IPolicyForHTTPS | None = None,
        keep_sessions: bool = False,
    ) -> None:
        self._settings = settings
        self._clock: IReactorTime = reactor
        self._recorder = recorder
        target, headers = _checked(settings)
        self._wire = wire or _http1_wire(settings, target, reactor, https)
        self._vigil = self._watch(random)
        self._remote = Remote(
            name=settings.name,
            transport=settings.transport,
            target=target,
            own_headers=headers,
            wire=self._wire,
            clock=self._clock,
            meter=meter,
            random=random,
            bounds=BOUNDS,
            reader=ReaderBounds(
                max_message_size=settings.max_message_size,
                max_discarded=MAX_DISCARDED,
                discard_secs=DISCARD_SECS,
                max_words=MAX_WORDS,
                structure=STRUCTURE,
            ),
            timeout=settings.timeout_secs,
            max_concurrency=settings.max_concurrency,
            correlator=Correlator(
                # The running requests and as many endless ones.
                max_pending=2 * settings.max_concurrency,
                timeout=settings.timeout_secs,
                max_timeout=settings.max_timeout_secs,
                progress_interval=PROGRESS_INTERVAL,
                progress_burst=PROGRESS_BURST,
            ),
            contact=self._vigil.contact,
            doubt=self._vigil.doubt,
        )
        self._keep_sessions = keep_sessions
        self._sessions: set[UrlSession] = set()

    @property
    def name(self) -> str:
        """See `link.Upstream`."""
        return self._settings.name

    @property
    def transport(self) -> str:
        """See `link.Upstream`."""
        return self._settings.transport

    @property
    def standing(self) -> Standing:
        """See `link.Upstream`: whether the server can be reached, as last seen."""
        return self._vigil.standing

    def start(self) -> None:
        """See `link.Upstream`."""
        self._vigil.start()

    def stop(self) -> Deferred[None]:
        """See `link.Upstream`: sessions are ended or left, then every connection is closed."""
        self._vigil.stop()
        closing = gatherResults(
            [
                session.leave() if self._keep_sessions else session.close()
                for session in tuple(self._sessions)
            ]
        )
        return closing.addCallback(self._closed)

    def eras(self) -> Deferred[Eras]:
        """See `link.Upstream`."""
        return self._vigil.eras()

    def _watch(self, random: Callable[[], float]) -> Vigil:
        settings = self._settings
        return Vigil(
            name=settings.name,
            clock=self._clock,
            random=random,
            bounds=VIGIL,
            probe=self._probe,
            reach=self._reach,
            changed=self._changed,
            doubts=Doubts(
                settings.name,
                settings.era,
                self._clock,
                least_secs=DOUBT_SECS,
                retry_secs=DOUBT_RETRY_SECS,
            ),
            pinned=Eras(legacy=True) if settings.era == "legacy" else None,
        )

    @abstractmethod
    def _probe(self) -> Deferred[Eras]:
        """Ask the server what it speaks."""

    def _url(self, path: str) -> str:
        """The URL for what follows a request's prefix; raises `UpstreamFailure`."""
        try:
            return self._remote.target.url(path)
        except ValueError as refused:
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, str(refused)) from refused

    def _reach(self) -> Deferred[None]:
        return self._wire.reach(self._remote.target.url())

    def _doubt(self, detail: str) -> UpstreamFailure:
        return self._vigil.doubt(detail)

    def _changed(self, standing: Standing, failure: UpstreamFailure | None) -> None:
        if failure is None:
            log.info("upstream {name}: usable", name=self.name)
        else:
            log.warn(
                "upstream {name}: {reason}: {detail}",
                name=self.name,
                reason=standing.reason,
                detail=failure.detail,
            )
        self._recorder.record(
            Event(
                event_type="UpstreamEvent",
                timestamp=self._clock.seconds(),
                server=self.name,
                status="usable" if standing.usable else "unusable",
                reason=None if failure is None else failure.reason.value,
            )
        )

    def _closed(self, _: object) -> Deferred[None]:
        self._remote.stop()
        # An aborted connection is gone only with the reactor's next turn.
        return self._wire.close().addCallback(lambda _: deferLater(self._clock, 0))


def _http1_wire(
    settings: UpstreamSettings, target: Target, reactor: Any, https: IPolicyForHTTPS | None
) -> Http1Wire:
    endpoint = VettedEndpoint(
        reactor,
        target.origin,
        policy=https,
        allow_private=settings.allow_private_networks,
        connect_timeout=CONNECT_SECS,
        max_addresses=MAX_ADDRESSES,
    )
    bounds = WireBounds(
        max_connections=2 * settings.max_concurrency + MORE_CONNECTIONS,
        max_streams=MAX_STREAMS,
        max_waiting=MAX_WAITING,
        wait_secs=WAIT_SECS,
        max_idle=MAX_IDLE,
        idle_secs=IDLE_SECS,
        handshake_secs=CONNECT_SECS,
        busy_secs=BOUNDS.busy_secs,
        max_heads=MAX_HEADS,
        max_remembered_head=MAX_REMEMBERED_HEAD,
        answer=ANSWER,
    )
    return Http1Wire(target.origin, endpoint, reactor, bounds)


def _checked(settings: UpstreamSettings) -> tuple[Target, Headers]:
    """The URL and headers of the configuration; raises `ConfigurationError` with every problem."""
    problems: list[str] = []
    target: Target | None = None
    try:
        target = Target.parse(settings.url or "")
    except ValueError as problem:
        problems.append(f"upstream {settings.name!r}: url: {problem}")
    if settings.transport == "sse" and settings.era == "modern":
        problems.append(f"upstream {settings.name!r}: era: HTTP with SSE has no stateless requests")
    headers: list[tuple[str, str]] = []
    for name, secret in settings.headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            problems.append(f"upstream {settings.name!r}: headers: {name!r} is no header name")
        elif lower in _RESERVED or lower.startswith("mcp-"):
            problems.append(f"upstream {settings.name!r}: headers: {name!r} is set by the gateway")
        elif not _VALUE.fullmatch(secret.value):
            problems.append(
                f"upstream {settings.name!r}: headers: the value of {name!r} from {secret.source}"
                " is empty or has characters a header cannot carry"
            )
        else:
            headers.append((name, secret.value))
    if target is None or problems:
        raise ConfigurationError(tuple(problems))
    return target, tuple(headers)
