"""Tests of `mcpguard.protocol.sealing`."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.protocol.sealing import Seal

KEY = bytes(range(32))
CONTEXTS = st.lists(st.text(max_size=8), max_size=4).map(tuple)


def seal(key: bytes = KEY, purpose: str = "session") -> Seal:
    """A seal with randomness that repeats from run to run."""
    return Seal(key, purpose, random.Random(7).randbytes)


class SealingTest(SynchronousTestCase):
    """`Seal`."""

    @settings(deadline=None, max_examples=50)
    @given(CONTEXTS, st.binary(max_size=64))
    def test_round_trip(self, context: tuple[str, ...], content: bytes) -> None:
        """A token gives its content back in its own context, whatever both are."""
        token = seal().seal(context, content)
        self.assertEqual(seal().open(context, token), content)
        self.assertRegex(token, r"\A[A-Za-z0-9_-]+\Z")

    @settings(deadline=None, max_examples=50)
    @given(CONTEXTS, CONTEXTS)
    def test_context(self, context: tuple[str, ...], other: tuple[str, ...]) -> None:
        """A token opens in no other context, however alike the two look joined together."""
        token = seal().seal(context, b"content")
        self.assertEqual(seal().open(other, token) is not None, context == other)

    def test_other_key_and_purpose(self) -> None:
        """Neither another key nor another purpose of the same key opens a token."""
        token = seal().seal(("alice",), b"content")
        self.assertIsNone(seal(key=bytes(32)).open(("alice",), token))
        self.assertIsNone(seal(purpose="cursor").open(("alice",), token))

    def test_every_change_is_noticed(self) -> None:
        """No character of a token can be changed, added or left out."""
        token = seal().seal(("alice",), b"content")
        for index, character in enumerate(token):
            other = "A" if character != "A" else "B"
            self.assertIsNone(seal().open(("alice",), token[:index] + other + token[index + 1 :]))
        for changed in ("", token[:-1], token + "A", token + "=", token + "\n", f" {token}", "é"):
            self.assertIsNone(seal().open(("alice",), changed), changed)

    def test_no_two_tokens_are_alike(self) -> None:
        """The same content sealed twice gives two tokens, so nobody sees that it is the same."""
        one = seal()
        self.assertNotEqual(one.seal((), b"content"), one.seal((), b"content"))

    def test_short_keys_are_refused(self) -> None:
        """A key of the wrong length is an error, and the error does not show it."""
        error = self.assertRaises(ValueError, Seal, b"short", "session", random.Random(7).randbytes)
        self.assertNotIn("short", str(error).replace("32", ""))
        self.assertNotIn("bytes(", repr(seal()))
