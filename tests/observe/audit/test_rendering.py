"""Tests of `mcpguard.observe.audit.rendering`."""

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.audit.rendering import FIELDS, SMALLEST_LINE, LineBounds, Renderer
from mcpguard.observe.events import EVENT_TYPES, Event
from mcpguard.observe.redaction import MARK, REDACTED, Redactor

KEY = "mcp_" + "k" * 43
BOUNDS = LineBounds(text=200, depth=3, items=20, line=SMALLEST_LINE)

FULL = Event(
    "ToolCall",
    1_795_342_500.25,
    identity_id="alice",
    provider="api_key",
    method="tools/call",
    server="files",
    tool="read_file",
    duration_ms=42.00049,
    status="success",
    reason="denied",
    error_id="e-1",
    request_id="r-1",
    session_id="s-1",
    trace_id="t-1",
    client_ip="192.0.2.7",
    arguments={"path": "/tmp/a", "content": "x"},
    details={"count": 3},
)


def render(
    event: Event, log_arguments: bool | tuple[str, ...] = ("path",), bounds: LineBounds = BOUNDS
) -> dict[str, Any]:
    """Render one event and read the line back, checking that it is one."""
    line = Renderer(log_arguments, Redactor(), bounds).line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= bounds.line
    members: dict[str, Any] = json.loads(line)
    return members


def with_text(*names: str, text: str) -> Event:
    """Return the full event with this text in these members."""
    changes: dict[str, Any] = dict.fromkeys(names, text)
    return evolve(FULL, **changes)


def call(**arguments: Any) -> Event:
    """Return a tool call with these arguments."""
    return Event("ToolCall", 0.0, arguments=arguments)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


class FieldsTests(SynchronousTestCase):
    """`Renderer.line`: the fixed members."""

    def test_full_event(self) -> None:
        """Every member has its name and its place; the recorded argument comes last."""
        members = render(FULL)
        self.assertEqual(
            list(members.items()),
            [
                ("timestamp", "2026-11-22T10:15:00.250Z"),
                ("event_type", "ToolCall"),
                ("identity_id", "alice"),
                ("provider", "api_key"),
                ("method", "tools/call"),
                ("server", "files"),
                ("tool", "read_file"),
                ("duration_ms", 42.0),
                ("status", "success"),
                ("reason", "denied"),
                ("error_id", "e-1"),
                ("request_id", "r-1"),
                ("session_id", "s-1"),
                ("trace_id", "t-1"),
                ("client_ip", "192.0.2.7"),
                ("details", {"count": 3}),
                ("path", "/tmp/a"),
            ],
        )

    def test_order_is_the_documented_one(self) -> None:
        """The fixed members of a full event are `FIELDS`, in that order."""
        members = list(render(FULL, True))
        self.assertEqual(members, [name for name in FIELDS if name != "cut"])

    def test_absent_members(self) -> None:
        """What an event does not have is left out."""
        self.assertEqual(
            render(Event("AuthSuccess", 0.0)),
            {"timestamp": "1970-01-01T00:00:00.000Z", "event_type": "AuthSuccess"},
        )

    def test_milliseconds(self) -> None:
        """Timestamps have exactly three decimals, whatever the fraction."""
        for seconds, shown in ((0.0004, ".000Z"), (0.9994, ".999Z"), (1_700_000_000.5, ".500Z")):
            self.assertTrue(render(Event("ToolCall", seconds))["timestamp"].endswith(shown))

    def test_duration_without_meaning(self) -> None:
        """A duration that is no number is left out rather than written as one."""
        self.assertNotIn("duration_ms", render(Event("ToolCall", 0.0, duration_ms=float("nan"))))


