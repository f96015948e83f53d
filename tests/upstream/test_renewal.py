"""Sessions that go on when the server's own session is lost."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcpguard.errors import Reason
from mcpguard.upstream.link import (
    InitializeRejected,
    Message,
    Opening,
    Outbound,
    UpstreamFailure,
)
from tests.upstream.renewal_doubles import (
    ALICE,
    CRASHED,
    FORGOTTEN,
    PARAMS,
    VERSION,
    CallDouble,
    LinkDouble,
    ListenerDouble,
    RenewalCase,
    SinkDouble,
)

UPDATED: Message = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {}}


class ForgottenTests(RenewalCase):
    """An HTTP server that answers 404."""

    def test_the_request_is_sent_once_more(self) -> None:
        """One handshake with the old params, then the request: the client sees its answer only."""
        link, old = self.open()
        sink = self.ask(link, name="x")
        old.forget()
        self.assertEqual(sink.ends, [])
        new = self.renewed()
        first, second = self.server.openings
        self.assertEqual(second.params, PARAMS)
        self.assertEqual((second.principal_key, second.path), (ALICE, "/deep"))
        self.assertIsNot(first.inbox, second.inbox)
        self.assertEqual(new.notifications, ["notifications/initialized"])
        (call,) = new.calls
        self.assertEqual(call.outbound, old.calls[0].outbound)
        call.result(ok=True)
        self.assertEqual(sink.result, {"ok": True})
        self.assertEqual(self.listener.closings, [])
        self.assertEqual(self.meter.renewals, ["renewed"])

    def test_later_requests_use_the_new_session(self) -> None:
        """The old link is asked nothing any more."""
        link, old = self.open()
        self.ask(link)
        old.forget()
        new = self.renewed()
        self.ask(link)
        link.notify("notifications/roots/list_changed", None)
        self.assertEqual((len(old.calls), len(new.calls)), (1, 2))
        self.assertIn("notifications/roots/list_changed", new.notifications)

    def test_one_handshake_for_all(self) -> None:
        """Requests that come meanwhile wait for the same handshake, in their order."""
        link, old = self.open()
        self.ask(link, name="a")
        old.forget()
        self.ask(link, name="b")
        self.clock.advance(0)
        self.ask(link, name="c")
        self.clock.advance(0)
        self.assertEqual(len(self.server.openings), 2)
        new = self.server.openings[-1].accept()
        names = [(call.outbound.params or {}).get("name") for call in new.calls]
        self.assertEqual(names, ["a", "b", "c"])

    def test_waiting_is_bounded(self) -> None:
        """More than may wait are told to come back."""
        link, old = self.open()
        old.inbox.closed(FORGOTTEN)
        sinks = [self.ask(link) for _ in range(4)]
        self.assertEqual([sink.ends for sink in sinks[:3]], [[], [], []])
        self.assertIs(sinks[3].reason, Reason.UPSTREAM_BUSY)
        self.assertEqual(sinks[3].retry_after, 1.0)

    def test_what_may_have_run_is_not_repeated(self) -> None:
        """Only the server's word that it has not looked at a request lets it go out again."""
        link, old = self.open()
        first, second = self.ask(link), self.ask(link)
        old.calls[0].sink.failed(CRASHED)
        old.forget(1)
        new = self.renewed()
        self.assertIs(first.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual((len(new.calls), second.ends), (1, []))

    def test_forgotten_twice(self) -> None:
        """The second 404 to one request is an error; the session itself goes on."""
        link, old = self.open()
        sink = self.ask(link)
        old.forget()
        self.renewed().forget()
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.listener.closings, [])
        self.clock.advance(1.0)
        sink = self.ask(link)
        self.renewed().calls[0].result()
        self.assertEqual(sink.result, {})

    def test_forgotten_while_idle(self) -> None:
        """Nobody uses it, so no handshake is made before somebody does."""
        link, old = self.open()
        old.inbox.closed(FORGOTTEN)
        self.clock.advance(3600)
        self.assertEqual(len(self.server.openings), 1)
        self.ask(link)
        self.assertEqual(self.renewed().methods, ["tools/call"])

    def test_forgotten_while_somebody_listens(self) -> None:
        """A client that waits for news gets a session that can have some, after a moment."""
        _, old = self.open()
        self.listener.attended = True
        old.inbox.closed(FORGOTTEN)
        self.clock.advance(1.9)
        self.assertEqual(len(self.server.openings), 1)
        self.clock.advance(0.1)
        self.server.openings[1].accept().inbox.notification(UPDATED)
        self.assertEqual(self.listener.notes, [UPDATED])

    def test_listener_who_leaves(self) -> None:
        """Who has left in that moment needs none."""
        _, old = self.open()
        self.listener.attended = True
        old.inbox.closed(FORGOTTEN)
        self.listener.attended = False
        self.clock.advance(60)
        self.assertEqual(len(self.server.openings), 1)

    def test_a_request_does_not_wait_for_the_moment(self) -> None:
        """It brings the handshake forward."""
        link, old = self.open()
        self.listener.attended = True
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        self.renewed()
        self.clock.advance(60)
        self.assertEqual(len(self.server.openings), 2)

    def test_other_failures_pass(self) -> None:
        """A 500 or a timeout says nothing about the session."""
        link, old = self.open()
        sink = self.ask(link)
        old.calls[0].sink.failed(CRASHED)
        self.clock.advance(0)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.server.openings), 1)

    def test_another_end_is_the_end(self) -> None:
        """What closes the link for another reason closes the session."""
        link, old = self.open()
        old.inbox.closed(CRASHED)
        self.assertEqual(self.listener.closings, [CRASHED])
        self.assertIs(self.ask(link).reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.server.openings), 1)

    def test_refused_at_once(self) -> None:
        """A link that is dead when it is asked has lost its session too."""
        link, old = self.open()

        def forgotten(call: CallDouble) -> None:
            call.sink.failed(FORGOTTEN)
            old.inbox.closed(FORGOTTEN)

        old.at_once = forgotten
        sink = self.ask(link)
        self.renewed().calls[0].result()
        self.assertEqual(sink.result, {})


