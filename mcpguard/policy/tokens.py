"""Signed tokens (JWT): a text, rules, keys and the time in, what it says or why it is refused out.

RFC 7519 (claims), RFC 7515 (signatures), RFC 8725 (what goes wrong), RFC 9068 (access tokens).
The rules say which algorithms count, never the token. Nothing of a token is believed before its
signature is verified: what is looked at earlier can only refuse it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen
from jwt.algorithms import Algorithm, get_default_algorithms

from mcpguard.errors import Reason
from mcpguard.policy.base64url import decode
from mcpguard.policy.jwks import MAX_KID, KeySet
from mcpguard.protocol.jsonrpc import Bounds, Malformed
from mcpguard.protocol.jsonrpc import decode as decode_json

MAX_TOKEN = 16_384
"""Characters of a token."""
MAX_USER_ID = 256
MAX_SCOPES = 1_000
MAX_AUDIENCES = 1_000
MAX_TIME = 253_402_300_799
"""The last second of the year 9999. What is beyond is no time in seconds, but milliseconds."""

_HEADER = Bounds(max_depth=4, max_nodes=100)
_PAYLOAD = Bounds(max_depth=32, max_nodes=8_192)
_SHOWN = 80
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_ALGORITHMS: Mapping[str, Algorithm] = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name[:2] in ("HS", "RS", "PS") or name in ("ES256", "ES384", "ES512", "EdDSA")
}

_UNUSED_MEMBERS = {
    **dict.fromkeys(("jwk", "x5c"), "brings a key of its own"),
    **dict.fromkeys(("jku", "x5u"), "says where its key is to be fetched"),
    "crit": "demands an extension that is not known here",
    "b64": "has a payload that is not encoded",
    "zip": "is compressed",
    "enc": "is encrypted",
    "cty": "has another token inside",
}
"""Members of a header that refuse it, and why. Keys come from the configuration alone; a token
that has another idea of that is not one of an issuer who has thought about it."""

_TYPES = frozenset(("jwt", "at+jwt"))


@frozen
class TokenRules:
    """What tokens must be like to be accepted here."""

    issuer: str
    """``iss``, letter by letter."""
    audiences: frozenset[str]
    """One of these must be named."""
    algorithms: frozenset[str]
    user_id_claim: str = "sub"
    scopes_claim: str = "scope"
    audience_claim: str = "aud"
    required_claims: tuple[str, ...] = ()
    leeway: float = 0.0
    """Seconds by which the issuer's clock may be off."""


@frozen
class Claims:
    """What an accepted token says."""

    user_id: str
    audiences: tuple[str, ...]
    """Those of the token that the rules accept, at least one."""
    scopes: frozenset[str]
    expires_at: float
    """``exp`` in Unix seconds, without the leeway."""
    thumbprint: str | None
    """SHA-256 of the certificate whose holder alone may use it (RFC 8705, ``x5t#S256``)."""
    every: Mapping[str, Any] = field(repr=False)
    """The whole payload."""


