"""Tests of `mcpguard.pipeline.bridge.session_listen`: what a session hears of a server."""

from collections.abc import Callable
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcpguard.errors import Reason
from mcpguard.protocol.mcp import META_PREFIX, META_SUBSCRIPTION_ID
from mcpguard.upstream.link import UpstreamFailure
from tests.pipeline.bridge.handshake_rig import ClientSink, Exchange, HandshakeCase

LOST = UpstreamFailure(Reason.UPSTREAM_FAILED, "gone")
LISTS = {"toolsListChanged": True, "resourcesListChanged": True}
NO_METHOD = {"code": -32601, "message": "Method not found"}


class ListenCase(HandshakeCase):
    """A session with help to subscribe."""

    def ready(self) -> None:
        """The client is ready and its first stream open."""
        self.link.notify("notifications/initialized", None)
        self.server.last.acknowledge()

    def subscribe(self, uri: str) -> ClientSink:
        """Ask for a subscription."""
        return self.call("resources/subscribe", uri=uri)[0]

    def subscribed(self, *uris: str) -> None:
        """Subscribe, and let the server agree."""
        for uri in uris:
            sink = self.subscribe(uri)
            self.server.last.acknowledge()
            self.assertEqual(sink.result, {})

    def unsubscribe(self, uri: str) -> ClientSink:
        """End a subscription."""
        return self.call("resources/unsubscribe", uri=uri)[0]

    def asked_for(self, exchange: Exchange) -> "set[str]":
        """The URIs a stream was asked to report."""
        return set(exchange.listens_to.get("resourceSubscriptions", []))


