"""Tests of tokens as a way to sign in."""

from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import IdentityKeys, JwtSettings, Secret
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.gateway.identities import jwt_bounds
from mcpguard.identity import jwt
from mcpguard.identity.jwt import Jwt, JwtBounds, Keys, fixed_keys, is_below, jwt_of, rules_of
from mcpguard.policy.base64url import decode as b64_bytes
from mcpguard.policy.certificates import PeerCertificate, peer_certificate
from mcpguard.policy.jwks import KeySet, parse_jwks
from mcpguard.policy.principal import Principal, Scopes
from mcpguard.policy.tokens import Claims, check, read
from tests.pki import Authority
from tests.tokens import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    SigningKey,
    ec_key,
    good,
    published,
    shared,
)

KEY, OTHER = ec_key(kid="a"), ec_key(kid="b", number=1)
SAME_NAME = ec_key(kid="a", number=2)
MAPPING = {"read": ("read_*",), "write": ("write_*",), "admin": ("*",)}
SETTINGS = JwtSettings(
    mode="jwks",
    issuer=ISSUER,
    audience=(AUDIENCE, "api"),
    jwks_url="https://login.example.com/jwks",
)
SIMPLE = JwtSettings(
    mode="simple", issuer=ISSUER, audience=(AUDIENCE,), secret=Secret(SECRET.decode())
)
RESOURCES = {AUDIENCE: "/mcp", "https://mcp.example.com/mcp/fs": "/mcp/fs", "root": "/"}


@define(eq=False)
class MemoryKeys:
    """An issuer's keys that change when the test says so."""

    current: KeySet | None = None
    generation: int = 0
    may_ask: bool = True
    away: bool = False
    asked: list[Deferred[bool]] = field(factory=list)
    loads: list[Deferred[bool]] = field(factory=list)

    def publish(self, *keys: SigningKey) -> None:
        """Have these keys from now on."""
        self.current = parse_jwks(published(*keys), 9)
        self.generation += 1

    def outlive(self) -> None:
        """Have none that may still be used."""
        self.current = None
        self.generation += 1

    def newer(self) -> Deferred[bool] | None:
        """Something to wait for."""
        return self._wait(self.asked)

    def loading(self) -> Deferred[bool] | None:
        """Something to wait for."""
        return self._wait(self.loads)

    def _wait(self, those: list[Deferred[bool]]) -> Deferred[bool] | None:
        if not self.may_ask:
            return None
        those.append(Deferred())
        return those[-1]


def asking(
    path: str = "/mcp", certificate: PeerCertificate | None = None, peer: str = "192.0.2.7"
) -> Incoming:
    """A request, with the certificate of its connection."""
    return Incoming("r", "POST", path, "", {}, b"", peer, 0.0, certificate=certificate, notes={})


def facts(authority: Authority, name: str) -> PeerCertificate:
    """A client certificate."""
    return peer_certificate(authority.issue(name).certificate)


class JwtCase(SynchronousTestCase):
    """Base: an authenticator and its keys."""

    def setUp(self) -> None:
        """The issuer has one key, and the gateway knows it."""
        self.keys = MemoryKeys()
        self.keys.publish(KEY)
        self.jwt = self.made()

    def made(
        self,
        settings: JwtSettings = SETTINGS,
        keys: Keys | None = None,
        bounds: JwtBounds | None = None,
        resources: dict[str, str] | None = None,
    ) -> Jwt:
        """An authenticator."""
        return jwt_of(
            settings,
            self.keys if keys is None else keys,
            certificate_of=lambda incoming: incoming.certificate,
            resources=lambda: resources or {},
            bounds=bounds or jwt_bounds(),
        )

    def found(self, token: str, incoming: Incoming | None = None, now: float = NOW) -> Principal:
        """Whose token it is, told at once."""
        answer = self.jwt.authenticate(token, incoming or asking(), now)
        assert isinstance(answer, Principal)
        return answer

    def waiting(self, token: str, incoming: Incoming | None = None) -> Deferred[Principal]:
        """The answer that has to be waited for."""
        answer = self.jwt.authenticate(token, incoming or asking(), NOW)
        assert isinstance(answer, Deferred)
        self.assertNoResult(answer)
        return answer

    def refused(self, token: str, incoming: Incoming | None = None, now: float = NOW) -> Refusal:
        """The refusal, given at once, with its cause and without the token."""
        with self.assertRaises(Refused) as caught:
            self.jwt.authenticate(token, incoming or asking(), now)
        refusal: Refusal = caught.exception.refusal
        self.assertTrue(refusal.detail.startswith("jwt: "))
        self.assertEqual(refusal.text, "")
        return refusal

    def refused_later(self, answer: Deferred[Principal]) -> Refusal:
        """The refusal that came now."""
        refusal: Refusal = self.failureResultOf(answer, Refused).value.refusal
        return refusal


