"""The translation of ids between clients and servers."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.mcp import META_SUBSCRIPTION_ID
from mcpguard.upstream.correlation import (
    Answer,
    Broken,
    Correlator,
    Progress,
    Saturated,
    ServerNotification,
    ServerRequest,
    Stray,
    SubscriptionNotice,
)
from mcpguard.upstream.link import Id, Message, Outbound

ids = st.one_of(st.integers(), st.text(max_size=5), st.sampled_from([1, "1", 0, ""]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def correlator(
    max_pending: int = 1000, progress_interval: float = 0.05, progress_burst: int = 1
) -> Correlator[str]:
    """A correlator with 60 s per request and 900 s at most."""
    return Correlator(
        max_pending=max_pending,
        timeout=60,
        max_timeout=900,
        progress_interval=progress_interval,
        progress_burst=progress_burst,
    )


def outbound(
    client_id: Id = 1,
    method: str = "tools/call",
    params: Message | None = None,
    endless: bool = False,
) -> Outbound:
    """A request of some client."""
    return Outbound(client_id, method, params, "2025-11-25", "api_key:a", endless=endless)


def listen(client_id: Id) -> Outbound:
    """A stateless client's ``subscriptions/listen``."""
    return outbound(client_id, "subscriptions/listen", {"notifications": {}}, endless=True)


def progress(token: object, amount: int = 1) -> Message:
    """A progress notification of the server."""
    return {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": token, "progress": amount},
    }


class RequestTests(SynchronousTestCase):
    """Requests on their way to the server and answers on their way back."""

    def test_ids_are_replaced_and_restored(self) -> None:
        """The server sees the gateway's integer, the client its own id."""
        ids = correlator()
        gid, sent = ids.open(outbound("x", params={"name": "echo"}), "alice", 0)
        self.assertEqual(
            sent, {"jsonrpc": "2.0", "id": gid, "method": "tools/call", "params": {"name": "echo"}}
        )
        answer = ids.receive({"jsonrpc": "2.0", "id": gid, "result": {"a": 1}, "extra": 2}, 1)
        assert isinstance(answer, Answer)
        self.assertEqual(answer.pending.sink, "alice")
        self.assertEqual(
            answer.message, {"jsonrpc": "2.0", "id": "x", "result": {"a": 1}, "extra": 2}
        )
        self.assertEqual(len(ids), 0)

    def test_json_type_of_the_id_survives(self) -> None:
        """``1`` and ``"1"`` in flight together come back as what they were."""
        ids = correlator()
        first, _ = ids.open(outbound(1), "number", 0)
        second, _ = ids.open(outbound("1"), "text", 0)
        for gid, expected in ((second, "1"), (first, 1)):
            answer = ids.receive({"jsonrpc": "2.0", "id": gid, "result": {}}, 0)
            assert isinstance(answer, Answer)
            self.assertIs(type(answer.message["id"]), type(expected))
            self.assertEqual(answer.message["id"], expected)

    def test_params_are_left_out_when_absent(self) -> None:
        """A request without params is sent without the member."""
        _, sent = correlator().open(outbound(method="ping"), "s", 0)
        self.assertEqual(set(sent), {"jsonrpc", "id", "method"})

    def test_error_answers_are_answers(self) -> None:
        """A JSON-RPC error goes back under the client's id, unchanged otherwise."""
        ids = correlator()
        gid, _ = ids.open(outbound(7), "s", 0)
        error = {"code": -32602, "message": "no", "data": [1]}
        answer = ids.receive({"jsonrpc": "2.0", "id": gid, "error": error}, 0)
        assert isinstance(answer, Answer)
        self.assertEqual(answer.message, {"jsonrpc": "2.0", "id": 7, "error": error})

    def test_malformed_answers_end_the_request(self) -> None:
        """A reply without a usable result or error fails its request instead of hanging it."""
        bodies: list[Message] = [
            {},
            {"result": {}, "error": {}},
            {"result": None},
            {"result": [1]},
            {"error": "text"},
        ]
        for body in bodies:
            ids = correlator()
            gid, _ = ids.open(outbound(), "s", 0)
            self.assertIsInstance(ids.receive({"jsonrpc": "2.0", "id": gid, **body}, 0), Broken)
            self.assertEqual(len(ids), 0)

    def test_unknown_and_late_replies_are_strays(self) -> None:
        """A second answer, a never given id and ids of other types belong to nobody."""
        ids = correlator()
        gid, _ = ids.open(outbound(), "s", 0)
        ids.receive({"jsonrpc": "2.0", "id": gid, "result": {}}, 0)
        for key, kind in (
            (gid, "late"),
            (99, "unknown"),
            (0, "unknown"),
            (-1, "unknown"),
            ("1", "unknown"),
            (None, "unaddressed"),
        ):
            found = ids.receive({"jsonrpc": "2.0", "id": key, "result": {}}, 0)
            self.assertEqual(found, Stray(kind))

    def test_lookalike_ids_match_nothing(self) -> None:
        """``true`` and ``1.0`` equal 1 in Python, and must not answer request 1."""
        ids = correlator()
        gid, _ = ids.open(outbound(params={"_meta": {"progressToken": "t"}}), "s", 0)
        self.assertEqual(gid, 1)
        for key in (True, 1.0, "1"):
            self.assertEqual(
                ids.receive({"jsonrpc": "2.0", "id": key, "result": {}}, 0), Stray("unknown")
            )
            self.assertEqual(ids.receive(progress(key), 0), Stray("progress"))
        self.assertEqual(len(ids), 1)

    def test_too_many_waiting(self) -> None:
        """Beyond the bound nothing is opened; an answer makes room again."""
        ids = correlator(max_pending=2)
        gid, _ = ids.open(outbound(), "s", 0)
        ids.open(outbound(), "s", 0)
        self.assertRaises(Saturated, ids.open, outbound(), "s", 0)
        ids.receive({"jsonrpc": "2.0", "id": gid, "result": {}}, 0)
        ids.open(outbound(), "s", 0)
        self.assertEqual(len(ids), 2)

    def test_fail_all(self) -> None:
        """Every waiting request is handed over once, oldest first."""
        ids = correlator()
        for name in "abc":
            ids.open(outbound(), name, 0)
        self.assertEqual([one.sink for one in ids.fail_all()], ["a", "b", "c"])
        self.assertEqual(ids.fail_all(), [])


