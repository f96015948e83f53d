"""Tests of `mcpguard.pipeline.bridge.handshake_call`: requests and their rounds."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcpguard.errors import Reason
from mcpguard.protocol.mcp import META_CAPABILITIES, META_SERVER_INFO, META_VERSION
from mcpguard.upstream.link import Message, UpstreamFailure
from tests.pipeline.bridge.handshake_rig import (
    FORM,
    MODERN,
    ROOTS,
    SAMPLE,
    ClientInbox,
    Exchange,
    HandshakeCase,
)

ACCEPTED: Message = {"action": "accept", "content": {"answer": "42"}}
LOST = UpstreamFailure(Reason.UPSTREAM_FAILED, "gone")


class AnswerTests(HandshakeCase):
    """Requests without rounds."""

    def test_there_and_back(self) -> None:
        """The server is told who asks and in which version; the client hears nothing of either."""
        sink, _ = self.call("resources/read", id="a", uri="demo://a", _meta={"progressToken": 7})
        sent = self.server.last
        self.assertEqual((sent.outbound.id, sent.outbound.version), ("a", MODERN))
        meta = sent.params["_meta"]
        self.assertEqual((meta[META_VERSION], meta["progressToken"]), (MODERN, 7))
        self.assertEqual(
            meta[META_CAPABILITIES], {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
        )
        sent.complete(contents=[], ttlMs=5, cacheScope="public", _meta={META_SERVER_INFO: {}})
        self.assertEqual(sink.ends, [{"jsonrpc": "2.0", "id": "a", "result": {"contents": []}}])
        self.assert_idle()

    def test_errors(self) -> None:
        """An error comes with the code that the client knows."""
        sink, _ = self.call("resources/read", uri="demo://a")
        self.server.last.answer(error={"code": -32602, "message": "Resource not found"})
        self.assertEqual(sink.error["code"], -32002)
        self.assert_idle()

    def test_notifications(self) -> None:
        """Progress and log lines pass; what belongs to no request does not."""
        sink, _ = self.call("prompts/get", name="p")
        for name in ("message", "progress", "tools/list_changed", "resources/updated", "evil"):
            self.server.last.note(name, _meta={META_SERVER_INFO: {}}, level="info")
        self.assertEqual(
            [(one["method"], one["params"]) for one in sink.notes],
            [
                ("notifications/message", {"level": "info"}),
                ("notifications/progress", {"level": "info"}),
            ],
        )
        self.server.last.sink.notification({"jsonrpc": "2.0", "method": "notifications/message"})
        self.assertEqual(self.strays(), ["notification"] * 4)

    def test_unknown_result(self) -> None:
        """A result of a type nobody knows is an error; nothing of it reaches the client."""
        for result in ({"resultType": "task", "taskId": "t"}, {"resultType": "new"}):
            sink, _ = self.call("tools/call", name="x")
            self.server.last.answer(result=result)
            self.assertEqual(sink.error["code"], -32603)
            self.assertNotIn("task", sink.error["message"])
        self.assert_idle()

    def test_result_that_is_no_object(self) -> None:
        """What is no result is an error."""
        sink, _ = self.call("tools/call", name="x")
        self.server.last.answer(result=[1])
        self.assertEqual(sink.error["code"], -32603)

    def test_rounds_of_other_methods(self) -> None:
        """Only what may ask for input by the specification may do so."""
        for method in ("tools/list", "completion/complete"):
            sink, _ = self.call(method)
            self.server.last.ask("state", q=FORM)
            self.assertEqual(sink.error["code"], -32603)
        self.assertEqual(self.inbox.asked, [])

    def test_failures(self) -> None:
        """A failure is the client's to know, but for a session that only it has."""
        for reason, told in (
            (Reason.UPSTREAM_FAILED, Reason.UPSTREAM_FAILED),
            (Reason.UPSTREAM_TIMEOUT, Reason.UPSTREAM_TIMEOUT),
            (Reason.SESSION_NOT_FOUND, Reason.UPSTREAM_FAILED),
        ):
            sink, _ = self.call("tools/call", name="x")
            self.server.last.sink.failed(UpstreamFailure(reason))
            self.assertIs(sink.failure.reason, told)
        self.assertEqual(self.inbox.closings, [])
        self.assert_idle()

    def test_wrong_era(self) -> None:
        """A server that has changed its era ends the session, so that the next one finds out."""
        other, _ = self.call("prompts/get", name="p")
        sink, _ = self.call("tools/call", name="x")
        self.server.last.answer(error={"code": -32022, "message": "no"})
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_CHANGED)
        self.assertEqual([one.reason for one in self.inbox.closings], [Reason.UPSTREAM_CHANGED])
        self.assertIs(other.failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assert_idle()

    def test_era_found_wrong_below(self) -> None:
        """The same if whoever is below has found that out."""
        for reason in (Reason.UPSTREAM_ERA, Reason.UPSTREAM_CHANGED):
            self.link = self.open(self.inbox)
            self.server.failure = UpstreamFailure(reason)
            sink, _ = self.call("tools/call", name="x")
            self.assertIs(sink.failure.reason, reason)
            self.assertIs(self.inbox.closings[-1].reason, reason)
        self.assertEqual(len(self.inbox.closings), 2)


class RoundTests(HandshakeCase):
    """Requests whose server wants to know something."""

    def test_a_round(self) -> None:
        """The client is asked, and the request comes again with its answers and the state."""
        sink, call = self.call("tools/call", id=5, name="x", arguments={"a": 1})
        first = self.server.last
        first.ask("state", q=FORM, r=ROOTS)
        self.assertEqual(first.link.closed, 1)
        self.assertEqual(
            [(one["method"], one["params"]) for one, _ in self.inbox.asked],
            [("elicitation/create", {"message": "who?"}), ("roots/list", {})],
        )
        self.assertEqual([related for _, related in self.inbox.asked], [call, call])
        self.reply(1, result={"roots": []})
        self.assertEqual(len(self.server.exchanges), 1)
        self.reply(0, result=ACCEPTED)
        second = self.server.last
        self.assertEqual(second.outbound.id, 5)
        expected = {
            **first.params,
            "inputResponses": {"r": {"roots": []}, "q": ACCEPTED},
            "requestState": "state",
        }
        self.assertEqual(second.params, expected)
        second.complete(content=[])
        self.assertEqual(sink.result, {"content": []})
        self.assert_idle()

    def test_each_round_for_itself(self) -> None:
        """A further round has its own answers and state, and neither where none is wanted."""
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("one", q=FORM)
        self.reply(0, result=ACCEPTED)
        self.server.last.ask(None, s=SAMPLE)
        self.reply(1, result={"role": "assistant"})
        params = self.server.last.params
        self.assertEqual(params["inputResponses"], {"s": {"role": "assistant"}})
        self.assertNotIn("requestState", params)
        self.server.last.complete()
        self.assertEqual(sink.result, {})

    def test_what_a_client_cannot_forge(self) -> None:
        """Answers and state in the client's own request are nobody's."""
        self.call("tools/call", name="x", inputResponses={"q": 1}, requestState="s", task={})
        self.assertEqual(self.server.last.params.keys(), {"name", "_meta"})

    def test_ids(self) -> None:
        """No two questions of a session have the same id, whichever calls they are of."""
        for number in range(2):
            self.call("tools/call", id=1, name="x")
            self.server.exchanges[number].ask("s", q=FORM, r=ROOTS)
        ids = [message["id"] for message, _ in self.inbox.asked]
        self.assertEqual(len(set(ids)), 4)

    def test_two_calls(self) -> None:
        """Answers reach the call that asked, though both use one id and one key."""
        sinks = [self.call("tools/call", id=1, name=name)[0] for name in ("a", "b")]
        for number, exchange in enumerate(self.server.exchanges[:2]):
            exchange.ask(f"state {number}", q=FORM)
        self.reply(1, result={"action": "accept", "content": {"for": "b"}})
        self.reply(0, result={"action": "accept", "content": {"for": "a"}})
        again = self.server.exchanges[2:]
        self.assertEqual(
            [
                (
                    one.params["name"],
                    one.params["inputResponses"]["q"]["content"]["for"],
                    one.params["requestState"],
                )
                for one in again
            ],
            [("b", "b", "state 1"), ("a", "a", "state 0")],
        )
        for one in again:
            one.complete(name=one.params["name"])
        self.assertEqual([sink.result["name"] for sink in sinks], ["a", "b"])
        self.assert_idle()

    def test_refused_elicitation(self) -> None:
        """Who refuses a form has cancelled it, and the server goes on with that."""
        self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM)
        self.reply(0, error={"code": -1, "message": "no"})
        self.assertEqual(self.server.last.params["inputResponses"], {"q": {"action": "cancel"}})

    def test_refused_sampling(self) -> None:
        """A refused sampling has no form in the server's era: the call ends, clearly."""
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM, s=SAMPLE)
        self.reply(1, error={"code": -1, "message": "rejected"})
        self.assertIn("sampling/createMessage", sink.error["message"])
        self.assertEqual(self.inbox.taken_back, [self.inbox.asked[0][0]["id"]])
        self.reply(0, result=ACCEPTED)
        self.assertEqual(self.strays(), ["late"])
        self.assert_idle()

    def test_undeclared(self) -> None:
        """A client is never asked what it did not say it could answer."""
        inbox = ClientInbox()
        link = self.open(inbox, {"elicitation": {}})
        sink, _ = self.call("tools/call", link=link, name="x")
        self.server.last.ask("s", q=FORM, s=SAMPLE)
        self.assertEqual((inbox.asked, sink.error["code"]), ([], -32603))
        self.assert_idle()

    def test_refused_at_once(self) -> None:
        """A session that refuses a question before the next one is asked."""
        self.inbox.reply = lambda message: self.link.respond(
            {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32603, "message": "full"}}
        )
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM, r=ROOTS, p=FORM)
        self.assertIn("roots/list", sink.error["message"])
        self.assertEqual(len(self.inbox.asked), 2)
        self.assert_idle()

    def test_answered_at_once(self) -> None:
        """Rounds that take no time at all, to their bound."""
        self.inbox.reply = lambda message: self.link.respond(
            {"jsonrpc": "2.0", "id": message["id"], "result": ACCEPTED}
        )
        self.server.at_once = lambda exchange: exchange.ask("s", q=FORM, p=FORM)
        sink, _ = self.call("tools/call", name="x")
        self.assertIn("too many times", sink.error["message"])
        self.assertEqual((len(self.server.exchanges), len(self.inbox.asked)), (4, 6))
        self.assert_idle()

    def test_only_a_state(self) -> None:
        """A server that asks for patience is asked again later and later, and not for ever."""
        sink, _ = self.call("tools/call", name="x")
        came: list[float] = []

        def again(exchange: Exchange) -> None:
            came.append(self.clock.seconds())
            exchange.ask(f"state {len(came)}")

        self.server.at_once = again
        self.server.last.ask("state 0")
        self.clock.pump([0.5] * 30)
        self.assertEqual(came, [1.0, 3.0, 6.0])
        states = [one.params["requestState"] for one in self.server.exchanges[1:]]
        self.assertEqual(states, ["state 0", "state 1", "state 2"])
        self.assertIn("too many times", sink.error["message"])
        self.assert_idle()

    def test_time_of_people(self) -> None:
        """All rounds together have a time, and then nobody waits for anything any more."""
        sink, _ = self.call("tools/call", name="x")
        self.clock.advance(60)
        self.server.last.ask("s", q=FORM)
        self.clock.advance(39)
        self.assertEqual(sink.ends, [])
        self.clock.advance(1)
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.inbox.taken_back, [self.inbox.asked[0][0]["id"]])
        self.reply(0, result=ACCEPTED)
        self.assertEqual((len(self.server.exchanges), self.strays()), (1, ["late"]))
        self.assert_idle()

    def test_time_at_the_server(self) -> None:
        """The same when it is the server that draws it out."""
        sink, _ = self.call("tools/call", name="x")
        self.clock.advance(100)
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_TIMEOUT)
        self.assertEqual(self.server.last.call.cancelled, "timeout")
        self.assert_idle()

    def test_too_many_questions_at_once(self) -> None:
        """A round beyond its bound is not put to the client at all."""
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("s", **{f"q{number}": FORM for number in range(5)})
        self.assertIn("too many questions", sink.error["message"])
        self.assertEqual(self.inbox.asked, [])

    def test_too_many_questions_of_a_session(self) -> None:
        """Questions of all calls count together; room comes back with the answers."""
        first, _ = self.call("tools/call", name="x")
        self.server.last.ask("s", a=FORM, b=FORM, c=FORM)
        second, _ = self.call("tools/call", name="y")
        self.server.last.ask("s", a=FORM, b=FORM)
        self.assertIn("Too many questions", second.error["message"])
        for number in range(3):
            self.reply(number, result=ACCEPTED)
        third, _ = self.call("tools/call", name="z")
        self.server.last.ask("s", a=FORM, b=FORM)
        self.assertEqual((first.ends, third.ends), ([], []))

    def test_large_rounds(self) -> None:
        """Neither questions nor answers of a round may be larger than its bound."""
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("x" * 1000, q=FORM)
        self.assertIn("too much", sink.error["message"])
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM)
        self.reply(0, result={"action": "accept", "content": {"a": "x" * 1000}})
        self.assertIn("too large", sink.error["message"])
        self.assert_idle()

    def test_progress_goes_on(self) -> None:
        """A server counts anew in each round; the client must not see its progress go back."""
        sink, _ = self.call("tools/call", name="x", _meta={"progressToken": 1})
        for done in (1, 2):
            self.server.last.note("progress", progressToken=1, progress=done)
        self.server.last.ask("s", q=FORM)
        self.reply(0, result=ACCEPTED)
        for more in (1, 2, 3, "odd", True):
            self.server.last.note("progress", progressToken=1, progress=more)
        self.assertEqual([one["params"]["progress"] for one in sink.notes], [1, 2, 3, "odd", True])

    def test_wrong_era_in_a_round(self) -> None:
        """A server may change between two rounds."""
        sink, _ = self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM)
        self.reply(0, result=ACCEPTED)
        self.server.last.answer(error={"code": -32022, "message": "no"})
        self.assertIs(sink.failure.reason, Reason.UPSTREAM_CHANGED)

    def test_failure_in_a_round(self) -> None:
        """A server may fail between two rounds."""
        for fail in (
            lambda: setattr(self.server, "failure", LOST),
            lambda: setattr(self.server, "at_once", lambda exchange: exchange.sink.failed(LOST)),
        ):
            self.server.failure = self.server.at_once = None
            sink, _ = self.call("tools/call", name="x")
            self.server.last.ask("s", q=FORM)
            fail()
            self.reply(-1, result=ACCEPTED)
            self.assertIs(sink.failure, LOST)
        self.assert_idle()


