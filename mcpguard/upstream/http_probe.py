"""Finding out which eras an HTTP server speaks, leaving nothing behind on it."""

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mcpguard import __version__
from mcpguard.config.settings import EraChoice
from mcpguard.errors import Reason
from mcpguard.protocol.eras import DiscoverVerdict, judge_discover
from mcpguard.protocol.headers import routing_headers
from mcpguard.protocol.jsonrpc import encode
from mcpguard.protocol.mcp import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_CLIENT_INFO,
    META_VERSION,
    MODERN_VERSIONS,
)
from mcpguard.upstream.http_reader import Form, MessageReader, not_heard, refusal_of
from mcpguard.upstream.http_remote import POST_HEADERS, Remote
from mcpguard.upstream.http_session import HttpSession
from mcpguard.upstream.link import Call, Eras, InitializeRejected, Message, UpstreamFailure
from mcpguard.upstream.url_session import UrlSession
from mcpguard.upstream.wire import Head

PROBE_ID = "mcp-guard-probe"
DISCOVER = "server/discover"
CLIENT_INFO = {"name": "mcp-guard", "version": __version__}
PRINCIPAL = "gateway:probe"

_NO_WORD_ON_ERAS = frozenset({Reason.UPSTREAM_TIMEOUT, Reason.UPSTREAM_FAILED})


async def probe_eras(remote: Remote, choice: EraChoice, discover_secs: float) -> Eras:
    """Ask the server; raises `UpstreamFailure` when it cannot be asked or speaks nothing known.

    ``server/discover`` comes first; unless its answer says which handshake versions there are, or
    that there are none, ``initialize`` is tried and the session it made is DELETEd. A server that
    answers this and was silent before is asked a second time: the first question may have woken it.
    """
    if choice == "legacy":
        if not await _handshakes(remote):
            raise UpstreamFailure(Reason.UPSTREAM_ERA, "it refuses initialize, yet era = legacy")
        return Eras(legacy=True)
    heard = await _discover(remote, discover_secs)
    verdict = heard or judge_discover(None)
    if choice == "modern":
        return Eras(False, verdict.modern or MODERN_VERSIONS, verdict.discovered)
    legacy = verdict.legacy
    if legacy is None:
        try:
            legacy = await _handshakes(remote)
        except UpstreamFailure as failure:
            if not verdict.modern or failure.reason not in _NO_WORD_ON_ERAS:
                raise
            legacy = False
    if heard is None:
        verdict = await _discover(remote, discover_secs) or verdict
    if not legacy and not verdict.modern:
        raise UpstreamFailure(Reason.UPSTREAM_ERA, "it speaks no protocol version known here")
    return Eras(legacy, verdict.modern, verdict.discovered)


async def _discover(remote: Remote, seconds: float) -> DiscoverVerdict | None:
    """Ask ``server/discover``; None when there was no answer in time."""
    version = MODERN_VERSIONS[0]
    params: Message = {
        "_meta": {
            META_VERSION: version,
            META_CAPABILITIES: {},
            META_CLIENT_INFO: CLIENT_INFO,
        }
    }
    message: Message = {"jsonrpc": "2.0", "id": PROBE_ID, "method": DISCOVER, "params": params}
    question = _Question(remote)
    headers = (*POST_HEADERS, *routing_headers(version, DISCOVER, params))
    try:
        head, answer = await question.ask(remote.target.url(), headers, encode(message), seconds)
    except UpstreamFailure as failure:
        if failure.reason is Reason.UPSTREAM_TIMEOUT:
            return None
        if failure.reason in _NO_WORD_ON_ERAS:
            return judge_discover(None)
        raise
    if not_heard(head):
        # No word on the eras either way.
        raise refusal_of(head, remote.clock.seconds())
    return judge_discover(answer)


async def shakes_hands(session: UrlSession) -> bool:
    """Whether ``initialize`` is answered with a handshake version known here; ends the session."""
    params: Message = {
        "protocolVersion": LATEST_LEGACY,
        "capabilities": {},
        "clientInfo": CLIENT_INFO,
    }
    try:
        opening = await session.open(PRINCIPAL, params)
    except InitializeRejected:
        return False
    await session.close()
    return opening.result.get("protocolVersion") in LEGACY_VERSIONS


class Deaf:
    """The inbox of a session that is closed before it begins."""

    def notification(self, message: Message) -> None:
        """Drop it."""

    def request(self, message: Message, related: Call | None) -> None:
        """Drop it."""

    def closed(self, failure: UpstreamFailure) -> None:
        """Nothing follows from it."""


async def _handshakes(remote: Remote) -> bool:
    return await shakes_hands(
        HttpSession(remote, remote.target.url(), Deaf(), on_end=lambda _: None)
    )


@define(eq=False, repr=False)
class _Question:
    """One POST whose answer counts whatever its id and status. Implements `ReaderOwner`."""

    remote: Remote
    _answered: Deferred[tuple[Head, Message | None]] = field(init=False)
    _reader: MessageReader | None = field(init=False, default=None)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _head: Head | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._answered = Deferred(lambda _: self._stop())

    def ask(
        self, url: str, headers: tuple[tuple[str, str], ...], body: bytes, seconds: float
    ) -> Deferred[tuple[Head, Message | None]]:
        """Ask it; errbacks with `UpstreamFailure`, after ``seconds`` with ``UPSTREAM_TIMEOUT``."""
        self._timer = self.remote.clock.callLater(seconds, self._expire)
        self._reader = self.remote.ask("POST", url, headers, body, self)
        return self._answered

    def opened(self, head: Head, form: Form) -> None:
        """See `http_reader.ReaderOwner`."""
        self._head = head

    def message(self, message: Message) -> None:
        """See `http_reader.ReaderOwner`: the first response is the answer."""
        if "method" not in message and not self._answered.called and self._head is not None:
            self._settle()
            if self._reader is not None:
                self._reader.discard()
            self._answered.callback((self._head, message))

    def mark(self, event_id: str | None, retry: int | None) -> None:
        """See `http_reader.ReaderOwner`."""

    def closed(self) -> None:
        """See `http_reader.ReaderOwner`."""
        if not self._answered.called and self._head is not None:
            self._settle()
            self._answered.callback((self._head, None))

    def lost(self, failure: UpstreamFailure) -> None:
        """See `http_reader.ReaderOwner`."""
        if not self._answered.called:
            self._settle()
            self._answered.errback(failure)

    def _expire(self) -> None:
        self._stop()
        self._answered.errback(UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "no answer in time"))

    def _stop(self) -> None:
        self._settle()
        if self._reader is not None:
            self._reader.abort()

    def _settle(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
