"""Tests of what must hold between keys."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.rules import OWN_SERVER
from mcpguard.config.upstream_schema import UPSTREAM_KEYS
from mcpguard.errors import ConfigurationError
from tests.config.samples import HASH, UPSTREAM, problems, read

KEY = f'[[auth.api_keys]]\nid = "a"\nkey_hash = "{HASH}"\n'
QUIET = KEY + "[audit]\nstdout = true\n"
SERVER = '[[upstream.servers]]\nname = "a"\n{text}era = "modern"\n'


class TransportTests(SynchronousTestCase):
    """The keys of one transport and of the other."""

    def only_problem(self, text: str) -> str:
        """The one thing that is wrong."""
        found = problems(text)
        self.assertEqual(len(found), 1, found)
        return found[0]

    def test_missing(self) -> None:
        """Each transport needs its own key."""
        self.assertEqual(
            self.only_problem('[upstream]\ntransport = "stdio"\n'),
            'upstream: command is missing: transport = "stdio" needs it (line 1)',
        )
        self.assertEqual(
            self.only_problem('[upstream]\ntransport = "http"\n'),
            'upstream: url is missing: transport = "http" needs it (line 1)',
        )
        self.assertEqual(
            self.only_problem('[upstream]\ntransport = "sse"\n'),
            'upstream: url is missing: transport = "sse" needs it (line 1)',
        )
        self.assertIn("command is missing", self.only_problem("[upstream]\n"))

    def test_sse(self) -> None:
        """HTTP+SSE takes the keys of ``http``, and no era it cannot have."""
        text = '[upstream]\ntransport = "sse"\nurl = "http://h/sse"\n'
        more = 'headers = { A = "b" }\nallow_private_networks = true\n'
        for era in ("auto", "legacy"):
            (one,) = read(f'{text}{more}era = "{era}"\n').settings.upstreams
            self.assertEqual((one.transport, one.url, one.era), ("sse", "http://h/sse", era))
            self.assertEqual(one.headers["A"].value, "b")
        self.assertEqual(
            self.only_problem(f'{text}era = "modern"\n'),
            'upstream.era: not "modern" for transport = "sse", which is older than stateless'
            " versions (line 4)",
        )
        self.assertIn("upstream.servers[0].era: not", problems(SERVER.format(text=text[11:]))[0])

    def test_restart(self) -> None:
        """What becomes of a session is asked only where its server's side can end for good."""
        stdio = '[upstream]\ncommand = "true"\n'
        self.assertEqual(read(stdio).settings.upstreams[0].restart, "end")
        loaded = read(stdio + 'restart = "replay"\n')
        self.assertEqual(loaded.settings.upstreams[0].restart, "replay")
        for text in (
            UPSTREAM + 'restart = "replay"\n',
            '[[upstream.servers]]\nname = "a"\ntransport = "http"\nurl = "http://localhost:1/"\n'
            'restart = "end"\n',
        ):
            problem = self.only_problem(text)
            self.assertIn('restart: not for transport = "http"', problem)
        several = (
            '[upstream]\nrestart = "end"\n[[upstream.servers]]\nname = "a"\ncommand = "true"\n'
        )
        self.assertIn("belongs to one server", self.only_problem(several))

    def test_bridge(self) -> None:
        """Falling back needs a server that may know the handshake; with translation all is well."""
        text = '[upstream]\ncommand = "true"\nera = "{}"\nbridge = "{}"\n'
        for era, bridge in (("auto", "fallback"), ("legacy", "fallback"), ("modern", "translate")):
            (one,) = read(text.format(era, bridge)).settings.upstreams
            self.assertEqual((one.era, one.bridge), (era, bridge))
        self.assertEqual(
            self.only_problem(text.format("modern", "fallback")),
            'upstream.bridge: not "fallback" for era = "modern": clients cannot shake hands with'
            " that server (line 4)",
        )

    def test_mixed(self) -> None:
        """A key of the other transport is an error, on its own line."""
        for key, value in (
            ("args", "[]"),
            ("cwd", '"/"'),
            ("env", "{}"),
            ("inherit_env", "[]"),
            ("isolation", '"shared"'),
            ("max_children", "1"),
            ("idle_timeout_secs", "1"),
            ("limits", "{}"),
            ("command", '"true"'),
        ):
            for text in (UPSTREAM, UPSTREAM.replace('"http"', '"sse"')):
                self.assertEqual(
                    self.only_problem(f"{text}{key} = {value}\n"),
                    f'upstream.{key}: only for transport = "stdio" (line 4)',
                )
        for key, value in (
            ("url", '"http://h/"'),
            ("headers", "{}"),
            ("allow_private_networks", "true"),
        ):
            text = f'[upstream]\ntransport = "stdio"\ncommand = "true"\n{key} = {value}\n'
            self.assertEqual(
                self.only_problem(text), f'upstream.{key}: not for transport = "stdio" (line 4)'
            )

    def test_url_alone(self) -> None:
        """A url without a transport is told what to add."""
        self.assertEqual(
            self.only_problem('[upstream]\nurl = "http://h/"\n'),
            'upstream.url: not for transport = "stdio", which is the default; set transport ='
            ' "http" (line 2)',
        )

    def test_timeouts(self) -> None:
        """The longest timeout is not shorter than the one of each request, given or default."""
        self.assertIn(
            "upstream.max_timeout_secs: max_timeout_secs (5) is shorter than timeout_secs (10)",
            self.only_problem(f"{UPSTREAM}timeout_secs = 10\nmax_timeout_secs = 5\n"),
        )
        self.assertIn(
            "upstream.timeout_secs: max_timeout_secs (900) is shorter than timeout_secs (901)",
            self.only_problem(f"{UPSTREAM}timeout_secs = 901\n"),
        )
        self.assertIn(
            "max_timeout_secs (59) is shorter than timeout_secs (60)",
            self.only_problem(f"{UPSTREAM}max_timeout_secs = 59\n"),
        )
        read(f"{UPSTREAM}timeout_secs = 5\nmax_timeout_secs = 5\n")

    def test_command_not_found(self) -> None:
        """A program that is not there is a warning: it may be there when it is needed."""
        text = '[upstream]\ncommand = "no-such-program-here"\n' + QUIET
        self.assertEqual(
            read(text).warnings,
            (
                'upstream.command: "no-such-program-here" is not there, or not executable, now'
                " (line 2)",
            ),
        )
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        program = directory / "server"
        program.write_text("")
        text = f'[upstream]\ncommand = "./server"\ncwd = "{directory}"\n' + QUIET
        self.assertEqual(len(read(text).warnings), 1)
        program.chmod(0o700)
        self.assertEqual(read(text).warnings, ())


