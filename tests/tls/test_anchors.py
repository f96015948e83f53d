"""CAs that are taken out while connections are open that were verified by them."""

from itertools import product

from mcpguard.front.connection import Phase
from mcpguard.policy.certificates import PeerCertificate, Withdrawn, anchor_of, peer_certificate
from mcpguard.tls import context, server
from tests.front.wire import Listener, limited
from tests.pki import SERVER, Authority, Issued
from tests.tls.case import TlsCase, TlsClient, TlsListener

POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"


class AnchorCase(TlsCase):
    """A listener whose file of CAs changes."""

    def setUp(self) -> None:
        """Another CA, and a listener that cuts whom it does not trust any more."""
        super().setUp()
        self.others = Authority("Others")
        self.gate = self.watched()

    def watched(self, **more: object) -> TlsListener:
        """Open a listener that looks at its files."""
        inner = Listener(limits=limited(connections=50, connections_per_address=50))
        gate = self.listener(inner=inner, **more)  # type: ignore[arg-type]

        def withdrawn(certificate: PeerCertificate) -> Withdrawn | None:
            return None if gate.tls.trusts(certificate) else Withdrawn.UNTRUSTED

        inner.site.withdrawn = withdrawn
        gate.tls.start()
        return gate

    def trust(self, *authorities: Authority) -> None:
        """Have these in the file, and in force."""
        before = len(self.gate.rotations)
        self.ca.write_bytes(b"".join(one.pem for one in authorities))
        self.gate.clock.pump([2.0, 2.0])
        (rotation,) = self.gate.rotations[before:]
        self.assertEqual((rotation.problems, rotation.changed), ((), ("client_ca",)))

    def shown(self, client: TlsClient) -> PeerCertificate:
        """What is known of a client by its handshake."""
        self.assertIsNone(client.failure)
        found: PeerCertificate = client.channel.certificate
        return found


