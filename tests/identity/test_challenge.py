"""Tests of what refused clients are told of signing in."""

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.identity.challenge import PLAIN, Challenges
from tests.identity.certificates import request

URL = "https://h/.well-known/oauth-protected-resource/mcp"
CHALLENGES = Challenges(metadata_url=lambda incoming: URL, scopes=("mcp:read", "mcp:write"))


class ChallengeTests(SynchronousTestCase):
    """`Challenges`."""

    def test_without_a_token(self) -> None:
        """Where to sign in and for what, and no error (RFC 6750, section 3.1)."""
        self.assertEqual(
            CHALLENGES.challenge(request(), None),
            f'Bearer realm="mcp-guard", resource_metadata="{URL}", scope="mcp:read mcp:write"',
        )

    def test_with_a_bad_token(self) -> None:
        """The error, and in public words what is wrong."""
        self.assertEqual(
            CHALLENGES.challenge(request(), "Credentials have expired"),
            'Bearer realm="mcp-guard", error="invalid_token",'
            f' error_description="Credentials have expired", resource_metadata="{URL}",'
            ' scope="mcp:read mcp:write"',
        )

    def test_without_scopes(self) -> None:
        """No empty scope."""
        challenges = Challenges(metadata_url=lambda incoming: URL, scopes=())
        self.assertNotIn("scope", challenges.challenge(request(), None))

    def test_nobody_signs_in(self) -> None:
        """Without an authorization server there is nothing to find out."""
        self.assertEqual(PLAIN.challenge(request(), None), 'Bearer realm="mcp-guard"')
        self.assertEqual(
            PLAIN.insufficient_scope(request(), "a", "x"),
            'Bearer error="insufficient_scope", scope="a", error_description="x"',
        )

    def test_insufficient_scope(self) -> None:
        """All that is needed, in one scope."""
        self.assertEqual(
            CHALLENGES.insufficient_scope(request(), "mcp:read mcp:admin", "more is needed"),
            'Bearer error="insufficient_scope", scope="mcp:read mcp:admin",'
            f' resource_metadata="{URL}", error_description="more is needed"',
        )

    @given(st.text(max_size=40))
    def test_quoting(self, words: str) -> None:
        """No words end their quotes or the line; SDKs find every parameter between quotes."""
        found = CHALLENGES.insufficient_scope(request(), "a", words)
        pattern = r'Bearer [a-z_]+="[^"\\\r\n]*"(, [a-z_]+="[^"\\\r\n]*")*'
        self.assertIsNotNone(re.fullmatch(pattern, found))
        self.assertTrue(found.isascii())
