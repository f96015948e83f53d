"""Who lives in a session that stateless requests share, and what the server asks of them."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from attrs import define, frozen
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.upstream.link import Call, Id, Message, UpstreamFailure

log = Logger()
One = TypeVar("One")


def tell_each(all: Iterable[One], tell: Callable[[One], object]) -> None:
    """Tell each of those there are now; what goes wrong with one is logged and harms no other."""
    for one in tuple(all):
        try:
            tell(one)
        except Exception:
            log.failure("somebody could not be told")


@frozen
class ResidenceBounds:
    """What one session may keep waiting; times in seconds."""

    waiting: int
    """Questions that belong to no request."""
    waiting_secs: float
    """How long they wait for the next request whose client can be asked."""
    ping_secs: float
    """A session that only listens is used this often, so that nobody takes it for abandoned."""


@define(eq=False)
class Asked:
    """A server's request on its way to the client; settled once, by the `residence.Residence`."""

    id: Id
    """The server's."""
    entry: Message
    """As the client gets it."""
    size: int
    related: bool
    """Whether the transport told whose it is."""
    settled: bool = False
    timer: IDelayedCall | None = None


class Lodger(Protocol):
    """A request that runs in the session."""

    @property
    def log_level(self) -> int | None:
        """The least severe level it wants log messages of; None for none."""
        ...

    @property
    def hears_logs(self) -> bool:
        """Whether a log message of no known request may be its own."""
        ...

    @property
    def under_way(self) -> bool:
        """Whether the server works on it."""
        ...

    @property
    def may_be_asked(self) -> bool:
        """Whether its answer may be a question (2026-07-28: three methods only)."""
        ...

    @property
    def parked(self) -> bool:
        """Whether its client has been asked and is not back yet."""
        ...

    def is_call(self, call: Call) -> bool:
        """Whether this is its running request."""
        ...

    def ask(self, asked: Asked) -> None:
        """Put a question to its client."""
        ...

    def withdraw(self, id: Id) -> Asked | None:
        """Take one of its questions back, by the server's id."""
        ...

    def log(self, message: Message) -> None:
        """Hear a log message."""
        ...

    def lost(self, failure: UpstreamFailure) -> None:
        """The session is gone."""
        ...


class Hearer(Protocol):
    """A listen that is fed by the session."""

    def hear(self, message: Message) -> None:
        """A notification of a change."""
        ...

    def lost(self) -> None:
        """The session is gone."""
        ...
