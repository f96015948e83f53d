"""Tests of heads that are read once."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refusal
from mcpguard.front.exchange import Incoming
from mcpguard.pipeline.approach import Approach, Approaches, accepts_type
from mcpguard.upstream.link import Route

VALUES = st.lists(
    st.sampled_from(
        (
            "application/json",
            "text/event-stream",
            "application/json, text/event-stream;q=0.5",
            "*/*",
            "text/*",
            "application/json; charset=utf-8",
            "application/x-www-form-urlencoded",
            "localhost",
            "evil.example",
            "http://localhost",
            "2025-06-18",
            "2026-07-28",
            "",
        )
    ),
    max_size=2,
).map(tuple)


class Paths:
    """A directory with one server at ``/mcp``; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.upstream: Any = object()

    def resolve(self, path: str) -> Route | None:
        """The route of a path."""
        self.asked += 1
        return Route(self.upstream, "", "/mcp") if path == "/mcp" else None

    @property
    def upstreams(self) -> Any:
        """Not asked for."""
        return ()

    def describe(self) -> Any:
        """Not asked for."""
        return ()


def screen(incoming: Incoming) -> Refusal | None:
    """A rule that hangs on both headers."""
    if incoming.headers.get("host", ()) != ("localhost",):
        return Refusal(Reason.BAD_HOST)
    return Refusal(Reason.BAD_ORIGIN) if incoming.headers.get("origin") else None


def incoming(path: str = "/mcp", **headers: tuple[str, ...]) -> Incoming:
    """A request with these headers."""
    named = {name.replace("_", "-"): values for name, values in headers.items() if values}
    return Incoming("id", "POST", path, "", named, b"", "127.0.0.1", 0.0)


class ApproachesTests(SynchronousTestCase):
    """`Approaches`."""

    def setUp(self) -> None:
        """Nothing is remembered."""
        self.paths = Paths()
        self.approaches = Approaches(self.paths, screen, max_heads=3, max_chars=100)

    def anew(self, request: Incoming) -> Approach:
        """What one that remembers nothing says."""
        return Approaches(self.paths, screen, max_heads=1, max_chars=0).of(request)

    @given(
        st.sampled_from(("/mcp", "/mcp/fs", "/sse", "/messages")),
        st.dictionaries(
            st.sampled_from(
                ("host", "origin", "accept", "content_type", "mcp_protocol_version", "x_other")
            ),
            VALUES,
        ),
    )
    @settings(deadline=None, max_examples=150)
    def test_same_as_anew(self, path: str, headers: dict[str, tuple[str, ...]]) -> None:
        """Whatever was asked before, a head says what it says when it is read for itself."""
        request = incoming(path, **headers)
        expected = self.anew(request)
        noted = replace(request, notes={})
        for _ in range(2):
            self.assertEqual(self.approaches.of(request), expected)
            self.assertEqual(self.approaches.of(noted), expected)
        self.assertLessEqual(len(self.approaches), 3)

    def test_remembered(self) -> None:
        """The same words are read once, also with other headers beside them."""
        self.approaches.of(incoming(host=("localhost",)))
        asked = self.paths.asked
        self.approaches.of(incoming(host=("localhost",), authorization=("Bearer x",)))
        self.assertEqual((self.paths.asked, len(self.approaches)), (asked, 1))

    def test_bounds(self) -> None:
        """Few heads are remembered, and no large one."""
        for number in range(10):
            self.approaches.of(incoming(host=(f"h{number}",)))
            self.assertLessEqual(len(self.approaches), 3)
        self.setUp()
        self.approaches.of(incoming(host=("h" * 97,)))
        self.assertEqual(len(self.approaches), 0)
        self.approaches.of(incoming(host=("h" * 96,)))
        self.assertEqual(len(self.approaches), 1)

    def test_accepts(self) -> None:
        """Wildcards count, parameters and case do not."""
        self.assertTrue(accepts_type("TEXT/Event-Stream;q=1", "text/event-stream"))
        self.assertTrue(accepts_type("text/*", "text/event-stream"))
        self.assertFalse(accepts_type("text/html", "text/event-stream"))
        self.assertFalse(accepts_type(None, "text/event-stream"))
