"""Calls that are parked while their clients are asked."""

from typing import Any

from attrs import define, evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.pipeline.bridge.parking import Meanwhile, ParkingBounds, ParkingLot
from mcpguard.upstream.link import Message, UpstreamFailure
from tests.pipeline.bridge.stateless_rig import BOUNDS, EVERYTHING, LOG_LEVEL, Heard, StatelessRig

YES: Message = {"action": "accept", "content": {"name": "Ada"}}


class ParkedTests(SynchronousTestCase):
    """A server that asks in the course of a call."""

    def setUp(self) -> None:
        """A rig."""
        self.rig = StatelessRig()

    def responses(self, session: int = -1) -> list[Message]:
        """What the server was answered."""
        return self.rig.link(session).responses

    def asked(self, heard: Heard) -> dict[str, Any]:
        """What a client is asked."""
        self.assertEqual(heard.result["resultType"], "input_required", heard.answers)
        questions: dict[str, Any] = heard.result["inputRequests"]
        return questions

    def keys(self, heard: Heard) -> list[str]:
        """The keys of what a client is asked."""
        return list(self.asked(heard))

    def test_round(self) -> None:
        """The client is asked, its answer goes to the server, and the rest to its next request."""
        first = self.rig.call(id=1)
        self.rig.ask("s1", params={"message": "who?", "requestedSchema": {}, "_meta": {"x": 1}})
        self.assertEqual(
            self.asked(first),
            {
                "q1": {
                    "method": "elicitation/create",
                    "params": {"message": "who?", "requestedSchema": {}},
                }
            },
        )
        self.assertEqual(self.rig.running().held, 1)
        self.assertEqual(self.responses(), [])
        second = self.rig.retry(first, {"q1": YES, "other": {}}, id=2)
        self.assertEqual(self.responses(), [{"jsonrpc": "2.0", "id": "s1", "result": YES}])
        self.assertEqual(self.rig.running().held, 0)
        self.assertFalse(second.over)
        self.rig.link().answer(0, result={"content": []})
        self.assertEqual((second.answers[0]["id"], second.result["content"]), (2, []))
        self.assertEqual(len(self.rig.link().requests), 1)
        self.assertEqual((len(self.rig.links.lot), self.rig.links.lot.size), (0, 0))
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)

    def test_first_request_leaves_after_it_was_answered(self) -> None:
        """The end of a round is not the end of the call."""
        first = self.rig.call()
        self.rig.ask(1)
        assert first.call is not None
        first.call.cancel("closed")
        self.assertIsNone(self.rig.running().cancelled)
        second = self.rig.retry(first, {"q1": YES})
        first.call.cancel("closed")
        self.assertIsNone(self.rig.running().cancelled)
        assert second.call is not None
        second.call.cancel("closed")
        self.assertEqual(self.rig.running().cancelled, "closed")

    def test_several_questions(self) -> None:
        """What is asked at once is put together, each answer goes to its own question."""
        first = self.rig.call(capabilities=EVERYTHING)
        self.rig.ask(1, gather=False)
        self.rig.ask(2, "sampling/createMessage", {"messages": [], "maxTokens": 1}, gather=False)
        self.rig.ask(3, "roots/list")
        self.assertEqual(
            [one["method"] for one in self.asked(first).values()],
            ["elicitation/create", "sampling/createMessage", "roots/list"],
        )
        roots: Message = {"roots": []}
        second = self.rig.retry(first, {"q3": roots, "q1": YES}, capabilities=EVERYTHING)
        self.assertEqual(
            [(one["id"], one["result"]) for one in self.responses()], [(1, YES), (3, roots)]
        )
        self.rig.clock.advance(1)
        self.assertEqual(self.keys(second), ["q2"])
        self.assertEqual(self.rig.running().held, 1)
        third = self.rig.retry(second, {"q2": {"role": "user"}, "q1": YES})
        self.assertEqual(len(self.responses()), 3)
        self.rig.link().answer(0, result={})
        self.assertEqual(third.result["resultType"], "complete")

    def test_one_after_another(self) -> None:
        """Every answer may lead to another question."""
        heard = self.rig.call()
        for number in range(1, 4):
            self.rig.ask(number)
            self.assertEqual(self.keys(heard), [f"q{number}"])
            heard = self.rig.retry(heard, {f"q{number}": YES}, id=number)
        self.rig.link().answer(0, result={})
        self.assertEqual(heard.result["resultType"], "complete")

    def test_missing_answers(self) -> None:
        """They are asked again, and so is what is no answer at all."""
        heard = self.rig.call()
        self.rig.ask(1)
        for responses in (None, {"q1": "yes"}):
            heard = self.rig.retry(heard, responses)
            self.rig.clock.advance(1)
            self.assertEqual(self.keys(heard), ["q1"])
        self.assertEqual((self.responses(), self.rig.running().held), ([], 1))

    def test_asked_while_parked(self) -> None:
        """What comes while the client is away is put to it in its next round."""
        first = self.rig.call()
        self.rig.ask(1)
        self.rig.ask(2)
        second = self.rig.retry(first, {"q1": YES, "q2": YES})
        self.assertEqual([one["id"] for one in self.responses()], [1, 2])
        self.assertFalse(second.over)

    def test_rounds(self) -> None:
        """A call has so many rounds; then the server gets an error, and goes on without."""
        heard = self.rig.call()
        for number in range(1, 5):
            self.rig.ask(number)
            heard = self.rig.retry(heard, {f"q{number}": YES})
        self.rig.ask(5)
        self.assertFalse(heard.over)
        self.assertEqual(self.responses()[-1]["error"]["code"], -32603)
        self.assertEqual(self.rig.running().held, 0)
        self.rig.link().answer(0, result={})
        self.assertEqual(heard.result["resultType"], "complete")

    def test_questions_open_at_once(self) -> None:
        """One more than allowed is answered with an error."""
        heard = self.rig.call()
        for number in range(1, 5):
            self.rig.ask(number, gather=False)
        self.rig.clock.advance(1)
        self.assertEqual(self.keys(heard), ["q1", "q2", "q3"])
        self.assertEqual([one["id"] for one in self.responses()], [4])

    def test_answer_while_parked(self) -> None:
        """How it ends meanwhile is kept for the client; its answer still goes to the server."""
        first = self.rig.call()
        self.rig.ask(1)
        self.rig.link().answer(0, result={"content": ["x" * 100]})
        self.assertGreater(self.rig.links.lot.size, 100)
        second = self.rig.retry(first, {"q1": YES}, id=9)
        self.assertEqual([one["id"] for one in self.responses()], [1])
        self.assertEqual((second.answers[0]["id"], second.result["resultType"]), (9, "complete"))
        self.assertEqual(self.rig.links.lot.size, 0)

    def test_failure_while_parked(self) -> None:
        """It is told to the client's next request, which is not sent again."""
        first = self.rig.call()
        self.rig.ask(1)
        self.rig.lose(UpstreamFailure(Reason.SESSION_NOT_FOUND))
        self.rig.clock.advance(1)
        self.assertEqual(len(self.rig.upstream.links), 1)
        second = self.rig.retry(first, {"q1": YES})
        self.assertEqual(second.failures[0].reason, Reason.UPSTREAM_FAILED)
        self.assertEqual(self.rig.links.lot.size, 0)

    def test_told_while_parked(self) -> None:
        """The latest progress and log messages are heard in the next round, if it wants them."""
        first = self.rig.call(meta={"progressToken": 1, LOG_LEVEL: "info"})
        self.rig.link().answer(0, result={})
        self.rig.ask(1)
        sink = self.rig.link().requests[1][1]

        def tell(number: int) -> None:
            params = {"progressToken": 1, "progress": number}
            progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            sink.notification(progress)

        for number in range(3):
            tell(number)
        self.rig.tell("message", {"level": "debug", "data": "not wanted"})
        second = self.rig.retry(first, {}, meta={"progressToken": "b", LOG_LEVEL: "info"})
        self.rig.clock.advance(1)
        tell(3)
        self.rig.tell("message", {"level": "error", "data": "x"})
        third = self.rig.retry(second, {"q1": YES}, meta={"progressToken": "c"})
        self.assertEqual(first.notifications, [])
        told = [
            (one["params"]["progressToken"], one["params"]["progress"])
            for one in second.notifications
        ]
        self.assertEqual(told, [("b", 1), ("b", 2)])
        # This round wants no log messages.
        told = [
            (one["params"]["progressToken"], one["params"]["progress"])
            for one in third.notifications
        ]
        self.assertEqual(told, [("c", 3)])
        self.assertEqual(self.rig.links.lot.size, 0)

    def test_client_never_returns(self) -> None:
        """The call is cancelled, and the server's question answered with an error."""
        heard = self.rig.call()
        self.rig.ask("s1")
        self.rig.clock.advance(300)
        self.assertIn("did not come back", self.rig.running().cancelled or "")
        self.assertEqual(self.responses()[0]["error"]["code"], -32603)
        self.assertEqual(self.rig.pool.sessions[0].in_use, 0)
        late = self.rig.retry(heard, {"q1": YES})
        self.assertEqual(late.error["code"], -32602)
        self.assertEqual(len(self.responses()), 1)

    def test_states_count_once(self) -> None:
        """A state that was used is as unknown as one that never was."""
        first = self.rig.call()
        self.rig.ask(1)
        self.rig.retry(first, {"q1": YES})
        self.assertEqual(self.rig.retry(first, {"q1": YES}).error["code"], -32602)
        self.assertIsNone(self.rig.running().cancelled)

    def test_foreign_states(self) -> None:
        """Another principal, path or method finds no call; the owner still does."""
        first = self.rig.call()
        self.rig.ask(1)
        state = {"requestState": first.result["requestState"], "inputResponses": {"q1": YES}}
        for heard in (
            self.rig.call(who="bob", params=state),
            self.rig.call(path="/x", params=state),
            self.rig.send("prompts/get", {"name": "p", **state}),
            self.rig.call(params={"requestState": 7}),
        ):
            self.assertEqual(heard.error["code"], -32602)
        self.assertEqual(self.responses(0), [])
        self.rig.retry(first, {"q1": YES})
        self.assertEqual(len(self.responses(0)), 1)

    def test_withdrawn(self) -> None:
        """A question that the server takes back is asked no more."""
        heard = self.rig.call()
        self.rig.ask(1, gather=False)
        self.rig.tell("cancelled", {"requestId": "1"})
        self.rig.tell("cancelled", {"requestId": 1})
        self.rig.clock.advance(1)
        self.assertFalse(heard.over)
        self.rig.ask(2)
        self.rig.tell("cancelled", {"requestId": 2})
        second = self.rig.retry(heard, {"q2": YES})
        self.assertEqual((self.responses(), second.over), ([], False))
        self.assertEqual(self.rig.running().held, 0)
        self.assertEqual(self.rig.links.lot.size, 0)

    def test_client_leaves_while_questions_gather(self) -> None:
        """Its call is cancelled, and the question answered with an error."""
        heard = self.rig.call()
        self.rig.ask(1, gather=False)
        assert heard.call is not None
        heard.call.cancel("closed")
        self.rig.clock.advance(1)
        self.assertEqual(self.rig.running().cancelled, "closed")
        self.assertEqual(len(self.responses()), 1)
        self.assertFalse(heard.over)


