"""Tests of the way from a request to its principal."""

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import Authenticator
from mcpguard.identity.chain import MAX_TOKEN, Chain
from mcpguard.policy.principal import Principal

NOW = 1_800_000_000.0
ALICE = Principal("alice", "api_key", "Alice")
BOB = Principal("bob", "jwt", "Bob")

PLAIN = 'Bearer realm="mcp-guard"'
INVALID = 'Bearer realm="mcp-guard", error="invalid_token"'


def asking(*authorization: str, query: str = "") -> Incoming:
    """A request with these Authorization headers."""
    headers = {"authorization": authorization} if authorization else {}
    return Incoming("r", "POST", "/mcp", query, headers, b"", "192.0.2.7", 0.0)


@define
class Knows:
    """Knows one token, refuses others for one reason."""

    token: str = "token"
    principal: Principal = ALICE
    reason: Reason = Reason.BAD_CREDENTIALS
    asked: list[tuple[str, str, float]] = field(init=False, factory=list)

    def authenticate(self, token: str, incoming: Incoming, now: float) -> Principal:
        """Look at the token."""
        self.asked.append((token, incoming.peer, now))
        if token != self.token:
            raise Refused(Refusal(self.reason, detail=self.token))
        return self.principal


@define
class Ponders:
    """Answers later."""

    waiting: list[Deferred[Principal]] = field(init=False, factory=list)

    def authenticate(self, token: str, incoming: Incoming, now: float) -> Deferred[Principal]:
        """Give something to wait for."""
        self.waiting.append(Deferred())
        return self.waiting[-1]


class ChainCase(SynchronousTestCase):
    """Base of the tests of `Chain`."""

    def refusal(self, incoming: Incoming, *authenticators: Authenticator) -> Refusal:
        """The refusal, which must come at once."""
        try:
            Chain(*authenticators).authenticate(incoming, NOW)
        except Refused as refused:
            return refused.refusal
        raise self.failureException("not refused")

    def assertRefused(self, refusal: Refusal, reason: Reason, challenge: str) -> None:
        """The reason and the challenge are these; an error in it is described."""
        self.assertIs(refusal.reason, reason)
        if challenge == INVALID:
            challenge += f', error_description="{refusal.message}"'
        self.assertEqual(refusal.headers, (("WWW-Authenticate", challenge),))


@define
class Shows:
    """Finds a certificate's principal, nobody, or refuses."""

    found: Principal | Refusal | None = None
    asked: int = field(init=False, default=0)

    def authenticate(self, incoming: Incoming, now: float) -> Principal | None:
        """Say what was prepared."""
        self.asked += 1
        if isinstance(self.found, Refusal):
            raise Refused(self.found)
        return self.found


