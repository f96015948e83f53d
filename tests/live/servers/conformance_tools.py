"""The tools that the official conformance suite calls by name."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from conformance_requests import (
    PAUSE,
    ROOTS,
    STRING,
    NeedsInput,
    Object,
    Request,
    elicitation,
    sampling,
    whole,
)
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)
"""One pixel."""
WAV = base64.b64encode(
    b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0"
).decode()
"""One sample of silence."""
IMAGE: Object = {"type": "image", "data": PNG, "mimeType": "image/png"}
ADDRESS: Object = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": STRING, "city": STRING},
}
JSON_SCHEMA: Object = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": ADDRESS},
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""The keywords that must reach the client as they are."""

Tool = Callable[[Request], Awaitable[list[Object]]]
TOOLS: dict[str, tuple[Object, Tool]] = {}
"""What ``tools/list`` says of each, and what it does, by name."""
bus = InMemorySubscriptionBus()


class ToolFailure(Exception):
    """What a tool reports as an error of its own."""


def text(words: str) -> Object:
    """A block of text."""
    return {"type": "text", "text": words}


def resource(uri: str, mime_type: str, words: str) -> Object:
    """A block with a resource in it."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


def tool(schema: Object | None = None, **properties: Any) -> Callable[[Tool], Tool]:
    """Offer a function under its own name; keywords are its arguments, all of them required."""
    if schema is None:
        schema = {"type": "object", "properties": properties, "required": list(properties)}

    def offer(function: Tool) -> Tool:
        name = function.__name__
        shown = {"name": name, "description": function.__doc__, "inputSchema": schema}
        TOOLS[name] = (shown, function)
        return function

    return offer


@tool()
async def test_simple_text(request: Request) -> list[Object]:
    """Answer with text."""
    return [text("This is a simple text response for testing.")]


@tool()
async def test_image_content(request: Request) -> list[Object]:
    """Answer with an image."""
    return [IMAGE]


@tool()
async def test_audio_content(request: Request) -> list[Object]:
    """Answer with a sound."""
    return [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]


@tool()
async def test_embedded_resource(request: Request) -> list[Object]:
    """Answer with a resource."""
    words = "This is an embedded resource content."
    return [resource("test://embedded-resource", "text/plain", words)]


@tool()
async def test_multiple_content_types(request: Request) -> list[Object]:
    """Answer with text, an image and a resource."""
    words = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        IMAGE,
        resource("test://mixed-content-resource", "application/json", words),
    ]


@tool(JSON_SCHEMA)
async def json_schema_2020_12_tool(request: Request) -> list[Object]:
    """Have a schema that says much."""
    return [text(json.dumps(request.arguments))]


@tool(region={"type": "string", "x-mcp-header": "Region"})
async def test_header(request: Request) -> list[Object]:
    """Have an argument that HTTP repeats in a header."""
    return [text(request.arguments["region"])]


@tool()
async def test_error_handling(request: Request) -> list[Object]:
    """Fail."""
    raise ToolFailure("This tool intentionally returns an error for testing")


@tool()
async def test_tool_with_logging(request: Request) -> list[Object]:
    """Log three lines."""
    await request.log("Tool execution started", "Tool processing data", "Tool execution completed")
    return [text("logged")]


@tool()
async def test_logging_tool(request: Request) -> list[Object]:
    """Log a line."""
    await request.log("logged whether asked to or not")
    return [text("logged")]


@tool()
async def test_tool_with_progress(request: Request) -> list[Object]:
    """Report three steps."""
    await request.progress(0, 50, 100)
    return [text("done")]


@tool()
async def test_reconnection(request: Request) -> list[Object]:
    """Close the stream, so that the client has to come back for the answer."""
    if request.ctx.close_sse_stream:
        await request.ctx.close_sse_stream()
    await anyio.sleep(2 * PAUSE)
    return [text("here again")]


@tool()
async def test_trigger_tool_change(request: Request) -> list[Object]:
    """Say that there are other tools."""
    await bus.publish(ToolsListChanged())
    if not request.modern:
        await request.ctx.session.send_tool_list_changed()
    return [text("told")]


@tool()
async def test_trigger_prompt_change(request: Request) -> list[Object]:
    """Say that there are other prompts."""
    await bus.publish(PromptsListChanged())
    if not request.modern:
        await request.ctx.session.send_prompt_list_changed()
    return [text("told")]


@tool(prompt=STRING)
async def test_sampling(request: Request) -> list[Object]:
    """Have the client's model answer."""
    found = await request.ask({"sampled": sampling(request.arguments["prompt"])})
    return [text(f"LLM response: {found['sampled']['content']['text']}")]


