"""The tool schemas of stateless servers, which say what arguments headers repeat.

``Mcp-Param-*`` of a client are checked against them: a stdio server never sees a header, so nobody
but the gateway can (2026-07-28, mcp-requirements 1.3). Those that go to an HTTP server are built
from the arguments.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mcpguard.errors import METHOD_NOT_FOUND, Reason, Refusal, Refused
from mcpguard.pipeline.dispatch import refusal_of
from mcpguard.protocol.headers import param_headers
from mcpguard.protocol.mcp import META_CAPABILITIES, META_CLIENT_INFO, META_VERSION, MODERN_VERSIONS
from mcpguard.upstream.link import Link, Message, Outbound, UpstreamFailure

log = Logger()

View = tuple[str, str, str]
"""A principal's key, the upstream's name, and the path behind it."""

CLIENT_INFO = {"name": "mcp-guard", "version": "1"}


def gateway_meta(capabilities: Message | None = None) -> Message:
    """The ``_meta`` of a stateless request the gateway makes on its own behalf.

    ``capabilities`` are those of the client on whose account it is made, by default none.
    """
    return {
        META_VERSION: MODERN_VERSIONS[0],
        META_CAPABILITIES: capabilities or {},
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
    """Which tools repeat arguments in headers, as each principal sees each route.

    Kept for ``ttl_secs``. Whoever needs it first asks the server; those who come meanwhile wait
    for that answer, for an unchecked header must not pass.
    """

    monotonic: Callable[[], float]
    ttl_secs: float
    max_tools: int
    """Annotated tools kept for one principal on one route."""
    max_pages: int
    max_views: int
    """Pairs of principal and route kept; the one used longest ago is forgotten first."""
    _known: OrderedDict[View, tuple[float, dict[str, Any]]] = field(init=False, factory=OrderedDict)
    _asking: dict[View, list[Deferred[None]]] = field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, server: str, path: str, principal_key: str, result: Message) -> None:
        """Take the tools of a ``tools/list`` result that passes by, beside those asked for."""
        known = self._known.get((principal_key, server, path))
        if known is not None:
            self._take(known[1], result)

    def forget(self, server: str, path: str, principal_key: str) -> None:
        """What is known is out of date: whoever needs it next asks the server."""
        self._known.pop((principal_key, server, path), None)

    async def find(
        self,
        server: str,
        path: str,
        principal_key: str,
        link: Link,
        tool: str,
        capabilities: Message | None = None,
    ) -> Any:
        """The input schema of a tool with annotations, asked of the server; None without.

        ``path`` is what goes behind the URL of ``server``, ``link`` leads there; ``capabilities``
        are declared where it is asked. Raises Refused when the server cannot be asked.
        """
        view = (principal_key, server, path)
        while True:
            at, tools = self._known.get(view, (float("-inf"), {}))
            if self.monotonic() - at < self.ttl_secs:
                # A name that is missing is the server's to refuse; asking again for each unknown
                # name would let a caller make the gateway list tools without end.
                self._known.move_to_end(view)
                return tools.get(tool)
            if view not in self._asking:
                break
            waiting: Deferred[None] = Deferred()
            self._asking[view].append(waiting)
            await waiting
        self._asking[view] = []
        try:
            tools = await self._ask(principal_key, link, gateway_meta(capabilities))
        except Exception as problem:
            for one in self._asking.pop(view):
                one.errback(problem)
            raise
        self._known[view] = (self.monotonic(), tools)
        self._known.move_to_end(view)
        while len(self._known) > self.max_views:
            self._known.popitem(last=False)
        for one in self._asking.pop(view):
            one.callback(None)
        return tools.get(tool)

    async def _ask(self, principal_key: str, link: Link, meta: Message) -> dict[str, Any]:
        tools: dict[str, Any] = {}
        cursor: str | None = None
        for _ in range(self.max_pages):
            params: Message = {"_meta": meta}
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
                answer = await sink.done
            except UpstreamFailure as failure:
                raise Refused(refusal_of(failure)) from failure
            result = answer.get("result")
            if not isinstance(result, dict):
                error = answer.get("error")
                code = error.get("code") if isinstance(error, dict) else None
                if code == METHOD_NOT_FOUND:
                    return tools
                detail = f"tools/list was answered with error {code}"
                raise Refused(Refusal(Reason.UPSTREAM_FAILED, detail=detail))
            self._take(tools, result)
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return tools
        log.warn("more than {pages} pages of tools, the others are unchecked", pages=self.max_pages)
        return tools

    def _take(self, tools: dict[str, Any], result: Message) -> None:
        listed = result.get("tools")
        for tool in listed if isinstance(listed, list) else []:
            name = tool.get("name") if isinstance(tool, dict) else None
            if not isinstance(name, str):
                continue
            schema = tool.get("inputSchema")
            if not param_headers(schema):
                tools.pop(name, None)
            elif name in tools or len(tools) < self.max_tools:
                tools[name] = schema
