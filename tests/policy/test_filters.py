"""Tests of filtered lists."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.filters import filter_list
from mcpguard.policy.principal import Rights
from mcpguard.policy.rules import Operation, decide
from mcpguard.protocol.mcp import touched
from tests.policy.test_rules import ALL_RIGHTS, NAMES, SERVERS

LISTS = (
    ("tools/list", "tools", "name", "tools/call", "name"),
    ("prompts/list", "prompts", "name", "prompts/get", "name"),
    ("resources/list", "resources", "uri", "resources/read", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate", "resources/read", "uri"),
)
"""Method, the result's member, the item's member, and the call on an item."""


def callable_by(rights: Rights, server: str, method: str, params: dict[str, Any]) -> bool:
    """Whether a call would be allowed, decided the way calls are."""
    return all(
        decide(rights, Operation(kind, name, server, method)).allowed
        for kind, name in touched(method, params)
    )


class FilterTests(SynchronousTestCase):
    """`filter_list` shows what may be called, and leaves the rest of the result alone."""

    def test_shape(self) -> None:
        """Order, cursor, unknown members of the result and of items stay."""
        result = {
            "nextCursor": "",
            "tools": [
                {"name": "b", "x": {"y": [1]}},
                {"name": "rm"},
                {"name": "a", "inputSchema": {}},
            ],
            "_meta": {"k": 1},
            "ttlMs": 5,
        }
        shown, dropped = filter_list(Rights(denied_tools=("rm",)), "fs", "tools/list", result)
        self.assertEqual(dropped, 1)
        self.assertEqual(list(shown), ["nextCursor", "tools", "_meta", "ttlMs"])
        self.assertEqual(shown["tools"], [result["tools"][0], result["tools"][2]])  # type: ignore[index]
        self.assertEqual(len(result["tools"]), 3)  # type: ignore[arg-type]

    def test_malformed_items(self) -> None:
        """What names nothing is not shown, even to who may do everything."""
        for method, member, key, _, _ in LISTS:
            items: list[Any] = [
                None,
                "x",
                [],
                {},
                {key: None},
                {key: 5},
                {key: "x", key.upper(): "y"},
                {key.upper(): "y"},
                {key: "ok"},
            ]
            shown, dropped = filter_list(Rights(), "fs", method, {member: items})
            self.assertEqual(shown, {member: [{key: "ok"}]})
            self.assertEqual(dropped, 8)

    def test_malformed_list(self) -> None:
        """What is no list becomes an empty one, and so does a missing one."""
        for result in ({}, {"tools": None}, {"tools": {"name": "x"}}, {"tools": "x"}):
            self.assertEqual(filter_list(Rights(), "fs", "tools/list", result), ({"tools": []}, 0))

    def test_second_spelling(self) -> None:
        """A list under another case of the name is not left beside the filtered one."""
        result = {"Tools": [{"name": "rm"}], "tools": [], "TOOLS": 1}
        shown, _ = filter_list(Rights(denied_tools=("rm",)), "fs", "tools/list", result)
        self.assertEqual(shown, {"tools": []})

    def test_denied_server(self) -> None:
        """Nothing of a server that is not allowed is shown."""
        result = {"tools": [{"name": "a"}]}
        shown, dropped = filter_list(Rights(servers=("git",)), "fs", "tools/list", result)
        self.assertEqual((shown, dropped), ({"tools": []}, 1))

    def test_templates(self) -> None:
        """A template shows if its own text is allowed."""
        result = {
            "resourceTemplates": [
                {"uriTemplate": "file:///pub/{path}"},
                {"uriTemplate": "file:///{path}"},
            ]
        }
        shown, _ = filter_list(
            Rights(resources=("file:///pub/*",)), "fs", "resources/templates/list", result
        )
        self.assertEqual(shown, {"resourceTemplates": [{"uriTemplate": "file:///pub/{path}"}]})
        listed = Rights(resources=("file:///pub/*", "file:///{path}"))
        shown, _ = filter_list(listed, "fs", "resources/templates/list", result)
        self.assertEqual(shown, result)

    def test_no_list(self) -> None:
        """Asking to filter what is no list is an error."""
        for method in ("tools/call", "no/such"):
            with self.assertRaises(ValueError):
                filter_list(Rights(), "fs", method, {})

    @settings(deadline=None, max_examples=150)
    @given(ALL_RIGHTS, SERVERS, st.sampled_from(LISTS), st.lists(NAMES, max_size=8))
    def test_exactly_what_may_be_called(
        self, rights: Rights, server: str, kind: tuple[str, str, str, str, str], names: list[str]
    ) -> None:
        """For all rights: shown is what a call would be allowed, in the server's order."""
        method, member, key, call, param = kind
        result = {member: [{key: name, "n": n} for n, name in enumerate(names)]}
        shown, dropped = filter_list(rights, server, method, result)
        expected = [
            item for item in result[member] if callable_by(rights, server, call, {param: item[key]})
        ]
        self.assertEqual(shown, {member: expected})
        self.assertEqual(dropped, len(names) - len(expected))
