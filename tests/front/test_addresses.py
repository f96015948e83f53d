"""Peers and their addresses."""

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.front.addresses import address_of


class Addresses(SynchronousTestCase):
    """`address_of`."""

    def test_address_of(self) -> None:
        """The address is plain: no scope, no IPv4 in disguise, nothing for a UNIX socket."""
        self.assertEqual(address_of(IPv4Address("TCP", "192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(address_of(IPv6Address("TCP", "::ffff:192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(address_of(IPv6Address("TCP", "fe80::1%eth0", 1)), "fe80::1")
        self.assertEqual(address_of(IPv6Address("TCP", "2001:DB8:0::1", 1)), "2001:db8::1")
        self.assertEqual(address_of(UNIXAddress(b"/run/x")), "")
        self.assertEqual(address_of(None), "")