class ArgumentsTests(SynchronousTestCase):
    """`Renderer.line`: which arguments are recorded, and where."""

    def test_named(self) -> None:
        """Configured names become members of their own; the others are not recorded."""
        members = render(call(path="/a", other="x", mode=3), ("path", "mode"))
        self.assertEqual((members["path"], members["mode"]), ("/a", 3))
        self.assertNotIn("other", members)

    def test_collision(self) -> None:
        """An argument named like a fixed member cannot overwrite it, in any letter case."""
        arguments = {"tool": "evil", "Timestamp": "evil", "identity_id": "evil", "path": "/a"}
        event = evolve(FULL, arguments=arguments)
        members = render(event, tuple(arguments))
        self.assertEqual(members["tool"], "read_file")
        self.assertEqual(members["identity_id"], "alice")
        self.assertNotIn("Timestamp", members)
        self.assertEqual(members["path"], "/a")
        self.assertEqual(
            members["arguments"], {"tool": "evil", "Timestamp": "evil", "identity_id": "evil"}
        )

    def test_collision_with_an_absent_member(self) -> None:
        """The name of a fixed member is taken even where the event has no value for it."""
        members = render(call(status="evil"), ("status",))
        self.assertNotIn("status", members)
        self.assertEqual(members["arguments"], {"status": "evil"})

    def test_all(self) -> None:
        """With true everything is recorded, in one object, since callers choose the names."""
        members = render(call(path="/a", tool="evil"), True)
        self.assertEqual(members["arguments"], {"path": "/a", "tool": "evil"})
        self.assertNotIn("path", members)

    def test_none(self) -> None:
        """With false, or no names, nothing is recorded."""
        for setting in (False, ()):
            members = render(call(path="/a"), setting)
            self.assertEqual(set(members), {"timestamp", "event_type"})

    def test_secret_name(self) -> None:
        """A value whose name tells a secret is replaced, whatever its type, at any depth."""
        members = render(call(password=1234, config={"api_key": ["a"], "user": "u"}), True)
        self.assertEqual(
            members["arguments"],
            {"password": REDACTED, "config": {"api_key": REDACTED, "user": "u"}},
        )

    def test_values(self) -> None:
        """Each kind of JSON value is recorded as such; what JSON cannot hold, as text."""
        arguments = {
            "a": None,
            "b": True,
            "c": 1.5,
            "d": [1, "x"],
            "e": 2**70,
            "f": float("inf"),
            "g": 10**5000,
            "h": 2**63 - 1,
        }
        self.assertEqual(
            render(call(**arguments), True)["arguments"],
            arguments | {"e": "1180591620717411303424", "f": "inf", "g": "[integer of 16610 bits]"},
        )


class SecretTests(SynchronousTestCase):
    """`Renderer.line`: secrets in every string that comes from the wire."""

    def test_everywhere(self) -> None:
        """No string that a caller can choose carries a key into the trail."""
        fields = ("identity_id", "provider", "method", "server", "tool", "status", "trace_id")
        for name in fields:
            members = render(with_text(name, text=f"x {KEY}"))
            self.assertEqual(members[name], f"x {REDACTED}")
        members = render(call(**{KEY: 1, "a": [KEY, {"b": KEY}]}), True)
        self.assertEqual(members["arguments"], {REDACTED: 1, "a": [REDACTED, {"b": REDACTED}]})

    def test_repeated(self) -> None:
        """A text seen before is treated the same again, redacted or not."""
        renderer = Renderer(("path",), Redactor(), BOUNDS)
        for _ in range(2):
            self.assertIn(b'"tool":"plain"', renderer.line(Event("ToolCall", 0.0, tool="plain")))
            self.assertNotIn(KEY.encode(), renderer.line(Event("ToolCall", 0.0, tool=KEY)))

    def test_memory_of_clean_texts(self) -> None:
        """What is remembered about texts stays bounded under any number of different ones."""
        renderer = Renderer(False, Redactor(), BOUNDS)
        for number in range(10_000):
            renderer.line(Event("ToolCall", 0.0, tool=f"tool{number}"))
        self.assertLessEqual(len(renderer._clean), 4096)