class StreamTests(ListenCase):
    """The stream of a session that subscribes to nothing."""

    def test_begins_with_the_session(self) -> None:
        """Once the client is ready the server is asked for what it said that it tells."""
        self.assertEqual(self.server.listens, [])
        self.link.notify("notifications/initialized", None)
        (listen,) = self.server.listens
        self.assertEqual(listen.listens_to, LISTS)
        self.assertTrue(listen.outbound.endless)
        self.assertIn(META_PREFIX + "protocolVersion", listen.params["_meta"])
        self.link.notify("notifications/initialized", None)
        listen.acknowledge()
        self.link.notify("notifications/initialized", None)
        self.assertEqual(len(self.server.listens), 1)

    def test_other_notifications(self) -> None:
        """A stateless server takes no other notification."""
        for method in ("notifications/roots/list_changed", "notifications/progress"):
            self.link.notify(method, {})
        self.assertEqual(self.server.exchanges, [])

    def test_changes(self) -> None:
        """Changes are told without what names the stream; everything else is dropped."""
        self.ready()
        listen = self.server.last
        mark = {META_SUBSCRIPTION_ID: "listen"}
        for name in ("tools/list_changed", "resources/list_changed"):
            listen.note(name, _meta=mark)
        for name in ("prompts/list_changed", "message", "progress", "evil", "cancelled"):
            listen.note(name, _meta=mark)
        self.assertEqual(self.inbox.changes, ["tools/list_changed", "resources/list_changed"])
        self.assertEqual([one["params"] for one in self.inbox.heard], [{}, {}])
        self.assertEqual(self.strays(), ["subscription"] * 5)

    def test_changes_before_the_acknowledgement(self) -> None:
        """The acknowledgement must come first."""
        self.link.notify("notifications/initialized", None)
        self.server.last.note("tools/list_changed")
        self.assertEqual(self.inbox.heard, [])

    def test_message_without_params(self) -> None:
        """A notification without params is as good as one with empty ones."""
        self.ready()
        bare = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        self.server.last.sink.notification(bare)
        self.assertEqual(self.inbox.changes, ["tools/list_changed"])

    def test_second_acknowledgement(self) -> None:
        """It says nothing new."""
        self.ready()
        self.server.last.acknowledge()
        self.assertEqual((self.inbox.heard, len(self.server.open)), ([], 1))

    def test_lost(self) -> None:
        """A lost stream is opened again, later each time, for as long as the session lives."""
        self.ready()
        self.clock.advance(15)
        delays = []
        for _ in range(7):
            self.server.last.sink.failed(LOST)
            before, count = self.clock.seconds(), len(self.server.listens)
            while len(self.server.listens) == count:
                self.clock.advance(0.25)
            delays.append(self.clock.seconds() - before)
            self.server.last.acknowledge()
        self.assertEqual(delays, [2, 4, 8, 16, 16, 16, 16])
        self.server.last.note("tools/list_changed")
        self.assertEqual(self.inbox.changes, ["tools/list_changed"])

    def test_lost_after_a_long_life(self) -> None:
        """A stream that lived long makes the next wait short again."""
        self.ready()
        for _ in range(3):
            self.server.last.sink.failed(LOST)
            self.clock.advance(16)
            self.server.last.acknowledge()
        self.clock.advance(16)
        self.server.last.sink.failed(LOST)
        count = len(self.server.listens)
        self.clock.advance(2)
        self.assertEqual(len(self.server.listens), count + 1)

    def test_jitter(self) -> None:
        """Sessions that lost their streams together do not come back together."""
        self.ready()
        self.jitter = 0.0
        self.server.last.sink.failed(LOST)
        self.clock.advance(0.9)
        self.assertEqual(len(self.server.listens), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.server.listens), 2)

    def test_ended_in_order(self) -> None:
        """A server that ends the stream is asked again as well."""
        self.ready()
        self.server.last.complete()
        self.clock.advance(2)
        self.assertEqual(len(self.server.listens), 2)

    def test_not_acknowledged(self) -> None:
        """A stream that the server does not acknowledge in time is given up and tried again."""
        self.link.notify("notifications/initialized", None)
        self.clock.advance(10)
        self.assertEqual(self.server.listens[0].call.cancelled, "not acknowledged in time")
        self.server.listens[0].acknowledge()
        self.clock.advance(2)
        self.assertEqual(len(self.server.open), 1)
        self.server.last.acknowledge()
        self.clock.advance(100)
        self.assertEqual(len(self.server.listens), 2)

    def test_server_cannot_be_asked(self) -> None:
        """The same when there is no way to the server for a while."""
        self.server.failure = LOST
        self.link.notify("notifications/initialized", None)
        self.clock.advance(1)
        self.server.failure = None
        self.assertEqual(self.server.listens, [])
        self.clock.advance(1)
        self.assertEqual(len(self.server.listens), 1)

    def test_server_without_streams(self) -> None:
        """Changes simply do not come, and nobody asks twice; subscriptions are refused."""
        self.link.notify("notifications/initialized", None)
        self.server.last.answer(error=NO_METHOD)
        self.assertEqual(self.subscribe("demo://a").error["code"], -32601)
        self.assertEqual(self.unsubscribe("demo://a").error["code"], -32601)
        self.assertEqual(len(self.server.listens), 1)
        self.assert_idle()

    def test_wrong_era(self) -> None:
        """A stream may be the first to find out that the server has changed its era."""
        changed, never = Reason.UPSTREAM_CHANGED, Reason.UPSTREAM_ERA
        ends: tuple[tuple[Reason, Callable[[Exchange], None]], ...] = (
            (changed, lambda last: last.answer(error={"code": -32022, "message": "no"})),
            (changed, lambda last: last.sink.failed(UpstreamFailure(changed))),
            (never, lambda last: last.sink.failed(UpstreamFailure(never))),
        )
        for (reason, end), acknowledged in product(ends, (False, True)):
            self.link = self.open(self.inbox)
            self.link.notify("notifications/initialized", None)
            if acknowledged:
                self.server.last.acknowledge()
            waiting = None if acknowledged else self.subscribe("demo://a")
            before = len(self.inbox.closings)
            end(self.server.last)
            self.assertEqual(len(self.inbox.closings), before + 1)
            self.assertIs(self.inbox.closings[-1].reason, reason)
            if waiting is not None:
                self.assertIs(waiting.failure.reason, reason)
            self.assert_idle()

    def test_close(self) -> None:
        """Nothing is left of a session that ends, whatever its stream was doing."""
        for stage in ("opening", "open", "waiting", "overlapping"):
            with self.subTest(stage):
                self.link = self.open(self.inbox)
                self.link.notify("notifications/initialized", None)
                if stage != "opening":
                    self.server.last.acknowledge()
                if stage == "waiting":
                    self.server.last.sink.failed(LOST)
                sink = self.subscribe("demo://a") if stage == "overlapping" else None
                count = len(self.server.listens)
                self.link.close()
                if sink is not None:
                    self.assertIs(sink.failure.reason, Reason.UPSTREAM_UNAVAILABLE)
                self.link.notify("notifications/initialized", None)
                self.clock.advance(100)
                self.assertEqual(len(self.server.listens), count)
                self.assert_idle()


