"""Tests of `mcpguard.observe.audit.rendering`."""

import json
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.observe.audit import rendering
from mcpguard.observe.audit.rendering import Renderer, Timestamps, rfc3339
from mcpguard.observe.audit.values import FIELDS, SMALLEST_LINE, LineBounds, Values
from mcpguard.observe.escaping import json_line
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


REDACTOR = Redactor()
"""Its patterns take milliseconds to compile; it keeps nothing of what it reads."""


def renderer(
    log_arguments: bool | tuple[str, ...] = ("path",), bounds: LineBounds = BOUNDS
) -> Renderer:
    """Return a renderer with the built-in redaction."""
    return Renderer(Values(log_arguments, REDACTOR, bounds))


def render(
    event: Event, log_arguments: bool | tuple[str, ...] = ("path",), bounds: LineBounds = BOUNDS
) -> dict[str, Any]:
    """Render one event and read the line back, checking that it is one."""
    line = renderer(log_arguments, bounds).line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= bounds.line
    members: dict[str, Any] = json.loads(line)
    return members


def with_text(*names: str, text: str) -> Event:
    """Return the full event with this text in these members."""
    changes: dict[str, Any] = dict.fromkeys(names, text)
    return FULL._replace(**changes)


def call(**arguments: Any) -> Event:
    """Return a tool call with these arguments."""
    return Event("ToolCall", 0.0, arguments=arguments)


at_bounds = st.sampled_from(
    [
        *(["x" * size, "\x01" * size, "é" * size] for size in (199, 200, 201)),
        *(list(range(size)) for size in (18, 19, 20, 21, 40)),
        *({f"n{i}": i for i in range(size)} for size in (18, 19, 20, 21)),
        *([[[1]]], [[[[1]]]], {"1": {"2": {"3": 4}}}, [{"2": [{"4": [5]}]}]),
    ]
)
"""What is cut or nearly so: large values that need no drawing."""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | at_bounds,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
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
        event = FULL._replace(arguments=arguments)
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
        one = renderer()
        for _ in range(2):
            self.assertIn(b'"tool":"plain"', one.line(Event("ToolCall", 0.0, tool="plain")))
            self.assertNotIn(KEY.encode(), one.line(Event("ToolCall", 0.0, tool=KEY)))

    def test_memory(self) -> None:
        """What is remembered stays bounded under any number of different texts and names."""
        one = renderer(True)
        for number in range(10_000):
            text = f"tool{number}"
            one.line(Event("ToolCall", 0.0, tool=text, session_id=text, arguments={text: 1}))
            kept = [len(one._frames), len(one._origins)]
            kept += [len(one.values._clean), len(one.values._secret)]
            self.assertLessEqual(max(kept), 4096)
            self.assertGreater(min(kept), 0)

    def test_long_texts_are_not_remembered(self) -> None:
        """Nor are secrets, nor what is new with every request."""
        one = renderer(True)
        one.line(Event("ToolCall", 0.0, tool="x" * 257, client_ip="y" * 257))
        one.line(Event("ToolCall", 0.0, tool=KEY, trace_id=KEY, arguments={KEY: KEY}))
        self.assertEqual((one._frames, one._origins), ({}, {}))
        self.assertNotIn(KEY, one.values._clean)


class ForgeryTests(SynchronousTestCase):
    """`Renderer.line`: a caller cannot write a line of its own."""

    def test_line_breaks(self) -> None:
        """Every kind of line break inside a value stays inside its line."""
        forged = 'x"}\r\n{"event_type":"ToolCall"}\x0b\x0c\x85\u2028\u2029'
        line = renderer(True).line(Event("ToolCall", 0.0, tool=forged, arguments={forged: forged}))
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
        members = render(FULL._replace(tool="é" * 201, arguments={"path": "p" * 5000}))
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
        members = render(FULL._replace(arguments={"path": ["\x01" * 200] * 10}))
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
            renderer(False, evolve(BOUNDS, line=SMALLEST_LINE - 1))

    @settings(deadline=None, max_examples=100)
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


_OWN = ("error_id", "request_id", "session_id", "client_ip")


