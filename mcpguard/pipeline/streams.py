"""Answers on their way to a client: JSON or an event stream, decided as late as possible.

Once an event stream is open its status is 200 for good, so the decision waits for the first
message (2026-07-28 Streamable HTTP: an error before that must carry its own HTTP status).
"""

from collections.abc import Callable
from typing import Protocol

from attrs import Factory, define, field, frozen
from twisted.internet.interfaces import IDelayedCall

from mcpguard.front.exchange import Headers, Outlet
from mcpguard.protocol.jsonrpc import encode
from mcpguard.protocol.sse import encode_event
from mcpguard.upstream.link import Message

JSON_TYPE = ("Content-Type", "application/json")
STREAM_TYPE = ("Content-Type", "text/event-stream")


@frozen
class Logged:
    """One event kept for replay."""

    stream: int
    seq: int
    data: bytes


@define
class ReplayLog:
    """The last events of one session's streams, so that a client can resume; both bounds hold."""

    max_events: int
    max_bytes: int
    _events: list[Logged] = field(init=False, factory=list)
    """Mostly empty: a deque takes 0.7 KiB for nothing, and there is one for each session."""
    _bytes: int = field(init=False, default=0)

    def append(self, stream: int, seq: int, data: bytes) -> None:
        """Keep one event, dropping the oldest ones beyond the bounds."""
        self._events.append(Logged(stream, seq, data))
        self._bytes += len(data)
        while self._events and (
            len(self._events) > self.max_events or self._bytes > self.max_bytes
        ):
            self._bytes -= len(self._events.pop(0).data)

    def after(self, stream: int, seq: int) -> list[Logged]:
        """The kept events of one stream that came later than ``seq``."""
        return [one for one in self._events if one.stream == stream and one.seq > seq]

    def forget(self, stream: int) -> None:
        """Drop what is kept of one stream."""
        self._events = kept = [one for one in self._events if one.stream != stream]
        self._bytes = sum(len(one.data) for one in kept)

    def __len__(self) -> int:
        return len(self._events)


def parse_event_id(text: str) -> tuple[int, int] | None:
    """``stream-seq`` of a ``Last-Event-ID``; None when it is none of ours."""
    stream, dash, seq = text.partition("-")
    if not dash or not (stream.isascii() and stream.isdigit()):
        return None
    if not (seq.isascii() and seq.isdigit()) or len(text) > 40:
        return None
    return int(stream), int(seq)


def stop_timer(timer: IDelayedCall | None) -> None:
    """Stop a timer, if there is one that still runs."""
    if timer is not None and timer.active():
        timer.cancel()


@define(eq=False)
class EventStream:
    """One logical event stream of a session; its connection may come and go."""

    number: int
    log: ReplayLog
    ended: bool = False
    first: int = 0
    """What its events are numbered from."""
    _seq: int = field(init=False, default=Factory(lambda self: self.first, takes_self=True))
    _outlet: Outlet | None = field(init=False, default=None)
    _cutting: IDelayedCall | None = field(init=False, default=None)

    @property
    def attached(self) -> bool:
        """True while a client is reading."""
        return self._outlet is not None and not self._outlet.gone

    def attach(self, outlet: Outlet, headers: Headers, *, prime: bool, after: int | None) -> None:
        """Send the stream to this connection from now on, first what it missed after ``after``.

        ``prime`` sends the empty event with an id that lets a 2025-11-25 client resume from the
        start; older clients would take its empty data for a broken message.
        """
        if self._outlet is not None and not self._outlet.gone:
            self._outlet.finish()
        stop_timer(self._cutting)
        self._outlet = outlet
        outlet.open(200, [STREAM_TYPE, *headers])
        if after is not None:
            for one in self.log.after(self.number, after):
                outlet.write(encode_event(one.data, id=f"{self.number}-{one.seq}"))
            if self.ended:
                outlet.finish()
        elif prime:
            outlet.write(encode_event(b"", id=f"{self.number}-{self._seq}"))

    def send(self, message: Message) -> None:
        """Write one message, and keep it for a client that resumes."""
        data = encode(message)
        self._seq += 1
        self.log.append(self.number, self._seq, data)
        if self._outlet is not None and not self._outlet.gone:
            self._outlet.write(encode_event(data, id=f"{self.number}-{self._seq}"))

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        stop_timer(self._cutting)
        if self._outlet is not None and not self._outlet.gone:
            self._outlet.finish()

    def cut_by(self, timer: IDelayedCall) -> None:
        """Stop ``timer``, which ends the present connection, once that one is over anyway."""
        self._cutting = timer


