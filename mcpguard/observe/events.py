"""What the other rooms tell the observers: the audit event, and the interfaces to tell it to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

STEP_TYPES = frozenset({"AuthSuccess", "Authorized"})
"""Steps of a request; every request also leaves exactly one outcome event."""

REFUSAL_TYPES = frozenset({"AuthFailure", "AuthorizationDenied", "RateLimited", "RequestRefused"})
"""Outcomes of requests that were not let through."""

OUTCOME_TYPES = REFUSAL_TYPES | {"ToolCall", "McpRequest"}
"""The kinds of outcome: ``ToolCall``, its kin for every other method, and the refusals."""

SYSTEM_TYPES = frozenset(
    {
        "GatewayStarted",
        "GatewayStopped",
        "GatewayReload",
        "SessionStarted",
        "SessionEnded",
        "UpstreamEvent",
        "WorkerEvent",
        "KeySetEvent",
        "CertificateEvent",
        "HandshakeFailed",
        "AuditLost",
    }
)
"""What happens outside of any one request."""

ALWAYS_WRITTEN = REFUSAL_TYPES | {"HandshakeFailed", "AuditLost"}
"""Written whatever ``[audit] events`` says: refusals, and how many events were lost."""

EVENT_TYPES = STEP_TYPES | OUTCOME_TYPES | SYSTEM_TYPES


NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No arguments, no details."""


class Event(NamedTuple):
    """One line of the audit trail; fields that are None are left out of it.

    A tuple and not an attrs class: three are made for each request, and to fill a frozen class of
    as many fields takes two to four times as long.
    """

    event_type: str
    timestamp: float
    """Unix seconds."""
    identity_id: str | None = None
    provider: str | None = None
    method: str | None = None
    """The JSON-RPC method, or ``HTTP GET`` and the like where there is none."""
    server: str | None = None
    tool: str | None = None
    """The tool, prompt or resource URI asked for, as it came from the wire."""
    duration_ms: float | None = None
    status: str | None = None
    """``success``, ``error`` (the server's own error), ``denied``, ``failed``, ``cancelled``."""
    reason: str | None = None
    """A word from `errors.Reason` for refusals and failures."""
    error_id: str | None = None
    request_id: str | None = None
    session_id: str | None = None
    """A digest of the session id, never the id itself."""
    trace_id: str | None = None
    client_ip: str | None = None
    arguments: Mapping[str, Any] = NOTHING
    """The tool's arguments; the renderer records the ones configured, redacted."""
    details: Mapping[str, Any] = NOTHING
    """What the gateway itself has to say beyond the fields, such as counts and states."""


class Recorder(Protocol):
    """The audit trail."""

    def record(self, event: Event) -> None:
        """Take one event; never raises, never blocks."""
        ...


class Meter(Protocol):
    """The counters. Labels come from bounded sets only."""

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count one answered request; ``method`` is a known MCP method or ``other``."""
        ...

    def auth(self, provider: str, result: str) -> None:
        """Count one authentication: ``result`` is ``success`` or ``failure``."""
        ...

    def rate_limit(self, allowed: bool) -> None:
        """Count one decision of a limiter."""
        ...

    def upstream(self, server: str, transport: str, result: str, seconds: float) -> None:
        """Count one upstream request; ``result``: ``success``, ``error``, ``timeout``, ``failed``,
        ``cancelled``.
        """
        ...

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Count under one of the further counters declared in `observe.metrics`."""
        ...
