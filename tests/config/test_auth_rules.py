"""Tests of what must hold between the keys of ``[auth]``, and between them and the listeners."""

from twisted.trial.unittest import SynchronousTestCase

from tests.config.samples import HASH, UPSTREAM, problems, read

ISSUER = '[auth.jwt]\nissuer = "https://i.example/"\naudience = "a"\n'
SIMPLE = f'{ISSUER}mode = "simple"\n'
JWKS = f'{ISSUER}mode = "jwks"\n'
URL = 'jwks_url = "https://i.example/keys"\n'
KEY = f'[[auth.api_keys]]\nid = "a"\nkey_hash = "{HASH}"\n'
QUIET = "[audit]\nenabled = false\n"
PROXY = '[auth.mtls]\nenabled = true\ntrusted_proxy_ips = ["10.0.0.1"]\n'


def warnings(text: str) -> tuple[str, ...]:
    """What is doubtful about a text."""
    return read(text + QUIET + UPSTREAM).warnings


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

    def test_missing(self) -> None:
        """What every token must say has to be configured; the message shows how that looks."""
        found = problems('[auth.jwt]\nmode = "jwks"\n' + URL + UPSTREAM)
        self.assertEqual(
            found,
            (
                "auth.jwt: issuer is missing; accepted: what `iss` is in the tokens, such as"
                ' "https://login.example.com/" (line 1)',
                "auth.jwt: audience is missing; accepted: what `aud` names in tokens for this"
                ' gateway, such as "https://mcp.example.com/mcp": a string or a list of strings'
                " (line 1)",
            ),
        )

    def test_ca_of_a_plain_url(self) -> None:
        """A CA for a URL without TLS would do nothing."""
        plain = 'jwks_url = "http://127.0.0.1:1/keys"\n'
        self.accepted(JWKS + plain)
        self.accepted(JWKS + URL + 'jwks_ca_path = "ca.crt"\n')
        self.refused(JWKS + plain + 'jwks_ca_path = "ca.crt"\n', "jwks_ca_path", "no TLS")

    def test_mapping_without_scopes(self) -> None:
        """It allows nothing, which is most likely not what was meant."""
        (warning,) = warnings(JWKS + URL + "scope_tool_mapping = {}\n")
        self.assertIn("auth.jwt.scope_tool_mapping: empty: no token opens any tool", warning)
        self.assertEqual(warnings(JWKS + URL + 'scope_tool_mapping = { a = ["x"] }\n'), ())


class SignInTests(SynchronousTestCase):
    """Where clients are sent for a token."""

    def test_tokens_nobody_takes(self) -> None:
        """An authorization server is of no use to a gateway that takes no tokens."""
        servers = '[auth]\nauthorization_servers = ["https://i.example/"]\n'
        (problem,) = problems(KEY + servers + UPSTREAM)
        self.assertIn("auth.authorization_servers: no token that clients get there", problem)
        self.assertEqual(warnings(servers + JWKS + URL), ())
        self.assertEqual(warnings(KEY + "[auth]\nauthorization_servers = []\n"), ())

    def test_scopes_nobody_hears_of(self) -> None:
        """Scopes are told to clients that are sent somewhere for a token, and to nobody else."""
        scopes = '[auth]\nscopes_supported = ["read"]\n'
        nowhere = scopes + "authorization_servers = []\n" + JWKS + URL
        word = scopes + (JWKS + URL).replace('https://i.example/"', 'ours"')
        for text in (KEY + scopes, nowhere, word):
            (problem,) = problems(text + UPSTREAM)
            self.assertIn("auth.scopes_supported: nobody is told of them", problem)
        self.assertEqual(warnings(scopes + JWKS + URL), ())
        there = scopes + 'authorization_servers = ["https://i.example/"]\n'
        self.assertEqual(warnings(there + (JWKS + URL).replace('https://i.example/"', 'o"')), ())

    def test_issuers_that_are_no_url(self) -> None:
        """Any word may be an issuer; only a URL that can be one is an authorization server."""
        wild = '[server]\nhost = "0.0.0.0"\nallowed_hosts = ["h"]\n'
        for issuer in ("https://[x", "https://", "https://a b/", "ours", "http://i.example/"):
            text = wild + JWKS.replace("https://i.example/", issuer) + URL
            self.assertEqual(warnings(text), (), issuer)
        for issuer in ("https://i.example", "http://127.0.0.1:1/"):
            (problem,) = problems(
                wild + JWKS.replace("https://i.example/", issuer) + URL + UPSTREAM
            )
            self.assertIn("server: public_url is missing", problem)

    def test_one_problem(self) -> None:
        """Tokens that are configured wrongly are no reason to complain of the rest."""
        text = '[auth]\nscopes_supported = ["read"]\n' + JWKS
        self.assertEqual(len(problems(text + UPSTREAM)), 1)


class CertificateTests(SynchronousTestCase):
    """Client certificates as identities."""

    def test_nobody_signs_in(self) -> None:
        """Who asks for certificates is told that they alone sign nobody in."""
        tls = '[server.tls]\ncert_path = "c"\nkey_path = "k"\nclient_ca_path = "a"\n'
        (warning,) = warnings(tls)
        self.assertIn("or let certificates sign in by enabled = true in [auth.mtls]", warning)
        (warning,) = warnings("")
        self.assertNotIn("certificates", warning)

    def test_every_proxy(self) -> None:
        """Trusting every address is trusting everybody."""
        for network in ("0.0.0.0/0", "::/0"):
            (warning,) = warnings(PROXY.replace('"]', f'", "{network}"]'))
            self.assertIn(f"auth.mtls.trusted_proxy_ips[1]: {network} is every address", warning)
        self.assertEqual(warnings(PROXY.replace("10.0.0.1", "10.0.0.0/8")), ())

    def test_subjects_that_cannot_be(self) -> None:
        """A subject that no certificate can have is most likely mistyped."""
        for source, good, bad, kind in (
            ("san_uri", "spiffe://example.org/a", "agent.example.com", "URI"),
            ("sanemail", "a@example.com", "example.com", "email address"),
        ):
            text = f'{PROXY}identity_source = "{source}"\n[[auth.mtls.identities]]\nid = "{{}}"\n'
            self.assertEqual(warnings(text.format(good)), ())
            (warning,) = warnings(text.format(bad))
            self.assertIn(f'auth.mtls.identities[0].id: "{bad}" is no {kind}', warning)
        text = f'{PROXY}[[auth.mtls.identities]]\nid = "any thing"\n'
        self.assertEqual(warnings(text), ())

    def test_url_without_answer(self) -> None:
        """A plain URL for a listener with TLS; not for one that has the URL of another."""
        tls = 'tls = { cert_path = "c", key_path = "k" }\n'
        plain = 'public_url = "http://h.example"\n'
        (warning,) = warnings(KEY + "[server]\n" + plain + tls)
        self.assertIn("server.public_url: is http://, and the listener speaks TLS", warning)
        (warning,) = warnings(KEY + "[[server.listeners]]\nport = 1\n" + plain + tls)
        self.assertIn("server.listeners[0].public_url: is http://", warning)
        shared = "[server]\n" + plain + "[[server.listeners]]\nport = 1\n" + tls
        self.assertEqual(warnings(KEY + shared), ())
