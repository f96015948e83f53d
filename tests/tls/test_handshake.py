"""Tests of handshakes: who gets in, who does not, and what is known of either."""

import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.defer import Deferred
from twisted.protocols.tls import TLSMemoryBIOProtocol

from mcpguard.errors import ConfigurationError
from mcpguard.front import client_certificates
from mcpguard.tls import handshake
from mcpguard.tls.handshake import presented
from mcpguard.tls.words import OURS, WORDS, word_of_error, word_of_number
from tests.front.wire import Listener, limited, request
from tests.pki import SERVER, Authority, Issued
from tests.tls.case import HANDSHAKE_BYTES, PEER, TlsCase, TlsClient, done, files


class CertificateTests(TlsCase):
    """What clients show, at a listener that requires a certificate."""

    def refused(self, word: str, issued: Issued | None, *chain: Issued, **how: object) -> None:
        """A client is refused with a word; nothing of its request is served."""
        listener = self.listener(**how)  # type: ignore[arg-type]
        client = self.connect(listener, issued, *chain)
        # In TLS 1.3 it believes itself connected until it reads.
        self.assertIsNotNone(client.failure, word)
        self.assertEqual(listener.words, [word])
        self.assertEqual(listener.inner.corridor.handled, [])
        listener.clock.advance(1)
        self.assertEqual(listener.inner.site.connections, 0)
        shown = listener.ended[0].presented
        self.assertEqual(shown is None, issued is None)

    def test_good(self) -> None:
        """A client's certificate reaches the request, with the chain up to its CA."""
        listener = self.listener()
        alice = self.clients.issue("alice", dns=("alice.example",))
        client = self.connect(listener, alice)
        self.assertEqual(client.ask()[0].status, 200)
        (incoming, _), *rest = listener.inner.corridor.handled
        self.assertEqual(rest, [])
        assert incoming.certificate is not None
        self.assertEqual(incoming.certificate.common_names, ("alice",))
        self.assertEqual(incoming.certificate.dns_names, ("alice.example",))
        root = self.clients.certificate
        self.assertEqual(
            incoming.certificate.authorities, ((root.issuer.public_bytes(), root.serial_number),)
        )
        self.assertEqual(listener.words, ["success"])
        self.assertEqual(client.tls.version(), "TLSv1.3")

    def test_both_channels(self) -> None:
        """The general channel knows it too, also when a connection is handed over to it."""
        for fast in (True, False):
            listener = self.listener(inner=Listener(limits=limited(), fast=fast))
            client = self.connect(listener, self.clients.issue("alice"))
            client.ask()
            client.ask("X-Repeated: 1", "X-Repeated: 2", "Accept-Encoding: gzip;q=0.5, x")
            client.send(b"GET /mcp HTTP/1.1\r\nhost: localhost\r\nConnection: upgrade\r\n\r\n")
            names = [
                incoming.certificate and incoming.certificate.common_names
                for incoming, _ in listener.inner.corridor.handled
            ]
            self.assertEqual(names, [("alice",)] * 3)
            self.assertEqual(type(client.channel).__name__, "GuardChannel")

    def test_none(self) -> None:
        """Without a certificate nobody gets in."""
        self.refused("no_certificate", None)

    def test_stranger(self) -> None:
        """One of another CA is nobody's, whether it sends its root along or not."""
        other = Authority("Others")
        self.refused("unknown_ca", other.issue("alice"))
        self.refused("unknown_ca", other.issue("alice"), other)

    def test_same_name_of_ca(self) -> None:
        """A CA is known by its key, not by its name."""
        self.refused("unknown_ca", Authority("Clients").issue("alice"))

    def test_self_signed(self) -> None:
        """One that nobody has issued is nobody's."""
        self.refused("self_signed", Authority("alice"))

    def test_times(self) -> None:
        """What has expired or is not valid yet."""
        self.refused("expired", self.clients.issue("alice", starts=-2.0, days=-1.0))
        self.refused("not_yet_valid", self.clients.issue("alice", starts=1.0))

    def test_purpose(self) -> None:
        """A server's certificate signs no client in; one for any purpose does."""
        self.refused("wrong_purpose", self.clients.issue("alice", usages=(SERVER,)))
        listener = self.listener()
        self.connect(listener, self.clients.issue("alice", usages=None))
        self.assertEqual(listener.words, ["success"])

    def test_weak_key(self) -> None:
        """A key that can be broken proves nothing, however the system's OpenSSL is set."""
        weak = self.clients.issue("alice", key=rsa.generate_private_key(65_537, 1_024))
        listener = self.listener()
        context = self.context()
        # The client's own OpenSSL would not use it either.
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(*files(self.directory, "weak", weak))
        client = TlsClient(listener, context).shake()
        self.assertIsNotNone(client.failure)
        self.assertEqual(listener.words, ["other"])
        self.assertEqual(listener.inner.corridor.handled, [])

    def test_revoked(self) -> None:
        """One on the list is refused, others are not."""
        alice, bob = self.clients.issue("alice"), self.clients.issue("bob")
        settings = self.settings(crl=self.clients.crl(bob))
        self.refused("revoked", bob, settings=settings)
        listener = self.listener(settings)
        self.connect(listener, alice)
        self.assertEqual(listener.words, ["success"])

    def test_chain(self) -> None:
        """A CA between is sent by the client, or known; without it nobody is."""
        issuing = Authority("Issuing", self.clients)
        alice = issuing.issue("alice")
        self.refused("unknown_ca", alice)
        listener = self.listener()
        client = self.connect(listener, alice, issuing)
        client.ask()
        certificate = listener.inner.corridor.handled[0][0].certificate
        assert certificate is not None
        self.assertEqual(
            [serial for _, serial in certificate.authorities],
            [issuing.certificate.serial_number, self.clients.certificate.serial_number],
        )
        self.ca.write_bytes(self.clients.pem + issuing.pem)
        listener = self.listener()
        self.connect(listener, alice)
        self.assertEqual(listener.words, ["success"])

    def test_revoked_authority(self) -> None:
        """Every CA of the chain is checked, and each needs its list."""
        issuing = Authority("Issuing", self.clients)
        alice = issuing.issue("alice")
        self.ca.write_bytes(self.clients.pem + issuing.pem)
        both = self.clients.crl(issuing) + issuing.crl()
        self.refused("revoked", alice, settings=self.settings(crl=both))
        # One that is not in the file has no list there.
        self.ca.write_bytes(self.clients.pem)
        settings = self.settings(crl=self.clients.crl())
        self.refused("crl_missing", alice, issuing, settings=settings)

    def test_list_has_ended(self) -> None:
        """A list that was not renewed in time lets nobody in."""
        settings = self.settings(crl=self.clients.crl(days=-0.1))
        self.refused("crl_expired", self.clients.issue("alice"), settings=settings, strict=False)

    def test_chain_too_long(self) -> None:
        """A client cannot have chains without end verified."""
        chain: list[Authority] = [self.clients]
        for number in range(12):
            chain.insert(0, Authority(f"CA {number}", chain[0]))
        self.refused("chain_too_long", chain[0].issue("alice"), *chain[:-1])

    def test_optional(self) -> None:
        """Where a certificate is optional, none is fine and a bad one is not."""
        for crl in (None, self.clients.crl()):
            settings = self.settings(crl=crl, client_auth="optional")
            listener = self.listener(settings)
            client = self.connect(listener)
            self.assertEqual(client.ask()[0].status, 200)
            self.assertIsNone(listener.inner.corridor.handled[0][0].certificate)
            self.refused("unknown_ca", Authority("Others").issue("eve"), settings=settings)
            expired = self.clients.issue("alice", starts=-2.0, days=-1.0)
            self.refused("expired", expired, settings=settings)
            server = self.clients.issue("alice", usages=(SERVER,))
            self.refused("wrong_purpose", server, settings=settings)

    def test_not_asked(self) -> None:
        """Where none is asked for, a client that has one keeps it to itself."""
        listener = self.listener(self.settings(client_ca_path=None))
        client = self.connect(listener, self.clients.issue("alice"))
        client.ask()
        self.assertIsNone(listener.inner.corridor.handled[0][0].certificate)

    def test_names_of_authorities(self) -> None:
        """Clients are told which CAs count, so that those with several can choose."""
        listener = self.listener()
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client = SSL.Connection(context, None)
        client.set_connect_state()
        server = listener.tls.serverConnectionForTLS(None)  # type: ignore[arg-type]
        server.set_accept_state()
        for step in range(3):
            for one, other in ((client, server), (server, client)):
                try:
                    one.do_handshake()
                except SSL.Error:
                    pass
                try:
                    other.bio_write(one.bio_read(100_000))
                except SSL.WantReadError:
                    self.assertTrue(step)
        (name,) = client.get_client_ca_list(as_cryptography=True)
        self.assertEqual(name, self.clients.certificate.subject)


