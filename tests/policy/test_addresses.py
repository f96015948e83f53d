"""Tests of the dialling rules, and of what counts as one address."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.addresses import address_block, allowed_to_dial, classify, named_plainly


def wrappings(inner: IPv4Address) -> list[IPv6Address]:
    """Every IPv6 address that leads to an IPv4 one."""
    low = int(inner)
    return [
        IPv6Address((0xFFFF << 32) | low),
        IPv6Address((0x0064_FF9B << 96) | low),
        IPv6Address((0x2002 << 112) | (low << 80) | 1),
        IPv6Address((0x2001_0000 << 96) | (0x0102_0304 << 64) | (low ^ 0xFFFF_FFFF)),
    ]


class BlockTests(SynchronousTestCase):
    """`address_block` says what counts as one address."""

    def test_blocks(self) -> None:
        """One IPv4 address, or the 64 bits an IPv6 host cannot change."""
        self.assertEqual(address_block("192.0.2.1"), "192.0.2.1")
        self.assertEqual(address_block("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64")
        self.assertEqual(address_block("2001:db8:1:2::"), "2001:db8:1:2::/64")
        self.assertEqual(address_block(""), "")
        self.assertEqual(address_block("not: an address"), "not: an address")


class ClassifyTests(SynchronousTestCase):
    """`classify` tells what kind of place an address is."""

    def test_kinds(self) -> None:
        """Addresses of each kind, the edges of ranges among them."""
        for kind, addresses in {
            "public": "8.8.8.8 1.1.1.1 172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0"
            " 2606:4700::1111 64:ff9b::808:808 2002:808:808::1 ::ffff:8.8.8.8",
            "private": "10.0.0.1 172.16.0.0 172.31.255.255 192.168.1.1 100.64.0.1 192.0.2.1"
            " 198.18.0.1 203.0.113.9 fd00::1 fc00::1 fec0::1 2001:db8::1 0.0.0.1"
            " ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1::1 64:ff9b:1::808:808",
            "loopback": "127.0.0.1 127.255.255.254 ::1 0.0.0.0 :: ::ffff:127.0.0.1 ::7f00:1"
            " ::ffff:0.0.0.0 64:ff9b::7f00:1",
            "link_local": "169.254.0.1 169.254.255.255 fe80::1 febf::1 ::ffff:169.254.1.1",
            "metadata": "169.254.169.254 169.254.170.2 168.63.129.16 100.100.100.200 192.0.0.192"
            " fd00:ec2::254 fd00:0ec2:0::0254 fd20:ce::254 ::ffff:169.254.169.254"
            " 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 ::a9fe:a9fe 64:ff9b:1::a9fe:a9fe",
            "unusable": "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 ff02::1 ff0e::1",
        }.items():
            for address in addresses.split():
                self.assertEqual(classify(address), kind, address)

    def test_scopes(self) -> None:
        """A scope changes nothing about the address."""
        self.assertEqual(classify("fe80::1%eth0"), "link_local")
        self.assertEqual(classify("::1%lo"), "loopback")
        self.assertEqual(classify("fd00:ec2::254%eth0"), "metadata")

    def test_no_address(self) -> None:
        """Text that is no address in its one form raises."""
        for text in ("", "localhost", "127.1", "0x7f.0.0.1", "2130706433", "010.0.0.1"):
            with self.assertRaises(ValueError):
                classify(text)

    @settings(deadline=None, max_examples=200)
    @given(st.integers(2, 2**32 - 1).map(IPv4Address))
    def test_wrapping_hides_nothing(self, inner: IPv4Address) -> None:
        """An IPv4 address is the same kind of place in any wrapping."""
        for outer in wrappings(inner):
            self.assertEqual(classify(outer), classify(inner), outer)

    @settings(deadline=None, max_examples=200)
    @given(st.integers(0, 2**128 - 1).map(IPv6Address))
    def test_everything_has_a_kind(self, address: IPv6Address) -> None:
        """No address breaks it, and what is public is so by the registry too."""
        if classify(address) == "public":
            self.assertTrue(address.is_global or address.sixtofour or address.teredo)


class NamedPlainlyTests(SynchronousTestCase):
    """`named_plainly` sees what an operator must have meant."""

    def test_plain(self) -> None:
        """Addresses, single labels and names of private networks."""
        for host in (
            "127.0.0.1",
            "10.1.2.3",
            "::1",
            "[fd00::1]",
            "localhost",
            "LOCALHOST.",
            "db",
            "printer.local",
            "a.internal",
            "mcp.tools.svc",
            "mcp.tools.svc.cluster.local",
            "nas.lan",
            "x.test",
            "app.localhost",
        ):
            self.assertTrue(named_plainly(host), host)

    def test_not_plain(self) -> None:
        """Public-looking names, and numbers that only some resolvers read as addresses."""
        for host in (
            "example.com",
            "local.example.com",
            "internal.com",
            "xlocal.com",
            "127.0.0.1.nip.io",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "127.1",
            "0177.0.0.1",
            "",
            ".",
        ):
            self.assertFalse(named_plainly(host), host)


class DialTests(SynchronousTestCase):
    """`allowed_to_dial` judges a configured host by all its addresses."""

    def test_public(self) -> None:
        """Public addresses may be dialled under any name."""
        self.assertIsNone(allowed_to_dial("example.com", ["8.8.8.8", "2606:4700::1111"], False))

    def test_private(self) -> None:
        """Private and loopback ones when named plainly or allowed by the setting."""
        for address in ("10.0.0.1", "127.0.0.1", "fd00::1", "::1", "0.0.0.0"):
            refusal = allowed_to_dial("example.com", [address], False)
            self.assertIn("allow_private_networks = true", refusal or "")
            self.assertIsNone(allowed_to_dial("example.com", [address], True))
            self.assertIsNone(allowed_to_dial("db.internal", [address], False))
            self.assertIsNone(allowed_to_dial(address, [address], False))

    def test_never(self) -> None:
        """Metadata, link-local and unusable addresses never, whatever is set."""
        for host, address in (
            ("metadata.google.internal", "169.254.169.254"),
            ("169.254.169.254", "169.254.169.254"),
            ("localhost", "::ffff:169.254.169.254"),
            ("a.local", "fe80::1"),
            ("a.local", "fd00:ec2::254"),
            ("a.local", "224.0.0.1"),
            ("a.example", "168.63.129.16"),
        ):
            self.assertIsNotNone(allowed_to_dial(host, [address], True), address)

    def test_one_bad_address(self) -> None:
        """One bad address among good ones refuses all."""
        for addresses in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"]):
            self.assertIsNotNone(allowed_to_dial("example.com", addresses, False))

    def test_no_address(self) -> None:
        """A name without addresses cannot be dialled."""
        self.assertIsNotNone(allowed_to_dial("localhost", [], True))
