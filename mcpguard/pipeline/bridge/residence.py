"""One pooled session of a handshake-era server, and the stateless requests that live in it."""

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mcpguard.errors import INTERNAL_ERROR, Reason
from mcpguard.observe.events import Meter
from mcpguard.pipeline.bridge.lodging import Asked, Hearer, Lodger, ResidenceBounds, tell_each
from mcpguard.pipeline.bridge.parking import ParkingLot
from mcpguard.pipeline.bridge.subscriptions import Subscriptions
from mcpguard.pipeline.dispatch import STRAYS
from mcpguard.pipeline.pool import PooledSession, SessionPool
from mcpguard.pipeline.schemas import OneAnswer
from mcpguard.pipeline.streams import stop_timer
from mcpguard.protocol.bridge.handshake import LOG_LEVELS
from mcpguard.protocol.bridge.listening import LIST_CHANGES, UPDATED
from mcpguard.protocol.bridge.stateless import Problem, question, question_problem, response
from mcpguard.protocol.jsonrpc import encode
from mcpguard.upstream.link import (
    Call,
    CallSink,
    Id,
    Message,
    Outbound,
    Upstream,
    UpstreamFailure,
)

log = Logger()

LOGGED = "notifications/message"
_WITHDRAWN = "notifications/cancelled"
_UNUSED = frozenset({"notifications/elicitation/complete", "notifications/progress"})
"""Nothing of the stateless era, and progress of a request that is over."""


