"""Tests of trust in servers, and of files that change."""

import os

from OpenSSL import SSL

from mcpguard.errors import ConfigurationError
from mcpguard.tls.client import verifying
from tests.pki import SERVER, Authority
from tests.tls.client_case import ClientCase, Server

OWN = ("ca_path", "cert_path", "key_path")


class CredentialTests(ClientCase):
    """Our own certificate."""

    def test_shown(self) -> None:
        """It is shown to a server that asks for one."""
        server = Server(self.ca.server("a.example"), clients=self.ca)
        self.assert_through(self.shake(self.policy(*OWN), server, "a.example"))
        self.assertEqual(server.client, self.own.certificate)

    def test_chain(self) -> None:
        """With its chain, so that a server that knows the root alone can verify it."""
        below = Authority("Below", self.ca)
        below.issue("gateway").write(self.directory, "own", below.certificate)
        server = Server(self.ca.server("a.example"), clients=self.ca)
        self.assert_through(self.shake(self.policy(*OWN), server, "a.example"))

    def test_missing(self) -> None:
        """Without it the server's refusal comes to the client's side with OpenSSL's reason."""
        server = Server(self.ca.server("a.example"), clients=self.ca)
        client, _ = self.shake(self.policy("ca_path"), server, "a.example")
        assert client.ended is not None
        self.assertTrue(client.ended.check(SSL.Error))
        self.assertIn("certificate required", str(client.ended.value))

    def test_old_versions(self) -> None:
        """TLS 1.2 is spoken, and nothing older."""
        server = Server(self.ca.server("a.example"))
        server.context.set_max_proto_version(SSL.TLS1_2_VERSION)
        self.assert_through(self.shake(self.policy("ca_path"), server, "a.example"))
        server = Server(self.ca.server("a.example"))
        server.context.set_max_proto_version(SSL.TLS1_1_VERSION)
        # Else OpenSSL's security level would refuse the old version before we do.
        server.context.set_cipher_list(b"ALL:@SECLEVEL=0")
        self.assert_refused(self.shake(self.policy("ca_path"), server, "a.example"), "version")

    def test_ends(self) -> None:
        """When each kind ends, for who looks ahead."""
        ends = self.policy(*OWN).ends
        self.assertEqual(ends["ca"], self.ca.certificate.not_valid_after_utc.timestamp())
        self.assertEqual(ends["client"], self.own.certificate.not_valid_after_utc.timestamp())
        self.assertEqual(dict(self.policy().ends), {})


class OtherProtocolTests(ClientCase):
    """Servers that do not speak HTTP."""

    def test_system(self) -> None:
        """They are known by the system's authorities, and no HTTP is offered to them."""
        server = Server(self.ca.server("a.example"))
        client, served, _ = self.connect(verifying("a.example"), server)
        self.assert_refused((client, served), "unable to get local issuer certificate")
        before = os.environ.get("SSL_CERT_FILE")
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE", None)
        if before is not None:
            self.addCleanup(os.environ.__setitem__, "SSL_CERT_FILE", before)
        os.environ["SSL_CERT_FILE"] = str(self.directory / "ca.crt")
        client, served, _ = self.connect(verifying("a.example"), server)
        self.assert_through((client, served))
        self.assertEqual(server.offered, [])
        nobody = Server(self.ca.issue("a.example", usages=(SERVER,)))
        client, served, _ = self.connect(verifying("a.example"), nobody)
        self.assert_refused((client, served), "no subjectAltName")


class UnusableTests(ClientCase):
    """Files that nothing can be built from."""

    def problems(self) -> tuple[str, ...]:
        """What is wrong with them."""
        error: ConfigurationError = self.assertRaises(ConfigurationError, self.policy, *OWN)
        return error.problems

    def test_all_at_once(self) -> None:
        """Each is named by its key with its path and the reason."""
        self.put("ca.crt", b"")
        (self.directory / "own.crt").unlink()
        self.put("own.key", b"x" * 100_001)
        problems = self.problems()
        self.assertEqual(len(problems), 3)
        for problem, words in zip(
            problems,
            (
                f"upstream.tls.ca_path: {self.directory}/ca.crt has no PEM certificate",
                f"upstream.tls.cert_path: {self.directory}/own.crt cannot be read: No such file",
                f"upstream.tls.key_path: {self.directory}/own.key is larger than 100000 bytes",
            ),
            strict=True,
        ):
            self.assertIn(words, problem)

    def test_foreign_key(self) -> None:
        """The key must be the certificate's."""
        self.put("own.key", self.ca.issue("x").key_pem)
        (problem,) = self.problems()
        self.assertIn("own.key has another key than", problem)

    def test_expired(self) -> None:
        """What has ended is left to the server: nothing that starts again may fail for it."""
        self.ca.issue("gateway", days=-0.1).write(self.directory, "own")
        self.policy(*OWN)