class PolicyTests(TlsCase):
    """What is spoken, whoever speaks."""

    def test_name_changes_nothing(self) -> None:
        """Whatever name a client asks for, the same policy holds."""
        listener = self.listener()
        for name in ("localhost", "other.example", "127.0.0.1"):
            context = self.context()
            context.check_hostname = False
            client = TlsClient(listener, context, name).shake()
            self.assertIsNotNone(client.failure)
        self.assertEqual(listener.words, ["no_certificate"] * 3)

    def test_version(self) -> None:
        """Below the floor there is no handshake."""
        for floor, most, words in (
            ("1.3", ssl.TLSVersion.TLSv1_2, ["version"]),
            ("1.2", ssl.TLSVersion.TLSv1_2, ["success"]),
            ("1.3", ssl.TLSVersion.TLSv1_3, ["success"]),
        ):
            listener = self.listener(self.settings(min_version=floor))
            context = self.context(self.clients.issue("alice"))
            context.maximum_version = most
            TlsClient(listener, context).shake()
            self.assertEqual(listener.words, words)

    def test_old_ciphers(self) -> None:
        """No cipher without forward secrecy and authenticated encryption."""
        for ciphers, words in (
            ("ECDHE-ECDSA-AES128-SHA", ["other"]),
            ("AES128-GCM-SHA256", ["other"]),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", ["success"]),
        ):
            listener = self.listener(self.settings(client_ca_path=None))
            context = self.context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            TlsClient(listener, context).shake()
            self.assertEqual(listener.words, words, ciphers)

    def test_alpn(self) -> None:
        """HTTP/1.1 is agreed to; who speaks something else alone is refused, by its alert."""
        for offered, chosen in (
            (["h2", "http/1.1"], "http/1.1"),
            (["http/1.1"], "http/1.1"),
            ([], None),
        ):
            listener = self.listener(self.settings(client_ca_path=None))
            context = self.context()
            context.set_alpn_protocols(offered)
            client = TlsClient(listener, context).shake()
            self.assertEqual(client.tls.selected_alpn_protocol(), chosen)
            self.assertEqual(client.ask()[0].status, 200)
        for offered in (["h2"], ["http/1.0", "spdy/3"]):
            context.set_alpn_protocols(offered)
            client = TlsClient(listener, context).shake()
            self.assertIn("no application protocol", str(client.failure))
            self.assertEqual(listener.words[-1], "alpn")
        # What went wrong for one is nobody else's.
        context.set_alpn_protocols(["http/1.1"])
        self.assertIsNone(TlsClient(listener, context).shake().failure)

    def test_no_session_is_resumed(self) -> None:
        """Who comes again shows the certificate again: a list may have changed."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            listener = self.listener()
            context = self.context(self.clients.issue("alice"))
            context.maximum_version = version
            first = TlsClient(listener, context).shake()
            first.ask()
            again = TlsClient(listener, context, session=first.tls.session).shake()
            again.ask()
            self.assertFalse(again.tls.session_reused)
            self.assertEqual(listener.words, ["success"] * 2)

    def test_not_tls(self) -> None:
        """Who speaks in the clear is cut off, and told apart."""
        for data in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\0" * 100,
            b"SSH-2.0-x\r\n" * 20,
            b"\x16\x03\x01\xff\xff" + b"x" * 20_000,
        ):
            listener = self.listener()
            client = TlsClient(listener, self.context())
            client.protocol.dataReceived(data)
            listener.clock.advance(0)
            self.assertTrue(client.transport.lost or client.transport.disconnecting, data[:20])
            self.assertEqual(listener.words, ["not_tls"], data[:20])
            self.assertEqual(listener.inner.corridor.handled, [])


class LongTests(TlsCase):
    """Handshakes in which there is much to say."""

    def test_long_chain(self) -> None:
        """A chain of more than Twisted sends in one piece reaches the client whole."""
        others = [Authority(f"{number} {'x' * 50}") for number in range(80)]
        files(self.directory, "server", self.server, self.servers, *others)
        listener = self.listener()
        client = self.connect(listener, self.clients.issue("alice"))
        self.assertEqual(listener.words, ["success"])
        self.assertEqual(client.ask()[0].status, 200)


class PrivateTests(TlsCase):
    """What is Twisted's own business, and used all the same."""

    def test_names(self) -> None:
        """A Twisted without one of them is no ground to begin on."""
        for name in handshake._PRIVATE:
            self.assertTrue(hasattr(TLSMemoryBIOProtocol, name), name)
        self.patch(handshake, "_PRIVATE", ("_aborted", "_noLongerThere"))
        error = self.assertRaises(ConfigurationError, self.listener)
        self.assertIn("_noLongerThere", error.problems[0])


