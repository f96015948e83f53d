"""A worker's view of the others: whose a session is, and the way its connection goes there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from attrs import define, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.front.handover import Outcome, Parcel
from mcpguard.ops.workers.mail import Here, Letter, Line, Mailbox, Posted, Sent, mail_path, written
from mcpguard.ops.workers.passport import packed
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.protocol.ownership import place_of

_log = Logger()

_OUTCOMES = {
    Posted.SENT: Outcome.SENT,
    Posted.ABSENT: Outcome.GONE,
    Posted.FULL: Outcome.BUSY,
    Posted.IMPOSSIBLE: Outcome.BUSY,
}


@frozen
class SwitchboardBounds:
    """What may be on its way between two workers."""

    inline_bytes: int
    """What a client has sent travels in the letter up to here, in a file beyond."""
    unread_bytes: int
    """Of one connection: the largest request, and what can follow it."""
    waiting: int
    """Connections for a worker that does not read, of each worker."""
    waiting_secs: float
    batch: int
    """Connections taken in one turn of the reactor."""


@define(eq=False)
class _Forwarded(Letter):
    """A connection on its way to the owner of its session."""

    owner: int
    passed: int = 0
    """How many workers, from the owner on, are not there."""
    line: Line | None = None
    """Where it waits."""
    deadline: IDelayedCall | None = None
    done: Deferred[Outcome] | None = None


class Switchboard:
    """Implements `handover.Colleagues`.

    Where the owner of a session is gone the next number stands in for it, in the same order for
    everybody: so what can be taken up again is taken up in one place.

    Args:
        directory: private (mode 0700), and the same for all workers.
        number: this worker's place, 1 to ``workers``.
        deliver: is given connections that are this worker's now, with their descriptor.
        on_return: told the number of a worker that has begun, so that what was taken up in its
            place can be left to it.
    """

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        number: int,
        workers: int,
        bounds: SwitchboardBounds,
        deliver: Callable[[int, Parcel], None],
        on_return: Callable[[int], None],
    ) -> None:
        self.number = number
        self.workers = workers
        self._reactor = reactor
        self._path = mail_path(directory, number)
        self._bounds = bounds
        self._deliver = deliver
        self._on_return = on_return
        self._open = False
        self._lines = {
            other: Line(reactor, mail_path(directory, other), self._settled)
            for other in range(1, workers + 1)
            if other != number
        }
        self._mailbox = Mailbox(
            reactor,
            batch=bounds.batch,
            inline=bounds.inline_bytes,
            max_bytes=bounds.unread_bytes,
            on_here=self._returned,
            on_sent=self._arrived,
        )

    @property
    def passes_on(self) -> bool:
        """Whether connections can leave now."""
        return self._open

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Take this place, and let the others know; raises OSError."""
        self._mailbox.open(self._path)
        self._open = True
        here = msgspec.msgpack.encode(Here(self.number))
        for line in self._lines.values():
            letter = Letter(here, ())
            if line.post(letter) is Posted.FULL:
                line.wait(letter)

    def retire(self) -> None:
        """Take what was sent here, and nothing from then on; what comes is still passed on."""
        self._mailbox.close()

    def stop(self) -> None:
        """Pass nothing on any more either; what waits stays where it is."""
        if not self._open:
            return
        self.retire()
        self._open = False
        for line in self._lines.values():
            for letter in line.renew():
                self._settled(letter, Posted.ABSENT)

    # -- Colleagues ------------------------------------------------------------------------

    def owner_of(self, token: str) -> int | None:
        """See `handover.Colleagues`."""
        place = place_of(token, self.workers)
        return None if place == self.number or not self._open else place

    def send(self, owner: int, parcel: Parcel, descriptor: int) -> Deferred[Outcome]:
        """See `handover.Colleagues`."""
        descriptors = [descriptor]
        try:
            passport = b"" if parcel.certificate is None else packed(parcel.certificate)
            data = passport + parcel.unread
            unread: bytes | int = data
            if len(data) > self._bounds.inline_bytes:
                unread = len(data)
                descriptors.append(written(data))
        except (OSError, ValueError):
            _log.failure("a connection cannot be passed on")
            return succeed(Outcome.BUSY)
        sent = Sent(parcel.peer, parcel.host, parcel.direct, unread, len(passport))
        letter = _Forwarded(msgspec.msgpack.encode(sent), descriptors, owner)
        outcome: Deferred[Outcome] = Deferred(lambda _: self._end(letter, None))
        letter.done = outcome
        self._route(letter)
        return outcome

    # -- letters ---------------------------------------------------------------------------

    def _route(self, letter: _Forwarded) -> None:
        """Send a connection to its owner, or the first one there is after it; not to ourselves."""
        while self._open and letter.passed < self.workers:
            place = (letter.owner - 1 + letter.passed) % self.workers + 1
            if place == self.number:
                break
            line = self._lines[place]
            posted = line.post(letter)
            if posted is Posted.FULL and len(line) < self._bounds.waiting:
                self._wait(letter, line)
                return
            if posted is not Posted.ABSENT:
                self._end(letter, _OUTCOMES[posted])
                return
            letter.passed += 1
        self._end(letter, Outcome.GONE)

    def _wait(self, letter: _Forwarded, line: Line) -> None:
        letter.line = line
        line.wait(letter)
        if letter.deadline is None:
            secs = self._bounds.waiting_secs
            letter.deadline = self._reactor.callLater(secs, self._end, letter, Outcome.BUSY)

    def _settled(self, letter: Letter, posted: Posted) -> None:
        """What became of one that waited."""
        if not isinstance(letter, _Forwarded):
            return
        if posted is Posted.ABSENT:
            letter.passed += 1
            self._route(letter)
        else:
            self._end(letter, _OUTCOMES[posted])

    def _end(self, letter: _Forwarded, outcome: Outcome | None) -> None:
        """It is sent, cannot be, or (None) is wanted no more."""
        if letter.deadline is not None and letter.deadline.active():
            letter.deadline.cancel()
        if letter.line is not None:
            letter.line.drop(letter)
        for descriptor in letter.descriptors[1:]:
            os.close(descriptor)
        if outcome is not None and letter.done is not None:
            letter.done.callback(outcome)

    # -- what arrives ----------------------------------------------------------------------

    def _arrived(
        self, descriptor: int, sent: Sent, unread: bytes, certificate: PeerCertificate | None
    ) -> None:
        parcel = Parcel(sent.peer, sent.host, sent.direct, unread, certificate)
        self._deliver(descriptor, parcel)

    def _returned(self, number: int) -> None:
        line = self._lines.get(number)
        if line is None:
            return
        for letter in line.renew():
            if isinstance(letter, _Forwarded):
                self._route(letter)
        self._on_return(number)