class CancelTests(SynchronousTestCase):
    """Giving requests up, from either side."""

    def test_cancel_names_the_gateway_id(self) -> None:
        """The server is told its own id of the request; the late reply is dropped."""
        ids = correlator()
        gid, _ = ids.open(outbound("mine"), "s", 0)
        self.assertEqual(
            ids.cancel(gid, "bored"),
            {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": gid, "reason": "bored"},
            },
        )
        self.assertEqual(ids.receive({"jsonrpc": "2.0", "id": gid, "result": {}}, 0), Stray("late"))
        self.assertIsNone(ids.cancel(gid, "again"))

    def test_initialize_is_never_cancelled(self) -> None:
        """The request is forgotten, but no notification may be sent for it."""
        ids = correlator()
        gid, _ = ids.open(outbound(method="initialize"), "s", 0)
        self.assertIsNone(ids.cancel(gid, "x"))
        self.assertEqual(len(ids), 0)

    def test_server_takes_its_own_request_back(self) -> None:
        """The server's ids are its own: equal numbers do not end a request of ours."""
        ids = correlator()
        gid, _ = ids.open(outbound(), "s", 0)
        message = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": gid},
        }
        found = ids.receive(message, 0)
        self.assertEqual(found, ServerNotification(message))
        self.assertEqual(len(ids), 1)

    def test_server_ends_a_listen(self) -> None:
        """A listen cancelled by the server ends with a normal result for the client."""
        ids = correlator()
        gid, _ = ids.open(listen("sub"), "s", 0)
        answer = ids.receive(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": gid}},
            0,
        )
        assert isinstance(answer, Answer)
        self.assertEqual(answer.message["id"], "sub")
        self.assertEqual(
            answer.message["result"],
            {"resultType": "complete", "_meta": {META_SUBSCRIPTION_ID: "sub"}},
        )
        self.assertEqual(len(ids), 0)


