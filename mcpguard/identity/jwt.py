"""Tokens of an identity provider as Bearer tokens (RFC 6750, RFC 9068)."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import Factory, define, evolve, field, frozen
from twisted.internet.defer import Deferred

from mcpguard.config.settings import JwtSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import allowance_of, rights_of
from mcpguard.policy.addresses import address_block
from mcpguard.policy.certificates import PeerCertificate
from mcpguard.policy.jwks import KeySet, shared_secret
from mcpguard.policy.principal import Allowance, Principal, Rights, Scopes
from mcpguard.policy.public_urls import comparable
from mcpguard.policy.scopes import granted
from mcpguard.policy.tokens import Claims, TokenRefused, TokenRules, Unverified, check, read

PROVIDER = "jwt"

DEFAULT_ALGORITHMS = {"simple": ("HS256",), "jwks": ("RS256", "ES256")}

_AT_ROOT = {"/sse": "/mcp", "/messages": "/mcp"}
"""Places of the server at ``/mcp`` that are not below it. They are not those of ``/mcp/sse`` and
``/mcp/messages``, where other servers may stand."""


class Keys(Protocol):
    """The issuer's keys, wherever they come from."""

    @property
    def current(self) -> KeySet | None:
        """What is known of them; None: never had, or too old to be used."""
        ...

    @property
    def generation(self) -> int:
        """Grows with each change of `current`."""
        ...

    @property
    def away(self) -> bool:
        """Whether the issuer, when it was asked last, gave no keys."""
        ...

    def newer(self) -> Deferred[bool] | None:
        """Ask the issuer once more, because a token does not fit.

        Fires when that is done, True if `current` has changed; None: it may not be asked now.
        """
        ...

    def loading(self) -> Deferred[bool] | None:
        """While `current` is None: fires when the fetch under way, or begun now, is done.

        None: it may not be asked now.
        """
        ...


@frozen
class FixedKeys:
    """Keys that never change: the secret that is shared with the issuer."""

    current: KeySet
    generation: int = 1
    away: bool = False

    def newer(self) -> Deferred[bool] | None:
        """There are no others."""
        return None

    def loading(self) -> Deferred[bool] | None:
        """They are there."""
        return None


@frozen
class JwtBounds:
    """How much is remembered, and how long to wait with another try."""

    tokens: int
    """Verified tokens that are remembered."""
    characters: int
    """Of all of these together."""
    rights: int
    """Sets of scopes whose rights are remembered."""
    waiting: int
    """Tokens from one address that wait for newer keys. Nobody is charged for them yet, so each
    further one is refused as it stands."""
    retry_after: float
    """Seconds told to clients while there are no keys."""


@frozen
class _Verified:
    """A token that was found good, with what has to be looked at again for each request."""

    principal: Principal
    claims: Claims
    audiences: tuple[str, ...]
    """As `comparable`."""
    generation: int
    size: int


@frozen
class _Presented:
    """A token that is looked at, and the request that brought it."""

    digest: bytes
    size: int
    token: Unverified
    incoming: Incoming
    now: float