class ForgeryTests(SynchronousTestCase):
    """`Renderer.line`: a caller cannot write a line of its own."""

    def test_line_breaks(self) -> None:
        """Every kind of line break inside a value stays inside its line."""
        forged = 'x"}\r\n{"event_type":"ToolCall"}\x0b\x0c\x85\u2028\u2029'
        line = Renderer(True, Redactor(), BOUNDS).line(
            Event("ToolCall", 0.0, tool=forged, arguments={forged: forged})
        )
        self.assertEqual(len(line.decode().splitlines()), 1)
        self.assertEqual(json.loads(line)["tool"], forged)

    def test_lone_surrogates(self) -> None:
        """A text that is no Unicode is recorded all the same."""
        members = render(Event("ToolCall", 0.0, tool="a\ud800", arguments={"path": "\udfff"}))
        self.assertEqual((members["tool"], members["path"]), ("a?", "?"))


class BoundsTests(SynchronousTestCase):
    """`Renderer.line`: every bound is reached and held."""

    def test_text(self) -> None:
        """A string is clipped at its bound and marked."""
        members = render(evolve(FULL, tool="é" * 201, arguments={"path": "p" * 5000}))
        self.assertEqual(members["tool"], "é" * 200 + MARK)
        self.assertEqual(members["path"], "p" * 200 + MARK)

    def test_own_identifiers(self) -> None:
        """The identifiers the gateway makes are clipped as well."""
        for name in ("error_id", "request_id", "session_id", "client_ip"):
            members = render(with_text(name, text="x" * 300))
            self.assertEqual(members[name], "x" * 200 + MARK)

    def test_depth(self) -> None:
        """An argument is recorded down to the bound of levels."""
        members = render(call(path={"1": {"2": {"3": {"4": 1}}}}))
        self.assertEqual(members["path"], {"1": {"2": {"3": MARK}}})
        members = render(call(path=[[[[1]]]]), True)
        self.assertEqual(members["arguments"]["path"], [[[MARK]]])

    def test_items(self) -> None:
        """At most so many values are recorded, and a mark says that there were more."""
        members = render(call(path=list(range(1000))))
        self.assertEqual(members["path"], [*range(19), MARK])
        members = render(call(**{f"n{i}": i for i in range(1000)}), True)
        self.assertEqual(len(members["arguments"]), 20)
        self.assertEqual(members["arguments"][MARK], MARK)

    def test_line_without_arguments(self) -> None:
        """A line that is too long is written without its arguments and says so."""
        members = render(evolve(FULL, arguments={"path": ["\x01" * 200] * 10}))
        self.assertNotIn("path", members)
        self.assertNotIn("details", members)
        self.assertTrue(members["cut"])
        self.assertEqual(members["tool"], "read_file")

    def test_line_of_long_members(self) -> None:
        """When the fixed members alone are too long, each is clipped further."""
        worst = "\x01" * 3000
        names = ("identity_id", "provider", "method", "server", "tool", "status", "reason")
        more = ("error_id", "request_id", "session_id", "trace_id", "client_ip")
        members = render(with_text(*names, *more, text=worst))
        self.assertTrue(members["cut"])
        self.assertTrue(members["tool"].endswith(MARK))
        self.assertGreater(len(members["tool"]), 36)

    def test_smallest_line(self) -> None:
        """A bound in which no event fits is refused."""
        with self.assertRaises(ValueError):
            Renderer(False, Redactor(), evolve(BOUNDS, line=SMALLEST_LINE - 1))

    @settings(deadline=None, max_examples=200)
    @given(
        st.sampled_from(sorted(EVENT_TYPES)),
        st.floats(0, 4e9),
        st.none() | st.text(),
        st.dictionaries(st.text(), json_values),
        st.booleans() | st.lists(st.text()).map(tuple),
    )
    def test_anything(
        self,
        event_type: str,
        seconds: float,
        tool: str | None,
        arguments: dict[str, Any],
        log_arguments: bool | tuple[str, ...],
    ) -> None:
        """Any event becomes one bounded line whose fixed members are the event's."""
        event = Event(event_type, seconds, tool=tool, arguments=arguments)
        members = render(event, log_arguments)
        self.assertEqual(members["event_type"], event_type)
        self.assertEqual(list(members)[:2], ["timestamp", "event_type"])
        self.assertEqual("tool" in members, tool is not None)
