"""A client of PyPI's ``mcp`` 2.x, driven by the steps of a job; ``mode`` is the SDK's own word."""

import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from steps import Begun, Heard, Words, entered, given_up, report_all

warnings.simplefilter("ignore", MCPDeprecationWarning)

LOG_LEVEL = "io.modelcontextprotocol/logLevel"


class Face:
    """The SDK's client without its types."""

    def __init__(self, client: Client, heard: Heard) -> None:
        self._client = client
        self._heard = heard
        self.version = client.protocol_version
        self.server = client.server_info.name if client.server_info else ""
        self._modern = self.version in MODERN_PROTOCOL_VERSIONS

    async def tools(self) -> list[str]:
        """All pages."""
        names: list[str] = []
        cursor = None
        while True:
            page = await self._client.list_tools(cursor=cursor, cache_mode="refresh")
            names += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                return names

    async def call(self, tool: str, arguments: Words, **more: Any) -> Words:
        """Call, with the progress that was reported."""
        progress: list[Any] = []
        said: list[str | None] = []

        async def reported(done: float, total: float | None, message: str | None) -> None:
            progress.append([done, total])
            said.append(message)

        result = await self._client.call_tool(
            tool,
            arguments,
            progress_callback=reported if more.get("progress") else None,
            meta=more.get("meta") or None,
        )
        text = "\n".join(block.text for block in result.content if block.type == "text")
        return {"text": text, "error": result.is_error, "progress": progress, "said": said}

    async def cancelled_call(self, tool: str, arguments: Words, begun: Begun) -> Words:
        """Leave the call's scope, which is how this SDK cancels."""
        left = await given_up(lambda: self._client.call_tool(tool, arguments), begun)
        return {"cancelled": left}

    async def resources(self) -> list[str]:
        """The URIs of the first page."""
        return [str(one.uri) for one in (await self._client.list_resources()).resources]

    async def templates(self) -> list[str]:
        """Those of the first page."""
        found = (await self._client.list_resource_templates()).resource_templates
        return [one.uri_template for one in found]

    async def complete(self, ref: Words, name: str, value: str) -> list[str]:
        """Completions of an argument."""
        if ref["type"] == "ref/prompt":
            named: Any = types.PromptReference(name=ref["name"])
        else:
            named = types.ResourceTemplateReference(uri=ref["uri"])
        return (
            await self._client.complete(named, {"name": name, "value": value})
        ).completion.values

    async def read(self, uri: str) -> str:
        """The text."""
        result = await self._client.read_resource(uri, cache_mode="refresh")
        return "".join(getattr(one, "text", "") for one in result.contents)

    async def prompts(self) -> list[str]:
        """The names."""
        return [one.name for one in (await self._client.list_prompts()).prompts]

    async def prompt(self, name: str, arguments: dict[str, str]) -> str:
        """The text."""
        result = await self._client.get_prompt(name, arguments)
        return "".join(getattr(one.content, "text", "") for one in result.messages)

    @asynccontextmanager
    async def watching(self, uri: str) -> AsyncIterator[None]:
        """Subscribe by the era's own means."""
        if not self._modern:
            await self._client.subscribe_resource(uri)
            yield
            await self._client.unsubscribe_resource(uri)
            return
        async with self._listening(resource_subscriptions=[uri]):
            yield

    @asynccontextmanager
    async def watching_tools(self) -> AsyncIterator[None]:
        """Be told of other tools: unasked before 2026, by a subscription since."""
        if not self._modern:
            yield
            return
        async with self._listening(tools_list_changed=True):
            yield

    @asynccontextmanager
    async def _listening(self, **wanted: Any) -> AsyncIterator[None]:
        async with (
            self._client.listen(**wanted) as subscription,
            anyio.create_task_group() as group,
        ):

            async def collect() -> None:
                async for event in subscription:
                    self._heard.add("event", type(event).__name__)

            group.start_soon(collect)
            yield
            # The message handler hears of each change as well, and counts them all.
            while not self._heard.values("event"):
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    async def log_level(self, level: str) -> Words:
        """Set it for the session, or give the ``_meta`` that sets it for a request."""
        if self._modern:
            return {LOG_LEVEL: level}
        await self._client.set_logging_level(level)
        return {}


@asynccontextmanager
async def transport(job: Words) -> AsyncIterator[Any]:
    """The SDK's transport: Streamable HTTP, or HTTP+SSE where the job says ``sse``."""
    headers = {"Authorization": f"Bearer {job['key']}"} if job["key"] else {}
    if job.get("transport") == "sse":
        yield sse_client(job["url"], headers=headers)
        return
    async with create_mcp_http_client(headers=headers) as http:
        yield streamable_http_client(job["url"], http_client=http)


@asynccontextmanager
async def connect(job: Words, heard: Heard) -> AsyncIterator[Face]:
    """A connected client that answers what the server asks."""

    async def elicited(context: Any, params: Any) -> types.ElicitResult:
        heard.ask("elicitation", params.message)
        return types.ElicitResult(action="accept", content=entered(job, params.message))

    async def sampled(context: Any, params: Any) -> types.CreateMessageResult:
        text = params.messages[-1].content.text
        heard.ask("sampling", text)
        content = types.TextContent(type="text", text=f"<{text}>")
        return types.CreateMessageResult(role="assistant", model="test-model", content=content)

    async def rooted(context: Any) -> types.ListRootsResult:
        heard.ask("roots", "")
        return types.ListRootsResult(roots=[types.Root(uri=uri) for uri in job["roots"]])

    async def logged(params: types.LoggingMessageNotificationParams) -> None:
        heard.add("log", params.data)

    async def told(message: Any) -> None:
        method = getattr(message, "method", None)
        if method == "notifications/resources/updated":
            heard.add("updated", str(message.params.uri))
        elif method == "notifications/tools/list_changed":
            heard.add("tools changed", True)

    async with transport(job) as chosen:
        client = Client(
            chosen,
            mode=job["mode"],
            read_timeout_seconds=job["timeout"],
            elicitation_callback=elicited,
            sampling_callback=sampled,
            list_roots_callback=rooted,
            logging_callback=logged,
            message_handler=told,
        )
        async with client:
            yield Face(client, heard)


def main(arguments: list[str]) -> None:
    """Do the jobs that come on stdin."""
    report_all(connect)


if __name__ == "__main__":
    main(sys.argv[1:])
