"""What a listener makes of a stream of bytes, in a form that can be compared."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from attrs import field, frozen
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from mcpguard.front.exchange import Incoming
from tests.doubles import RecordingCorridor
from tests.front.wire import SMALL, Client, Listener

_HEAD = re.compile(rb"HTTP/1\.1 \d{3} [^\r\n]*\r\n((?:[!-~]+: ?[^\r\n]*\r\n)*)\r\n")


@frozen
class Outcome:
    """Everything that can be told apart from outside, and what is left behind."""

    received: bytes
    """All answers; the lines of each head in one order."""
    handled: list[Any] = field(repr=False)
    refused: list[Any] = field(repr=False)
    screened: int
    dropped: list[str]
    ending: tuple[bool, bool, bool, bool]
    """Lost, half closed, aborted, disconnecting."""
    connections: int
    bodies: int
    answers: int
    calls: int


def _plain(incoming: Incoming) -> tuple[Any, ...]:
    """What has to be equal of a request: all but the length, which its body shows."""
    headers = {name: value for name, value in incoming.headers.items() if name != "content-length"}
    return (
        *(incoming.request_id, incoming.method, incoming.path, incoming.query, headers),
        *(incoming.body, incoming.peer, incoming.received_at, incoming.local_port),
    )


@lru_cache(maxsize=8)  # most outcomes of one connection have received the same
def in_one_order(received: bytes) -> bytes:
    """The same answers, the fields of each sorted."""

    def by_name(match: re.Match[bytes]) -> bytes:
        fields = match[1]
        return match[0].replace(fields, b"\r\n".join(sorted(fields.split(b"\r\n"))))

    return _HEAD.sub(by_name, received)


def feed(client: Client, pieces: Sequence[bytes]) -> None:
    """Send the pieces, each only while the gateway reads; what it will not read is never sent."""
    for piece in pieces:
        if client.transport.producerState == "paused" or client.transport.lost:
            return
        client.send(piece)


def outcome(listener: Listener, client: Client) -> Outcome:
    """How things stand."""
    transport, corridor = client.transport, listener.corridor
    return Outcome(
        received=in_one_order(client.received()),
        handled=[_plain(incoming) for incoming, _ in corridor.handled],
        refused=[(_plain(incoming), refusal) for incoming, refusal in corridor.refused],
        screened=len(corridor.screened),
        dropped=list(listener.dropped),
        ending=(
            transport.lost,
            transport.half_closed,
            transport.aborted,
            bool(transport.disconnecting),
        ),
        connections=listener.site.connections,
        bodies=listener.site.bodies.held,
        answers=listener.site.answers.held,
        calls=len(listener.clock.getDelayedCalls()),
    )


def _pass_time(listener: Listener, seconds: float, *, finely: bool) -> None:
    """Let time pass; in a few steps, or so that everything that is due is done at its time."""
    if finely:
        listener.pass_time(seconds)
    else:
        listener.clock.pump([seconds / 4] * 4)


def replay(
    fast: bool, pieces: Sequence[bytes], *, finely: bool = False, **more: Any
) -> list[Outcome]:
    """Send the pieces; gives how things stand then, after every deadline, and without client.

    ``finely``: no deadline is noticed later than the gateway would.
    """
    listener = Listener(fast=fast, limits=more.pop("limits", SMALL), **more)
    client = listener.connect()
    feed(client, pieces)
    outcomes = [outcome(listener, client)]
    for seconds in (11, 21, 61):
        _pass_time(listener, seconds, finely=finely)
        outcomes.append(outcome(listener, client))
    client.transport.lose(Failure(ConnectionDone()))
    outcomes.append(outcome(listener, client))
    return outcomes


def replay_held(
    fast: bool, pieces: Sequence[bytes], body: bytes = b"late", *, finely: bool = False
) -> list[Outcome]:
    """The same with answers that come later, the first only when everything was sent."""
    corridor = RecordingCorridor(hold=True)
    listener = Listener(fast=fast, corridor=corridor)
    client = listener.connect()
    feed(client, pieces)
    outcomes = [outcome(listener, client)]
    answered = 0
    while answered < len(corridor.handled):
        _, outlet = corridor.handled[answered]
        answered += 1
        if answered % 2:
            outlet.answer(200, (("X-Turn", str(answered)),), body)
        else:
            outlet.open(200, (("Content-Type", "text/event-stream"),))
            outlet.write(b"data: %b\n\n" % body)
            outlet.finish()
        outcomes.append(outcome(listener, client))
    _pass_time(listener, 70, finely=finely)
    client.transport.lose(Failure(ConnectionDone()))
    outcomes.append(outcome(listener, client))
    return outcomes