class NothingToHearTests(ListenCase):
    """A server that tells of nothing."""

    offers = {"tools": {}, "resources": {}}

    def test_no_stream(self) -> None:
        """No stream is asked for, and no subscription taken."""
        self.link.notify("notifications/initialized", None)
        self.assertEqual(self.server.exchanges, [])
        self.assertEqual(self.subscribe("demo://a").error["code"], -32601)
        self.assert_idle()


class OnlySubscriptionsTests(ListenCase):
    """A server that tells of updates only."""

    offers = {"resources": {"subscribe": True}}

    def test_stream_with_the_first(self) -> None:
        """The stream lives as long as there are subscriptions."""
        self.link.notify("notifications/initialized", None)
        self.assertEqual(self.server.exchanges, [])
        self.subscribed("demo://a")
        self.assertEqual(self.server.last.listens_to, {"resourceSubscriptions": ["demo://a"]})
        self.assertEqual(self.unsubscribe("demo://a").result, {})
        self.assert_idle()


class SubscriptionTests(ListenCase):
    """``resources/subscribe`` and ``resources/unsubscribe``."""

    def setUp(self) -> None:
        """The session is ready."""
        super().setUp()
        self.ready()

    def test_answered_when_acknowledged(self) -> None:
        """The client learns of its subscription when the server has agreed, not before."""
        sink = self.subscribe("demo://a")
        self.assertEqual(sink.ends, [])
        listen = self.server.last
        self.assertEqual(listen.listens_to, {**LISTS, "resourceSubscriptions": ["demo://a"]})
        listen.acknowledge()
        self.assertEqual(sink.result, {})
        listen.note("resources/updated", uri="demo://a", _meta={META_SUBSCRIPTION_ID: "listen"})
        self.assertEqual([one["params"] for one in self.inbox.heard], [{"uri": "demo://a"}])

    def test_nothing_is_missed(self) -> None:
        """The old stream is heard until the new one is acknowledged, and given up then."""
        old = self.server.last
        self.subscribe("demo://a")
        new = self.server.last
        old.note("tools/list_changed")
        self.assertIsNone(old.call.cancelled)
        new.acknowledge()
        self.assertIsNotNone(old.call.cancelled)
        new.note("resources/list_changed")
        self.assertEqual(self.inbox.changes, ["tools/list_changed", "resources/list_changed"])
        self.assertEqual(self.server.open, [new])

    def test_part_of_what_was_subscribed(self) -> None:
        """An update may name a part of a resource."""
        self.subscribed("demo://a")
        self.server.last.note("resources/updated", uri="demo://a/b")
        self.assertEqual(len(self.inbox.heard), 1)

    def test_declined(self) -> None:
        """A URI that the server does not honour is an error, and is not asked for again."""
        sink = self.subscribe("demo://no")
        self.server.last.acknowledge(without=("demo://no",))
        self.assertEqual(sink.error["code"], -32602)
        count = len(self.server.listens)
        self.subscribed("demo://a")
        self.assertEqual(self.asked_for(self.server.last), {"demo://a"})
        self.assertEqual(len(self.server.listens), count + 1)

    def test_odd_acknowledgements(self) -> None:
        """An acknowledgement that names no URIs honours none."""
        for number, odd in enumerate((None, 5, {"resourceSubscriptions": "demo://a"}, {})):
            sink = self.subscribe(f"demo://{number}")
            self.server.last.note("subscriptions/acknowledged", notifications=odd)
            self.assertEqual(sink.error["code"], -32602)

    def test_several_at_once(self) -> None:
        """Subscriptions that come while a stream is being opened share the next one."""
        first = self.subscribe("demo://a")
        others = [self.subscribe("demo://b"), self.subscribe("demo://a")]
        self.assertEqual(len(self.server.listens), 2)
        self.server.last.acknowledge()
        self.assertEqual((first.result, others[1].result), ({}, {}))
        self.assertEqual((others[0].ends, len(self.server.listens)), ([], 3))
        self.server.last.acknowledge()
        self.assertEqual(others[0].result, {})
        self.assertEqual(self.asked_for(self.server.last), {"demo://a", "demo://b"})
        self.assertEqual(len(self.server.open), 1)

    def test_again(self) -> None:
        """A subscription that there is already costs the server nothing."""
        self.subscribed("demo://a")
        count = len(self.server.listens)
        self.assertEqual(self.subscribe("demo://a").result, {})
        self.assertEqual(len(self.server.listens), count)

    def test_bounds(self) -> None:
        """Subscriptions, those that wait, and the length of a URI are bounded."""
        self.assertEqual(self.subscribe("x" * 51).error["code"], -32602)
        self.assertEqual(self.subscribe("ü" * 26).error["code"], -32602)
        waiting = [self.subscribe("demo://a") for _ in range(3)]
        self.assertEqual(self.subscribe("demo://a").error["code"], -32602)
        self.server.last.acknowledge()
        self.assertEqual([one.result for one in waiting], [{}] * 3)
        self.subscribed("demo://b", "demo://c")
        self.assertEqual(self.subscribe("demo://d").error["code"], -32602)
        self.unsubscribe("demo://a")
        self.server.last.acknowledge()
        self.subscribed("demo://d")

    def test_unsubscribe(self) -> None:
        """Nothing is heard of a resource from that moment on, nor asked of it again."""
        self.subscribed("demo://a", "demo://b")
        old = self.server.last
        self.assertEqual(self.unsubscribe("demo://a").result, {})
        for uri in ("demo://a", "demo://b"):
            old.note("resources/updated", uri=uri)
        self.assertEqual([one["params"]["uri"] for one in self.inbox.heard], ["demo://b"])
        self.assertEqual(self.asked_for(self.server.last), {"demo://b"})
        self.server.last.acknowledge()
        self.assertEqual(len(self.server.open), 1)

    def test_unsubscribe_unknown(self) -> None:
        """A subscription that there is not is none, and costs nothing."""
        count = len(self.server.listens)
        self.assertEqual(self.unsubscribe("demo://a").result, {})
        self.assertEqual(len(self.server.listens), count)

    def test_unsubscribe_while_it_waits(self) -> None:
        """Who unsubscribes before the server has agreed gets no subscription."""
        sink = self.subscribe("demo://a")
        self.assertEqual(self.unsubscribe("demo://a").result, {})
        self.assertEqual(sink.error["code"], -32602)
        self.server.last.acknowledge()
        self.assertEqual(self.asked_for(self.server.last), set())
        self.server.last.acknowledge()
        self.server.last.note("resources/updated", uri="demo://a")
        self.assertEqual(len(self.server.open), 1)

    def test_cancel(self) -> None:
        """A subscription that its client takes back is answered to nobody and kept by nobody."""
        sink, call = self.call("resources/subscribe", uri="demo://a")
        call.hold()
        call.cancel("enough")
        call.release()
        call.cancel("twice")
        self.server.last.acknowledge()
        self.assertEqual(sink.ends, [])
        self.assertEqual(self.asked_for(self.server.last), set())
        self.server.last.acknowledge()
        self.assertEqual(len(self.server.listens), 3)

    def test_cancel_of_one_of_two(self) -> None:
        """The other one gets what it asked for."""
        _, call = self.call("resources/subscribe", uri="demo://a")
        other = self.subscribe("demo://a")
        call.cancel("enough")
        self.server.last.acknowledge()
        self.assertEqual((other.result, len(self.server.listens)), ({}, 2))

    def test_cancel_of_a_repetition(self) -> None:
        """A subscription that there is already stays when its repetition is taken back."""
        self.subscribed("demo://a")
        self.server.last.sink.failed(LOST)
        _, call = self.call("resources/subscribe", uri="demo://a")
        call.cancel("enough")
        self.server.last.acknowledge()
        self.assertEqual(self.asked_for(self.server.open[0]), {"demo://a"})
        self.assertEqual(self.link.listen.uris, {"demo://a"})

    def test_stream_of_a_subscription_taken_back(self) -> None:
        """What a stream still reports by accident is no subscription that can be promised."""
        _, call = self.call("resources/subscribe", uri="demo://b")
        call.cancel("enough")
        self.subscribe("demo://a")
        self.server.listens[1].acknowledge()
        sink = self.subscribe("demo://b")
        self.assertEqual(sink.ends, [])
        for listen in self.server.listens[2:]:
            listen.acknowledge()
        self.server.last.acknowledge()
        self.assertEqual(sink.result, {})
        self.assertEqual(self.asked_for(self.server.open[0]), {"demo://a", "demo://b"})

    def test_refused(self) -> None:
        """An error of the server is the answer, and what was there before stays."""
        self.subscribed("demo://a")
        sink = self.subscribe("demo://b")
        self.server.last.answer(error={"code": -32603, "message": "Too many"})
        self.assertEqual(sink.error, {"code": -32603, "message": "Too many"})
        (left,) = self.server.open
        self.assertEqual(self.asked_for(left), {"demo://a"})
        self.clock.advance(100)
        self.assertEqual(self.server.open, [left])

    def test_refused_with_no_such_method(self) -> None:
        """A server that has a stream open knows the method, whatever it says."""
        sink = self.subscribe("demo://a")
        self.server.last.answer(error=NO_METHOD)
        self.assertEqual(sink.error["code"], -32601)
        self.subscribed("demo://b")

    def test_ended_at_once(self) -> None:
        """A stream that ends before it began is an error for who waits for it."""
        sink = self.subscribe("demo://a")
        self.server.last.complete()
        self.assertEqual(sink.error["code"], -32602)

    def test_failed(self) -> None:
        """The failure to open a stream is the answer of those who wait for that one."""
        first = self.subscribe("demo://a")
        later = self.subscribe("demo://b")
        self.server.last.sink.failed(LOST)
        self.assertIs(first.failure, LOST)
        self.assertEqual((later.ends, self.asked_for(self.server.last)), ([], {"demo://b"}))
        self.server.last.acknowledge()
        self.assertEqual(later.result, {})

    def test_not_acknowledged(self) -> None:
        """Who waits for a stream is told when its time is over."""
        sink = self.subscribe("demo://a")
        self.clock.advance(10)
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(len(self.server.open), 1)

    def test_lost(self) -> None:
        """A stream that is opened again has all subscriptions; a new one does not wait for that."""
        self.subscribed("demo://a")
        self.server.last.sink.failed(LOST)
        sink = self.subscribe("demo://b")
        self.assertEqual(self.asked_for(self.server.last), {"demo://a", "demo://b"})
        self.server.last.acknowledge()
        self.assertEqual(sink.result, {})
        count = len(self.server.listens)
        self.clock.advance(100)
        self.assertEqual(len(self.server.listens), count)

    def test_both_lost(self) -> None:
        """The stream in use may break off while its successor is being opened, and that too."""
        old = self.server.last
        sink = self.subscribe("demo://a")
        old.sink.failed(LOST)
        self.server.last.sink.failed(LOST)
        self.assertIs(sink.failure, LOST)
        self.clock.advance(2)
        self.assertEqual(self.server.last.listens_to, LISTS)
        self.assertEqual(len(self.server.listens), 3)

    def test_declined_later(self) -> None:
        """A resource that is gone when the stream is opened again harms no other."""
        self.subscribed("demo://a", "demo://b")
        self.server.last.sink.failed(LOST)
        self.clock.advance(2)
        self.server.last.acknowledge(without=("demo://a",))
        count = len(self.server.listens)
        self.clock.advance(100)
        self.assertEqual(len(self.server.listens), count)
        self.assertEqual(self.asked_for(self.server.last), {"demo://a", "demo://b"})


