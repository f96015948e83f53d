"""Tests of client certificates: which counts, and whose it is."""

from collections.abc import Mapping
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import IdentityKeys, IdentitySource, MtlsIdentity, MtlsSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.certificate_headers import CertificateHeaders
from mcpguard.identity.mutual_tls import MAX_NAME, MutualTls, Presented
from mcpguard.policy.certificates import PeerCertificate, Withdrawn
from mcpguard.policy.principal import Allowance, Principal, Rights
from tests.identity.certificates import (
    CLIENT,
    NOW,
    PROXY,
    certificate,
    facts,
    pem_header,
    request,
    standard_header,
)
from tests.pki import Authority

TRUSTED = (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))
CA = Authority("CA")
ISSUED = CA.issue("alice", dns=("a.example",), emails=("a@example.com",), uris=("spiffe://x/a",))
OTHER = CA.issue("bob")
HEADERS = {"x-ssl-client-verify": ("SUCCESS",), "x-ssl-client-cert": (pem_header(ISSUED),)}
GOOD_AT = (facts(ISSUED).not_before + facts(ISSUED).not_after) / 2


def presented(
    *, withdrawn: Mapping[int, Withdrawn] | None = None, trusted: bool = True
) -> Presented:
    """What tells which certificate counts; ``withdrawn`` by serial."""
    gone = withdrawn or {}
    return Presented(
        TRUSTED if trusted else (),
        lambda one: gone.get(one.serial),
        CertificateHeaders(max_chars=4_000, max_kept=10),
        max_peers=3,
    )


def refusal_of(certificates: Presented | MutualTls, incoming: Incoming, now: float) -> Refusal:
    """The refusal of a certificate."""
    try:
        if isinstance(certificates, MutualTls):
            certificates.authenticate(incoming, now)
        else:
            certificates.certificate_of(incoming, now)
    except Refused as refused:
        return refused.refusal
    raise AssertionError("not refused")


