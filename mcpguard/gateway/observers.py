"""What the parent of the workers observes: the one audit trail, and the metrics of all."""

import time
from typing import Any

from attrs import define, field

from mcpguard.config.settings import AuditSettings
from mcpguard.observe.audit.thread import WorkerThread
from mcpguard.observe.audit.trail import AUDIT_BOUNDS, AuditTrail
from mcpguard.observe.events import Event
from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.audit import AuditDesk
from mcpguard.ops.workers.control import Peers
from mcpguard.ops.workers.gathering import GATHERING_BOUNDS, Gathering


@define(eq=False)
class ParentObservers:
    """The trail and the metrics of the parent process, which serves no request itself."""

    settings: AuditSettings
    peers: Peers
    places: int
    """How many workers there should be."""
    reactor: Any
    stdout: int
    metrics: Metrics = field(init=False)
    _trail: AuditTrail = field(init=False)
    _desk: AuditDesk = field(init=False)
    _gathering: Gathering = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.metrics = Metrics(
            active_identities=tuple, sessions=lambda: 0, connections=lambda: 0, children=dict
        )
        self._trail = self._make(self.settings)
        self._desk = AuditDesk(self._trail)
        self._gathering = Gathering(
            self.peers, self.metrics, self.places, self.reactor, GATHERING_BOUNDS
        )

    def open(self) -> None:
        """Open the trail; raises `ConfigurationError` when it cannot be written."""
        self._trail.start()

    def start(self) -> None:
        """Serve the workers from now on."""
        self._desk.attend(self.peers)
        self._gathering.start()
        self.record("GatewayStarted")

    def record(self, event_type: str, status: str | None = None, **details: Any) -> None:
        """Write a system event, about the gateway or one of its workers."""
        self._trail.record(Event(event_type, time.time(), status=status, details=details))

    def reopen(self) -> None:
        """Open the audit file anew, after something else has moved it."""
        self._trail.reopen()

    def prepare(self, settings: AuditSettings) -> AuditTrail | None:
        """Return an open trail for other settings, None for the same.

        Raises `ConfigurationError` when it cannot be written.
        """
        if settings == self.settings:
            return None
        trail = self._make(settings)
        trail.start()
        return trail

    def change(self, settings: AuditSettings, trail: AuditTrail | None) -> None:
        """Write to what `prepare` gave for these settings."""
        if trail is None:
            return
        before, self.settings = self._trail, settings
        self._trail = self._desk.trail = trail
        before.stop()

    async def stop(self) -> None:
        """Write and sync what is left, once no worker is."""
        self._gathering.stop()
        self.record("GatewayStopped")
        await self._trail.stop()

    def _make(self, settings: AuditSettings) -> AuditTrail:
        return AuditTrail(
            settings,
            clock=self.reactor,
            wall=time.time,
            meter=self.metrics,
            spawn=lambda name: WorkerThread(self.reactor, name),
            stdout=self.stdout,
            bounds=AUDIT_BOUNDS,
        )
