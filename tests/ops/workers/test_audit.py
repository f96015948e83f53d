"""Tests of `mcpguard.ops.workers.audit`: the lines of all workers in one file."""

import json
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import AuditSettings
from mcpguard.observe.audit.outputs import Sink
from mcpguard.observe.audit.thread import ThreadedSink
from mcpguard.observe.audit.trail import AUDIT_BOUNDS, AuditBounds, AuditTrail
from mcpguard.observe.events import Event
from mcpguard.ops.workers.audit import AUDIT, AuditDesk, AuditRelay
from mcpguard.ops.workers.control import ControlRefused, Peers
from tests.observe.doubles import InlineWorker, Paper, Tally
from tests.ops.workers.company import Company

NOON = 1_795_348_800.0
TIMEOUT = 3.0
SMALL = evolve(AUDIT_BOUNDS, feed=evolve(AUDIT_BOUNDS.feed, held_bytes=1_000, retry_secs=1.0))


class RelayCase(SynchronousTestCase):
    """A parent with an audit file, and workers."""

    def setUp(self) -> None:
        """A parent that writes at once, and one worker."""
        self.begin(AUDIT_BOUNDS)

    def begin(self, bounds: AuditBounds) -> None:
        """Make everything, with these bounds of the parent's trail."""
        self.clock = Clock()
        self.company = Company(self.clock)
        self.tally = Tally()
        self.writer = InlineWorker()
        self.path = Path(self.mktemp()).absolute()
        self.settings = AuditSettings(file=self.path)
        self.trail = self.make(self.settings, bounds, None)
        self.desk = AuditDesk(self.trail)
        peers: Peers = self.company
        self.desk.attend(peers)
        self.alone: Sink | None = None
        self.trails: dict[int, AuditTrail] = {}
        self.hire(1)

    def make(self, settings: AuditSettings, bounds: AuditBounds, relay: Sink | None) -> AuditTrail:
        """Return a started trail."""
        trail = AuditTrail(
            settings,
            clock=self.clock,
            wall=lambda: NOON,
            meter=self.tally,
            spawn=lambda name: self.writer,
            stdout=1,
            bounds=bounds,
            relay=relay,
        )
        trail.start()
        self.addCleanup(trail.stop)
        return trail

    def hire(self, life: int) -> AuditTrail:
        """Add a worker; gives its trail."""
        control = self.company.hire(life, life).worker
        relay = AuditRelay(control, TIMEOUT, lambda: self.alone)
        self.trails[life] = trail = self.make(self.settings, SMALL, relay)
        return trail

    def record(self, name: str, life: int = 1, *, urgent: bool = True) -> None:
        """Have a worker record an event; bytes are not carried yet."""
        kind = "RequestRefused" if urgent else "ToolCall"
        self.trails[life].record(Event(kind, NOON, tool=name))

    def written(self) -> list[str]:
        """Return the tools of the lines in the file, in order."""
        lines = [json.loads(line) for line in self.path.read_bytes().splitlines()]
        return [line.get("tool", line["event_type"]) for line in lines]


