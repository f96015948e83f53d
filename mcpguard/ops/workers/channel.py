"""The private channel between the parent and a worker: framed messages over a socket pair.

A frame is a length (four bytes, big endian) and a MessagePack array: ``[TELL, name, payload]``,
``[ASK, id, name, payload]``, ``[ANSWER, id, payload]``, ``[FAILED, id, text]`` or
``[BUSY, id, text]``.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from mcpguard.ops.workers.control import (
    ControlBusy,
    ControlFailed,
    ControlLost,
    ControlRefused,
    ControlTimeout,
)

log = Logger()

TELL, ASK, ANSWER, FAILED, BUSY = range(5)
MAX_TEXT = 500
"""Characters of an error that are told to the other end."""


@frozen
class ChannelBounds:
    """Every limit of one end."""

    frame_bytes: int
    """Of one message. A larger one is not sent; the channel ends if one is received."""
    queued_bytes: int
    """Frames waiting for an end that does not read."""
    asked: int
    """Own asks under way."""
    served: int
    """Asks of the other end under way here."""
    timeout_secs: float
    """For an ask that names none."""


CHANNEL_BOUNDS = ChannelBounds(
    frame_bytes=16_777_216,
    queued_bytes=67_108_864,
    asked=10_000,
    served=10_000,
    timeout_secs=10.0,
)
"""What the gateway uses."""


@implementer(IPushProducer)
class Channel(Int32StringReceiver):
    """One end; implements `Control`.

    Args:
        clock: of the deadlines.
        bounds: every limit.
        on_lost: told once when the other end is gone, or cannot be understood.
    """

    transport: Any
    """A socket's, with ``abortConnection``."""

    def __init__(
        self, clock: IReactorTime, bounds: ChannelBounds, on_lost: Callable[[], None]
    ) -> None:
        self.MAX_LENGTH = bounds.frame_bytes
        self._clock = clock
        self._bounds = bounds
        self._on_lost = on_lost
        self._services: dict[str, Callable[[Any], Any]] = {}
        self._asked: dict[int, tuple[Deferred[Any], IDelayedCall]] = {}
        self._last_id = 0
        self._served = 0
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._open = False

    # -- the interface ---------------------------------------------------------------------

    def ask(self, name: str, payload: Any, *, timeout: float | None = None) -> Deferred[Any]:
        """Ask the other end's service; see `Control.ask`."""
        if len(self._asked) >= self._bounds.asked:
            return _failed(ControlBusy(f"{name}: {len(self._asked)} asks are under way"))
        self._last_id += 1
        number = self._last_id
        try:
            self._send([ASK, number, name, payload])
        except ControlFailed as failure:
            return _failed(failure)
        answer: Deferred[Any] = Deferred(lambda _: self._forget(number))
        secs = self._bounds.timeout_secs if timeout is None else timeout
        self._asked[number] = answer, self._clock.callLater(secs, self._overdue, number, name)
        return answer

    def tell(self, name: str, payload: Any) -> bool:
        """Send something without an answer; see `Control.tell`."""
        try:
            self._send([TELL, name, payload])
        except ControlFailed:
            return False
        return True

    def register(self, name: str, serve: Callable[[Any], Any]) -> None:
        """Serve this name; see `Control.register`."""
        self._services[name] = serve

    def close(self) -> None:
        """End the channel; what is queued is still sent as far as the other end reads."""
        if self.transport is not None:
            self.transport.loseConnection()

    # -- sending ---------------------------------------------------------------------------

    def _send(self, message: list[Any]) -> None:
        """Send or queue a message; raises `ControlFailed`."""
        if not self._open:
            raise ControlLost("the other process is gone")
        try:
            frame = msgspec.msgpack.encode(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ControlRefused(f"not plain data: {error}") from error
        if len(frame) > self._bounds.frame_bytes:
            raise ControlBusy(f"a message of {len(frame)} bytes is too large")
        if not self._paused:
            self.sendString(frame)
            return
        if self._queued + len(frame) > self._bounds.queued_bytes:
            raise ControlBusy("the other process does not read")
        self._queue.append(frame)
        self._queued += len(frame)

    def pauseProducing(self) -> None:
        """The other end does not read as fast as we write."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It has read what was sent."""
        self._paused = False
        while self._queue and not self._paused:
            frame = self._queue.popleft()
            self._queued -= len(frame)
            self.sendString(frame)

    def stopProducing(self) -> None:
        """The connection is gone: `connectionLost` follows."""

    # -- receiving -------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin; the transport says when it has too much to send."""
        self._open = True
        self.transport.registerProducer(self, True)

    def stringReceived(self, string: bytes) -> None:
        """Take one message."""
        if not self._open:
            # More of what could not be understood: the end is under way.
            return
        try:
            match msgspec.msgpack.decode(string):
                case [0, str(name), payload]:
                    self._told(name, payload)
                case [1, int(number), str(name), payload]:
                    self._serve(number, name, payload)
                case [2, int(number), payload]:
                    self._answered(number, payload)
                case [3, int(number), str(text)]:
                    self._answered(number, Failure(ControlRefused(text)))
                case [4, int(number), str(text)]:
                    self._answered(number, Failure(ControlBusy(text)))
                case _:
                    raise ValueError("no message of the channel")
        except (ValueError, RecursionError):
            log.failure("the control channel sent what cannot be understood")
            self._abort()

    def lengthLimitExceeded(self, length: int) -> None:
        """Refuse a frame that is too large: nothing after it could be read."""
        log.error("the control channel announced a message of {length} bytes", length=length)
        self._abort()

    def _abort(self) -> None:
        self._open = False
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Fail everything that waits."""
        self._open = False
        self._queue.clear()
        self._queued = 0
        for number in list(self._asked):
            answer = self._take(number)
            if answer is not None:
                answer.errback(ControlLost("the other process is gone"))
        self._on_lost()

    def _told(self, name: str, payload: Any) -> None:
        serve = self._services.get(name)
        if serve is None:
            log.warn("nobody here hears {name} of the control channel", name=name)
            return
        maybeDeferred(serve, payload).addErrback(
            lambda failure: log.failure("control: {name}", failure=failure, name=name)
        )

    def _serve(self, number: int, name: str, payload: Any) -> None:
        serve = self._services.get(name)
        if serve is None:
            self._answer([FAILED, number, f"there is no service {name}"])
            return
        if self._served >= self._bounds.served:
            self._answer([BUSY, number, f"{name}: too many asks are under way"])
            return
        self._served += 1

        def served(result: Any) -> None:
            self._served -= 1
            if isinstance(result, Failure):
                log.failure("control: {name}", failure=result, name=name)
                text = f"{name}: {type(result.value).__name__}: {result.getErrorMessage()}"
                self._answer([FAILED, number, text[:MAX_TEXT]])
            else:
                self._answer([ANSWER, number, result])

        maybeDeferred(serve, payload).addBoth(served)

    def _answer(self, message: list[Any]) -> None:
        try:
            self._send(message)
        except ControlLost:
            pass
        except ControlFailed as failure:
            if message[0] == ANSWER:
                # So that the asking end need not wait for its deadline.
                kind = BUSY if isinstance(failure, ControlBusy) else FAILED
                self._answer([kind, message[1], str(failure)[:MAX_TEXT]])
            else:
                log.warn("an answer was not sent: {why}", why=failure)

    # -- own asks --------------------------------------------------------------------------

    def _take(self, number: int) -> Deferred[Any] | None:
        """Forget an ask; nothing when it is over already."""
        found = self._asked.pop(number, None)
        if found is None:
            return None
        answer, deadline = found
        if deadline.active():
            deadline.cancel()
        return answer

    def _forget(self, number: int) -> None:
        self._take(number)

    def _answered(self, number: int, result: Any) -> None:
        answer = self._take(number)
        if answer is not None:
            answer.callback(result)

    def _overdue(self, number: int, name: str) -> None:
        answer = self._take(number)
        if answer is not None:
            answer.errback(ControlTimeout(f"{name}: no answer in time"))


def _failed(failure: ControlFailed) -> Deferred[Any]:
    answer: Deferred[Any] = Deferred()
    answer.errback(failure)
    return answer
