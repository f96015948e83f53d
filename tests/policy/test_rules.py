"""Tests of the rule engine."""

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.principal import Rights
from mcpguard.policy.rules import MAX_NAME, Kind, Operation, Verdict, decide
from tests.policy.test_globs import by_the_book

NAMES = st.text("ab:", max_size=5)
PATTERNS = st.text("ab:*?", max_size=5)
SERVERS = st.text("ab", min_size=1, max_size=2)
ENTRIES = st.lists(PATTERNS, max_size=3).map(tuple)
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["tool", "prompt", "resource"])
ALL_RIGHTS = st.builds(
    Rights,
    tools=st.none() | ENTRIES,
    denied_tools=ENTRIES,
    servers=st.none() | st.lists(st.text("ab*", min_size=1, max_size=2), max_size=2).map(tuple),
    resources=st.none() | ENTRIES,
    denied_resources=ENTRIES,
    prompts=st.none() | ENTRIES,
    denied_prompts=ENTRIES,
    scoped_tools=st.none() | ENTRIES,
)


def judge(rights: Rights, name: str, kind: Kind = "tool", server: str = "fs") -> Verdict:
    """The verdict on one thing."""
    return decide(rights, Operation(kind, name, server, "tools/call"))


def allows(rights: Rights, name: str, kind: Kind = "tool", server: str = "fs") -> bool:
    """The yes or no on one thing."""
    return judge(rights, name, kind, server).allowed


class ListTests(SynchronousTestCase):
    """Allow and deny lists."""

    def test_unset_and_empty(self) -> None:
        """Unset allows everything, empty nothing, for each kind on its own."""
        kinds: tuple[tuple[Kind, str], ...] = (
            ("tool", "tools"),
            ("prompt", "prompts"),
            ("resource", "resources"),
        )
        for kind, member in kinds:
            self.assertTrue(allows(Rights(), "x", kind))
            rights = evolve(Rights(), **{member: ()})
            for other, _ in kinds:
                self.assertEqual(allows(rights, "x", other), other != kind)

    def test_scopes(self) -> None:
        """Scopes grant tools within the lists, and nothing else needs one."""
        rights = Rights(
            tools=("read_*", "sum"), denied_tools=("read_me",), scoped_tools=("read_*",)
        )
        self.assertEqual(judge(rights, "read_x"), Verdict(True, "allowed", "allowed_tools: read_*"))
        for name, reason, rule in (
            ("sum", "insufficient_scope", "scope_tool_mapping"),
            ("read_me", "denied", "denied_tools: read_me"),
            ("write", "denied", "allowed_tools"),
        ):
            self.assertEqual(judge(rights, name), Verdict(False, reason, rule))
        self.assertTrue(allows(Rights(scoped_tools=()), "x", "prompt"))
        self.assertTrue(allows(Rights(scoped_tools=()), "x", "resource"))
        self.assertTrue(allows(Rights(scoped_tools=()), "tools/list", "method"))

    def test_scopes_alone(self) -> None:
        """Without lists the scopes decide; an entry is read as in a list."""
        self.assertFalse(allows(Rights(scoped_tools=()), "x"))
        self.assertEqual(
            judge(Rights(scoped_tools=("a", "*")), "x"),
            Verdict(True, "allowed", "scope_tool_mapping: *"),
        )
        pinned = Rights(scoped_tools=("fs:x",))
        self.assertTrue(allows(pinned, "x"))
        self.assertFalse(allows(pinned, "x", server="web"))
        self.assertEqual(
            judge(Rights(servers=("web",), scoped_tools=("*",)), "x").reason, "server_denied"
        )
        long = judge(Rights(scoped_tools=("*",)), "x" * (MAX_NAME + 1))
        self.assertEqual(long.reason, "denied")

    def test_deny_wins(self) -> None:
        """What both lists name is denied."""
        rights = Rights(tools=("*",), denied_tools=("rm_*",))
        self.assertTrue(allows(rights, "read"))
        self.assertFalse(allows(rights, "rm_all"))
        self.assertFalse(allows(Rights(tools=("rm",), denied_tools=("rm",)), "rm"))

    def test_servers_first(self) -> None:
        """A server not allowed is denied before anything else, for methods too."""
        rights = Rights(servers=("fs", "db-*"), denied_tools=("*",))
        self.assertEqual(judge(rights, "x", server="git").reason, "server_denied")
        self.assertEqual(judge(rights, "ping", "method", "git").reason, "server_denied")
        self.assertEqual(judge(rights, "x", server="fs").reason, "denied")
        for server in ("fs", "db-1"):
            self.assertTrue(allows(rights, "ping", "method", server))
        self.assertFalse(allows(Rights(servers=()), "ping", "method"))

    def test_methods_touch_nothing(self) -> None:
        """No list of tools has a word on a plain method."""
        self.assertTrue(allows(Rights(tools=(), denied_tools=("*",)), "tools/list", "method"))

    def test_verdicts(self) -> None:
        """A verdict names the list and entry that made it."""
        rights = Rights(tools=("a", "re*"), denied_tools=("rm",), servers=("f*",))
        self.assertEqual(judge(rights, "read"), Verdict(True, "allowed", "allowed_tools: re*"))
        self.assertEqual(judge(rights, "rm"), Verdict(False, "denied", "denied_tools: rm"))
        self.assertEqual(judge(rights, "x"), Verdict(False, "denied", "allowed_tools"))
        self.assertEqual(
            judge(rights, "a", server="git"), Verdict(False, "server_denied", "allowed_servers")
        )
        self.assertEqual(
            judge(rights, "p", "prompt"), Verdict(True, "allowed", "allowed_servers: f*")
        )
        self.assertEqual(judge(Rights(), "x"), Verdict(True, "allowed", None))

    def test_long_names(self) -> None:
        """A name too long to try patterns on is denied where there are any."""
        longest = "a" * MAX_NAME
        rights = Rights(tools=("a*",))
        self.assertTrue(allows(rights, longest))
        self.assertFalse(allows(rights, longest + "a"))
        self.assertFalse(allows(Rights(denied_tools=("b",)), longest + "a"))
        self.assertTrue(allows(Rights(), longest + "a"))

    def test_unknown_kind(self) -> None:
        """A kind the engine does not know is an error, not a yes."""
        with self.assertRaises(ValueError):
            decide(Rights(), Operation("model", "x", "fs", "m"))  # type: ignore[arg-type]


