"""A handshake-era client's request at a stateless server, with all its rounds."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen
from msgspec.structs import replace
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mcpguard.errors import HEADER_MISMATCH, Reason
from mcpguard.pipeline.bridge.borrowed_call import BorrowedCall
from mcpguard.pipeline.dispatch import of_a_request
from mcpguard.protocol.bridge.handshake import (
    Untranslatable,
    handshake_error,
    handshake_result,
    is_wrong_era,
    passed_params,
    plain_error,
    without_modern_meta,
)
from mcpguard.protocol.bridge.rounds import (
    ANSWERED_IN_ROUNDS,
    Question,
    RoundBounds,
    answer_to,
    is_input_required,
    next_params,
    read_round,
)
from mcpguard.protocol.jsonrpc import encode
from mcpguard.upstream.link import CallSink, Message, Outbound, UpstreamFailure

log = Logger()


WRONG_ERA = frozenset({Reason.UPSTREAM_ERA, Reason.UPSTREAM_CHANGED})
"""Reasons after which a session must be begun anew, because its server is another one."""


def wrong_era() -> UpstreamFailure:
    """The server speaks another era by now than when it was asked."""
    detail = "it refuses the version it was found to speak"
    return UpstreamFailure(Reason.UPSTREAM_CHANGED, detail, 1.0)


@frozen
class CallBounds:
    """How long one request may be drawn out, beside the bounds of its rounds."""

    rounds: RoundBounds
    total_secs: float
    """From the client's request to its answer, the time that people take included."""
    pause_secs: float
    """Before a server that only wants to be asked again is asked again; doubles each time."""
    max_pause_secs: float


class Asker(Protocol):
    """The session's link, as a request of it sees it."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the client declared, translated."""
        ...

    def send(self, outbound: Outbound, sink: CallSink) -> BorrowedCall:
        """One request to the server under the session's metadata, not sent yet."""
        ...

    def room_for(self, questions: int) -> bool:
        """Whether so many more questions may be put to the client."""
        ...

    def ask(self, call: "HandshakeCall", question: Question) -> None:
        """Put a question to the client; its response reaches `HandshakeCall.answered`."""
        ...

    def withdraw(self, call: "HandshakeCall") -> None:
        """Take back what a call has asked and nobody has answered."""
        ...

    def ended(self, call: "HandshakeCall") -> None:
        """A call is over."""
        ...

    def forget_tools(self) -> None:
        """What is known of the server's tools is out of date."""
        ...

    def stray(self, kind: str) -> None:
        """Count a message that belongs to nothing."""
        ...

    def died(self, failure: UpstreamFailure) -> None:
        """The server cannot be asked in this session any more."""
        ...


