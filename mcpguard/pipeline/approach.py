"""What the head of a request says by itself, read once for all requests that say the same.

A client sends the same words again and again, and everything here depends on nothing else: the
configuration and the directory of servers do not change while a corridor lives. Nothing of it is
acted on before its step has come: that a path leads nowhere is for the authenticated to know.
"""

from collections.abc import Callable

from attrs import define, field
from msgspec import Struct

from mcpguard.errors import Refusal
from mcpguard.front.exchange import Incoming
from mcpguard.pipeline.places import Place, allowed_at_root, may_be_part, place_of
from mcpguard.protocol.mcp import LEGACY_VERSIONS
from mcpguard.upstream.link import Directory

_JSON_TYPES = frozenset({"application/json"})
_CURL_TYPES = frozenset({"", "application/x-www-form-urlencoded"})

_NONE: tuple[str, ...] = ()
_NOTE = "approach"


class Approach(Struct, frozen=True):
    """One head, read."""

    refusal: Refusal | None
    """By the Host and Origin rules."""
    at_root: str | None
    """The one method of a path that everybody may know of."""
    checked_early: bool
    """Whether the method is checked before it is known who asks."""
    place: Place | None
    version: str | None
    """Of the protocol, as claimed."""
    stateless: bool
    json_accepted: bool
    stream_accepted: bool
    json_sent: bool
    """The body is said to be JSON."""
    form_sent: bool
    """The body is said to be a form or nothing, as `curl -d` does; and no page has sent it."""


@define(eq=False)
class Approaches:
    """Heads that were read; ``max_heads`` of them, of ``max_chars`` at most, are remembered."""

    directory: Directory
    screen: Callable[[Incoming], Refusal | None]
    """The Host and Origin rules."""
    max_heads: int
    max_chars: int
    _known: dict[tuple[str, *tuple[tuple[str, ...], ...]], Approach] = field(
        init=False, factory=dict
    )

    def __len__(self) -> int:
        return len(self._known)

    def of(self, incoming: Incoming) -> Approach:
        """Give what the head says."""
        notes = incoming.notes
        if notes is not None:
            noted = notes.get(_NOTE)
            if noted is None:
                noted = notes[_NOTE] = self._looked_up(incoming)
            approach: Approach = noted
            return approach
        return self._looked_up(incoming)

    def _looked_up(self, incoming: Incoming) -> Approach:
        get = incoming.headers.get
        key = (
            incoming.path,
            # Each of them a tuple, empty where there is no such header.
            get("host", _NONE),
            get("origin", _NONE),
            get("accept", _NONE),
            get("content-type", _NONE),
            get("mcp-protocol-version", _NONE),
        )
        found = self._known.get(key)
        if found is None:
            found = self._read(incoming)
            path, *values = key
            if len(path) + sum(len(one) for words in values for one in words) <= self.max_chars:
                if len(self._known) >= self.max_heads:
                    self._known.clear()
                self._known[key] = found
        return found

    def _read(self, incoming: Incoming) -> Approach:
        headers, path = incoming.headers, incoming.path
        at_root = allowed_at_root(path)
        versions = headers.get("mcp-protocol-version", _NONE)
        version = versions[0] if versions else None
        accepts = headers.get("accept")
        accept = None if accepts is None else ", ".join(accepts)
        kinds = headers.get("content-type", _NONE)
        media = kinds[0].partition(";")[0].strip().lower() if kinds else ""
        return Approach(
            refusal=self.screen(incoming),
            at_root=at_root,
            checked_early=at_root is not None or not may_be_part(path),
            place=place_of(path, self.directory),
            version=version,
            stateless=version is not None and version not in LEGACY_VERSIONS,
            json_accepted=accepts_type(accept, "application/json"),
            stream_accepted=accepts_type(accept, "text/event-stream"),
            json_sent=len(kinds) <= 1 and media in _JSON_TYPES,
            # A page could send a form across origins without a preflight, but with an Origin.
            form_sent=len(kinds) <= 1 and media in _CURL_TYPES and "origin" not in headers,
        )


def accepts_type(accept: str | None, media_type: str) -> bool:
    """Whether an ``Accept`` header allows a media type, wildcards included (RFC 9110 12.5.1)."""
    if accept is None:
        return False
    main = media_type.partition("/")[0]
    wanted = {media_type, f"{main}/*", "*/*"}
    return any(part.partition(";")[0].strip().lower() in wanted for part in accept.split(","))