class BoundTests(SynchronousTestCase):
    """Each bound of what waits for clients, reached."""

    def test_calls(self) -> None:
        """A call that finds no room is not parked: the server goes on with an error."""
        rig = StatelessRig()
        heard = []
        for who, parks in (("alice", True), ("alice", True), ("alice", False), ("bob", True)):
            heard.append(rig.call(who=who))
            session = 1 if who == "bob" else 0
            rig.ask(9, session=session)
            self.assertEqual(heard[-1].over, parks, who)
        full = rig.call(who="carol")
        rig.ask(9)
        self.assertFalse(full.over)
        self.assertEqual([len(one.responses) for one in rig.upstream.links], [1, 0, 1])
        rig.retry(heard[0], {"q1": YES})
        rig.ask(10)
        self.assertEqual(full.result["resultType"], "input_required")

    def test_size(self) -> None:
        """Questions beyond the bytes that are kept are refused, and answers not kept."""
        rig = StatelessRig()
        heard = rig.call()
        big = {"message": "x" * 3000}
        rig.ask(1, params=big, gather=False)
        rig.ask(2, params=big)
        self.assertEqual([one["id"] for one in rig.link().responses], [2])
        rig.link().answer(0, result={"content": "x" * 3000})
        again = rig.retry(heard, {"q1": YES})
        self.assertEqual(again.failures[0].reason, Reason.ANSWER_TOO_LARGE)
        self.assertEqual(rig.links.lot.size, 0)

    def test_size_of_all(self) -> None:
        """Principals share the bytes that are kept for all."""
        lot = ParkingLot(BOUNDS.parking, Clock(), str)
        self.assertEqual([lot.keep(who, 4000) for who in "abc"], [True, True, False])
        self.assertFalse(lot.keep("a", 1001))
        lot.drop("a", 4000)
        self.assertTrue(lot.keep("c", 4000))
        self.assertEqual(lot.size, 8000)

    def test_waiting(self) -> None:
        """Of what belongs to no call so much waits, and so long."""
        rig = StatelessRig()
        rig.send("tools/list")
        for number in range(3):
            rig.ask(number, gather=False)
        self.assertEqual([one["id"] for one in rig.link().responses], [2])
        rig.clock.advance(30)
        self.assertEqual([one["id"] for one in rig.link().responses], [2, 0, 1])
        self.assertEqual(rig.links.lot.size, 0)

    def test_waiting_when_the_session_ends(self) -> None:
        """Nothing of it is left."""
        rig = StatelessRig()
        rig.send("tools/list")
        rig.ask(1)
        rig.lose(UpstreamFailure(Reason.UPSTREAM_FAILED))
        self.assertEqual((rig.links.lot.size, rig.clock.getDelayedCalls()), (0, []))


