"""From the request to the principal: its certificate, or its token and who knows that."""

import re
from typing import Protocol
from urllib.parse import parse_qsl

from attrs import evolve
from twisted.internet.defer import Deferred

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import Authenticator
from mcpguard.identity.challenge import PLAIN
from mcpguard.policy.principal import Principal

MAX_TOKEN = 16_384
"""Bytes of a Bearer token."""

_MAX_QUERY_FIELDS = 100
_NOTE = "token"
_TOKEN = re.compile(r"[!-~]+")

_INFORMATIVE = (
    Reason.NO_CREDENTIALS,
    Reason.BAD_CREDENTIALS,
    Reason.ADDRESS_NOT_ALLOWED,
    Reason.EXPIRED_CREDENTIALS,
)
"""Reasons to report when every authenticator refused, the one that tells most last."""


class Certificates(Protocol):
    """The way of proving who one is that takes no token."""

    def authenticate(self, incoming: Incoming, now: float) -> Principal | None:
        """Tell whose certificate comes with a request, None if none does; raises `Refused`."""
        ...


class Challenger(Protocol):
    """Says in a 401 how to sign in."""

    def challenge(self, incoming: Incoming, error: str | None) -> str:
        """Give the value of ``WWW-Authenticate``; ``error`` is public, of a token that is bad."""
        ...


class Chain:
    """The ways of signing in, in the order they are asked; the first that knows the caller wins.

    A client certificate, where ``certificates`` are asked, comes before every token. A refusal on
    the way is no end: a certificate that does not count leaves the token, and the other way round.
    """

    def __init__(
        self,
        *authenticators: Authenticator,
        challenger: Challenger = PLAIN,
        certificates: Certificates | None = None,
    ) -> None:
        self._authenticators = authenticators
        self._certificates = certificates
        self._challenger = challenger

    def authenticate(self, incoming: Incoming, now: float) -> Principal | Deferred[Principal]:
        """Tell who is asking; raises (or errbacks with) `Refused`, 401 with its challenge.

        ``now`` is in Unix seconds. What is refused is told by the refusal that tells most.
        """
        if incoming.query and _has_query_token(incoming.query):
            # Also beside a good certificate or header: it is in somebody's log by now.
            text = "Credentials in the query string are not accepted"
            raise self._told(incoming, Refusal(Reason.BAD_CREDENTIALS, text))
        worst = None
        if self._certificates is not None:
            # Nothing of this may be noted: others send the same head over other connections.
            try:
                principal = self._certificates.authenticate(incoming, now)
            except Refused as refused:
                worst = refused.refusal
            else:
                if principal is not None:
                    return principal
        elif not self._authenticators:
            refusal = Refusal(Reason.NO_AUTHENTICATION_CONFIGURED)
            raise self._told(incoming, refusal)
        notes = incoming.notes
        if notes is not None and _NOTE in notes:
            token = notes[_NOTE]
        else:
            try:
                token = bearer_token(incoming)
            except Refused as refused:
                raise self._told(incoming, _more_informative(worst, refused.refusal)) from None
            if notes is not None:
                notes[_NOTE] = token
        return self._ask(0, token, incoming, now, worst)

    def _ask(
        self, first: int, token: str, incoming: Incoming, now: float, worst: Refusal | None
    ) -> Principal | Deferred[Principal]:
        """Ask from the ``first`` on; ``worst`` is the most informative refusal so far."""
        for index in range(first, len(self._authenticators)):
            try:
                answer = self._authenticators[index].authenticate(token, incoming, now)
            except Refused as refused:
                worst = _more_informative(worst, refused.refusal)
                continue
            if not isinstance(answer, Deferred):
                return answer
            return Deferred.fromCoroutine(
                self._await(answer, index + 1, token, incoming, now, worst)
            )
        raise self._told(incoming, worst or Refusal(Reason.BAD_CREDENTIALS))

    async def _await(
        self,
        answer: Deferred[Principal],
        following: int,
        token: str,
        incoming: Incoming,
        now: float,
        worst: Refusal | None,
    ) -> Principal:
        try:
            return await answer
        except Refused as refused:
            worst = _more_informative(worst, refused.refusal)
        later = self._ask(following, token, incoming, now, worst)
        return await later if isinstance(later, Deferred) else later

    def _told(self, incoming: Incoming, refusal: Refusal) -> Refused:
        """Add the challenge of a 401: an error only for who presented a token (RFC 6750, 3.1)."""
        if refusal.shape.status != 401 or refusal.headers:
            return Refused(refusal)
        faulty = refusal.reason is not Reason.NO_AUTHENTICATION_CONFIGURED
        error = refusal.message if faulty and _presents_token(incoming) else None
        challenge = self._challenger.challenge(incoming, error)
        return Refused(evolve(refusal, headers=(("WWW-Authenticate", challenge),)))


def bearer_token(incoming: Incoming) -> str:
    """Find the one Bearer token of a request (RFC 6750 section 2.1); raises `Refused`."""
    values = incoming.headers.get("authorization", ())
    if not values:
        raise Refused(Refusal(Reason.NO_CREDENTIALS))
    if len(values) > 1:
        raise Refused(Refusal(Reason.BAD_CREDENTIALS, "More than one Authorization header"))
    if not _is_bearer(values[0]):
        text = "The Authorization header must use the Bearer scheme"
        raise Refused(Refusal(Reason.BAD_CREDENTIALS, text))
    token = values[0].partition(" ")[2].strip(" ")
    if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise Refused(Refusal(Reason.BAD_CREDENTIALS, detail="not the form of a token"))
    return token


def _is_bearer(value: str) -> bool:
    scheme = value.partition(" ")[0]
    return scheme == "Bearer" or scheme.lower() == "bearer"


def _presents_token(incoming: Incoming) -> bool:
    if any(map(_is_bearer, incoming.headers.get("authorization", ()))):
        return True
    return bool(incoming.query) and _has_query_token(incoming.query)


def _has_query_token(query: str) -> bool:
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        return True
    return any(name.lower() == "access_token" for name, _ in fields)


def _more_informative(one: Refusal | None, other: Refusal) -> Refusal:
    """The refusal that tells its sender more; the audit is told the details of both."""
    if one is None:
        return other
    told = other if _rank(other) > _rank(one) else one
    details = dict.fromkeys(detail for detail in (one.detail, other.detail) if detail)
    return evolve(told, detail="; ".join(details))


def _rank(refusal: Refusal) -> int:
    # What is none of these (an authenticator that could not ask its server) tells most of all.
    reason = refusal.reason
    return _INFORMATIVE.index(reason) if reason in _INFORMATIVE else len(_INFORMATIVE)
