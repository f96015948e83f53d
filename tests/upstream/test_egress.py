"""Tests of dialling out, through a wire on a reactor in memory."""

from mcpguard.errors import Reason
from mcpguard.upstream.link import UpstreamFailure
from tests.upstream.http1_doubles import Heard, WireCase


class VettingTests(WireCase):
    """The address that was judged is the one that is dialled."""

    table = {
        "public.example": ["93.184.216.34", "2606:2800:220:1::1"],
        "inside.example": ["10.0.0.5"],
        "mixed.example": ["93.184.216.34", "10.0.0.5"],
        "mapped.example": ["::ffff:10.0.0.5"],
        "metadata.example": ["169.254.169.254"],
        "many.example": [f"93.184.216.{n}" for n in range(50)],
        "localhost": ["127.0.0.1"],
        "db.internal": ["10.1.1.1"],
        "single": ["192.168.1.1"],
        "metadata.internal": ["169.254.169.254"],
    }

    def refused(self, url: str) -> UpstreamFailure:
        """The failure of a URL that is not dialled."""
        heard, _ = self.send(url)
        self.assertEqual(self.reactor.dialled, [])
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        return heard.failures[0]

    def test_public(self) -> None:
        """A public name is resolved once and its address dialled."""
        self.send("http://public.example:8080/mcp")
        self.assertEqual(self.reactor.dialled, [("93.184.216.34", 8080)])
        self.assertEqual(self.reactor.resolver.asked, ["public.example"])

    def test_private_hint(self) -> None:
        """A name that leads inside is refused with exactly the hint."""
        for name in ("inside", "mapped"):
            failure = self.refused(f"http://{name}.example/mcp")
            self.assertIn("allow_private_networks = true", failure.detail)

    def test_all_or_none(self) -> None:
        """One private answer among public ones refuses them all."""
        self.refused("http://mixed.example/mcp")

    def test_plainly_named(self) -> None:
        """An address, localhost, a single label or a private suffix is allowed by name."""
        for url, address in (
            ("http://127.0.0.1:1/", ("127.0.0.1", 1)),
            ("http://10.2.3.4:1/", ("10.2.3.4", 1)),
            ("http://[::1]:1/", ("::1", 1)),
            ("http://localhost:1/", ("127.0.0.1", 1)),
            ("http://db.internal:1/", ("10.1.1.1", 1)),
            ("http://single:1/", ("192.168.1.1", 1)),
        ):
            self.setUp()
            self.send(url)
            self.assertEqual(self.reactor.dialled, [address])

    def test_metadata(self) -> None:
        """Metadata addresses are refused however they are named, also as literals."""
        for url in (
            "http://metadata.example/",
            "http://metadata.internal/",
            "http://169.254.169.254/",
            "http://[fd00:ec2::254]/",
            "http://[::ffff:169.254.169.254]/",
        ):
            self.setUp()
            self.assertNotIn("allow_private", self.refused(url).detail)

    def test_other_writings_of_loopback(self) -> None:
        """Numbers that some resolvers take for 127.0.0.1 are no plain names."""
        for host in ("2130706433", "0x7f.1", "127.1"):
            self.setUp()
            self.reactor.resolver.table[host] = ["127.0.0.1"]
            self.refused(f"http://{host}/")

    def test_rebinding(self) -> None:
        """What a second lookup would say plays no part: there is none."""
        self.send("http://public.example/mcp")
        self.reactor.resolver.table["public.example"] = ["127.0.0.1"]
        self.reactor.advance(1)
        self.assertEqual(self.reactor.resolver.asked, ["public.example"])
        self.assertNotIn("127.0.0.1", [host for host, _ in self.reactor.dialled])

    def test_many_addresses(self) -> None:
        """Of a name with very many addresses only the first few are ever dialled."""
        heard, _ = self.send("http://many.example/mcp")
        for _ in range(100):
            self.reactor.advance(1)
        self.assertEqual(len(self.reactor.dialled), 4)
        self.assertEqual(heard.ended, 0)

    def test_unknown_name(self) -> None:
        """A name without addresses is unavailable, and no refusal."""
        self.assertEqual(
            self.refused("http://nowhere.example/").detail, "the host name cannot be resolved"
        )

    def test_silent_resolver(self) -> None:
        """A lookup that never ends can be given up."""
        self.reactor.resolver.silent = True
        heard, exchange = self.send("http://public.example/")
        exchange.abort()
        self.assertEqual((heard.failures, exchange.sent), ([], False))

    def test_other_schemes(self) -> None:
        """Nothing but http and https is dialled."""
        with self.assertRaises(ValueError):
            self.wire_to("ftp://public.example/")

    def test_other_origins(self) -> None:
        """A wire carries nothing to another place than its own, however its name begins."""
        wire = self.wire_to("http://public.example:81/")
        for url in (
            "http://public.example/",
            "https://public.example:81/",
            "http://public.example:812/",
            "http://public.example:81.evil/",
            "http://public.example:81@evil/",
            "http://public.example:81",
            "http://public.example:81/ HTTP/1.1\r\n",
            "http://public.example:81/#x",
        ):
            heard = Heard()
            exchange = wire.send("POST", url, (), b"{}", heard)
            self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_FAILED, url)
            self.assertFalse(exchange.sent)
        self.assertEqual(self.reactor.dialled, [])

    def test_https_is_wrapped(self) -> None:
        """An https server is spoken to in TLS only: a ClientHello with its name, no HTTP."""
        self.send("https://public.example/mcp")
        self.assertEqual(self.reactor.dialled, [("93.184.216.34", 443)])
        socket = self.reactor.accept()
        self.turn()
        self.assertEqual(socket.value()[:1], b"\x16")
        self.assertIn(b"public.example", socket.value())
        self.assertNotIn(b"POST", socket.value())

    def test_plain_answer_to_tls(self) -> None:
        """A server that does not speak TLS is unavailable, with the reason for the log."""
        heard, _ = self.send("https://public.example/mcp")
        socket = self.reactor.accept()
        self.turn()
        socket.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.turn()
        self.assertIs(heard.failures[0].reason, Reason.UPSTREAM_UNAVAILABLE)
        self.assertIn("TLS", heard.failures[0].detail)


class AllowedTests(WireCase):
    """With ``allow_private_networks = true``."""

    table = {"inside.example": ["10.0.0.5"], "metadata.example": ["169.254.169.254"]}
    allow_private = True

    def test_private(self) -> None:
        """Private addresses are dialled."""
        self.send("http://inside.example/")
        self.assertEqual(self.reactor.dialled, [("10.0.0.5", 80)])

    def test_metadata(self) -> None:
        """Metadata addresses still are not."""
        heard, _ = self.send("http://metadata.example/")
        self.assertEqual((len(heard.failures), self.reactor.dialled), (1, []))
