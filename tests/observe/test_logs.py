"""Tests of `mcpguard.observe.logs`."""

import io
import json
import logging
import sys
import warnings
from typing import Any

from twisted.logger import (
    ILogObserver,
    LegacyLogObserverWrapper,
    LogBeginner,
    Logger,
    LogLevel,
    LogPublisher,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher as LegacyPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mcpguard.observe.logs import (
    DATA_CHARACTERS,
    DATA_ITEMS,
    MESSAGE_CHARACTERS,
    TRACEBACK_CHARACTERS,
    ConsoleObserver,
    JsonObserver,
    bridge_stdlib,
    console_observer,
    to_stdout,
)
from mcpguard.observe.redaction import MARK, REDACTED
from tests.observe.doubles import LogBook

KEY = "mcp_" + "k" * 43
HOSTILE = 'x\n2026-11-22T12:00:00.000Z critical forged: y\x1b[2J\u202e"}'


class JsonTests(SynchronousTestCase):
    """`JsonObserver`: one JSON object per line."""

    def setUp(self) -> None:
        """An observer that writes everything into memory."""
        self.stream = io.BytesIO()
        self.observer = JsonObserver(self.stream, "debug")
        self.log = Logger("mcpguard.test", observer=self.observer)

    def records(self) -> list[dict[str, Any]]:
        """Return what was written, a record per line."""
        text = self.stream.getvalue().decode()
        self.assertTrue(text == "" or text.endswith("\n"))
        return [json.loads(line) for line in text.splitlines()]

    def test_is_an_observer(self) -> None:
        """Twisted takes it for a log observer."""
        self.assertTrue(verifyObject(ILogObserver, self.observer))

    def test_members(self) -> None:
        """A record says when, how bad, where, what, and with which values."""
        self.log.warn("{name}: {count} left", name="files", count=3, ratio=0.5, on=True, no=None)
        (record,) = self.records()
        self.assertRegex(record.pop("timestamp"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            record,
            {
                "level": "warn",
                "namespace": "mcpguard.test",
                "message": "files: 3 left",
                "data": {"name": "files", "count": 3, "ratio": 0.5, "on": True, "no": None},
            },
        )

    def test_plain_json(self) -> None:
        """No record separator comes before a record: each line is JSON as it stands."""
        self.log.info("one")
        self.assertEqual(self.stream.getvalue()[:1], b"{")

    def test_forged_line(self) -> None:
        """A value with line breaks and control characters cannot make a second record."""
        self.log.info("said {text}", text=HOSTILE)
        (record,) = self.records()
        self.assertEqual(record["data"]["text"], HOSTILE)
        self.assertNotIn("\x1b", self.stream.getvalue().decode())
        self.assertNotIn("\u202e", self.stream.getvalue().decode())

    def test_secrets(self) -> None:
        """Secrets are taken out of the message, the values and the traceback."""
        try:
            raise ValueError(f"bad key {KEY}")
        except ValueError:
            self.log.failure("with {value}", value=f"Bearer {KEY}", api_key="hunter2")
        self.assertNotIn(KEY, self.stream.getvalue().decode())
        (record,) = self.records()
        self.assertEqual(record["message"], f"with Bearer {REDACTED}")
        self.assertEqual(record["data"]["api_key"], REDACTED)
        self.assertIn(f"ValueError: bad key {REDACTED}", record["traceback"])

    def test_bounds(self) -> None:
        """Message, values and traceback are bounded; of a traceback the end is kept."""
        try:
            raise ValueError("e" * 50_000 + " the end")
        except ValueError:
            values: dict[str, Any] = {f"v{n}": "v" * 5000 for n in range(100)}
            self.log.failure("m" * 50_000, **values)
        (record,) = self.records()
        self.assertEqual(record["message"], "m" * MESSAGE_CHARACTERS + MARK)
        self.assertEqual(len(record["data"]), DATA_ITEMS)
        self.assertEqual(record["data"]["v0"], "v" * DATA_CHARACTERS + MARK)
        self.assertLessEqual(len(record["traceback"]), TRACEBACK_CHARACTERS + len(MARK))
        self.assertTrue(record["traceback"].rstrip().endswith("the end"))

    def test_values_that_are_not_plain(self) -> None:
        """Objects are not spelled out, and integers beyond 64 bits do not break the record."""
        self.log.info("x", thing=object(), many=[1, 2], big=2**70)
        self.assertEqual(self.records()[0]["data"], {"big": "[big integer]"})

    def test_event_that_cannot_be_formatted(self) -> None:
        """An event with a bug in its format is still a record."""
        self.log.info("{missing.attribute}", other=1)
        self.assertIn("Unable to format event", self.records()[0]["message"])

    def test_old_style_events(self) -> None:
        """Events of Twisted's old logging system are records as well."""
        publisher = LogPublisher(self.observer)
        old = LegacyPublisher(observerPublisher=publisher, publishPublisher=publisher)
        old.msg("old words", number=7)
        old.msg(failure=Failure(ValueError("old error")), why="", isError=1)
        first, second = self.records()
        self.assertEqual((first["level"], first["message"]), ("info", "old words"))
        self.assertEqual(first["data"], {"number": 7})
        self.assertEqual(second["level"], "critical")
        self.assertIn("ValueError: old error", second["message"])

    def test_event_without_anything(self) -> None:
        """An event with nothing in it is a record too."""
        self.observer({})
        self.observer({"log_time": float("inf"), "log_failure": "none", "log_level": "?"})
        self.assertEqual([r["timestamp"] for r in self.records()], ["-", "-"])
        self.assertEqual([r["level"] for r in self.records()], ["info", "info"])

    def test_threshold(self) -> None:
        """What is less important than wanted is not written."""
        observer = JsonObserver(self.stream, "info")
        log = Logger("mcpguard.test", observer=observer)
        log.debug("no")
        log.info("yes")
        self.assertEqual([r["message"] for r in self.records()], ["yes"])


class ToStdoutTests(SynchronousTestCase):
    """`to_stdout`: what ``twistd --logger=`` is given."""

    def test_stream_of_the_beginning(self) -> None:
        """It writes to the stream of the beginning after twistd has put its own in the place."""
        raw = io.BytesIO()
        self.patch(sys, "stdout", real := io.TextIOWrapper(raw, encoding="ascii"))
        observer = to_stdout()
        self.patch(sys, "stderr", sys.stderr)
        self.patch(warnings, "showwarning", warnings.showwarning)
        beginner = LogBeginner(LogPublisher(), io.StringIO(), sys, warnings)
        beginner.beginLoggingTo([observer])
        self.assertIsNot(sys.stdout, real)
        print("printed é")
        messages = [json.loads(line)["message"] for line in raw.getvalue().splitlines()]
        self.assertEqual(messages, ["printed é"])

    def test_no_debug(self) -> None:
        """A service logs from information on."""
        raw = io.BytesIO()
        self.patch(sys, "stdout", io.TextIOWrapper(raw))
        Logger("x", observer=to_stdout()).debug("no")
        self.assertEqual(raw.getvalue(), b"")


class ConsoleTests(SynchronousTestCase):
    """`console_observer`: lines to read."""

    def lines(self, verbosity: int) -> list[str]:
        """Return what is shown of one event of each level."""
        stream = io.StringIO()
        log = Logger("mcpguard.test", observer=console_observer(stream, verbosity))
        for level in LogLevel.iterconstants():
            log.emit(level, "{a}", a=level.name)
        return [line.split(": ", 1)[1] for line in stream.getvalue().splitlines()]

    def test_verbosity(self) -> None:
        """Nothing shows warnings, ``-v`` information too, ``-vv`` everything."""
        everything = ["debug", "info", "warn", "error", "critical"]
        for verbosity, shown in ((-1, 2), (0, 2), (1, 1), (2, 0), (9, 0)):
            self.assertEqual(self.lines(verbosity), everything[shown:])

    def test_line(self) -> None:
        """A line says when, how bad, where and what."""
        stream = io.StringIO()
        Logger("mcpguard.test", observer=console_observer(stream, 0)).warn("{a} é", a=1)
        self.assertRegex(
            stream.getvalue(),
            r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warn     mcpguard\.test: 1 é\n$",
        )

    def test_forged_lines(self) -> None:
        """Neither a message nor the text of an error can pass for a line of the log."""
        stream = io.StringIO()
        log = Logger("mcpguard.test", observer=console_observer(stream, 0))
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.failure("{text}", text=HOSTILE)
        first, *rest = stream.getvalue().splitlines()
        self.assertIn(r"x\n2026", first)
        self.assertTrue(rest)
        for line in rest:
            self.assertTrue(line.startswith("    "), line)
        self.assertNotIn("\x1b", stream.getvalue())
        self.assertNotIn("\u202e", stream.getvalue())

    def test_secrets(self) -> None:
        """Secrets are taken out here as well."""
        stream = io.StringIO()
        Logger("x", observer=console_observer(stream, 0)).error("with {key}", key=KEY)
        self.assertTrue(stream.getvalue().endswith(f"with {REDACTED}\n"))

    def test_is_an_observer(self) -> None:
        """Twisted takes it for a log observer."""
        self.assertTrue(verifyObject(ILogObserver, console_observer(io.StringIO(), 0)))
        self.assertIsInstance(console_observer(io.StringIO(), 0), ConsoleObserver)


class BridgeTests(SynchronousTestCase):
    """`bridge_stdlib`: what libraries log by the standard library."""

    def setUp(self) -> None:
        """A bridge, and an observer of everything Twisted logs."""
        self.book = LogBook()
        globalLogPublisher.addObserver(self.book)
        self.addCleanup(globalLogPublisher.removeObserver, self.book)
        self.undo = bridge_stdlib(logging.INFO)
        self.addCleanup(self.undo)
        self.library = logging.getLogger("some.library")

    def seen(self) -> list[tuple[str, str, str]]:
        """Return namespace, level and message of what came from the library."""
        return [
            (event["log_namespace"], event["log_level"].name, event["text"])
            for event in self.book.events
            if event["log_namespace"] == "some.library"
        ]

    def test_levels(self) -> None:
        """Each level has its counterpart; what is below the bridge's does not pass."""
        for level in (5, 10, 20, 30, 40, 50, 60):
            self.library.log(level, "at %d", level)
        self.assertEqual(
            self.seen(),
            [
                ("some.library", name, f"at {level}")
                for level, name in (
                    (20, "info"),
                    (30, "warn"),
                    (40, "error"),
                    (50, "critical"),
                    (60, "critical"),
                )
            ],
        )

    def test_debug(self) -> None:
        """Debug records pass when wanted."""
        self.undo()
        self.undo = bridge_stdlib(logging.DEBUG)
        self.addCleanup(self.undo)
        self.library.debug("deep")
        self.assertEqual(self.seen(), [("some.library", "debug", "deep")])

    def test_braces(self) -> None:
        """Braces in a library's text are text, not a format."""
        self.library.warning("%s", "{text.__class__} {0}")
        stream = io.StringIO()
        observer = console_observer(stream, 0)
        for event in self.book.events:
            observer(event)
        self.assertIn("{text.__class__} {0}", stream.getvalue())

    def test_exception(self) -> None:
        """An exception comes along with its traceback."""
        try:
            raise KeyError("lost")
        except KeyError:
            self.library.exception("it broke")
        (event,) = (e for e in self.book.events if e["log_namespace"] == "some.library")
        self.assertIn("KeyError: 'lost'", event["log_failure"].getTraceback())
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_broken_format(self) -> None:
        """A record that cannot be formatted is told of, and harms nobody."""
        self.library.warning("%d %d", "one")
        ((_, _, message),) = self.seen()
        self.assertIn("could not be formatted", message)

    def test_undone(self) -> None:
        """Undone, nothing passes and the root logger is as before."""
        self.undo()
        self.patch(logging, "lastResort", None)
        self.library.error("nobody hears")
        self.assertEqual(self.seen(), [])


class LegacyWrapperTests(SynchronousTestCase):
    """The observers beside Twisted's wrapper for old observers."""

    def test_wrapped_event(self) -> None:
        """What the wrapper adds to an event for old observers is not written as data."""
        stream = io.BytesIO()
        observer = JsonObserver(stream, "info")
        events: list[Any] = []
        both = LogPublisher(LegacyLogObserverWrapper(events.append), observer)  # type: ignore[arg-type]
        Logger("x", observer=both).info("hello {a}", a=1)
        self.assertEqual(json.loads(stream.getvalue())["data"], {"a": 1})
