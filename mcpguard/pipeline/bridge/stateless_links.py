"""Stateless clients before a handshake-era server (mcp-requirements 8.8 A)."""

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mcpguard.errors import INVALID_PARAMS, Reason
from mcpguard.observe.events import Meter
from mcpguard.pipeline.bridge.borrowed_call import OverCall
from mcpguard.pipeline.bridge.lodging import ResidenceBounds, tell_each
from mcpguard.pipeline.bridge.parking import ParkingBounds, ParkingLot
from mcpguard.pipeline.bridge.residence import Residences
from mcpguard.pipeline.bridge.stateless_call import StatelessCall
from mcpguard.pipeline.bridge.stateless_listen import ListenPace, StatelessListen
from mcpguard.pipeline.pool import SessionPool
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Link,
    Message,
    Outbound,
    Upstream,
    UpstreamFailure,
)

LISTEN = "subscriptions/listen"
STATE = "requestState"
RETRY_SECS = 5.0


@frozen
class StatelessBounds:
    """Every bound of the bridge for stateless clients, of one upstream."""

    parking: ParkingBounds
    residence: ResidenceBounds
    pace: ListenPace
    gather_secs: float
    """Questions that come within this after another are put to a client together."""
    linger_secs: float
    """How long the answer to a request that wants log messages waits for those that its server
    sent before, on another stream (Streamable HTTP)."""
    listens: int
    """Open at once, of all principals."""


@define(eq=False)
class StatelessLinks:
    """The stateless side of one upstream that has sessions only.

    ``new_token`` gives words nobody can guess, ``random`` is uniform in [0, 1). The pool belongs
    to this upstream alone: `end_all` ends it.
    """

    inner: Upstream
    pool: SessionPool
    clock: IReactorTime
    meter: Meter
    random: Callable[[], float]
    new_token: Callable[[], str]
    bounds: StatelessBounds
    lot: ParkingLot = field(init=False)
    residences: Residences = field(init=False)
    _calls: dict[StatelessCall, None] = field(init=False, factory=dict)
    _listens: dict[StatelessListen, None] = field(init=False, factory=dict)
    _ended: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.lot = ParkingLot(self.bounds.parking, self.clock, self.new_token)
        self.residences = Residences(
            self.inner, self.pool, self.lot, self.clock, self.meter, self.bounds.residence
        )

    def link(self, principal_key: str, path: str) -> Link:
        """A link for the stateless requests of one principal; closing it ends nothing."""
        return StatelessLink(self, principal_key, path)

    def sweep(self) -> None:
        """Close the sessions that idled too long, and use those that only listen."""
        self.pool.sweep()
        self.residences.ping()

    def end_all(self) -> Deferred[None]:
        """End every call, listen and session; fires when the links are closed."""
        self._ended = True
        stopped = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        tell_each(self._calls, lambda call: call.end(stopped))
        tell_each(self._listens, lambda listen: listen.end())
        return self.pool.end_all()

    def send(self, path: str, outbound: Outbound, sink: CallSink) -> Call:
        """Send one stateless request of a client."""
        if self._ended:
            return refused(sink, UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "it is stopped"))
        if outbound.method == LISTEN:
            return self._listen(path, outbound, sink)
        state = (outbound.params or {}).get(STATE)
        if state is not None:
            return self._resume(state, path, outbound, sink)
        call = StatelessCall(
            self.lot,
            self.clock,
            self.bounds.gather_secs,
            self.bounds.linger_secs if self.inner.transport == "http" else 0.0,
            path,
            outbound,
            self._call_over,
        )
        self._calls[call] = None
        return call.begin(self.residences, sink)

    def _resume(self, state: object, path: str, outbound: Outbound, sink: CallSink) -> Call:
        """Go on with a parked call, if it is this principal's and the same request."""
        call = self.lot.find(state, outbound.principal_key)
        if isinstance(call, StatelessCall) and call.path == path and call.method == outbound.method:
            return call.resume(outbound, sink)
        error: Message = {
            "code": INVALID_PARAMS,
            "message": "The requestState is unknown, or its time is over",
        }
        sink.answer({"jsonrpc": "2.0", "id": outbound.id, "error": error})
        return OverCall()

    def _listen(self, path: str, outbound: Outbound, sink: CallSink) -> Call:
        if len(self._listens) >= self.bounds.listens:
            busy = UpstreamFailure(Reason.OVERLOADED, "too many listens", RETRY_SECS)
            return refused(sink, busy)
        listen = StatelessListen(
            self.residences,
            self.clock,
            self.random,
            self.bounds.pace,
            path,
            outbound,
            sink,
            self._listen_over,
        )
        self._listens[listen] = None
        return listen.begin()

    def _call_over(self, call: StatelessCall) -> None:
        self._calls.pop(call, None)

    def _listen_over(self, listen: StatelessListen) -> None:
        self._listens.pop(listen, None)


@frozen(eq=False)
class StatelessLink:
    """Implements `link.Link` for one principal."""

    links: StatelessLinks
    principal_key: str
    path: str

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """See `link.Link`; what belongs to another principal is refused."""
        if outbound.principal_key != self.principal_key:
            return refused(sink, UpstreamFailure(Reason.INTERNAL, "a foreign principal's link"))
        return self.links.send(self.path, outbound, sink)

    def notify(self, method: str, params: Message | None) -> None:
        """See `link.Link`; the stateless era has no notifications of clients."""

    def respond(self, message: Message) -> None:
        """See `link.Link`; the stateless era has no responses of clients."""

    def close(self) -> Deferred[None]:
        """See `link.Link`; what is parked stays, for its client's next request."""
        return succeed(None)


def refused(sink: CallSink, failure: UpstreamFailure) -> Call:
    """Fail a request at once."""
    sink.failed(failure)
    return OverCall()
