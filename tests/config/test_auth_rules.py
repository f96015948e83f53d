"""Tests of what must hold between the keys of ``[auth.jwt]``."""

from twisted.trial.unittest import SynchronousTestCase

from tests.config.samples import UPSTREAM, problems, read

ISSUER = '[auth.jwt]\nissuer = "https://i.example/"\naudience = "a"\n'
SIMPLE = f'{ISSUER}mode = "simple"\n'
JWKS = f'{ISSUER}mode = "jwks"\n'
URL = 'jwks_url = "https://i.example/keys"\n'


class JwtTests(SynchronousTestCase):
    """Modes, algorithms and secrets."""

    def accepted(self, text: str) -> None:
        """These keys can be used."""
        self.assertIsNotNone(read(text + UPSTREAM).settings.auth.jwt)

    def refused(self, text: str, *words: str) -> None:
        """They cannot, for one reason that says this."""
        found = problems(text + UPSTREAM)
        self.assertEqual(len(found), 1, found)
        for word in words:
            self.assertIn(word, found[0])

    def test_modes(self) -> None:
        """Each mode with its own keys, and without the other's."""
        secret = f'secret = "{"x" * 64}"\n'
        self.accepted(SIMPLE + secret)
        self.accepted(JWKS + URL)
        self.refused(SIMPLE, "secret is missing")
        self.refused(JWKS, "jwks_url is missing")
        self.refused(SIMPLE + secret + URL, "jwks_url", 'mode = "jwks"')
        self.refused(JWKS + URL + secret, "secret", 'mode = "simple"')

    def test_algorithms(self) -> None:
        """Secrets and public keys are never mixed, and no token does without a signature."""
        secret = f'secret = "{"x" * 64}"\n'
        self.accepted(f'{SIMPLE}{secret}algorithms = ["HS256", "HS512"]\n')
        self.accepted(f'{JWKS}{URL}algorithms = ["PS512", "EdDSA"]\n')
        self.refused(f'{JWKS}{URL}algorithms = ["RS256", "HS256"]\n', "HS256", "simple")
        self.refused(f'{SIMPLE}{secret}algorithms = ["HS256", "RS256"]\n', "HS256")
        self.refused(f"{JWKS}{URL}algorithms = []\n", "empty")
        for name in ("none", "ES256K", "hs256"):
            self.refused(f'{JWKS}{URL}algorithms = ["{name}"]\n', "algorithms")

    def test_secrets(self) -> None:
        """Long enough for the algorithm, and nothing that is known to others; never shown."""
        for size, algorithms in ((32, "HS256"), (48, "HS384"), (64, "HS512")):
            text = f'{SIMPLE}algorithms = ["{algorithms}"]\nsecret = "{{}}"\n'
            self.accepted(text.format("x" * size))
            self.refused(text.format("x" * (size - 1)), "shorter", str(size))
        pem = "-----BEGIN PUBLIC KEY-----\\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\\n"
        for text in (pem, f"\\n {pem}", pem.replace("PUBLIC KEY", "CERTIFICATE")):
            self.refused(f'{SIMPLE}secret = "{text}"\n', "PEM", "jwks")
            self.assertNotIn("MFkw", problems(f'{SIMPLE}secret = "{text}"\n{UPSTREAM}')[0])
