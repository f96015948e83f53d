"""Tests of reading YAML."""

import io
import time
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.document import Bounds, Unreadable, dotted
from mcpguard.config.yaml_source import read_yaml, scalar

BOUNDS = Bounds(max_bytes=1 << 20, max_nodes=1000, max_depth=8)

SAMPLE = """\
a: &x
  b: 1
  c: [yes, "x"]
d: *x
e: |
  foo
  bar
f:
  - g: 1
    h: 2

  # comment
  - i: ~
"""


class YamlTests(SynchronousTestCase):
    """The values and lines of a document."""

    def test_values(self) -> None:
        """Scalars mean what YAML 1.2 says, whatever 1.1 made of them."""
        cases: dict[str, Any] = {
            **{word: word for word in ("yes", "No", "on", "off", "y", "1_000", "12:30", "0b1")},
            **{word: word for word in ("2024-01-01", "2024-01-01T00:00:00Z", "1e", ".", "-", "=")},
            "true": True,
            "False": False,
            "null": None,
            "~": None,
            "": None,
            "010": 10,
            "-7": -7,
            "0o17": 15,
            "0x1F": 31,
            "+3": 3,
            "1.5": 1.5,
            "-.5": -0.5,
            "1e3": 1000.0,
            ".inf": float("inf"),
        }
        for text, value in cases.items():
            self.assertEqual((scalar(text), type(scalar(text))), (value, type(value)), text)

    def test_lines(self) -> None:
        """Keys, items, block scalars and aliases have their lines."""
        document = read_yaml(SAMPLE, BOUNDS)
        lines = {dotted(path): (s.first, s.last) for path, s in document.spans.items()}
        expected = {
            "a": (1, 3),
            "a.c[1]": (3, 3),
            "d": (4, 4),
            "e": (5, 7),
            "f[0]": (9, 10),
            "f[0].h": (10, 10),
            "f[1].i": (13, 13),
        }
        self.assertEqual({key: lines.get(key) for key in expected}, expected)
        self.assertEqual(document.line(("d", "b")), 4)

    def test_alias(self) -> None:
        """An alias stands for its value."""
        tree = read_yaml(SAMPLE, BOUNDS).tree
        self.assertEqual(tree["d"], {"b": 1, "c": ["yes", "x"]})

    def test_nothing(self) -> None:
        """An empty text is an empty configuration."""
        for text in ("", "---\n", "# only a comment\n", "null"):
            self.assertEqual(read_yaml(text, BOUNDS).tree, {})

    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(
            st.text("abcxyz", min_size=1, max_size=4),
            st.recursive(
                st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=8)),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=3),
                    st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
                ),
                max_leaves=10,
            ),
            max_size=4,
        )
    )
    def test_as_the_library_reads_it(self, tree: dict[str, Any]) -> None:
        """What ruamel.yaml writes, and reads again itself, reads back as the same values."""
        library = YAML(typ="safe", pure=True)
        written = io.StringIO()
        library.dump(tree, written)
        text = written.getvalue()
        try:
            same = library.load(text) == tree
        except YAMLError:
            same = False  # it writes "?0" without quotes and then cannot read it
        assume(same)
        self.assertEqual(read_yaml(text, Bounds(1 << 20, 10_000, 50)).tree, tree)


class YamlRefusalTests(SynchronousTestCase):
    """Texts that are no configuration, and the bounds."""

    def refused(self, text: str, bounds: Bounds = BOUNDS) -> str:
        """The reason."""
        return str(self.assertRaises(Unreadable, read_yaml, text, bounds))

    def test_reasons(self) -> None:
        """Each kind of text that is not accepted has its reason and its line."""
        cases = {
            "a: 1\na: 2": '"a" is given twice (line 2)',
            "a: {b: 1, b: 2}": '"b" is given twice (line 1)',
            "a: &a [*a]": "contains itself",
            "a: *b": "is not defined above it",
            "x: &x {a: 1}\nb:\n  <<: *x": "merge keys (<<) are not accepted; use an alias (line 3)",
            "a: !!python/object:os.system x": "YAML tags are not accepted",
            "!!map {a: 1}": "YAML tags are not accepted",
            "- 1": "the root must be a mapping",
            "text": "the root must be a mapping",
            "a: 1\n---\nb: 2": "a second YAML document begins at line",
            "? [a]\n: 1": "a key must be a plain word or a string (line 1)",
            "a: [1": "not valid YAML: expected ',' or ']'",
            "a: b: c": "(at line 1, column 5)",
            "a:\n\t- b": "cannot start any token (at line 2, column 1)",
            "a: \x01": "not valid YAML: unacceptable character",
            "a: 'x": "unexpected end of stream",
        }
        for text, words in cases.items():
            self.assertIn(words, self.refused(text), text)

    def test_depth(self) -> None:
        """Nesting is bounded in block style, in flow style and through aliases."""
        self.assertIn("deeper than 8", self.refused("a: " + "[" * 8 + "]" * 8))
        self.assertIn("deeper than 8", self.refused("a:\n  " + "- " * 5000))
        read_yaml("a: " + "[" * 7 + "x" + "]" * 7, BOUNDS)
        self.assertIn("deeper than 8", self.refused("a: &a [[[1]]]\nb: [[[[[*a]]]]]"))

    def test_brackets_by_the_thousand(self) -> None:
        """They are refused before the parser, which would take minutes over them."""
        began = time.process_time()
        self.assertIn("deeper than 8", self.refused("[" * 100_000))
        self.assertLess(time.process_time() - began, 5)

    def test_alias_bomb(self) -> None:
        """Aliases count as often as they are used, before anything is multiplied."""
        lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
        for name, before in zip("bcdefghi", "abcdefgh", strict=True):
            lines.append(f"{name}: &{name} [{','.join(['*' + before] * 9)}]")
        self.assertIn("more than 1000 values", self.refused("\n".join(lines)))

    def test_nodes(self) -> None:
        """The number of values is bounded."""
        few = Bounds(1 << 20, 6, 8)
        read_yaml("a: [1, 2, 3]", few)
        self.assertIn("more than 6 values (line 1)", self.refused("a: [1, 2, 3, 4]", few))