class PrincipalTests(JwtCase):
    """Who somebody is by a token."""

    def test_principal(self) -> None:
        """Name, provider, end and claims; nothing configured limits nobody."""
        self.jwt = self.made(evolve(SETTINGS, leeway_secs=5.0))
        principal = self.found(KEY.token("ES256", good(more=1)))
        self.assertEqual(principal.key, "jwt:alice")
        self.assertEqual((principal.id, principal.name), ("alice", "alice"))
        self.assertEqual(principal.expires_at, NOW + 605)
        self.assertEqual(principal.claims["more"], 1)
        self.assertIsNone(principal.rights.scoped_tools)
        self.assertIsNone(principal.scopes)

    def test_rights(self) -> None:
        """The configured rights and limits, and what the scopes grant within them."""
        identity = IdentityKeys(allowed_tools=("read_*",), denied_tools=("x",), rate_limit=3.0)
        self.jwt = self.made(evolve(SETTINGS, identity=identity, scope_tool_mapping=MAPPING))
        for scope, tools in (
            ("read", ("read_*",)),
            ("write read other", ("read_*", "write_*")),
            ("other", ()),
            (None, ()),
        ):
            principal = self.found(KEY.token("ES256", good(scope=scope)))
            self.assertEqual(principal.rights.tools, ("read_*",))
            self.assertEqual(principal.rights.denied_tools, ("x",))
            self.assertEqual(principal.rights.scoped_tools, tools)
            self.assertEqual(principal.limits.per_second, 3.0)
        self.assertEqual(principal.scopes, Scopes(frozenset(), MAPPING))

    def test_shared_objects(self) -> None:
        """Everybody has one Allowance, and all with the same scopes that count one Rights."""
        self.jwt = self.made(evolve(SETTINGS, scope_tool_mapping=MAPPING))
        one, other, third = (
            self.found(KEY.token("ES256", good(sub=sub, scope=scope)))
            for sub, scope in (("a", "read x"), ("b", "y read"), ("c", "write"))
        )
        self.assertIs(one.limits, third.limits)
        self.assertIs(one.rights, other.rights)
        self.assertIs(one.scopes, other.scopes)
        self.assertIsNot(one.rights, third.rights)

    def test_rights_are_bounded(self) -> None:
        """Sets of scopes are forgotten beyond the bound, and right all the same."""
        self.jwt = self.made(
            evolve(SETTINGS, scope_tool_mapping=MAPPING), bounds=JwtBounds(9, 99_999, 2, 9, 5.0)
        )
        for _ in range(2):
            for scope in ("read", "write", "admin", "read write"):
                principal = self.found(KEY.token("ES256", good(scope=scope)))
                tools = tuple(tool for name in scope.split() for tool in MAPPING[name])
                self.assertEqual(principal.rights.scoped_tools, tools)
                self.assertLessEqual(len(self.jwt._rights), 2)

    def test_shared_secret(self) -> None:
        """Mode ``simple``: the secret's tokens are good, a public key's are not."""
        self.jwt = self.made(SIMPLE, fixed_keys(SIMPLE))
        self.assertEqual(self.found(shared()).key, "jwt:alice")
        self.assertIs(self.refused(shared(secret=b"x" * 32)).reason, Reason.BAD_CREDENTIALS)
        self.assertIs(self.refused(KEY.token("ES256")).reason, Reason.BAD_CREDENTIALS)
        self.assertIs(self.refused(shared(alg="HS512")).reason, Reason.BAD_CREDENTIALS)

    def test_rules(self) -> None:
        """Every key of the configuration is a rule; what is left out has its default."""
        rules = rules_of(SETTINGS)
        self.assertEqual(rules.algorithms, {"RS256", "ES256"})
        self.assertEqual(rules_of(SIMPLE).algorithms, {"HS256"})
        settings = evolve(
            SETTINGS,
            algorithms=("EdDSA",),
            user_id_claim="oid",
            scopes_claim="scp",
            audience_claim="azp",
            required_claims=("tid",),
            leeway_secs=9.0,
        )
        rules = rules_of(settings)
        self.assertEqual(rules.issuer, ISSUER)
        self.assertEqual(rules.audiences, {AUDIENCE, "api"})
        self.assertEqual(rules.algorithms, {"EdDSA"})
        self.assertEqual(
            (rules.user_id_claim, rules.scopes_claim, rules.audience_claim, rules.required_claims),
            ("oid", "scp", "azp", ("tid",)),
        )
        self.assertEqual(rules.leeway, 9.0)


