"""The real gateway's TLS, tried by OpenSSL's own client, curl and Python."""

import json
import re
import ssl
import sys
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import tomlkit
from attrs import define
from twisted.internet.threads import deferToThread

from tests.live.gateway_process import IMPATIENT, GatewayCase, RunningGateway, key_hash, stdio
from tests.live.processes import free_port
from tests.live.software import program
from tests.pki import SERVER, Authority, Issued

LIVE = b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
DEMO = [sys.executable, "-m", "mcpguard.demo"]
METADATA = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "battery", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@define(eq=False)
class Said:
    """What a client has seen."""

    text: str

    @property
    def served(self) -> bool:
        """Whether it was answered."""
        return "200 OK" in self.text


class BatteryCase(GatewayCase):
    """Certificates, and a gateway before the demo server."""

    async def prepare(self, **more: Any) -> None:
        """Make the certificates; raises `SkipTest` without the programs that try them."""
        program("openssl")
        program("curl")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.servers, self.clients = Authority("Servers"), Authority("Clients")
        self.server = self.servers.server()
        self.server.write(self.directory, "server")
        self.put("servers.crt", self.servers.pem)
        self.put("clients.crt", self.clients.pem)
        self.known: dict[str, Issued] = {}
        for name in ("alice", "bob"):
            self.known[name] = self.show(name, self.clients.issue(name))
        self.put("clients.crl", self.clients.crl())

    def put(self, name: str, content: bytes) -> None:
        """Write a file, as a careful program does: at once."""
        new = self.directory / "new"
        new.write_bytes(content)
        new.rename(self.directory / name)

    def show(self, name: str, issued: Issued, *chain: Issued) -> Issued:
        """Have a client's certificate in files."""
        issued.write(self.directory, name, *(one.certificate for one in chain))
        return issued

    def path(self, name: str) -> str:
        """Of a file."""
        return str(self.directory / name)

    def tls(self, **more: Any) -> dict[str, Any]:
        """The settings of a listener."""
        return {
            "cert_path": self.path("server.crt"),
            "key_path": self.path("server.key"),
            "client_ca_path": self.path("clients.crt"),
            **more,
        }

    async def begin(self, **more: Any) -> RunningGateway:
        """Start the gateway: certificates are identities by their common names."""
        more.setdefault("rate_limit", {"failed_auth_per_minute": 6_000})
        key = "mcp_" + "k" * 40
        gateway = await self.start_gateway(
            [stdio("demo", DEMO)],
            auth={
                "mtls": {"enabled": True},
                "api_keys": [{"id": "tester", "key_hash": key_hash(key)}],
            },
            **more,
        )
        gateway.keys.update(dict.fromkeys(self.known, ""), tester=key)
        return gateway

    async def openssl(
        self, port: int, who: str | None = None, *args: str, given: bytes = LIVE
    ) -> Said:
        """Ask for a page by OpenSSL's own client."""
        shown = () if who is None else self.pair(who, "-cert", "-key")
        _, out, err = await self.run_program(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof"),
                *("-CAfile", self.path("servers.crt"), *shown, *args),
            ],
            seconds=10,
            given=given,
        )
        return Said(f"{out}\n{err}")

    async def curl(self, url: str, who: str | None = None, *args: str) -> Said:
        """Ask by curl; its exit status comes first."""
        shown = () if who is None else self.pair(who, "--cert", "--key")
        status, out, err = await self.run_program(
            ["curl", "-sSi", "--cacert", self.path("servers.crt"), *shown, *args, url], seconds=10
        )
        return Said(f"{status}\n{out}\n{err}")

    async def until_served(self, port: int) -> None:
        """Wait until who has no certificate is served, whichever worker has the connection."""
        good = 0
        for _ in range(40):
            good = good + 1 if (await self.openssl(port)).served else 0
            if good == 3:
                return
            await self.pause(0.2)
        self.fail("nobody is served without a certificate")

    def pair(self, who: str, cert: str, key: str) -> tuple[str, ...]:
        """The options that show a certificate; of its chain, too, where the client knows how."""
        chain = ("-cert_chain", self.path(f"{who}.crt")) if cert == "-cert" else ()
        return (cert, self.path(f"{who}.crt"), key, self.path(f"{who}.key"), *chain)

    def python(self, port: int, who: str | None = None) -> HTTPSConnection:
        """Python's client; for threads."""
        context = ssl.create_default_context(cafile=self.path("servers.crt"))
        if who is not None:
            context.load_cert_chain(self.path(f"{who}.crt"), self.path(f"{who}.key"))
        return HTTPSConnection("localhost", port, context=context, timeout=20)

    def reasons(self, gateway: RunningGateway) -> list[str]:
        """Why handshakes were refused, as far as the trail has it."""
        return [one["reason"] for one in gateway.events() if one["event_type"] == "HandshakeFailed"]

    async def refused(self, gateway: RunningGateway, word: str, seen: int) -> None:
        """Wait until one more was refused, for a reason."""
        await self.until(lambda: len(self.reasons(gateway)) > seen, 5.0, f"refused: {word}")
        self.assertEqual(self.reasons(gateway)[seen:], [word])


