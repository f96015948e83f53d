"""The bundled demo server as a stdio upstream, in both eras."""

import sys

from twisted.internet.defer import gatherResults

from mcpguard.config.settings import Secret
from mcpguard.errors import Reason
from mcpguard.upstream.link import Outbound
from mcpguard.upstream.stdio import StdioUpstream
from tests.live.stdio_servers import ROOT, LiveSink, StdioLiveCase
from tests.upstream.stdio_rig import ALICE, BOB, MODERN_META


class DemoTests(StdioLiveCase):
    """Probing, calls, progress, cancellation and subscriptions with a server not made for this."""

    def demo(self, era: str = "both") -> StdioUpstream:
        """The demo server, probed."""
        return self.upstream(
            command=sys.executable,
            args=("-m", "mcpguard.demo", "--era", era),
            env={"PYTHONPATH": Secret(ROOT), "MARK": Secret(self.mark)},
            era="auto",
        )

    async def test_eras(self) -> None:
        """What it is told to speak is what is found."""
        for era, legacy, modern in (
            ("both", True, True),
            ("legacy", True, False),
            ("modern", False, True),
        ):
            eras = await self.demo(era).eras()
            self.assertEqual((eras.legacy, bool(eras.modern)), (legacy, modern), era)

    async def test_session(self) -> None:
        """Ten sessions at once, each with a slow call and its progress."""
        upstream = self.demo()
        opened = [await self.open(upstream, f"api_key:{n}") for n in range(10)]
        sinks = [self.call(link, "slow", {"seconds": 0.4, "steps": 4}) for link, _ in opened]
        await gatherResults([sink.ended for sink in sinks])
        for sink in sinks:
            self.assertIn("result", sink.answered)
            amounts = [note["params"]["progress"] for note in sink.notes]
            self.assertEqual(amounts, sorted(amounts))
            self.assertGreater(len(amounts), 2)

    async def test_stateless(self) -> None:
        """Two principals on one child, log lines asked for by one of them only."""
        upstream = self.demo()
        first = self.call(
            await upstream.stateless(ALICE, ""), "echo", {"message": "a"}, stateless=True
        )
        second = self.call(
            await upstream.stateless(BOB, ""), "echo", {"message": "b"}, stateless=True
        )
        await gatherResults([first.ended, second.ended])
        self.assertEqual(first.answered["result"]["content"][0]["text"], "a")
        self.assertEqual(second.answered["result"]["content"][0]["text"], "b")

    async def test_cancel(self) -> None:
        """A cancelled call is silent, and the server goes on."""
        link, _ = await self.open(self.demo())
        slow = self.call(link, "slow", {"seconds": 30, "steps": 1})
        await self.pause(0.1)
        assert slow.call is not None
        slow.call.cancel("enough")
        echo = self.call(link, "echo", {"message": "still here"})
        await echo.ended
        self.assertIn("result", echo.answered)
        self.assertEqual(slow.ends, [])

    async def test_timeout(self) -> None:
        """A call beyond its time fails and is cancelled at the server."""
        upstream = self.upstream(
            command=sys.executable,
            args=("-m", "mcpguard.demo"),
            env={"PYTHONPATH": Secret(ROOT), "MARK": Secret(self.mark)},
            timeout_secs=1.0,
        )
        link, _ = await self.open(upstream)
        slow = self.call(link, "slow", {"seconds": 30, "steps": 1})
        await slow.ended
        self.assertEqual(slow.failure.reason, Reason.UPSTREAM_TIMEOUT)

    async def test_listen(self) -> None:
        """A subscription stream is acknowledged, and ends when the caller leaves."""
        link = await self.demo("modern").stateless(ALICE, "")
        params = {"notifications": {"toolsListChanged": True}, "_meta": MODERN_META}
        sink = LiveSink()
        call = link.request(
            Outbound("mine", "subscriptions/listen", params, "2026-07-28", ALICE, endless=True),
            sink,
        )
        await self.until(lambda: sink.notes, "no acknowledgement")
        self.assertEqual(sink.notes[0]["method"], "notifications/subscriptions/acknowledged")
        self.assertEqual(
            sink.notes[0]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "mine"
        )
        call.cancel("gone")
        self.assertEqual(sink.ends, [])
