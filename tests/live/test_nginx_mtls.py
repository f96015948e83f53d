"""The shipped nginx configuration before the real gateway: certificates verified by a proxy."""

import json
import os
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import define
from twisted.internet.threads import deferToThread

from tests.live.gateway_process import GatewayCase, stdio
from tests.live.processes import SETPRIV, free_port
from tests.live.software import REPOSITORY, nginx
from tests.pki import Authority, Issued

SHIPPED = REPOSITORY / "conf" / "nginx-mtls.conf"
BOTH = "application/json, text/event-stream"
NOBODY = 65_534
PATIENCE = 40.0
PROXY = "127.0.0.1"
"""Where nginx connects from."""
ELSEWHERE = "127.0.0.3"
"""Loopback too, and no address of a proxy."""
INFO = {"name": "test", "version": "1"}


@define
class Said:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def tools(self) -> list[str]:
        """The names that a list has."""
        return [tool["name"] for tool in json.loads(self.body)["result"]["tools"]]


class Certificates:
    """Those of one test: nginx's own, its clients', and a stranger's."""

    def __init__(self) -> None:
        self.server = Authority("Servers")
        self.clients = Authority("Clients")
        self.alice = self.clients.issue("alice")
        self.bob = self.clients.issue("bob")
        self.revoked = self.clients.issue("alice")
        self.stranger = Authority("Strangers").issue("alice")

    def write(self, directory: Path) -> None:
        """Write what nginx reads."""
        self.server.server().write(directory, "server")
        (directory / "clients-ca.crt").write_bytes(self.clients.pem)
        (directory / "clients.crl").write_bytes(self.clients.crl(self.revoked))


def forged(issued: Issued) -> dict[str, str]:
    """The headers of somebody who would like to be somebody else."""
    return {
        "X-SSL-Client-Verify": "SUCCESS",
        "X-SSL-Client-Cert": quote(issued.pem.decode(), safe=""),
    }


