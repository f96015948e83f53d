"""Handshake-era sessions before a stateless server, which knows nothing of them.

A session has no state at the server: what it is consists of its ``initialize`` params, so it can
be taken up again from them alone. Only its log level and its subscriptions are lost with it.
"""

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mcpguard.errors import Reason
from mcpguard.observe.events import Meter
from mcpguard.pipeline.bridge.borrowed_call import StatelessWay
from mcpguard.pipeline.bridge.handshake_call import CallBounds, wrong_era
from mcpguard.pipeline.bridge.handshake_link import HandshakeLink
from mcpguard.pipeline.bridge.lodging import tell_each
from mcpguard.pipeline.bridge.session_listen import ListenBounds
from mcpguard.pipeline.schemas import OneAnswer, ToolSchemas, gateway_meta
from mcpguard.protocol.bridge.handshake import (
    Introduction,
    initialize_result,
    introduction,
    is_wrong_era,
    server_capabilities,
)
from mcpguard.protocol.mcp import MODERN_VERSIONS
from mcpguard.upstream.link import (
    Eras,
    Inbox,
    Link,
    Message,
    Opening,
    Outbound,
    Upstream,
    UpstreamFailure,
)


@frozen
class HandshakeBounds:
    """How much one bridged session may hold and how long its requests may take."""

    call: CallBounds
    listen: ListenBounds
    questions: int
    """Questions of its server that wait for its client, of all requests of one session."""


@define(eq=False)
class HandshakeSessions:
    """Opens sessions before one stateless server; see `bridge.upstream.HandshakeSide`."""

    inner: Upstream
    schemas: ToolSchemas
    clock: IReactorTime
    random: Callable[[], float]
    meter: Meter
    bounds: HandshakeBounds
    _links: set[HandshakeLink] = field(init=False, factory=set)
    _ended: bool = field(init=False, default=False)

    def __len__(self) -> int:
        return len(self._links)

    async def open(
        self, eras: Eras, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Opening:
        """Answer ``initialize`` from what the server told of itself; raises `UpstreamFailure`."""
        client = introduction(params)
        discovered = await self._discovered(eras, principal_key, path)
        link = self._link(eras, discovered, client, principal_key, inbox, path)
        result = initialize_result(discovered, client.version, self.inner.name)
        return Opening(link, result, ephemeral=True, resumable=True)

    async def resume(
        self,
        eras: Eras,
        principal_key: str,
        params: Message,
        version: str,
        inbox: Inbox,
        path: str,
    ) -> Link:
        """Go on with a session of an earlier life; raises `UpstreamFailure`."""
        client = introduction(params, version)
        discovered = await self._discovered(eras, principal_key, path)
        link = self._link(eras, discovered, client, principal_key, inbox, path)
        # Its client said long ago that it is ready.
        link.listen.start()
        return link

    def end_all(self) -> Deferred[None]:
        """End every session; fires when that is done."""
        self._ended = True
        done: Deferred[None] = Deferred()
        tell_each(self._links, lambda link: link.end())
        done.callback(None)
        return done

    # -- inside ----------------------------------------------------------------------------

    async def _discovered(self, eras: Eras, principal_key: str, path: str) -> Message:
        """What ``server/discover`` says; asked for now if the probe got no result of it."""
        if eras.discovered is not None:
            return eras.discovered
        sink = OneAnswer()
        outbound = Outbound(
            id="discover",
            method="server/discover",
            params={"_meta": gateway_meta()},
            version=_version_of(eras),
            principal_key=principal_key,
        )
        StatelessWay(self.inner, self.schemas, principal_key, path).call(outbound, sink).send()
        answer = await sink.done
        result, error = answer.get("result"), answer.get("error")
        if isinstance(error, dict) and is_wrong_era(error):
            raise wrong_era()
        if not isinstance(result, dict):
            raise UpstreamFailure(Reason.UPSTREAM_FAILED, "server/discover was refused")
        return result

    def _link(
        self,
        eras: Eras,
        discovered: Message,
        client: Introduction,
        principal_key: str,
        inbox: Inbox,
        path: str,
    ) -> HandshakeLink:
        if self._ended:
            raise UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "the upstream is stopped")
        link = HandshakeLink(
            way=StatelessWay(self.inner, self.schemas, principal_key, path),
            client=client,
            server=server_capabilities(discovered.get("capabilities")),
            version=_version_of(eras),
            inbox=inbox,
            clock=self.clock,
            random=self.random,
            meter=self.meter,
            call_bounds=self.bounds.call,
            listen_bounds=self.bounds.listen,
            max_questions=self.bounds.questions,
            on_closed=self._links.discard,
        )
        self._links.add(link)
        return link


def _version_of(eras: Eras) -> str:
    """The newest stateless version that both sides speak; raises `UpstreamFailure`."""
    for version in MODERN_VERSIONS:
        if version in eras.modern:
            return version
    raise UpstreamFailure(Reason.UPSTREAM_ERA, "it speaks no stateless version known here")