class PresentedTests(SynchronousTestCase):
    """`Presented`."""

    def test_of_the_connection(self) -> None:
        """For everybody but a proxy the connection's certificate counts, and no header."""
        shown = certificate()
        for found in (
            presented().certificate_of(request(shown=shown), NOW),
            presented().certificate_of(request(HEADERS, shown=shown), NOW),
            presented(trusted=False).certificate_of(request(HEADERS, peer=PROXY, shown=shown), NOW),
        ):
            self.assertIs(found, shown)
        self.assertIsNone(presented().certificate_of(request(), NOW))
        self.assertIsNone(presented().certificate_of(request(HEADERS), GOOD_AT))

    def test_of_the_proxy(self) -> None:
        """For a proxy the headers count, and never the certificate of its own connection."""
        for peer in (PROXY, "::ffff:10.0.0.5", "fd00::7"):
            found = presented().certificate_of(
                request(HEADERS, peer=peer, shown=certificate()), GOOD_AT
            )
            self.assertEqual(found, facts(ISSUED))
            self.assertIsNone(
                presented().certificate_of(request(peer=peer, shown=certificate()), NOW)
            )

    def test_bad_words_of_others(self) -> None:
        """What would be refused from a proxy does not exist from anybody else."""
        bad = {"x-ssl-client-verify": ("FAILED:x", "y"), "client-cert": ("z",)}
        for peer in (CLIENT, "10.0.1.5", "fd00:1::7", "", "unknown"):
            self.assertIsNone(presented().certificate_of(request(bad, peer=peer), NOW))
        self.assertIs(
            refusal_of(presented(), request(bad, peer=PROXY), NOW).reason, Reason.BAD_CREDENTIALS
        )

    def test_peers_remembered(self) -> None:
        """Whoever else has been asked about, a proxy is one, and nobody else."""
        one = presented()
        for number in range(10):
            for peer, trusted in ((f"10.0.0.{number}", True), (f"192.0.2.{number}", False)):
                for _ in range(2):
                    found = one.certificate_of(request(HEADERS, peer=peer), GOOD_AT)
                    self.assertEqual(found is not None, trusted)
                self.assertLessEqual(len(one._proxies), 3)

    def test_dates(self) -> None:
        """A certificate counts from its first second to its last, in both modes."""
        shown, sent = certificate(), facts(ISSUED)
        for one, incoming in ((shown, request(shown=shown)), (sent, request(HEADERS, peer=PROXY))):
            for now in (one.not_before, one.not_after):
                self.assertEqual(presented().certificate_of(incoming, now), one)
            early = refusal_of(presented(), incoming, one.not_before - 1)
            self.assertIs(early.reason, Reason.BAD_CREDENTIALS)
            self.assertEqual(early.detail, f"certificate {one.serial:x} is not valid yet")
            late = refusal_of(presented(), incoming, one.not_after + 1)
            self.assertIs(late.reason, Reason.EXPIRED_CREDENTIALS)
            self.assertIn(f"{one.serial:x}", late.detail)

    def test_withdrawn(self) -> None:
        """A revoked certificate counts no more, in both modes, nor one whose CA has gone."""
        shown, sent = certificate(), facts(ISSUED)
        for why, words in (
            (Withdrawn.REVOKED, "is revoked"),
            (Withdrawn.UNTRUSTED, "comes from a CA that is not trusted any more"),
        ):
            gone = presented(withdrawn={shown.serial: why, sent.serial: why})
            for one, incoming, now in (
                (shown, request(shown=shown), NOW),
                (sent, request(HEADERS, peer=PROXY), GOOD_AT),
            ):
                refusal = refusal_of(gone, incoming, now)
                self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)
                self.assertEqual(refusal.detail, f"certificate {one.serial:x} {words}")

    @settings(deadline=None, max_examples=300)
    @given(
        peer=st.one_of(
            st.ip_addresses().map(str),
            st.sampled_from([PROXY, CLIENT, "fd00::1", "::ffff:10.0.0.9", "10.0.0.5%eth0", ""]),
        ),
        verify=st.lists(st.sampled_from(["SUCCESS", "NONE", "FAILED:x", ""]), max_size=2),
        sent=st.lists(
            st.sampled_from([pem_header(ISSUED), standard_header(OTHER), "", "x"]), max_size=2
        ),
        name=st.sampled_from(["x-ssl-client-cert", "client-cert", "x-ssl-client-cn"]),
        shown=st.sampled_from([None, certificate(common_names=("native",), not_after=9e9)]),
    )
    def test_nobody_by_headers(
        self,
        peer: str,
        verify: list[str],
        sent: list[str],
        name: str,
        shown: PeerCertificate | None,
    ) -> None:
        """Only a trusted proxy's words make an identity; only others have one of their own."""
        headers = {"x-ssl-client-verify": tuple(verify), name: tuple(sent)}
        incoming = request(
            {key: one for key, one in headers.items() if one}, peer=peer, shown=shown
        )
        mtls = MutualTls(MtlsSettings(enabled=True), presented(), max_principals=10)
        try:
            principal = mtls.authenticate(incoming, max(GOOD_AT, NOW))
        except Refused:
            principal = None
        in_words = peer.partition("%")[0]
        trusted = in_words.startswith(("10.0.0.", "::ffff:10.0.0.", "fd00::", "fd00:0:0:0:"))
        if trusted:
            self.assertNotEqual(principal and principal.id, "native")
        else:
            self.assertEqual(principal and principal.id, None if shown is None else "native")
        if principal is not None and principal.id != "native":
            self.assertEqual(verify, ["SUCCESS"])
            self.assertEqual(len(sent), 1)


