"""Tests of `mcpguard.observe.escaping`."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.escaping import json_line, visible

HOSTILE = "a\r\nb\x00\x1b[2J\x7f\x85\x9b31m\u2028\u2029\u202e\u2066\ufeff\u200f"


class JsonLineTests(SynchronousTestCase):
    """`json_line`: one line, whatever splits lines later."""

    def test_hostile(self) -> None:
        """Line ends, escape sequences and reordering marks are escaped, and read back the same."""
        line = json_line({"a": HOSTILE})
        self.assertEqual(len(line.decode().splitlines()), 1)
        self.assertTrue(line.decode().rstrip("\n").isprintable())
        self.assertEqual(json.loads(line), {"a": HOSTILE})

    def test_ordinary(self) -> None:
        """Letters of every script stay letters."""
        self.assertEqual(json_line({"a": "é😀中"}).decode(), '{"a":"é😀中"}\n')

    @settings(deadline=None, max_examples=200)
    @given(st.dictionaries(st.text(), st.text()))
    def test_any_text(self, members: dict[str, str]) -> None:
        """Every text is read back as it was, from a single line."""
        line = json_line(members)
        self.assertEqual(json.loads(line), members)
        self.assertEqual(len(line.decode().splitlines()), 1)


class VisibleTests(SynchronousTestCase):
    """`visible`: a line for people."""

    def test_hostile(self) -> None:
        """What would end the line, move the cursor or reorder text is shown as an escape."""
        self.assertEqual(
            visible(HOSTILE),
            r"a\r\nb\x00\x1b[2J\x7f\x85\x9b31m\u2028\u2029\u202e\u2066\ufeff\u200f",
        )

    def test_ordinary(self) -> None:
        """Ordinary text is left alone."""
        for text in ("", "plain", "é😀中", "tab\\t"):
            self.assertEqual(visible(text), text)

    @settings(deadline=None, max_examples=200)
    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """No text makes more than one line."""
        self.assertLessEqual(len(visible(text).splitlines()), 1)
