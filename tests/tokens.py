"""Tokens signed in the test run, good ones and any other: nothing here refuses nonsense."""

import base64
import functools
import json
from typing import Any

from attrs import frozen
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://login.example.com/"
AUDIENCE = "https://mcp.example.com/mcp"
NOW = 1_800_000_000.0
SECRET = b"a secret of sixty-four bytes, which is enough for each of them.."

_ALGORITHMS = get_default_algorithms()


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@frozen
class SigningKey:
    """A key of an issuer."""

    private: Any
    kid: str | None = "k1"

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public half as the issuer would publish it; None takes a member away."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            found: dict[str, Any] = json.loads(_ALGORITHMS["RS256"].to_jwk(public))
        elif isinstance(public, ec.EllipticCurvePublicKey):
            found = json.loads(_ALGORITHMS["ES256"].to_jwk(public))
        else:
            found = json.loads(_ALGORITHMS["EdDSA"].to_jwk(public))
        found = {**found, "kid": self.kid, "use": "sig", **members}
        found.pop("key_ops", None) if "key_ops" not in members else None
        return {name: value for name, value in found.items() if value is not None}

    def token(self, alg: str, claims: Any = None, header: Any = None) -> str:
        """A token signed by this algorithm; ``header`` adds to the usual one."""
        usual = {"alg": alg, "typ": "JWT", "kid": self.kid}
        members = {
            name: value for name, value in {**usual, **(header or {})}.items() if value is not None
        }
        return self.sign(alg, members, good() if claims is None else claims)

    def sign(self, alg: str, header: Any, payload: Any) -> str:
        """A token of any header and payload, each as an object or as bytes."""
        return signed(alg, self.private, header, payload)


def signed(alg: str, key: Any, header: Any, payload: Any) -> str:
    """Sign anything with any key."""
    parts = [
        b64(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, payload)
    ]
    text = ".".join(parts)
    return f"{text}.{b64(_ALGORITHMS[alg].sign(text.encode(), key))}"


def shared(claims: Any = None, alg: str = "HS256", secret: bytes = SECRET, **header: Any) -> str:
    """A token signed by the shared secret."""
    return signed(alg, secret, {"alg": alg, **header}, good() if claims is None else claims)


def good(**claims: Any) -> dict[str, Any]:
    """Claims that are accepted at `NOW`, with changes; None takes one away."""
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": int(NOW) - 60,
        "exp": int(NOW) + 600,
        **claims,
    }
    return {name: value for name, value in usual.items() if value is not None}


@functools.cache
def rsa_key(bits: int = 2048, kid: str = "k1", number: int = 0) -> SigningKey:
    """An RSA key, the same one for the same words."""
    return SigningKey(rsa.generate_private_key(65537, bits), kid)


@functools.cache
def ec_key(curve: str = "P-256", kid: str = "k1", number: int = 0) -> SigningKey:
    """An elliptic curve key."""
    curves: dict[str, Any] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
    return SigningKey(ec.generate_private_key(curves[curve]()), kid)


@functools.cache
def ed_key(curve: str = "Ed25519", kid: str = "k1") -> SigningKey:
    """An Edwards curve key."""
    kinds: dict[str, Any] = {
        "Ed25519": ed25519.Ed25519PrivateKey,
        "Ed448": ed448.Ed448PrivateKey,
    }
    return SigningKey(kinds[curve].generate(), kid)


def published(*keys: SigningKey | dict[str, Any]) -> bytes:
    """A JWK set."""
    listed = [key.jwk() if isinstance(key, SigningKey) else key for key in keys]
    return json.dumps({"keys": listed}).encode()
