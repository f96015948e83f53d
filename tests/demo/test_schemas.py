"""Tests of the demo server's argument schemas."""

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.schemas import complaint, header_params, object_of

SCHEMA = object_of(
    ("text",),
    text={"type": "string", "maxLength": 3, "x-mcp-header": "Text"},
    seconds={"type": "number", "minimum": 0, "maximum": 9},
    steps={"type": "integer", "minimum": 1, "maximum": 5},
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 11), st.floats(-1, 10), st.text(max_size=5)
)


class ComplaintTests(SynchronousTestCase):
    """`complaint` against a real validator."""

    @settings(deadline=None, max_examples=200)
    @given(st.dictionaries(st.sampled_from(["text", "seconds", "steps", "other"]), VALUES))
    def test_agrees_with_jsonschema(self, arguments: dict[str, object]) -> None:
        """It complains exactly where jsonschema does, except that 2.0 is no integer here."""
        if isinstance(arguments.get("steps"), float):
            self.assertIsNotNone(complaint(SCHEMA, arguments))
            return
        valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(arguments)
        self.assertEqual(complaint(SCHEMA, arguments) is None, valid)

    def test_words(self) -> None:
        """The complaint names the argument."""
        self.assertEqual(complaint(SCHEMA, {}), "missing argument: text")
        self.assertEqual(complaint(SCHEMA, {"text": "abcd"}), "text is longer than 3 characters")
        self.assertEqual(
            complaint(SCHEMA, {"text": "", "steps": 9}), "steps must be between 1 and 5"
        )


class HeaderParamsTests(SynchronousTestCase):
    """`header_params` reads ``x-mcp-header``."""

    def test_annotated(self) -> None:
        """Only annotated arguments have a header, named in lower case."""
        self.assertEqual(header_params(SCHEMA), {"mcp-param-text": "text"})
