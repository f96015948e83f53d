"""The server that the official conformance suite expects, on PyPI's ``mcp`` 2.x.

Run with the Python of ``.live/mcp2``: over stdio, or over HTTP with ``--http``, where it prints
the URL it listens on. ``--era legacy`` and ``--era modern`` leave one era of the protocol only.
"""

import argparse
import json
import logging
import socket
import sys
import warnings
from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import Any

import anyio
import mcp_types as types
from conformance_requests import STRING, NeedsInput, Object, Request, elicitation, whole
from conformance_tools import IMAGE, PNG, TOOLS, bus, called, resource, text
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

warnings.simplefilter("ignore", MCPDeprecationWarning)

RESOURCE_NOT_FOUND = -32002
"""Of sessions; -32602 says it since 2026-07-28."""
UNSUPPORTED_VERSION = -32022
MAX_EVENTS = 1000
RETRY_MS = 100
TEMPLATE = ("test://template/", "/data")
RESOURCES: dict[str, Object] = {
    "test://static-text": {
        "mimeType": "text/plain",
        "text": "This is the content of the static text resource.",
    },
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "watched"},
}
PROMPTS: dict[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}
"""The arguments of each, all of them required."""


async def list_tools(ctx: Any, params: Any) -> Object:
    """All in one page."""
    return whole(tools=[shown for shown, _ in TOOLS.values()])


def tool_schema(name: str) -> Mapping[str, Any] | None:
    """What the arguments of a tool have to be."""
    return TOOLS[name][0]["inputSchema"] if name in TOOLS else None


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> Object:
    """Whatever the tool says."""
    return await called(Request(ctx, params), params.name)


async def list_resources(ctx: Any, params: Any) -> Object:
    """All but those of the template."""
    return whole(
        resources=[
            {"uri": uri, "name": uri, "description": uri, "mimeType": content["mimeType"]}
            for uri, content in RESOURCES.items()
        ]
    )


async def list_templates(ctx: Any, params: Any) -> Object:
    """There is one."""
    template = {"uriTemplate": "{id}".join(TEMPLATE), "name": "template", "description": "By id"}
    return whole(resourceTemplates=[template])


async def read_resource(ctx: Any, params: types.ReadResourceRequestParams) -> Object:
    """A resource as it stands, or one made by the template."""
    uri = str(params.uri)
    if uri in RESOURCES:
        return whole(contents=[{"uri": uri, **RESOURCES[uri]}])
    start, end = TEMPLATE
    if uri.startswith(start) and uri.endswith(end):
        found = uri[len(start) : -len(end)]
        words = json.dumps({"id": found, "templateTest": True, "data": f"Data for ID: {found}"})
        return whole(contents=[{"uri": uri, "mimeType": "application/json", "text": words}])
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    code = types.INVALID_PARAMS if modern else RESOURCE_NOT_FOUND
    raise MCPError(code, "Resource not found", {"uri": uri})


async def list_prompts(ctx: Any, params: Any) -> Object:
    """All in one page."""
    return whole(
        prompts=[
            {
                "name": name,
                "description": name,
                "arguments": [{"name": one, "required": True} for one in arguments],
            }
            for name, arguments in PROMPTS.items()
        ]
    )


async def get_prompt(ctx: Any, params: types.GetPromptRequestParams) -> Object:
    """The messages of a prompt, or a question first."""
    try:
        blocks = await _prompted(Request(ctx, params), params.name)
    except NeedsInput as needed:
        return needed.result
    return whole(messages=[{"role": "user", "content": block} for block in blocks])


