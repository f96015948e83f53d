"""Tests of `mcpguard.observe.redaction`."""

import json
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import ConfigurationError
from mcpguard.observe.redaction import MARGIN, MARK, REDACTED, Redactor, names_secret

KEY = "mcp_" + "aZ09_-" * 7 + "b"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nAwEHoUQ=\n-----END EC PRIVATE KEY-----"

SECRETS = (
    KEY,
    JWT,
    PEM,
    "AKIA" + "Q" * 16,
    "ghp_" + "a" * 36,
    "github_pat_" + "a" * 40,
    "glpat-" + "a" * 20,
    "xoxb-" + "1" * 12 + "-abc",
    "sk-" + "a" * 40,
    "sk_live_" + "a" * 24,
    "AIza" + "a" * 35,
    "npm_" + "a" * 36,
)


class RedactorTests(SynchronousTestCase):
    """`Redactor`: secrets in text, clipping."""

    def setUp(self) -> None:
        """Only the built-in rules."""
        self.redactor = Redactor()

    def check(self, text: str, expected: str) -> None:
        """Assert what a text becomes."""
        self.assertEqual(self.redactor.text(text, 500), expected)

    def test_known_tokens(self) -> None:
        """Tokens of known shape go, wherever they stand in the text."""
        for secret in SECRETS:
            for before, after in (("", ""), ("x ", " y"), ('{"a":"', '"}'), ("/p/", "/q")):
                shown = self.redactor.text(before + secret + after, 500)
                self.assertEqual(shown, before + REDACTED + after, secret)

    def test_bearer(self) -> None:
        """What follows the word Bearer goes, of any shape and length."""
        self.check("sent Bearer abc.def~1 to it", f"sent Bearer {REDACTED} to it")
        self.check("Authorization: bearer x", f"Authorization: bearer {REDACTED}")
        self.check('{"authorization": "Basic dTpw"}', f'{{"authorization": "Basic {REDACTED}"}}')

    def test_named_values(self) -> None:
        """A value announced by a telling name goes, quoted or not."""
        self.check("password=hunter2&x=1", f"password={REDACTED}&x=1")
        self.check("api_key: 'a b c' rest", f"api_key: '{REDACTED}' rest")
        self.check("?access_token=abc#top", f"?access_token={REDACTED}")
        text = json.dumps({"client_secret": 'a "quoted" one', "x": 1})
        self.check(text, f'{{"client_secret": "{REDACTED}", "x": 1}}')
        nested = json.dumps({"body": text})
        shown = self.redactor.text(nested, 500)
        self.assertNotIn("quoted", shown)
        self.assertIn("x", json.loads(json.loads(shown)["body"]))

    def test_userinfo(self) -> None:
        """A password inside a URL goes, the host stays."""
        self.check("postgres://u:p%40@db/x", f"postgres://{REDACTED}@db/x")
        self.check("http://host:80/a@b", "http://host:80/a@b")

    def test_cut_key_block(self) -> None:
        """A private key without its end line is redacted to the end of the text."""
        self.check("key: " + PEM[:60], f"key: {REDACTED}")

    def test_ordinary_text(self) -> None:
        """Names, paths and metric names that merely resemble secrets stay."""
        for text in (
            "mcp_guard_upstream_stray_messages_total",
            "/home/user/secrets/tokens.txt",
            "max_tokens is 5",
            "mcp_filesystem_read_file",
            "a" * 500,
            "",
        ):
            self.check(text, text)

    def test_configured_rules(self) -> None:
        """Configured rules come on top; their replacement is literal."""
        redactor = Redactor([("ssn", r"\d{3}-\d{2}-\d{4}", r"\1<ssn>")])
        self.assertEqual(redactor.text(f"a 123-45-6789 {KEY}", 99), rf"a \1<ssn> {REDACTED}")

    def test_bad_rules(self) -> None:
        """Every pattern RE2 does not take is named in one error."""
        with self.assertRaises(ConfigurationError) as caught:
            Redactor([("one", "(?=x)", ""), ("fine", "x", ""), ("two", "(", "")])
        self.assertEqual(len(caught.exception.problems), 2)
        self.assertIn("'one'", caught.exception.problems[0])
        self.assertIn("'two'", caught.exception.problems[1])

    def test_clipped(self) -> None:
        """A long text is cut at its limit, between characters, and marked."""
        self.assertEqual(self.redactor.text("é" * 30, 10), "é" * 10 + MARK)
        self.assertEqual(self.redactor.text("é" * 10, 10), "é" * 10)
        self.assertEqual(self.redactor.text("😀" * 9000, 3), "😀" * 3 + MARK)

    def test_secret_on_the_edge(self) -> None:
        """A secret that straddles the limit, or the end of what is looked at, is never shown."""
        for secret in SECRETS:
            for limit in (40, 400):
                for shift in range(0, len(secret) + 1, 5):
                    for edge in (limit, limit + MARGIN):
                        text = " " * (edge - shift) + secret + " tail" * 400
                        shown = self.redactor.text(text, limit)
                        self.assertNotIn(secret[4:12], shown)
                        self.assertLessEqual(len(shown), limit + len(MARK))

    def test_shrinking_text(self) -> None:
        """Where redaction pulls the unreliable end into view, that end is left out."""
        text = (KEY + " ") * 40  # 1920 characters, of which limit + margin are looked at
        shown = self.redactor.text(text, 500)
        self.assertNotIn("mcp_", shown)
        self.assertTrue(shown.endswith(MARK))

    def test_lone_surrogates(self) -> None:
        """A text no encoder takes becomes one that can be written."""
        self.check("a\ud800b", "a?b")

    def test_linear(self) -> None:
        """A megabyte built to make a backtracking engine explode takes no time to speak of."""
        redactor = Redactor([("evil", "(a*)*b", "x")])
        start = process_time()
        redactor.text("a" * 1_000_000, 100_000)
        redactor.text('password="' + "\\" * 1_000_000, 100_000)
        self.assertLess(process_time() - start, 2)

    @settings(deadline=None, max_examples=150)
    @given(st.text(), st.sampled_from(SECRETS), st.text(), st.integers(0, 200))
    def test_any_surroundings(self, before: str, secret: str, after: str, limit: int) -> None:
        """No secret survives in any surroundings that leave it a word of its own."""
        shown = self.redactor.text(f"{before} {secret} {after}", limit)
        if secret not in before and secret not in after:
            self.assertNotIn(secret, shown)
        self.assertLessEqual(len(shown), limit + len(MARK))
        shown.encode()


class NamesSecretTests(SynchronousTestCase):
    """`names_secret`: argument names whose values are never shown."""

    def test_secret_names(self) -> None:
        """Case and separators do not hide a secret's name."""
        for name in (
            "password",
            "userPassword",
            "API-Key",
            "apiKey",
            "x_api_key",
            "client_secret",
            "accessToken",
            "Authorization",
            "aws_secret_access_key",
            "session-cookie",
            "pin",
            "private_key",
        ):
            self.assertTrue(names_secret(name), name)

    def test_other_names(self) -> None:
        """Ordinary names stay readable."""
        for name in ("path", "max_tokens", "tokenizer", "key", "keys", "author", "pinned", ""):
            self.assertFalse(names_secret(name), name)