class ProgressTests(SynchronousTestCase):
    """Progress tokens, their rate cap, and the deadlines progress moves."""

    def setUp(self) -> None:
        """One request with a client's token."""
        self.ids = correlator()
        self.params = {"name": "slow", "_meta": {"progressToken": "tok", "k": [1]}}
        self.before = copy.deepcopy(self.params)
        self.gid, self.sent = self.ids.open(outbound(params=self.params), "s", 0)

    def test_token_is_replaced(self) -> None:
        """The server sees the gateway id as token; the caller's params stay as they were."""
        self.assertEqual(
            self.sent["params"],
            {"name": "slow", "_meta": {"progressToken": self.gid, "k": [1]}},
        )
        self.assertEqual(self.params, self.before)

    def test_token_is_restored(self) -> None:
        """The client reads its own token, and every other member unchanged."""
        found = self.ids.receive(progress(self.gid, 5), 0)
        assert isinstance(found, Progress)
        self.assertEqual(found.message, progress("tok", 5))
        self.assertEqual(found.pending.sink, "s")

    def test_progress_without_a_token_is_stray(self) -> None:
        """A server that invents a token for a request without one is not believed."""
        gid, _ = self.ids.open(outbound(params={"_meta": {}}), "s", 0)
        self.assertEqual(self.ids.receive(progress(gid), 0), Stray("progress"))

    def test_progress_after_the_answer_is_stray(self) -> None:
        """Nothing follows a response."""
        self.ids.receive({"jsonrpc": "2.0", "id": self.gid, "result": {}}, 0)
        self.assertEqual(self.ids.receive(progress(self.gid), 0), Stray("progress"))

    def test_rate_cap_keeps_the_newest(self) -> None:
        """Within one interval only the newest progress survives, delivered when due."""
        first = self.ids.receive(progress(self.gid, 1), 10.0)
        second = self.ids.receive(progress(self.gid, 2), 10.01)
        third = self.ids.receive(progress(self.gid, 3), 10.02)
        assert isinstance(first, Progress)
        assert isinstance(second, Progress)
        assert isinstance(third, Progress)
        self.assertIsNotNone(first.message)
        self.assertIsNone(second.message)
        self.assertAlmostEqual(second.due or 0.0, 10.05, places=5)
        self.assertEqual((third.message, third.due), (None, None))
        self.assertEqual(self.ids.flush(self.gid, 10.05), progress("tok", 3))
        self.assertIsNone(self.ids.flush(self.gid, 10.06))

    def test_a_burst_passes_whole(self) -> None:
        """A few steps reported at once all arrive; only a long run of them is thinned."""
        ids = correlator(progress_burst=4)
        gid, _ = ids.open(outbound(params=self.params), "s", 0)
        passed = 0
        for number in range(100):
            found = ids.receive(progress(gid, number), number * 0.01)
            assert isinstance(found, Progress)
            passed += found.message is not None
            if number == 3:
                self.assertEqual(passed, 4)
            if found.due is not None:
                due = found.due
            elif found.message is None and number * 0.01 >= due:
                passed += ids.flush(gid, number * 0.01) is not None
        # A hundred in a second: the burst, and one in each interval.
        self.assertTrue(20 <= passed <= 25, passed)

    def test_held_progress_precedes_the_answer(self) -> None:
        """The last progress is not lost when the answer overtakes the timer."""
        self.ids.receive(progress(self.gid, 1), 0)
        self.ids.receive(progress(self.gid, 100), 0)
        answer = self.ids.receive({"jsonrpc": "2.0", "id": self.gid, "result": {}}, 0)
        assert isinstance(answer, Answer)
        self.assertEqual(answer.held, progress("tok", 100))
        self.assertIsNone(self.ids.flush(self.gid, 1))

    def test_progress_moves_the_deadline(self) -> None:
        """Each progress, held or not, starts the timeout again, up to the hard limit."""
        self.assertEqual(self.ids.next_deadline(), 60)
        self.ids.receive(progress(self.gid), 50)
        self.assertEqual(self.ids.next_deadline(), 110)
        self.ids.receive(progress(self.gid), 50.5)
        self.assertEqual(self.ids.next_deadline(), 110.5)
        self.ids.receive(progress(self.gid), 890)
        self.assertEqual(self.ids.next_deadline(), 900)

    def test_held(self) -> None:
        """While a person is asked only the hard limit counts; the last release starts anew."""
        self.ids.hold(self.gid)
        self.ids.hold(self.gid)
        self.assertEqual(self.ids.next_deadline(), 900)
        self.ids.receive(progress(self.gid), 50)
        self.assertEqual(self.ids.next_deadline(), 900)
        self.assertIsNone(self.ids.release(self.gid, 100))
        self.assertEqual(self.ids.next_deadline(), 900)
        self.assertEqual(self.ids.release(self.gid, 200), 260)
        self.assertEqual(self.ids.next_deadline(), 260)
        self.assertIsNone(self.ids.release(self.gid, 300))
        self.assertEqual(self.ids.next_deadline(), 260)
        self.ids.hold(self.gid)
        self.assertEqual(self.ids.release(self.gid, 880), 900)

    def test_nothing_to_hold(self) -> None:
        """Holding what is over, or has no deadline at all, changes nothing."""
        endless, _ = self.ids.open(listen(2), "endless", 0)
        self.ids.hold(endless)
        self.ids.release(endless, 10)
        self.assertEqual(self.ids.next_deadline(), 60)
        self.ids.cancel(self.gid, "")
        self.ids.hold(self.gid)
        self.assertIsNone(self.ids.release(self.gid, 1))
        self.assertEqual(self.ids.next_deadline(), float("inf"))

    def test_overdue(self) -> None:
        """A request is overdue at its deadline, and an endless one only until it has begun."""
        endless, _ = self.ids.open(listen(2), "endless", 0)
        self.assertEqual(self.ids.overdue(59.9), [])
        self.assertEqual([one.gid for one in self.ids.overdue(60)], [self.gid, endless])
        params = {"_meta": {"io.modelcontextprotocol/subscriptionId": endless}}
        method = "notifications/subscriptions/acknowledged"
        self.ids.receive({"jsonrpc": "2.0", "method": method, "params": params}, 50)
        self.assertEqual([one.gid for one in self.ids.overdue(60)], [self.gid])
        self.ids.cancel(self.gid, "timeout")
        self.assertEqual(self.ids.next_deadline(), float("inf"))


