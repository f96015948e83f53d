"""Whose connection it is: the peer's address, and what counts as one address."""

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


def address_block(peer: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 host commands."""
    try:
        ip = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(ip, IPv6Address):
        return str(IPv6Address(int(ip) >> 64 << 64)) + "/64"
    return peer
