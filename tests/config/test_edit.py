"""Tests of adding an API key to a text."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.api_keys import NewKey
from mcpguard.config.edit import snippet, with_api_key
from mcpguard.config.load import Format, parse
from mcpguard.config.template import template
from mcpguard.errors import ConfigurationError

NEW = NewKey("new", "HASH")
FULL = NewKey('a "b"', "HASH", ("x*", "y"), 2.5, datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))


class SnippetTests(SynchronousTestCase):
    """The entry alone."""

    def test_toml(self) -> None:
        """As it is pasted into a TOML file."""
        self.assertEqual(
            snippet(FULL, "toml"),
            '[[auth.api_keys]]\nid = "a \\"b\\""\nkey_hash = "HASH"\nallowed_tools = ["x*", "y"]\n'
            "rate_limit = 2.5\nexpires_at = 2030-01-02T03:04:05Z\n",
        )

    def test_yaml(self) -> None:
        """As it is pasted into a YAML file."""
        self.assertEqual(
            snippet(FULL, "yaml"),
            'auth:\n  api_keys:\n    - id: "a \\"b\\""\n      key_hash: "HASH"\n'
            '      allowed_tools: ["x*", "y"]\n      rate_limit: 2.5\n'
            '      expires_at: "2030-01-02T03:04:05Z"\n',
        )


class InPlaceTests(SynchronousTestCase):
    """Texts in which one place is changed and nothing else."""

    def check(self, format: Format, before: str, after: str) -> None:
        """The very text that comes out."""
        self.assertEqual(with_api_key(before, format, NEW), after)

    def test_toml_without_keys(self) -> None:
        """Behind everything, with a blank line between."""
        new = '[[auth.api_keys]]\nid = "new"\nkey_hash = "HASH"\n'
        self.check("toml", "", new)
        self.check("toml", "a = 1 # c\n", "a = 1 # c\n\n" + new)
        self.check("toml", "a = 1 # no line end", "a = 1 # no line end\n\n" + new)
        self.check("toml", "a = 1\r\n", "a = 1\r\n\r\n" + new.replace("\n", "\r\n"))

    def test_toml_with_keys(self) -> None:
        """Behind the last key, before the comments of what follows."""
        self.check(
            "toml",
            "# top\n[[auth.api_keys]] # one\nid = 'a'  # x\nallowed_tools = [\n  'x', # why\n]\n"
            "\n# ---- audit ----\n[audit]\nstdout=true\n",
            "# top\n[[auth.api_keys]] # one\nid = 'a'  # x\nallowed_tools = [\n  'x', # why\n]\n"
            '\n[[auth.api_keys]]\nid = "new"\nkey_hash = "HASH"\n'
            "\n# ---- audit ----\n[audit]\nstdout=true\n",
        )

    def test_yaml_without_keys(self) -> None:
        """Behind everything, as a section of its own."""
        new = 'auth:\n  api_keys:\n    - id: "new"\n      key_hash: "HASH"\n'
        self.check("yaml", "", new)
        self.check("yaml", "a: 1 # c\n", "a: 1 # c\n\n" + new)

    def test_yaml_with_keys(self) -> None:
        """Behind the last item, indented as it is."""
        for indent in ("", "  ", "      "):
            head = f"auth:\n  api_keys: # c\n  {indent}- id: a # x\n  {indent}  name: b\n"
            tail = "\n# ---- audit ----\naudit:\n  stdout: true\n"
            new = f'  {indent}- id: "new"\n  {indent}  key_hash: "HASH"\n'
            self.check("yaml", head + tail, head + new + tail)

    def test_templates(self) -> None:
        """The files of `init` grow by the entry only."""
        for format in ("toml", "yaml"):
            before = template(format, "/usr/bin/python3")
            after = with_api_key(before, format, NEW)
            self.assertEqual(after, before + "\n" + snippet(NEW, format))
            twice = with_api_key(after, format, NewKey("second", "H2"))
            self.assertTrue(twice.startswith(after))
            keys = parse(twice, format).tree["auth"]["api_keys"]
            self.assertEqual([key["id"] for key in keys], ["new", "second"])


class RewrittenTests(SynchronousTestCase):
    """Texts written in other ways keep their comments."""

    def test_toml(self) -> None:
        """An inline list."""
        before = "# top\n[auth] # here\napi_keys = [ {id = 'a', key_hash = 'h'}, ] # keys\nx = 1\n"
        after = with_api_key(before, "toml", NEW)
        self.assertEqual(len(parse(after, "toml").tree["auth"]["api_keys"]), 2)
        for comment in ("# top", "# here", "# keys", "x = 1", "{id = 'a', key_hash = 'h'}"):
            self.assertIn(comment, after)

    def test_toml_section_without_keys(self) -> None:
        """An empty list or section."""
        for before in ("[auth]\napi_keys = []\n", "auth = {}\n", "[auth]\n", "auth.api_keys = []"):
            tree = parse(with_api_key(before, "toml", NEW), "toml").tree
            self.assertEqual(tree["auth"]["api_keys"], [NEW.entry])

    def test_yaml(self) -> None:
        """Flow style, and a section without keys."""
        text = "a: |\n  without a line end"
        self.assertEqual(parse(with_api_key(text, "yaml", NEW), "yaml").tree["a"], text[7:])
        for before in (
            "# top\nauth: {api_keys: [{id: a, key_hash: h}]} # here\nb: 'q' # keep\n",
            "# top\nauth: {} # here\nb: 'q' # keep\n",
            "# top\nauth: # here\n  api_keys: []\nb: 'q' # keep\n",
            "# top\nauth:\n  api_keys:\n    -\n      id: a # here\nb: 'q' # keep\n",
        ):
            after = with_api_key(before, "yaml", NEW)
            self.assertEqual(parse(after, "yaml").tree["auth"]["api_keys"][-1], NEW.entry)
            for kept in ("# top", "# here", "b: 'q' # keep"):
                self.assertIn(kept, after)


class RefusalTests(SynchronousTestCase):
    """Texts that stay as they are."""

    def refused(self, text: str, format: Format) -> str:
        """The reason."""
        error = self.assertRaises(ConfigurationError, with_api_key, text, format, NEW)
        return str(error.problems[0])

    def test_same_id(self) -> None:
        """An id that is taken."""
        for text, format in (
            ('[[auth.api_keys]]\nid = "new"\n', "toml"),
            ("auth: {api_keys: [{id: new}]}", "yaml"),
        ):
            words = self.refused(text, "yaml" if format == "yaml" else "toml")
            self.assertEqual(words, 'there is already an API key with the id "new"')

    def test_broken(self) -> None:
        """A text that cannot be read."""
        self.assertIn("not valid TOML", self.refused("a = ", "toml"))
        self.assertIn("not valid YAML", self.refused("a: [", "yaml"))

    def test_no_safe_way(self) -> None:
        """What neither way can edit without changing more than it should."""
        for text in ("auth = 1\n", "[auth]\napi_keys = 'x'\n"):
            self.assertIn("add the key by hand", self.refused(text, "toml"))
        for text in ("auth: x\n", "auth: {api_keys: {a: 1}}\n"):
            self.assertIn("add the key by hand", self.refused(text, "yaml"))


def layouts(format: Format) -> st.SearchStrategy[str]:
    """Files of many layouts, some with keys."""
    parts: tuple[str, ...]
    if format == "toml":
        parts = (
            "# c\n",
            "[server]\nport = 1\n",
            "[[auth.api_keys]]\nid = 'a'\n",
            "[[auth.api_keys]]\n# c\nid = '''b\n'''\n\n\n",
            "[audit]\nx = [1,\n# c\n2]\n",
            "   [rate_limit]\n   y = 'z' # c\n",
            "[[rate_limit.tool_limits]]\nt = 1\n",
        )
    else:
        parts = (
            "# c\n",
            "server:\n  port: 1\n",
            "auth:\n  api_keys:\n  - id: a\n    n: [1,\n      2]\n  # c\n",
            "auth:\n  api_keys:\n    - id: a\n    - {id: b, n: 1}\n",
            "audit:\n  x: |\n    t\n\n    u\n",
            "rate_limit: {y: 'z'} # c\n",
        )
    chosen = st.lists(st.sampled_from(parts), max_size=5)
    ends = st.sampled_from(["", "\n", "\n\n# end", "# end"])
    return st.builds(lambda rows, end: "".join(rows) + end, chosen, ends)


class LayoutTests(SynchronousTestCase):
    """Whatever the layout."""

    def check(self, text: str, format: Format) -> None:
        """Either a reason, or the old text with whole lines added and one more key."""
        try:
            tree = parse(text, format).tree
        except ConfigurationError:
            return
        after = with_api_key(text, format, NEW)
        auth = tree.get("auth", {})
        keys = [*auth.get("api_keys", []), NEW.entry]
        self.assertEqual(parse(after, format).tree, {**tree, "auth": {"api_keys": keys}})
        self.assertEqual(after.count("# c"), text.count("# c"))

    @settings(deadline=None, max_examples=80)
    @given(layouts("toml"))
    def test_toml(self, text: str) -> None:
        """TOML."""
        self.check(text, "toml")

    @settings(deadline=None, max_examples=80)
    @given(layouts("yaml"))
    def test_yaml(self, text: str) -> None:
        """YAML."""
        self.check(text, "yaml")
