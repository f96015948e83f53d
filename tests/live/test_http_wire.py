"""Tests of the connections to HTTP servers, over real sockets in the clear and over TLS."""

import re
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mcpguard.config.settings import UpstreamSettings
from mcpguard.gateway.outward_tls import OutwardTls
from tests.live.fault_server import JSON, Fault, FaultCase, body, certificate, fine, head

LARGE = 3_000_000


class LargeRequestTests(FaultCase):
    """Requests larger than what the kernel takes at once."""

    async def large(self, **how: Any) -> None:
        """Large and small calls in turn, one server that hesitates to read; one connection."""

        def measured(peer: Fault, gid: int) -> None:
            peer.write(head(JSON, length=len(body(gid))) + body(gid))

        link = await self.link(measured, **how)
        for size in (LARGE, 10, LARGE, 200_000):
            running = Deferred.fromCoroutine(self.call(link, "echo", True, message="x" * size))
            await self.pause(0.02)
            for peer in self.server.open:
                peer.transport.pauseProducing()  # type: ignore[union-attr]
            await self.pause(0.05)
            for peer in self.server.open:
                peer.transport.resumeProducing()  # type: ignore[union-attr]
            self.assertEqual(self.text(await running), "fine")
        self.assertEqual((self.server.made, len(self.server.heads)), (1, 4))

    async def test_in_the_clear(self) -> None:
        """They arrive whole, and the connection is used again."""
        await self.large()

    async def test_over_tls(self) -> None:
        """So they do over TLS."""
        tls, trusted = certificate()
        await self.large(tls=tls, https=trusted)

    async def test_many(self) -> None:
        """Many at once do not mix."""
        link = await self.link(fine, max_concurrency=20)
        running = [
            Deferred.fromCoroutine(self.call(link, "echo", True, message="x" * 300_000))
            for _ in range(20)
        ]
        results = await DeferredList(running, fireOnOneErrback=True)
        self.assertEqual([self.text(answer) for _, answer in results], ["fine"] * 20)

    async def test_answered_early(self) -> None:
        """An answer to a request that is never read counts; its connection is not used again."""

        class Deaf(Fault):
            """Answers a large request on its first bytes and reads no more."""

            def dataReceived(self, data: bytes) -> None:
                gid = re.search(rb'"id":([0-9]+)', data)
                if len(data) < 1000 or gid is None:
                    super().dataReceived(data)
                    return
                fine(self, int(gid[1]))
                self.transport.pauseProducing()  # type: ignore[union-attr]

        link = await self.link(fine, max_message_size=20_000_000)
        self.server.protocol_class = Deaf
        large = await self.call(link, "echo", True, message="x" * 16_000_000)
        self.assertEqual(self.text(large), "fine")
        self.assertEqual(self.text(await self.call(link, "echo", True)), "fine")
        self.assertEqual(self.server.made, 2)


class SmuggledAnswerTests(FaultCase):
    """Answers that nobody asked for."""

    async def smuggled(self, gap: float, **how: Any) -> None:
        """Each answer is followed by one to the next request, forged; nobody ever gets it."""

        def forging(peer: Fault, gid: int) -> None:
            fine(peer, gid)
            forged = body(gid + 1).replace(b"fine", b"FORGED")
            answer = head(JSON, length=len(forged)) + forged
            if gap:
                peer.later(gap, lambda: peer.write(answer))
            else:
                peer.write(answer)

        link = await self.link(forging, **how)
        for _ in range(10):
            self.assertEqual(self.text(await self.call(link, "echo", True)), "fine")
            # A busy machine may be late with it; the next request must not be in time for it.
            await self.until(lambda: not self.server.open, 5, "the connection is given up")
        self.assertEqual(self.server.made, 10)

    async def test_at_once(self) -> None:
        """Right behind the answer."""
        await self.smuggled(0)

    async def test_later(self) -> None:
        """While the connection is idle."""
        await self.smuggled(0.02)

    async def test_over_tls(self) -> None:
        """Over TLS too."""
        tls, trusted = certificate()
        await self.smuggled(0.02, tls=tls, https=trusted)


class ReachTests(FaultCase):
    """Whether a server can be reached."""

    async def test_over_tls(self) -> None:
        """One that is not who it should be is not reached; one that is, with no request at all."""
        tls, trusted = certificate()
        upstream = self.serve(fine, tls=tls, https=trusted)
        await upstream._reach()
        self.assertEqual((self.server.made, self.server.heads), (1, []))
        platform = OutwardTls(self.reactor, self.books, self.books)
        policy = platform.upstream(UpstreamSettings(url="https://localhost/"))
        upstream = self.serve(fine, tls=tls, https=policy)
        reason = ""
        try:
            await upstream._reach()
        except Exception as failure:
            reason = str(failure)
        self.assertIn("TLS", reason)
