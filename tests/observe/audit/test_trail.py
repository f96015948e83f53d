"""Tests of `mcpguard.observe.audit.trail`."""

import json
import os
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import AuditSettings, RedactionRule, RotationSettings
from mcpguard.errors import ConfigurationError
from mcpguard.observe.audit.trail import AUDIT_BOUNDS, AuditTrail
from mcpguard.observe.events import ALWAYS_WRITTEN, EVENT_TYPES, SYSTEM_TYPES, Event, Recorder
from tests.observe.doubles import InlineWorker, Tally

NOON = 1_795_348_800.0


class TrailCase(SynchronousTestCase):
    """A trail with a file in a folder of its own and a pipe for its standard output."""

    def setUp(self) -> None:
        """A folder, a clock, and workers that work at once."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "audit.log"
        self.clock = Clock()
        self.tally = Tally()
        self.workers: list[InlineWorker] = []
        self.read, self.write = os.pipe()
        self.addCleanup(os.close, self.read)
        self.addCleanup(os.close, self.write)

    def spawn(self, name: str) -> InlineWorker:
        """Make a worker and remember it."""
        self.workers.append(InlineWorker(name))
        return self.workers[-1]

    def make(self, *, start: bool = True, **changes: Any) -> AuditTrail:
        """Return a trail with these settings changed from: everything into the file."""
        trail = AuditTrail(
            evolve(AuditSettings(file=self.path), **changes),
            clock=self.clock,
            wall=lambda: NOON,
            meter=self.tally,
            spawn=self.spawn,
            stdout=self.write,
            bounds=AUDIT_BOUNDS,
        )
        if start:
            trail.start()
            self.addCleanup(trail.stop)
        return trail

    def lines(self) -> list[dict[str, Any]]:
        """Return what the file holds."""
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def types(self) -> list[str]:
        """Return the types of the events in the file."""
        return [line["event_type"] for line in self.lines()]


class RecordTests(TrailCase):
    """`AuditTrail.record`: what is written, where and when."""

    def test_is_a_recorder(self) -> None:
        """It is what the pipeline wants."""
        recorder: Recorder = self.make()
        self.assertIsInstance(recorder, AuditTrail)

    def test_both_outputs(self) -> None:
        """Each output gets the same line."""
        trail = self.make(stdout=True)
        trail.record(Event("AuthFailure", NOON, reason="bad_credentials"))
        self.assertEqual(os.read(self.read, 9999), self.path.read_bytes())
        self.assertEqual(self.types(), ["AuthFailure"])
        self.assertEqual(trail.outputs, ("file", "stdout"))
        self.assertEqual([w.name for w in self.workers], ["audit-file", "audit-stdout"])

    def test_only_stdout(self) -> None:
        """Without a file nothing is made on disk."""
        trail = self.make(file=None, stdout=True)
        trail.record(Event("AuthFailure", NOON))
        self.assertEqual(json.loads(os.read(self.read, 999))["event_type"], "AuthFailure")
        self.assertEqual(os.listdir(self.folder), [])
        trail.reopen()

    def test_urgency(self) -> None:
        """Refusals and system events are written at once, the others within a second."""
        for event_type in sorted(EVENT_TYPES):
            trail = self.make()
            trail.record(Event(event_type, NOON))
            at_once = self.path.stat().st_size > 0
            self.assertEqual(at_once, event_type in ALWAYS_WRITTEN | SYSTEM_TYPES, event_type)
            self.clock.advance(1)
            self.assertEqual(self.types(), [event_type])
            self.path.unlink()

    def test_long_words(self) -> None:
        """An ordinary event does not wait with a caller's megabyte in it; the order stays."""
        trail, long = self.make(), "x" * 1_000_000
        ordinary = Event("Authorized", NOON, method="tools/call", tool="first")
        for event in (
            ordinary,
            Event("Authorized", NOON, method="tools/call", tool=long),
            ordinary,
            Event("McpRequest", NOON, method=long),
        ):
            trail.record(event)
            self.assertLess(sum(len(str(word)) for one in trail._unrendered for word in one), 9_999)
        self.clock.advance(1)
        lines = [len(line) for line in self.path.read_bytes().splitlines()]
        self.assertEqual([size > 2_000 for size in lines], [False, True, False, True])

    def test_narrowed(self) -> None:
        """``events`` narrows what is written, but refusals are written always."""
        trail = self.make(events=("ToolCall",))
        for event_type in sorted(EVENT_TYPES):
            trail.record(Event(event_type, NOON))
        self.clock.advance(1)
        self.assertEqual(sorted(self.types()), sorted({"ToolCall"} | ALWAYS_WRITTEN))

    def test_disabled(self) -> None:
        """Disabled, nothing is opened, made or written."""
        trail = self.make(enabled=False, stdout=True)
        trail.record(Event("AuthFailure", NOON))
        trail.reopen()
        self.successResultOf(trail.stop())
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(self.workers, [])

    def test_settings_reach_the_line(self) -> None:
        """Recorded arguments and redaction rules are the configured ones."""
        trail = self.make(
            log_arguments=("path", "note"),
            redaction_rules=(RedactionRule("names", "(?i)alice", "[NAME]"),),
        )
        arguments = {"path": "/home/alice", "note": "Bearer abc", "content": "x"}
        trail.record(Event("ToolCall", NOON, tool="alice", arguments=arguments))
        self.clock.advance(1)
        (line,) = self.lines()
        self.assertEqual(
            (line["tool"], line["path"], line["note"]),
            ("[NAME]", "/home/[NAME]", "Bearer [REDACTED]"),
        )
        self.assertNotIn("content", line)

    def test_event_that_cannot_be_rendered(self) -> None:
        """An event with a bug in it is logged, counted and reported, and never raises."""
        trail = self.make()
        trail.record(Event("ToolCall", float("nan")))
        self.clock.advance(1.0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.tally.calls, [("mcp_guard_audit_dropped_total", 1, {})])
        trail.record(Event("AuthFailure", NOON))
        self.assertEqual(self.types(), ["AuthFailure", "AuditLost"])
        self.assertEqual(self.lines()[1]["details"], {"output": "file", "lost": 1})

    def test_rendered_together(self) -> None:
        """Ordinary events wait for others within their second and their number, in order."""
        trail = self.make()
        for number in range(AUDIT_BOUNDS.unrendered + 1):
            trail.record(Event("ToolCall", NOON, tool=str(number), arguments={"a": "b"}))
        self.assertEqual(len(trail._unrendered), 1)
        self.assertNotIn({"a": "b"}, [*trail._unrendered[0]])
        self.clock.advance(1.0)
        tools = [line["tool"] for line in self.lines()]
        self.assertEqual(tools, [str(number) for number in range(AUDIT_BOUNDS.unrendered + 1)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_order_around_the_urgent(self) -> None:
        """What waits is written before what is written at once, and at the stop."""
        trail = self.make()
        trail.record(Event("AuthSuccess", NOON))
        trail.record(Event("AuthorizationDenied", NOON))
        self.assertEqual(self.types(), ["AuthSuccess", "AuthorizationDenied"])
        trail.record(Event("ToolCall", NOON))
        trail.stop()
        trail.record(Event("ToolCall", NOON))
        self.assertEqual(self.types(), ["AuthSuccess", "AuthorizationDenied", "ToolCall"])
        self.assertEqual(self.tally.calls, [("mcp_guard_audit_dropped_total", 1, {})])

    def test_losses_are_counted(self) -> None:
        """What no output could hold is in the metric and in the trail."""
        trail = self.make()
        self.workers[0].held = True
        event = Event("RateLimited", NOON, tool="x" * 2048)
        for _ in range(4200):
            trail.record(event)
        lost = sum(call[1] for call in self.tally.calls)
        self.assertGreater(lost, 0)
        self.workers[0].held = False
        self.workers[0].release()
        lines = self.lines()
        self.assertEqual(lines[-1]["event_type"], "AuditLost")
        self.assertEqual(lines[-1]["details"]["lost"], lost)
        self.assertEqual(len(lines) - 1 + lost, 4200)


class LifeTests(TrailCase):
    """`AuditTrail`: start, reopen, stop."""

    def test_bad_rule(self) -> None:
        """A redaction rule that is no RE2 expression is a configuration error."""
        with self.assertRaises(ConfigurationError):
            self.make(redaction_rules=(RedactionRule("bad", "(?<=x)"),), start=False)

    def test_unusable_file(self) -> None:
        """A gateway does not start without the trail it was told to keep."""
        trail = self.make(file=self.folder / "no" / "audit.log", start=False)
        with self.assertRaises(ConfigurationError) as caught:
            trail.start()
        self.assertIn("its directory does not exist", caught.exception.problems[0])
        trail = self.make(file=self.folder, start=False)
        with self.assertRaises(ConfigurationError) as caught:
            trail.start()
        self.assertIn("Is a directory", caught.exception.problems[0])

    def test_reopened(self) -> None:
        """After logrotate and its signal, waiting lines and later ones go to the new file."""
        trail = self.make()
        trail.record(Event("AuthFailure", NOON))
        self.path.rename(self.folder / "audit.log.1")
        trail.record(Event("ToolCall", NOON))
        trail.reopen()
        self.assertEqual(self.types(), ["ToolCall"])

    def test_stop(self) -> None:
        """Everything is on disk, the workers are told, no timer is left."""
        trail = self.make(stdout=True)
        trail.record(Event("ToolCall", NOON))
        self.successResultOf(trail.stop())
        self.assertEqual(self.types(), ["ToolCall"])
        self.assertTrue(all(worker.stopped for worker in self.workers))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIs(trail.stop(), trail.stop())

    def test_stop_with_a_hanging_output(self) -> None:
        """A dead file system delays the end by the bound and no more; the losses are counted."""
        trail = self.make()
        self.workers[0].held = True
        trail.record(Event("ToolCall", NOON))
        done = trail.stop()
        self.clock.advance(4.9)
        self.assertNoResult(done)
        self.clock.advance(0.1)
        self.successResultOf(done)
        self.assertEqual(self.tally.calls, [("mcp_guard_audit_dropped_total", 1, {})])
        self.workers[0].release()

    def test_old_files(self) -> None:
        """Old files are pruned and compressed at start and after each rotation."""
        old = self.folder / "audit.log.20261121T120000Z-1"
        old.write_text("old")
        rotation = RotationSettings(enabled=True, max_size_bytes=80, max_backups=2, compress=True)
        trail = self.make(rotation=rotation)
        self.assertEqual(sorted(os.listdir(self.folder)), ["audit.log", f"{old.name}.gz"])
        for _ in range(4):
            trail.record(Event("AuthFailure", NOON))
        self.assertEqual(
            sorted(os.listdir(self.folder)),
            ["audit.log", "audit.log.20261122T120000Z-2.gz", "audit.log.20261122T120000Z-3.gz"],
        )

    def test_tidying_holds_up_nothing(self) -> None:
        """While old files are compressed, lines are written, and it is gone through once more."""
        rotation = RotationSettings(enabled=True, max_size_bytes=80, max_backups=1)
        trail = self.make(rotation=rotation)
        tidier = next(w for w in self.workers if w.name == "audit-backups")
        tidier.held = True
        for _ in range(5):
            trail.record(Event("AuthFailure", NOON))
        self.assertEqual(len(os.listdir(self.folder)), 5)
        self.assertEqual(len(tidier.jobs), 1)
        tidier.release()
        self.assertEqual(len(tidier.jobs), 1)
        tidier.release()
        self.assertEqual(len(os.listdir(self.folder)), 2)
        self.assertEqual(tidier.jobs, [])
