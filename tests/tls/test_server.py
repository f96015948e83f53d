"""Tests of files that change: new handshakes have the new ones, open connections go on."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from mcpguard.errors import ConfigurationError
from mcpguard.policy.certificates import PeerCertificate, Withdrawn, peer_certificate
from tests.front.wire import Listener, limited
from tests.pki import Authority, Issued
from tests.tls.case import TlsCase, TlsClient, TlsListener, files


class RotationTests(TlsCase):
    """A listener whose files are replaced."""

    def setUp(self) -> None:
        """A listener with a client, before anything changes."""
        super().setUp()
        self.alice = self.clients.issue("alice")
        self.gate: TlsListener = self.listener(self.settings(crl=self.clients.crl()))
        self.gate.tls.start()
        self.client = self.connect(self.gate, self.alice)

    def pass_time(self) -> None:
        """Let the files be looked at, and the change settle."""
        self.gate.clock.pump([2.0, 2.0])

    def serial(self, client: TlsClient) -> int:
        """Of the certificate that a client was shown."""
        shown = client.tls.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)

    def test_new_certificate(self) -> None:
        """The next handshake has it; who is connected stays, with what it was shown."""
        new = self.servers.server()
        files(self.directory, "server", new)
        self.pass_time()
        again = self.connect(self.gate, self.alice)
        self.assertEqual(self.serial(again), new.certificate.serial_number)
        self.assertEqual(self.client.ask()[0].status, 200)
        self.assertEqual(self.serial(self.client), self.server.certificate.serial_number)
        (rotation,) = self.gate.rotations
        self.assertEqual((rotation.problems, rotation.changed), ((), ("server",)))

    def test_bad_files(self) -> None:
        """What cannot be used changes nothing, and is told; a good one after it is used."""
        for name, data, key in (
            ("server.crt", b"nothing", "cert_path"),
            ("server.crt", Authority("x").server().pem, "key_path"),
            ("server.key", self.clients.key_pem, "key_path"),
            ("clients.crt", b"", "client_ca_path"),
            ("clients.crl", Authority("Clients").crl(), "client_crl_path"),
        ):
            path = self.directory / name
            before = path.read_bytes()
            path.write_bytes(data)
            self.pass_time()
            self.assertEqual(len(self.gate.rotations), 1, name)
            self.assertIn(f"server.tls.{key}: ", " ".join(self.gate.rotations.pop().problems))
            self.assertIsNone(self.connect(self.gate, self.alice).failure)
            self.assertEqual(self.client.ask()[0].status, 200)
            path.write_bytes(before)
            self.pass_time()
        # Back to what it was is no news.
        self.assertEqual(self.gate.rotations, [])

    def test_what_openssl_refuses(self) -> None:
        """A list that is good but for OpenSSL is a bad file like any other."""
        other = x509.DirectoryName(Authority("Other").certificate.subject)
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(1)
            .revocation_date(datetime(2020, 1, 1, tzinfo=UTC))
            .add_extension(x509.CertificateIssuer([other]), critical=True)
            .build()
        )
        known = x509.load_pem_x509_crl(self.clients.crl())
        mixed = x509.CertificateRevocationListBuilder(
            known.issuer, known.last_update_utc, known.next_update_utc, [], [entry]
        ).sign(self.clients.key, hashes.SHA256())
        self.crl.write_bytes(mixed.public_bytes(Encoding.PEM))
        self.pass_time()
        (rotation,) = self.gate.rotations
        self.assertIn(str(self.crl), rotation.problems[0])
        self.assertIsNone(self.connect(self.gate, self.alice).failure)
        error = self.assertRaises(ConfigurationError, self.listener, self.gate.settings)
        self.assertEqual(error.problems, rotation.problems)

    def test_new_list(self) -> None:
        """A revoked client is refused from the next handshake on."""
        self.assertFalse(self.gate.tls.revoked(peer_certificate(self.alice.certificate)))
        self.crl.write_bytes(self.clients.crl(self.alice))
        self.pass_time()
        self.assertEqual(self.gate.rotations[0].changed, ("client_crl",))
        self.assertIsNotNone(self.connect(self.gate, self.alice).failure)
        self.assertEqual(self.gate.words[-1], "revoked")
        self.assertTrue(self.gate.tls.revoked(peer_certificate(self.alice.certificate)))
        bob = self.clients.issue("bob")
        self.assertFalse(self.gate.tls.revoked(peer_certificate(bob.certificate)))
        self.assertIsNone(self.connect(self.gate, bob).failure)

    def test_new_authorities(self) -> None:
        """A CA that is added or taken away counts from the next handshake on."""
        other = Authority("Others")
        bob = other.issue("bob")
        self.assertIsNotNone(self.connect(self.gate, bob).failure)
        self.ca.write_bytes(other.pem)
        self.crl.write_bytes(other.crl())
        self.pass_time()
        self.assertEqual(self.gate.rotations[0].changed, ("client_ca", "client_crl"))
        self.assertIsNone(self.connect(self.gate, bob).failure)
        self.assertIsNotNone(self.connect(self.gate, self.alice).failure)

    def test_not_valid_yet(self) -> None:
        """What is good a minute later is used then, without another word until that."""
        new = self.servers.server()
        starts = new.certificate.not_valid_before_utc.timestamp()
        self.gate.wall -= self.gate.wall + self.gate.clock.seconds() - starts + 150.0
        files(self.directory, "server", new)
        self.pass_time()
        (rotation,) = self.gate.rotations
        self.assertIn("is not valid before", " ".join(rotation.problems))
        self.gate.clock.pump([60.0] * 2)
        self.assertEqual(len(self.gate.rotations), 1)
        self.gate.clock.pump([60.0] * 2)
        self.assertEqual(self.gate.rotations[1].changed, ("server",))
        self.gate.clock.pump([60.0] * 5)
        self.assertEqual(len(self.gate.rotations), 2)

    def test_what_has_ended_keeps_nothing_new_away(self) -> None:
        """A list that nobody has renewed is no reason to let the listener's certificate end."""
        self.gate.wall += 6 * 86_400.0
        new = self.servers.server(days=30.0)
        files(self.directory, "server", new)
        self.pass_time()
        (rotation,) = self.gate.rotations
        self.assertEqual((rotation.problems, rotation.changed), ((), ("server",)))
        # A new one that has ended too is one, and a list of another CA.
        for crl, words in (
            (self.clients.crl(days=1.0), "had to be renewed"),
            (Authority("Clients").crl(days=9.0), "wrong signature"),
        ):
            self.crl.write_bytes(crl)
            self.pass_time()
            self.assertIn(words, " ".join(self.gate.rotations.pop().problems))

    def test_changed_before_it_watched(self) -> None:
        """What changes after it was read and before it is watched is noticed."""
        gate = self.listener(self.settings())
        self.certificate.write_bytes(b"nothing")
        gate.tls.start()
        gate.clock.pump([2.0, 2.0])
        self.assertEqual(len(gate.rotations), 1)

    def test_stopped(self) -> None:
        """Afterwards nothing is looked at."""
        self.gate.tls.stop()
        self.certificate.write_bytes(b"nothing")
        self.pass_time()
        self.assertEqual(self.gate.rotations, [])

    def test_revoked_authority(self) -> None:
        """A certificate is revoked with a CA of its chain."""
        issuing = Authority("Issuing", self.clients)
        carol = peer_certificate(
            issuing.issue("carol").certificate, [issuing.certificate, self.clients.certificate]
        )
        self.assertFalse(self.gate.tls.revoked(carol))
        self.crl.write_bytes(self.clients.crl(issuing))
        self.pass_time()
        self.assertTrue(self.gate.tls.revoked(carol))

    def test_start_with_bad_files(self) -> None:
        """A listener does not begin with what it cannot use."""
        self.certificate.write_bytes(b"nothing")
        self.assertRaises(ConfigurationError, self.listener)

    def test_no_list(self) -> None:
        """Without lists nothing is revoked."""
        gate = self.listener(self.settings())
        self.assertFalse(gate.tls.revoked(peer_certificate(self.alice.certificate)))
        self.assertEqual(gate.tls.paths, [self.certificate, self.key, self.ca])

    def test_outlook(self) -> None:
        """It tells what it uses will end."""
        self.assertEqual(self.gate.tls.outlook(), ([], []))
        self.gate.wall += 20 * 86_400
        self.assertEqual(len(self.gate.tls.outlook()[0]), 2)