class SubscriptionTests(SynchronousTestCase):
    """``subscriptions/listen`` of the stateless protocol."""

    def test_notifications_carry_the_clients_id(self) -> None:
        """Acknowledgement and events name the subscription as the client does."""
        ids = correlator()
        gid, _ = ids.open(listen("mine"), "s", 0)
        for method in ("notifications/subscriptions/acknowledged", "notifications/x"):
            message = {
                "jsonrpc": "2.0",
                "method": method,
                "params": {"a": 1, "_meta": {META_SUBSCRIPTION_ID: gid, "k": 2}},
            }
            found = ids.receive(message, 0)
            assert isinstance(found, SubscriptionNotice)
            self.assertEqual(
                found.message["params"], {"a": 1, "_meta": {META_SUBSCRIPTION_ID: "mine", "k": 2}}
            )

    def test_final_result_carries_the_clients_id(self) -> None:
        """The result that ends a listen names it twice, both times as the client does."""
        ids = correlator()
        gid, _ = ids.open(listen("mine"), "s", 0)
        result = {"resultType": "complete", "_meta": {META_SUBSCRIPTION_ID: gid}}
        answer = ids.receive({"jsonrpc": "2.0", "id": gid, "result": result}, 0)
        assert isinstance(answer, Answer)
        self.assertEqual(answer.message["result"]["_meta"], {META_SUBSCRIPTION_ID: "mine"})

    def test_unknown_subscriptions_are_strays(self) -> None:
        """A subscription id of no listen, or of a call, reaches nobody."""
        ids = correlator()
        gid, _ = ids.open(outbound(), "s", 0)
        for key in (gid, 99, "mine", None):
            message = {
                "jsonrpc": "2.0",
                "method": "notifications/tools/list_changed",
                "params": {"_meta": {META_SUBSCRIPTION_ID: key}},
            }
            self.assertEqual(ids.receive(message, 0), Stray("subscription"))