@define(eq=False)
class HandshakeCall:
    """Implements `Call` towards the client and `CallSink` towards the server, round after round.

    Between two rounds there is no request at the server, so its time for an answer does not run
    while a person is being asked; ``total_secs`` does.
    """

    asker: Asker
    outbound: Outbound
    """As the client sent it."""
    sink: CallSink
    bounds: CallBounds
    clock: IReactorTime
    shape: Callable[[Message], Message] = lambda result: result
    """Told of each complete result; what it returns is translated."""
    _current: BorrowedCall | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _pause: IDelayedCall | None = field(init=False, default=None)
    _rounds: int = field(init=False, default=0)
    _pauses: int = field(init=False, default=0)
    _open: dict[str, str] = field(init=False, factory=dict)
    """Questions of this round without an answer: key -> method."""
    _answers: Message = field(init=False, factory=dict)
    _state: str | None = field(init=False, default=None)
    _progress: float = field(init=False, default=float("-inf"))
    """The most that any round has reported: progress may not go back."""
    _sent: Message = field(init=False, factory=dict)
    """The params of the present round."""
    _renewed: bool = field(init=False, default=False)
    """Whether it was sent again with headers by a newer schema."""
    _done: bool = field(init=False, default=False)

    def start(self) -> None:
        """Send the first round. Never raises."""
        self._timer = self.clock.callLater(self.bounds.total_secs, self._expire)
        self._send(passed_params(self.outbound.params))

    def _send(self, params: Message) -> None:
        self._sent = params
        call = self._current = self.asker.send(replace(self.outbound, params=params), self)
        call.send()

    # -- Call ------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """See `link.Call`."""
        self._end(reason)

    def hold(self) -> None:
        """See `link.Call`; nothing is under way at the server while its question is asked."""

    def release(self) -> None:
        """See `link.Call`."""

    # -- CallSink --------------------------------------------------------------------------

    def notification(self, message: Message) -> None:
        """Pass on what belongs to the request."""
        params = message.get("params")
        if not of_a_request(message) or not isinstance(params, dict):
            self.asker.stray("notification")
            return
        if message["method"] == "notifications/progress" and not self._is_ahead(params):
            return
        self.sink.notification({**message, "params": without_modern_meta(params)})

    def _is_ahead(self, params: Message) -> bool:
        """Whether progress goes on: each round of a server begins to count anew."""
        done = params.get("progress")
        if not isinstance(done, int | float) or isinstance(done, bool):
            return True
        if self._rounds and done <= self._progress:
            return False
        self._progress = max(self._progress, done)
        return True

    def answer(self, message: Message) -> None:
        """A round is over, and with it the request unless the server wants to know more."""
        self._current = None
        method = self.outbound.method
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            if is_wrong_era(error):
                self._fail(wrong_era())
            elif error.get("code") == HEADER_MISMATCH and not self._renewed:
                # The tool has other headers than when it was last listed. A server that says so
                # has not looked at the call.
                self._renewed = True
                self.asker.forget_tools()
                self._send(self._sent)
            else:
                self._finish({"error": handshake_error(method, self.outbound.params, error)})
            return
        try:
            if not isinstance(result, dict):
                raise Untranslatable("The server's answer is not valid")
            if method in ANSWERED_IN_ROUNDS and is_input_required(result):
                self._ask(result)
                return
            shaped = handshake_result(self.shape(result))
        except Untranslatable as problem:
            self._refuse(problem.text, str(problem))
        else:
            self._finish({"result": shaped})

    def failed(self, failure: UpstreamFailure) -> None:
        """No answer will come of this round, and so none of the request."""
        self._current = None
        if failure.reason is Reason.SESSION_NOT_FOUND:
            # A stateless server has none; the client must not take its own for lost.
            failure = UpstreamFailure(Reason.UPSTREAM_FAILED, failure.detail)
        self._fail(failure)

    # -- rounds ----------------------------------------------------------------------------

    def _ask(self, result: Message) -> None:
        self._rounds += 1
        if self._rounds > self.bounds.rounds.rounds:
            raise Untranslatable("The server asked for input too many times")
        found = read_round(result, self.asker.capabilities, self.bounds.rounds)
        self._state, self._answers = found.state, {}
        if not found.questions:
            delay = min(self.bounds.max_pause_secs, self.bounds.pause_secs * 2**self._pauses)
            self._pauses += 1
            self._pause = self.clock.callLater(delay, self._again)
            return
        if not self.asker.room_for(len(found.questions)):
            raise Untranslatable("Too many questions wait for the client already")
        self._open = {question.key: question.method for question in found.questions}
        for question in found.questions:
            # One that is refused at once may end the request, or its last one the round.
            if not self._done and question.key in self._open:
                self.asker.ask(self, question)

    def answered(self, key: str, response: Message) -> None:
        """The client's response to one question of this round."""
        method = self._open.pop(key, None)
        if self._done or method is None:
            return
        answer = answer_to(method, response)
        if answer is None:
            self._refuse(f"The client did not answer {method}", "it answered with an error")
            return
        self._answers[key] = answer
        if len(encode(self._answers)) > self.bounds.rounds.size:
            self._refuse("The client's answers are too large", "beyond the bound of a round")
        elif not self._open:
            self._again()

    def _again(self) -> None:
        self._pause = None
        params = passed_params(self.outbound.params)
        answers, state = self._answers, self._state
        self._answers, self._state = {}, None
        self._send(next_params(params, answers, state))

    # -- ends ------------------------------------------------------------------------------

    def fail(self, failure: UpstreamFailure) -> None:
        """End it with its link."""
        if self._end("the session has ended"):
            self.sink.failed(failure)

    def _fail(self, failure: UpstreamFailure) -> None:
        if self._end(""):
            self.sink.failed(failure)
            if failure.reason in WRONG_ERA:
                self.asker.died(failure)

    def _finish(self, body: Message) -> None:
        if self._end(""):
            self.sink.answer({"jsonrpc": "2.0", "id": self.outbound.id, **body})

    def _refuse(self, text: str, detail: str) -> None:
        log.warn(
            "{method} ended by the bridge: {detail}", method=self.outbound.method, detail=detail
        )
        self._finish({"error": plain_error(text)})

    def _expire(self) -> None:
        self._timer = None
        if self._end("timeout"):
            detail = f"not answered in {self.bounds.total_secs:g} s, with all its rounds"
            self.sink.failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT, detail))

    def _end(self, reason: str) -> bool:
        if self._done:
            return False
        self._done = True
        for timer in (self._timer, self._pause):
            if timer is not None and timer.active():
                timer.cancel()
        current, self._current = self._current, None
        if current is not None:
            current.cancel(reason)
        if self._open:
            self._open = {}
            self.asker.withdraw(self)
        self.asker.ended(self)
        return True
