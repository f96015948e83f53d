"""Tests of the two wildcards."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.globs import glob_matches, is_glob


def by_the_book(pattern: str, text: str) -> bool:
    """The textbook table: does each prefix of the pattern match each prefix of the text."""
    row = [True] + [False] * len(text)
    for wanted in pattern:
        above, row = row, [False] * (len(text) + 1)
        row[0] = wanted == "*" and above[0]
        for n, one in enumerate(text):
            if wanted == "*":
                row[n + 1] = above[n + 1] or row[n]
            else:
                row[n + 1] = above[n] and wanted in ("?", one)
    return row[-1]


class GlobTests(SynchronousTestCase):
    """`glob_matches` knows ``*`` and ``?``, over the whole text."""

    def test_examples(self) -> None:
        """A few of each kind."""
        for pattern, text, matches in (
            ("read", "read", True),
            ("read", "Read", False),
            ("read", "reads", False),
            ("", "", True),
            ("", "x", False),
            ("*", "", True),
            ("*", "any\nthing", True),
            ("?", "", False),
            ("?", "\n", True),
            ("a*a", "a", False),
            ("a*a", "aa", True),
            ("*ab*ab", "abab", True),
            ("*ab*ab", "aab", False),
            ("a?c*?", "abcd", True),
            ("read_*", "read_", True),
        ):
            self.assertEqual(glob_matches(pattern, text), matches, (pattern, text))

    def test_nothing_else_is_special(self) -> None:
        """Brackets, braces, backslashes, dots and anchors stand for themselves."""
        for text in ("[a]", "{a,b}", "a\\b", ".+", "^a$", "[!a]", "(a|b)"):
            self.assertTrue(glob_matches(text, text))
            self.assertTrue(glob_matches(text + "?", text + "x"))
            self.assertFalse(glob_matches(text + "*", "a"))

    def test_hostile(self) -> None:
        """Patterns that make backtracking matchers explode are decided at once."""
        text = "a" * 4_096
        self.assertFalse(glob_matches("*a" * 40 + "*b", text))
        self.assertFalse(glob_matches("*a?" * 40 + "*b", text))
        self.assertFalse(glob_matches("*" + "?" * 60 + "b", text))

    def test_is_glob(self) -> None:
        """Either wildcard makes a pattern."""
        self.assertEqual(
            [is_glob(text) for text in ("a", "a*", "?", "[a]")], [False, True, True, False]
        )

    @settings(deadline=None, max_examples=250)
    @given(st.text("ab*?", max_size=9), st.text("ab*?", max_size=9))
    def test_by_the_book(self, pattern: str, text: str) -> None:
        """Agrees with the textbook everywhere."""
        self.assertEqual(glob_matches(pattern, text), by_the_book(pattern, text))
