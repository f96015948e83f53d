"""The parent of the workers: it listens and supervises, and serves no request itself."""

import fcntl
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mcpguard.config.load import Loaded
from mcpguard.config.settings import ListenerSettings, Secret, Settings
from mcpguard.errors import ConfigurationError
from mcpguard.gateway.client_listeners import url_of
from mcpguard.gateway.limits import serve_limits
from mcpguard.gateway.listeners import open_socket
from mcpguard.gateway.observers import ParentObservers
from mcpguard.gateway.processes import worker_count
from mcpguard.ops.workers.assignment import Assignment
from mcpguard.ops.workers.channel import CHANNEL_BOUNDS
from mcpguard.ops.workers.output import OUTPUT_BOUNDS
from mcpguard.ops.workers.place import Generation, StartFailed
from mcpguard.ops.workers.pool import WORKER_CRASHES, Pool
from mcpguard.ops.workers.process import ProcessBounds, WorkerProcess, command, environment
from mcpguard.ops.workers.tally import TALLY, Tally

log = Logger()

KEY_BYTES = 32
MAX_DIRECTORY = 80
"""Bytes of a path: that of a socket may have 107 (unix(7)), and names in it some 20."""
PROCESS_BOUNDS = ProcessBounds(
    start_secs=60.0,
    settle_secs=10.0,
    ping_secs=5.0,
    pong_secs=10.0,
    missed=3,
    grace_secs=15.0,
    abort_secs=2.0,
    pipe_secs=1.0,
    channel=CHANNEL_BOUNDS,
    output=OUTPUT_BOUNDS,
)


class StartError(Exception):
    """The workers cannot be started; the text says why."""


