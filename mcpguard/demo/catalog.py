"""The resources and prompts of the demo server, and the completion of their arguments."""

from urllib.parse import quote, unquote

from mcpguard.demo.calls import Call
from mcpguard.demo.changes import Changes
from mcpguard.demo.files import FileProblem, Folder
from mcpguard.demo.messages import INVALID_PARAMS, RESOURCE_NOT_FOUND, Message, ProtocolError

README = """\
This is the demo MCP server of mcp-guard. It works in a folder of its own and offers

- file tools: read_file, write_file, list_directory, delete_file
- echo, and slow, which reports progress and can be cancelled
- ask, summarize and roots, which put a question to the client
- resources: this text, a counter to subscribe to, and the files
- the prompt greet
"""
NAMES = ("Ada", "Alan", "Barbara", "Edsger", "Grace", "Katherine", "Linus", "Margaret")
FILES = "demo://files/"
MAX_COMPLETIONS = 100
"""Of the specification: ``completion/complete`` answers with at most this many values."""


class Catalog:
    """Everything that is read rather than called."""

    def __init__(self, folder: Folder, changes: Changes) -> None:
        self._folder = folder
        self._changes = changes

    def resources(self) -> list[Message]:
        """The items of ``resources/list``: two fixed ones and the files at the top."""
        fixed: list[Message] = [
            {
                "uri": "demo://readme",
                "name": "readme",
                "description": "What this server offers",
                "mimeType": "text/plain",
            },
            {
                "uri": "demo://counter",
                "name": "counter",
                "description": "Counts echoes and writes; subscribe to see it change",
                "mimeType": "text/plain",
            },
        ]
        return fixed + [
            {"uri": FILES + quote(name, safe=""), "name": name} for name in self._file_names()
        ]

    def templates(self) -> list[Message]:
        """The items of ``resources/templates/list``."""
        return [
            {
                "uriTemplate": FILES + "{name}",
                "name": "file",
                "description": "A file of the demo folder; write / in its name as %2F",
            }
        ]

    def read(self, call: Call) -> Message:
        """The result of ``resources/read``.

        Raises:
            ProtocolError: The resource does not exist, with the code of the client's era.
        """
        uri = _text_param(call.params, "uri")
        if uri == "demo://readme":
            text, kind = README, "text/plain"
        elif uri == "demo://counter":
            text, kind = str(self._changes.count), "text/plain"
        elif uri.startswith(FILES) and "/" not in uri[len(FILES) :]:
            try:
                text, kind = self._folder.read(unquote(uri[len(FILES) :])), ""
            except FileProblem as problem:
                raise _not_found(call, uri) from problem
        else:
            raise _not_found(call, uri)
        content: Message = {"uri": uri, "text": text}
        if kind:
            content["mimeType"] = kind
        return {"contents": [content]}

    def prompts(self) -> list[Message]:
        """The items of ``prompts/list``."""
        return [
            {
                "name": "greet",
                "description": "Greet somebody",
                "arguments": [{"name": "name", "description": "Whom to greet", "required": True}],
            }
        ]

    def prompt(self, call: Call) -> Message:
        """The result of ``prompts/get``.

        Raises:
            ProtocolError: INVALID_PARAMS for another prompt or a missing argument.
        """
        if call.params.get("name") != "greet":
            raise ProtocolError(INVALID_PARAMS, "Unknown prompt")
        arguments = call.params.get("arguments", {})
        name = arguments.get("name") if isinstance(arguments, dict) else None
        if not isinstance(name, str):
            raise ProtocolError(INVALID_PARAMS, "The prompt needs the argument name")
        text = f"Please greet {name} warmly, in one sentence."
        return {
            "description": "Greet somebody",
            "messages": [{"role": "user", "content": {"type": "text", "text": text}}],
        }

    def complete(self, call: Call) -> Message:
        """The result of ``completion/complete``.

        Raises:
            ProtocolError: INVALID_PARAMS when there is nothing of that name to complete.
        """
        reference, argument = call.params.get("ref"), call.params.get("argument")
        if not isinstance(reference, dict) or not isinstance(argument, dict):
            raise ProtocolError(INVALID_PARAMS, "ref and argument must be objects")
        kind = reference.get("type")
        if argument.get("name") != "name":
            raise ProtocolError(INVALID_PARAMS, "Unknown argument")
        if kind == "ref/prompt" and reference.get("name") == "greet":
            candidates = list(NAMES)
        elif kind == "ref/resource" and reference.get("uri") == FILES + "{name}":
            candidates = self._file_names()
        else:
            raise ProtocolError(INVALID_PARAMS, "Unknown prompt or resource template")
        start = _text_param(argument, "value").lower()
        values = [name for name in candidates if name.lower().startswith(start)]
        return {
            "completion": {
                "values": values[:MAX_COMPLETIONS],
                "total": len(values),
                "hasMore": len(values) > MAX_COMPLETIONS,
            }
        }

    def exists(self, uri: str) -> bool:
        """Whether one may subscribe to ``uri`` (a file may come later)."""
        return uri in ("demo://readme", "demo://counter") or uri.startswith(FILES)

    def _file_names(self) -> list[str]:
        try:
            return [name for name, kind in self._folder.entries("") if kind == "file"]
        except FileProblem:  # the folder itself has been removed
            return []


def _text_param(params: Message, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise ProtocolError(INVALID_PARAMS, f"{name} must be a string")
    return value


def _not_found(call: Call, uri: str) -> ProtocolError:
    code = INVALID_PARAMS if call.client.modern else RESOURCE_NOT_FOUND
    return ProtocolError(code, "Resource not found", {"uri": uri})
