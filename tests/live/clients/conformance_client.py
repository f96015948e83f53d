"""The client that the official conformance suite tests, on PyPI's ``mcp`` 2.x.

Run with the Python of ``.live/mcp2`` by the suite, which names the scenario and the version of the
protocol in the environment, and its server as the argument. With ``CONFORMANCE_PORTS``, an object
of numbers by scenario, it goes through a gateway instead, which has a server at each of these
ports: this program passes that on to the suite's. The gateway is started once all are there, as
files named like the ports in the directory ``CONFORMANCE_MEETING`` say, and then ``gateway`` in
there has its ``url`` (to which the port belongs) and its ``key``.
"""

import json
import os
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import mcp_types as types
from anyio.abc import ByteStream
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning

warnings.simplefilter("ignore", MCPDeprecationWarning)

SECONDS = 15
POLL_SECS = 0.05
FIRST_STATELESS = "2026-07-28"
Scenario = Callable[[Client], Awaitable[None]]


async def elicited(context: Any, params: Any) -> types.ElicitResult:
    """A user who leaves every field as it is, and agrees where there is nothing."""
    properties = params.requested_schema["properties"]
    content = {name: one.get("default", True) for name, one in properties.items()}
    return types.ElicitResult(action="accept", content=content)


async def list_only(client: Client) -> None:
    """Ask for the tools."""
    await client.list_tools()


async def add(client: Client) -> None:
    """Call with numbers."""
    await client.list_tools()
    await client.call_tool("add_numbers", {"a": 5, "b": 3})


async def call_all(client: Client) -> None:
    """Call every tool there is, with something for what it must have."""
    for tool in (await client.list_tools()).tools:
        needed = tool.input_schema.get("required", [])
        await client.call_tool(tool.name, dict.fromkeys(needed, "x"))


async def call_as_told(client: Client) -> None:
    """Make the calls that the scenario describes."""
    await client.list_tools()
    for call in json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def everything(client: Client) -> None:
    """Make one request of each kind."""
    await call_all(client)
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


async def echo_schema(client: Client) -> None:
    """Send a tool's schema back."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    schema = tools["json_schema_2020_12_tool"].input_schema
    await client.call_tool("json_schema_echo", {"schema": schema})


SCENARIOS: dict[str, Scenario] = {
    "initialize": list_only,
    "tools_call": add,
    "elicitation-sep1034-client-defaults": call_all,
    "sse-retry": call_all,
    "json-schema-2020-12-preservation": echo_schema,
    "request-metadata": list_only,
    "sep-2322-client-request-state": call_all,
    "http-standard-headers": everything,
    "http-custom-headers": call_as_told,
    "http-invalid-tool-headers": call_all,
    "json-schema-ref-no-deref": list_only,
}


@asynccontextmanager
async def passed_on(port: int, url: str) -> AsyncIterator[None]:
    """Bytes that come to the port go to the server of the URL."""
    target = urlsplit(url)

    async def copy(source: ByteStream, sink: ByteStream) -> None:
        try:
            async for data in source:
                await sink.send(data)
            await sink.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # either end may go whenever it likes

    async def connected(near: ByteStream) -> None:
        async with (
            near,
            await anyio.connect_tcp(target.hostname, target.port) as far,
            anyio.create_task_group() as group,
        ):
            group.start_soon(copy, near, far)
            await copy(far, near)
            group.cancel_scope.cancel()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, connected)
        yield
        group.cancel_scope.cancel()


async def meet(port: int) -> dict[str, str]:
    """Tell that the port is there; what there is to know of the gateway once it runs."""
    meeting = anyio.Path(os.environ["CONFORMANCE_MEETING"])
    await (meeting / str(port)).touch()
    while not await (meeting / "gateway").exists():
        await anyio.sleep(POLL_SECS)
    found: dict[str, str] = json.loads(await (meeting / "gateway").read_text())
    return found


async def play(scenario: Scenario, url: str, key: str | None) -> None:
    """Connect by the version's own means and do what the scenario needs."""
    version = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(
            streamable_http_client(url, http_client=http),
            mode="legacy" if version < FIRST_STATELESS else "auto",
            read_timeout_seconds=SECONDS,
            elicitation_callback=elicited,
        ) as client,
    ):
        await scenario(client)


async def run(url: str) -> None:
    """Play the scenario before the suite's server, or before the gateway before it."""
    name = os.environ["MCP_CONFORMANCE_SCENARIO"]
    if name not in SCENARIOS:
        return
    with anyio.fail_after(SECONDS):
        if "CONFORMANCE_PORTS" not in os.environ:
            await play(SCENARIOS[name], url, None)
            return
        port = json.loads(os.environ["CONFORMANCE_PORTS"])[name]
        async with passed_on(port, url):
            gateway = await meet(port)
            await play(SCENARIOS[name], f"{gateway['url']}{port}", gateway["key"])


def main(arguments: list[str]) -> None:
    """Run with the URL of the suite's server."""
    anyio.run(run, arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
