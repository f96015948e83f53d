"""Tests of API keys."""

import hashlib
import hmac
from datetime import UTC, datetime
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import ApiKeySettings, IdentityKeys
from mcpguard.errors import Reason, Refusal, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.identity import api_keys
from mcpguard.identity.api_keys import ApiKeys
from mcpguard.policy.principal import Allowance, Rights

NOW = 1_800_000_000.0
PEER = "192.0.2.7"


def asking(peer: str = PEER) -> Incoming:
    """A request from an address."""
    return Incoming("r", "POST", "/mcp", "", {}, b"", peer, 0.0)


def hashed(token: str) -> bytes:
    """What is configured for a key."""
    return hashlib.sha256(token.encode()).digest()


def refusal_of(keys: ApiKeys, token: str, peer: str = PEER, now: float = NOW) -> Refusal | None:
    """Why a key is refused; None if it is not."""
    try:
        keys.authenticate(token, asking(peer), now)
    except Refused as refused:
        return refused.refusal
    return None


class ApiKeysTests(SynchronousTestCase):
    """`ApiKeys` knows keys by their hash."""

    def test_principal(self) -> None:
        """A known key makes its principal, with the rights and limits configured."""
        identity = IdentityKeys(
            name="Alice",
            allowed_tools=("read_*",),
            denied_tools=("read_secret",),
            allowed_servers=("fs",),
            allowed_resources=(),
            denied_resources=("file:///etc/*",),
            allowed_prompts=("p",),
            denied_prompts=("q",),
            rate_limit=5.0,
            burst_size=7,
            max_concurrency=3,
        )
        expires = datetime(2030, 1, 1, tzinfo=UTC)
        keys = ApiKeys((ApiKeySettings("alice", hashed("k1"), identity, expires),))
        principal = keys.authenticate("k1", asking(), NOW)
        self.assertEqual((principal.id, principal.provider), ("alice", "api_key"))
        self.assertEqual((principal.key, principal.name), ("api_key:alice", "Alice"))
        self.assertEqual(
            principal.rights,
            Rights(
                tools=("read_*",),
                denied_tools=("read_secret",),
                servers=("fs",),
                resources=(),
                denied_resources=("file:///etc/*",),
                prompts=("p",),
                denied_prompts=("q",),
            ),
        )
        self.assertEqual(principal.limits, Allowance(5.0, 7, 3))
        self.assertEqual(principal.expires_at, expires.timestamp())

    def test_defaults(self) -> None:
        """A key with nothing but its id has that name, all rights and the usual limits."""
        principal = ApiKeys((ApiKeySettings("bob", hashed("k")),)).authenticate("k", asking(), NOW)
        self.assertEqual(principal.name, "bob")
        self.assertEqual(principal.rights, Rights())
        self.assertEqual(principal.limits, Allowance())
        self.assertIsNone(principal.expires_at)

    def test_each_its_own(self) -> None:
        """Of several keys each finds its own principal."""
        keys = ApiKeys(tuple(ApiKeySettings(str(n), hashed(f"key {n}")) for n in range(50)))
        for n in range(50):
            self.assertEqual(keys.authenticate(f"key {n}", asking(), NOW).id, str(n))

    def test_unknown(self) -> None:
        """Unknown keys, the hash itself, and text no key can be are refused alike."""
        keys = ApiKeys((ApiKeySettings("a", hashed("key")),))
        for token in ("", "Key", "key ", "key\0", hashed("key").hex(), "\u00e9", "\ud800"):
            refusal = refusal_of(keys, token)
            assert refusal is not None
            self.assertEqual(refusal, Refusal(Reason.BAD_CREDENTIALS))

    def test_no_keys(self) -> None:
        """Without keys nobody is known, not even by the value unknown keys are compared with."""
        self.assertIsNotNone(refusal_of(ApiKeys(()), "key"))

    def test_same_work(self) -> None:
        """An unknown key is hashed and compared just as a known one."""
        compared: list[tuple[int, int]] = []

        class Watching:
            """Counts comparisons."""

            @staticmethod
            def compare_digest(one: bytes, other: bytes) -> bool:
                compared.append((len(one), len(other)))
                return hmac.compare_digest(one, other)

        self.patch(api_keys, "hmac", Watching)
        keys = ApiKeys((ApiKeySettings("a", hashed("key")),))
        for token in ("key", "other"):
            refusal_of(keys, token)
        self.assertEqual(compared, [(32, 32), (32, 32)])

    def test_expiry(self) -> None:
        """A key counts until its moment, and not at it."""
        keys = ApiKeys(
            (ApiKeySettings("a", hashed("k"), expires_at=datetime.fromtimestamp(NOW, UTC)),)
        )
        self.assertIsNone(refusal_of(keys, "k", now=NOW - 0.001))
        for now in (NOW, NOW + 1e6):
            refusal = refusal_of(keys, "k", now=now)
            assert refusal is not None
            self.assertIs(refusal.reason, Reason.EXPIRED_CREDENTIALS)

    def test_addresses(self) -> None:
        """A key bound to networks counts from within them only, however an address is written."""
        keys = ApiKeys(
            (
                ApiKeySettings(
                    "a",
                    hashed("k"),
                    allowed_ips=(
                        ip_network("10.0.0.0/8"),
                        ip_network("192.0.2.1/32"),
                        ip_network("2001:db8::/32"),
                        ip_network("fe80::/10"),
                        ip_network("::ffff:198.51.100.0/120"),
                    ),
                ),
            )
        )
        for peer in (
            "10.255.0.1",
            "::ffff:10.1.1.1",
            "192.0.2.1",
            "2001:db8::9",
            "2001:0DB8:0::9",
            "fe80::1%eth0",
            "198.51.100.4",
            "::ffff:198.51.100.4",
        ):
            self.assertIsNone(refusal_of(keys, "k", peer), peer)
        for peer in ("11.0.0.1", "192.0.2.2", "::ffff:11.0.0.1", "::10.1.1.1", "::1", "", "unix"):
            refusal = refusal_of(keys, "k", peer)
            assert refusal is not None
            self.assertIs(refusal.reason, Reason.ADDRESS_NOT_ALLOWED)

    def test_no_network(self) -> None:
        """An empty list of networks lets nobody in; none at all lets in from anywhere."""
        for networks, allowed in (((), False), (None, True)):
            keys = ApiKeys((ApiKeySettings("a", hashed("k"), allowed_ips=networks),))
            self.assertEqual(refusal_of(keys, "k") is None, allowed)

    def test_secrets_stay(self) -> None:
        """No refusal, and no look at the object, shows a key or its hash."""
        keys = ApiKeys((ApiKeySettings("a", hashed("s3cret"), allowed_ips=()),))
        refusal = refusal_of(keys, "s3cret")
        for shown in (repr(keys), repr(refusal)):
            self.assertNotIn("s3cret", shown)
            self.assertNotIn(repr(hashed("s3cret")), shown)

    @settings(deadline=None, max_examples=150)
    @given(st.text(max_size=8), st.text(max_size=8))
    def test_only_the_key(self, key: str, token: str) -> None:
        """For all texts: the token passes exactly if it is the key."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        keys = ApiKeys((ApiKeySettings("a", digest),))
        self.assertEqual(refusal_of(keys, token) is None, token == key)
