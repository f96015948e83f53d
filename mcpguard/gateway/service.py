"""The running gateway: one service that starts and stops every room in the right order."""

import logging
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from mcpguard import __version__
from mcpguard.config.settings import Settings
from mcpguard.front.cors import Cors
from mcpguard.front.pages import LateRoutes, PageAccess, Vitals
from mcpguard.front.site import GuardSite
from mcpguard.gateway.active_identities import ActiveIdentities
from mcpguard.gateway.client_listeners import ClientListeners
from mcpguard.gateway.corridor import corridor_for
from mcpguard.gateway.identities import identities_for
from mcpguard.gateway.ids import RandomIds
from mcpguard.gateway.issuer import issuer_of
from mcpguard.gateway.limits import Limiting
from mcpguard.gateway.listeners import Sockets, adopt, front_limits, operator_limits
from mcpguard.gateway.neighbours import Neighbours, Seat
from mcpguard.gateway.observers import relay_to
from mcpguard.gateway.operator_gate import OperatorGate
from mcpguard.gateway.outward_tls import EXPIRY, OutwardTls
from mcpguard.gateway.routing import client_routes, operator_routes
from mcpguard.gateway.serving import fresh_token, served, tool_schemas
from mcpguard.gateway.upstreams import build_upstream
from mcpguard.observe.audit.thread import WorkerThread
from mcpguard.observe.audit.trail import AUDIT_BOUNDS, AuditTrail
from mcpguard.observe.events import Event
from mcpguard.observe.logs import bridge_stdlib
from mcpguard.observe.metrics import CONTENT_TYPE, Metrics
from mcpguard.ops.workers.control import Control
from mcpguard.ops.workers.gathering import GATHERING_BOUNDS, Reporting
from mcpguard.policy.origins import is_loopback
from mcpguard.upstream.directory import UpstreamDirectory

log = Logger()

SWEEP_SECS = 15.0
ACTIVE_WINDOW_SECS = 300.0
MAX_TRACKED_IDENTITIES = 100_000