class EndTests(TlsCase):
    """Handshakes that do not come to their end, and what is told of each."""

    def test_too_slow(self) -> None:
        """One that is not over by the deadline of a head is ended."""
        listener = self.listener()
        client = TlsClient(listener, self.context())
        listener.inner.pass_time(11)
        self.assertTrue(client.transport.lost)
        self.assertEqual(listener.words, ["timeout"])

    def test_too_large(self) -> None:
        """Nobody may fill a handshake without end; a request that comes with its end may be any."""
        record = b"\x16\x03\x01\x40\x00"
        begun = record + b"\x01\x01\xff\xff\x03\x03" + b"x" * 16_378
        listener = self.listener(inner=Listener(limits=limited(body_bytes=100_000)))
        client = TlsClient(listener, self.context())
        client.protocol.dataReceived(begun)
        client.protocol.dataReceived((record + b"x" * 16_384)[: HANDSHAKE_BYTES - len(begun)])
        self.assertEqual(listener.words, [])
        client.protocol.dataReceived(b"x")
        self.assertTrue(client.transport.aborted)
        listener.clock.advance(0)
        self.assertEqual(listener.words, ["too_large"])
        self.assertEqual(listener.inner.site.connections, 0)
        client = TlsClient(listener, self.context(self.clients.issue("alice")))
        self.assertRaises(ssl.SSLWantReadError, client.tls.do_handshake)
        client._exchange()
        client.tls.do_handshake()
        client.send(request("POST /mcp", body=b" " * (2 * HANDSHAKE_BYTES)))
        self.assertEqual(listener.words, ["too_large", "success"])
        self.assertEqual(len(listener.inner.corridor.handled), 1)

    def test_client_leaves(self) -> None:
        """Who leaves before is no failure of anybody."""
        listener = self.listener()
        client = TlsClient(listener, self.context())
        client.transport.lose(done())
        self.assertEqual(listener.words, ["abandoned"])

    def test_goodbye(self) -> None:
        """Nor is who says so in the middle of it; that is nothing for the log."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            listener = self.listener()
            context = self.context()
            context.maximum_version = version
            client = TlsClient(listener, context)
            self.assertRaises(ssl.SSLWantReadError, client.tls.do_handshake)
            hello = client._outgoing.read()
            client.protocol.dataReceived(hello + b"\x15\x03\x03\x00\x02\x01\x00")
            listener.clock.advance(0)
            self.assertTrue(client.transport.lost)
            self.assertEqual(listener.words, ["abandoned"])

    def test_client_refuses_us(self) -> None:
        """A client that does not know our CA says so."""
        listener = self.listener()
        context = ssl.create_default_context(cadata=Authority("Others").pem.decode())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = TlsClient(listener, context).shake()
        client._exchange()
        self.assertEqual(listener.words, ["client_alert"])

    def test_told_once(self) -> None:
        """A handshake that was good stays so, however its connection ends."""
        listener = self.listener()
        client = self.connect(listener, self.clients.issue("alice"))
        client.protocol.dataReceived(b"garbage" * 10)
        listener.clock.advance(1)
        self.assertEqual(listener.words, ["success"])
        self.assertEqual(listener.inner.site.connections, 0)

    def test_bounds_come_first(self) -> None:
        """A connection too many is dropped before any of its handshake."""
        inner = Listener(limits=limited(connections_per_address=1))
        listener = self.listener(inner=inner)
        first = self.connect(listener, self.clients.issue("alice"))
        client = TlsClient(listener, self.context())
        self.assertTrue(client.transport.aborted)
        self.assertEqual(inner.dropped, ["too_many_from_address"])
        self.assertEqual(listener.words, ["success"])
        self.assertEqual(first.ask()[0].status, 200)

    def test_barred_address(self) -> None:
        """An address with too many failures does not get as far as a handshake."""
        asked: list[str] = []

        def admits(peer: str) -> str:
            asked.append(peer)
            return "too_many_failures"

        listener = self.listener(admits=admits)
        client = TlsClient(listener, self.context(self.clients.issue("alice")))
        self.assertTrue(client.transport.aborted)
        self.assertEqual((asked, listener.words), ([PEER], ["too_many_failures"]))
        self.assertEqual(client.transport.value(), b"")

    def test_asked_elsewhere(self) -> None:
        """Until it is known whether a handshake may begin, nothing of it is read."""
        for word in ("", "too_many_failures"):
            answer: Deferred[str] = Deferred()
            listener = self.listener(admits=lambda peer, answer=answer: answer)
            client = TlsClient(listener, self.context(self.clients.issue("alice")))
            self.assertEqual(client.transport.producerState, "paused")
            answer.callback(word)
            if word:
                self.assertTrue(client.transport.aborted)
            else:
                client.shake()
                self.assertEqual(client.ask()[0].status, 200)
            self.assertEqual(listener.words, [word or "success"])

    def test_fault_while_deciding(self) -> None:
        """Where it cannot be told whether a handshake may begin, it does not."""

        def broken(peer: str) -> str:
            raise ValueError("broken")

        later: Deferred[str] = Deferred()
        for admits in (broken, lambda peer: later):
            listener = self.listener(admits=admits)
            client = TlsClient(listener, self.context())
            if not later.called and admits is not broken:
                later.errback(ValueError("broken"))
            self.assertTrue(client.transport.aborted)
            self.assertEqual(listener.words, ["limits_unavailable"])
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_fault_while_telling(self) -> None:
        """What goes wrong with telling of a failure changes nothing about it."""
        listener = self.listener()

        def broken(ended: object) -> None:
            raise ValueError("broken")

        object.__setattr__(listener.factory.keeping, "on_ended", broken)
        client = self.connect(listener)
        self.assertIsNotNone(client.failure)
        listener.clock.advance(1)
        self.assertEqual(listener.inner.site.connections, 0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_left_meanwhile(self) -> None:
        """An answer that comes too late changes nothing."""
        for word in ("", "too_many_failures"):
            answer: Deferred[str] = Deferred()
            listener = self.listener(admits=lambda peer, answer=answer: answer)
            client = TlsClient(listener, self.context())
            client.transport.lose(done())
            answer.callback(word)
            self.assertEqual(listener.words, ["abandoned"])

    def test_unreadable(self) -> None:
        """A certificate that was verified and cannot be read drops the connection."""
        alice = self.clients.issue("alice")
        listener = self.listener()
        client = TlsClient(listener, self.context(alice))

        def fail(*_: object) -> None:
            raise ValueError("not readable")

        self.patch(client_certificates, "peer_certificate", fail)
        client.shake()
        client.send(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(listener.inner.dropped, ["bad_certificate"])
        self.assertEqual(listener.inner.corridor.handled, [])
        self.assertTrue(client.transport.aborted)


class WordTests(TlsCase):
    """The vocabulary."""

    def test_every_word_is_known(self) -> None:
        """Whatever OpenSSL says, there is a word for it."""
        for number in range(200):
            self.assertIn(word_of_number(number), WORDS)
        for error in (None, ValueError(), SSL.Error(), SSL.Error([]), SSL.Error([("", "", "x")])):
            self.assertEqual(word_of_error(error), "other")
        self.assertLess(OURS, WORDS)

    def test_presented(self) -> None:
        """What a refused certificate says is cut short and cannot forge a line."""
        issued = self.clients.issue("a\nb\x1b" + "x" * 50)
        shown = presented(X509.from_cryptography(issued.certificate), 2)
        self.assertTrue(shown.subject.isprintable())
        self.assertEqual(shown.serial, f"{issued.certificate.serial_number:x}")
        self.assertEqual(shown.depth, 2)

        class Broken:
            def to_cryptography(self) -> None:
                raise x509.InvalidVersion("version 7", 7)

        self.assertEqual(presented(Broken(), 0).subject, "not readable")  # type: ignore[arg-type]
