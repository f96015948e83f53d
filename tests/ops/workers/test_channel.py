"""Tests of the channel between parent and worker."""

import struct
from typing import Any

import msgspec
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.ops.workers.channel import Channel
from mcpguard.ops.workers.control import (
    ControlBusy,
    ControlLost,
    ControlRefused,
    ControlTimeout,
)
from tests.ops.workers.wires import BOUNDS, Wires

PAYLOADS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


class ChannelTestCase(SynchronousTestCase):
    """Two ends in memory."""

    def setUp(self) -> None:
        """Join two ends."""
        self.clock = Clock()
        self.wires = Wires(self.clock)
        self.parent, self.worker = self.wires.parent, self.wires.worker

    def answer(self, asked: Deferred[Any]) -> Any:
        """The answer of an ask, after everything has been carried."""
        self.wires.pump()
        return self.successResultOf(asked)


class AskTests(ChannelTestCase):
    """Asking a service of the other end."""

    def test_both_ways(self) -> None:
        """Each end has services of its own, and both may have one of the same name."""
        self.parent.register("who", lambda payload: ["parent", payload])
        self.worker.register("who", lambda payload: ["worker", payload])
        self.assertEqual(self.answer(self.worker.ask("who", 1)), ["parent", 1])
        self.assertEqual(self.answer(self.parent.ask("who", b"2")), ["worker", b"2"])

    def test_order_of_answers(self) -> None:
        """An answer finds its ask, in whatever order they come."""
        waiting: list[Deferred[str]] = []

        def later(payload: Any) -> Deferred[str]:
            waiting.append(Deferred())
            return waiting[-1]

        self.parent.register("later", later)
        first, second = self.worker.ask("later", 1), self.worker.ask("later", 2)
        self.wires.pump()
        waiting[1].callback("two")
        self.assertEqual(self.answer(second), "two")
        self.assertNoResult(first)
        waiting[0].callback("one")
        self.assertEqual(self.answer(first), "one")

    def test_coroutine(self) -> None:
        """A service may be a coroutine."""

        async def serve(payload: Any) -> Any:
            return payload + 1

        self.parent.register("plus", serve)
        self.assertEqual(self.answer(self.worker.ask("plus", 1)), 2)

    def test_unknown(self) -> None:
        """A name that nobody serves is refused at once."""
        asked = self.worker.ask("what", None)
        self.wires.pump()
        self.assertIn("what", str(self.failureResultOf(asked, ControlRefused).value))

    def test_failing(self) -> None:
        """A service that raises refuses, and its traceback is in the log of its own side."""

        def serve(payload: Any) -> None:
            raise KeyError("x" * 2_000)

        self.parent.register("break", serve)
        asked = self.worker.ask("break", None)
        self.wires.pump()
        text = str(self.failureResultOf(asked, ControlRefused).value)
        self.assertTrue(text.startswith("break: KeyError: 'xxx"))
        self.assertLessEqual(len(text), 500)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_timeout(self) -> None:
        """An ask ends at its deadline; what comes later is nothing."""
        held: Deferred[int] = Deferred()
        self.parent.register("slow", lambda _: held)
        asked, quick = self.worker.ask("slow", 0), self.worker.ask("slow", 0, timeout=1.0)
        self.wires.pump()
        self.clock.advance(1.0)
        self.failureResultOf(quick, ControlTimeout)
        self.assertNoResult(asked)
        self.clock.advance(BOUNDS.timeout_secs)
        self.failureResultOf(asked, ControlTimeout)
        held.callback(1)
        self.wires.pump()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A cancelled ask leaves nothing behind, and its answer harms nobody."""
        self.parent.register("x", lambda payload: payload)
        asked = self.worker.ask("x", 1)
        asked.cancel()
        self.failureResultOf(asked)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.wires.pump()
        self.assertEqual(self.answer(self.worker.ask("x", 2)), 2)

    def test_tell(self) -> None:
        """What is told arrives in order, and needs no answer."""
        heard: list[Any] = []
        self.parent.register("hear", heard.append)
        self.assertTrue(self.worker.tell("hear", [b"a", None]))
        self.assertTrue(self.worker.tell("hear", {"b": 1.5}))
        self.assertTrue(self.worker.tell("nobody", 1))
        self.wires.pump()
        self.assertEqual(heard, [[b"a", None], {"b": 1.5}])

    def test_told_service_fails(self) -> None:
        """A tell whose service raises ends in the log, not the channel."""

        def serve(payload: Any) -> None:
            raise RuntimeError("no")

        self.parent.register("hear", serve)
        self.worker.tell("hear", 1)
        self.wires.pump()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.wires.lost, [])

    @settings(deadline=None, max_examples=50)
    @given(PAYLOADS, st.lists(st.integers(1, 40), max_size=6))
    def test_payloads(self, payload: Any, cuts: list[int]) -> None:
        """Plain data arrives as it was, however the bytes are cut."""
        wires = Wires(Clock())
        received: list[Any] = []
        wires.parent.register("x", received.append)
        wires.worker.tell("x", payload)
        data = wires.transport_of(wires.worker).value()
        for cut in cuts:
            wires.parent.dataReceived(data[:cut])
            data = data[cut:]
        wires.parent.dataReceived(data)
        self.assertEqual(received, [payload])


class BoundTests(ChannelTestCase):
    """Every bound of the channel."""

    def test_too_large(self) -> None:
        """A message above the bound is not sent, and the channel goes on."""
        self.parent.register("x", lambda payload: payload)
        large = b"x" * BOUNDS.frame_bytes
        self.failureResultOf(self.worker.ask("x", large), ControlBusy)
        self.assertFalse(self.worker.tell("x", large))
        self.assertEqual(self.answer(self.worker.ask("x", 1)), 1)

    def test_answer_too_large(self) -> None:
        """An answer above the bound becomes a failure, not a wait."""
        self.parent.register("x", lambda _: b"x" * BOUNDS.frame_bytes)
        asked = self.worker.ask("x", 1)
        self.wires.pump()
        self.failureResultOf(asked, ControlBusy)

    def test_not_plain(self) -> None:
        """What cannot be written down is refused at this end."""
        self.failureResultOf(self.worker.ask("x", object()), ControlRefused)
        self.failureResultOf(self.worker.ask("x", 2**70), ControlRefused)
        self.parent.register("x", lambda _: object())
        asked = self.worker.ask("x", 1)
        self.wires.pump()
        self.failureResultOf(asked, ControlRefused)

    def test_asked(self) -> None:
        """So many own asks may be under way."""
        asks = [self.worker.ask("x", 1) for _ in range(BOUNDS.asked)]
        self.failureResultOf(self.worker.ask("x", 1), ControlBusy)
        self.wires.pump()
        for asked in asks:
            self.failureResultOf(asked, ControlRefused)
        self.assertNoResult(self.worker.ask("x", 1))

    def test_served(self) -> None:
        """So many asks of the other end may be under way; one that ends makes room."""
        held: list[Deferred[int]] = []

        def serve(payload: Any) -> Deferred[int]:
            held.append(Deferred())
            return held[-1]

        self.parent.register("x", serve)
        asks = [self.worker.ask("x", 1) for _ in range(BOUNDS.served)]
        self.wires.pump()
        refused = self.worker.ask("x", 1)
        self.wires.pump()
        self.failureResultOf(refused, ControlBusy)
        held[0].callback(7)
        self.assertEqual(self.answer(asks[0]), 7)
        self.worker.ask("x", 1)
        self.wires.pump()
        self.assertEqual(len(held), BOUNDS.served + 1)

    def test_queue(self) -> None:
        """An end that does not read is waited for up to the bound, then nothing is taken."""
        heard: list[Any] = []
        self.parent.register("x", heard.append)
        self.worker.pauseProducing()
        taken = [self.worker.tell("x", [number, b"x" * 900]) for number in range(5)]
        self.assertEqual(taken, [True, True, False, False, False])
        self.failureResultOf(self.worker.ask("x", b"x" * 900), ControlBusy)
        self.wires.pump()
        self.assertEqual(heard, [])
        self.worker.resumeProducing()
        self.wires.pump()
        self.assertEqual([number for number, _ in heard], [0, 1])
        self.assertTrue(self.worker.tell("x", [9, b""]))

    def test_paused_while_resuming(self) -> None:
        """A queue that fills the transport again stops in the middle, and keeps its order."""
        heard: list[Any] = []
        self.parent.register("x", heard.append)
        self.worker.pauseProducing()
        for number in range(3):
            self.worker.tell("x", number)
        write = self.worker.sendString

        def full(data: bytes) -> None:
            write(data)
            self.worker.pauseProducing()

        self.patch(self.worker, "sendString", full)
        self.worker.resumeProducing()
        self.wires.pump()
        self.assertEqual(heard, [0])
        self.worker.resumeProducing()
        self.worker.resumeProducing()
        self.wires.pump()
        self.assertEqual(heard, [0, 1, 2])

    def test_large_frame_received(self) -> None:
        """A frame announced above the bound ends the channel before it is read."""
        self.parent.dataReceived(struct.pack("!I", BOUNDS.frame_bytes + 1))
        self.assertTrue(self.wires.transport_of(self.parent).disconnecting)


class EndTests(ChannelTestCase):
    """The end of the channel."""

    def test_lost(self) -> None:
        """Everything that waits fails, and nothing more is taken."""
        self.parent.register("x", lambda _: Deferred())
        asked = self.worker.ask("x", 1)
        self.wires.pump()
        self.wires.cut()
        self.failureResultOf(asked, ControlLost)
        self.failureResultOf(self.worker.ask("x", 1), ControlLost)
        self.assertFalse(self.worker.tell("x", 1))
        self.assertEqual(sorted(self.wires.lost), ["parent", "worker"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_served_after_the_end(self) -> None:
        """A service that answers a lost end breaks nothing."""
        held: Deferred[int] = Deferred()
        self.parent.register("x", lambda _: held)
        asked = self.worker.ask("x", 1)
        self.wires.pump()
        self.wires.cut()
        self.failureResultOf(asked, ControlLost)
        held.callback(1)

    def test_before_the_connection(self) -> None:
        """A channel that has no connection yet takes nothing."""
        channel = Channel(self.clock, BOUNDS, lambda: None)
        self.failureResultOf(channel.ask("x", 1), ControlLost)
        channel.close()

    def test_close(self) -> None:
        """Closing sends what was written before."""
        self.worker.tell("x", 1)
        self.worker.close()
        self.assertTrue(self.wires.transport_of(self.worker).disconnecting)
        self.wires.pump()
        self.assertEqual(sorted(self.wires.lost), ["parent", "worker"])

    def test_garbage(self) -> None:
        """What is no message ends the channel."""
        for message in (
            b"\xc1",
            b"\x91" * 900,
            msgspec.msgpack.encode([9, 1]),
            msgspec.msgpack.encode([1, "1", "x", None]),
            msgspec.msgpack.encode({"a": 1}),
        ):
            transport = StringTransport()
            channel = Channel(self.clock, evolve(BOUNDS), lambda: None)
            channel.makeConnection(transport)
            heard: list[Any] = []
            channel.register("x", heard.append)
            sound = msgspec.msgpack.encode([0, "x", 1])
            frames = [struct.pack("!I", len(one)) + one for one in (message, sound)]
            channel.dataReceived(b"".join(frames))
            self.assertEqual(heard, [])
            self.assertTrue(transport.disconnecting, message)
        self.assertEqual(len(self.flushLoggedErrors(ValueError, msgspec.MsgspecError)), 5)
