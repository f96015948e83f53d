"""A child that several callers use at once: started when needed, started again when it dies."""

from collections.abc import Coroutine
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.upstream.conversation import Conversation
from mcpguard.upstream.greeting import Greeting
from mcpguard.upstream.link import Message, UpstreamFailure
from mcpguard.upstream.supervision import Supervision

log = Logger()

RETRY_SECS = 1.0
"""Least pause after a start that failed, whatever the crashes allow."""


class Residents(Protocol):
    """Those who use the child, and outlive it."""

    @property
    def waiting_for_news(self) -> bool:
        """Whether somebody relies on the child being there even when nothing is asked."""
        ...

    def told(self, conversation: Conversation, message: Message) -> None:
        """The child said something that belongs to no request."""
        ...

    def asked(self, conversation: Conversation, message: Message) -> None:
        """The child asked something."""
        ...

    def ready(self, conversation: Conversation) -> None:
        """A child is there, the first or a new one; nothing of the old one's state is in it."""
        ...

    def down(self, failure: UpstreamFailure) -> None:
        """No child could be started; it may be tried again."""
        ...


@define(eq=False)
class SharedChild:
    """One place for a child, filled as needed. Is a `Seat`, and the conversation's `Listener`."""

    key: str
    """Whose crashes count together."""
    principal_key: str
    supervision: Supervision
    reactor: Any
    greet: Greeting
    residents: Residents
    max_waiting: int
    """Callers that may wait for a starting child."""
    persistent: bool
    """Started again after a crash even when nobody needs it right then."""
    greeting: Message | None = field(init=False, default=None)
    """What the last child said to the first words."""
    _conversation: Conversation | None = field(init=False, default=None)
    _starting: Conversation | None = field(init=False, default=None)
    _changing: bool = field(init=False, default=False)
    _waiting: list[Deferred[Conversation]] = field(init=False, factory=list)
    _again: IDelayedCall | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)

    @property
    def up(self) -> bool:
        """Whether a child is there and has been greeted."""
        return self._conversation is not None

    @property
    def vacant(self) -> bool:
        """Whether no child is there, and none is being started."""
        return self._conversation is None and not self._changing and self._again is None

    @property
    def looping(self) -> bool:
        """Whether its children crash again and again, and none is there now."""
        return not self.up and self.supervision.crashes.looping(self.key)

    @property
    def conversation(self) -> Conversation | None:
        """The conversation with the child that is there now."""
        return self._conversation

    def acquire(self) -> Deferred[Conversation]:
        """The child, started if there is none; errbacks with `UpstreamFailure`."""
        got: Deferred[Conversation] = Deferred(self._leave)
        if self._conversation is not None and self._conversation.alive:
            got.callback(self._conversation)
            return got
        if self._stopped:
            got.errback(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped"))
            return got
        if len(self._waiting) >= self.max_waiting:
            got.errback(UpstreamFailure(Reason.UPSTREAM_BUSY, "too many wait for a child", 1.0))
            return got
        self._waiting.append(got)
        if self._conversation is None:
            self._begin()
        else:
            # Its end has begun; what follows from that brings the next child, and the answer.
            self.supervision.reject(self._conversation)
        return got

    def warm(self) -> None:
        """Start the child, if there is none, before anybody needs it."""
        if self._conversation is None:
            self._begin()

    def stop(self) -> None:
        """Stop the child for good; `Supervision.stop` waits for it."""
        self._stopped = True
        self._cancel_again()
        self.evict()
        self._fail(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped"))

    # -- Seat ------------------------------------------------------------------------------

    def idle_since(self) -> float | None:
        """When a request last ran; None while one runs or somebody waits for news."""
        conversation = self._conversation
        if conversation is None or conversation.busy or self.residents.waiting_for_news:
            return None
        return conversation.last_used

    def evict(self) -> None:
        """Stop the child; the next request starts another."""
        for conversation in (self._conversation, self._starting):
            if conversation is not None:
                conversation.listener = None
                self.supervision.dismiss(conversation)
        self._conversation = None

    # -- Listener --------------------------------------------------------------------------

    def told(self, message: Message) -> None:
        """Pass it on, once the child has been greeted."""
        if self._conversation is not None:
            self.residents.told(self._conversation, message)

    def asked(self, message: Message) -> None:
        """Pass it on."""
        conversation = self._conversation or self._starting
        if conversation is not None:
            self.residents.asked(conversation, message)

    def over(self, failure: UpstreamFailure) -> None:
        """The child died: start another, at once or after the pause that its crashes earned."""
        dead, self._conversation = self._conversation, None
        if dead is not None and not self._stopped:
            self._change(self._replace(dead))

    # -- inside ----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._changing and not self._stopped:
            self._change(self._fill())

    def _change(self, change: Coroutine[Deferred[Any], Any, None]) -> None:
        """Run the one change of state that may go on at a time."""
        self._cancel_again()
        self._changing = True
        Deferred.fromCoroutine(change).addErrback(
            lambda failure: log.failure("starting a child went wrong", failure=failure)
        )

    async def _replace(self, dead: Conversation) -> None:
        # Once its end is in the books the pause includes this crash.
        await dead.child.ended()
        await self._fill()

    async def _fill(self) -> None:
        """Start and greet a child; tell everybody how it went."""
        outcome: Conversation | UpstreamFailure
        wait = self._pause()
        try:
            if wait > 0.0:
                reason = "pause after a crash"
                outcome = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, reason, wait)
            else:
                outcome = await self._try()
        except Exception:
            # Whatever it was, those who wait must hear of it.
            log.failure("starting a child went wrong")
            outcome = UpstreamFailure(Reason.UPSTREAM_FAILED, "an error of the gateway")
        self._changing = False
        if isinstance(outcome, Conversation):
            self._conversation = outcome
            try:
                self.residents.ready(outcome)
            except Exception:
                # Theirs alone: those who wait for the child can use it.
                log.failure("renewing what the old child knew went wrong")
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if not one.called:  # one caller's answer may have made another give up
                    one.callback(outcome)
            return
        self._fail(outcome)
        if (self.persistent or self.residents.waiting_for_news) and not self._stopped:
            self._cancel_again()
            self._again = self.reactor.callLater(max(self._pause(), RETRY_SECS), self._begin)

    async def _try(self) -> Conversation | UpstreamFailure:
        if self._stopped:
            return UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        try:
            conversation = self.supervision.spawn(self.key, self.principal_key, self, self)
        except UpstreamFailure as failure:
            return failure
        self._starting = conversation
        try:
            self.greeting = await self.greet(conversation)
            if not conversation.alive:
                raise UpstreamFailure(Reason.UPSTREAM_FAILED, "the child died after its greeting")
        except UpstreamFailure as failure:
            if not self._stopped:
                self._fail(failure)
                await self.supervision.reject(conversation)
            return failure
        finally:
            self._starting = None
        return conversation

    def _pause(self) -> float:
        return self.supervision.crashes.wait(self.key, float(self.reactor.seconds()))

    def _fail(self, failure: UpstreamFailure) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.called:
                one.errback(failure)
        self.residents.down(failure)

    def _leave(self, waiting: Deferred[Conversation]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        waiting.errback(CancelledError())

    def _cancel_again(self) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._again = None
