"""A server of either era that says what its test wants, and remembers who gave it what."""

import re
from random import Random
from typing import Any, Literal

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from mcpguard.errors import Reason
from mcpguard.protocol.mcp import META_SUBSCRIPTION_ID
from mcpguard.upstream.link import (
    CallSink,
    Eras,
    Inbox,
    Link,
    Message,
    Opening,
    Outbound,
    Standing,
    UpstreamFailure,
)

MODERN = "2026-07-28"
CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
}
OWNER = re.compile(r"@(\w+)@")


@define(eq=False)
class TalkerCall:
    """A call under way."""

    link: "TalkerLink"
    outbound: Outbound
    sink: CallSink
    said: list[str] = field(factory=list)
    """What it was given: arguments, and answers of people."""
    over: bool = False
    held: int = 0

    def cancel(self, reason: str) -> None:
        """Stop."""
        self.over = True

    def hold(self) -> None:
        """Count."""
        self.held += 1

    def release(self) -> None:
        """Count."""
        self.held -= 1

    @property
    def owners(self) -> set[str]:
        """Everybody whose words it has heard."""
        return set(OWNER.findall(" ".join(self.said)))


@define(eq=False)
class TalkerLink:
    """A session, or the way of stateless requests."""

    server: "Talker"
    inbox: Inbox | None = None
    uris: set[str] = field(factory=set)
    closed: bool = False
    asked: dict[str, TalkerCall] = field(factory=dict)

    def request(self, outbound: Outbound, sink: CallSink) -> TalkerCall:
        """Answer what is simple, keep the rest."""
        call = TalkerCall(self, outbound, sink)
        params = outbound.params or {}
        if self.closed:
            call.over = True
            sink.failed(UpstreamFailure(Reason.SESSION_NOT_FOUND, "closed"))
        elif outbound.method == "subscriptions/listen":
            self.server.listens.append(call)
            wanted = params["notifications"]
            sink.notification(self._of_listen(call, "subscriptions/acknowledged", wanted))
        elif outbound.method == "tools/call":
            call.said.append(str(params.get("arguments")))
            responses = params.get("inputResponses")
            if responses is not None:
                call.said += [str(responses), str(params.get("requestState"))]
            self.server.calls.append(call)
        else:
            if outbound.method == "resources/subscribe":
                self.uris.add(params["uri"])
            elif outbound.method == "resources/unsubscribe":
                self.uris.discard(params["uri"])
            call.over = True
            tools = {"tools": [{"name": "hold", "inputSchema": {"type": "object"}}]}
            result: Message = dict(tools) if outbound.method == "tools/list" else {}
            if self.inbox is None:
                result["resultType"] = "complete"
            sink.answer({"jsonrpc": "2.0", "id": outbound.id, "result": result})
        return call

    def notify(self, method: str, params: Message | None) -> None:
        """Nothing is done with it."""

    def respond(self, message: Message) -> None:
        """Give a person's answer to the call that asked."""
        call = self.asked.pop(message["id"], None)
        if call is not None:
            call.said.append(str(message.get("result", message.get("error"))))

    def close(self) -> Deferred[None]:
        """End it."""
        self.closed = True
        for call in self.server.calls:
            if call.link is self:
                call.over = True
        return succeed(None)

    @staticmethod
    def _of_listen(call: TalkerCall, name: str, params: Message) -> Message:
        meta = {META_SUBSCRIPTION_ID: call.outbound.id}
        if name == "subscriptions/acknowledged":
            params = {"notifications": params}
        method = f"notifications/{name}"
        return {"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": meta}}

    def tell(self, call: TalkerCall, name: str, params: Message) -> None:
        """Say something on a listen."""
        call.sink.notification(self._of_listen(call, name, params))