class NginxTests(GatewayCase):
    """nginx ends TLS and says who its clients are."""

    others = frozenset({"alice", "bob"})

    async def prepare(self) -> None:
        """Start a gateway that believes nginx, and whoever else comes from its address."""
        self.program = nginx()
        self.certificates = Certificates()
        self.gateway = await self.start_gateway(
            [
                stdio(
                    "default",
                    [sys.executable, "-m", "mcpguard.demo"],
                    env={"PYTHONPATH": str(REPOSITORY)},
                )
            ],
            auth={
                "mtls": {
                    "enabled": True,
                    "trusted_proxy_ips": [PROXY],
                    "allowed_tools": [],
                    "identities": [{"id": "alice", "allowed_tools": ["echo", "slow"]}],
                }
            },
        )

    async def start_nginx(self, verify: str = "optional") -> int:
        """Run the shipped configuration, with other paths and ports; gives the port."""
        # Below /tmp, since nobody may look into trial's own directories.
        directory = Path(tempfile.mkdtemp(prefix="mcp-guard-nginx-"))
        self.addCleanup(shutil.rmtree, directory)
        self.certificates.write(directory)
        port = free_port()
        temporary = "".join(
            f"    {kind}_temp_path {directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = SHIPPED.read_text()
        for shipped, here in (
            ("worker_processes auto;", "worker_processes 1;"),
            ("/run/nginx.pid", f"{directory}/nginx.pid"),
            ("/var/log/nginx/error.log warn", "stderr notice"),
            ("/var/log/nginx/access.log", f"{directory}/access.log"),
            ("http {\n", f"http {{\n{temporary}"),
            ("server 127.0.0.1:3000;", f"server {self.gateway.base.partition('//')[2]};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("ssl_certificate /etc/nginx/tls/", f"ssl_certificate {directory}/"),
            ("ssl_certificate_key /etc/nginx/tls/", f"ssl_certificate_key {directory}/"),
            ("ssl_client_certificate /etc/nginx/tls/", f"ssl_client_certificate {directory}/"),
            ("ssl_crl /etc/nginx/tls/", f"ssl_crl {directory}/"),
            ("ssl_verify_client optional;", f"ssl_verify_client {verify};"),
        ):
            self.assertEqual(text.count(shipped), 1, shipped)
            text = text.replace(shipped, here)
        (directory / "nginx.conf").write_text(text)
        command = [self.program, "-e", "stderr", "-p", str(directory)]
        command += ["-c", f"{directory}/nginx.conf", "-g", "daemon off; master_process off;"]
        if os.getuid() == 0:
            for path in (directory, *directory.iterdir()):
                os.chown(path, NOBODY, NOBODY)
            assert SETPRIV is not None
            who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
            command = [SETPRIV, *who, "--pdeathsig", "KILL", "--", *command]
        program = self.start(command, name="nginx")
        await program.said("getrlimit")
        return port

    def context(self, issued: Issued | None) -> ssl.SSLContext:
        """What a client trusts and shows."""
        found = ssl.create_default_context(cadata=self.certificates.server.pem.decode())
        if issued is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(issued.pem + issued.key_pem)
                file.flush()
                found.load_cert_chain(file.name)
        return found

    async def through(
        self, port: int, issued: Issued | None, headers: Mapping[str, str] | None = None, **how: Any
    ) -> Said:
        """The answer to one request by way of nginx."""
        context = self.context(issued)
        connection = HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
        return await deferToThread(ask, connection, headers or {}, **how)

    async def directly(self, address: str, headers: Mapping[str, str]) -> Said:
        """The answer of the gateway itself to somebody at an address."""
        port = int(self.gateway.base.rpartition(":")[2])
        connection = HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE, source_address=(address, 0)
        )
        return await deferToThread(ask, connection, headers)

    def identities(self) -> set[tuple[str | None, str | None]]:
        """Who is in the trail."""
        outcomes = self.gateway.outcomes()
        return {(one.get("provider"), one.get("identity_id")) for one in outcomes}

    async def test_by_way_of_nginx(self) -> None:
        """One gateway, since to start one takes longer than all there is to ask."""
        await self.prepare()
        port = await self.start_nginx()
        await self._identities(port)
        await self._nobody(port)
        await self._past_the_proxy()
        await self._streams(port)

    async def _identities(self, port: int) -> None:
        """Each certificate is its subject's, with exactly its tools, whatever headers are sent."""
        alice, bob = self.certificates.alice, self.certificates.bob
        for headers in ({}, forged(bob), {"Client-Cert": "x", "X-SSL-Client-Verify": "NONE"}):
            answer = await self.through(port, alice, headers)
            self.assertEqual((answer.status, answer.tools), (200, ["echo", "slow"]))
        answer = await self.through(
            port, alice, method="tools/call", params={"name": "delete_file", "arguments": {}}
        )
        self.assertEqual(answer.status, 403)
        answer = await self.through(port, bob, forged(alice))
        self.assertEqual((answer.status, answer.tools), (200, []))
        await self.until(lambda: len(self.gateway.outcomes()) == 5, 5.0, "five outcomes")
        self.assertEqual(self.identities(), {("mtls", "alice"), ("mtls", "bob")})

    async def _nobody(self, port: int) -> None:
        """No certificate, a stranger's, and one that was revoked sign nobody in."""
        alice = self.certificates.alice
        for headers in ({}, forged(alice), {"Client-Cert": forged(alice)["X-SSL-Client-Cert"]}):
            answer = await self.through(port, None, headers)
            self.assertEqual(answer.status, 401)
            self.assertTrue(answer.headers["www-authenticate"].startswith("Bearer "))
        for bad in (self.certificates.stranger, self.certificates.revoked):
            # nginx says so itself: what it has not verified does not come through.
            self.assertEqual((await self.through(port, bad)).status, 400)
        # Also if it is told to let them through, which is what one never does.
        port = await self.start_nginx("optional_no_ca")
        self.assertEqual((await self.through(port, alice)).status, 200)
        for headers in ({}, forged(alice)):
            answer = await self.through(port, self.certificates.stranger, headers)
            self.assertEqual(answer.status, 401)
        failures = await self.outcomes(self.gateway, "AuthFailure", 5)
        self.assertIn("the proxy says 'FAILED:", failures[-1]["details"]["cause"])
        self.assertNotIn("details", failures[0])

    async def _past_the_proxy(self) -> None:
        """Whoever reaches the gateway itself is believed nothing, unless at the proxy's address."""
        headers = forged(self.certificates.alice)
        for sent in (headers, {**headers, "X-Forwarded-For": PROXY, "X-Real-IP": PROXY}):
            self.assertEqual((await self.directly(ELSEWHERE, sent)).status, 401)
        # This is why only the proxy may be at that address.
        self.assertEqual((await self.directly(PROXY, headers)).tools, ["echo", "slow"])

    async def _streams(self, port: int) -> None:
        """Events come through one by one, as they are sent."""
        context = self.context(self.certificates.alice)
        moments = await deferToThread(watch, port, context)
        self.assertGreater(len(moments), 2)
        # All at once at the end is what a proxy that buffers makes of them.
        self.assertGreater(moments[-1] - moments[0], 0.2, moments)


def ask(
    connection: HTTPConnection,
    headers: Mapping[str, str],
    method: str = "tools/list",
    params: Any = None,
) -> Said:
    """Ask once, blocking."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method}
    if params is not None:
        body["params"] = params
    kinds = {"Content-Type": "application/json", "Accept": BOTH}
    with closing(connection):
        connection.request("POST", "/mcp", json.dumps(body), {**kinds, **headers})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Said(answer.status, named, answer.read())


def watch(port: int, context: ssl.SSLContext) -> list[float]:
    """Open an event stream of HTTP+SSE, call a slow tool, and tell when each event came."""
    stream = HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
    with closing(stream):
        stream.request("GET", "/sse", headers={"Accept": "text/event-stream"})
        answer = stream.getresponse()
        endpoint = event(answer)
        shake = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": INFO}
        post(port, context, endpoint, {"id": 1, "method": "initialize", "params": shake})
        event(answer)
        post(port, context, endpoint, {"method": "notifications/initialized"})
        arguments = {"seconds": 1.2, "steps": 3}
        params = {"name": "slow", "arguments": arguments, "_meta": {"progressToken": "p"}}
        post(port, context, endpoint, {"id": 2, "method": "tools/call", "params": params})
        moments = []
        while True:
            said = json.loads(event(answer))
            moments.append(time.monotonic())
            if "id" in said:
                return moments


def event(answer: HTTPResponse) -> str:
    """The data of the next event; comments are passed over."""
    while True:
        line = answer.readline().decode()
        if line.startswith("data:"):
            return line.removeprefix("data:").strip()
        if not line:
            raise AssertionError("the stream has ended")


def post(port: int, context: ssl.SSLContext, endpoint: str, message: dict[str, Any]) -> None:
    """Post one message to a session."""
    connection = HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
    with closing(connection):
        body = json.dumps({"jsonrpc": "2.0", **message})
        connection.request("POST", endpoint, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 202, (answer.status, answer.read())
