"""Tests of what scopes grant and which one is missing."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.principal import Rights, Scopes
from mcpguard.policy.rules import MAX_NAME, Operation, decide
from mcpguard.policy.scopes import granted, needed

MAPPING = {
    "read": ("read_*", "list_directory"),
    "files": ("fs:*",),
    "write": ("write_file", "read_file", "delete_file"),
    "admin": ("*",),
    "nothing": (),
}


class GrantedTests(SynchronousTestCase):
    """What a set of scopes grants."""

    def test_no_mapping(self) -> None:
        """Without a mapping no tool needs a scope."""
        self.assertEqual(granted(None, ["read"]), (None, None))

    def test_union(self) -> None:
        """The lists of all held scopes, in the mapping's order, each entry once."""
        both = {"a": ("x", "y"), "b": ("y", "z"), "c": ("w",)}
        tools, scopes = granted(both, ["b", "other", "a"])
        self.assertEqual(tools, ("x", "y", "z"))
        self.assertEqual(scopes, Scopes(frozenset({"a", "b"}), both))

    def test_nothing(self) -> None:
        """What matches nothing grants nothing, not everything; so does an empty mapping."""
        for mapping, held in ((MAPPING, ["other", "READ"]), (MAPPING, ["nothing"]), ({}, ["a"])):
            tools, scopes = granted(mapping, held)
            self.assertEqual(tools, ())
            self.assertIsNotNone(scopes)


class NeededTests(SynchronousTestCase):
    """What to ask for."""

    def needed(self, *held: str, tool: str, server: str = "fs") -> tuple[str, ...] | None:
        """The scopes for a tool, for somebody who holds these."""
        return needed(Scopes(frozenset(held), MAPPING), server, tool)

    def test_narrowest(self) -> None:
        """The scope with the fewest entries, none that grants everything, the first of equals."""
        self.assertEqual(self.needed(tool="write_file", server="db"), ("write",))
        self.assertEqual(self.needed(tool="write_file"), ("files",))
        self.assertEqual(self.needed(tool="read_file", server="db"), ("read",))
        self.assertEqual(self.needed(tool="drop", server="db"), ("admin",))
        equal = Scopes(frozenset(), {"b": ("x",), "a": ("x",)})
        self.assertEqual(needed(equal, "db", "x"), ("b",))

    def test_kept(self) -> None:
        """What is held stands before it: clients replace their token by the one they ask for."""
        self.assertEqual(
            self.needed("read", "nothing", tool="write_file", server="db"),
            ("read", "nothing", "write"),
        )

    def test_no_help(self) -> None:
        """No scope helps where none grants the tool, or where one that is held does already."""
        few = Scopes(frozenset(), {"read": ("read_*",), "pin": ("fs:drop",)})
        self.assertIsNone(needed(few, "db", "drop"))
        self.assertIsNone(needed(Scopes(frozenset(), {}), "db", "drop"))
        self.assertIsNone(self.needed("read", tool="read_file"))
        self.assertIsNone(self.needed("admin", tool="write_file"))
        self.assertIsNone(self.needed(tool="x" * (MAX_NAME + 1)))

    NAMES = st.sampled_from(("read_file", "write_file", "drop", "a:b", "", "x" * (MAX_NAME + 1)))
    ENTRIES = st.sampled_from(("*", "read_*", "fs:*", "fs:drop", "*:a:b", "drop", "d?op", "//x"))

    @given(
        st.dictionaries(
            st.sampled_from("abcd"), st.lists(ENTRIES, max_size=3).map(tuple), max_size=4
        ),
        st.sets(st.sampled_from("abcdx")),
        st.sampled_from(("fs", "db")),
        NAMES,
    )
    def test_as_the_rules_have_it(
        self, mapping: dict[str, tuple[str, ...]], held: set[str], server: str, tool: str
    ) -> None:
        """Who gets the scopes that are asked for may call the tool; nobody is asked in vain."""

        def allowed(scopes: set[str]) -> bool:
            tools, _ = granted(mapping, scopes)
            rights = Rights(tools=tools)
            return decide(rights, Operation("tool", tool, server, "tools/call")).allowed

        _, scopes = granted(mapping, held)
        assert scopes is not None
        asked = needed(scopes, server, tool)
        if asked is None:
            self.assertEqual(allowed(held), allowed(held | set(mapping)))
        else:
            self.assertFalse(allowed(held))
            self.assertTrue(allowed(set(asked)))
            self.assertLessEqual(held & set(mapping), set(asked))
