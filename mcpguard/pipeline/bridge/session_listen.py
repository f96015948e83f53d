"""What a handshake-era session hears of a stateless server: one union ``subscriptions/listen``.

The stream is opened anew whenever the session's subscriptions change: the new one must be
acknowledged before the old one is given up, so nothing is missed in between (a change at that
very moment may be told twice). What happens while a lost stream is being opened again is not
heard, as on a session's own event stream.
"""

from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mcpguard.errors import INVALID_PARAMS, METHOD_NOT_FOUND, Reason
from mcpguard.pipeline.bridge.borrowed_call import BorrowedCall, OverCall
from mcpguard.pipeline.bridge.handshake_call import WRONG_ERA, wrong_era
from mcpguard.pipeline.bridge.listen_stream import LISTEN, Stream, Subscribing
from mcpguard.pipeline.bridge.lodging import tell_each
from mcpguard.pipeline.streams import stop_timer
from mcpguard.protocol.bridge.handshake import (
    handshake_error,
    is_wrong_era,
    without_modern_meta,
)
from mcpguard.upstream.link import Call, CallSink, Message, Outbound, UpstreamFailure

UPDATED = "notifications/resources/updated"

_FLAGS = {
    "tools": ("toolsListChanged", "notifications/tools/list_changed"),
    "prompts": ("promptsListChanged", "notifications/prompts/list_changed"),
    "resources": ("resourcesListChanged", "notifications/resources/list_changed"),
}
"""Capability -> what a listen calls its ``listChanged``, and the notification of it."""


@frozen
class ListenBounds:
    """How much one session may subscribe to, and how often its stream is opened."""

    uris: int
    uri_bytes: int
    ack_secs: float
    """For the server to acknowledge a stream."""
    first_secs: float
    """Before a lost stream is opened again; doubles with each that is lost soon."""
    most_secs: float
    """The longest such time; a stream that lived as long makes the next wait short again."""


class Hearing(Protocol):
    """The session's link, as its listen sees it."""

    def send(self, outbound: Outbound, sink: CallSink) -> BorrowedCall:
        """One request to the server under the session's metadata, not sent yet."""
        ...

    def heard(self, message: Message) -> None:
        """A notification for the session."""
        ...

    def stray(self, kind: str) -> None:
        """Count a message that belongs to nothing."""
        ...

    def died(self, failure: UpstreamFailure) -> None:
        """The server cannot be asked in this session any more."""
        ...


