"""Tests of tool arguments repeated in headers."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.protocol.header_values import encode_value
from mcpguard.protocol.param_headers import (
    ParamHeader,
    built_param_headers,
    check_param_headers,
    forwarded_param_headers,
    invalid_annotation,
    param_headers,
    passed_param_headers,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {
            "type": "object",
            "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}},
        },
        "dry": {"type": "boolean", "x-mcp-header": "Dry-Run"},
        "free": {"type": "number"},
    },
}


def annotated(**schema: Any) -> dict[str, Any]:
    """A tool whose input schema is this."""
    return {"name": "t", "inputSchema": {"type": "object", **schema}}


class AnnotationTests(SynchronousTestCase):
    """Which annotations count."""

    def test_found(self) -> None:
        """Annotations are found along chains of properties."""
        self.assertEqual(
            set(param_headers(SCHEMA)),
            {
                ParamHeader(("region",), "Mcp-Param-Region"),
                ParamHeader(("deep", "count"), "Mcp-Param-Count"),
                ParamHeader(("dry",), "Mcp-Param-Dry-Run"),
            },
        )
        self.assertIsNone(invalid_annotation({"name": "t", "inputSchema": SCHEMA}))

    def test_none(self) -> None:
        """No annotation, no schema, or no object for one: nothing to find, nothing wrong."""
        plain: list[object] = [{}, None, [], "x", True, {"properties": []}]
        for schema in (*plain, {"properties": {"a": True}}):
            self.assertEqual(param_headers(schema), ())
            self.assertIsNone(invalid_annotation({"inputSchema": schema}))
        self.assertIsNone(invalid_annotation({}))

    def test_invalid(self) -> None:
        """Wrong types, names, places and repetitions are invalid, and then none counts."""
        good = {"type": "string", "x-mcp-header": "A"}
        for schema in (
            {"x-mcp-header": "A"},
            {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
            {"properties": {"a": {"type": "object", "x-mcp-header": "A"}}},
            {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
            {"properties": {"a": {"x-mcp-header": "A"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": "A\n"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": "\u00e9"}}},
            {"properties": {"a": {"type": "string", "x-mcp-header": None}}},
            {"properties": {"a": good, "b": {"type": "integer", "x-mcp-header": "a"}}},
            {"items": good},
            {"properties": {"a": {"type": "array", "items": good}}},
            {"properties": {"a": {"anyOf": [{"properties": {"b": good}}]}}},
            {"allOf": [{"properties": {"b": good}}]},
            {"not": good},
            {"if": {"properties": {"a": good}}},
            {"additionalProperties": good},
            {"patternProperties": {"a": good}},
            {"$defs": {"a": good}},
            {"dependentSchemas": {"a": {"properties": {"b": good}}}},
        ):
            self.assertIsNotNone(invalid_annotation(annotated(**schema)), schema)
            self.assertEqual(param_headers(annotated(**schema)["inputSchema"]), (), schema)

    def test_data_is_no_annotation(self) -> None:
        """The word within data, or as a property's name, annotates nothing."""
        for schema in (
            {"properties": {"x-mcp-header": {"type": "string"}}},
            {"properties": {"a": {"type": "object", "default": {"x-mcp-header": 1}}}},
            {"examples": [{"x-mcp-header": "A"}], "const": {"x-mcp-header": "A"}},
        ):
            self.assertIsNone(invalid_annotation(annotated(**schema)))
            self.assertEqual(param_headers(annotated(**schema)["inputSchema"]), ())

    def test_deep(self) -> None:
        """No depth of schema exhausts the stack."""
        schema: dict[str, Any] = {}
        for _ in range(5_000):
            schema = {"not": schema}
        self.assertIsNone(invalid_annotation({"inputSchema": schema}))


