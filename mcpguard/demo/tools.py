"""The tools of the demo server."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from mcpguard.demo.calls import Call, CannotAsk
from mcpguard.demo.changes import Changes
from mcpguard.demo.files import FileProblem, Folder
from mcpguard.demo.messages import INVALID_PARAMS, Message, ProtocolError
from mcpguard.demo.schemas import Schema, complaint, object_of

Arguments = dict[str, Any]

_PATH: Schema = {"type": "string", "maxLength": 1024, "description": "Path inside the demo folder"}
_READS = {"readOnlyHint": True, "openWorldHint": False}
_ASKS = {"readOnlyHint": True, "openWorldHint": True}


class Tool:
    """One tool: what ``tools/list`` says about it and what it does."""

    def __init__(
        self,
        run: Callable[[Call, Arguments], Message],
        definition: Message,
        *,
        waits: bool,
    ) -> None:
        self.run = run
        self.definition = definition
        self.waits = waits
        """Whether it may take longer than a file operation, so that it needs a thread."""


class Tools:
    """The tool table over one folder and one board of changes."""

    def __init__(self, folder: Folder, changes: Changes) -> None:
        self._folder = folder
        self._changes = changes
        self._table: dict[str, Tool] = {}
        self._add(
            "read_file",
            self._read_file,
            "Read a text file.",
            object_of(("path",), path=_PATH),
            {"title": "Read file", **_READS},
        )
        self._add(
            "write_file",
            self._write_file,
            "Create a text file or replace its content.",
            object_of(
                ("path", "content"),
                path=_PATH,
                content={"type": "string", "description": "The new content"},
            ),
            {
                "title": "Write file",
                "readOnlyHint": False,
                "destructiveHint": True,
                "idempotentHint": True,
                "openWorldHint": False,
            },
        )
        self._add(
            "list_directory",
            self._list_directory,
            "List the files and directories of a directory.",
            object_of(path={**_PATH, "description": "Directory; the demo folder when absent"}),
            {"title": "List directory", **_READS},
        )
        self._add(
            "delete_file",
            self._delete_file,
            "Delete a file.",
            object_of(("path",), path=_PATH),
            {
                "title": "Delete file",
                "readOnlyHint": False,
                "destructiveHint": True,
                "idempotentHint": False,
                "openWorldHint": False,
            },
        )
        self._add(
            "echo",
            self._echo,
            "Answer with the given message.",
            object_of(
                ("message",),
                message={"type": "string", "description": "What to answer"},
                region={
                    "type": "string",
                    "maxLength": 64,
                    "description": "Answered too; over HTTP, 2026 clients repeat it in a header",
                    "x-mcp-header": "Region",
                },
            ),
            {"title": "Echo", **_READS},
        )
        self._add(
            "slow",
            self._slow,
            "Take some time, reporting progress; can be cancelled.",
            object_of(
                seconds={
                    "type": "number",
                    "minimum": 0,
                    "maximum": 600,
                    "description": "How long in all (default 2)",
                },
                steps={
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 100,
                    "description": "How many progress reports (default 4)",
                },
            ),
            {"title": "Slow", **_READS},
            waits=True,
        )
        self._add(
            "ask",
            self._ask,
            "Ask the user a question (needs a client with elicitation).",
            object_of(("question",), question={"type": "string", "maxLength": 1000}),
            {"title": "Ask the user", **_ASKS},
            waits=True,
        )
        self._add(
            "summarize",
            self._summarize,
            "Have the client's model summarize a text (needs a client with sampling).",
            object_of(("text",), text={"type": "string", "maxLength": 100_000}),
            {"title": "Summarize", **_ASKS},
            waits=True,
        )
        self._add(
            "roots",
            self._roots,
            "List the client's roots (needs a client with roots).",
            object_of(),
            {"title": "Roots", **_ASKS},
            waits=True,
        )

    def definitions(self) -> list[Message]:
        """The items of ``tools/list``."""
        return [tool.definition for tool in self._table.values()]

    def find(self, name: object) -> Tool:
        """The tool called ``name``.

        Raises:
            ProtocolError: INVALID_PARAMS when there is none, which is a fault of the caller and
                not a failed tool.
        """
        tool = self._table.get(name) if isinstance(name, str) else None
        if tool is None:
            raise ProtocolError(INVALID_PARAMS, "Unknown tool")
        return tool

    def call(self, call: Call) -> Message:
        """The result of ``tools/call``; what goes wrong inside a tool is ``isError``."""
        tool = self.find(call.params.get("name"))
        arguments = call.params.get("arguments", {})
        if not isinstance(arguments, dict):
            raise ProtocolError(INVALID_PARAMS, "arguments must be an object")
        problem = complaint(tool.definition["inputSchema"], arguments)
        if problem is not None:
            return _failure(f"Invalid arguments: {problem}")
        try:
            return tool.run(call, arguments)
        except (FileProblem, CannotAsk) as failure:
            return _failure(str(failure))

    def _add(
        self,
        name: str,
        run: Callable[[Call, Arguments], Message],
        description: str,
        schema: Schema,
        annotations: Message,
        *,
        waits: bool = False,
    ) -> None:
        definition: Message = {
            "name": name,
            "title": annotations["title"],
            "description": description,
            "inputSchema": schema,
            "annotations": annotations,
        }
        if name == "list_directory":
            definition["outputSchema"] = _LISTING
        self._table[name] = Tool(run, definition, waits=waits)

    def _read_file(self, call: Call, arguments: Arguments) -> Message:
        return _text(self._folder.read(arguments["path"]))

    def _write_file(self, call: Call, arguments: Arguments) -> Message:
        path, content = arguments["path"], arguments["content"]
        created = self._folder.write(path, content)
        self._posted(path, relisted=created)
        return _text(f"Wrote {len(content.encode('utf-8'))} bytes to {path}")

    def _list_directory(self, call: Call, arguments: Arguments) -> Message:
        entries = self._folder.entries(arguments.get("path", ""))
        lines = [f"[{'DIR' if kind == 'directory' else 'FILE'}] {name}" for name, kind in entries]
        listed = [{"name": name, "type": kind} for name, kind in entries]
        return {**_text("\n".join(lines)), "structuredContent": {"entries": listed}}

    def _delete_file(self, call: Call, arguments: Arguments) -> Message:
        self._folder.delete(arguments["path"])
        self._posted(arguments["path"], relisted=True)
        return _text(f"Deleted {arguments['path']}")

    def _posted(self, path: str, *, relisted: bool) -> None:
        self._changes.counted()
        self._changes.updated(f"demo://files/{quote(self._folder.plain(path), safe='')}")
        if relisted:
            self._changes.relisted()

    def _echo(self, call: Call, arguments: Arguments) -> Message:
        self._changes.counted()
        region = f" ({arguments['region']})" if "region" in arguments else ""
        return _text(arguments["message"] + region)

    def _slow(self, call: Call, arguments: Arguments) -> Message:
        seconds, steps = arguments.get("seconds", 2), arguments.get("steps", 4)
        call.log("info", f"slow: {steps} steps in {seconds} s")
        for step in range(1, steps + 1):
            # Before the wait: the TypeScript SDKs lose a report that comes with the answer.
            call.progress(step, steps, f"step {step} of {steps}")
            call.pause(seconds / steps)
        return _text(f"Done: {steps} steps in {seconds} s")

    def _ask(self, call: Call, arguments: Arguments) -> Message:
        answer = call.ask(
            "answer",
            "elicitation",
            "elicitation/create",
            {
                "message": arguments["question"],
                "requestedSchema": {
                    "type": "object",
                    "properties": {"answer": {"type": "string", "title": "Answer"}},
                    "required": ["answer"],
                },
            },
        )
        action, content = answer.get("action"), answer.get("content")
        if action != "accept":
            return _text("The user declined" if action == "decline" else "The user cancelled")
        given = content.get("answer") if isinstance(content, dict) else None
        if not isinstance(given, str):
            raise CannotAsk("The client accepted without an answer")
        return _text(f"The user answered: {given}")

    def _summarize(self, call: Call, arguments: Arguments) -> Message:
        question = f"Summarize in one sentence:\n\n{arguments['text']}"
        answer = call.ask(
            "summary",
            "sampling",
            "sampling/createMessage",
            {
                "messages": [{"role": "user", "content": {"type": "text", "text": question}}],
                "maxTokens": 200,
            },
        )
        content = answer.get("content")  # one block; a list of blocks since 2025-11-25
        blocks = content if isinstance(content, list) else [content]
        words = [
            block["text"]
            for block in blocks
            if isinstance(block, dict) and isinstance(block.get("text"), str)
        ]
        if not words:
            raise CannotAsk("The client's model answered without text")
        return _text("\n".join(words))

    def _roots(self, call: Call, arguments: Arguments) -> Message:
        roots = call.ask("roots", "roots", "roots/list", {}).get("roots")
        if not isinstance(roots, list):
            raise CannotAsk("The client answered without roots")
        uris = [str(root.get("uri")) for root in roots if isinstance(root, dict)]
        return _text("\n".join(uris) or "No roots")


_LISTING = {
    "type": "object",
    "properties": {
        "entries": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "type": {"type": "string", "enum": ["file", "directory"]},
                },
                "required": ["name", "type"],
            },
        }
    },
    "required": ["entries"],
}


def _text(words: str) -> Message:
    return {"content": [{"type": "text", "text": words}]}


def _failure(words: str) -> Message:
    return {**_text(words), "isError": True}
