"""Tests of handshakes with whatever a client can send."""

import ssl

from hypothesis import given, settings
from hypothesis import strategies as st

from mcpguard.tls.words import WORDS
from tests.front.wire import Listener, limited
from tests.tls.case import TlsCase, TlsClient


class HostileTests(TlsCase):
    """A listener that requires certificates, and bytes that are almost right."""

    def setUp(self) -> None:
        """A listener for many, and what an honest client begins with."""
        super().setUp()
        inner = Listener(limits=limited(connections=10_000, connections_per_address=10_000))
        self.gate = self.listener(inner=inner)
        self.honest = self.context(self.clients.issue("alice"))
        out = ssl.MemoryBIO()
        tls = self.honest.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
        self.assertRaises(ssl.SSLWantReadError, tls.do_handshake)
        self.hello = out.read()

    def end(self, client: TlsClient) -> None:
        """By the deadline at the latest it is over, and was told once."""
        self.gate.inner.pass_time(11)
        self.assertTrue(client.transport.lost)
        (ended,) = self.gate.ended
        self.assertIn(ended.word, WORDS - {"success"})
        self.assertEqual(self.gate.inner.site.connections, 0)
        self.assertEqual(self.gate.inner.corridor.handled, [])
        self.gate.ended.clear()
        self.assertEqual(self.flushLoggedErrors(), [])

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_changed_hello(self, data: st.DataObject) -> None:
        """A first message that is cut, changed, repeated or in pieces leads nowhere, in order."""
        hello = bytearray(self.hello)
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, len(hello) - 1))
            hello[at] = data.draw(st.integers(0, 255))
        sent = bytes(hello[: data.draw(st.integers(1, len(hello)))])
        sent = sent * data.draw(st.integers(1, 3)) + data.draw(st.binary(max_size=50))
        cut = data.draw(st.integers(0, len(sent)))
        client = TlsClient(self.gate, self.honest)
        for piece in (sent[:cut], sent[cut:]):
            if piece and not client.transport.lost:
                client.protocol.dataReceived(piece)
                self.gate.clock.advance(0)
        self.end(client)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 3), st.integers(0, 5_000), st.integers(1, 255))
    def test_changed_later(self, turn: int, at: int, change: int) -> None:
        """One bit that is wrong anywhere in a handshake ends it, before or at its end."""
        client = TlsClient(self.gate, self.honest)
        for number in range(4):
            try:
                client.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                break
            sent = bytearray(client._outgoing.read())
            if number == turn and sent:
                sent[at % len(sent)] ^= change
            if not sent or client.transport.lost:
                break
            client.protocol.dataReceived(bytes(sent))
            self.gate.clock.advance(0)
            client._incoming.write(client.transport.value())
            client.transport.clear()
        if self.gate.words == ["success"]:
            # The byte was one that nobody looks at: the compatibility version of a record.
            self.gate.ended.clear()
            self.gate.inner.pass_time(11)
            self.assertEqual(self.gate.ended, [])
            return
        self.end(client)
