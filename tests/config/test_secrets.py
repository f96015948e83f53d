"""Tests of settings kept outside the file."""

import base64
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.load import loads
from mcpguard.config.secrets import Unresolved, resolve
from mcpguard.config.settings import Secret, SecretText, shown
from mcpguard.errors import ConfigurationError
from tests.config.samples import UPSTREAM, problems, read


class ResolveTests(SynchronousTestCase):
    """References followed."""

    def setUp(self) -> None:
        """A directory for files."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def file(self, data: bytes, mode: int = 0o600) -> Path:
        """A secret file."""
        path = self.directory / "secret"
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def unresolved(self, **reference: object) -> str:
        """The reason."""
        environ = {"EMPTY": "", "LONG": "x" * 101}
        return str(
            self.assertRaises(
                Unresolved, resolve, reference, environ=environ, base=self.directory, limit=100
            )
        )

    def test_environment(self) -> None:
        """A variable's value and where it came from."""
        found = resolve({"env": "A"}, environ={"A": " v\n"}, base=self.directory)
        self.assertEqual(found.secret, Secret(" v\n", "environment variable A"))
        self.assertIn("A is not set", self.unresolved(env="A"))
        self.assertIn("EMPTY is empty", self.unresolved(env="EMPTY"))
        self.assertIn("LONG is longer than 100", self.unresolved(env="LONG"))

    def test_file(self) -> None:
        """A file's text without its last line end, which is no part of a secret."""
        for data, value in ((b"v", "v"), (b"v\n", "v"), (b"v\r\n", "v"), (b" v\n\n", " v\n")):
            path = self.file(data)
            found = resolve({"file": "secret"}, environ={}, base=self.directory)
            self.assertEqual(found.secret, Secret(value, f"file {path}"))
            self.assertEqual(found.warning, "")

    def test_open_file(self) -> None:
        """A file that others can read is a warning."""
        for mode in (0o640, 0o604, 0o620, 0o644):
            self.file(b"v", mode)
            found = resolve({"file": "secret"}, environ={}, base=self.directory)
            self.assertIn(f"is open to others (mode {mode:04o})", found.warning)

    def test_unusable_files(self) -> None:
        """Each kind of file that has no secret has its reason, and none of them blocks."""
        self.assertIn("does not exist", self.unresolved(file="none"))
        for data, words in (
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"\xff", "is not UTF-8 text"),
            (b"x" * 101, "is larger than 100 bytes"),
        ):
            self.file(data)
            self.assertIn(words, self.unresolved(file="secret"))
        self.assertIn("is not a regular file", self.unresolved(file=str(self.directory)))
        os.mkfifo(self.directory / "pipe")
        self.assertIn("is not a regular file", self.unresolved(file="pipe"))
        self.assertIn("cannot be read", self.unresolved(file="a\0b"))

    def test_no_reference(self) -> None:
        """A table that is no reference is told what one is."""
        for reference in (
            {"env": 1},
            {"env": ""},
            {"env": "A", "file": "b"},
            {"environment": "A"},
            {"env": "A", "default": "x"},
        ):
            self.assertIn("a reference is { env = ", self.unresolved(**reference))