class AttributionTests(SynchronousTestCase):
    """Whose client is asked."""

    def setUp(self) -> None:
        """A rig."""
        self.rig = StatelessRig()

    def test_related(self) -> None:
        """Where the transport tells, it is that call's, and nobody's when that is over."""
        first, second = self.rig.call("a"), self.rig.call("b")
        call = self.rig.running(0)
        self.rig.ask(1, related=call)
        self.assertEqual((first.over, second.over), (True, False))
        self.rig.retry(first, {"q1": YES}, tool="a")
        self.rig.link().answer(0, result={})
        self.rig.ask(2, related=call)
        self.assertFalse(second.over)
        self.assertEqual(self.rig.link().responses[-1]["error"]["code"], -32603)

    def test_latest(self) -> None:
        """Else it is the latest call's whose client is there."""
        first, second = self.rig.call("a"), self.rig.call("b")
        self.rig.send("tools/list")
        self.rig.ask(1)
        self.assertEqual((first.over, second.over), (False, True))
        self.rig.ask(2)
        self.assertEqual(list(first.result["inputRequests"]), ["q1"])

    def test_another_call_of_the_session(self) -> None:
        """A call that ends without an answer it asked for: the question was another's."""
        first = self.rig.call("a")
        self.rig.call("b")
        self.rig.ask(1, gather=False)
        self.rig.link().answer(1, result={})
        self.rig.clock.advance(1)
        self.assertEqual(first.result["resultType"], "input_required")

    def test_not_of_a_call_that_was_given_up(self) -> None:
        """What a call asked that its client gave up is put to nobody else."""
        first, second = self.rig.call("a"), self.rig.call("b")
        self.rig.ask(1, gather=False)
        assert second.call is not None
        second.call.cancel("closed")
        self.rig.clock.advance(1)
        self.assertFalse(first.over)
        self.assertEqual([one["id"] for one in self.rig.link().responses], [1])

    def test_before_any_call(self) -> None:
        """What a server wants to know by itself is asked with the next call, before it is sent."""
        rig = self.rig
        rig.send("tools/list", capabilities={"roots": {}})
        rig.ask(1, "roots/list")
        first = rig.call(capabilities={"roots": {}})
        asked = first.result["inputRequests"]
        self.assertEqual(asked, {"q1": {"method": "roots/list", "params": {}}})
        self.assertEqual(len(rig.link().requests), 1)
        again = rig.retry(first, {}, capabilities={"roots": {}})
        self.assertEqual(list(again.result["inputRequests"]), ["q1"])
        last = rig.retry(again, {"q1": {"roots": []}}, capabilities={"roots": {}})
        self.assertEqual([one["id"] for one in rig.link().responses], [1])
        self.assertEqual(rig.link().requests[1][0].method, "tools/call")
        self.assertNotIn("requestState", rig.link().requests[1][0].params or {})
        rig.link().answer(1, result={})
        self.assertEqual(last.result["resultType"], "complete")

    def test_lost_before_it_was_sent(self) -> None:
        """A call parked for that finds another session when its client is back."""
        rig = self.rig
        rig.send("tools/list")
        rig.ask(1)
        first = rig.call()
        rig.lose(UpstreamFailure(Reason.UPSTREAM_FAILED))
        rig.clock.advance(1)
        self.assertEqual(len(rig.upstream.links), 1)
        rig.retry(first, {"q1": YES})
        self.assertEqual([one.method for one in rig.upstream.asked], ["tools/list", "tools/call"])
        self.assertEqual([one.responses for one in rig.upstream.links], [[], []])

    def test_no_room_to_park(self) -> None:
        """A call that was to be parked before it is sent is sent when there is no room."""
        parking = evolve(BOUNDS.parking, calls=0)
        rig = StatelessRig(bounds=evolve(BOUNDS, parking=parking))
        rig.send("tools/list")
        rig.ask(1)
        heard = rig.call()
        self.assertFalse(heard.over)
        self.assertEqual(rig.link().requests[1][0].method, "tools/call")
        self.assertEqual(rig.link().responses[0]["error"]["code"], -32603)

    def test_refused(self) -> None:
        """What the client did not declare, or nobody knows, is refused; a ping is answered."""
        heard = self.rig.call()
        cases: tuple[tuple[str, Message | None, int | None], ...] = (
            ("sampling/createMessage", {"messages": []}, -32601),
            ("roots/list", None, -32601),
            ("tasks/get", None, -32601),
            ("elicitation/create", {"mode": "url"}, -32602),
            ("ping", None, None),
        )
        for number, (method, params, code) in enumerate(cases):
            self.rig.ask(number, method, params)
            answer = self.rig.link().responses[-1]
            self.assertEqual(answer["id"], number)
            self.assertEqual(answer.get("error", {}).get("code"), code)
        self.assertFalse(heard.over)


