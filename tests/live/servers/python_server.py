"""A server of PyPI's ``mcp`` 2.x with one tool for every feature: stdio, HTTP with ``--http``, or
HTTP+SSE (which knows the handshake only) with ``--sse``.

Run with the Python of ``.live/mcp2``. Over HTTP it prints the URL it listens on. It serves both
eras, or with ``--stateless`` only 2026-07-28: by the SDK's own loops of that era, which refuse the
handshake, without the dispatch that the SDK has before them.
"""

import logging
import socket
import sys
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server._streamable_http_modern import handle_modern_request
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp.server.runner import _serve_modern_stream
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

warnings.simplefilter("ignore", MCPDeprecationWarning)

COUNTER = "test://counter"
server = MCPServer("python-server", version="1.2.3", log_level="WARNING")
touched: Counter[str] = Counter()
cancelled: Counter[str] = Counter()
begun: Counter[str] = Counter()
subscribed: list[tuple[Any, str]] = []
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
wanted = ["debug"]
"""The level that the last session asked for; the SDK itself looks at those of 2026-07-28."""


class Answer(BaseModel):
    """What the user is asked for."""

    answer: str


def question(question: str) -> Elicit[Answer]:
    """Ask the user, by whatever means the client's era has."""
    return Elicit(question, Answer)


def prompt(text: str) -> Sample:
    """Have the client's model answer."""
    content = types.TextContent(type="text", text=text)
    return Sample([types.SamplingMessage(role="user", content=content)], max_tokens=100)


def roots() -> ListRoots:
    """Ask for the client's roots."""
    return ListRoots()


@server.tool()
async def echo(message: str) -> str:
    """Answer with the message."""
    return message


@server.tool()
async def fail(reason: str) -> str:
    """Fail with the reason."""
    raise ToolError(reason)


@server.tool()
async def slow(
    ctx: Context, seconds: float = 0.4, steps: int = 4, first: int = 0, who: str = ""
) -> str:
    """Take some time, reporting progress before each pause: ``first`` plus the step's number."""
    for step in range(1, steps + 1):
        await ctx.report_progress(first + step, first + steps, f"{who} {step}")
        await anyio.sleep(seconds / steps)
    return f"{who} {steps} steps"


@server.tool(structured_output=False)
async def big(size: int) -> str:
    """Answer with that many characters."""
    return "x" * size


@server.tool()
async def wait(seconds: float, who: str = "") -> str:
    """Wait; count when cancelled meanwhile."""
    begun[who] += 1
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        cancelled[who] += 1
        raise
    return "waited"


@server.tool()
async def waits(who: str = "") -> str:
    """How many waits of theirs have begun."""
    return str(begun[who])


@server.tool()
async def cancellations(who: str = "") -> str:
    """How many waits of theirs were cancelled."""
    return str(cancelled[who])


@server.tool()
async def ask(question: str, answer: Annotated[Answer, Resolve(question)]) -> str:
    """Put a question to the user."""
    return f"answered: {answer.answer}"


@server.tool()
async def sample(text: str, said: Annotated[types.CreateMessageResult, Resolve(prompt)]) -> str:
    """Have the client's model say something."""
    content = said.content
    return f"{said.model} said: {getattr(content, 'text', content)}"


@server.tool()
async def where(found: Annotated[types.ListRootsResult, Resolve(roots)]) -> str:
    """List the client's roots."""
    return " ".join(str(root.uri) for root in found.roots)


@server.tool()
async def log(text: str, ctx: Context) -> str:
    """Send log messages of three levels, as far as they are wanted."""
    for level in ("debug", "warning", "critical"):
        if LEVELS.index(level) >= LEVELS.index(wanted[-1]):
            await ctx.log(level, f"{level}: {text}")
    return "logged"


@server.tool()
async def touch(ctx: Context, who: str = "") -> str:
    """Change a counter and tell whoever subscribed to it."""
    touched[who] += 1
    await ctx.notify_resource_updated(counter_uri(who))
    for session, uri in list(subscribed):
        if uri == counter_uri(who):
            await session.send_resource_updated(uri)
    return str(touched[who])


@server.tool()
async def grow(name: str, ctx: Context) -> str:
    """Add a tool and say that the list has changed."""

    async def added() -> str:
        return name

    server.add_tool(added, name=name)
    await ctx.notify_tools_changed()
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        await ctx.session.send_tool_list_changed()
    return "grown"


def counter_uri(who: str) -> str:
    """The counter of somebody, or of nobody."""
    return f"{COUNTER}/{who}" if who else COUNTER


@server.resource(COUNTER)
async def counter() -> str:
    """How often it was touched."""
    return str(touched[""])


@server.resource(COUNTER + "/{who}")
async def counter_of(who: str) -> str:
    """How often theirs was touched."""
    return str(touched[who])


@server.resource("test://item/{name}")
async def item(name: str) -> str:
    """Anything by name."""
    return f"item {name}"


@server.prompt()
async def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}"


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    """Two names for anything."""
    return types.Completion(values=[f"{argument.value}a", f"{argument.value}b"])


async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
    """Remember who wants to know, for clients before 2026-07-28."""
    subscribed.append((ctx.session, str(params.uri)))
    return types.EmptyResult()


async def unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    """Forget it again."""
    subscribed[:] = [one for one in subscribed if one != (ctx.session, str(params.uri))]
    return types.EmptyResult()


async def set_level(ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    """Note it."""
    wanted.append(params.level)
    return types.EmptyResult()


# MCPServer offers neither of these itself; both only exist before 2026-07-28.
low = server._lowlevel_server
low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)


class Stateless:
    """The SDK's entry for one stateless request, whatever the request says of its version."""

    def __init__(self) -> None:
        self._states: list[Any] = []

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """The server's own."""
        async with low.lifespan(low) as state:
            self._states.append(state)
            yield

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve it."""
        await handle_modern_request(low, None, False, self._states[0], scope, receive, send)


def stateless_app() -> Starlette:
    """The application that serves 2026-07-28 only."""
    entry = Stateless()
    return Starlette(routes=[Route("/mcp", entry)], lifespan=entry.lifespan)


def serve_http(path: str, app: Starlette) -> None:
    """Listen on a free port of the loopback interface and say where."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(app, log_level="warning")
    listener.listen(256)
    print(f"listening on http://127.0.0.1:{port}{path}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


async def serve_stateless_stdio() -> None:
    """The SDK's loop for a connection that has begun with a stateless request."""
    async with stdio_server() as (read, write), low.lifespan(low) as state:
        await _serve_modern_stream(low, read, write, lifespan_state=state, raise_exceptions=False)


def main(arguments: list[str]) -> None:
    """Serve in the ways that the arguments name."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    ways = set(arguments)
    if "--http" in ways:
        app = stateless_app() if "--stateless" in ways else server.streamable_http_app()
        serve_http("/mcp", app)
    elif "--sse" in ways:
        serve_http("/sse", server.sse_app())
    elif "--stateless" in ways:
        anyio.run(serve_stateless_stdio)
    else:
        server.run("stdio")


if __name__ == "__main__":
    main(sys.argv[1:])