class PinTests(SynchronousTestCase):
    """Entries with a colon."""

    def test_allow(self) -> None:
        """A pin allows on its server only, and nothing that merely looks like it."""
        rights = Rights(tools=("fs:read",))
        self.assertTrue(allows(rights, "read", server="fs"))
        self.assertFalse(allows(rights, "read", server="git"))
        self.assertFalse(allows(rights, "fs:read", server="git"))
        self.assertFalse(allows(rights, "fs:read", server="fs"))

    def test_literal_colons(self) -> None:
        """A name with a colon is written with its server or any server in front."""
        rights = Rights(tools=("*:ns:read",))
        self.assertTrue(allows(rights, "ns:read", server="fs"))
        self.assertFalse(allows(rights, "read", server="ns"))
        self.assertFalse(allows(Rights(tools=("ns:read",)), "ns:read", server="fs"))
        self.assertTrue(allows(Rights(tools=("f?:ns:*",)), "ns:read", server="fs"))

    def test_deny(self) -> None:
        """A deny entry counts in every reading it could have."""
        rights = Rights(denied_tools=("fs:read",))
        self.assertFalse(allows(rights, "read", server="fs"))
        self.assertTrue(allows(rights, "read", server="git"))
        self.assertFalse(allows(rights, "fs:read", server="git"))
        odd = Rights(denied_tools=("a:b:c",))
        self.assertFalse(allows(odd, "c", server="a:b"))
        self.assertFalse(allows(odd, "b:c", server="a"))

    def test_uris(self) -> None:
        """An entry that is a URI stands for it on every server; a pin may stand before a URI."""
        rights = Rights(resources=("file:///pub/*",))
        for server in ("fs", "git"):
            self.assertTrue(allows(rights, "file:///pub/x", "resource", server))
        pinned = Rights(resources=("fs:file:///pub/*",))
        self.assertTrue(allows(pinned, "file:///pub/x", "resource", "fs"))
        self.assertFalse(allows(pinned, "file:///pub/x", "resource", "git"))
        self.assertFalse(allows(pinned, "fs:file:///pub/x", "resource", "git"))
        urn = Rights(resources=("*:urn:isbn:*",))
        self.assertTrue(allows(urn, "urn:isbn:1", "resource", "git"))

    def test_denied_uris(self) -> None:
        """Deny lists understand URIs of every form, pinned or not."""
        for entry in ("urn:isbn:*", "*:urn:isbn:*", "git:urn:isbn:*", "urn*"):
            rights = Rights(denied_resources=(entry,))
            self.assertFalse(allows(rights, "urn:isbn:1", "resource", "git"), entry)

    @settings(deadline=None, max_examples=300)
    @given(SERVERS, st.text("ab:*?/", max_size=5), SERVERS, NAMES, KINDS)
    def test_pins_never_widen(
        self, pinned: str, rest: str, server: str, name: str, kind: Kind
    ) -> None:
        """Whatever follows it, a pin allows nothing on another server."""
        if rest.startswith("//") or server == pinned:
            return
        entries = (f"{pinned}:{rest}",)
        rights = Rights(tools=entries, prompts=entries, resources=entries)
        self.assertFalse(allows(rights, name, kind, server))
        self.assertFalse(allows(rights, entries[0], kind, server))