@define(eq=False)
class SessionListen:
    """The subscriptions of one session and the stream that reports them."""

    hearing: Hearing
    capabilities: Message
    """The server's, translated."""
    clock: IReactorTime
    random: Callable[[], float]
    bounds: ListenBounds
    principal_key: str
    version: str
    _flags: dict[str, str] = field(init=False)
    """Name in a listen -> its notification."""
    _wanted: dict[str, bool] = field(init=False, factory=dict)
    """The URIs the client asked for -> whether it was told that it is subscribed."""
    _waiting: list[Subscribing] = field(init=False, factory=list)
    _current: Stream | None = field(init=False, default=None)
    _opening: Stream | None = field(init=False, default=None)
    _again: IDelayedCall | None = field(init=False, default=None)
    _losses: int = field(init=False, default=0)
    _off: bool = field(init=False, default=False)
    """Closed, or the server knows no such stream."""

    @_flags.default
    def _(self) -> dict[str, str]:
        return {
            name: notification
            for kind, (name, notification) in _FLAGS.items()
            if self.capabilities.get(kind, {}).get("listChanged") is True
        }

    @property
    def uris(self) -> frozenset[str]:
        """What the client is subscribed to or waits for."""
        return frozenset(self._wanted)

    # -- what the client says --------------------------------------------------------------

    def start(self) -> None:
        """The client has said that it is ready."""
        self._settle()

    def subscribe(self, outbound: Outbound, sink: CallSink) -> Call:
        """``resources/subscribe``: answered when the server has said that it will report it."""
        uri = (outbound.params or {}).get("uri")
        if not self._takes_subscriptions:
            return _answered(sink, outbound, METHOD_NOT_FOUND, "Method not found")
        if not isinstance(uri, str) or len(uri.encode()) > self.bounds.uri_bytes:
            return _answered(sink, outbound, INVALID_PARAMS, "Invalid params: the URI is too long")
        current = self._current
        if self._wanted.get(uri) and current is not None and uri in (current.honoured or ()):
            return _answered(sink, outbound)
        full = uri not in self._wanted and len(self._wanted) >= self.bounds.uris
        if full or len(self._waiting) >= self.bounds.uris:
            return _answered(sink, outbound, INVALID_PARAMS, "Too many subscriptions")
        call = Subscribing(self, outbound, sink, uri)
        self._wanted.setdefault(uri, False)
        self._waiting.append(call)
        if self._opening is None:
            self._open()
        return call

    def unsubscribe(self, outbound: Outbound, sink: CallSink) -> Call:
        """``resources/unsubscribe``: nothing more is heard of it from now on."""
        uri = (outbound.params or {}).get("uri")
        if not self._takes_subscriptions:
            return _answered(sink, outbound, METHOD_NOT_FOUND, "Method not found")
        if isinstance(uri, str) and self._wanted.pop(uri, None) is not None:
            for call in [one for one in self._waiting if one.uri == uri]:
                self._waiting.remove(call)
                call.reply(error=_error(INVALID_PARAMS, "Unsubscribed meanwhile"))
            self._settle()
        return _answered(sink, outbound)

    def gave_up(self, call: Subscribing) -> None:
        """The client takes a subscription back before it was answered."""
        if call in self._waiting:
            self._waiting.remove(call)
            self._forget(call.uri)
            self._settle()

    def close(self) -> None:
        """The session is over."""
        self._off = True
        self._wanted.clear()
        self._drop_streams()
        failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the link was closed")
        waiting, self._waiting = self._waiting, []
        tell_each(waiting, lambda call: call.sink.failed(failure))

    # -- opening ---------------------------------------------------------------------------

    def _settle(self) -> None:
        """Open another stream if the present one is not what is wanted."""
        if self._off or self._opening is not None or self._again is not None:
            return
        if not self._flags and not self._wanted:
            self._drop_streams()
        elif self._current is None or self._current.uris != self._wanted.keys():
            self._open()

    def _open(self) -> None:
        stop_timer(self._again)
        self._again = None
        notifications: Message = dict.fromkeys(self._flags, True)
        if self._wanted:
            notifications["resourceSubscriptions"] = list(self._wanted)
        stream = self._opening = Stream(self, set(self._wanted))
        stream.timer = self.clock.callLater(self.bounds.ack_secs, self._overdue, stream)
        stream.call = self.hearing.send(
            Outbound(
                id="listen",
                method=LISTEN,
                params={"notifications": notifications},
                version=self.version,
                principal_key=self.principal_key,
                endless=True,
            ),
            stream,
        )
        stream.call.send()

    def _overdue(self, stream: Stream) -> None:
        stream.call.cancel("not acknowledged in time")
        self.lost(stream, UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "the listen was not answered"))

    def _later(self) -> None:
        """Open a stream in a while, not all sessions at once when a server is back."""
        if self._off or self._again is not None or not (self._flags or self._wanted):
            return
        doubled = self.bounds.first_secs * 2 ** min(self._losses, 30)
        delay = min(self.bounds.most_secs, doubled) * (0.5 + self.random() / 2)
        self._losses += 1
        self._again = self.clock.callLater(delay, self._retry)

    def _retry(self) -> None:
        self._again = None
        self._settle()

    # -- what the server says --------------------------------------------------------------

    def acknowledged(self, stream: Stream, notifications: object) -> None:
        """A stream is open: it takes the place of the one before."""
        if stream is not self._opening:
            return
        stop_timer(stream.timer)
        old, self._current, self._opening = self._current, stream, None
        honoured = notifications if isinstance(notifications, dict) else {}
        listed = honoured.get("resourceSubscriptions")
        known = [uri for uri in listed if isinstance(uri, str)] if isinstance(listed, list) else []
        stream.honoured = frozenset(known) & stream.uris
        stream.since = self.clock.seconds()
        if old is not None:
            old.drop()
        for call in [one for one in self._waiting if one.uri in stream.uris]:
            self._waiting.remove(call)
            if call.uri in stream.honoured:
                self._wanted[call.uri] = True
                call.reply(result={})
            else:
                self._wanted.pop(call.uri, None)
                call.reply(
                    error=_error(
                        INVALID_PARAMS, "The server takes no subscription to this resource"
                    )
                )
        # What was declined is not asked for again: the stream is as good as it can be.
        stream.uris &= stream.honoured | self._wanted.keys()
        self._settle()

    def told(self, stream: Stream, message: Message, params: Message) -> None:
        """A notification on a stream."""
        method = message.get("method")
        uri = params.get("uri")
        wanted = stream is self._current and (
            method in self._flags.values()
            # An update may name a part of what was subscribed to, but nothing given up.
            or (
                method == UPDATED
                and isinstance(uri, str)
                and (uri not in stream.uris or uri in self._wanted)
            )
        )
        if wanted:
            self.hearing.heard({**message, "params": without_modern_meta(params)})
        else:
            self.hearing.stray("subscription")

    def lost(self, stream: Stream, problem: Message | UpstreamFailure | None) -> None:
        """A stream has ended, or was never opened: by an error, a failure, or in order (None)."""
        stop_timer(stream.timer)
        if _is_wrong_era(problem):
            failure = problem if isinstance(problem, UpstreamFailure) else wrong_era()
            self._wrong_era(stream, failure)
        elif stream is self._opening:
            self._opening = None
            self._not_opened(stream, problem)
        elif stream is self._current:
            self._current = None
            if self.clock.seconds() - stream.since >= self.bounds.most_secs:
                self._losses = 0
            if self._opening is None:
                self._later()

    def _not_opened(self, stream: Stream, problem: Message | UpstreamFailure | None) -> None:
        nowhere = (
            self._current is None
            and isinstance(problem, dict)
            and problem.get("code") == METHOD_NOT_FOUND
        )
        if nowhere:
            # Changes are not told by this server, and it will not learn that while it runs.
            self._off = True
        failed = [one for one in self._waiting if nowhere or one.uri in stream.uris]
        for call in failed:
            self._waiting.remove(call)
            self._forget(call.uri)
            if isinstance(problem, UpstreamFailure):
                call.sink.failed(problem)
            else:
                ended = _error(INVALID_PARAMS, "The server takes no subscriptions now")
                told = handshake_error(LISTEN, None, problem) if problem else ended
                call.reply(error=told)
        if self._off:
            return
        if self._waiting and self._opening is None:
            # They came while the other one was on its way: they get a try of their own.
            self._open()
        elif self._current is None or self._current.uris != self._wanted.keys():
            self._later()

    def _wrong_era(self, stream: Stream, failure: UpstreamFailure) -> None:
        if stream not in (self._opening, self._current):
            return
        self._off = True
        self._drop_streams()
        waiting, self._waiting = self._waiting, []
        tell_each(waiting, lambda call: call.sink.failed(failure))
        self.hearing.died(failure)

    # -- inside ----------------------------------------------------------------------------

    @property
    def _takes_subscriptions(self) -> bool:
        resources = self.capabilities.get("resources", {})
        return not self._off and resources.get("subscribe") is True

    def _forget(self, uri: str) -> None:
        """A request for it came to nothing; another one, or an older subscription, stands."""
        if self._wanted.get(uri) is False and all(one.uri != uri for one in self._waiting):
            del self._wanted[uri]

    def _drop_streams(self) -> None:
        stop_timer(self._again)
        self._again = None
        streams = [one for one in (self._opening, self._current) if one is not None]
        self._opening = self._current = None
        for stream in streams:
            stream.drop()


def _is_wrong_era(problem: Message | UpstreamFailure | None) -> bool:
    if isinstance(problem, UpstreamFailure):
        return problem.reason in WRONG_ERA
    return problem is not None and is_wrong_era(problem)


def _error(code: int, text: str) -> Message:
    return {"code": code, "message": text}


def _answered(sink: CallSink, outbound: Outbound, code: int | None = None, text: str = "") -> Call:
    """Answer at once: with an error, or without a code with an empty result."""
    body: Message = {"result": {}} if code is None else {"error": _error(code, text)}
    sink.answer({"jsonrpc": "2.0", "id": outbound.id, **body})
    return OverCall()
