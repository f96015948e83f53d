"""Tests of `mcpguard.pipeline.bridge.upstream`."""

from typing import Any, Literal

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.upstream import BridgingUpstream
from mcpguard.upstream.link import Eras, Inbox, Link, Message, Opening, UpstreamFailure
from tests.pipeline.rig import MemoryLink, MemoryUpstream

MODERN = "2026-07-28"
STATELESS = Eras(legacy=False, modern=(MODERN,), discovered={"capabilities": {}})
PARAMS: Message = {"protocolVersion": "2025-11-25", "capabilities": {}}


@define(eq=False)
class Handshakes:
    """A handshake side that notes what it was asked for."""

    opened: list[tuple[Any, ...]] = field(factory=list)
    ended: int = 0

    async def open(
        self, eras: Eras, principal_key: str, params: Message, inbox: Inbox, path: str
    ) -> Opening:
        """Note it."""
        self.opened.append((eras, principal_key, params, path))
        return Opening(MemoryLink(), {"protocolVersion": "2025-11-25"})

    async def resume(
        self,
        eras: Eras,
        principal_key: str,
        params: Message,
        version: str,
        inbox: Inbox,
        path: str,
    ) -> Link:
        """Note it."""
        self.opened.append((eras, principal_key, params, version, path))
        return MemoryLink()

    def end_all(self) -> Deferred[None]:
        """Count it."""
        self.ended += 1
        return succeed(None)


@define(eq=False)
class Statelesses:
    """A stateless side that notes what it was asked for."""

    linked: list[tuple[str, str]] = field(factory=list)
    swept: int = 0
    ended: int = 0

    def link(self, principal_key: str, path: str) -> Link:
        """Note it."""
        self.linked.append((principal_key, path))
        return MemoryLink()

    def sweep(self) -> None:
        """Count it."""
        self.swept += 1

    def end_all(self) -> Deferred[None]:
        """Count it."""
        self.ended += 1
        return succeed(None)


class BridgingUpstreamTest(SynchronousTestCase):
    """`BridgingUpstream`."""

    def build(
        self, eras: Eras, bridge: Literal["translate", "fallback"] = "translate"
    ) -> BridgingUpstream:
        """A bridge before a server of these eras."""
        self.inner = MemoryUpstream(known_eras=eras)
        self.handshakes, self.statelesses = Handshakes(), Statelesses()
        return BridgingUpstream(self.inner, bridge, self.handshakes, self.statelesses)

    def open(self, upstream: BridgingUpstream) -> Opening:
        """Open a session."""
        inbox: Any = None
        return self.successResultOf(upstream.open_session("key:alice", PARAMS, inbox, "/x"))

    def test_both_eras_need_no_bridge(self) -> None:
        """A server of both eras is asked directly, in either."""
        both = Eras(legacy=True, modern=(MODERN,), discovered={})
        upstream = self.build(both)
        self.assertEqual(self.successResultOf(upstream.eras()), both)
        self.open(upstream)
        self.successResultOf(upstream.stateless("key:alice", ""))
        self.assertEqual(len(self.inner.links), 2)
        self.assertEqual((self.handshakes.opened, self.statelesses.linked), ([], []))

    def test_sessions_before_a_stateless_server(self) -> None:
        """Before a stateless server sessions are the bridge's, and the server's eras say so."""
        upstream = self.build(STATELESS)
        eras = self.successResultOf(upstream.eras())
        self.assertEqual((eras.legacy, eras.modern, eras.bridged), (True, (MODERN,), "legacy"))
        self.open(upstream)
        self.assertEqual(self.handshakes.opened, [(STATELESS, "key:alice", PARAMS, "/x")])
        self.assertEqual(self.inner.initialized_with, [])

    def test_stateless_requests_before_a_handshake_server(self) -> None:
        """Before a handshake server stateless requests are the bridge's, sessions the server's."""
        upstream = self.build(Eras(legacy=True))
        eras = self.successResultOf(upstream.eras())
        self.assertEqual((eras.legacy, eras.modern, eras.bridged), (True, (MODERN,), "modern"))
        self.assertIsNone(eras.discovered)
        self.successResultOf(upstream.stateless("key:alice", "/x"))
        self.assertEqual(self.statelesses.linked, [("key:alice", "/x")])
        self.open(upstream)
        self.assertEqual(self.inner.initialized_with, [PARAMS])

    def test_fallback(self) -> None:
        """With fallback a handshake server stays one; a stateless one is translated as ever."""
        upstream = self.build(Eras(legacy=True), "fallback")
        self.assertEqual(self.successResultOf(upstream.eras()), Eras(legacy=True))
        failure = self.failureResultOf(upstream.stateless("key:alice", ""), UpstreamFailure)
        self.assertIs(failure.value.reason, Reason.UPSTREAM_ERA)
        self.assertEqual(self.statelesses.linked, [])
        upstream = self.build(STATELESS, "fallback")
        self.open(upstream)
        self.assertEqual(len(self.handshakes.opened), 1)

    def test_resumption(self) -> None:
        """A session goes on where it was: at the server that shakes hands, or at the bridge."""
        inbox: Any = None
        upstream = self.build(STATELESS)
        args = ("key:alice", PARAMS, "2025-06-18")
        self.successResultOf(upstream.resume_session(*args, None, inbox, "/x"))
        self.assertEqual(
            self.handshakes.opened, [(STATELESS, "key:alice", PARAMS, "2025-06-18", "/x")]
        )
        failure = self.failureResultOf(
            upstream.resume_session(*args, "s1", inbox, "/x"), UpstreamFailure
        )
        self.assertIs(failure.value.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(len(self.handshakes.opened), 1)

    def test_end(self) -> None:
        """Sweeping and stopping reach both sides of the bridge."""
        upstream = self.build(STATELESS)
        upstream.sweep()
        self.successResultOf(upstream.stop())
        self.assertEqual(self.statelesses.swept, 1)
        self.assertEqual((self.handshakes.ended, self.statelesses.ended), (1, 1))