class RotationTests(ClientCase):
    """Files that change while the policy is used."""

    def setUp(self) -> None:
        """A policy that watches its files, and a server."""
        super().setUp()
        self.server = Server(self.ca.server("a.example"), clients=self.ca)
        self.watching = self.policy(*OWN)
        self.watching.start()
        self.addCleanup(self.watching.stop)

    def look(self) -> None:
        """Two looks, so that a change has settled."""
        self.clock.pump([2.0, 2.0])

    def test_new_certificate(self) -> None:
        """New handshakes show it; a connection that stands goes on with the old one."""
        old = self.shake(self.watching, self.server, "a.example")
        old_pump, old_connection = self.pump, self.server.connection
        new = self.ca.issue("gateway")
        new.write(self.directory, "own")
        self.look()
        self.assert_through(self.shake(self.watching, self.server, "a.example"))
        self.assertEqual(self.server.client, new.certificate)
        old[0].say(b" again")
        self.settle(old_pump)
        self.assertEqual(old[1].heard, b"from the client again")
        assert old_connection is not None
        shown = old_connection.get_peer_certificate()
        assert shown is not None
        self.assertEqual(shown.to_cryptography(), self.own.certificate)
        (event,) = self.events
        self.assertEqual(
            (event.event_type, event.server, event.status), ("CertificateEvent", "x", "loaded")
        )
        self.assertEqual(event.timestamp, self.now)
        self.assertEqual(
            self.watching.ends["client"], new.certificate.not_valid_after_utc.timestamp()
        )

    def test_new_authority(self) -> None:
        """Another CA is trusted, and the old one no more."""
        other = Authority("Other")
        moved = Server(other.server("a.example"))
        self.assert_refused(self.shake(self.watching, moved, "a.example"), "unable to get")
        self.put("ca.crt", other.pem)
        self.look()
        self.assert_through(self.shake(self.watching, moved, "a.example"))
        sides = self.shake(self.watching, self.server, "a.example")
        self.assert_refused(sides, "certificate verify failed")

    def test_bad_files(self) -> None:
        """They change nothing but the log and the audit trail, until there are good ones."""
        for name, content, words in (
            ("own.crt", b"half", "own.crt has no PEM certificate"),
            ("own.crt", self.ca.issue("x").pem, "own.key has another key"),
            ("ca.crt", Authority("Old", days=-0.1).pem, "no certificate that is valid now"),
        ):
            good = (self.directory / name).read_bytes()
            self.put(name, content)
            self.look()
            event = self.events.pop()
            self.assertEqual((event.status, event.server), ("rejected", "x"))
            self.assertIn(words, event.details["problems"][0])
            self.assert_through(self.shake(self.watching, self.server, "a.example"))
            self.assertEqual(self.server.client, self.own.certificate)
            self.put(name, good)
            self.look()
            self.assertEqual(self.events.pop().status, "loaded")
        counted = self.metrics.numbers().counters["mcp_guard_certificate_rotations_total"]
        self.assertEqual(counted, {("loaded",): 3, ("rejected",): 3})

    def test_expired(self) -> None:
        """A new certificate that has ended already is no good one."""
        self.ca.issue("gateway", days=-0.1).write(self.directory, "own")
        self.look()
        self.assertEqual([one.status for one in self.events], ["rejected"])
        self.assertIn("has expired", self.events[0].details["problems"][0])

    def test_before_the_start(self) -> None:
        """What changes between the reading and the start is not overlooked."""
        policy = self.policy(*OWN)
        new = self.ca.issue("gateway")
        new.write(self.directory, "own")
        policy.start()
        self.addCleanup(policy.stop)
        self.look()
        self.assert_through(self.shake(policy, self.server, "a.example"))
        self.assertEqual(self.server.client, new.certificate)

    def test_stop(self) -> None:
        """Nothing is looked at any more, and no timer is left."""
        self.watching.stop()
        self.put("own.crt", b"")
        self.look()
        self.assertEqual(self.events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
