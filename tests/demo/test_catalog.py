"""Tests of the demo server's resources and prompts."""

from mcpguard.demo.messages import INVALID_PARAMS, RESOURCE_NOT_FOUND, Message
from tests.demo.support import ServerCase


class ResourceTests(ServerCase):
    """Resources are read, listed and counted."""

    def read(self, uri: str) -> str:
        """The text of a resource."""
        contents = self.legacy("resources/read", {"uri": uri})["result"]["contents"]
        self.assertEqual(contents[0]["uri"], uri)
        return str(contents[0]["text"])

    def test_listed_are_readable(self) -> None:
        """Whatever the list names can be read."""
        (self.root / "ä b%.txt").write_text("odd name")
        uris = [item["uri"] for item in self.legacy("resources/list")["result"]["resources"]]
        self.assertIn("demo://files/%C3%A4%20b%25.txt", uris)
        for uri in uris:
            self.assertTrue(self.read(uri))

    def test_template(self) -> None:
        """The template reaches files deeper down with an encoded slash."""
        (template,) = self.legacy("resources/templates/list")["result"]["resourceTemplates"]
        self.assertEqual(template["uriTemplate"], "demo://files/{name}")
        self.assertIn("square", self.read("demo://files/data%2Fnumbers.csv"))

    def test_counter(self) -> None:
        """The counter counts echoes and writes."""
        self.assertEqual(self.read("demo://counter"), "0")
        self.legacy("tools/call", {"name": "echo", "arguments": {"message": "x"}})
        self.legacy(
            "tools/call", {"name": "write_file", "arguments": {"path": "a", "content": "x"}}
        )
        self.assertEqual(self.read("demo://counter"), "2")

    def test_unknown(self) -> None:
        """An unknown resource has another code in each era."""
        for uri in (
            "demo://nothing",
            "demo://files/nothing",
            "demo://files/data/numbers.csv",
            "demo://files/..%2Fsecret",
            "demo://files/%00",
            "file:///etc/passwd",
        ):
            old = self.legacy("resources/read", {"uri": uri})["error"]
            self.assertEqual((old["code"], old["data"]), (RESOURCE_NOT_FOUND, {"uri": uri}))
            new = self.modern("resources/read", {"uri": uri})["error"]
            self.assertEqual(new["code"], INVALID_PARAMS)
        self.assertEqual(self.legacy("resources/read", {})["error"]["code"], INVALID_PARAMS)


class PromptTests(ServerCase):
    """The prompt and the completion of arguments."""

    def test_greet(self) -> None:
        """The prompt carries its argument."""
        (prompt,) = self.legacy("prompts/list")["result"]["prompts"]
        self.assertEqual(prompt["name"], "greet")
        got = self.legacy("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}})
        self.assertIn("Ada", got["result"]["messages"][0]["content"]["text"])

    def test_faults(self) -> None:
        """Another prompt and a missing argument are errors of the caller."""
        for params in (
            {"name": "other"},
            {"name": "greet"},
            {"name": "greet", "arguments": {"name": 1}},
            {"name": "greet", "arguments": "Ada"},
        ):
            self.assertEqual(self.legacy("prompts/get", params)["error"]["code"], INVALID_PARAMS)

    def complete(self, reference: Message, value: object, name: str = "name") -> Message:
        """The answer to a completion request."""
        params = {"ref": reference, "argument": {"name": name, "value": value}}
        return self.legacy("completion/complete", params)

    def test_completion(self) -> None:
        """Names and files are completed from their beginning."""
        prompt = {"type": "ref/prompt", "name": "greet"}
        self.assertEqual(
            self.complete(prompt, "a")["result"]["completion"],
            {"values": ["Ada", "Alan"], "total": 2, "hasMore": False},
        )
        template = {"type": "ref/resource", "uri": "demo://files/{name}"}
        self.assertEqual(
            self.complete(template, "he")["result"]["completion"]["values"], ["hello.txt"]
        )

    def test_nothing_to_complete(self) -> None:
        """Unknown references and odd shapes are errors of the caller."""
        prompt = {"type": "ref/prompt", "name": "greet"}
        for answer in (
            self.complete({"type": "ref/prompt", "name": "other"}, "a"),
            self.complete(prompt, "a", name="other"),
            self.complete(prompt, 1),
            self.legacy("completion/complete", {"ref": "x", "argument": {}}),
        ):
            self.assertEqual(answer["error"]["code"], INVALID_PARAMS)
