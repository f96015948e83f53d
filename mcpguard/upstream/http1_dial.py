"""One attempt to open a connection that HTTP/1.1 can be spoken on."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from mcpguard.upstream.egress import Endpoint
from mcpguard.upstream.http1_connection import Http1Connection


class _OneConnection(Factory):
    """Builds the one connection that a dialling ends in."""

    noisy = False

    def __init__(self, build: Callable[[], Http1Connection]) -> None:
        self._build: Callable[[], Http1Connection] | None = build

    def buildProtocol(  # type: ignore[override]
        self, addr: IAddress | None
    ) -> Http1Connection | None:
        # The connection keeps its factory, which must not keep the dialling.
        build, self._build = self._build, None
        return None if build is None else build()


@define(eq=False, repr=False)
class Dial:
    """Dials, and over TLS shakes hands; then ``opened`` or ``failed`` is called once.

    Neither is called after `cancel`. The endpoint bounds the dialling; ``handshake_secs`` what
    comes after it.
    """

    endpoint: Endpoint
    clock: IReactorTime
    handshake_secs: float
    build: "Callable[[Dial], Http1Connection]"
    opened: "Callable[[Dial, Http1Connection], None]"
    failed: "Callable[[Dial, Failure], None]"
    _attempt: Deferred[Any] | None = field(init=False, default=None)
    _connection: Http1Connection | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _over: bool = field(init=False, default=False)

    def start(self) -> None:
        """Begin; what comes of it may be known before this returns."""
        attempt = self.endpoint.connect(_OneConnection(self._made))
        if not self._over:
            self._attempt = attempt
        attempt.addCallbacks(self._dialled, self.unusable)

    def cancel(self) -> None:
        """Stop it."""
        connection, attempt = self._connection, self._attempt
        if self._end():
            if connection is not None:
                connection.cut()
            if attempt is not None:
                attempt.cancel()

    # http1_connection.Dialler

    def usable(self, connection: Http1Connection) -> None:
        """See `http1_connection.Dialler`."""
        if self._end():
            self.opened(self, connection)

    def unusable(self, failure: Failure) -> None:
        """See `http1_connection.Dialler`."""
        if self._end():
            self.failed(self, failure)

    # inside

    def _made(self) -> Http1Connection:
        connection = self.build(self)
        if self._over:
            connection.cut()
        else:
            self._connection = connection
        return connection

    def _dialled(self, _: object) -> None:
        if not self._over:
            self._timer = self.clock.callLater(self.handshake_secs, self._stalled)

    def _stalled(self) -> None:
        self._timer = None
        if self._connection is not None:
            self._connection.cut()
        self.unusable(Failure(ConnectTimeout()))

    def _end(self) -> bool:
        """Whether this is the end."""
        if self._over:
            return False
        self._over = True
        self._attempt = self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True
