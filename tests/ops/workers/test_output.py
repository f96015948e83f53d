"""Tests of what becomes of a worker's output."""

import io
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, capturedLogs, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.logs import JsonObserver
from mcpguard.ops.workers.output import Output, OutputBounds, RemoteError
from mcpguard.policy.buckets import Rate

BOUNDS = OutputBounds(line_bytes=4_000, rate=Rate(1.0, 3))


def record(**more: Any) -> bytes:
    """A line of a worker's log."""
    sound = {"timestamp": "-", "level": "info", "namespace": "a.b", "message": "words"}
    return json.dumps({**sound, **more}).encode() + b"\n"


class OutputTests(SynchronousTestCase):
    """Lines of a worker in the parent's log."""

    def setUp(self) -> None:
        """A stream of worker 2."""
        self.now = 0.0
        self.output = Output(2, BOUNDS, lambda: self.now)

    def heard(self, *chunks: bytes, end: bool = False) -> list[LogEvent]:
        """What the chunks put into the log."""
        with capturedLogs() as events:
            for chunk in chunks:
                self.output.feed(chunk)
            if end:
                self.output.end()
        return list(events)

    def test_record(self) -> None:
        """Level, namespace and values are kept; the words get the worker's number."""
        (event,) = self.heard(record(level="error", message="a {b} %s", data={"upstream": "fs"}))
        self.assertEqual(formatEvent(event), "worker 2: a {b} %s")
        self.assertEqual(event["log_level"].name, "error")
        self.assertEqual(event["log_namespace"], "a.b")
        self.assertEqual((event["worker"], event["upstream"]), (2, "fs"))

    def test_values_cannot_pass_for_others(self) -> None:
        """Values do not overwrite what the parent says of the event."""
        data = {"worker": 9, "log_level": "x", "level": "debug", "format": "f", "self": 1, "a": 1}
        (event,) = self.heard(record(data=data))
        self.assertEqual((event["worker"], event["a"]), (2, 1))
        self.assertEqual(event["log_level"].name, "info")
        self.assertEqual(formatEvent(event), "worker 2: words")

    def test_traceback(self) -> None:
        """A traceback arrives in full through a second observer."""
        text = 'Traceback:\n  File "x.py", line 1\nbuiltins.KeyError: 1\n'
        (event,) = self.heard(record(level="critical", traceback=text))
        self.assertEqual(len(self.flushLoggedErrors(RemoteError)), 1)
        self.assertEqual(event["log_failure"].getTraceback(), text)
        written = io.BytesIO()
        JsonObserver(written, "info")(event)
        self.assertEqual(json.loads(written.getvalue())["traceback"], text)

    def test_through(self) -> None:
        """The parent writes what the worker wrote, but for the number."""
        first, second = io.BytesIO(), io.BytesIO()
        observer = JsonObserver(first, "info")
        globalLogPublisher.addObserver(observer)
        try:
            Logger(namespace="here").failure(
                "it {what}", Failure(ValueError("no")), what="broke", server="fs"
            )
        finally:
            globalLogPublisher.removeObserver(observer)
        (event,) = self.heard(first.getvalue())
        self.assertEqual(len(self.flushLoggedErrors(ValueError, RemoteError)), 2)
        JsonObserver(second, "info")(event)
        before, after = json.loads(first.getvalue()), json.loads(second.getvalue())
        self.assertEqual(after.pop("message"), "worker 2: " + before.pop("message"))
        self.assertEqual(after["data"].pop("worker"), 2)
        for one in (before, after):
            del one["timestamp"]
        self.assertEqual(after, before)

    def test_text(self) -> None:
        """What is no record is a warning with the text."""
        for line in (
            b"Fatal Python error: {x}\xff",
            b"[1]",
            b'{"message": 1}',
            record(level="loud").strip(),
            record(data=[1]).strip(),
            b"[" * 3_000,
        ):
            self.now += 10
            (event,) = self.heard(line + b"\n")
            self.assertEqual(event["log_level"].name, "warn")
            words = line.decode("utf-8", "backslashreplace")
            self.assertEqual(formatEvent(event), f"worker 2: {words}")

    def test_long_line(self) -> None:
        """Of a line that is too long the beginning is kept, and the next line is whole again."""
        events = self.heard(*[b"x" * 999] * 9, b"\n", b"next\n")
        self.assertEqual(
            [formatEvent(one) for one in events], ["worker 2: " + "x" * 4_000, "worker 2: next"]
        )

    def test_rate(self) -> None:
        """Too many lines are dropped, and the next that passes tells how many."""
        self.assertEqual(len(self.heard(b"x\n" * 10)), 3)
        self.now = 1.0
        said = [formatEvent(one) for one in self.heard(b"y\n")]
        self.assertEqual(said, ["worker 2: (7 lines dropped)", "worker 2: y"])

    def test_end(self) -> None:
        """The end lets go of a line without its end, and of the number that was dropped."""
        said = [formatEvent(one) for one in self.heard(b"a\nb\nc\nd\ne", end=True)]
        self.assertEqual(said[-1], "worker 2: (2 lines dropped)")
        self.assertEqual(said[:3], ["worker 2: a", "worker 2: b", "worker 2: c"])

    @settings(deadline=None, max_examples=50)
    @given(st.binary(max_size=200), st.integers(1, 50))
    def test_any_bytes(self, data: bytes, cut: int) -> None:
        """Any bytes, however cut, give the same events and no error."""
        whole, cuts = Output(1, BOUNDS, lambda: 0.0), Output(1, BOUNDS, lambda: 0.0)
        with capturedLogs() as first:
            whole.feed(data)
            whole.end()
        with capturedLogs() as second:
            for start in range(0, len(data), cut):
                cuts.feed(data[start : start + cut])
            cuts.end()
        self.assertEqual([formatEvent(e) for e in first], [formatEvent(e) for e in second])
