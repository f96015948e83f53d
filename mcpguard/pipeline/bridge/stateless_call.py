"""One request of a stateless client before a handshake-era server, through all its rounds.

When the server asks something in its course, the request is parked: its client gets the questions
as an ``input_required`` result, the server goes on waiting, and the client's next request brings
the answers and waits for the rest. What the server says meanwhile is kept for that.
"""

from collections.abc import Callable

from attrs import define, evolve, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mcpguard.pipeline.bridge.errand import Errand
from mcpguard.pipeline.bridge.lodging import Asked
from mcpguard.pipeline.bridge.parking import Meanwhile, ParkingLot
from mcpguard.pipeline.bridge.residence import LOGGED, Residences
from mcpguard.pipeline.streams import stop_timer
from mcpguard.protocol.bridge.rounds import ANSWERED_IN_ROUNDS
from mcpguard.protocol.bridge.stateless import (
    Opened,
    discover_result,
    input_required,
    is_wanted,
    opened,
    stateless_response,
    with_token,
)
from mcpguard.upstream.link import Call, CallSink, Id, Message, Outbound, UpstreamFailure

DISCOVER = "server/discover"
PROGRESS = "notifications/progress"


@define(eq=False)
class ClientRound:
    """One of the client's requests; implements `link.Call` for whoever sent it."""

    call: "StatelessCall"
    client_id: Id
    sink: CallSink
    token: str | int | None
    """For progress."""

    def cancel(self, reason: str) -> None:
        """See `link.Call`; does nothing to a call that is parked, or in its client's next round."""
        self.call.given_up(self, reason)

    def hold(self) -> None:
        """See `link.Call`."""
        self.call.errand.hold()

    def release(self) -> None:
        """See `link.Call`."""
        self.call.errand.release()


