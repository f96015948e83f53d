"""Running the gateway in the foreground: its log, its signals, its end."""

import signal
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from mcpguard.observe.logs import console_observer


def begin_logging(stream: TextIO, verbosity: int) -> None:
    """Log to a stream: warnings, with 1 also information, with 2 everything."""
    # stdout is not redirected: the audit trail may go there.
    globalLogBeginner.beginLoggingTo(
        [console_observer(stream, verbosity)], redirectStandardIO=False
    )


class Startable(Protocol):
    """What is needed of the gateway."""

    started: Deferred[str]

    def startService(self) -> object:
        """Begin."""
        ...

    def stopService(self) -> object:
        """End; may answer a Deferred."""
        ...


def run_service(
    service: Startable,
    reactor: Any,
    announce: Callable[[str], None],
    say: Callable[[str], None],
) -> str:
    """Run a service until a signal ends it; answers why it could not start, or nothing.

    The first SIGINT or SIGTERM stops it in good order, a second SIGINT at once.
    """
    problems: list[str] = []

    def up(url: str) -> None:
        reactor.addSystemEventTrigger("before", "shutdown", stopping)
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        announce(url)

    def failed(failure: Failure) -> None:
        problems.append(describe(failure.value))
        reactor.callWhenRunning(reactor.stop)

    def stopping() -> None:
        say("Stopping; running calls may finish. Ctrl-C stops at once.")
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    service.started.addCallbacks(up, failed)
    service.started.addErrback(failed)
    reactor.callWhenRunning(service.startService)
    reactor.run()
    return problems[0] if problems else ""


def describe(error: BaseException | None) -> str:
    """Why a start failed, in one line."""
    if isinstance(error, CannotListenError):
        why = getattr(error.socketError, "strerror", None) or error.socketError
        return f"cannot listen on {error.interface or '*'}:{error.port}: {why}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
