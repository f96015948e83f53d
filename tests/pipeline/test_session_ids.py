"""Sealed session ids."""

import os
import string
from typing import Any

from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.pipeline.session_ids import IdBounds, Remembered, SessionIds
from mcpguard.protocol.mcp import LEGACY_VERSIONS
from mcpguard.protocol.sealing import Seal
from mcpguard.upstream.link import Message, Opening, Route
from tests.pipeline.rig import MemoryLink, MemoryUpstream

BOUNDS = IdBounds(max_chars=1000, max_name=64, max_age_secs=1000.0, skew_secs=60.0)
ALICE = "api_key:alice"
PARAMS: Message = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {}, "roots": {"listChanged": True}},
    "clientInfo": {"name": "a client", "version": "1.2", "title": "not kept"},
}
BASE64URL = string.ascii_letters + string.digits + "-_"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@define
class WallClock:
    """A wall clock the test sets."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


def opened(version: str = "2025-11-25", **more: Any) -> Opening:
    """What a server said to a handshake."""
    return Opening(MemoryLink(), {"protocolVersion": version}, **{"resumable": True, **more})


class IdCase(SynchronousTestCase):
    """Ids under one key."""

    def setUp(self) -> None:
        """The parts."""
        self.wall = WallClock()
        self.ids = SessionIds(Seal(b"k" * 32, "session", os.urandom), self.wall, BOUNDS)
        self.route = Route(MemoryUpstream(name="files"), "/deep", "/mcp/files")

    def issue(self, opening: Opening | None = None, params: Message = PARAMS) -> str:
        """An id of alice's."""
        return self.ids.issue(ALICE, self.route, params, opening or opened(session_id="s1"))

    def read(self, session_id: str) -> Remembered | None:
        """What alice's id says."""
        return self.ids.read(session_id, ALICE, self.route)


