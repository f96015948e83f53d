"""Who is asking: the one type every authenticator yields and everything downstream reads."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen


@frozen
class Rights:
    """What a principal may touch.

    An allow list that is None allows everything, an empty one nothing; entries are exact names or
    globs (``*``, ``?``), ``server:name`` pins one server. A deny list always wins.
    """

    tools: tuple[str, ...] | None = None
    denied_tools: tuple[str, ...] = ()
    servers: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    denied_resources: tuple[str, ...] = ()
    prompts: tuple[str, ...] | None = None
    denied_prompts: tuple[str, ...] = ()
    scoped_tools: tuple[str, ...] | None = None
    """What the scopes of a token grant, within all of the above; None: no scope is needed."""


@frozen
class Scopes:
    """The scopes of a token beside what each of them would grant."""

    held: frozenset[str]
    mapping: Mapping[str, tuple[str, ...]]
    """Scope -> names or globs of tools, as in `Rights`."""


@frozen
class Allowance:
    """A principal's own limits; None means the gateway's default."""

    per_second: float | None = None
    burst: int | None = None
    max_concurrency: int | None = None


@frozen
class Principal:
    """One authenticated caller, however it signed in."""

    id: str
    provider: str
    """The authenticator's name space: ``api_key``, ``jwt``, ``mtls``, later ``oauth``."""
    name: str
    rights: Rights = Rights()
    limits: Allowance = Allowance()
    expires_at: float | None = None
    """Unix seconds after which the credential no longer counts."""
    claims: Mapping[str, Any] = field(factory=dict, repr=False)
    scopes: Scopes | None = None
    """None where no scope could change anything."""
    key: str = field(
        init=False, default=Factory(lambda self: f"{self.provider}:{self.id}", takes_self=True)
    )
    """``provider:id``, the name this principal has in limits, sessions, audit and caches."""
