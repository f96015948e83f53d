"""Tests of signed tokens."""

import json
from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.policy.jwks import KeySet, parse_jwks, shared_secret
from mcpguard.policy.tokens import (
    MAX_AUDIENCES,
    MAX_SCOPES,
    MAX_TIME,
    MAX_TOKEN,
    Claims,
    TokenRefused,
    TokenRules,
    verify,
)
from tests.tokens import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    b64,
    ec_key,
    ed_key,
    good,
    published,
    rsa_key,
    shared,
    signed,
)

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
RULES = TokenRules(
    issuer=ISSUER,
    audiences=frozenset({AUDIENCE, "other"}),
    algorithms=frozenset((*ASYMMETRIC, "EdDSA")),
)
HMAC = evolve(RULES, algorithms=frozenset({"HS256", "HS384", "HS512"}))
SHARED = shared_secret(SECRET)
RSA, EC, ED = rsa_key(kid="r1"), ec_key(kid="e1"), ed_key(kid="o1")
KEYS = parse_jwks(published(RSA, EC, ED), 100)


class TokenCase(SynchronousTestCase):
    """Base: what is accepted, and what is refused and why."""

    def accepted(
        self, token: str, rules: TokenRules = RULES, keys: KeySet = KEYS, now: float = NOW
    ) -> Claims:
        """The claims."""
        return verify(token, rules, keys, now)

    def refused(
        self,
        token: str,
        word: str = "",
        rules: TokenRules = RULES,
        keys: KeySet = KEYS,
        now: float = NOW,
    ) -> TokenRefused:
        """The refusal, whose detail has this word in it and is fit for a line of the log."""
        with self.assertRaises(TokenRefused) as caught:
            verify(token, rules, keys, now)
        refused: TokenRefused = caught.exception
        self.assertIn(word, refused.detail)
        self.assertTrue(refused.detail.startswith("jwt: "))
        self.assertLess(len(refused.detail), 300)
        return refused

    def judged(self, word: str = "", rules: TokenRules = RULES, **claims: Any) -> TokenRefused:
        """The refusal of good claims but for these."""
        refused = self.refused(EC.token("ES256", good(**claims)), word, rules)
        self.assertFalse(refused.stale)
        return refused

    def passed(self, rules: TokenRules = RULES, now: float = NOW, **claims: Any) -> Claims:
        """The claims of a token that is accepted."""
        return self.accepted(EC.token("ES256", good(**claims)), rules, now=now)


