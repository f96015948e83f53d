"""The ear at one of the server's sessions: what it says counts until the next one is begun."""

from typing import Any, Protocol

from attrs import define, field

from mcpguard.upstream.link import Call, Id, Inbox, Link, Message, UpstreamFailure


class LineOwner(Protocol):
    """The session that goes on, as its lines see it."""

    def related(self, call: Call) -> Call | None:
        """The call of ours over the server's one."""
        ...

    def line_lost(self, line: "Line", failure: UpstreamFailure) -> None:
        """The server's session is over."""
        ...


@define(eq=False)
class Line:
    """Implements `link.Inbox` for one of the server's sessions below a session that goes on.

    Servers number their requests from the start again, so an answer meant for the last one could
    be taken for an answer to another question. Towards the client's side each request's id
    therefore also names the line it came on.
    """

    number: int
    inbox: Inbox
    owner: LineOwner
    link: Link | None = None
    dead: bool = field(init=False, default=False)

    def notification(self, message: Message) -> None:
        """See `link.Inbox`."""
        if self.dead:
            return
        params = message.get("params")
        if message.get("method") == "notifications/cancelled" and isinstance(params, dict):
            message = {**message, "params": {**params, "requestId": self._ours(params)}}
        self.inbox.notification(message)

    def request(self, message: Message, related: Call | None) -> None:
        """See `link.Inbox`."""
        if not self.dead:
            ours = None if related is None else self.owner.related(related)
            self.inbox.request({**message, "id": self._token(message["id"])}, ours)

    def closed(self, failure: UpstreamFailure) -> None:
        """See `link.Inbox`."""
        if not self.dead:
            self.dead = True
            self.owner.line_lost(self, failure)

    def respond(self, message: Message) -> None:
        """Pass on an answer, if the question came on this line."""
        theirs = self._theirs(message.get("id"))
        if theirs is not None and self.link is not None:
            self.link.respond({**message, "id": theirs})

    def _ours(self, params: Message) -> Any:
        theirs = params.get("requestId")
        known = isinstance(theirs, str | int) and not isinstance(theirs, bool)
        return self._token(theirs) if known else theirs

    def _token(self, theirs: Any) -> str:
        kind = "s" if isinstance(theirs, str) else "i"
        return f"{self.number}{kind}{theirs}"

    def _theirs(self, token: object) -> Id | None:
        prefix = str(self.number)
        if not isinstance(token, str) or not token.startswith((f"{prefix}s", f"{prefix}i")):
            return None
        rest = token[len(prefix) + 1 :]
        return rest if token[len(prefix)] == "s" else int(rest)
