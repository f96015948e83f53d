"""The end of a request: what is written down, what is logged, and that somebody always answers."""

from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.front.exchange import Headers
from mcpguard.observe.redaction import Redactor
from mcpguard.pipeline.trip import Trip
from mcpguard.upstream.link import (
    CallSink,
    Eras,
    InitializeRejected,
    Outbound,
    UpstreamFailure,
)
from tests.pipeline import rig as rig_module
from tests.pipeline.rig import (
    MODERN,
    MemoryCall,
    MemoryLink,
    MemoryOutlet,
    MemoryUpstream,
    Rig,
    api_key,
)

INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}


class LogTests(SynchronousTestCase):
    """The ``error_id`` a client quotes leads to the details."""

    def setUp(self) -> None:
        """Listen to the log."""
        self.logged: list[LogEvent] = []
        observer = cast("ILogObserver", self.logged.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def entry(self, error_id: str) -> LogEvent:
        """The one entry with that id."""
        (found,) = (event for event in self.logged if event.get("error_id") == error_id)
        return found

    def test_failure(self) -> None:
        """A failed call is a warning with the server's words; the client sees none of them."""
        rig = Rig()
        outlet = rig.call("tools/call", {"name": "x"})
        _, sink, _ = rig.upstream.links[0].requests[0]
        sink.failed(UpstreamFailure(Reason.UPSTREAM_FAILED, "exit code 3 of /opt/server"))
        entry = self.entry(outlet.json["error"]["data"]["error_id"])
        self.assertIs(entry["log_level"], LogLevel.warn)
        self.assertIn("exit code 3 of /opt/server", formatEvent(entry))
        self.assertEqual(entry["request_id"], rig.trail.outcomes[0].request_id)
        self.assertNotIn(b"/opt/server", outlet.body)

    def test_failure_of_a_stream(self) -> None:
        """The same when the answer had begun."""
        rig = Rig()
        outlet = rig.call("tools/call", {"name": "x"})
        rig.clock.advance(16)
        _, sink, _ = rig.upstream.links[0].requests[0]
        sink.failed(UpstreamFailure(Reason.UPSTREAM_FAILED, "exit code 3"))
        error_id = outlet.events[-1]["error"]["data"]["error_id"]
        self.assertIn("exit code 3", formatEvent(self.entry(error_id)))
        self.assertEqual(rig.trail.outcomes[0].error_id, error_id)

    def test_refusal(self) -> None:
        """A refusal with a detail is information, and names the rule."""
        rig = Rig(keys=(api_key("alice", denied_tools=("delete_*",)),))
        outlet = rig.call("tools/call", {"name": "delete_file"})
        entry = self.entry(outlet.json["error"]["data"]["error_id"])
        self.assertIs(entry["log_level"], LogLevel.info)
        self.assertIn("delete_*", formatEvent(entry))

    def test_nothing_of_a_cause_is_taken_for_a_secret(self) -> None:
        """Why credentials are refused can be read in the log, from the first word on."""
        rig = Rig()
        rig.call("tools/list", who=None, headers={"authorization": "Bearer a b"})
        (entry,) = (event for event in self.logged if event.get("reason") == "bad_credentials")
        words = formatEvent(entry)
        self.assertIn("not the form of a token", words)
        self.assertEqual(Redactor().text(words, 1000), words)

    def test_names_from_the_wire_stay_out(self) -> None:
        """A method of the client's invention is not repeated in the log."""
        Rig().call("evil/" + "x" * 1000)
        self.assertNotIn("evil/", "".join(formatEvent(event) for event in self.logged))


class BrokenOutlet(MemoryOutlet):
    """An outlet that fails to send the first answer."""

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Fail once."""
        if not hasattr(self, "failed"):
            self.failed = True
            raise ValueError("no such header")
        super().answer(status, headers, body)


class NoSilenceTests(SynchronousTestCase):
    """Whatever goes wrong at the end, the client does not wait for ever."""

    def outlets(self, kind: type[MemoryOutlet]) -> None:
        """Let requests be answered by another kind of outlet."""
        self.patch(rig_module, "MemoryOutlet", kind)

    def assert_ended(self, rig: Rig, outlet: Any) -> None:
        """The client has an end, the trail one outcome, the log the reason."""
        self.assertEqual((outlet.status, outlet.body), (500, b""))
        self.assertEqual(len(rig.trail.outcomes), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_refusal_that_cannot_be_sent(self) -> None:
        """A refusal whose answer fails ends in a plain 500."""
        self.outlets(BrokenOutlet)
        rig = Rig()
        self.assert_ended(rig, rig.call("tools/list", who=None))

    def test_answer_that_cannot_be_sent(self) -> None:
        """So does an answer that the gateway gives itself."""

        class Rejecting(MemoryUpstream):
            def open_session(self, *args: Any) -> Any:
                raise InitializeRejected({"code": -32600, "message": "no"})

        self.outlets(BrokenOutlet)
        rig = Rig(upstream=Rejecting())
        self.assert_ended(rig, rig.call("initialize", INITIALIZE))

    def test_an_open_stream_is_ended(self) -> None:
        """After the start of a stream no status can be sent: its end says enough."""
        rig = Rig()
        outlet = rig.call("tools/call", {"name": "x"})
        rig.clock.advance(16)
        self.assertTrue(outlet.streamed)

        def no_more(*args: object) -> None:
            raise RuntimeError("a request is answered once")

        self.patch(MemoryOutlet, "answer", no_more)
        Trip(rig.pipeline.books, None, outlet).hang_up()  # type: ignore[arg-type]
        self.assertTrue(outlet.finished)


class RaisingLink(MemoryLink):
    """A link that breaks its word never to raise."""

    def request(self, outbound: Outbound, sink: CallSink) -> MemoryCall:
        """Raise."""
        raise ValueError("not foreseen")


class BrokenLinkTests(SynchronousTestCase):
    """A link that raises: the call ends as any other that failed."""

    def test_every_era(self) -> None:
        """The client is told, nothing is left running, and no timer either."""
        self.patch(rig_module, "MemoryLink", RaisingLink)
        eras = Eras(legacy=True, modern=(MODERN,))
        rig = Rig(upstream=MemoryUpstream(known_eras=eras))
        session = rig.handshake()
        for outlet in (
            rig.call("tools/call", {"name": "x"}, headers={"Mcp-Session-Id": session}),
            rig.modern("prompts/get", {"name": "x"}),
            rig.modern("subscriptions/listen", {"notifications": {}}),
            rig.call("prompts/get", {"name": "x"}),
            rig.call("ping"),
        ):
            self.assertEqual(outlet.status, 500, outlet.body)
        self.assertEqual(len(rig.trail.outcomes), 6)
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        self.assertIsNotNone(rig.pipeline.table._sessions[session].idle_since())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 5)


class SessionEventTests(SynchronousTestCase):
    """The trail of a session."""

    def test_begin_and_end(self) -> None:
        """A session leaves a beginning and an end, under the digest its requests carry too."""
        rig = Rig()
        session = rig.handshake()
        rig.send(b"", method="DELETE", headers={"Mcp-Session-Id": session})
        events = [event for event in rig.trail.events if event.event_type.startswith("Session")]
        self.assertEqual(
            [(event.event_type, event.identity_id) for event in events],
            [("SessionStarted", "alice"), ("SessionEnded", "alice")],
        )
        digests = {event.session_id for event in [*events, *rig.trail.outcomes]}
        self.assertEqual(len(digests), 1)
        self.assertNotIn(session, digests)

    def test_failed_handshake(self) -> None:
        """A handshake that fails began nothing."""
        rig = Rig()
        rig.upstream.failure = UpstreamFailure(Reason.UPSTREAM_TIMEOUT)
        rig.call("initialize", INITIALIZE)
        types = {event.event_type for event in rig.trail.events}
        self.assertFalse(types & {"SessionStarted", "SessionEnded"})