def reference(event: Event, log_arguments: bool | tuple[str, ...]) -> bytes:
    """Return the line of an event that is within the bounds, made in the plainest way."""
    moment = datetime.fromtimestamp(event.timestamp, UTC)
    members: dict[str, Any] = {
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event_type": event.event_type,
    }
    for name in FIELDS[2:15]:
        value = getattr(event, name)
        if name == "duration_ms":
            if value is not None and isfinite(value):
                members[name] = round(value, 3)
        elif value is not None:
            members[name] = value if name in _OWN else REDACTOR.text(value, BOUNDS.text)
    return json_line(members | Values(log_arguments, REDACTOR, BOUNDS).extras(event))


odd_texts = ("", 'q"', "b\\", "\n", "\x7f", "\x9b", "\u2028", "é", "😀", "\u202e", "\x01" * 90)
odd_words = ("a", "tools/call", "192.0.2.7", "::1", KEY, "Bearer abc", "password=x")
texts = (
    st.none()
    | st.sampled_from((*odd_texts, *odd_words, "x" * 64, "x" * 65, "x" * 120))
    | st.text(max_size=20)
)
clean_ids = texts.filter(lambda text: text is None or len(text) <= BOUNDS.text)
events = st.builds(
    Event,
    st.sampled_from(sorted(EVENT_TYPES)),
    st.floats(0, 4e9) | st.integers(0, 4_000_000_000_000).map(lambda n: n / 1000),
    identity_id=texts,
    provider=texts,
    method=texts,
    server=texts,
    tool=texts | st.just("t\ud800"),
    duration_ms=st.none() | st.floats() | st.floats(0, 1e6),
    status=texts,
    reason=texts,
    error_id=st.none() | clean_ids,
    request_id=st.uuids().map(str) | clean_ids,
    session_id=clean_ids,
    trace_id=texts,
    client_ip=clean_ids,
    arguments=st.just({}) | st.dictionaries(st.sampled_from(("path", "note", "tool")), json_values),
    details=st.just({}) | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


class SameBytesTests(SynchronousTestCase):
    """`Renderer.line` against the plainest way to make a line."""

    def setUp(self) -> None:
        """Remember so little that forgetting is seen."""
        self.patch(rendering, "REMEMBERED", 3)

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(events, min_size=1, max_size=6), st.sampled_from([True, False, ("path", "tool")])
    )
    def test_reference(self, sequence: list[Event], log_arguments: bool | tuple[str, ...]) -> None:
        """Whatever was rendered before, the bytes are those of the plainest way."""
        one = renderer(log_arguments)
        for event in (*sequence, *sequence, *(e._replace(timestamp=5.5) for e in sequence)):
            line = one.line(event)
            self.assertEqual(line, one.whole(event))
            if b'"cut":true' not in line:
                self.assertEqual(line, reference(event, log_arguments))

    def test_an_ordinary_event_is_put_together(self) -> None:
        """The events of an ordinary call do not take the long way."""
        one = renderer()
        self.patch(Renderer, "whole", lambda *_: self.fail("the long way"))
        call = FULL._replace(error_id=None, trace_id=None, reason=None)
        for event in (call, call._replace(event_type="AuthSuccess", tool=None, duration_ms=None)):
            one.line(event)

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(
            st.floats(-1e9, 4e9)
            | st.integers(0, 4_000_000_000_000).map(lambda n: n / 1000)
            | st.integers(0, 4_000_000_000).map(lambda n: n + 0.9999996)
            | st.integers(-5, 4_000_000_000),
            min_size=1,
        )
    )
    @example([0.0004995, 0.0005, 0.9999995, 0.99999950001, 1.9994999, 1.9995, -0.5, -1e-9])
    def test_timestamps(self, moments: list[float]) -> None:
        """Remembering the second changes no timestamp, before 1970 neither."""
        stamps = Timestamps()
        for moment in moments:
            self.assertEqual(stamps.of(moment), rfc3339(moment))

    def test_no_timestamps(self) -> None:
        """What is no time raises as it does elsewhere."""
        for moment in (float("nan"), float("inf"), 1e300):
            with self.assertRaises((ValueError, OverflowError)):
                Timestamps().of(moment)
