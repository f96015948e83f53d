"""A client of PyPI's ``mcp`` 1.x, driven by the steps of a job."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from mcp import types
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from pydantic import AnyUrl
from steps import Begun, Heard, Words, entered, given_up, report_all


class Face:
    """The SDK's session without its types."""

    def __init__(
        self, session: ClientSession, heard: Heard, opened: types.InitializeResult
    ) -> None:
        self._session = session
        self._heard = heard
        self.version = str(opened.protocolVersion)
        self.server = opened.serverInfo.name

    async def tools(self) -> list[str]:
        """All pages."""
        names: list[str] = []
        params = None
        while True:
            page = await self._session.list_tools(params=params)
            names += [tool.name for tool in page.tools]
            if page.nextCursor is None:
                return names
            params = types.PaginatedRequestParams(cursor=page.nextCursor)

    async def call(self, tool: str, arguments: Words, **more: Any) -> Words:
        """Call, with the progress that was reported."""
        progress: list[Any] = []
        said: list[str | None] = []

        async def reported(done: float, total: float | None, message: str | None) -> None:
            progress.append([done, total])
            said.append(message)

        result = await self._session.call_tool(
            tool, arguments, progress_callback=reported if more.get("progress") else None
        )
        text = "\n".join(block.text for block in result.content if block.type == "text")
        return {"text": text, "error": bool(result.isError), "progress": progress, "said": said}

    async def cancelled_call(self, tool: str, arguments: Words, begun: Begun) -> Words:
        """This SDK leaves the notification to its user."""
        request_id = self._session._request_id
        left = await given_up(lambda: self._session.call_tool(tool, arguments), begun)
        params = types.CancelledNotificationParams(requestId=request_id, reason="enough")
        await self._session.send_notification(
            types.ClientNotification(
                types.CancelledNotification(method="notifications/cancelled", params=params)
            )
        )
        return {"cancelled": left}

    async def resources(self) -> list[str]:
        """The URIs of the first page."""
        return [str(one.uri) for one in (await self._session.list_resources()).resources]

    async def templates(self) -> list[str]:
        """Those of the first page."""
        found = (await self._session.list_resource_templates()).resourceTemplates
        return [one.uriTemplate for one in found]

    async def complete(self, ref: Words, name: str, value: str) -> list[str]:
        """Completions of an argument."""
        if ref["type"] == "ref/prompt":
            named: Any = types.PromptReference(type="ref/prompt", name=ref["name"])
        else:
            named = types.ResourceTemplateReference(type="ref/resource", uri=ref["uri"])
        result = await self._session.complete(named, {"name": name, "value": value})
        return result.completion.values

    async def read(self, uri: str) -> str:
        """The text."""
        result = await self._session.read_resource(AnyUrl(uri))
        return "".join(getattr(one, "text", "") for one in result.contents)

    async def prompts(self) -> list[str]:
        """The names."""
        return [one.name for one in (await self._session.list_prompts()).prompts]

    async def prompt(self, name: str, arguments: dict[str, str]) -> str:
        """The text."""
        result = await self._session.get_prompt(name, arguments)
        return "".join(getattr(one.content, "text", "") for one in result.messages)

    @asynccontextmanager
    async def watching(self, uri: str) -> AsyncIterator[None]:
        """Subscribe."""
        await self._session.subscribe_resource(AnyUrl(uri))
        yield
        await self._session.unsubscribe_resource(AnyUrl(uri))

    @asynccontextmanager
    async def watching_tools(self) -> AsyncIterator[None]:
        """Nothing has to be asked for."""
        yield

    async def log_level(self, level: str) -> Words:
        """Set it for the session."""
        await self._session.set_logging_level(level)  # type: ignore[arg-type]
        return {}


@asynccontextmanager
async def transport(job: Words) -> AsyncIterator[tuple[Any, Any]]:
    """The job's streams: Streamable HTTP, or HTTP+SSE where the job says ``sse``."""
    headers = {"Authorization": f"Bearer {job['key']}"} if job["key"] else {}
    if job.get("transport") == "sse":
        async with sse_client(job["url"], headers=headers) as (read, write):
            yield read, write
        return
    async with (
        create_mcp_http_client(headers=headers) as http,
        streamable_http_client(job["url"], http_client=http) as (read, write, _),
    ):
        yield read, write


@asynccontextmanager
async def connect(job: Words, heard: Heard) -> AsyncIterator[Face]:
    """A connected session that answers what the server asks."""

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
        told = getattr(message, "root", None)
        method = getattr(told, "method", None)
        if method == "notifications/resources/updated":
            heard.add("updated", str(told.params.uri))
        elif method == "notifications/tools/list_changed":
            heard.add("tools changed", True)

    async with (
        transport(job) as (read, write),
        ClientSession(
            read,
            write,
            read_timeout_seconds=timedelta(seconds=job["timeout"]),
            elicitation_callback=elicited,
            sampling_callback=sampled,
            list_roots_callback=rooted,
            logging_callback=logged,
            message_handler=told,
        ) as session,
    ):
        opened = await session.initialize()
        yield Face(session, heard, opened)


def main(arguments: list[str]) -> None:
    """Do the jobs that come on stdin."""
    report_all(connect)


if __name__ == "__main__":
    main(sys.argv[1:])
