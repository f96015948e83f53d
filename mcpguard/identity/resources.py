"""The gateway as OAuth's protected resources: one for each public endpoint (RFC 9728)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from mcpguard.config.settings import AuthSettings
from mcpguard.front.exchange import Incoming
from mcpguard.policy.public_urls import (
    METADATA,
    MOUNT,
    comparable,
    endpoint_url,
    metadata_url,
    public_path,
)

NAME = "mcp-guard"

_OFFLINE = "offline_access"
"""For the authorization server alone: a resource never asks for it."""


@frozen
class PublicListener:
    """A listener as clients know it."""

    port: int
    """The one it is bound to."""
    url: str
    """Without a trailing slash; it may have a path."""
    asks_certificates: bool


@define(eq=False)
class Resources:
    """Every endpoint by the URLs that clients know it by, never by what a request says."""

    endpoints: Mapping[str, str]
    """The paths where MCP is served, those of event streams (HTTP+SSE) among them, each with the
    path that a token for it may be used at and below: that of its server. Servers come first."""
    endpoint_of: Callable[[str], str | None]
    """The endpoint that the path of a request belongs to."""
    listeners: Callable[[], Sequence[PublicListener]]
    """All of them; asked late, as the system may choose ports."""
    authorization_servers: Sequence[str]
    scopes: Sequence[str]
    _urls: dict[str, str] = field(init=False, factory=dict)
    _listed: int = field(init=False, default=0)
    """How many listeners there are in `_urls`."""
    _tables: dict[str, dict[str, str]] = field(init=False, factory=dict)
    """By the URL of a listener: path behind the well-known one -> endpoint."""

    def urls(self) -> Mapping[str, str]:
        """The `comparable` URL of each endpoint -> the path that a token for it is good for."""
        listeners = self.listeners()
        if len(listeners) != self._listed:
            self._listed = len(listeners)
            self._urls = {}
            for one in listeners:
                for path, below in self.endpoints.items():
                    # Behind ``https://h/mcp``, ``/sse`` is called as a server named sse would be:
                    # the URL of a server stands for that alone.
                    self._urls.setdefault(comparable(endpoint_url(one.url, path)), below)
        return self._urls

    def metadata_url(self, incoming: Incoming) -> str:
        """Where the metadata of the endpoint is that a request is for, whatever became of it."""
        listener = self._listener(incoming)
        return metadata_url(listener.url, self.endpoint_of(incoming.path))

    def document(self, incoming: Incoming) -> dict[str, Any] | None:
        """The metadata asked for by a path that begins with the well-known one; None: no resource.

        A proxy may pass the public path on, or ours; where both have a meaning the public one
        counts. The fallback without a path describes what is served at ``/mcp``.
        """
        listener = self._listener(incoming)
        behind = incoming.path.removeprefix(METADATA)
        endpoint = self._table(listener.url).get(behind) if behind else MOUNT
        if endpoint is None:
            return None
        document: dict[str, Any] = {
            "resource": endpoint_url(listener.url, endpoint),
            "authorization_servers": list(self.authorization_servers),
            "bearer_methods_supported": ["header"],
            "resource_name": NAME,
        }
        if self.scopes:
            document["scopes_supported"] = list(self.scopes)
        if listener.asks_certificates:
            document["tls_client_certificate_bound_access_tokens"] = True
        return document

    def _listener(self, incoming: Incoming) -> PublicListener:
        listeners = self.listeners()
        for one in listeners:
            if one.port == incoming.local_port:
                return one
        return listeners[0]

    def _table(self, url: str) -> Mapping[str, str]:
        table = self._tables.get(url)
        if table is None:
            own = {path: path for path in self.endpoints}
            public = {public_path(url, path): path for path in self.endpoints}
            table = self._tables[url] = own | public
        return table


def servers_and_scopes(auth: AuthSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where clients are sent for a token, and the scopes that they are told to ask for.

    By default the issuer of the tokens, and the scopes of its mapping that do not allow every
    tool, so that nobody asks for more than most need; all of them if no other is left.
    """
    jwt = auth.jwt
    servers = auth.authorization_servers
    if servers is None:
        servers = () if jwt is None else (jwt.issuer,)
    scopes = auth.scopes_supported
    if scopes is None:
        mapping = {} if jwt is None else jwt.scope_tool_mapping or {}
        narrow = tuple(scope for scope, tools in mapping.items() if "*" not in tools)
        scopes = narrow or tuple(mapping)
    return servers, tuple(scope for scope in scopes if scope != _OFFLINE)