class ServersTests(SynchronousTestCase):
    """Several servers."""

    def servers(self, *entries: str, head: str = "") -> str:
        """A file with these servers."""
        text = head
        for entry in entries:
            text += f'[[upstream.servers]]\ntransport = "http"\nurl = "http://h/"\n{entry}\n'
        return text

    def test_several(self) -> None:
        """They come in the order of the file, behind the one of [upstream] itself."""
        text = self.servers('name = "b"', 'name = "a"', head=UPSTREAM)
        self.assertEqual([u.name for u in read(text).settings.upstreams], ["default", "b", "a"])
        text = self.servers('name = "b"', 'name = "a"')
        self.assertEqual([u.name for u in read(text).settings.upstreams], ["b", "a"])

    def test_keys_beside_servers(self) -> None:
        """A key in [upstream] that no server of its own uses would do nothing: an error."""
        found = problems(self.servers('name = "a"', head="[upstream]\ntimeout_secs = 5\n"))
        self.assertEqual(
            found,
            (
                "upstream.timeout_secs: belongs to one server: put it into the"
                " [[upstream.servers]] it is for (line 2)",
            ),
        )

    def test_every_key_beside_servers(self) -> None:
        """Each key of a server is noticed there, also those that were added last."""
        for key in UPSTREAM_KEYS.keys() - set(OWN_SERVER):
            with self.subTest(key):
                text = self.servers('name = "a"', head=f"[upstream]\n{key} = 77777\n")
                self.assertTrue(
                    any(one.startswith(f"upstream.{key}: belongs to") for one in problems(text)),
                    problems(text),
                )

    def test_empty_list(self) -> None:
        """A list without servers is no configuration."""
        self.assertIn("servers: no server in it", problems("[upstream]\nservers = []\n")[0])

    def test_names(self) -> None:
        """Names are needed, unique, and of letters that stand in a path."""
        self.assertIn("name is missing; accepted: 1 to 64", problems(self.servers(""))[0])
        twice = self.servers('name = "a"', 'name = "a"')
        self.assertIn("[1].name: another server has this name (entry 0", problems(twice)[0])
        for name in ("", "a b", "a/b", "ä", "a" * 65, "a.b", "a\\n"):
            self.assertIn("not such a name", problems(self.servers(f'name = "{name}"'))[0])

    def test_default_is_taken(self) -> None:
        """The server of [upstream] is called default; no other is, and no prefix says so."""
        for entry in ('name = "default"', 'name = "a"\npath_prefix = "/default"'):
            found = problems(self.servers(entry, head=UPSTREAM))
            self.assertIn('"default" is the name of the server in [upstream] itself', found[0])
            read(self.servers(entry))

    def test_prefixes(self) -> None:
        """Prefixes are paths, unique, and not another server's name."""
        for prefix, words in (
            ("fs", "does not begin with /"),
            ("/", "ends with /"),
            ("/fs/", "ends with /"),
            ("//fs", "has a segment that is empty"),
            ("/a/../b", "has a segment"),
            ("/a b", "has a segment"),
            ("/a%2f", "has a segment"),
        ):
            found = problems(self.servers(f'name = "a"\npath_prefix = "{prefix}"'))
            self.assertIn(words, found[0])
        same = [f'name = "{name}"\npath_prefix = "/x"' for name in "ab"]
        self.assertIn("another server has this prefix (entry 0", problems(self.servers(*same))[0])
        other = self.servers('name = "a"\npath_prefix = "/b"', 'name = "b"')
        self.assertIn('"/b": another server is named so (entry 1)', problems(other)[0])
        read(self.servers('name = "a"\npath_prefix = "/a"', 'name = "b"\npath_prefix = "/a/b"'))

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "c", "default"]),
                st.sampled_from([None, "/a", "/b", "/x", "/a/b"]),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_no_path_is_two_servers(self, entries: list[tuple[str, str | None]]) -> None:
        """Whatever is accepted, no path below /mcp leads to two servers."""
        text = self.servers(
            *(f'name = "{n}"' + (f'\npath_prefix = "{p}"' if p else "") for n, p in entries)
        )
        try:
            accepted = read(text).settings.upstreams
        except ConfigurationError:
            accepted = ()
        paths = [path for u in accepted for path in {f"/{u.name}", u.path_prefix or f"/{u.name}"}]
        self.assertEqual(len(paths), len(set(paths)))


