"""Tests of what is remembered of an admission."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.pipeline.rig import Rig, api_key


class NotedTests(SynchronousTestCase):
    """A tool that was allowed once, asked for with the same head."""

    def setUp(self) -> None:
        """A session of somebody who may call two tools."""
        self.rig = Rig(keys=(api_key("alice", allowed_tools=("read", "list_*")),))
        self.rig.upstream.reply = lambda outbound: {"result": {"content": []}}
        self.headers = {"Mcp-Session-Id": self.rig.handshake()}

    def call(self, tool: str) -> int | None:
        """Call a tool: the status."""
        params = {"name": tool, "arguments": {}}
        return self.rig.call("tools/call", params, headers=self.headers).status

    def test_each_tool(self) -> None:
        """What one tool was allowed says nothing of another."""
        tools = ("read", "write", "read", "list_a", "list_b", "write", "READ", "list_a")
        statuses = [self.call(tool) for tool in tools]
        self.assertEqual(statuses, [200, 403, 200, 200, 200, 403, 403, 200])
        self.assertEqual(len(self.rig.upstream.asked), 5)

    def test_other_methods(self) -> None:
        """What a tool was allowed says nothing of a prompt or a resource of that name."""
        self.rig = Rig(keys=(api_key("alice", allowed_prompts=(), allowed_resources=()),))
        self.rig.upstream.reply = lambda outbound: {"result": {"content": []}}
        self.headers = {"Mcp-Session-Id": self.rig.handshake()}
        self.assertEqual((self.call("read"), self.call("read")), (200, 200))
        for method in ("prompts/get", "resources/read"):
            params = {"name": "read", "uri": "read"}
            self.assertEqual(self.rig.call(method, params, headers=self.headers).status, 403)
        self.assertEqual(len(self.rig.upstream.asked), 2)

    def test_other_rights(self) -> None:
        """When the rights behind a credential are others, they are asked anew."""
        self.assertEqual((self.call("read"), self.call("list_a")), (200, 200))
        chain: Any = self.rig.pipeline.callers.authenticator
        found = chain.authenticate

        def less(_: object, incoming: Any, now: float) -> Any:
            principal = found(incoming, now)
            return evolve(principal, rights=evolve(principal.rights, denied_tools=("read",)))

        self.patch(type(chain), "authenticate", less)
        self.assertEqual((self.call("read"), self.call("list_a")), (403, 200))

    def test_bounded(self) -> None:
        """Many tools, and long names, do not stay."""
        for number in range(200):
            self.assertEqual(self.call(f"list_{number}"), 200)
        self.assertEqual(self.call("list_" + "x" * 3000), 200)
        for notes in self.rig._notes.values():
            for _, tools in [note for note in notes.values() if isinstance(note, tuple)]:
                self.assertLessEqual(len(tools), 64)
                self.assertLess(max(map(len, tools), default=0), 100)
