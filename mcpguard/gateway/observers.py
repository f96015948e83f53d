"""What several workers have in common: the one audit trail, and the metrics of all."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field

from mcpguard.config.settings import AuditSettings, RotationSettings
from mcpguard.observe.audit.files import AuditFile
from mcpguard.observe.audit.outputs import Sink
from mcpguard.observe.audit.thread import ThreadedSink, WorkerThread
from mcpguard.observe.audit.trail import AUDIT_BOUNDS, AuditTrail
from mcpguard.observe.events import Event
from mcpguard.observe.metrics import Metrics
from mcpguard.ops.workers.audit import ACKNOWLEDGED_SECS, AuditDesk, AuditRelay
from mcpguard.ops.workers.control import Control, Peers
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

    async def change(
        self, settings: AuditSettings, replace: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Write as other settings say while ``replace`` runs, and from then on unless it raises.

        Raises what ``replace`` does, and `ConfigurationError` when the trail cannot be written.
        """
        before = self._trail
        if settings != self.settings:
            # Before the first worker follows the new settings: the old ones may have no output.
            trail = self._make(settings)
            trail.start()
            self._trail = self._desk.trail = trail
        try:
            await replace()
        except BaseException:
            if self._trail is not before:
                rejected, self._trail = self._trail, before
                self._desk.trail = before
                await rejected.stop()
            raise
        self.settings = settings
        if self._trail is not before:
            await before.stop()

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


def relay_to(control: Control, settings: AuditSettings, reactor: Any) -> AuditRelay:
    """A worker's way to the parent's trail, and to the audit file itself if the parent is gone."""

    def alone() -> Sink | None:
        if settings.file is None:
            return None
        # Without a parent there is nobody to see to rotation.
        file = AuditFile(
            settings.file, RotationSettings(), time.time, AUDIT_BOUNDS.feed.batch_bytes
        )
        return ThreadedSink(file, WorkerThread(reactor, "audit-alone"))

    return AuditRelay(control, ACKNOWLEDGED_SECS, alone)
