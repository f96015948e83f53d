"""Tests of the plain form of URIs."""

from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.globs import glob_matches
from mcpguard.policy.uris import is_unclear, plain, plain_pattern


class PlainTests(SynchronousTestCase):
    """`plain` brings spellings of one URI together."""

    def test_one_file(self) -> None:
        """Ways to write one file."""
        for uri in (
            "file:///etc/passwd",
            "FILE:///etc/passwd",
            "file:/etc/passwd",
            "file:////etc//passwd",
            "file://localhost/etc/passwd",
            "file://LocalHost/etc/passwd",
            "file:etc/passwd",
            "file:///etc/%70asswd",
            "file:///etc/%2570asswd",
            "file:///etc%2Fpasswd",
            "file%3A///etc/passwd",
        ):
            self.assertEqual(plain(uri), "file:///etc/passwd", uri)

    def test_hosts(self) -> None:
        """Scheme and host lose their case, the path keeps it."""
        self.assertEqual(plain("HTTPS://Example.COM//A/b"), "https://example.com/A/b")

    def test_kept_apart(self) -> None:
        """Different things stay different."""
        different = [
            "file:///etc/passwd",
            "file:///etc/Passwd",
            "file://host/etc/passwd",
            "memo:///etc/passwd",
            "etc/passwd",
            "urn:etc:passwd",
        ]
        self.assertEqual(len({plain(uri) for uri in different}), len(different))

    def test_patterns(self) -> None:
        """A coded wildcard in a pattern stands for one character, never for many."""
        self.assertEqual(plain_pattern("File:///my%20docs/*"), "file:///my docs/*")
        pattern = plain_pattern("file:///a%2Ab%3fc%252A")
        self.assertEqual(pattern, "file:///a?b?c?")
        self.assertTrue(glob_matches(pattern, plain("file:///a%2Ab%3Fc%2a")))

    @settings(deadline=None, max_examples=150)
    @given(st.text("abc/ \u00e9:?*", max_size=12), st.integers(0, 3))
    def test_layers(self, path: str, layers: int) -> None:
        """Up to three layers of coding change nothing."""
        uri = coded = f"memo://h/{path}"
        for _ in range(layers):
            coded = quote(coded)
        self.assertEqual(plain(coded), plain(uri))


class UnclearTests(SynchronousTestCase):
    """`is_unclear` finds what readers may take differently."""

    def test_unclear(self) -> None:
        """Dot segments, backslashes, control characters and outer spaces, coded or not."""
        for uri in (
            "file:///pub/../etc",
            "file:///pub/..",
            "file:///./etc",
            "..",
            "../etc",
            "file:..",
            "file:///pub/%2e%2e/etc",
            "file:///pub/%252E./etc",
            "file:///pub/..?x",
            "file:///pub/..#x",
            "file:///pub/%23/../etc",
            "file:///pub\\..\\etc",
            "file:///pub%5cetc",
            "file:///etc/pass\twd",
            "file:///etc/passwd\n",
            "file:///etc/passwd%00.txt",
            "file:///a\x7f",
            " file:///a",
            "file:///a%20",
            "file:///%25252525252e",
        ):
            self.assertTrue(is_unclear(uri), uri)

    def test_clear(self) -> None:
        """Names with dots, templates, queries and spaces within are nothing unusual."""
        for uri in (
            "file:///a.txt",
            "file:///.hidden/..x/x../...",
            "https://h/a?x=1&y=..z",
            "db://{table}/{id}",
            "urn:isbn:1-2",
            "file:///my docs/a%20b",
            "file:///100%",
            "memo:notes",
            "",
        ):
            self.assertFalse(is_unclear(uri), uri)
