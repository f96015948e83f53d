"""Tests of handshakes: who gets in, who does not, and what is known of either."""

from tests.tls.case import TlsCase


class CertificateTests(TlsCase):
    """What clients show, at a listener that requires a certificate."""

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
