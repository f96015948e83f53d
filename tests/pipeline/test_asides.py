"""What a server says beside its answers: it may put anything on the stream of a request."""

import weakref
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.upstream.link import CallSink, Eras
from tests.pipeline.rig import MODERN, MemoryUpstream, Rig, api_key
from tests.pipeline.test_sessions import SessionCase

LISTS = [f"notifications/{what}/list_changed" for what in ("tools", "prompts", "resources")]
ASK: dict[str, Any] = {"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {}}


class Text(str):
    """A text whose end can be observed."""


def note(method: str, **params: Any) -> dict[str, Any]:
    """A notification of a server."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


class SessionAsideTests(SessionCase):
    """Notifications that a handshake-era server sends on a POST's stream."""

    @property
    def sink(self) -> CallSink:
        """The sink of the request that runs."""
        return self.link.requests[-1][1]

    def strays(self) -> list[str]:
        """The kinds of messages that were dropped."""
        return [
            labels["kind"]
            for name, labels in self.rig.meter.counts
            if name == "mcp_guard_upstream_stray_messages_total"
        ]

    def test_changes_go_to_the_get_stream(self) -> None:
        """A changed list belongs to no request, on whatever stream the server told of it."""
        outlet, stream = self.call("tools/call", {"name": "x"}), self.get()
        for method in LISTS:
            self.sink.notification(note(method))
        self.assertEqual([event["method"] for event in stream.events], LISTS)
        self.assertIsNone(outlet.status)

    def test_updates_only_of_what_may_be_read(self) -> None:
        """A resource that the caller may not read is not heard of by this way either."""
        rig = Rig(keys=(api_key("alice", allowed_resources=("demo://a",)),))
        headers = {"Mcp-Session-Id": rig.handshake()}
        stream = rig.send(b"", method="GET", headers=headers, accept="text/event-stream")
        rig.call("tools/call", {"name": "x"}, headers=headers)
        sink = rig.upstream.links[0].requests[0][1]
        for uri in ("demo://a", "demo://b"):
            sink.notification(note("notifications/resources/updated", uri=uri))
        self.assertEqual([event["params"]["uri"] for event in stream.events], ["demo://a"])

    def test_a_question_taken_back(self) -> None:
        """The client knows the question by the gateway's id, so that is what is cancelled."""
        outlet = self.call("tools/call", {"name": "x"})
        self.inbox.request(ASK, self.link.requests[0][2])
        self.sink.notification(note("notifications/cancelled", requestId=5))
        cancelled = outlet.events[-1]
        self.assertEqual(cancelled["method"], "notifications/cancelled")
        self.assertEqual(cancelled["params"]["requestId"], outlet.events[0]["id"])
        self.sink.notification(note("notifications/cancelled", requestId=5))
        self.assertEqual(len(outlet.events), 2)

    def test_a_question_taken_back_before_it_was_asked(self) -> None:
        """What still waits for a stream is not sent any more."""
        self.inbox.request(ASK, None)
        self.inbox.notification(note("notifications/cancelled", requestId=5))
        self.assertEqual(self.get().events, [])

    def test_unknown_notifications(self) -> None:
        """What the protocol does not know is dropped and counted."""
        outlet = self.call("tools/call", {"name": "x"})
        self.sink.notification(note("notifications/evil", text="secret"))
        self.assertIsNone(outlet.status)
        self.assertEqual(self.strays(), ["notification"])

    def test_odd_params(self) -> None:
        """A message with params of the wrong type is dropped, and harms nothing."""
        self.get()
        for method in ("notifications/cancelled", "notifications/resources/updated", *LISTS):
            for params in ([1], "x", 5, None):
                self.inbox.notification({"jsonrpc": "2.0", "method": method, "params": params})
        self.assertEqual(len(self.strays()), 20)

    def test_ping(self) -> None:
        """The gateway answers pings itself, whether or not the client is connected."""
        self.inbox.request({"jsonrpc": "2.0", "id": "p", "method": "ping"}, None)
        self.assertEqual(self.link.responses, [{"jsonrpc": "2.0", "id": "p", "result": {}}])

    def test_a_question_too_large_to_wait(self) -> None:
        """A question that can wait nowhere is refused at once, not after its time."""
        big = {**ASK, "params": {"text": "x" * (self.inbox.bounds.queued_bytes + 1)}}
        self.inbox.request(big, None)
        self.assertEqual([one["error"]["code"] for one in self.link.responses], [-32603])
        self.rig.clock.advance(1000)
        self.rig.pipeline.table.sweep()
        self.assertEqual(len(self.link.responses), 1)

    def test_unanswered_questions_are_not_kept(self) -> None:
        """Of a question that was sent only its id is remembered, however large it was."""
        self.get()
        text = Text("x")
        kept = weakref.ref(text)
        self.inbox.request({**ASK, "params": {"text": text}}, None)
        del text
        self.assertIsNone(kept())
        self.rig.clock.advance(301)
        self.rig.pipeline.table.sweep()
        self.assertEqual([one["id"] for one in self.link.responses], [5])


class BareAsideTests(SynchronousTestCase):
    """Notifications and requests during a bare request."""

    def test_only_what_is_of_the_request(self) -> None:
        """Progress passes to a caller that takes a stream; a changed list does not."""
        rig = Rig()
        outlet = rig.call("tools/call", {"name": "x"})
        sink = rig.upstream.links[0].requests[0][1]
        sink.notification(note(LISTS[0]))
        sink.notification(note("notifications/resources/updated", uri="demo://b"))
        self.assertIsNone(outlet.status)
        progress = note("notifications/progress", progressToken=1, progress=1)
        sink.notification(progress)
        self.assertEqual(outlet.events, [progress])

    def test_ping(self) -> None:
        """Pings of the pooled session's server are answered."""
        rig = Rig()
        rig.call("tools/call", {"name": "x"})
        rig.upstream.inboxes[0].request({"jsonrpc": "2.0", "id": 1, "method": "ping"}, None)
        self.assertEqual(rig.upstream.links[0].responses[0]["result"], {})


class StatelessAsideTests(SynchronousTestCase):
    """Notifications of a stateless server."""

    def setUp(self) -> None:
        """A caller who may read one resource."""
        self.upstream = MemoryUpstream(known_eras=Eras(legacy=False, modern=(MODERN,)))
        self.rig = Rig(
            keys=(api_key("alice", allowed_resources=("demo://a",)),), upstream=self.upstream
        )

    def test_subscription(self) -> None:
        """A listener hears of changes and of what it may read, whatever else the server sends."""
        outlet = self.rig.modern("subscriptions/listen", {"notifications": {}})
        sink = self.upstream.links[0].requests[0][1]
        sink.notification(note("notifications/subscriptions/acknowledged", notifications={}))
        for uri in ("demo://a", "demo://b", 5):
            sink.notification(note("notifications/resources/updated", uri=uri))
        for method in (LISTS[0], "notifications/message", "notifications/progress", "evil"):
            sink.notification(note(method))
        self.assertEqual(
            [(one["method"], one["params"].get("uri")) for one in outlet.events],
            [
                ("notifications/subscriptions/acknowledged", None),
                ("notifications/resources/updated", "demo://a"),
                (LISTS[0], None),
            ],
        )

    def test_request(self) -> None:
        """A request's stream carries its progress and log lines only."""
        outlet = self.rig.modern("prompts/get", {"name": "p"})
        sink = self.upstream.links[0].requests[0][1]
        for method in (*LISTS, "notifications/resources/updated", "notifications/cancelled"):
            sink.notification(note(method, uri="demo://b"))
        self.assertIsNone(outlet.status)
        sink.notification(note("notifications/message", level="info"))
        self.assertEqual(len(outlet.events), 1)