URIS = ["demo://a", "demo://b", "demo://c", "demo://d"]
STEPS = st.tuples(
    st.sampled_from(["subscribe", "subscribe", "unsubscribe", "ack", "ack", "decline"])
    | st.sampled_from(["fail", "refuse", "end", "wait", "cancel"]),
    st.integers(0, 3),
)


class AnyOrderTests(ListenCase):
    """Subscriptions before a server that does anything."""

    @settings(deadline=None, max_examples=60)
    @given(st.lists(STEPS, max_size=30))
    def test_settles(self, script: list[tuple[str, int]]) -> None:
        """After whatever happened one stream is open, of exactly what the client was promised."""
        self.setUp()
        self.ready()
        promised: set[str] = set()
        waiting: list[tuple[str, ClientSink, Any]] = []
        for what, number in script:
            uri = URIS[number]
            if what == "subscribe":
                sink, call = self.call("resources/subscribe", uri=uri)
                waiting.append((uri, sink, call))
            elif what == "unsubscribe":
                self.unsubscribe(uri)
                promised.discard(uri)
            elif what == "cancel" and waiting:
                waiting.pop(number % len(waiting))[2].cancel("enough")
            elif what == "wait":
                self.clock.advance(number * 4)
            else:
                self.react(what, number)
            for one in [one for one in waiting if one[1].ends]:
                waiting.remove(one)
                end = one[1].ends[0]
                if isinstance(end, dict) and "result" in end:
                    promised.add(one[0])
                elif one[0] not in self.link.listen.uris:
                    promised.discard(one[0])
            self.assertLessEqual(len(self.server.open), 2)
            self.assertLessEqual(promised, self.link.listen.uris)
        self.finish()
        for uri, sink, _ in waiting:
            self.assertEqual(sink.result, {})
            promised.add(uri)
        (left,) = self.server.open
        declined = set(left.declined or ())
        self.assertEqual(self.asked_for(left) - declined, promised - declined)
        self.assertLessEqual(promised, self.asked_for(left))
        self.assertEqual(self.link.listen.uris, promised)
        self.link.close()
        self.assert_idle()

    def react(self, what: str, number: int) -> None:
        """Let the server do something with one of its streams."""
        streams = self.server.open
        if not streams:
            return
        stream = streams[number % len(streams)]
        if what == "ack":
            stream.acknowledge()
        elif what == "decline":
            stream.acknowledge(without=tuple(URIS[:number]))
        elif what == "fail":
            stream.sink.failed(LOST)
        elif what == "refuse":
            stream.answer(error={"code": -32603, "message": "no"})
        elif what == "end":
            stream.complete()

    def finish(self) -> None:
        """From now on the server agrees to everything."""
        for _ in range(4):
            for _ in range(4):
                for stream in self.server.open:
                    stream.acknowledge()
            self.clock.advance(16)
