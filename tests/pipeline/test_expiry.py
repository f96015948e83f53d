"""Streams and the credentials they were opened with."""

from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.pipeline.rig import Rig, api_key


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