class WarningTests(SynchronousTestCase):
    """What is usable but doubtful."""

    def test_none(self) -> None:
        """A sound file gives none."""
        self.assertEqual(read(UPSTREAM + QUIET).warnings, ())

    def test_no_authentication(self) -> None:
        """Nobody can sign in: said with the cure, however it is written."""
        for auth in ("", "[auth]\n", "[auth]\napi_keys = []\n"):
            (warning,) = read(auth + UPSTREAM + "[audit]\nstdout = true\n").warnings
            self.assertIn("every MCP request will be refused; add a key with `mcp-guard", warning)

    def test_audit_nowhere(self) -> None:
        """Audit without a destination."""
        (warning,) = read(UPSTREAM + KEY).warnings
        self.assertEqual(warning, "audit events are written nowhere: set file or stdout in [audit]")
        self.assertEqual(read(UPSTREAM + KEY + "[audit]\nenabled = false\n").warnings, ())

    def test_any_host(self) -> None:
        """Listening for others without a rule for Host headers."""
        for host in ("0.0.0.0", "::", "10.0.0.1", "gate.example"):
            (warning,) = read(f'[server]\nhost = "{host}"\n' + UPSTREAM + QUIET).warnings
            self.assertIn(f"server: listens on {host} and answers to any Host name", warning)
        for more in ('allowed_hosts = ["h"]', 'public_url = "https://h"'):
            text = f'[server]\nhost = "0.0.0.0"\n{more}\n'
            self.assertEqual(read(text + UPSTREAM + QUIET).warnings, ())
        self.assertEqual(read('[server]\nhost = "localhost"\n' + UPSTREAM + QUIET).warnings, ())

    def test_admin(self) -> None:
        """An operator listener for others is a warning, on the clients' port an error."""
        (warning,) = read('[admin]\nhost = "10.0.0.1"\n' + UPSTREAM + QUIET).warnings
        self.assertIn("metrics and routes are open to everyone who can reach 10.0.0.1", warning)
        for host in ("127.0.0.1", "0.0.0.0", "::"):
            found = problems(f'[admin]\nhost = "{host}"\nport = 3000\n' + UPSTREAM)
            self.assertIn(
                "admin: port 3000 is already that of a listener for clients (line 1)", found
            )
        read('[admin]\nhost = "127.0.0.2"\nport = 3000\n' + UPSTREAM + QUIET)

    def test_rights_for_unknown_servers(self) -> None:
        """A pin or a server that is not configured is most likely mistyped."""
        text = KEY + (
            'allowed_servers = ["default", "def*", "other"]\n'
            'allowed_tools = ["x", "default:*", "oter:read"]\n'
            'denied_tools = ["*:rm", "nope:rm"]\n'
            'allowed_resources = ["file:///x", "gone:file:///x"]\n'
        )
        found = read(text + "[audit]\nstdout = true\n" + UPSTREAM).warnings
        self.assertEqual(
            [warning.split(" names the server ")[0] for warning in found],
            [
                'auth.api_keys[0].allowed_servers: "other"',
                'auth.api_keys[0].allowed_tools: "oter:read"',
                'auth.api_keys[0].denied_tools: "nope:rm"',
                'auth.api_keys[0].allowed_resources: "gone:file:///x"',
            ],
        )

    def test_cors(self) -> None:
        """CORS that lets no page in is an error: it would do nothing."""
        found = problems("[server.cors]\nenabled = true\n" + UPSTREAM)
        self.assertIn("server.cors.enabled: no origin is allowed; add allowed_origins", found[0])