class MeanwhileTests(SynchronousTestCase):
    """`Meanwhile`: what is kept of one call."""

    def setUp(self) -> None:
        """A lot with little room."""
        parking = evolve(BOUNDS.parking, size_per_principal=40, notifications=2)
        self.lot = ParkingLot(parking, Clock(), str)
        self.meanwhile = Meanwhile(self.lot, "x")

    def test_notifications(self) -> None:
        """The latest are kept, so many and so big; what was taken is gone."""
        for number in range(3):
            self.meanwhile.tell({"n": number})
        self.assertEqual(self.lot.size, 14)
        self.assertEqual(self.meanwhile.take(), [{"n": 1}, {"n": 2}])
        self.meanwhile.tell({"n": "x" * 40})
        self.assertEqual((self.meanwhile.take(), self.lot.size), ([], 0))

    def test_end(self) -> None:
        """An answer that fits, or that there was one; nothing stays after it is forgotten."""
        self.meanwhile.tell({"n": 1})
        self.meanwhile.end({"result": {}})
        self.assertEqual(self.meanwhile.outcome, {"result": {}})
        self.assertGreater(self.lot.size, 7)
        self.meanwhile.forget()
        self.assertEqual((self.meanwhile.outcome, self.lot.size), (None, 0))
        self.meanwhile.end({"result": "x" * 40})
        outcome = self.meanwhile.outcome
        assert isinstance(outcome, UpstreamFailure)
        self.assertEqual(outcome.reason, Reason.ANSWER_TOO_LARGE)

    def test_none(self) -> None:
        """With a bound of none, none is kept."""
        self.lot.bounds = evolve(self.lot.bounds, notifications=0)
        self.meanwhile.tell({"n": 1})
        self.assertEqual(self.meanwhile.take(), [])


