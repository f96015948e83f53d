"""Tests of the keys of an issuer."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.jwks import MAX_KID, MAX_TRIED, KeySet, parse_jwks, shared_secret
from tests.tokens import SECRET, SigningKey, b64, ec_key, ed_key, published, rsa_key

MANY = 100
RSA, EC = rsa_key(), ec_key()


def keys(*jwks: Any) -> KeySet:
    """The set that is read."""
    return parse_jwks(published(*jwks), MANY)


class DocumentTests(SynchronousTestCase):
    """What a JWK set is."""

    def test_no_set(self) -> None:
        """What has no list of keys, or is no strict JSON, is refused in words of our own."""
        jwk = json.dumps(RSA.jwk())
        for data in (
            *(b"", b"null", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b'"keys"'),
            *(b'{"keys": []', b'{"keys": []} x', b'{"keys": [], "keys": []}', b'{"keys": [NaN]}'),
            b'\xef\xbb\xbf{"keys": []}',
            b'{"keys": ["\xff"]}',
            f'{{"keys": [{jwk[:-1]}, "kid": "k2"}}]}}'.encode(),
            b'{"keys": [' + b"[" * 20 + b"]" * 20 + b"]}",
            b"<html>no such page, secret</html>",
        ):
            with self.assertRaises(ValueError) as caught:
                parse_jwks(data, MANY)
            self.assertIn("JWK set", str(caught.exception), data)
            self.assertNotIn("secret", str(caught.exception))

    def test_empty(self) -> None:
        """An issuer may have withdrawn all its keys; further members do no harm."""
        self.assertEqual(parse_jwks(b'{"keys": [], "more": {"a": 1}}', MANY).keys, ())

    def test_bound(self) -> None:
        """A set of exactly the bound is read, one key more is not."""
        self.assertEqual(len(parse_jwks(published(RSA, EC), 2).keys), 2)
        with self.assertRaises(ValueError):
            parse_jwks(published(RSA, EC), 1)

    @settings(deadline=None)
    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
    def test_noise(self, value: Any) -> None:
        """Whatever stands for a key is skipped, and the good one beside it is used."""
        found = keys(value, EC)
        self.assertEqual(len(found.keys), 1)
        self.assertEqual(len(found.skipped), 1)

    @settings(deadline=None)
    @given(
        st.sampled_from(("kty", "crv", "x", "y", "kid", "alg", "use", "key_ops", "n", "e")),
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text()),
        st.sampled_from((RSA, EC, ed_key())),
    )
    def test_mutations(self, member: str, value: Any, key: SigningKey) -> None:
        """A member of any other value leaves a key that verifies, or none; nothing is raised."""
        found = keys({**key.jwk(), member: value})
        self.assertEqual(len(found.keys) + len(found.skipped), 1)


class KeyTests(SynchronousTestCase):
    """Which keys are used."""

    def test_kinds(self) -> None:
        """Every kind, also without name, algorithm and use."""
        for key, kty, crv in (
            (RSA, "RSA", None),
            (ec_key("P-256"), "EC", "P-256"),
            (ec_key("P-384"), "EC", "P-384"),
            (ec_key("P-521"), "EC", "P-521"),
            (ed_key("Ed25519"), "OKP", "Ed25519"),
            (ed_key("Ed448"), "OKP", "Ed448"),
        ):
            for jwk in (key.jwk(), key.jwk(kid=None, use=None)):
                (found,) = keys(jwk).keys
                self.assertEqual((found.kty, found.crv, found.kid), (kty, crv, jwk.get("kid")))
                self.assertEqual(found.key, key.private.public_key())

    def test_skipped(self) -> None:
        """What is of no use is skipped, with the reason and without its values."""
        private = get_default_algorithms()["RS256"].to_jwk(RSA.private)
        other = ec.generate_private_key(ec.SECP256K1())
        for jwk, word in (
            ({"kty": "oct", "k": b64(SECRET)}, "shared secret"),
            ({"kty": "XYZ"}, "kty"),
            ({}, "kty"),
            ({"kty": ["RSA"]}, "kty"),
            (RSA.jwk(d="AQAB"), "private"),
            (RSA.jwk(k="AQAB"), "private"),
            (EC.jwk(d="AQAB"), "private"),
            ({**json.loads(private), "kid": "k1"}, "private"),
            (RSA.jwk(use="enc"), "use"),
            (RSA.jwk(use="SIG"), "use"),
            (RSA.jwk(use=1), "use"),
            (RSA.jwk(key_ops=["encrypt"]), "key_ops"),
            (RSA.jwk(key_ops="verify"), "key_ops"),
            (RSA.jwk(alg="RSA-OAEP"), "alg"),
            (RSA.jwk(alg="ES256"), "alg"),
            (RSA.jwk(alg="HS256"), "alg"),
            (RSA.jwk(alg="none"), "alg"),
            (EC.jwk(alg="ES384"), "alg"),
            (RSA.jwk(alg=1), "alg"),
            (RSA.jwk(kid=""), "kid"),
            (RSA.jwk(kid="k" * (MAX_KID + 1)), "kid"),
            (RSA.jwk(kid=7), "kid"),
            (RSA.jwk(n=None), "n is"),
            (RSA.jwk(n="AQAB=="), "n is"),
            (RSA.jwk(e="AQ"), "exponent"),
            (RSA.jwk(e="Ag"), "exponent"),
            (RSA.jwk(e=b64(b"\xff" * 9)), "exponent"),
            (RSA.jwk(n=b64(b"\xff" * 128)), "bits"),
            (RSA.jwk(n=b64(b"\xff" * 1025)), "bits"),
            (rsa_key(1024).jwk(), "2048 bits"),
            (EC.jwk(crv="P-384"), "coordinates"),
            (EC.jwk(crv="secp256k1"), "crv"),
            (EC.jwk(crv=None), "crv"),
            (EC.jwk(y=b64(bytes(32))), "not on its curve"),
            (EC.jwk(x=b64(b"\x01")), "coordinates"),
            (ed_key().jwk(x=b64(b"\x01")), "no key of its curve"),
            (ed_key().jwk(crv="X25519"), "crv"),
            (SigningKey(other).jwk(), "crv"),
        ):
            found = keys(jwk, EC)
            self.assertEqual(len(found.keys), 1, jwk)
            self.assertEqual(len(found.skipped), 1)
            self.assertIn(word, found.skipped[0])
            self.assertIn("key 1: ", found.skipped[0])
            self.assertNotIn("AQAB", found.skipped[0])

    def test_a_zero_in_front(self) -> None:
        """Issuers that send RSA numbers with their sign byte are understood; it is the same key."""
        n = RSA.private.public_key().public_numbers().n
        long = RSA.jwk(n=b64(b"\0" + n.to_bytes(256, "big")))
        self.assertEqual(keys(long), keys(RSA))

    def test_thumbprint(self) -> None:
        """The example of RFC 7638 section 3.1, whatever it is called."""
        n = (
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_"
            "BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_"
            "FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI"
            "4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
        )
        for kid in ("2011-04-29", None):
            (key,) = keys({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": kid}).keys
            self.assertEqual(key.thumbprint, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")


class SetTests(SynchronousTestCase):
    """Whether a set is another one, and what may have signed a token."""

    def test_equality(self) -> None:
        """Order and what stands beside do not count; a new key, name or algorithm does."""
        one, other = RSA.jwk(), ec_key(kid="k2").jwk()
        self.assertEqual(keys(one, other), keys(other, one, one, {"kty": "oct"}))
        for changed in (
            keys(one),
            keys(one, ec_key(kid="k2", number=1)),
            keys(one, {**other, "kid": "k3"}),
            keys(one, {**other, "alg": "ES256"}),
        ):
            self.assertNotEqual(keys(one, other), changed)

    def test_same_name_new_key(self) -> None:
        """A new key under an old name can be told from the old one."""
        before, after = keys(RSA), keys(rsa_key(number=1))
        self.assertEqual({kid for kid, _, _ in before.identities ^ after.identities}, {"k1"})

    def test_candidates(self) -> None:
        """Kind, curve, algorithm and name all have to fit."""
        p256, p384 = ec_key(kid="e1"), ec_key("P-384", kid="e2")
        one, two = rsa_key(kid="r1"), rsa_key(kid="r2", number=1)
        ed, ed448 = ed_key(kid="o1"), ed_key("Ed448", kid="o2")
        found = keys(
            p256, p384, one.jwk(alg="RS256"), two, ed.jwk(alg="Ed25519"), ed448.jwk(alg="EdDSA")
        )
        for alg, kid, names in (
            ("RS256", None, ["r1", "r2"]),
            ("RS384", None, ["r2"]),
            ("PS256", None, ["r2"]),
            ("RS256", "r1", ["r1"]),
            ("RS256", "r3", []),
            ("RS256", "e1", []),
            ("ES256", None, ["e1"]),
            ("ES384", None, ["e2"]),
            ("ES512", None, []),
            ("EdDSA", None, ["o1", "o2"]),
            ("HS256", None, []),
            ("none", None, []),
        ):
            candidates = found.candidates(alg, kid)
            self.assertEqual([key.kid for key in candidates], names, (alg, kid))

    def test_key_without_a_name(self) -> None:
        """It is not what a token means that names its key."""
        found = keys(RSA.jwk(kid=None))
        self.assertEqual(len(found.candidates("RS256", None)), 1)
        self.assertEqual(found.candidates("RS256", "k1"), ())

    def test_two_of_one_name(self) -> None:
        """Both are tried: an issuer may publish the next key under the name of the last."""
        found = keys(RSA, rsa_key(number=1))
        self.assertEqual(len(found.candidates("RS256", "k1")), 2)

    def test_bound(self) -> None:
        """One token is not tried with any number of keys."""
        many = [ec_key(kid=f"k{number}", number=number) for number in range(MAX_TRIED + 1)]
        found = keys(*many)
        self.assertEqual(len(found.candidates("ES256", None)), MAX_TRIED)
        self.assertEqual(len(found.candidates("ES256", f"k{MAX_TRIED}")), 1)

    def test_shared_secret(self) -> None:
        """The configured secret is meant whatever a token calls it, and by HMAC only."""
        found = shared_secret(SECRET)
        for kid in (None, "x"):
            self.assertEqual([key.key for key in found.candidates("HS384", kid)], [SECRET])
        for alg in ("RS256", "ES256", "EdDSA", "none"):
            self.assertEqual(found.candidates(alg, None), ())
        self.assertNotIn(SECRET.decode(), repr(found))