class CheckTests(SynchronousTestCase):
    """`check_param_headers` holds headers and arguments together."""

    def problem(self, arguments: dict[str, Any], **headers: str | tuple[str, ...]) -> str | None:
        """The refusal's words, None if there is none."""
        lines = {
            f"mcp-param-{name.replace('_', '-')}": (value,) if isinstance(value, str) else value
            for name, value in headers.items()
        }
        refusal = check_param_headers(SCHEMA, arguments, lines)
        if refusal is None:
            return None
        self.assertIs(refusal.reason, Reason.HEADER_MISMATCH)
        return refusal.message

    def test_together(self) -> None:
        """Both there and equal, or neither."""
        self.assertIsNone(self.problem({}))
        self.assertIsNone(self.problem({"region": None, "deep": {"count": None}}))
        self.assertIsNone(self.problem({"region": "eu"}, region="eu"))
        self.assertIsNone(self.problem({"region": ""}, region=""))
        self.assertIsNone(self.problem({"region": "\u00e9"}, region="=?base64?w6k=?="))
        self.assertIsNone(self.problem({"dry": True}, dry_run="true"))
        self.assertIsNone(self.problem({"dry": False}, dry_run="false"))
        self.assertIsNone(self.problem({"free": 1.5}, unknown="x"))

    def test_apart(self) -> None:
        """One without the other, or one unlike the other, is refused."""
        self.assertIn("is missing", self.problem({"region": "eu"}) or "")
        self.assertIn("no argument", self.problem({}, region="eu") or "")
        self.assertIn("no argument", self.problem({"region": None}, region="") or "")
        self.assertIn("does not match", self.problem({"region": "eu"}, region="EU") or "")
        self.assertIn("does not match", self.problem({"dry": True}, dry_run="True") or "")
        self.assertIn("does not match", self.problem({"dry": True}, dry_run="1") or "")
        self.assertIn("malformed", self.problem({"region": "a"}, region="=?base64?YQ?=") or "")
        self.assertIn("malformed", self.problem({"region": "\u00e9"}, region="\u00e9") or "")
        twice = self.problem({"region": "a"}, region=("a", "a"))
        self.assertIn("more than once", twice or "")

    def test_integers(self) -> None:
        """Integers are compared as numbers, exactly, and only in plain notation."""
        big = 2**53 + 1
        for value, text in ((42, "42"), (42, "042"), (42.0, "42"), (42, "42.0"), (-1, "-1")):
            self.assertIsNone(self.problem({"deep": {"count": value}}, count=text))
        self.assertIsNone(self.problem({"deep": {"count": big}}, count=str(big)))
        for value, text in (
            (42, "43"),
            (42, "42.5"),
            (42, "4.2e1"),
            (42, "+42"),
            (42, " 42"),
            (42, "\u0664\u0662"),
            (big, str(big - 1)),
            (1, "true"),
            (1, "1" * 5_000),
        ):
            self.assertIsNotNone(self.problem({"deep": {"count": value}}, count=text), text)

    def test_containers(self) -> None:
        """A container is left to the server, unless a header claims to repeat it."""
        self.assertIsNone(self.problem({"region": ["eu"], "deep": [1]}))
        self.assertIsNotNone(self.problem({"region": ["eu"]}, region="eu"))

    def test_arguments_of_another_kind(self) -> None:
        """Arguments that are no object have no values."""
        self.assertIsNone(check_param_headers(SCHEMA, ["x"], {}))  # type: ignore[arg-type]

    def test_long_name(self) -> None:
        """A refusal repeats a bounded part of a header's name."""
        schema = {"properties": {"a": {"type": "string", "x-mcp-header": "A" * 10_000}}}
        refusal = check_param_headers(schema, {"a": "x"}, {})
        assert refusal is not None
        self.assertLess(len(refusal.message), 200)

    @settings(deadline=None, max_examples=150)
    @given(TEXTS | st.none(), TEXTS | st.none())
    def test_strings(self, argument: str | None, header: str | None) -> None:
        """For all strings: accepted exactly if equal after decoding."""
        lines = {} if header is None else {"mcp-param-region": (encode_value(header),)}
        refusal = check_param_headers(SCHEMA, {"region": argument}, lines)
        self.assertEqual(refusal is None, argument == header)


NAMES = st.sampled_from(["a", "b", "Region", "x-y", "é"])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.lists(st.integers(), max_size=2)
)


