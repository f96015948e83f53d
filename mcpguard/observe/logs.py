"""The log: one JSON object per line for services, readable lines for people, secrets taken out.

``twistd --logger=mcpguard.observe.logs.to_stdout`` and ``mcp-guard run`` use these observers.
Twisted's own JSON observer begins each record with U+001E, which no log shipper takes for JSON.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, TextIO

from attrs import define, field, frozen
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.observe.escaping import json_line, visible
from mcpguard.observe.redaction import MARGIN, MARK, REDACTED, Redactor, names_secret

MESSAGE_CHARACTERS = 8192
DATA_CHARACTERS = 1024
DATA_ITEMS = 32
TRACEBACK_CHARACTERS = 16_384

_RANKS: Mapping[str, int] = {"debug": 0, "info": 1, "warn": 2, "error": 3, "critical": 4}

# What Twisted's old logging system puts into every event besides the caller's values.
_LEGACY = frozenset({"message", "time", "system", "isError", "format", "failure", "why"})


@frozen
class LogRecord:
    """What is written of one log event, bounded and without secrets."""

    timestamp: str
    level: str
    namespace: str
    message: str
    data: Mapping[str, Any]
    """The plain values the event was given (text, numbers), such as ``request_id``."""
    traceback: str | None


def _level(event: LogEvent) -> str:
    """Return the name of an event's level; Twisted's old logging system gives none."""
    name = getattr(event.get("log_level"), "name", "info")
    return name if name in _RANKS else "info"


def _timestamp(event: LogEvent) -> str:
    try:
        moment = datetime.fromtimestamp(event["log_time"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "-"
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def _traceback(event: LogEvent, redactor: Redactor) -> str | None:
    failure = event.get("log_failure")
    if not isinstance(failure, Failure):
        return None
    try:
        text = failure.getTraceback()
    except Exception as error:
        return f"no traceback: {type(error).__name__}"
    most = TRACEBACK_CHARACTERS
    if len(text) <= most:
        return redactor.text(text, most)
    # The end tells what happened. What is cut in half at the front is left out after redaction.
    return MARK + redactor.text(text[-most - MARGIN :], most + MARGIN)[MARGIN:]


def describe(event: LogEvent, redactor: Redactor) -> LogRecord:
    """Return what may be written of a log event; never raises."""
    message = formatEvent(event)
    data: dict[str, Any] = {}
    for name, value in event.items():
        if name.startswith("log_") or name in _LEGACY or len(data) >= DATA_ITEMS:
            continue
        if isinstance(value, str) and value == message:
            continue
        if names_secret(name):
            data[name] = REDACTED
        elif isinstance(value, str):
            data[name] = redactor.text(value, DATA_CHARACTERS)
        elif isinstance(value, bool | float) or value is None:
            data[name] = value
        elif isinstance(value, int):
            data[name] = value if abs(value) < 2**63 else "[big integer]"
    return LogRecord(
        timestamp=_timestamp(event),
        level=_level(event),
        namespace=redactor.text(str(event.get("log_namespace", "-")), DATA_CHARACTERS),
        message=redactor.text(message, MESSAGE_CHARACTERS),
        data=data,
        traceback=_traceback(event, redactor),
    )


@implementer(ILogObserver)
@define(eq=False)
class JsonObserver:
    """Writes each event as one JSON object on a line of its own."""

    _stream: BinaryIO
    _threshold: str
    _redactor: Redactor = field(init=False, factory=Redactor)

    def __call__(self, event: LogEvent) -> None:
        """Write one event, if it is important enough."""
        if _RANKS[_level(event)] < _RANKS[self._threshold]:
            return
        record = describe(event, self._redactor)
        members: dict[str, Any] = {
            "timestamp": record.timestamp,
            "level": record.level,
            "namespace": record.namespace,
            "message": record.message,
        }
        if record.data:
            members["data"] = record.data
        if record.traceback is not None:
            members["traceback"] = record.traceback
        self._stream.write(json_line(members))
        self._stream.flush()


@implementer(ILogObserver)
@define(eq=False)
class ConsoleObserver:
    """Writes each event as a line to read; control characters are shown, not obeyed."""

    _stream: TextIO
    _threshold: str
    _redactor: Redactor = field(init=False, factory=Redactor)

    def __call__(self, event: LogEvent) -> None:
        """Write one event, if it is important enough."""
        if _RANKS[_level(event)] < _RANKS[self._threshold]:
            return
        record = describe(event, self._redactor)
        lines = [
            f"{record.timestamp} {record.level:<8} {visible(record.namespace)}: "
            f"{visible(record.message)}\n"
        ]
        if record.traceback is not None:
            # Indented, so that no text of an error can pass for a line of the log.
            lines += [f"    {visible(line)}\n" for line in record.traceback.splitlines()]
        self._stream.write("".join(lines))
        self._stream.flush()


def to_stdout() -> JsonObserver:
    """Return the observer for ``twistd --logger=``: JSON lines on standard output, from info on.

    The stream is taken now: twistd puts its own object in the place of ``sys.stdout`` right
    after, and what is written to that comes back as log events.
    """
    return JsonObserver(sys.stdout.buffer, "info")


def console_observer(stream: TextIO, verbosity: int) -> ConsoleObserver:
    """Return the observer for ``mcp-guard run``: warnings; with 1 information, with 2 all."""
    thresholds = ("warn", "info", "debug")
    return ConsoleObserver(stream, thresholds[max(0, min(verbosity, 2))])


class _Bridge(logging.Handler):
    """Passes records of the standard library's logging on to Twisted's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on; never raises."""
        try:
            text = record.getMessage()
        except Exception:
            text = f"a log message could not be formatted: {record.msg!r}"
        if record.levelno >= logging.CRITICAL:
            level = LogLevel.critical
        elif record.levelno >= logging.ERROR:
            level = LogLevel.error
        elif record.levelno >= logging.WARNING:
            level = LogLevel.warn
        elif record.levelno >= logging.INFO:
            level = LogLevel.info
        else:
            level = LogLevel.debug
        values: dict[str, Any] = {"text": text}
        if record.exc_info is not None and record.exc_info[1] is not None:
            _, error, traceback = record.exc_info
            values["log_failure"] = Failure(error, type(error), traceback)
        # The text is a value, never the format, so that braces in it mean nothing. It must not be
        # called `message`: Twisted's wrapper for old observers overwrites that with ().
        Logger(namespace=record.name).emit(level, "{text}", **values)


def bridge_stdlib(level: int) -> Callable[[], None]:
    """Pass what libraries log by the standard library on to Twisted; returns how to stop it.

    ``level`` is one of `logging`'s; records below it cost nothing.
    """
    root = logging.getLogger()
    before = root.level
    bridge = _Bridge(level)
    root.addHandler(bridge)
    root.setLevel(level)

    def undo() -> None:
        root.removeHandler(bridge)
        root.setLevel(before)

    return undo
