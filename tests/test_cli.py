"""Tests of the mcp-guard command, without reactor and sockets."""

import base64
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
from attrs import evolve
from click.testing import CliRunner, Result
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mcpguard import __version__, cli, foreground, gateway
from mcpguard.config.load import load
from mcpguard.config.settings import Settings
from mcpguard.errors import ConfigurationError
from mcpguard.gateway import parent
from mcpguard.terminal import plain
from mcpguard.upstream.report import UpstreamReport
from tests.config.samples import HASH, UPSTREAM
from tests.pki import Authority
from tests.test_summary import REPORT

KEY = re.compile(r"mcp_[A-Za-z0-9_-]{43}")
SOUND = f'{UPSTREAM}[audit]\nstdout = true\n[[auth.api_keys]]\nid = "a"\nkey_hash = "{HASH}"\n'
SECOND = SOUND.replace(
    "[audit]", '[[upstream.servers]]\nname = "fs"\ncommand = "/bin/true"\n[audit]'
)


class CommandTestCase(SynchronousTestCase):
    """The command in a directory of its own."""

    def setUp(self) -> None:
        """An empty current directory."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.directory)

    def invoke(self, *args: str, typed: str = "", **environ: str) -> Result:
        """Run a command line; an exception that is not an exit fails the test."""
        result = CliRunner(env=environ).invoke(cli.main, args, input=typed, prog_name="mcp-guard")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def succeed(self, *args: str, typed: str = "", **environ: str) -> str:
        """What a successful command wrote to stdout."""
        result = self.invoke(*args, typed=typed, **environ)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.stdout

    def refuse(self, *args: str, status: int = 1, typed: str = "") -> str:
        """What a failing command wrote to stderr; it has no result."""
        result = self.invoke(*args, typed=typed)
        self.assertEqual(result.exit_code, status, result.output)
        return result.stderr

    def write(self, text: str, name: str = "mcp-guard.toml") -> Path:
        """A configuration file."""
        path = self.directory / name
        path.write_text(text)
        return path


class InitTests(CommandTestCase):
    """Writing a configuration."""

    def test_default(self) -> None:
        """A private mcp-guard.toml, valid as it is."""
        out = self.succeed("init")
        self.assertEqual(
            out,
            "ok Created mcp-guard.toml\n\nNext steps:\n"
            "  mcp-guard keygen --user-id my-agent --apply-to-config\n"
            "  mcp-guard validate\n  mcp-guard run\n",
        )
        mode = stat.S_IMODE((self.directory / "mcp-guard.toml").stat().st_mode)
        self.assertEqual(mode, 0o600)
        result = self.invoke("validate")
        self.assertEqual(result.stdout, "Configuration is valid: mcp-guard.toml\n")
        self.assertIn("Warning: no authentication is configured", result.stderr)

    def test_yaml(self) -> None:
        """--format yaml writes mcp-guard.yaml, which the other commands then find."""
        self.succeed("init", "--format", "yaml")
        self.assertEqual(self.succeed("validate"), "Configuration is valid: mcp-guard.yaml\n")

    def test_named(self) -> None:
        """-c names the file and by its suffix the format; the next steps name it too."""
        out = self.succeed("-c", "my guard.yml", "init")
        self.assertIn("mcp-guard -c 'my guard.yml' validate\n", out)
        self.succeed("validate", "-c", "my guard.yml")

    def test_contradiction(self) -> None:
        """A format that the name contradicts is a usage error."""
        err = self.refuse("init", "-c", "a.yaml", "--format", "toml", status=2)
        self.assertIn("a.yaml is yaml by its name, not toml", err)

    def test_not_over_an_old_file(self) -> None:
        """Only with --force."""
        self.write("old")
        self.assertIn("mcp-guard.toml already exists; --force", self.refuse("init"))
        self.succeed("init", "--force")
        load(self.directory / "mcp-guard.toml", environ={})


class KeygenTests(CommandTestCase):
    """Making keys."""

    def test_shown(self) -> None:
        """The key, and the entry to paste, which has its hash."""
        out = self.succeed("keygen", "--user-id", "alice")
        (key,) = KEY.findall(out)
        digest = base64.b64encode(hashlib.sha256(key.encode()).digest()).decode()
        self.assertEqual(
            out,
            f"API Key (save this, shown only once):\n  {key}\n\nAdd to mcp-guard.toml:\n\n"
            f'[[auth.api_keys]]\nid = "alice"\nkey_hash = "{digest}"\n',
        )
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_shown_for_yaml(self) -> None:
        """The entry has the form of the file it is for."""
        out = self.succeed("keygen", "--user-id", "alice", "-c", "x.yaml")
        self.assertIn('Add to x.yaml:\n\nauth:\n  api_keys:\n    - id: "alice"\n', out)

    def test_every_option(self) -> None:
        """Limits, tools and the end of the key are in the entry."""
        before = datetime.now(UTC)
        self.write(SOUND)
        self.succeed(
            *("keygen", "--user-id", "b", "--rate-limit", "2.5", "--tools", "read_*, x"),
            *("--expires", "90d", "--apply-to-config"),
        )
        key = load(self.directory / "mcp-guard.toml", environ={}).settings.auth.api_keys[1]
        self.assertEqual(key.identity.allowed_tools, ("read_*", "x"))
        self.assertEqual(key.identity.rate_limit, 2.5)
        assert key.expires_at is not None
        away = abs(key.expires_at - before - timedelta(days=90))
        self.assertLess(away, timedelta(minutes=1))

    def test_no_tools(self) -> None:
        """An empty list of tools allows nothing, rather than everything."""
        self.assertIn("allowed_tools = []", self.succeed("keygen", "--user-id", "b", "--tools", ""))

    def test_applied(self) -> None:
        """The walkthrough's words; the file keeps all it had, its mode, and gains the key."""
        path = self.write("# mine\n" + SOUND)
        path.chmod(0o640)
        out = self.succeed("keygen", "--user-id", "my-agent", "--apply-to-config")
        (key,) = KEY.findall(out)
        self.assertEqual(
            out,
            "ok API key for 'my-agent' added to mcp-guard.toml\n\n"
            f"API Key (save this, shown only once):\n  {key}\n\n"
            "Next steps:\n  mcp-guard validate\n  mcp-guard run\n",
        )
        text = path.read_text()
        self.assertTrue(text.startswith("# mine\n" + SOUND))
        self.assertNotIn(key, text)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)
        added = load(path, environ={}).settings.auth.api_keys[1]
        self.assertEqual(added.key_hash, hashlib.sha256(key.encode()).digest())

    def test_same_id(self) -> None:
        """A second key of one id is refused, and the file not touched."""
        path = self.write(SOUND)
        err = self.refuse("keygen", "--user-id", "a", "--apply-to-config")
        self.assertIn('there is already an API key with the id "a"', err)
        self.assertEqual(path.read_text(), SOUND)

    def test_same_id_by_reference(self) -> None:
        """Also when the id in the file stands elsewhere."""
        text = SOUND.replace('id = "a"', 'id = { env = "WHO" }')
        path = self.write(text)
        result = self.invoke("keygen", "--user-id", "bob", "--apply-to-config", WHO="bob")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("another API key has this id", result.stderr)
        self.assertEqual(path.read_text(), text)

    def test_no_worse(self) -> None:
        """A file whose secrets are elsewhere can be edited; an entry that is wrong cannot."""
        text = SOUND.replace("[audit]", 'headers = { A = { env = "NOT_HERE" } }\n[audit]')
        path = self.write(text)
        self.succeed("keygen", "--user-id", "b", "--apply-to-config")
        changed = path.read_text()
        err = self.refuse("keygen", "--user-id", "c", "--rate-limit", "0", "--apply-to-config")
        self.assertIn("rate_limit: 0: out of range", err)
        self.assertNotIn("NOT_HERE", err)
        self.assertEqual(path.read_text(), changed)

    def test_wrong_values(self) -> None:
        """What no configuration would accept is refused before a key is shown."""
        for args in (
            ("--user-id", ""),
            ("--user-id", "a\nb"),
            ("--user-id", "a", "--rate-limit", "0"),
            ("--user-id", "a", "--rate-limit", "nan"),
            ("--user-id", "a", "--tools", "x" * 600),
        ):
            result = self.invoke("keygen", *args)
            self.assertEqual((result.exit_code, result.stdout), (1, ""), args)
            self.assertIn("accepted: ", result.stderr)
        wrong: tuple[tuple[str, ...], ...] = (
            ("--user-id", "a", "--expires", "soon"),
            ("--user-id", "a", "--expires", "999999w"),
            ("--user-id", "a", "--rate-limit", "x"),
            (),
        )
        for more in wrong:
            self.refuse("keygen", *more, status=2)

    def test_no_file(self) -> None:
        """Without a file to add to: the cure."""
        err = self.refuse("keygen", "--user-id", "a", "--apply-to-config")
        self.assertIn(
            "Config file not found: mcp-guard.toml. Create one with `mcp-guard init`", err
        )


