"""The ids of sessions: sealed, so that any process with the key can go on with a session.

What a session needs to be taken up again stands in its id: nothing is stored for it. An id says
nothing to anybody else, and opens only for the principal it was given to, on the route it was
given for. Among workers it begins with the number of the one that the session is at, which is
bound to it as well.
"""

import json
from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from mcpguard.protocol.jsonrpc import encode
from mcpguard.protocol.mcp import LEGACY_VERSIONS
from mcpguard.protocol.ownership import marked, unmarked
from mcpguard.protocol.sealing import Seal
from mcpguard.upstream.link import Message, Opening, Route

_HERE_ONLY, _ANYWHERE = 0, 1
"""The kinds of ids: of a session that this process alone can go on with, and the first form of
what another one needs for it."""
_MEMBERS = frozenset({"kind", "birth", "version", "server", "capabilities", "client"})


@frozen
class IdBounds:
    """What an id may be."""

    max_chars: int
    """Clients, proxies and chained gateways limit the header."""
    max_name: int
    """Characters of the client's name and of its version; the rest is cut off."""
    max_age_secs: float
    """Since the handshake; an older session is not taken up again."""
    skew_secs: float
    """How far ahead the clock of the process that made an id may be."""


@frozen
class Remembered:
    """What an id says of a session."""

    version: str
    capabilities: Message
    """The client's, as they were relayed."""
    client_info: Message
    session_id: str | None = field(repr=False)
    """The server's own id."""

    @property
    def params(self) -> Message:
        """The ``initialize`` params that open such a session again."""
        return {
            "protocolVersion": self.version,
            "capabilities": self.capabilities,
            "clientInfo": self.client_info,
        }


@frozen
class SessionIds:
    """Makes and reads the ids that clients carry."""

    seal: Seal
    wall: Callable[[], float]
    """Unix seconds."""
    bounds: IdBounds
    owner: int | None = None
    """This worker's number; None for a process on its own."""

    def issue(self, principal_key: str, route: Route, params: Message, opening: Opening) -> str:
        """Give the id of a session that was opened with these ``initialize`` params.

        It can be revived if the server's side of it can, and if what that takes fits in.
        """
        birth = int(self.wall())
        context = _context(principal_key, route, "" if self.owner is None else str(self.owner))
        version = opening.result.get("protocolVersion")
        if opening.resumable and isinstance(version, str):
            kept = {
                "kind": _ANYWHERE,
                "birth": birth,
                "version": version,
                "server": opening.session_id,
                "capabilities": params.get("capabilities"),
                "client": self._named(params.get("clientInfo")),
            }
            token = marked(self.owner, self.seal.seal(context, encode(kept)))
            if len(token) <= self.bounds.max_chars:
                return token
        kept = {"kind": _HERE_ONLY, "birth": birth}
        return marked(self.owner, self.seal.seal(context, encode(kept)))

    def read(self, session_id: str, principal_key: str, route: Route) -> Remembered | None:
        """What an id says; None unless this principal may revive it, here and now."""
        if len(session_id) > self.bounds.max_chars:
            return None
        number, token = unmarked(session_id)
        content = self.seal.open(_context(principal_key, route, number), token)
        if content is None:
            return None
        kept = json.loads(content)
        # Sealed by ourselves, but maybe by another version of ourselves.
        if kept.get("kind") != _ANYWHERE or kept.keys() != _MEMBERS:
            return None
        age = self.wall() - kept["birth"]
        if not -self.bounds.skew_secs <= age <= self.bounds.max_age_secs:
            return None
        if kept["version"] not in LEGACY_VERSIONS:
            return None
        return Remembered(kept["version"], kept["capabilities"], kept["client"], kept["server"])

    def _named(self, info: Any) -> Message:
        known = info if isinstance(info, dict) else {}
        texts = {key: known.get(key) for key in ("name", "version")}
        return {
            key: text[: self.bounds.max_name] if isinstance(text, str) else ""
            for key, text in texts.items()
        }


def _context(principal_key: str, route: Route, number: str) -> tuple[str, ...]:
    """What an id is bound to. The server's name too: its session ids are no other one's affair."""
    bound = (principal_key, route.upstream.name, route.public_path, route.path)
    return (*bound, number) if number else bound
