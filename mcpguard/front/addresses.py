"""Whose connection it is."""

from ipaddress import IPv6Address, ip_address

from twisted.internet.interfaces import IAddress


def address_of(address: IAddress | None) -> str:
    """The IP address of a peer: no scope, IPv4 inside IPv6 unwrapped; empty for a UNIX socket."""
    host = getattr(address, "host", None)
    if not isinstance(host, str):
        return ""
    bare = host.partition("%")[0]
    try:
        ip = ip_address(bare)
    except ValueError:
        return bare
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip)
