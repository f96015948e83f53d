"""What the live tests of HTTP upstreams share: waiting sinks, an inbox that answers, a case."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.iweb import IPolicyForHTTPS

from mcpguard.config.settings import UpstreamSettings
from mcpguard.upstream.http import HttpUpstream
from mcpguard.upstream.link import Call, Link, Message, Opening, Outbound, UpstreamFailure
from tests.live.processes import LiveCase
from tests.upstream.http_doubles import Books

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Waiting:
    """A call sink that can be waited for."""

    def __init__(self) -> None:
        self.notifications: list[Message] = []
        self.done: Deferred[Message] = Deferred()
        self.first: Deferred[Message] = Deferred()
        """The first notification."""

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notifications.append(message)
        if not self.first.called:
            self.first.callback(message)

    def answer(self, message: Message) -> None:
        """Fire."""
        self.done.callback(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """Fire."""
        self.done.errback(failure)


class Answering:
    """An inbox that answers what a client with every capability would."""

    REPLIES = {
        "elicitation/create": {"action": "accept", "content": {"answer": "yes", "name": "yes"}},
        "sampling/createMessage": {
            "role": "assistant",
            "model": "m1",
            "content": {"type": "text", "text": "sampled"},
        },
        "roots/list": {"roots": [{"uri": "file:///r", "name": "r"}]},
        "ping": {},
    }

    def __init__(self) -> None:
        self.link: Link | None = None
        self.asked: list[tuple[str, bool]] = []
        """The methods asked for, and whether a call was named."""
        self.notifications: list[Message] = []
        self.closings: list[UpstreamFailure] = []

    def notification(self, message: Message) -> None:
        """Keep it."""
        self.notifications.append(message)

    def request(self, message: Message, related: Call | None) -> None:
        """Answer it."""
        self.asked.append((message["method"], related is not None))
        assert self.link is not None
        reply = self.REPLIES[message["method"]]
        self.link.respond({"jsonrpc": "2.0", "id": message["id"], "result": reply})

    def closed(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.closings.append(failure)


class HttpUpstreamCase(LiveCase):
    """A test with real HTTP upstreams, each stopped with it."""

    def upstream(
        self, url: str, https: IPolicyForHTTPS | None = None, **settings: Any
    ) -> HttpUpstream:
        """An upstream at a URL; ``https`` says which certificates are trusted."""
        given = {"name": "live", "transport": "http", "url": url, "timeout_secs": 15.0, **settings}
        self.books = Books()
        upstream = HttpUpstream(
            UpstreamSettings(**given),
            reactor=self.reactor,
            meter=self.books,
            recorder=self.books,
            random=lambda: 0.0,
            https=https,
        )
        self.addCleanup(upstream.stop)
        return upstream

    async def session(self, upstream: HttpUpstream, **capabilities: Any) -> tuple[Link, Answering]:
        """A session that has shaken hands."""
        inbox = Answering()
        params = {
            "protocolVersion": LEGACY,
            "capabilities": capabilities,
            "clientInfo": {"name": "live", "version": "1"},
        }
        opening: Opening = await upstream.open_session("api_key:live", params, inbox, "")
        inbox.link = opening.link
        opening.link.notify("notifications/initialized", None)
        return opening.link, inbox

    def ask(
        self, link: Link, method: str, modern: bool = False, endless: bool = False, **params: Any
    ) -> tuple[Call, Waiting]:
        """Send a request under the client's id 1 and progress token 1."""
        meta = {**(META if modern else {}), "progressToken": 1}
        version = MODERN if modern else LEGACY
        outbound = Outbound(
            1, method, {**params, "_meta": meta}, version, "api_key:live", endless=endless
        )
        sink = Waiting()
        return link.request(outbound, sink), sink

    async def call(self, link: Link, tool: str, modern: bool = False, **arguments: Any) -> Message:
        """Call a tool; the whole answer."""
        _, sink = self.ask(link, "tools/call", modern, name=tool, arguments=arguments)
        return await sink.done

    async def failure(self, link: Link, modern: bool = False) -> UpstreamFailure:
        """Call a tool, which must fail; the failure."""
        try:
            answer = await self.call(link, "echo", modern, message="x")
        except UpstreamFailure as failure:
            return failure
        raise AssertionError(f"answered: {answer}")

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await deferLater(self.reactor, seconds)

    @staticmethod
    def text(answer: Message) -> str:
        """The text of a tool's answer."""
        return "".join(part.get("text", "") for part in answer["result"]["content"])
