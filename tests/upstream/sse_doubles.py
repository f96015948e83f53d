"""An HTTP+SSE upstream in memory: a double of the wire, a virtual clock; the server is the test."""

from typing import Any

from twisted.internet.defer import Deferred

from mcpguard.config.settings import UpstreamSettings
from mcpguard.protocol.sse import encode_event
from mcpguard.upstream.link import Link, Message, UpstreamFailure
from mcpguard.upstream.sse import SseUpstream
from tests.upstream.http_doubles import LEGACY, Inbox, Sent, UrlCase

URL = "http://127.0.0.1:9/sse"
ENDPOINT = "/messages/?session_id=s1"
POSTED_AT = "http://127.0.0.1:9" + ENDPOINT
RESULT: Message = {"protocolVersion": LEGACY, "capabilities": {}}


def locate(stream: Sent, reference: str = ENDPOINT) -> None:
    """Send the ``endpoint`` event."""
    stream.receiver.data(encode_event(reference.encode(), event="endpoint"))


class SseCase(UrlCase):
    """An `SseUpstream` whose server is the test."""

    def build(self, **settings: Any) -> SseUpstream:
        """An upstream on this case's wire."""
        given = {"name": "remote", "transport": "sse", "url": URL, **settings}
        return SseUpstream(
            UpstreamSettings(**given),
            reactor=self.clock,
            meter=self.books,
            recorder=self.books,
            random=lambda: 0.0,
            wire=self.wire,
        )

    @property
    def stream(self) -> Sent:
        """The newest event stream."""
        return self.wire.last("GET")

    def posts(self) -> list[Sent]:
        """Every POST so far."""
        return [one for one in self.wire.requests if one.method == "POST"]

    def locate(self, reference: str = ENDPOINT) -> None:
        """Begin the newest stream with its endpoint."""
        self.stream.events()
        locate(self.stream, reference)

    def say(self, message: Message) -> None:
        """Send a message on the newest stream."""
        self.stream.event(message, kind="message")

    def answer(self, sent: Sent, result: Message | None = None) -> None:
        """Take a request by 202 and answer it on the newest stream."""
        sent.status(202)
        self.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": result or {}})

    def greet(self, result: Message = RESULT) -> None:
        """Do the server's part of the handshake."""
        self.locate()
        self.answer(self.wire.last("POST"), result)

    def session(self, inbox: Inbox | None = None) -> Link:
        """An open session before ``initialized``."""
        opening = self.opening(inbox)
        self.greet()
        return self.successResultOf(opening).link

    def ready(self, inbox: Inbox | None = None) -> Link:
        """An open session after ``initialized``."""
        link = self.session(inbox)
        link.notify("notifications/initialized", None)
        self.wire.last("POST").status(202)
        return link

    def failure(self, opening: Deferred[Any]) -> UpstreamFailure:
        """Why a session was not opened."""
        found = self.failureResultOf(opening, UpstreamFailure).value
        assert isinstance(found, UpstreamFailure)
        return found