class EndTests(HandshakeCase):
    """Cancellation, and the end of the link, in every state of a request."""

    def stages(self) -> "list[Any]":
        """Ways to bring a call into each of its states; each gives its sink and the call."""

        def waiting_for_a_link() -> Any:
            self.server.held = []
            return self.call("tools/call", name="x")

        def waiting_for_schemas() -> Any:
            self.clock.advance(301)
            self.server.slow_lists = []
            return self.call("tools/call", name="x")

        def running() -> Any:
            return self.call("tools/call", name="x")

        def asking() -> Any:
            made = self.call("tools/call", name="x")
            self.server.last.ask("s", q=FORM, r=ROOTS)
            return made

        def half_answered() -> Any:
            made = asking()
            self.reply(-1, result={"roots": []})
            return made

        def pausing() -> Any:
            made = self.call("tools/call", name="x")
            self.server.last.ask("s")
            return made

        def in_the_next_round() -> Any:
            made = self.call("tools/call", name="x")
            self.server.last.ask("s", q=FORM)
            self.reply(-1, result=ACCEPTED)
            return made

        return [
            waiting_for_a_link,
            waiting_for_schemas,
            running,
            asking,
            half_answered,
            pausing,
            in_the_next_round,
        ]

    def settle(self) -> None:
        """Let everything happen that was still on its way."""
        for waiting in self.server.held or []:
            waiting.callback(self.server.link())
        for listing in self.server.slow_lists or []:
            listing.complete(tools=[])
        self.server.held = self.server.slow_lists = None
        self.clock.advance(50)

    def test_cancel(self) -> None:
        """Nothing runs on and the sink hears no more, wherever the call was."""
        for stage in self.stages():
            with self.subTest(stage.__name__):
                sink, call = stage()
                asked, before = len(self.inbox.asked), len(self.inbox.taken_back)
                sent = len(self.server.exchanges)
                call.cancel("enough")
                call.cancel("twice")
                self.settle()
                self.assertEqual(sink.ends, [])
                self.assertEqual(len(self.server.exchanges), sent)
                for number in range(asked):
                    self.reply(number, result=ACCEPTED)
                self.assertEqual(len(self.server.exchanges), sent)
                open_ones = {"asking": 2, "half_answered": 1}.get(stage.__name__, 0)
                self.assertEqual(len(self.inbox.taken_back) - before, open_ones)
                if stage.__name__ in ("running", "in_the_next_round"):
                    self.assertEqual(self.server.last.call.cancelled, "enough")
                    self.server.last.complete()
                    self.assertEqual(sink.ends, [])
                self.assert_idle()

    def test_close(self) -> None:
        """The end of the link is the end of the call, told to its sink."""
        for stage in self.stages():
            with self.subTest(stage.__name__):
                self.link = self.open(self.inbox)
                sink, _ = stage()
                before = len(self.inbox.taken_back)
                self.successResultOf(self.link.close())
                self.assertIs(sink.failure.reason, Reason.UPSTREAM_UNAVAILABLE)
                self.settle()
                self.assertEqual(len(self.inbox.taken_back), before)
                self.assert_idle()

    def test_hold(self) -> None:
        """Nothing runs at the server while its question is asked, so there is nothing to stop."""
        _, call = self.call("tools/call", name="x")
        self.server.last.ask("s", q=FORM)
        call.hold()
        self.reply(0, result=ACCEPTED)
        call.release()
        self.assertEqual(self.server.last.call.held, 0)