@tool(message=STRING)
async def test_elicitation(request: Request) -> list[Object]:
    """Ask the user for two things."""
    form = elicitation(request.arguments["message"], {"username": STRING, "email": STRING})
    found = await request.ask({"user": form})
    return [text(f"User response: {_told(found['user'])}")]


@tool()
async def test_elicitation_sep1034_defaults(request: Request) -> list[Object]:
    """Ask with defaults of every type."""
    status = {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"}
    properties: Object = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": status,
        "verified": {"type": "boolean", "default": True},
    }
    return await _completed(request, properties)


@tool()
async def test_elicitation_sep1330_enums(request: Request) -> list[Object]:
    """Ask with choices of every form."""
    options = ["option1", "option2", "option3"]
    titled = [
        {"const": f"value{number}", "title": f"{word} Option"}
        for number, word in enumerate(("First", "Second", "Third"), 1)
    ]
    properties: Object = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await _completed(request, properties)


async def _completed(request: Request, properties: Object) -> list[Object]:
    found = await request.ask({"user": elicitation("Please choose", properties, optional=True)})
    return [text(f"Elicitation completed: {_told(found['user'])}")]


def _told(answer: Object) -> str:
    return f"action={answer['action']}, content={json.dumps(answer.get('content'))}"


@tool()
async def test_missing_capability(request: Request) -> list[Object]:
    """Need sampling, whether asked for it or not."""
    if "sampling" not in request.capabilities:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return [text("You can sample")]


@tool()
async def test_streaming_elicitation(request: Request) -> list[Object]:
    """Report progress, then ask."""
    await request.progress(50)
    found = await request.ask({"user": elicitation("Go on?", {"ok": {"type": "boolean"}})})
    return [text(_told(found["user"]))]


NAME = elicitation("What is your name?", {"name": STRING})


@tool()
async def test_input_required_result_elicitation(request: Request) -> list[Object]:
    """Ask for a name."""
    found = await request.ask({"user_name": NAME})
    return [text(f"Hello, {found['user_name'].get('content', {}).get('name')}!")]


@tool()
async def test_input_required_result_sampling(request: Request) -> list[Object]:
    """Ask the client's model."""
    found = await request.ask({"capital_question": sampling("What is the capital of France?")})
    return [text(found["capital_question"]["content"]["text"])]


@tool()
async def test_input_required_result_list_roots(request: Request) -> list[Object]:
    """Ask for the roots."""
    found = await request.ask({"client_roots": ROOTS})
    return [text(" ".join(root["uri"] for root in found["client_roots"]["roots"]))]


@tool()
async def test_input_required_result_request_state(request: Request) -> list[Object]:
    """Ask, and want a state back."""
    await request.ask({"confirm": _confirmation()}, "asked")
    return [text("state-ok")]


@tool()
async def test_input_required_result_tampered_state(request: Request) -> list[Object]:
    """Ask, and want a state back untouched."""
    await request.ask({"confirm": _confirmation()}, "asked too")
    return [text("state-ok")]


def _confirmation() -> Object:
    return elicitation("Please confirm", {"ok": {"type": "boolean"}})


@tool()
async def test_input_required_result_multiple_inputs(request: Request) -> list[Object]:
    """Ask for everything there is at once."""
    questions = {
        "user_name": NAME,
        "greeting": sampling("Generate a greeting"),
        "client_roots": ROOTS,
    }
    found = await request.ask(questions, "all")
    return [text(", ".join(sorted(found)))]


@tool()
async def test_input_required_result_multi_round(request: Request) -> list[Object]:
    """Ask twice, one after the other."""
    if not request.came_with("second"):
        step = elicitation("Step 1: What is your name?", {"name": STRING})
        await request.ask({"step1": step}, "first")
    step = elicitation("Step 2: What is your favorite color?", {"color": STRING})
    found = await request.ask({"step2": step}, "second")
    return [text(_told(found["step2"]))]


@tool()
async def test_input_required_result_capabilities(request: Request) -> list[Object]:
    """Ask for no more than the client can do."""
    questions = {"elicitation": NAME, "sampling": sampling("Generate a greeting"), "roots": ROOTS}
    found = await request.ask(
        {key: one for key, one in questions.items() if key in request.capabilities}
    )
    return [text(", ".join(sorted(found)))]


async def called(request: Request, name: str) -> Object:
    """The result of a call: content, an error of the tool's own, or questions."""
    if name not in TOOLS:
        raise MCPError(-32602, f"Unknown tool: {name}")
    try:
        return whole(content=await TOOLS[name][1](request))
    except ToolFailure as failure:
        return whole(content=[text(str(failure))], isError=True)
    except NeedsInput as needed:
        return needed.result