class ResourceTests(SynchronousTestCase):
    """Resources are compared in the forms a server may read."""

    def test_allow_needs_both_forms(self) -> None:
        """Neither coding nor dots lead out of what is allowed."""
        rights = Rights(resources=("file:///pub/*",))
        self.assertTrue(allows(rights, "file:///pub/a%20b", "resource"))
        for uri in (
            "file:///pub/../etc/passwd",
            "file:///pub/%2e%2e/etc/passwd",
            "file:///pub/%252e%252e/etc/passwd",
            "file:///pub/..%2fetc/passwd",
            "file:///pub/..\\etc\\passwd",
            "file:///%70ub/x",
            "FILE:///pub/x",
        ):
            self.assertFalse(allows(rights, uri, "resource"), uri)

    def test_coded_entries(self) -> None:
        """An entry may be written with coding itself."""
        rights = Rights(resources=("file:///my%20docs/*",))
        self.assertTrue(allows(rights, "file:///my%20docs/a", "resource"))

    def test_deny_needs_one(self) -> None:
        """No spelling leads around a denial."""
        rights = Rights(denied_resources=("file:///etc/*", "fs:db://Prod/*"))
        for uri in (
            "file:///etc/passwd",
            "file:///%65tc/passwd",
            "FILE:/etc/passwd",
            "file:////etc/passwd",
            "file://localhost/etc/passwd",
            "file:///pub/../etc/passwd",
            "file:///etc%2fpasswd",
            "db://prod/x",
            "DB://PROD//x",
        ):
            self.assertFalse(allows(rights, uri, "resource"), uri)
        self.assertTrue(allows(rights, "file:///pub/x", "resource"))
        self.assertTrue(allows(rights, "db://prod/x", "resource", "git"))

    def test_denied_as_written(self) -> None:
        """A deny entry in odd spelling denies that spelling too."""
        rights = Rights(denied_resources=("x://h/a%zz//b",))
        self.assertFalse(allows(rights, "x://h/a%zz//b", "resource"))

    def test_no_rules_no_doubt(self) -> None:
        """Without any rule on resources nothing is looked at."""
        self.assertTrue(allows(Rights(tools=()), "file:///a/../b", "resource"))

    def test_only_resources(self) -> None:
        """A tool's name is never taken for a URI."""
        self.assertTrue(allows(Rights(tools=("a/../b",)), "a/../b"))
        self.assertTrue(allows(Rights(denied_tools=("ab",)), "%61b"))


class PropertyTests(SynchronousTestCase):
    """What holds for all rights."""

    @settings(deadline=None, max_examples=300)
    @given(
        st.none() | st.lists(st.text("ab*?", max_size=4), max_size=3).map(tuple),
        st.lists(st.text("ab*?", max_size=4), max_size=3).map(tuple),
        st.text("ab", max_size=4),
    )
    def test_by_the_book(
        self, allowed: tuple[str, ...] | None, denied: tuple[str, ...], name: str
    ) -> None:
        """Without colons: no deny entry matches, and an allow entry does or there is no list."""
        expected = not any(by_the_book(entry, name) for entry in denied) and (
            allowed is None or any(by_the_book(entry, name) for entry in allowed)
        )
        rights = Rights(tools=allowed, denied_tools=denied)
        self.assertEqual(allows(rights, name), expected)

    @settings(deadline=None, max_examples=150)
    @given(ALL_RIGHTS, KINDS, NAMES, SERVERS, PATTERNS)
    def test_monotonic(
        self, rights: Rights, kind: Kind, name: str, server: str, entry: str
    ) -> None:
        """A further deny entry never allows more, a further allow entry never less."""
        before = allows(rights, name, kind, server)
        member = f"{kind}s"
        denied = evolve(
            rights, **{f"denied_{member}": (entry, *getattr(rights, f"denied_{member}"))}
        )
        self.assertLessEqual(allows(denied, name, kind, server), before)
        listed = getattr(rights, member)
        if listed is not None:
            widened = evolve(rights, **{member: (entry, *listed)})
            self.assertGreaterEqual(allows(widened, name, kind, server), before)

    @settings(deadline=None, max_examples=150)
    @given(ALL_RIGHTS, KINDS, NAMES, SERVERS)
    def test_verdicts_explain(self, rights: Rights, kind: Kind, name: str, server: str) -> None:
        """Every denial has its reason and its rule."""
        verdict = judge(rights, name, kind, server)
        if verdict.allowed:
            self.assertEqual(verdict.reason, "allowed")
        else:
            reasons = ("denied", "server_denied", "insufficient_scope")
            self.assertIn(verdict.reason, reasons)
            self.assertIsNotNone(verdict.rule)

    @settings(deadline=None, max_examples=150)
    @given(ALL_RIGHTS, KINDS, NAMES, SERVERS)
    def test_scopes_decide_last(self, rights: Rights, kind: Kind, name: str, server: str) -> None:
        """A scope is what is missing exactly where everything else allows; only for tools."""
        verdict = judge(rights, name, kind, server)
        without = judge(evolve(rights, scoped_tools=None), name, kind, server)
        if verdict.reason == "insufficient_scope":
            self.assertEqual(kind, "tool")
            self.assertTrue(without.allowed)
        else:
            self.assertEqual(verdict.allowed, without.allowed)
        if rights.scoped_tools is not None and kind == "tool" and verdict.allowed:
            self.assertTrue(allows(Rights(tools=rights.scoped_tools), name, kind, server))
