"""Browser clients on other origins: what they may send and read (Fetch standard, CORS)."""

import re

from attrs import define, field

from mcpguard.config.settings import CorsSettings
from mcpguard.front.exchange import Headers, Incoming
from mcpguard.policy.origins import normal_origin

MCP_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Accept",
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
)
"""What MCP clients send; named one by one because a wildcard does not cover Authorization."""

EXPOSED_HEADERS = (
    "Mcp-Session-Id",
    "WWW-Authenticate",
    "MCP-Protocol-Version",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "Retry-After",
    "X-Request-ID",
)

_PARAM_HEADER = re.compile(r"mcp-param-[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_MAX_PARAM_HEADERS = 64


@define
class Cors:
    """The rules of ``[server.cors]``, when it is enabled.

    Credentials in the sense of CORS (cookies) are never allowed: MCP clients send a token of
    their own. So ``*`` among the origins gives nothing away that curl could not have.
    """

    settings: CorsSettings
    _origins: frozenset[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._origins = frozenset(_one_form(origin) for origin in self.settings.allowed_origins)

    def headers(self, incoming: Incoming) -> Headers:
        """What every answer carries."""
        if "*" in self._origins:
            allowed: Headers = (("Access-Control-Allow-Origin", "*"),)
        else:
            # Also without an Origin: a cache must not serve that answer to a browser that has one.
            allowed = (("Vary", "Origin"),)
            origin = self._allowed_origin(incoming)
            if origin is None:
                return allowed
            allowed = (("Access-Control-Allow-Origin", origin), *allowed)
        return (*allowed, ("Access-Control-Expose-Headers", ", ".join(EXPOSED_HEADERS)))

    def preflight(self, incoming: Incoming) -> Headers | None:
        """The further headers of a preflight's answer; None when it is not one we answer."""
        if incoming.method != "OPTIONS" or self._allowed_origin(incoming) is None:
            return None
        if incoming.header("access-control-request-method") is None:
            return None
        names = (*MCP_REQUEST_HEADERS, *self.settings.allowed_headers, *_param_headers(incoming))
        return (
            ("Access-Control-Allow-Methods", ", ".join(self.settings.allowed_methods)),
            ("Access-Control-Allow-Headers", ", ".join(names)),
            ("Access-Control-Max-Age", str(self.settings.max_age)),
            ("Vary", "Access-Control-Request-Headers"),
        )

    def _allowed_origin(self, incoming: Incoming) -> str | None:
        values = incoming.headers.get("origin", ())
        if len(values) != 1:
            return None
        return values[0] if self._origins & {"*", _one_form(values[0])} else None


def _one_form(origin: str) -> str:
    """One spelling of an origin, as the Origin rule of the corridor compares them."""
    return normal_origin(origin) or origin.lower()


def _param_headers(incoming: Incoming) -> tuple[str, ...]:
    """The ``Mcp-Param-*`` names a preflight asks for: any tool may define some."""
    asked = ",".join(incoming.headers.get("access-control-request-headers", ()))
    names = dict.fromkeys(name.strip(" \t").lower() for name in asked.split(","))
    found = [name for name in names if _PARAM_HEADER.fullmatch(name)]
    return tuple(found[:_MAX_PARAM_HEADERS])
