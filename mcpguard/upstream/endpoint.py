"""Where an HTTP+SSE server wants its messages, held to the origin it was configured under."""

import re
from urllib.parse import urljoin

from mcpguard.upstream.target import Target

# RFC 3986's characters and no others: no blank, control, backslash or line end, which URL parsers
# drop or turn into a slash, each in its own way. No "#" either.
_REFERENCE = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
# Either a scheme and a host, a host alone, or neither. Parsers disagree on "http:evil", "///evil".
_SHAPE = re.compile(r"(?:https?:)?//[^/?].*|(?!//)(?![A-Za-z][A-Za-z0-9+.\-]*:).*", re.IGNORECASE)


def endpoint_url(target: Target, opened: str, reference: str, max_bytes: int) -> str:
    """The URL that messages are posted to (MCP 2024-11-05, HTTP with SSE).

    ``opened`` is the URL of the event stream, below ``target``; ``reference`` the data of the
    ``endpoint`` event, a relative or absolute URL of at most ``max_bytes`` characters. Of it only
    path and query are taken, and only if it names no other scheme, host or port than ``target``.
    Raises ValueError with words for the log, which do not quote the session's secret.
    """
    if len(reference) > max_bytes:
        raise ValueError("the endpoint is too long")
    if not _REFERENCE.fullmatch(reference):
        raise ValueError("the endpoint is empty or has characters no URL may have")
    if not _SHAPE.fullmatch(reference):
        raise ValueError("the endpoint is no http URL")
    try:
        found = Target.parse(urljoin(opened, reference))
    except ValueError:
        raise ValueError("the endpoint is no usable URL") from None
    if (found.scheme, found.netloc) != (target.scheme, target.netloc):
        raise ValueError(
            f"the endpoint is on another origin, {found.scheme}://{found.netloc}, than the"
            f" configured URL, {target.scheme}://{target.netloc}"
        )
    if found.path.startswith("//"):
        raise ValueError("the endpoint's path begins with two slashes")
    return Target(target.scheme, target.netloc, found.path, found.query).url()