class SessionIdTests(IdCase):
    """`SessionIds`."""

    def test_round_trip(self) -> None:
        """Everything a session needs to go on comes back, the server's id included."""
        kept = self.read(self.issue())
        assert kept is not None
        self.assertEqual((kept.version, kept.session_id), ("2025-11-25", "s1"))
        self.assertEqual(
            kept.params, {**PARAMS, "clientInfo": {"name": "a client", "version": "1.2"}}
        )
        self.assertNotIn("s1", repr(kept))

    def test_form(self) -> None:
        """Visible ASCII without an inside to read, another one each time."""
        first, second = self.issue(), self.issue()
        self.assertNotEqual(first, second)
        self.assertRegex(first, r"\A[A-Za-z0-9_-]+\Z")
        self.assertGreater(len(first), 43)

    def test_bound_to_its_owner_and_route(self) -> None:
        """Nobody else, and no other route, server or path, opens it."""
        session_id = self.issue()
        other = MemoryUpstream(name="other")
        self.assertIsNone(self.ids.read(session_id, "api_key:bob", self.route))
        for route in (
            evolve(self.route, path=""),
            evolve(self.route, public_path="/mcp"),
            evolve(self.route, upstream=other),
            evolve(self.route, path="/mcp/files", public_path="/deep"),
        ):
            self.assertIsNone(self.ids.read(session_id, ALICE, route))

    def test_bound_to_its_key_and_purpose(self) -> None:
        """Another key, or another use of this one, does not open it."""
        for seal in (
            Seal(b"x" * 32, "session", os.urandom),
            Seal(b"k" * 32, "cursor", os.urandom),
        ):
            foreign = evolve(self.ids, seal=seal)
            self.assertIsNone(foreign.read(self.issue(), ALICE, self.route))
            self.assertIsNone(self.read(foreign.issue(ALICE, self.route, PARAMS, opened())))

    def test_age(self) -> None:
        """An id is worth something for so long, and not before it was made."""
        session_id = self.issue()
        for seconds, alive in ((0, True), (1000, True), (1001, False), (-60, True), (-61, False)):
            self.wall.now = 1_790_000_000.0 + seconds
            self.assertEqual(self.read(session_id) is not None, alive, seconds)

    def test_sessions_that_end_with_the_process(self) -> None:
        """Their ids look alike and cannot be revived."""
        session_id = self.issue(opened(resumable=False, session_id="s1"))
        self.assertIsNone(self.read(session_id))
        self.assertGreater(len(session_id), 43)

    def test_size(self) -> None:
        """What does not fit makes an id that cannot be revived, but is one."""
        for opening, params in (
            (opened(session_id="x" * 1024), PARAMS),
            (opened(), {**PARAMS, "capabilities": {"roots": {"x": "y" * 1000}}}),
        ):
            session_id = self.issue(opening, params)
            self.assertLessEqual(len(session_id), BOUNDS.max_chars)
            self.assertIsNone(self.read(session_id))

    def test_a_usual_size(self) -> None:
        """The id of a common server and client stays well below what proxies limit."""
        session_id = self.issue(opened(session_id="0" * 36))
        self.assertLess(len(session_id), 400)

    def test_long_ids_are_not_opened(self) -> None:
        """What is longer than any id of ours is none, whatever it says inside."""
        wide = evolve(self.ids, bounds=evolve(BOUNDS, max_chars=5000))
        session_id = wide.issue(ALICE, self.route, PARAMS, opened(session_id="x" * 1024))
        self.assertIsNotNone(wide.read(session_id, ALICE, self.route))
        self.assertIsNone(self.read(session_id))

    def test_strange_client_info(self) -> None:
        """A client may say nothing of itself, or nonsense."""
        for info in (None, {}, {"name": 5, "version": None}, {"name": ["x"]}):
            kept = self.read(self.issue(params={**PARAMS, "clientInfo": info}))
            assert kept is not None
            self.assertEqual(kept.client_info, {"name": "", "version": ""})

    def test_another_form(self) -> None:
        """An id made by another version of the gateway is unknown, not an error."""
        context = (ALICE, "files", "/mcp/files", "/deep")
        for content in (
            b"{}",
            b'{"kind":2,"birth":1}',
            b'{"kind":1,"birth":1790000000,"version":"2099-01-01","server":null,'
            b'"capabilities":{},"client":{}}',
        ):
            self.assertIsNone(self.read(self.ids.seal.seal(context, content)))

    @settings(deadline=None, max_examples=100)
    @given(
        version=st.sampled_from(sorted(LEGACY_VERSIONS)),
        server=st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)),
        name=NAMES,
        capabilities=st.dictionaries(
            st.sampled_from(["roots", "sampling", "elicitation"]),
            st.dictionaries(NAMES, st.booleans() | NAMES, max_size=3),
        ),
    )
    def test_anything_fits_or_is_not_kept(
        self, version: str, server: str | None, name: str, capabilities: Message
    ) -> None:
        """An id is short and says exactly what was put in, or nothing at all."""
        params = {**PARAMS, "capabilities": capabilities, "clientInfo": {"name": name}}
        session_id = self.issue(opened(version, session_id=server), params)
        self.assertLessEqual(len(session_id), BOUNDS.max_chars)
        kept = self.read(session_id)
        if kept is not None:
            self.assertEqual((kept.version, kept.session_id), (version, server))
            self.assertEqual(kept.capabilities, capabilities)
            self.assertEqual(kept.client_info["name"], name[:64])

    @settings(deadline=None, max_examples=100)
    @given(place=st.integers(min_value=0), character=st.sampled_from("Aa0_-=. \u00e9"))
    def test_tampering(self, place: int, character: str) -> None:
        """One other character anywhere, and it is nobody's."""
        session_id = self.issue()
        place %= len(session_id)
        changed = session_id[:place] + character + session_id[place + 1 :]
        if changed != session_id:
            self.assertIsNone(self.read(changed))
        self.assertIsNone(self.read(session_id[:place]))

    @settings(deadline=None, max_examples=100)
    @given(st.text(max_size=100) | st.text(BASE64URL, min_size=40, max_size=200))
    def test_anything_else(self, text: str) -> None:
        """No text a client can think of opens."""
        self.assertIsNone(self.read(text))
