"""Sessions taken up again from what their ids say."""

import json
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.gateway.corridor import SESSION_IDS, SESSIONS
from mcpguard.pipeline.sessions import Session
from mcpguard.upstream.link import Eras, Link, UpstreamFailure
from tests.pipeline.rig import MODERN, MemoryOutlet, MemoryUpstream, Rig, api_key
from tests.pipeline.sse_rig import SseClient

KEY = b"k" * 32
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


class SlowUpstream(MemoryUpstream):
    """A server whose sessions are taken up when the test says so."""

    def __init__(self) -> None:
        super().__init__(resumable=True)
        self.waiting: list[Deferred[None]] = []

    def resume_session(self, *args: Any) -> Deferred[Link]:
        """Wait, then do it."""
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        return waiting.addCallback(lambda _: super(SlowUpstream, self).resume_session(*args))


class RevivalCase(SynchronousTestCase):
    """Two lives of one gateway, with a session of alice's from the first."""

    def setUp(self) -> None:
        """Shake hands in the first life, begin the second later."""
        self.first = self.life()
        self.session = self.first.handshake(capabilities={"sampling": {}})
        self.second = self.life()

    def life(self, upstream: MemoryUpstream | None = None, **more: Any) -> Rig:
        """A gateway that has just started."""
        upstream = upstream or MemoryUpstream(resumable=True, session_id="s1")
        rig = Rig(upstream=upstream, **{"session_key": KEY, **more})
        rig.clock.advance(1_790_000_000)
        return rig

    def call(self, rig: Rig | None = None, **more: Any) -> MemoryOutlet:
        """A call in the session."""
        given = {"headers": {"Mcp-Session-Id": self.session}, **more}
        return (rig or self.second).call("tools/call", {"name": "x"}, **given)

    def get(self, last: str | None = None, **more: Any) -> MemoryOutlet:
        """A GET in the session, in the second life."""
        headers = {"Mcp-Session-Id": self.session}
        if last is not None:
            headers["Last-Event-ID"] = last
        return self.second.send(
            b"", method="GET", headers=headers, accept="text/event-stream", **more
        )

    def delete(self, rig: Rig, **more: Any) -> MemoryOutlet:
        """The end of the session."""
        return rig.send(b"", method="DELETE", headers={"Mcp-Session-Id": self.session}, **more)

    def started(self, rig: Rig) -> list[Any]:
        """The details of the sessions that were begun."""
        events = [one for one in rig.trail.events if one.event_type == "SessionStarted"]
        return [one.details for one in events]


