"""Bounded streams of messages, from the threads that make them to the one that writes them."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from mcpguard.demo.messages import Message
from mcpguard.demo.wire import Wire

POLL = 0.25
"""Seconds between looks at whether the client of an unfinished answer is still there."""
KEEP_ALIVE = 15.0
"""Seconds of silence after which an event stream gets a comment."""


class Stream:
    """Messages on their way to one response; at most ``limit`` wait."""

    def __init__(self, *, limit: int, lossy: bool) -> None:
        self._limit = limit
        self._lossy = lossy
        """Whether the oldest message makes room; otherwise the stream ends as `broken`."""
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self.ended = False
        self.broken = False

    def put(self, message: Message) -> None:
        """Add a message; dropped when the stream has ended."""
        with self._changed:
            if self.ended:
                return
            if len(self._messages) >= self._limit:
                if not self._lossy:
                    self.ended = self.broken = True
                    self._messages.clear()
                    self._changed.notify()
                    return
                self._messages.popleft()
            self._messages.append(message)
            self._changed.notify()

    def end(self) -> None:
        """No further messages."""
        with self._changed:
            self.ended = True
            self._changed.notify()

    def take(self, timeout: float) -> list[Message]:
        """Everything that waits, after at most ``timeout`` seconds; may be empty."""
        with self._changed:
            if not self._messages and not self.ended:
                self._changed.wait(timeout)
            messages = list(self._messages)
            self._messages.clear()
            return messages


class Streaming:
    """The event streams being written, counted so that a stopping server can let them end."""

    def __init__(self) -> None:
        self._open = 0
        self._changed = threading.Condition()

    def write(
        self, wire: Wire, stream: Stream, headers: dict[str, str], first: Sequence[Message] = ()
    ) -> None:
        """Open an event stream, write ``first`` and what comes, and end the response.

        It counts before its first byte leaves: a stop that follows what a client has read waits.

        Raises:
            OSError: The client has gone, or does not read.
        """
        with self._changed:
            self._open += 1
        try:
            wire.open_events(headers)
            for message in first:
                wire.send_event(message)
            spoken = time.monotonic()
            while True:
                ended = stream.ended  # asked first: what was put before the end is still taken
                messages = stream.take(POLL)
                for message in messages:
                    wire.send_event(message)
                now = time.monotonic()
                if messages:
                    spoken = now
                elif ended:
                    break
                elif wire.hung_up():
                    raise ConnectionAbortedError
                elif now - spoken > KEEP_ALIVE:
                    wire.send_comment()
                    spoken = now
            if stream.broken:
                raise ConnectionAbortedError
            wire.end_events()
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Wait until no stream is open, at most ``timeout`` seconds; whether that came."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._open and (remaining := deadline - time.monotonic()) > 0:
                self._changed.wait(remaining)
            return not self._open
