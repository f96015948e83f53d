"""Tests of HTTP upstreams before servers that misbehave, over real sockets."""

import resource
import zlib
from functools import partial

from twisted.internet.defer import Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.protocol import ServerFactory
from twisted.web.client import BrowserLikePolicyForHTTPS

from mcpguard.errors import Reason
from tests.live.fault_server import (
    EVENTS,
    JSON,
    Answer,
    Fault,
    FaultCase,
    body,
    certificate,
    fine,
    head,
)

MIB = 1_048_576


class SlowTests(FaultCase):
    """Servers that take their time."""

    async def test_silent(self) -> None:
        """A server that never answers; its connection is closed."""
        await self.fails(lambda *_: None, Reason.UPSTREAM_TIMEOUT, timeout_secs=0.3)
        await self.until(lambda: not self.server.open, 2, "the connection closed")

    async def test_stalled_body(self) -> None:
        """A server that stops in the middle of the body."""
        await self.fails(
            lambda peer, gid: peer.write(head(JSON, length=100) + b'{"jsonrpc":'),
            Reason.UPSTREAM_TIMEOUT,
            timeout_secs=0.3,
        )
        await self.until(lambda: not self.server.open, 2, "the connection closed")

    async def test_slow_head(self) -> None:
        """A server that sends its head a header at a time, for ever."""

        def drip(peer: Fault, gid: int) -> None:
            peer.write(b"HTTP/1.1 200 OK\r\n")

            def more() -> None:
                peer.write(b"X-More: yes\r\n")
                peer.later(0.02, more)

            more()

        await self.fails(drip, Reason.UPSTREAM_TIMEOUT, timeout_secs=0.3)

    async def test_slow_stream(self) -> None:
        """A stream that is kept alive by comments and never answers."""

        def beat(peer: Fault, gid: int) -> None:
            peer.write(head(EVENTS))

            def more() -> None:
                peer.write(b":\n\n")
                peer.later(0.02, more)

            more()

        await self.fails(beat, Reason.UPSTREAM_TIMEOUT, timeout_secs=0.3)

    async def test_slow_but_sound(self) -> None:
        """An answer a byte at a time is an answer."""

        def drip(peer: Fault, gid: int) -> None:
            whole = head(JSON, length=len(body(gid))) + body(gid)
            for number in range(len(whole)):
                piece = whole[number : number + 1]
                peer.later(number * 0.001, lambda piece=piece: peer.write(piece))  # type: ignore[misc]

        link = await self.link(drip)
        self.assertEqual(self.text(await self.call(link, "echo", True)), "fine")