class TrustTests(AnchorCase):
    """`ServerTls.trusts`."""

    def test_known(self) -> None:
        """A handshake tells the anchor, what the client has sent besides, and the listener."""
        issuing = Authority("Issuing", self.clients)
        alice = issuing.issue("alice")
        found = self.shown(self.connect(self.gate, alice, issuing, self.others)).verified
        assert found is not None
        self.assertEqual((found.listener, found.anchor), (0, anchor_of(self.clients.certificate)))
        wanted = [peer_certificate(one.certificate).der for one in (issuing, self.others)]
        self.assertEqual(list(found.sent), wanted)
        bob = self.shown(self.connect(self.gate, self.clients.issue("bob"))).verified
        assert bob is not None
        self.assertEqual(bob.sent, ())

    def test_taken_out(self) -> None:
        """It is no more trusted than its clients would be that came now; and may come back."""
        alice = self.clients.issue("alice")
        shown = self.shown(self.connect(self.gate, alice))
        self.assertTrue(self.gate.tls.trusts(shown))
        self.trust(self.others)
        self.assertFalse(self.gate.tls.trusts(shown))
        self.assertIsNotNone(self.connect(self.gate, alice).failure)
        self.trust(self.others, self.clients)
        self.assertTrue(self.gate.tls.trusts(shown))

    def test_bad_files(self) -> None:
        """A file that is not used takes nobody out, a root without which a CA hangs in the air."""
        issuing = Authority("Issuing", self.clients)
        shown = self.shown(self.connect(self.gate, issuing.issue("alice"), issuing))
        for content in (b"nothing", issuing.pem, self.others.pem + issuing.pem):
            self.ca.write_bytes(content)
            self.gate.clock.pump([2.0, 2.0])
            self.assertNotEqual(self.gate.rotations.pop().problems, ())
            self.assertTrue(self.gate.tls.trusts(shown))

    def test_the_same(self) -> None:
        """A CA that is written again, among others, or renewed with its name and key, is there.

        Nor is OpenSSL asked about it: there may be thousands of its clients.
        """
        shown = self.shown(self.connect(self.gate, self.clients.issue("alice")))
        self.patch(server, "would_pass", None)
        renewed = Authority("Clients", key=self.clients.key)
        for authorities in (
            (self.others, self.clients),
            (self.clients, self.others),
            (renewed,),
            (self.others, renewed, self.clients),
            (self.clients,),
        ):
            self.trust(*authorities)
            self.assertTrue(self.gate.tls.trusts(shown))

    def test_not_the_same(self) -> None:
        """Another CA by its name, or one of another name with its key, is another one."""
        shown = self.shown(self.connect(self.gate, self.clients.issue("alice")))
        for other in (Authority("Clients"), Authority("Renamed", key=self.clients.key)):
            self.trust(other)
            self.assertFalse(self.gate.tls.trusts(shown))

    def test_other_ways(self) -> None:
        """Whoever would be let in again stays; whoever stays would be, or has its anchor there.

        The latter alone has sent no CA between that was in the file: to take that out while its
        root stays takes no anchor out.
        """
        root, second = Authority("Root"), self.others
        issuing = Authority("Issuing", root)
        crossed = Authority("Issuing", second, key=issuing.key)
        root_crossed = Authority("Root", second, key=root.key)
        renewed = Authority("Root", key=root.key)
        alice = issuing.issue("alice")
        sending: list[tuple[Issued, ...]] = [
            (),
            (issuing,),
            (issuing, crossed),
            (issuing, root_crossed),
            (crossed, issuing),
        ]
        afterwards = [
            (root,),
            (root, issuing),
            (renewed,),
            (root, second),
            (second,),
            (second, crossed),
            (second, root_crossed),
            (second, root_crossed, issuing),
            (self.clients,),
        ]
        seen = set()
        for before in ((root, issuing), (second, crossed)):
            for sent, after in product(sending, afterwards):
                self.trust(*before)
                shown = self.shown(self.connect(self.gate, alice, *sent))
                assert shown.verified is not None
                if before != after:
                    self.trust(*after)
                stays = self.gate.tls.trusts(shown)
                comes = self.connect(self.gate, alice, *sent).failure is None
                there = shown.verified.anchor in {
                    anchor_of(one.certificate) for one in after if one in (root, second, renewed)
                }
                self.assertEqual(stays, comes or there, (before, sent, after))
                self.assertEqual(self.gate.tls.trusts(shown), stays)
                seen.add((stays, comes, there))
                self.trust(self.clients, self.others)
        # Each is there: by its anchor, by another way, by its anchor alone, and not at all.
        self.assertLessEqual(
            {(True, True, True), (True, True, False), (True, False, True), (False, False, False)},
            seen,
        )

    def test_other_way_that_is_not_for_clients(self) -> None:
        """Nor is one that is longer than a handshake allows."""
        issuing = Authority("Issuing", self.clients)
        alice = issuing.issue("alice")
        shown = self.shown(self.connect(self.gate, alice, issuing))
        narrow = Authority("Issuing", self.others, key=issuing.key, usages=(SERVER,))
        self.trust(self.others, narrow)
        self.assertIsNotNone(self.connect(self.gate, alice, issuing).failure)
        self.assertEqual(self.gate.words[-1], "wrong_purpose")
        self.assertFalse(self.gate.tls.trusts(shown))
        for between, good in ((7, True), (8, False)):
            chain = [self.others]
            for number in range(between):
                chain.append(Authority(f"Between {number}", chain[-1]))
            chain.append(Authority("Issuing", chain[-1], key=issuing.key))
            self.trust(*chain)
            self.assertEqual(self.connect(self.gate, alice, issuing).failure is None, good)
            self.assertEqual(self.gate.tls.trusts(shown), good)

    def test_remembered(self) -> None:
        """OpenSSL is asked once about a certificate, as long as the files are the same."""
        asked: list[bytes] = []

        def answer(context: object, certificate: bytes, sent: object) -> bool:
            asked.append(certificate)
            return True

        issued = [self.clients.issue(name) for name in ("alice", "bob")]
        alice, bob = (self.shown(self.connect(self.gate, one)) for one in issued)
        self.patch(server, "would_pass", answer)
        self.trust(self.others)
        for one in (alice, bob, alice, bob):
            self.assertTrue(self.gate.tls.trusts(one))
        self.assertEqual(asked, [alice.der, bob.der])
        self.trust(Authority("Third"))
        self.assertTrue(self.gate.tls.trusts(alice))
        self.assertEqual(asked, [alice.der, bob.der, alice.der])
        self.patch(server, "MAX_KEPT", 1)
        for one in (bob, alice):
            self.gate.tls.trusts(one)
        self.assertEqual(len(self.gate.tls._judged), 1)

    def test_not_to_be_told(self) -> None:
        """What OpenSSL chokes on is not trusted, and keeps nobody else's connection."""
        alice = self.shown(self.connect(self.gate, self.clients.issue("alice")))
        self.trust(self.others)
        for answer in (ValueError, RuntimeError):

            def fail(*_: object, what: type[Exception] = answer) -> object:
                raise what

            self.patch(context, "load_certificate", fail)
            self.gate.tls._judged.clear()
            self.assertFalse(self.gate.tls.trusts(alice))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_no_certificate_at_all(self) -> None:
        """A proxy's word about one is not of this; a listener that asks for none trusts none."""
        alice = self.clients.issue("alice")
        shown = self.shown(self.connect(self.gate, alice))
        asks_nobody = self.listener(self.settings(client_ca_path=None))
        self.assertFalse(asks_nobody.tls.trusts(shown))
        self.assertTrue(asks_nobody.tls.trusts(peer_certificate(alice.certificate)))