class RefusalTests(JwtCase):
    """Who is refused."""

    def test_no_token(self) -> None:
        """What is not even shaped like a token is refused without a thought of keys."""
        self.keys.current = None
        for token in ("mcp_key", "", "a.b.c", "\ud800", KEY.token("ES256", good(iss="x"))):
            self.assertIs(self.refused(token).reason, Reason.BAD_CREDENTIALS)
        self.assertEqual((self.keys.asked, self.keys.loads), ([], []))

    def test_reasons(self) -> None:
        """A good token that has expired is told so; the rest is not good."""
        for claims, reason, word in (
            (good(exp=int(NOW)), Reason.EXPIRED_CREDENTIALS, "expired"),
            (good(aud="else"), Reason.BAD_CREDENTIALS, 'aud names "else"'),
            (good(nbf=int(NOW) + 9), Reason.BAD_CREDENTIALS, "nbf"),
        ):
            refusal = self.refused(KEY.token("ES256", claims))
            self.assertIs(refusal.reason, reason)
            self.assertIn(word, refusal.detail)
        self.assertEqual(self.keys.asked, [])

    def test_never_the_token(self) -> None:
        """The cause names no part of the token that could be used."""
        for token in (OTHER.token("ES256"), KEY.token("ES256", good(aud="else")), "x" * 50):
            self.keys.may_ask = False
            refusal = self.refused(token)
            for part in token.split("."):
                self.assertNotIn(part, refusal.detail)

    def test_never_shown(self) -> None:
        """Nor does a token that is taken apart show what could be put together again."""
        token = KEY.token("ES256")
        header, payload, signature = token.split(".")
        shown = f"{read(token, rules_of(SETTINGS))!r} {self.jwt!r} {self.found(token)!r}"
        for part in (header, payload, signature, str(b64_bytes(signature))):
            self.assertNotIn(part, shown)


