"""Tests of TLS towards MCP servers: the real gateway before real https servers."""

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.protocols.portforward import ProxyFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.live.gateway_process import IMPATIENT, RunningGateway, http
from tests.live.raw_client import RawCase
from tests.live.software import REPOSITORY
from tests.live.sse_server import SseServer
from tests.pki import Authority, Issued
from tests.tls.client_case import Server

NAME = "tools.example.com"


class UpstreamTlsTests(RawCase):
    """Servers behind TLS that want client certificates: the demo, and one of HTTP+SSE."""

    mcp_guard = IMPATIENT

    async def prepare(self) -> None:
        """Start the demo server, and make the CAs of servers and clients."""
        self.connections: dict[Server, dict[Any, Any]] = {}
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.ca, self.clients = Authority("Servers"), Authority("Clients")
        self.put("ca.crt", self.ca.pem)
        self.seen = 0
        self.client = self.clients.issue("gateway")
        self.client.write(self.directory, "own")
        self.demo = await self.start_http_server(
            [sys.executable, "-m", "mcpguard.demo", "--http", "--port", "0"],
            env={"PYTHONPATH": str(REPOSITORY)},
        )

    def put(self, name: str, content: bytes) -> str:
        """Write a file; its path."""
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def serve(self, server: Server, url: str) -> str:
        """Put TLS before the server of a URL; the new URL's port and path."""
        inner = urlsplit(url)
        assert inner.hostname is not None
        assert inner.port is not None
        proxy = ProxyFactory(inner.hostname, inner.port)
        proxy.noisy = False
        factory = TLSMemoryBIOFactory(server, False, proxy)
        factory.noisy = False
        self.connections[server] = factory.protocols
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"{port.getHost().port}{inner.path}"

    def asking(self, own: Issued) -> Server:
        """A server that wants client certificates."""
        return Server(own, clients=self.clients)

    def tls(self, own: str | None = "own", **more: Any) -> dict[str, Any]:
        """The settings of TLS: the CA, and our certificate by the name of its files."""
        settings = {"ca_path": str(self.directory / "ca.crt"), **more}
        if own is not None:
            settings["cert_path"] = str(self.directory / f"{own}.crt")
            settings["key_path"] = str(self.directory / f"{own}.key")
        return settings

    def behind(self, name: str, server: Server, **tls: Any) -> dict[str, Any]:
        """The configuration of the demo behind such a server, named localhost in its URL."""
        url = f"https://localhost:{self.serve(server, self.demo)}"
        return http(name, url, tls=self.tls(**tls))

    async def assert_echoes(self, gateway: RunningGateway, server: str) -> None:
        """A call comes through."""
        argument = "text" if server == "events" else "message"
        exchange = await self.call(gateway, server, "echo", **{argument: "hello"})
        self.assertEqual((exchange.status, exchange.text), (200, "hello"))

    async def assert_speaks_anew(self, gateway: RunningGateway, name: str, server: Server) -> None:
        """A call comes through over a connection made for it."""
        for one in tuple(self.connections[server]):
            one.abortConnection()
        before = server.connection
        # A lost connection may be noticed when a call was begun on it; the next one has another.
        await self.until(lambda: not self.connections[server], 5.0, "connections gone")
        await self.pause(0.1)
        await self.assert_echoes(gateway, name)
        self.assertIsNot(server.connection, before)

    async def changed(self, gateway: RunningGateway, status: str, servers: set[str]) -> None:
        """Wait until changed files were taken, or not, for these servers."""

        def told() -> set[str]:
            found = [one for one in gateway.events() if one["event_type"] == "CertificateEvent"]
            return {one["server"] for one in found[self.seen :] if one["status"] == status}

        await self.until(lambda: told() == servers, 15.0, f"{status} for {servers}")
        self.seen += len(servers)

    async def test_servers(self) -> None:
        """Of one gateway: those that are not spoken to, and those that are."""
        await self.prepare()
        refused, spoken = self.not_spoken_to(), await self.spoken_to()
        gateway = await self.start_gateway([*(one for one, _ in refused), *spoken])
        await self._refused(gateway, refused)
        await self._spoken_to(gateway, {one["name"]: one["tls"] for one, _ in refused})

    def not_spoken_to(self) -> list[tuple[dict[str, Any], str]]:
        """Servers that are not who they should be, or do not want us; and what is said of each."""
        Authority("Strangers").issue("gateway").write(self.directory, "strange")
        other = self.put("other.crt", Authority("Other").pem)
        old = Server(self.ca.server())
        old.context.set_max_proto_version(SSL.TLS1_1_VERSION)
        old.context.set_cipher_list(b"ALL:@SECLEVEL=0")
        two = self.asking(self.ca.server())
        two.context.set_max_proto_version(SSL.TLS1_2_VERSION)
        fine = self.asking(self.ca.server())
        return [
            (
                self.behind("wrong-ca", fine, ca_path=other),
                "TLS: certificate verify failed: unable to get local issuer certificate",
            ),
            (
                self.behind("wrong-name", self.asking(self.ca.server(NAME)), server_name="x.y"),
                f"TLS: hostname mismatch: the certificate is for {NAME}, 127.0.0.1, ::1, not x.y",
            ),
            (
                self.behind("expired", self.asking(self.ca.server(days=-0.1))),
                "TLS: certificate verify failed: certificate has expired",
            ),
            (
                self.behind("nobody", fine, own=None),
                "TLS: the server wants a client certificate (",
            ),
            (
                self.behind("nobody-in-12", two, own=None),
                "TLS: the server refuses the handshake; it may want a client certificate (",
            ),
            (
                self.behind("stranger", fine, own="strange"),
                "TLS: the server does not know the CA of our client certificate (",
            ),
            (self.behind("old", old), "TLS: the server speaks no TLS 1.2 or newer ("),
        ]

    async def _refused(
        self, gateway: RunningGateway, refused: list[tuple[dict[str, Any], str]]
    ) -> None:
        """Clients learn that such a server is unavailable; the log, and ``check-upstream``, why."""
        for settings, words in refused:
            name = settings["name"]
            exchange = await self.call(gateway, name, "echo", message="hello")
            self.assertEqual(exchange.status, 503, name)
            for word in (b"TLS", b"certificate", b"handshake", b"localhost"):
                self.assertNotIn(word, exchange.received, name)
            line = f"upstream {name}: unreachable: {words}"
            await self.until(lambda line=line: line in gateway.program.err.decode(), 5.0, line)
        found = await self.outcomes(gateway, "ToolCall", len(refused))
        self.assertEqual(
            {(one["server"], one["status"], one["reason"]) for one in found},
            {(settings["name"], "failed", "upstream_unavailable") for settings, _ in refused},
        )
        config = str(gateway.audit_file.parent / "mcp-guard.toml")
        status, out, _ = await self.run_program(
            [sys.executable, "-m", "mcpguard", "-c", config, "check-upstream"],
            seconds=20,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        self.assertEqual(status, 1)
        for _, words in refused:
            self.assertIn(f"Upstream did not answer: {words}", out)

    async def spoken_to(self) -> list[dict[str, Any]]:
        """Servers that are known by a name, by an address, and over HTTP+SSE."""
        self.server = self.asking(self.ca.server(NAME))
        self.address = Server(self.ca.server())
        events = SseServer(self.reactor, "https://elsewhere.example")
        inner = events.listen()
        self.addCleanup(events.stop)
        by_address = f"https://127.0.0.1:{self.serve(self.address, self.demo)}"
        stream = f"https://localhost:{self.serve(self.asking(self.ca.server()), inner)}"
        return [
            self.behind("tools", self.server, server_name=NAME),
            http("address", by_address, tls=self.tls(None)),
            {
                "name": "events",
                "transport": "sse",
                "url": f"{stream}/good/sse",
                "tls": self.tls(),
            },
        ]

    async def _spoken_to(self, gateway: RunningGateway, others: dict[str, dict[str, Any]]) -> None:
        """CA, client certificate and server name do; so they do after each of them has changed."""
        server, address = self.server, self.address

        def reading(name: str) -> set[str]:
            path = str(self.directory / name)
            return {one for one, tls in others.items() if path in tls.values()}

        ours = {"tools", "events"} | reading("own.crt")
        theirs = {"tools", "address", "events"} | reading("ca.crt")
        for name in ("tools", "address", "events"):
            await self.assert_echoes(gateway, name)
        self.assertEqual(server.client, self.client.certificate)
        self.assertEqual(server.asked_for, NAME.encode())
        self.assertIsNone(address.asked_for)
        ends = await self.metric(gateway, "mcp_guard_certificate_expiry_timestamp_seconds")
        read = [
            tls[key] for tls in others.values() for key in ("ca_path", "cert_path") if key in tls
        ]
        self.assertGreater(ends, (5 + len(read)) * time.time())

        new = self.clients.issue("gateway")
        new.write(self.directory, "own")
        await self.changed(gateway, "loaded", ours)
        await self.assert_speaks_anew(gateway, "tools", server)
        self.assertEqual(server.client, new.certificate)

        self.put("ca.crt", b"nothing")
        await self.changed(gateway, "rejected", theirs)
        await self.assert_speaks_anew(gateway, "tools", server)

        moved = Authority("Moved")
        for one, own in ((server, moved.server(NAME)), (address, moved.server())):
            one.context = Server(own, clients=self.clients if one is server else None).context
        self.put("ca.crt", moved.pem)
        await self.changed(gateway, "loaded", theirs)
        await self.assert_speaks_anew(gateway, "tools", server)
        await self.assert_speaks_anew(gateway, "address", address)
