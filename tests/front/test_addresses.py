"""Peers and their addresses."""

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.addresses import address_block, address_of


class Addresses(SynchronousTestCase):
    """`address_of` and `address_block`."""

    def test_address_of(self) -> None:
        """The address is plain: no scope, no IPv4 in disguise, nothing for a UNIX socket."""
        self.assertEqual(address_of(IPv4Address("TCP", "192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(address_of(IPv6Address("TCP", "::ffff:192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(address_of(IPv6Address("TCP", "fe80::1%eth0", 1)), "fe80::1")
        self.assertEqual(address_of(IPv6Address("TCP", "2001:DB8:0::1", 1)), "2001:db8::1")
        self.assertEqual(address_of(UNIXAddress(b"/run/x")), "")
        self.assertEqual(address_of(None), "")

    def test_address_block(self) -> None:
        """One IPv4 address, or the 64 bits an IPv6 host cannot change."""
        self.assertEqual(address_block("192.0.2.1"), "192.0.2.1")
        self.assertEqual(address_block("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64")
        self.assertEqual(address_block(""), "")