class TokenTests(ChainCase):
    """Where a token may stand."""

    def test_found(self) -> None:
        """One Bearer header, its scheme in any case, its token handed on as it is."""
        for value in ("Bearer token", "bearer token", "BEARER  token"):
            knows = Knows()
            self.assertEqual(Chain(knows).authenticate(asking(value), NOW), ALICE)
            self.assertEqual(knows.asked, [("token", "192.0.2.7", NOW)])

    def test_absent(self) -> None:
        """No header is no credentials, and the challenge claims no error."""
        refusal = self.refusal(asking(), Knows())
        self.assertRefused(refusal, Reason.NO_CREDENTIALS, PLAIN)

    def test_other_schemes(self) -> None:
        """Other schemes, and a bare token, are not Bearer."""
        for value in ("Basic dG9rZW4=", "token", "Bearertoken", "", "Digest x", "Bearer\ttoken"):
            refusal = self.refusal(asking(value), Knows())
            self.assertRefused(refusal, Reason.BAD_CREDENTIALS, PLAIN)

    def test_malformed(self) -> None:
        """Empty tokens, tokens in pieces and foreign characters never reach an authenticator."""
        for token in ("", " ", "a b", "to\u00e9ken", "a\x00", "a\x7f", "a\tb", "a,\nb"):
            knows = Knows()
            refusal = self.refusal(asking(f"Bearer {token}"), knows)
            self.assertRefused(refusal, Reason.BAD_CREDENTIALS, INVALID)
            self.assertEqual(knows.asked, [])

    def test_size(self) -> None:
        """The longest token is looked at, one byte more is not."""
        longest = Knows("x" * MAX_TOKEN)
        self.assertEqual(Chain(longest).authenticate(asking(f"Bearer {longest.token}"), NOW), ALICE)
        too_long = Knows(longest.token + "x")
        refusal = self.refusal(asking(f"Bearer {too_long.token}"), too_long)
        self.assertRefused(refusal, Reason.BAD_CREDENTIALS, INVALID)
        self.assertEqual(too_long.asked, [])

    def test_two_headers(self) -> None:
        """Two headers are refused, even equal ones."""
        for values in (("Bearer token", "Bearer token"), ("Bearer token", "Basic x")):
            refusal = self.refusal(asking(*values), Knows())
            self.assertRefused(refusal, Reason.BAD_CREDENTIALS, INVALID)

    def test_query(self) -> None:
        """A token in the query is refused in any spelling, even beside a good header."""
        for query in (
            "access_token=token",
            "a=b&access_token=",
            "access%5Ftoken=token",
            "Access_Token=token",
            "access_token",
            "&".join(["a=b"] * 1_000),
        ):
            for headers in ((), ("Bearer token",)):
                refusal = self.refusal(asking(*headers, query=query), Knows())
                self.assertRefused(refusal, Reason.BAD_CREDENTIALS, INVALID)
                self.assertNotIn("token=", refusal.message)

    def test_other_queries(self) -> None:
        """Other members of the query do no harm."""
        incoming = asking("Bearer token", query="sessionId=1&my_access_token_is=x&%zz")
        self.assertEqual(Chain(Knows()).authenticate(incoming, NOW), ALICE)

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.text("Bearo tkn\t,=", max_size=14), max_size=3))
    def test_noise(self, values: list[str]) -> None:
        """Noise is refused with a 401 and a challenge, unless it is the one right header."""
        try:
            Chain(Knows()).authenticate(asking(*values), NOW)
        except Refused as refused:
            self.assertEqual(refused.refusal.shape.status, 401)
            self.assertTrue(refused.refusal.headers[0][1].startswith(PLAIN))
        else:
            self.assertEqual(len(values), 1)
            self.assertEqual(values[0].lower().split(), ["bearer", "token"])


