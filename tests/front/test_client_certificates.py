"""Which certificate a transport has proved."""

from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from mcpguard.front.client_certificates import certificate_of
from mcpguard.front.relay import Addressed
from mcpguard.policy.certificates import Verified, anchor_of, peer_certificate
from tests.pki import Authority

AUTHORITY = Authority("Clients")
ALICE = AUTHORITY.issue("alice")


class Tls:
    """What OpenSSL says of a connection."""

    def __init__(self, certificate: Any, chain: Any) -> None:
        self.certificate, self.chain = certificate, chain

    def get_peer_certificate(self, *, as_cryptography: bool) -> Any:
        """Give it."""
        return self.certificate

    def get_verified_chain(self, *, as_cryptography: bool) -> Any:
        """Give it."""
        return self.chain


class TlsTransport(StringTransport):
    """A transport with TLS."""

    def __init__(self, certificate: Any, chain: Any) -> None:
        super().__init__()
        directlyProvides(self, ISSLTransport)
        self.tls = Tls(certificate, chain)

    def getHandle(self) -> Tls:
        """OpenSSL's connection."""
        return self.tls

    @property
    def listener(self) -> int:
        """Which one it is."""
        return 2

    def sent_certificates(self) -> tuple[bytes, ...]:
        """What came after the client's own."""
        return (b"sent",)

    def getPeerCertificate(self) -> Any:
        """See `ISSLTransport`."""
        raise AssertionError("it says nothing of the chain")


class CertificateTests(SynchronousTestCase):
    """`certificate_of`."""

    def test_verified(self) -> None:
        """The first of the verified chain, with the others as its authorities."""
        chain = [ALICE.certificate, AUTHORITY.certificate]
        found = certificate_of(TlsTransport(ALICE.certificate, chain))
        verified = Verified(2, anchor_of(AUTHORITY.certificate), (b"sent",))
        self.assertEqual(found, peer_certificate(chain[0], chain[1:], verified))
        assert found is not None
        self.assertEqual(len(found.authorities), 1)

    def test_none(self) -> None:
        """Nobody has shown one, or there is no TLS."""
        self.assertIsNone(certificate_of(TlsTransport(None, None)))
        self.assertIsNone(certificate_of(StringTransport()))

    def test_no_chain(self) -> None:
        """One that nobody has verified is not the same as none."""
        nothing: list[Any] = [None, []]
        for chain in nothing:
            transport = TlsTransport(ALICE.certificate, chain)
            self.assertRaises(ValueError, certificate_of, transport)

    def test_relayed(self) -> None:
        """Where TLS is spoken elsewhere, it is the word of that process, and nothing else."""
        facts = peer_certificate(ALICE.certificate)
        for certificate in (facts, None):
            inner: Any = TlsTransport(ALICE.certificate, [ALICE.certificate])
            addressed = Addressed(Protocol(), ("::1", 1), ("::1", 2), certificate)
            addressed.makeConnection(inner)
            self.assertIs(certificate_of(addressed), certificate)
