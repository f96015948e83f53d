"""What a path asks for: a server by Streamable HTTP, or one of the two places of HTTP+SSE."""

from enum import Enum

from attrs import frozen

from mcpguard.policy.public_urls import MOUNT, public_path
from mcpguard.upstream.link import Directory, Route


class Part(Enum):
    """The two places of HTTP+SSE (2024-11-05): ``<mount>/sse`` and ``<mount>/messages``.

    Those of the single server at ``/mcp`` are ``/sse`` and ``/messages`` too.
    """

    STREAM = "sse"
    MESSAGES = "messages"

    @property
    def method(self) -> str:
        """The one method it knows."""
        return "GET" if self is Part.STREAM else "POST"


_PARTS = {part.value: part for part in Part}


@frozen
class Place:
    """A route, and how it is spoken to there."""

    route: Route
    part: Part | None
    """None: Streamable HTTP."""


def may_be_part(path: str) -> bool:
    """Whether a path ends as those of HTTP+SSE do; which of them are, the directory knows."""
    return path.rpartition("/")[2] in _PARTS


def place_of(path: str, directory: Directory) -> Place | None:
    """What a path asks for; None if there is nothing.

    A configured path means what was configured, also where a prefix ends in ``/sse``. Otherwise
    the segment right below one is ours, and not what goes behind the URL of an HTTP server; any
    deeper one is the server's.
    """
    route = directory.resolve(path)
    if route is not None and not route.path:
        return Place(route, None)
    mount, _, last = path.rpartition("/")
    if last in _PARTS:
        below = directory.resolve(mount or MOUNT)
        if below is not None and not below.path:
            return None if _is_taken(mount, directory) else Place(below, _PARTS[last])
    return None if route is None else Place(route, None)


def _is_taken(mount: str, directory: Directory) -> bool:
    """Whether another server stands where the clients of a stream would post.

    One named ``messages`` beside the server at ``/mcp``, say: it would be given what was meant
    for that one. The stream is not there then; ``/sse`` is, whose messages have their own place.
    """
    other = directory.resolve(f"{mount}/{Part.MESSAGES.value}")
    return other is not None and not other.path


def allowed_at_root(path: str) -> str | None:
    """The one method of ``/sse`` and ``/messages``, which are there for everybody to see.

    What else ends so tells only the authenticated whether a server is there.
    """
    part = _PARTS.get(path.removeprefix("/"))
    return None if part is None else part.method


def messages_path(public_url: str | None, stream_path: str) -> str:
    """Where a client that opened ``stream_path`` posts its messages, as a path on its own origin.

    Clients compare origins and resolve the path against the URL they know; one with a leading
    slash is what every SDK understands (Java's resolves against the host, so that a relative one
    would lose its way). What is in front of ours, ``public_url`` tells.
    """
    path = stream_path.removesuffix(Part.STREAM.value) + Part.MESSAGES.value
    return public_path(public_url, path)
