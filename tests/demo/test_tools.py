"""Tests of the demo server's tools."""

import jsonschema

from mcpguard.demo.messages import INVALID_PARAMS, Message
from tests.demo.support import ServerCase

NAMES = [
    *("read_file", "write_file", "list_directory", "delete_file"),
    *("echo", "slow", "ask", "summarize", "roots"),
]


class ToolsTests(ServerCase):
    """Each tool through ``tools/call``."""

    def result(self, name: str, **arguments: object) -> Message:
        """The result of a call in a new legacy session."""
        answer = self.legacy("tools/call", {"name": name, "arguments": arguments})
        result: Message = answer["result"]
        return result

    def text(self, name: str, **arguments: object) -> str:
        """The text of a call that succeeds."""
        result = self.result(name, **arguments)
        self.assertNotIn("isError", result)
        return str(result["content"][0]["text"])

    def failure(self, name: str, **arguments: object) -> str:
        """The text of a call that fails inside the tool."""
        result = self.result(name, **arguments)
        self.assertTrue(result["isError"])
        return str(result["content"][0]["text"])

    def test_definitions(self) -> None:
        """Every tool is described, annotated and has valid schemas."""
        definitions = self.legacy("tools/list")["result"]["tools"]
        self.assertEqual(
            [definition["name"] for definition in definitions],
            [
                "read_file",
                "write_file",
                "list_directory",
                "delete_file",
                "echo",
                "slow",
                "ask",
                "summarize",
                "roots",
            ],
        )
        for definition in definitions:
            self.assertTrue(definition["description"])
            self.assertIn("readOnlyHint", definition["annotations"])
            for schema in ("inputSchema", "outputSchema"):
                if schema in definition:
                    jsonschema.Draft202012Validator.check_schema(definition[schema])
        destructive = [
            definition["name"]
            for definition in definitions
            if definition["annotations"].get("destructiveHint")
        ]
        self.assertEqual(destructive, ["write_file", "delete_file"])

    def test_files(self) -> None:
        """The file tools do what they say."""
        self.assertEqual(
            self.text("write_file", path="a.txt", content="ä"), "Wrote 2 bytes to a.txt"
        )
        self.assertEqual(self.text("read_file", path="a.txt"), "ä")
        self.assertIn("[FILE] a.txt", self.text("list_directory"))
        self.assertEqual(self.text("delete_file", path="a.txt"), "Deleted a.txt")
        self.assertEqual(self.failure("read_file", path="a.txt"), "a.txt does not exist")

    def test_listing_keeps_its_schema(self) -> None:
        """The structured listing is what its output schema promises."""
        (definition,) = [
            tool for tool in self.server.tools.definitions() if tool["name"] == "list_directory"
        ]
        content = self.result("list_directory", path="data")["structuredContent"]
        jsonschema.validate(content, definition["outputSchema"])
        self.assertEqual(content, {"entries": [{"name": "numbers.csv", "type": "file"}]})

    def test_failures_are_results(self) -> None:
        """What goes wrong in a tool, bad arguments included, is a result and not an error."""
        self.failure("read_file", path="../secret")
        self.failure("read_file")
        self.failure("read_file", path=3)
        self.failure("echo", message="x", other="y")
        self.failure("slow", seconds=601)

    def test_callers_faults_are_errors(self) -> None:
        """An unknown tool and arguments that are no object are protocol errors."""
        for params in ({"name": "rm"}, {}, {"name": ["echo"]}, {"name": "echo", "arguments": []}):
            self.assertEqual(self.legacy("tools/call", params)["error"]["code"], INVALID_PARAMS)

    def test_echo(self) -> None:
        """Echo answers what it was given."""
        self.assertEqual(self.text("echo", message="☃"), "☃")
        self.assertEqual(self.text("echo", message="a", region="eu"), "a (eu)")

    def test_slow(self) -> None:
        """Slow logs a line and reports each step, in order."""
        params = {
            "name": "slow",
            "arguments": {"seconds": 0, "steps": 3},
            "_meta": {"progressToken": "t"},
        }
        self.legacy("tools/call", params)
        self.assertEqual(self.sent[0]["method"], "notifications/message")
        self.assertEqual([message["params"]["progress"] for message in self.sent[1:]], [1, 2, 3])

    def test_questions(self) -> None:
        """The asking tools put the client's answers into words."""
        for name, arguments, key, given, text in (
            ("ask", {"question": "?"}, "answer", _accept({"answer": "red"}), "answered: red"),
            ("ask", {"question": "?"}, "answer", {"action": "decline"}, "declined"),
            ("ask", {"question": "?"}, "answer", {"action": "cancel"}, "cancelled"),
            ("summarize", {"text": "t"}, "summary", {"content": _text("sum")}, "sum"),
            ("summarize", {"text": "t"}, "summary", {"content": [_text("sum")]}, "sum"),
            ("roots", {}, "roots", {"roots": [{"uri": "file:///r"}]}, "file:///r"),
            ("roots", {}, "roots", {"roots": []}, "No roots"),
        ):
            result = self.asked(name, arguments, key, given)
            self.assertIn(text, result["content"][0]["text"])
            self.assertNotIn("isError", result)

    def test_useless_answers(self) -> None:
        """Answers that make no sense fail the tool."""
        for name, arguments, key, given in (
            ("ask", {"question": "?"}, "answer", _accept({})),
            ("ask", {"question": "?"}, "answer", _accept(None)),
            ("summarize", {"text": "t"}, "summary", {"content": {"type": "image"}}),
            ("summarize", {"text": "t"}, "summary", {}),
            ("roots", {}, "roots", {}),
        ):
            self.assertTrue(self.asked(name, arguments, key, given)["isError"])

    def asked(self, name: str, arguments: Message, key: str, given: Message) -> Message:
        """The result of a modern call after one round of questions."""
        capabilities: Message = {"elicitation": {}, "sampling": {}, "roots": {}}
        meta = {"io.modelcontextprotocol/clientCapabilities": capabilities}
        params: Message = {"name": name, "arguments": arguments}
        first = self.modern("tools/call", params, **meta)["result"]
        self.assertEqual(first["resultType"], "input_required")
        self.assertEqual(list(first["inputRequests"]), [key])
        again = {
            **params,
            "inputResponses": {key: given},
            "requestState": first["requestState"],
        }
        result: Message = self.modern("tools/call", again, **meta)["result"]
        self.assertEqual(result["resultType"], "complete")
        return result


def _accept(content: Message | None) -> Message:
    return {"action": "accept", "content": content}


def _text(words: str) -> Message:
    return {"type": "text", "text": words}