class RelayTests(RelayCase):
    """`AuditRelay` and `AuditDesk`: lines on their way to the parent."""

    def test_all_in_one_file(self) -> None:
        """Lines of all workers and the parent's own are in the parent's file, whole."""
        self.hire(2)
        self.record("a")
        self.record("b", 2)
        self.trail.record(Event("GatewayStarted", NOON))
        self.company.pump()
        self.assertEqual(sorted(self.written()), ["GatewayStarted", "a", "b"])
        self.assertEqual(self.trails[1].outputs, ("parent",))

    def test_in_batches(self) -> None:
        """Ordinary events wait a second for others, at the worker and not again at the parent."""
        for name in "abc":
            self.record(name, urgent=False)
        self.company.pump()
        self.assertEqual(self.written(), [])
        self.clock.advance(AUDIT_BOUNDS.feed.batch_secs)
        self.company.pump()
        self.assertEqual(self.written(), ["a", "b", "c"])

    def test_each_line_once(self) -> None:
        """A batch whose acknowledgement comes too late is sent again, and written once."""
        self.record("a")
        wires = self.company.wires[1]
        batch = wires.transport_of(wires.worker).value()
        wires.transport_of(wires.worker).clear()
        wires.parent.dataReceived(batch)
        wires.transport_of(wires.parent).clear()  # the acknowledgement is lost
        self.record("b")
        self.clock.advance(TIMEOUT)
        self.company.pump()
        self.clock.advance(SMALL.feed.retry_secs)
        self.company.pump()
        self.assertEqual(self.written(), ["a", "b"])
        self.record("c")
        self.company.pump()
        self.assertEqual(self.written(), ["a", "b", "c"])

    def test_held_and_counted(self) -> None:
        """While the parent does not take lines they are held, bounded, and losses are told."""
        self.company.deaf.add(1)
        for number in range(50):
            self.record(f"{number:02d}")
        lost = sum(amount for name, amount, _ in self.tally.calls)
        self.assertGreater(lost, 0)
        self.company.deaf.clear()
        self.company.pump()
        written = self.written()
        self.assertEqual(written[-1], "AuditLost")
        self.assertEqual(written[:-1], [f"{number:02d}" for number in range(50 - lost)])
        last = json.loads(self.path.read_bytes().splitlines()[-1])
        self.assertEqual(last["details"], {"output": "parent", "lost": lost})

    def test_a_parent_that_holds_all_it_may(self) -> None:
        """What the parent has no room for stays at the worker and is offered again."""
        self.begin(SMALL)
        self.writer.held = True
        for number in range(18):
            self.record(f"{number:02d}")
            self.company.pump()
        self.assertEqual(self.tally.calls, [])
        self.writer.held = False
        self.writer.release()
        self.clock.pump([1.0, 1.0, 1.0, 1.0])
        self.company.pump()
        self.assertEqual(self.written(), [f"{number:02d}" for number in range(18)])

    def test_one_output_without_room(self) -> None:
        """An output that takes nothing loses its lines and does not hold up the others."""
        self.begin(SMALL)
        stuck = InlineWorker(held=True)
        both = evolve(self.settings, stdout=True)
        workers = {"audit-file": self.writer, "audit-stdout": stuck}
        self.desk.trail = AuditTrail(
            both,
            clock=self.clock,
            wall=lambda: NOON,
            meter=self.tally,
            spawn=workers.__getitem__,
            stdout=1,
            bounds=SMALL,
        )
        self.desk.trail.start()
        self.addCleanup(self.desk.trail.stop)
        for number in range(30):
            self.record(f"{number:02d}")
            self.company.pump()
        self.assertEqual(self.written(), [f"{number:02d}" for number in range(30)])
        self.assertGreater(len(self.tally.calls), 0)

    def test_a_parent_without_a_trail(self) -> None:
        """What a worker still writes after the trail was switched off is counted as lost."""
        self.desk.trail = self.make(evolve(self.settings, enabled=False), SMALL, None)
        self.record("a")
        self.company.pump()
        self.assertEqual(self.tally.calls, [("mcp_guard_audit_dropped_total", 1, {})])

    def test_switched_off(self) -> None:
        """Without a trail to write nothing is handed to the parent."""
        self.settings = AuditSettings(file=None)
        self.hire(2).record(Event("RequestRefused", NOON))
        wires = self.company.wires[2]
        self.assertEqual(wires.transport_of(wires.worker).value(), b"")

    def test_stop(self) -> None:
        """A worker that ends has handed over everything before."""
        self.record("a", urgent=False)
        done = self.trails[1].stop()
        self.assertNoResult(done)
        self.company.pump()
        self.successResultOf(done)
        self.assertEqual(self.written(), ["a"])

    def test_stop_without_a_parent(self) -> None:
        """A worker whose parent is gone ends all the same, and counts what it could not hand on."""
        self.record("a", urgent=False)
        self.company.wires[1].cut()
        self.successResultOf(self.trails[1].stop())
        self.assertEqual(self.tally.calls, [("mcp_guard_audit_dropped_total", 1, {})])

    def test_without_a_parent(self) -> None:
        """What a worker still finishes when its parent is gone goes into the file all the same."""
        paper = Paper()
        self.alone = ThreadedSink(paper, self.writer)
        self.record("a")
        self.company.pump()
        self.record("b")
        self.company.wires[1].cut()
        self.clock.advance(TIMEOUT)
        self.record("c")
        self.clock.advance(SMALL.feed.retry_secs)
        done = self.trails[1].stop()
        self.successResultOf(done)
        self.assertEqual([json.loads(line)["tool"] for line in paper.lines], ["b", "c"])
        self.assertTrue(paper.closed)
        self.assertEqual(self.written(), ["a"])
        self.assertEqual(self.tally.calls, [])

    def test_after_a_worker(self) -> None:
        """What is known of a worker's lines ends with it."""
        self.record("a")
        self.company.pump()
        self.company.dismiss(1)
        self.assertEqual(self.desk._taken, {})

    def test_nonsense(self) -> None:
        """Half a line, or lines that leave some out, are refused and not written."""
        control = self.company.wires[1].worker
        for batch in ({"first": 0, "lines": b"half"}, {"first": 3, "lines": b"late\n"}):
            answer: Any = control.ask(AUDIT, batch)
            self.company.pump()
            self.failureResultOf(answer, ControlRefused)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(self.path.read_bytes(), b"")

    @settings(deadline=None, max_examples=80)
    @given(
        st.lists(
            st.sampled_from(
                ["record", "urgent", "pump", "deaf", "hear", "tick", "hold", "free", "lose"]
            )
        )
    )
    def test_nothing_lost_silently(self, steps: list[str]) -> None:
        """Whatever happens on the way, each line is written once and in order, or counted."""
        self.begin(SMALL)
        count = 0
        wires = self.company.wires[1]
        for step in steps:
            match step:
                case "record" | "urgent":
                    self.record(f"{count:04d}", urgent=step == "urgent")
                    count += 1
                case "pump":
                    self.company.pump()
                case "deaf":
                    self.company.deaf.add(1)
                case "hear":
                    self.company.deaf.clear()
                case "tick":
                    self.clock.advance(TIMEOUT)
                case "lose":
                    # What the parent answers does not arrive, as if it came after the deadline.
                    if 1 not in self.company.deaf:
                        wires.parent.dataReceived(wires.transport_of(wires.worker).value())
                        wires.transport_of(wires.worker).clear()
                        wires.transport_of(wires.parent).clear()
                case _:
                    self.writer.held = step == "hold"
                    self.writer.release()
        self.company.deaf.clear()
        self.writer.held = False
        self.writer.release()
        for _ in range(12):
            self.company.pump()
            self.clock.advance(10)
            self.writer.release()
        written = [name for name in self.written() if name != "AuditLost"]
        self.assertEqual(written, sorted(set(written)))
        lost = sum(amount for name, amount, _ in self.tally.calls)
        self.assertEqual(len(written) + lost, count)
