"""Streams and the credentials they were opened with."""

from datetime import UTC, datetime
from typing import Any

from attrs import define, evolve
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.policy.principal import Principal, Rights
from mcpguard.upstream.link import Eras
from tests.pipeline.rig import MODERN, MemoryOutlet, MemoryUpstream, Rig, api_key

PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
CALL = {"name": "slow"}
NO_RULES = Rights()


class CredentialTimerTests(SynchronousTestCase):
    """Streams that end with their caller's credentials."""

    def setUp(self) -> None:
        """A key that is good for a thousand seconds, and its session."""
        expires_at = datetime.fromtimestamp(1000, UTC)
        self.rig = Rig(keys=(evolve(api_key("alice"), expires_at=expires_at),))
        self.headers = {"Mcp-Session-Id": self.rig.handshake()}

    def get(self, last: str | None = None) -> Any:
        """Open the session's stream, or resume one."""
        headers = {**self.headers, **({} if last is None else {"Last-Event-ID": last})}
        return self.rig.send(b"", method="GET", headers=headers, accept="text/event-stream")

    def test_the_stream_ends(self) -> None:
        """A stream is cut when the key expires."""
        stream = self.get()
        self.rig.clock.advance(1001)
        self.assertTrue(stream.finished)

    def test_one_timer_for_all_its_connections(self) -> None:
        """A client that comes back again and again does not leave a timer for each time."""
        for _ in range(50):
            self.get().leave()
        for _ in range(50):
            stream = self.get("0-0")
        self.assertEqual(len(self.rig.clock.getDelayedCalls()), 1)
        self.rig.clock.advance(1001)
        self.assertTrue(stream.finished)

    def test_no_timer_for_a_stream_that_is_over(self) -> None:
        """Nor does reading the rest of a stream that has ended, nor the session's end."""
        outlet = self.rig.call("tools/call", {"name": "x"}, headers=self.headers)
        link = self.rig.upstream.links[0]
        link.requests[0][1].notification(
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
        )
        link.answer(0, result={"content": []})
        for _ in range(50):
            self.assertTrue(self.get(outlet.event_ids[0]).finished)
        self.get()
        self.rig.send(b"", method="DELETE", headers=self.headers)
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])


@define(eq=False)
class Renewing:
    """Signs the rig's callers in with the expiry and rights that the test wants."""

    known: Any
    expires_at: float | None = 100.0
    rights: Rights = NO_RULES

    def authenticate(self, incoming: Any, now: float) -> Principal:
        """See the chain."""
        found: Principal = self.known.authenticate(incoming, now)
        return evolve(found, expires_at=self.expires_at, rights=self.rights)


class RenewedCase(SynchronousTestCase):
    """Base: a caller whose tokens last a hundred seconds."""

    def setUp(self) -> None:
        """One server of both eras, and no session yet."""
        eras = Eras(legacy=True, modern=(MODERN,))
        listed: dict[str, Any] = {"result": {"tools": []}}
        upstream = MemoryUpstream(
            known_eras=eras,
            # The headers of stateless calls are compared with the tools' schemas.
            reply=lambda outbound: listed if outbound.method == "tools/list" else None,
        )
        self.rig = Rig(upstream=upstream)
        self.tokens = Renewing(self.rig.pipeline.callers.authenticator)
        self.rig.pipeline.callers.authenticator = self.tokens

    def session(self, version: str = "2025-11-25") -> dict[str, str]:
        """The header of a new session."""
        return {"Mcp-Session-Id": self.rig.handshake(version=version)}

    def get(self, headers: dict[str, str], last: str | None = None) -> MemoryOutlet:
        """Open the session's stream, or resume one."""
        headers = {**headers, **({} if last is None else {"Last-Event-ID": last})}
        return self.rig.send(b"", method="GET", headers=headers, accept="text/event-stream")

    def say(self, message: Any = PROGRESS) -> None:
        """The server says something while it works on its last request."""
        self.rig.upstream.links[-1].requests[-1][1].notification(message)

    def cancelled(self) -> str | None:
        """Why the last request was stopped at the server."""
        return self.rig.upstream.links[-1].requests[-1][2].cancelled

    def answer(self) -> None:
        """The server answers its last request."""
        self.rig.upstream.links[-1].answer(-1, result={"content": []})

    def assertNoTimers(self) -> None:
        """Nothing is left to happen."""
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])


class FresherTokenTests(RenewedCase):
    """A session that goes on with other tokens than it began with."""

    def test_the_stream_ends_the_session_goes_on(self) -> None:
        """A stream ends with the token it was opened by, whatever came since, and only it."""
        headers = self.session()
        old = self.get(headers)
        self.rig.clock.advance(50)
        self.tokens.expires_at = 1000.0
        self.rig.call("ping", headers=headers)
        self.rig.clock.advance(49.5)
        self.assertFalse(old.finished)
        self.rig.clock.advance(0.5)
        self.assertTrue(old.finished)
        new = self.get(headers)
        self.assertEqual(new.status, 200)
        self.rig.clock.advance(850)
        self.assertFalse(new.finished)
        self.rig.clock.advance(50)
        self.assertTrue(new.finished)
        self.assertNoTimers()

    def test_an_older_token_ends_no_other_stream(self) -> None:
        """Nor does a token that ends sooner take a stream of a later one along."""
        headers = self.session()
        self.tokens.expires_at = 1000.0
        stream = self.get(headers)
        self.tokens.expires_at = 100.0
        self.rig.call("ping", headers=headers)
        self.rig.clock.advance(500)
        self.assertFalse(stream.finished)

    def test_rights_of_the_latest(self) -> None:
        """What a session is told is judged by the rights of the token shown last."""
        headers = self.session()
        stream = self.get(headers)
        inbox = self.rig.upstream.inboxes[0]
        told = {
            "jsonrpc": "2.0",
            "method": "notifications/resources/updated",
            "params": {"uri": "file:///a"},
        }
        for rights, count in ((Rights(), 1), (Rights(resources=()), 1), (Rights(), 2)):
            self.tokens.rights = rights
            self.rig.call("ping", headers=headers)
            inbox.notification(told)
            self.assertEqual(len(stream.events), count)