class CutTests(AnchorCase):
    """Connections of those who were verified by what is gone."""

    def test_cut(self) -> None:
        """They end with whatever runs on them, and are counted; others do not."""
        self.trust(self.clients, self.others)
        alice, bob = self.clients.issue("alice"), self.others.issue("bob")
        inner = self.gate.inner
        busy, reading, idle, general, other = (
            *(self.connect(self.gate, alice) for _ in range(4)),
            self.connect(self.gate, bob),
        )
        # The general channel has it now.
        general.ask("X-A: 1", "X-A: 2")
        inner.corridor.handled.clear()
        inner.corridor.hold = True
        busy.send(POST + b"{}")
        reading.send(POST)
        self.assertIs(reading.channel.phase, Phase.BODY)
        gone: list[bool] = []
        for _, outlet in inner.corridor.handled:
            outlet.on_gone(lambda: gone.append(True))
        self.assertEqual(len(inner.corridor.handled), 1)
        self.trust(Authority("Clients", key=self.clients.key), self.others)
        self.assertEqual((inner.site.cut_withdrawn(), inner.dropped), (0, []))
        self.trust(self.others)
        self.assertEqual(inner.site.cut_withdrawn(), 4)
        self.assertEqual(inner.site.cut_withdrawn(), 0)
        self.gate.clock.advance(0)
        self.assertEqual(inner.dropped, ["certificate_untrusted"] * 4)
        self.assertEqual((inner.site.connections, gone), (1, [True]))
        # What its client still sends is nobody's request.
        reading.send(b"{}" + POST + b"{}")
        self.assertEqual(len(inner.corridor.handled), 1)
        self.assertTrue(all(one.transport.aborted for one in (busy, reading, idle, general)))
        other.send(POST + b"{}")
        self.assertEqual(len(inner.corridor.handled), 2)

    def test_on_the_way(self) -> None:
        """Who has begun a handshake before its CA was taken out does not get in by it."""
        client = TlsClient(self.gate, self.context(self.clients.issue("alice")))
        self.trust(self.others)
        client.shake()
        client.send(POST + b"{}")
        self.assertEqual(self.gate.words, ["success"])
        self.assertEqual(self.gate.inner.dropped, ["certificate_untrusted"])
        self.assertEqual(self.gate.inner.corridor.handled, [])
