"""From the request to the principal: where the token stands, and who knows it."""

import re
from urllib.parse import parse_qsl

from attrs import evolve
from twisted.internet.defer import Deferred

from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity.authenticator import Authenticator
from mcpguard.policy.principal import Principal
from mcpguard.protocol.answers import CHALLENGE

MAX_TOKEN = 16_384
"""Bytes of a Bearer token."""

_MAX_QUERY_FIELDS = 100
_NOTE = "token"
_TOKEN = re.compile(r"[!-~]+")

_INFORMATIVE = (
    Reason.BAD_CREDENTIALS,
    Reason.ADDRESS_NOT_ALLOWED,
    Reason.EXPIRED_CREDENTIALS,
)
"""Reasons to report when every authenticator refused, the one that tells most last."""


class Chain:
    """Authenticators in the order they are asked; the first that knows the token wins."""

    def __init__(self, *authenticators: Authenticator) -> None:
        self._authenticators = authenticators

    def authenticate(self, incoming: Incoming, now: float) -> Principal | Deferred[Principal]:
        """Tell who is asking; raises (or errbacks with) `Refused`, 401 with its challenge.

        ``now`` is in Unix seconds.
        """
        if not self._authenticators:
            raise _challenged(Refusal(Reason.NO_AUTHENTICATION_CONFIGURED), presented=False)
        notes = incoming.notes
        if notes is None:
            token = bearer_token(incoming)
        elif _NOTE in notes:
            token = notes[_NOTE]
        else:
            token = notes[_NOTE] = bearer_token(incoming)
        return self._ask(0, token, incoming, now, None)

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
        raise _challenged(worst or Refusal(Reason.BAD_CREDENTIALS), presented=True)

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


def bearer_token(incoming: Incoming) -> str:
    """Find the one Bearer token of a request (RFC 6750 section 2.1); raises `Refused`.

    A token in the query is refused even beside a good header: it is in somebody's log by now.
    """
    if incoming.query and _has_query_token(incoming.query):
        text = "Credentials in the query string are not accepted"
        raise _challenged(Refusal(Reason.BAD_CREDENTIALS, text), presented=True)
    values = incoming.headers.get("authorization", ())
    if not values:
        raise _challenged(Refusal(Reason.NO_CREDENTIALS), presented=False)
    if len(values) > 1:
        text = "More than one Authorization header"
        raise _challenged(Refusal(Reason.BAD_CREDENTIALS, text), presented=True)
    scheme, _, token = values[0].partition(" ")
    if scheme != "Bearer" and scheme.lower() != "bearer":
        text = "The Authorization header must use the Bearer scheme"
        raise _challenged(Refusal(Reason.BAD_CREDENTIALS, text), presented=False)
    token = token.strip(" ")
    if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise _challenged(Refusal(Reason.BAD_CREDENTIALS), presented=True)
    return token


def _has_query_token(query: str) -> bool:
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        return True
    return any(name.lower() == "access_token" for name, _ in fields)


def _more_informative(one: Refusal | None, other: Refusal) -> Refusal:
    if one is None or _rank(other) > _rank(one):
        return other
    return one


def _rank(refusal: Refusal) -> int:
    # What is none of these (an authenticator that could not ask its server) tells most of all.
    reason = refusal.reason
    return _INFORMATIVE.index(reason) if reason in _INFORMATIVE else len(_INFORMATIVE)


def _challenged(refusal: Refusal, *, presented: bool) -> Refused:
    """Add the challenge of a 401 (RFC 6750 section 3): an error only for who presented a token."""
    if refusal.shape.status != 401 or refusal.headers:
        return Refused(refusal)
    challenge = f'{CHALLENGE}, error="invalid_token"' if presented else CHALLENGE
    return Refused(evolve(refusal, headers=(("WWW-Authenticate", challenge),)))
