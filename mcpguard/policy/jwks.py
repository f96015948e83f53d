"""The keys of an issuer: a JWK set read strictly, and which of them may verify what.

RFC 7517 (JWK), RFC 7518 section 6 (members by kind), RFC 8037 (Ed25519, Ed448), RFC 7638
(thumbprints). A key that is of no use is skipped, so that an issuer may publish other kinds
beside; why is kept for the log, in words that repeat nothing of the document.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from mcpguard.policy.base64url import decode, encode
from mcpguard.protocol.jsonrpc import Bounds, Malformed
from mcpguard.protocol.jsonrpc import decode as decode_json
from mcpguard.protocol.jsonrpc import encode as encode_json

PublicKey = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
)

MIN_RSA_BITS = 2048
"""RFC 7518 section 3.3."""
MAX_RSA_BITS = 8192
"""A check takes time that grows with the square of it."""
MAX_TRIED = 16
"""Keys that one token is tried with, where it does not name its key."""
MAX_KID = 256

_BOUNDS = Bounds(max_depth=16, max_nodes=100_000)
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_CURVES: Mapping[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
_FITTING: Mapping[str, tuple[str, frozenset[str | None]]] = {
    **{f"HS{bits}": ("oct", frozenset({None})) for bits in (256, 384, 512)},
    **{f"RS{bits}": ("RSA", frozenset({None})) for bits in (256, 384, 512)},
    **{f"PS{bits}": ("RSA", frozenset({None})) for bits in (256, 384, 512)},
    "ES256": ("EC", frozenset({"P-256"})),
    "ES384": ("EC", frozenset({"P-384"})),
    "ES512": ("EC", frozenset({"P-521"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}
"""Algorithm -> the kind of key and its curves (RFC 7518 section 3.1, RFC 8037 section 3.1)."""


@frozen
class VerificationKey:
    """One key that signatures are verified with."""

    kid: str | None
    """What the issuer calls it; two keys may have one name."""
    kty: str
    """``RSA``, ``EC``, ``OKP``; ``oct`` for a configured secret, which no set can bring."""
    crv: str | None
    alg: str | None
    """The one algorithm it is for; None: every one that its kind fits."""
    key: PublicKey | bytes = field(eq=False, repr=False)
    thumbprint: str
    """RFC 7638, SHA-256: the same key has the same one, whatever it is called."""

    def fits(self, alg: str) -> bool:
        """Whether signatures by this algorithm may be verified with it."""
        kty, curves = _FITTING.get(alg, ("", frozenset()))
        if self.kty != kty or self.crv not in curves:
            return False
        # RFC 9864 calls EdDSA by its curve.
        return self.alg is None or self.alg == alg or (alg == "EdDSA" and self.alg == self.crv)


@frozen
class KeySet:
    """The usable keys of an issuer; equal to another that has the same keys in any order."""

    keys: tuple[VerificationKey, ...] = field(eq=False)
    skipped: tuple[str, ...] = field(eq=False, default=())
    """Why further keys of the document are not used, one sentence each, for the log."""
    identities: frozenset[tuple[str | None, str | None, str]] = field(init=False, repr=False)
    """(kid, alg, thumbprint) of each key: what is the same, new, or new under an old name."""

    @identities.default
    def _identify(self) -> frozenset[tuple[str | None, str | None, str]]:
        return frozenset((key.kid, key.alg, key.thumbprint) for key in self.keys)

    def candidates(self, alg: str, kid: str | None) -> tuple[VerificationKey, ...]:
        """The keys that a token by this algorithm may be signed with, at most `MAX_TRIED`.

        With a ``kid`` those of that name only; a configured secret has none and is always meant.
        """
        found = [
            key
            for key in self.keys
            if key.fits(alg) and (kid is None or key.kid == kid or key.kty == "oct")
        ]
        return tuple(found[:MAX_TRIED])


def shared_secret(secret: bytes) -> KeySet:
    """The key set of an issuer that shares a secret (HMAC)."""
    # No thumbprint: a digest of a secret is something to guess by.
    return KeySet((VerificationKey(None, "oct", None, None, secret, ""),))


def parse_jwks(data: bytes, max_keys: int) -> KeySet:
    """Read a JWK set (RFC 7517 section 5); its size is bounded by whoever fetched it.

    Raises ValueError when it is no strict JSON object with a list of ``keys``, or has more than
    ``max_keys`` of them. A set without a usable key is one all the same.
    """
    try:
        document = decode_json(data, _BOUNDS)
    except Malformed:
        raise ValueError("the JWK set is not valid JSON, or has a member twice") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError('the JWK set has no list "keys"')
    if len(listed) > max_keys:
        raise ValueError(f"the JWK set has more than {max_keys} keys")
    found: dict[VerificationKey, None] = {}
    skipped = []
    for index, jwk in enumerate(listed):
        try:
            found[_key(jwk)] = None
        except ValueError as problem:
            skipped.append(f"key {index + 1}: {problem}")
    return KeySet(tuple(found), tuple(skipped))


def _key(jwk: object) -> VerificationKey:
    """One key; raises ValueError with the reason why it is not used."""
    if not isinstance(jwk, dict):
        raise ValueError("not an object")
    kty = jwk.get("kty")
    if kty == "oct":
        raise ValueError("a shared secret, which nobody may publish")
    if not isinstance(kty, str) or kty not in ("RSA", "EC", "OKP"):
        raise ValueError("unknown kty")
    if not _PRIVATE.isdisjoint(jwk):
        # Whoever can read the set could sign with it.
        raise ValueError("its private part is published, so anybody may have it")
    kid, alg = _optional(jwk, "kid"), _optional(jwk, "alg")
    if kid is not None and not 0 < len(kid) <= MAX_KID:
        raise ValueError(f"its kid is empty or longer than {MAX_KID} characters")
    if _optional(jwk, "use") not in (None, "sig"):
        raise ValueError("its use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its key_ops do not have verify")
    crv, key, members = _READERS[kty](jwk)
    thumbprint = encode(hashlib.sha256(encode_json(members)).digest())
    made = VerificationKey(kid, kty, crv, alg, key, thumbprint)
    if not any(made.fits(one) for one in _FITTING):
        raise ValueError("its alg does not fit its kind, or is unknown")
    return made


def _optional(jwk: Mapping[str, Any], name: str) -> str | None:
    value = jwk.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {name} is not a string")
    return value


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name} is not a string")
    try:
        return decode(value)
    except ValueError:
        raise ValueError(f"its {name} is not base64url") from None


_Read = tuple[str | None, PublicKey, dict[str, str]]
"""Curve, key, and the members of the thumbprint in their order (RFC 7638 section 3.2)."""


def _rsa(jwk: Mapping[str, Any]) -> _Read:
    n, e = (int.from_bytes(_bytes(jwk, name), "big") for name in ("n", "e"))
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise ValueError(f"RSA with less than {MIN_RSA_BITS} bits, or more than {MAX_RSA_BITS}")
    if not 3 <= e < 2**64 or not e % 2 or not n % 2:
        raise ValueError("RSA with a modulus or exponent that cannot be")
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("RSA numbers that make no key") from None
    members = {"e": _minimal(e), "kty": "RSA", "n": _minimal(n)}
    return None, key, members


def _ec(jwk: Mapping[str, Any]) -> _Read:
    crv = jwk.get("crv")
    if not isinstance(crv, str) or crv not in _CURVES:
        raise ValueError("unknown crv")
    curve, size = _CURVES[crv]
    x, y = _bytes(jwk, "x"), _bytes(jwk, "y")
    if len(x) != size or len(y) != size:
        raise ValueError("coordinates that are not as long as its curve's")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
    )
    try:
        key = numbers.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("a point that is not on its curve") from None
    return crv, key, {"crv": crv, "kty": "EC", "x": encode(x), "y": encode(y)}


def _okp(jwk: Mapping[str, Any]) -> _Read:
    crv = jwk.get("crv")
    kinds: Mapping[Any, Any] = {
        "Ed25519": ed25519.Ed25519PublicKey,
        "Ed448": ed448.Ed448PublicKey,
    }
    if not isinstance(crv, str) or crv not in kinds:
        raise ValueError("unknown crv")
    x = _bytes(jwk, "x")
    try:
        key: PublicKey = kinds[crv].from_public_bytes(x)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("bytes that make no key of its curve") from None
    return crv, key, {"crv": crv, "kty": "OKP", "x": encode(x)}


_READERS = {"RSA": _rsa, "EC": _ec, "OKP": _okp}


def _minimal(number: int) -> str:
    """A number in the fewest bytes (RFC 7518 section 2): some issuers send a zero in front."""
    return encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))
