"""What a client has made a server know of its session, to be told again to the next one."""

from collections import deque

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mcpguard.errors import Reason
from mcpguard.upstream.link import Link, Message, Outbound, UpstreamFailure

log = Logger()

TELLING = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Requests that change what a server knows of a session."""
BUSY_SECS = 1.0
"""Before another try where a server has no place free and does not say when."""


@frozen
class PostureBounds:
    """How much is kept of one session."""

    max_subscriptions: int
    max_uri: int
    """Characters; longer ones, and those above the number, end with the server's session."""


@define(eq=False)
class Posture:
    """Whether a session is initialized, its log level and its resource subscriptions."""

    bounds: PostureBounds
    initialized: bool = False
    level: str | None = field(init=False, default=None)
    subscribed: dict[str, None] = field(init=False, factory=dict)
    waiting: IDelayedCall | None = field(init=False, default=None)
    """For a place at the server, to tell it the rest."""

    def heard(self, outbound: Outbound) -> None:
        """Note a request that the server has carried out."""
        params = outbound.params or {}
        if outbound.method == "logging/setLevel":
            level = params.get("level")
            self.level = level if isinstance(level, str) and len(level) <= 64 else None
        elif outbound.method in ("resources/subscribe", "resources/unsubscribe"):
            uri = params.get("uri")
            if not isinstance(uri, str):
                return
            if outbound.method == "resources/unsubscribe":
                self.subscribed.pop(uri, None)
            elif (
                len(uri) <= self.bounds.max_uri
                and len(self.subscribed) < self.bounds.max_subscriptions
            ):
                self.subscribed[uri] = None

    def restore(self, link: Link, clock: IReactorTime, version: str, principal_key: str) -> None:
        """Tell a new session, one thing after the other, beside what its client asks now.

        One at a time, because ``max_concurrency`` is for callers; where they take all of it, later.
        A refusal changes nothing: the resource may be gone.
        """
        wanted: deque[tuple[str, Message]] = deque()
        if self.level is not None:
            wanted.append(("logging/setLevel", {"level": self.level}))
        wanted.extend(("resources/subscribe", {"uri": uri}) for uri in self.subscribed)
        _Restoring(self, link, clock, version, principal_key, wanted).next()

    def rest(self) -> None:
        """The session is lost: there is nobody to tell anything."""
        if self.waiting is not None and self.waiting.active():
            self.waiting.cancel()
        self.waiting = None


@define(eq=False)
class _Restoring:
    """The requests that restore a posture; each is sent when the last has ended."""

    posture: Posture
    link: Link
    clock: IReactorTime
    version: str
    principal_key: str
    wanted: deque[tuple[str, Message]]
    _due: bool = field(init=False, default=False)
    _sending: bool = field(init=False, default=False)

    def next(self) -> None:
        """Send the next that is still wanted."""
        self._due = True
        if self._sending:
            return  # an answer that came before the request was sent; a loop, not a recursion
        self._sending = True
        while self._due and self.wanted:
            method, params = self.wanted.popleft()
            if not self._holds(method, params):
                continue
            self._due = False
            outbound = Outbound(0, method, params, self.version, self.principal_key)
            self.link.request(outbound, _Told(self, method, params))
        self._sending = False

    def _holds(self, method: str, params: Message) -> bool:
        """Whether the client has not said otherwise meanwhile."""
        if method == "resources/subscribe":
            return params["uri"] in self.posture.subscribed
        return bool(params["level"] == self.posture.level)

    def again(self, method: str, params: Message, delay: float) -> None:
        """Send one of them once more in a while."""
        self.wanted.appendleft((method, params))
        self.posture.rest()
        self.posture.waiting = self.clock.callLater(delay, self.next)


@define(eq=False)
class _Told:
    """The sink of one of them."""

    restoring: _Restoring
    method: str
    params: Message

    def notification(self, message: Message) -> None:
        """Drop it."""

    def answer(self, message: Message) -> None:
        """Go on."""
        if "error" in message:
            log.info("{method} was refused to a renewed session", method=self.method)
        self.restoring.next()

    def failed(self, failure: UpstreamFailure) -> None:
        """Go on if the server is only slow, or has no place free."""
        log.info("{method} failed: {why}", method=self.method, why=failure.detail)
        if failure.reason is Reason.UPSTREAM_TIMEOUT:
            self.restoring.next()
        elif failure.reason is Reason.UPSTREAM_BUSY:
            self.restoring.again(self.method, self.params, failure.retry_after or BUSY_SECS)
