"""The link of one handshake-era session before a stateless server."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mcpguard.errors import INVALID_PARAMS, METHOD_NOT_FOUND, Reason
from mcpguard.observe.events import Meter
from mcpguard.pipeline.bridge.borrowed_call import BorrowedCall, OverCall, StatelessWay
from mcpguard.pipeline.bridge.handshake_call import CallBounds, HandshakeCall
from mcpguard.pipeline.bridge.lodging import tell_each
from mcpguard.pipeline.bridge.session_listen import ListenBounds, SessionListen
from mcpguard.pipeline.dispatch import STRAYS
from mcpguard.pipeline.modern import well_annotated
from mcpguard.protocol.bridge.handshake import (
    LOG_LEVELS,
    PASSED_ON,
    Introduction,
    introduced,
)
from mcpguard.protocol.bridge.rounds import Question
from mcpguard.upstream.link import Call, CallSink, Inbox, Message, Outbound, UpstreamFailure


@define(eq=False)
class HandshakeLink:
    """Implements `link.Link`: every request stands for itself at the server."""

    way: StatelessWay
    client: Introduction
    server: Message
    """The server's capabilities, translated."""
    version: str
    """The stateless version the server is spoken to in."""
    inbox: Inbox
    clock: IReactorTime
    random: Callable[[], float]
    meter: Meter
    call_bounds: CallBounds
    listen_bounds: ListenBounds
    max_questions: int
    on_closed: Callable[["HandshakeLink"], object]
    log_level: str | None = field(init=False, default=None)
    listen: SessionListen = field(init=False)
    _calls: dict[HandshakeCall, None] = field(init=False, factory=dict)
    _questions: dict[str, tuple[HandshakeCall, str]] = field(init=False, factory=dict)
    """Id of a question to the client -> whose it is, and the server's name for it."""
    _next: int = field(init=False, default=1)
    _closed: bool = field(init=False, default=False)

    @listen.default
    def _(self) -> SessionListen:
        return SessionListen(
            hearing=self,
            capabilities=self.server,
            clock=self.clock,
            random=self.random,
            bounds=self.listen_bounds,
            principal_key=self.way.principal_key,
            version=self.version,
        )

    # -- Link ------------------------------------------------------------------------------

    def request(self, outbound: Outbound, sink: CallSink) -> Call:
        """See `link.Link`."""
        method = outbound.method
        if self._closed:
            sink.failed(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the link is closed"))
            return OverCall()
        if method in PASSED_ON:
            call = HandshakeCall(
                asker=self,
                outbound=outbound,
                sink=sink,
                bounds=self.call_bounds,
                clock=self.clock,
                shape=self._listed if method == "tools/list" else lambda result: result,
            )
            self._calls[call] = None
            call.start()
            return call
        if method == "resources/subscribe":
            return self.listen.subscribe(outbound, sink)
        if method == "resources/unsubscribe":
            return self.listen.unsubscribe(outbound, sink)
        sink.answer({"jsonrpc": "2.0", "id": outbound.id, **self._answered_here(outbound)})
        return OverCall()

    def notify(self, method: str, params: Message | None) -> None:
        """See `link.Link`: a stateless server takes none, but the session begins with one."""
        if method == "notifications/initialized" and not self._closed:
            self.listen.start()

    def respond(self, message: Message) -> None:
        """See `link.Link`: the client's response to a question of one of its calls."""
        id = message.get("id")
        asked = self._questions.pop(id, None) if isinstance(id, str) else None
        if asked is None:
            self.stray("late")
            return
        call, key = asked
        call.answered(key, message)

    def close(self) -> Deferred[None]:
        """See `link.Link`: what still runs is ended."""
        self.end()
        return succeed(None)

    def end(self) -> None:
        """End everything of the session at the server."""
        if self._closed:
            return
        self._closed = True
        self.listen.close()
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the link was closed")
        tell_each(self._calls, lambda call: call.fail(failure))
        self.on_closed(self)

    # -- what is answered here -------------------------------------------------------------

    def _answered_here(self, outbound: Outbound) -> Message:
        if outbound.method == "ping":
            return {"result": {}}
        if outbound.method == "logging/setLevel" and "logging" in self.server:
            level = (outbound.params or {}).get("level")
            if level not in LOG_LEVELS:
                return {"error": {"code": INVALID_PARAMS, "message": "Unknown log level"}}
            self.log_level = level
            return {"result": {}}
        return {"error": {"code": METHOD_NOT_FOUND, "message": "Method not found"}}

    def _listed(self, result: Message) -> Message:
        """Tools without those that cannot be called over HTTP (2026-07-28, custom headers)."""
        self.way.learn(result)
        return well_annotated(result)

    # -- Asker and Hearing -----------------------------------------------------------------

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the client declared, translated."""
        return self.client.capabilities

    def send(self, outbound: Outbound, sink: CallSink) -> BorrowedCall:
        """One request to the server under the session's metadata, not sent yet."""
        level = self.log_level if "logging" in self.server else None
        params = introduced(outbound.params or {}, self.client, self.version, level)
        return self.way.call(replace(outbound, params=params, version=self.version), sink)

    def room_for(self, questions: int) -> bool:
        """Whether so many more questions may be put to the client."""
        return len(self._questions) + questions <= self.max_questions

    def ask(self, call: HandshakeCall, question: Question) -> None:
        """Put a question to the client, on the stream of the call it belongs to."""
        id = f"bridge-{self._next}"
        self._next += 1
        self._questions[id] = call, question.key
        self.inbox.request(question.request(id), call)

    def withdraw(self, call: HandshakeCall) -> None:
        """Take back what a call has asked and nobody has answered."""
        for id in [id for id, (asker, _) in self._questions.items() if asker is call]:
            del self._questions[id]
            if not self._closed:
                params = {"requestId": id, "reason": "the request is over"}
                method = "notifications/cancelled"
                self.inbox.notification({"jsonrpc": "2.0", "method": method, "params": params})

    def ended(self, call: HandshakeCall) -> None:
        """A call is over."""
        self._calls.pop(call, None)

    def forget_tools(self) -> None:
        """What is known of the server's tools is out of date."""
        self.way.forget()

    def heard(self, message: Message) -> None:
        """A notification for the session."""
        if message["method"] == "notifications/tools/list_changed":
            self.way.forget()
        self.inbox.notification(message)

    def stray(self, kind: str) -> None:
        """Count a message that belongs to nothing."""
        self.meter.count(STRAYS, server=self.way.inner.name, kind=kind)

    def died(self, failure: UpstreamFailure) -> None:
        """The server speaks another era now: a new session finds out which."""
        if not self._closed:
            self.inbox.closed(failure)
            self.end()