@define(eq=False)
class StatelessCall:
    """The client's side of it; is the `Client` of its `Errand`, and `Parkable`."""

    lot: ParkingLot
    clock: IReactorTime
    gather_secs: float
    """Questions that come within this after another are put to the client together."""
    linger_secs: float
    """Log messages that come within this after the answer still count as the call's; 0: none."""
    path: str
    outbound: Outbound
    """As it came from the client."""
    on_over: Callable[["StatelessCall"], object]
    errand: Errand = field(init=False)
    _opened: Opened = field(init=False)
    _round: ClientRound | None = field(init=False, default=None)
    """The client's request that waits now; None while parked."""
    _asked: dict[str, Asked] = field(init=False, factory=dict)
    """The open questions by the key the client knows them by."""
    _questions: int = field(init=False, default=0)
    _rounds: int = field(init=False, default=0)
    _gathering: IDelayedCall | None = field(init=False, default=None)
    _lingering: IDelayedCall | None = field(init=False, default=None)
    _token: str | None = field(init=False, default=None)
    _meanwhile: Meanwhile = field(init=False)
    _over: bool = field(init=False, default=False)

    @property
    def principal_key(self) -> str:
        """See `Parkable`."""
        return self.outbound.principal_key

    @property
    def method(self) -> str:
        """What it asks the server to do."""
        return self.outbound.method

    # -- the client's rounds ---------------------------------------------------------------

    def begin(self, residences: Residences, sink: CallSink) -> ClientRound:
        """The first round; failures reach the sink, possibly before this returns."""
        self._opened = opened(self.outbound.params)
        self._meanwhile = Meanwhile(self.lot, self.principal_key)
        self._round = begun = ClientRound(self, self.outbound.id, sink, self._opened.token)
        self.errand = Errand(
            self,
            residences,
            self.clock,
            self.path,
            self.outbound,
            self._opened.capabilities,
        )
        self.errand.start()
        return begun

    def resume(self, outbound: Outbound, sink: CallSink) -> ClientRound:
        """The next round: the client's answers go to the server, and it waits for the rest."""
        assert self._token is not None
        self.lot.leave(self._token)
        self._token = None
        now = opened(outbound.params)
        self._opened = evolve(self._opened, log_level=now.log_level)
        self._round = begun = ClientRound(self, outbound.id, sink, now.token)
        for message in self._meanwhile.take():
            self.heard(message)
        responses = (outbound.params or {}).get("inputResponses")
        given = responses if isinstance(responses, dict) else {}
        for key, asked in list(self._asked.items()):
            home = self.errand.home
            if home is not None and home.settle(asked, given.get(key)):
                self._asked.pop(key, None)
        self.ready()
        return begun

    def given_up(self, by: ClientRound, reason: str) -> None:
        """The client wants it no more, unless that was only a round of it."""
        if by is self._round:
            self._give_up(reason)

    def expired(self) -> None:
        """See `Parkable`."""
        self._token = None
        self._give_up("the client did not come back with answers")

    def end(self, failure: UpstreamFailure) -> None:
        """The gateway ends it."""
        waiting = self._round
        self._give_up("the gateway ends it")
        if waiting is not None:
            waiting.sink.failed(failure)

    # -- Client: what the errand says ------------------------------------------------------

    def ready(self) -> None:
        """Do what is next while the client waits: tell the end, ask it, send, or wait on."""
        if self._over or self._round is None:
            return
        errand = self.errand
        if self._meanwhile.outcome is not None:
            self._deliver(self._meanwhile.outcome)
        elif errand.home is None:
            errand.start()
        elif self.method == DISCOVER:
            self.ended({"result": {}})
        elif errand.running:
            if self._asked:
                self._gather()
            else:
                errand.wait_for_server()
        else:
            if self.may_be_asked:
                for asked in errand.home.adopt(self.lot.bounds.questions - len(self._asked)):
                    self._note(asked)
            if self._asked:
                # What the server wants to know before, it shall know before.
                self._park()
            else:
                errand.send()

    def heard(self, message: Message) -> None:
        """See `errand.Client`."""
        method = message.get("method")
        if method == PROGRESS:
            if self._round is None:
                self._meanwhile.tell(message)
            elif self._round.token is not None:
                self._round.sink.notification(with_token(message, self._round.token))
        elif method == LOGGED:
            self.log(message)
        elif self.errand.home is not None:
            # An HTTP server may put anything on the stream of a request.
            self.errand.home.notification(message)

    def ended(self, outcome: Message | UpstreamFailure) -> None:
        """See `errand.Client`: for the client at once, or kept for its next round."""
        if self._round is None:
            self._meanwhile.end(outcome)
        elif self.log_level is None or not self.linger_secs:
            self._deliver(outcome)
        else:
            self._meanwhile.outcome = outcome
            self._lingering = self.clock.callLater(self.linger_secs, self.ready)

    # -- Lodger ----------------------------------------------------------------------------

    @property
    def log_level(self) -> int | None:
        """See `lodging.Lodger`: as its latest round said."""
        return self._opened.log_level

    @property
    def hears_logs(self) -> bool:
        """See `lodging.Lodger`."""
        return self.log_level is not None and (self.under_way or self._lingering is not None)

    @property
    def under_way(self) -> bool:
        """See `lodging.Lodger`."""
        return self.errand.running

    @property
    def may_be_asked(self) -> bool:
        """See `lodging.Lodger`."""
        return self.method in ANSWERED_IN_ROUNDS

    @property
    def parked(self) -> bool:
        """See `lodging.Lodger`."""
        return self._round is None

    def is_call(self, call: Call) -> bool:
        """See `lodging.Lodger`."""
        return self.errand.is_call(call)

    def ask(self, asked: Asked) -> None:
        """See `lodging.Lodger`."""
        home = self.errand.home
        assert home is not None
        if len(self._asked) >= self.lot.bounds.questions:
            home.refuse(asked, "Too many questions are open")
            return
        self._note(asked)
        self._gather()

    def withdraw(self, id: Id) -> Asked | None:
        """See `lodging.Lodger`."""
        for key, asked in self._asked.items():
            if asked.id == id and type(asked.id) is type(id):
                return self._asked.pop(key)
        return None

    def log(self, message: Message) -> None:
        """See `lodging.Lodger`."""
        if not is_wanted(message, self.log_level):
            return
        if self._round is None:
            self._meanwhile.tell(message)
        else:
            self._round.sink.notification(message)

    def lost(self, failure: UpstreamFailure) -> None:
        """See `lodging.Lodger`."""
        home = self.errand.home
        for asked in self._asked.values():
            if home is not None:
                home.refuse(asked, "The session is over")
        self._asked.clear()
        stop_timer(self._gathering)
        self._gathering = None
        if self._lingering is not None:
            self.ready()
        else:
            self.errand.lost(failure)

    # -- parking ---------------------------------------------------------------------------

    def _note(self, asked: Asked) -> None:
        self._questions += 1
        self._asked[f"q{self._questions}"] = asked

    def _gather(self) -> None:
        """Ask the client in a moment: another question may follow at once."""
        if self._round is not None and self._gathering is None:
            self._gathering = self.clock.callLater(self.gather_secs, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        if self._lingering is not None:
            return  # the end has come in the meantime, and is told with no question any more
        if self._asked:
            self._park()
        else:
            self.ready()

    def _park(self) -> None:
        """Give the client its questions, and wait for it to come back."""
        token = None
        if self._rounds < self.lot.bounds.rounds:
            token = self.lot.enter(self)
        if token is None:
            while self._asked and self.errand.home is not None:
                self.errand.home.refuse(self._asked.popitem()[1], "No client can be asked")
            self.ready()
            return
        self._rounds += 1
        self._token = token
        self.errand.wait_for_client()
        asking, self._round = self._round, None
        assert asking is not None
        questions = {key: asked.entry for key, asked in self._asked.items()}
        result = input_required(questions, token, self.errand.initialized)
        self._tell(asking, {"result": result})

    # -- the end ---------------------------------------------------------------------------

    def _deliver(self, outcome: Message | UpstreamFailure) -> None:
        waiting = self._round
        assert waiting is not None
        self._finish(answered=True)
        if isinstance(outcome, UpstreamFailure):
            waiting.sink.failed(outcome)
        else:
            self._tell(waiting, self._translated(outcome))

    def _translated(self, message: Message) -> Message:
        if self.method == DISCOVER:
            return {"result": discover_result(self.errand.initialized)}
        return stateless_response(
            message,
            self.outbound.params,
            self._opened.capabilities,
            self.errand.initialized,
            may_ask=self.may_be_asked,
        )

    @staticmethod
    def _tell(waiting: ClientRound, body: Message) -> None:
        waiting.sink.answer({"jsonrpc": "2.0", "id": waiting.client_id, **body})

    def _give_up(self, reason: str) -> None:
        if not self._over:
            self._finish(answered=False)
            self.errand.cancel(reason)

    def _finish(self, *, answered: bool) -> None:
        self._over = True
        self._round = None
        stop_timer(self._gathering)
        stop_timer(self._lingering)
        self._gathering = self._lingering = None
        if self._token is not None:
            self.lot.leave(self._token)
            self._token = None
        self._meanwhile.forget()
        asked = list(self._asked.values())
        self._asked.clear()
        self.errand.leave(asked, answered=answered)
        self.on_over(self)