@define(eq=False)
class Car:
    """Something to be parked."""

    principal_key: str
    told: int = 0

    def expired(self) -> None:
        """Count it."""
        self.told += 1


class LotTests(SynchronousTestCase):
    """`ParkingLot` alone."""

    def setUp(self) -> None:
        """A lot for three calls, two of each principal."""
        self.clock = Clock()
        self.names = iter("abcdefgh")
        bounds = ParkingBounds(
            calls=3,
            calls_per_principal=2,
            size=10,
            size_per_principal=6,
            secs=5.0,
            rounds=1,
            questions=1,
            notifications=2,
        )
        self.lot = ParkingLot(bounds, self.clock, lambda: next(self.names))

    def test_bounds(self) -> None:
        """Of all, and of each principal."""
        cars = [Car(who) for who in ("x", "x", "x", "y", "z")]
        self.assertEqual([self.lot.enter(car) for car in cars], ["a", "b", None, "c", None])
        self.lot.leave("a")
        self.lot.leave("a")
        self.assertEqual(self.lot.enter(cars[2]), "d")
        self.assertEqual(len(self.lot), 3)

    def test_tokens(self) -> None:
        """They are their owner's, and nobody's after the end."""
        car = Car("x")
        self.lot.enter(car)
        self.assertIs(self.lot.find("a", "x"), car)
        for token, who in (("a", "y"), ("b", "x"), (None, "x"), ([], "x")):
            self.assertIsNone(self.lot.find(token, who))
        self.clock.advance(5)
        self.assertEqual((car.told, len(self.lot)), (1, 0))
        self.assertIsNone(self.lot.find("a", "x"))

    def test_left_in_time(self) -> None:
        """Who left is not told of the end."""
        car = Car("x")
        self.lot.enter(car)
        self.lot.leave("a")
        self.clock.advance(10)
        self.assertEqual(car.told, 0)
