"""One request on its way in: the body within its bound, then the checks every route shares."""

from io import BytesIO
from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from mcpguard.errors import Reason, Refusal
from mcpguard.front.exchange import Gate, Incoming
from mcpguard.front.head import Head, plain_path
from mcpguard.front.outlet import PacedOutlet, RequestOutlet

if TYPE_CHECKING:
    from mcpguard.front.channel import GuardChannel
    from mcpguard.front.site import GuardSite

_log = Logger()

BODIES_FULL = Refusal(Reason.OVERLOADED, retry_after=1.0, detail="body_bytes_total is reached")
"""For a body that all the others leave no room for."""


class GuardRequest(Request):
    """A request whose head was read by `head` and whose answer leaves by an `Outlet`."""

    defaultContentType = None
    channel: "GuardChannel"
    content: BytesIO
    head: Head
    refusal: Refusal | None = None
    """Decided while the request was read; it has no body then."""
    incoming: Incoming
    outlet: RequestOutlet
    _held = 0
    """Bytes of the listener's `Limits.body_bytes_total` that this request takes up."""

    def take_head(self, guard: "GuardSite", head: Head, refusal: Refusal | None) -> None:
        """Take what the channel read, and its verdict."""
        self._guard = guard
        self.head = head
        self.refusal = refusal
        self.outlet = RequestOutlet(self, self.channel, guard)
        self.notifyFinish().addBoth(self._forget_body)

    # -- reading the body

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory; Twisted alone writes large ones to a file, without a cap."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, or refuse it all at the byte that passes the bound."""
        if self.refusal is not None:
            return
        if self.content.tell() + len(data) > self._guard.limits.body_bytes:
            self._refuse_body(Refusal(Reason.TOO_LARGE))
        elif not self._guard.bodies.take(len(data)):
            self._refuse_body(BODIES_FULL)
        else:
            self._held += len(data)
            self.content.write(data)

    def _refuse_body(self, refusal: Refusal) -> None:
        self.content = BytesIO()
        self._forget_body()
        self.channel.refuse_unread(refusal)

    def _forget_body(self, _: object = None) -> None:
        """Give back what the body takes up: it was refused, answered, or its sender is gone."""
        self._guard.bodies.give(self._held)
        self._held = 0

    def parseCookies(self) -> None:
        """Leave cookies alone: nothing here reads them."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Begin with a request that was read whole, or refused while it was read."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = self.head.path.encode("ascii")
        self.args = {}
        self.notifyFinish().addErrback(lambda _: self.outlet.client_left())
        try:
            self.process()
        except Exception:
            self.processingFailed(Failure())

    # -- what every route shares

    def process(self) -> None:
        """Refuse, answer a preflight, or go on to the routes."""
        self.site = site = self._guard
        body = self.content.getvalue()
        self.content = BytesIO()
        self.incoming = Incoming(
            request_id=site.new_id(),
            method=self.head.method,
            path=self.head.path,
            query=self.head.query,
            headers=self.head.headers,
            body=body,
            peer=self.channel.peer,
            received_at=site.reactor.seconds(),
            local_port=getattr(self.getHost(), "port", 0),
            certificate=self.channel.certificate,
        )
        self.outlet.request_id = self.incoming.request_id
        if site.cors is not None:
            self.outlet.cross_origin = site.cors.headers(self.incoming)
        refusal = self.refusal or site.gate.screen(self.incoming)
        preflight = site.cors.preflight(self.incoming) if site.cors is not None else None
        if refusal is None and preflight is not None:
            self.outlet.answer(204, preflight, b"")
            return
        refusal = refusal or self._stray_target()
        if refusal is not None:
            self.refuse(refusal)
            return
        # Twisted decodes each segment here, so `/mcp%2Ffs` would be routed as `/mcp/fs`.
        self.prepath = []
        self.postpath = self.path[1:].split(b"/")
        if site.resource.render(self) is not NOT_DONE_YET:
            raise RuntimeError("routes answer by the outlet")

    def refuse(self, refusal: Refusal) -> None:
        """Hand the request back with a refusal, which is rendered, counted and recorded."""
        self._guard.gate.refuse(self.incoming, refusal, self.outlet)

    def finish(self) -> None:
        """End the answer when the outlet has sent it all.

        Klein ends a request it found no route for once more, and one whose client has left.
        """
        if self.outlet.complete and not self.finished:
            super().finish()

    def getRequestHostname(self) -> bytes:
        """Give the router a constant name.

        Klein builds its URL map from the Host header: a label of 64 letters was observed to
        raise inside the router, and its redirects repeat whatever name was sent.
        """
        return b"localhost"

    def _stray_target(self) -> Refusal | None:
        """What no route may see: odd methods, targets that are not a plain path."""
        method = self.head.method
        if method == "CONNECT" or method != method.upper() or self.head.path == "*":
            return Refusal(Reason.METHOD_NOT_ALLOWED, headers=(("Allow", "GET, POST, DELETE"),))
        if plain_path(self.head.path):
            return None
        ends_in_slash = len(self.head.path) > 1 and plain_path(self.head.path[:-1])
        return Refusal(Reason.NOT_FOUND, "Not found: the path ends in /" if ends_in_slash else "")

    def processingFailed(self, reason: Failure) -> Failure:
        """Fail closed after an error of our own."""
        fail_closed(self._guard.gate, getattr(self, "incoming", None), self.outlet, reason)
        return reason


def fail_closed(
    gate: Gate, incoming: Incoming | None, outlet: PacedOutlet, reason: Failure
) -> None:
    """After an error of our own: a plain 500, or a cut connection; never raises."""
    _log.failure(
        "Request {request_id} failed in the front", failure=reason, request_id=outlet.request_id
    )
    if not outlet.begun and incoming is not None:
        try:
            gate.refuse(incoming, Refusal(Reason.INTERNAL), outlet)
        except Exception:
            _log.failure("The refusal failed as well")
    if not outlet.begun:
        outlet.answer(500, (), b"")
    elif not outlet.complete:
        outlet.cut("failed")
