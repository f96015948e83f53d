"""Tests of reading TOML."""

import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.document import Bounds, Document, Unreadable, dotted
from mcpguard.config.toml_source import read_toml

BOUNDS = Bounds(max_bytes=1 << 20, max_nodes=1000, max_depth=8)

SAMPLE = """\
# a comment [not.a.header]
[server]
host = "a\\"b # no comment" # x
"odd.key" = 3
[server.cors]
x.y = 1

[[keys]]
id = \"\"\"
a"b\"\"\"\"
list = [1, # one ]
  "x]", {a = 1, b = [2]}, ]
[[keys]]
id = '''x''' # [[keys]]
[keys.sub]
z = 1979-05-27T07:32:00Z
"""


class TomlLinesTests(SynchronousTestCase):
    """The scan that finds where things stand."""

    def lines(self, document: Document) -> dict[str, tuple[int, int]]:
        """Spans by their words."""
        return {dotted(path): (s.first, s.last) for path, s in document.spans.items()}

    def test_every_kind_of_place(self) -> None:
        """Keys, headers, list items, inline tables and strings of all kinds have their lines."""
        lines = self.lines(read_toml(SAMPLE, BOUNDS))
        expected = {
            "server": (2, 6),
            "server.host": (3, 3),
            'server."odd.key"': (4, 4),
            "server.cors": (5, 6),
            "server.cors.x.y": (6, 6),
            "keys": (8, 16),
            "keys[0]": (8, 12),
            "keys[0].id": (9, 10),
            "keys[0].list": (11, 12),
            "keys[0].list[0]": (11, 11),
            "keys[0].list[1]": (12, 12),
            "keys[0].list[2].b[0]": (12, 12),
            "keys[1]": (13, 16),
            "keys[1].id": (14, 14),
            "keys[1].sub.z": (16, 16),
        }
        self.assertEqual({key: lines.get(key) for key in expected}, expected)

    def test_line_ends_of_windows(self) -> None:
        """CRLF counts as one line end, inside strings too."""
        document = read_toml('a = """\r\nx\r\n"""\r\nb = 1\r\n', BOUNDS)
        self.assertEqual(document.line(("b",)), 4)

    def test_line_of_something_missing(self) -> None:
        """What is not in the file stands where the nearest thing around it stands."""
        document = read_toml("[a]\nb = 1\n", BOUNDS)
        self.assertEqual(document.line(("a", "c", 3)), 1)
        self.assertIsNone(document.line(("z",)))

    @settings(deadline=None, max_examples=80)
    @given(
        st.dictionaries(
            st.text(min_size=1, max_size=4),
            st.recursive(
                st.one_of(
                    st.integers(-5, 5),
                    st.booleans(),
                    st.text(max_size=6),
                    st.floats(allow_nan=False),
                ),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=3),
                    st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3),
                ),
                max_leaves=8,
            ),
            max_size=4,
        )
    )
    def test_whatever_a_library_writes(self, tree: dict[str, object]) -> None:
        """Every value written by another library is found on a line that shows its key."""
        text = tomlkit.dumps(tree)
        document = read_toml(text, Bounds(1 << 20, 10_000, 50))
        self.assertEqual(document.tree, tomlkit.parse(text).unwrap())
        rows = text.split("\n")

        def walk(path: tuple[str | int, ...], value: object) -> None:
            if isinstance(value, dict):
                for key, inner in value.items():
                    walk((*path, key), inner)
            elif isinstance(value, list):
                for index, inner in enumerate(value):
                    walk((*path, index), inner)
            else:
                span = document.spans[path]
                self.assertTrue(1 <= span.first <= span.last <= len(rows))
                if isinstance(path[-1], str) and path[-1].isascii() and path[-1].isalnum():
                    self.assertIn(path[-1], rows[span.first - 1])

        walk((), document.tree)


class TomlRefusalTests(SynchronousTestCase):
    """Texts that are no configuration."""

    def refused(self, text: str, bounds: Bounds = BOUNDS) -> str:
        """The reason."""
        return str(self.assertRaises(Unreadable, read_toml, text, bounds))

    def test_syntax(self) -> None:
        """A syntax error names line and column."""
        self.assertIn("at line 2, column 5", self.refused("a = 1\nb = = 2"))

    def test_key_twice(self) -> None:
        """A key given twice is an error."""
        self.assertIn("not valid TOML", self.refused("a = 1\na = 2"))

    def test_depth(self) -> None:
        """Nesting is bounded, also where the parser itself would give up."""
        self.assertIn("nested deeper than 8", self.refused("a = " + "[" * 9 + "]" * 9))
        self.assertIn("nested deeper than 8", self.refused("a = " + "[" * 5000 + "]" * 5000))
        read_toml("a = " + "[" * 7 + "]" * 7, BOUNDS)

    def test_nodes(self) -> None:
        """The number of values is bounded."""
        few = Bounds(1 << 20, 5, 8)
        self.assertIn("more than 5 values", self.refused("a = [1, 2, 3, 4, 5]", few))
        read_toml("a = [1, 2, 3, 4]", few)

    def test_impossible_values(self) -> None:
        """A date that does not exist and a number that is too long are syntax errors."""
        self.assertIn("not valid TOML", self.refused("a = 2024-02-31"))
        self.assertIn("not valid TOML", self.refused("a = " + "9" * 5000))
