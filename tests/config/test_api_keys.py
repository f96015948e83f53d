"""Tests of API keys as text."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.api_keys import NewKey, digest, lifetime, mint


class MintTests(SynchronousTestCase):
    """New keys."""

    def test_form(self) -> None:
        """``mcp_`` and all of the 32 random bytes, in base64url without padding."""
        asked: list[int] = []

        def randomness(count: int) -> bytes:
            asked.append(count)
            return bytes(range(224, 224 + count))

        key = mint(randomness)
        self.assertEqual(asked, [32])
        self.assertEqual(len(key), 47)
        self.assertTrue(key.startswith("mcp_"))
        self.assertEqual(base64.urlsafe_b64decode(key[4:] + "="), bytes(range(224, 256)))


class DigestTests(SynchronousTestCase):
    """Hashes of keys."""

    def test_whole_key(self) -> None:
        """Standard base64 of the SHA-256 of the whole key, prefix included."""
        expected = base64.b64encode(hashlib.sha256(b"mcp_abc").digest()).decode()
        self.assertEqual(digest("mcp_abc"), expected)

    def test_refused(self) -> None:
        """What could not be sent as a Bearer token is no key."""
        for key in ("", "a b", "a\n", "ä", "a\0", "x" * 4097):
            self.assertRaises(ValueError, digest, key)


class LifetimeTests(SynchronousTestCase):
    """How long a key lasts."""

    def test_units(self) -> None:
        """Minutes, hours, days, weeks."""
        for text, days in (("90d", 90), ("2w", 14), ("12h", 0.5), ("36m", 0.025)):
            self.assertEqual(lifetime(text), timedelta(days=days))

    def test_refused(self) -> None:
        """Anything else, and nothing at all."""
        for text in ("", "90", "d", "0d", "-1d", "1.5d", "1y", "1d ", "1234567d", "٣d"):
            self.assertRaises(ValueError, lifetime, text)


class EntryTests(SynchronousTestCase):
    """What is written."""

    def test_only_what_is_given(self) -> None:
        """A limit of a whole number is written as one; an empty list stays."""
        self.assertEqual(NewKey("a", "h").entry, {"id": "a", "key_hash": "h"})
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        entry = NewKey("a", "h", (), 3.0, moment).entry
        self.assertEqual(list(entry.values()), ["a", "h", [], 3, moment])
        self.assertIs(type(entry["rate_limit"]), int)
        self.assertEqual(NewKey("a", "h", None, 0.5).entry["rate_limit"], 0.5)
