"""The URLs that clients know us by: a path of ours behind the ``public_url`` of a listener."""

from urllib.parse import urlsplit

MOUNT = "/mcp"
"""Below this path MCP servers are served."""

METADATA = "/.well-known/oauth-protected-resource"

_PORTS = {"http": 80, "https": 443}


def public_path(public_url: str | None, path: str) -> str:
    """What a client calls ``path``, as a path on the origin it knows.

    A ``public_url`` with a path says what a proxy takes away in front of ours; where it ends in the
    ``/mcp`` that our path begins with, it is that of an MCP endpoint.
    """
    prefix = urlsplit(public_url).path.rstrip("/") if public_url else ""
    if prefix.endswith(MOUNT) and (path == MOUNT or path.startswith(f"{MOUNT}/")):
        prefix = prefix.removesuffix(MOUNT)
    return prefix + path


def endpoint_url(public_url: str, path: str) -> str:
    """The whole URL of ``path``."""
    return _origin(public_url) + public_path(public_url, path)


def metadata_url(public_url: str, path: str | None) -> str:
    """Where the metadata of the resource at ``path`` is, of None in particular the fallback.

    The well-known part stands between the host and the path (RFC 9728, section 3.1).
    """
    behind = "" if path is None else public_path(public_url, path)
    return _origin(public_url) + METADATA + behind


def comparable(url: str) -> str:
    """A URL without what makes no difference to whom it leads to (RFC 3986, section 6.2).

    Letter case of scheme and host, the usual port, and slashes at the end: identity providers and
    clients add and change these. What is no http(s) URL stays as it is.
    """
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return url
    if split.scheme not in _PORTS or not split.hostname:
        return url
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    shown = "" if port in (None, _PORTS[split.scheme]) else f":{port}"
    behind = url.partition("://")[2].partition("/")[2].rstrip("/")
    return f"{split.scheme}://{host}{shown}/{behind}"


def _origin(url: str) -> str:
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc}"
