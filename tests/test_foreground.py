"""Tests of running a service in the foreground."""

import io
import signal
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger, LogLevel, globalLogBeginner
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.foreground import begin_logging, describe, run_service


@define
class FakeReactor:
    """Runs what it is told, then whatever the test wants to happen, then stops in order."""

    during: Callable[[], None]
    events: list[str]
    _starting: list[Callable[[], Any]] = field(init=False, factory=list)
    _stopping: list[Callable[[], Any]] = field(init=False, factory=list)
    _running: bool = field(init=False, default=False)
    stopped: bool = field(init=False, default=False)

    def callWhenRunning(self, call: Callable[[], Any]) -> None:
        """Now, or when it runs."""
        if self._running:
            call()
        else:
            self._starting.append(call)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], Any]) -> None:
        """At the end."""
        assert (phase, event) == ("before", "shutdown")
        self._stopping.append(call)

    def stop(self) -> None:
        """The service could not start."""
        self.stopped = True

    def run(self) -> None:
        """A whole life."""
        self._running = True
        for call in self._starting:
            call()
        if not self.stopped:
            self.during()
        for call in self._stopping:
            call()
        self.events.append("ended")


class FakeService:
    """Starts when told to; the test decides how that ends."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.started: Deferred[str] = Deferred()

    def startService(self) -> None:
        """Begin."""
        self.events.append("start")

    def stopService(self) -> None:
        """End."""
        self.events.append("stop")


class RunTests(SynchronousTestCase):
    """From start to end."""

    def setUp(self) -> None:
        """Nothing has happened yet."""
        self.events: list[str] = []
        self.service = FakeService(self.events)
        before = signal.getsignal(signal.SIGINT)
        self.addCleanup(signal.signal, signal.SIGINT, before)

    def run_with(self, during: Callable[[], None]) -> str:
        """Run the service; ``during`` happens while it runs."""
        reactor = FakeReactor(during, self.events)
        return run_service(
            self.service,
            reactor,
            lambda url: self.events.append(f"announce {url}"),
            lambda words: self.events.append(words.split(";")[0]),
        )

    def test_good_order(self) -> None:
        """Announced once it listens; a stop is told, waited for, and a second Ctrl-C is final."""
        self.assertEqual(self.run_with(lambda: self.service.started.callback("URL")), "")
        self.assertEqual(self.events, ["start", "announce URL", "Stopping", "stop", "ended"])
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_DFL)

    def test_cannot_start(self) -> None:
        """The reason comes back, and nothing is announced or stopped."""
        error = CannotListenError("127.0.0.1", 80, OSError(13, "Permission denied"))
        problem = self.run_with(lambda: self.service.started.errback(error))
        self.assertEqual(problem, "cannot listen on 127.0.0.1:80: Permission denied")
        self.assertEqual(self.events, ["start", "ended"])

    def test_cannot_announce(self) -> None:
        """A failure on the way up is a reason too, and what runs is stopped."""

        def announce(url: str) -> None:
            raise ValueError("broken\nterminal")

        reactor = FakeReactor(lambda: self.service.started.callback("URL"), self.events)
        problem = run_service(self.service, reactor, announce, lambda words: None)
        self.assertEqual(problem, "broken terminal")
        self.assertTrue(reactor.stopped)
        self.assertIn("stop", self.events)


class DescribeTests(SynchronousTestCase):
    """Errors in one line."""

    def test_kinds(self) -> None:
        """Listeners, files, everything else."""
        for error, words in (
            (CannotListenError("", 1, "odd"), "cannot listen on *:1: odd"),
            (FileNotFoundError(2, "No such file", "/x"), "/x: No such file"),
            (ValueError("a\n  b"), "a b"),
            (ValueError(), "ValueError"),
        ):
            self.assertEqual(describe(error), words)


class LoggingTests(SynchronousTestCase):
    """What reaches the log."""

    def written(self, verbosity: int) -> str:
        """What is written of one event of each level."""
        observers: list[Any] = []

        def begin(found: list[Any], redirectStandardIO: bool) -> None:
            self.assertFalse(redirectStandardIO)  # stdout belongs to the audit trail
            observers.extend(found)

        self.patch(globalLogBeginner, "beginLoggingTo", begin)
        stream = io.StringIO()
        begin_logging(stream, verbosity)
        log = Logger(namespace="n", observer=observers[0])
        for level in LogLevel.iterconstants():
            log.emit(level, "x")
        return stream.getvalue()

    def test_levels(self) -> None:
        """Warnings and worse, with -v information, with -vv everything."""
        counts = [self.written(verbosity).count("\n") for verbosity in (0, 1, 2, 9)]
        self.assertEqual(counts, [3, 4, 5, 5])
