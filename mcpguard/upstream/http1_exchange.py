"""One HTTP request on its way, from `Http1Wire.send` to its end."""

from typing import TYPE_CHECKING, Protocol

from attrs import define, field
from twisted.logger import Logger

from mcpguard.upstream.link import UpstreamFailure
from mcpguard.upstream.wire import Receiver

if TYPE_CHECKING:
    from mcpguard.upstream.http1_connection import Http1Connection

log = Logger()


class Keeper(Protocol):
    """The pool, as its connections and exchanges see it."""

    def rest(self, connection: "Http1Connection") -> None:
        """An answer is complete; the connection can carry the next request."""
        ...

    def gone(self, connection: "Http1Connection") -> None:
        """The connection carries nothing any more."""
        ...

    def given_up(self, exchange: "Http1Exchange") -> None:
        """An exchange that waits for a connection was aborted."""
        ...

    def over(self, exchange: "Http1Exchange") -> None:
        """The exchange of a GET has ended, one way or another."""
        ...


@define(eq=False, repr=False)
class Http1Exchange:
    """Implements `wire.Exchange`."""

    keeper: Keeper
    receiver: Receiver | None
    """None once nothing more may be told."""
    request: bytes
    """Until it is sent."""
    stream: bool
    """It is a GET, whose answer may go on for ever."""
    sent: bool = field(init=False, default=False)
    deadline: float = field(init=False, default=0.0)
    """Until when it may wait for a connection."""
    connection: "Http1Connection | None" = field(init=False, default=None)

    def abort(self) -> None:
        """See `wire.Exchange`."""
        if self.receiver is None:
            return
        connection = self.connection
        self.finish()
        if connection is not None:
            connection.cut()
        else:
            self.keeper.given_up(self)

    def finish(self) -> Receiver | None:
        """End it; gives who is to be told, None when there is nobody."""
        receiver, self.receiver = self.receiver, None
        self.connection = None
        self.request = b""
        if self.stream and receiver is not None:
            self.keeper.over(self)
        return receiver

    def lose(self, failure: UpstreamFailure) -> None:
        """End it with a failure."""
        receiver = self.finish()
        if receiver is not None:
            tell_loss(receiver, failure)


def tell_loss(receiver: Receiver, failure: UpstreamFailure) -> None:
    """Tell of a loss whoever does not expect to be the cause of another."""
    try:
        receiver.lost(failure)
    except Exception:
        log.failure("telling of a lost HTTP answer")