def ask(client: HTTPSConnection, message: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Send one message to the demo; status, headers and answer."""
    fields = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    client.request("POST", "/mcp/demo", json.dumps(message), fields)
    response = client.getresponse()
    body = response.read()
    found = re.search(rb"\{.*\}", body)
    return response.status, dict(response.headers), json.loads(found[0]) if found else None


def tools(client: HTTPSConnection, **headers: str) -> int:
    """Ask a stateless question; the status."""
    params = {"_meta": METADATA}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
    named = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list", **headers}
    return ask(client, message, **named)[0]


class ListenersTests(BatteryCase):
    """One gateway that listens in the clear and with three policies."""

    async def test_battery(self) -> None:
        """Who gets in where, what is spoken, and what is told of the others."""
        await self.prepare()
        issuing = Authority("Issuing", self.clients)
        carol = issuing.issue("carol")
        self.known["carol"] = carol
        self.show("carol", carol, issuing)
        self.show("carol-alone", carol)
        self.show("stranger", Authority("Others").issue("alice"))
        self.show("expired", self.clients.issue("alice", starts=-2.0, days=-1.0))
        self.show("early", self.clients.issue("alice", starts=1.0))
        self.show("server-only", self.clients.issue("alice", usages=(SERVER,)))
        self.show("self", Authority("alice"))
        self.show("revoked", revoked := self.clients.issue("dave"))
        self.put("clients.crl", self.clients.crl(revoked))
        strict, modern, optional = free_port(), free_port(), free_port()
        with_list = self.tls(client_crl_path=self.path("clients.crl"))
        gateway = await self.begin(
            server={
                "listeners": [
                    {"port": strict, "tls": with_list},
                    {"port": modern, "tls": self.tls(min_version="1.3")},
                    {"port": optional, "tls": self.tls(client_auth="optional")},
                ]
            }
        )
        said = gateway.program.err.decode()
        self.assertIn(f"https://127.0.0.1:{strict} (TLS, client certificates required)", said)
        self.assertIn(f"https://127.0.0.1:{optional} (TLS, client certificates optional)", said)
        await self._who_gets_in(gateway, strict, modern, optional)
        await self._what_is_spoken(gateway, strict, modern, optional)
        await self._as_whom(gateway, strict, optional)
        page = (await self.curl(f"{gateway.base}/metrics")).text
        for result in ("success", "revoked", "version", "alpn", "not_tls", "no_certificate"):
            self.assertIn(f'mcp_guard_tls_handshakes_total{{result="{result}"}}', page)
        dropped = 'mcp_guard_connections_dropped_total{reason="certificate_revoked"} 1.0'
        self.assertIn(dropped, page)
        for kind in ("server", "client_ca", "client_crl"):
            self.assertIn(f'{{kind="{kind}",listener="127.0.0.1:{strict}"}}', page)

    async def _who_gets_in(
        self, gateway: RunningGateway, strict: int, modern: int, optional: int
    ) -> None:
        for port, who in (
            *((port, "alice") for port in (strict, modern, optional)),
            *((modern, "carol"), (optional, None)),
        ):
            found = await self.openssl(port, who)
            self.assertTrue(found.served, f"{port} {who}: {found.text}")
        # What one listener's list says holds at those that have none, once the handshake is over.
        self.assertFalse((await self.openssl(modern, "revoked")).served)
        self.assertEqual(self.reasons(gateway), [])
        for port, who, word, alert in (
            (strict, None, "no_certificate", "certificate required"),
            (strict, "stranger", "unknown_ca", "unknown ca"),
            (strict, "expired", "expired", "certificate expired"),
            (strict, "early", "not_yet_valid", "bad certificate"),
            (strict, "server-only", "wrong_purpose", "unsupported certificate"),
            (strict, "self", "self_signed", "bad certificate|unknown ca"),
            (strict, "revoked", "revoked", "certificate revoked"),
            # No list of the CA between is there, so nobody knows.
            (strict, "carol", "crl_missing", "unknown ca|certificate unknown|internal"),
            (modern, "carol-alone", "unknown_ca", "unknown ca"),
            (optional, "stranger", "unknown_ca", "unknown ca"),
            (optional, "expired", "expired", "certificate expired"),
        ):
            seen = len(self.reasons(gateway))
            found = await self.openssl(port, who)
            self.assertFalse(found.served, word)
            self.assertRegex(found.text, alert)
            await self.refused(gateway, word, seen)
        last = [one for one in gateway.events() if one["event_type"] == "HandshakeFailed"][6]
        self.assertEqual(last["details"]["subject"], "CN=dave")
        self.assertEqual(last["details"]["listener"], f"127.0.0.1:{strict}")
        # The others' clients see the same.
        url = f"https://127.0.0.1:{strict}/live"
        self.assertTrue((await self.curl(url, "alice", "--http2")).served)
        self.assertIn("HTTP/1.1 200", (await self.curl(url, "alice", "--http2")).text)
        seen = len(self.reasons(gateway))
        for who in (None, "stranger"):
            self.assertRegex((await self.curl(url, who)).text, r"^(35|56)\n")

        def python(who: str | None) -> int:
            client = self.python(strict, who)
            client.request("GET", "/live")
            return client.getresponse().status

        self.assertEqual(await deferToThread(python, "bob"), 200)
        for name in (None, "expired"):
            try:
                await deferToThread(python, name)
            except (ssl.SSLError, ConnectionError):
                continue
            self.fail(f"{name} was served")
        await self.until(lambda: len(self.reasons(gateway)) == seen + 4, 5.0, "all are told of")

    async def _what_is_spoken(
        self, gateway: RunningGateway, strict: int, modern: int, optional: int
    ) -> None:
        old = ("-cipher", "ALL:@SECLEVEL=0")
        seen = len(self.reasons(gateway))
        for port, args in (
            (strict, ("-tls1_1", *old)),
            (modern, ("-tls1_2",)),
        ):
            found = await self.openssl(port, "alice", *args)
            self.assertFalse(found.served)
            self.assertIn("alert protocol version", found.text)
            await self.refused(gateway, "version", seen)
            seen += 1
        self.assertIn("TLSv1.2", (await self.openssl(strict, "alice", "-tls1_2")).text)
        found = await self.openssl(strict, "alice", "-alpn", "h2")
        self.assertIn("no application protocol", found.text)
        await self.refused(gateway, "alpn", seen)
        # Renegotiation is asked for by a letter at the beginning of what it reads at once.
        client = self.start(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{strict}", "-tls1_2"),
                *self.pair("alice", "-cert", "-key"),
            ]
        )
        client.process.writeToChild(0, LIVE.replace(b"Connection: close\r\n", b""))
        await client.said("200 OK")
        client.process.writeToChild(0, b"R\n")
        await client.said("RENEGOTIATING")
        await client.said("no renegotiation")
        kept = self.path("session")
        first = await self.openssl(strict, "alice", "-sess_out", kept)
        again = await self.openssl(strict, "alice", "-sess_in", kept)
        self.assertTrue(first.served and again.served)
        self.assertNotRegex(again.text, "(?m)^Reused")
        for version in ("-tls1_2", "-tls1_3"):
            again = await self.openssl(strict, "alice", version, "-reconnect")
            self.assertEqual(len(re.findall("(?m)^New, TLS", again.text)), 6)
            self.assertNotRegex(again.text, "(?m)^Reused")
        # The name a client asks for changes nothing of what it must show.
        for name in ("other.example.com", "127.0.0.1"):
            self.assertTrue((await self.openssl(strict, "alice", "-servername", name)).served)
            seen = len(self.reasons(gateway))
            self.assertFalse((await self.openssl(strict, None, "-servername", name)).served)
            await self.refused(gateway, "no_certificate", seen)
        seen = len(self.reasons(gateway))
        for port in (strict, optional):
            found = await self.curl(f"http://127.0.0.1:{port}/live")
            self.assertRegex(found.text, r"^(52|56)\n")
            await self.refused(gateway, "not_tls", seen)
            seen += 1
        plain = int(gateway.base.rpartition(":")[2])
        self.assertFalse((await self.openssl(plain, "alice")).served)
        self.assertTrue((await self.curl(f"{gateway.base}/live")).served)

    async def _as_whom(self, gateway: RunningGateway, strict: int, optional: int) -> None:
        key = {"Authorization": f"Bearer {gateway.keys['tester']}"}
        for port, who, headers, status, identity in (
            (strict, "alice", {}, 200, ("mtls", "alice")),
            (optional, "bob", {}, 200, ("mtls", "bob")),
            (optional, None, key, 200, ("api_key", "tester")),
            (optional, None, {}, 401, None),
        ):

            def call(port: int, who: str | None, headers: dict[str, str]) -> int:
                return tools(self.python(port, who), **headers)

            before = len(gateway.outcomes())
            self.assertEqual(await deferToThread(call, port, who, headers), status)
            await self.until(lambda n=before: len(gateway.outcomes()) > n, 5.0, "the trail")
            outcome = gateway.outcomes()[-1]
            if identity is not None:
                self.assertEqual((outcome["provider"], outcome["identity_id"]), identity)


class RotationTests(BatteryCase):
    """Files that change under a gateway that runs."""

    mcp_guard = IMPATIENT

    async def test_rotation(self) -> None:
        """New files are for new connections; a new list is for those that are open, too.

        So is a CA that is taken out, and not one that is renewed.
        """
        await self.prepare()
        port = free_port()
        settings = self.tls(client_crl_path=self.path("clients.crl"))
        gateway = await self.begin(server={"listeners": [{"port": port, "tls": settings}]})

        def told(status: str) -> list[Any]:
            return [
                one
                for one in gateway.events()
                if one["event_type"] == "CertificateEvent" and one["status"] == status
            ]

        def live(client: HTTPSConnection) -> int:
            client.request("GET", "/live")
            response = client.getresponse()
            response.read()
            return response.status

        def serial(who: str) -> int:
            client = self.python(port, who)
            client.connect()
            shown: Any = client.sock.getpeercert()
            client.close()
            return int(shown["serialNumber"], 16)

        async def gone(client: HTTPSConnection) -> None:
            try:
                await deferToThread(live, client)
            except (ConnectionError, ssl.SSLError):
                return
            self.fail("the client is still served")

        alice, bob = self.python(port, "alice"), self.python(port, "bob")
        for client in (alice, bob):
            self.assertEqual(await deferToThread(live, client), 200)
        # Another certificate.
        new = self.servers.server()
        self.put("server.key", new.key_pem)
        self.put("server.crt", new.pem)
        await self.until(lambda: told("loaded"), 15.0, "a new certificate")
        self.assertEqual(await deferToThread(serial, "alice"), new.certificate.serial_number)
        self.assertEqual(await deferToThread(live, alice), 200)
        # One that is of no use.
        self.put("server.crt", b"nothing")
        await self.until(lambda: told("rejected"), 15.0, "no new certificate")
        self.assertIn("server.listeners[0].tls.cert_path", str(told("rejected")[0]["details"]))
        self.assertEqual(await deferToThread(serial, "bob"), new.certificate.serial_number)
        self.assertEqual(await deferToThread(live, alice), 200)
        self.put("server.crt", new.pem)
        # A list that has a client on it who is here, with another CA and the one renewed.
        others, renewed = Authority("Others"), Authority("Clients", key=self.clients.key)
        self.put("clients.crt", others.pem + renewed.pem)
        self.put("clients.crl", self.clients.crl(self.known["alice"]) + others.crl())
        await self.until(lambda: len(told("loaded")) == 2, 15.0, "a new list")
        details = told("loaded")[1]["details"]
        self.assertEqual(details["changed"], ["client_ca", "client_crl"])
        self.assertEqual(details["connections_cut"], 1)
        await gone(alice)
        self.assertEqual(await deferToThread(live, bob), 200)
        found = await self.openssl(port, "alice")
        self.assertIn("certificate revoked", found.text)
        # The CA of those who are left.
        self.put("clients.crt", others.pem)
        self.put("clients.crl", others.crl())
        await self.until(lambda: len(told("loaded")) == 3, 15.0, "a CA is taken out")
        self.assertEqual(told("loaded")[2]["details"].get("connections_cut"), 1)
        await gone(bob)
        self.assertIn("unknown ca", (await self.openssl(port, "bob")).text)
        page = (await self.curl(f"{gateway.base}/metrics")).text
        for why in ("revoked", "untrusted"):
            dropped = f'mcp_guard_connections_dropped_total{{reason="certificate_{why}"}} 1.0'
            self.assertIn(dropped, page)
        self.assertIn('mcp_guard_certificate_rotations_total{result="rejected"} 1.0', page)
        for client in (alice, bob):
            client.close()
        # The refused files are in the log as errors, and nothing else is.
        said = gateway.program.err
        self.assertEqual(said.count(b"[error"), 0)


class WorkersTests(BatteryCase):
    """Two workers behind a listener with TLS."""

    async def test_workers(self) -> None:
        """A session's worker knows the client's certificate, whoever has its connection.

        And the limit of failed attempts is one for both.
        """
        await self.prepare()
        port = free_port()
        gateway = await self.begin(
            server={"workers": 2, "listeners": [{"port": port, "tls": self.tls()}]},
            rate_limit={"failed_auth_per_minute": 2},
        )

        def shake_hands(client: HTTPSConnection) -> str:
            params = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "battery", "version": "1"},
            }
            message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
            status, headers, _ = ask(client, message)
            assert status == 200, status
            session = headers["Mcp-Session-Id"]
            done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            status, _, _ = ask(client, done, Mcp_Session_Id=session)
            assert status == 202, status
            return session

        def listed(who: str, session: str) -> int:
            client = self.python(port, who)
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            status, _, _ = ask(client, message, Mcp_Session_Id=session)
            client.close()
            return status

        session = await deferToThread(lambda: shake_hands(self.python(port, "alice")))
        found = [await deferToThread(listed, "alice", session) for _ in range(16)]
        self.assertEqual(set(found), {200})
        found = [await deferToThread(listed, "bob", session) for _ in range(6)]
        self.assertEqual(set(found), {404}, "it is not bob's session")
        page = (await self.curl(f"{gateway.base}/metrics")).text
        sent = re.search(r'mcp_guard_handovers_total\{result="sent"\} (\S+)', page)
        assert sent is not None, "nothing was passed on"
        self.assertGreater(float(sent[1]), 0)
        # Another policy comes with other workers, on the sockets that are there.
        self.assertFalse((await self.openssl(port)).served)
        config = gateway.audit_file.parent / "mcp-guard.toml"
        document: Any = tomlkit.parse(config.read_text())
        document["server"]["listeners"][0]["tls"]["client_auth"] = "optional"
        config.write_text(tomlkit.dumps(document))
        gateway.program.signal("HUP")
        await gateway.program.said("reloaded")
        await self.until_served(port)
        # Whoever guesses is not let in any more, nor is anybody else there for some time.
        self.show("stranger", Authority("Others").issue("alice"))
        charged = 0
        for _ in range(60):
            self.assertFalse((await self.openssl(port, "stranger")).served)
            page = (await self.curl(f"{gateway.base}/metrics")).text
            shown = re.search(r'mcp_guard_tls_handshakes_total{result="unknown_ca"} (\S+)', page)
            charged = 0 if shown is None else int(float(shown[1]))
            # Either worker may hold one of the two attempts for whoever comes to it.
            if charged >= 2:
                break
        self.assertIn(charged, (2, 3))
        for _ in range(3):
            self.assertFalse((await self.openssl(port, "stranger")).served)
        self.assertFalse((await self.openssl(port, "alice")).served)
        self.assertLessEqual(self.reasons(gateway).count("unknown_ca"), 3)
        page = (await self.curl(f"{gateway.base}/metrics")).text
        self.assertIn('mcp_guard_tls_handshakes_total{result="too_many_failures"}', page)
