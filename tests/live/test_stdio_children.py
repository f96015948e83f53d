"""Real children that misbehave in every way known, and what becomes of them."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from mcpguard.errors import Reason
from mcpguard.upstream import stdio, stdio_bounds
from mcpguard.upstream.crashes import CrashBounds
from mcpguard.upstream.link import UpstreamFailure
from tests.live.stdio_servers import StdioLiveCase, marked


def resident() -> int:
    """Our resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class OutputTests(StdioLiveCase):
    """What a child writes."""

    async def test_banner(self) -> None:
        """Banners and other noise on stdout are logged and dropped; answers arrive."""
        lines = self.watch_log("stdout")
        link, _ = await self.open(self.upstream("banner"))
        sink = self.call(link, "echo", {"a": 1})
        await sink.ended
        self.assertEqual(sink.answered["result"], {"echo": {"a": 1}})
        self.assertIn("*** Welcome! Listening on stdio ***", lines)
        self.assertIn("unreadable", self.books.strays())

    async def test_20_mib_line(self) -> None:
        """A line above the bound ends the child with that reason, at no cost in memory."""
        link, inbox = await self.open(self.upstream())
        before = resident()
        sinks = [self.call(link, "echo"), self.call(link, "huge")]
        await gatherResults([sink.ended for sink in sinks])
        self.assertIn("result", sinks[0].answered)
        self.assertEqual(sinks[1].failure.reason, Reason.ANSWER_TOO_LARGE)
        await self.until(lambda: inbox.closings, "the session was not told")
        self.assertLess(resident() - before, 64 * 1024 * 1024)

    async def test_large_answer_below_the_bound(self) -> None:
        """Megabytes in one line pass, in both directions."""
        link, _ = await self.open(self.upstream())
        text = "ä" * 2_000_000
        sink = self.call(link, "echo", {"text": text})
        await sink.ended
        self.assertEqual(sink.answered["result"]["echo"]["text"], text)

    async def test_stderr_flood(self) -> None:
        """A child that floods stderr is answered as fast; the log stays small and clean."""
        lines = self.watch_log("stderr")
        link, _ = await self.open(self.upstream("flood"))
        for _ in range(20):
            sink = self.call(link, "echo")
            await sink.ended
            self.assertIn("result", sink.answered)
        await self.pause(0.5)
        self.assertGreater(len(lines), 10)
        self.assertLess(len(lines), 400)


class InputTests(StdioLiveCase):
    """What a child does not read."""

    async def test_child_that_never_reads(self) -> None:
        """Requests are refused once the bound is reached, then the child is given up."""
        link, inbox = await self.open(
            self.upstream(timeout_secs=2.0, max_concurrency=1000, max_message_size=1_048_576)
        )
        self.call(link, "deafen")
        before = resident()
        sinks = [self.call(link, "echo", {"text": "x" * 100_000}) for _ in range(500)]
        busy = [sink for sink in sinks if sink.ends]
        self.assertGreater(len(busy), 450)
        self.assertEqual({sink.failure.reason for sink in busy}, {Reason.UPSTREAM_BUSY})
        self.assertLess(resident() - before, 32 * 1024 * 1024)
        await gatherResults([sink.ended for sink in sinks])
        await self.until(lambda: inbox.closings, "the child was not given up")
        reasons = {sink.failure.reason for sink in sinks if sink not in busy}
        self.assertLessEqual(reasons, {Reason.UPSTREAM_FAILED, Reason.UPSTREAM_TIMEOUT})


LONG_GRACE = 30.0
"""Nothing else here takes so long, on whatever machine."""