def withdrawing(issued: Issued) -> Callable[[PeerCertificate], Withdrawn | None]:
    """What finds a certificate revoked."""
    serial = issued.certificate.serial_number
    return lambda one: Withdrawn.REVOKED if one.serial == serial else None


class EndTests(TlsCase):
    """Certificates that end while their connection is open."""

    def test_expires(self) -> None:
        """A certificate's end is that of its connection, also of what runs on it."""
        gate = self.listener()
        short = self.clients.issue("alice", days=1.0)
        gate.inner.corridor.hold = True
        busy, idle, anonymous = (
            self.connect(gate, short),
            self.connect(gate, short),
            self.connect(gate, self.clients.issue("bob", days=5.0)),
        )
        busy.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        gate.clock.advance(1)
        self.assertEqual(gate.inner.site.connections, 3)
        gone: list[bool] = []
        gate.inner.corridor.handled[0][1].on_gone(lambda: gone.append(True))
        ends = short.certificate.not_valid_after_utc.timestamp()
        now = gate.clock.seconds()
        gate.inner.site.wall = lambda: ends - 1.0 + gate.clock.seconds() - now
        gate.clock.pump([0.5])
        self.assertEqual(gate.inner.site.connections, 3)
        gate.clock.pump([0.5] * 3)
        self.assertEqual(gate.inner.dropped, ["certificate_expired"] * 2)
        self.assertEqual((gate.inner.site.connections, gone), (1, [True]))
        self.assertTrue(busy.transport.aborted and idle.transport.aborted)
        self.assertFalse(anonymous.transport.aborted)

    def test_cut(self) -> None:
        """Connections are cut by their certificate, whichever channel serves them."""
        inner = Listener(limits=limited(connections_per_address=4))
        gate = self.listener(self.settings(client_auth="optional"), inner=inner)
        alice, bob = self.clients.issue("alice"), self.clients.issue("bob")
        first, second, other, none = (
            self.connect(gate, alice),
            self.connect(gate, alice),
            self.connect(gate, bob),
            self.connect(gate),
        )
        # The general channel has it now.
        second.ask("X-A: 1", "X-A: 2")
        gate.inner.site.withdrawn = withdrawing(alice)
        self.assertEqual(gate.inner.site.cut_withdrawn(), 2)
        self.assertEqual(gate.inner.site.cut_withdrawn(), 0)
        gate.clock.advance(0)
        self.assertEqual(gate.inner.dropped, ["certificate_revoked"] * 2)
        self.assertTrue(first.transport.aborted and second.transport.aborted)
        for client in (other, none):
            self.assertEqual(client.ask()[0].status, 200)

    def test_revoked_on_the_way(self) -> None:
        """Who has begun a handshake before the list was there does not get in by it."""
        gate = self.listener()
        alice = self.clients.issue("alice")
        client = TlsClient(gate, self.context(alice))
        gate.inner.site.withdrawn = withdrawing(alice)
        client.shake()
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        self.assertEqual(gate.inner.dropped, ["certificate_revoked"])
        self.assertEqual(gate.inner.corridor.handled, [])

    def test_version_of_the_client(self) -> None:
        """All that holds over TLS 1.2 as well."""
        gate = self.listener()
        context = self.context(self.clients.issue("alice"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = TlsClient(gate, context).shake()
        client.ask()
        certificate = gate.inner.corridor.handled[0][0].certificate
        assert certificate is not None
        self.assertEqual(certificate.common_names, ("alice",))
