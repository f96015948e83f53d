"""Tokens of a real identity provider (npm ``oidc-provider``) at the real gateway."""

import json
from typing import Any

import treq

from mcpguard.policy.base64url import decode
from tests.live.clients_case import DEMO, PATH
from tests.live.gateway_process import RunningGateway, stdio
from tests.live.raw_client import Exchange, RawCase
from tests.live.software import identity_provider

PUBLIC = "https://mcp.example.com"
FILES, OTHER = f"{PUBLIC}/mcp/files", f"{PUBLIC}/mcp/other"
CLIENT_SECRET = "secret-of-a-client-in-a-test"
READ, WRITE = ["list_directory", "read_file"], ["write_file"]
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
CALL = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "write_file", "arguments": {"path": "x.txt", "content": "x"}},
}


class IdentityProviderTests(RawCase):
    """One provider, one gateway that knows of it what its discovery says."""

    async def get(self, url: str) -> Any:
        """A JSON document."""
        return await (await treq.get(url, persistent=False, timeout=30)).json()

    async def token(self, who: str, resource: str | None = FILES, scope: str = "files:read") -> str:
        """A token that the provider gives a client for a resource (RFC 8707)."""
        form = {"grant_type": "client_credentials", "scope": scope}
        if resource is not None:
            form["resource"] = resource
        answer = await treq.post(
            f"{self.provider}/token",
            data=form,
            auth=(who, CLIENT_SECRET),
            persistent=False,
            timeout=30,
        )
        given = await answer.json()
        token: str = given["access_token"]
        return token

    async def sign_by(self, *names: str) -> None:
        """Have the provider use other keys."""
        data = json.dumps({"sign": names}).encode()
        await treq.content(
            await treq.post(f"{self.provider}/test/keys", data=data, persistent=False, timeout=30)
        )

    async def asked(self) -> int:
        """How often the provider was asked for its keys."""
        found: int = (await self.get(f"{self.provider}/test/keys"))["asked"]
        return found

    async def ask(
        self, gateway: RunningGateway, token: str, message: Any = LIST, server: str = "files"
    ) -> Exchange:
        """Send a request by a token."""
        headers = {"Authorization": f"Bearer {token}"}
        return await (await self.send(gateway, server, message, headers, who="reader")).over

    async def tools(self, gateway: RunningGateway, token: str) -> list[str]:
        """The tools that a token shows."""
        listed = (await self.ask(gateway, token)).messages[-1]["result"]["tools"]
        return sorted(tool["name"] for tool in listed)

    async def test_tokens(self) -> None:
        """Scopes are tools, resources are endpoints, time is time, and keys may change."""
        self.provider = await self.start_http_server(
            identity_provider(), ready=r"listening on (http://\S+)"
        )
        discovered = await self.get(f"{self.provider}/.well-known/openid-configuration")
        gateway = await self.start_gateway(
            [stdio(name, DEMO, env=dict(PATH)) for name in ("files", "other")],
            identities={"reader": {}, "writer": {}, "short": {}},
            server={"public_url": PUBLIC},
            auth={
                "jwt": {
                    "mode": "jwks",
                    "jwks_url": discovered["jwks_uri"],
                    "issuer": discovered["issuer"],
                    "audience": [FILES, OTHER],
                    "scope_tool_mapping": {"files:read": READ, "files:write": WRITE},
                }
            },
        )
        reader = await self.token("reader")
        writer = await self.token("writer", scope="files:read files:write")
        short = await self.token("short")
        # A list shows exactly the tools of the scopes, and a call goes by the same rule.
        self.assertEqual(await self.tools(gateway, reader), READ)
        self.assertEqual(await self.tools(gateway, writer), [*READ, *WRITE])
        denied = await self.ask(gateway, reader, CALL)
        self.assertEqual(denied.status, 403)
        challenge = denied.answer.headers["WWW-Authenticate"]
        self.assertIn('error="insufficient_scope"', challenge)
        self.assertIn("files:write", challenge)
        self.assertEqual((await self.ask(gateway, writer, CALL)).status, 200)
        # For another resource, another endpoint of this gateway, or none (no JWT at all then).
        elsewhere = await self.token("reader", "https://elsewhere.example/mcp")
        for token, server in (
            (elsewhere, "files"),
            (reader, "other"),
            (await self.token("reader", None), "files"),
        ):
            refused = await self.ask(gateway, token, server=server)
            self.assertEqual(refused.status, 401)
            self.assertIn("resource_metadata=", refused.answer.headers["WWW-Authenticate"])
        beside = await self.token("reader", OTHER)
        self.assertEqual((await self.ask(gateway, beside, server="other")).status, 200)
        # Lived for a second.
        await self.until(lambda: self._expired(short), 5.0, "it has expired")
        old = await self.ask(gateway, short)
        self.assertEqual((old.status, old.error["message"]), (401, "Credentials have expired"))
        # The next key: what it signs is good after one question, what the last one signed stays.
        before = await self.asked()
        await self.sign_by("second", "first")
        fresh = await self.token("reader")
        self.assertEqual(await self.tools(gateway, fresh), READ)
        self.assertEqual(await self.tools(gateway, reader), READ)
        self.assertEqual(await self.asked(), before + 1)
        events = await self.told(gateway, "KeySetEvent", 2)
        self.assertEqual(events[-1]["details"]["added"], ["second", "second-ec"])
        # Who has the provider's words but not its keys.
        head, body, _ = fresh.split(".")
        signature = writer.rpartition(".")[2]
        self.assertEqual((await self.ask(gateway, f"{head}.{body}.{signature}")).status, 401)
        trail = await self.account(gateway)
        served = {one["identity_id"] for one in trail if one.get("status") == "success"}
        self.assertEqual(served, {"reader", "writer"})
        self.assertEqual({one.get("provider") for one in trail} - {None}, {"jwt"})

    def _expired(self, token: str) -> bool:
        claims = token.split(".")[1]
        return bool(expiry_of(claims) < self.reactor.seconds() - 0.1)


def expiry_of(claims: str) -> float:
    """When a token ends, by its claims as they stand in it."""
    found: float = json.loads(decode(claims))["exp"]
    return found