class RevivalTests(RevivalCase):
    """An id that this process does not know."""

    def test_goes_on(self) -> None:
        """The server's session is attached with what the id says, and the call goes there."""
        outlet = self.call()
        ((key, params, version, session_id, path),) = self.second.upstream.resumed_with
        self.assertEqual(
            (key, version, session_id, path), ("api_key:alice", "2025-11-25", "s1", "")
        )
        self.assertEqual(params["capabilities"], {"sampling": {}})
        self.assertEqual(params["clientInfo"], {"name": "test", "version": "1"})
        self.second.upstream.links[0].answer(0, result={"content": []})
        self.assertEqual(outlet.json["result"], {"content": []})
        self.assertEqual(self.second.upstream.initialized_with, [])

    def test_known_from_then_on(self) -> None:
        """The second request finds it in the table."""
        self.call()
        self.call()
        self.assertEqual(len(self.second.upstream.resumed_with), 1)
        self.assertEqual(len(self.second.upstream.links[0].requests), 2)
        self.assertEqual(len(self.second.pipeline.table), 1)

    def test_the_audit_says_so(self) -> None:
        """A session's beginning is written down in both lives, the second time as what it is."""
        self.call()
        self.assertEqual(self.started(self.first), [{}])
        self.assertEqual(self.started(self.second), [{"resumed": True}])
        digests = {
            one.session_id
            for rig in (self.first, self.second)
            for one in rig.trail.events
            if one.event_type == "SessionStarted"
        }
        self.assertEqual(len(digests), 1)

    def test_server_requests_reach_it(self) -> None:
        """What the client declared at the handshake still counts."""
        outlet = self.call()
        inbox = self.second.upstream.inboxes[0]
        for method in ("sampling/createMessage", "roots/list"):
            inbox.request({"jsonrpc": "2.0", "id": 1, "method": method}, None)
        self.assertEqual([one["method"] for one in outlet.events], ["sampling/createMessage"])
        (refused,) = self.second.upstream.links[0].responses
        self.assertEqual(refused["error"]["code"], -32601)

    def test_notifications_and_responses(self) -> None:
        """Any message revives it."""
        outlet = self.second.send(
            {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
            headers={"Mcp-Session-Id": self.session},
        )
        self.assertEqual(outlet.status, 202)
        (link,) = self.second.upstream.links
        self.assertEqual(link.notifications, [("notifications/roots/list_changed", None)])

    def test_delete(self) -> None:
        """A client may end a session it has not used in this life."""
        self.assertEqual(self.delete(self.second).status, 200)
        self.assertEqual(self.second.upstream.links[0].closed, 1)
        self.assertEqual(self.call().status, 404)

    def test_only_what_lives_on(self) -> None:
        """A session that ends with the gateway is unknown to the next."""
        rig = self.life(MemoryUpstream())
        self.session = rig.handshake()
        self.assertEqual(self.call(rig).status, None)
        self.assertEqual(self.call().status, 404)
        self.assertEqual(self.second.upstream.resumed_with, [])

    def test_without_a_common_key(self) -> None:
        """Each start makes a key of its own, so an earlier session is unknown."""
        rig = self.life(session_key=None)
        self.assertEqual(self.call(rig).status, 404)

    def test_too_old(self) -> None:
        """After a week a client shakes hands again."""
        self.second.clock.advance(SESSION_IDS.max_age_secs + 1)
        self.assertEqual(self.call().status, 404)

    def test_the_server_is_down(self) -> None:
        """The failure is told as it is; the session is there when the server is."""
        self.second.upstream.failure = UpstreamFailure(Reason.UPSTREAM_UNAVAILABLE, "refused")
        self.assertEqual(self.call().status, 503)
        self.second.upstream.failure = None
        self.assertIsNone(self.call().status)

    def test_the_server_cannot(self) -> None:
        """A server that has nothing to come back to makes it a session that never was."""
        self.second.upstream.resumable = False
        self.assertEqual(self.call().status, 404)
        self.assertEqual(len(self.second.pipeline.table), 0)

    def test_nothing_before_it_is_allowed(self) -> None:
        """A request that is none, or may not be, wakes no server."""
        headers = {"Mcp-Session-Id": self.session}
        self.assertEqual(self.second.send(b"{", headers=headers).status, 400)
        self.assertEqual(self.call(accept="application/json").status, 406)
        narrowed = self.life(keys=(api_key("alice", allowed_servers=("other",)),))
        self.assertEqual(self.call(narrowed).status, 403)
        for rig in (self.second, narrowed):
            self.assertEqual(rig.upstream.resumed_with, [])

    def test_rights_are_those_of_now(self) -> None:
        """What the credentials may do is read with each request, not from the id."""
        narrowed = self.life(keys=(api_key("alice", allowed_tools=("y",)),))
        self.assertEqual(self.call(narrowed).status, 403)
        self.assertEqual(narrowed.upstream.asked, [])

    def test_idle_expiry(self) -> None:
        """A revived session expires like any other, and stays expired."""
        self.call()
        self.second.upstream.links[0].answer(0, result={})
        self.second.clock.advance(SESSIONS.idle_secs + 1)
        self.second.pipeline.table.sweep()
        self.assertEqual(self.second.upstream.links[0].closed, 1)
        self.assertEqual(self.call().status, 404)


class ServedTests(RevivalCase):
    """Sessions behind everything that stands before a server: translation and renewal."""

    def lives(self, eras: Eras) -> tuple[Rig, Rig]:
        """Two lives before servers that are shown in both eras."""
        first, second = (
            self.life(MemoryUpstream(known_eras=eras, transport="http"), bridge="translate")
            for _ in range(2)
        )
        return first, second

    def test_translated(self) -> None:
        """A stateless server never knew of the session, so it goes on anywhere."""
        discovered = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
        eras = Eras(legacy=False, modern=(MODERN,), discovered=discovered)
        first, second = self.lives(eras)
        self.session = first.handshake()
        results: dict[str, Any] = {
            "tools/list": {"tools": []},
            "tools/call": {"content": []},
        }
        second.upstream.reply = lambda outbound: {
            "result": {"resultType": "complete", **results[outbound.method]}
        }
        outlet = self.call(second)
        self.assertEqual(outlet.json["result"], {"content": []})
        self.assertEqual({one.version for one in second.upstream.asked}, {MODERN})
        self.assertEqual(second.upstream.resumed_with, [])

    def test_forgotten_by_the_server(self) -> None:
        """A revived session that the server has forgotten as well is begun anew there."""
        first, second = self.lives(Eras(legacy=True))
        first.upstream.resumable = second.upstream.resumable = True
        self.session = first.handshake(capabilities={"roots": {}})
        outlet = self.call(second)
        forgotten = UpstreamFailure(Reason.SESSION_NOT_FOUND, "HTTP 404")
        second.upstream.links[0].requests[0][1].failed(forgotten)
        second.upstream.inboxes[0].closed(forgotten)
        second.clock.advance(0)
        (params,) = second.upstream.initialized_with
        self.assertEqual(params["capabilities"], {"roots": {}})
        link = second.upstream.links[1]
        self.assertEqual(link.notifications, [("notifications/initialized", None)])
        link.answer(0, result={"content": []})
        self.assertEqual((outlet.status, outlet.json["result"]), (200, {"content": []}))
        self.assertEqual(len(second.pipeline.table), 1)


class OwnershipTests(RevivalCase):
    """Whose session it is, in both lives."""

    def shown(self, outlet: MemoryOutlet) -> tuple[Any, ...]:
        """An answer without what is random in it."""
        body = json.loads(outlet.body)
        body["error"].get("data", {}).pop("error_id", None)
        headers = {k: v for k, v in outlet.headers.items() if not k.startswith("x-ratelimit")}
        return outlet.status, body, headers

    def test_all_look_the_same(self) -> None:
        """Foreign, tampered, of another route, ended or never issued: one and the same 404."""
        rig = self.life(others={"/mcp/b": MemoryUpstream(name="b", resumable=True)})
        last = "A" if self.session[-1] != "A" else "B"
        unknown = self.shown(self.call(rig, headers={"Mcp-Session-Id": "never-issued"}))
        self.assertEqual(unknown[0], 404)
        self.assertEqual(self.shown(self.call(rig, who="bob")), unknown)
        self.assertEqual(self.shown(self.call(rig, path="/mcp/b")), unknown)
        tampered = {"Mcp-Session-Id": self.session[:-2] + last + self.session[-1]}
        self.assertEqual(self.shown(self.call(rig, headers=tampered)), unknown)
        self.assertEqual(self.shown(self.call(rig, headers={"Mcp-Session-Id": "A" * 900})), unknown)
        self.assertEqual(rig.upstream.resumed_with, [])
        self.delete(rig)
        self.assertEqual(self.shown(self.call(rig)), unknown)

    def test_alive_and_foreign(self) -> None:
        """A session that is here is no more another's than one that is not."""
        self.call()
        self.assertEqual(self.call(who="bob").status, 404)
        self.assertEqual(self.delete(self.second, who="bob").status, 404)
        self.assertEqual(self.get(who="bob").status, 404)
        self.assertEqual(len(self.second.pipeline.table), 1)

    def test_streams_are_the_owners(self) -> None:
        """Another with the right id of session and event gets nothing of it, in either life."""
        headers = {"Mcp-Session-Id": self.session}
        stream = self.first.send(b"", method="GET", headers=headers, accept="text/event-stream")
        inbox = self.first.upstream.inboxes[0]
        inbox.notification(CHANGED)
        headers["Last-Event-ID"] = stream.event_ids[-1]
        stream.leave()
        inbox.notification(CHANGED)
        for rig in (self.first, self.second):
            theirs = rig.send(
                b"", method="GET", headers=headers, accept="text/event-stream", who="bob"
            )
            self.assertEqual(theirs.status, 404)
            self.assertNotIn(b"list_changed", theirs.body)
        mine = self.first.send(b"", method="GET", headers=headers, accept="text/event-stream")
        self.assertEqual([event["method"] for event in mine.events], [CHANGED["method"]])

    def test_ended_ones_stay_ended(self) -> None:
        """A DELETEd session is not revived by the process that knows, whatever the server keeps."""
        self.assertEqual(self.delete(self.first).status, 200)
        self.assertEqual(self.call(self.first).status, 404)
        self.assertEqual(self.first.upstream.resumed_with, [])

    def test_lost_ones_stay_lost(self) -> None:
        """So it is with a session whose server's side has ended."""
        self.first.upstream.inboxes[0].closed(UpstreamFailure(Reason.UPSTREAM_FAILED, "exited"))
        self.assertEqual(self.call(self.first).status, 404)

    def test_memory_of_the_ended_is_bounded(self) -> None:
        """Only so many are remembered, the latest."""
        rig = self.life(sessions=evolve(SESSIONS, remembered=3))
        sessions = [rig.handshake() for _ in range(5)]
        for self.session in sessions:
            self.delete(rig)
        statuses = []
        for self.session in sessions:
            statuses.append(self.call(rig).status)
        self.assertEqual(statuses, [None, None, 404, 404, 404])

    def test_memory_of_the_ended_is_for_each(self) -> None:
        """Nobody makes the gateway forget how another's session ended, nor do short-lived ones."""
        rig = self.life(sessions=evolve(SESSIONS, remembered=3, remembered_per_principal=2))
        self.session = rig.handshake()
        self.delete(rig)
        for _ in range(5):
            SseClient(rig).initialize().outlet.leave()
            ended = rig.handshake(who="bob")
            rig.send(b"", method="DELETE", headers={"Mcp-Session-Id": ended}, who="bob")
        self.assertEqual(self.call(rig).status, 404)
        self.assertEqual(self.call(rig, who="bob", headers={"Mcp-Session-Id": ended}).status, 404)

    def test_sessions_that_cannot_return(self) -> None:
        """They need not be remembered."""
        rig = self.life(MemoryUpstream(), sessions=evolve(SESSIONS, remembered=0))
        self.session = rig.handshake()
        self.delete(rig)
        self.assertFalse(rig.pipeline.table.has_ended(self.session))
        self.assertEqual(self.call(rig).status, 404)


class StreamTests(RevivalCase):
    """Event streams of a revived session."""

    def test_get(self) -> None:
        """A GET revives it and hears what the server says from then on."""
        stream = self.get()
        self.assertEqual(stream.headers["mcp-session-id"], self.session)
        self.second.upstream.inboxes[0].notification(CHANGED)
        self.assertEqual([event["method"] for event in stream.events], [CHANGED["method"]])

    def test_get_after_an_event_of_the_earlier_life(self) -> None:
        """SDK clients name their last event for ever: they get the stream of this life, whole."""
        stream = self.get("0-7")
        self.second.upstream.inboxes[0].notification(CHANGED)
        self.assertEqual(len(stream.events), 1)
        again = self.get("0-7")
        self.assertTrue(stream.finished)
        self.assertEqual(len(again.events), 1)
        last = again.event_ids[-1]
        again.leave()
        self.second.upstream.inboxes[0].notification(CHANGED)
        self.assertEqual(len(self.get(last).events), 1)

    def test_post_streams_are_gone(self) -> None:
        """The answer that a stream of the earlier life waited for is lost, and no other is sent."""
        for _ in range(3):
            outlet = self.call()
            self.second.clock.advance(16)
            self.assertTrue(outlet.streamed)
        self.assertEqual(self.get("1-0").status, 404)
        self.assertEqual(self.get("2-99").status, 404)
        own = outlet.event_ids[-1]
        outlet.leave()
        self.assertEqual(self.get(own).status, 200)

    def test_three_lives(self) -> None:
        """Event ids of the second life mean nothing in the third."""
        self.get()
        outlet = self.call()
        self.second.clock.advance(16)
        last = outlet.event_ids[-1]
        third = self.life()
        third.clock.advance(1000)
        answer = third.send(
            b"",
            method="GET",
            headers={"Mcp-Session-Id": self.session, "Last-Event-ID": last},
            accept="text/event-stream",
        )
        self.assertEqual(answer.status, 404)


class StopTests(RevivalCase):
    """Sessions when the gateway stops."""

    def stop(self, *, keep: bool) -> tuple[MemoryOutlet, MemoryOutlet]:
        """Stop the first life; a call that runs and a stream that is read."""
        headers = {"Mcp-Session-Id": self.session}
        stream = self.first.send(b"", method="GET", headers=headers, accept="text/event-stream")
        running = self.call(self.first)
        self.successResultOf(self.first.pipeline.end_sessions(keep=keep))
        self.assertEqual(len(self.first.pipeline.table), 0)
        self.assertTrue(stream.finished)
        return running, stream

    def test_kept(self) -> None:
        """With a key they stay at their servers, for the next life; what runs is told why."""
        running, _ = self.stop(keep=True)
        self.assertEqual(self.first.upstream.links[0].closed, 0)
        self.assertEqual(self.first.upstream.links[0].requests[0][2].cancelled, "session ended")
        self.assertEqual(running.status, 503)
        self.assertIsNone(self.call().status)

    def test_ended(self) -> None:
        """Without one nobody could come back to them, so their servers are told."""
        self.stop(keep=False)
        self.assertEqual(self.first.upstream.links[0].closed, 1)

    def test_what_cannot_return_is_ended(self) -> None:
        """So are those that would be too old, or end with the gateway anyway."""
        self.first.clock.advance(SESSION_IDS.max_age_secs + 1)
        self.stop(keep=True)
        self.assertEqual(self.first.upstream.links[0].closed, 1)
        self.first = self.life(MemoryUpstream())
        self.session = self.first.handshake()
        self.stop(keep=True)
        self.assertEqual(self.first.upstream.links[0].closed, 1)


class SingleFlightTests(RevivalCase):
    """Many requests with one unknown id at the same time."""

    def setUp(self) -> None:
        """The second life's server takes its time."""
        super().setUp()
        self.server = SlowUpstream()
        self.second = self.life(self.server)

    def test_revived_once(self) -> None:
        """All of them go on in the one session."""
        outlets = [self.call(), self.get(), self.call()]
        self.assertEqual(len(self.server.waiting), 1)
        self.server.waiting[0].callback(None)
        self.assertEqual(len(self.second.pipeline.table), 1)
        self.assertEqual(len(self.server.links), 1)
        self.assertEqual(len(self.server.links[0].requests), 2)
        self.assertTrue(outlets[1].streamed)

    def test_failed_once(self) -> None:
        """One failure is everybody's; the next request tries again."""
        outlets = [self.call(), self.call()]
        self.server.waiting[0].errback(UpstreamFailure(Reason.UPSTREAM_TIMEOUT, "slow"))
        self.assertEqual([outlet.status for outlet in outlets], [504, 504])
        self.call()
        self.assertEqual(len(self.server.waiting), 2)

    def test_another_principal_does_not_wait(self) -> None:
        """What is under way for one is unknown to another."""
        self.call()
        self.assertEqual(self.call(who="bob").status, 404)

    def test_ended_while_waiting(self) -> None:
        """Who waited behind a DELETE finds a session that has ended."""
        deleted, outlet = self.delete(self.second), self.call()
        self.server.waiting[0].callback(None)
        self.assertEqual((deleted.status, outlet.status), (200, 404))

    def test_ended_while_attaching(self) -> None:
        """A link that dies before it is attached is closed, and the session unknown."""
        outlet = self.call()
        attach = self.server.waiting[0]

        def die(link: Any) -> Any:
            inbox = self.server.inboxes[-1]
            assert isinstance(inbox, Session)
            inbox.closed(UpstreamFailure(Reason.UPSTREAM_FAILED, "gone"))
            return link

        attach.addCallback(die)
        attach.callback(None)
        self.assertEqual(outlet.status, 404)
        self.assertEqual(self.server.links[0].closed, 1)


class CapTests(RevivalCase):
    """Caps of sessions, revived ones included."""

    bounds = evolve(SESSIONS, per_principal=2, total=3)

    def setUp(self) -> None:
        """A second life with little room."""
        super().setUp()
        self.second = self.life(sessions=self.bounds)

    def refused(self, outlet: MemoryOutlet) -> None:
        """It is 503 with a time to come back."""
        self.assertEqual(outlet.status, 503)
        self.assertIn("retry-after", outlet.headers)
        self.assertEqual(outlet.json["error"]["data"]["retry_after"], 30)

    def initialize(self, who: str) -> MemoryOutlet:
        """A handshake that may be refused."""
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        return self.second.call("initialize", params, who=who)

    def test_per_principal(self) -> None:
        """One identity's cap holds for new and revived sessions; others are not touched."""
        self.second.handshake()
        self.second.handshake()
        self.refused(self.initialize("alice"))
        self.refused(self.call())
        self.assertEqual(self.second.upstream.resumed_with, [])
        self.assertEqual(self.initialize("bob").status, 200)

    def test_in_all(self) -> None:
        """So does the cap of all."""
        for who in ("alice", "bob", "bob"):
            self.second.handshake(who)
        self.refused(self.initialize("alice"))
        self.refused(self.call())

    def test_room_is_made(self) -> None:
        """A session idle for a minute gives its place to one that is used again."""
        self.second.handshake()
        self.second.handshake()
        self.second.clock.advance(61)
        self.assertIsNone(self.call().status)
        self.assertEqual(self.second.upstream.links[0].closed, 1)
        self.assertEqual(len(self.second.pipeline.table), 2)

    def test_others_come_first(self) -> None:
        """The cap holds however many were let in while the server was slow."""
        server = SlowUpstream()
        self.second = self.life(server, sessions=self.bounds)
        outlet = self.call()
        self.second.handshake()
        self.second.handshake()
        server.waiting[0].callback(None)
        self.refused(outlet)
        self.assertEqual([link.closed for link in server.links], [0, 0, 1])