class EndTests(StdioLiveCase):
    """How children end, by themselves and by us."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Short grace periods."""
        await super().setUp()
        self.patch(stdio_bounds, "GRACE_SECS", 0.5)

    async def timed_stop(self, *ways: str) -> float:
        """How long closing a session with such a child takes."""
        link, _ = await self.open(self.upstream(*ways))
        self.assertNotEqual(marked(self.mark), [])
        now = self.upstreams[-1]._reactor.seconds
        started = now()
        await link.close()
        self.assertEqual(marked(self.mark), [])
        return float(now() - started)

    async def test_polite_child(self) -> None:
        """End of input is enough."""
        self.patch(stdio_bounds, "GRACE_SECS", LONG_GRACE)
        self.assertLess(await self.timed_stop(), LONG_GRACE)

    async def test_stubborn_child(self) -> None:
        """Neither end of input nor TERM impresses it, so KILL comes after two graces."""
        self.assertGreater(await self.timed_stop("stubborn"), 0.9)
        self.assertEqual(self.signals[:2], [signal.SIGTERM, signal.SIGKILL])

    async def test_grandchild_with_our_pipes(self) -> None:
        """What the server started ends with it, without waiting out any grace."""
        self.patch(stdio_bounds, "GRACE_SECS", LONG_GRACE)
        self.assertLess(await self.timed_stop("grandchild"), LONG_GRACE)

    async def test_stubborn_grandchild(self) -> None:
        """A descendant that ignores TERM is killed after a grace."""
        self.assertGreater(await self.timed_stop("stubborn-grandchild"), 0.4)
        self.assertEqual(self.signals[-2:], [signal.SIGTERM, signal.SIGKILL])

    async def test_escaped_grandchild(self) -> None:
        """A descendant in a session of its own may live on, but not with our descriptors."""
        self.addCleanup(self._end_marked)
        link, _ = await self.open(self.upstream("escapee"))
        await link.close()
        self.assertEqual(self.upstreams[-1].child_count, 0)
        self.assertEqual(len(marked(self.mark)), 1)

    def _end_marked(self) -> None:
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)

    async def test_killed_during_calls(self) -> None:
        """SIGKILL fails every running call at once, and nothing is sent again."""
        link, inbox = await self.open(self.upstream())
        sinks = [self.call(link, "gather", {"of": 100, "who": n}) for n in range(20)]
        echo = self.call(link, "echo")
        await echo.ended
        (pid,) = marked(self.mark)
        os.kill(pid, signal.SIGKILL)
        await gatherResults([sink.ended for sink in sinks])
        self.assertEqual({sink.failure.reason for sink in sinks}, {Reason.UPSTREAM_FAILED})
        await self.pause(0.2)
        self.assertEqual(len(inbox.closings), 1)
        self.assertEqual(marked(self.mark), [])

    async def test_suicide_on_a_shared_child(self) -> None:
        """A crash fails what runs; the same sessions go on with a new child."""
        upstream = self.upstream(isolation="shared")
        (alice, _), (bob, inbox) = await self.open(upstream), await self.open(upstream)
        sinks = [self.call(bob, "gather", {"of": 9, "who": 1}), self.call(alice, "die")]
        await gatherResults([sink.ended for sink in sinks])
        self.assertEqual({sink.failure.reason for sink in sinks}, {Reason.UPSTREAM_FAILED})
        again = self.call(bob, "echo", {"n": 1})
        await again.ended
        self.assertEqual(again.answered["result"], {"echo": {"n": 1}})
        self.assertEqual(inbox.closings, [])

    async def test_exit_at_start(self) -> None:
        """A server that ends at once fails the opening with that reason, not by a timeout."""
        try:
            await self.open(self.upstream("die-at-start"))
        except UpstreamFailure as failure:
            self.assertEqual(failure.reason, Reason.UPSTREAM_FAILED)
        else:
            self.fail("it opened")

    async def test_crash_loop(self) -> None:
        """A server that cannot start is tried a few times, then left alone and not ready."""
        bounds = CrashBounds(0.02, 0.1, 0.0, 5, 60.0, 60.0, 10.0)
        self.patch(stdio, "CRASH_BOUNDS", bounds)
        self.patch(stdio, "RETRY_SECS", 0.02)
        upstream = self.upstream("die-at-start")
        upstream.start()
        await self.until(lambda: upstream.standing.reason == "crash loop", "no crash loop")
        await self.until(lambda: upstream.child_count == 0, "it goes on")
        spawned = sum(event.status == "spawned" for event in self.books.events)
        await self.pause(0.5)
        self.assertEqual(sum(e.status == "spawned" for e in self.books.events), spawned)
        self.assertEqual(spawned, 5)
        self.assertFalse(upstream.standing.usable)

    async def test_missing_command(self) -> None:
        """A command that is not there says so, in the log only."""
        upstream = self.upstream(command="no-such-command-anywhere")
        try:
            await self.open(upstream)
        except UpstreamFailure as failure:
            self.assertEqual(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
            self.assertIn("no-such-command-anywhere", failure.detail)
        else:
            self.fail("it opened")

    async def test_many_sessions_come_and_go(self) -> None:
        """Twenty sessions opened and closed, some by crashes, leave nothing behind."""
        upstream = self.upstream(max_children=20)
        opened = await gatherResults([self.begin(upstream, n) for n in range(20)])
        self.assertEqual(len(marked(self.mark)), 20)
        for number, (link, _) in enumerate(opened):
            if number % 3 == 0:
                self.call(link, "die")
            else:
                link.close()
        await self.until(lambda: upstream.child_count == 0, "children were left")
        self.assertEqual(marked(self.mark), [])

    def begin(self, upstream: Any, number: int) -> Any:
        """Open a session without waiting for it."""
        return Deferred.fromCoroutine(self.open(upstream, f"api_key:{number}"))