class HashKeyTests(CommandTestCase):
    """Hashing keys."""

    EXPECTED = base64.b64encode(hashlib.sha256(b"mcp_x").digest()).decode() + "\n"

    def test_ways_in(self) -> None:
        """As an argument, or from stdin so that it stays out of the history."""
        self.assertEqual(self.succeed("hash-key", "mcp_x"), self.EXPECTED)
        for typed in ("mcp_x", "mcp_x\n", "mcp_x\r\n", "mcp_x\nmore"):
            self.assertEqual(self.succeed("hash-key", typed=typed), self.EXPECTED)
            self.assertEqual(self.succeed("hash-key", "-", typed=typed), self.EXPECTED)

    def test_refused(self) -> None:
        """What is no key."""
        self.assertIn("the key is empty", self.refuse("hash-key"))
        self.assertIn("contains a blank", self.refuse("hash-key", "mcp_ x"))
        self.assertIn("longer than 4096", self.refuse("hash-key", typed="x" * 10_000))


class ValidateTests(CommandTestCase):
    """Checking a file."""

    def test_valid(self) -> None:
        """One line on stdout, nothing on stderr."""
        self.write(SOUND)
        result = self.invoke("validate")
        self.assertEqual(result.stdout, "Configuration is valid: mcp-guard.toml\n")
        self.assertEqual((result.stderr, result.exit_code), ("", 0))

    def test_every_error(self) -> None:
        """All of them, one a line, on stderr."""
        self.write("[server]\nport = 0\nprot = 1\n" + UPSTREAM)
        result = self.invoke("validate")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(
            result.stderr,
            "Error: Configuration is not valid: mcp-guard.toml\n"
            "  - server.port: 0: out of range; accepted: an integer from 1 to 65535 (line 2)\n"
            '  - server.prot: unknown key; did you mean "port"? (line 3)\n',
        )

    def test_missing(self) -> None:
        """One sentence with the cure."""
        self.assertEqual(
            self.refuse("validate"),
            "Error: Config file not found: mcp-guard.toml. Create one with `mcp-guard init`,"
            " or name another with --config FILE.\n",
        )

    def test_secrets_are_resolved(self) -> None:
        """What a reference leads to must be there; it is not shown."""
        self.write(SOUND.replace("[audit]", 'headers = { A = { env = "HUSH" } }\n[audit]'))
        self.assertIn("the environment variable HUSH is not set", self.refuse("validate"))
        result = self.invoke("validate", HUSH="s3cret")
        self.assertEqual(result.exit_code, 0)
        self.assertNotIn("s3cret", result.output)

    def test_expired_key(self) -> None:
        """A key that no longer counts is a warning."""
        self.write(SOUND + "expires_at = 2001-01-01T00:00:00Z\n")
        result = self.invoke("validate")
        self.assertEqual(result.exit_code, 0)
        self.assertIn('Warning: the API key "a" expired at 2001-01-01', result.stderr)

    def test_certificates(self) -> None:
        """Files are looked into; -v tells on stderr until when they are good."""
        text = SOUND + '[server.tls]\ncert_path = "s.crt"\nkey_path = "s.key"\n'
        self.write(text)
        self.assertIn("s.crt does not exist", self.refuse("validate"))
        Authority("CA", days=100).server(days=90).write(self.directory, "s")
        result = self.invoke("validate")
        self.assertEqual(result.stdout, "Configuration is valid: mcp-guard.toml\n")
        self.assertEqual((result.stderr, result.exit_code), ("", 0))
        result = self.invoke("validate", "-v")
        self.assertEqual(result.stdout, "Configuration is valid: mcp-guard.toml\n")
        self.assertIn("s.crt is good until 20", result.stderr)
        Authority("CA").server(days=-0.1).write(self.directory, "s")
        self.assertIn("s.crt has expired", self.refuse("validate"))

    def test_option_anywhere(self) -> None:
        """-c and -v before or after the command; the one behind it wins."""
        self.write(SOUND, "x.toml")
        for args in (
            ("-c", "x.toml", "validate"),
            ("validate", "-c", "x.toml"),
            ("--config=x.toml", "-v", "validate", "-v"),
            ("-c", "none.toml", "validate", "--config", "x.toml", "-vv"),
        ):
            self.assertEqual(self.succeed(*args), "Configuration is valid: x.toml\n")