class MixTests(HandshakeCase):
    """Many calls at once."""

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.tuples(st.sampled_from("nrac"), st.integers(0, 9)), max_size=40))
    def test_never_mixed(self, script: list[tuple[str, int]]) -> None:
        """Whatever the order of calls, rounds, answers and ends, nothing reaches another call."""
        self.setUp()
        sinks: dict[str, Any] = {}
        calls: dict[str, Any] = {}
        for what, number in script:
            running = [
                one
                for one in self.server.exchanges
                if not one.link.closed and one.call.cancelled is None
            ]
            if what == "n":
                name = f"call {len(sinks)}"
                sinks[name], calls[name] = self.call("tools/call", id=1, name=name)
            elif what == "r" and running:
                one = running[number % len(running)]
                one.ask(f"state of {one.params['name']}", q=FORM)
            elif what == "a" and self.inbox.asked:
                place = number % len(self.inbox.asked)
                related = self.inbox.asked[place][1]
                owner = next(name for name, call in calls.items() if call is related)
                self.reply(place, result={"action": "accept", "content": {"owner": owner}})
            elif what == "c" and running:
                one = running[number % len(running)]
                one.complete(owner=one.params["name"])
        for one in self.server.exchanges:
            name = one.params["name"]
            if "inputResponses" in one.params:
                answer = one.params["inputResponses"]["q"]
                self.assertEqual(answer["content"]["owner"], name)
                self.assertEqual(one.params["requestState"], f"state of {name}")
        for name, sink in sinks.items():
            for end in sink.ends:
                if "result" in end:
                    self.assertEqual(end["result"]["owner"], name)
        self.link.close()
        self.assert_idle()
