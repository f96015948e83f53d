"""Tests of what certificates, keys and revocation lists say."""

from typing import Any, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.certificates import (
    anchor_of,
    belongs_to,
    not_after,
    peer_certificate,
    read_certificates,
    read_crls,
    read_private_key,
    thumbprint,
)
from tests.pki import Authority, Issued, pem_of_key


class FileTests(SynchronousTestCase):
    """PEM files."""

    def setUp(self) -> None:
        """A CA with two certificates."""
        self.ca = Authority("CA")
        self.one = self.ca.issue("one")
        self.two = self.ca.issue("two", days=5)

    def test_certificates(self) -> None:
        """All of a file, in its order, whatever stands between them."""
        pem = b"the first\n" + self.one.pem + b"the second\n" + self.two.pem
        found = read_certificates(pem)
        self.assertEqual(found, (self.one.certificate, self.two.certificate))
        self.assertEqual(not_after(found), self.two.certificate.not_valid_after_utc)

    def test_no_certificates(self) -> None:
        """None, or half of one."""
        for pem in (b"", b"text", self.one.pem[:200], pem_of_key(self.one.key)):
            self.assertRaises(ValueError, read_certificates, pem)

    def test_half_written(self) -> None:
        """A file that ends within its last block, or has half of one before another, is damaged."""
        for read, first, second in (
            (read_certificates, self.one.pem, self.two.pem),
            (read_crls, self.ca.crl(self.one), self.ca.crl()),
        ):
            self.assertEqual(len(read(first + second)), 2)
            for cut in (12, 40, 200, len(second) - 30, len(second) - 3):
                for pem in (first + second[:cut], second[:cut] + b"\n" + first):
                    error = self.assertRaises(ValueError, read, pem)
                    self.assertIn("damaged", str(error))

    def test_key(self) -> None:
        """A key and whose it is."""
        key = read_private_key(pem_of_key(self.one.key))
        self.assertTrue(belongs_to(self.one.certificate, key))
        self.assertFalse(belongs_to(self.two.certificate, key))

    def test_no_key(self) -> None:
        """None, half of one, or one that needs a password."""
        for pem, words in (
            (b"", "no PEM private key"),
            (pem_of_key(self.one.key)[:80], "no PEM private key"),
            (self.one.pem, "no PEM private key"),
            (pem_of_key(self.one.key, password=b"secret"), "encrypted"),
        ):
            error = self.assertRaises(ValueError, read_private_key, pem)
            self.assertIn(words, str(error))

    def test_something_else(self) -> None:
        """What stands in a file instead is told, with what to do; not where it is only damaged."""
        certificate, key, crl = self.one.pem, pem_of_key(self.one.key), self.ca.crl()
        public = certificate.replace(b" CERT", b" PUBLIC KEY OF A CERT")
        for read, content, words in (
            (read_certificates, key, "; it has a private key in it: name another file"),
            (read_certificates, crl, "; it has a revocation list in it: name another file"),
            (read_private_key, certificate, "; it has a certificate in it: name another file"),
            (read_private_key, public, "; it has a public key in it: name another file"),
            (read_crls, certificate, "; it has a certificate in it: name another file"),
            (
                read_certificates,
                self.one.certificate.public_bytes(Encoding.DER),
                "; it is not text: convert it with `openssl x509`",
            ),
            (read_certificates, certificate[:90], "or a damaged one"),
            (read_private_key, key[:60], "or a damaged one"),
            (read_certificates, b"text", "or a damaged one"),
        ):
            error = str(self.assertRaises(ValueError, read, content))
            if words.startswith(";"):
                self.assertIn(words, error)
            else:
                self.assertTrue(error.endswith(words), error)

    def test_crls(self) -> None:
        """Several in one file."""
        other = Authority("Other")
        pem = self.ca.crl(self.one) + b"\n# another\n" + other.crl()
        first, second = read_crls(pem)
        self.assertIsNotNone(
            first.get_revoked_certificate_by_serial_number(self.one.certificate.serial_number)
        )
        self.assertEqual(len(second), 0)

    def test_no_crls(self) -> None:
        """None, or a damaged one."""
        damaged = self.ca.crl().replace(b"A", b"B")
        for pem in (b"", self.one.pem, damaged, self.ca.crl()[:100]):
            self.assertRaises(ValueError, read_crls, pem)


class PeerTests(SynchronousTestCase):
    """The facts of a client's certificate."""

    def test_names(self) -> None:
        """Every name of every kind, in order; what is no identity is left out."""
        ca = Authority("CA")
        made = ca.issue(
            "agent",
            dns=("a.example", "b.example"),
            emails=("agent@example.org",),
            uris=("spiffe://example.org/agent",),
            addresses=("192.0.2.1",),
        )
        facts = peer_certificate(made.certificate, [ca.certificate])
        self.assertEqual(facts.common_names, ("agent",))
        self.assertEqual(facts.dns_names, ("a.example", "b.example"))
        self.assertEqual(facts.emails, ("agent@example.org",))
        self.assertEqual(facts.uris, ("spiffe://example.org/agent",))
        self.assertEqual(facts.serial, made.certificate.serial_number)
        self.assertEqual(facts.issuer, ca.certificate.subject.public_bytes())
        self.assertEqual(facts.not_after, made.certificate.not_valid_after_utc.timestamp())
        self.assertEqual(facts.not_before, made.certificate.not_valid_before_utc.timestamp())
        self.assertEqual(
            facts.authorities,
            ((ca.certificate.issuer.public_bytes(), ca.certificate.serial_number),),
        )
        self.assertEqual(facts.thumbprint, thumbprint(facts.der))
        self.assertEqual(len(facts.thumbprint), 43)

    def test_anchor(self) -> None:
        """A CA is the same one by its name and key, in whichever certificate; by one alone not."""
        one = Authority("CA")
        other = Authority("Other")
        for again, same in (
            (Authority("CA", days=90.0, key=one.key), True),
            (Authority("CA", other, key=one.key), True),
            (Authority("CA"), False),
            (Authority("Other", key=one.key), False),
        ):
            found = anchor_of(again.certificate) == anchor_of(one.certificate)
            self.assertEqual(found, same)

    def test_anchor_with_an_unknown_key(self) -> None:
        """Of a key that nobody here understands, one certificate alone is the same CA."""

        class Odd:
            """A certificate with such a key."""

            def __init__(self, issued: Issued) -> None:
                self.issued, self.subject = issued, issued.certificate.subject

            def public_key(self) -> Any:
                """Not ours."""
                raise UnsupportedAlgorithm("odd")

            def public_bytes(self, form: Encoding) -> bytes:
                """The whole."""
                return self.issued.certificate.public_bytes(form)

        one = Authority("CA")
        first, again, renewed = (
            anchor_of(cast("Any", Odd(issued)))
            for issued in (one, one, Authority("CA", key=one.key))
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, renewed)

    def test_no_names(self) -> None:
        """A certificate that names nobody."""
        facts = peer_certificate(Authority("CA").issue(None).certificate)
        self.assertEqual(
            (facts.common_names, facts.dns_names, facts.emails, facts.uris), ((), (), (), ())
        )
