"""Tests of the PEM files that a configuration names."""

import os
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config import pem_files
from mcpguard.config.load import Loaded, loads
from mcpguard.config.reading import NotReadable
from mcpguard.errors import ConfigurationError
from mcpguard.policy.certificates import MAX_CRL_BYTES, MAX_PEM_BYTES
from tests.config.samples import UPSTREAM
from tests.pki import Authority, pem_of_key

ADMIN = '[[auth.api_keys]]\nid = "a"\nkey_hash = "NM/ctIwOdmeAM/InEGwhUP+Hsqs2QVLGErTxDDzpHLg="\n'
TLS = '[server.tls]\ncert_path = "server.crt"\nkey_path = "server.key"\n'
CLIENTS = 'client_ca_path = "ca.crt"\nclient_crl_path = "crl.pem"\n'
SERVER = '[upstream]\ntransport = "http"\nurl = "https://localhost:1/mcp"\n[upstream.tls]\n'
JWKS = (
    '[auth.jwt]\nmode = "jwks"\nissuer = "https://i.example"\naudience = "a"\n'
    'jwks_url = "https://i.example/keys"\njwks_ca_path = "jwks.crt"\n'
)


class FilesCase(SynchronousTestCase):
    """A directory with good files: ca.crt, crl.pem, server.crt, server.key."""

    def setUp(self) -> None:
        """Make them."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.ca = Authority("CA", days=200)
        self.server = self.ca.server("mcp.example.com", days=90)
        self.server.write(self.directory, "server")
        self.put("ca.crt", self.ca.pem)
        self.put("crl.pem", self.ca.crl())

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        (self.directory / name).write_bytes(content)

    def load(self, text: str, now: datetime | None = None) -> Loaded:
        """Load a text that is to be used."""
        return loads(
            text,
            "toml",
            environ={"PATH": os.defpath, "CERT": "elsewhere.crt"},
            base=self.directory,
            now=now or datetime.now(UTC),
        )

    def problems(self, text: str) -> tuple[str, ...]:
        """What is wrong with a text; fails when nothing is."""
        try:
            loaded = self.load(text)
        except ConfigurationError as error:
            return error.problems
        raise AssertionError(f"accepted: {loaded}")

    def assert_problem(self, text: str, *words: str) -> None:
        """There is one problem, and it has all these words."""
        problems = self.problems(text)
        self.assertEqual(len(problems), 1, problems)
        for one in words:
            self.assertIn(one, problems[0])

    def warnings(self, text: str) -> list[str]:
        """What is doubtful, but for what has nothing to do with files."""
        told = self.load(text + ADMIN).warnings
        return [one for one in told if "audit" not in one]


class ListenerTests(FilesCase):
    """``[server.tls]``."""

    def test_good(self) -> None:
        """Nothing to say but when they end."""
        text = UPSTREAM + TLS + CLIENTS
        self.assertEqual(self.warnings(text), [])
        notes = self.load(text).notes
        self.assertEqual(len(notes), 3, notes)
        end = self.server.certificate.not_valid_after_utc
        self.assertEqual(
            notes[0],
            f"server.tls.cert_path: {self.directory}/server.crt is good until"
            f" {end:%Y-%m-%d %H:%M} UTC (line 5)",
        )
        self.assertIn("ca.crt is good until", notes[1])
        self.assertIn("crl.pem is good until", notes[2])

    def test_not_looked_at(self) -> None:
        """Without a time none of them needs to be there."""
        text = UPSTREAM + TLS + CLIENTS + JWKS
        loaded = loads(text, "toml", environ={}, base=Path("/nowhere"))
        self.assertEqual(loaded.notes, ())

    def test_missing(self) -> None:
        """Every file that is not there is named at its key, at once."""
        text = UPSTREAM + (TLS + CLIENTS).replace('"', '"no-', 1).replace('path = "', 'path = "no-')
        text = text.replace("no-no-", "no-")
        problems = self.problems(text)
        self.assertEqual(len(problems), 4, problems)
        for problem, (key, name, line) in zip(
            problems,
            (
                ("cert_path", "no-server.crt", 5),
                ("key_path", "no-server.key", 6),
                ("client_ca_path", "no-ca.crt", 7),
                ("client_crl_path", "no-crl.pem", 8),
            ),
            strict=True,
        ):
            self.assertEqual(
                problem,
                f"server.tls.{key}: {self.directory}/{name} does not exist; correct the path,"
                f" or put the file there (line {line})",
            )

    def test_bad_content(self) -> None:
        """None, damaged, too large, a directory: each file for itself."""
        half = self.server.pem[:200]
        (self.directory / "folder").mkdir()
        for name, content, words in (
            ("server.crt", b"text", "has no PEM certificate"),
            ("server.crt", half, "has no PEM certificate, or a damaged one"),
            ("server.crt", b" " * (MAX_PEM_BYTES + 1), "is larger than"),
            ("server.key", b"", "has no PEM private key"),
            ("server.key", pem_of_key(self.server.key, b"x"), "is encrypted"),
            ("ca.crt", b"", "has no PEM certificate"),
            ("crl.pem", b"", "has no PEM revocation list"),
            ("crl.pem", self.ca.crl().replace(b"A", b"B"), "has a damaged revocation list"),
            ("crl.pem", b" " * (MAX_CRL_BYTES + 1), "is larger than"),
        ):
            with self.subTest(name=name, words=words):
                good = (self.directory / name).read_bytes()
                self.put(name, content)
                self.assert_problem(UPSTREAM + TLS + CLIENTS, name, words)
                self.put(name, good)
        text = UPSTREAM + TLS.replace("server.crt", "folder")
        self.assert_problem(text, "folder is not a regular file")

    def test_no_rights(self) -> None:
        """Who may not read a file is told who must."""

        def refuse(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
            # As root there is no file that cannot be read.
            raise NotReadable("cannot be read: Permission denied")

        self.patch(pem_files, "read_file", refuse)
        self.assert_problem(UPSTREAM + JWKS, "Permission denied; the user the gateway runs as must")

    def test_foreign_key(self) -> None:
        """The key must be that of the first certificate."""
        self.put("server.key", self.ca.server().key_pem)
        self.assert_problem(UPSTREAM + TLS, "server.tls.key_path", "another key than")

    def test_judged(self) -> None:
        """What the judges find stands at its key: time, CAs, lists."""
        self.ca.server(days=-0.1).write(self.directory, "server")
        self.assert_problem(UPSTREAM + TLS, "server.tls.cert_path", "has expired")
        self.server.write(self.directory, "server")
        self.put("ca.crt", self.server.pem + self.ca.pem)
        text = UPSTREAM + TLS + 'client_ca_path = "ca.crt"\n'
        self.assert_problem(text, "server.tls.client_ca_path", "which is no CA")
        self.put("ca.crt", self.ca.pem)
        self.put("crl.pem", self.ca.crl(days=-0.1, starts=-1))
        text = UPSTREAM + TLS + CLIENTS
        self.assert_problem(text, "server.tls.client_crl_path", "had to be renewed")

    def test_further_listeners(self) -> None:
        """Each listener's files are looked at."""
        text = UPSTREAM + "[[server.listeners]]\nport = 9000\n"
        text += 'tls = { cert_path = "server.crt", key_path = "other.key" }\n'
        self.assert_problem(text, "server.listeners[0].tls.key_path", "does not exist", "(line 6)")

    def test_open_key(self) -> None:
        """A key that others can read is usable, but doubtful."""
        (self.directory / "server.key").chmod(0o640)
        (warning,) = self.warnings(UPSTREAM + TLS)
        self.assertIn("server.key is open to others (mode 0640); chmod 600 it", warning)

    def test_soon(self) -> None:
        """What ends soon is said with the day."""
        self.ca.issue("x", dns=("x",), starts=-60, days=20, usages=None).write(
            self.directory, "server"
        )
        (warning,) = self.warnings(UPSTREAM + TLS)
        self.assertIn("in 19 days: certificate 1 in it; renew it", warning)

    def test_names(self) -> None:
        """The certificate must name the host of public_url, that of the listener first."""
        good = '[server]\npublic_url = "https://mcp.example.com/"\n'
        self.assertEqual(self.warnings(good + UPSTREAM + TLS), [])
        other = good.replace("mcp", "other")
        (warning,) = self.warnings(other + UPSTREAM + TLS)
        self.assertIn("server.tls.cert_path: ", warning)
        self.assertIn("is not for other.example.com, the host of public_url", warning)
        listener = (
            '[[server.listeners]]\nport = 9000\npublic_url = "https://mcp.example.com:9000"\n'
            'tls = { cert_path = "server.crt", key_path = "server.key" }\n'
        )
        self.assertEqual(self.warnings(other + UPSTREAM + listener), [])
        listener = listener.replace('public_url = "https://mcp.example.com:9000"\n', "")
        (warning,) = self.warnings(other + UPSTREAM + listener)
        self.assertIn("server.listeners[0].tls.cert_path: ", warning)

    def test_no_names(self) -> None:
        """A server's certificate without names is one that no client accepts."""
        self.ca.issue("mcp.example.com", days=90, usages=None).write(self.directory, "server")
        (warning,) = self.warnings(UPSTREAM + TLS)
        self.assertIn("names no host (subjectAltName)", warning)

    def test_path_by_reference(self) -> None:
        """A path that came from the environment is shown nowhere."""
        text = UPSTREAM + TLS.replace('"server.crt"', '{ env = "CERT" }')
        self.assert_problem(text, "cert_path: the file named there does not exist")
        self.assertNotIn("elsewhere", self.problems(text)[0])


