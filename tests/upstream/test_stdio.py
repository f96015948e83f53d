"""A stdio upstream as a whole: what it speaks, how it stands, how many children it has."""

from collections.abc import Iterable
from typing import Any

from mcpguard.errors import Reason
from mcpguard.upstream.link import Eras, Message, UpstreamFailure
from mcpguard.upstream.probing import PROBES
from tests.upstream.stdio_rig import (
    ALICE,
    BOB,
    CLIENT_PARAMS,
    InboxDouble,
    ScriptedServer,
    StdioCase,
)


class ErasTests(StdioCase):
    """Probing on children that serve for nothing else."""

    def make(self, **changes: Any) -> Any:
        """Probed unless a test pins the era."""
        return super().make(**{"era": "auto", **changes})

    def eras(self, legacy: bool, modern: bool) -> Eras:
        """What is found out about such a server."""
        self.new_server = lambda: ScriptedServer(legacy=legacy, modern=modern)
        eras: Eras = self.result(self.upstream.eras())
        return eras

    def test_handshake_server(self) -> None:
        """A server that knows only initialize."""
        self.assertEqual(self.eras(True, False), Eras(True))

    def test_stateless_server(self) -> None:
        """A server that refuses initialize; what it offers is kept."""
        eras = self.eras(False, True)
        self.assertEqual((eras.legacy, eras.modern), (False, ("2026-07-28",)))
        assert eras.discovered is not None
        self.assertEqual(eras.discovered["capabilities"], {"tools": {}})

    def test_server_of_both_eras(self) -> None:
        """Each question has its own child, because the first message fixes the era."""
        eras = self.eras(True, True)
        self.assertEqual((eras.legacy, eras.modern), (True, ("2026-07-28",)))
        self.assertEqual(
            [server.methods() for server in self.servers], [["initialize"], ["server/discover"]]
        )

    def test_probes_are_always_closed(self) -> None:
        """No probe child outlives its question, and the verdict is kept."""
        self.eras(True, True)
        self.assertEqual(self.alive, [])
        self.assertEqual(self.upstream.child_count, 0)
        self.result(self.upstream.eras())
        self.assertEqual(len(self.reactor.children), 2)

    def test_asked_once_for_many(self) -> None:
        """Many callers wait for one probe; one that leaves does not stop it."""
        self.new_server = lambda: ScriptedServer()
        waiting = [self.upstream.eras() for _ in range(5)]
        waiting[2].cancel()
        self.turn()
        self.failureResultOf(waiting.pop(2))
        for one in waiting:
            self.assertEqual(self.successResultOf(one), Eras(True))
        self.assertEqual(len(self.reactor.children), 2)

    def test_silence_means_handshake(self) -> None:
        """A server that says nothing to server/discover for five seconds is a handshake server."""
        self.new_server = lambda: ScriptedServer(hold={"server/discover"})
        eras = self.upstream.eras()
        self.turn(4)
        self.assertNoResult(eras)
        self.turn(2)
        self.assertEqual(self.successResultOf(eras), Eras(True))
        self.assertEqual(self.alive, [])

    def slow(self, start_secs: float, *, legacy: bool = True, modern: bool = False) -> None:
        """From now on servers take a while before they read anything."""

        class Slow(ScriptedServer):
            def __call__(inner, message: Message) -> Iterable[Message]:  # noqa: N805
                child = self.alive[-1]
                self.reactor.callLater(start_secs, child.says, *super().__call__(message))
                return []

        self.new_server = lambda: Slow(legacy=legacy, modern=modern)

    def test_slow_start(self) -> None:
        """A server that takes longer to start than silence lasts is known for what it is."""
        for legacy, modern in ((True, True), (False, True), (True, False)):
            self.make()
            self.slow(8, legacy=legacy, modern=modern)
            eras = self.upstream.eras()
            self.turn(18)
            found = self.successResultOf(eras)
            self.assertEqual((found.legacy, bool(found.modern)), (legacy, modern))

    def test_slow_silence(self) -> None:
        """Also one that was slow is not waited for longer than its first answer may take."""
        self.make(timeout_secs=10)
        self.slow(8)
        slow = self.new_server
        silent = ScriptedServer(hold={"server/discover"})
        self.new_server = lambda: silent if self.servers else slow()
        eras = self.upstream.eras()
        self.turn(17)
        self.assertNoResult(eras)
        self.turn(2)
        self.assertEqual(self.successResultOf(eras), Eras(True))

    def test_death_means_no(self) -> None:
        """A server that ends itself at one question may still answer the other."""

        class Fragile(ScriptedServer):
            def __call__(inner, message: Message) -> Iterable[Message]:  # noqa: N805
                if message["method"] == "server/discover":
                    self.alive[-1].exits(1)
                    return []
                return super().__call__(message)

        self.new_server = Fragile
        self.assertEqual(self.result(self.upstream.eras()), Eras(True))

    def test_understands_nothing(self) -> None:
        """A server of neither era fails, and is asked again next time."""
        self.new_server = lambda: ScriptedServer(legacy=False, modern=False)
        failure = self.problem(self.upstream.eras())
        self.assertEqual(failure.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.eras(True, False), Eras(True))

    def test_pinned_handshake(self) -> None:
        """A pinned handshake era asks nothing."""
        self.make(era="legacy")
        self.assertEqual(self.result(self.upstream.eras()), Eras(True))
        self.assertEqual(self.reactor.children, [])

    def test_pinned_stateless(self) -> None:
        """A pinned stateless era asks only what the server offers."""
        self.make(era="modern")
        self.assertEqual(self.eras(True, True).modern, ("2026-07-28",))
        self.assertEqual([server.methods() for server in self.servers], [["server/discover"]])

    def test_pinned_wrongly(self) -> None:
        """A server that contradicts the pin is a failure, not a surprise."""
        self.make(era="modern")
        self.new_server = lambda: ScriptedServer(modern=False)
        self.assertEqual(self.problem(self.upstream.eras()).reason, Reason.UPSTREAM_FAILED)

    def test_pause_says_nothing(self) -> None:
        """While a question may not be asked there is no verdict, not a wrong one."""
        self.new_server = lambda: ScriptedServer(legacy=True, modern=True)
        crashes = self.upstream._supervision.crashes.of(PROBES[0])
        for _ in range(2):
            crashes.crashed(self.reactor.seconds(), 0)
        failure = self.problem(self.upstream.eras())
        self.assertEqual(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.reactor.children, [])
        self.turn(1)
        self.assertTrue(self.result(self.upstream.eras()).legacy)

    def test_wrong_era(self) -> None:
        """Callers of an era the server lacks are told so."""
        self.eras(True, False)
        failure = self.problem(self.upstream.stateless(ALICE, ""))
        self.assertEqual(failure.reason, Reason.UPSTREAM_ERA)