class KnownTokenTests(JwtCase):
    """Tokens that are remembered."""

    def test_once(self) -> None:
        """A token is verified once: the same principal comes back."""
        token = KEY.token("ES256")
        self.assertIs(self.found(token), self.found(token))
        self.assertEqual(len(self.jwt), 1)

    def test_expiry(self) -> None:
        """One that is remembered still ends, at the very moment, leeway and all."""
        self.jwt = self.made(evolve(SETTINGS, leeway_secs=5.0))
        token = KEY.token("ES256")
        self.found(token)
        self.found(token, now=NOW + 604.75)
        for later in (605.0, 606.0):
            refusal = self.refused(token, now=NOW + later)
            self.assertIs(refusal.reason, Reason.EXPIRED_CREDENTIALS)

    def test_bad_ones_are_not_remembered(self) -> None:
        """What is refused takes no room."""
        self.refused(KEY.token("ES256", good(aud="else")))
        self.refused("x")
        self.assertEqual(len(self.jwt), 0)

    def test_mutation(self) -> None:
        """Another token is another one, however much of it is the same."""
        token = KEY.token("ES256")
        self.found(token)
        self.keys.may_ask = False
        other = KEY.token("ES256", good(sub="root")).split(".")
        mixed = ".".join([token.split(".")[0], other[1], token.split(".")[2]])
        self.assertIs(self.refused(mixed).reason, Reason.BAD_CREDENTIALS)

    def test_bound(self) -> None:
        """Beyond the bound those go that were used longest ago."""
        self.jwt = self.made(bounds=JwtBounds(2, 99_999, 9, 9, 5.0))
        one, two, three = (KEY.token("ES256", good(sub=sub)) for sub in "abc")
        first = self.found(one)
        second = self.found(two)
        self.assertIs(self.found(one), first)
        self.found(three)
        self.assertEqual(len(self.jwt), 2)
        self.assertIs(self.found(one), first)
        self.assertIsNot(self.found(two), second)

    def test_bound_of_characters(self) -> None:
        """So do long ones; one that alone is too long is good, but not remembered."""
        short = [KEY.token("ES256", good(sub=sub)) for sub in "ab"]
        self.jwt = self.made(bounds=JwtBounds(9, len(short[0]) * 2, 9, 9, 5.0))
        for token in short:
            self.found(token)
        self.assertEqual(len(self.jwt), 2)
        self.found(KEY.token("ES256", good(x="x" * 10)))
        self.assertEqual(len(self.jwt), 1)
        self.found(KEY.token("ES256", good(x="x" * 2_000)))
        self.assertEqual(len(self.jwt), 0)
        for token in short:
            self.found(token)
        self.assertEqual(len(self.jwt), 2)

    def test_removed_key(self) -> None:
        """A token whose key the issuer has withdrawn is good no more, remembered or not."""
        token = KEY.token("ES256")
        self.found(token)
        self.keys.publish(OTHER)
        self.keys.may_ask = False
        self.assertIs(self.refused(token).reason, Reason.BAD_CREDENTIALS)
        self.keys.publish(KEY)
        self.found(token)
        self.assertEqual(len(self.jwt), 1)

    def test_withdrawn_ones_take_no_room(self) -> None:
        """What went with its key leaves its place to others, however often keys change."""
        one, two = (KEY.token("ES256", good(sub=sub)) for sub in "ab")
        self.jwt = self.made(bounds=JwtBounds(9, len(one) * 2, 9, 9, 5.0))
        self.keys.may_ask = False
        for _ in range(5):
            self.found(one)
            self.keys.publish(OTHER)
            self.refused(one)
            self.keys.publish(KEY)
        self.found(one)
        self.found(two)
        self.assertEqual(len(self.jwt), 2)

    def test_keys_too_old(self) -> None:
        """Nor is one while there are no keys that may still be used."""
        token = KEY.token("ES256")
        self.found(token)
        self.keys.current, self.keys.may_ask = None, False
        answer = self.jwt.authenticate(token, asking(), NOW)
        assert isinstance(answer, Deferred)
        self.assertIs(self.refused_later(answer).reason, Reason.IDENTITY_UNAVAILABLE)


