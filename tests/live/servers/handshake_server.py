"""A server of PyPI's ``mcp`` 1.x, which knows the handshake only: the tools of python_server.py.

Run with the Python of ``.live/mcp1``: stdio, Streamable HTTP with ``--http``, HTTP+SSE with
``--sse``. Over HTTP it prints the URL it listens on.
"""

import logging
import socket
import sys
from collections import Counter
from typing import Any

import anyio
import uvicorn
from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.lowlevel import NotificationOptions
from pydantic import AnyUrl, BaseModel

COUNTER = "test://counter"
server = FastMCP("handshake-server", log_level="WARNING")
low = server._mcp_server
low.version = "1.2.3"
touched: Counter[str] = Counter()
cancelled: Counter[str] = Counter()
begun: Counter[str] = Counter()
subscribed: list[tuple[Any, str]] = []
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
levels: dict[Any, str] = {}
"""What each session wants to hear of."""


class Answer(BaseModel):
    """What the user is asked for."""

    answer: str


@server.tool(structured_output=False)
async def echo(message: str) -> str:
    """Answer with the message."""
    return message


@server.tool(structured_output=False)
async def fail(reason: str) -> str:
    """Fail with the reason."""
    raise ToolError(reason)


@server.tool(structured_output=False)
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


@server.tool(structured_output=False)
async def wait(seconds: float, who: str = "") -> str:
    """Wait; count when cancelled meanwhile."""
    begun[who] += 1
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        cancelled[who] += 1
        raise
    return "waited"


@server.tool(structured_output=False)
async def waits(who: str = "") -> str:
    """How many waits of theirs have begun."""
    return str(begun[who])


@server.tool(structured_output=False)
async def cancellations(who: str = "") -> str:
    """How many waits of theirs were cancelled."""
    return str(cancelled[who])


@server.tool(structured_output=False)
async def ask(question: str, ctx: Context) -> str:
    """Put a question to the user."""
    said = await ctx.elicit(question, Answer)
    return f"answered: {said.data.answer}" if said.action == "accept" else said.action


@server.tool(structured_output=False)
async def sample(text: str, ctx: Context) -> str:
    """Have the client's model say something."""
    content = types.TextContent(type="text", text=text)
    said = await ctx.session.create_message(
        [types.SamplingMessage(role="user", content=content)],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    return f"{said.model} said: {getattr(said.content, 'text', said.content)}"


@server.tool(structured_output=False)
async def where(ctx: Context) -> str:
    """List the client's roots; this SDK asks for them beside the call, not in its stream."""
    found = await ctx.session.list_roots()
    return " ".join(str(root.uri) for root in found.roots)


@server.tool(structured_output=False)
async def log(text: str, ctx: Context) -> str:
    """Send log messages of three levels, as far as the session wants them."""
    least = LEVELS.index(levels.get(ctx.session, "debug"))
    for level in ("debug", "warning", "critical"):
        if LEVELS.index(level) >= least:
            await ctx.session.send_log_message(
                level, f"{level}: {text}", related_request_id=ctx.request_id
            )
    return "logged"


@server.tool(structured_output=False)
async def touch(who: str = "") -> str:
    """Change a counter and tell whoever subscribed to it."""
    touched[who] += 1
    for session, uri in list(subscribed):
        if uri == counter_uri(who):
            await session.send_resource_updated(AnyUrl(uri))
    return str(touched[who])


@server.tool(structured_output=False)
async def grow(name: str, ctx: Context) -> str:
    """Add a tool and say that the list has changed."""

    async def added() -> str:
        return name

    server.add_tool(added, name=name, structured_output=False)
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


@low.subscribe_resource()
async def subscribe(uri: AnyUrl) -> None:
    """Remember who wants to know."""
    subscribed.append((low.request_context.session, str(uri)))


@low.unsubscribe_resource()
async def unsubscribe(uri: AnyUrl) -> None:
    """Forget it again."""
    gone = (low.request_context.session, str(uri))
    subscribed[:] = [one for one in subscribed if one != gone]


@low.set_logging_level()
async def set_level(level: types.LoggingLevel) -> None:
    """Note it for the session."""
    levels[low.request_context.session] = level


def options() -> Any:
    """What the server says of itself; FastMCP leaves out two things it does."""
    made = plain(NotificationOptions(tools_changed=True))
    made.capabilities.resources.subscribe = True
    return made


# FastMCP gives no way to pass them, and each of its transports asks for them here.
plain = low.create_initialization_options
low.create_initialization_options = options  # type: ignore[method-assign]


def serve_http(path: str, app: Any) -> None:
    """Listen on a free port of the loopback interface and say where."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(app, log_level="warning")
    listener.listen(256)
    print(f"listening on http://127.0.0.1:{port}{path}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def main(arguments: list[str]) -> None:
    """Serve in the way that the arguments name."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    if "--http" in arguments:
        serve_http("/mcp", server.streamable_http_app())
    elif "--sse" in arguments:
        serve_http("/sse", server.sse_app())
    else:
        server.run("stdio")


if __name__ == "__main__":
    main(sys.argv[1:])