class BrokenTests(FaultCase):
    """Servers that break off or talk nonsense."""

    async def test_dies_before_the_answer(self) -> None:
        """The connection is closed without a word; nothing is sent again."""
        await self.fails(lambda peer, gid: peer.close(), Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.server.heads), 1)

    async def test_dies_within_the_body(self) -> None:
        """The connection is closed in the middle of the body."""

        def die(peer: Fault, gid: int) -> None:
            peer.write(head(JSON, length=len(body(gid))) + body(gid)[:-1])
            peer.close()

        await self.fails(die, Reason.UPSTREAM_FAILED)
        self.assertEqual(len(self.server.heads), 1)

    async def test_dies_within_a_stream(self) -> None:
        """The connection is closed in the middle of an event stream."""

        def die(peer: Fault, gid: int) -> None:
            peer.write(head(EVENTS) + b"data: " + body(gid))
            peer.close()

        await self.fails(die, Reason.UPSTREAM_FAILED)

    async def test_nonsense(self) -> None:
        """What is not HTTP, or not JSON-RPC."""
        for answer in (b"hello\r\n\r\n", head(JSON, length=5) + b"hello", b"\x16\x03\x01\0\0\n"):
            await self.fails(partial(self.say, answer), Reason.UPSTREAM_FAILED)

    @staticmethod
    def say(answer: bytes, peer: Fault, gid: int) -> None:
        """Answer with bytes."""
        peer.write(answer)

    async def test_redirect(self) -> None:
        """A redirect is refused and not followed, not even to the same server."""
        moved = b"HTTP/1.1 307 T\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
        await self.fails(lambda peer, _: peer.write(moved), Reason.UPSTREAM_FAILED, "redirects")
        self.assertEqual(len(self.server.heads), 1)

    async def test_nobody_there(self) -> None:
        """A port where nobody listens."""
        port = self.reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")
        number = port.getHost().port
        await maybeDeferred(port.stopListening)
        upstream = self.upstream(f"http://127.0.0.1:{number}/mcp")
        failure = await self.failure(await upstream.stateless("p", ""), modern=True)
        self.assertIs(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        upstream.start()
        await self.until(lambda: upstream.standing.reason == "unreachable", 5, "unreachable")

    async def test_metadata_service(self) -> None:
        """A cloud's metadata address is not dialled, whatever the configuration allows."""
        upstream = self.upstream("http://169.254.169.254/mcp", allow_private_networks=True)
        failure = await self.failure(await upstream.stateless("p", ""), modern=True)
        self.assertIs(failure.reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertIn("never dialled", failure.detail)


class FloodTests(FaultCase):
    """Servers that send too much. The bound is 1 MiB here, the flood twenty times that."""

    def memory(self) -> int:
        """The most this process has held, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    async def bounded(self, answer: Answer, reason: Reason, words: str = "") -> None:
        """The call fails for the reason, and little memory was needed to find out."""
        before = self.memory()
        await self.fails(answer, reason, words, max_message_size=MIB)
        self.assertLess(self.memory() - before, 24 * MIB)
        await self.until(lambda: not self.server.open, 2, "the connection closed")

    def pour(self, peer: Fault, piece: bytes, times: int) -> None:
        """Send a piece over and over, as fast as it is taken."""
        if times and peer in self.server.open:
            peer.write(piece)
            peer.later(0, lambda: self.pour(peer, piece, times - 1))

    async def test_body(self) -> None:
        """20 MiB of JSON without a length."""

        def flood(peer: Fault, gid: int) -> None:
            peer.write(head(JSON) + b'{"jsonrpc":"2.0","x":"')
            self.pour(peer, b"x" * 65_536, 320)

        await self.bounded(flood, Reason.ANSWER_TOO_LARGE)

    async def test_told_length(self) -> None:
        """20 MiB announced: refused at the head."""
        await self.bounded(
            lambda peer, gid: peer.write(head(JSON, length=20 * MIB)), Reason.ANSWER_TOO_LARGE
        )

    async def test_event(self) -> None:
        """An event of 20 MiB."""

        def flood(peer: Fault, gid: int) -> None:
            peer.write(head(EVENTS) + b"data: ")
            self.pour(peer, b"x" * 65_536, 320)

        await self.bounded(flood, Reason.ANSWER_TOO_LARGE)

    async def test_error_page(self) -> None:
        """20 MiB of error page are not read; the status is what counts."""

        def flood(peer: Fault, gid: int) -> None:
            peer.write(b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\n\r\n")
            self.pour(peer, b"x" * 65_536, 320)

        await self.bounded(flood, Reason.UPSTREAM_FAILED, "HTTP 500")

    async def test_head(self) -> None:
        """20 MiB of headers."""

        def flood(peer: Fault, gid: int) -> None:
            peer.write(b"HTTP/1.1 200 OK\r\n")
            self.pour(peer, b"X-More: and more\r\n" * 4000, 320)

        await self.bounded(flood, Reason.UPSTREAM_FAILED, "head is too large")

    async def test_gzip_bomb(self) -> None:
        """A body that would unpack to 64 MiB is not unpacked."""
        packer = zlib.compressobj(wbits=31)
        bomb = b"".join(packer.compress(b"x" * MIB) for _ in range(64)) + packer.flush()

        def answer(peer: Fault, gid: int) -> None:
            peer.write(head(JSON, "Content-Encoding: gzip", length=len(bomb)) + bomb)

        before = self.memory()
        await self.fails(answer, Reason.UPSTREAM_FAILED, "encoded", max_message_size=MIB)
        self.assertLess(self.memory() - before, 24 * MIB)
        self.assertIn(b"accept-encoding: identity", self.server.heads[0].lower())

    async def test_after_the_answer(self) -> None:
        """A stream that goes on after its answer is cut; the answer stands."""

        def flood(peer: Fault, gid: int) -> None:
            peer.write(head(EVENTS) + b"data: " + body(gid) + b"\n\n")
            self.pour(peer, b": more\n\n" * 8000, 320)

        link = await self.link(flood)
        self.assertEqual(self.text(await self.call(link, "echo", True)), "fine")
        await self.until(lambda: not self.server.open, 5, "the connection closed")


class ConnectionTests(FaultCase):
    """Persistent connections."""

    async def test_reuse(self) -> None:
        """Calls one after the other share a connection."""
        link = await self.link(fine)
        for _ in range(20):
            await self.call(link, "echo", True)
        self.assertEqual((self.server.made, len(self.server.heads)), (1, 20))

    async def test_closed_while_idle(self) -> None:
        """A server that closes idle connections costs no call."""

        def brief(peer: Fault, gid: int) -> None:
            fine(peer, gid)
            peer.later(0.05, peer.close)

        link = await self.link(brief)
        for _ in range(5):
            await self.call(link, "echo", True)
            await self.pause(0.15)
        self.assertEqual((self.server.made, len(self.server.heads)), (5, 5))

    async def test_connection_close(self) -> None:
        """A server that closes after every answer is served as well."""

        def once(peer: Fault, gid: int) -> None:
            peer.write(head(JSON, "Connection: close", length=len(body(gid))) + body(gid))
            peer.close()

        link = await self.link(once)
        running = [Deferred.fromCoroutine(self.call(link, "echo", True)) for _ in range(20)]
        await DeferredList(running, fireOnOneErrback=True)
        self.assertEqual(self.server.made, 20)

    async def test_limit(self) -> None:
        """Above ``max_concurrency`` calls are refused at once; no connection is made for them."""
        link = await self.link(
            lambda peer, gid: peer.later(0.3, lambda: fine(peer, gid)), max_concurrency=3
        )
        running = [Deferred.fromCoroutine(self.call(link, "echo", True)) for _ in range(3)]
        failure = await self.failure(link, modern=True)
        self.assertIs(failure.reason, Reason.UPSTREAM_BUSY)
        await gatherResults(running)
        self.assertEqual(self.server.made, 3)


class TlsTests(FaultCase):
    """Servers behind https."""

    async def test_unknown_signer(self) -> None:
        """A certificate the platform does not trust ends it before anything is said."""
        tls, _ = certificate()
        platform = BrowserLikePolicyForHTTPS()
        await self.fails(fine, Reason.UPSTREAM_UNAVAILABLE, "TLS", tls=tls, https=platform)
        self.assertEqual(self.server.heads, [])

    async def test_trusted(self) -> None:
        """A trusted certificate with the right name is spoken to, on one connection."""
        tls, trusted = certificate()
        link = await self.link(fine, tls=tls, https=trusted)
        for _ in range(3):
            self.assertEqual(self.text(await self.call(link, "echo", True)), "fine")
        self.assertEqual(self.server.made, 1)

    async def test_other_name(self) -> None:
        """A trusted certificate of another name is not."""
        tls, trusted = certificate()
        await self.fails(
            fine,
            Reason.UPSTREAM_UNAVAILABLE,
            "TLS",
            tls=tls,
            https=trusted,
            host="127.0.0.1",
        )
        self.assertEqual(self.server.heads, [])
