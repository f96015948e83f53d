"""The steps between a parsed message and an upstream: the rules, then the limit of the tool."""

from collections.abc import Coroutine
from typing import Any, Protocol

from attrs import Factory, define, evolve, field
from twisted.internet.defer import Deferred

from mcpguard.config.settings import RateLimitSettings
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.limits.limiter import Grant, Limiter
from mcpguard.pipeline.dispatch import authorize
from mcpguard.pipeline.opaque import Opaque
from mcpguard.pipeline.trip import Trip
from mcpguard.policy.buckets import Rate
from mcpguard.policy.principal import Principal
from mcpguard.policy.rules import glob_matches
from mcpguard.protocol.jsonrpc import Request
from mcpguard.protocol.mcp import METHODS

_NOTE = "allowed tools"
_MAX_NOTED = 64


def _was_allowed(trip: Trip, principal: Principal, request: Request) -> bool:
    """Whether the rules have allowed this principal this tool, asked for with the same head.

    They say the same then: the path names the server, and rights never change, they are replaced.
    """
    notes = trip.incoming.notes
    if notes is None or request.method != "tools/call" or request.params is None:
        return False
    noted = notes.get(_NOTE)
    if noted is None or noted[0] is not principal.rights:
        return False
    name = request.params.get("name")
    return type(name) is str and name in noted[1]


def _note_allowed(trip: Trip, principal: Principal, request: Request) -> None:
    notes = trip.incoming.notes
    if notes is None or request.method != "tools/call":
        return
    name = str((request.params or {})["name"])
    noted = notes.get(_NOTE)
    if noted is None or noted[0] is not principal.rights or len(noted[1]) >= _MAX_NOTED:
        tools: set[str] = set()
        noted = notes[_NOTE] = (principal.rights, tools)
    if len(name) <= _MAX_NOTED:
        noted[1].add(name)


class Challenges(Protocol):
    """Says how more can be had than a token allows."""

    def insufficient_scope(self, incoming: Incoming, scope: str, why: str) -> str:
        """Give the value of ``WWW-Authenticate``: ``scope`` is all that is needed for this."""
        ...


@define(eq=False)
class Admission:
    """What every request of every era passes before it may reach a server."""

    settings: RateLimitSettings
    limiter: Limiter
    opaque: Opaque
    challenges: Challenges
    _tool_rates: tuple[tuple[str, Rate], ...] = field(
        init=False,
        default=Factory(
            lambda self: tuple(
                (rule.tool_pattern, Rate(rule.requests_per_second, rule.burst_size))
                for rule in self.settings.tool_limits
            ),
            takes_self=True,
        ),
    )

    async def admit(self, trip: Trip, server: str, request: Request, *, modern: bool) -> None:
        """Return if the request may go to ``server``; raises Refused otherwise."""
        rest = self.admit_now(trip, server, request, modern)
        if rest is not None:
            await rest

    def admit_now(
        self, trip: Trip, server: str, request: Request, modern: bool
    ) -> Coroutine[Any, Any, None] | None:
        """Do the same, and give as a coroutine what must be waited for, if anything.

        Another round of a request is a request like any other here.
        """
        principal, route = trip.principal, trip.route
        assert principal is not None
        assert route is not None
        known = METHODS.get(request.method)
        if (
            known is None
            or known.kind != "request"
            or not (known.modern if modern else known.legacy)
        ):
            # Handshake eras answer an unknown method as JSON-RPC does, with 200 (both reference
            # servers); the stateless wire has 404 for it.
            raise Refused(Refusal(Reason.UNKNOWN_METHOD))
        if not _was_allowed(trip, principal, request):
            refusal = authorize(principal, server, request)
            if refusal is not None:
                raise Refused(self._challenged(trip, refusal))
            _note_allowed(trip, principal, request)
        trip.step("Authorized")
        trip.custody = self.opaque.custody(
            principal.key, server, route.path, request.method, modern=modern
        )
        if self._tool_rates and request.method == "tools/call" and self.settings.enabled:
            return self._tool_limits(trip, principal, str((request.params or {})["name"]))
        return None

    def _challenged(self, trip: Trip, refusal: Refusal) -> Refusal:
        """Have the client told how it gets the scope that is missing, if that is what is wrong."""
        if refusal.reason is not Reason.INSUFFICIENT_SCOPE:
            return refusal
        challenge = self.challenges.insufficient_scope(
            trip.incoming, refusal.data["scope"], refusal.message
        )
        return evolve(refusal, headers=(("WWW-Authenticate", challenge),))

    def _tool_limits(
        self, trip: Trip, principal: Principal, tool: str, first: int = 0
    ) -> Coroutine[Any, Any, None] | None:
        """Take from the buckets of the rules from the ``first`` on that are for this tool."""
        for number in range(first, len(self._tool_rates)):
            pattern, rate = self._tool_rates[number]
            if not glob_matches(pattern, tool):
                continue
            taken = self.limiter.take(f"tool\0{principal.key}\0{pattern}\0{tool}", rate)
            if isinstance(taken, Deferred):
                return self._take(trip, principal, tool, number, taken)
            _taken(trip, taken)
        return None

    async def _take(
        self, trip: Trip, principal: Principal, tool: str, number: int, taken: Deferred[Grant]
    ) -> None:
        _taken(trip, await taken)
        rest = self._tool_limits(trip, principal, tool, number + 1)
        if rest is not None:
            await rest


def _taken(trip: Trip, grant: Grant) -> None:
    trip.books.meter.rate_limit(grant.allowed)
    if not grant.allowed:
        trip.grant = grant
        raise Refused(Refusal(Reason.TOOL_RATE_LIMITED, retry_after=grant.retry_after))
