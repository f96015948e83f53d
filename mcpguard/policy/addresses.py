"""Addresses: which ones the gateway may dial (product reference, section 5: the rules against
SSRF), and what counts as one where callers are counted by address.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

Address = IPv4Address | IPv6Address
Class = Literal["public", "private", "loopback", "link_local", "metadata", "unusable"]

_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, OpenStack, Oracle and others
        "169.254.170.2",  # AWS, credentials of a container task
        "169.254.170.23",  # AWS, credentials of a pod
        "168.63.129.16",  # Azure, the host's own channel: a public address
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle, the older one
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS, credentials of a pod
        "fd20:ce::254",  # Google
    )
)
_NAT64 = ip_network("64:ff9b::/96")
_NAT64_LOCAL = ip_network("64:ff9b:1::/48")
_COMPATIBLE = ip_network("::/96")

_PLAIN_SUFFIXES = (
    ".localhost",
    ".local",
    ".internal",
    ".svc",
    ".cluster.local",
    ".lan",
    ".test",
)


def address_block(peer: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 host commands."""
    if ":" not in peer:
        return peer
    try:
        ip = ip_address(peer)
    except ValueError:
        return peer
    return f"{IPv6Address(int(ip) >> 64 << 64)}/64"


def classify(address: Address | str) -> Class:
    """Tell what kind of place an address is; raises ValueError for text that is none.

    An IPv4 address wrapped into an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo) is judged
    by what it leads to.
    """
    plain = ip_address(address) if isinstance(address, str) else address
    if isinstance(plain, IPv6Address) and plain.scope_id is not None:
        plain = IPv6Address(int(plain))
    if isinstance(plain, IPv6Address):
        inner = _wrapped(plain)
        if inner is not None:
            kind = classify(inner)
            # Where a network's own translation leads, only that network knows.
            return "private" if kind == "public" and plain in _NAT64_LOCAL else kind
    if plain in _METADATA:
        return "metadata"
    if plain.is_link_local:
        return "link_local"
    if plain.is_loopback or plain.is_unspecified:
        # Dialling the unspecified address reaches this machine.
        return "loopback"
    if plain.is_multicast or plain.is_reserved or plain == IPv4Address("255.255.255.255"):
        return "unusable"
    if isinstance(plain, IPv6Address) and plain.is_site_local:
        return "private"
    return "public" if plain.is_global else "private"


def named_plainly(host: str) -> bool:
    """Tell whether a configured host says by itself that it is a private place.

    An address literal, ``localhost``, a single label, or a name under one of the suffixes that
    only private networks use. Numbers in other writings (``2130706433``, ``0x7f.1``) are no names.
    """
    name = host.strip("[]").lower().removesuffix(".")
    try:
        ip_address(name)
    except ValueError:
        pass
    else:
        return True
    last = name.rpartition(".")[2]
    if not last or last.isdecimal() or last.startswith("0x"):
        return False
    return "." not in name or name.endswith(_PLAIN_SUFFIXES)


def allowed_to_dial(
    host: str, addresses: Iterable[Address | str], allow_private: bool
) -> str | None:
    """Judge all addresses of a configured host; None allows, else the reason of the refusal.

    One bad address refuses all: whoever dials may take any of them. The words are for the log and
    the operator.
    """
    found = [(address, classify(address)) for address in addresses]
    if not found:
        return f"{host} has no address"
    for address, kind in found:
        if kind in ("metadata", "link_local"):
            return f"{host} leads to {address}, a metadata or link-local address: never dialled"
        if kind == "unusable":
            return f"{host} leads to {address}, which is no address of a server"
        if kind != "public" and not allow_private and not named_plainly(host):
            return (
                f"{host} leads to {address}, a {kind} address: name it plainly (by address or by a"
                " name of the private network) or set allow_private_networks = true"
            )
    return None


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    """Give the IPv4 address that dialling this one really reaches."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    low = int(address) & 0xFFFF_FFFF
    if address in _NAT64 or address in _NAT64_LOCAL or (address in _COMPATIBLE and low > 1):
        return IPv4Address(low)
    return None


def is_within(peer: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Tell whether an address is in one of the networks, however either of them is written."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    forms: list[IPv4Address | IPv6Address] = [address]
    if isinstance(address, IPv4Address):
        forms.append(IPv6Address(f"::ffff:{address}"))
    elif address.ipv4_mapped is not None:
        forms.append(address.ipv4_mapped)
    return any(form in network for form in forms for network in networks)