@define(eq=False)
class Talker:
    """Implements `link.Upstream`; what happens on it is up to `stir`."""

    era: Literal["legacy", "modern"]
    relates: bool
    """Whether its transport tells which call a request or log line belongs to."""
    random: Random
    name: str = "default"
    transport: str = "stdio"
    sessions: list[TalkerLink] = field(factory=list)
    calls: list[TalkerCall] = field(factory=list)
    listens: list[TalkerCall] = field(factory=list)
    _next: int = 0

    @property
    def standing(self) -> Standing:
        """Always usable."""
        return Standing(usable=True)

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> Deferred[None]:
        """Nothing to stop."""
        return succeed(None)

    def eras(self) -> Deferred[Eras]:
        """The one era."""
        if self.era == "legacy":
            return succeed(Eras(legacy=True))
        discovered = {"supportedVersions": [MODERN], "capabilities": CAPABILITIES}
        return succeed(Eras(legacy=False, modern=(MODERN,), discovered=discovered))

    def open_session(
        self, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Deferred[Opening]:
        """A session of its own."""
        link = TalkerLink(self, inbox)
        self.sessions.append(link)
        return succeed(
            Opening(
                link,
                {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": CAPABILITIES,
                    "serverInfo": {"name": "talker", "version": "1"},
                },
            )
        )

    def resume_session(
        self,
        principal_key: str,
        params: Message,
        version: str,
        session_id: str | None,
        inbox: Inbox,
        path: str,
    ) -> Deferred[Link]:
        """Sessions end with the process."""
        return fail(UpstreamFailure(Reason.SESSION_NOT_FOUND, "none"))

    def stateless(self, principal_key: str, path: str) -> Deferred[Link]:
        """A way for a request."""
        return succeed(TalkerLink(self))

    # -- what happens ----------------------------------------------------------------------

    def stir(self) -> None:
        """Let one thing happen, whichever."""
        running = [call for call in self.calls if not call.over and not call.link.closed]
        happening = self.random.choice(("call", "call", "call", "update", "change", "crash"))
        if happening == "call" and running:
            self._work(self.random.choice(running))
        elif happening == "update":
            self._update()
        elif happening == "change":
            self._change()
        elif happening == "crash" and self.sessions and self.random.random() < 0.2:
            self._crash(self.random.choice(self.sessions))

    def _work(self, call: TalkerCall) -> None:
        what = self.random.choice(("progress", "log", "ask", "ask", "answer"))
        words = " ".join(call.said)
        meta = (call.outbound.params or {}).get("_meta", {})
        if what == "progress" and "progressToken" in meta:
            told = {"progressToken": meta["progressToken"], "progress": 1, "message": words}
            call.sink.notification(_notice("progress", told))
        elif what == "log":
            line = _notice("message", {"level": "error", "data": words})
            if self.relates or call.link.inbox is None:
                call.sink.notification(line)
            else:
                call.link.inbox.notification(line)
        elif what == "ask":
            self._ask(call, words)
        elif what == "answer":
            self._finish(call, {"content": [{"type": "text", "text": words}]})

    def _ask(self, call: TalkerCall, words: str) -> None:
        self._next += 1
        question = {
            "mode": "form",
            "message": words,
            "requestedSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
        }
        if call.link.inbox is None:
            one = {"method": "elicitation/create", "params": question}
            self._finish(
                call,
                {
                    "resultType": "input_required",
                    "inputRequests": {f"q{self._next}": one},
                    "requestState": f"state of {words}",
                },
            )
            return
        key = f"ask-{self._next}"
        call.link.asked[key] = call
        asking = {"jsonrpc": "2.0", "id": key, "method": "elicitation/create", "params": question}
        call.link.inbox.request(asking, call if self.relates else None)

    def _finish(self, call: TalkerCall, result: Message) -> None:
        call.over = True
        if call.link.inbox is None:
            result = {"resultType": "complete", **result}
        call.sink.answer({"jsonrpc": "2.0", "id": call.outbound.id, "result": result})

    def _update(self) -> None:
        for link in self.sessions:
            if link.uris and not link.closed and link.inbox is not None:
                uri = self.random.choice(sorted(link.uris))
                link.inbox.notification(_notice("resources/updated", {"uri": uri}))
        for call in self.listens:
            uris = (call.outbound.params or {})["notifications"].get("resourceSubscriptions")
            if uris and not call.over:
                call.link.tell(call, "resources/updated", {"uri": self.random.choice(uris)})

    def _change(self) -> None:
        for link in self.sessions:
            if not link.closed and link.inbox is not None:
                link.inbox.notification(_notice("tools/list_changed", {}))
        for call in self.listens:
            wanted = (call.outbound.params or {})["notifications"]
            if wanted.get("toolsListChanged") and not call.over:
                call.link.tell(call, "tools/list_changed", {})

    def _crash(self, link: TalkerLink) -> None:
        if link.closed:
            return
        link.closed = True
        lost = UpstreamFailure(Reason.UPSTREAM_FAILED, "the server has crashed")
        for call in self.calls:
            if call.link is link and not call.over:
                call.over = True
                call.sink.failed(lost)
        if link.inbox is not None:
            link.inbox.closed(lost)


def _notice(name: str, params: Any) -> Message:
    return {"jsonrpc": "2.0", "method": f"notifications/{name}", "params": params}