@define(eq=False)
class Residence:
    """What goes on in one pooled session; is its `Inbox`, and `Attended`."""

    principal_key: str
    server: str
    session: PooledSession
    pool: SessionPool
    lot: ParkingLot
    clock: IReactorTime
    meter: Meter
    bounds: ResidenceBounds
    over: bool = field(init=False, default=False)
    subscriptions: Subscriptions = field(init=False)
    _lodgers: list[Lodger] = field(init=False, factory=list)
    """In order of start."""
    _hearers: dict[Hearer, None] = field(init=False, factory=dict)
    _waiting: list[Asked] = field(init=False, factory=list)
    _levels: DeferredLock = field(init=False, factory=DeferredLock)
    _level: int | None = field(init=False, default=None)
    _silence: UpstreamFailure | None = field(init=False, default=None)
    """What the latest try to set the level that had no answer in time has come to."""

    def __attrs_post_init__(self) -> None:
        self.subscriptions = Subscriptions(lambda method, uri: self.query(method, {"uri": uri}))

    @property
    def initialized(self) -> Message:
        """The server's answer to ``initialize``."""
        return self.session.result

    @property
    def server_capabilities(self) -> Message:
        """What the server said that it can do."""
        given = self.initialized.get("capabilities")
        return given if isinstance(given, dict) else {}

    # -- who lives here --------------------------------------------------------------------

    def enter(self, lodger: Lodger) -> None:
        """A request begins; the session was borrowed for it."""
        self._lodgers.append(lodger)

    def leave(self, lodger: Lodger, open_questions: list[Asked], *, answered: bool) -> None:
        """A request is over; what it still had to ask goes to another one or is refused.

        The server answered it without waiting for those: so they may have been another's. They
        are no more when the request was given up.
        """
        if lodger in self._lodgers:
            self._lodgers.remove(lodger)
            self.pool.give_back(self.session)
        for asked in open_questions:
            if asked.settled:
                # By the very answer that the server has ended the request at.
                continue
            if answered and not asked.related and not self.over:
                self._attribute(asked, None)
            else:
                self.refuse(asked, "The request it belongs to is over")

    def listen(self, hearer: Hearer) -> None:
        """A listen begins; the session was borrowed for it."""
        self._hearers[hearer] = None

    def unlisten(self, hearer: Hearer) -> None:
        """A listen is fed from here no more."""
        if hearer in self._hearers:
            del self._hearers[hearer]
            self.pool.give_back(self.session)

    @property
    def attended(self) -> bool:
        """See `link.Attended`."""
        return bool(self._hearers)

    # -- what is said to the server --------------------------------------------------------

    def request(self, message: Message, related: Call | None) -> None:
        """See `link.Inbox`: put it to the client of the request it belongs to."""
        if message.get("method") == "ping":
            self._respond({"jsonrpc": "2.0", "id": message["id"], "result": {}})
            return
        problem = question_problem(message, self.session.capabilities)
        if problem is not None:
            self._refuse(message["id"], problem)
            return
        entry = question(message["method"], message.get("params"))
        asked = Asked(message["id"], entry, len(encode(entry)), related is not None)
        if not self.lot.keep(self.principal_key, asked.size):
            self._refuse(asked.id, Problem(INTERNAL_ERROR, "Too much waits for clients"))
            return
        self._attribute(asked, related)

    def settle(self, asked: Asked, given: object) -> bool:
        """Pass a client's answer on; False when it is none."""
        message = response(asked.id, given)
        if message is not None and self._drop(asked):
            self._respond(message)
        return message is not None

    def refuse(self, asked: Asked, text: str) -> None:
        """Tell the server that it gets no answer."""
        if self._drop(asked):
            self._refuse(asked.id, Problem(INTERNAL_ERROR, text))

    def adopt(self, most: int) -> list[Asked]:
        """The questions that belong to no request, for one whose client can be asked."""
        adopted, self._waiting = self._waiting[:most], self._waiting[most:]
        for asked in adopted:
            stop_timer(asked.timer)
        return adopted

    def query(self, method: str, params: Message | None) -> Deferred[Message]:
        """A request of the gateway's own; errbacks with `UpstreamFailure`."""
        sink = OneAnswer()
        self.send(Outbound("mg", method, params, "", self.principal_key), sink)
        return sink.done

    def send(self, outbound: Outbound, sink: CallSink) -> Call:
        """Send a request on the session."""
        assert self.session.link is not None
        return self.session.link.request(outbound, sink)

    async def hear_from(self, level: int | None) -> None:
        """See to it that the server sends log messages from this level on.

        It never sends less than before: whoever wants less of it is told less of it here. Raises
        `UpstreamFailure` when the server does not answer in time: who waits meanwhile does not
        wait for it again.
        """
        if level is None or "logging" not in self.server_capabilities:
            return
        silence = self._silence
        async with self._levels:
            if self.over or (self._level is not None and self._level <= level):
                return
            if self._silence is not None and self._silence is not silence:
                raise self._silence
            try:
                await self.query("logging/setLevel", {"level": LOG_LEVELS[level]})
            except UpstreamFailure as failure:
                if failure.reason is Reason.UPSTREAM_TIMEOUT:
                    self._silence = failure
                    raise
                log.info("the log level was not set: {why}", why=failure)
                # If it was for the session being lost, that is told in this very turn.
                await deferLater(self.clock, 0)
            else:
                # Also when it was refused: there is nothing more to be had.
                self._level = level

    def ping(self) -> None:
        """Use the session if it only listens, and has for a while."""
        now = self.clock.seconds()
        quiet = now - self.session.last_used >= self.bounds.ping_secs
        if quiet and self._hearers and not self._lodgers:
            self.session.last_used = now
            # Whether it is alive its link finds out by itself.
            self.query("ping", None).addErrback(lambda failure: failure.trap(UpstreamFailure))

    def _respond(self, message: Message) -> None:
        if self.session.link is not None and not self.over:
            self.session.link.respond(message)

    def _refuse(self, id: Id, problem: Problem) -> None:
        error = {"code": problem.code, "message": problem.text}
        self._respond({"jsonrpc": "2.0", "id": id, "error": error})

    def _drop(self, asked: Asked) -> bool:
        """Forget a question; False when that was done before."""
        if asked.settled:
            return False
        asked.settled = True
        stop_timer(asked.timer)
        self.lot.drop(self.principal_key, asked.size)
        return True

    # -- whose it is -----------------------------------------------------------------------

    def _attribute(self, asked: Asked, related: Call | None) -> None:
        lodger = self._whose(related)
        if lodger is not None:
            lodger.ask(asked)
        elif related is None and len(self._waiting) < self.bounds.waiting:
            # Servers ask for the roots as soon as they are initialized, say. The next request
            # whose client can be asked takes it along.
            asked.timer = self.clock.callLater(self.bounds.waiting_secs, self._tired, asked)
            self._waiting.append(asked)
        else:
            self.refuse(asked, "No request that it belongs to")

    def _whose(self, related: Call | None) -> Lodger | None:
        """The request in whose course the server asks, as far as anybody can tell.

        All clients of the session declared the same, so none of them is a better choice for that.
        """
        able = [one for one in self._lodgers if one.may_be_asked and one.under_way]
        if related is not None:
            return next((one for one in able if one.is_call(related)), None)
        # One that is parked waits for an answer: hardly the one to ask for more.
        return next((one for one in reversed(able) if not one.parked), able[-1] if able else None)

    def _tired(self, asked: Asked) -> None:
        if asked in self._waiting:
            self._waiting.remove(asked)
        self.refuse(asked, "No client could be asked")

    # -- Inbox: what the server tells ------------------------------------------------------

    def notification(self, message: Message) -> None:
        """See `link.Inbox`."""
        method, params = message.get("method"), message.get("params", {})
        if not isinstance(params, dict):
            self._stray("notification")
        elif method in LIST_CHANGES or method == UPDATED:
            tell_each(self._hearers, lambda hearer: hearer.hear(message))
        elif method == LOGGED:
            self._logged(message)
        elif method == _WITHDRAWN:
            self._withdrawn(params.get("requestId"))
        elif method not in _UNUSED:
            self._stray("notification")

    def closed(self, failure: UpstreamFailure) -> None:
        """See `link.Inbox`: whoever lives here has to look for another session."""
        if self.over:
            return
        self.over = True
        for asked in self.adopt(len(self._waiting)):
            self._drop(asked)
        tell_each(self._lodgers, lambda lodger: lodger.lost(failure))
        tell_each(self._hearers, lambda hearer: hearer.lost())

    def _logged(self, message: Message) -> None:
        """Nobody says whose it is, so it is somebody's only if just one wants any."""
        readers = [one for one in self._lodgers if one.hears_logs]
        if len(readers) == 1:
            readers[0].log(message)
        else:
            self._stray("log")

    def _withdrawn(self, id: Any) -> None:
        if not isinstance(id, str | int) or isinstance(id, bool):
            return
        for asked in self._waiting:
            if asked.id == id and type(asked.id) is type(id):
                self._waiting.remove(asked)
                self._drop(asked)
                return
        for lodger in self._lodgers:
            found = lodger.withdraw(id)
            if found is not None:
                self._drop(found)
                return

    def _stray(self, kind: str) -> None:
        self.meter.count(STRAYS, server=self.server, kind=kind)


@define(eq=False)
class Residences:
    """The sessions of one upstream that stateless requests live in."""

    inner: Upstream
    pool: SessionPool
    lot: ParkingLot
    clock: IReactorTime
    meter: Meter
    bounds: ResidenceBounds

    async def find(self, principal_key: str, path: str, capabilities: Message) -> Residence:
        """The principal's session of these capabilities, borrowed; raises Refused."""
        session = await self.pool.borrow(principal_key, self.inner, path, capabilities)
        return self._in(session, principal_key)

    def find_open(self, principal_key: str, path: str) -> Residence | None:
        """Any session of the principal that is open, borrowed."""
        session = self.pool.borrow_open(principal_key, self.inner.name, path)
        return None if session is None else self._in(session, principal_key)

    def _in(self, session: PooledSession, principal_key: str) -> Residence:
        if isinstance(session.resident, Residence):
            return session.resident
        made = Residence(
            principal_key,
            self.inner.name,
            session,
            self.pool,
            self.lot,
            self.clock,
            self.meter,
            self.bounds,
        )
        session.resident = made
        return made

    def ping(self) -> None:
        """Use the sessions that only listen."""
        for session in self.pool.sessions:
            if isinstance(session.resident, Residence):
                session.resident.ping()
