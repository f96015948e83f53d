"""Two hundred callers with the same id and token on one real child."""

from twisted.internet.defer import gatherResults

from mcpguard.upstream.link import Link
from tests.live.stdio_servers import LiveSink, StdioLiveCase, marked
from tests.upstream.stdio_rig import ALICE

CALLERS = 200


class CrosstalkTests(StdioLiveCase):
    """Answers and progress delayed and shuffled by the server reach their own caller."""

    async def gather(self, links: list[Link], *, stateless: bool) -> None:
        """Call on every link at once and compare what each caller gets."""
        sinks: list[LiveSink] = [
            self.call(link, "gather", {"of": len(links), "who": who}, stateless=stateless)
            for who, link in enumerate(links)
        ]
        await gatherResults([sink.ended for sink in sinks])
        for who, sink in enumerate(sinks):
            self.assertEqual(sink.answered, {"jsonrpc": "2.0", "id": 1, "result": {"who": who}})
            # Progress that the server sent after the answer is not delivered at all.
            for note in sink.notes:
                self.assertEqual(note["params"], {"progressToken": 1, "progress": who})
        told = sum(len(sink.notes) for sink in sinks)
        self.assertGreater(told, CALLERS // 4)
        strays = len(links) - told
        await self.until(
            lambda: self.books.strays().count("progress") == strays, "a progress got lost"
        )

    async def test_sessions_on_a_shared_child(self) -> None:
        """Two hundred sessions, one child."""
        upstream = self.upstream(isolation="shared", max_concurrency=CALLERS)
        links = [(await self.open(upstream, f"api_key:{n}"))[0] for n in range(CALLERS)]
        self.assertEqual(len(marked(self.mark)), 1)
        await self.gather(links, stateless=False)

    async def test_calls_of_one_session(self) -> None:
        """Two hundred calls of one session, as claude.ai makes them."""
        link, _ = await self.open(self.upstream(max_concurrency=CALLERS))
        await self.gather([link] * CALLERS, stateless=False)

    async def test_stateless_callers(self) -> None:
        """Two hundred stateless callers, one child."""
        upstream = self.upstream("modern", era="modern", max_concurrency=CALLERS)
        links = [await upstream.stateless(f"api_key:{n}", "") for n in range(CALLERS)]
        await self.gather(links, stateless=True)
        self.assertEqual(len(marked(self.mark)), 1)

    async def test_one_too_many(self) -> None:
        """Above max_concurrency the caller is told to come back; the others are not disturbed."""
        link, _ = await self.open(self.upstream(max_concurrency=5), ALICE)
        sinks = [self.call(link, "gather", {"of": 5, "who": who}) for who in range(6)]
        await gatherResults([sink.ended for sink in sinks])
        self.assertEqual(sinks[5].failure.reason.value, "upstream_busy")
        self.assertEqual([s.answered["result"]["who"] for s in sinks[:5]], [0, 1, 2, 3, 4])
