"""Where an HTTP upstream is: its configured URL, and what may be put behind it."""

import re
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from attrs import field, frozen

from mcpguard.upstream.paths import split_path

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?")
_VISIBLE = re.compile(r"[\x21-\x7e]*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@frozen
class Target:
    """A URL, taken apart. It may hold a secret (in its query), so it is never shown whole."""

    scheme: str
    netloc: str
    """Host and port as they go into ``Host``."""
    path: str = field(repr=False)
    query: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Read a configured URL; raises ValueError with words for the operator."""
        if not _VISIBLE.fullmatch(url):
            raise ValueError("the URL must be visible ASCII (hosts in their xn-- form)")
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError("the URL must begin with http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the URL must not carry a user or password, use headers")
        if parts.fragment or "#" in url:
            raise ValueError("the URL must not have a fragment")
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            if "%" in host:
                raise ValueError("the URL's address must not have a zone")
            host = f"[{IPv6Address(host)}]"
        elif not _HOST.fullmatch(host):
            raise ValueError("the URL has no usable host")
        if port == 0:
            raise ValueError("the URL's port must be between 1 and 65535")
        if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
            host = f"{host}:{port}"
        if "?" in url and not parts.query:
            raise ValueError("the URL must not end in an empty query")
        return cls(parts.scheme, host, parts.path or "/", parts.query)

    @property
    def origin(self) -> str:
        """Scheme, host and port, as every URL of it begins."""
        return f"{self.scheme}://{self.netloc}"

    def url(self, path: str = "") -> str:
        """The URL with ``path`` (empty, or ``/segment…``) behind its own path, the query kept.

        Raises ValueError for a path that `split_path` refuses.
        """
        whole = self.path
        if path:
            if split_path(path) is None:
                raise ValueError("a path that cannot be passed on")
            whole = self.path.rstrip("/") + path
        query = f"?{self.query}" if self.query else ""
        return f"{self.origin}{whole}{query}"