class OrderTests(ChainCase):
    """Who is asked, and whose word counts."""

    def test_nobody_to_ask(self) -> None:
        """Without authenticators everything is refused and says why."""
        for incoming in (asking(), asking("Bearer token")):
            refusal = self.refusal(incoming)
            self.assertRefused(refusal, Reason.NO_AUTHENTICATION_CONFIGURED, PLAIN)

    def test_first_wins(self) -> None:
        """The first that knows the token decides; later ones are not asked."""
        first, second = Knows("x"), Knows("token", ALICE)
        third = Knows("token", BOB)
        chain = Chain(first, second, third)
        self.assertEqual(chain.authenticate(asking("Bearer token"), NOW), ALICE)
        self.assertEqual((len(first.asked), len(third.asked)), (1, 0))

    def test_most_informative(self) -> None:
        """Of several refusals the one that helps most is told, wherever it came."""
        bad, address, expired, other = (
            Knows("x", reason=reason)
            for reason in (
                Reason.BAD_CREDENTIALS,
                Reason.ADDRESS_NOT_ALLOWED,
                Reason.EXPIRED_CREDENTIALS,
                Reason.INTERNAL,
            )
        )
        for authenticators, reason in (
            ((bad, bad), Reason.BAD_CREDENTIALS),
            ((bad, address), Reason.ADDRESS_NOT_ALLOWED),
            ((expired, address, bad), Reason.EXPIRED_CREDENTIALS),
            ((address, expired), Reason.EXPIRED_CREDENTIALS),
        ):
            refusal = self.refusal(asking("Bearer token"), *authenticators)
            self.assertRefused(refusal, reason, INVALID)
            self.assertEqual(refusal.detail, "x")
        refusal = self.refusal(asking("Bearer token"), expired, other, bad)
        self.assertIs(refusal.reason, Reason.INTERNAL)
        self.assertEqual(refusal.headers, ())

    def test_own_challenge(self) -> None:
        """A challenge that an authenticator made itself is kept."""

        class Scoped:
            """Has a challenge of its own."""

            def authenticate(self, token: str, incoming: Incoming, now: float) -> Principal:
                """Refuse with it."""
                headers = (("WWW-Authenticate", "Bearer scope=x"),)
                raise Refused(Refusal(Reason.BAD_CREDENTIALS, headers=headers))

        refusal = self.refusal(asking("Bearer token"), Scoped())
        self.assertRefused(refusal, Reason.BAD_CREDENTIALS, "Bearer scope=x")

    def test_waiting(self) -> None:
        """An answer may be waited for; nobody after it is asked meanwhile."""
        ponders, last = Ponders(), Knows("token", BOB)
        answer = Chain(Knows("x"), ponders, last).authenticate(asking("Bearer token"), NOW)
        assert isinstance(answer, Deferred)
        self.assertNoResult(answer)
        ponders.waiting[0].callback(ALICE)
        self.assertEqual(self.successResultOf(answer), ALICE)
        self.assertEqual(last.asked, [])

    def test_waiting_in_vain(self) -> None:
        """After a late refusal the next are asked, late ones among them."""
        first, second, last = Ponders(), Ponders(), Knows("token", BOB)
        answer = Chain(first, second, last).authenticate(asking("Bearer token"), NOW)
        assert isinstance(answer, Deferred)
        first.waiting[0].errback(Refused(Refusal(Reason.BAD_CREDENTIALS)))
        self.assertNoResult(answer)
        second.waiting[0].errback(Refused(Refusal(Reason.BAD_CREDENTIALS)))
        self.assertEqual(self.successResultOf(answer), BOB)

    def test_all_in_vain(self) -> None:
        """When the last late word is a refusal, the most informative of all is told."""
        ponders = Ponders()
        expired = Knows("x", reason=Reason.EXPIRED_CREDENTIALS)
        answer = Chain(expired, ponders).authenticate(asking("Bearer token"), NOW)
        assert isinstance(answer, Deferred)
        ponders.waiting[0].errback(Refused(Refusal(Reason.BAD_CREDENTIALS)))
        failure = self.failureResultOf(answer, Refused)
        self.assertRefused(failure.value.refusal, Reason.EXPIRED_CREDENTIALS, INVALID)

    def test_failures_are_no_refusals(self) -> None:
        """An authenticator that breaks stops the walk: nobody is let in by its silence."""
        ponders, last = Ponders(), Knows("token", BOB)
        answer = Chain(ponders, last).authenticate(asking("Bearer token"), NOW)
        assert isinstance(answer, Deferred)
        ponders.waiting[0].errback(RuntimeError("broken"))
        self.failureResultOf(answer, RuntimeError)
        self.assertEqual(last.asked, [])


