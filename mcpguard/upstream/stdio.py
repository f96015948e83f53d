"""A server that runs as child processes of the gateway and speaks MCP on their pipes."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.config.settings import UpstreamSettings
from mcpguard.errors import Reason
from mcpguard.observe.events import Meter, Recorder
from mcpguard.protocol.eras import refuses_handshake
from mcpguard.upstream.conversation import GATEWAY, Conversation, Slots
from mcpguard.upstream.crashes import CrashBook
from mcpguard.upstream.doubts import Doubts
from mcpguard.upstream.greeting import Greeting, greet_legacy, greet_modern
from mcpguard.upstream.link import (
    Eras,
    Inbox,
    InitializeRejected,
    Link,
    Message,
    Opening,
    Standing,
    UpstreamFailure,
)
from mcpguard.upstream.probing import PROBES, Probe
from mcpguard.upstream.session_link import SessionLink
from mcpguard.upstream.shared_child import SharedChild
from mcpguard.upstream.shared_sessions import SharedSessions
from mcpguard.upstream.spawning import SignalGroup, program_of, signal_group
from mcpguard.upstream.stateless_calls import StatelessCalls, StatelessLink
from mcpguard.upstream.stdio_bounds import CRASH_BOUNDS, MAX_LISTENS, bounds_of
from mcpguard.upstream.supervision import Supervision

log = Logger()

EVERYBODY = ""
"""Stands for a principal's key where one child serves them all."""

DISCOVER_SECS = 5.0
DOUBT_SECS = 10.0
DOUBT_RETRY_SECS = 1.0
RETRY_SECS = 5.0
"""How soon a server that could not be asked is asked again."""
MAX_SUBSCRIPTIONS = 1000
MAX_KEYS = 10_000