async def _prompted(request: Request, name: str) -> list[Object]:
    given = request.arguments
    if missing := set(PROMPTS.get(name, ())) - set(given):
        raise MCPError(types.INVALID_PARAMS, f"Missing arguments: {missing}")
    match name:
        case "test_simple_prompt":
            return [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            words = f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"
            return [text(words)]
        case "test_prompt_with_embedded_resource":
            words = "Embedded resource content for testing."
            return [
                resource(given["resourceUri"], "text/plain", words),
                text("Please process the embedded resource above."),
            ]
        case "test_prompt_with_image":
            return [IMAGE, text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            form = elicitation("What context should the prompt use?", {"context": STRING})
            found = await request.ask({"user_context": form})
            return [text(json.dumps(found["user_context"].get("content")))]
    raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {name}")


async def complete(ctx: Any, params: types.CompleteRequestParams) -> Object:
    """Two endings of anything."""
    value = params.argument.value
    return whole(completion={"values": [f"{value}a", f"{value}b"], "hasMore": False})


async def accept(ctx: Any, params: Any) -> Object:
    """Do as told without a word: subscriptions, log levels."""
    return {}


class ConformanceServer(Server):
    """The SDK's server, of which sessions may expect changes of its lists too."""

    def create_initialization_options(self, *options: Any, **more: Any) -> Any:
        """Say so in the handshake."""
        changing = NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(*(options or (changing,)), **more)


hint = CacheHint(ttl_ms=1000, scope="public")
server = ConformanceServer(
    "conformance-server",
    version="1.0.0",
    get_tool_input_schema=tool_schema,
    cache_hints={
        "tools/list": hint,
        "prompts/list": hint,
        "resources/list": hint,
        "resources/templates/list": hint,
        "resources/read": hint,
        "server/discover": hint,
    },
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=accept,
    on_unsubscribe_resource=accept,
    on_subscriptions_listen=ListenHandler(bus),
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_set_logging_level=accept,
)


async def no_handshake(ctx: Any, go_on: Any) -> Any:
    """Middleware of a server without sessions."""
    if ctx.method == "initialize":
        supported = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
        raise MCPError(UNSUPPORTED_VERSION, "Unsupported protocol version", supported)
    return await go_on(ctx)


class Handshakes:
    """ASGI middleware of a server that has never heard of 2026-07-28; sends 400 as ``mcp`` 1.x."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let by what older clients send."""
        headers = dict(scope.get("headers", ()))
        if headers.get(b"mcp-protocol-version", b"").decode() not in MODERN_PROTOCOL_VERSIONS:
            await self._app(scope, receive, send)
            return
        error = {"code": types.INVALID_REQUEST, "message": "Bad Request: Missing session ID"}
        body = json.dumps({"jsonrpc": "2.0", "id": "server-error", "error": error}).encode()
        kind = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 400, "headers": kind})
        await send({"type": "http.response.body", "body": body})


class Events(EventStore):
    """The last events of all streams, which lets a client come back for what it has missed."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, str, Any]] = deque(maxlen=MAX_EVENTS)
        self._numbers = count(1)

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Keep an event; None as a message is the first of a stream, which says its id only."""
        number = next(self._numbers)
        self._events.append((number, stream_id, message))
        return str(number)

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        """Send what came later on the stream of an event."""
        last = int(last_event_id)
        stream = next((one for number, one, _ in self._events if number == last), None)
        for number, one, message in list(self._events):
            if one == stream and number > last and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def serve_http(era: str) -> None:
    """Listen on a free port of the loopback interface and say where."""
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app: Any = server.streamable_http_app(event_store=Events(), retry_interval=RETRY_MS)
    config = uvicorn.Config(Handshakes(app) if era == "legacy" else app, log_level="warning")
    listener.listen(256)
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


async def serve_stdio(era: str) -> None:
    """Serve one client until it closes its end."""
    options = server.create_initialization_options()
    async with stdio_server() as (read, write):
        if era == "legacy":
            await serve_loop(server, read, write, lifespan_state={}, init_options=options)
        else:
            await server.run(read, write, options)


def main(arguments: list[str]) -> None:
    """Serve as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    given = parser.parse_args(arguments)
    if given.era == "modern":
        server.middleware.append(no_handshake)
    if given.http:
        serve_http(given.era)
    else:
        anyio.run(serve_stdio, given.era)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    main(sys.argv[1:])