class RotationTests(JwtCase):
    """Keys that change, in every order."""

    def test_key_before_token(self) -> None:
        """The new key is known when its first token comes."""
        self.keys.publish(KEY, OTHER)
        self.found(OTHER.token("ES256"))
        self.found(KEY.token("ES256"))
        self.assertEqual(self.keys.asked, [])

    def test_token_before_key(self) -> None:
        """The token comes first: the issuer is asked once, and the token looked at again."""
        for new in (OTHER, SAME_NAME):
            self.keys.asked.clear()
            self.keys.publish(KEY)
            answer = self.waiting(new.token("ES256", good(sub=new.kid)))
            self.keys.publish(KEY, new)
            self.keys.asked[0].callback(True)
            self.assertEqual(self.successResultOf(answer).id, new.kid)
            self.assertEqual(len(self.keys.asked), 1)

    def test_no_newer_ones(self) -> None:
        """The issuer has no other keys: the token is refused for what it was before."""
        answer = self.waiting(OTHER.token("ES256"))
        self.keys.asked[0].callback(False)
        refusal = self.refused_later(answer)
        self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)
        self.assertIn("no key", refusal.detail)

    def test_newer_ones_that_do_not_fit(self) -> None:
        """It is not asked a second time for one token."""
        answer = self.waiting(SAME_NAME.token("ES256"))
        self.keys.publish(KEY, OTHER)
        self.keys.asked[0].callback(True)
        self.assertIs(self.refused_later(answer).reason, Reason.BAD_CREDENTIALS)
        self.assertEqual(len(self.keys.asked), 1)

    def test_cool_down(self) -> None:
        """While the issuer may not be asked, the token is refused at once."""
        self.keys.may_ask = False
        self.assertIs(self.refused(OTHER.token("ES256")).reason, Reason.BAD_CREDENTIALS)

    def test_issuer_away(self) -> None:
        """While the issuer cannot be asked a key it may have is not called bad; a signature is."""
        self.keys.away = True
        answer = self.waiting(OTHER.token("ES256"))
        self.keys.may_ask = False
        for token, reason in (
            (OTHER.token("ES256"), Reason.IDENTITY_UNAVAILABLE),
            (SAME_NAME.token("ES256"), Reason.BAD_CREDENTIALS),
            (OTHER.token("ES256", good(aud="else")), Reason.BAD_CREDENTIALS),
        ):
            self.assertIs(self.refused(token).reason, reason)
        self.keys.asked[0].callback(False)
        refusal = self.refused_later(answer)
        self.assertIs(refusal.reason, Reason.IDENTITY_UNAVAILABLE)
        self.assertEqual(refusal.retry_after, jwt_bounds().retry_after)
        self.found(KEY.token("ES256"))

    def test_keys_gone_meanwhile(self) -> None:
        """Keys that are too old by the time the issuer has been asked are no answer."""
        answer = self.waiting(OTHER.token("ES256"))
        self.keys.outlive()
        self.keys.asked[0].callback(True)
        self.assertIs(self.refused_later(answer).reason, Reason.IDENTITY_UNAVAILABLE)

    def test_first_keys(self) -> None:
        """Before the first keys a token waits for them."""
        self.keys.current = None
        answers = [self.waiting(KEY.token("ES256", good(sub=sub))) for sub in "ab"]
        self.keys.publish(KEY)
        for load in self.keys.loads:
            load.callback(True)
        self.assertEqual([self.successResultOf(one).id for one in answers], ["a", "b"])
        self.assertEqual(self.keys.asked, [])

    def test_no_first_keys(self) -> None:
        """Without keys nobody's token is wrong: the client is told when to come again."""
        self.keys.current = None
        answer = self.waiting(KEY.token("ES256"))
        self.keys.loads[0].callback(False)
        refusal = self.refused_later(answer)
        self.assertIs(refusal.reason, Reason.IDENTITY_UNAVAILABLE)
        self.assertEqual(refusal.retry_after, jwt_bounds().retry_after)
        self.assertEqual(refusal.shape.status, 503)

    def test_first_keys_without_this_one(self) -> None:
        """Keys that have only just come are not asked for again."""
        self.keys.current = None
        answer = self.waiting(OTHER.token("ES256"))
        self.keys.publish(KEY)
        self.keys.loads[0].callback(True)
        self.assertIs(self.refused_later(answer).reason, Reason.BAD_CREDENTIALS)
        self.assertEqual(self.keys.asked, [])

    def test_checks_after_waiting(self) -> None:
        """What depends on the request is looked at then as well."""
        self.jwt = self.made(resources=RESOURCES)
        token = OTHER.token("ES256", good(aud=AUDIENCE))
        answer = self.waiting(token, asking("/metrics"))
        self.keys.publish(OTHER)
        self.keys.asked[0].callback(True)
        self.assertIn("resource", self.refused_later(answer).detail)

    def test_same_keys(self) -> None:
        """By the same keys nothing is verified twice: all who wait are told in one turn."""
        checked: list[object] = []

        def counting(*how: Any) -> Claims:
            checked.append(how)
            return check(*how)

        self.patch(jwt, "check", counting)
        answer = self.waiting(SAME_NAME.token("ES256"))
        self.keys.asked[0].callback(False)
        self.assertIn("the signature", self.refused_later(answer).detail)
        self.assertEqual(len(checked), 1)

    def test_waiting_is_bounded(self) -> None:
        """So many from one address wait at once; others do, and so do those who come later."""
        self.jwt = self.made(bounds=JwtBounds(9, 99_999, 9, 2, 5.0))
        token = SAME_NAME.token("ES256")
        host, same, other = "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"
        first, second = (self.waiting(token, asking(peer=one)) for one in (host, same))
        self.assertIs(self.refused(token, asking(peer=same)).reason, Reason.BAD_CREDENTIALS)
        third = self.waiting(token, asking(peer=other))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        fourth = self.waiting(token, asking(peer=host))
        self.refused(token, asking(peer=host))
        for ask in self.keys.asked:
            if not ask.called:
                ask.callback(False)
        for answer in (second, third, fourth):
            self.refused_later(answer)
        self.assertEqual(self.jwt._waiting, {})

    def test_failing_fetch(self) -> None:
        """A fault while the issuer is asked lets nobody in."""
        answer = self.waiting(OTHER.token("ES256"))
        self.keys.asked[0].errback(RuntimeError("broken"))
        self.failureResultOf(answer, RuntimeError)