class AlgorithmTests(TokenCase):
    """Which signatures count."""

    def test_every_algorithm(self) -> None:
        """Each algorithm with its kind of key, and no other's signature under its name."""
        keys = {
            **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
            "ES256": EC,
            "ES384": ec_key("P-384"),
            "ES512": ec_key("P-521"),
            "EdDSA": ED,
        }
        for alg, key in keys.items():
            found = parse_jwks(published(key.jwk(kid=None)), 1)
            token = key.token(alg, header={"kid": None})
            self.assertEqual(self.accepted(token, keys=found).user_id, "alice")
            self.refused(token, "alg", evolve(RULES, algorithms=frozenset(keys) - {alg}), found)
            for other in ASYMMETRIC:
                if other != alg:
                    header = {"kid": None, "alg": other}
                    self.refused(key.token(alg, header=header), keys=found)
        found = parse_jwks(published(ed_key("Ed448")), 1)
        self.accepted(ed_key("Ed448").token("EdDSA"), keys=found)

    def test_shared_secret(self) -> None:
        """HMAC in all its sizes, with any kid; another secret's is refused."""
        for alg in ("HS256", "HS384", "HS512"):
            self.accepted(shared(alg=alg), HMAC, SHARED)
            self.accepted(shared(alg=alg, kid="any"), HMAC, SHARED)
            self.refused(shared(alg=alg, secret=SECRET[1:]), "signature", HMAC, SHARED)

    def test_none(self) -> None:
        """No signature is none, in any spelling, with and without something in its place."""
        payload = b64(json.dumps(good()).encode())
        alg: Any
        for alg in ("none", "None", "NONE", "nOnE", "", None, 0, False, [], ["ES256"], {}):
            header = b64(json.dumps({"alg": alg, "kid": "e1"}).encode())
            for signature in ("", "AAAA", EC.token("ES256").rpartition(".")[2]):
                for rules, keys in ((RULES, KEYS), (HMAC, SHARED)):
                    self.refused(f"{header}.{payload}.{signature}", "alg", rules, keys)
        header = b64(b'{"kid":"e1"}')
        self.refused(f"{header}.{payload}.", "alg")

    def test_stripped(self) -> None:
        """A good token without its signature, or with an empty one of the right length."""
        head, _, signature = EC.token("ES256").rpartition(".")
        self.refused(f"{head}.", "signature")
        self.refused(f"{head}.{b64(bytes(64))}", "signature")
        self.refused(f"{head}.{b64(bytes(63))}", "signature")
        self.refused(f"{RSA.token('RS256').rpartition('.')[0]}.{signature}", "signature")

    def test_confusion(self) -> None:
        """The public key as the secret of an HMAC, in every form that can be had of it."""
        public = RSA.private.public_key()
        forms = [
            public.public_bytes(encoding, form)
            for encoding, form in (
                (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
                (Encoding.PEM, PublicFormat.PKCS1),
                (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
                (Encoding.DER, PublicFormat.PKCS1),
            )
        ]
        forms += [forms[0].strip(), published(RSA), RSA.jwk()["n"].encode()]
        everything = evolve(RULES, algorithms=RULES.algorithms | HMAC.algorithms)
        for secret in forms:
            for alg in ("HS256", "HS384", "HS512"):
                token = shared(alg=alg, secret=secret, kid="r1")
                self.refused(token, "alg")
                # Even if somebody had allowed it: the key is of another kind.
                self.refused(token, "no key", everything)

    def test_wrong_kind(self) -> None:
        """A name that leads to a key of another kind or curve leads nowhere."""
        for key, alg, kid in (
            (EC, "ES256", "r1"),
            (RSA, "RS256", "e1"),
            (ec_key("P-384"), "ES384", "e1"),
            (ED, "EdDSA", "e1"),
        ):
            self.refused(key.token(alg, header={"kid": kid}), "no key")
        only = parse_jwks(published(RSA.jwk(alg="RS256")), 1)
        self.accepted(RSA.token("RS256"), keys=only)
        self.refused(RSA.token("PS256"), "no key", keys=only)
        self.refused(RSA.token("RS512"), "no key", keys=only)

    def test_unsigned_claims_are_not_believed(self) -> None:
        """A stranger's signature over good claims says nothing but that it is a stranger's."""
        refused = self.refused(ec_key(kid="e1", number=9).token("ES256"), "signature")
        self.assertIs(refused.reason, Reason.BAD_CREDENTIALS)
        late = good(exp=1)
        refused = self.refused(ec_key(kid="e1", number=9).token("ES256", late), "signature")
        self.assertIs(refused.reason, Reason.BAD_CREDENTIALS)


class KeyTests(TokenCase):
    """Keys that come and go."""

    def test_stale(self) -> None:
        """An unknown name, and a signature that does not fit a known one, may be a new key's."""
        for token, unknown in (
            (EC.token("ES256", header={"kid": "new"}), True),
            (ec_key(kid="e1", number=1).token("ES256"), False),
            (ec_key("P-384", kid="new").token("ES384"), True),
            (EC.token("ES384", header={"alg": "ES256"}), False),
        ):
            refused = self.refused(token)
            self.assertEqual((refused.stale, refused.unknown), (True, unknown))

    def test_not_stale(self) -> None:
        """What is refused whatever its key asks for none."""
        for claims, header in (
            (good(aud="else"), {"kid": "new"}),
            (good(exp=int(NOW)), {"kid": "new"}),
            (good(nbf=int(NOW) + 1), {"kid": "new"}),
            (good(iss="else"), {"kid": "new"}),
            (good(sub=None), {"kid": "new"}),
            (good(), {"kid": "new", "typ": "dpop+jwt"}),
            (good(), {"kid": "new", "alg": "HS256"}),
        ):
            refused = self.refused(EC.token("ES256", claims, header))
            self.assertEqual((refused.stale, refused.unknown), (False, False))
        self.assertFalse(self.refused("a.b.c").stale)

    def test_without_name(self) -> None:
        """A token that names no key is tried with each that fits."""
        found = parse_jwks(published(ec_key(number=1), RSA, EC), 9)
        self.accepted(EC.token("ES256", header={"kid": None}), keys=found)
        self.assertTrue(self.refused(ec_key(number=2).token("ES256", header={"kid": None})).stale)

    def test_same_name(self) -> None:
        """Two keys of one name both count, in either order."""
        new = ec_key(kid="e1", number=1)
        for listed in ((EC, new), (new, EC)):
            found = parse_jwks(published(*listed), 9)
            for key in listed:
                self.accepted(key.token("ES256"), keys=found)

    def test_name(self) -> None:
        """A name of a key is a string of a usual length."""
        kid: Any
        for kid in ("", 7, [], {}, True, "k" * 257):
            self.refused(EC.token("ES256", header={"kid": kid}), "kid")
        header = {"alg": "ES256", "kid": None}
        self.refused(EC.sign("ES256", header, good()), "kid")
        self.refused(EC.token("ES256", header={"kid": "k" * 256}), "no key")


class HeaderTests(TokenCase):
    """What stands in a header beside the algorithm."""

    def test_refused_members(self) -> None:
        """Keys that a token brings along, and extensions, refuse one that is good otherwise."""
        mallory = ec_key(kid="e1", number=9)
        header: Any
        for key in (EC, mallory):
            for header in (
                {"jwk": mallory.jwk()},
                {"jku": "https://mallory.example/jwks.json"},
                {"x5u": "https://mallory.example/cert.pem"},
                {"x5c": ["MIIB"]},
                {"crit": ["exp"], "exp": 1},
                {"crit": []},
                {"b64": False, "crit": ["b64"]},
                {"b64": False},
                {"b64": True},
                {"zip": "DEF"},
                {"enc": "A128GCM"},
                {"cty": "JWT"},
                {"cty": "jwt"},
            ):
                refused = self.refused(key.token("ES256", header=header), "header")
                self.assertFalse(refused.stale)

    def test_unencoded_payload(self) -> None:
        """A payload that is signed as it is (RFC 7797)."""
        payload = json.dumps(good())
        header = b64(b'{"alg":"HS256","b64":false,"crit":["b64"]}')
        self.refused(f"{header}.{payload}.AAAA", "not a JWT", HMAC, SHARED)
        self.refused(f"{header}.{{}}.AAAA", "base64url", HMAC, SHARED)

    def test_harmless_members(self) -> None:
        """Thumbprints of keys, as Entra sends them, and what nobody knows."""
        header: Any
        for header in ({"x5t": "AQAB"}, {"x5t#S256": "AQAB"}, {"nonce": "x"}, {"x": {"y": []}}):
            self.accepted(EC.token("ES256", header=header))

    def test_type(self) -> None:
        """Access tokens by either name, or none; no other kind of token passes for one."""
        typ: Any
        for typ in (
            None,
            "JWT",
            "jwt",
            "at+jwt",
            "AT+JWT",
            "application/at+jwt",
            "application/JWT",
        ):
            self.accepted(EC.token("ES256", header={"typ": typ}))
        for typ in ("dpop+jwt", "logout+jwt", "JOSE", "", "id+jwt", 1, ["JWT"], "jwt ", "text/jwt"):
            self.refused(EC.token("ES256", header={"typ": typ}), "typ")
        self.refused(EC.sign("ES256", {"alg": "ES256", "typ": None}, good()), "typ")


class ShapeTests(TokenCase):
    """What a token looks like."""

    def test_parts(self) -> None:
        """Three parts; five are an encrypted one."""
        good_one = EC.token("ES256")
        for token in ("", ".", "..", "...", "token", f"{good_one}.", f".{good_one}", "mcp_abc"):
            self.refused(token)
        self.refused("a.b.c.d.e", "JWE")
        self.refused(f"{good_one}.{good_one}")

    def test_size(self) -> None:
        """The longest that a request can bring, and one character more."""
        token = shared(good(pad="x" * 12_000))
        pad = "x" * (12_000 + (MAX_TOKEN - len(token)) * 3 // 4)
        longest = shared(good(pad=pad))
        self.assertIn(len(longest), (MAX_TOKEN, MAX_TOKEN - 1))
        self.accepted(longest, HMAC, SHARED)
        self.refused(shared(good(pad=pad + "xx")), "longer", HMAC, SHARED)

    def test_base64(self) -> None:
        """One way of writing each part: no padding, no blanks, no other alphabet, no spare bits."""
        header, payload, signature = EC.token("ES256").split(".")
        last = signature[-1]
        spare = chr(ord(last) + 1)  # 64 bytes leave four bits of the last letter over
        for token in (
            f"{header}=.{payload}.{signature}",
            f"{header}.{payload}==.{signature}",
            f"{header}.{payload}.{signature}==",
            f"{header}.{payload}.{signature}\n",
            f" {header}.{payload}.{signature}",
            f"{header}.{payload}.{signature[:-1]}{spare}",
            f"{header}.{payload}.{signature[:9]}+{signature[10:]}",
            f"{header}.{payload}\u00e9.{signature}",
            f"{header}.{payload}\ud800.{signature}",
            f"{header}.{payload}\u0661.{signature}",
        ):
            self.refused(token, "base64url")

    def test_json(self) -> None:
        """Both are strict JSON objects: nothing that two readers could read in two ways."""
        header = json.dumps({"alg": "ES256", "kid": "e1"}).encode()
        payload = json.dumps(good()).encode()
        deep = b'{"a":' * 40 + b"1" + b"}" * 40
        for bad in (
            *(b"", b"null", b"[]", b'"x"', b"1", b"{", b"{} {}", b"\xef\xbb\xbf{}", b"{'a':1}"),
            *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a":"\xff"}', b'{"a":"\\ud800"}'),
            deep,
            b'{"a":[' + b"1," * 9_000 + b"1]}",
        ):
            self.refused(EC.sign("ES256", bad, payload))
            self.refused(EC.sign("ES256", header, bad))
            self.refused(EC.sign("ES256", header, payload[:-1] + b',"more":' + bad[:-1] + b"}"))

    def test_duplicates(self) -> None:
        """A member twice, with equal values too, in header and payload and at any depth."""
        header = json.dumps({"alg": "ES256", "kid": "e1"}).encode()
        payload = json.dumps(good()).encode()
        self.accepted(EC.sign("ES256", header, payload))
        for extra in (
            b',"alg":"ES256"}',
            b',"alg":"none"}',
            b',"kid":"e1"}',
            b',"x":{"a":1,"a":1}}',
        ):
            self.refused(EC.sign("ES256", header[:-1] + extra, payload), "header")
        for extra in (
            b',"sub":"alice"}',
            b',"sub":"root"}',
            b',"su\\u0062":"root"}',
            b',"exp":9999999999}',
            b',"x":[{"a":1,"a":2}]}',
        ):
            self.refused(EC.sign("ES256", header, payload[:-1] + extra), "payload")

    def test_nested(self) -> None:
        """A token in a token is none, with and without the word for it."""
        inner = EC.token("ES256").encode()
        self.refused(EC.sign("ES256", {"alg": "ES256", "kid": "e1", "cty": "JWT"}, inner), "header")
        self.refused(EC.sign("ES256", {"alg": "ES256", "kid": "e1"}, inner), "payload")

    def test_other_names(self) -> None:
        """Letter case counts: a claim that is nearly called so is another one."""
        self.judged("exp is missing", exp=None, Exp=int(NOW) + 600)
        self.judged("iss", iss=None, ISS=ISSUER)


class ClaimTests(TokenCase):
    """What a token has to say."""

    def test_good(self) -> None:
        """What is read of a good one."""
        claims = self.passed(scope="a b  a", more={"x": [1]})
        self.assertEqual(claims.user_id, "alice")
        self.assertEqual(claims.audiences, (AUDIENCE,))
        self.assertEqual(claims.scopes, {"a", "b"})
        self.assertEqual(claims.expires_at, NOW + 600)
        self.assertIsNone(claims.thumbprint)
        self.assertEqual(claims.every["more"], {"x": [1]})
        self.assertNotIn("more", repr(claims))

    def test_issuer(self) -> None:
        """The issuer is compared letter by letter."""
        for issuer in (
            *(None, "", ISSUER.rstrip("/"), ISSUER.upper(), ISSUER + " ", "https://mallory/"),
            *([ISSUER], {"iss": ISSUER}, 1, True, "https://login.example.com:443/"),
        ):
            self.assertIs(self.judged("iss is", iss=issuer).reason, Reason.BAD_CREDENTIALS)

    def test_audience(self) -> None:
        """One string or a list of them, of which one has to be ours."""
        audience: Any
        for audience, found in (
            (AUDIENCE, (AUDIENCE,)),
            ([AUDIENCE], (AUDIENCE,)),
            (["x", "other", AUDIENCE, "other"], ("other", AUDIENCE)),
        ):
            self.assertEqual(self.passed(aud=audience).audiences, found)
        for audience in (None, "", [], "else", ["else"], AUDIENCE + "/", f"{AUDIENCE} other"):
            self.judged("aud", aud=audience)
        for audience in (1, {AUDIENCE: 1}, [AUDIENCE, 1], [[AUDIENCE]], True, [AUDIENCE, None]):
            self.judged("aud is no string", aud=audience)
        self.judged("aud is no string", aud=[AUDIENCE] + ["x"] * MAX_AUDIENCES)
        refused = self.judged('aud names "else", not one of this gateway\'s', aud="else")
        self.assertEqual(refused.detail.count("else"), 1)

    def test_other_audience_claim(self) -> None:
        """Where the audience stands in another claim, ``aud`` says nothing."""
        rules = evolve(RULES, audience_claim="client_id")
        self.assertEqual(self.passed(rules, aud=None, client_id="other").audiences, ("other",))
        self.passed(rules, aud="else", client_id="other")
        self.judged("client_id is missing", rules)
        self.judged("client_id names", rules, client_id="else")

    def test_clock(self) -> None:
        """Each time at its very edge, without leeway and with it, in fractions too."""
        for leeway in (0.0, 0.5, 30.0):
            rules = evolve(RULES, leeway=leeway)
            edge = NOW - leeway
            self.passed(rules, exp=edge + 0.25)
            for late in (edge, edge - 0.25):
                refused = self.judged("expired", rules, exp=late)
                self.assertIs(refused.reason, Reason.EXPIRED_CREDENTIALS)
            early: Any
            for name in ("nbf", "iat"):
                for early in (NOW + leeway, NOW + leeway - 0.25, 0, NOW):
                    self.passed(rules, **{name: early})
                refused = self.judged(name, rules, **{name: NOW + leeway + 0.25})
                self.assertIs(refused.reason, Reason.BAD_CREDENTIALS)

    def test_times(self) -> None:
        """A time is a number of seconds that can be one."""
        value: Any
        for name in ("exp", "nbf", "iat"):
            for value in (
                *("1800000600", "", True, False, [], {}, -1, -0.5, MAX_TIME + 1, 10**30),
                *(1.8e12, 1e300, -(10**30), [1_800_000_600], "2099-01-01T00:00:00Z"),
            ):
                refused = self.judged(name, **{name: value})
                self.assertIs(refused.reason, Reason.BAD_CREDENTIALS)
            raw = json.dumps(good(**{name: 12345})).replace("12345", "null").encode()
            self.refused(EC.sign("ES256", {"alg": "ES256", "kid": "e1"}, raw), name)
        self.judged("exp is missing", exp=None)
        self.passed(iat=None)
        self.passed(exp=MAX_TIME)
        self.passed(exp=int(NOW) + 600.5)

    def test_expired_is_said_of_good_ones_only(self) -> None:
        """A token that was never meant for here has not expired here."""
        for claims in ({"aud": "else"}, {"sub": None}, {"cnf": {"jkt": "x"}}):
            refused = self.judged(exp=int(NOW) - 1, **claims)
            self.assertIs(refused.reason, Reason.BAD_CREDENTIALS)

    def test_user_id(self) -> None:
        """A string or an integer, short and visible."""
        value: Any
        for value, found in (
            ("alice", "alice"),
            (42, "42"),
            (0, "0"),
            ("a|b:c d", "a|b:c d"),
            ("é" * 256, "é" * 256),
        ):
            self.assertEqual(self.passed(sub=value).user_id, found)
        for value in (
            *(None, "", True, False, 1.5, [], ["alice"], {}, "x" * 257, 10**300),
            *(" alice", "alice\n", "al\x00ice", "al\x1bice", "al\x7fice", "al\x85ice", " "),
        ):
            self.judged("sub", sub=value)
        rules = evolve(RULES, user_id_claim="https://example.com/name")
        self.judged("https://example.com/name", rules)
        named: dict[str, Any] = {"https://example.com/name": "al"}
        claims = self.passed(rules, **named)
        self.assertEqual(claims.user_id, "al")

    def test_required(self) -> None:
        """Claims that have to be there, and not null."""
        rules = evolve(RULES, required_claims=("tid", "azp"))
        self.passed(rules, tid="", azp=0)
        self.judged('"azp" is missing', rules, tid="x")
        raw = json.dumps(good(tid="x", azp=12345)).replace("12345", "null").encode()
        self.refused(EC.sign("ES256", {"alg": "ES256", "kid": "e1"}, raw), "azp", rules)

    def test_scopes(self) -> None:
        """A string with blanks or a list of strings; absent none; anything else refuses."""
        value: Any
        for value, found in (
            (None, set[str]()),
            ("", set[str]()),
            ([], set[str]()),
            (" a  b ", {"a", "b"}),
            (["a", "b c"], {"a", "b c"}),
            ([str(number) for number in range(MAX_SCOPES)], set(map(str, range(MAX_SCOPES)))),
        ):
            self.assertEqual(self.passed(scope=value).scopes, found)
        for value in (1, True, {}, {"a": 1}, ["a", 1], [["a"]], [None], ["a"] * (MAX_SCOPES + 1)):
            self.judged("scope", scope=value)
        raw = json.dumps(good(scope=12345)).replace("12345", "null").encode()
        self.refused(EC.sign("ES256", {"alg": "ES256", "kid": "e1"}, raw), "scope")

    def test_scopes_by_path(self) -> None:
        """The claim of exactly this name, else what a path leads to, through names with dots."""
        rules = evolve(RULES, scopes_claim="realm_access.roles")
        deep: dict[str, Any] = {"realm_access": {"roles": ["a"]}}
        self.assertEqual(self.passed(rules, **deep).scopes, {"a"})
        self.assertEqual(self.passed(rules, **{**deep, "realm_access.roles": "b"}).scopes, {"b"})
        self.assertEqual(self.passed(rules).scopes, set())
        self.assertEqual(self.passed(rules, realm_access={}).scopes, set())
        for wrong in ("a", ["roles"], 1, {"roles": 1}, {"roles": {"a": 1}}):
            self.judged("realm_access.roles", rules, realm_access=wrong)
        rules = evolve(RULES, scopes_claim="resource_access.https://mcp.example.com.roles")
        deep = {"resource_access": {"https://mcp.example.com": {"roles": ["a"]}, "x": 1}}
        self.assertEqual(self.passed(rules, **deep).scopes, {"a"})

    def test_confirmation(self) -> None:
        """A certificate's thumbprint is understood; another binding, or one more, refuses."""
        self.assertEqual(self.passed(cnf={"x5t#S256": "abc"}).thumbprint, "abc")
        cnf: Any
        for cnf in (
            *({}, {"jkt": "x"}, {"jwk": {}}, {"x5t#S256": "abc", "jkt": "x"}, {"kid": "x"}),
            *({"x5t#S256": 1}, {"x5t#S256": None}, "abc", [], 1, True, {"X5T#S256": "abc"}),
        ):
            self.judged("cnf", cnf=cnf)
        raw = json.dumps(good(cnf=12345)).replace("12345", "null").encode()
        self.refused(EC.sign("ES256", {"alg": "ES256", "kid": "e1"}, raw), "cnf")

    def test_details(self) -> None:
        """What the log is told is short and one line, whatever a stranger writes."""
        for claims in ({"iss": "x\n" * 4_000}, {"aud": ["\x1b[2J" * 99] * 9}, {"sub": ["y" * 999]}):
            token = shared(good(**claims))
            refused = self.refused(token, "", HMAC, SHARED)
            self.assertTrue(refused.detail.isprintable())
            self.assertNotIn(token[-20:], refused.detail)


class PropertyTests(TokenCase):
    """Whatever comes."""

    TOKENS = (
        (EC.token("ES256"), RULES, KEYS),
        (RSA.token("RS256", good(scope="a b")), RULES, KEYS),
        (RSA.token("PS512"), RULES, KEYS),
        (ED.token("EdDSA"), RULES, KEYS),
        (shared(), HMAC, SHARED),
    )

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(TOKENS), st.data())
    def test_mutations(self, one: tuple[str, TokenRules, KeySet], data: st.DataObject) -> None:
        """A token of which one character is changed, lost or added is refused."""
        token, rules, keys = one
        place = data.draw(st.integers(0, len(token) - 1))
        letter = data.draw(
            st.sampled_from(
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n"
            )
            | st.characters()
        )
        kind = data.draw(st.sampled_from(("change", "lose", "add")))
        if kind == "change":
            changed = token[:place] + letter + token[place + 1 :]
        elif kind == "lose":
            changed = token[:place] + token[place + 1 :]
        else:
            changed = token[:place] + letter + token[place:]
        if changed != token:
            self.refused(changed, "", rules, keys)

    @settings(deadline=None, max_examples=400)
    @given(st.text(max_size=200) | st.text("eyJ0.-_=A", max_size=60))
    def test_noise(self, text: str) -> None:
        """Noise is refused in order."""
        self.refused(text)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
    def test_noise_in_shape(self, header: bytes, payload: bytes, signature: bytes) -> None:
        """Noise in three parts."""
        self.refused(".".join(map(b64, (header, payload, signature))))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=600), st.sampled_from((*ASYMMETRIC, "EdDSA")))
    def test_noise_as_signature(self, signature: bytes, alg: str) -> None:
        """Noise under good claims, by each algorithm and key."""
        kid = {"R": "r1", "P": "r1", "Ed": "o1"}.get(alg[:2] if alg == "EdDSA" else alg[0], "e1")
        head = ".".join(
            b64(json.dumps(part).encode()) for part in ({"alg": alg, "kid": kid}, good())
        )
        self.refused(f"{head}.{b64(signature)}")

    VALUES = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=4,
    )

    @settings(deadline=None, max_examples=200)
    @given(
        st.dictionaries(
            st.sampled_from(("iss", "aud", "sub", "exp", "nbf", "iat", "scope", "cnf", "x")),
            VALUES,
            max_size=3,
        )
    )
    def test_any_claims(self, claims: dict[str, Any]) -> None:
        """Signed claims of any types give claims or a refusal, and never those of another id."""
        token = signed("HS256", SECRET, {"alg": "HS256"}, {**good(), **claims})
        try:
            found = verify(token, HMAC, SHARED, NOW)
        except TokenRefused:
            return
        self.assertEqual(found.user_id, str(claims.get("sub", "alice")))
        self.assertGreater(found.expires_at, NOW)

    @settings(deadline=None, max_examples=200)
    @given(
        st.dictionaries(
            st.sampled_from(("alg", "kid", "typ", "crit", "jwk", "x5t", "b64", "cty", "x")),
            VALUES,
            max_size=3,
        )
    )
    def test_any_header(self, header: dict[str, Any]) -> None:
        """So do headers; one with another algorithm is always refused."""
        token = signed("HS256", SECRET, {"alg": "HS256", **header}, good())
        try:
            verify(token, HMAC, SHARED, NOW)
        except TokenRefused:
            return
        self.assertEqual(header.get("alg", "HS256"), "HS256")
        self.assertLessEqual(header.keys(), {"alg", "kid", "typ", "x5t", "x"})