@define(eq=False)
class Jwt:
    """Tells whose token it is.

    A signature takes about as long to verify as all the rest of a request, so tokens that were
    found good are remembered, by their digest, until they expire or the keys change. What
    depends on the request is looked at each time.
    """

    rules: TokenRules
    keys: Keys
    certificate_of: Callable[[Incoming], PeerCertificate | None]
    """The client's certificate, for tokens that are bound to one."""
    resources: Callable[[], Mapping[str, str]]
    """URLs of this gateway's own endpoints, as `comparable`, each with its path here."""
    rights: Rights
    """Of everybody who signs in by a token."""
    allowance: Allowance
    mapping: Mapping[str, tuple[str, ...]] | None
    """Scope -> tools."""
    bounds: JwtBounds
    _known: dict[bytes, _Verified] = field(init=False, factory=dict)
    """In the order of their last use."""
    _characters: int = field(init=False, default=0)
    _waiting: dict[str, int] = field(init=False, factory=dict)
    """By address."""
    _rights: dict[frozenset[str], tuple[Rights, Scopes | None]] = field(init=False, factory=dict)
    _mapped: frozenset[str] = field(
        init=False, default=Factory(lambda self: frozenset(self.mapping or ()), takes_self=True)
    )

    def __len__(self) -> int:
        """How many tokens are remembered."""
        return len(self._known)

    def authenticate(
        self, token: str, incoming: Incoming, now: float
    ) -> Principal | Deferred[Principal]:
        """Tell whose token this is; raises (or errbacks with) `Refused`.

        ``BAD_CREDENTIALS`` or ``EXPIRED_CREDENTIALS`` with the cause for the log, or
        ``IDENTITY_UNAVAILABLE`` while the issuer's keys, or the one it names, cannot be had. A
        token that waits for keys is judged by the time at which it came.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None:
            del self._known[digest]
            if known.generation == self.keys.generation and self.keys.current is not None:
                self._known[digest] = known
                return self._admit(known, incoming, now)
            self._characters -= known.size
        try:
            presented = _Presented(digest, len(token), read(token, self.rules), incoming, now)
        except TokenRefused as refused:
            raise _refused(refused) from None
        if self.keys.current is None:
            return Deferred.fromCoroutine(self._later(self.keys.loading(), presented))
        generation = self.keys.generation
        try:
            found = self._verify(presented, self.keys.current)
        except TokenRefused as refused:
            newer = self._newer(incoming.peer) if refused.stale else None
            if newer is None:
                raise self._still_refused(refused) from None
            return Deferred.fromCoroutine(self._once_newer(newer, presented, refused, generation))
        return self._admit(found, incoming, now)

    def _newer(self, peer: str) -> Deferred[bool] | None:
        if self._waiting.get(address_block(peer), 0) >= self.bounds.waiting:
            return None
        return self.keys.newer()

    async def _once_newer(
        self,
        newer: Deferred[bool],
        presented: _Presented,
        refused: TokenRefused,
        generation: int,
    ) -> Principal:
        """Wait for other keys, and look at a token again if there are any."""
        sender = address_block(presented.incoming.peer)
        self._waiting[sender] = self._waiting.get(sender, 0) + 1
        try:
            await newer
        finally:
            left = self._waiting.pop(sender) - 1
            if left:
                self._waiting[sender] = left
        if self.keys.generation == generation:
            # By the same keys it is the same: all who wait are told in one turn, so that checking
            # their signatures once more would keep everybody else waiting.
            raise self._still_refused(refused)
        return self._at_last(presented)

    def _still_refused(self, refused: TokenRefused) -> Refused:
        """The answer to a token for which there are no newer keys.

        While the issuer is away nobody can tell whether it has the key that is named: the token of
        a client that was given it just now is not called bad, and nobody is charged for it.
        """
        if refused.unknown and self.keys.away:
            return self._unavailable(f"{refused.detail}, and cannot be asked")
        return _refused(refused)

    def _unavailable(self, detail: str) -> Refused:
        after = self.bounds.retry_after
        return Refused(Refusal(Reason.IDENTITY_UNAVAILABLE, retry_after=after, detail=detail))

    async def _later(self, keys: Deferred[bool] | None, presented: _Presented) -> Principal:
        """Wait for the first keys, and look at a token then: once, whether they came or not."""
        if keys is not None:
            await keys
        return self._at_last(presented)

    def _at_last(self, presented: _Presented) -> Principal:
        """The last word on a token, by whatever keys there are now."""
        keys = self.keys.current
        if keys is None:
            raise self._unavailable("jwt: the issuer's keys cannot be had")
        try:
            found = self._verify(presented, keys)
        except TokenRefused as refused:
            raise _refused(refused) from None
        return self._admit(found, presented.incoming, presented.now)

    # -- what is remembered ----------------------------------------------------------------

    def _verify(self, presented: _Presented, keys: KeySet) -> _Verified:
        """Verify a token and remember it; raises `TokenRefused`."""
        digest, size = presented.digest, presented.size
        claims = check(presented.token, self.rules, keys, presented.now)
        rights, scopes = self._rights_of(claims.scopes)
        principal = Principal(
            id=claims.user_id,
            provider=PROVIDER,
            name=claims.user_id,
            rights=rights,
            limits=self.allowance,
            expires_at=claims.expires_at + self.rules.leeway,
            claims=claims.every,
            scopes=scopes,
        )
        audiences = tuple(map(comparable, claims.audiences))
        found = _Verified(principal, claims, audiences, self.keys.generation, size)
        self._forget(digest)
        self._known[digest] = found
        self._characters += size
        while len(self._known) > self.bounds.tokens or self._characters > self.bounds.characters:
            self._forget(next(iter(self._known)))
        return found

    def _forget(self, digest: bytes) -> None:
        known = self._known.pop(digest, None)
        if known is not None:
            self._characters -= known.size

    def _rights_of(self, held: frozenset[str]) -> tuple[Rights, Scopes | None]:
        """The rights of whoever holds these scopes: one object for each set that differs."""
        known = held & self._mapped
        found = self._rights.get(known)
        if found is None:
            tools, scopes = granted(self.mapping, known)
            rights = self.rights if tools is None else evolve(self.rights, scoped_tools=tools)
            if len(self._rights) >= self.bounds.rights:
                self._rights.clear()
            found = self._rights[known] = rights, scopes
        return found

    # -- what is looked at for each request ------------------------------------------------

    def _admit(self, found: _Verified, incoming: Incoming, now: float) -> Principal:
        principal, claims = found.principal, found.claims
        expires_at = principal.expires_at
        if expires_at is None or now >= expires_at:
            detail = f"jwt: {principal.id}: expired {now - claims.expires_at:.0f} seconds ago"
            raise Refused(Refusal(Reason.EXPIRED_CREDENTIALS, detail=detail))
        if claims.thumbprint is not None:
            certificate = self.certificate_of(incoming)
            if certificate is None or certificate.thumbprint != claims.thumbprint:
                came = "none" if certificate is None else "another one"
                detail = f"bound to a client certificate, but {came} came with it"
                raise _bad(principal, detail)
        self._check_path(found, incoming.path)
        return principal

    def _check_path(self, found: _Verified, path: str) -> None:
        """Hold a token that is for endpoints of this gateway to these (RFC 8707 section 2)."""
        resources = self.resources()
        if not resources:
            return
        allowed = [resources.get(audience) for audience in found.audiences]
        if None in allowed:
            # It is for more than endpoints: an API that all of them belong to.
            return
        path = _AT_ROOT.get(path, path)
        for prefix in allowed:
            if prefix is not None and is_below(path, prefix):
                return
        named = found.claims.audiences[0]
        raise _bad(found.principal, f"for the resource {named:.80}, not for {path:.80}")


def is_below(path: str, prefix: str) -> bool:
    """Whether a path is this one or below it, segment by segment, as it stands on the wire."""
    prefix = prefix.rstrip("/")
    return path == prefix or path.startswith(f"{prefix}/")


def _refused(refused: TokenRefused) -> Refused:
    return Refused(Refusal(refused.reason, detail=refused.detail))


def _bad(principal: Principal, detail: str) -> Refused:
    return Refused(Refusal(Reason.BAD_CREDENTIALS, detail=f"jwt: {principal.id}: {detail}"))


def rules_of(settings: JwtSettings) -> TokenRules:
    """The rules that a configuration means."""
    return TokenRules(
        issuer=settings.issuer,
        audiences=frozenset(settings.audience),
        algorithms=frozenset(settings.algorithms or DEFAULT_ALGORITHMS[settings.mode]),
        user_id_claim=settings.user_id_claim,
        scopes_claim=settings.scopes_claim,
        audience_claim=settings.audience_claim,
        required_claims=settings.required_claims,
        leeway=settings.leeway_secs,
    )


def fixed_keys(settings: JwtSettings) -> FixedKeys:
    """The keys of mode ``simple``."""
    assert settings.secret is not None
    return FixedKeys(shared_secret(settings.secret.value.encode()))


def jwt_of(
    settings: JwtSettings,
    keys: Keys,
    *,
    certificate_of: Callable[[Incoming], PeerCertificate | None],
    resources: Callable[[], Mapping[str, str]],
    bounds: JwtBounds,
) -> Jwt:
    """The authenticator that a configuration means."""
    return Jwt(
        rules=rules_of(settings),
        keys=keys,
        certificate_of=certificate_of,
        resources=resources,
        rights=rights_of(settings.identity),
        allowance=allowance_of(settings.identity),
        mapping=settings.scope_tool_mapping,
        bounds=bounds,
    )
