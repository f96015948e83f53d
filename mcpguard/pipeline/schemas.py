"""The tool schemas of stateless servers, for checking ``Mcp-Param-*`` headers against them.

A stdio server never sees a header, so nobody but the gateway can check them (2026-07-28,
mcp-requirements 1.3); for HTTP servers the same check comes before theirs.
"""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from mcpguard.errors import Refused
from mcpguard.pipeline.dispatch import refusal_of
from mcpguard.protocol.mcp import META_CAPABILITIES, META_CLIENT_INFO, META_VERSION, MODERN_VERSIONS
from mcpguard.upstream.link import Link, Message, Outbound, Route, UpstreamFailure

CLIENT_INFO = {"name": "mcp-guard", "version": "1"}


def gateway_meta() -> Message:
    """The ``_meta`` of a stateless request the gateway makes on its own behalf."""
    return {
        META_VERSION: MODERN_VERSIONS[0],
        META_CAPABILITIES: {},
        META_CLIENT_INFO: dict(CLIENT_INFO),
    }


class OneAnswer:
    """A sink that turns one request into a Deferred of its response."""

    def __init__(self) -> None:
        self.done: Deferred[Message] = Deferred()

    def notification(self, message: Message) -> None:
        """Nothing is asked of notifications here."""

    def answer(self, message: Message) -> None:
        """The response."""
        self.done.callback(message)

    def failed(self, failure: UpstreamFailure) -> None:
        """No response will come."""
        self.done.errback(failure)


@define(eq=False)
class ToolSchemas:
    """What is known of each route's tools, for ``ttl_secs``."""

    monotonic: Callable[[], float]
    ttl_secs: float
    max_tools: int
    """Kept per route."""
    max_pages: int
    _known: dict[str, tuple[float, dict[str, Any]]] = field(init=False, factory=dict)
    _asking: dict[str, list[Deferred[None]]] = field(init=False, factory=dict)

    def learn(self, route: Route, result: Message) -> None:
        """Take the tools of a ``tools/list`` result that passes by, beside those asked for."""
        if self._key(route) not in self._known:
            return
        _, tools = self._known[self._key(route)]
        listed = result.get("tools")
        for tool in listed if isinstance(listed, list) else []:
            if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                if len(tools) >= self.max_tools and tool["name"] not in tools:
                    break
                tools[tool["name"]] = tool.get("inputSchema")

    async def find(self, route: Route, principal_key: str, link: Link, tool: str) -> Any:
        """The input schema of a tool, asked of the server when it is not known; None without.

        Raises Refused when the server cannot be asked.
        """
        key = self._key(route)
        at, tools = self._known.get(key, (0.0, {}))
        if key in self._known and self.monotonic() - at < self.ttl_secs:
            # A name that is missing is the server's to refuse; asking again for each unknown
            # name would let a caller make the gateway list tools without end.
            return tools.get(tool)
        if key in self._asking:
            waiting: Deferred[None] = Deferred()
            self._asking[key].append(waiting)
            await waiting
            return self._known.get(key, (0.0, {}))[1].get(tool)
        self._asking[key] = []
        try:
            await self._ask(route, principal_key, link)
        finally:
            for one in self._asking.pop(key):
                one.callback(None)
        return self._known.get(key, (0.0, {}))[1].get(tool)

    async def _ask(self, route: Route, principal_key: str, link: Link) -> None:
        self._known[self._key(route)] = (self.monotonic(), {})
        cursor: str | None = None
        for _ in range(self.max_pages):
            params: Message = {"_meta": gateway_meta()}
            if cursor is not None:
                params["cursor"] = cursor
            sink = OneAnswer()
            link.request(
                Outbound(
                    id="tools",
                    method="tools/list",
                    params=params,
                    version=MODERN_VERSIONS[0],
                    principal_key=principal_key,
                ),
                sink,
            )
            try:
                result = (await sink.done).get("result")
            except UpstreamFailure as failure:
                # Unchecked headers must not pass because the list could not be had.
                del self._known[self._key(route)]
                raise Refused(refusal_of(failure)) from failure
            if not isinstance(result, dict):
                return
            self.learn(route, result)
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return

    @staticmethod
    def _key(route: Route) -> str:
        return f"{route.upstream.name}\0{route.path}"
