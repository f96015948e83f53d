"""Tests of who a server must be."""

from typing import cast

from twisted.internet import ssl
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from mcpguard.tls.verifying import Verifying
from tests.pki import CLIENT, SERVER, Authority
from tests.tls.client_case import ClientCase, Server, Side


class NameTests(ClientCase):
    """The name or address of the server."""

    def test_name(self) -> None:
        """The host of the URL is asked for and must stand in the certificate; ALPN is HTTP/1.1."""
        server = Server(self.ca.server("a.example", "b.example"))
        policy = self.policy("ca_path")
        for host in ("a.example", "B.Example", "b.example."):
            self.assert_through(self.shake(policy, server, host))
            self.assertEqual((server.asked_for or b"").lower(), host.rstrip(".").lower().encode())
        self.assertEqual(server.offered, [b"http/1.1"])
        self.assertIsNone(server.client)
        sides = self.shake(policy, server, "c.example")
        self.assert_refused(
            sides,
            "hostname mismatch: the certificate is for a.example, b.example, 127.0.0.1, others,"
            " not c.example",
        )

    def test_address(self) -> None:
        """An address must stand in the certificate as an address, and is not asked for."""
        server = Server(self.ca.server())
        policy = self.policy("ca_path")
        for host in ("127.0.0.1", "::1", "0:0::1"):
            self.assert_through(self.shake(policy, server, host))
            self.assertIsNone(server.asked_for)
        self.assert_refused(self.shake(policy, server, "127.0.0.2"), "not 127.0.0.2")
        as_name = Server(self.ca.issue("x", dns=("127.0.0.1",), usages=(SERVER,)))
        self.assert_refused(self.shake(policy, as_name, "127.0.0.1"), "hostname mismatch")

    def test_server_name(self) -> None:
        """``server_name`` stands in for the URL's host, also where that is an address."""
        server = Server(self.ca.server("inner.example"))
        policy = self.policy("ca_path", server_name="inner.example")
        for host in ("127.0.0.1", "outer.example", "inner.example"):
            self.assert_through(self.shake(policy, server, host))
            self.assertEqual(server.asked_for, b"inner.example")
        other = self.policy("ca_path", server_name="outer.example")
        self.assert_refused(self.shake(other, server, "inner.example"), "not outer.example")

    def test_nobody(self) -> None:
        """A certificate without names is nobody's: its common name is none (RFC 9525)."""
        server = Server(self.ca.issue("a.example", usages=(SERVER,)))
        sides = self.shake(self.policy("ca_path"), server, "a.example")
        self.assert_refused(sides, "is for nobody (no subjectAltName), not a.example")

    def test_goodbye(self) -> None:
        """A server that leaves in the middle of the handshake is told of like any failure."""
        creator = self.policy("ca_path").creatorForNetloc(b"a.example", 443)
        side = Side(b"hello")
        factory = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(lambda: side), self.clock)
        protocol, transport = factory.buildProtocol(None), StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(b"\x15\x03\x03\x00\x02\x01\x00")
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        assert side.ended is not None
        self.assertIn("closed by the server", str(side.ended.value))

    def test_nobody_in_twisted(self) -> None:
        """Twisted's own options let such a certificate pass: when not, `Verifying` can go."""
        server = Server(self.ca.issue("a.example", usages=(SERVER,)))
        trusted = ssl.Certificate.loadPEM(self.ca.pem)
        creator = ssl.optionsForClientTLS("b.example", trustRoot=trusted)
        client, served, _ = self.connect(creator, server)
        self.assert_through((client, served))
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_forged_names(self) -> None:
        """Names come from the other side: they are bounded and cannot forge a line."""
        names = (f"{'x' * 60}.{'y' * 60}.{'z' * 60}", "a\nb", "c", "d", "e")
        server = Server(self.ca.issue("x", dns=names, usages=(SERVER,)))
        client, _ = self.shake(self.policy("ca_path"), server, "a.example")
        assert client.ended is not None
        words = str(client.ended.value)
        self.assertLess(len(words), 200)
        self.assertNotIn("\n", words)

    def test_no_host(self) -> None:
        """What can stand in no certificate is no host."""
        context = self.policy("ca_path")._material.context
        self.assertRaises(ValueError, Verifying, context, "a b")


class ChainTests(ClientCase):
    """The chain up to a CA."""

    def test_stranger(self) -> None:
        """A CA of one's own replaces the platform's, and another one is a stranger."""
        server = Server(Authority("Other").server("a.example"))
        sides = self.shake(self.policy("ca_path"), server, "a.example")
        self.assert_refused(
            sides, "certificate verify failed: unable to get local issuer certificate"
        )
        sides = self.shake(self.policy(), Server(self.ca.server("a.example")), "a.example")
        self.assert_refused(sides, "certificate verify failed: unable to get local issuer")

    def test_time(self) -> None:
        """Expired, or of the future."""
        server = Server(self.ca.server("a.example", days=-0.1))
        sides = self.shake(self.policy("ca_path"), server, "a.example")
        self.assert_refused(sides, "certificate verify failed: certificate has expired")
        future = self.ca.issue("x", starts=1, dns=("a.example",), usages=(SERVER,))
        sides = self.shake(self.policy("ca_path"), Server(future), "a.example")
        self.assert_refused(sides, "certificate is not yet valid")

    def test_usage(self) -> None:
        """A client's certificate is no server's."""
        server = Server(self.ca.issue("x", dns=("a.example",), usages=(CLIENT,)))
        sides = self.shake(self.policy("ca_path"), server, "a.example")
        self.assert_refused(sides, "unsuitable certificate purpose")

    def test_below_a_leaf(self) -> None:
        """Who has a certificate is no CA by it."""
        leaf = self.ca.server("mine.example")
        forged = Authority.issue(cast("Authority", leaf), "x", dns=("a.example",), usages=(SERVER,))
        server = Server(forged, leaf.certificate)
        sides = self.shake(self.policy("ca_path"), server, "a.example")
        self.assert_refused(sides, "certificate verify failed: ", "(certificate 2 of its chain)")

    def test_partial(self) -> None:
        """Whoever ``ca_path`` names is trusted: an intermediate CA, or the very certificate."""
        below = Authority("Below", self.ca)
        leaf = below.server("a.example")
        for trusted in (below, leaf):
            self.put("ca.crt", trusted.pem)
            self.assert_through(self.shake(self.policy("ca_path"), Server(leaf), "a.example"))
        other = Server(self.ca.server("a.example"))
        self.assert_refused(self.shake(self.policy("ca_path"), other, "a.example"), "unable to get")