class TokenRefused(Exception):
    """A token that is not accepted.

    ``reason`` is ``BAD_CREDENTIALS`` or ``EXPIRED_CREDENTIALS``; ``detail`` is for the log: values
    in it are clipped, and nothing of it lets anybody in. ``stale``: only the keys are missing, so
    that a newer set of them may accept it. ``unknown``: so it is, and there is none of its name.
    """

    def __init__(
        self, reason: Reason, detail: str, *, stale: bool = False, unknown: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.stale = stale
        self.unknown = unknown


@frozen
class Unverified:
    """A token taken apart, of which nothing is known to be true."""

    alg: str
    kid: str | None
    signed: bytes = field(repr=False)
    """Header and payload as they were signed."""
    signature: bytes = field(repr=False)
    payload: Mapping[str, Any] = field(repr=False)


def verify(token: str, rules: TokenRules, keys: KeySet, now: float) -> Claims:
    """What a token says, if it is to be believed at ``now``; raises `TokenRefused`."""
    return check(read(token, rules), rules, keys, now)


def read(token: str, rules: TokenRules) -> Unverified:
    """Take a token apart, as far as that needs no key; raises `TokenRefused`.

    The issuer is looked at here already: tokens of strangers must not cost signature checks, nor
    make anybody ask for newer keys.
    """
    if len(token) > MAX_TOKEN:
        raise _refused(f"longer than {MAX_TOKEN} characters")
    parts = token.split(".")
    if len(parts) == 5:
        raise _refused("encrypted (JWE), which is not supported")
    if len(parts) != 3:
        raise _refused("not a JWT: it has no three parts")
    try:
        header, payload, signature = (decode(part) for part in parts)
    except ValueError:
        raise _refused("not a JWT: a part is not base64url without padding") from None
    members = _object(header, _HEADER, "header")
    alg, kid = _read_header(members, rules)
    claims = _object(payload, _PAYLOAD, "payload")
    issuer = claims.get("iss")
    if issuer != rules.issuer:
        raise _refused(f"iss is {_shown(issuer)}, not the configured issuer")
    signed = token.rpartition(".")[0].encode("ascii")
    return Unverified(alg, kid, signed, signature, claims)


def check(token: Unverified, rules: TokenRules, keys: KeySet, now: float) -> Claims:
    """Verify the signature, then judge the claims; raises `TokenRefused`."""
    candidates = keys.candidates(token.alg, token.kid)
    algorithm = _ALGORITHMS[token.alg]
    for key in candidates:
        if algorithm.verify(token.signed, key.key, token.signature):
            return _judge(token.payload, rules, now)
    if candidates:
        # The issuer may have put a new key under the same name.
        detail = f"the signature is by none of the issuer's keys{_named(token.kid)}"
    else:
        detail = f"the issuer has no key{_named(token.kid)} for {token.alg}"
    stale = _would_pass(token.payload, rules, now)
    raise _refused(detail, stale=stale, unknown=stale and not candidates)


def _named(kid: str | None) -> str:
    return "" if kid is None else f" with the kid {_shown(kid)}"


def _would_pass(payload: Mapping[str, Any], rules: TokenRules, now: float) -> bool:
    """Whether the keys are all that is missing: what is refused anyway asks for no newer ones."""
    try:
        _judge(payload, rules, now)
    except TokenRefused:
        return False
    return True


# -- the header --------------------------------------------------------------------------------


def _read_header(members: Mapping[str, Any], rules: TokenRules) -> tuple[str, str | None]:
    """Algorithm and name of the key."""
    for name, why in _UNUSED_MEMBERS.items():
        if name in members:
            raise _refused(f"its header has {name}: it {why}")
    alg = members.get("alg")
    if not isinstance(alg, str) or alg not in rules.algorithms or alg not in _ALGORITHMS:
        raise _refused(f"alg is {_shown(alg)}, not one of the configured algorithms")
    if "typ" in members:
        typ = members["typ"]
        kind = typ.lower().removeprefix("application/") if isinstance(typ, str) else None
        if kind not in _TYPES:
            raise _refused(f"typ is {_shown(typ)}, not JWT or at+jwt")
    kid = members.get("kid")
    if "kid" in members and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        raise _refused(f"kid is no string of 1 to {MAX_KID} characters")
    return alg, kid


# -- the claims --------------------------------------------------------------------------------


def _judge(claims: Mapping[str, Any], rules: TokenRules, now: float) -> Claims:
    """Judge everything that a token says; its expiry last, so that only a good one has expired."""
    audiences = _audiences(claims, rules)
    for name in rules.required_claims:
        if claims.get(name) is None:
            raise _refused(f"the required claim {_shown(name)} is missing")
    user_id = _user_id(claims, rules.user_id_claim)
    scopes = _scopes(claims, rules.scopes_claim)
    thumbprint = _confirmation(claims)
    expires_at = _time(claims, "exp")
    not_before, issued_at = _time(claims, "nbf"), _time(claims, "iat")
    if expires_at is None:
        raise _refused("exp is missing")
    if not_before is not None and not_before > now + rules.leeway:
        raise _refused(f"nbf is {not_before - now:.0f} seconds from now")
    if issued_at is not None and issued_at > now + rules.leeway:
        raise _refused(f"iat is {issued_at - now:.0f} seconds from now: compare the clocks")
    if expires_at <= now - rules.leeway:
        detail = f"jwt: expired {now - expires_at:.0f} seconds ago"
        raise TokenRefused(Reason.EXPIRED_CREDENTIALS, detail)
    return Claims(user_id, audiences, scopes, expires_at, thumbprint, claims)


def _audiences(claims: Mapping[str, Any], rules: TokenRules) -> tuple[str, ...]:
    name = rules.audience_claim
    if name not in claims:
        raise _refused(f"{name} is missing")
    named = claims[name]
    listed = named if isinstance(named, list) else [named]
    if len(listed) > MAX_AUDIENCES or not all(isinstance(one, str) for one in listed):
        raise _refused(f"{name} is no string or list of at most {MAX_AUDIENCES}")
    accepted = tuple(dict.fromkeys(one for one in listed if one in rules.audiences))
    if not accepted:
        raise _refused(f"{name} names {_shown(named)}, not one of this gateway's")
    return accepted


def _user_id(claims: Mapping[str, Any], name: str) -> str:
    found = claims.get(name)
    if type(found) is int:
        found = str(found)
    if not isinstance(found, str):
        raise _refused(f"{name}, the claim that names the identity, is {_shown(found)}")
    if not 0 < len(found) <= MAX_USER_ID:
        raise _refused(f"{name} has {len(found)} characters, not 1 to {MAX_USER_ID}")
    if found != found.strip() or _CONTROLS.search(found):
        raise _refused(f"{name} has control characters, or blanks around it")
    return found


def _scopes(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    found = next(_found(claims, name), "")
    scopes = found.split() if isinstance(found, str) else found
    if not isinstance(scopes, list) or not all(isinstance(one, str) for one in scopes):
        raise _refused(f"{name} is no string or list of scopes: {_shown(found)}")
    if len(scopes) > MAX_SCOPES:
        raise _refused(f"{name} has more than {MAX_SCOPES} scopes")
    return frozenset(scopes)


def _found(members: Any, path: str) -> Iterator[Any]:
    """What stands under a name, else at the end of a path of names with dots between them.

    A name may have dots itself: ``resource_access.https://mcp.example.com.roles``.
    """
    if not isinstance(members, dict):
        # The issuer means something else by this path; it must not be taken for no scopes, nor
        # for the scopes themselves.
        yield None
        return
    if path in members:
        yield members[path]
        return
    dot = path.find(".")
    while dot >= 0:
        if path[:dot] in members:
            yield from _found(members[path[:dot]], path[dot + 1 :])
        dot = path.find(".", dot + 1)


def _confirmation(claims: Mapping[str, Any]) -> str | None:
    """Whose certificate a token is bound to (RFC 7800, RFC 8705 section 3.1).

    Every other binding refuses it: what cannot be checked must not be passed over.
    """
    if "cnf" not in claims:
        return None
    bound = claims["cnf"]
    if not isinstance(bound, dict) or bound.keys() != {"x5t#S256"}:
        shown = ", ".join(sorted(bound)) if isinstance(bound, dict) else bound
        raise _refused(f"cnf binds it by {_shown(shown)}; only x5t#S256 can be checked")
    thumbprint = bound["x5t#S256"]
    if not isinstance(thumbprint, str):
        raise _refused("x5t#S256 in cnf is no string")
    return thumbprint


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2), None where there is none."""
    if name not in claims:
        return None
    found = claims[name]
    if type(found) is not int and type(found) is not float:
        raise _refused(f"{name} is {_shown(found)}, no time in seconds")
    if not 0 <= found <= MAX_TIME or not math.isfinite(found):
        raise _refused(f"{name} is {_shown(found)}, no time in seconds")
    return float(found)


# -- what they have in common ------------------------------------------------------------------


def _object(data: bytes, bounds: Bounds, what: str) -> dict[str, Any]:
    """A strict JSON object: UTF-8, no member twice, no NaN, not deeper or larger than usual."""
    try:
        value = decode_json(data, bounds)
    except Malformed:
        raise _refused(f"its {what} is no strict JSON, or too deep") from None
    if not isinstance(value, dict):
        raise _refused(f"its {what} is no JSON object")
    return value


def _shown(value: object) -> str:
    """A value of a token for the log."""
    if value is None:
        return "missing or null"
    text = str(value) if isinstance(value, str | int | float) else repr(value)
    text = _CONTROLS.sub("?", text)
    return f'"{text}"' if len(text) <= _SHOWN else f'"{text[: _SHOWN - 1]}…"'


def _refused(detail: str, *, stale: bool = False, unknown: bool = False) -> TokenRefused:
    return TokenRefused(Reason.BAD_CREDENTIALS, f"jwt: {detail}", stale=stale, unknown=unknown)
