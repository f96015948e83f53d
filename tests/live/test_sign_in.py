"""SDK clients that sign in each way there is, at one gateway, and see exactly their tools."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import treq

from tests.live.clients_case import DEMO, PATH
from tests.live.gateway_process import GatewayCase, stdio
from tests.live.processes import free_port
from tests.live.software import HERE, identity_provider, node, node_modules, python_sdk
from tests.pki import Authority

CLIENT_SECRET = "secret-of-a-client-in-a-test"
READ = ["echo", "list_directory", "read_file"]
FROM_CERTIFICATE = ["echo", "roots"]
FROM_KEY = ["echo", "slow"]
WRITE = ["write_file", {"path": "new.txt", "content": "x"}]
ECHO = ["echo", {"message": "on"}]


class SignInTests(GatewayCase):
    """One gateway with an API key, tokens of a real identity provider and client certificates."""

    timeout = 180

    def clients(self) -> dict[str, list[str]]:
        """The programs, by the SDK below."""
        node_modules()
        python, mjs = str(HERE / "clients" / "sign_in.py"), str(HERE / "clients" / "sign_in.mjs")
        return {
            "pypi-1": [str(python_sdk(1)), python],
            "pypi-2": [str(python_sdk(2)), python],
            "npm-sdk": [str(node()), mjs, "sdk"],
            "npm-client": [str(node()), mjs, "client"],
        }

    async def token(self, provider: str, resource: str) -> str:
        """A token of ``reader`` for a resource."""
        form = {"grant_type": "client_credentials", "scope": "files:read", "resource": resource}
        answer = await treq.post(
            f"{provider}/token",
            data=form,
            auth=("reader", CLIENT_SECRET),
            persistent=False,
            timeout=30,
        )
        token: str = (await answer.json())["access_token"]
        return token

    async def test_each_way(self) -> None:
        """``reader`` by a key, by a token, by a certificate: three identities that share nothing
        but their name; and a client that knows its password alone finds out all the rest, a
        scope that is missing included.
        """
        clients = self.clients()
        provider = await self.start_http_server(
            identity_provider(), ready=r"listening on (http://\S+)"
        )
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        ca = Authority("Test CA")
        (directory / "ca.crt").write_bytes(ca.pem)
        server_cert, server_key = ca.server("localhost").write(directory, "server")
        cert, key = ca.issue("reader").write(directory, "client")
        stranger, stranger_key = Authority("Other").issue("reader").write(directory, "stranger")
        clear, secure = free_port(), free_port()
        resource = f"http://127.0.0.1:{clear}/mcp/demo"
        secret = "mcp_" + "k" * 43
        digest = base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env=dict(PATH))],
            identities={"reader": {}, "writer": {}},
            server={
                "listeners": [
                    {"port": clear, "public_url": f"http://127.0.0.1:{clear}"},
                    {
                        "port": secure,
                        "public_url": f"https://localhost:{secure}",
                        "tls": {
                            "cert_path": str(server_cert),
                            "key_path": str(server_key),
                            "client_ca_path": str(directory / "ca.crt"),
                            "client_auth": "optional",
                        },
                    },
                ]
            },
            auth={
                "scopes_supported": ["files:read"],
                "api_keys": [{"id": "reader", "key_hash": digest, "allowed_tools": FROM_KEY}],
                "jwt": {
                    "mode": "jwks",
                    "jwks_url": f"{provider}/jwks",
                    "issuer": provider,
                    "audience": resource,
                    "scope_tool_mapping": {"files:read": READ, "files:write": ["write_file"]},
                },
                "mtls": {
                    "enabled": True,
                    "allowed_tools": [],
                    "identities": [{"id": "reader", "allowed_tools": FROM_CERTIFICATE}],
                },
            },
        )
        over_tls = {
            "url": f"https://localhost:{secure}/mcp/demo",
            "ca": str(directory / "ca.crt"),
        }
        token = await self.token(provider, resource)
        jobs: dict[str, dict[str, Any]] = {
            "key": {"url": resource, "token": secret, "call": ECHO},
            "token": {"url": resource, "token": token, "call": ECHO},
            "certificate": {
                **over_tls,
                "certificate": str(cert),
                "key": str(key),
                "call": ECHO,
            },
            "key over tls": {**over_tls, "token": secret, "call": ECHO},
            "stranger": {
                **over_tls,
                "certificate": str(stranger),
                "key": str(stranger_key),
                "call": ECHO,
            },
            "nobody": {**over_tls, "call": ECHO},
            "forged": {"url": resource, "token": token[:-4] + "AAAA", "call": ECHO},
            "too much": {"url": resource, "token": token, "call": WRITE},
            "discovery": {
                "url": resource,
                "oauth": {
                    "client_id": "writer",
                    "client_secret": CLIENT_SECRET,
                    "issuer": provider,
                    "scope": "files:read files:write",
                },
                "call": WRITE,
            },
        }
        env = {"LIVE_NODE_MODULES": str(node_modules())}
        running = {
            name: self.start_client(command, jobs, env=env) for name, command in clients.items()
        }
        for name, client in running.items():
            found = await self.finished(client, seconds=90)
            for way, tools in (
                ("key", FROM_KEY),
                ("token", READ),
                ("certificate", FROM_CERTIFICATE),
                ("key over tls", FROM_KEY),
            ):
                self.assertEqual(
                    (sorted(found[way].get("tools", ())), found[way].get("called")),
                    (tools, "on"),
                    (name, way, found[way]),
                )
            for way in ("stranger", "nobody", "forged", "too much"):
                self.assertIn("error", found[way], (name, way))
            discovered = found["discovery"]
            # All but npm's 1.x ask for what they are told to, and for more when a call needs it.
            tools = [*READ, "write_file"] if name == "npm-sdk" else READ
            self.assertEqual(sorted(discovered.get("tools", ())), tools, (name, discovered))
            self.assertIn("new.txt", discovered.get("called", ""), (name, discovered))

        def called() -> list[tuple[str, ...]]:
            calls = [one for one in gateway.events() if one["event_type"] == "ToolCall"]
            return sorted({(one["provider"], one["identity_id"], one["tool"]) for one in calls})

        expected = [
            ("api_key", "reader", "echo"),
            ("jwt", "reader", "echo"),
            ("jwt", "writer", "write_file"),
            ("mtls", "reader", "echo"),
        ]
        # The trail is written behind the answers.
        await self.until(lambda: len(called()) >= len(expected), 5.0, "all calls in the trail")
        self.assertEqual(called(), expected)
        trail = gateway.events()
        denied = [one for one in trail if one["event_type"] == "AuthorizationDenied"]
        self.assertEqual({one["reason"] for one in denied}, {"insufficient_scope"})
        refused = [one for one in trail if one["event_type"] == "HandshakeFailed"]
        self.assertGreaterEqual(len(refused), len(clients))
