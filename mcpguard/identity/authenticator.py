"""What every way of signing in has in common."""

from typing import Protocol

from twisted.internet.defer import Deferred

from mcpguard.config.settings import IdentityKeys
from mcpguard.front.exchange import Incoming
from mcpguard.policy.principal import Allowance, Principal, Rights


class Authenticator(Protocol):
    """One way of proving who one is by a Bearer token."""

    def authenticate(
        self, token: str, incoming: Incoming, now: float
    ) -> Principal | Deferred[Principal]:
        """Tell whose token this is; raises (or errbacks with) `errors.Refused`.

        ``incoming`` is the request that brings it, ``now`` Unix seconds. A plain principal is
        answered when nothing has to be waited for.
        """
        ...


def rights_of(keys: IdentityKeys) -> Rights:
    """Give the rights that an identity's configuration grants."""
    return Rights(
        tools=keys.allowed_tools,
        denied_tools=keys.denied_tools,
        servers=keys.allowed_servers,
        resources=keys.allowed_resources,
        denied_resources=keys.denied_resources,
        prompts=keys.allowed_prompts,
        denied_prompts=keys.denied_prompts,
    )


def allowance_of(keys: IdentityKeys) -> Allowance:
    """Give the limits that an identity's configuration sets."""
    return Allowance(
        per_second=keys.rate_limit,
        burst=keys.burst_size,
        max_concurrency=keys.max_concurrency,
    )
