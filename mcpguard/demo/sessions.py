"""Legacy HTTP sessions: conversations that outlive their connections."""

import os
import threading
import time

from mcpguard.demo.calls import Session
from mcpguard.demo.server import Server
from mcpguard.demo.streams import Stream

IDLE = 1800.0
"""Seconds after which an unused session may be forgotten: TypeScript clients never end theirs."""


class Visit:
    """One legacy session over HTTP: the conversation and its GET stream."""

    def __init__(self, *, max_running: int, ask_timeout: float, max_waiting: int) -> None:
        self.id = os.urandom(32).hex()
        self.outbox = Stream(limit=max_waiting, lossy=True)
        """What belongs to no request, kept for the GET stream."""
        self.session = Session(self.outbox.put, max_running=max_running, ask_timeout=ask_timeout)
        self.used = time.monotonic()
        self.listening = threading.Lock()
        """Held while a GET stream is open."""


class Visits:
    """The open sessions, at most ``limit``; the longest unused ones make room."""

    def __init__(self, server: Server, *, limit: int) -> None:
        self._server = server
        self._limit = limit
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def add(self, visit: Visit) -> bool:
        """Open a session; false when there are too many in use."""
        now = time.monotonic()
        with self._lock:
            resting = sorted(
                (other for other in self._visits.values() if not other.listening.locked()),
                key=lambda other: other.used,
            )
            gone = [other for other in resting if now - other.used > IDLE]
            if not gone and len(self._visits) >= self._limit:
                gone = resting[:1]
            for other in gone:
                del self._visits[other.id]
            room = len(self._visits) < self._limit
            if room:
                self._visits[visit.id] = visit
        for other in gone:
            self._leave(other)
        return room

    def find(self, visit_id: str) -> Visit | None:
        """The session of that id, which counts as used now."""
        with self._lock:
            visit = self._visits.get(visit_id)
            if visit is not None:
                visit.used = time.monotonic()
            return visit

    def remove(self, visit: Visit) -> None:
        """End a session."""
        with self._lock:
            self._visits.pop(visit.id, None)
        self._leave(visit)

    def end(self) -> None:
        """End every session: the server stops."""
        with self._lock:
            visits = list(self._visits.values())
            self._visits.clear()
        for visit in visits:
            self._leave(visit)

    def _leave(self, visit: Visit) -> None:
        self._server.leave(visit.session)
        visit.outbox.end()