class IdentityTests(SynchronousTestCase):
    """`MutualTls`."""

    def mtls(
        self, source: IdentitySource = "cn", *identities: MtlsIdentity, maximum: int = 10
    ) -> MutualTls:
        """Certificates as identities; the default ones may use the tool ``read``."""
        configured = MtlsSettings(
            enabled=True,
            identity_source=source,
            identities=identities,
            identity=IdentityKeys(allowed_tools=("read",), rate_limit=5.0),
        )
        return MutualTls(configured, presented(), max_principals=maximum)

    def principal(self, mtls: MutualTls, shown: PeerCertificate) -> Principal:
        """Whose certificate it is."""
        found = mtls.authenticate(request(shown=shown), NOW)
        assert found is not None
        return found

    def test_sources(self) -> None:
        """The identity stands where the configuration says."""
        real = facts(ISSUED)
        expected: dict[IdentitySource, str] = {
            "cn": "alice",
            "san_dns": "a.example",
            "san_email": "a@example.com",
            "san_uri": "spiffe://x/a",
        }
        for source, name in expected.items():
            found = self.mtls(source).authenticate(request(shown=real), GOOD_AT)
            assert found is not None
            self.assertEqual((found.key, found.name), (f"mtls:{name}", name))
            self.assertEqual(found.rights, Rights(tools=("read",)))
            self.assertEqual(found.limits, Allowance(per_second=5.0))
            self.assertEqual(found.expires_at, real.not_after)

    def test_no_certificate(self) -> None:
        """Without a certificate there is nobody, and nothing is wrong."""
        self.assertIsNone(self.mtls().authenticate(request(), NOW))

    def test_configured(self) -> None:
        """A configured subject has its own rights and limits, and nothing of the others'."""
        keys = IdentityKeys(name="Alice", denied_tools=("rm",), max_concurrency=3)
        found = self.principal(self.mtls("cn", MtlsIdentity("alice", keys)), certificate())
        self.assertEqual((found.id, found.name), ("alice", "Alice"))
        self.assertEqual(found.rights, Rights(denied_tools=("rm",)))
        self.assertEqual(found.limits, Allowance(max_concurrency=3))

    def refusal(self, mtls: MutualTls, shown: PeerCertificate) -> Refusal:
        """The refusal of a certificate."""
        refusal = refusal_of(mtls, request(shown=shown), NOW)
        self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)
        return refusal

    def test_how_many(self) -> None:
        """None and several names are refused, and counted."""
        for names in ((), ("a", "b"), ("a", "a")):
            detail = self.refusal(self.mtls(), certificate(common_names=names)).detail
            self.assertIn(f"{len(names)} names (cn)", detail)

    def test_one_of_several(self) -> None:
        """Of several names the one that is configured counts, unless more of them are."""
        a, b = MtlsIdentity("a"), MtlsIdentity("b")
        several = certificate(dns_names=("x", "b", "y"))
        self.assertEqual(self.principal(self.mtls("san_dns", a, b), several).id, "b")
        for names, counted in ((("a", "x", "b"), 2), (("b", "b"), 2), (("x", "y"), 0)):
            refusal = self.refusal(self.mtls("san_dns", a, b), certificate(dns_names=names))
            self.assertIn(f"{len(names)} names (san_dns)", refusal.detail)
            if counted != len(names):
                self.assertIn(f"{counted} configured", refusal.detail)

    def test_one_uri(self) -> None:
        """Two URIs are invalid, whatever is configured (SPIFFE X.509-SVID, section 2)."""
        mtls = self.mtls("san_uri", MtlsIdentity("spiffe://x/a"))
        refusal = self.refusal(mtls, certificate(uris=("spiffe://x/a", "https://y")))
        self.assertIn("2 names (san_uri)", refusal.detail)

    def test_other_sources_do_not_count(self) -> None:
        """A certificate without a name at the configured place has none."""
        refusal = self.refusal(self.mtls("san_dns"), certificate())
        self.assertIn("0 names (san_dns)", refusal.detail)
        other = certificate(common_names=(), dns_names=("alice",))
        self.assertIn("0 names (cn)", self.refusal(self.mtls("cn"), other).detail)

    def test_names_that_are_none(self) -> None:
        """A name is short, without control characters and outer blanks."""
        longest = "x" * MAX_NAME
        self.assertEqual(
            self.principal(self.mtls(), certificate(common_names=(longest,))).id, longest
        )
        for name in ("", longest + "x", "a\nb", "a\x00", "a\u202eb", "a\x85", " a", "a ", "\u2028"):
            detail = self.refusal(self.mtls(), certificate(common_names=(name,))).detail
            self.assertNotIn("\n", detail)

    def test_shared(self) -> None:
        """One object for each name and end, and one of rights and limits for all of a kind."""
        mtls = self.mtls()
        first = self.principal(mtls, certificate())
        self.assertIs(self.principal(mtls, certificate(thumbprint="u", serial=8)), first)
        later = self.principal(mtls, certificate(not_after=NOW + 500))
        self.assertIsNot(later, first)
        self.assertEqual((first.expires_at, later.expires_at), (NOW + 100, NOW + 500))
        bob = self.principal(mtls, certificate(common_names=("bob",)))
        self.assertEqual(bob.id, "bob")
        for one in (later, bob):
            self.assertIs(one.rights, first.rights)
            self.assertIs(one.limits, first.limits)

    def test_bound(self) -> None:
        """No more principals are remembered than that."""
        mtls = self.mtls(maximum=3)
        first = self.principal(mtls, certificate())
        for number in range(5):
            self.principal(mtls, certificate(common_names=(f"n{number}",)))
            self.assertLessEqual(len(mtls), 3)
        again = self.principal(mtls, certificate())
        self.assertEqual(again, first)
        self.assertIs(again.rights, first.rights)