class Reply(Protocol):
    """How the answer to one request, and what comes in its course, reaches the client."""

    outlet: Outlet
    """The connection that carries it."""
    may_stream: bool
    """Whether anything may be sent before the answer."""
    streaming: bool
    """True once an error can only be an event of the stream that `end` writes to."""
    ended: bool
    resumable: EventStream | None
    """The session's stream that carries it, where there is one."""
    opening: Callable[[], bool] | None
    """Asked before a stream is opened for it: whether that may be, else it is one answer."""

    @property
    def reachable(self) -> bool:
        """Whether a message sent now reaches the client at once."""
        ...

    def commit(self) -> None:
        """Show life: the client has waited long."""
        ...

    def send(self, message: Message) -> bool:
        """Send a notification or server request before the answer; False if it cannot go."""
        ...

    def end(self, message: Message, status: int = 200) -> int:
        """Send the final response; returns the HTTP status the client saw."""
        ...

    def abandon(self) -> None:
        """End without a response, as a cancelled request does."""
        ...

    def part(self) -> bool:
        """Close the connection if the client knows that it may come back for the rest."""
        ...


@define(eq=False)
class PostAnswer:
    """The answer to one POSTed request: one JSON object, or a stream that ends with it."""

    outlet: Outlet
    headers: Callable[[], Headers]
    may_stream: bool
    """Whether the client accepts an event stream."""
    new_stream: Callable[[], EventStream] | None = None
    """Makes the session's stream that this answer uses if it streams; None: not resumable."""
    prime: bool = False
    opening: Callable[[], bool] | None = None
    resumable: EventStream | None = field(init=False, default=None)
    streaming: bool = field(init=False, default=False)
    ended: bool = field(init=False, default=False)

    @property
    def reachable(self) -> bool:
        """Whether a message sent now reaches the client at once."""
        if self.ended or not self.may_stream:
            return False
        if self.streaming and self.resumable is not None:
            return self.resumable.attached
        return not self.outlet.gone

    def commit(self) -> None:
        """Open the event stream now (a message is due, or the client has waited long)."""
        if self.streaming or self.ended or not self.may_stream:
            return
        if self.opening is not None and not self.opening():
            self.may_stream = False
            return
        self.streaming = True
        if self.new_stream is not None:
            self.resumable = self.new_stream()
            self.resumable.attach(self.outlet, self.headers(), prime=self.prime, after=None)
        else:
            self.outlet.open(200, [STREAM_TYPE, *self.headers()])

    def send(self, message: Message) -> bool:
        """Send a notification or server request before the answer; False if it cannot go."""
        if self.ended or not self.may_stream:
            return False
        self.commit()
        if not self.streaming:
            return False
        if self.resumable is not None:
            self.resumable.send(message)
        else:
            self.outlet.write(encode_event(encode(message)))
        return True

    def end(self, message: Message, status: int = 200) -> int:
        """Send the final response; returns the HTTP status the client saw."""
        if self.ended:
            return status
        if self.streaming:
            self.send(message)
            self._close()
            return 200
        self.ended = True
        self.outlet.answer(status, [JSON_TYPE, *self.headers()], encode(message))
        return status

    def abandon(self) -> None:
        """End without a response, as a cancelled request does."""
        if self.ended:
            return
        self.prime = False
        self.commit()
        if self.streaming:
            self._close()
        else:
            self.ended = True
            self.outlet.answer(202, self.headers(), b"")

    def part(self) -> bool:
        """Close the connection if the client knows that it may come back for the rest.

        Only a primed one does: others have no event to name, or wait for ever (SDKs, observed).
        """
        if not self.streaming or self.resumable is None or not self.prime:
            return False
        if not self.outlet.gone:
            self.outlet.finish()
        return True

    def _close(self) -> None:
        self.ended = True
        if self.resumable is not None:
            self.resumable.end()
        else:
            self.outlet.finish()