class NeverShownTests(SynchronousTestCase):
    """Secrets stay out of messages and of what settings print of themselves."""

    def test_values_that_are_wrong(self) -> None:
        """A value that came by reference is not shown when it cannot be used."""
        for line in (
            'host = { env = "S" }',
            'public_url = { env = "S" }',
            'allowed_hosts = [{ env = "S" }]',
        ):
            (found,) = problems(f"[server]\n{line}\n" + UPSTREAM, S="//hush hush")
            self.assertNotIn("hush", found)
            self.assertIn("(line 2)", found)

    def test_values_that_are_always_secret(self) -> None:
        """Headers, environment, URLs with a password: not shown even when written in the file."""
        cases = (
            '[upstream]\ntransport = "http"\nurl = "http://u:hush@h/"\n',
            '[upstream]\ntransport = "http"\nurl = "http://h:x/?token=hush"\n',
            '[upstream]\ntransport = "http"\nurl = "http://h/"\nheaders = {A = "hush\\n"}\n',
            '[upstream]\ntransport = "http"\nurl = "http://h/"\nheaders = {A = {x = "hush"}}\n',
            '[upstream]\ncommand = "true"\nenv = {A = "hush\\u0000"}\n',
            f'[upstream]\ncommand = "true"\nenv = {{A = "{"hush" * 40_000}"}}\n',
        )
        for text in cases:
            (found,) = problems(text)
            self.assertNotIn("hush", found)
            self.assertIn("accepted: ", found)

    def test_choice(self) -> None:
        """A word that is no choice is shown, one from outside is not."""
        (found,) = problems('[upstream]\ncommand = "x"\nera = {env = "S"}\n', S="hush")
        self.assertNotIn("hush", found)
        loaded = read('[upstream]\ncommand = "x"\nera = {env = "S"}\n', S="legacy")
        self.assertEqual(loaded.settings.upstreams[0].era, "legacy")

    def test_settings_from_outside(self) -> None:
        """An ordinary setting by reference is a str whose repr is only where it came from."""
        text = '[upstream]\ncommand = "true"\nargs = ["-k", {env = "S"}]\nenv = {A = {env = "S"}}\n'
        upstream = read(text, S="hush").settings.upstreams[0]
        self.assertEqual(upstream.args, ("-k", "hush"))
        self.assertEqual(upstream.env["A"].value, "hush")
        self.assertNotIn("hush", repr(upstream))
        self.assertEqual([shown(arg) for arg in upstream.args], ["-k", "<environment variable S>"])

    def test_names_from_outside(self) -> None:
        """An identifier is shown everywhere by its nature: it stays a plain str."""
        text = '[[upstream.servers]]\nname = {env = "S"}\ncommand = "true"\n'
        name = read(text, S="visible").settings.upstreams[0].name
        self.assertIs(type(name), str)

    def test_open_file_is_a_warning(self) -> None:
        """It names the key and the line."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "s").write_text("v")
        (directory / "s").chmod(0o644)
        text = UPSTREAM + 'headers = {A = {file = "s"}}\n'
        loaded = loads(text, "toml", environ={}, base=directory)
        self.assertIn("upstream.headers.A: the secret file ", loaded.warnings[-1])
        self.assertIn("chmod 600 it (line 4)", loaded.warnings[-1])

    def test_missing_is_an_error(self) -> None:
        """What leads nowhere stops the load."""
        text = UPSTREAM + 'headers = {A = {env = "NOT_SET"}}\n'
        error = self.assertRaises(
            ConfigurationError, loads, text, "toml", environ={}, base=Path("/")
        )
        self.assertIn("the environment variable NOT_SET is not set", error.problems[0])

    def test_secret_text(self) -> None:
        """SecretText is a str in every other way."""
        text = SecretText("abc", "environment variable X")
        self.assertEqual((text, len(text), hash(text), f"{text}"), ("abc", 3, hash("abc"), "abc"))
        self.assertEqual(repr(text), "<environment variable X>")
        self.assertNotIn("abc", repr(Secret("abc")))


class HeaderTests(SynchronousTestCase):
    """The headers and environment of an upstream."""

    def test_names(self) -> None:
        """Tokens only, none of the gateway's own, none twice in another case."""
        for name, words in (
            *((n, "is the gateway's own to set") for n in ("Host", "CONNECTION", "te", "Accept")),
            *((n, "is the gateway's own") for n in ("Content-Length", "Mcp-Session-Id", "Upgrade")),
            *((n, "not a header name") for n in ("", "a b", "a:", "ä", "a\\r\\nb", "x" * 257)),
        ):
            (found,) = problems(f'{UPSTREAM}headers = {{"{name}" = "x"}}\n')
            self.assertIn(words, found)
        (found,) = problems(f'{UPSTREAM}headers = {{A = "x", a = "y"}}\n')
        self.assertIn("headers.a: given twice", found)

    def test_values(self) -> None:
        """No line ends, controls, outer blanks or characters beyond ASCII."""
        for value in ("", " a", "a ", "a\\r\\nB: c", "a\\u0000", "\\u00e4", "a\\u007f"):
            (found,) = problems(f'{UPSTREAM}headers = {{A = "{value}"}}\n')
            self.assertIn("headers.A: ", found)
        read(f'{UPSTREAM}headers = {{A = "Bearer a b\\tc"}}\n')

    def test_environment(self) -> None:
        """Names of variables, values without NUL."""
        for name in ("", "1A", "A-B", "A=B", "A\\u0000"):
            (found,) = problems(f'[upstream]\ncommand = "true"\nenv = {{"{name}" = "x"}}\n')
            self.assertIn("not a name for an environment variable", found)
        (found,) = problems('[upstream]\ncommand = "true"\ninherit_env = ["A B"]\n')
        self.assertIn("inherit_env[0]", found)

    def test_number(self) -> None:
        """There is a limit to how many."""
        many = ", ".join(f'A{n} = "x"' for n in range(257))
        (found,) = problems(f"{UPSTREAM}headers = {{{many}}}\n")
        self.assertIn("more than 256 entries", found)

    def test_urls_that_are_never_dialled(self) -> None:
        """Metadata and link-local addresses are refused already in the file, in any writing."""
        for host in ("169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "224.0.0.1"):
            text = f'[upstream]\ntransport = "http"\nurl = "http://{host}/mcp"\n'
            self.assertIn("an address that is never dialled", problems(text)[0])
        for host in ("2852039166", "0xa9fea9fe", "0x7f.1"):
            text = f'[upstream]\ntransport = "http"\nurl = "http://{host}/mcp"\n'
            self.assertIn("has no valid host name", problems(text)[0])
        for host in ("127.0.0.1:8080", "[::1]", "10.0.0.1", "mcp.internal"):
            read(f'[upstream]\ntransport = "http"\nurl = "http://{host}/mcp"\n')


class SessionKeyTests(SynchronousTestCase):
    """``[server] session_key``."""

    RAW = bytes(range(100, 132))

    def key(self, text: str) -> Secret | None:
        """What a key in the environment becomes."""
        loaded = read(UPSTREAM + '[server]\nsession_key = {env = "K"}\n', K=text)
        return loaded.settings.server.session_key

    def test_forms(self) -> None:
        """Base64 of either alphabet, padded or not, and hexadecimal are the same key."""
        raw = bytes([251, 255, 190, *self.RAW[3:]])
        standard = base64.b64encode(raw).decode()
        self.assertIn("/", standard)
        for text in (
            standard,
            standard.rstrip("="),
            base64.urlsafe_b64encode(raw).decode(),
            raw.hex(),
            raw.hex().upper(),
            f" {standard}\n",
        ):
            key = self.key(text)
            assert key is not None
            self.assertEqual(bytes.fromhex(key.value), raw, text)
            self.assertEqual(key.source, "environment variable K")
            self.assertNotIn(raw.hex()[:8], repr(key))

    def test_refused(self) -> None:
        """What is no key is told with what is accepted and how to make one, never shown."""
        for text, why in (
            ("correct horse battery staple", ": neither base64 nor hexadecimal;"),
            ("c2hvcnQ=", ": 5 bytes instead of 32;"),
            (self.RAW.hex() + "00", ": 49 bytes instead of 32;"),
            ("A" * 43 + "=", ": these bytes are not random;"),
            ("0" * 64, ": these bytes are not random;"),
            ("\u0661" * 64, ": neither base64 nor hexadecimal;"),
        ):
            (found,) = problems(UPSTREAM + '[server]\nsession_key = {env = "K"}\n', K=text)
            self.assertIn(f"server.session_key{why}", found)
            self.assertIn("32 random bytes in base64 or hexadecimal", found)
            self.assertIn("openssl rand -base64 32", found)
            self.assertNotIn(text, found)

    def test_in_the_file_itself(self) -> None:
        """It is hidden there as well."""
        (found,) = problems(UPSTREAM + '[server]\nsession_key = "hushhush"\n')
        self.assertNotIn("hushhush", found)

    def test_every_random_key_is_accepted(self) -> None:
        """The test for randomness finds none in what was drawn."""
        for _ in range(200):
            self.assertIsNotNone(self.key(base64.b64encode(os.urandom(32)).decode()))

    def test_unset(self) -> None:
        """Nothing has to be there: a key is made at start."""
        self.assertIsNone(read(UPSTREAM).settings.server.session_key)