class StdioUpstream:
    """One configured stdio server; implements `Upstream`.

    ``reactor`` must provide time and processes, and its time must be Unix seconds (as every real
    reactor's is); ``random`` is uniform in [0, 1); ``environ`` is the gateway's own environment,
    of which a server gets only what is listed. ``signal_group`` is there for tests.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        reactor: Any,
        meter: Meter,
        recorder: Recorder,
        random: Callable[[], float],
        environ: Mapping[str, str],
        signal_group: SignalGroup = signal_group,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._supervision = Supervision(
            settings.name,
            program_of(settings, environ),
            reactor,
            meter,
            recorder,
            CrashBook(CRASH_BOUNDS, random, MAX_KEYS),
            bounds_of(settings),
            signal_group,
            self._looping,
        )
        self._probe = Probe(
            self._supervision,
            reactor,
            min(DISCOVER_SECS, settings.timeout_secs),
            settings.timeout_secs,
        )
        self._doubts = Doubts(
            settings.name,
            settings.era,
            reactor,
            least_secs=DOUBT_SECS,
            retry_secs=DOUBT_RETRY_SECS,
        )
        self._slots = Slots(settings.max_concurrency)
        # A pinned handshake era leaves nothing to ask; a stateless one, what the server offers.
        self._eras = Eras(legacy=True) if settings.era == "legacy" else None
        self._verified = self._probing = self._started = self._stopped = False
        self._failure: UpstreamFailure | None = None
        self._again: IDelayedCall | None = None
        self._waiting: list[Deferred[Eras]] = []
        self._sessions: dict[str, SharedSessions] = {}
        self._calls: dict[str, StatelessCalls] = {}

    # -- Upstream --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its configured name."""
        return self._settings.name

    @property
    def transport(self) -> str:
        """Always ``stdio``."""
        return "stdio"

    @property
    def child_count(self) -> int:
        """Child processes that are running now, the gauge of the metrics."""
        return self._supervision.child_count

    @property
    def standing(self) -> Standing:
        """Whether the last attempt of the gateway itself to use the server went well."""
        if self._stopped:
            return Standing(False, "stopped")
        rooms: list[SharedSessions | StatelessCalls] = []
        rooms += [room for key, room in self._sessions.items() if key == EVERYBODY]
        rooms += [room for key, room in self._calls.items() if key == EVERYBODY]
        if any(room.child.looping for room in rooms):
            return Standing(False, "crash loop")
        if self._failure is not None:
            loop = any(self._supervision.crashes.looping(key) for key in PROBES)
            return Standing(False, "crash loop" if loop else "unreachable")
        return Standing(True) if self._verified else Standing(False, "starting")

    def start(self) -> None:
        """Try the server, whatever `eras` knows already: readiness must not be a guess."""
        self._started = True
        self._ask()

    def stop(self) -> Deferred[None]:
        """Stop every child; fires when no process is left."""
        self._stopped = True
        self._cancel_again()
        for sessions in self._sessions.values():
            sessions.stop()
        for calls in self._calls.values():
            calls.stop()
        return self._supervision.stop()

    def eras(self) -> Deferred[Eras]:
        """What it speaks; asked once, and again after a failure."""
        waiting: Deferred[Eras] = Deferred(self._leave)
        if self._eras is not None:
            waiting.callback(self._eras)
        else:
            self._waiting.append(waiting)
            self._ask()
        return waiting

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """Open a session on a child of its own, or on a shared one, as ``isolation`` says."""
        return Deferred.fromCoroutine(self._open_session(principal_key, params, inbox))

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """Errback: sessions live in a child, and no child outlives the gateway."""
        return fail(UpstreamFailure(Reason.SESSION_NOT_FOUND, "sessions end with their child"))

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """A link to the child that serves this principal's stateless requests."""
        return Deferred.fromCoroutine(self._stateless(principal_key))

    # -- inside ----------------------------------------------------------------------------

    async def _open_session(self, principal_key: str, params: Message, inbox: Inbox) -> Opening:
        eras = await self._running_eras()
        if not eras.legacy:
            raise UpstreamFailure(Reason.UPSTREAM_ERA, "it does not answer initialize")
        isolation = self._settings.isolation or "per_session"
        if isolation == "per_session":
            link = SessionLink(principal_key, inbox, self._supervision, self._slots)
            try:
                return await link.open(params)
            except InitializeRejected as rejected:
                if not refuses_handshake(rejected.error):
                    raise
                failure = self._doubt(f"it answers initialize with {rejected.error.get('code')}")
                if self._settings.era == "auto":
                    raise failure from rejected
                raise
        key = EVERYBODY if isolation == "shared" else principal_key
        return await self._sessions_of(key).open(params, inbox)

    async def _stateless(self, principal_key: str) -> Link:
        eras = await self._running_eras()
        if not eras.modern:
            raise UpstreamFailure(Reason.UPSTREAM_ERA, "it speaks no stateless version")
        # A stateless server has no sessions that could have children of their own.
        shared = (self._settings.isolation or "shared") == "shared"
        return StatelessLink(self._calls_of(EVERYBODY if shared else principal_key))

    async def _running_eras(self) -> Eras:
        eras = await self.eras()
        if self._stopped:
            raise UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        return eras

    def _sessions_of(self, key: str) -> SharedSessions:
        found = self._sessions.get(key)
        if found is None:
            for old, room in list(self._sessions.items()):
                if not room.links and room.child.vacant:
                    del self._sessions[old]
            found = self._sessions[key] = SharedSessions(self._slots, MAX_SUBSCRIPTIONS)
            found.child = self._shared_child("sessions", key, greet_legacy, found)
        return found

    def _calls_of(self, key: str) -> StatelessCalls:
        found = self._calls.get(key)
        if found is None:
            for old, room in list(self._calls.items()):
                if not room.listens and room.child.vacant:
                    del self._calls[old]
            found = self._calls[key] = StatelessCalls(
                self.name, self._slots, MAX_LISTENS, self._doubt
            )
            found.child = self._shared_child("calls", key, greet_modern, found)
        return found

    def _shared_child(
        self, kind: str, key: str, greet: Greeting, residents: SharedSessions | StatelessCalls
    ) -> SharedChild:
        return SharedChild(
            key=f"{kind}:{key}",
            principal_key=key or GATEWAY,
            supervision=self._supervision,
            reactor=self._reactor,
            greet=self._wary(greet),
            residents=residents,
            max_waiting=self._settings.max_concurrency + MAX_LISTENS,
            persistent=key == EVERYBODY,
        )

    # -- asking what the server is ---------------------------------------------------------

    def _wary(self, greet: Greeting) -> Greeting:
        """A greeting that notices when another server stands behind the command."""

        async def greeting(conversation: Conversation) -> Message:
            try:
                return await greet(conversation)
            except UpstreamFailure as failure:
                if failure.reason is not Reason.UPSTREAM_ERA:
                    raise
                # Once the failure has been dealt with: whoever waits for the child hears first.
                self._reactor.callLater(0, self._retire)
                raise self._doubt(failure.detail) from failure

        return greeting

    def _doubt(self, detail: str) -> UpstreamFailure:
        """Hear that the server does not speak what it was found to speak: ask it again."""
        ask, failure = self._doubts.raised(detail)
        if ask and not self._stopped:
            self._eras = None
            self._ask()
        return failure

    def _retire(self) -> None:
        """Start no more children that would be greeted in an era the server does not speak."""
        eras = self._eras
        if eras is None:
            return
        rooms: list[dict[str, Any]] = []
        rooms += [] if eras.legacy else [self._sessions]
        rooms += [] if eras.modern else [self._calls]
        for those in rooms:
            for key, room in list(those.items()):
                if not room.child.up:
                    del those[key]
                    room.stop()

    def _ask(self) -> None:
        """Probe the server unless that is under way."""
        if self._probing:
            return
        self._cancel_again()
        self._probing = True
        Deferred.fromCoroutine(self._find_out()).addErrback(
            lambda failure: log.failure("probing went wrong", failure=failure)
        )

    async def _find_out(self) -> None:
        outcome: Eras | UpstreamFailure
        try:
            outcome = await self._probe.eras(self._settings.era)
        except UpstreamFailure as failure:
            outcome = failure
        except Exception:
            # Whatever it was, those who wait must hear of it.
            log.failure("{name}: probing went wrong", name=self.name)
            outcome = UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway")
        self._probing = False
        waiting, self._waiting = self._waiting, []
        if isinstance(outcome, Eras):
            self._eras, self._verified, self._failure = outcome, True, None
            self._retire()
            self._warm(outcome)
            for one in waiting:
                if not one.called:
                    one.callback(outcome)
            return
        self._failure = outcome
        log.warn("{name}: not usable: {why}", name=self.name, why=outcome)
        if self._started and not self._stopped:
            now = self._reactor.seconds()
            pauses = [self._supervision.crashes.wait(key, now) for key in PROBES]
            self._cancel_again()
            self._again = self._reactor.callLater(max(RETRY_SECS, *pauses), self._ask)
        for one in waiting:
            if not one.called:
                one.errback(outcome)

    def _warm(self, eras: Eras) -> None:
        """Start a child that everybody will share, so that the first caller need not wait."""
        if not self._started or self._stopped:
            return
        isolation = self._settings.isolation
        if eras.modern and (isolation or "shared") == "shared":
            self._calls_of(EVERYBODY).child.warm()
        if eras.legacy and isolation == "shared":
            self._sessions_of(EVERYBODY).child.warm()

    def _looping(self, key: str) -> None:
        """Children crash again and again: find out whether that is one caller's doing."""
        if key.startswith("session:") and self._started and not self._stopped:
            # In its own turn: the crash is still being booked.
            self._reactor.callLater(0, self._ask)

    def _leave(self, waiting: Deferred[Eras]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        waiting.errback(CancelledError())

    def _cancel_again(self) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._again = None
