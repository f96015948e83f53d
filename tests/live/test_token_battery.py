"""Tokens that must not count, at the real listener: none of them reaches a server."""

import json
import time
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.live.clients_case import DEMO, PATH
from tests.live.gateway_process import RunningGateway, stdio
from tests.live.key_server import keys
from tests.live.raw_client import Exchange, RawCase
from tests.live.test_jwks import KeyServerCase
from tests.tokens import SigningKey, b64, ec_key, ed_key, good, published, rsa_key, shared, signed

ISSUER, AUDIENCE = "https://login.example/", "https://mcp.example.com/mcp/demo"
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "echo", "arguments": {"message": "reached"}},
}


class TokenBatteryTests(KeyServerCase, RawCase):
    """One gateway and an issuer with three keys."""

    timeout = 120

    async def ask(self, gateway: RunningGateway, token: str) -> Exchange:
        """Call a tool by a token."""
        headers = {"Authorization": f"Bearer {token}"}
        return await (await self.send(gateway, "demo", CALL, headers, who="alice")).over

    def now(self, **claims: Any) -> dict[str, Any]:
        """Claims that are good at this moment, with changes."""
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "iat": now - 5, "exp": now + 600}
        return good(**{**usual, **claims})

    def bad(self, rsa: SigningKey, ec: SigningKey) -> dict[str, tuple[str, str]]:
        """Tokens by what is wrong with them, each with a word of the cause in the trail."""
        now = int(time.time())
        header = {"alg": "RS256", "typ": "JWT", "kid": rsa.kid}
        claims = json.dumps(self.now()).encode()
        pem = rsa.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        stranger = rsa_key(kid="stranger", number=7)
        fine = rsa.token("RS256", self.now())
        head, body, signature = fine.split(".")
        nested: Any = "x"
        for _ in range(200):
            nested = [nested]
        return {
            "alg none": (f"{b64(json.dumps({'alg': 'none'}).encode())}.{body}.", "alg"),
            "alg None": (f"{b64(json.dumps({'alg': 'nOnE'}).encode())}.{body}.", "alg"),
            "no signature": (f"{head}.{body}.", "signature"),
            "HMAC by the public key": (shared(self.now(), secret=pem, kid=rsa.kid), "alg"),
            "another algorithm": (rsa.token("RS512", self.now()), "alg"),
            "not configured": (ed_key().token("EdDSA", self.now()), "alg"),
            "EC key for RSA": (signed("ES256", ec.private, header, self.now()), "signature"),
            "own key": (
                stranger.token("RS256", self.now(), {"jwk": stranger.jwk(), "kid": rsa.kid}),
                "jwk",
            ),
            "jku": (rsa.token("RS256", self.now(), {"jku": "http://127.0.0.1:1/keys"}), "jku"),
            "x5u": (rsa.token("RS256", self.now(), {"x5u": "http://127.0.0.1:1/c"}), "x5u"),
            "x5c": (rsa.token("RS256", self.now(), {"x5c": ["MIIB"]}), "x5c"),
            "crit": (rsa.token("RS256", self.now(), {"crit": ["exp"]}), "crit"),
            "b64": (rsa.token("RS256", self.now(), {"b64": False}), "b64"),
            "stranger's kid": (stranger.token("RS256", self.now()), "no key"),
            "stranger under our kid": (
                stranger.token("RS256", self.now(), {"kid": rsa.kid}),
                "signature",
            ),
            "other audience": (rsa.token("RS256", self.now(aud="https://other/")), "aud"),
            "no audience": (rsa.token("RS256", self.now(aud=None)), "aud"),
            "other issuer": (rsa.token("RS256", self.now(iss="https://evil/")), "iss"),
            "issuer without its slash": (rsa.token("RS256", self.now(iss=ISSUER[:-1])), "iss"),
            "no issuer": (rsa.token("RS256", self.now(iss=None)), "iss"),
            "no end": (rsa.token("RS256", self.now(exp=None)), "exp"),
            "end in words": (rsa.token("RS256", self.now(exp=str(now + 60))), "exp"),
            "ended": (rsa.token("RS256", self.now(exp=now - 1)), "expired"),
            "not yet": (rsa.token("RS256", self.now(nbf=now + 60)), "nbf"),
            "from the future": (rsa.token("RS256", self.now(iat=now + 60)), "iat"),
            "nobody": (rsa.token("RS256", self.now(sub=None)), "sub"),
            "two subjects": (
                rsa.sign("RS256", header, claims[:-1] + b', "sub": "admin"}'),
                "strict JSON",
            ),
            "two algorithms": (
                rsa.sign("RS256", json.dumps(header).encode()[:-1] + b', "alg": "none"}', claims),
                "strict JSON",
            ),
            "deep": (rsa.token("RS256", self.now(deep=nested)), "strict JSON"),
            "a token inside": (
                rsa.sign("RS256", {**header, "cty": "JWT"}, fine.encode()),
                "cty",
            ),
            "encrypted": (f"{head}.{body}.{signature}.{body}.{signature}", "JWE"),
            "padded": (f"{head}=.{body}.{signature}", "base64url"),
            "bound to a certificate": (
                rsa.token("RS256", self.now(cnf={"x5t#S256": "A" * 43})),
                "client certificate",
            ),
            "bound to a key": (rsa.token("RS256", self.now(cnf={"jkt": "A" * 43})), "cnf"),
            "changed": (f"{head}.{b64(claims.replace(b'alice', b'admin'))}.{signature}", "signat"),
            "oversize": (rsa.token("RS256", self.now(pad="x" * 14_000)), ""),
        }

    async def test_battery(self) -> None:
        """Each is refused with 401 and the challenge, leaves its cause in the trail, and no call
        behind; the issuer is asked again once, and good tokens pass before, between and after.
        """
        rsa, ec = rsa_key(kid="r"), ec_key(kid="e")
        server, url = await self.serve(keys(published(rsa, ec)))
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env=dict(PATH))],
            identities={"alice": {}},
            server={"public_url": "https://mcp.example.com"},
            auth={"jwt": {"mode": "jwks", "jwks_url": url, "issuer": ISSUER, "audience": AUDIENCE}},
            rate_limit={"failed_auth_per_minute": 10_000},
        )
        bad = self.bad(rsa, ec)
        for name, (token, _) in bad.items():
            refused = await self.ask(gateway, token)
            self.assertEqual(refused.status, 401, name)
            challenge = refused.answer.headers["WWW-Authenticate"]
            self.assertTrue(challenge.startswith("Bearer "), name)
            self.assertIn('error="invalid_token"', challenge, name)
            self.assertIn(
                'resource_metadata="https://mcp.example.com/.well-known/'
                'oauth-protected-resource/mcp/demo"',
                challenge,
            )
            self.assertNotIn(token[:60], refused.received.decode())
        for token in (rsa.token("RS256", self.now()), ec.token("ES256", self.now())):
            self.assertEqual((await self.ask(gateway, token)).text, "reached")
        # Both who have a key that the issuer might have by now made it asked, within its pause.
        self.assertEqual(server.asked, 2)
        trail = await self.account(gateway)
        failures = [one for one in gateway.events() if one["event_type"] == "AuthFailure"]
        self.assertEqual(len(failures), len(bad))
        for (name, (_, cause)), event in zip(bad.items(), failures, strict=True):
            self.assertIn(cause, str(event.get("details")), name)
        self.assertEqual(len([one for one in trail if one["event_type"] == "ToolCall"]), 2)
        said = gateway.program.err.decode() + gateway.audit_file.read_text()
        for token, _ in bad.values():
            self.assertNotIn(token.split(".")[1][:60] or "-none-", said)