class FailedRenewalTests(RenewalCase):
    """A handshake that does not succeed."""

    def lost(self) -> tuple[Any, SinkDouble]:
        """A session that was lost, and a request that waits."""
        link, old = self.open()
        sink = self.ask(link)
        old.forget()
        self.clock.advance(0)
        return link, sink

    def test_the_failure_is_told(self) -> None:
        """Who waits hears why, and the session stays for a later try."""
        link, sink = self.lost()
        down = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "refused")
        self.server.openings[-1].refuse(down)
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual((self.listener.closings, self.meter.renewals), ([], ["failed"]))
        self.clock.advance(1.0)
        sink = self.ask(link)
        self.renewed().calls[0].result()
        self.assertEqual(sink.result, {})

    def test_pauses(self) -> None:
        """Until the pause is over nobody asks the server, and the pauses grow."""
        link, _ = self.lost()
        down = UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "no answer")
        pauses = []
        for count in range(2, 5):
            self.server.openings[-1].refuse(down)
            sink = self.ask(link)
            self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
            self.clock.advance(0)
            self.assertEqual(len(self.server.openings), count)
            assert sink.retry_after is not None
            pauses.append(sink.retry_after)
            self.clock.advance(sink.retry_after)
            self.ask(link)
            self.clock.advance(0)
        self.assertEqual(pauses, [1.0, 2.0, 4.0])

    def test_listeners_do_not_ask_again(self) -> None:
        """A server that is not back yet is tried again for them, ever more seldom, as long as
        somebody listens.
        """
        _, old = self.open()
        self.listener.attended = True
        old.inbox.closed(FORGOTTEN)
        self.clock.advance(2.0)
        tries = []
        for count in range(2, 5):
            self.assertEqual(len(self.server.openings), count)
            self.server.openings[-1].refuse(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE))
            began = self.clock.seconds()
            while len(self.server.openings) == count and self.clock.seconds() < 60:
                self.clock.advance(0.5)
            tries.append(self.clock.seconds() - began)
        self.assertEqual(tries, [1.0, 2.0, 4.0])
        new = self.server.openings[-1].accept()
        new.inbox.notification(UPDATED)
        self.assertEqual(self.listener.notes, [UPDATED])
        new.inbox.closed(FORGOTTEN)
        self.listener.attended = False
        self.clock.advance(600)
        self.assertEqual(len(self.server.openings), 5)

    def test_not_before_the_server_says(self) -> None:
        """One that names a time is not asked before it."""
        _, old = self.open()
        self.listener.attended = True
        old.inbox.closed(FORGOTTEN)
        self.clock.advance(2.0)
        self.server.openings[-1].refuse(UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "", 9.0))
        self.clock.advance(8.9)
        self.assertEqual(len(self.server.openings), 2)
        self.clock.advance(0.1)
        self.assertEqual(len(self.server.openings), 3)

    def test_lost_while_it_is_told_the_state(self) -> None:
        """A new session that is lost before the renewal is over is renewed for a listener too."""
        link, old = self.open()
        self.ask(link, "resources/subscribe", uri="a:1")
        old.calls[-1].result()
        self.listener.attended = True
        old.inbox.closed(FORGOTTEN)
        self.clock.advance(2.0)
        opening = self.server.openings[-1]
        inner = LinkDouble(opening.inbox, at_once=lambda call: opening.inbox.closed(FORGOTTEN))
        opening.deferred.callback(Opening(inner, {"protocolVersion": VERSION}))
        self.clock.advance(60.0)
        self.assertEqual(len(self.server.openings), 3)

    def test_a_session_lost_again_and_again(self) -> None:
        """A server that forgets at once is not greeted for every request."""
        link, _ = self.lost()
        new = self.server.openings[-1].accept()
        new.inbox.closed(FORGOTTEN)
        sink = self.ask(link)
        self.assertIs(sink.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual(sink.retry_after, 1.0)
        self.clock.advance(0)
        self.assertEqual(len(self.server.openings), 2)

    def test_a_quiet_time_forgives(self) -> None:
        """A session that lived well is renewed at once again."""
        link, _ = self.lost()
        new = self.server.openings[-1].accept()
        self.clock.advance(10)
        new.inbox.closed(FORGOTTEN)
        sink = self.ask(link)
        self.renewed().calls[0].result()
        self.assertEqual(sink.result, {})

    def test_rejected(self) -> None:
        """A server that will not have the old params any more fails the request."""
        _, sink = self.lost()
        self.server.openings[-1].refuse(InitializeRejected({"code": -32602, "message": "no"}))
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)

    def test_not_found(self) -> None:
        """A 404 to the handshake does not mean the client's session."""
        _, sink = self.lost()
        self.server.openings[-1].refuse(FORGOTTEN)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.listener.closings, [])

    def test_another_version(self) -> None:
        """The client cannot be told of it, so its session ends, and the server's new one too."""
        link, sink = self.lost()
        new = self.server.openings[-1].accept("2025-06-18")
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual([one.reason for one in self.listener.closings], [sink.reason])
        self.assertEqual((new.closed, new.calls, new.notifications), (1, [], []))
        self.assertEqual(self.meter.renewals, ["changed"])
        self.assertIs(self.ask(link).reason, Reason.SESSION_NOT_FOUND)

    def test_another_era(self) -> None:
        """A server that shakes no hands any more: the client's next session finds that out."""
        _, sink = self.lost()
        changed = UpstreamFailure(Reason.UPSTREAM_CHANGED, "it does not know initialize", 1.0)
        self.server.openings[-1].refuse(changed)
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual([one.reason for one in self.listener.closings], [sink.reason])

    def test_lost_during_the_handshake(self) -> None:
        """A session that dies while it is begun was none."""
        _, sink = self.lost()
        opening = self.server.openings[-1]
        opening.inbox.closed(FORGOTTEN)
        new = opening.accept()
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual((new.closed, self.listener.closings), (1, []))

    def test_an_error_of_the_gateway(self) -> None:
        """It reaches the log and ends the wait."""
        _, sink = self.lost()
        self.server.openings[-1].refuse(RuntimeError("oops"))
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class CancelTests(RenewalCase):
    """Requests that are given up, and sessions that are closed, on the way."""

    def test_running(self) -> None:
        """The server is told, and nothing more is heard."""
        link, old = self.open()
        sink = SinkDouble()
        call = link.request(Outbound(1, "tools/call", {}, VERSION, ALICE), sink)
        call.hold()
        call.release()
        call.hold()
        self.assertEqual(old.calls[0].holds, 1)
        call.cancel("enough")
        call.cancel("twice")
        old.calls[0].result()
        old.calls[0].sink.notification(UPDATED)
        self.assertEqual((old.calls[0].cancelled, sink.ends, sink.notes), ("enough", [], []))

    def test_waiting(self) -> None:
        """A request that waits for a renewal is not sent."""
        link, old = self.open()
        old.inbox.closed(FORGOTTEN)
        sink = SinkDouble()
        call = link.request(Outbound(1, "tools/call", {}, VERSION, ALICE), sink)
        call.hold()
        call.release()
        call.cancel("enough")
        self.clock.advance(0)
        self.assertEqual((len(self.server.openings), sink.ends), (1, []))

    def test_cancelled_while_hands_are_shaken(self) -> None:
        """The new session is kept, the request not sent."""
        link, old = self.open()
        old.inbox.closed(FORGOTTEN)
        call = link.request(Outbound(1, "tools/call", {}, VERSION, ALICE), SinkDouble())
        self.clock.advance(0)
        call.cancel("enough")
        self.assertEqual(self.server.openings[-1].accept().calls, [])

    def test_cancelled_from_within(self) -> None:
        """A sink that gives up on the first notification stops the request at the server."""
        link, old = self.open()
        held: list[Any] = []

        class Impatient(SinkDouble):
            def notification(self, message: Message) -> None:
                held[0].cancel("seen enough")

        held.append(link.request(Outbound(1, "tools/call", {}, VERSION, ALICE), Impatient()))
        old.calls[0].sink.notification(UPDATED)
        self.assertEqual(old.calls[0].cancelled, "seen enough")

    def test_close(self) -> None:
        """Closing closes the server's session."""
        link, old = self.open()
        self.successResultOf(link.close())
        self.assertEqual(old.closed, 1)
        self.assertIs(self.ask(link).reason, Reason.SESSION_NOT_FOUND)
        old.inbox.closed(FORGOTTEN)
        self.assertEqual(self.listener.closings, [])

    def test_close_when_lost(self) -> None:
        """Who waits is told, no timer stays."""
        link, old = self.open()
        old.inbox.closed(FORGOTTEN)
        sink = self.ask(link)
        self.successResultOf(link.close())
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_while_hands_are_shaken(self) -> None:
        """The handshake is given up."""
        link, old = self.open()
        old.inbox.closed(FORGOTTEN)
        sink = self.ask(link)
        self.clock.advance(0)
        self.successResultOf(link.close())
        self.assertTrue(self.server.openings[-1].cancelled)
        self.assertIs(sink.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_first_handshake_given_up(self) -> None:
        """So is the first."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
        opening.cancel()
        self.assertTrue(self.server.openings[0].cancelled)
        self.failureResultOf(opening)

    def test_first_handshake_failed(self) -> None:
        """What the server says to the first handshake is passed on as it is."""
        for problem in (InitializeRejected({"code": 1}), CRASHED):
            opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
            self.server.openings[-1].refuse(problem)
            self.assertIs(self.failureResultOf(opening).value, problem)

    def test_dead_before_it_is_open(self) -> None:
        """A child that dies right after its greeting ends the session."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
        self.server.openings[0].inbox.closed(CRASHED)
        inner = self.server.openings[0].accept()
        self.failureResultOf(opening, UpstreamFailure)
        self.assertEqual((self.listener.closings, inner.closed), ([CRASHED], 1))

    def test_stop(self) -> None:
        """A stopped upstream renews nothing; ending the server's sessions is the inner's work."""
        link, old = self.open()
        self.successResultOf(self.upstream.stop())
        self.assertIs(self.ask(link).reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertEqual((self.server.stopped, old.closed), (1, 0))

    def test_stop_of_renewed_sessions(self) -> None:
        """A later session of the server is ended first: no id of a client's leads back to it."""
        link, old = self.open()
        self.ask(link)
        old.forget()
        new = self.renewed()
        _, other = self.open()
        self.successResultOf(self.upstream.stop())
        self.assertEqual((new.closed, old.closed, other.closed), (1, 0, 0))
        self.assertEqual(self.server.closed_before_stop, 1)


class PostureTests(RenewalCase):
    """What the client had told the lost session is told the new one."""

    def told(self, link: Any, inner: LinkDouble, method: str, **params: Any) -> None:
        """A request that the server carries out."""
        self.ask(link, method, **params)
        inner.calls[-1].result()

    def lose(self, old: LinkDouble, link: Any) -> LinkDouble:
        """Lose the session; the new one, its restoring requests answered, the waiting one not."""
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        new = self.renewed()
        for call in new.calls:
            if call.outbound.method != "tools/call":
                call.result()
        return new

    def restored(self, new: LinkDouble) -> list[tuple[str, Any]]:
        """What it was told."""
        return [
            (call.outbound.method, next(iter((call.outbound.params or {}).values())))
            for call in new.calls
            if call.outbound.method != "tools/call"
        ]

    def test_level_and_subscriptions(self) -> None:
        """The last level, and what is subscribed to now."""
        link, old = self.open()
        self.told(link, old, "logging/setLevel", level="info")
        self.told(link, old, "logging/setLevel", level="debug")
        for uri in ("a:1", "a:2", "a:3"):
            self.told(link, old, "resources/subscribe", uri=uri)
        self.told(link, old, "resources/unsubscribe", uri="a:2")
        new = self.lose(old, link)
        self.assertEqual(
            self.restored(new),
            [
                ("logging/setLevel", "debug"),
                ("resources/subscribe", "a:1"),
                ("resources/subscribe", "a:3"),
            ],
        )

    def test_one_at_a_time(self) -> None:
        """The places at the server are for callers, who do not wait for it either."""
        link, old = self.open()
        for uri in ("a:1", "a:2"):
            self.told(link, old, "resources/subscribe", uri=uri)
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        new = self.renewed()
        self.assertEqual(new.methods, ["resources/subscribe", "tools/call"])
        self.told(link, new, "resources/unsubscribe", uri="a:2")
        new.calls[0].result()
        self.assertEqual(len(new.calls), 3)

    def test_refusals_and_slowness_do_not_stop_it(self) -> None:
        """One resource that is gone says nothing about the next."""
        for problem in ("error", "timeout"):
            link, old = self.open()
            for uri in ("a:1", "a:2"):
                self.told(link, old, "resources/subscribe", uri=uri)
            old.inbox.closed(FORGOTTEN)
            self.ask(link)
            new = self.renewed()
            if problem == "error":
                new.calls[0].error()
            else:
                new.calls[0].sink.failed(UpstreamFailure(Reason.UPSTREAM_TIMEOUT))
            self.assertEqual(new.calls[-1].outbound.params, {"uri": "a:2"})

    def test_callers_come_first(self) -> None:
        """Where they take all places it is told later, if that is still wanted then."""
        link, old = self.open()
        self.told(link, old, "logging/setLevel", level="info")
        for uri in ("a:1", "a:2"):
            self.told(link, old, "resources/subscribe", uri=uri)
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        new = self.renewed()
        busy = UpstreamFailure(Reason.UPSTREAM_BUSY, "max_concurrency", 2.0)
        new.calls[0].sink.failed(busy)
        self.clock.advance(1.9)
        self.assertEqual(new.methods, ["logging/setLevel", "tools/call"])
        self.told(link, new, "logging/setLevel", level="error")
        self.clock.advance(0.1)
        self.assertEqual(new.calls[-1].outbound.params, {"uri": "a:1"})
        new.calls[-1].sink.failed(busy)
        self.clock.advance(2.0)
        self.assertEqual(new.calls[-1].outbound.params, {"uri": "a:1"})
        new.calls[-1].result()
        self.assertEqual(new.calls[-1].outbound.params, {"uri": "a:2"})
        new.calls[-1].sink.failed(busy)
        self.successResultOf(link.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_new_loss_stops_it(self) -> None:
        """The next renewal begins again."""
        link, old = self.open()
        for uri in ("a:1", "a:2"):
            self.told(link, old, "resources/subscribe", uri=uri)
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        new = self.renewed()
        new.calls[0].sink.failed(FORGOTTEN)
        self.assertEqual(new.methods, ["resources/subscribe", "tools/call"])

    def test_answers_at_once(self) -> None:
        """A server below that answers in the same breath (a shared child) is no recursion."""
        link, old = self.open()
        for uri in ("a:1", "a:2", "a:3"):
            self.told(link, old, "resources/subscribe", uri=uri)
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        self.clock.advance(0)
        opening = self.server.openings[-1]
        inner = LinkDouble(opening.inbox, at_once=lambda call: call.result())
        opening.deferred.callback(Opening(inner, {"protocolVersion": VERSION}))
        self.assertEqual(len(inner.calls), 4)

    def test_refused_ones_are_not_kept(self) -> None:
        """What the server did not accept it is not asked again."""
        link, old = self.open()
        self.ask(link, "resources/subscribe", uri="a:1")
        old.calls[-1].error()
        self.assertEqual(self.restored(self.lose(old, link)), [])

    def test_bounds(self) -> None:
        """Not more than so many are kept, and none that is long."""
        link, old = self.open()
        self.told(link, old, "resources/subscribe", uri="x" * 101)
        self.told(link, old, "resources/subscribe", uri=5)
        self.told(link, old, "logging/setLevel", level="x" * 65)
        for number in range(5):
            self.told(link, old, "resources/subscribe", uri=f"a:{number}")
        self.assertEqual(
            [value for _, value in self.restored(self.lose(old, link))], ["a:0", "a:1", "a:2"]
        )

    def test_not_initialized(self) -> None:
        """A client that has not said ``initialized`` says it itself."""
        link, old = self.open(initialized=False)
        new = self.lose(old, link)
        self.assertEqual(new.notifications, [])
        link.notify("notifications/initialized", None)
        self.assertEqual(new.notifications, ["notifications/initialized"])

    def test_large_params(self) -> None:
        """A session with more params than can be kept lives as long as the server's own."""
        params = {**PARAMS, "_meta": {"x": "y" * 1000}}
        opening = self.upstream.open_session(ALICE, params, self.listener, "")
        inner = self.server.openings[0].accept()
        self.assertIs(self.successResultOf(opening).link, inner)


class QuestionTests(RenewalCase):
    """What a server asks the client, around a loss."""

    def question(self, inner: LinkDouble, id: Any) -> Any:
        """A request of the server; the id under which the client's side sees it."""
        inner.inbox.request({"jsonrpc": "2.0", "id": id, "method": "roots/list"}, None)
        return self.listener.requests[-1][0]["id"]

    def test_answers_find_their_question(self) -> None:
        """The server sees its own id again, with its type."""
        link, old = self.open()
        for id in (0, -3, "0", "", "1s"):
            link.respond({"jsonrpc": "2.0", "id": self.question(old, id), "result": {}})
            self.assertEqual(old.responses[-1]["id"], id)
            self.assertIs(type(old.responses[-1]["id"]), type(id))

    def test_an_answer_to_a_lost_session(self) -> None:
        """The new session may use the same ids: it is not given the old one's answers."""
        link, old = self.open()
        asked = self.question(old, 1)
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        link.respond({"jsonrpc": "2.0", "id": asked, "result": {}})
        new = self.renewed()
        again = self.question(new, 1)
        self.assertNotEqual(asked, again)
        link.respond({"jsonrpc": "2.0", "id": asked, "result": {}})
        link.respond({"jsonrpc": "2.0", "id": 1, "result": {}})
        self.assertEqual((old.responses, new.responses), ([], []))
        link.respond({"jsonrpc": "2.0", "id": again, "result": {}})
        self.assertEqual([one["id"] for one in new.responses], [1])

    def test_the_server_takes_it_back(self) -> None:
        """Its cancellation names the id the client's side knows."""
        _, old = self.open()
        asked = self.question(old, 5)
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        old.inbox.notification({**cancelled, "params": {"requestId": 5}})
        old.inbox.notification({**cancelled, "params": {"requestId": True}})
        ids = [note["params"]["requestId"] for note in self.listener.notes]
        self.assertEqual(ids, [asked, True])

    def test_related_calls(self) -> None:
        """A question on the stream of a request belongs to the request as the caller knows it."""
        link, old = self.open()
        call = link.request(Outbound(1, "tools/call", {}, VERSION, ALICE), SinkDouble())
        message = {"jsonrpc": "2.0", "id": 1, "method": "roots/list"}
        old.inbox.request(message, old.calls[0])
        old.inbox.request(message, CallDouble(old.calls[0].outbound, SinkDouble()))
        self.assertEqual([related for _, related in self.listener.requests], [call, None])

    def test_a_lost_session_is_not_heard(self) -> None:
        """What it still says belongs to nobody."""
        link, old = self.open()
        self.ask(link)
        old.calls[0].sink.failed(FORGOTTEN)
        old.inbox.notification(UPDATED)
        old.inbox.request({"jsonrpc": "2.0", "id": 1, "method": "ping"}, None)
        self.assertEqual((self.listener.notes, self.listener.requests), ([], []))

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.one_of(st.integers(), st.text(max_size=20)), max_size=6))
    def test_any_id(self, ids: list[int | str]) -> None:
        """Whatever ids two sessions use, an answer reaches the one that asked, as it asked."""
        self.setUp()
        link, old = self.open()
        first = [self.question(old, id) for id in ids]
        old.inbox.closed(FORGOTTEN)
        self.ask(link)
        new = self.renewed()
        second = [self.question(new, id) for id in ids]
        self.assertFalse(set(first) & set(second))
        for token in first + second:
            link.respond({"jsonrpc": "2.0", "id": token, "result": {}})
        self.assertEqual([one["id"] for one in new.responses], ids)
        self.assertEqual([type(one["id"]) for one in new.responses], [type(id) for id in ids])


class ResumeTests(RenewalCase):
    """Sessions of an earlier life."""

    def resume(self) -> Any:
        """Take one up again."""
        return self.upstream.resume_session(ALICE, PARAMS, VERSION, "s1", self.listener, "/deep")

    def test_attached(self) -> None:
        """It goes on with the server's session, and is renewed if that one is gone."""
        link = self.successResultOf(self.resume())
        ((version, session_id, inner),) = self.server.resumed
        self.assertEqual((version, session_id), (VERSION, "s1"))
        sink = self.ask(link)
        inner.forget()
        new = self.renewed()
        self.assertEqual(new.notifications, ["notifications/initialized"])
        new.calls[0].result()
        self.assertEqual(sink.result, {})

    def test_openings_say_so(self) -> None:
        """The server's own word on it is passed on."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
        self.server.openings[0].accept(session_id="s9", resumable=True)
        opened = self.successResultOf(opening)
        self.assertEqual((opened.session_id, opened.resumable), ("s9", True))

    def test_left(self) -> None:
        """It ends here, and the server's session goes on for who takes it up again."""
        link = self.successResultOf(self.resume())
        ((_, _, inner),) = self.server.resumed
        self.successResultOf(link.leave())
        self.assertEqual((inner.left, inner.closed), (1, 0))
        self.assertIs(self.ask(link).reason, Reason.SESSION_NOT_FOUND)
        self.successResultOf(link.leave())
        self.assertEqual((inner.left, inner.closed), (1, 0))

    def test_left_when_renewed(self) -> None:
        """A later session nobody could come back to is ended."""
        link = self.successResultOf(self.resume())
        ((_, _, inner),) = self.server.resumed
        self.ask(link)
        inner.forget()
        new = self.renewed()
        self.successResultOf(link.leave())
        self.assertEqual((new.left, new.closed, inner.left), (0, 1, 0))

    def test_refused(self) -> None:
        """Where there is nothing to come back to, there is none."""
        self.server.resumable = False
        failure = self.failureResultOf(self.resume(), UpstreamFailure).value
        self.assertIs(failure.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(self.server.openings, [])


class ReplayTests(RenewalCase):
    """``restart = "replay"``: children whose end is not the session's."""

    transport = "stdio"
    restart = "replay"

    def test_running_requests_fail(self) -> None:
        """What ran is an error and is not sent again; the next request has a new child."""
        link, old = self.open()
        sink = self.ask(link)
        old.calls[0].sink.failed(CRASHED)
        old.inbox.closed(CRASHED)
        self.clock.advance(3600)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.server.openings), 1)
        self.ask(link, name="next")
        new = self.renewed()
        self.assertEqual(new.notifications, ["notifications/initialized"])
        self.assertEqual([call.outbound.params for call in new.calls], [{"name": "next"}])

    def test_idle_children(self) -> None:
        """A child that was ended for idleness comes back with the next request."""
        link, old = self.open()
        old.inbox.closed(UpstreamFailure(Reason.SESSION_NOT_FOUND, "idle too long"))
        self.ask(link)
        self.assertEqual(self.renewed().methods, ["tools/call"])

    def test_resumable(self) -> None:
        """Such a session can be taken up again in another life: hands are shaken anew."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
        self.server.openings[0].accept()
        self.assertTrue(self.successResultOf(opening).resumable)
        resuming = self.upstream.resume_session(ALICE, PARAMS, VERSION, None, self.listener, "")
        self.assertNoResult(resuming)
        new = self.server.openings[1].accept()
        link = self.successResultOf(resuming)
        self.assertEqual(new.notifications, ["notifications/initialized"])
        self.ask(link)
        self.assertEqual(new.methods, ["tools/call"])

    def test_resumed_in_another_version(self) -> None:
        """A child that speaks another version now cannot go on with the session."""
        resuming = self.upstream.resume_session(ALICE, PARAMS, VERSION, None, self.listener, "")
        new = self.server.openings[0].accept("2025-06-18")
        failure = self.failureResultOf(resuming, UpstreamFailure).value
        self.assertIs(failure.reason, Reason.SESSION_NOT_FOUND)
        self.assertEqual(new.closed, 1)

    def test_resumed_in_vain(self) -> None:
        """A child that cannot be started is the failure it is."""
        resuming = self.upstream.resume_session(ALICE, PARAMS, VERSION, None, self.listener, "")
        self.server.openings[0].refuse(CRASHED)
        failure = self.failureResultOf(resuming, UpstreamFailure).value
        self.assertIs(failure.reason, Reason.UPSTREAM_FAILED)


class EndTests(RenewalCase):
    """``restart = "end"``: the session ends with its child."""

    transport = "stdio"

    def test_it_ends(self) -> None:
        """The session hears of it, nothing is started, nothing can be resumed."""
        opening = self.upstream.open_session(ALICE, PARAMS, self.listener, "")
        inner = self.server.openings[0].accept()
        opened = self.successResultOf(opening)
        self.assertFalse(opened.resumable)
        sink = self.ask(opened.link)
        inner.calls[0].sink.failed(CRASHED)
        inner.inbox.closed(CRASHED)
        self.clock.advance(0)
        self.assertIs(sink.reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.listener.closings, [CRASHED])
        self.assertEqual(len(self.server.openings), 1)

    def test_a_closed_link(self) -> None:
        """A child that is gone is no forgotten session."""
        link, old = self.open()
        old.at_once = lambda call: call.sink.failed(FORGOTTEN)
        self.assertIs(self.ask(link).reason, Reason.SESSION_NOT_FOUND)


class PassedOnTests(RenewalCase):
    """Everything else is the inner upstream's."""

    def test_the_rest(self) -> None:
        """Name, transport, standing, eras and stateless links pass through."""
        upstream = self.upstream
        upstream.start()
        self.assertEqual(self.server.started, 1)
        self.assertEqual((upstream.name, upstream.transport), ("files", "http"))
        self.assertTrue(upstream.standing.usable)
        self.assertTrue(self.successResultOf(upstream.eras()).legacy)
        self.assertIsInstance(self.successResultOf(upstream.stateless(ALICE, "")), LinkDouble)

    def test_plain_inboxes(self) -> None:
        """An inbox that cannot say whether somebody listens counts as one where nobody does."""

        class Plain:
            notification = request = closed = lambda *_: None

        opening = self.upstream.open_session(ALICE, PARAMS, Plain(), "")
        inner = self.server.openings[0].accept()
        self.successResultOf(opening)
        inner.inbox.closed(FORGOTTEN)
        self.clock.advance(60)
        self.assertEqual(len(self.server.openings), 1)
        self.assertIsInstance(self.listener, ListenerDouble)
