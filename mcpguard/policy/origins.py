"""Which ``Host`` and ``Origin`` a request may carry: the rules against DNS rebinding.

A page of any site can have its name resolve to this machine; what its browser cannot do is lie in
these two headers (CVE-2025-66414 and its kin; MCP, Streamable HTTP, security warning).
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen

from mcpguard.config.settings import ServerSettings
from mcpguard.errors import ConfigurationError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")


@frozen
class Authority:
    """A host and a port, as headers and settings name them; both normalised."""

    host: str
    port: int | None = None


@frozen
class OriginRules:
    """What `check_host` and `check_origin` compare with; made by `build_rules`."""

    hosts: frozenset[Authority] | None
    """Those without a port fit any port. None accepts every host, which deserves a warning."""
    origins: frozenset[str] = frozenset()
    """Normalised ``scheme://host[:port]``, or as written for other schemes than http(s)."""
    loopback_origins: bool = False
    """Accept origins on a loopback name with any port: local applications such as inspectors."""
    any_origin: bool = False


def build_rules(server: ServerSettings, port: int) -> OriginRules:
    """Derive the rules (product reference, section 1); ``port`` is the one bound.

    ``allowed_hosts`` when given; else what each listener is known by, all of it together: on
    loopback the loopback names (and the public host, for a proxy on the same machine); else the
    host of its ``public_url``; else every host. The port of a ``Host`` says nothing about
    rebinding and is compared only for entries that name one. Raises `ConfigurationError` for an
    entry that is no host or no origin.
    """
    problems: list[str] = []
    listeners = server.every_listener
    urls = [one.public_url or server.public_url for one in listeners]
    public = [urlsplit(url) for url in dict.fromkeys(urls) if url]
    hosts: frozenset[Authority] | None = None
    if server.allowed_hosts is not None:
        hosts = frozenset(_authorities(server.allowed_hosts, problems))
    elif all(is_loopback(one.host) or url for one, url in zip(listeners, urls, strict=True)):
        names = [one.hostname for one in public if one.hostname]
        for one in listeners:
            if is_loopback(one.host):
                names += [*LOOPBACK_NAMES, one.host]
        hosts = frozenset(_authorities(names, problems))
    listed = list(server.allowed_origins or ())
    if server.cors.enabled:
        listed += server.cors.allowed_origins
    if server.allowed_origins is None:
        listed += [
            f"{one.scheme}://{one.netloc.rpartition('@')[2]}" for one in public if one.hostname
        ]
    origins = set()
    for entry in listed:
        origin = normal_origin(entry)
        if origin is not None:
            origins.add(origin)
        elif entry != "*":
            problems.append(f"server.allowed_origins: {entry!r} is not scheme://host[:port]")
    if problems:
        raise ConfigurationError(tuple(problems))
    return OriginRules(
        hosts=hosts,
        origins=frozenset(origins),
        loopback_origins=server.allowed_origins is None
        and all(is_loopback(one.host) for one in listeners),
        any_origin="*" in listed,
    )


def check_host(values: Sequence[str], rules: OriginRules) -> bool:
    """Tell whether a request's ``Host`` headers are acceptable: exactly one, and a known one."""
    if len(values) != 1:
        return False
    named = parse_authority(values[0])
    if named is None:
        return False
    if rules.hosts is None:
        return True
    return named in rules.hosts or Authority(named.host) in rules.hosts


def check_origin(origins: Sequence[str], hosts: Sequence[str], rules: OriginRules) -> bool:
    """Tell whether a request's ``Origin`` headers are acceptable.

    None at all is fine (not a browser, or not across origins); more than one and ``null`` are
    not. Otherwise it must be listed, the origin of the ``Host`` the request itself names, or a
    local application where those are let in. Which scheme we are reached by only a proxy may know,
    so the same host and port count as the same origin.
    """
    if not origins:
        return True
    if len(origins) != 1:
        return False
    origin = normal_origin(origins[0])
    if origin is None:
        return False
    if rules.any_origin or origin in rules.origins:
        return True
    scheme, _, rest = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    asking = parse_authority(rest)
    if default is None or asking is None:
        return False
    if rules.loopback_origins and asking.host in LOOPBACK_NAMES:
        return True
    named = parse_authority(hosts[0]) if len(hosts) == 1 else None
    if named is None or not check_host(hosts, rules):
        return False
    return named.host == asking.host and (named.port or default) == (asking.port or default)


def parse_authority(text: str) -> Authority | None:
    """Read ``host[:port]`` as in a ``Host`` header; None if it is none.

    Lower case, without the root's dot, addresses in their one form and without brackets.
    """
    host, port = text, ""
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        host, port = inner, rest
        try:
            if ip_address(inner).version != 6 or "%" in inner:
                return None
        except ValueError:
            return None
    elif ":" in text:
        host, colon, digits = text.partition(":")
        port = colon + digits
    name = _normal_name(host, bracketed=text.startswith("["))
    if name is None:
        return None
    if not port:
        return Authority(name)
    digits = port[1:]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5):
        return None
    number = int(digits)
    return Authority(name, number) if number <= 65_535 else None


def normal_origin(text: str) -> str | None:
    """Give ``scheme://host[:port]`` in its one form, without a default port; None for others.

    Schemes other than http and https (applications have their own) are only put in lower case.
    """
    scheme, separator, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if not separator or not scheme or not rest:
        return None
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:
        return f"{scheme}://{rest.lower()}"
    authority = parse_authority(rest.removesuffix("/"))
    if authority is None:
        return None
    host = f"[{authority.host}]" if ":" in authority.host else authority.host
    if authority.port is None or authority.port == default:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{authority.port}"


def _authorities(entries: Iterable[str], problems: list[str]) -> Iterable[Authority]:
    for entry in entries:
        # An IPv6 address may stand in a setting without its brackets.
        bare = entry.count(":") > 1 and not entry.startswith("[")
        authority = parse_authority(f"[{entry}]" if bare else entry)
        if authority is None:
            problems.append(f"server.allowed_hosts: {entry!r} is not host or host:port")
        else:
            yield authority


def _normal_name(host: str, *, bracketed: bool) -> str | None:
    if bracketed:
        return ip_address(host).compressed
    name = host.lower().removesuffix(".")
    if not name or len(name) > 253 or not _NAME_CHARACTERS.issuperset(name):
        return None
    return name


def is_loopback(host: str) -> bool:
    """Tell whether a host to listen on is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