class Gateway(Service):
    """The whole gateway as one service.

    ``started`` fires with the URL clients use once everything listens, or errbacks with the
    reason why it cannot. Binding happens in `privilegedStartService`, so that twistd exits with
    status 1 when an address is taken instead of staying up with nothing listening.

    With ``sockets`` it is one of several workers: `begin` starts all but the listeners, `listen`
    these, and signals and the events about the whole gateway are the parent's. By ``control`` the
    parent gets its audit lines and metrics; ``seat`` says which worker it is.
    """

    name = "mcp-guard"

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        stdout: int = 1,
        sockets: Sockets | None = None,
        control: Control | None = None,
        seat: Seat | None = None,
    ) -> None:
        self.settings = settings
        self.drain_secs = settings.server.drain_timeout_secs
        """How long a stop waits for running calls."""
        self.keep_sessions = settings.server.session_key is not None
        """Whether a stop leaves the sessions to another gateway, or a later life of this one."""
        self.lull_secs = 0.0
        """How long a stop still serves connections it has, for those whose request is under way."""
        self._sockets = sockets
        self.started: Deferred[str] = Deferred()
        self._reactor = reactor
        self._operator_port: IListeningPort | None = None
        self._sweeper: LoopingCall | None = None
        self._unbridge: Callable[[], None] = lambda: None
        wall = time.time
        new_id = RandomIds()
        server = settings.server
        self._identities = ActiveIdentities(
            reactor.seconds, ACTIVE_WINDOW_SECS, MAX_TRACKED_IDENTITIES
        )
        self.metrics = Metrics(
            active_identities=self._identities.keys,
            sessions=lambda: len(self.pipeline.table),
            connections=lambda: self._site.connections,
            children=self._children,
        )
        self.audit = AuditTrail(
            settings.audit,
            clock=reactor,
            wall=wall,
            meter=self.metrics,
            spawn=lambda name: WorkerThread(reactor, name),
            stdout=stdout,
            bounds=AUDIT_BOUNDS,
            relay=None if control is None else relay_to(control, settings.audit, reactor),
        )
        self.listeners = ClientListeners(
            server,
            reactor,
            wall,
            self.metrics,
            self.audit,
            # What has ended since the file was read may not keep a worker from coming back.
            strict=seat is None,
            warns=seat is None or seat.number == 1,
        )
        self._reporting = (
            None if control is None else Reporting(control, self.metrics, GATHERING_BOUNDS)
        )
        self.outward_tls = OutwardTls(reactor, self.audit, self.metrics)
        self.metrics.show(EXPIRY, self.outward_tls.ends, part="outward")
        self.upstreams = [
            build_upstream(
                one,
                reactor=reactor,
                meter=self.metrics,
                recorder=self.audit,
                tls=self.outward_tls,
                keep_sessions=server.session_key is not None,
            )
            for one in settings.upstreams
        ]
        self._issuer = issuer_of(
            settings.auth,
            policy=self.outward_tls.key_set,
            reactor=reactor,
            recorder=self.audit,
            metrics=self.metrics,
            wall=wall,
        )
        self.limiting = Limiting(reactor, wall, self.metrics)
        self.limiting.build(settings.rate_limit, control)
        schemas = tool_schemas(reactor.seconds)
        self.served = [
            served(
                upstream,
                one,
                clock=reactor,
                random=random.random,
                meter=self.metrics,
                schemas=schemas,
                new_token=fresh_token if seat is None else seat.new_token,
            )
            for one, upstream in zip(settings.upstreams, self.upstreams, strict=True)
        ]
        self.directory = UpstreamDirectory(list(zip(settings.upstreams, self.served, strict=True)))
        identities = identities_for(
            settings.auth,
            self.directory,
            lambda: self.listeners.public,
            wall,
            withdrawn=self.listeners.withdrawn,
            keys=self._issuer.keys,
        )
        self.pipeline = corridor_for(
            server=server,
            rate_limit=settings.rate_limit,
            authenticator=identities.chain,
            challenges=identities.challenges,
            directory=self.directory,
            clock=reactor,
            wall=wall,
            new_id=new_id,
            recorder=self.audit,
            meter=self.metrics,
            seen=self._identities.note,
            limiter=self.limiting.limiter,
            places=self.limiting.places,
            session_key=(
                None if server.session_key is None else bytes.fromhex(server.session_key.value)
            ),
            schemas=schemas,
            owner=None if seat is None else seat.number,
            public_url=self.listeners.public_url,
        )
        vitals = Vitals(
            version=__version__,
            started_at=reactor.seconds(),
            seconds=reactor.seconds,
            readiness=self.readiness,
            metrics=self._reporting.page if self._reporting else self.metrics.render,
            metrics_type=CONTENT_TYPE,
            routes=self.directory.describe,
        )
        if settings.admin is not None:
            access = PageAccess.ABSENT
        elif all(is_loopback(one.host) for one in server.every_listener):
            access = PageAccess.OPEN
        else:
            access = PageAccess.AUTHENTICATED
        self._site = GuardSite(
            reactor=reactor,
            wall=wall,
            gate=self.pipeline,
            resource=LateRoutes(
                lambda: client_routes(self.pipeline, vitals, access, identities.document)
            ),
            limits=front_limits(settings),
            cors=Cors(server.cors) if server.cors.enabled else None,
            new_id=new_id,
            on_dropped=self._dropped,
            corridor=self.pipeline,
        )
        self._neighbours = (
            None
            if seat is None
            else Neighbours(reactor, seat, self._site, self.pipeline, wall, self.metrics)
        )
        self._operator_site: GuardSite | None = None
        if settings.admin is not None:
            self._operator_site = GuardSite(
                reactor=reactor,
                wall=wall,
                gate=OperatorGate(self.pipeline.books, settings.admin),
                resource=LateRoutes(lambda: operator_routes(vitals)),
                limits=operator_limits(),
                cors=None,
                new_id=new_id,
                on_dropped=self._dropped,
            )

    # -- start -----------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Bind the listeners and open the audit file; raises when either cannot be had."""
        self.audit.start()
        self.listen()

    def listen(self) -> None:
        """Accept connections from now on."""
        admin = self.settings.admin
        if self._neighbours is not None:
            self._neighbours.start()
        self.listeners.open(self._site, self.pipeline.callers, self._sockets)
        if admin is None or self._operator_site is None:
            return
        if self._sockets is None:
            self._operator_port = self._reactor.listenTCP(
                admin.port, self._operator_site, interface=admin.host
            )
        elif self._sockets.admin is not None:
            self._operator_port = adopt(self._reactor, self._sockets.admin, self._operator_site)

    def startService(self) -> None:
        """Start the upstreams and begin to serve."""
        if not self.listeners.listening:
            # twistd has bound them already; `mcp-guard run` comes straight here.
            try:
                self.privilegedStartService()
            except Exception as error:
                self.started.errback(error)
                return
        self.begin()
        self._listen_for_signals()
        self._system_event("GatewayStarted")
        log.info("listening on {url}", url=", ".join(self.urls))
        self.started.callback(self.url)

    def begin(self) -> None:
        """Start everything but the listeners."""
        super().startService()
        if self._reporting is not None:
            self._reporting.begin()
        self.limiting.start()
        self.listeners.start()
        # Libraries that log by the standard library would otherwise be heard by nobody.
        self._unbridge = bridge_stdlib(logging.WARNING)
        self.outward_tls.start()
        self._issuer.start()
        for upstream in self.served:
            upstream.start()
        self._sweeper = LoopingCall(self._sweep)
        self._sweeper.clock = self._reactor
        self._sweeper.start(SWEEP_SECS, now=False)

    @property
    def url(self) -> str:
        """Where clients reach the listener of ``[server]`` (the port is the one it got)."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients reach every listener."""
        return self.listeners.urls

    def _listen_for_signals(self) -> None:
        # Only the main thread of a real process may; tests run the service without signals.
        install = getattr(signal, "signal", None)
        try:
            install(signal.SIGUSR1, self._reopen_requested)  # type: ignore[misc]
        except ValueError:
            log.debug("not on the main thread: SIGUSR1 is not listened to")

    def _reopen_requested(self, signum: int, frame: object) -> None:
        self._reactor.callFromThread(self.audit.reopen)

    def _sweep(self) -> None:
        self.pipeline.table.sweep()
        self.pipeline.sse.sweep()
        self.pipeline.bare.pool.sweep()
        for upstream in self.served:
            upstream.sweep()

    # -- stop ------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Stop in order: listeners, running calls, sessions, children, audit."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.listeners.leave_turns()
        if self._neighbours is not None:
            self._neighbours.retire()
        if self.lull_secs > 0.0:
            await self._close_ports()
            self._site.wind_down()
            await deferLater(self._reactor, self.lull_secs)
        if self._neighbours is not None:
            self._neighbours.stop()
        self.pipeline.drain()
        if self._sweeper is not None and self._sweeper.running:
            self._sweeper.stop()
        await self._close_ports()
        drains = [self._site.drain(self.drain_secs)]
        if self._operator_site is not None:
            drains.append(self._operator_site.drain(1.0))
        await DeferredList(drains)
        self.listeners.stop()
        # With a key of their own the sessions go on in the gateway's next life.
        await self.pipeline.end_sessions(keep=self.keep_sessions)
        await self.pipeline.bare.pool.end_all()
        await DeferredList([maybeDeferred(one.stop) for one in self.served], consumeErrors=True)
        self._issuer.stop()
        self.outward_tls.stop()
        await self.limiting.stop()
        if self._sockets is None:
            self._system_event("GatewayStopped")
        await self.audit.stop()
        if self._reporting is not None:
            await self._reporting.end()
        self._unbridge()

    async def _close_ports(self) -> None:
        port, self._operator_port = self._operator_port, None
        await self.listeners.close()
        if port is not None:
            await maybeDeferred(port.stopListening)

    # -- what the pages show ---------------------------------------------------------------

    def readiness(self) -> tuple[bool, str]:
        """Whether requests can be served, and if not, why."""
        if self.pipeline.draining:
            return False, "draining"
        for upstream in self.upstreams:
            standing = upstream.standing
            if not standing.usable:
                return False, f"upstream {upstream.name}: {standing.reason}"
        keys = self._issuer.readiness()
        return self.limiting.readiness() if keys[0] else keys

    def _children(self) -> dict[str, int]:
        return {one.name: one.child_count for one in self.upstreams if hasattr(one, "child_count")}

    def _dropped(self, why: str) -> None:
        self.metrics.count("mcp_guard_connections_dropped_total", reason=why)

    def _system_event(self, event_type: str) -> None:
        self.audit.record(Event(event_type=event_type, timestamp=time.time()))
