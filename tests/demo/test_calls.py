"""Tests of running calls and the two kinds of client."""

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.calls import (
    Call,
    Cancelled,
    CannotAsk,
    InputRequired,
    ModernClient,
    Running,
    Session,
    has_capability,
)
from mcpguard.demo.messages import (
    META_CAPABILITIES,
    META_LOG_LEVEL,
    META_VERSION,
    MISSING_CAPABILITY,
    Message,
    ProtocolError,
)


class CallTests(SynchronousTestCase):
    """`Call` and what it sends on the way."""

    def setUp(self) -> None:
        """A session whose client can show forms and sends what we note."""
        self.sent: list[Message] = []
        self.unattached: list[Message] = []
        self.session = Session(self.unattached.append, max_running=2, ask_timeout=0.01)
        self.session.agree("2025-11-25", {"elicitation": {}})

    def call(self, **meta: object) -> Call:
        """A call with this ``_meta``."""
        message = {"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"_meta": meta}}
        return Call(message, self.session, self.sent.append)

    def test_progress_needs_a_token(self) -> None:
        """Progress is reported under the client's token, typed as given, or not at all."""
        self.call().progress(1, 2, "half")
        self.call(progressToken=True).progress(1, 2, "half")
        self.assertEqual(self.sent, [])
        for token in ("1", 1, 0):
            self.call(progressToken=token).progress(1, 2, "half")
            self.assertEqual(
                self.sent.pop()["params"],
                {"progressToken": token, "progress": 1, "total": 2, "message": "half"},
            )

    def test_progress_of_2024(self) -> None:
        """The first version had no message in progress notifications."""
        self.session.agree("2024-11-05", {})
        self.call(progressToken=1).progress(1, 2, "half")
        self.assertNotIn("message", self.sent[0]["params"])

    def test_log_level(self) -> None:
        """Lines below the wanted level are not sent."""
        self.session.log_level = "warning"
        self.call().log("info", "a")
        self.call().log("error", "b")
        self.assertEqual([message["params"]["data"] for message in self.sent], ["b"])

    def test_cancelled_is_silent(self) -> None:
        """After cancellation nothing is sent and the next pause ends the work."""
        call = self.call(progressToken=1)
        call.cancel()
        call.progress(1, 2, "half")
        call.log("error", "b")
        self.assertEqual(self.sent, [])
        self.assertRaises(Cancelled, call.pause, 60)

    def test_ask(self) -> None:
        """A question goes out on the call's stream and its answer comes back once."""
        call = Call({"id": 1, "method": "x"}, self.session, self.reply)
        answer = call.ask("k", "elicitation", "elicitation/create", {"message": "?"})
        self.assertEqual(answer, {"action": "accept"})
        self.assertEqual(self.sent[0]["method"], "elicitation/create")
        self.assertEqual(self.unattached, [])

    def reply(self, message: Message) -> None:
        """Answer a question at once, as a client would, after answers that do not count."""
        self.sent.append(message)
        request_id = message["id"]
        strangers: list[object] = [None, 1, [], "demo-999"]
        for odd in strangers:
            self.session.reply({"id": odd, "result": {"wrong": True}})
        self.session.reply({"id": request_id, "result": {"action": "accept"}})
        self.session.reply({"id": request_id, "result": {"wrong": True}})

    def test_ask_refused(self) -> None:
        """An error instead of a result is a failure of the tool."""
        call = Call(
            {"id": 1, "method": "x"},
            self.session,
            lambda message: self.session.reply({"id": message["id"], "error": {"code": 1}}),
        )
        self.assertRaises(CannotAsk, call.ask, "k", "elicitation", "elicitation/create", {})

    def test_ask_in_vain(self) -> None:
        """A client that does not answer in time is told to forget the question."""
        self.assertRaises(CannotAsk, self.call().ask, "k", "elicitation", "elicitation/create", {})
        self.assertEqual(self.unattached[0]["method"], "notifications/cancelled")
        self.assertEqual(self.unattached[0]["params"], {"requestId": self.sent[0]["id"]})
        late = {"id": self.sent[0]["id"], "result": {}}
        self.session.reply(late)

    def test_ask_cancelled(self) -> None:
        """Cancelling a call takes its open question back, too."""
        call = self.call()
        call.cancel()
        self.assertRaises(Cancelled, call.ask, "k", "elicitation", "elicitation/create", {})
        self.assertEqual(self.unattached[0]["method"], "notifications/cancelled")

    def test_ask_without_capability(self) -> None:
        """What the client did not declare is not asked."""
        self.assertRaises(CannotAsk, self.call().ask, "k", "roots", "roots/list", {})
        self.assertEqual(self.sent, [])


class ModernClientTests(SynchronousTestCase):
    """`ModernClient` reads everything from one request."""

    def client(self, answers: Message, **meta: object) -> ModernClient:
        """A client that can list roots."""
        full = {META_VERSION: "2026-07-28", META_CAPABILITIES: {"roots": {}}, **meta}
        return ModernClient({"params": {"_meta": full}}, answers=answers)

    def ask(self, client: ModernClient, capability: str = "roots") -> Message:
        """Ask for the roots."""
        call = Call({"id": 1, "method": "x"}, client, lambda message: None)
        return call.ask("key", capability, "roots/list", {"a": 1})

    def test_rounds(self) -> None:
        """The first round ends in a question, the next brings the answer; others are ignored."""
        question = self.assertRaises(InputRequired, self.ask, self.client({"other": {}}))
        self.assertEqual(question.requests, {"key": {"method": "roots/list", "params": {"a": 1}}})
        self.assertRaises(InputRequired, self.ask, self.client({"key": "text"}))
        self.assertEqual(self.ask(self.client({"key": {"roots": []}})), {"roots": []})

    def test_missing_capability(self) -> None:
        """The error names what is missing (2026-07-28, basic)."""
        problem = self.assertRaises(ProtocolError, self.ask, self.client({"key": {}}), "sampling")
        self.assertEqual(problem.code, MISSING_CAPABILITY)
        self.assertEqual(problem.data, {"requiredCapabilities": {"sampling": {}}})

    def test_log_level(self) -> None:
        """Log lines are sent to those who ask for them in the request."""
        self.assertIsNone(self.client({}).log_level)
        self.assertIsNone(self.client({}, **{META_LOG_LEVEL: "loud"}).log_level)
        self.assertEqual(self.client({}, **{META_LOG_LEVEL: "info"}).log_level, "info")


class RunningTests(SynchronousTestCase):
    """`Running` finds calls by id."""

    def call(self, request_id: str | int) -> Call:
        """A call of that id."""
        return Call(
            {"id": request_id, "method": "x"},
            Session(lambda message: None, max_running=1, ask_timeout=1),
            lambda message: None,
        )

    def test_types_of_ids(self) -> None:
        """1 and "1" are different requests."""
        running = Running(limit=2)
        number, text = self.call(1), self.call("1")
        running.add(number)
        running.add(text)
        strangers: list[object] = [None, [], {}, 2]
        for odd in strangers:
            running.cancel(odd)
        running.cancel("1")
        self.assertEqual((number.cancelled, text.cancelled), (False, True))

    def test_repeated_id(self) -> None:
        """Of two calls with one id, the newest is cancelled."""
        running = Running(limit=2)
        first, second = self.call(1), self.call(1)
        running.add(first)
        running.add(second)
        running.cancel(1)
        self.assertEqual((first.cancelled, second.cancelled), (False, True))
        running.remove(second)
        running.cancel(1)
        self.assertTrue(first.cancelled)

    def test_bound(self) -> None:
        """A full table takes a call only after another has gone; removing twice is harmless."""
        running = Running(limit=1)
        first, second = self.call(1), self.call(2)
        self.assertTrue(running.add(first))
        self.assertFalse(running.add(second))
        running.remove(first)
        running.remove(first)
        self.assertTrue(running.add(second))
        self.assertFalse(running.add(first))

    def test_cancel_all(self) -> None:
        """The end of a session cancels everything in it."""
        running = Running(limit=3)
        calls = [self.call(1), self.call(1), self.call("x")]
        for call in calls:
            running.add(call)
        running.cancel_all()
        self.assertTrue(all(call.cancelled for call in calls))


class CapabilityTests(SynchronousTestCase):
    """`has_capability`."""

    def test_elicitation_forms(self) -> None:
        """Elicitation means forms unless only other modes are declared (2025-11-25)."""
        for declared, able in (
            ({}, True),
            ({"form": {}}, True),
            ({"form": {}, "url": {}}, True),
            ({"url": {}}, False),
            (None, False),
            (True, False),
        ):
            self.assertEqual(has_capability({"elicitation": declared}, "elicitation"), able)
        self.assertFalse(has_capability({}, "roots"))