class CertificateTests(JwtCase):
    """Tokens that are bound to a certificate (RFC 8705)."""

    def test_bound(self) -> None:
        """Only with the certificate it names, on every request."""
        authority = Authority("CA")
        mine, other = (facts(authority, name) for name in ("alice", "bob"))
        token = KEY.token("ES256", good(cnf={"x5t#S256": mine.thumbprint}))
        for _ in range(2):
            self.found(token, asking(certificate=mine))
            for certificate, word in ((other, "another"), (None, "none")):
                refusal = self.refused(token, asking(certificate=certificate))
                self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)
                self.assertIn(word, refusal.detail)

    def test_unbound(self) -> None:
        """A token without a binding is good beside any certificate."""
        certificate = facts(Authority("CA"), "alice")
        self.found(KEY.token("ES256"), asking(certificate=certificate))

    def test_other_bindings(self) -> None:
        """What cannot be checked refuses, also beside what can."""
        mine = facts(Authority("CA"), "alice")
        binding: Any
        for binding in (
            {"jkt": "x"},
            {"x5t#S256": mine.thumbprint, "jkt": "x"},
            {"x5t#S256": [mine.thumbprint]},
            {},
        ):
            token = KEY.token("ES256", good(cnf=binding))
            refusal = self.refused(token, asking(certificate=mine))
            self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)


