"""Tests of what is wrong or doubtful about certificates, keys and revocation lists."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, DNSPattern, verify_service_identity
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy import certificate_rules
from mcpguard.policy.certificate_rules import (
    Findings,
    _issued_by,
    current,
    judge_authorities,
    judge_crls,
    judge_key,
    judge_own,
    names_host,
)
from mcpguard.policy.certificates import read_crls
from tests.pki import CLIENT, SERVER, Authority


class RulesCase(SynchronousTestCase):
    """A root, a CA below it, and now."""

    def setUp(self) -> None:
        """Make them."""
        self.now = datetime.now(UTC)
        self.root = Authority("Root", days=300)
        self.ca = Authority("CA", self.root, days=200)

    def later(self, days: float) -> datetime:
        """So many days from now."""
        return self.now + timedelta(days=days)

    def assert_found(
        self, found: Findings, problems: Sequence[str] = (), warnings: Sequence[str] = ()
    ) -> None:
        """What was found has these words in this order, and nothing else was."""
        for told, words in ((found.problems, problems), (found.warnings, warnings)):
            self.assertEqual(len(told), len(words), told)
            for one, wanted in zip(told, words, strict=True):
                self.assertIn(wanted, one)


class OwnTests(RulesCase):
    """A certificate to show, with its chain."""

    def test_good(self) -> None:
        """A leaf, its CA and the root: nothing to say; the first end counts."""
        leaf = self.ca.server(days=90).certificate
        found = judge_own([leaf, self.ca.certificate, self.root.certificate], self.now, server=True)
        self.assert_found(found)
        self.assertEqual(found.end, leaf.not_valid_after_utc)
        self.assert_found(judge_own([leaf], self.now, server=True))

    def test_time(self) -> None:
        """Expired, not yet valid, and everything between the two moments."""
        leaf = self.ca.issue("x", starts=-1, days=89).certificate
        for days, problems, warnings in (
            (-1.1, ["is not valid before"], []),
            (-0.9, [], []),
            (58, [], []),
            (61, [], ["in 27 days: certificate 1 in it; renew it"]),
            (87.5, [], ["in 1 day:"]),
            (89.1, ["has expired, on"], []),
        ):
            with self.subTest(days=days):
                found = judge_own([leaf], self.later(days), server=False)
                self.assert_found(found, problems, warnings)

    def test_short_lived(self) -> None:
        """What lives for days only is not said to end soon all its life."""
        leaf = self.ca.issue("x", starts=0, days=3).certificate
        self.assert_found(judge_own([leaf], self.later(1.9), server=False))
        found = judge_own([leaf], self.later(2.1), server=False)
        self.assert_found(found, (), ["in 0 days"])

    def test_chain_time(self) -> None:
        """A CA in the chain that has expired is as bad."""
        old = Authority("Old", self.root, days=-0.5)
        leaf = old.server(days=90).certificate
        found = judge_own([leaf, old.certificate], self.now, server=True)
        self.assert_found(found, ["has expired, on"])
        self.assertIn("certificate 2 in it", found.problems[0])

    def test_order(self) -> None:
        """The next certificate must be the issuer's; further up it is doubtful only."""
        leaf = self.ca.server(days=90).certificate
        found = judge_own([leaf, self.root.certificate, self.ca.certificate], self.now, server=True)
        self.assert_found(
            found,
            ["has certificate 2 in it, which did not issue certificate 1 in it"],
            ["has certificate 3 in it, which did not issue"],
        )

    def test_namesake(self) -> None:
        """The name of the issuer is not enough: it must have signed."""
        namesake = Authority("CA", self.root, days=200)
        leaf = self.ca.server(days=90).certificate
        found = judge_own([leaf, namesake.certificate], self.now, server=True)
        self.assert_found(found, ["did not issue"])

    def test_usage(self) -> None:
        """Certificates for the other side are doubtful; without a usage they are for any."""
        for usages, server, words in (
            ((CLIENT,), True, ["lacks serverAuth): clients will refuse it"]),
            ((SERVER,), False, ["lacks clientAuth): servers will refuse it"]),
            ((SERVER, CLIENT), True, []),
            ((SERVER, CLIENT), False, []),
            (None, True, []),
        ):
            leaf = self.ca.issue("x", days=90, usages=usages).certificate
            self.assert_found(judge_own([leaf], self.now, server=server), (), words)


class KeyTests(SynchronousTestCase):
    """Keys that can be read."""

    def test_kinds(self) -> None:
        """Too short, or on a curve that TLS has no name for."""
        self.assertEqual(judge_key(ec.generate_private_key(ec.SECP256R1())), [])
        self.assertEqual(judge_key(ec.generate_private_key(ec.BrainpoolP256R1())), [])
        self.assertEqual(judge_key(ed25519.Ed25519PrivateKey.generate()), [])
        self.assertEqual(judge_key(rsa.generate_private_key(65537, 2048)), [])
        (short,) = judge_key(rsa.generate_private_key(65537, 1024))
        self.assertIn("1024 bits", short)
        (curve,) = judge_key(ec.generate_private_key(ec.SECP256K1()))
        self.assertIn("secp256k1", curve)