def _schemas(inner: "st.SearchStrategy[Any]") -> "st.SearchStrategy[Any]":
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=3)}
    )


SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "boolean", "number"])},
        optional={"x-mcp-header": st.sampled_from(["A", "a", "B", "Cc", "D-d", "e", "no token"])},
    ),
    _schemas,
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(
    NAMES, st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=3)), max_size=3
)


def as_received(pairs: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    """Headers as a server reads them: lower-case names, every line of one name together."""
    lines: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        lines[name.lower()] = (*lines.get(name.lower(), ()), value.strip())
    return lines


class BuiltTests(SynchronousTestCase):
    """`built_param_headers` and `forwarded_param_headers`."""

    def test_built(self) -> None:
        """Values of every type, as the header rules spell them."""
        arguments = {"region": "\u00e9u", "deep": {"count": -5}, "dry": False, "free": 1.5}
        self.assertEqual(
            dict(built_param_headers(SCHEMA, arguments)),
            {
                "Mcp-Param-Region": "=?base64?w6l1?=",
                "Mcp-Param-Count": "-5",
                "Mcp-Param-Dry-Run": "false",
            },
        )

    def test_absent(self) -> None:
        """Nothing is built for null, for what is missing, and for a container."""
        for arguments in ({}, {"region": None, "deep": None}, {"region": ["x"], "deep": 7}):
            self.assertEqual(built_param_headers(SCHEMA, arguments), ())
        self.assertEqual(built_param_headers(None, {"region": "x"}), ())

    def test_whole_numbers(self) -> None:
        """JSON knows one kind of number: 1.0 is the integer 1."""
        built = built_param_headers(SCHEMA, {"deep": {"count": 1.0}})
        self.assertEqual(built, (("Mcp-Param-Count", "1"),))

    def test_forwarded(self) -> None:
        """The client's own are replaced by what the body says; those of no argument stay."""
        headers = {
            "mcp-param-region": ("forged",),
            "mcp-param-count": ("forged", "twice"),
            "mcp-param-other": ("a", "b"),
        }
        self.assertEqual(
            forwarded_param_headers(SCHEMA, {"region": "eu"}, headers),
            (
                ("Mcp-Param-Region", "eu"),
                ("mcp-param-other", "a"),
                ("mcp-param-other", "b"),
            ),
        )

    @settings(deadline=None, max_examples=100)
    @given(_schemas(SCHEMAS), ARGUMENTS, st.dictionaries(NAMES, TEXTS, max_size=2))
    def test_what_is_built_passes(
        self, schema: Any, arguments: dict[str, Any], own: dict[str, str]
    ) -> None:
        """For any schema and arguments the server's check accepts what the gateway sends."""
        headers = {f"mcp-param-{name.lower()}": (encode_value(text),) for name, text in own.items()}
        for pairs in (
            built_param_headers(schema, arguments),
            forwarded_param_headers(schema, arguments, headers),
        ):
            self.assertIsNone(check_param_headers(schema, arguments, as_received(pairs)))


class PassedTests(SynchronousTestCase):
    """`passed_param_headers` picks what goes on to the server."""

    def test_picked(self) -> None:
        """Every parameter header, unknown and repeated ones too, and no other."""
        headers = {
            "mcp-param-a": ("1", "2"),
            "mcp-param-": ("x",),
            "mcp-name": ("x",),
            "x-mcp-param-a": ("x",),
            "authorization": ("x",),
            "mcp-param-b": ("=?base64?w6k=?=",),
        }
        self.assertEqual(
            passed_param_headers(headers),
            (("mcp-param-a", "1"), ("mcp-param-a", "2"), ("mcp-param-b", "=?base64?w6k=?=")),
        )

    def test_unsafe(self) -> None:
        """What could break a header line stays behind."""
        headers = {
            "mcp-param-a b": ("1",),
            "mcp-param-a\n": ("1",),
            "mcp-param-c": ("a\r\nX: 1", "\u00e9", "\0"),
        }
        self.assertEqual(passed_param_headers(headers), ())