class StandingTests(StdioCase):
    """Readiness, which must not be a guess."""

    def assert_standing(self, usable: bool, reason: str) -> None:
        """The present state."""
        standing = self.upstream.standing
        self.assertEqual((standing.usable, standing.reason), (usable, reason))

    def test_usable_after_the_first_answer(self) -> None:
        """Even with a pinned era the server has to answer once."""
        self.assert_standing(False, "starting")
        self.upstream.start()
        self.assert_standing(False, "starting")
        self.turn()
        self.assert_standing(True, "")
        self.assertEqual(self.alive, [])

    def test_missing_command(self) -> None:
        """A command that is not there is unreachable, and a crash loop when it stays away."""
        self.make(command="no-such-command-anywhere")
        self.upstream.start()
        self.turn()
        self.assert_standing(False, "unreachable")
        self.turn(40)
        self.assert_standing(False, "crash loop")

    def test_exits_at_start(self) -> None:
        """A server that ends at once is a crash, though we stop asking it too."""

        class Doomed(ScriptedServer):
            def __call__(inner, message: Message) -> Iterable[Message]:  # noqa: N805
                self.reactor.callLater(0, self.alive[-1].exits, 3)
                return []

        self.new_server = Doomed
        self.upstream.start()
        self.turn(40)
        self.assert_standing(False, "crash loop")

    def test_repaired(self) -> None:
        """A server that comes back is found by itself."""
        self.new_server = lambda: ScriptedServer(legacy=False)
        self.upstream.start()
        self.turn()
        self.assert_standing(False, "unreachable")
        self.new_server = ScriptedServer
        self.turn(6)
        self.assert_standing(True, "")

    def test_error_of_our_own(self) -> None:
        """Whatever goes wrong while asking, those who wait are told, and it is tried again."""
        self.make(era="auto")
        self.upstream.start()
        self.reactor.refuses = RuntimeError("not foreseen")
        self.turn(6)
        waiting = self.upstream.eras()
        self.assertEqual(self.problem(waiting).reason, Reason.UPSTREAM_FAILED)
        self.assertNotEqual(self.flushLoggedErrors(RuntimeError), [])
        self.reactor.refuses = None
        self.turn(60)
        self.assert_standing(True, "")

    def test_shared_child_is_started_ahead(self) -> None:
        """A child for everybody waits for its first caller."""
        self.make(isolation="shared")
        self.upstream.start()
        self.turn()
        self.assertEqual(len(self.alive), 1)

    def test_stopped(self) -> None:
        """A stopped upstream is not usable, and stays silent."""
        self.upstream.start()
        self.turn()
        self.successResultOf(self.upstream.stop())
        self.assert_standing(False, "stopped")

    def crash_sessions(self, key: str, times: int) -> None:
        """Open sessions whose child dies right away."""
        for _ in range(times):
            self.open(key)
            self.alive[-1].exits(1)
            self.turn(6)

    def test_one_callers_crashes(self) -> None:
        """Who crashes every child of his is locked out alone; the server itself is tried anew."""
        self.upstream.start()
        self.turn()
        self.crash_sessions(ALICE, 5)
        failure = self.problem(self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), ""))
        self.assertEqual(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(failure.detail, "crash loop")
        self.assertIsNotNone(failure.retry_after)
        self.open(BOB)
        self.assert_standing(True, "")
        self.assertEqual(
            [one.identity_id for one in self.books.events if one.status == "crash_loop"], ["alice"]
        )

    def test_server_that_broke(self) -> None:
        """When the gateway's own trial fails too, the upstream is not usable."""
        self.upstream.start()
        self.turn()
        self.crash_sessions(ALICE, 4)
        self.open(ALICE)
        self.new_server = lambda: ScriptedServer(legacy=False)
        self.alive[-1].exits(1)
        self.turn()
        self.assert_standing(False, "unreachable")


class SeatTests(StdioCase):
    """How many children there may be."""

    def busy(self, key: str) -> UpstreamFailure:
        """The failure of one opening too many."""
        return self.problem(self.upstream.open_session(key, CLIENT_PARAMS, InboxDouble(), ""))

    def test_full(self) -> None:
        """At the limit an opening is refused with a time to come back, and nothing is started."""
        self.make(max_children=2)
        self.open()
        self.open(BOB)
        self.assertEqual(self.busy("api_key:carol").reason, Reason.UPSTREAM_BUSY)
        self.assertEqual(len(self.reactor.children), 2)

    def test_own_idle_session_makes_room(self) -> None:
        """At the limit one's own longest idle session goes first, and is told."""
        self.make(max_children=3)
        _, other = self.open(BOB)
        self.turn(1)
        _, first = self.open()
        self.turn(1)
        _, second = self.open()
        self.turn(60)
        self.open()
        self.assertEqual([one.reason for one in first.closings], [Reason.SESSION_NOT_FOUND])
        self.assertEqual((second.closings, other.closings), ([], []))
        self.assertEqual(len(self.alive), 3)

    def test_evicted_only_when_long_idle(self) -> None:
        """One caller cannot push another out between two of his calls."""
        self.make(max_children=1)
        _, inbox = self.open()
        self.turn(59)
        self.assertEqual(self.busy(BOB).reason, Reason.UPSTREAM_BUSY)
        self.turn(2)
        self.open(BOB)
        self.assertEqual(len(inbox.closings), 1)

    def test_busy_sessions_stay(self) -> None:
        """A session with a running request keeps its child, however old the request."""
        self.make(max_children=1, timeout_secs=500, max_timeout_secs=500, idle_timeout_secs=100)
        link, inbox = self.open()
        self.ask(link, "hold")
        self.turn(200)
        self.assertEqual(self.busy(ALICE).reason, Reason.UPSTREAM_BUSY)
        self.assertEqual(inbox.closings, [])

    def test_idle_sessions_end(self) -> None:
        """A session nobody uses loses its child after the idle time."""
        self.make(idle_timeout_secs=100)
        link, inbox = self.open()
        self.turn(90)
        self.ask(link)
        self.turn(90)
        self.assertEqual(inbox.closings, [])
        self.turn(40)
        self.assertEqual(len(inbox.closings), 1)
        self.assertEqual(self.alive, [])
        self.assertEqual(self.reactor.children[0].asked, ["EOF"])

    def test_dying_children_count(self) -> None:
        """Children that take long to end cannot pile up behind new ones."""
        self.make(max_children=2)
        self.reactor.obeys = ("KILL",)
        for _ in range(4):
            link, _ = self.open()
            link.close()
        self.assertEqual(self.busy(ALICE).reason, Reason.UPSTREAM_BUSY)
        self.assertEqual(self.upstream.child_count, 4)
        self.turn(5)
        self.open()

    def test_spawn_rate(self) -> None:
        """Sessions opened and closed in a storm start only so many processes."""
        self.make(max_children=4)
        for _ in range(8):
            link, _ = self.open()
            link.close()
        failure = self.busy(ALICE)
        self.assertEqual(failure.reason, Reason.UPSTREAM_BUSY)
        assert failure.retry_after is not None
        self.turn(failure.retry_after + 0.1)
        self.open()

    def test_kernel_refuses(self) -> None:
        """A process that cannot be started is a failure of that opening alone."""
        self.reactor.refuses = OSError(11, "Resource temporarily unavailable")
        self.assertEqual(self.busy(ALICE).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.reactor.refuses = None
        self.open()


class EndTests(StdioCase):
    """Stopping everything, and what is written down."""

    def test_stop_waits_for_every_process(self) -> None:
        """Stop fires when the most stubborn child is gone, and the warden after it."""
        self.open()
        self.reactor.obeys = ("KILL",)
        self.open(BOB)
        stopping = self.upstream.stop()
        self.turn(3)
        self.assertNoResult(stopping)
        self.assertEqual(self.reactor.wardens[0].asked, [])
        self.turn(2)
        self.successResultOf(stopping)
        self.assertEqual(self.alive, [])
        self.assertEqual(self.reactor.wardens[0].asked, ["EOF"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_while_probing(self) -> None:
        """Whoever waits for the verdict hears that there will be none."""
        self.make(era="auto")
        self.new_server = lambda: ScriptedServer(hold={"initialize"})
        self.upstream.start()
        eras = self.upstream.eras()
        self.turn()
        self.successResultOf(self.upstream.stop())
        self.assertEqual(self.problem(eras).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.turn(60)
        self.assertEqual(len(self.reactor.children), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_opening_after_stop(self) -> None:
        """Whoever comes after the stop is turned away, and nothing is tried for it."""
        self.make(isolation="shared")
        self.successResultOf(self.upstream.stop())
        opening = self.upstream.open_session(ALICE, CLIENT_PARAMS, InboxDouble(), "")
        self.assertEqual(self.problem(opening).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_again(self) -> None:
        """A second stop has nothing to wait for."""
        self.open()
        self.successResultOf(self.upstream.stop())
        self.successResultOf(self.upstream.stop())

    def test_audit(self) -> None:
        """Every start and end of a process is an event with its principal and reason."""
        link, _ = self.open()
        self.open(BOB)
        self.successResultOf(link.close())
        self.alive[0].exits(signal=9)
        self.assertEqual(
            [
                (e.event_type, e.status, e.identity_id, e.details.get("exit"))
                for e in self.books.events
            ],
            [
                ("UpstreamEvent", "spawned", "alice", None),
                ("UpstreamEvent", "spawned", "bob", None),
                ("UpstreamEvent", "exited", "alice", "exit code 0"),
                ("UpstreamEvent", "crashed", "bob", "signal 9"),
            ],
        )
        self.assertEqual({event.server for event in self.books.events}, {"files"})

    def test_warden_knows_every_group(self) -> None:
        """The warden is told of each process group, and of its end."""
        link, _ = self.open()
        self.open(BOB)
        self.successResultOf(link.close())
        (warden,) = self.reactor.wardens
        self.assertEqual(warden.written, b"+1000\n+1001\n-1000\n")

    def test_lost_warden_is_replaced(self) -> None:
        """A warden that was killed is replaced with the next child, and told of all."""
        self.open()
        self.reactor.wardens[0].exits(signal=9)
        self.open(BOB)
        self.assertEqual(self.reactor.wardens[1].written, b"+1000\n+1001\n")


class ResumeTests(StdioCase):
    """`StdioUpstream.resume_session`."""

    def test_sessions_end_with_their_child(self) -> None:
        """No child outlives the gateway, so there is nothing to come back to, and none starts."""
        resuming = self.upstream.resume_session(
            ALICE, CLIENT_PARAMS, "2025-06-18", None, InboxDouble(), ""
        )
        failure = self.failureResultOf(resuming, UpstreamFailure).value
        self.assertIs(failure.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.reactor.children, [])


class PipesFirstErasTests(ErasTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True


class PipesFirstStandingTests(StandingTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True


class PipesFirstSeatTests(SeatTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True


class PipesFirstEndTests(EndTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True
