"""What a worker writes to its standard output and error, on the way to the parent's log.

Workers log as JSON lines (`observe.logs.JsonObserver`), which become events of the parent's log
with the worker's number; everything else (an interpreter that fails) becomes a line of text.
"""

import json
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from mcpguard.policy.buckets import Level, Rate, take

_LEVELS = {name: LogLevel.levelWithName(name) for name in ("debug", "info", "warn", "error")}
_LEVELS["critical"] = LogLevel.critical
_TAKEN = frozenset({"self", "level", "format", "worker", "failure"})
"""Names that an event's own values cannot have."""


@frozen
class OutputBounds:
    """How much of a worker's output is taken."""

    line_bytes: int
    """Of one line; the rest of it is dropped."""
    rate: Rate
    """Of lines."""


OUTPUT_BOUNDS = OutputBounds(line_bytes=262_144, rate=Rate(100.0, 2_000))
"""What the gateway uses: a whole traceback fits into a line."""


class RemoteError(Exception):
    """What a worker logged a failure of."""


class RemoteFailure(Failure):
    """A failure of another process: its traceback is text, cleaned of secrets there."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(RemoteError(message))
        self._text = traceback

    def getTraceback(self, *args: Any, **kwargs: Any) -> str:
        """The traceback as the worker wrote it."""
        return self._text


@define(eq=False)
class Output:
    """One stream of one worker: chunks in, log events out."""

    number: int
    """The worker's."""
    bounds: OutputBounds
    clock: Callable[[], float]
    """Seconds."""
    _part: bytearray = field(init=False, factory=bytearray)
    _level: Level | None = field(init=False, default=None)
    _dropped: int = field(init=False, default=0)

    def feed(self, data: bytes) -> None:
        """Take a chunk; complete lines go out at once."""
        *lines, last = data.split(b"\n")
        for line in lines:
            self._hold(line)
            self._finish()
        self._hold(last)

    def end(self) -> None:
        """The stream is over."""
        self._finish()
        self._tell_dropped()

    def _hold(self, data: bytes) -> None:
        self._part += data[: self.bounds.line_bytes - len(self._part)]

    def _finish(self) -> None:
        line = bytes(self._part).strip()
        self._part.clear()
        if not line:
            return
        self._level, wait = take(self.bounds.rate, self._level, self.clock(), 1.0)
        if wait > 0:
            self._dropped += 1
            return
        self._tell_dropped()
        emit(self.number, line)

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            Logger(namespace=__name__).warn(
                "worker {worker}: ({dropped} lines dropped)", worker=self.number, dropped=dropped
            )


def emit(number: int, line: bytes) -> None:
    """Log one line of a worker's output; never raises."""
    record = _record(line)
    if record is None:
        text = line.decode("utf-8", "backslashreplace")
        Logger(namespace=__name__).warn("worker {worker}: {text}", worker=number, text=text)
        return
    values = {
        name: value
        for name, value in record.get("data", {}).items()
        if name not in _TAKEN and not name.startswith("log_")
    }
    if "traceback" in record:
        values["log_failure"] = RemoteFailure(record["message"], str(record["traceback"]))
    # The words are in the format, so that they do not appear a second time among the values.
    words = record["message"].replace("{", "{{").replace("}", "}}")
    Logger(namespace=record["namespace"]).emit(
        _LEVELS[record["level"]], f"worker {{worker}}: {words}", **values, worker=number
    )


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of the worker's own log; None when it is something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = (
        isinstance(record, dict)
        and isinstance(record.get("message"), str)
        and isinstance(record.get("namespace"), str)
        and record.get("level") in _LEVELS
        and isinstance(record.get("data", {}), dict)
    )
    return record if known else None