class CheckUpstreamTests(CommandTestCase):
    """Asking the servers."""

    def asked(self, *reports: UpstreamReport) -> list[tuple[Any, ...]]:
        """Let the servers have answered this; the questions asked."""
        questions: list[tuple[Any, ...]] = []

        def ask(
            settings: Settings, timeout: float, server: str | None, verbosity: int
        ) -> tuple[UpstreamReport, ...]:
            questions.append((timeout, server, verbosity))
            return reports

        self.patch(cli, "ask_upstreams", ask)
        return questions

    def test_one(self) -> None:
        """The walkthrough's form."""
        self.write(SOUND)
        questions = self.asked(REPORT)
        self.assertEqual(
            self.succeed("check-upstream"),
            "Checking upstream connectivity...\n\n"
            "Transport: http\nURL:       http://localhost:1/mcp\n\n"
            "Server: @modelcontextprotocol/server-filesystem v0.6.2\n"
            "Protocol: 2025-11-25 (handshake)\nTools (2): read_file, write_file\n"
            "ok Upstream is reachable and responding\n",
        )
        self.assertEqual(questions, [(10.0, None, 0)])

    def test_one_of_several_fails(self) -> None:
        """Each is shown; the status says that not all is well."""
        self.write(SECOND)
        self.asked(evolve(REPORT, name="fs", ok=False, error="no answer"), REPORT)
        result = self.invoke("check-upstream", "--timeout", "2.5")
        self.assertEqual(result.exit_code, 1)
        parts = result.stdout.split("\n\n")
        self.assertIn("Upstream:  default", parts[1])
        self.assertIn("ok Upstream is reachable", parts[2])
        self.assertIn("Upstream:  fs", parts[3])
        self.assertIn("failed Upstream did not answer: no answer", parts[4])

    def test_named(self) -> None:
        """Only one of several; a name that is not there is an error."""
        self.write(SECOND)
        questions = self.asked(evolve(REPORT, name="fs"))
        out = self.succeed("check-upstream", "--server", "fs", "--timeout", "3", "-v")
        self.assertIn("Upstream:  fs\n", out)
        self.assertNotIn("default", out)
        self.assertEqual(questions, [(3.0, "fs", 1)])
        err = self.refuse("check-upstream", "--server", "x")
        self.assertIn("no server is named 'x'; configured: default, fs", err)

    def test_interrupted(self) -> None:
        """Ctrl-C before an answer is no success."""
        self.write(SOUND)
        self.asked()
        self.assertIn("interrupted", self.refuse("check-upstream"))

    def test_usage(self) -> None:
        """A timeout is a number above 0."""
        self.write(SOUND)
        for timeout in ("0", "-1", "x", "601", "nan"):
            self.refuse("check-upstream", "--timeout", timeout, status=2)


