"""Tests of the headers in which a proxy passes on its client's certificate."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.identity.certificate_headers import NOT_ACCEPTED, CertificateHeaders
from mcpguard.policy.certificates import PeerCertificate
from tests.identity.certificates import der_header, facts, pem_header, standard_header
from tests.pki import Authority

CA = Authority("CA")
ALICE = CA.issue("alice")
BOB = CA.issue("bob")


class HeaderTests(SynchronousTestCase):
    """`CertificateHeaders`."""

    def setUp(self) -> None:
        """A reader with small bounds."""
        self.reader = CertificateHeaders(max_chars=3_000, max_kept=2)

    def read(self, verify: object = "SUCCESS", **given: object) -> PeerCertificate | None:
        """What is read of ``verify`` and of headers given as one value or as several."""
        named = {"x-ssl-client-verify": verify}
        named |= {name.replace("_", "-"): value for name, value in given.items()}
        headers: dict[str, tuple[str, ...]] = {}
        for name, value in named.items():
            if isinstance(value, str):
                headers[name] = (value,)
            elif isinstance(value, tuple):
                headers[name] = value
        return self.reader.certificate_in(headers)

    def refusal(self, verify: object = "SUCCESS", **given: object) -> Refusal:
        """The refusal, which tells the client nothing of the certificate."""
        refused = self.assertRaises(Refused, self.read, verify, **given)
        refusal: Refusal = refused.refusal
        self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)
        self.assertEqual(refusal.message, NOT_ACCEPTED)
        return refusal

    def test_every_form(self) -> None:
        """The three ways to write a certificate give the same facts, in either header."""
        self.assertEqual(pem_header(ALICE)[:16], "-----BEGIN%20CER")
        for text in (pem_header(ALICE), der_header(ALICE), standard_header(ALICE)):
            self.assertEqual(self.read(x_ssl_client_cert=text), facts(ALICE))
            self.assertEqual(self.read(client_cert=text), facts(ALICE))

    def test_plus_sign(self) -> None:
        """A plus sign of base64 is none of a form, escaped or not."""
        text = pem_header(ALICE).replace("%2B", "+")
        while "+" not in text:
            text = pem_header(CA.issue("alice")).replace("%2B", "+")
        found = self.read(x_ssl_client_cert=text)
        assert found is not None
        self.assertEqual(found.common_names, ("alice",))

    def test_none(self) -> None:
        """Without a certificate there is none, however the proxy says so."""
        for verify in ("NONE", "", None):
            self.assertIsNone(self.read(verify))
            self.assertIsNone(self.read(verify, x_ssl_client_cert="", client_cert=""))

    def test_not_verified(self) -> None:
        """Any word but SUCCESS, in exactly this form, is a refusal that shows the word."""
        for verify in ("FAILED:certificate has expired", "success", "SUCCESS,SUCCESS", "0", "OK"):
            detail = self.refusal(verify, x_ssl_client_cert=pem_header(ALICE)).detail
            self.assertIn(verify, detail)
        self.assertLess(len(self.refusal("x" * 9_000).detail), 200)

    def test_certificate_without_its_verification(self) -> None:
        """A certificate that nobody vouches for is refused, not passed over."""
        for verify in ("NONE", None):
            self.refusal(verify, x_ssl_client_cert=pem_header(ALICE))
            self.refusal(verify, client_cert=standard_header(ALICE))

    def test_verification_without_certificate(self) -> None:
        """SUCCESS alone is nobody's."""
        for texts in ({}, {"x_ssl_client_cert": ""}):
            self.assertIn("does not pass on", self.refusal(**texts).detail)

    def test_sent_twice(self) -> None:
        """A header that comes twice may hold the client's own word, so neither is read."""
        good = pem_header(ALICE)
        for given_twice in (
            {"verify": ("SUCCESS", "SUCCESS"), "x_ssl_client_cert": good},
            {"verify": ("SUCCESS", "NONE"), "x_ssl_client_cert": good},
            {"x_ssl_client_cert": (good, good)},
            {"client_cert": (good, good)},
            {"client_cert": ("", ""), "x_ssl_client_cert": good},
        ):
            self.assertIn("times", self.refusal(**given_twice).detail)

    def test_both(self) -> None:
        """Both headers may come, as long as they hold one certificate."""
        found = self.read(x_ssl_client_cert=pem_header(ALICE), client_cert=standard_header(ALICE))
        self.assertEqual(found, facts(ALICE))
        detail = self.refusal(
            x_ssl_client_cert=pem_header(ALICE), client_cert=standard_header(BOB)
        ).detail
        self.assertIn("differ", detail)

    def test_unreadable(self) -> None:
        """What is not exactly one certificate is refused."""
        pem, der = pem_header(ALICE), der_header(ALICE)
        for text in (
            "alice",
            "CN=alice",
            pem[:-40],
            pem + pem,
            "x" + pem,
            pem + "x",
            pem.replace("CERTIFICATE", "X509%20CRL"),
            pem.replace("%0A", "%00", 2),
            "-----BEGIN%FF",
            der[:-8],
            der + der,
            der[:100] + " " + der[100:],
            ":",
            "::",
            f":{der}",
            f"{der}:",
            f":{pem}:",
            "\u00e9",
        ):
            self.assertIn("cannot be read", self.refusal(x_ssl_client_cert=text).detail, text)

    def test_oversize(self) -> None:
        """The longest text is read, one character more is not."""
        text = der_header(ALICE)
        reader = self.reader = CertificateHeaders(max_chars=len(text), max_kept=2)
        self.assertEqual(self.read(x_ssl_client_cert=text), facts(ALICE))
        self.reader = CertificateHeaders(max_chars=len(text) - 1, max_kept=2)
        self.assertIn("more than", self.refusal(x_ssl_client_cert=text).detail)
        self.assertEqual((len(reader), len(self.reader)), (1, 0))

    def test_kept(self) -> None:
        """A certificate is taken apart once; no more are kept than that."""
        first = self.read(x_ssl_client_cert=pem_header(ALICE))
        self.assertIs(self.read(x_ssl_client_cert=pem_header(ALICE)), first)
        for text in (der_header(ALICE), der_header(BOB), standard_header(BOB)):
            self.read(x_ssl_client_cert=text)
            self.assertLessEqual(len(self.reader), 2)
        self.assertIsNot(self.read(x_ssl_client_cert=pem_header(ALICE)), first)

    def test_kept_but_not_verified(self) -> None:
        """That a certificate is known says nothing of the next request's verification."""
        self.read(x_ssl_client_cert=pem_header(ALICE))
        self.refusal("FAILED:revoked", x_ssl_client_cert=pem_header(ALICE))

    @settings(deadline=None, max_examples=200)
    @given(
        st.sampled_from(["SUCCESS", "NONE", "", "FAILED:x", "SUCCESS ", "success"]),
        st.one_of(
            st.sampled_from([pem_header(ALICE), der_header(ALICE), standard_header(BOB), ""]),
            st.text(max_size=60),
            st.binary(max_size=60).map(lambda data: f":{data.hex()}:"),
            st.integers(0, 900).map(lambda cut: der_header(ALICE)[:cut]),
        ),
    )
    def test_noise(self, verify: str, text: str) -> None:
        """Whatever comes, it is a certificate of this CA, none, or refused."""
        try:
            found = self.read(verify, x_ssl_client_cert=text)
        except Refused as refused:
            self.assertIs(refused.refusal.reason, Reason.BAD_CREDENTIALS)
            return
        if found is None:
            self.assertIn(verify, ("NONE", ""))
            self.assertEqual(text, "")
        else:
            self.assertEqual(verify, "SUCCESS")
            self.assertIn(found, (facts(ALICE), facts(BOB)))