class ResourceTests(JwtCase):
    """Tokens that are for one endpoint (RFC 8707)."""

    def setUp(self) -> None:
        """A gateway with several endpoints."""
        super().setUp()
        audiences = ("https://mcp.example.com/mcp/fs", "https://mcp.example.com/mcp/db")
        settings = evolve(SETTINGS, audience=("api", AUDIENCE, *audiences))
        self.resources = dict(
            zip((AUDIENCE, *audiences), ("/mcp", "/mcp/fs", "/mcp/db/"), strict=True)
        )
        self.jwt = self.made(settings, resources=self.resources)

    def test_paths(self) -> None:
        """The path must be the endpoint or below it, on every request."""
        fs, db = "https://mcp.example.com/mcp/fs", "https://mcp.example.com/mcp/db"
        for audience, allowed, refused in (
            (
                fs,
                ("/mcp/fs", "/mcp/fs/", "/mcp/fs/x/y", "/mcp/fs/sse"),
                ("/mcp", "/mcp/fsx", "/mcp/db", "/mcp/%66s", "/MCP/fs", "/", "/metrics", "/sse"),
            ),
            (db, ("/mcp/db", "/mcp/db/x"), ("/mcp/fs", "/mcp/dbx")),
            (AUDIENCE, ("/mcp", "/mcp/fs", "/sse", "/messages"), ("/metrics", "/mcpx", "/ssex")),
            ([fs, db], ("/mcp/fs", "/mcp/db"), ("/mcp", "/mcp/x")),
            ([fs, "elsewhere"], ("/mcp/fs",), ("/mcp/db",)),
            (["api", fs], ("/mcp/db", "/metrics"), ()),
            ("api", ("/mcp/db", "/metrics"), ()),
        ):
            token = KEY.token("ES256", good(aud=audience))
            for path in allowed:
                self.found(token, asking(path))
            for path in refused:
                refusal = self.refused(token, asking(path))
                self.assertIs(refusal.reason, Reason.BAD_CREDENTIALS)
                self.assertIn("resource", refusal.detail)

    def test_spellings(self) -> None:
        """An issuer may write the URL of an endpoint in other ways: it is that endpoint's still."""
        for audience in (
            "https://mcp.example.com/mcp/fs/",
            "HTTPS://MCP.example.com:443/mcp/fs",
        ):
            self.jwt = self.made(evolve(SETTINGS, audience=(audience,)), resources=self.resources)
            token = KEY.token("ES256", good(aud=audience))
            self.found(token, asking("/mcp/fs"))
            self.assertIn("resource", self.refused(token, asking("/mcp/db")).detail)

    def test_places_at_the_root(self) -> None:
        """``/sse`` and ``/messages`` are the server's at ``/mcp``, not those of others by name."""
        audience = "https://mcp.example.com/mcp/sse"
        self.resources[audience] = "/mcp/sse"
        self.jwt = self.made(evolve(SETTINGS, audience=(audience,)), resources=self.resources)
        token = KEY.token("ES256", good(aud=audience))
        self.found(token, asking("/mcp/sse"))
        for path in ("/sse", "/messages"):
            self.assertIn("resource", self.refused(token, asking(path)).detail)

    def test_resources_change(self) -> None:
        """What the endpoints are is asked for each request: a reload may change them."""
        token = KEY.token("ES256", good(aud=AUDIENCE))
        self.found(token, asking("/mcp/fs"))
        self.resources[AUDIENCE] = "/mcp/other"
        self.refused(token, asking("/mcp/fs"))

    def test_is_below(self) -> None:
        """Segments, not letters."""
        for path, prefix, below in (
            *(("/mcp", "/mcp", True), ("/mcp", "/mcp/", True), ("/mcp/a", "/mcp", True)),
            *(("/mcpa", "/mcp", False), ("/", "/mcp", False), ("/mcp/a", "", True)),
            *(("/x", "/", True), ("", "/mcp", False), ("/mcp", "/mcp/a", False)),
        ):
            self.assertIs(is_below(path, prefix), below, (path, prefix))