class ShapeTests(SynchronousTestCase):
    """What a message is, told by its members alone."""

    def test_server_messages(self) -> None:
        """Requests and notifications of the server pass untouched."""
        request = {"jsonrpc": "2.0", "id": "s1", "method": "roots/list"}
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}}
        ids = correlator()
        self.assertEqual(ids.receive(request, 0), ServerRequest(request))
        self.assertEqual(ids.receive(note, 0), ServerNotification(note))

    def test_malformed(self) -> None:
        """What is neither request, response nor notification is dropped."""
        for message in (
            {},
            {"jsonrpc": "2.0"},
            {"method": 1},
            {"method": "a", "params": [1]},
            {"method": "a", "params": None},
            {"method": "a", "id": None},
            {"method": "a", "id": 1.5},
            {"method": "a", "id": True},
            {"method": "a", "id": 1, "result": {}},
            {"method": "a", "error": {}},
        ):
            self.assertEqual(correlator().receive(message, 0), Stray("malformed"), message)

    @settings(deadline=None, max_examples=100)
    @given(st.dictionaries(st.sampled_from(["id", "method", "params", "result"]), json_values))
    def test_any_object_is_classified(self, message: dict[str, Any]) -> None:
        """Whatever object a server sends, it is told apart without an error or a change to it."""
        ids = correlator()
        ids.open(outbound(params={"_meta": {"progressToken": 1}}), "s", 0)
        before = copy.deepcopy(message)
        ids.receive(message, 0)
        self.assertEqual(message, before)


class CrossTalkTests(SynchronousTestCase):
    """Many callers with the same ids and tokens on one link."""

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.tuples(ids, st.none() | ids, st.booleans()), min_size=1, max_size=40),
        st.randoms(use_true_random=False),
    )
    def test_nobody_hears_another(
        self, callers: list[tuple[Id, Id | None, bool]], random: Any
    ) -> None:
        """Shuffled answers and progress reach their own caller under its own id and token."""
        link: Correlator[int] = Correlator(
            max_pending=100,
            timeout=60,
            max_timeout=900,
            progress_interval=0,
            progress_burst=1,
        )
        events: list[Message] = []
        for number, (client_id, token, give_up) in enumerate(callers):
            params: Message = {"caller": number}
            if token is not None:
                params["_meta"] = {"progressToken": token}
            gid, sent = link.open(outbound(client_id, params=params), number, 0)
            # The double of a server answers with what it was sent, so a mix-up shows.
            if give_up:
                link.cancel(gid, "")
            if token is not None:
                meta_token = sent["params"]["_meta"]["progressToken"]
                events.append(progress(meta_token, sent["params"]["caller"]))
            events.append(
                {"jsonrpc": "2.0", "id": sent["id"], "result": {"caller": sent["params"]["caller"]}}
            )
        random.shuffle(events)
        answered = []
        for now, event in enumerate(events):
            found = link.receive(event, float(now))
            if isinstance(found, Stray):
                continue
            assert isinstance(found, Answer | Progress)
            number = found.pending.sink
            client_id, token, give_up = callers[number]
            self.assertFalse(give_up)
            assert found.message is not None
            if isinstance(found, Answer):
                answered.append(number)
                self.assertEqual(found.message["result"]["caller"], number)
                self.assertEqual(found.message["id"], client_id)
                self.assertIs(type(found.message["id"]), type(client_id))
            else:
                self.assertEqual(found.message["params"]["progress"], number)
                restored = found.message["params"]["progressToken"]
                self.assertEqual(restored, token)
                self.assertIs(type(restored), type(token))
        expected = [number for number, caller in enumerate(callers) if not caller[2]]
        self.assertEqual(sorted(answered), expected)
        self.assertEqual(len(link), 0)
