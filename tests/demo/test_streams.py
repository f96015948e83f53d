"""Tests of the demo server's bounded streams."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.messages import Message
from mcpguard.demo.streams import Stream, Streaming
from mcpguard.demo.wire import Wire


class StreamTests(SynchronousTestCase):
    """`Stream` keeps order and its limit."""

    def test_order(self) -> None:
        """Messages come out as they went in, those before the end included, later ones not."""
        stream = Stream(limit=3, lossy=False)
        self.assertEqual(stream.take(0), [])
        stream.put({"n": 1})
        stream.put({"n": 2})
        stream.end()
        stream.put({"n": 3})
        self.assertEqual(stream.take(60), [{"n": 1}, {"n": 2}])
        self.assertEqual(stream.take(60), [])
        self.assertFalse(stream.broken)

    def test_lossy(self) -> None:
        """A lossy stream lets the oldest go."""
        stream = Stream(limit=2, lossy=True)
        for number in range(4):
            stream.put({"n": number})
        self.assertEqual(stream.take(0), [{"n": 2}, {"n": 3}])

    def test_broken(self) -> None:
        """Any other breaks when its reader falls behind, and keeps nothing."""
        stream = Stream(limit=2, lossy=False)
        for number in range(3):
            stream.put({"n": number})
        self.assertTrue(stream.ended and stream.broken)
        self.assertEqual(stream.take(60), [])


class FakeWire:
    """Notes events; optionally its client has gone."""

    def __init__(self, *, gone: bool) -> None:
        self.gone = gone
        self.events: list[Message] = []
        self.ended = False
        self.settled: list[bool] = []
        """What a stopping server was told while the stream opened and the first events left."""
        self.streaming = Streaming()

    def open_events(self, headers: dict[str, str]) -> None:
        """A client that has read the head may stop the server at once."""
        self.settled.append(self.streaming.settle(0))

    def send_event(self, message: Message) -> None:
        """Note the event."""
        self.settled.append(self.streaming.settle(0))
        self.events.append(message)

    def end_events(self) -> None:
        """Note the end."""
        self.ended = True

    def hung_up(self) -> bool:
        """Whether the client has gone."""
        return self.gone


class StreamingTests(SynchronousTestCase):
    """`Streaming` writes streams out."""

    def write(self, stream: Stream, *first: Message, gone: bool = False) -> FakeWire:
        """Write a stream to a fake wire."""
        fake = FakeWire(gone=gone)
        wire: Wire = fake  # type: ignore[assignment]
        try:
            fake.streaming.write(wire, stream, {}, first)
        finally:
            self.assertTrue(fake.streaming.settle(60))  # nothing is open: this does not wait
        return fake

    def test_counts(self) -> None:
        """A stopping server waits for a stream from before its first byte leaves."""
        stream = Stream(limit=1, lossy=False)
        stream.end()
        wire = self.write(stream, {"n": 1})
        self.assertEqual((wire.events, wire.settled), ([{"n": 1}], [False, False]))

    def test_whole(self) -> None:
        """Everything put before the end is written, then the stream is ended."""
        stream = Stream(limit=3, lossy=False)
        stream.put({"n": 1})
        stream.end()
        wire = self.write(stream)
        self.assertEqual((wire.events, wire.ended), ([{"n": 1}], True))

    def test_broken(self) -> None:
        """A broken stream is not ended as if it were whole."""
        stream = Stream(limit=0, lossy=False)
        stream.put({"n": 1})
        self.assertRaises(ConnectionAbortedError, self.write, stream)

    def test_gone(self) -> None:
        """A client that has gone ends the writing."""
        stream = Stream(limit=1, lossy=False)
        self.assertRaises(ConnectionAbortedError, self.write, stream, gone=True)