class RunningCallTests(RenewedCase):
    """Calls that take longer than their caller's token lasts."""

    def test_primed_stream(self) -> None:
        """Its connection ends; the call goes on, and a fresher token gets the rest."""
        headers = self.session()
        outlet = self.rig.call("tools/call", CALL, headers=headers)
        self.say()
        self.assertTrue(outlet.streamed)
        self.rig.clock.advance(99.5)
        self.assertFalse(outlet.finished)
        self.rig.clock.advance(0.5)
        self.assertTrue(outlet.finished)
        self.assertIsNone(self.cancelled())
        self.tokens.expires_at = 1000.0
        self.answer()
        rest = self.get(headers, last=outlet.event_ids[-1])
        self.assertEqual([event["id"] for event in rest.events], [1])
        self.assertTrue(rest.finished)
        self.assertNoTimers()

    def test_resumed_stream(self) -> None:
        """One that a fresher token has resumed ends with that one."""
        headers = self.session()
        outlet = self.rig.call("tools/call", CALL, headers=headers)
        self.say()
        outlet.leave()
        self.tokens.expires_at = 200.0
        rest = self.get(headers, last=outlet.event_ids[-1])
        self.rig.clock.advance(150)
        self.assertFalse(rest.finished)
        self.say()
        self.assertEqual(len(rest.events), 1)
        self.rig.clock.advance(50)
        self.assertTrue(rest.finished)
        self.assertIsNone(self.cancelled())
        self.answer()
        self.assertNoTimers()

    def test_streams_without_a_way_back(self) -> None:
        """They end with an error, the call at the server too, and the audit says why."""

        def handshake_era() -> MemoryOutlet:
            return self.rig.call("tools/call", CALL, headers=self.session("2025-06-18"))

        def stateless() -> MemoryOutlet:
            return self.rig.modern("tools/call", CALL)

        def bare() -> MemoryOutlet:
            return self.rig.call("tools/call", CALL)

        for number, ask in enumerate((handshake_era, stateless, bare)):
            self.tokens.expires_at = self.rig.clock.seconds() + 100.0
            outlet = ask()
            self.say()
            self.assertTrue(outlet.streamed, number)
            self.rig.clock.advance(99.5)
            self.assertFalse(outlet.finished)
            self.rig.clock.advance(0.5)
            self.assertTrue(outlet.finished)
            self.assertIn("expired", outlet.events[-1]["error"]["message"])
            self.assertIsNotNone(self.cancelled())
            event = self.rig.trail.outcomes[-1]
            self.assertEqual((event.event_type, event.status), ("ToolCall", "cancelled"))
            self.assertEqual(event.reason, Reason.EXPIRED_CREDENTIALS.value)
            self.say()
            self.answer()
            self.assertIn("error", outlet.events[-1])
            self.assertNoTimers()

    def test_opened_by_patience(self) -> None:
        """A stream that only shows life ends as well."""
        outlet = self.rig.modern("tools/call", CALL)
        self.rig.clock.advance(16)
        self.assertTrue(outlet.streamed)
        self.rig.clock.advance(84)
        self.assertTrue(outlet.finished)

    def test_one_answer(self) -> None:
        """A call that has no stream by then gets none, and its one answer as JSON."""
        for ask in (
            lambda: self.rig.call("tools/call", CALL, headers=self.session()),
            lambda: self.rig.modern("tools/call", CALL),
            lambda: self.rig.call("tools/call", CALL),
        ):
            self.tokens.expires_at = self.rig.clock.seconds() + 10.0
            outlet = ask()
            self.rig.clock.advance(20)
            self.say()
            self.assertFalse(outlet.streamed)
            self.assertFalse(outlet.finished)
            self.answer()
            self.assertEqual(outlet.json["result"]["content"], [])
            self.assertNoTimers()

    def test_no_timers_for_quick_calls(self) -> None:
        """A call that is answered at once costs no timer of its own."""
        headers = self.session()
        for _ in range(5):
            self.rig.call("tools/call", CALL, headers=headers)
            # Patience has one for all that are waited for.
            self.assertEqual(len(self.rig.clock.getDelayedCalls()), 1)
            self.answer()
        self.assertNoTimers()

    def test_listens(self) -> None:
        """A listen ends with its result, as when the gateway stops."""
        outlet = self.rig.modern("subscriptions/listen", {"notifications": {}}, id="L")
        self.say(
            {
                "jsonrpc": "2.0",
                "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": {}},
            }
        )
        self.rig.clock.advance(100)
        self.assertTrue(outlet.finished)
        self.assertEqual(outlet.events[-1]["id"], "L")
        self.assertIn("result", outlet.events[-1])
        self.assertNoTimers()