class AskTests(CommandTestCase):
    """From the servers' reports to the command, over a reactor that is not run."""

    def answered(self, *found: object) -> None:
        """Let the check come to this."""

        async def check(reactor: object, settings: Settings, **how: object) -> tuple[object, ...]:
            return found

        def react(main: Callable[[object], Any]) -> NoReturn:
            outcome: list[object] = []
            Deferred.fromCoroutine(main(object())).addBoth(outcome.append)
            raise SystemExit(1 if isinstance(outcome[0], Failure) else 0)

        self.patch(gateway, "check_upstreams", check)
        self.patch(task, "react", react)
        self.patch(foreground, "begin_logging", lambda stream, verbosity: None)
        self.write(SOUND)

    def test_reports(self) -> None:
        """They arrive as they are."""
        self.answered(REPORT)
        self.assertIn("ok Upstream is reachable", self.succeed("check-upstream"))

    def test_fault_of_the_check(self) -> None:
        """A fault of the check itself is neither a success nor a server's failure."""
        self.answered(Failure(NameError("x")))
        self.assertIn("the check itself failed", self.refuse("check-upstream"))


class RunTests(CommandTestCase):
    """The foreground gateway, up to the door of the reactor."""

    def setUp(self) -> None:
        """A gateway that is only told what it would have to do."""
        super().setUp()
        self.built: list[Settings] = []
        self.verbosity: list[int] = []
        self.problem = ""
        self.urls = ("http://127.0.0.1:12345",)

        def build(settings: Settings, reactor: object) -> object:
            self.built.append(settings)
            return self

        def serve(
            service: object,
            reactor: object,
            announce: Callable[[str], None],
            say: Callable[[str], None],
        ) -> str:
            self.assertIs(service, self)
            if not self.problem:
                announce(self.urls[0])
            return self.problem

        self.settled: list[bool] = []
        self.patch(gateway, "Gateway", build)
        self.patch(gateway, "settle_down", lambda: self.settled.append(True))
        self.patch(foreground, "run_service", serve)
        self.patch(foreground, "begin_logging", lambda stream, v: self.verbosity.append(v))

    def test_summary(self) -> None:
        """On stderr, so that stdout holds audit events only."""
        self.write(SOUND)
        result = self.invoke("run")
        self.assertEqual((result.exit_code, result.stdout), (0, ""))
        self.assertIn(f"MCP Guard v{__version__}\n", result.stderr)
        self.assertIn("ok Server:     http://127.0.0.1:12345\n", result.stderr)
        self.assertTrue(result.stderr.endswith("\n\nReady for requests!\n"))
        self.assertEqual(self.settled, [True])

    def test_listener(self) -> None:
        """The command line's word comes before the file's; port 0 is any free one."""
        self.write(SOUND)
        self.succeed("run", "--host", "::1", "--port", "0")
        server = self.built[0].server
        self.assertEqual((server.host, server.port), ("::1", 0))
        self.refuse("run", "--port", "65536", status=2)
        self.assertIn("--host", self.refuse("run", "--host", "a b"))

    def test_workers(self) -> None:
        """With several workers it is the parent that runs; it can read the file again."""
        given: list[dict[str, Any]] = []

        def build(settings: Settings, reactor: object, **how: Any) -> object:
            self.built.append(settings)
            given.append(how)
            return self

        self.patch(parent, "WorkerParent", build)
        path = self.write(f"[server]\nworkers = 2\n{SOUND}")
        self.succeed("run", "-vv", "--port", "0")
        self.assertEqual([one.server.workers for one in self.built], [2])
        (how,) = given
        self.assertEqual((how["log_level"], how["keep_trying"]), ("debug", False))
        path.write_text(f"[server]\nworkers = 3\n{SOUND}")
        os.chdir("/")
        again = how["reread"]().settings.server
        self.assertEqual((again.workers, again.port), (3, 0))
        path.write_text("[server]\nworkers = 0\n")
        with self.assertRaises(ConfigurationError):
            how["reread"]()

    def test_worker_command(self) -> None:
        """What the parent starts is nobody else's business: help does not name it."""
        self.assertNotIn("worker", self.succeed("--help"))

    def test_verbosity(self) -> None:
        """-v counts, before and after the command."""
        self.write(SOUND)
        for args in (("run",), ("run", "-v"), ("-v", "run", "-v"), ("run", "-vvv")):
            self.succeed(*args)
        self.assertEqual(self.verbosity, [0, 1, 2, 3])

    def test_cannot_start(self) -> None:
        """One clear line and status 1."""
        self.write(SOUND)
        self.problem = "cannot listen on 127.0.0.1:3000: Address already in use"
        self.assertEqual(self.refuse("run"), f"Error: {self.problem}\n")

    def test_refused_by_the_gateway(self) -> None:
        """What only the gateway finds out is shown like any other problem of the file."""

        def build(settings: Settings, reactor: object) -> object:
            raise ConfigurationError(("one", "two"))

        self.patch(gateway, "Gateway", build)
        self.write(SOUND)
        self.assertEqual(
            self.refuse("run"),
            "Error: Configuration is not valid: mcp-guard.toml\n  - one\n  - two\n",
        )