class CertificateTests(ChainCase):
    """Certificates before tokens."""

    expired = Refusal(Reason.EXPIRED_CREDENTIALS, "The client certificate has expired", detail="c")
    bad = Refusal(Reason.BAD_CREDENTIALS, "The client certificate is not accepted", detail="c")

    def refused(self, shows: Shows, *authorization: str, knows: Knows | None = None) -> Refusal:
        """The refusal of a chain that asks for certificates first."""
        chain = Chain(knows or Knows(), certificates=shows)
        refused = self.assertRaises(Refused, chain.authenticate, asking(*authorization), NOW)
        refusal: Refusal = refused.refusal
        return refusal

    def test_certificate_first(self) -> None:
        """A good certificate is enough, whatever token comes with it."""
        knows = Knows()
        chain = Chain(knows, certificates=Shows(BOB))
        for authorization in ((), ("Bearer token",), ("Bearer bad",), ("Basic x",), ("x", "y")):
            self.assertEqual(chain.authenticate(asking(*authorization), NOW), BOB)
        self.assertEqual(knows.asked, [])

    def test_no_certificate(self) -> None:
        """Without one it is up to the token."""
        self.assertEqual(
            Chain(Knows(), certificates=Shows()).authenticate(asking("Bearer token"), NOW), ALICE
        )
        refusal = self.refused(Shows())
        self.assertRefused(refusal, Reason.NO_CREDENTIALS, PLAIN)

    def test_bad_certificate_good_token(self) -> None:
        """First success wins: what is wrong with the certificate harms nobody."""
        chain = Chain(Knows(), certificates=Shows(self.expired))
        self.assertEqual(chain.authenticate(asking("Bearer token"), NOW), ALICE)

    def test_bad_certificate_alone(self) -> None:
        """The certificate's failure is what is told, without an error of a token."""
        for certificate in (self.expired, self.bad):
            refusal = self.refused(Shows(certificate))
            self.assertRefused(refusal, certificate.reason, PLAIN)
            self.assertEqual((refusal.text, refusal.detail), (certificate.text, "c"))

    def test_both_bad(self) -> None:
        """What tells most is told; the audit learns of both."""
        expired = Knows("x", reason=Reason.EXPIRED_CREDENTIALS)
        refusal = self.refused(Shows(self.bad), "Bearer token", knows=expired)
        self.assertRefused(refusal, Reason.EXPIRED_CREDENTIALS, INVALID)
        self.assertEqual(refusal.detail, "c; x")
        refusal = self.refused(Shows(self.expired), "Bearer bad")
        self.assertRefused(refusal, Reason.EXPIRED_CREDENTIALS, INVALID)
        self.assertEqual(refusal.detail, "c; token")

    def test_bad_header_beside_it(self) -> None:
        """A header that holds no token is told of, unless the certificate tells more."""
        refusal = self.refused(Shows(self.bad), "Basic x")
        self.assertRefused(refusal, Reason.BAD_CREDENTIALS, PLAIN)
        self.assertIs(self.refused(Shows(self.expired), "x", "y").reason, self.expired.reason)

    def test_certificates_alone(self) -> None:
        """Where only certificates sign in, no token does."""
        chain = Chain(certificates=Shows())
        for incoming, reason in (
            (asking(), Reason.NO_CREDENTIALS),
            (asking("Bearer token"), Reason.BAD_CREDENTIALS),
        ):
            refused = self.assertRaises(Refused, chain.authenticate, incoming, NOW)
            self.assertIs(refused.refusal.reason, reason)

    def test_token_in_the_query(self) -> None:
        """A token in the query is refused beside a good certificate as well."""
        chain = Chain(Knows(), certificates=Shows(BOB))
        incoming = asking(query="access_token=token")
        refused = self.assertRaises(Refused, chain.authenticate, incoming, NOW)
        self.assertRefused(refused.refusal, Reason.BAD_CREDENTIALS, INVALID)

    def test_notes(self) -> None:
        """What one connection's certificate proves is not noted for others with the same head."""
        shows = Shows(BOB)
        chain = Chain(Knows(), certificates=shows)
        notes: dict[str, object] = {}
        incoming = replace(asking("Bearer token"), notes=notes)
        self.assertEqual(chain.authenticate(incoming, NOW), BOB)
        shows.found = None
        self.assertEqual(chain.authenticate(incoming, NOW), ALICE)
        shows.found = BOB
        self.assertEqual(chain.authenticate(incoming, NOW), BOB)
        self.assertEqual(notes, {"token": "token"})
        self.assertEqual(shows.asked, 3)

    def test_failures_are_no_refusals(self) -> None:
        """A check of certificates that breaks lets no token in."""

        class Broken:
            """Breaks."""

            def authenticate(self, incoming: Incoming, now: float) -> Principal | None:
                """Break."""
                raise RuntimeError("broken")

        chain = Chain(Knows(), certificates=Broken())
        self.assertRaises(RuntimeError, chain.authenticate, asking("Bearer token"), NOW)

    def test_unavailable(self) -> None:
        """That credentials cannot be checked now is told above all, and is no 401."""
        away = Knows("x", reason=Reason.IDENTITY_UNAVAILABLE)
        refusal = self.refused(Shows(self.expired), "Bearer token", knows=away)
        self.assertIs(refusal.reason, Reason.IDENTITY_UNAVAILABLE)
        self.assertEqual((refusal.headers, refusal.shape.status), ((), 503))