class WorkerParent(Service):
    """The gateway as several processes behind one socket.

    ``started`` fires with the URL clients use once every worker accepts, or errbacks with the
    reason why one cannot, after all have ended again.

    Args:
        settings: of the configuration file.
        reactor: the real one.
        reread: reads the configuration file again, for SIGHUP; raises `ConfigurationError`.
        log_level: below which workers do not log.
        keep_trying: a worker that cannot start is tried again instead of ending everything. For
            whoever cannot end the process with a status of its own once the reactor runs.
    """

    name = "mcp-guard"

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        reread: Callable[[], Loaded],
        log_level: str,
        keep_trying: bool,
    ) -> None:
        self.settings = settings
        self.started: Deferred[str] = Deferred()
        self._reactor = reactor
        self._reread = reread
        self._log_level = log_level
        self._keep_trying = keep_trying
        self._key = secrets.token_bytes(KEY_BYTES)
        self._sockets: list[socket.socket] = []
        self._directory: Path | None = None
        self._held: int | None = None
        self._tally: Tally | None = None
        self._lives = 0
        self._stopping: Deferred[None] | None = None
        self._reloading = False
        self._reload_again = False
        self.pool = Pool(
            worker_count(settings),
            reactor,
            self._launch,
            WORKER_CRASHES,
            random.random,
            self._record,
        )
        serve_limits(self.pool)
        self.observers = ParentObservers(
            settings.audit, self.pool, self.pool.count, reactor, stdout=1
        )

    # -- start -----------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the audit file and the listening sockets; raises when either cannot be had."""
        self.observers.open()
        server, admin = self.settings.server, self.settings.admin
        for one in server.every_listener:
            self._sockets.append(open_socket(one.host, one.port))
        if admin is not None:
            self._sockets.append(open_socket(admin.host, admin.port))

    def startService(self) -> None:
        """Start the workers."""
        if not self._sockets:
            # twistd has opened them already; `mcp-guard run` comes straight here.
            try:
                self.privilegedStartService()
            except Exception as error:
                self._close_sockets()
                self.started.errback(error)
                return
        super().startService()
        # Made now: twistd has changed to the user it is to run as.
        self._directory = private_directory()
        self._held = held(self._directory)
        self._tally = Tally.create(self._directory / TALLY, self.pool.count)
        self._listen_for_signals()
        self.observers.start()
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(lambda failure: log.failure("the start", failure=failure))

    async def _start(self) -> None:
        problems = await self.pool.start(self._shared(self.settings))
        if self._stopping is not None:
            return
        if problems and not self._keep_trying:
            await self.stopService()
            self.started.errback(StartError(problems[0]))
            return
        urls = ", ".join(self.urls)
        log.info("listening on {url}, {workers} workers", url=urls, workers=self.pool.count)
        self.started.callback(self.url)

    @property
    def url(self) -> str:
        """Where clients reach the listener of ``[server]`` (the port is the one it got)."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients reach every listener."""
        listeners = self.settings.server.every_listener
        return tuple(
            url_of(one, opened.getsockname()[1])
            for one, opened in zip(listeners, self._sockets, strict=False)
        )

    def _shared(self, settings: Settings) -> Settings:
        """What the workers get: with one key for all of them in any case."""
        if settings.server.session_key is not None:
            return settings
        key = Secret(self._key.hex(), "the parent process")
        return evolve(settings, server=evolve(settings.server, session_key=key))

    def _launch(
        self,
        number: int,
        generation: Generation,
        *,
        settle: bool,
        on_ready: Callable[[Any], None],
        on_ended: Callable[[Any, str], None],
    ) -> WorkerProcess:
        assert self._directory is not None
        self._lives += 1
        assignment = Assignment(
            number=number,
            life=self._lives,
            workers=self.pool.count,
            settings=generation.settings,
            directory=self._directory,
            settle_secs=PROCESS_BOUNDS.settle_secs if settle else 0.0,
        )

        def ended(worker: WorkerProcess, how: str) -> None:
            if self._tally is not None:
                # A successor that accepts already says so again with its next connection.
                self._tally.clear(number)
            self.pool.went(worker.peer)
            on_ended(worker, how)

        worker = WorkerProcess(
            self._reactor,
            assignment,
            generation,
            tuple(one.fileno() for one in self._sockets),
            command(self._log_level),
            environment(os.environ, sys.path),
            PROCESS_BOUNDS,
            on_came=self.pool.came,
            on_ready=on_ready,
            on_ended=ended,
        )
        worker.start()
        return worker

    def _record(self, number: int, what: str, **details: Any) -> None:
        """What happened to a worker."""
        self.observers.record("WorkerEvent", what, worker=number, **details)
        if what == "crashed":
            self.observers.metrics.count("mcp_guard_worker_crashes_total", worker=str(number))

    # -- reload ----------------------------------------------------------------------------

    def _listen_for_signals(self) -> None:
        # Only the main thread of a real process may; tests run the service without signals.
        for number, act in ((signal.SIGHUP, self.reload), (signal.SIGUSR1, self.reopen)):
            try:
                signal.signal(number, lambda *_, act=act: self._reactor.callFromThread(act))
            except ValueError:
                log.debug("not on the main thread: signals are not listened to")

    def reopen(self) -> None:
        """Have the audit file opened anew, after something else has moved it."""
        self.observers.reopen()

    def reload(self) -> None:
        """Read the configuration again, and replace the workers if it can be used."""
        if self._stopping is not None:
            return
        if self._reloading:
            self._reload_again = True
            return
        self._reloading = True
        reloading = Deferred.fromCoroutine(self._reload())
        reloading.addErrback(lambda failure: log.failure("the reload", failure=failure))
        reloading.addBoth(self._reloaded)

    async def _reload(self) -> None:
        try:
            loaded = self._reread()
        except ConfigurationError as error:
            self._not_reloaded(error.problems)
            return
        for warning in loaded.warnings:
            log.warn("{warning}", warning=warning)
        settings, fixed = without_restart(self.settings, loaded.settings)
        for key in fixed:
            log.warn("{key} changes with a restart only, and is left as it was", key=key)
        log.info("reloading")
        try:
            await self.observers.change(
                settings.audit, lambda: self.pool.replace(self._shared(settings))
            )
        except ConfigurationError as error:
            self._not_reloaded(error.problems)
        except StartFailed as failure:
            if self._stopping is None:
                self._not_reloaded((str(failure),))
        else:
            self.settings = settings
            log.info("reloaded")
            self.observers.record("GatewayReload", "success")

    def _not_reloaded(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            log.error("not reloaded: {problem}", problem=problem)
        self.observers.record("GatewayReload", "failed", problems=list(problems))

    def _reloaded(self, _: object) -> None:
        self._reloading = False
        if self._reload_again:
            self._reload_again = False
            self.reload()

    # -- stop ------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Have every worker drain and end, then let go of the sockets."""
        if self._stopping is None:
            super().stopService()
            self._stopping = Deferred.fromCoroutine(self._stop())
        done: Deferred[None] = Deferred()
        self._stopping.addBoth(_pass_to, done)
        return done

    async def _stop(self) -> None:
        # With the workers' own copies these are all: from now on connections are refused.
        self._close_sockets()
        await self.pool.stop(keep=self.settings.server.session_key is not None)
        await self.observers.stop()
        if self._tally is not None:
            self._tally.close()
            self._tally = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()


def private_directory() -> Path:
    """A new directory (mode 0700) for what workers share, with room for the names of sockets."""
    directory = Path(tempfile.mkdtemp(prefix="mcp-guard-"))
    if len(os.fsencode(directory)) > MAX_DIRECTORY:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="mcp-guard-", dir="/tmp"))
    return directory


def held(directory: Path) -> int:
    """A descriptor with a lock on a directory: systemd-tmpfiles leaves alone what is locked.

    Else it would clear the directory after some days, and no worker could be started any more.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def without_restart(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The new settings, but for what only a restart can change; and the names of these keys."""
    fixed = [
        f"server.{key}"
        for key in ("host", "port", "workers")
        if getattr(old.server, key) != getattr(new.server, key)
    ]
    listeners = new.server.listeners
    if _places(old.server.listeners) != _places(listeners):
        fixed.append("server.listeners")
        listeners = old.server.listeners
    if old.admin != new.admin:
        fixed.append("admin")
    server = evolve(
        new.server,
        host=old.server.host,
        port=old.server.port,
        workers=old.server.workers,
        listeners=listeners,
    )
    return evolve(new, server=server, admin=old.admin), tuple(fixed)


def _places(listeners: tuple[ListenerSettings, ...]) -> list[tuple[str, int]]:
    return [(one.host, one.port) for one in listeners]


def _pass_to(result: Any, done: Deferred[Any]) -> Any:
    done.callback(result)
    return result