class VersionTests(CommandTestCase):
    """What it is."""

    def test_version(self) -> None:
        """Version, Python, Twisted, OpenSSL, features."""
        lines = self.succeed("version").splitlines()
        self.assertEqual(lines[0], f"mcp-guard {__version__}")
        names = ["Python:", "Twisted:", "OpenSSL:", "Features:"]
        self.assertEqual([line.split()[0] for line in lines[1:]], names)
        self.assertTrue(all(len(line.split()) > 1 for line in lines))
        self.assertEqual(self.succeed("--version").splitlines(), lines[:1])

    def test_help(self) -> None:
        """All seven commands; a wrong one is a usage error."""
        out = self.succeed("--help")
        for command in (
            *("init", "keygen", "hash-key", "validate", "check-upstream", "run", "version"),
        ):
            self.assertIn(f"\n  {command}", out)
            self.succeed(command, "--help")
        self.refuse("serve", status=2)


class _Stream(io.StringIO):
    """A stream that is, or is not, a terminal."""

    def __init__(self, terminal: bool, encoding: str) -> None:
        super().__init__()
        self._terminal = terminal
        self._named = encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._named


class PlainTests(SynchronousTestCase):
    """Where only ASCII is written."""

    def test_streams(self) -> None:
        """Everywhere but on a terminal that knows UTF-8."""
        for terminal, encoding, expected in (
            (True, "utf-8", False),
            (True, "UTF8", False),
            (True, "ascii", True),
            (True, "latin-1", True),
            (False, "utf-8", True),
        ):
            self.assertEqual(plain(_Stream(terminal, encoding)), expected, (terminal, encoding))


class ReferenceTests(SynchronousTestCase):
    """docs/cli.md beside the command."""

    def setUp(self) -> None:
        """The text, by command."""
        path = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
        parts = re.split(r"(?m)^## ", path.read_text("utf-8"))
        self.sections = {part.partition("\n")[0]: part for part in parts[1:]}

    def test_commands(self) -> None:
        """Every command has its section, and there is no other but twistd's."""
        commands = {name for name, one in cli.main.commands.items() if not one.hidden}
        self.assertEqual(set(self.sections) - {"twistd"}, commands)

    def test_options(self) -> None:
        """Every option of each command is told, and no other."""
        shared = {"--config", "--verbose"}
        for name, command in cli.main.commands.items():
            if command.hidden:
                continue
            real = {
                word
                for option in command.params
                if isinstance(option, click.Option)
                for word in option.opts
                if word.startswith("--")
            }
            told = set(re.findall(r"(?m)^\| `(--[a-z-]+)", self.sections[name]))
            self.assertEqual(told, real - shared, name)