class OtherTablesTests(FilesCase):
    """``[upstream.tls]`` and ``[auth.jwt]``."""

    def test_upstream(self) -> None:
        """A client certificate, its key and the server's CA."""
        self.ca.issue("gateway", days=90).write(self.directory, "gateway")
        own = 'cert_path = "gateway.crt"\nkey_path = "gateway.key"\n'
        text = SERVER + 'ca_path = "ca.crt"\n' + own
        self.assertEqual(self.warnings(text), [])
        self.assertEqual(len(self.load(text).notes), 2)
        self.put("gateway.crt", self.server.pem)
        self.assert_problem(text, "upstream.tls.key_path", "another key")
        self.put("ca.crt", Authority("Old", days=-0.1).pem)
        self.ca.issue("gateway", days=90).write(self.directory, "gateway")
        self.assert_problem(text, "upstream.tls.ca_path", "no certificate that is valid now")

    def test_servers(self) -> None:
        """Those of several servers are named by their place."""
        text = (
            '[[upstream.servers]]\nname = "a"\ntransport = "sse"\nurl = "https://localhost:1/"\n'
            'tls = { ca_path = "no.crt" }\n'
        )
        self.assert_problem(text, "upstream.servers[0].tls.ca_path", "no.crt does not exist")

    def test_key_set(self) -> None:
        """The CA of the issuer's keys."""
        self.assert_problem(UPSTREAM + JWKS, "auth.jwt.jwks_ca_path", "does not exist")
        self.put("jwks.crt", self.ca.pem)
        self.assertEqual(len(self.load(UPSTREAM + JWKS).notes), 1)