class AuthorityTests(RulesCase):
    """CAs to verify others by."""

    def test_good(self) -> None:
        """Nothing to say; the first end counts."""
        found = judge_authorities(
            [self.root.certificate, self.ca.certificate], self.now, issuing=True
        )
        self.assert_found(found)
        self.assertEqual(found.end, self.ca.certificate.not_valid_after_utc)

    def test_no_authority(self) -> None:
        """A leaf verifies no client; a server may be known by its own certificate."""
        leaf = self.ca.server(days=90).certificate
        found = judge_authorities(
            [leaf, self.ca.certificate, self.root.certificate], self.now, issuing=True
        )
        self.assert_found(found, ["which is no CA"])
        self.assert_found(judge_authorities([leaf], self.now, issuing=False))

    def test_no_root(self) -> None:
        """Clients are verified up to a root, so it must be there; of a server we trust any."""
        found = judge_authorities([self.ca.certificate], self.now, issuing=True)
        self.assert_found(found, ['lacks the CA that issued certificate 1 in it, "CN=Root"'])
        self.assert_found(judge_authorities([self.ca.certificate], self.now, issuing=False))

    def test_expired(self) -> None:
        """One among others is doubtful; when all have, nobody could be verified."""
        old = Authority("Old", days=-0.1)
        both = [old.certificate, self.root.certificate]
        found = judge_authorities(both, self.now, issuing=True)
        self.assert_found(found, (), ["has expired"])
        self.assertEqual(found.end, self.root.certificate.not_valid_after_utc)
        self.assertEqual(current(both, self.now), [self.root.certificate])
        found = judge_authorities([old.certificate], self.now, issuing=True)
        self.assert_found(found, ["no certificate that is valid now"])
        self.assertIsNone(found.end)

    def test_many(self) -> None:
        """A thousand CAs are judged in the time of a thousand: it is the reactor's."""
        many = [Authority(f"{number}").certificate for number in range(20)]
        calls: list[object] = []

        def issued_by(one: x509.Certificate, issuer: x509.Certificate) -> bool:
            calls.append(one)
            return _issued_by(one, issuer)

        self.patch(certificate_rules, "_issued_by", issued_by)
        self.assert_found(judge_authorities(many, self.now, issuing=True))
        self.assertEqual(len(calls), len(many))


class CrlTests(RulesCase):
    """Revocation lists against the CAs."""

    def judge(self, *pems: bytes, days: float = 0.0) -> Findings:
        """Judge lists against the root and the CA."""
        authorities = [self.root.certificate, self.ca.certificate]
        return judge_crls(read_crls(b"".join(pems)), authorities, self.later(days))

    def test_good(self) -> None:
        """One for each CA; the first that must be renewed counts."""
        found = self.judge(self.root.crl(days=100), self.ca.crl(days=9))
        self.assert_found(found)
        assert found.end is not None
        self.assertEqual((found.end - self.now).days, 8)

    def test_missing(self) -> None:
        """A CA without a list would have everybody refused; an expired one needs none."""
        self.assert_found(self.judge(self.root.crl()), ['has no list of "CN=CA"'])
        self.assert_found(self.judge(self.root.crl(days=400), days=201))

    def test_foreign(self) -> None:
        """A list of some other CA, or of a namesake."""
        both = (self.root.crl(), self.ca.crl())
        self.assert_found(self.judge(*both, Authority("Other").crl()), ['list of "CN=Other"'])
        found = self.judge(self.root.crl(), Authority("CA").crl())
        self.assert_found(found, ["has a wrong signature: list 2 in it", "has no list"])

    def test_stale(self) -> None:
        """A list that should have been renewed, or that is of the future."""
        stale = self.ca.crl(days=-0.1, starts=-1)
        found = self.judge(self.root.crl(), stale)
        self.assert_found(found, ["that had to be renewed by"])
        future = self.ca.crl(days=2, starts=1)
        found = self.judge(self.root.crl(), future)
        self.assert_found(found, ["is not valid before", "has no list"])

    def test_renewed(self) -> None:
        """A stale list does no harm beside a current one of the same CA."""
        stale = self.ca.crl(days=-0.1, starts=-1)
        self.assert_found(self.judge(self.root.crl(), stale, self.ca.crl()))

    def test_soon(self) -> None:
        """A list in the last third of its life."""
        found = self.judge(self.root.crl(days=100), self.ca.crl(days=5.5), days=4)
        self.assert_found(found, (), ['list of "CN=CA" that must be renewed by'])


LABELS = st.sampled_from(("a", "b", "A-1"))
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@frozen
class Named:
    """What is asked of a certificate about its names."""

    extensions: x509.Extensions


class NameTests(RulesCase):
    """Whom a server's certificate is for."""

    def test_names(self) -> None:
        """Names and addresses, each in its kind; a star stands for one label."""
        one = self.ca.issue(
            "cn.example",
            dns=("a.example", "*.Wild.example", "192.0.2.9"),
            addresses=("192.0.2.1", "2001:db8::1"),
        ).certificate
        for host in (
            *("a.example", "A.EXAMPLE", "a.example.", "x.wild.example", "192.0.2.1"),
            "2001:db8:0::1",
        ):
            self.assertIs(names_host(one, host), True, host)
        for host in ("cn.example", "wild.example", "x.y.wild.example", "192.0.2.9", "example", ""):
            self.assertIs(names_host(one, host), False, host)

    @settings(deadline=None, max_examples=150)
    @given(host=HOSTS, pattern=st.one_of(HOSTS, HOSTS.map("*.{}".format)))
    def test_as_it_is_verified(self, host: str, pattern: str) -> None:
        """A name fits as it does when a client verifies the certificate."""
        names = x509.SubjectAlternativeName([x509.DNSName(pattern)])
        certificate = Named(x509.Extensions([x509.Extension(names.oid, False, names)]))
        try:
            patterns = [DNSPattern.from_bytes(pattern.encode())]
            verify_service_identity(patterns, [DNS_ID(host)], [])
            fits = True
        except (VerificationError, CertificateError):
            fits = False
        self.assertEqual(names_host(cast("x509.Certificate", certificate), host), fits)

    def test_none(self) -> None:
        """The common name names no host."""
        self.assertIsNone(names_host(self.ca.issue("a.example").certificate, "a.example"))
