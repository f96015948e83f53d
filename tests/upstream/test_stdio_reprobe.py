"""Tests of commands behind which another server stands than the one that was found there."""

from typing import Any

from mcpguard.errors import Reason
from mcpguard.upstream.link import Eras, InitializeRejected
from tests.upstream.stdio_rig import (
    ALICE,
    BOB,
    CLIENT_PARAMS,
    InboxDouble,
    ScriptedServer,
    StdioCase,
)


class ReplacedCase(StdioCase):
    """A stdio upstream that finds out what its command speaks."""

    def make(self, **changes: Any) -> Any:
        """Nothing is pinned unless a test says so."""
        return super().make(**{"era": "auto", **changes})

    def replace(self, *, modern: bool) -> None:
        """From now on the command starts another server."""
        self.new_server = lambda: ScriptedServer(legacy=not modern, modern=modern)

    def learn(self, *, modern: bool) -> None:
        """It is found to be this."""
        self.replace(modern=modern)
        self.assert_eras(modern)

    def assert_eras(self, modern: bool) -> None:
        """What it is known to speak."""
        eras: Eras = self.result(self.upstream.eras())
        self.assertEqual((eras.legacy, bool(eras.modern)), (not modern, modern))

    def open_fails(self, key: str = ALICE) -> Any:
        """What is told to a client whose handshake fails."""
        return self.problem(self.upstream.open_session(key, CLIENT_PARAMS, InboxDouble(), ""))


class UpgradeTests(ReplacedCase):
    """A handshake server that was replaced by a stateless one."""

    def test_sessions_of_their_own(self) -> None:
        """The next handshake fails, the command is asked, and then it is a stateless server."""
        self.learn(modern=False)
        self.open()
        self.replace(modern=True)
        failure = self.open_fails()
        self.assertEqual((failure.reason, failure.retry_after), (Reason.UPSTREAM_CHANGED, 1.0))
        self.assert_eras(modern=True)
        self.assertEqual(
            self.ask(self.stateless(), stateless=True).answered["result"]["did"], "tools/call"
        )

    def test_shared(self) -> None:
        """A shared child that dies comes back as another: its sessions end, nothing is retried."""
        self.make(isolation="shared")
        self.learn(modern=False)
        _, inbox = self.open()
        self.replace(modern=True)
        self.alive[0].exits(1)
        self.turn(1)
        self.assert_eras(modern=True)
        self.turn()
        self.assertEqual(len(inbox.closings), 1)
        children = len(self.reactor.children)
        self.turn(20)
        self.assertEqual(len(self.reactor.children), children)

    def test_pinned(self) -> None:
        """What is configured is believed; the client reads what the server says."""
        self.make(era="legacy")
        self.replace(modern=True)
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.turn()
        self.failureResultOf(opening, InitializeRejected)
        self.assertEqual(self.result(self.upstream.eras()), Eras(legacy=True))
        self.assertEqual(len(self.servers), 1)


class DowngradeTests(ReplacedCase):
    """A stateless server that was replaced by a handshake server."""

    def test_next_child(self) -> None:
        """The next child does not understand its greeting; then it is a handshake server."""
        self.learn(modern=True)
        link = self.stateless()
        self.ask(link, stateless=True)
        self.replace(modern=False)
        self.alive[0].exits(1)
        sink = self.ask(link, stateless=True)
        self.turn(2)
        again = self.ask(link, stateless=True)
        for one in (sink, again):
            self.assertIn(
                one.failure.reason, (Reason.UPSTREAM_CHANGED, Reason.UPSTREAM_UNAVAILABLE)
            )
        self.assert_eras(modern=False)
        self.open()

    def test_silent(self) -> None:
        """A server that ignores the greeting is a handshake server, as it is for the probe."""
        self.make(timeout_secs=7)
        self.learn(modern=True)
        link = self.stateless()
        self.new_server = lambda: ScriptedServer(hold={"server/discover"})
        sink = self.ask(link, stateless=True)
        self.turn(8)
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_CHANGED)
        waiting = self.upstream.eras()
        self.turn(6)
        self.assertEqual(self.successResultOf(waiting), Eras(legacy=True))

    def test_running_calls_end_in_peace(self) -> None:
        """A child of the old kind serves on until it ends; another is not greeted like it."""
        self.make(isolation="per_principal")
        self.learn(modern=True)
        old = self.stateless()
        running = self.ask(old, "hold", stateless=True)
        self.replace(modern=False)
        failed = self.ask(self.stateless(BOB), stateless=True, principal=BOB)
        self.assertEqual(failed.failure.reason, Reason.UPSTREAM_CHANGED)
        self.assert_eras(modern=False)
        self.assertEqual(running.ends, [])
        self.assertEqual(self.ask(old, stateless=True).answered["result"]["did"], "tools/call")

    def test_listens_end(self) -> None:
        """Streams that waited for a new child end when there will be none."""
        self.learn(modern=True)
        self.upstream.start()
        self.turn()
        listen = self.ask(self.stateless(), "subscriptions/listen", stateless=True, endless=True)
        self.replace(modern=False)
        self.alive[0].exits(1)
        self.turn(5)
        self.assertEqual(len(listen.ends), 1)
        self.assert_eras(modern=False)
        children = len(self.reactor.children)
        self.turn(30)
        self.assertEqual(len(self.reactor.children), children)
        self.assertEqual(self.upstream.standing.usable, True)

    def test_a_running_child_says_so(self) -> None:
        """A wrapper whose far end was replaced: its answer is enough to ask again."""
        self.learn(modern=True)
        sink = self.ask(self.stateless(), "hold", stateless=True)
        self.replace(modern=False)
        gid = self.servers[-1].last("hold")["id"]
        error = {"code": -32022, "message": "m", "data": {"supported": ["2025-11-25"]}}
        self.alive[0].says({"jsonrpc": "2.0", "id": gid, "error": error})
        self.assertEqual(sink.failure.reason, Reason.UPSTREAM_CHANGED)
        self.assert_eras(modern=False)
